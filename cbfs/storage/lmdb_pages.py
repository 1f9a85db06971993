"""The pages of LMDB's file, read without LMDB: to see that they are whole before it trusts them.

LMDB believes what is in its pages: a flipped bit in one may end the process, or write where nothing
should be written. ``check`` looks at every page that a transaction reaches, so that such a store is
not opened at all; what is intact in it is still found by ``leaves`` (``cbfs.storage.salvage``).

Format of LMDB 0.9 (``mdb.c``), in the machine's byte order and of its page size:

    page: number u64 | pad u16 | flags u16 | lower u16, upper u16 (or, of a value: pages u32) |
          offsets of its nodes, u16 each, up to lower; the nodes lie from upper to the end
    node: size u32, of a leaf's value (of a branch: page number u48) | flags u16 | key size u16 |
          key | value (or, with flag BIG, the number u64 of the first of the pages that have it)
    page 0 and 1, of which the one with the greater transaction counts:
          magic u32 | version u32 | address u64 | map size u64 | two trees (free pages, all
          else) | last page u64 | transaction u64
    tree: pad u32 (of the first: page size) | flags u16 | depth u16 | branches u64 | leaves u64 |
          pages of values u64 | entries u64 | root u64
"""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from operator import ge
from typing import Any

HEADER = 16
_HEAD = struct.Struct("=QHHHH")
_entry = struct.Struct("=IHH").unpack_from
"""Of a leaf's node: (size of its value, flags, size of its key)."""

_MANY = struct.Struct("=QHHI")
_NODE = struct.Struct("=HHHH")
_NUMBER = struct.Struct("=Q")
_META = struct.Struct("=IIQQ")
_TREE = struct.Struct("=IHHQQQQQ")
_END = struct.Struct("=QQ")
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_BIG, _SUBTREE = 1, 2
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_INTEGER_KEYS = 8
"""The flag of the tree of free pages: its keys are u64."""

_NO_PAGE = (1 << 64) - 1
_PAGE_MIN = 512
_PAGES_MAX = 1 << 40
_LEVELS_MOST = 32


class PagesDamaged(Exception):
    """A page is not as LMDB writes it."""


@dataclass(frozen=True, slots=True)
class PageTree:
    """What a page of LMDB's notes of one of its trees."""

    flags: int
    depth: int
    entries: int
    root: int


@dataclass(frozen=True, slots=True)
class MetaPage:
    """One of the first two pages, which say where all others begin."""

    page_size: int
    free: PageTree
    records: PageTree
    last: int
    transaction: int


