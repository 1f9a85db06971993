"""The client's store: sealed records in LMDB. The only file of the client that knows lmdb.

Every value is sealed with ChaCha20-Poly1305 under a random key of its own, bound to its table and
record key. These keys are in a tree of keys (``cbfs.keytree``), whose nodes are records of the
same LMDB and whose root's key is in a file that is overwritten in place (``cbfs.rootfile``). What
is deleted or overwritten cannot be opened from then on, in whatever page or copy of LMDB's file
it is: LMDB copies on write, and wipes nothing. Record keys are written as they are: they must be
ids, counters or ``blind`` digests, never a name.

Writes are functions that get a ``Writer``; all that wait are applied in one transaction (group
commit) in a thread, with one turn of the root. When ``commit`` returns, the change is on the disk
and what it replaced is erased. A crash before the transaction's end leaves nothing of it, a crash
after it all of it; when it was before the old root's key was overwritten, the next opening
does that. A change must touch nothing but its Writer: it is run again when another change of its
group fails.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import lmdb
import trio

from cbfs.group_commit import GroupCommit, Pending
from cbfs.keytree import Cache, KeyReader, KeyWriter, Turned
from cbfs.records import (
    STATE,
    STATE_KEY,
    CannotWrite,
    DamagedRecord,
    Reader,
    StoreError,
    Table,
    Tables,
    TxnNodes,
    Writer,
)
from cbfs.rootfile import Protection, RootError, RootFile
from cbfs_common.primitives import KEY_SIZE, Random

__all__ = ["CannotWrite", "DamagedRecord", "Reader", "Store", "StoreError", "Table", "Writer"]

T = TypeVar("T")

MAP_SIZE = 1 << 40
MAP_SIZE_LEAST = 1 << 30
"""Address space, not disk: the file grows as it is filled. Where there is not so much (ulimit -v),
a sixteenth of it is tried, down to the least."""

SNAPSHOT_TRIES = 1_000
"""How often a reader beside a program that writes looks for a root that still counts."""

_KEYS = b"key tree"
"""Where the nodes of the tree of keys are, and the state."""

_BLIND = b"blind"

_log = logging.getLogger(__name__)


class Store:
    """The store in the directory ``path``, whose root is in ``root_file``. One process at a time,
    which the account's lock file ensures; others may open it ``read_only`` at the same time.
    ``run`` must be running for ``commit``."""

    def __init__(
        self, path: Path, root_file: RootFile, random: Random, *, read_only: bool = False
    ) -> None:
        """Raises StoreError when the files cannot be opened or are not a store, RootError, and
        what unlocking raises. What a crash has left is put in order."""
        self._random = random
        self._root_file = root_file
        self._read_only = read_only
        self._cache = Cache()
        self._lock = Lock()
        self._roots: dict[int, bytes] = {}
        self._readers: Counter[int] = Counter()
        self._group = GroupCommit(self._apply, CannotWrite)
        try:
            self._env = _open_env(path, read_only=read_only)
            self._nodes = self._env.open_db(_KEYS, create=not read_only)
            dbs = {table: self._env.open_db(table.value, create=not read_only) for table in Table}
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"the store in {path} cannot be opened", "check the disk and the files' owner"
            ) from error
        try:
            self._generation = self._start()
            self._tables = Tables(dbs, b"")  # to read the key with
            self._tables = Tables(dbs, self._find_blind_key())
        except BaseException:
            self._env.close()
            raise

    def _start(self) -> int:
        """Find the root that counts, and erase the other one."""
        with self._env.begin() as txn:
            generation, _next = TxnNodes(txn, self._nodes).state()
        if self._read_only:
            return generation
        key = self._root_file.open(generation)
        self._roots[generation] = key
        self._cache.turn(key, {})
        if not self._root_file.settled(generation):
            try:
                self._root_file.settle(generation)
            except OSError as error:
                raise StoreError("the root file cannot be written", "is the disk sick?") from error
        return generation

    def _find_blind_key(self) -> bytes:
        with self.read() as reader:
            key = reader.get(Table.META, _BLIND)
        if key is None:
            fresh = key = self._random.token(KEY_SIZE)
            if not self._read_only:
                self.write(lambda writer: writer.put(Table.META, _BLIND, fresh))
        return key

    def protect(self, protection: Protection, lock: bytes) -> Protection:
        """Seal the root's key, and a new one at that, under another lock (32). Gives what
        protected it before. Before ``run`` only; a crash leaves the one or the other."""
        before = self._root_file.protection, self._root_file.lock
        self._root_file.protect(protection, lock)
        try:
            self.write(lambda writer: writer.put(Table.META, _BLIND, self._tables.blind_key))
        except StoreError:
            self._root_file.protect(*before)
            raise
        return before[0]

    def close(self) -> None:
        """Close the files. Nothing may be waiting."""
        self._env.close()
        self._root_file.close()

    def blind(self, *parts: bytes) -> bytes:
        """16 bytes that stand for ``parts`` in a record key and tell nothing of them."""
        return self._tables.blind(*parts)

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """A read transaction: answers from memory or LMDB, never waits for a writer. Raises
        StoreError for what LMDB finds wrong."""
        try:
            txn, generation, keys = self._snapshot()
            try:
                yield Reader(self._tables, txn, keys)
            finally:
                txn.abort()
                self._release(generation)
        except lmdb.Error as error:
            raise StoreError(
                "the store cannot be read",
                "what is intact can be saved: cbfs export ACCOUNT FILE",
            ) from error

    def salvage(self, reader: Reader, table: Table) -> Iterator[tuple[bytes, bytes | None]]:
        """All records of a table, in order of their keys; None in the place of a value that is
        damaged. When LMDB finds no way on, that is the last one, with an empty key."""
        try:
            for key in reader.keys(table):
                try:
                    yield key, reader.get(table, key)
                except DamagedRecord:
                    yield key, None
        except lmdb.Error:
            yield b"", None

    def _snapshot(self) -> tuple[Any, int, KeyReader]:
        """A transaction, its generation, and the tree of keys as it was then."""
        for _ in range(SNAPSHOT_TRIES):
            with self._lock:
                txn = self._env.begin()
                nodes = TxnNodes(txn, self._nodes)
                generation, next_slot = nodes.state()
                self._readers[generation] += 1
            try:
                if self._read_only and generation not in self._roots:
                    self._roots[generation] = root = self._root_file.open(generation)
                    self._cache.turn(root, {})
            except RootError:
                txn.abort()
                self._release(generation)
                if self._root_file.holds(generation):
                    raise  # it is there, and the lock is wrong
                continue  # the program that writes has turned the root meanwhile
            known = self._roots[generation] if next_slot else None
            return txn, generation, KeyReader(known, next_slot, nodes, self._cache)
        # nobody turns a root so often: the files do not belong together
        self._root_file.open(generation)
        raise StoreError("the store cannot be read while it is being written", "try again")

    def _release(self, generation: int) -> None:
        """A reader of that generation is done: its root goes with the last one."""
        with self._lock:
            self._readers[generation] -= 1
            if not self._readers[generation]:
                del self._readers[generation]
                if generation < self._generation:  # a newer one is about to count
                    self._roots.pop(generation, None)

    def space(self) -> tuple[int, int]:
        """(bytes that are in use, bytes of the file that are free to be used again)."""
        with self._env.begin() as txn:
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
            self._transact(group)
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
                before = self._roots[old] if next_slot else None
                keys = KeyWriter(before, next_slot, nodes, self._cache, self._random.token)
                writer = Writer(self._tables, txn, keys)
                for pending in group:
                    pending.result = pending.change(writer)
                if not keys.changed:
                    return
                root, turned = keys.turn()
                nodes.put_node(STATE_KEY, STATE.pack(generation, keys.next_slot))
                prepared = True
                self._root_file.prepare(generation, root)
                with self._lock:
                    self._roots[generation] = root
        except BaseException:
            if prepared:
                self._give_up(generation)
            raise
        self._turn(generation, root, turned)

    def _give_up(self, generation: int) -> None:
        """The transaction of a prepared root has failed."""
        with self._lock:
            self._roots.pop(generation, None)
        try:
            self._root_file.settle(generation - 1)
        except OSError as error:
            _log.error("the root file cannot be written: %s", error)

    def _turn(self, generation: int, root: bytes, turned: Turned) -> None:
        """The transaction is on the disk: the new root counts, the old one goes."""
        with self._lock:
            old, self._generation = self._generation, generation
            if old not in self._readers:
                self._roots.pop(old, None)
        self._cache.turn(root, turned)
        try:
            self._root_file.settle(generation)
        except OSError as error:
            # what was written stays written; the next turn overwrites that slot
            _log.error("an old key could not be erased yet: %s", error)


def _open_env(path: Path, *, read_only: bool) -> Any:
    """Raises lmdb.Error or OSError."""
    if not read_only:
        path.mkdir(mode=0o700, exist_ok=True)
    size = MAP_SIZE
    while True:
        try:
            env = lmdb.open(
                str(path),
                map_size=size,
                max_dbs=len(Table) + 1,
                mode=0o600,
                max_readers=64,
                readonly=read_only,
                lock=not read_only or os.access(path, os.W_OK),
            )
            break
        except lmdb.MemoryError:
            if size <= MAP_SIZE_LEAST:
                raise
            size //= 16
    env.reader_check()
    _lengthen(env, path / "data.mdb", read_only=read_only)
    return env


def _lengthen(env: Any, file: Path, *, read_only: bool) -> None:
    """A file that was cut short would end the process at the first look behind its end: what is
    missing is made zeros, which are found out as damage."""
    size = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if file.stat().st_size < size and not read_only:
        os.truncate(file, size)


def _hint(error: Exception) -> str:
    """What may help against an error of a write."""
    if isinstance(error, lmdb.MapFullError):
        return "its address space is used up: raise the limit (ulimit -v) and mount again"
    if "Read-only" in str(error):
        return "the disk is read-only"
    return "is the disk full?"
