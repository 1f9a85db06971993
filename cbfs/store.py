"""The client's store: sealed records in LMDB. The only file of the client that knows lmdb.

Every value is sealed with ChaCha20-Poly1305 under a key derived from the account's root key,
the table and a fresh salt, bound to its table and record key. Record keys are written as they
are: they must be ids, counters or ``blind`` digests, never a name.

Writes are functions that get a ``Writer``; all that wait are applied in one transaction with
one fsync (group commit) in a thread. When ``commit`` returns, the change is on the disk. A crash
before leaves nothing of it, a crash after leaves all of it. A change must touch nothing but its
Writer: it is run again when another change of its group fails.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Generic, TypeVar

import lmdb
import trio

from cbfs_common.errors import CbfsError, CryptoError
from cbfs_common.primitives import NONCE_SIZE, Random, kdf, open_sealed, seal

T = TypeVar("T")

MAP_SIZE = 1 << 40
"""Address space, not disk: the file grows as it is filled."""

SALT_SIZE = 24
_RECORD = b"cbfs1 record"


class Table(Enum):
    """The tables, with what their record keys are."""

    META = b"meta"  # a fixed word
    SESSIONS = b"sessions"  # session id 16
    PREKEYS = b"prekeys"  # prekey id 16
    PEERS = b"peers"  # blind(name)
    CONVERSATIONS = b"conversations"  # conversation id 16
    MESSAGES = b"messages"  # conversation id 16 | serial u64
    MESSAGE_IDS = b"message-ids"  # blind(conversation id, sender, message id)
    PARTS = b"parts"  # what is known of a file that is still arriving
    QUEUE = b"queue"  # blind(recipient) 16 | sequence u64
    OWED = b"owed"  # blind(peer) 16 | kind 1 | conversation id 16 | message id 16
    INBOX = b"inbox"  # sequence u64: envelopes that wait for a look-up
    QUARANTINE = b"quarantine"  # sequence u64: envelopes that could not be read
    CONTENT = b"content"  # content id u64 | chunk u32
    NODES = b"nodes"  # inode u64: files and folders of outbox/, ui_info/ and tmp/


class StoreError(CbfsError):
    """The store on disk cannot be read or written."""


class Reader:
    """A consistent view of the store. Use within its ``with`` block."""

    def __init__(self, store: "Store", txn: Any) -> None:
        self._store = store
        self._txn = txn

    def get(self, table: Table, key: bytes) -> bytes | None:
        """The value, or None."""
        sealed = self._txn.get(key, db=self._store._dbs[table])
        return None if sealed is None else self._store._open(table, key, sealed)

    def items(
        self, table: Table, prefix: bytes = b"", start: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) in key order, of keys with ``prefix``, from ``start`` on."""
        with self._txn.cursor(db=self._store._dbs[table]) as cursor:
            found = cursor.set_range(start if start is not None else prefix)
            while found:
                key, sealed = cursor.item()
                if not key.startswith(prefix):
                    return
                yield key, self._store._open(table, key, sealed)
                found = cursor.next()

    def keys(self, table: Table, prefix: bytes = b"") -> Iterator[bytes]:
        """Keys with ``prefix`` in order; opens no value."""
        with self._txn.cursor(db=self._store._dbs[table]) as cursor:
            found = cursor.set_range(prefix)
            while found and cursor.key().startswith(prefix):
                yield cursor.key()
                found = cursor.next()

    def last_key(self, table: Table) -> bytes | None:
        """The greatest key, or None."""
        with self._txn.cursor(db=self._store._dbs[table]) as cursor:
            return cursor.key() if cursor.last() else None

    def blind(self, *parts: bytes) -> bytes:
        """See ``Store.blind``."""
        return self._store.blind(*parts)

    def count(self, table: Table) -> int:
        """Number of records."""
        return int(self._txn.stat(self._store._dbs[table])["entries"])


