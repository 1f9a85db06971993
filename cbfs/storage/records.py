"""Records of the client's store within one transaction: tables, and what reads and writes them.

Who has LMDB's file and no key learns how many records a table has, their sizes, how old its pages
are, and of some tables which of their records were written last at about the same time. A record's
key is sealed with its value; what LMDB has it under is its **place**, 16 bytes, of which the first
says which table it is of (``cbfs.storage.tables``):

- of the tables in ``WHOLE``, random, and another one whenever the record is written, beside what
  else is written then: so what changes with every message is in one or two pages, and not in as
  many as there are such records. They are read when the store is opened, and where each key is
  stands in memory (``cbfs.storage.shelf``);
- of all others, derived from a key: those of a conversation from the secret that lies in the
  conversation's record, and is gone when that is; the rest, whose keys are numbers, from the blind
  key, where the records of a segment of the index of searches lie together.

All tables are in one of LMDB's: each of its own would have a commit write a path of pages in each.

So what was deleted lies in free pages under places that no guess at a key leads to, whatever is
known now. How a record is laid out: ``cbfs.storage.sealed_record``.

``cbfs.storage.store`` opens transactions.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from operator import itemgetter
from typing import Any

from cbfs.storage.encoding import number_of, u32, u64
from cbfs.storage.key_tree import KeyReader, KeysDamaged, KeyWriter, open_record, seal_record
from cbfs.storage.sealed_record import HEAD_SIZE, head_of, pack_plain, slot_of, unpack_plain
from cbfs.storage.shelf import ChangingShelf, Shelf, Spot, make_shelf
from cbfs.storage.tables import (
    OF_CONVERSATION,
    PASSED_OVER,
    WHOLE,
    WHOLE_FIRST,
    Meta,
    NewPlaces,
    Series,
    Table,
    derived_place,
    first_byte,
    place_of,
    table_at,
)
from cbfs_common.errors import CryptoError
from cbfs_common.primitives import KEY_SIZE, kdf
from cbfs_host.complaints import StoreError

__all__ = [
    "OF_CONVERSATION",
    "PASSED_OVER",
    "WHOLE",
    "CannotWrite",
    "DamagedRecord",
    "Meta",
    "Reader",
    "Series",
    "Table",
    "Writer",
    "is_record",
    "place_of",
]

KEY_PART_SIZE = 16

KEY_PARTS_KEPT = 1_024
"""Parts of keys that are remembered: those of one peer are asked for ten times in a message."""

VALUES_KEPT = 256
VALUE_KEPT_MAX = 16_384
"""So many values, of so many bytes, a transaction that writes remembers: more than a message
has."""


_PREFIXES = {Table.LISTINGS: 16, Table.GONE: 24, Table.CONTENT: 8}
"""Those of all others that can be asked for what keys there are with a prefix of this size. The
record under the prefix itself has the rest of each; of contents, the exponent of a power of two
that all numbers of their chunks are below, if that is not 1."""


class CannotWrite(StoreError):
    """A change cannot be written: the disk does not take it, or LMDB does not."""


class DamagedRecord(StoreError):
    """A record cannot be opened: bits of it, or of a key above it, have changed."""

    def __init__(self) -> None:
        super().__init__(
            "a record of the store is damaged",
            "what is intact can be saved: cbfs export ACCOUNT FILE",
        )


class _Rests:
    """What follows one prefix in the keys of records, in order, ``size`` bytes each: as they lie in
    the record that lists them, as who looks for one of thousands need not take all apart."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = data, size

    def __len__(self) -> int:
        return len(self._data) // self._size

    def __getitem__(self, at: int) -> bytes:
        if not 0 <= at < len(self):
            raise IndexError(at)
        return self._data[at * self._size : (at + 1) * self._size]

    def __iter__(self) -> Iterator[bytes]:
        return (self[at] for at in range(len(self)))

    def with_one(self, rest: bytes) -> bytes:
        """The record, with one more in its place."""
        at = bisect_right(self, rest) * self._size
        return self._data[:at] + rest + self._data[at:]


