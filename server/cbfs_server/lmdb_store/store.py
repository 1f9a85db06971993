"""The store of one server: LMDB with group commit, of what ``mailboxes.py`` says.

A change becomes a function of a ``MailboxWriter``, as ``changes.py`` has it. Those that wait are
applied in one transaction with one sync, as many as take little time, of all connections in turns,
in a thread of its own; then each one's ``done`` is called on the trio thread. A crash before the
transaction's end leaves nothing of the group, and nobody was told anything; a crash after it leaves
all of it, whether or not the answers got out. A change decides before it writes and raises nothing
but what reading does; then, and when it has a fault, it is left out, and the others are run again.

Questions are answered at once, from the memory-mapped store.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, TypeVar

import lmdb
import trio

from cbfs_host.calendar import ClockMark
from cbfs_host.complaints import StoreError, hint_of, reason_of
from cbfs_host.lmdb_environment import DATA, check_of_start, unopened
from cbfs_host.logs import tell_fault
from cbfs_host.settings import Current
from cbfs_host.store_file import StoreFile
from cbfs_host.store_format import StoreFormat
from cbfs_server.limits import GROUP_CHUNKS, GROUP_MAX, GROUP_TIME, PROGRESS_CHECK, Limits
from cbfs_server.lmdb_store.answers import MailboxAnswers
from cbfs_server.lmdb_store.arrivals import LatelyArrived
from cbfs_server.lmdb_store.changes import MADE, MailboxChanges
from cbfs_server.lmdb_store.check import check
from cbfs_server.lmdb_store.mailboxes import MailboxReader, MailboxWriter
from cbfs_server.lmdb_store.room import Disk
from cbfs_server.lmdb_store.tables import DAMAGED, NAMES, MailTable, MailTables, unreadable
from cbfs_server.store.fair_queue import FairQueue
from cbfs_server.store.interface import CheckedMailboxes, StoreFigures, Subscribers
from cbfs_server.store.operations import (
    Change,
    MakeAccount,
    NextMail,
    NoChange,
    Question,
    R,
    Suspend,
)
from cbfs_server.store.room import Room

T = TypeVar("T")

FORMAT = StoreFormat("cbfs-server", 2, dict.fromkeys((0, 1), lambda _txn, _tables: None), DAMAGED)
"""Version 0 is of before there were versions: that it says none is all that is different. Before 2
there were no blobs: a server that does not know them would leave those of accounts that end."""


_log = logging.getLogger(__name__)


class _Pending(Generic[T]):
    __slots__ = ("change", "done", "result")

    def __init__(
        self, change: Callable[[MailboxWriter], T], done: Callable[[T | StoreError], object]
    ) -> None:
        self.change = change
        self.done = done
        self.result: T | StoreError


class LmdbStore:
    """The store in a directory. One process at a time, which the lock file of the data directory
    ensures."""

    def __init__(
        self,
        path: Path,
        limits: Current[Limits] | None = None,
        *,
        restored: bool = False,
        running: Callable[[], float] = time.monotonic,
    ) -> None:
        """A new store is there whole or not at all. ``limits``: of the server. ``restored``: the
        operator's word that it is an old copy, where it cannot know. ``running``: seconds of a
        clock that is never set. Raises StoreError when the files cannot be opened or are not a
        store that is known."""
        self.limits = limits or Current(Limits())
        """What the operator has set."""
        self.arrivals = LatelyArrived(running)
        self._makers = MailboxChanges(self.limits, self.arrivals).makers
        self._answers = MailboxAnswers(self.limits, self.arrivals).answers
        self._after: dict[type[Any], Callable[..., None]] = {
            Suspend: self._suspended,
            MakeAccount: self._made,
        }
        self._writing = threading.Lock()
        self._compacting = False
        self._pinned = False
        self._lost = trio.Event()
        self._queue = FairQueue[_Pending[Any]]()
        self._cost = 0.0
        """Seconds that the last change of a transaction has taken: whoever put it has had them."""
        self._full = False
        self._room = Room(0, 0)
        self._file = StoreFile(path, NAMES, FORMAT, lambda _txn, _tables: None)
        try:
            self._open()
            if restored:
                self._file.call_copy()
            if self._file.is_copy:
                self._forget_given_out()
            self._file.settle()
            with self.read() as reader:
                self.suspended = frozenset(reader.suspended())
                """Users whom the operator has suspended."""
        except (lmdb.Error, OSError) as error:
            self._file.close()
            raise unopened(path, error, DAMAGED) from error
        except StoreError:
            self._file.close()
            raise

    def _open(self) -> None:
        """Use the file as it is now."""
        self._env = self._file.env
        self._tables = MailTables(
            *(MailTable(name, self._file.tables[name], check_of_start(name)) for name in NAMES)
        )
        self._disk = Disk(self._file.path, self._env, self.limits)

    def _forget_given_out(self) -> None:
        """The store is a copy: what it gives out may have been given out since. Transactions of a
        batch, before the store says that it lies here: so a crash in between begins again."""
        start: bytes | None = b""
        forgotten = 0
        while start is not None:
            try:
                with self._env.begin(write=True) as txn:
                    writer = MailboxWriter(self._tables, txn, Room(0, 0))
                    start, count = writer.forget_one_time(start)
            except SystemError as error:  # what lmdb makes of an error behind a deletion
                raise StoreError("the store is damaged", DAMAGED) from error
            forgotten += count
        _log.warning(
            "the store is a copy: %d one-time prekeys are forgotten, as they may have been given"
            " out since; until their owners come, people write to them by last-resort prekeys",
            forgotten,
        )

    def close(self) -> None:
        """Close the files, after ``run`` has ended."""
        self._disk.close()
        self._file.close()

    @contextmanager
    def read(self) -> Iterator[MailboxReader]:
        """A read transaction on the calling thread: memory-mapped, waits for no writer. Raises
        StoreError."""
        try:
            txn = self._env.begin()
        except lmdb.Error as error:
            raise unreadable(error) from error
        try:
            yield MailboxReader(self._tables, txn)
        finally:
            txn.abort()

    def figures(self) -> StoreFigures:
        """What there is in it, as its tables say; ``free`` as it was at the last change. Raises
        StoreError."""
        with self.read() as reader:
            blobs = reader.blobs
            return StoreFigures(
                accounts=reader.accounts(),
                envelopes=reader.envelopes(),
                blobs=blobs.blobs(),
                chunks=blobs.chunks(),
                used=reader.used(),
                free=self._room.left,
            )

    def copy_into(self, descriptor: int) -> None:
        """Put the store, as it is now, into an empty file, without free pages; on the disk on
        return. Blocks; everything goes on beside it, but what is deleted meanwhile makes no room
        until it has ended. One at a time. Raises StoreError."""
        self._pinned = True
        try:
            self._file.copy_into(descriptor)
        finally:
            self._pinned = False

    def check(self, rest: Callable[[], None]) -> CheckedMailboxes:
        """Look for damage in the whole store, calling ``rest`` again and again. Blocks; everything
        goes on beside it. Raises StoreError for what cannot be read at all."""
        return check(*self._file.check_records(rest), self.read, rest)

    def compact(self) -> tuple[int, int]:
        """Write the store anew without its free pages; bytes of its file before and after. Blocks,
        in a thread of trio's; changes wait meanwhile, reading goes on. One at a time. A crash
        leaves the old store, or the new one. Raises StoreError."""
        data = self._file.path / DATA
        with self._writing:
            self._compacting = True
            try:
                before = data.stat().st_size
                fresh = self._file.write_anew(self.figures().used + self.limits.now.disk_free)
                trio.from_thread.run_sync(self._change_file, fresh)
                return before, data.stat().st_size
            finally:
                self._compacting = False

    def _change_file(self, fresh: Path) -> None:
        """Go on in another file. When it cannot be opened, that is the end of ``run``."""
        self._disk.close()
        try:
            self._file.change(fresh)
            self._open()
        except Exception:
            self._lost.set()
            raise

    def submit(
        self,
        change: Change[R],
        done: Callable[[R | StoreError], object],
        owner: object = None,
        rank: int = 0,
    ) -> None:
        """Queue a change. ``done`` gets its result once that is on the disk, or a StoreError when
        nothing of it is. Changes of one ``owner`` are made in their order, and those of several in
        turns, of which those of a lower ``rank`` are first."""
        kind = type(change)
        after = self._after.get(kind)
        if after is not None:
            done = partial(after, change, done)
        self.apply(partial(self._makers[kind], change), done, owner, rank)

    def _suspended(
        self, change: Suspend, done: Callable[[object], None], result: StoreError | None
    ) -> None:
        if result is None:
            user = {change.user}
            self.suspended = self.suspended | user if change.on else self.suspended - user
        done(result)

    def _made(self, change: MakeAccount, done: Callable[[object], None], result: object) -> None:
        if result is not MADE:
            self.arrivals.not_made(change)
        done(result)

    async def commit(self, change: Change[R]) -> R:
        """Queue a change and wait until it is on the disk; its result. Raises StoreError when
        nothing of it is."""
        return await _settled(partial(self.submit, change))

    def apply(
        self,
        change: Callable[[MailboxWriter], T],
        done: Callable[[T | StoreError], object],
        owner: object = None,
        rank: int = 0,
    ) -> None:
        """Queue a function, as ``submit`` does it with what is asked by name."""
        self._queue.put(owner, _Pending(change, done), rank)

    async def applied(self, change: Callable[[MailboxWriter], T]) -> T:
        """Queue a function and wait until what it has done is on the disk; what it returned. Raises
        StoreError when nothing of it is."""
        return await _settled(partial(self.apply, change))

    def ask(
        self,
        question: Question[R],
        done: Callable[[R | StoreError], object],
        owner: object = None,
    ) -> None:
        """Look something up: ``done`` gets it, or a StoreError, before this returns."""
        answer = self._answers[type(question)]
        try:
            txn = self._env.begin()
        except lmdb.Error as error:
            _log.error("%s", unreadable(error).in_full)
            done(unreadable(error))
            return
        try:
            reader = MailboxReader(self._tables, txn)
            if type(question) is NextMail:  # which is read as it is used
                done(answer(question, reader))
                return
            try:
                result = answer(question, reader)
            except StoreError as error:
                _log.error("%s", error.in_full)
                result = error
        finally:
            txn.abort()
        done(result)

    def watch(self, subscribers: Subscribers) -> None:
        """Nobody else changes this store."""

    def noted(self) -> ClockMark | None:
        """The time that was noted last. Raises StoreError."""
        with self.read() as reader:
            return reader.mark()

    async def progress(self) -> None:
        """Wait until the committer has made a change that changes nothing: it is alive. While the
        store is being compacted, also if that begins meanwhile, it has a reason to wait."""
        made = trio.Event()
        if not self._compacting:
            self.submit(NoChange(), lambda _: made.set())
        while not self._compacting and not made.is_set():
            with trio.move_on_after(PROGRESS_CHECK):
                await made.wait()

    async def run(self) -> None:
        """The committer: until cancelled, and then until nothing waits."""
        token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, self._work, token)
            try:
                await self._lost.wait()
                raise StoreError("the store was lost while it was written anew", "start again")
            finally:
                self._queue.close()

    def _work(self, token: trio.lowlevel.TrioToken) -> None:
        while (first := self._queue.get(self._cost)) is not None:
            group = [first]
            with self._writing:
                self._apply(group, self._queue.get_nowait)
            token.run_sync_soon(_answer, group)

    def _apply(
        self, group: list[_Pending[Any]], more: Callable[[float], Any] = lambda _: None
    ) -> None:
        """One transaction, to whose ``group`` it adds ``more`` that waits; when it fails, each
        change gets one of its own: it may be for damage, or a fault, that one of them has found, or
        for the room that others of them needed."""
        try:
            self._transact(group, more)
        except Exception as error:
            self._disk.look_again()
            if len(group) > 1:
                for pending in group:
                    self._apply([pending])
            elif isinstance(error, lmdb.Error | OSError):
                _log.error("the store cannot be written: %s", reason_of(error))
                hint = hint_of(error, DAMAGED)
                group[0].result = StoreError("the store cannot be written", hint)
            elif isinstance(error, StoreError):
                _log.error("%s", error)
                group[0].result = error
            else:
                tell_fault("a change of the store", error)
                group[0].result = StoreError("a change of the store was not made")

    def _transact(
        self, group: list[_Pending[Any]], more: Callable[[float], _Pending[Any] | None]
    ) -> None:
        """The changes of the group, and more while they take no longer than GROUP_TIME: then those
        that came meanwhile have their turn."""
        with self._env.begin(write=True) as txn:
            room = self._disk.room(partial(self._tables.pages, txn), self._pinned)
            if room is not self._room:
                self._tell(room)
            writer = MailboxWriter(self._tables, txn, room)
            now = perf_counter()
            end = now + GROUP_TIME
            for pending in group:  # which grows meanwhile
                begun = now
                pending.result = pending.change(writer)
                now = perf_counter()
                self._cost = now - begun
                if len(group) < GROUP_MAX and now < end and writer.chunks < GROUP_CHUNKS:
                    another = more(self._cost)
                    if another is not None:
                        group.append(another)

    def _tell(self, room: Room) -> None:
        """Once each time that it becomes so."""
        self._room = room
        if room.full != self._full:
            self._full = room.full
            _log.warning(
                "%s: %d MiB of %d are free",
                "there is no room for mail" if room.full else "there is room for mail again",
                room.left >> 20,
                room.all >> 20,
            )


async def _settled(submit: Callable[[Callable[[T | StoreError], None]], object]) -> T:
    event = trio.Event()
    results: list[T | StoreError] = []

    def done(result: T | StoreError) -> None:
        results.append(result)
        event.set()

    submit(done)
    await event.wait()
    if isinstance(results[0], StoreError):
        raise results[0]
    return results[0]


def _answer(group: list[_Pending[Any]]) -> None:
    """Runs as a callback of trio, which an error would end: and with it the server."""
    for pending in group:
        try:
            pending.done(pending.result)
        except Exception as error:
            tell_fault("an answer", error)
