"""What the message server keeps in LMDB: tables, and views of a transaction that read and change
them. Its store, in ``store.py``, makes the transactions; no other file of the server knows lmdb.

    accounts    user 32                     next serial u64 | envelopes stored u32
    prekeys     user 32 | kind 1 | id 16    the signed record
                user 32 | 0                 the account's static ML-KEM key
    order       user 32 | serial u64        day u32 | envelope id 16
    mail        user 32 | envelope id 16    serial u64 | envelope
    marks       user 32                     mark 56
    suspended   user 32                     nothing; there may be no account
    visits      user 32                     day u32 | fetched u8, see ``Visit``
    invites     invite id 16                day u32 on which it was used
    meta        clock                       see ``calendar.Mark``
                version, file               see ``store_format``

Those of blobs are in ``blobs``. Serials count within one mailbox, and a day, of the server's life,
is all that is kept of an envelope's arrival: the order in a mailbox is kept because ratchets need
it, times and the order between mailboxes are not.
Every record has a check value behind it (``cbfs_host.lmdb_environment``), so that what a disk has
changed is found out when it is read.
"""

import logging
import struct
from collections.abc import Iterator
from itertools import islice

import lmdb

from cbfs_common.errors import DecodeError
from cbfs_common.session.prekey import PREKEY_ID_SIZE, PrekeyKind
from cbfs_host.calendar import ClockMark, decode_mark
from cbfs_host.complaints import StoreError
from cbfs_host.lmdb_environment import CHECK_SIZE, check_of_start, holds
from cbfs_server.limits import BLOBS_MAX, ENVELOPE_COST, PREKEY_COST
from cbfs_server.lmdb_store.blobs import BlobReader, BlobWriter
from cbfs_server.lmdb_store.records import AccountRecord, StoredEnvelope, Visit
from cbfs_server.lmdb_store.tables import DAMAGED, TableReader, TableWriter, unreadable

_ACCOUNT = struct.Struct(">QI")
_SERIAL = struct.Struct(">Q")
_DAY = struct.Struct(">I")
_VISIT = struct.Struct(">I?")
_ORDER = struct.Struct(">I16s")
_ORDER_SIZE = _ORDER.size + CHECK_SIZE
_ORDER_ID = slice(_ORDER.size - 16, _ORDER.size)
_USER_SIZE = 32
_KEM = b"\0"
_CLOCK = b"clock"
FORGET_BATCH = 4_096
"""Prekeys that are forgotten in one transaction when the store is a copy."""

_EXPIRES = slice(PREKEY_ID_SIZE + 1, PREKEY_ID_SIZE + 9)

_log = logging.getLogger(__name__)


