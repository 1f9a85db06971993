"""How a record is laid out in LMDB: its slot in the tree of keys, hidden, and what is sealed of it.

    record = (slot u64 | slot u64) XOR pad 16 | Seal(key of the slot, plain, bound)
    plain  = size of its key u16 | size of its secret u8 | key | secret | value
    pad    = KDF(blind key, "cbfs1 slot", the seal's last 16 bytes | bound, 16)

Slots are given out in order: in plain they would say which records were written together. The slot
is there twice so that a flipped bit shows, as a wrong one would take another record's key away.
``bound`` is the record's table and place (``cbfs.storage.tables.place_of``).
"""

import struct

from cbfs.storage.key_tree import KeysDamaged
from cbfs_common.primitives import TAG_SIZE, kdf

HEAD_SIZE = 16
"""Bytes before what is sealed."""

_TWICE = (1 << 64) + 1
"""Times a slot: it as two numbers of 64 bits."""

_SIZES = struct.Struct(">HB")


def pack_plain(key: bytes, secret: bytes, value: bytes) -> bytes:
    """What is sealed of a record."""
    return b"".join((_SIZES.pack(len(key), len(secret)), key, secret, value))


def unpack_plain(plain: bytes) -> tuple[bytes, bytes, bytes]:
    """(key, secret, value): undo ``pack_plain``, of what was authentic, so that it is ours."""
    size, secret_size = _SIZES.unpack_from(plain)
    end = _SIZES.size + size
    after = end + secret_size
    return plain[_SIZES.size : end], plain[end:after], plain[after:]


def head_of(blind_key: bytes, bound: bytes, slot: int, sealed: bytes) -> bytes:
    """What stands before a sealed value: its slot, under a pad that no other record has, nor the
    same one when it is written again."""
    return (slot * _TWICE ^ _pad(blind_key, bound, sealed)).to_bytes(HEAD_SIZE, "big")


def slot_of(blind_key: bytes, bound: bytes, data: bytes) -> int:
    """The slot of a record as it is stored; of ``data`` the head and the end count. Raises
    KeysDamaged."""
    if len(data) < HEAD_SIZE + TAG_SIZE:
        raise KeysDamaged
    twice = int.from_bytes(data[:HEAD_SIZE], "big") ^ _pad(blind_key, bound, data)
    slot = twice >> 64
    if twice != slot * _TWICE:
        raise KeysDamaged
    return slot


def _pad(blind_key: bytes, bound: bytes, sealed: bytes) -> int:
    data = sealed[-TAG_SIZE:] + bound
    return int.from_bytes(kdf(blind_key, b"cbfs1 slot", data, HEAD_SIZE), "big")
