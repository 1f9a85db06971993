"""The tables of the store in LMDB, and how views of a transaction read and write their records,
each with its check value. What is in them say ``mailboxes`` and ``blobs``."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lmdb

from cbfs_host.complaints import StoreError, reason_of
from cbfs_host.lmdb_environment import checked, without_check
from cbfs_server.store.room import Room

NAMES = (
    *(b"accounts", b"prekeys", b"order", b"mail", b"meta", b"marks"),
    *(b"suspended", b"visits", b"invites"),
    *(b"blobs", b"owned", b"holdings", b"chunks", b"erasing"),
)
DAMAGED = "check the disk; cbfs-server(8) says under FILES what to do about the store"


@dataclass(frozen=True, slots=True)
class MailTable:
    name: bytes
    db: Any
    start: int
    """What its check values begin with."""

    def opened(self, key: bytes, data: bytes) -> bytes:
        """The value of a record as it is stored. Raises StoreError."""
        return without_check(self.name, key, data, DAMAGED)


@dataclass(frozen=True, slots=True)
class MailTables:
    accounts: MailTable
    prekeys: MailTable
    order: MailTable
    mail: MailTable
    meta: MailTable
    marks: MailTable
    suspended: MailTable
    visits: MailTable
    invites: MailTable
    blobs: MailTable
    owned: MailTable
    holdings: MailTable
    chunks: MailTable
    erasing: MailTable

    def pages(self, txn: Any) -> int:
        """How many pages of the file are in use, but for a few of LMDB's own."""
        stats = [
            txn.stat(table.db)
            for table in (
                *(self.accounts, self.prekeys, self.order),
                *(self.mail, self.meta, self.marks, self.suspended, self.visits, self.invites),
                *(self.blobs, self.owned, self.holdings, self.chunks, self.erasing),
            )
        ]
        return sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats)


class TableReader:
    """A consistent view of the store. Every method raises StoreError for what is damaged."""

    def __init__(self, tables: MailTables, txn: Any) -> None:
        self._tables = tables
        self._txn = txn

    def _get(self, table: MailTable, key: bytes) -> bytes | None:
        try:
            data = self._txn.get(key, db=table.db)
        except lmdb.Error as error:
            raise unreadable(error) from error
        return None if data is None else table.opened(key, data)

    def _items(
        self, table: MailTable, prefix: bytes, start: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys with this prefix from ``start`` on, and their values as they are stored."""
        try:
            with self._txn.cursor(db=table.db) as cursor:
                found = cursor.set_range(start) if start else cursor.first()
                while found and cursor.key().startswith(prefix):
                    yield cursor.item()
                    found = cursor.next()
        except lmdb.Error as error:
            raise unreadable(error) from error

    def _entries(self, table: MailTable) -> int:
        try:
            return int(self._txn.stat(table.db)["entries"])
        except lmdb.Error as error:
            raise unreadable(error) from error


class TableWriter(TableReader):
    """A transaction that can also change the store, which has so much ``room``."""

    def __init__(self, tables: MailTables, txn: Any, room: Room) -> None:
        super().__init__(tables, txn)
        self.room = room

    def _put(self, table: MailTable, key: bytes, value: bytes) -> None:
        self._txn.put(key, checked(table.start, key, value), db=table.db)


def unreadable(error: lmdb.Error) -> StoreError:
    return StoreError(f"the store cannot be read: {reason_of(error)}", DAMAGED)
