"""The client's store: sealed records in LMDB. The only file of the client that knows lmdb.

Every value is sealed with ChaCha20-Poly1305 under a random key of its own, bound to its table and
record key. These keys are in a tree of keys (``cbfs.storage.key_tree``), whose nodes are records of
the same LMDB and whose root's key is in a file that is overwritten in place
(``cbfs.storage.root_key``). What is deleted or overwritten cannot be opened from then on, in
whatever page or copy of LMDB's file it is: LMDB copies on write, and wipes nothing. Record keys are
sealed with them, and LMDB has them under places that tell their tables, and of some which were
written one after the other (``cbfs.storage.records``).

Writes are functions that get a ``Writer``; all that wait are applied in one transaction (group
commit) in a thread, with one turn of the root. When ``commit`` returns, the change is on the disk
and what it replaced is erased. A crash before the transaction's end leaves nothing of it, a crash
after it all of it; when it was before the old root's key was overwritten, the next opening
does that. A change must touch nothing but its Writer: it is run again when another change of its
group fails.

Before LMDB looks at a page, all are looked at (``cbfs.storage.lmdb_pages``): a damaged store is not
opened. What is intact in it is found by ``cbfs.storage.salvage``. Where the file is as it was left,
they may be looked at afterwards (``cbfs.storage.as_closed``).
"""

import errno
import logging
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Lock, get_ident
from types import TracebackType
from typing import Any, TypeVar

import lmdb
import trio

from cbfs.storage import as_closed, root_key
from cbfs.storage.group_commit import GroupCommit, Pending
from cbfs.storage.key_tree import Cache, KeyReader, KeyWriter, Turned
from cbfs.storage.lmdb_pages import Pages, PagesDamaged
from cbfs.storage.records import (
    CannotWrite,
    DamagedRecord,
    Meta,
    Reader,
    Series,
    Table,
    Writer,
)
from cbfs.storage.root_key import Protection, RootError, RootFile
from cbfs.storage.shelf import Shelf
from cbfs.storage.tables import NewPlaces
from cbfs.storage.txn_nodes import SALT_SIZE, Moment, TreeState, TxnNodes
from cbfs_common.primitives import KEY_SIZE, Random
from cbfs_host.complaints import StoreError, hint_of
from cbfs_host.lmdb_environment import DATA, build_environment, open_environment

__all__ = [
    "CannotWrite",
    "DamagedRecord",
    "Meta",
    "Reader",
    "Series",
    "Store",
    "StoreError",
    "Table",
    "Writer",
]

T = TypeVar("T")

FULL_BELOW = 1 << 20
"""Bytes of room on a disk that has just not taken all of a change, below which it is full."""

GROW_WAIT = 10.0
"""Seconds in which all readers must be done, so that the map can be made greater."""

SNAPSHOT_TRIES = 1_000
"""How often a reader beside a program that writes looks for a root that still counts."""

_TABLES = 0
"""Of LMDB's: all is in the one that every file has."""

_SAVE = "what is intact can be saved: cbfs export ACCOUNT FILE"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """Of a moment: the key in the root file, that of the tree's root, and where records are as far
    as it stands in memory."""

    key: bytes
    root: bytes
    shelves: dict[Table, Shelf] = field(default_factory=dict)


