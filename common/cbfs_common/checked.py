"""Records of the servers' stores with a check value behind them, against sick disks.

LMDB has no checks of its own: what a disk has changed it gives back as it is. A server must know,
since it answers for what it gives out, and since a verifier must not sign what follows from it.
Not against attackers: they can make the check value too.
"""

from zlib import crc32

from cbfs_common.errors import DecodeError

CHECK_SIZE = 4


def with_check(table: bytes, key: bytes, value: bytes) -> bytes:
    """The value and a CRC-32 (4 bytes) of table, key and value."""
    return value + _check(table, key, value)


def without_check(table: bytes, key: bytes, data: bytes) -> bytes:
    """Undo ``with_check``. Raises DecodeError when it is not what was written there."""
    value = data[:-CHECK_SIZE]
    if len(data) < CHECK_SIZE or data[-CHECK_SIZE:] != _check(table, key, value):
        raise DecodeError("a record of the store is damaged")
    return value


def _check(table: bytes, key: bytes, value: bytes) -> bytes:
    return crc32(value, crc32(key, crc32(table))).to_bytes(CHECK_SIZE, "big")
