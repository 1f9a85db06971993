"""Records of the client's store within one transaction: tables, and what reads and writes them.

A record is  slot u64 | check 8 | sealed value.  ``cbfs.storage.store`` opens transactions.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cbfs.storage.encoding import number_of, u64
from cbfs.storage.key_tree import KeyReader, KeysDamaged, KeyWriter, open_record, seal_record
from cbfs_common.errors import CryptoError
from cbfs_common.primitives import kdf
from cbfs_host.lmdb_environment import StoreError

RECORD = struct.Struct(">Q8s")
"""Before a sealed value: its slot, and a check of the slot and the record's place."""

STATE = struct.Struct(">QQ")
STATE_KEY = b"state"
"""Among the nodes: the store's generation and its next slot."""


class Table(Enum):
    """The tables, with what their record keys are."""

    META = b"meta"  # see ``Meta``
    SESSIONS = b"sessions"  # session id 16
    PREKEYS = b"prekeys"  # prekey id 16
    PEERS = b"peers"  # blind(name)
    CONVERSATIONS = b"conversations"  # conversation id 16
    MESSAGES = b"messages"  # conversation id 16 | serial u64
    LISTINGS = b"listings"  # conversation id 16 | serial u64: see ``cbfs.messages.listings``
    MESSAGE_IDS = (
        b"message-ids"  # blind(conversation, id), blind(conversation, sender, salt, digest)
    )
    PARTS = b"parts"  # what is known of a file that is still arriving
    ENDS = b"ends"  # see ``cbfs.messages.lifetimes``
    QUEUE = b"queue"  # blind(recipient) 16 | sequence u64
    NOTE_ITEMS = b"owed"  # blind(peer) 16 | kind 1 | conversation id 16 | message id 16
    REQUESTS = b"requests"  # blind(sender) 16 | sequence u64: what strangers have sent
    INBOX = b"inbox"  # sequence u64: envelopes that wait for a look-up
    COVER = b"dummies"  # envelope id 16: sent to oneself, on its way
    QUARANTINE = b"quarantine"  # sequence u64: envelopes that could not be read
    CONTENT = b"content"  # content id u64 | chunk u32
    INDEX = b"index"  # segment u32: see ``cbfs.messages.search_index``
    TERMS = b"terms"  # segment u32 [| number in it u8]
    NODES = b"nodes"  # inode u64: files and folders of outbox/, ui_info/ and tmp/


class Meta(bytes, Enum):
    """All keys of Table.META: the first have one record each; those that end with a space begin
    many, and what they are of follows them."""

    ACCOUNT = b"account"  # the account itself
    ACCOUNT_NEXT = b"account next"  # the account as it is to be when its new profile stands
    ALARM = b"alarm"  # what somebody else has made of one's own name
    BLIND = b"blind"  # the key (32) of blind record keys
    BUNDLE = b"bundle"  # the proof of one's own name that messages carry
    CLOCK = b"time"  # what was seen of the clock
    DIRECTORY = b"directory"  # the newest head of the name directory
    ENDS = b"ends"  # the hours in which something ends
    LISTED = b"listed with folders"  # is there when every message is in a page of its conversation
    NAME_ASKED_FOR = b"name asked for"  # from before the directory is told until it has refused
    OWN = b"own"  # the entry of one's own name: the last step of making an account
    OWN_NEXT = b"own next"  # the change of it that is on its way
    OWN_SERVER = b"own server"  # the address of the server that a mount runs itself
    PLACE = b"place"  # what tells this account directory from a copy of it
    PREKEYS_AHEAD = b"prekeys ahead"  # since when prekeys expire later than they can
    PREKEYS_REPLACED = b"prekeys replaced"  # when all on the server were replaced last
    RELEASED = b"released"  # is there when one's own name was given up
    SETTINGS = b"settings"  # as TOML

    ARRIVING = b"arriving "  # blind(sender): what of theirs has come in part
    BEFORE = b"before "  # conversation 16 | parent 16: what waits for a parent that is not here
    BROUGHT = b"brought "  # blind(name): messages that are wanted by what they have said
    COUNTER = b"counter "  # a ``Series``: the last number that was given
    DROPPED = b"dropped "  # conversation 16 | message 16: was thrown away, and is not asked for
    ENDING = b"ending "  # conversation 16: how many of its messages end
    FOLDER = b"folder "  # blind(name of a folder): the conversation that it is of
    FOLDERS = b"folders "  # conversation 16: how many of its messages are folders
    GONE = b"gone "  # conversation 16 | serial u64 | index u32: was removed from a folder
    HEADS = b"heads "  # conversation 16: the messages that no other names as its parent
    HELD = b"held "  # content u64: how many refer to it
    IN_VAIN = b"in vain "  # conversation 16: messages that were asked for in vain
    JOB = b"job "  # blind(recipient, conversation, message): the key of the delivery
    LABEL = b"label "  # blind(name): what they are shown as
    LAST_OWN = b"last own "  # conversation 16: one's own last message
    LEFT = b"left "  # conversation 16: is not shown until something is written in it
    LIFETIME = b"lifetime "  # conversation 16: for how long its messages are kept
    LOST_BY = b"lost by "  # blind(name): when they last said that they had lost sessions
    LOST_TO = b"lost to "  # blind(name): when they were last told so
    MOVED = b"moved "  # inode u64: the number that it has now
    NAME = b"name "  # blind(conversation, name of a file): the serial of the message
    RELABEL = b"relabel "  # blind(name): whose messages still have names of before
    SCRATCH = b"scratch "  # content u64: goes when a mount ends
    TIMES = b"times "  # inode u64: times of what has no other record
    TRANSCRIPT = b"transcript "  # conversation 16: how long it is as one text
    UNMET = b"unmet "  # blind(name): until when the directory is not asked for them
    WROTE = b"wrote "  # conversation 16: when one has last written in it oneself


