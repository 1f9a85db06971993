"""What is left of a store whose pages are damaged: found without LMDB, page by page.

Every leaf of the file is looked at, be it in use or not. A record tells by its place which table it
is of, by its head which slot, and opens by the key that is its slot's now, or it is an old one, or
damaged: so nothing wrong can come out, whatever the pages say. What its key is stands in it. Nodes
of the tree of keys are found likewise.
"""

import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cbfs.storage.key_tree import (
    FANOUT,
    LEVELS,
    NODE_MAX,
    Cache,
    Children,
    KeyReader,
    KeysDamaged,
    node_level,
    open_node,
    open_record,
)
from cbfs.storage.lmdb_pages import Pages, PagesDamaged, node, offsets
from cbfs.storage.records import Table, is_record, place_of
from cbfs.storage.root_key import RootFile
from cbfs.storage.sealed_record import HEAD_SIZE, slot_of, unpack_plain
from cbfs.storage.tables import table_at
from cbfs.storage.txn_nodes import STATE_KEY, STATE_SIZES, TreeState, decode_state
from cbfs_common.errors import CryptoError
from cbfs_common.primitives import TAG_SIZE
from cbfs_host.complaints import StoreError

VALUE_MAX = 1 << 24
"""Bytes of a value that is looked at."""

STATES_TRIED = 4
"""Newest states that one key of the root file opens of which it is seen what is left of each."""

Where = tuple[int, int]
"""Place in the file, and size."""


class _Keys(KeyReader):
    """The tree of keys by all versions of its nodes that are in the file. It holds no node that
    it does not find."""

    def __init__(self, root: bytes | None, next_slot: int, found: "_Found", cache: Cache) -> None:
        super().__init__(root, next_slot, found, cache)
        self._found = found

    def _open(self, level: int, name: bytes, key: bytes) -> Children:
        for sealed in self._found.versions(name):
            try:
                return open_node(key, level, name, sealed, self._bound)
            except CryptoError:
                continue
        raise KeysDamaged

    def opens(self) -> bool:
        """Whether the root is one that this key opens; what is below may be damaged."""
        try:
            self._load(LEVELS - 1, 0)
        except KeysDamaged:
            return False
        return True

    def slots(self, level: int = LEVELS - 1, index: int = 0) -> Iterator[int | None]:
        """All that have a key; None in the place of a node that cannot be read."""
        try:
            children = self._load(level, index)
        except KeysDamaged:
            yield None
            return
        for number, child in enumerate(children):
            if child is None:
                continue
            below = index * FANOUT + number
            if level:
                yield from self.slots(level - 1, below)
            else:
                yield below


class _Found:
    """Where in the file there are states and nodes of the tree of keys, which
    cannot be changed."""

    def __init__(self, pages: Pages, page_size: int) -> None:
        self._pages = pages
        self._nodes: dict[bytes, list[Where]] = {}
        self.states: set[TreeState] = set()
        for place, page in pages.leaves(page_size):
            for offset in offsets(page):
                self._take(node(place, page, offset))

    def _take(self, entry: tuple[bytes, int, int] | None) -> None:
        if entry is None:
            return
        key, where, size = entry
        if key == STATE_KEY and size in STATE_SIZES:
            self.states.add(decode_state(self._pages.read(where, size)))
        elif node_level(key) is not None and size <= NODE_MAX:
            self._nodes.setdefault(key, []).append((where, size))

    def versions(self, name: bytes) -> Iterator[bytes]:
        """All versions of a node, sealed, as far as they are in the file."""
        for where, size in self._nodes.get(name, ()):
            try:
                yield self._pages.read(where, size)
            except PagesDamaged:
                continue

    def get_node(self, name: bytes) -> bytes | None:
        """The first version of a node that is found, or None."""
        return next(self.versions(name), None)

    def put_node(self, name: bytes, sealed: bytes) -> None:
        """What is left of a store is not changed. Raises KeysDamaged."""
        raise KeysDamaged

    def delete_node(self, name: bytes) -> None:
        """What is left of a store is not changed. Raises KeysDamaged."""
        raise KeysDamaged


@dataclass(frozen=True, slots=True)
class _Catch:
    """What one state of the store opens: how many records are lost at least, how many are found,
    and the places in the file of the nodes of these."""

    lost: int
    found: int
    keys: KeyReader
    places: dict[Table, "array[int]"]


