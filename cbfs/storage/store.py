"""The client's store: sealed records in LMDB. The only file of the client that knows lmdb.

Every value is sealed with ChaCha20-Poly1305 under a random key of its own, bound to its table and
record key. These keys are in a tree of keys (``cbfs.storage.key_tree``), whose nodes are records of
the same LMDB and whose root's key is in a file that is overwritten in place
(``cbfs.storage.root_key``). What is deleted or overwritten cannot be opened from then on, in
whatever page or copy of LMDB's file it is: LMDB copies on write, and wipes nothing. Record keys are
sealed with them, and LMDB has them under places that tell nothing (``cbfs.storage.records``).

Writes are functions that get a ``Writer``; all that wait are applied in one transaction (group
commit) in a thread, with one turn of the root. When ``commit`` returns, the change is on the disk
and what it replaced is erased. A crash before the transaction's end leaves nothing of it, a crash
after it all of it; when it was before the old root's key was overwritten, the next opening
does that. A change must touch nothing but its Writer: it is run again when another change of its
group fails.

Before LMDB looks at a page, all are looked at (``cbfs.storage.lmdb_pages``): a damaged store is not
opened. What is intact in it is found by ``cbfs.storage.salvage``.
"""

import logging
import mmap
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Condition, Lock, get_ident
from typing import Any, TypeVar

import lmdb
import trio

from cbfs.storage.group_commit import GroupCommit, Pending
from cbfs.storage.key_tree import Cache, KeyReader, KeyWriter, Turned
from cbfs.storage.lmdb_pages import Pages, PagesDamaged
from cbfs.storage.records import (
    STATE,
    STATE_KEY,
    CannotWrite,
    DamagedRecord,
    Meta,
    Reader,
    Series,
    Table,
    Tables,
    TxnNodes,
    Writer,
)
from cbfs.storage.root_key import Protection, RootError, RootFile
from cbfs.storage.shelf import Shelf
from cbfs_common.primitives import Random
from cbfs_host.complaints import hint_of
from cbfs_host.lmdb_environment import DATA, StoreError, build_environment, open_environment

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

GROW_WAIT = 10.0
"""Seconds in which all readers must be done, so that the map can be made greater."""

SNAPSHOT_TRIES = 1_000
"""How often a reader beside a program that writes looks for a root that still counts."""

_KEYS = b"key tree"
"""Where the nodes of the tree of keys are, and the state."""

_TABLES = len(Table) + 1

_SAVE = "what is intact can be saved: cbfs export ACCOUNT FILE"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """Of a generation: its root's key, and where records are as far as it stands in memory."""

    root: bytes
    shelves: dict[Table, Shelf] = field(default_factory=dict)


