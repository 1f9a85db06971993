"""Records of the client's store within one transaction: tables, and what reads and writes them.

Who has LMDB's file and no key learns how many records a table has, their sizes, and how old its
pages are. A record's key is sealed with its value; what LMDB has it under is its **place**, 16
bytes:

- of the tables in ``WHOLE``, random. They are read when the store is opened, and where each key is
  stands in memory (``cbfs.storage.shelf``);
- of all others, derived from a key: those of a conversation from the secret that lies in the
  conversation's record, and is gone when that is; the rest, whose keys are numbers, from the blind
  key.

So what was deleted lies in free pages under places that no guess at a key leads to, whatever is
known now. How a record is laid out: ``cbfs.storage.sealed_record``.

``cbfs.storage.store`` opens transactions.
"""

import struct
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cbfs.storage.encoding import number_of, u32, u64
from cbfs.storage.key_tree import KeyReader, KeysDamaged, KeyWriter, open_record, seal_record
from cbfs.storage.sealed_record import HEAD_SIZE, head_of, pack_plain, slot_of, unpack_plain
from cbfs.storage.shelf import Shelf, Spot, make_shelf
from cbfs_common.errors import CryptoError
from cbfs_common.primitives import KEY_SIZE, kdf
from cbfs_host.lmdb_environment import StoreError

PLACE_SIZE = 16
KEY_PART_SIZE = 16

STATE = struct.Struct(">QQ")
STATE_KEY = b"state"
"""Among the nodes: the store's generation and its next slot."""


class Table(Enum):
    """The tables, with what their record keys are."""

    META = b"meta"  # see ``Meta``
    SESSIONS = b"sessions"  # session id 16
    PREKEYS = b"prekeys"  # prekey id 16
    PEERS = b"peers"  # key_part(name)
    CONVERSATIONS = b"conversations"  # conversation id 16
    MESSAGES = b"messages"  # conversation id 16 | serial u64
    LISTINGS = b"listings"  # conversation id 16 | serial u64: see ``cbfs.messages.listings``
    MESSAGE_IDS = b"message-ids"  # conversation id 16 | message id 16, or what tells a copy
    FILE_NAMES = b"file-names"  # see ``cbfs.messages.name_pages``
    DROPPED = b"dropped"  # conversation id 16 | message id 16: thrown away, and not asked for
    GONE = b"gone"  # conversation id 16 | serial u64 | index u32: was removed from a folder
    PARTS = b"parts"  # key_part(conversation id, message hash): a file that is still arriving
    ENDS = b"ends"  # see ``cbfs.messages.lifetimes``
    QUEUE = b"queue"  # key_part(recipient) 16 | sequence u64 [| part u32]
    NOTE_ITEMS = b"owed"  # key_part(peer) 16 | kind 1 | conversation id 16 | message id 16
    REQUESTS = b"requests"  # key_part(sender) 16 | sequence u64: what strangers have sent
    INBOX = b"inbox"  # sequence u64 | key_part(envelope): envelopes that wait for a look-up
    COVER = b"dummies"  # envelope id 16: sent to oneself, on its way
    QUARANTINE = b"quarantine"  # sequence u64 ...: envelopes that could not be read
    CONTENT = b"content"  # content id u64 | chunk u32
    HELD = b"held"  # content id u64: how many refer to it
    INDEX = b"index"  # segment u32: see ``cbfs.messages.search_index``
    TERMS = b"terms"  # segment u32 [| number in it u8]
    NODES = b"nodes"  # inode u64: files and folders of outbox/, ui_info/ and tmp/

    def __init__(self, name: bytes) -> None:
        self.bound = bytes([len(name)]) + name

    __hash__ = object.__hash__  # that of Enum is felt: every record is looked for in some tables


WHOLE = frozenset(
    (
        *(Table.META, Table.SESSIONS, Table.PREKEYS, Table.PEERS, Table.CONVERSATIONS),
        *(Table.PARTS, Table.ENDS, Table.QUEUE, Table.NOTE_ITEMS, Table.REQUESTS),
        *(Table.INBOX, Table.COVER, Table.QUARANTINE, Table.NODES),
    )
)
"""Those whose records have random places, and whose keys stand in memory."""

