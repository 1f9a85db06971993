"""A real name directory, over real sockets, whose clock the test moves, and with it that of the
clients: years pass in a moment. Message servers keep the real time."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.commands.init import make
from cbfs.commands.owner.kept_apart import OwnerKey
from cbfs.commands.owner.name_owner import Owner
from cbfs_common.names.config import Config, Terms
from cbfs_common.names.entry import Entry, decode_entry, name_index
from cbfs_common.names.registration import Invite, Token
from cbfs_common.primitives import sign_public
from cbfs_common.profile import Address
from cbfs_host.listening import Place, listen, place_of
from cbfs_names.processes.single import Embedded, EmbeddedCore
from cbfs_names.state.keys import VERIFIER, load_keys
from cbfs_names.state.store import StateStore
from cbfs_names.wire.service import DirectoryService
from cbfs_names.wire.sockets import serve
from tests.engine.test_engine import NO_TOR
from tests.support.names_local import FREE

DAY = 86_400


class Moved:
    """The directory, at ``policy``. ``ahead``: seconds that clocks are ahead of the real one."""

    def __init__(self, place: Path, server: str, terms: Terms) -> None:
        self.place = place
        self.server = server
        self.ahead = 0
        self.policy = place / "policy"
        (place / "names").mkdir()
        keys = load_keys(place / "names", SYSTEM_RANDOM)
        self.config: Config = keys.config(terms)
        self.store = StateStore(place / "names" / "store", self.config.encode())
        name = dict(self.config.witnesses)[VERIFIER].name
        self.core = Embedded(self.store, keys.log, keys.verifier, name)
        head = self.core.start(int(self.clock()))
        self.service = DirectoryService(self.store, EmbeddedCore(self.core, head), self.clock, head)
        self.secret = keys.transport

    def clock(self) -> float:
        """Of the directory and of the clients, in seconds since 1970."""
        return time.time() + self.ahead

    def jump(self, seconds: int) -> None:
        """So much later."""
        self.ahead += seconds
        self.service.publish(self.core.cosign(int(self.clock())))

    async def do(self, work: Callable[[], object]) -> None:
        """Something that runs a loop of its own, as the commands do."""
        await trio.to_thread.run_sync(work)

    async def init(
        self,
        name: str,
        folder: str = "",
        invite: Path | None = None,
        owner_key: Path | None = None,
    ) -> Path:
        """``cbfs init``; where the account is."""
        place = self.place / (folder or name)
        wish = (name, place, self.server, self.policy, NO_TOR, _silent, invite)
        await self.do(lambda: make(*wish, owner_key=owner_key))
        return place

    def invite(self, registrar: bytes) -> Path:
        """A file with an invite, signed with the registrar's key (Ed25519 seed, 32)."""
        seed, path = SYSTEM_RANDOM.token(32), self.place / "invite"
        until = int(self.clock()) + DAY
        invite = Invite(self.config.directory, sign_public(seed), until, "").signed(registrar)
        path.write_text(Token(seed, invite).text())
        return path

    def owner(self, place: Path, key: Path | None = None) -> Owner:
        """``cbfs name``; ``key``: the file of the owner key."""
        return Owner(place, NO_TOR, _silent, key=OwnerKey(key))

    def entry(self, name: str) -> Entry:
        """What the directory has."""
        with self.store.read() as view:
            data = view.entry(name_index(self.config.directory, name))
        assert data is not None
        return decode_entry(data)


def _silent(_text: str) -> None:
    """Says nothing."""


@asynccontextmanager
async def moved(
    place: Path, server: str, monkeypatch: pytest.MonkeyPatch, terms: Terms | None = None
) -> AsyncIterator[Moved]:
    """Runs until the block ends."""
    made = Moved(place, server, terms or FREE)
    shim = SimpleNamespace(time=made.clock, time_ns=lambda: int(made.clock() * 1_000_000_000))
    monkeypatch.setattr("cbfs.context.time", shim)
    listener = listen(Place("127.0.0.1", 0))
    try:
        async with trio.open_nursery() as nursery:
            address = Address(made.secret.key, "127.0.0.1", place_of([listener]).port)
            made.policy.write_text(made.config.policy(address).encode())
            nursery.start_soon(made.service.run)
            nursery.start_soon(serve, [listener], made.secret, SYSTEM_RANDOM, made.service)
            yield made
            nursery.cancel_scope.cancel()
    finally:
        listener.close()
        made.service.close()
        made.store.close()
