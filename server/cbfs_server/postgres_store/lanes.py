"""Lanes: each has a connection, takes what waits, and makes of it one transaction, or one round
trip of questions.

The lane of a change follows from its user. What breaks the connection, or a silence, is repeated on
the next one, with the server that takes writes by then: all that was asked is done once more, as it
may have been done or not. When the database was away for GIVE_UP seconds, those who wait are told.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio

from cbfs_host.complaints import StoreError
from cbfs_host.logs import tell_fault
from cbfs_server.limits import GROUP_BYTES, LANE_GROUP, STATEMENT_TRIES
from cbfs_server.postgres_store import statements as s
from cbfs_server.postgres_store.bounds import Bounds
from cbfs_server.postgres_store.changes import make
from cbfs_server.postgres_store.lines import Database, DatabaseLine
from cbfs_server.postgres_store.questions import ANSWERS
from cbfs_server.postgres_store.statements import Call, call
from cbfs_server.postgres_store.wire import ConnectionLost, StatementFailed, Wire
from cbfs_server.store.fair_queue import FairQueue
from cbfs_server.store.operations import AddChunk, AddEnvelope, EndAccount

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Errand:
    """A change or a question, who wants to know its result, and that when there is one."""

    asked: Any
    done: Callable[[Any], object]
    result: Any = None


class Lane:
    """Things that wait for one connection. ``work`` does a group of them, whose results it puts
    where they belong; ``told`` hears of them when they are done."""

    def __init__(
        self,
        database: Database,
        bounds: Callable[[], Bounds],
        work: Callable[[Wire, Sequence[Errand], Bounds, bool], Any],
        told: Callable[[Any, Any], None],
    ) -> None:
        self._line = DatabaseLine(database)
        self._bounds = bounds
        self._work = work
        self._told = told
        self._queue = FairQueue[Errand]()
        self._news = trio.Event()
        self._next: Errand | None = None
        self._closed = False

    def put(self, owner: object, thing: Errand, rank: int) -> None:
        """Add a thing."""
        self._queue.put(owner, thing, rank)
        self._news.set()

    def close(self) -> None:
        """Let ``run`` end once nothing waits."""
        self._closed = True
        self._news.set()

    async def run(self) -> None:
        """Do what waits, until closed and nothing waits."""
        try:
            while group := await self._group():
                await self._carry_out(group)
        finally:
            self._line.drop()

    async def _group(self) -> list[Errand]:
        while (first := self._queue.get_nowait(1.0)) is None:
            if self._closed:
                return []
            self._news = trio.Event()
            await self._news.wait()
        group, size = [first], _size(first)
        while len(group) < LANE_GROUP and size < GROUP_BYTES:
            another = self._queue.get_nowait(1.0)
            if another is None:
                break
            group.append(another)
            size += _size(another)
        return group

    async def _carry_out(self, group: list[Errand]) -> None:
        """Have the group done, whatever it takes, and tell."""
        repeated, tries = False, 0
        while True:
            try:
                wire = await self._line.wire()
                await self._work(wire, group, self._bounds(), repeated)
            except ConnectionLost as error:
                repeated = True
                await self._line.lost(error)
                if self._line.database.away or self._closed:
                    self._fail(group, StoreError("the database is not there"))
                    return
            except StatementFailed as error:
                await self._roll_back()
                tries += 1
                if error.again and tries < STATEMENT_TRIES:
                    continue
                if await self._singly(group):
                    return
                _log.error("the store cannot be written: %s", error)
                self._fail(group, StoreError("the store cannot be written"))
                return
            except Exception as error:
                self._line.drop()
                if await self._singly(group):
                    return
                tell_fault("a change of the store", error)
                self._fail(group, StoreError("a change of the store was not made"))
                return
            else:
                self._line.database.there()
                self._answer(group)
                return

    async def _singly(self, group: list[Errand]) -> bool:
        """Try each of several alone, as one of them has a fault."""
        if len(group) == 1:
            return False
        for each in group:
            await self._carry_out([each])
        return True

    async def _roll_back(self) -> None:
        with suppress(ConnectionLost, StatementFailed):
            await (await self._line.wire()).ask([call(s.ROLLBACK)])
            return
        self._line.drop()

    def _fail(self, group: list[Errand], error: StoreError) -> None:
        for each in group:
            each.result = error
        self._answer(group)

    def _answer(self, group: list[Errand]) -> None:
        for each in group:
            try:
                if not isinstance(each.result, StoreError):
                    self._told(each.asked, each.result)
                each.done(each.result)
            except Exception as error:
                tell_fault("an answer", error)


def _size(thing: Errand) -> int:
    match thing.asked:
        case AddEnvelope():
            return len(thing.asked.envelope)
        case AddChunk():
            return len(thing.asked.chunk)
    return 0


async def change(wire: Wire, group: Sequence[Errand], bounds: Bounds, repeated: bool) -> None:
    """Make the changes of a group."""
    results = await make(wire, [each.asked for each in group], bounds)
    for each, result in zip(group, results, strict=True):
        gone = repeated and result is None and isinstance(each.asked, EndAccount)
        each.result = 0 if gone else result  # it went the first time


async def answer(wire: Wire, group: Sequence[Errand], bounds: Bounds, _repeated: bool) -> None:
    """Answer the questions of a group."""
    calls = list[Call]()
    places = list[tuple[int, int]]()
    for each in group:
        start = len(calls)
        calls += ANSWERS[type(each.asked)].calls(each.asked, bounds.limits)
        places.append((start, len(calls)))
    found = await wire.ask(calls)
    for each, (start, end) in zip(group, places, strict=True):
        each.result = ANSWERS[type(each.asked)].result(each.asked, found[start:end])