PASSED_OVER = Table.QUARANTINE
"""That of them in which a damaged record is as good as none: it is of an envelope that could not be
read anyway, and anybody may fill the table. In all others it may be whatever is looked for."""

OF_CONVERSATION = frozenset(
    (
        *(Table.MESSAGES, Table.LISTINGS, Table.MESSAGE_IDS),
        *(Table.FILE_NAMES, Table.DROPPED, Table.GONE),
    )
)
"""Those whose records belong to the conversation that their keys begin with, which must be
there."""

_PREFIXES = {Table.LISTINGS: 16, Table.GONE: 24, Table.CONTENT: 8}
"""Those of all others that can be asked for what keys there are with a prefix of this size. The
record under the prefix itself has the rest of each; of contents, the exponent of a power of two
that all numbers of their chunks are below, if that is not 1."""


class Meta(bytes, Enum):
    """All keys of Table.META: the first have one record each; those that end with a space begin
    many, and what they are of follows them."""

    ACCOUNT = b"account"  # the account itself
    ACCOUNT_NEXT = b"account next"  # the account as it is to be when its new profile stands
    ALARM = b"alarm"  # what somebody else has made of one's own name
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
    SEGMENTS = b"segments"  # of the index of searches, how many there are
    SETTINGS = b"settings"  # as TOML

    ARRIVING = b"arriving "  # key_part(sender): what of theirs has come in part
    BEFORE = b"before "  # conversation 16 | parent 16: what waits for a parent that is not here
    BROUGHT = b"brought "  # key_part(name): messages that are wanted by what they have said
    COUNTER = b"counter "  # a ``Series``: the last number that was given
    ENDING = b"ending "  # conversation 16: how many of its messages end
    FOLDER = b"folder "  # key_part(name of a folder): the conversation that it is of
    FOLDERS = b"folders "  # conversation 16: how many of its messages are folders
    HEADS = b"heads "  # conversation 16: the messages that no other names as its parent
    IN_VAIN = b"in vain "  # conversation 16: messages that were asked for in vain
    JOB = b"job "  # key_part(recipient, conversation, message): the key of the delivery
    LABEL = b"label "  # key_part(name): what they are shown as
    LAST_OWN = b"last own "  # conversation 16: one's own last message
    LEFT = b"left "  # conversation 16: is not shown until something is written in it
    LIFETIME = b"lifetime "  # conversation 16: for how long its messages are kept
    LOST_BY = b"lost by "  # key_part(name): when they last said that they had lost sessions
    LOST_TO = b"lost to "  # key_part(name): when they were last told so
    MOVED = b"moved "  # inode u64: the number that it has now
    RELABEL = b"relabel "  # key_part(name): whose messages still have names of before
    SCRATCH = b"scratch "  # content u64: goes when a mount ends
    TIMES = b"times "  # inode u64: times of what has no other record
    TRANSCRIPT = b"transcript "  # conversation 16: how long it is as one text
    UNMET = b"unmet "  # key_part(name): until when the directory is not asked for them
    WROTE = b"wrote "  # conversation 16: when one has last written in it oneself


class Series(bytes, Enum):
    """What is numbered, each from 1 on, by ``Writer.next_number``."""

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
    """LMDB's handles of the tables, and the blind key (32)."""

    dbs: dict[Table, Any]
    blind_key: bytes