class Reader:
    """A consistent view of the store. Use within its ``with`` block. ``shelves`` has what is known
    of where the records of tables in ``WHOLE`` are; what is missing is read, and entered.
    ``blind_key``: 32 bytes."""

    def __init__(
        self, blind_key: bytes, txn: Any, keys: KeyReader, shelves: dict[Table, Shelf]
    ) -> None:
        self._blind_key = blind_key
        self._txn = txn
        self._keys = keys
        self._shelves = shelves

    def get(self, table: Table, key: bytes) -> bytes | None:
        """The value of a record, or None when it is not there. Raises DamagedRecord."""
        place = self.place(table, key)
        data = None if place is None else self._txn.get(place)
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
            return self._whole_shelf(table).keys(prefix, start)
        if prefix:
            size = len(_checked(table, prefix))
            return (prefix + rest for rest in self._rests(table, prefix, (start or b"")[size:]))
        return (key for key, _value in self._all(table))

    def records(self, table: Table) -> Iterator[tuple[bytes, bytes | None]]:
        """(key, value) of all of a table, in no order; (place, None) of what is damaged, and with
        those of META of what does not say which table it is of."""
        if table is Table.META:
            for _none, place, _data in self._lying(bytes([WHOLE_FIRST]), frozenset()):
                yield place, None
        for place, data in self._stored(table):
            try:
                key, _secret, value, _slot = self._open(table, place, data)
            except DamagedRecord:
                yield place, None
                continue
            if is_record(table, key):
                yield key, value

    def _stored(self, table: Table) -> Iterator[tuple[bytes, bytes]]:
        """(place, data) of all of a table."""
        for of, place, data in self._lying(first_byte(table), frozenset((table,))):
            if of is table:
                yield place, data

    def _lying(
        self, first: bytes, tables: frozenset[Table]
    ) -> Iterator[tuple[Table | None, bytes, bytes]]:
        """(table, place, data) of records whose places begin so and are of these tables, or, None,
        say nothing of that. No value of others is read."""
        with self._txn.cursor() as cursor:
            found = cursor.set_range(first)
            while found and (place := cursor.key()).startswith(first):
                table = table_at(place)
                if table is None or table in tables:
                    yield table, place, cursor.value()
                found = cursor.next()

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
            secret = self._blind_key
            if table in OF_CONVERSATION:
                spot = self._spot(Table.CONVERSATIONS, key[:16])
                if spot is None:
                    return None
                secret = spot.secret
            return derived_place(secret, table, key)
        shelf = self._shelves.get(table) or self._shelf(table)
        spot = shelf.get(key)
        if spot is not None:
            return spot.place
        if shelf.damaged:
            raise DamagedRecord
        return None

    def _spot(self, table: Table, key: bytes) -> Spot | None:
        shelf = self._shelf(table)
        spot = shelf.get(key)
        if spot is None and shelf.damaged:
            raise DamagedRecord
        return spot

    def _shelf(self, table: Table) -> Shelf:
        shelf = self._shelves.get(table)
        if shelf is None:
            shelf = self._shelves[table] = self._read_shelves(frozenset((table,)))[table]
        return shelf

    def _whole_shelf(self, table: Table) -> Shelf:
        """That of a table of which nothing is damaged. Raises DamagedRecord."""
        shelf = self._shelf(table)
        if shelf.damaged:
            raise DamagedRecord
        return shelf

    def _read_shelves(self, tables: frozenset[Table]) -> dict[Table, Shelf]:
        """Where the records of these tables in ``WHOLE`` are. A damaged one may be whatever is
        looked for: in its table, or in all when its place does not say which that is."""
        damaged: Counter[Table] = Counter()
        places: list[tuple[int, Table, bytes]] = []
        for table, place, data in self._lying(bytes([WHOLE_FIRST]), tables):
            if table is None:
                damaged.update(tables)
                continue
            try:
                bound = place_of(table, place)
                places.append((slot_of(self._blind_key, bound, data), table, place))
            except KeysDamaged:
                damaged[table] += 1
        found: dict[Table, list[tuple[bytes, Spot]]] = {table: [] for table in tables}
        places.sort(key=itemgetter(0))  # neighbours have their keys in one leaf
        for _slot, table, place in places:
            try:
                key, secret, *_ = self._open(table, place, self._txn.get(place))
                found[table].append((key, Spot(place, secret)))
            except DamagedRecord:
                damaged[table] += 1
        damaged[PASSED_OVER] = 0
        return {table: make_shelf(found[table], damaged[table]) for table in tables}

    def read_shelves(self) -> dict[Table, Shelf]:
        """Where the records of all tables in ``WHOLE`` are."""
        self._shelves.update(self._read_shelves(WHOLE - self._shelves.keys()))
        return self._shelves

    def _open(self, table: Table, place: bytes, data: bytes) -> tuple[bytes, bytes, bytes, int]:
        """(key, secret, value, slot) of a record."""
        bound = place_of(table, place)
        try:
            slot = slot_of(self._blind_key, bound, data)
            sealing = self._keys.key(slot)
            return (*unpack_plain(open_record(sealing, data[HEAD_SIZE:], bound)), slot)
        except (KeysDamaged, CryptoError) as error:
            raise DamagedRecord from error

    def _rests(self, table: Table, prefix: bytes, start: bytes) -> Iterator[bytes]:
        """What follows ``prefix`` in the keys of the records that begin so, from ``start`` on."""
        if table is not Table.CONTENT:
            rests = self._listed(table, prefix)
            yield from (rests[at] for at in range(bisect_left(rests, start), len(rests)))
            return
        for number in range(number_of(start), self._extent(prefix)):
            place = self.place(table, prefix + u32(number))
            if place is not None and self._has(place):
                yield u32(number)

    def _listed(self, table: Table, prefix: bytes) -> "_Rests":
        return _Rests(self.get(table, prefix) or b"", _REST_SIZES[table])

    def _extent(self, content: bytes) -> int:
        """All numbers of a content's chunks are below this."""
        return int(1 << number_of(self.get(Table.CONTENT, content)))

    def _has(self, place: bytes) -> bool:
        with self._txn.cursor() as cursor:
            return bool(cursor.set_key(place))

    def last(self, table: Table, prefix: bytes) -> tuple[bytes, bytes] | None:
        """The last (key, value) of those with ``prefix``, of a table with lists of them. Raises
        DamagedRecord."""
        rests = self._listed(table, _checked(table, prefix))
        if not rests:
            return None
        key = prefix + rests[len(rests) - 1]
        value = self.get(table, key)
        return None if value is None else (key, value)

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
        return _key_part(parts)

    def drawn(self, part: bytes) -> bytes:
        """16 bytes that are always the same for ``part`` here, and that nobody can foretell
        without its root file."""
        return kdf(self._blind_key, b"cbfs1 drawn", part, 16)

    def count(self, table: Table) -> int:
        """How many records a table has, damaged ones included but in ``PASSED_OVER``. Of a table
        that is not in ``WHOLE`` all are looked at."""
        if table in WHOLE:
            shelf = self._shelf(table)
            return len(shelf) + shelf.damaged
        return sum(1 for _ in self._stored(table))