class MailboxReader(TableReader):
    """A consistent view of the store. Users are keys of 32 bytes, ids have 16. Every method raises
    StoreError for what is damaged."""

    @property
    def blobs(self) -> BlobReader:
        """The blobs, as they are at that time."""
        return BlobReader(self._tables, self._txn)

    def account(self, user: bytes) -> AccountRecord | None:
        """What is kept of an account, or None."""
        found = self._get(self._tables.accounts, user)
        return None if found is None else AccountRecord(*_ACCOUNT.unpack(found))

    def accounts(self) -> int:
        """How many accounts there are."""
        return self._entries(self._tables.accounts)

    def envelopes(self) -> int:
        """How many envelopes there are."""
        return self._entries(self._tables.order)

    def used(self) -> int:
        """Bytes of the file that are in use, but for a few pages of LMDB's own."""
        try:
            page = int(self._txn.stat(self._tables.order.db)["psize"])
            return self._tables.pages(self._txn) * page
        except lmdb.Error as error:
            raise unreadable(error) from error

    def users(self, start: bytes, most: int) -> list[bytes]:
        """Up to ``most`` users from ``start`` on, in the order of their keys."""
        return [user for user, _ in islice(self._items(self._tables.accounts, b"", start), most)]

    def mark(self) -> ClockMark | None:
        """The server's time as it was noted last, or None."""
        found = self._get(self._tables.meta, _CLOCK)
        try:
            return None if found is None else decode_mark(found)
        except DecodeError as error:
            raise StoreError("a record of the store is damaged", DAMAGED) from error

    def prekeys(self, user: bytes, kind: PrekeyKind) -> Iterator[bytes]:
        """The records of an account's prekeys of one kind, in the order of their ids."""
        prefix, table = user + bytes([kind]), self._tables.prekeys
        for key, data in self._items(table, prefix, prefix):
            yield table.opened(key, data)

    def kem(self, user: bytes) -> bytes | None:
        """The account's static ML-KEM public key (1184), or None: it came with its prekeys."""
        return self._get(self._tables.prekeys, user + _KEM)

    def mark_of(self, user: bytes) -> bytes | None:
        """The mark (56) that the account's client has left, or None."""
        return self._get(self._tables.marks, user)

    def suspended(self) -> list[bytes]:
        """Users whom the operator has suspended."""
        return [user for user, _ in self._items(self._tables.suspended, b"", b"")]

    def visit(self, user: bytes) -> Visit | None:
        """When the account's owner was last there; None for one that an older server has made."""
        found = self._get(self._tables.visits, user)
        return None if found is None else Visit(*_VISIT.unpack(found))

    def was_used(self, invite: bytes) -> bool:
        """Whether the invite of this id (16) was used."""
        return self._get(self._tables.invites, invite) is not None

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

    def ids(self, user: bytes, after: int, most: int) -> list[bytes]:
        """Up to ``most`` ids of the mailbox behind the serial ``after``, oldest first: as
        ``order``, at a tenth of its cost."""
        table, found = self._tables.order, list[bytes]()
        start = check_of_start(table.name, user)
        try:
            with self._txn.cursor(db=table.db) as cursor:
                there = cursor.set_range(user + _SERIAL.pack(after + 1))
                for key, data in cursor.iternext() if there else ():
                    if key[:_USER_SIZE] != user or len(found) == most:
                        break
                    if len(data) == _ORDER_SIZE and holds(start, key[_USER_SIZE:], data):
                        found.append(data[_ORDER_ID])
                    else:
                        _log.error("an envelope of a mailbox is left out: it is damaged")
        except lmdb.Error as error:
            raise unreadable(error) from error
        return found

    def serial(self, user: bytes, id: bytes) -> int | None:
        """The place of an envelope, or None when it is not in the mailbox."""
        found = self._get(self._tables.mail, user + id)
        return None if found is None else int.from_bytes(found[: _SERIAL.size], "big")

    def envelope(self, user: bytes, id: bytes) -> bytes | None:
        """An envelope of a mailbox, or None."""
        found = self._get(self._tables.mail, user + id)
        return None if found is None else found[_SERIAL.size :]