class Reader:
    """A consistent view of the store. Use within its ``with`` block. ``shelves`` has what is known
    of where the records of tables in ``WHOLE`` are; what is missing is read, and entered."""

    def __init__(
        self, tables: "Tables", txn: Any, keys: KeyReader, shelves: dict[Table, Shelf]
    ) -> None:
        self._tables = tables
        self._txn = txn
        self._keys = keys
        self._shelves = shelves

    def get(self, table: Table, key: bytes) -> bytes | None:
        """The value of a record, or None when it is not there. Raises DamagedRecord."""
        place = self.place(table, key)
        data = None if place is None else self._txn.get(place, db=self._tables.dbs[table])
        if place is None or data is None:
            return None
        return self._open(table, place, data)[2]

    def items(
        self, table: Table, prefix: bytes = b"", start: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) in key order, of keys with ``prefix``, from ``start`` on; see ``keys``.
        Raises DamagedRecord."""
        if table not in WHOLE and not prefix:
            yield from self._all(table)
            return
        for key in self.keys(table, prefix, start):
            value = self.get(table, key)
            if value is not None:
                yield key, value

    def keys(
        self, table: Table, prefix: bytes = b"", start: bytes | None = None
    ) -> Iterator[bytes]:
        """Keys with ``prefix`` in order, from ``start`` on. Of a table that is not in ``WHOLE``
        there are those with a whole prefix, if it has prefixes, or all, in no order. Raises
        DamagedRecord."""
        if table in WHOLE:
            yield from self._whole_shelf(table).keys(prefix, start)
        elif prefix:
            size = len(_checked(table, prefix))
            for rest in self._rests(table, prefix, (start or b"")[size:]):
                yield prefix + rest
        else:
            yield from (key for key, _value in self._all(table))

    def records(self, table: Table) -> Iterator[tuple[bytes, bytes | None]]:
        """(key, value) of all of a table, in no order; (place, None) of what is damaged."""
        with self._txn.cursor(db=self._tables.dbs[table]) as cursor:
            for place, data in cursor:
                try:
                    key, _secret, value = self._open(table, place, data)
                except DamagedRecord:
                    yield place, None
                    continue
                if is_record(table, key):
                    yield key, value

    def _all(self, table: Table) -> Iterator[tuple[bytes, bytes]]:
        for key, value in self.records(table):
            if value is None:
                raise DamagedRecord
            yield key, value

    def place(self, table: Table, key: bytes) -> bytes | None:
        """Where a record with this key is, or would be; None when there is none, or the
        conversation that it would belong to is not there. Raises DamagedRecord when some of the
        table is damaged, and it may be that."""
        if table not in WHOLE:
            secret = self._tables.blind_key
            if table in OF_CONVERSATION:
                spot = self._spot(Table.CONVERSATIONS, key[:16])
                if spot is None:
                    return None
                secret = spot.secret
            return kdf(secret, b"cbfs1 lookup", place_of(table, key), PLACE_SIZE)
        spot = self._spot(table, key)
        return None if spot is None else spot.place

    def _spot(self, table: Table, key: bytes) -> Spot | None:
        shelf = self._shelf(table)
        spot = shelf.get(key)
        if spot is None and shelf.damaged:
            raise DamagedRecord
        return spot

    def _shelf(self, table: Table) -> Shelf:
        shelf = self._shelves.get(table)
        if shelf is None:
            shelf = self._shelves[table] = self._read_shelf(table)
        return shelf

    def _whole_shelf(self, table: Table) -> Shelf:
        """That of a table of which nothing is damaged. Raises DamagedRecord."""
        shelf = self._shelf(table)
        if shelf.damaged:
            raise DamagedRecord
        return shelf

    def _read_shelf(self, table: Table) -> Shelf:
        db, damaged = self._tables.dbs[table], 0
        places: list[tuple[int, bytes]] = []
        with self._txn.cursor(db=db) as cursor:
            for place, data in cursor:
                try:
                    bound = place_of(table, place)
                    places.append((slot_of(self._tables.blind_key, bound, data), place))
                except KeysDamaged:
                    damaged += 1
        found: list[tuple[bytes, Spot]] = []
        for _slot, place in sorted(places):  # neighbours have their keys in one leaf
            try:
                key, secret, _value = self._open(table, place, self._txn.get(place, db=db))
                found.append((key, Spot(place, secret)))
            except DamagedRecord:
                damaged += 1
        return make_shelf(found, 0 if table is PASSED_OVER else damaged)

    def read_shelves(self) -> dict[Table, Shelf]:
        """Where the records of all tables in ``WHOLE`` are."""
        return {table: self._shelf(table) for table in WHOLE}

    def _open(self, table: Table, place: bytes, data: bytes) -> tuple[bytes, bytes, bytes]:
        """(key, secret, value) of a record."""
        bound = place_of(table, place)
        try:
            sealing = self._keys.key(slot_of(self._tables.blind_key, bound, data))
            return unpack_plain(open_record(sealing, data[HEAD_SIZE:], bound))
        except (KeysDamaged, CryptoError) as error:
            raise DamagedRecord from error

    def _rests(self, table: Table, prefix: bytes, start: bytes) -> Iterator[bytes]:
        """What follows ``prefix`` in the keys of the records that begin so, from ``start`` on."""
        if table is not Table.CONTENT:
            rests = self._listed(table, prefix)
            yield from rests[bisect_left(rests, start) :]
            return
        for number in range(number_of(start), self._extent(prefix)):
            place = self.place(table, prefix + u32(number))
            if place is not None and self._has(table, place):
                yield u32(number)

    def _listed(self, table: Table, prefix: bytes) -> list[bytes]:
        data = self.get(table, prefix) or b""
        size = _REST_SIZES[table]
        return [data[at : at + size] for at in range(0, len(data), size)]

    def _extent(self, content: bytes) -> int:
        """All numbers of a content's chunks are below this."""
        return int(1 << number_of(self.get(Table.CONTENT, content)))

    def _has(self, table: Table, place: bytes) -> bool:
        with self._txn.cursor(db=self._tables.dbs[table]) as cursor:
            return bool(cursor.set_key(place))

    def last(self, table: Table, prefix: bytes) -> tuple[bytes, bytes] | None:
        """The last (key, value) of those with ``prefix``, of a table with lists of them. Raises
        DamagedRecord."""
        rests = self._listed(table, _checked(table, prefix))
        value = self.get(table, prefix + rests[-1]) if rests else None
        return None if value is None else (prefix + rests[-1], value)

    def key_up_to(self, table: Table, key: bytes, prefix: bytes = b"") -> bytes | None:
        """The last key up to ``key`` of those with ``prefix``. Raises DamagedRecord."""
        if table in WHOLE:
            found = self._whole_shelf(table).last_up_to(key)
            return found if found is not None and found.startswith(prefix) else None
        rests = self._listed(table, _checked(table, prefix))
        at = bisect_right(rests, key[len(prefix) :])
        return prefix + rests[at - 1] if at else None

    def number(self, series: Series) -> int:
        """The last that ``Writer.next_number`` gave, 0 before the first."""
        return number_of(self.get(Table.META, Meta.COUNTER + series))

    def key_part(self, *parts: bytes) -> bytes:
        """16 bytes that stand for ``parts`` in a record key, where all that they do is save room:
        the hash has no key, and anybody can make it. What must not be foretold is ``drawn``."""
        data = b"".join(u32(len(part)) + part for part in parts)
        return kdf(b"", b"cbfs1 key part", data, KEY_PART_SIZE)

    def drawn(self, part: bytes) -> bytes:
        """16 bytes that are always the same for ``part`` here, and that nobody can foretell
        without its root file."""
        return kdf(self._tables.blind_key, b"cbfs1 drawn", part, 16)

    def count(self, table: Table) -> int:
        """How many records a table has, damaged ones included but in ``PASSED_OVER``."""
        if table in WHOLE:
            shelf = self._shelf(table)
            return len(shelf) + shelf.damaged
        return int(self._txn.stat(self._tables.dbs[table])["entries"])