class Writer(Reader):
    """A transaction that can also change the store."""

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Write or overwrite."""
        self._txn.put(key, self._store._seal(table, key, value), db=self._store._dbs[table])

    def delete(self, table: Table, key: bytes) -> bool:
        """True when there was one."""
        return bool(self._txn.delete(key, db=self._store._dbs[table]))

    def delete_prefix(self, table: Table, prefix: bytes) -> int:
        """Delete all records whose key begins so; how many there were."""
        keys = list(self.keys(table, prefix))
        for key in keys:
            self.delete(table, key)
        return len(keys)

    def next_number(self, name: bytes) -> int:
        """1, 2, 3, ...: a counter of that name that never repeats."""
        key = b"counter " + name
        number = int.from_bytes(self.get(Table.META, key) or b"", "big") + 1
        self.put(Table.META, key, number.to_bytes(8, "big"))
        return number


class _Pending(Generic[T]):
    def __init__(self, change: Callable[[Writer], T]) -> None:
        self.change = change
        self.done = trio.Event()
        self.result: T | None = None
        self.error: BaseException | None = None


class Store:
    """Open with the account's root key (32 bytes); one process at a time, which the account's
    lock file ensures. ``run`` must be running for ``commit``."""

    def __init__(self, path: Path, root_key: bytes, random: Random) -> None:
        """Raises StoreError when the files cannot be opened or are not a store."""
        self._random = random
        self._keys = {table: kdf(root_key, b"cbfs1 store", table.value, 32) for table in Table}
        self._blind_key = kdf(root_key, b"cbfs1 blind", size=32)
        self._waiting: list[_Pending[Any]] = []
        self._wake = trio.Event()
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            self._env = lmdb.open(
                str(path), map_size=MAP_SIZE, max_dbs=len(Table), mode=0o600, max_readers=64
            )
            self._dbs = {table: self._env.open_db(table.value) for table in Table}
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"the store in {path} cannot be opened", "check the disk and the files' owner"
            ) from error

    def close(self) -> None:
        """Close the files. Nothing may be waiting."""
        self._env.close()

    def blind(self, *parts: bytes) -> bytes:
        """16 bytes that stand for ``parts`` in a record key and tell nothing of them."""
        data = b"".join(struct.pack(">I", len(part)) + part for part in parts)
        return kdf(self._blind_key, b"cbfs1 lookup", data, 16)

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """A read transaction: answers from memory or LMDB, never waits for a writer."""
        with self._env.begin() as txn:
            yield Reader(self, txn)

    def write(self, change: Callable[[Writer], T]) -> T:
        """Apply one change now, blocking, on the disk when it returns. Before ``run`` only."""
        pending = _Pending(change)
        self._apply([pending])
        if pending.error is not None:
            raise pending.error
        return pending.result  # type: ignore[return-value]  # set when there is no error

    async def commit(self, change: Callable[[Writer], T]) -> T:
        """Apply a change together with all others that wait; returns what it returned, when it
        is on the disk. Raises what it raised (then nothing of it is applied) or StoreError.
        Once begun it is not cancelled: what is said to be saved is saved."""
        pending = _Pending(change)
        self._waiting.append(pending)
        self._wake.set()
        with trio.CancelScope(shield=True):
            await pending.done.wait()
        if pending.error is not None:
            raise pending.error
        return pending.result  # type: ignore[return-value]  # set when there is no error

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The committer: runs until cancelled, and ends only when nothing waits."""
        task_status.started()
        try:
            while True:
                await self._wake.wait()
                await self._drain()
        finally:
            with trio.CancelScope(shield=True):
                await self._drain()

    async def _drain(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            await trio.to_thread.run_sync(self._apply, group)
            for pending in group:
                pending.done.set()
        self._wake = trio.Event()

    def _apply(self, group: list[_Pending[Any]]) -> None:
        """One transaction for the group; when a change raises, each gets its own."""
        try:
            with self._env.begin(write=True) as txn:
                writer = Writer(self, txn)
                for pending in group:
                    try:
                        pending.result = pending.change(writer)
                    except BaseException as error:
                        pending.error = error
                        raise
        except BaseException as error:
            if isinstance(error, lmdb.Error):
                wrapped = StoreError("the store cannot be written", "is the disk full?")
                wrapped.__cause__ = error
                for pending in group:
                    pending.error = wrapped
            elif len(group) > 1:
                for pending in group:
                    pending.error = None
                    self._apply([pending])

    def _seal(self, table: Table, key: bytes, value: bytes) -> bytes:
        salt = self._random.token(SALT_SIZE)
        secret = kdf(self._keys[table], _RECORD, salt, 32 + NONCE_SIZE)
        return salt + seal(secret[:32], secret[32:], value, key)

    def _open(self, table: Table, key: bytes, sealed: bytes) -> bytes:
        secret = kdf(self._keys[table], _RECORD, sealed[:SALT_SIZE], 32 + NONCE_SIZE)
        try:
            return open_sealed(secret[:32], secret[32:], sealed[SALT_SIZE:], key)
        except CryptoError as error:
            raise StoreError(
                "a record of the store is damaged", "restore the account directory from a backup"
            ) from error
