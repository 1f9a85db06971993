"""The tree of keys under which the store's records are sealed, so that they can be erased.

Every record has a slot, a number, and a key of its own that seals it once. A leaf of the tree
holds the keys of FANOUT slots, sealed under the leaf's key, which lies with those of its
neighbours in the node above, and so on, up to the root's key, which is not in here. All nodes
have random keys that seal them once too: a change gives every node from the changed leaves up to
the root a new key. So what the old root's key opens is the tree as it was, and when that key is
overwritten nothing opens what has left the tree: not the old values of records, not the old
nodes, wherever copies of them lie.

A change that only adds leaves nothing to be erased: the tree as it was is a part of what it has
become. Then the key of the root in here may be derived from the one before all such changes since.

A change costs LEVELS nodes for each leaf that it touches, however many records there are.
Slots are given out in order, so records that are written together share their leaf.

Pure: nodes are kept by ``Nodes``, by name (last slot below it u64 | level u8). In the order of
their names a node follows on all that are below it, so that those above the newest leaf, which
every change writes, are beside it at the end. A node is a bitmap u32 of the children it has, and
their keys in order.
"""

import struct
from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import Protocol

from cbfs_common.errors import CbfsError, CryptoError
from cbfs_common.primitives import KEY_SIZE, NONCE_SIZE, TAG_SIZE, equal, open_sealed, seal

BITS = 5
FANOUT = 1 << BITS
LEVELS = 7
SLOTS = FANOUT**LEVELS
"""Slots that can ever be given out: 34 thousand million. Each writing of a record takes one, some
25 for a message."""

NODE_MAX = 4 + FANOUT * KEY_SIZE + TAG_SIZE
"""Bytes of a sealed node."""

CACHE_NODES = 4_096
"""Opened nodes that are kept in memory, at most some 1.5 KiB each."""

LOADED_NODES = 64
"""Of those, above the leaves, that a transaction has at hand."""

KEYS_DRAWN = 8
"""Keys of records that are drawn at once, which takes as long as one; those of a transaction that
it does not use go with it."""

_TOP = LEVELS - 1
_NONCE = bytes(NONCE_SIZE)
"""Every key here seals one plaintext, so that no nonce is needed to tell two apart."""

_NAME = struct.Struct(">QB")
_BITMAP = struct.Struct(">I")
_NEXT = struct.Struct(">Q")
_FULL = (1 << FANOUT) - 1
_KEYS = tuple(struct.Struct(f"{KEY_SIZE}s" * count) for count in range(FANOUT + 1))
"""So many keys in a row."""

Children = tuple[bytes | None, ...]
Turned = dict[bytes, tuple[bytes, Children] | None]
_NONE: Children = (None,) * FANOUT


class KeysDamaged(CbfsError):
    """A node of the tree is missing or was changed."""

    def __init__(self) -> None:
        super().__init__("a key of the store is damaged")


class Nodes(Protocol):
    """Where sealed nodes are kept: one transaction's view."""

    def get_node(self, name: bytes) -> bytes | None:
        """A node by its name, sealed, or None."""

    def put_node(self, name: bytes, sealed: bytes) -> None:
        """Write a sealed node, or overwrite it."""

    def delete_node(self, name: bytes) -> None:
        """Forget a node, if it is there."""


