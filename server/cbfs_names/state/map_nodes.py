"""The map of names as records: updating it and making proofs. PROTOCOL.rst, Names: map.

A record holds one inner node under its path: flags (1: left child is a leaf, 2: right) | left
hash 32 | right hash 32. Leaves have no records: a leaf's index is the one entry that has the
path as its prefix. Nothing here reads or writes a store; the functions that do are given. What is
taken from it must have the hash that the node above says: no root may follow from damage.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cbfs_common.names.layout import HASH_SIZE, ZERO
from cbfs_common.names.trees import (
    DEPTH_MAX,
    EMPTY_MAP,
    MapProof,
    Terminal,
    bit,
    map_leaf,
    map_node,
)
from cbfs_host.complaints import StoreError
from cbfs_names.state.tables import DAMAGED

_EMPTY_NODE = bytes(1 + 2 * HASH_SIZE)
_LEAF_FLAGS = (1, 2)

Leaf = tuple[bytes, bytes]
"""Index and value hash, 32 bytes each."""


def prefix(index: bytes, depth: int) -> bytes:
    """The index with all bits from ``depth`` on cleared."""
    kept = int.from_bytes(index, "big") >> (DEPTH_MAX - depth) << (DEPTH_MAX - depth)
    return kept.to_bytes(HASH_SIZE, "big")


def path_key(index: bytes, depth: int) -> bytes:
    """The record key of the inner node at ``depth`` (0 to 255) on the way to ``index``."""
    return bytes([depth]) + prefix(index, depth)[: (depth + 7) // 8]


@dataclass(frozen=True, slots=True)
class Child:
    """One side of an inner node. ``hash`` (32) is zeros when nothing is below."""

    hash: bytes
    is_leaf: bool


@dataclass(frozen=True, slots=True)
class MapNode:
    """An inner node of the map: its two children."""

    left: Child
    right: Child

    def digest(self) -> bytes:
        """The node's hash (32)."""
        return map_node(self.left.hash, self.right.hash)

    def encode(self) -> bytes:
        """The node's record (65 bytes)."""
        flags = self.left.is_leaf * _LEAF_FLAGS[0] + self.right.is_leaf * _LEAF_FLAGS[1]
        return bytes([flags]) + self.left.hash + self.right.hash


def decode_node(record: bytes | None) -> MapNode:
    """Undo ``MapNode.encode``; None is a node without children."""
    record = record or _EMPTY_NODE
    flags, left, right = record[0], record[1 : 1 + HASH_SIZE], record[1 + HASH_SIZE :]
    return MapNode(
        Child(left, bool(flags & _LEAF_FLAGS[0])), Child(right, bool(flags & _LEAF_FLAGS[1]))
    )


def record_digest(record: bytes) -> bytes:
    """The hash (32) of a record's node, without decoding it: on the path of every look-up."""
    return map_node(record[1 : 1 + HASH_SIZE], record[1 + HASH_SIZE :])


@dataclass(frozen=True, slots=True)
class MapTree:
    """The map as it is stored. ``node(key)`` gives a record or None. ``leaf(index, depth)`` gives
    the only leaf whose index shares ``depth`` bits with ``index``."""

    node: Callable[[bytes], bytes | None]
    leaf: Callable[[bytes, int], Leaf]

    def root(self) -> bytes:
        """The hash (32) of the map's root."""
        record = self.node(path_key(ZERO, 0))
        return EMPTY_MAP if record is None else record_digest(record)

    def update(self, leaves: Mapping[bytes, bytes]) -> tuple[bytes, dict[bytes, bytes]]:
        """The root's hash and the records that change when these indexes (32) get these value
        hashes (32)."""
        records: dict[bytes, bytes] = {}
        if not leaves:
            return self.root(), records
        root = self._set(0, sorted(leaves.items()), self.node(path_key(ZERO, 0)), records)
        return root, records

    def check_root(self, root: bytes) -> None:
        """Raises StoreError unless this (32) is the root's hash."""
        if self.root() != root:
            raise StoreError("the map of names is damaged", DAMAGED)

    def _inner(self, index: bytes, depth: int, hash: bytes) -> bytes:
        """The record of the inner node with this hash, at ``depth`` on the way to ``index``."""
        record = self.node(path_key(index, depth))
        if record is None or record_digest(record) != hash:
            raise StoreError("the map of names is damaged", DAMAGED)
        return record

    def _only(self, index: bytes, depth: int, hash: bytes) -> Leaf:
        """The leaf with this hash under the first ``depth`` bits."""
        leaf = self.leaf(index, depth)
        if map_leaf(*leaf) != hash:
            raise StoreError("the map of names is damaged", DAMAGED)
        return leaf

    def prove(self, index: bytes) -> MapProof:
        """The proof of what the map has at ``index`` (32)."""
        siblings = []
        record = self.node(path_key(index, 0)) or _EMPTY_NODE
        for depth in range(DEPTH_MAX):
            found, sibling = record[1 : 1 + HASH_SIZE], record[1 + HASH_SIZE :]
            side = bit(index, depth)
            if side:
                found, sibling = sibling, found
            siblings.append(sibling)
            if found == ZERO:
                return MapProof(tuple(siblings), Terminal.EMPTY)
            if record[0] & _LEAF_FLAGS[side]:
                other, value = self._only(index, depth + 1, found)
                if other == index:
                    return MapProof(tuple(siblings), Terminal.HERE)
                return MapProof(tuple(siblings), Terminal.OTHER, other, value)
            record = self._inner(index, depth + 1, found)
        raise ValueError("the stored map is deeper than an index")

    def _set(
        self, depth: int, leaves: list[Leaf], record: bytes | None, records: dict[bytes, bytes]
    ) -> bytes:
        """Put sorted ``leaves``, which share ``depth`` bits, under the node there; its hash."""
        at = leaves[0][0]
        node = decode_node(record)
        sides: tuple[list[Leaf], list[Leaf]] = [], []
        for leaf in leaves:
            sides[bit(leaf[0], depth)].append(leaf)
        changed = MapNode(
            self._child(depth + 1, sides[0], node.left, records),
            self._child(depth + 1, sides[1], node.right, records),
        )
        records[path_key(at, depth)] = changed.encode()
        return changed.digest()

    def _child(
        self, depth: int, leaves: list[Leaf], child: Child, records: dict[bytes, bytes]
    ) -> Child:
        if not leaves:
            return child
        at = leaves[0][0]
        record = None
        if child.is_leaf:
            other = self._only(at, depth, child.hash)
            if all(index != other[0] for index, _ in leaves):
                leaves = sorted([*leaves, other])
        elif child.hash != ZERO:
            record = self._inner(at, depth, child.hash)
        if record is None and len(leaves) == 1:
            return Child(map_leaf(*leaves[0]), is_leaf=True)
        return Child(self._set(depth, leaves, record, records), is_leaf=False)