class Series(bytes, Enum):
    """What is numbered, each from 1 on, by ``Writer.next_number``."""

    CONTENT = b"content"
    INBOX = b"inbox"
    INODE = b"inode"
    MESSAGE = b"message"
    QUARANTINE = b"quarantine"
    QUEUE = b"queue"
    REQUEST = b"request"


class CannotWrite(StoreError):
    """A change cannot be written: the disk does not take it, or LMDB does not."""


class DamagedRecord(StoreError):
    """A record cannot be opened: bits of it, or of a key above it, have changed."""

    def __init__(self) -> None:
        super().__init__(
            "a record of the store is damaged",
            "what is intact can be saved: cbfs export ACCOUNT FILE",
        )


class TxnNodes:
    """The nodes of the tree of keys, as one transaction of LMDB's sees them."""

    def __init__(self, txn: Any, db: Any) -> None:
        self._txn = txn
        self._db = db

    def get_node(self, name: bytes) -> bytes | None:
        found: bytes | None = self._txn.get(name, db=self._db)
        return found

    def put_node(self, name: bytes, sealed: bytes) -> None:
        self._txn.put(name, sealed, db=self._db)

    def delete_node(self, name: bytes) -> None:
        self._txn.delete(name, db=self._db)

    def state(self) -> tuple[int, int]:
        """(generation of the store, next slot). Raises DamagedRecord."""
        data = self.get_node(STATE_KEY)
        if data is None:
            return 0, 0
        if len(data) != STATE.size:
            raise DamagedRecord
        return STATE.unpack(data)


@dataclass(frozen=True, slots=True)
class Tables:
    """LMDB's handles of the tables, and the key (32) of blind record keys."""

    dbs: dict[Table, Any]
    blind_key: bytes

    def blind(self, *parts: bytes) -> bytes:
        """16 bytes that stand for ``parts`` in a record key and tell nothing of them."""
        data = b"".join(struct.pack(">I", len(part)) + part for part in parts)
        return kdf(self.blind_key, b"cbfs1 lookup", data, 16)