class MailboxWriter(TableWriter, MailboxReader):
    """A transaction that can also change the store, which has so much ``room``. ``chunks``: of
    blobs, that it has added."""

    chunks = 0

    @property
    def blobs(self) -> BlobWriter:
        """The blobs, in the same transaction."""
        return BlobWriter(self._tables, self._txn, self.room)

    def put_mark(self, mark: ClockMark) -> None:
        """Note the server's time."""
        self._put(self._tables.meta, _CLOCK, mark.encode())

    def put_account(self, user: bytes, account: AccountRecord) -> None:
        """Create or overwrite what is kept of an account."""
        value = _ACCOUNT.pack(account.next_serial, account.stored)
        self._put(self._tables.accounts, user, value)

    def delete_account(self, user: bytes) -> None:
        """Forget the account and all that is stored for it."""
        while self.blobs.forget_some(user, BLOBS_MAX) == BLOBS_MAX:
            pass
        self._txn.delete(user, db=self._tables.accounts.db)
        self._txn.delete(user, db=self._tables.marks.db)
        self._txn.delete(user, db=self._tables.visits.db)
        for table in (self._tables.prekeys, self._tables.order, self._tables.mail):
            with self._txn.cursor(db=table.db) as cursor:
                found = cursor.set_range(user)
                while found and cursor.key().startswith(user):
                    found = cursor.delete()

    def suspend(self, user: bytes, *, on: bool) -> None:
        """Note that the operator has suspended a user, or has no longer."""
        if on:
            self._put(self._tables.suspended, user, b"")
        else:
            self._txn.delete(user, db=self._tables.suspended.db)

    def use_invite(self, invite: bytes, day: int) -> None:
        """Note on which day the invite of this id (16) was used."""
        self._put(self._tables.invites, invite, _DAY.pack(day))

    def forget_invites(self, start: bytes, before: int, most: int) -> bytes | None:
        """Forget invites that were used before a day, of ``most`` from ``start`` on. Gives where to
        go on, None at the end."""
        table = self._tables.invites
        found = list(islice(self._items(table, b"", start), most))
        for id, data in found:
            if _DAY.unpack(table.opened(id, data))[0] < before:
                self._txn.delete(id, db=table.db)
        return found[-1][0] + b"\0" if len(found) == most else None

    def end_account(self, user: bytes, most: int) -> int:
        """Forget up to ``most`` envelopes of an account, and with the last of them the account and
        all else of it; how many went, less than ``most`` when the account did."""
        entries = list(islice(self.order(user, 0), most))
        if len(entries) < most:
            self.delete_account(user)
        else:
            for entry in entries:
                self.delete_entry(user, entry.serial, entry.id)
        return len(entries)

    def put_visit(self, user: bytes, visit: Visit) -> None:
        """Note when the account's owner was there."""
        self._put(self._tables.visits, user, _VISIT.pack(visit.day, visit.fetched))

    def put_prekey(self, user: bytes, record: bytes) -> None:
        """Store the record of a prekey under its id and kind."""
        self.room.left -= PREKEY_COST
        id, kind = record[:PREKEY_ID_SIZE], record[PREKEY_ID_SIZE : PREKEY_ID_SIZE + 1]
        self._put(self._tables.prekeys, user + kind + id, record)

    def put_kem(self, user: bytes, kem: bytes) -> None:
        """Store the account's static ML-KEM public key in the place of the last."""
        self._put(self._tables.prekeys, user + _KEM, kem)

    def put_mark_of(self, user: bytes, mark: bytes) -> None:
        """Store the mark of the account's client in the place of the last."""
        self._put(self._tables.marks, user, mark)

    def delete_prekey(self, user: bytes, record: bytes) -> None:
        """Forget the record of a prekey."""
        id, kind = record[:PREKEY_ID_SIZE], record[PREKEY_ID_SIZE : PREKEY_ID_SIZE + 1]
        self._txn.delete(user + kind + id, db=self._tables.prekeys.db)

    def forget_one_time(self, start: bytes) -> tuple[bytes | None, int]:
        """Forget a batch of one-time prekeys, of any accounts, from the key ``start`` on; where to
        go on, None at the end, and how many it was."""
        count = 0
        with self._txn.cursor(db=self._tables.prekeys.db) as cursor:
            found = cursor.set_range(start) if start else cursor.first()
            while found and count < FORGET_BATCH:
                kind = cursor.key()[_USER_SIZE : _USER_SIZE + 1]  # none of a damaged record
                if kind == bytes([PrekeyKind.ONE_TIME]):
                    found, count = cursor.delete(), count + 1
                else:
                    found = cursor.next()
            return (bytes(cursor.key()) if found else None), count

    def add_envelope(
        self, user: bytes, account: AccountRecord, id: bytes, envelope: bytes, day: int
    ) -> None:
        """Append to the mailbox of ``account``, which is ``user``'s as it is now."""
        self.room.left -= ENVELOPE_COST
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