class Cache:
    """Opened nodes of the newest tree, for all views; any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._nodes: dict[bytes, tuple[bytes, Children]] = {}
        self._root = b""

    def begin(self, root: bytes) -> None:
        """The tree has this root, and of its nodes nothing is known."""
        with self._lock:
            self._root = root
            self._nodes.clear()

    def leaf(self, root: bytes, index: int) -> Children | None:
        """The children of a leaf of the tree with that root, without a look at what is above it;
        None unless it is remembered and the tree is the newest."""
        name = node_name(0, index)
        with self._lock:  # a turn enters its root and its nodes one after the other
            found = self._nodes.get(name) if equal(root, self._root) else None
        return None if found is None else found[1]

    def find(self, name: bytes, key: bytes) -> Children | None:
        """The children of the node that this key opens."""
        found = self._nodes.get(name)
        return found[1] if found is not None and equal(found[0], key) else None

    def keep(self, root: bytes, name: bytes, key: bytes, children: Children) -> None:
        """Remember a node of the tree with that root, unless the tree has moved on."""
        with self._lock:
            if equal(root, self._root):
                self._put(name, key, children)

    def turn(self, root: bytes, nodes: Turned) -> None:
        """The tree has a new root, and these nodes are new or (None) gone."""
        with self._lock:
            self._root = root
            for name, node in nodes.items():
                if node is None:
                    self._nodes.pop(name, None)
                else:
                    self._put(name, *node)

    def _put(self, name: bytes, key: bytes, children: Children) -> None:
        self._nodes.pop(name, None)
        self._nodes[name] = key, children
        if len(self._nodes) > CACHE_NODES:
            del self._nodes[next(iter(self._nodes))]


class KeyReader:
    """The tree that ``root`` (32) opens, where ``next_slot`` is the first that was never used.
    The root None is that of the tree in which nothing is."""

    def __init__(self, root: bytes | None, next_slot: int, nodes: Nodes, cache: Cache) -> None:
        self._root = root
        self._nodes = nodes
        self._cache = cache
        self._leaf: tuple[int, Children] = (-1, _NONE)
        self._loaded: dict[tuple[int, int], Children] = {}
        self._bound = next_slot

    def key(self, slot: int) -> bytes:
        """The key (32) of the record in a slot. Raises KeysDamaged."""
        leaf = slot >> BITS
        if self._leaf[0] != leaf:
            known = self._cache.leaf(self._root, leaf) if self._root else None
            self._leaf = leaf, known or self._load(0, leaf)
        key = self._leaf[1][slot % FANOUT]
        if key is None:
            raise KeysDamaged
        return key

    def _load(self, level: int, index: int) -> Children:
        """A node's children; none when there is no such node."""
        children = self._loaded.get((level, index))
        if children is None:
            children = self._find(level, index)
            if level:  # those above are asked for once for each leaf
                if len(self._loaded) == LOADED_NODES:
                    self._loaded.clear()
                self._loaded[level, index] = children
        return children

    def _find(self, level: int, index: int) -> Children:
        if level == _TOP:
            if index:
                raise KeysDamaged
            key = self._root
        else:
            key = self._load(level + 1, index >> BITS)[index % FANOUT]
        if key is None:
            return _NONE
        name = node_name(level, index)
        children = self._cache.find(name, key)
        if children is None:
            children = self._open(level, name, key)
            self._cache.keep(self._root or b"", name, key, children)
        return children

    def _open(self, level: int, name: bytes, key: bytes) -> Children:
        """The children of a stored node. Raises KeysDamaged."""
        sealed = self._nodes.get_node(name) or b""
        try:
            return open_node(key, level, name, sealed, self._bound)
        except CryptoError as error:
            raise KeysDamaged from error