class Reader:
    """A consistent view of the store. Use within its ``with`` block."""

    def __init__(self, tables: "Tables", txn: Any, keys: KeyReader) -> None:
        self._tables = tables
        self._txn = txn
        self._keys = keys

    def get(self, table: Table, key: bytes) -> bytes | None:
        """The value of a record, or None when it is not there. Raises DamagedRecord."""
        data = self._txn.get(key, db=self._tables.dbs[table])
        return None if data is None else self._open(table, key, data)

    def items(
        self, table: Table, prefix: bytes = b"", start: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) in key order, of keys with ``prefix``, from ``start`` on. Raises
        DamagedRecord."""
        with self._txn.cursor(db=self._tables.dbs[table]) as cursor:
            found = cursor.set_range(start if start is not None else prefix)
            while found:
                key, data = cursor.item()
                if not key.startswith(prefix):
                    return
                yield key, self._open(table, key, data)
                found = cursor.next()

    def _open(self, table: Table, key: bytes, data: bytes) -> bytes:
        place = place_of(table, key)
        try:
            secret = self._keys.key(slot_of(place, data))
            return open_record(secret, data[RECORD.size :], place)
        except (KeysDamaged, CryptoError) as error:
            raise DamagedRecord from error

    def keys(
        self, table: Table, prefix: bytes = b"", start: bytes | None = None
    ) -> Iterator[bytes]:
        """Keys with ``prefix`` in order, from ``start`` on; opens no value."""
        with self._txn.cursor(db=self._tables.dbs[table]) as cursor:
            found = cursor.set_range(start if start is not None else prefix)
            while found and cursor.key().startswith(prefix):
                yield cursor.key()
                found = cursor.next()

    def last_key(self, table: Table) -> bytes | None:
        """The greatest key of a table, or None when it is empty."""
        with self._txn.cursor(db=self._tables.dbs[table]) as cursor:
            return cursor.key() if cursor.last() else None

    def last(self, table: Table, prefix: bytes) -> tuple[bytes, bytes] | None:
        """The last (key, value) of those with ``prefix``, which must not be all ones. Raises
        DamagedRecord."""
        above = (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")
        with self._txn.cursor(db=self._tables.dbs[table]) as cursor:
            found = cursor.prev() if cursor.set_range(above) else cursor.last()
            if not found or not cursor.key().startswith(prefix):
                return None
            key, data = cursor.item()
            return key, self._open(table, key, data)

    def key_up_to(self, table: Table, key: bytes, prefix: bytes) -> bytes | None:
        """The last key up to ``key`` of those with ``prefix``; opens no value."""
        with self._txn.cursor(db=self._tables.dbs[table]) as cursor:
            found = cursor.set_range(key)
            if not found or cursor.key() != key:
                found = cursor.prev() if found else cursor.last()
            return cursor.key() if found and cursor.key().startswith(prefix) else None

    def number(self, series: Series) -> int:
        """The last that ``Writer.next_number`` gave, 0 before the first."""
        return number_of(self.get(Table.META, Meta.COUNTER + series))

    def blind(self, *parts: bytes) -> bytes:
        """16 bytes that stand for ``parts`` in a record key and tell nothing of them."""
        return self._tables.blind(*parts)

    def count(self, table: Table) -> int:
        """How many records a table has."""
        return int(self._txn.stat(self._tables.dbs[table])["entries"])


class Writer(Reader):
    """A transaction of the store that can also change it."""

    _keys: KeyWriter

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Write or overwrite. It gets the next slot, beside what else is written now: what changes
        with every message is then found in the newest leaves, however old a record is. Raises
        DamagedRecord."""
        place = place_of(table, key)
        db = self._tables.dbs[table]
        old = self._txn.get(key, db=db)
        try:
            if old is not None:
                self._keys.drop(slot_of(place, old))
            slot, secret = self._keys.add()
        except KeysDamaged as error:
            raise DamagedRecord from error
        head = RECORD.pack(slot, _slot_check(place, slot))
        self._txn.put(key, head + seal_record(secret, value, place), db=db)

    def delete(self, table: Table, key: bytes) -> bool:
        """Delete a record. True when it was there. Raises DamagedRecord."""
        db = self._tables.dbs[table]
        data = self._txn.get(key, db=db)
        if data is None:
            return False
        try:
            self._keys.drop(slot_of(place_of(table, key), data))
        except KeysDamaged as error:
            raise DamagedRecord from error
        return bool(self._txn.delete(key, db=db))

    def delete_prefix(self, table: Table, prefix: bytes) -> int:
        """Delete all records whose key begins so; how many there were."""
        keys = list(self.keys(table, prefix))
        for key in keys:
            self.delete(table, key)
        return len(keys)

    def next_number(self, series: Series) -> int:
        """The next number of a series: 1, 2, 3, ... None is ever given again."""
        number = self.number(series) + 1
        self.put(Table.META, Meta.COUNTER + series, u64(number))
        return number


def place_of(table: Table, key: bytes) -> bytes:
    """What the sealed value of a record is bound to: its table and its key."""
    return bytes([len(table.value)]) + table.value + key


def _slot_check(place: bytes, slot: int) -> bytes:
    """Against accidents: a wrong slot would take another record's key away."""
    return kdf(b"", b"cbfs1 slot", u64(slot) + place, 8)


def slot_of(place: bytes, data: bytes) -> int:
    """The slot of a record, as it is stored. Raises KeysDamaged when its check is not right."""
    if len(data) < RECORD.size:
        raise KeysDamaged
    slot, check = RECORD.unpack_from(data)
    if check != _slot_check(place, slot):
        raise KeysDamaged
    return int(slot)
