"""Proofs in the directory's two trees, the log of rounds and the map of names. PROTOCOL.rst, Names:
log, map.

The log is the tree of RFC 9162, 2.1 (that of RFC 6962), with SHA-256.

The map is a binary prefix tree over 32-byte indexes, most significant bit first. A leaf sits at its
shortest unique prefix, at depth 1 to 256; the root is always a node; a missing child is 32 zeros.
"""

from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

from cbfs_common.errors import DecodeError
from cbfs_common.names.layout import HASH_SIZE, LOG_LEAF, LOG_NODE, MAP_LEAF, MAP_NODE, ZERO, Fields

# The log

PROOF_MAX = 64
"""Hashes in one proof: the log has less than 2^64 leaves."""

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    """Hash (32) of a leaf's bytes."""
    return sha256(LOG_LEAF + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash (32) of two subtrees."""
    return sha256(LOG_NODE + left + right).digest()


def includes(index: int, size: int, leaf: bytes, proof: tuple[bytes, ...], root: bytes) -> bool:
    """Whether the leaf with hash ``leaf`` is number ``index`` of the ``size`` leaves under
    ``root``. RFC 9162, 2.1.3.2."""
    if not 0 <= index < size or len(proof) > PROOF_MAX:
        return False
    at, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            found = node_hash(found, sibling)
        at >>= 1
        last >>= 1
    return last == 0 and found == root


def extends(
    old_size: int, size: int, old_root: bytes, root: bytes, proof: tuple[bytes, ...]
) -> bool:
    """Whether the tree of ``size`` leaves only adds to the one of ``old_size`` (at least 1).
    RFC 9162, 2.1.4.2."""
    if not 0 < old_size <= size or len(proof) > PROOF_MAX:
        return False
    if old_size == size:
        return not proof and old_root == root
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    at, last = old_size - 1, size - 1
    while at & 1:
        at >>= 1
        last >>= 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        at >>= 1
        last >>= 1
    return last == 0 and old == old_root and new == root


# The map

DEPTH_MAX = 256


class Terminal(IntEnum):
    """What is at the end of a path in the map."""

    EMPTY = 0
    HERE = 1
    OTHER = 2


MAP_PROOF_MAX = 2 + DEPTH_MAX // 8 + DEPTH_MAX * HASH_SIZE + 1 + 2 * HASH_SIZE


def map_leaf(index: bytes, value: bytes) -> bytes:
    """Hash (32) of a leaf: index and value hash, 32 each."""
    return sha256(MAP_LEAF + index + value).digest()


def map_node(left: bytes, right: bytes) -> bytes:
    """Hash (32) of an inner node; a missing child is zeros."""
    return sha256(MAP_NODE + left + right).digest()


EMPTY_MAP = map_node(ZERO, ZERO)
"""Root (32) of a map without names."""


def bit(index: bytes, depth: int) -> int:
    """Bit ``depth`` of an index, 0 the most significant."""
    return index[depth >> 3] >> (7 - (depth & 7)) & 1


def shared(one: bytes, other: bytes) -> int:
    """How many leading bits two indexes share."""
    difference = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
    return DEPTH_MAX - difference.bit_length()


@dataclass(frozen=True, slots=True)
class MapProof:
    """``siblings``: one for each level from the root down, zeros where there is none. Of
    Terminal.OTHER, ``other_index`` and ``other_value`` are the leaf's that is there instead."""

    siblings: tuple[bytes, ...]
    terminal: Terminal
    other_index: bytes = b""
    other_value: bytes = b""

    def encode(self) -> bytes:
        """depth u16 | bitmap | siblings that are not zeros | terminal u8 | [index | value]."""
        depth = len(self.siblings)
        bitmap = 0
        for sibling in self.siblings:
            bitmap = bitmap << 1 | (sibling != ZERO)
        size = (depth + 7) // 8
        return (
            depth.to_bytes(2, "big")
            + (bitmap << (8 * size - depth)).to_bytes(size, "big")
            + b"".join(sibling for sibling in self.siblings if sibling != ZERO)
            + bytes([self.terminal])
            + self.other_index
            + self.other_value
        )

    def proves(self, root: bytes, index: bytes, value: bytes | None) -> bool:
        """Whether under ``root`` the index has this value hash (32), or None: nothing."""
        depth = len(self.siblings)
        if (value is not None) != (self.terminal is Terminal.HERE):
            return False
        if value is not None:
            found = map_leaf(index, value)
        elif self.terminal is Terminal.OTHER:
            if self.other_index == index or shared(self.other_index, index) < depth:
                return False
            found = map_leaf(self.other_index, self.other_value)
        else:
            found = ZERO
        path = int.from_bytes(index, "big") >> (DEPTH_MAX - depth)
        for sibling in reversed(self.siblings):
            pair = sibling + found if path & 1 else found + sibling
            found = sha256(MAP_NODE + pair).digest()
            path >>= 1
        return found == root


def decode_map_proof(data: bytes) -> MapProof:
    """Undo ``MapProof.encode``. Raises DecodeError, also for what no proof may say: a depth out
    of range, spare bits, a sibling of zeros, bytes left over, and an only child below the root
    (which would sit higher)."""
    fields = Fields(data, "a map proof")
    depth = fields.number(2)
    if not 1 <= depth <= DEPTH_MAX:
        raise fields.error()
    size = (depth + 7) // 8
    bitmap = fields.number(size)
    spare = 8 * size - depth
    if bitmap & ((1 << spare) - 1):
        raise fields.error()
    bitmap >>= spare
    if depth > 1 and not bitmap & 1:
        raise fields.error()
    siblings = []
    for level in range(depth - 1, -1, -1):
        sibling = fields.take(HASH_SIZE) if bitmap >> level & 1 else ZERO
        if bitmap >> level & 1 and sibling == ZERO:
            raise fields.error()
        siblings.append(sibling)
    terminal, other = _terminal(fields)
    fields.end()
    return MapProof(tuple(siblings), terminal, *other)


def _terminal(fields: Fields) -> tuple[Terminal, tuple[bytes, ...]]:
    try:
        terminal = Terminal(fields.number(1))
    except ValueError as error:
        raise DecodeError("not a map proof") from error
    return terminal, fields.hashes(2) if terminal is Terminal.OTHER else ()