class Pages:
    """The pages of LMDB's file, which is open as a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, place: int, size: int) -> bytes:
        """Raises PagesDamaged when the file ends before, or the disk cannot read it."""
        try:
            data = os.pread(self._descriptor, size, place)
        except OSError as error:
            raise PagesDamaged(str(error)) from error
        if len(data) != size:
            raise PagesDamaged("the file is cut short")
        return data

    def metas(self) -> list[MetaPage]:
        """Those of the first two pages that are whole, the newest first."""
        found = []
        try:
            first = _meta(self.read(0, _PAGE_MIN), 0)
            found.append(first)
            size = first.page_size
        except PagesDamaged:
            size = os.sysconf("SC_PAGE_SIZE")
        with suppress(PagesDamaged):
            found.append(_meta(self.read(size, _PAGE_MIN), 1))
        return sorted(found, key=lambda meta: -meta.transaction)

    def check(self, transaction: int, *, named: bool = False) -> bool:
        """Look at all pages that this transaction reaches. ``named``: records are in trees with
        names, as they were in stores of before. False when it is no longer one of the two that
        count. Raises PagesDamaged."""
        metas = self.metas()
        if len(metas) < 2:
            raise PagesDamaged("one of the first two pages")
        for meta in metas:
            if meta.transaction == transaction:
                _Check(self, meta, named=named).run()
                return True
        return False

    def leaves(self, page_size: int) -> Iterator[tuple[int, bytes]]:
        """(place in the file, page) of all that may be leaves, in use or not."""
        size = os.fstat(self._descriptor).st_size
        for place in range(2 * page_size, size, page_size):
            try:
                page = self.read(place, page_size)
            except PagesDamaged:
                continue
            if _HEAD.unpack_from(page)[2] == _LEAF:
                yield place, page


def node(place: int, page: bytes, offset: int) -> tuple[bytes, int, int] | None:
    """(key, place of the value in the file, its size) of a node of the leaf that is at ``place``;
    None when it is not within its bounds."""
    if not HEADER <= offset <= len(page) - _NODE.size:
        return None
    size, flags, key_size = _entry(page, offset)
    start = offset + _NODE.size + key_size
    key = page[offset + _NODE.size : start]
    if flags == 0 and start + size <= len(page):
        return key, place + start, size
    if flags == _BIG and start + _NUMBER.size <= len(page):
        (number,) = _NUMBER.unpack_from(page, start)
        return key, min(number, _PAGES_MAX) * len(page) + HEADER, size
    return None


def offsets(page: bytes) -> Iterator[int]:
    """Where a leaf says that its nodes are."""
    lower = min(_HEAD.unpack_from(page)[3], len(page)) & ~1
    for (offset,) in struct.iter_unpack("=H", page[HEADER:lower]):
        yield offset


class _Check:
    """One look at a transaction's pages."""

    def __init__(self, pages: Pages, meta: MetaPage, *, named: bool) -> None:
        self._named = named
        self._trees: list[PageTree] = []
        self._read = pages.read
        self._size = meta.page_size
        self._meta = meta
        self._seen = bytearray(meta.last + 1)
        self._seen[:2] = b"\1\1"
        self._free: list[int] = []

    def run(self) -> None:
        meta = self._meta
        self._tree(meta.free, self._free_list, int_of)
        self._tree(meta.records, self._name if self._named else None, bytes)
        named, self._named = self._trees, False
        for tree in named:
            if tree.flags:
                raise PagesDamaged("the kind of a tree")
            self._tree(tree, None, bytes)
        if len(set(self._free)) != len(self._free) or any(self._seen[n] for n in self._free):
            raise PagesDamaged("a page is in use and free")

    def _name(self, value: bytes) -> None:
        if len(value) != _TREE.size:
            raise PagesDamaged("the names of the trees")
        self._trees.append(tree_of(value, 0))

    def _free_list(self, value: bytes) -> None:
        count = _NUMBER.unpack_from(value)[0] if len(value) >= _NUMBER.size else -1
        if len(value) < _NUMBER.size * (count + 1):
            raise PagesDamaged("a list of free pages")
        numbers = struct.unpack_from(f"={count}Q", value, _NUMBER.size)
        if count and not (numbers[0] <= self._meta.last and numbers[-1] >= 2):
            raise PagesDamaged("a list of free pages")
        if any(a <= b for a, b in pairwise(numbers)):
            raise PagesDamaged("the order of free pages")
        self._free += numbers

    def _tree(
        self,
        tree: PageTree,
        tell: Callable[[bytes], None] | None,
        order: Callable[[bytes], Any],
    ) -> None:
        """All pages of a tree; ``tell`` gets the value of each entry."""
        if tree.root == _NO_PAGE:
            if tree.entries or tree.depth:
                raise PagesDamaged("a tree without a root")
            return
        if not 1 <= tree.depth <= _LEVELS_MOST:
            raise PagesDamaged("the depth of a tree")
        # of each page: its number, its level, and between which keys its own must be
        todo: list[tuple[int, int, object, object]] = [(tree.root, tree.depth, None, None)]
        entries = 0
        while todo:
            number, level, low, high = todo.pop()
            page = self._page(number, _LEAF if level == 1 else _BRANCH)
            if level > 1:
                todo += self._branch(page, level - 1, low, high, order)
            else:
                entries += self._leaf(page, low, high, order, tell)
        if entries != tree.entries:
            raise PagesDamaged("the number of entries")

    def _page(self, number: int, flags: int) -> bytes:
        self._mark(number, 1)
        page = self._read(number * self._size, self._size)
        own, _pad, kind, lower, upper = _HEAD.unpack_from(page)
        if own != number or kind != flags or lower % 2:
            raise PagesDamaged("the head of a page")
        if not HEADER < lower <= upper <= self._size:
            raise PagesDamaged("the bounds of a page")
        return page

    def _mark(self, number: int, count: int) -> None:
        if number < 2 or number + count - 1 > self._meta.last:
            raise PagesDamaged("the number of a page")
        if any(self._seen[number : number + count]):
            raise PagesDamaged("a page is in use twice")
        self._seen[number : number + count] = b"\1" * count

    def _branch(
        self, page: bytes, level: int, low: object, high: object, order: Callable[[bytes], Any]
    ) -> list[tuple[int, int, object, object]]:
        """The pages below, each with the keys that are its bounds. The first has no key."""
        numbers, keys = [], []
        for offset in _offsets(page):
            first, second, third, key_size = _NODE.unpack_from(page, offset)
            start = offset + _NODE.size
            if start + key_size > self._size:
                raise PagesDamaged("a branch")
            numbers.append(first | second << 16 | third << 32)
            keys.append(page[start : start + key_size])
        bounds = [order(key) for key in keys[1:]]
        if any(map(ge, bounds, bounds[1:])):
            raise PagesDamaged("the order of a branch")
        if bounds and not _between(bounds[0], bounds[-1], low, high):
            raise PagesDamaged("the order of a branch")
        lows, highs = [low, *bounds], [*bounds, high]
        return [(n, level, a, b) for n, a, b in zip(numbers, lows, highs, strict=True)]

    def _leaf(
        self,
        page: bytes,
        low: object,
        high: object,
        order: Callable[[bytes], Any],
        tell: Callable[[bytes], None] | None,
    ) -> int:
        size, keys = self._size, []
        offsets = _offsets(page)
        for offset in offsets:  # of all that is in here, this loop takes the time
            length, flags, key_size = _entry(page, offset)
            start = offset + 8 + key_size
            keys.append(page[offset + 8 : start])
            if flags and not (self._named and flags == _SUBTREE):
                self._value(page, start, length, flags)
            elif start + length > size:
                raise PagesDamaged("an entry of a leaf")
            if tell is not None:
                tell(self._of(page, start, flags, length))
        ordered = keys if order is bytes else list(map(order, keys))
        if any(map(ge, ordered, ordered[1:])) or not _between(ordered[0], ordered[-1], low, high):
            raise PagesDamaged("the order of a leaf")
        return len(offsets)

    def _value(self, page: bytes, start: int, length: int, flags: int) -> None:
        """A value that has pages of its own."""
        if flags != _BIG or start + _NUMBER.size > self._size:
            raise PagesDamaged("an entry of a leaf")
        (number,) = _NUMBER.unpack_from(page, start)
        if number > self._meta.last:
            raise PagesDamaged("the number of a page")
        own, _pad, kind, count = _MANY.unpack(self._read(number * self._size, HEADER))
        if own != number or kind != _OVERFLOW or count < _pages_for(length, self._size):
            raise PagesDamaged("the pages of a value")
        self._mark(number, count)
        self._read((number + count) * self._size - 1, 1)  # is it there to its end?

    def _of(self, page: bytes, start: int, flags: int, length: int) -> bytes:
        if flags != _BIG:
            return page[start : start + length]
        (number,) = _NUMBER.unpack_from(page, start)
        return self._read(number * self._size + HEADER, length)


