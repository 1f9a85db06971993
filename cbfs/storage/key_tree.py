"""The tree of keys under which the store's records are sealed, so that they can be erased.

Every record has a slot, a number, and a key of its own that seals it once. A leaf of the tree
holds the keys of FANOUT slots, sealed under the leaf's key, which lies with those of its
neighbours in the node above, and so on, up to the root's key, which is not in here. All nodes
have random keys that seal them once too: a change gives every node from the changed leaves up to
the root a new key. So what the old root's key opens is the tree as it was, and when that key is
overwritten nothing opens what has left the tree: not the old values of records, not the old
nodes, wherever copies of them lie.

A change costs LEVELS nodes for each leaf that it touches, however many records there are.
Slots are given out in order, so records that are written together share their leaf.

Pure: nodes are kept by ``Nodes``, by name (level u8 | index u64). A node is a bitmap u32 of the
children it has, and their keys in order.
"""

import struct
from collections.abc import Callable
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

_TOP = LEVELS - 1
_NONCE = bytes(NONCE_SIZE)
"""Every key here seals one plaintext, so that no nonce is needed to tell two apart."""

_NAME = struct.Struct(">BQ")
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
        self._bound = next_slot

    def key(self, slot: int) -> bytes:
        """The key (32) of the record in a slot. Raises KeysDamaged."""
        leaf = slot >> BITS
        if self._leaf[0] != leaf:
            self._leaf = leaf, self._load(0, leaf)
        key = self._leaf[1][slot % FANOUT]
        if key is None:
            raise KeysDamaged
        return key

    def _load(self, level: int, index: int) -> Children:
        """A node's children; none when there is no such node."""
        if level == _TOP:
            if index:
                raise KeysDamaged
            key = self._root
        else:
            key = self._load(level + 1, index >> BITS)[index % FANOUT]
        if key is None:
            return _NONE
        name = _NAME.pack(level, index)
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
        self._changed: dict[int, list[bytes | None]] = {}

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
        children = self._change(slot >> BITS)
        if slot >= SLOTS or children[slot % FANOUT] is not None:
            raise KeysDamaged
        self.next_slot += 1
        return slot, self.renew(slot)

    def renew(self, slot: int) -> bytes:
        """A new key for what is to be in a slot; the old one goes."""
        key = self._token(KEY_SIZE)
        self._change(slot >> BITS)[slot % FANOUT] = key
        return key

    def drop(self, slot: int) -> None:
        """The key of a slot goes, and nothing takes its place."""
        self._change(slot >> BITS)[slot % FANOUT] = None

    def touch(self) -> None:
        """Have the root turned, though no key of a slot is changed."""
        self._change(max(0, self.next_slot - 1) >> BITS)

    def turn(self) -> tuple[bytes, Turned]:
        """Give every changed node a new key and write it. The new root's key, and what
        ``Cache.turn`` is to be told once the transaction is on the disk."""
        turned: Turned = {}
        changed, root = self._changed, b""
        for level in range(LEVELS):
            above: dict[int, list[bytes | None]] = {}
            for index, children in changed.items():
                key = self._write(level, index, tuple(children), turned)
                if level == _TOP:
                    root = key or b""
                    continue
                parent = index >> BITS
                if parent not in above:
                    above[parent] = list(self._load(level + 1, parent))
                above[parent][index % FANOUT] = key
            changed = above
        return root, turned

    def _write(self, level: int, index: int, children: Children, turned: Turned) -> bytes | None:
        """The node's new key; None when it has no children left, and is gone."""
        name = _NAME.pack(level, index)
        if level < _TOP and children == _NONE:
            self._nodes.delete_node(name)
            turned[name] = None
            return None
        key = self._token(KEY_SIZE)
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


def node_level(name: bytes) -> int | None:
    """The level of the node of that name; None for what is no name of a node."""
    return name[0] if len(name) == _NAME.size and name[0] < LEVELS else None


def _encode(children: Children) -> bytes:
    bitmap = 0
    for place, key in enumerate(children):
        if key is not None:
            bitmap |= 1 << place
    return _BITMAP.pack(bitmap) + b"".join(key for key in children if key is not None)


def _decode(plain: bytes) -> Children:
    """Of a node that was authentic, so that its form is ours."""
    (bitmap,) = _BITMAP.unpack_from(plain)
    keys: tuple[bytes, ...] = _KEYS[bitmap.bit_count()].unpack_from(plain, _BITMAP.size)
    if bitmap == _FULL:
        return keys
    left = iter(keys)
    return tuple(next(left) if bitmap >> place & 1 else None for place in range(FANOUT))
