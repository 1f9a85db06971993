"""The tables of the directory's store, and what can be wrong with it."""

from collections.abc import Iterator
from enum import Enum
from typing import Any

from cbfs_host.complaints import StoreError
from cbfs_host.lmdb_environment import without_check

DAMAGED = "check the disk; cbfs-names(8) says under FILES what to do about the store"


_FULL = ("No space left", "quota exceeded", "File too large", "MDB_MAP_FULL")


class StoreFull(StoreError):
    """There is no room for what was to be written, and nothing of it was. All that was there can be
    read; when there is room again, it can be written."""


def is_full(error: Exception) -> bool:
    """Whether LMDB has failed for want of room."""
    return any(words in str(error) for words in _FULL)


class StateTable(Enum):
    """The tables, with their keys; all integers are big-endian."""

    META = b"meta"  # a fixed word
    BLOCKS = b"blocks"  # round u64
    LOCKS = b"locks"  # round u64: leaf hash 32, for ever
    REFUSALS = b"refusals"  # round u64 | leaf hash 32
    PROPOSALS = b"proposals"  # round u64: the sequencer's, until the round is locked
    ENTRIES = b"entries"  # index 32
    NODES = b"nodes"  # path
    LOG = b"log"  # level u8 | index u64
    COMMITS = b"commits"  # commitment 32
    COMMIT_TIMES = b"commit-times"  # time u64 | commitment 32
    LINKS = b"links"  # index 32 | incarnation u32 | version u32
    TURNS = b"turns"  # index 32 | kind u8: u64, until when turns are used, see ``turns_used``
    INVITES = b"invites"  # key 32: the commitment it is used for, or empty when spent
    CONFIGS = b"configs"  # first round u64 in which the configuration is in force
    RECEIPTS = b"receipts"  # hash 32 of an operation: time u64 | operation
    EVIDENCE = b"evidence"  # hash 32 of the evidence
    VOTES = b"votes"  # a verifier's key 32: the largest checkpoint it has signed, a signed note


def opened(table: StateTable, key: bytes, data: bytes) -> bytes:
    """The value of a record as it is stored. Raises StoreError."""
    return without_check(table.value, key, data, DAMAGED)


class Cursor:
    """An LMDB cursor over one table, which checks what it reads."""

    def __init__(self, table: StateTable, cursor: Any) -> None:
        self._table = table
        self._cursor = cursor
        self.first = cursor.first
        self.last = cursor.last
        self.next = cursor.next
        self.prev = cursor.prev
        self.seek = cursor.set_range
        self.delete = cursor.delete

    def key(self) -> bytes:
        """The key that the cursor is at; empty at the end."""
        key: bytes = self._cursor.key()
        return key

    def value(self) -> bytes:
        """The value that the cursor is at. Raises StoreError for a damaged one."""
        return opened(self._table, *self._cursor.item())

    def values(self) -> Iterator[bytes]:
        """All values of the table, in the order of their keys. Raises StoreError for damaged
        ones."""
        for key, data in self._cursor.iternext():
            yield opened(self._table, key, data)