class Remains:
    """The intact records of the store in ``path``. ``lost``: at least so many are not."""

    def __init__(self, path: Path, root_file: RootFile) -> None:
        """Raises StoreError when nothing can be found, RootError, and what unlocking raises."""
        try:
            self._descriptor = os.open(
                path / "data.mdb", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            )
        except OSError as error:
            raise StoreError(f"the store in {path} cannot be opened: {error.strerror}") from error
        try:
            self._pages = Pages(self._descriptor)
            metas = self._pages.metas()
            self._size = metas[0].page_size if metas else os.sysconf("SC_PAGE_SIZE")
            self._catch = self._find(path, root_file)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.lost = self._catch.lost

    @contextmanager
    def salvage(self) -> Iterator["Remains"]:
        """The records that are intact, to be exported."""
        yield self

    def close(self) -> None:
        """Close LMDB's file."""
        os.close(self._descriptor)

    def records(self, table: Table) -> Iterator[tuple[bytes, bytes | None]]:
        """(key, value) of those that are intact, in any order."""
        for position in self._catch.places[table]:
            offset = position % self._size
            place = position - offset
            entry = node(place, self._pages.read(place, self._size), offset)
            opened = entry and self._open(table, entry, self._catch.keys)
            if opened:
                key, _secret, value = unpack_plain(opened[1])
                if is_record(table, key):
                    yield key, value

    def place(self, _table: Table, _key: bytes) -> bytes | None:
        """None: what is damaged is not among the records."""
        return None

    def _find(self, path: Path, root_file: RootFile) -> _Catch:
        root_file.holds(0)  # says it if the store is of another cbfs, whose file is another as well
        found = _Found(self._pages, self._size)
        generations = {state.moment.generation for state in found.states}
        known = sorted(filter(root_file.holds, generations), reverse=True)
        if found.states and not known:
            raise StoreError(
                f"the newest pages of the store in {path} are missing, or root.key is another's",
                "put both back from the same copy, or restore an export: cbfs init --restore FILE",
            )
        catches = []
        for generation in known:
            key = root_file.open(generation)
            self._blind_key = root_file.blind_key
            states = [each for each in found.states if each.moment.generation == generation]
            grown = [self._records(*keys) for keys in self._open_states(states, key, found)]
            catches += [max(grown, key=lambda catch: catch.found)] if grown else []
        if not catches:
            raise StoreError(
                f"nothing of the store in {path} can be read",
                "restore an export: cbfs init --restore FILE",
            )
        return min(catches, key=lambda catch: catch.lost)  # there may be two after a crash

    def _open_states(
        self, states: list[TreeState], key: bytes, found: _Found
    ) -> Iterator[tuple[_Keys, int]]:
        """(keys, next slot) of the newest states that this key of the root file opens: one that
        came later has all that those before have, and more, but may be damaged more."""
        opened = 0
        for state in sorted(states, reverse=True):
            next_slot, root, cache = state.moment.next_slot, state.root(key), Cache()
            cache.turn(root, {})
            keys = _Keys(root if next_slot else None, next_slot, found, cache)
            if opened < STATES_TRIED and (not next_slot or keys.opens()):
                opened += 1  # else it is not a state of this root
                yield keys, next_slot

    def _records(self, keys: _Keys, next_slot: int) -> _Catch:
        places = {table: array("Q") for table in Table}
        seen = bytearray(next_slot)
        for place, page in self._pages.leaves(self._size):
            for offset in offsets(page):
                entry = node(place, page, offset)
                table = table_at(entry[0]) if entry is not None else None
                if entry is None or table is None:
                    continue
                opened = self._open(table, entry, keys)
                if opened is not None and not seen[opened[0]]:
                    seen[opened[0]] = 1
                    places[table].append(place + offset)
        lost = sum(slot is None or not seen[slot] for slot in keys.slots())
        return _Catch(lost, sum(seen), keys, places)

    def _open(
        self, table: Table, entry: tuple[bytes, int, int], keys: KeyReader
    ) -> tuple[int, bytes] | None:
        """(slot, what was sealed) of a record of this table that counts."""
        place, where, size = entry
        if not HEAD_SIZE + TAG_SIZE < size <= VALUE_MAX:
            return None
        bound, read = place_of(table, place), self._pages.read
        try:
            ends = read(where, HEAD_SIZE) + read(where + size - TAG_SIZE, TAG_SIZE)
            slot = slot_of(self._blind_key, bound, ends)
            secret = keys.key(slot)
            return slot, open_record(secret, read(where, size)[HEAD_SIZE:], bound)
        except (PagesDamaged, KeysDamaged, CryptoError):
            return None