class Store:
    """The store in the directory ``path``, whose root is in ``root_file``. One process at a time,
    which the account's lock file ensures; others may open it ``read_only`` at the same time.
    ``run`` must be running for ``commit``."""

    def __init__(
        self, path: Path, root_file: RootFile, random: Random, *, read_only: bool = False
    ) -> None:
        """Raises StoreError when the files cannot be opened or are not a store, RootError, and
        what unlocking raises. What a crash has left is put in order. A new store is there whole
        or not at all."""
        self._random = random
        self._root_file = root_file
        self._read_only = read_only
        self._cache = Cache()
        self._lock = Condition(Lock())
        self._known: dict[int, _Known] = {}
        self._readers: Counter[int] = Counter()
        self._reading: Counter[int] = Counter()
        self._growing = False
        self._group = GroupCommit(self._apply, CannotWrite)
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
        _check(self._env, path)
        self._nodes, dbs = _open_tables(self._env, create=not self._read_only)
        self._generation = self._start()
        self._tables = Tables(dbs, self._root_file.blind_key)
        if not self._read_only:
            with self.read() as reader:
                reader.read_shelves()

    def _start(self) -> int:
        """Find the root that counts, and erase the other one."""
        with self._env.begin() as txn:
            generation, _next = TxnNodes(txn, self._nodes).state()
        if self._read_only:
            return generation
        key = self._root_file.open(generation)
        self._known[generation] = _Known(key)
        self._cache.turn(key, {})
        if not self._root_file.settled(generation):
            try:
                self._root_file.settle(generation)
            except OSError as error:
                raise StoreError(
                    f"the root file cannot be written: {_words(error)}", _hint(error)
                ) from error
        return generation

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

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """A read transaction: answers from memory or LMDB, never waits for a writer. Raises
        StoreError for what LMDB finds wrong."""
        try:
            thread = get_ident()
            txn, generation, keys, shelves = self._snapshot(thread)
            try:
                yield Reader(self._tables, txn, keys, shelves)
            finally:
                txn.abort()
                self._release(generation, thread)
        except lmdb.Error as error:
            raise StoreError("the store cannot be read", _SAVE) from error

    @contextmanager
    def salvage(self) -> Iterator["Intact"]:
        """The records that are intact, as they are now."""
        with self.read() as reader:
            yield Intact(reader)

    def _snapshot(self, thread: int) -> tuple[Any, int, KeyReader, dict[Table, Shelf]]:
        """A transaction, its generation, the tree of keys as it was then, and where records were.
        Who reads already is never made to wait."""
        for _ in range(SNAPSHOT_TRIES):
            with self._lock:
                self._lock.wait_for(lambda: not self._growing or self._reading[thread])
                txn = self._env.begin()
                nodes = TxnNodes(txn, self._nodes)
                try:
                    generation, next_slot = nodes.state()
                except BaseException:
                    txn.abort()
                    raise
                self._readers[generation] += 1
                self._reading[thread] += 1
            try:
                if self._read_only and generation not in self._known:
                    self._learn(generation)
            except RootError:
                txn.abort()
                self._release(generation, thread)
                if self._root_file.holds(generation):
                    raise  # it is there, and the lock is wrong
                continue  # the program that writes has turned the root meanwhile
            known = self._known[generation]
            keys = KeyReader(known.root if next_slot else None, next_slot, nodes, self._cache)
            return txn, generation, keys, known.shelves
        # nobody turns a root so often: the files do not belong together
        self._root_file.open(generation)
        raise StoreError("the store cannot be read while it is being written", "try again")

    def _learn(self, generation: int) -> None:
        """Another program has written this generation. Raises RootError."""
        known = _Known(self._root_file.open(generation))
        self._tables = Tables(self._tables.dbs, self._root_file.blind_key)
        self._cache.turn(known.root, {})
        with self._lock:
            for before in self._known.keys() - self._readers.keys():
                del self._known[before]
            self._known[generation] = known

    def _release(self, generation: int, thread: int) -> None:
        """A reader of that generation is done: its root goes with the last one."""
        with self._lock:
            self._reading[thread] -= 1
            if not self._reading[thread]:
                del self._reading[thread]
            self._readers[generation] -= 1
            if not self._readers[generation]:
                del self._readers[generation]
                self._lock.notify_all()
                if generation < self._generation:  # a newer one is about to count
                    self._known.pop(generation, None)

    def space(self) -> tuple[int, int]:
        """(bytes that are in use, bytes of the file that are free to be used again)."""
        with self._lock, self._env.begin() as txn:
            used = 0
            for db in (self._nodes, *self._tables.dbs.values()):
                found = txn.stat(db)
                used += found["branch_pages"] + found["leaf_pages"] + found["overflow_pages"]
        size, page = self._env.info()["last_pgno"] + 1, self._env.stat()["psize"]
        return used * page, max(0, size - used) * page

    def write(self, change: Callable[[Writer], T]) -> T:
        """Apply one change now, blocking, on the disk when it returns. Before ``run`` only."""
        return self._group.write(change)

    async def commit(self, change: Callable[[Writer], T]) -> T:
        """Apply a change together with all others that wait; returns what it returned, when it
        is on the disk. Raises what it raised (then nothing of it is applied) or StoreError.
        Once begun it is not cancelled: what is said to be saved is saved."""
        return await self._group.commit(change)

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
            _log.error("the store cannot be written: %s", error)
            raise CannotWrite("the store cannot be written", _hint(error)) from error

    def _transact(self, group: list[Pending[Writer, Any]]) -> None:
        """Changes, turn of the root, commit, erasure of the old root. A crash before the commit
        leaves a prepared root that opens nothing; one after it an old root, which the next
        opening erases."""
        generation = self._generation + 1
        prepared = False
        try:
            with self._env.begin(write=True) as txn:
                nodes = TxnNodes(txn, self._nodes)
                old, next_slot = nodes.state()
                before, token = self._known[old], self._random.token
                root_before = before.root if next_slot else None
                keys = KeyWriter(root_before, next_slot, nodes, self._cache, token)
                writer = Writer(self._tables, txn, keys, before.shelves, token)
                for pending in group:
                    pending.result = pending.change(writer)
                if not keys.changed:
                    return
                root, turned = keys.turn()
                nodes.put_node(STATE_KEY, STATE.pack(generation, keys.next_slot))
                prepared = True
                self._root_file.prepare(generation, root)
                with self._lock:
                    self._known[generation] = _Known(root, writer.shelves)
        except BaseException:
            if prepared:
                self._give_up(generation)
            raise
        self._turn(generation, root, turned)

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
                if not self._lock.wait_for(lambda: not self._readers, GROW_WAIT):
                    raise lmdb.MapFullError("readers did not end")
                self._env.set_mapsize(size)
                self._map_size = size
            finally:
                self._growing = False
                self._lock.notify_all()

    def _give_up(self, generation: int) -> None:
        """The transaction of a prepared root has failed. Its root is erased when LMDB says that
        the one before counts; else both stay, until the next opening knows."""
        with self._lock:
            self._known.pop(generation, None)
        try:
            with self._env.begin() as txn:
                counts, _next = TxnNodes(txn, self._nodes).state()
            if counts == generation - 1:
                self._root_file.settle(counts)
        except (lmdb.Error, OSError) as error:
            _log.error("the root file cannot be put in order yet: %s", error)

    def _turn(self, generation: int, root: bytes, turned: Turned) -> None:
        """The transaction is on the disk: the new root counts, the old one goes."""
        with self._lock:
            old, self._generation = self._generation, generation
            if old not in self._readers:
                self._known.pop(old, None)
        self._cache.turn(root, turned)
        try:
            self._root_file.settle(generation)
        except OSError as error:
            # what was written stays written; the next turn overwrites that slot
            _log.error("an old key could not be erased yet: %s", error)


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
    build_environment(path, _TABLES, partial(_open_tables, create=True))


def _open_tables(env: Any, *, create: bool) -> tuple[Any, dict[Table, Any]]:
    """(the tree of keys, the tables)"""
    nodes = env.open_db(_KEYS, create=create)
    return nodes, {table: env.open_db(table.value, create=create) for table in Table}


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