def int_of(key: bytes) -> int:
    """A key of the tree of free pages. Raises PagesDamaged."""
    if len(key) != _NUMBER.size:
        raise PagesDamaged("a key of the free pages")
    return int(_NUMBER.unpack(key)[0])


def _between(first: Any, last: Any, low: Any, high: Any) -> bool:
    """Whether keys are not below ``low`` and below ``high``, as far as these are given."""
    return (low is None or low <= first) and (high is None or last < high)


def _pages_for(length: int, page_size: int) -> int:
    return (HEADER - 1 + length) // page_size + 1


@cache
def _shape(count: int) -> struct.Struct:
    return struct.Struct(f"={count}H")


def _offsets(page: bytes) -> tuple[int, ...]:
    """Raises PagesDamaged for one that leads out of the page."""
    lower, upper = _HEAD.unpack_from(page)[3:]
    offsets = _shape((lower - HEADER) // 2).unpack_from(page, HEADER)
    if min(offsets) < upper or max(offsets) > len(page) - _NODE.size:
        raise PagesDamaged("the offsets of a page")
    return offsets


def tree_of(data: bytes, place: int) -> PageTree:
    """What stands at a place of these bytes of a tree."""
    _pad, flags, depth, _branches, _leaves, _values, entries, root = _TREE.unpack_from(data, place)
    return PageTree(flags, depth, entries, root)


def _meta(page: bytes, number: int) -> MetaPage:
    """Raises PagesDamaged."""
    own, _pad, flags, _lower, _upper = _HEAD.unpack_from(page)
    magic, version, _address, _map_size = _META.unpack_from(page, HEADER)
    if (own, flags, magic, version) != (number, 8, _MAGIC, _VERSION):
        raise PagesDamaged("one of the first two pages")
    start = HEADER + _META.size
    free, records = tree_of(page, start), tree_of(page, start + _TREE.size)
    page_size = _TREE.unpack_from(page, start)[0]
    last, transaction = _END.unpack_from(page, start + 2 * _TREE.size)
    if page_size not in {1 << n for n in range(9, 17)} or last >= _PAGES_MAX:
        raise PagesDamaged("one of the first two pages")
    if free.flags != _INTEGER_KEYS or records.flags:
        raise PagesDamaged("one of the first two pages")
    return MetaPage(page_size, free, records, last, transaction)
