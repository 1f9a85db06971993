"""A client that asks a forger for alice."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import trio

from cbfs_common.names.checks import Absent, Found
from cbfs_common.names.entry import Entry
from cbfs_common.names.faults import DirectoryLies
from cbfs_common.names.wire import (
    LookedUp,
    Lookup,
    Reply,
    Request,
)
from cbfs_common.profile import Address
from tests.support.names_naive import NOW, Forger, make_entry, make_policy
from tests.support.names_server import SERVER_SECRET, Kept, answering, client

ALICE, BOB = make_entry("alice"), make_entry("bob")
HERE = Address(SERVER_SECRET.key, "127.0.0.1", 1)


def honest() -> Forger:
    return Forger([ALICE, BOB])


@dataclass
class Asked:
    """A client that asks for alice, having accepted ``before`` first."""

    answer: Callable[[], Reply | bytes | None]
    before: Forger | None = None
    known: Entry | None = None
    witnesses: int = 1
    threshold: int = 1

    def go(self) -> tuple[Found | Absent, Kept]:
        return trio.run(self._go)

    async def _go(self) -> tuple[Found | Absent, Kept]:
        kept, calm = Kept(), self.before

        def answer(request: Request) -> Reply | bytes | None:
            assert isinstance(request, Lookup)
            if calm is not None and request.name == "bob":
                return calm.look_up(request.name)
            return self.answer()

        async with answering(answer) as address:
            policy = make_policy(address, self.witnesses, self.threshold)
            directory = client(policy, kept, lambda: float(NOW))
            if calm is not None:
                await directory.lookups.lookup("bob")
            state = kept.state
            try:
                return await directory.lookups.lookup("alice", self.known), kept
            except DirectoryLies:
                assert kept.state == state
                raise


def changed(reply: LookedUp, **changes: object) -> LookedUp:
    return replace(reply, evidence=replace(reply.evidence, **changes))  # type: ignore[arg-type]


def forged(**changes: object) -> LookedUp:
    return replace(honest(), **changes).look_up("alice")  # type: ignore[arg-type]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