class Writer(Reader):
    """A transaction of the store that can also change it. ``token(n)`` gives n random bytes."""

    _keys: KeyWriter

    def __init__(
        self,
        tables: "Tables",
        txn: Any,
        keys: KeyWriter,
        shelves: dict[Table, Shelf],
        token: Callable[[int], bytes],
    ) -> None:
        super().__init__(tables, txn, keys, dict(shelves))
        self._token = token

    @property
    def shelves(self) -> dict[Table, Shelf]:
        """Where the records of tables in ``WHOLE`` are now."""
        return self._shelves

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Write or overwrite. It gets the next slot, beside what else is written now: what changes
        with every message is then found in the newest leaves, however old a record is. Raises
        DamagedRecord."""
        spot, known = self._spot_for(table, key)
        bound = place_of(table, spot.place)
        db = self._tables.dbs[table]
        old = self._txn.get(spot.place, db=db)
        try:
            if old is not None:
                self._keys.drop(slot_of(self._tables.blind_key, bound, old))
            slot, sealing = self._keys.add()
        except KeysDamaged as error:
            raise DamagedRecord from error
        sealed = seal_record(sealing, pack_plain(key, spot.secret, value), bound)
        head = head_of(self._tables.blind_key, bound, slot, sealed)
        self._txn.put(spot.place, head + sealed, db=db)
        if not known:
            self._shelves[table] = self._shelf(table).put(key, spot)
        elif old is None and table in _PREFIXES and is_record(table, key):
            self._list(table, key[: _PREFIXES[table]], key[_PREFIXES[table] :])

    def _spot_for(self, table: Table, key: bytes) -> tuple[Spot, bool]:
        """Where a record is to be written; False where that is to be remembered."""
        if table in WHOLE:
            spot = self._spot(table, key)
            if spot is not None:
                return spot, True
            secret = self._token(KEY_SIZE) if table is Table.CONVERSATIONS else b""
            return Spot(self._token(PLACE_SIZE), secret), False
        place = self.place(table, key)
        if place is None:  # nobody could find it without its conversation
            raise DamagedRecord
        return Spot(place), True

    def _list(self, table: Table, prefix: bytes, rest: bytes) -> None:
        """A record is there whose key has this prefix."""
        if table is Table.CONTENT:
            number = number_of(rest)
            if number and number >= self._extent(prefix):
                self.put(table, prefix, bytes([number.bit_length()]))
            return
        rests = self._listed(table, prefix)
        insort(rests, rest)
        self.put(table, prefix, b"".join(rests))

    def delete(self, table: Table, key: bytes) -> bool:
        """Delete a record. True when it was there. Raises DamagedRecord."""
        if not self._remove(table, key):
            return False
        if table in _PREFIXES and table is not Table.CONTENT:
            prefix = key[: _PREFIXES[table]]
            rests = [rest for rest in self._listed(table, prefix) if prefix + rest != key]
            if rests:
                self.put(table, prefix, b"".join(rests))
            else:
                self._remove(table, prefix)
        return True

    def _remove(self, table: Table, key: bytes) -> bool:
        place = self.place(table, key)
        if place is None or not self._remove_at(table, place):
            return False
        if table in WHOLE:
            self._shelves[table] = self._shelf(table).without(key)
        return True

    def _remove_at(self, table: Table, place: bytes) -> bool:
        db = self._tables.dbs[table]
        data = self._txn.get(place, db=db)
        if data is None:
            return False
        try:
            self._keys.drop(slot_of(self._tables.blind_key, place_of(table, place), data))
        except KeysDamaged as error:
            raise DamagedRecord from error
        return bool(self._txn.delete(place, db=db))

    def delete_prefix(self, table: Table, prefix: bytes) -> int:
        """Delete all records whose key begins so, see ``keys``; how many there were."""
        if not prefix:
            return self._clear(table)
        keys = list(self.keys(table, prefix))
        for key in keys:
            self._remove(table, key)
        if table in _PREFIXES:
            self._remove(table, prefix)
        return len(keys)

    def _clear(self, table: Table) -> int:
        with self._txn.cursor(db=self._tables.dbs[table]) as cursor:
            places = list(cursor.iternext(values=False))
        for place in places:
            self._remove_at(table, place)
        if table in WHOLE:
            self._shelves[table] = Shelf()
        return len(places)

    def turn(self) -> None:
        """Have the root's key turned, though nothing else is changed."""
        self._keys.touch()

    def next_number(self, series: Series) -> int:
        """The next number of a series: 1, 2, 3, ... None is ever given again."""
        number = self.number(series) + 1
        self.put(Table.META, Meta.COUNTER + series, u64(number))
        return number

    def random_number(self) -> int:
        """A number of 64 bits that nobody guesses, never 0."""
        return number_of(self._token(8)) or 1


_REST_SIZES = {Table.LISTINGS: 8, Table.GONE: 4}
"""Bytes of a key behind its prefix."""


def is_record(table: Table, key: bytes) -> bool:
    """Whether this is the key of a record, and not that of a list of those with one prefix."""
    return len(key) != _PREFIXES.get(table)


def _checked(table: Table, prefix: bytes) -> bytes:
    """A whole prefix. Raises ValueError for any other, which nothing could be found by."""
    if len(prefix) != _PREFIXES.get(table):
        raise ValueError(f"{table} has no keys with such a prefix")
    return prefix


def place_of(table: Table, key: bytes) -> bytes:
    """A key or place, and its table: what a place is derived from, or a sealed value bound to."""
    return table.bound + key
