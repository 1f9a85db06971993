"""The server's store: LMDB with group commit. The only file of the server that knows lmdb.

    accounts    user 32                     next serial u64 | envelopes stored u32
    prekeys     user 32 | kind 1 | id 16    the signed record
                user 32 | 0                 the account's static ML-KEM key
    order       user 32 | serial u64        day u32 | envelope id 16
    mail        user 32 | envelope id 16    serial u64 | envelope
    meta        clock                       see ``calendar.Mark``

Serials count within one mailbox, and a day, of the server's life, is all that is kept of an
envelope's arrival: the
order in a mailbox is kept because ratchets need it, times and the order between mailboxes are not.
Every record has a check value behind it (``cbfs_host.lmdb_environment``), so that what a disk has
changed is found out when it is read.

A change is a function of a ``MailboxWriter``. All changes that wait are applied in one transaction
with one sync, in a thread of its own; then each one's ``done`` is called on the trio thread. A
crash before the transaction's end leaves nothing of the group, and nobody was told anything; a
crash after it leaves all of it, whether or not the answers got out. A change decides before it
writes and raises nothing but what reading does; then, and when it has a fault, it is left out, and
the others are run again.
"""

import logging
import queue
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import lmdb
import trio

from cbfs_common.errors import DecodeError
from cbfs_common.session.prekey import PREKEY_ID_SIZE, PrekeyKind
from cbfs_host.calendar import ClockMark, decode_mark
from cbfs_host.complaints import hint_of, reason_of
from cbfs_host.lmdb_environment import (
    StoreError,
    build_environment,
    open_checked,
    unopened,
    with_check,
    without_check,
)
from cbfs_host.logs import tell_fault
from cbfs_server.limits import GROUP_MAX

T = TypeVar("T")

_ACCOUNT = struct.Struct(">QI")
_SERIAL = struct.Struct(">Q")
_ORDER = struct.Struct(">I16s")
_USER_SIZE = 32
_KEM = b"\0"
_CLOCK = b"clock"
_NAMES = (b"accounts", b"prekeys", b"order", b"mail", b"meta")
_DAMAGED = "check the disk; cbfs-server(8) says under FILES what to do about the store"
_EXPIRES = slice(PREKEY_ID_SIZE + 1, PREKEY_ID_SIZE + 9)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AccountRecord:
    """What is kept of an account. ``next_serial``: of the next envelope that arrives. ``stored``:
    envelopes in the mailbox."""

    next_serial: int
    stored: int


@dataclass(frozen=True, slots=True)
class StoredEnvelope:
    """An envelope's place in its mailbox: ``serial``, the ``day`` of its arrival (of the server's
    life), and its ``id`` (16)."""

    serial: int
    day: int
    id: bytes


@dataclass(frozen=True, slots=True)
class _Table:
    name: bytes
    db: Any

    def opened(self, key: bytes, data: bytes) -> bytes:
        """The value of a record as it is stored. Raises StoreError."""
        return without_check(self.name, key, data, _DAMAGED)


