"""What a network sees of a client: a trace of the real engine's connections, on a mock clock.

The engine, with its home, sender, watch and dialer, runs against a real message server in the same
process; the directory answers with noise. Time jumps to the next deadline when nothing is under
way, neither here nor in the threads of the two stores, nor between them: what goes through a unix
socket is there at once, as it is not on loopback while the machine is busy.
"""

import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio
import trio.testing

from cbfs.account.account import Account, make_account, opened_store
from cbfs.account.passphrase import Guard
from cbfs.account.settings import Configuration, Settings
from cbfs.contacts.contact import Contact
from cbfs.context import make_context, make_directory
from cbfs.engine.engine import Engine
from cbfs.engine.guarded_view import GuardedView
from cbfs.interface import Outgoing
from cbfs.messages.model import Content
from cbfs.names.own_name import OwnName
from cbfs.network.access import Network
from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import open_link, request
from cbfs.network.pacing import PacedDialer
from cbfs.problems import Problems
from cbfs.storage.encoding import u32, u64
from cbfs.storage.store import Store as ClientStore
from cbfs.storage.store import Table, Writer
from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.names.entry import Entry, Keys, Status
from cbfs_common.names.layout import ZERO
from cbfs_common.primitives import Random, exponential, sign_public
from cbfs_common.profile import Address
from cbfs_common.session.prekey import PrekeyKind, make_prekey
from cbfs_common.wire.requests import CreateAccount, Deliver, UploadPrekeys
from cbfs_common.wire.transport import ServerSecret
from cbfs_host.complaints import StoreError
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.push import Pusher
from cbfs_server.service import Service
from cbfs_server.sockets import Server
from cbfs_server.store.operations import Change, R
from tests.support.names_naive import make_policy
from tests.support.names_server import answering, seeded_random

SECRET = ServerSecret(bytes(range(96)))
START = 1_800_000_000
EXPIRES = START + 10 * 86_400


@dataclass(slots=True)
class Connection:
    """Of one that was made: when it began and ended (seconds), when each piece went or came, and
    how many bytes it had, less than 0 for those that came."""

    began: float
    ended: float = 0.0
    moments: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, moment: float, size: int) -> None:
        """One more piece."""
        self.moments.append(moment)
        self.sizes.append(size)

    @property
    def up(self) -> int:
        """All bytes that went."""
        return sum(size for size in self.sizes if size > 0)

    @property
    def down(self) -> int:
        """All bytes that came."""
        return -sum(size for size in self.sizes if size < 0)


class _Recorded(trio.abc.Stream):
    def __init__(self, stream: trio.abc.Stream, seen: Connection, random: Random) -> None:
        self._stream = stream
        self._seen = seen
        self._random = random

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._seen.add(trio.current_time(), len(data))
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        if data:
            await trio.sleep(0.2 + exponential(self._random, 0.2))  # the way through Tor
        self._seen.add(trio.current_time(), -len(data))
        return data

    async def aclose(self) -> None:
        self._seen.ended = self._seen.ended or trio.current_time()
        await self._stream.aclose()


class Near(LoopbackDialer):
    """Reaches what listens in this process. A port is a number that it gives to a unix socket."""

    def __init__(self) -> None:
        self._names: dict[int, bytes] = {}

    def listen(self) -> tuple[int, socket.socket]:
        """(port, listening socket)"""
        made = socket.socket(socket.AF_UNIX)
        made.bind("")  # the system gives it a name
        made.listen()
        made.setblocking(False)
        port = len(self._names) + 1
        self._names[port] = made.getsockname()
        return port, made

    async def dial(self, _host: str, port: int, _isolation: bytes) -> trio.abc.Stream:
        return await trio.open_unix_socket(self._names[port])


class RecordingDialer(LoopbackDialer):
    """The socket's edge."""

    def __init__(self, near: Near, random: Random) -> None:
        self.seen: list[Connection] = []
        self._near = near
        self._random = random

    async def dial(self, host: str, port: int, isolation: bytes) -> trio.abc.Stream:
        seen = Connection(trio.current_time())
        self.seen.append(seen)
        return _Recorded(await self._near.dial(host, port, isolation), seen, self._random)


class _CountingStore(LmdbStore):
    """Says how many changes are under way."""

    under_way = 0

    def submit(
        self,
        change: Change[R],
        done: Callable[[R | StoreError], object],
        owner: object = None,
        rank: int = 0,
    ) -> None:
        self.under_way += 1

        def counted(result: R | StoreError) -> None:
            self.under_way -= 1
            done(result)

        super().submit(change, counted, owner, rank)


@asynccontextmanager
async def _server(place: Path, clock: trio.testing.MockClock, near: Near) -> AsyncIterator[Address]:
    store = _CountingStore(place / "server")
    port, listener = near.listen()
    async with trio.open_nursery() as committer:
        committer.start_soon(store.run)
        async with trio.open_nursery() as nursery:
            pusher = Pusher(store)
            service = Service(store, pusher, lambda: START + trio.current_time())
            made = Server(SECRET, seeded_random(b"server"), service, pusher, nursery)
            nursery.start_soon(made.pad)
            nursery.start_soon(pusher.run)
            nursery.start_soon(made.turns.run)
            nursery.start_soon(made.accept, listener)
            nursery.start_soon(_drive, clock, store)
            yield Address(SECRET.key, "127.0.0.1", port)
            nursery.cancel_scope.cancel()
        committer.cancel_scope.cancel()
    listener.close()
    store.close()