class Store:
    """The store in the directory ``path``, whose root is in ``root_file``. One process at a time,
    which the account's lock file ensures; others may open it ``read_only`` at the same time.
    ``run`` must be running for ``commit``."""

    def __init__(
        self,
        path: Path,
        root_file: RootFile,
        random: Random,
        *,
        read_only: bool = False,
        believes: bool = False,
        upgrade: Callable[[Writer, int], None] | None = None,
    ) -> None:
        """``upgrade(writer, format)`` brings the records of an earlier format to the newest one, if
        the root file is one that upgrades. Raises what it raises, StoreError when the files cannot
        be opened or are not a store, RootError, and what unlocking raises. What a crash has left is
        put in order. A new store is there whole or not at all. ``believes``: a file that is as it
        was closed is not looked through now, but by ``look_through``."""
        self._path = path
        self.is_looked_through = not (believes and as_closed.is_as_closed(path))
        self._doubted = False
        self._random = random
        self._root_file = root_file
        self._read_only = read_only
        self._cache = Cache()
        self._lock = Lock()
        self._done = Condition(self._lock)
        self._known: dict[Moment, _Known] = {}
        self._readers: dict[Moment, int] = {}
        self._reading: dict[int, int] = {}
        self._growing = False
        self._space: tuple[Moment | None, tuple[int, int]] = None, (0, 0)
        self._group = GroupCommit(self._apply, CannotWrite)
        self._upgrade = upgrade
        try:
            if not read_only and not _begun(path):
                _build(path, root_file)
            self._env = open_environment(path, _TABLES, read_only=read_only)
            self._env.reader_check()
            self._map_size = self._env.info()["map_size"]
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"the store in {path} cannot be opened: {_words(error)}",
                hint_of(error, f"check the disk and the files' owner; {_SAVE}"),
            ) from error
        try:
            root_file.holds(0)  # says it if the store is of another cbfs: pages tell nothing then
            if not read_only:
                as_closed.forget(path)  # it counts again when this store is closed
            self._open(path)
        except (lmdb.Error, OSError) as error:
            self._env.close()
            raise StoreError(
                f"the store in {path} cannot be read: {_words(error)}", _SAVE
            ) from error
        except BaseException:
            self._env.close()
            raise

    def _open(self, path: Path) -> None:
        if self.is_looked_through:
            _check(self._env, path)
        self._now = self._start()
        self._turns = True
        """Whether the next commit turns the root, whatever it does: what never came to count is to
        be erased. That may have been left before the store was opened."""
        self._blind_key = self._root_file.blind_key
        self._places = NewPlaces(self._random.token)
        if not self._read_only:
            with self.read() as reader:
                reader.read_shelves()
            self._bring_up()

    def _bring_up(self) -> None:
        """Upgrade the store, in one transaction. It turns the root, and the slot of the new root
        says the new format: a crash leaves the one or the other."""
        found, upgrade = self._root_file.format, self._upgrade
        if found != root_key.FORMAT and upgrade is not None:

            def change(writer: Writer) -> None:
                upgrade(writer, found)
                writer.turn()

            self.write(change)

    def _start(self) -> Moment:
        """Find the root that counts, and erase the other one."""
        with self._env.begin() as txn:
            state = TxnNodes(txn).state()
        if self._read_only:
            return state.moment
        generation = state.moment.generation
        key = self._root_file.open(generation)
        self._know(state, key)
        if not self._root_file.settled(generation):
            try:
                self._root_file.settle(generation)
            except OSError as error:
                raise StoreError(
                    f"the root file cannot be written: {_words(error)}", _hint(error)
                ) from error
        return state.moment

    def _know(self, state: TreeState, key: bytes) -> None:
        """The newest state has that key in the root file."""
        known = self._known[state.moment] = _Known(key, state.root(key))
        self._cache.begin(known.root)

    def protect(self, protection: Protection, lock: bytes) -> Protection:
        """Seal the root's key, and a new one at that, under another lock (32). Gives what
        protected it before. Before ``run`` only; a crash leaves the one or the other."""
        before = self._root_file.protection, self._root_file.lock
        self._root_file.protect(protection, lock)
        try:
            self.write(Writer.turn)
        except StoreError:
            self._root_file.protect(*before)
            raise
        return before[0]

    def close(self) -> None:
        """Close the store's files. Nothing may be waiting for a commit."""
        self._env.close()
        self._root_file.close()
        if not self._read_only and not self._doubted:
            as_closed.note_closed(self._path)

    async def look_through(self) -> str:
        """Look at all pages, beside the work: what is wrong with them, else empty."""
        self._doubted = True  # until all of them are seen
        found = await as_closed.look(self._path)
        self._doubted = bool(found)
        return found

    def read(self) -> AbstractContextManager[Reader]:
        """A read transaction: answers from memory or LMDB, never waits for a writer. Raises
        StoreError for what LMDB finds wrong."""
        return _Reading(self)

    @contextmanager
    def salvage(self) -> Iterator["Intact"]:
        """The records that are intact, as they are now."""
        with self.read() as reader:
            yield Intact(reader)

    def _snapshot(self, thread: int) -> tuple[Any, Moment, KeyReader, dict[Table, Shelf]]:
        """A transaction, its moment, the tree of keys as it was then, and where records were.
        Who reads already is never made to wait."""
        for _ in range(SNAPSHOT_TRIES):
            with self._lock:
                if self._growing:
                    self._done.wait_for(lambda: not self._growing or thread in self._reading)
                txn = self._env.begin()
                nodes = TxnNodes(txn)
                try:
                    state = nodes.state()
                except BaseException:
                    txn.abort()
                    raise
                moment = state.moment
                self._readers[moment] = self._readers.get(moment, 0) + 1
                self._reading[thread] = self._reading.get(thread, 0) + 1
            try:
                if self._read_only and moment not in self._known:
                    self._learn(state)
            except RootError:
                txn.abort()
                self._release(moment, thread)
                if self._root_file.holds(moment.generation):
                    raise  # it is there, and the lock is wrong
                continue  # the program that writes has turned the root meanwhile
            known, next_slot = self._known[moment], moment.next_slot
            keys = KeyReader(known.root if next_slot else None, next_slot, nodes, self._cache)
            return txn, moment, keys, known.shelves
        # nobody turns a root so often: the files do not belong together
        self._root_file.open(moment.generation)
        raise StoreError("the store cannot be read while it is being written", "try again")

    def _learn(self, state: TreeState) -> None:
        """Another program has come to this state. Raises RootError."""
        key = self._root_file.open(state.moment.generation)
        self._blind_key = self._root_file.blind_key
        with self._lock:
            for before in self._known.keys() - self._readers.keys():
                del self._known[before]
            self._know(state, key)

    def _release(self, moment: Moment, thread: int) -> None:
        """A reader of that moment is done: its root goes with the last one."""
        with self._lock:
            self._reading[thread] -= 1
            if not self._reading[thread]:
                del self._reading[thread]
            self._readers[moment] -= 1
            if not self._readers[moment]:
                del self._readers[moment]
                if self._growing:
                    self._done.notify_all()
                if moment < self._now:  # a newer one is about to count
                    self._known.pop(moment, None)

    def space(self) -> tuple[int, int]:
        """(bytes that are in use, bytes of the file that are free to be used again), as they were
        after the newest commit: LMDB is asked once after each."""
        moment, found = self._space
        if moment != self._now:
            moment, found = self._now, self._measured()
            self._space = moment, found
        return found

    def room(self) -> int:
        """Bytes that the disk has room for, those of the file included that are free."""
        disk = os.statvfs(self._path)
        return disk.f_bavail * disk.f_frsize + self.space()[1]

    def _measured(self) -> tuple[int, int]:
        with self._lock, self._env.begin() as txn:
            found = txn.stat()
            used = found["branch_pages"] + found["leaf_pages"] + found["overflow_pages"]
        size, page = self._env.info()["last_pgno"] + 1, self._env.stat()["psize"]
        return used * page, max(0, size - used) * page

    def write(self, change: Callable[[Writer], T]) -> T:
        """Apply one change now, blocking, on the disk when it returns. Before ``run`` only."""
        return self._group.write(change)

    async def commit(self, change: Callable[[Writer], T], *, only_adds: bool = False) -> T:
        """Apply a change together with all others that wait; returns what it returned, when it
        is on the disk. Raises what it raised (then nothing of it is applied) or StoreError.
        Once begun it is not cancelled: what is said to be saved is saved. Nothing rides with those
        of which is said that each ``only_adds``: where that is so, they are cheap."""
        return await self._group.commit(change, alone=only_adds)

    def ride(self, change: Callable[[Writer], T]) -> Pending[Writer, T]:
        """Apply a change that nobody waits for with the next group that is committed, before the
        others of it, at the latest after ``group_commit.PUT_OFF`` or when ``run`` ends. A crash
        before takes it back. For what may come about twice, and nothing else."""
        return self._group.ride(change)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The committer: runs until cancelled, and ends only when nothing waits."""
        await self._group.run(task_status=task_status)

    def _apply(self, group: list[Pending[Writer, Any]]) -> None:
        try:
            while True:
                try:
                    return self._transact(group)
                except lmdb.MapFullError:
                    self._grow()
        except (lmdb.Error, OSError) as error:
            cause = self._cause(error)
            _log.error("the store cannot be written: %s", cause)
            raise CannotWrite("the store cannot be written", _hint(cause)) from cause

    def _cause(self, error: Exception) -> Exception:
        """What has kept a change from being written. Where the disk has taken a part of some pages
        and had no room for the rest, LMDB says that it could not be read or written (mdb.c,
        mdb_page_flush)."""
        if isinstance(error, lmdb.Error) and os.strerror(errno.EIO) in str(error):
            with suppress(OSError):
                disk = os.statvfs(self._env.path())
                if disk.f_bavail * disk.f_frsize < FULL_BELOW:
                    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return error

    def _transact(self, group: list[Pending[Writer, Any]]) -> None:
        """Changes, turn of the root, commit, erasure of the old root. A crash before the commit
        leaves a prepared root that opens nothing; one after it an old root, which the next
        opening erases. Where nothing is to be erased the root file stays as it is: then a crash
        before the commit leaves pages that do not count, which the next turn makes useless."""
        state: TreeState | None = None
        try:
            with self._env.begin(write=True) as txn:
                nodes = TxnNodes(txn)
                old = nodes.state()
                before, token = self._known[old.moment], self._random.token
                root_before = before.root if old.moment.next_slot else None
                next_slot = old.moment.next_slot
                keys = KeyWriter(root_before, next_slot, nodes, self._cache, token)
                shelves, places = before.shelves, self._places
                writer = Writer(self._blind_key, txn, keys, shelves, token, places)
                for pending in group:
                    pending.result = pending.change(writer)
                if not keys.changed:
                    return
                generation, key, salt = old.moment.generation, before.key, token(SALT_SIZE)
                if keys.takes_away or self._turns:
                    generation, key, salt = generation + 1, token(KEY_SIZE), b""
                state = TreeState(Moment(generation, keys.next_slot), salt)
                root = state.root(key)
                turned = keys.turn(root)
                nodes.put_state(state)
                if generation != old.moment.generation:
                    self._root_file.prepare(generation, key)
                with self._lock:
                    self._known[state.moment] = _Known(key, root, writer.shelves)
        except BaseException:
            if state is not None:
                self._give_up(state.moment)
            raise
        self._turn(state.moment, root, turned)

    def _grow(self) -> None:
        """Make the map greater. Raises MapFullError when there is no address space. LMDB must not
        be in use meanwhile; the file is as it was if this process ends here."""
        size = self._map_size * 2
        try:
            # LMDB gives the old map away before it asks for the new one: it must not fail then
            mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ).close()
        except (OSError, ValueError, OverflowError) as error:
            raise lmdb.MapFullError("no address space for a greater map") from error
        with self._lock:
            self._growing = True
            try:
                if not self._done.wait_for(lambda: not self._readers, GROW_WAIT):
                    raise lmdb.MapFullError("readers did not end")
                self._env.set_mapsize(size)
                self._map_size = size
            finally:
                self._growing = False
                self._done.notify_all()

    def _give_up(self, moment: Moment) -> None:
        """The transaction has failed that was to bring this moment about. A root that was prepared
        for it is erased when LMDB says that the one before counts; else both stay, until the next
        opening knows."""
        self._turns = True
        with self._lock:
            self._known.pop(moment, None)
        if moment.generation == self._now.generation:
            return
        try:
            with self._env.begin() as txn:
                counts = TxnNodes(txn).state().moment
            if counts == self._now:
                self._root_file.settle(counts.generation)
        except (lmdb.Error, OSError) as error:
            _log.error("the root file cannot be put in order yet: %s", error)

    def _turn(self, moment: Moment, root: bytes, turned: Turned) -> None:
        """The transaction is on the disk: the new root counts, the old one goes."""
        with self._lock:
            old, self._now = self._now, moment
            if old not in self._readers:
                self._known.pop(old, None)
        self._cache.turn(root, turned)
        if moment.generation == old.generation:
            return
        self._turns = False
        try:
            self._root_file.settle(moment.generation)
        except OSError as error:
            # what was written stays written; the next turn overwrites that slot
            self._turns = True
            _log.error("an old key could not be erased yet: %s", error)


class _Reading:
    """A read transaction as a context. It is a class, as every read of every file begins with
    one: a generator would be felt."""

    __slots__ = ("_moment", "_store", "_thread", "_txn")

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> Reader:
        store, self._thread = self._store, get_ident()
        try:
            self._txn, self._moment, keys, shelves = store._snapshot(self._thread)
        except lmdb.Error as error:
            raise StoreError("the store cannot be read", _SAVE) from error
        return Reader(store._blind_key, self._txn, keys, shelves)

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._txn.abort()
        self._store._release(self._moment, self._thread)
        if isinstance(error, lmdb.Error):
            raise StoreError("the store cannot be read", _SAVE) from error


class Intact:
    """What is to be exported of a store whose pages are whole."""

    lost = 0

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def records(self, table: Table) -> Iterator[tuple[bytes, bytes | None]]:
        """(key, value) of all of a table; (place, None) of what is damaged. When LMDB finds no way
        on, that is the last one, with an empty place."""
        try:
            yield from self._reader.records(table)
        except lmdb.Error:
            yield b"", None

    def place(self, table: Table, key: bytes) -> bytes | None:
        """Where a record with this key is, or would be."""
        return self._reader.place(table, key)


def _begun(path: Path) -> bool:
    """Whether LMDB's file is there, and not empty: then it has been written whole."""
    file = path / DATA
    return file.exists() and file.stat().st_size > 0