class KeyWriter(KeyReader):
    """A tree that is being changed. ``token(n)`` gives n random bytes."""

    def __init__(
        self,
        root: bytes | None,
        next_slot: int,
        nodes: Nodes,
        cache: Cache,
        token: Callable[[int], bytes],
    ) -> None:
        super().__init__(root, next_slot, nodes, cache)
        self._token = token
        self.next_slot = next_slot
        self.takes_away = False
        """Whether something was in the tree that is not any more, or is to be taken for gone."""
        self._changed: dict[int, list[bytes | None]] = {}
        self._drawn: list[bytes] = []

    @property
    def changed(self) -> bool:
        """Whether anything was changed, so that ``turn`` is to be called."""
        return bool(self._changed)

    def key(self, slot: int) -> bytes:
        """The key (32) of the record in a slot, as changed so far. Raises KeysDamaged."""
        children = self._changed.get(slot >> BITS)
        if children is None:
            return super().key(slot)
        key = children[slot % FANOUT]
        if key is None:
            raise KeysDamaged
        return key

    def add(self) -> tuple[int, bytes]:
        """A slot that was never used, and its key. Raises KeysDamaged when none is left."""
        slot = self.next_slot
        children, place = self._change(slot >> BITS), slot % FANOUT
        if slot >= SLOTS or children[place] is not None:
            raise KeysDamaged
        self.next_slot += 1
        if not self._drawn:
            some = self._token(KEYS_DRAWN * KEY_SIZE)
            self._drawn = [some[at : at + KEY_SIZE] for at in range(0, len(some), KEY_SIZE)]
        key = children[place] = self._drawn.pop()
        return slot, key

    def drop(self, slot: int) -> None:
        """The key of a slot goes, and nothing takes its place."""
        self.takes_away = self.takes_away or slot < self._bound  # else it was never on the disk
        self._change(slot >> BITS)[slot % FANOUT] = None

    def touch(self) -> None:
        """Have the root turned, though no key of a slot is changed."""
        self.takes_away = True
        self._change(max(0, self.next_slot - 1) >> BITS)

    def turn(self, root: bytes) -> Turned:
        """Give every changed node a new key, the root's being ``root`` (32), which has sealed
        nothing before, and write it. Gives what ``Cache.turn`` is to be told once the transaction
        is on the disk."""
        turned: Turned = {}
        changed = self._changed
        for level in range(LEVELS):
            above: dict[int, list[bytes | None]] = {}
            for index, children in changed.items():
                fresh = root if level == _TOP else self._token(KEY_SIZE)
                key = self._write(level, index, tuple(children), turned, fresh)
                if level == _TOP:
                    continue
                parent = index >> BITS
                if parent not in above:
                    above[parent] = list(self._load(level + 1, parent))
                above[parent][index % FANOUT] = key
            changed = above
        return turned

    def _write(
        self, level: int, index: int, children: Children, turned: Turned, key: bytes
    ) -> bytes | None:
        """The node's new key; None when it has no children left, and is gone."""
        name = node_name(level, index)
        if level < _TOP and children == _NONE:
            self._nodes.delete_node(name)
            turned[name] = None
            return None
        place = _place(level, name, self.next_slot)
        self._nodes.put_node(name, seal(key, _NONCE, _encode(children), place))
        turned[name] = key, children
        return key

    def _change(self, leaf: int) -> list[bytes | None]:
        children = self._changed.get(leaf)
        if children is None:
            children = self._changed[leaf] = list(self._load(0, leaf))
        return children


def _place(level: int, name: bytes, next_slot: int) -> bytes:
    """What a node is bound to: its place, and the root to the slots given out as well."""
    return name + _NEXT.pack(next_slot) if level == _TOP else name


def seal_record(key: bytes, value: bytes, place: bytes) -> bytes:
    """A record's value under the key of its slot, bound to its place in the store."""
    return seal(key, _NONCE, value, place)


def open_record(key: bytes, sealed: bytes, place: bytes) -> bytes:
    """Undo ``seal_record``. Raises CryptoError."""
    return open_sealed(key, _NONCE, sealed, place)


def open_node(key: bytes, level: int, name: bytes, sealed: bytes, next_slot: int) -> Children:
    """The children of a node. Raises CryptoError."""
    return _decode(open_sealed(key, _NONCE, sealed, _place(level, name, next_slot)))


def node_name(level: int, index: int) -> bytes:
    """The name of a node."""
    return _NAME.pack((index + 1 << BITS * (level + 1)) - 1, level)


def node_level(name: bytes) -> int | None:
    """The level of the node of that name; None for what is no name of a node."""
    return name[-1] if len(name) == _NAME.size and name[-1] < LEVELS else None


def node_index(name: bytes) -> int:
    """Of the nodes of its level, which one the node of that name is."""
    last, level = _NAME.unpack(name)
    return int(last >> BITS * (level + 1))


def _encode(children: Children) -> bytes:
    return _bitmap(bytes(map(bool, children))) + b"".join(filter(None, children))


@lru_cache(CACHE_NODES)
def _bitmap(there: bytes) -> bytes:
    """Of children of whom ``there`` says, a byte for each, which are there."""
    return _BITMAP.pack(sum(1 << place for place in range(FANOUT) if there[place]))


def _decode(plain: bytes) -> Children:
    """Of a node that was authentic, so that its form is ours."""
    (bitmap,) = _BITMAP.unpack_from(plain)
    keys: tuple[bytes, ...] = _KEYS[bitmap.bit_count()].unpack_from(plain, _BITMAP.size)
    if bitmap == _FULL:
        return keys
    children: list[bytes | None] = [None] * FANOUT
    for key in keys:  # each under the lowest bit that is left
        children[(bitmap & -bitmap).bit_length() - 1] = key
        bitmap &= bitmap - 1
    return tuple(children)
