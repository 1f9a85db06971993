"""The store in PostgreSQL, which any number of servers with one key may share.

A change is durable when the primary and as many standbys as the operator wants have it on their
disks: for that the database is set up (``synchronous_standby_names``), and this store waits for it.
What it does not hear of, it repeats.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import trio

from cbfs_host.calendar import ClockMark
from cbfs_host.complaints import HostError, StoreError
from cbfs_host.logs import keep_going
from cbfs_host.settings import Current
from cbfs_server.limits import (
    CHUNK_COST,
    CLOSE_TIME,
    ENVELOPE_COST,
    LANES,
    PREKEY_COST,
    PREKEYS_MAX,
    READERS,
    Limits,
)
from cbfs_server.postgres_store.bounds import Bounds
from cbfs_server.postgres_store.hints import Hints
from cbfs_server.postgres_store.lanes import Errand, Lane, answer, change
from cbfs_server.postgres_store.lines import Database
from cbfs_server.postgres_store.opening import open_database
from cbfs_server.postgres_store.sweeping import Sweeper
from cbfs_server.store.interface import CheckedMailboxes, StoreFigures, Subscribers
from cbfs_server.store.operations import (
    DONE,
    AddChunk,
    AddEnvelope,
    Change,
    EndAccount,
    EraseChunks,
    ForgetBlobs,
    ForgetInvites,
    ForgetOld,
    NoChange,
    Question,
    RemoveEnvelopes,
    Suspend,
)
from cbfs_server.store.room import Room

R = TypeVar("R")

_ELSEWHERE = "this store is in PostgreSQL"

_log = logging.getLogger(__name__)


class PostgresStore:
    """A store in the database at ``address``, a URL of libpq's, which may name several servers of
    it."""

    def __init__(
        self,
        address: str,
        key: bytes,
        limits: Current[Limits] | None = None,
        *,
        tells: bool = False,
        restored: bool = False,
    ) -> None:
        """``key``: the server's public key (32). ``limits``: of the server. ``tells``: the
        operator's word that the database may log what is asked. ``restored``: and that it is an old
        copy. Blocks. Raises HostError, StoreError."""
        found = open_database(address, key, tells=tells, restored=restored)
        self.limits = limits or Current(Limits())
        """What the operator has set."""
        self.suspended = found.suspended
        """Users whom the operator has suspended."""
        self.suspensions = 0
        """How often this store has changed ``suspended`` itself."""
        self.subscribers: Subscribers | None = None
        """Who wants to know what others have changed."""
        self._noted = found.noted
        self._added = 0  # envelopes and chunks since the sizes were looked at
        self._full = False
        self.counted(found.figures)
        self._database = Database(address)
        self._hints = Hints(self._database, self)
        self._lanes = [
            Lane(self._database, self._bounds, change, self._changed) for _ in range(LANES)
        ]
        self._readers = [
            Lane(self._database, self._bounds, answer, lambda _asked, _result: None)
            for _ in range(READERS)
        ]
        self._sweeper = Sweeper(self._database)
        self._asked = 0

    def submit(
        self,
        change: Change[R],
        done: Callable[[R | StoreError], object],
        owner: object = None,
        rank: int = 0,
    ) -> None:
        """Queue a change. ``done`` gets its result once that is durable, or a StoreError. Changes
        of one ``owner`` and one user are made in their order, and those of several owners in turns,
        of which those of a lower ``rank`` are first."""
        if isinstance(change, ForgetOld | ForgetInvites | ForgetBlobs | EraseChunks):
            self._sweeper.put(change, done)
            return
        lane = self._lanes[int.from_bytes(change.user[:4], "big") % len(self._lanes)]
        lane.put(owner, Errand(change, done), rank)

    def ask(
        self, question: Question[R], done: Callable[[R | StoreError], object], owner: object = None
    ) -> None:
        """Look something up. ``done`` gets the result, or a StoreError, some time after this
        returns."""
        self._asked += 1
        self._readers[self._asked % len(self._readers)].put(owner, Errand(question, done), 0)

    async def commit(self, change: Change[R]) -> R:
        """Queue a change and wait until it is durable; its result. Raises StoreError."""
        event = trio.Event()
        results: list[R | StoreError] = []

        def done(result: R | StoreError) -> None:
            results.append(result)
            event.set()

        self.submit(change, done)
        await event.wait()
        if isinstance(results[0], StoreError):
            raise results[0]
        return results[0]

    def counted(self, sizes: StoreFigures) -> None:
        """This is what there is now. Whether there is room is told in the log, once each time that
        it changes."""
        self._sizes, self._added = sizes, 0
        room = self._bounds().room
        full = room is not None and room.full
        if full != self._full:
            self._full = full
            _log.warning("there is no room for mail" if full else "there is room for mail again")

    def _bounds(self) -> Bounds:
        """What may be taken in now. Of what lies in the database, the operator may have said how
        much that may be; but what was deleted leaves room in it, and its files do not shrink."""
        limits, there = self.limits.now, self._sizes
        if limits.store_max is None:
            return Bounds(limits)
        prekeys = there.accounts * PREKEYS_MAX * PREKEY_COST
        chunks = there.chunks * CHUNK_COST
        used = min(there.used, there.envelopes * ENVELOPE_COST + prekeys + chunks)
        left = limits.store_max - used - self._added * ENVELOPE_COST
        return Bounds(limits, Room(max(0, left), limits.store_max))

    def _changed(self, asked: Any, result: Any) -> None:
        """A change was made, and nobody was told yet."""
        if isinstance(asked, AddEnvelope | AddChunk) and result == DONE:
            self._added += 1
        match asked:
            case AddEnvelope() | RemoveEnvelopes() | EndAccount():
                self._hints.changed(asked.user)
            case Suspend():
                self.suspensions += 1
                self.suspended = (
                    self.suspended | {asked.user} if asked.on else self.suspended - {asked.user}
                )

    def watch(self, subscribers: Subscribers) -> None:
        """Tell these what other servers have changed, from now on."""
        self.subscribers = subscribers

    def noted(self) -> ClockMark | None:
        """The time that was noted last, when this store was opened."""
        return self._noted

    def figures(self) -> StoreFigures:
        """What there was lately."""
        room = self._bounds().room
        return self._sizes if room is None else replace(self._sizes, free=room.left)

    async def progress(self) -> None:
        """Wait until a change that changes nothing was made, if the database is there."""
        with trio.move_on_after(CLOSE_TIME):  # else the lanes are busy with looking for it
            try:
                await self.commit(NoChange())
            except StoreError:
                return

    async def run(self) -> None:
        """Make the changes: until cancelled, and then until nothing waits, or the database is not
        there."""
        async with trio.open_nursery() as nursery:
            lanes = [*self._lanes, *self._readers]
            for lane in lanes:
                nursery.start_soon(_shielded, lane)
            try:
                async with trio.open_nursery() as helpers:
                    helpers.start_soon(keep_going, "hearing of others", self._hints.run)
                    helpers.start_soon(keep_going, "searching", self._sweeper.run)
            finally:
                for lane in lanes:
                    lane.close()

    def close(self) -> None:
        """After ``run`` has ended."""

    def copy_into(self, descriptor: int) -> None:
        """Raises HostError."""
        raise HostError(f"{_ELSEWHERE}, which makes backups itself", "pg_basebackup")

    def compact(self) -> tuple[int, int]:
        """Raises HostError."""
        raise HostError(f"{_ELSEWHERE}, which frees room itself", "VACUUM")

    def check(self, rest: Callable[[], None]) -> CheckedMailboxes:
        """Raises HostError."""
        raise HostError(f"{_ELSEWHERE}, which checks its files itself", "pg_amcheck")


async def _shielded(lane: Lane) -> None:
    with trio.CancelScope(shield=True):
        await lane.run()
