"""Proofs in the map of names. PROTOCOL.rst, Names: map.

A binary prefix tree over 32-byte indexes, most significant bit first. A leaf sits at its
shortest unique prefix, at depth 1 to 256; the root is always a node; a missing child is 32 zeros.
"""

from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

from cbfs_common.errors import DecodeError
from cbfs_common.names.layout import HASH_SIZE, MAP_LEAF, MAP_NODE, ZERO, Fields

DEPTH_MAX = 256


class Terminal(IntEnum):
    """What is at the end of the path."""

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
