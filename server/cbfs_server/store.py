"""The server's store: LMDB with group commit. The only file of the server that knows lmdb.

    accounts    user 32                     next serial u64 | envelopes stored u32
    prekeys     user 32 | kind 1 | id 16    the signed record
    order       user 32 | serial u64        day u32 | envelope id 16
    mail        user 32 | envelope id 16    serial u64 | envelope

Serials count within one mailbox, and a day is all that is kept of an envelope's arrival: the
order in a mailbox is kept because ratchets need it, times and the order between mailboxes are not.

A change is a function of a ``Writer``. All changes that wait are applied in one transaction with
one sync, in a thread of its own; then each one's ``done`` is called on the trio thread. A crash
before the transaction's end leaves nothing of the group, and nobody was told anything; a crash
after it leaves all of it, whether or not the answers got out. A change decides before it writes
and raises nothing of its own.
"""

import logging
import queue
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import lmdb
import trio

from cbfs_common.errors import CbfsError
from cbfs_common.requests import PREKEY_ID_SIZE, PrekeyKind
from cbfs_server.limits import GROUP_MAX, MAP_SIZE

T = TypeVar("T")

_ACCOUNT = struct.Struct(">QI")
_SERIAL = struct.Struct(">Q")
_ORDER = struct.Struct(">I16s")
_USER_SIZE = 32
_EXPIRES = slice(PREKEY_ID_SIZE + 1, PREKEY_ID_SIZE + 9)

_log = logging.getLogger(__name__)


class StoreError(CbfsError):
    """The store on disk cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Account:
    """``next_serial``: of the next envelope that arrives. ``stored``: envelopes in the mailbox."""

    next_serial: int
    stored: int


@dataclass(frozen=True, slots=True)
class Entry:
    """An envelope's place in its mailbox."""

    serial: int
    day: int
    id: bytes


class Reader:
    """A consistent view of the store. Users are keys of 32 bytes, ids have 16."""

    def __init__(self, tables: "_Tables", txn: Any) -> None:
        self._tables = tables
        self._txn = txn

    def account(self, user: bytes) -> Account | None:
        """The account, or None."""
        found = self._txn.get(user, db=self._tables.accounts)
        return None if found is None else Account(*_ACCOUNT.unpack(found))

    def accounts(self) -> int:
        """How many there are."""
        return int(self._txn.stat(self._tables.accounts)["entries"])

    def users(self, start: bytes, most: int) -> list[bytes]:
        """Up to ``most`` users from ``start`` on, in the order of their keys."""
        users: list[bytes] = []
        with self._txn.cursor(db=self._tables.accounts) as cursor:
            found = cursor.set_range(start) if start else cursor.first()
            while found and len(users) < most:
                users.append(bytes(cursor.key()))
                found = cursor.next()
        return users

    def prekeys(self, user: bytes, kind: PrekeyKind) -> Iterator[bytes]:
        """The records of that kind."""
        prefix = user + bytes([kind])
        with self._txn.cursor(db=self._tables.prekeys) as cursor:
            found = cursor.set_range(prefix)
            while found and cursor.key().startswith(prefix):
                yield bytes(cursor.value())
                found = cursor.next()

    def order(self, user: bytes, after: int) -> Iterator[Entry]:
        """The mailbox behind the serial ``after``, oldest first."""
        with self._txn.cursor(db=self._tables.order) as cursor:
            found = cursor.set_range(user + _SERIAL.pack(after + 1))
            while found and cursor.key().startswith(user):
                day, id = _ORDER.unpack(cursor.value())
                yield Entry(_SERIAL.unpack_from(cursor.key(), _USER_SIZE)[0], day, id)
                found = cursor.next()

    def serial(self, user: bytes, id: bytes) -> int | None:
        """The place of an envelope, or None when it is not in the mailbox."""
        with self._txn.cursor(db=self._tables.mail) as cursor:
            if not cursor.set_key(user + id):
                return None
            return int.from_bytes(cursor.value()[: _SERIAL.size], "big")

    def envelope(self, user: bytes, id: bytes) -> bytes | None:
        """An envelope, or None."""
        found = self._txn.get(user + id, db=self._tables.mail)
        return None if found is None else found[_SERIAL.size :]