@lru_cache(KEY_PARTS_KEPT)
def _key_part(parts: tuple[bytes, ...]) -> bytes:
    data = b"".join(u32(len(part)) + part for part in parts)
    return kdf(b"", b"cbfs1 key part", data, KEY_PART_SIZE)


class Writer(Reader):
    """A transaction of the store that can also change it. ``token(n)`` gives n random bytes,
    ``places`` where records of tables in ``WHOLE`` go."""

    _keys: KeyWriter

    def __init__(
        self,
        blind_key: bytes,
        txn: Any,
        keys: KeyWriter,
        shelves: dict[Table, Shelf],
        token: Callable[[int], bytes],
        places: NewPlaces,
    ) -> None:
        super().__init__(blind_key, txn, keys, dict(shelves))
        self._changing: dict[Table, ChangingShelf] = {}
        self._token = self._number = token
        self._places = places
        self._known: dict[tuple[Table, bytes], tuple[bytes, int]] = {}
        """Values and slots of records: what a message writes is read by it as well, and what it
        reads it reads several times."""

    @property
    def shelves(self) -> dict[Table, Shelf]:
        """Where the records of tables in ``WHOLE`` are now."""
        settled = {table: shelf.settled() for table, shelf in self._changing.items()}
        return {**self._shelves, **settled}

    def _shelf_to_change(self, table: Table) -> ChangingShelf:
        shelf = self._changing.get(table)
        if shelf is None:
            shelf = self._shelf(table).change()
            self._shelves[table] = self._changing[table] = shelf
        return shelf

    def get(self, table: Table, key: bytes) -> bytes | None:
        """As a ``Reader``; what was read or written before is not opened once more."""
        which = table, bytes(key)  # a ``Meta`` has another hash than its bytes
        known = self._known.get(which)
        if known is not None:
            return known[0]
        place = self.place(table, key)
        data = None if place is None else self._txn.get(place)
        if place is None or data is None:
            return None
        *_, value, slot = self._open(table, place, data)
        self._keep(which, value, slot)
        return value

    def _keep(self, which: tuple[Table, bytes], value: bytes, slot: int) -> None:
        if len(self._known) >= VALUES_KEPT:
            self._known.clear()
        if len(value) <= VALUE_KEPT_MAX:
            self._known[which] = value, slot
        else:
            self._known.pop(which, None)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Write or overwrite. It gets the next slot, beside what else is written now: what changes
        with every message is then found in the newest leaves, however old a record is. Raises
        DamagedRecord."""
        place, secret, before = self._place_for(table, key)
        bound = table.bound + place
        which = table, bytes(key)
        known = self._known.get(which)
        old = None if before is None or known is not None else self._txn.get(before)
        try:
            if known is not None:
                self._keys.drop(known[1])
            elif old is not None and before is not None:
                self._keys.drop(slot_of(self._blind_key, place_of(table, before), old))
            slot, sealing = self._keys.add()
        except KeysDamaged as error:
            raise DamagedRecord from error
        sealed = seal_record(sealing, pack_plain(key, secret, value), bound)
        head = head_of(self._blind_key, bound, slot, sealed)
        self._txn.put(place, head + sealed)
        self._keep(which, value, slot)
        if table in WHOLE:
            self._shelf_to_change(table).put(key, Spot(place, secret))
            if before is not None:
                self._txn.delete(before)
        elif old is None and known is None and table in _PREFIXES:
            size = _PREFIXES[table]
            if len(key) > size:
                self._list(table, key[:size], key[size:])

    def _place_for(self, table: Table, key: bytes) -> tuple[bytes, bytes, bytes | None]:
        """(place, secret) of a record that is to be written, and where it may be so far; a place in
        ``WHOLE`` is another one each time."""
        if table not in WHOLE:
            place = self.place(table, key)
            if place is None:  # nobody could find it without its conversation
                raise DamagedRecord
            return place, b"", place
        spot, fresh = self._spot(table, key), self._places.next(table)
        if spot is not None:
            return fresh, spot.secret, spot.place
        secret = self._token(KEY_SIZE) if table is Table.CONVERSATIONS else b""
        return fresh, secret, None

    def _list(self, table: Table, prefix: bytes, rest: bytes) -> None:
        """A record is there whose key has this prefix."""
        if table is Table.CONTENT:
            number = number_of(rest)
            if number and number >= self._extent(prefix):
                self.put(table, prefix, bytes([number.bit_length()]))
            return
        rests = self._listed(table, prefix)
        self.put(table, prefix, rests.with_one(rest))

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
        self._known.pop((table, bytes(key)), None)
        if place is None or not self._remove_at(table, place):
            return False
        if table is Table.CONVERSATIONS:  # what is of it has gone with it
            self._known.clear()
        if table in WHOLE:
            self._shelf_to_change(table).remove(key)
        return True

    def _remove_at(self, table: Table, place: bytes) -> bool:
        data = self._txn.get(place)
        if data is None:
            return False
        try:
            self._keys.drop(slot_of(self._blind_key, place_of(table, place), data))
        except KeysDamaged as error:
            raise DamagedRecord from error
        return bool(self._txn.delete(place))

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

    def clear(self) -> None:
        """Delete all records of all tables."""
        for table in Table:
            self._clear(table)

    def _clear(self, table: Table) -> int:
        places = [place for place, _data in self._stored(table)]
        self._known.clear()
        for place in places:
            self._remove_at(table, place)
        if table in WHOLE:
            self._shelves[table] = self._changing[table] = Shelf().change()
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
        return number_of(self._number(8)) or 1

    @contextmanager
    def drawing(self, token: Callable[[int], bytes]) -> Iterator[None]:
        """Within, ``random_number`` is drawn by ``token(n)``. What seals records is not."""
        self._number = token
        try:
            yield
        finally:
            self._number = self._token


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
