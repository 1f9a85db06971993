"""The message server killed before and after every commit, and started again: what was
acknowledged is there once, and what was given away is not given again."""

from functools import partial
from itertools import count
from pathlib import Path

import trio

from cbfs_common.limits import ENVELOPE_SIZE, MARK_SIZE
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import (
    CreateAccount,
    Delete,
    Deliver,
    EnvelopeIds,
    Fetch,
    LastMark,
    List,
    PrekeyRecord,
    Stored,
    SwapMark,
    TakePrekey,
    UploadPrekeys,
    envelope_id,
)
from cbfs_host import lmdb_environment
from tests.server.test_server_store import Caller, Clock, play, serving
from tests.support.children import exit_code
from tests.support.killing import Kill, KillingEnv, Record, every_point
from tests.support.serving import FOREVER, KEM

ALICE = b"a" * 32
ENVELOPES = [bytes([number]) * ENVELOPE_SIZE for number in range(6)]
IDS = [envelope_id(envelope) for envelope in ENVELOPES]
GONE = 2
"""The first envelopes are deleted once they are there."""

PREKEYS = [
    bytes([number]) * 16 + bytes([PrekeyKind.ONE_TIME]) + FOREVER.to_bytes(8, "big") + bytes(1_280)
    for number in range(4)
]


class Client:
    """Asks again for what was not acknowledged, in this run or in an earlier one."""

    def __init__(self, caller: Caller, record: Record) -> None:
        self._caller = caller
        self._record = record
        self._known = record.lines()

    def acknowledged(self, *words: str) -> bool:
        return list(words) in self._known

    async def create(self) -> None:
        if not self.acknowledged("created"):
            assert await self._caller.ask(CreateAccount()) == Done()
            self._record.write("created")

    async def deliver(self, number: int) -> None:
        if not self.acknowledged("delivered", str(number)):
            assert await self._caller.ask(Deliver(ALICE, ENVELOPES[number])) == Done()
            self._record.write("delivered", str(number))

    async def delete(self, number: int) -> None:
        if not self.acknowledged("deleted", str(number)):
            assert await self._caller.ask(Delete((IDS[number],))) == Done()
            self._record.write("deleted", str(number))

    async def upload(self) -> None:
        if not self.acknowledged("uploaded"):
            assert (
                await self._caller.ask(UploadPrekeys(tuple(PREKEYS), KEM, replace=False)) == Done()
            )
            self._record.write("uploaded")

    async def mark(self) -> None:
        """The next one in its row, as a client does who knows what it has put."""
        marks = [bytes([number]) * MARK_SIZE for number in range(4)]
        done = [int(words[1]) for words in self._known if words[0] == "marked"]
        reply = await self._caller.ask(SwapMark(b"", marks[0]))
        assert isinstance(reply, LastMark)
        assert not done or reply.mark >= marks[max(done)], "it is lost"
        known = reply.mark or marks[0]
        for mark in marks:
            if mark > known:
                assert await self._caller.ask(SwapMark(known, mark)) == LastMark(known)
                known = mark
                self._record.write("marked", str(mark[0]))
                self._known = self._record.lines()

    async def take(self) -> None:
        reply = await self._caller.ask(TakePrekey(ALICE))
        if isinstance(reply, PrekeyRecord):
            self._record.write("taken", reply.record[:16].hex())

    async def check(self, *, end: bool = False) -> None:
        """What was acknowledged is there, once and whole; at the end nothing else."""
        if not self.acknowledged("created") and not end:
            return
        listed = await self._caller.ask(List())
        assert isinstance(listed, EnvelopeIds)
        assert len(listed.ids) == len(set(listed.ids))
        for number, id in enumerate(IDS):
            if id in listed.ids:
                assert await self._caller.ask(Fetch(id)) == Stored(ENVELOPES[number])
                assert not self.acknowledged("deleted", str(number))
            elif number >= GONE:
                assert not self.acknowledged("delivered", str(number)), "it is lost"
        if end:
            assert set(listed.ids) == set(IDS[GONE:])


async def script(place: Path, number: int) -> None:
    record = Record(place / "record")
    kill = Kill(number)
    opened = lmdb_environment.open_environment
    lmdb_environment.__dict__["open_environment"] = lambda *place: KillingEnv(opened(*place), kill)
    async with serving(place / "store", Clock()) as service:
        client = Client(Caller(service, ALICE), record)
        await client.check()
        await client.create()
        async with trio.open_nursery() as nursery:
            for each in range(len(ENVELOPES)):
                nursery.start_soon(client.deliver, each)
            nursery.start_soon(client.upload)
            nursery.start_soon(client.mark)
        for each in range(GONE):
            await client.delete(each)
            await client.take()
        await Client(Caller(service, ALICE), record).check(end=True)


def run(place: Path, number: int) -> int:
    play(partial(script, place, number))
    return 0


def test_a_kill_at_any_commit_loses_nothing_and_doubles_nothing(memory: Path) -> None:
    points = count()
    for place in every_point(run, memory):
        next(points)
        assert exit_code(run, place, 0) == 0
        taken = [words[1] for words in Record(place / "record").lines() if words[0] == "taken"]
        assert len(taken) == len(set(taken)), "a prekey was given away twice"
    assert next(points) > 10