class Writer(Reader):
    """A transaction that can also change the store."""

    def put_account(self, user: bytes, account: Account) -> None:
        """Create or overwrite."""
        value = _ACCOUNT.pack(account.next_serial, account.stored)
        self._txn.put(user, value, db=self._tables.accounts)

    def delete_account(self, user: bytes) -> None:
        """Forget the account and all that is stored for it."""
        self._txn.delete(user, db=self._tables.accounts)
        for table in (self._tables.prekeys, self._tables.order, self._tables.mail):
            with self._txn.cursor(db=table) as cursor:
                found = cursor.set_range(user)
                while found and cursor.key().startswith(user):
                    found = cursor.delete()

    def put_prekey(self, user: bytes, record: bytes) -> None:
        """Store a record under its id and kind."""
        id, kind = record[:PREKEY_ID_SIZE], record[PREKEY_ID_SIZE : PREKEY_ID_SIZE + 1]
        self._txn.put(user + kind + id, record, db=self._tables.prekeys)

    def delete_prekey(self, user: bytes, record: bytes) -> None:
        """Forget a record."""
        id, kind = record[:PREKEY_ID_SIZE], record[PREKEY_ID_SIZE : PREKEY_ID_SIZE + 1]
        self._txn.delete(user + kind + id, db=self._tables.prekeys)

    def add_envelope(
        self, user: bytes, account: Account, id: bytes, envelope: bytes, day: int
    ) -> None:
        """Append to the mailbox of ``account``, which is ``user``'s as it is now."""
        serial = _SERIAL.pack(account.next_serial)
        self._txn.put(user + id, serial + envelope, db=self._tables.mail)
        self._txn.put(user + serial, _ORDER.pack(day, id), db=self._tables.order)
        self.put_account(user, Account(account.next_serial + 1, account.stored + 1))

    def delete_envelope(self, user: bytes, id: bytes) -> bool:
        """Take out of the mailbox. False when it is not there."""
        serial, account = self.serial(user, id), self.account(user)
        if serial is None or account is None:
            return False
        self._txn.delete(user + id, db=self._tables.mail)
        self._txn.delete(user + _SERIAL.pack(serial), db=self._tables.order)
        self.put_account(user, Account(account.next_serial, account.stored - 1))
        return True


def expiry(record: bytes) -> int:
    """When a prekey record expires, in seconds since 1970."""
    return int.from_bytes(record[_EXPIRES], "big")


@dataclass(frozen=True, slots=True)
class _Tables:
    accounts: Any
    prekeys: Any
    order: Any
    mail: Any


class _Pending(Generic[T]):
    __slots__ = ("change", "done", "result")

    def __init__(
        self, change: Callable[[Writer], T], done: Callable[[T | StoreError], None]
    ) -> None:
        self.change = change
        self.done = done
        self.result: T | StoreError


class Store:
    """One process at a time, which the lock file of the data directory ensures."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError when the files cannot be opened or are not a store."""
        self._queue: queue.SimpleQueue[_Pending[Any] | None] = queue.SimpleQueue()
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            self._env = lmdb.open(str(path), map_size=MAP_SIZE, max_dbs=4, mode=0o600)
            names = (b"accounts", b"prekeys", b"order", b"mail")
            self._tables = _Tables(*(self._env.open_db(name) for name in names))
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"the store in {path} cannot be opened", "check the disk and the files' owner"
            ) from error

    def close(self) -> None:
        """Close the files, after ``run`` has ended."""
        self._env.close()

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """A read transaction on the calling thread: memory-mapped, waits for no writer."""
        with self._env.begin() as txn:
            yield Reader(self._tables, txn)

    def submit(self, change: Callable[[Writer], T], done: Callable[[T | StoreError], None]) -> None:
        """Queue a change. ``done`` gets what it returned once that is on the disk, or a
        StoreError when nothing of it is."""
        self._queue.put(_Pending(change, done))

    async def commit(self, change: Callable[[Writer], T]) -> T:
        """``submit`` and wait. Raises StoreError."""
        event = trio.Event()
        results: list[T | StoreError] = []

        def done(result: T | StoreError) -> None:
            results.append(result)
            event.set()

        self.submit(change, done)
        await event.wait()
        if isinstance(results[0], StoreError):
            raise results[0]
        return results[0]

    async def run(self) -> None:
        """The committer: until cancelled, and then until nothing waits."""
        token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, self._work, token)
            try:
                await trio.sleep_forever()
            finally:
                self._queue.put(None)

    def _work(self, token: trio.lowlevel.TrioToken) -> None:
        running = True
        while running:
            first = self._queue.get()
            group: list[_Pending[Any]] = []
            running = first is not None
            if first is not None:
                group.append(first)
                running = self._gather(group)
            if group:
                self._apply(group)
                token.run_sync_soon(_answer, group)

    def _gather(self, group: list[_Pending[Any]]) -> bool:
        """Add what waits; False when the end was asked for."""
        while len(group) < GROUP_MAX:
            try:
                pending = self._queue.get_nowait()
            except queue.Empty:
                break
            if pending is None:
                return False
            group.append(pending)
        return True

    def _apply(self, group: list[_Pending[Any]]) -> None:
        try:
            with self._env.begin(write=True) as txn:
                writer = Writer(self._tables, txn)
                for pending in group:
                    pending.result = pending.change(writer)
        except lmdb.Error as error:
            _log.error("the store cannot be written: %s", error)
            failure = StoreError("the store cannot be written", "is the disk full?")
            for pending in group:
                pending.result = failure


def _answer(group: list[_Pending[Any]]) -> None:
    for pending in group:
        pending.done(pending.result)