def _build(path: Path, root_file: RootFile) -> None:
    """Nothing was in a store whose root file is at its beginning; where one is lost, none is begun.
    Raises lmdb.Error, OSError, RootError or StoreError."""
    if not root_file.holds(0):
        raise StoreError(
            f"the store in {path} is empty, and was not",
            "put account and store back from the same copy, or restore an export: cbfs init"
            " --restore FILE",
        )
    if path.exists():
        shutil.rmtree(path)
    build_environment(path, _TABLES, _begin)


def _begin(env: Any) -> None:
    """What is in a store in which nothing was."""
    with env.begin(write=True) as txn:
        TxnNodes(txn).put_state(TreeState(Moment(0, 0)))


def _check(env: Any, path: Path) -> None:
    """Raises StoreError for a damaged store."""
    descriptor = os.open(path / DATA, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pages = Pages(descriptor)
        for _ in range(SNAPSHOT_TRIES):
            with env.begin() as txn:  # what it reaches is not overwritten meanwhile
                if pages.check(txn.id()):
                    return
    except PagesDamaged as error:
        raise StoreError(f"the store in {path} is damaged: {error}", _SAVE) from error
    finally:
        os.close(descriptor)
    raise StoreError("the store cannot be read while it is being written", "try again")


def _words(error: Exception) -> str:
    """What went wrong, without a path."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.rpartition(": ")[2].lower()


def _hint(error: Exception) -> str:
    """What may help against an error of a write."""
    if isinstance(error, lmdb.MapFullError):
        return "its address space is used up: raise the limit (ulimit -v) and mount again"
    if isinstance(error, lmdb.PanicError):
        return "the disk did not take it: unmount, and mount again"
    return hint_of(error, "is the disk full?")