async def _drive(clock: trio.testing.MockClock, store: _CountingStore) -> None:
    """One thread is the server's committer, which always waits."""
    threads = trio.to_thread.current_default_thread_limiter()
    cushion = 0.0
    while True:
        await trio.testing.wait_all_tasks_blocked(cushion)
        wait = trio.lowlevel.current_statistics().seconds_to_next_deadline
        cushion = 0.0002
        if threads.borrowed_tokens <= 1 and not store.under_way and wait < math.inf:
            clock.jump(max(wait, 0.0))
            cushion = 0.0


def _entry(account: Account) -> Entry:
    owners = Keys(1, (sign_public(account.owner),))
    return Entry(
        account.name,
        *(1, 1, Status.ACTIVE, EXPIRES, 1, ZERO),
        *(owners, Keys(0, ()), account.profile.encode()),
    )


async def _upload_prekeys(near: Near, address: Address, account: Account, random: Random) -> None:
    pairs = [make_prekey(random, PrekeyKind.LAST_RESORT, EXPIRES)]
    pairs += [make_prekey(random, PrekeyKind.ONE_TIME, EXPIRES) for _ in range(9)]
    records = tuple(p.public(account.signing) for p in pairs)
    async with open_link(near, address, account.transport, b"", random) as link:
        await request(link, CreateAccount())
        await request(link, UploadPrekeys(records, account.kem_public))


@dataclass(frozen=True, slots=True)
class Conduct:
    """What the user does: ``pace`` in seconds; mean seconds between messages that are written,
    and between envelopes that arrive (0: none)."""

    pace: float
    writes: float = 0.0
    receives: float = 0.0


async def _write(engine: Engine, text: bytes) -> None:
    def store(writer: Writer) -> int:
        content = writer.random_number()
        writer.put(Table.CONTENT, u64(content) + u32(0), text)
        return content

    content = Content(await engine.store.commit(store), len(text), 65_536)
    known = engine.conversations()
    id_ = known[0].id if known else None
    await engine.send(Outgoing(id_, ("bob",), "", "f", content, lambda writer, made: None))


async def _live(
    conduct: Conduct, engine: Engine, random: Random, address: Address, near: Near
) -> None:
    async def write() -> None:
        while True:
            await trio.sleep(exponential(random, conduct.writes))
            await _write(engine, random.token(100))

    async def receive() -> None:
        while True:
            await trio.sleep(exponential(random, conduct.receives))
            async with open_link(near, address, None, b"", random) as link:
                noise = random.token(ENVELOPE_SIZE)
                await request(link, Deliver(engine.profile.user_id, noise))

    async with trio.open_nursery() as nursery:
        if conduct.writes:
            nursery.start_soon(write)
        if conduct.receives:
            nursery.start_soon(receive)


@asynccontextmanager
async def _engine(
    store: ClientStore,
    account: Account,
    bob: Account,
    conduct: Conduct,
    dialer: RecordingDialer,
    random: Random,
    clock: trio.testing.MockClock,
) -> AsyncIterator[Engine]:
    configuration = Configuration(store)
    await configuration.change(replace(Settings(), pace=conduct.pace))
    contact = Contact(_entry(bob), START)
    await store.commit(lambda w: w.put(Table.PEERS, w.key_part(b"bob"), contact.encode()))
    paced = PacedDialer(dialer, configuration, random)
    directory = make_directory(store, account, paced)
    view = GuardedView()
    problems = Problems(view.status_changed)
    context = make_context(store, account, configuration, directory, paced, problems)
    context = replace(
        context, random=random, clock=lambda: int((START + clock.current_time()) * 1_000)
    )
    own = OwnName(store, directory, account.name, lambda: None)
    async with trio.open_nursery() as nursery:
        yield Engine(context, Network(dialer, None), directory, own, view, nursery)
        nursery.cancel_scope.cancel()


def trace(
    place: Path,
    conduct: Conduct,
    seconds: float,
    seed: bytes,
    look: Callable[[Engine], None] = lambda engine: None,
) -> list[Connection]:
    """The connections of a client that lives so for ``seconds``; ``look`` is called at the end."""
    place.mkdir()
    clock = trio.testing.MockClock()
    near = Near()
    dialer = RecordingDialer(near, seeded_random(seed + b"dialer"))

    async def main() -> None:
        random = seeded_random(seed)
        async with (
            _server(place, clock, near) as address,
            answering(lambda _: b"noise", near.listen()) as names,
        ):
            policy = make_policy(names).encode()
            alice, bob = (make_account(n, address, policy, random) for n in ("alice", "bob"))
            for account in (alice, bob):
                await _upload_prekeys(near, address, account, random)
            with opened_store(place / "alice", random, create=Guard) as store:
                async with trio.open_nursery() as committer:
                    await committer.start(store.run)
                    async with _engine(store, alice, bob, conduct, dialer, random, clock) as engine:
                        with trio.move_on_after(seconds):
                            await _live(conduct, engine, random, address, near)
                            await trio.sleep_forever()
                        look(engine)
                    committer.cancel_scope.cancel()

    trio.run(main, clock=clock)
    return [seen for seen in dialer.seen if seen.ended]