class MailboxReader:
    """A consistent view of the store. Users are keys of 32 bytes, ids have 16. Every method raises
    StoreError for what is damaged."""

    def __init__(self, tables: "_Tables", txn: Any) -> None:
        self._tables = tables
        self._txn = txn

    def _get(self, table: _Table, key: bytes) -> bytes | None:
        try:
            data = self._txn.get(key, db=table.db)
        except lmdb.Error as error:
            raise _unreadable(error) from error
        return None if data is None else table.opened(key, data)

    def _items(self, table: _Table, prefix: bytes, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys with this prefix from ``start`` on, and their values as they are stored."""
        try:
            with self._txn.cursor(db=table.db) as cursor:
                found = cursor.set_range(start) if start else cursor.first()
                while found and cursor.key().startswith(prefix):
                    yield cursor.item()
                    found = cursor.next()
        except lmdb.Error as error:
            raise _unreadable(error) from error

    def account(self, user: bytes) -> AccountRecord | None:
        """What is kept of an account, or None."""
        found = self._get(self._tables.accounts, user)
        return None if found is None else AccountRecord(*_ACCOUNT.unpack(found))

    def accounts(self) -> int:
        """How many accounts there are."""
        try:
            return int(self._txn.stat(self._tables.accounts.db)["entries"])
        except lmdb.Error as error:
            raise _unreadable(error) from error

    def users(self, start: bytes, most: int) -> list[bytes]:
        """Up to ``most`` users from ``start`` on, in the order of their keys."""
        return [user for user, _ in islice(self._items(self._tables.accounts, b"", start), most)]

    def mark(self) -> ClockMark | None:
        """The server's time as it was noted last, or None."""
        found = self._get(self._tables.meta, _CLOCK)
        try:
            return None if found is None else decode_mark(found)
        except DecodeError as error:
            raise StoreError("a record of the store is damaged", _DAMAGED) from error

    def prekeys(self, user: bytes, kind: PrekeyKind) -> Iterator[bytes]:
        """The records of an account's prekeys of one kind, in the order of their ids."""
        prefix, table = user + bytes([kind]), self._tables.prekeys
        for key, data in self._items(table, prefix, prefix):
            yield table.opened(key, data)

    def kem(self, user: bytes) -> bytes | None:
        """The account's static ML-KEM public key (1184), or None: it came with its prekeys."""
        return self._get(self._tables.prekeys, user + _KEM)

    def order(self, user: bytes, after: int) -> Iterator[StoredEnvelope]:
        """The mailbox behind the serial ``after``, oldest first. What is damaged is left out: the
        rest is still to be had."""
        table = self._tables.order
        for key, data in self._items(table, user, user + _SERIAL.pack(after + 1)):
            try:
                day, id = _ORDER.unpack(table.opened(key, data))
            except StoreError as error:
                _log.error("an envelope of a mailbox is left out: %s", error.in_full)
                continue
            yield StoredEnvelope(_SERIAL.unpack_from(key, _USER_SIZE)[0], day, id)

    def serial(self, user: bytes, id: bytes) -> int | None:
        """The place of an envelope, or None when it is not in the mailbox."""
        found = self._get(self._tables.mail, user + id)
        return None if found is None else int.from_bytes(found[: _SERIAL.size], "big")

    def envelope(self, user: bytes, id: bytes) -> bytes | None:
        """An envelope of a mailbox, or None."""
        found = self._get(self._tables.mail, user + id)
        return None if found is None else found[_SERIAL.size :]


class MailboxWriter(MailboxReader):
    """A transaction that can also change the store."""

    def _put(self, table: _Table, key: bytes, value: bytes) -> None:
        self._txn.put(key, with_check(table.name, key, value), db=table.db)

    def put_mark(self, mark: ClockMark) -> None:
        """Note the server's time."""
        self._put(self._tables.meta, _CLOCK, mark.encode())

    def put_account(self, user: bytes, account: AccountRecord) -> None:
        """Create or overwrite what is kept of an account."""
        value = _ACCOUNT.pack(account.next_serial, account.stored)
        self._put(self._tables.accounts, user, value)

    def delete_account(self, user: bytes) -> None:
        """Forget the account and all that is stored for it."""
        self._txn.delete(user, db=self._tables.accounts.db)
        for table in (self._tables.prekeys, self._tables.order, self._tables.mail):
            with self._txn.cursor(db=table.db) as cursor:
                found = cursor.set_range(user)
                while found and cursor.key().startswith(user):
                    found = cursor.delete()

    def put_prekey(self, user: bytes, record: bytes) -> None:
        """Store the record of a prekey under its id and kind."""
        id, kind = record[:PREKEY_ID_SIZE], record[PREKEY_ID_SIZE : PREKEY_ID_SIZE + 1]
        self._put(self._tables.prekeys, user + kind + id, record)

    def put_kem(self, user: bytes, kem: bytes) -> None:
        """Store the account's static ML-KEM public key in the place of the last."""
        self._put(self._tables.prekeys, user + _KEM, kem)

    def delete_prekey(self, user: bytes, record: bytes) -> None:
        """Forget the record of a prekey."""
        id, kind = record[:PREKEY_ID_SIZE], record[PREKEY_ID_SIZE : PREKEY_ID_SIZE + 1]
        self._txn.delete(user + kind + id, db=self._tables.prekeys.db)

    def add_envelope(
        self, user: bytes, account: AccountRecord, id: bytes, envelope: bytes, day: int
    ) -> None:
        """Append to the mailbox of ``account``, which is ``user``'s as it is now."""
        serial = _SERIAL.pack(account.next_serial)
        self._put(self._tables.mail, user + id, serial + envelope)
        self._put(self._tables.order, user + serial, _ORDER.pack(day, id))
        self.put_account(user, AccountRecord(account.next_serial + 1, account.stored + 1))

    def delete_envelope(self, user: bytes, id: bytes) -> bool:
        """Take an envelope out of the mailbox. False when it is not there."""
        serial = self.serial(user, id)
        return serial is not None and self.delete_entry(user, serial, id)

    def delete_entry(self, user: bytes, serial: int, id: bytes) -> bool:
        """Take an envelope whose place is known out of the mailbox; it may be damaged. False when
        there is no such account."""
        account = self.account(user)
        if account is None:
            return False
        self._txn.delete(user + id, db=self._tables.mail.db)
        self._txn.delete(user + _SERIAL.pack(serial), db=self._tables.order.db)
        self.put_account(user, AccountRecord(account.next_serial, max(0, account.stored - 1)))
        return True


def expiry(record: bytes) -> int:
    """When a prekey record expires, in seconds since 1970."""
    return int.from_bytes(record[_EXPIRES], "big")


@dataclass(frozen=True, slots=True)
class _Tables:
    accounts: _Table
    prekeys: _Table
    order: _Table
    mail: _Table
    meta: _Table


class _Pending(Generic[T]):
    __slots__ = ("change", "done", "result")

    def __init__(
        self, change: Callable[[MailboxWriter], T], done: Callable[[T | StoreError], None]
    ) -> None:
        self.change = change
        self.done = done
        self.result: T | StoreError


class MailboxStore:
    """The store in a directory. One process at a time, which the lock file of the data directory
    ensures."""

    def __init__(self, path: Path) -> None:
        """A new store is there whole or not at all. Raises StoreError when the files cannot be
        opened or are not a store."""
        self._queue: queue.SimpleQueue[_Pending[Any] | None] = queue.SimpleQueue()
        try:
            if not path.exists():
                build_environment(path, len(_NAMES), _open_tables)
            self._env = open_checked(path, len(_NAMES), _DAMAGED)
        except (lmdb.Error, OSError) as error:
            raise unopened(path, error, _DAMAGED) from error
        try:
            self._tables = _open_tables(self._env)
        except lmdb.Error as error:
            self._env.close()
            raise unopened(path, error, _DAMAGED) from error

    def close(self) -> None:
        """Close the files, after ``run`` has ended."""
        self._env.close()

    @contextmanager
    def read(self) -> Iterator[MailboxReader]:
        """A read transaction on the calling thread: memory-mapped, waits for no writer. Raises
        StoreError."""
        try:
            txn = self._env.begin()
        except lmdb.Error as error:
            raise _unreadable(error) from error
        try:
            yield MailboxReader(self._tables, txn)
        finally:
            txn.abort()

    def submit(
        self, change: Callable[[MailboxWriter], T], done: Callable[[T | StoreError], None]
    ) -> None:
        """Queue a change. ``done`` gets what it returned once that is on the disk, or a
        StoreError when nothing of it is."""
        self._queue.put(_Pending(change, done))

    async def commit(self, change: Callable[[MailboxWriter], T]) -> T:
        """Queue a change and wait until it is on the disk; what it returned. Raises StoreError when
        nothing of it is."""
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
        """One transaction; when a change finds damage, or has a fault, each gets one of its own."""
        try:
            self._transact(group)
        except lmdb.Error as error:
            _log.error("the store cannot be written: %s", error)
            failure = StoreError("the store cannot be written", hint_of(error, _DAMAGED))
            for pending in group:
                pending.result = failure
        except Exception as error:
            if len(group) > 1:
                for pending in group:
                    self._apply([pending])
            elif isinstance(error, StoreError):
                _log.error("%s", error)
                group[0].result = error
            else:
                tell_fault("a change of the store", error)
                group[0].result = StoreError("a change of the store was not made")

    def _transact(self, group: list[_Pending[Any]]) -> None:
        with self._env.begin(write=True) as txn:
            writer = MailboxWriter(self._tables, txn)
            for pending in group:
                pending.result = pending.change(writer)


def _answer(group: list[_Pending[Any]]) -> None:
    """Runs as a callback of trio, which an error would end: and with it the server."""
    for pending in group:
        try:
            pending.done(pending.result)
        except Exception as error:
            tell_fault("an answer", error)


def _open_tables(env: Any) -> _Tables:
    return _Tables(*(_Table(name, env.open_db(name)) for name in _NAMES))


def _unreadable(error: lmdb.Error) -> StoreError:
    return StoreError(f"the store cannot be read: {reason_of(error)}", _DAMAGED)
