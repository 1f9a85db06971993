"""Records of the client's store: msgpack arrays of fixed length and types."""

from typing import Any, TypeVar

import msgpack

from cbfs_common.errors import DecodeError

K = TypeVar("K")
V = TypeVar("V")

_DAMAGED = (
    "a record of the store is damaged, or of another version of cbfs",
    "use the version that wrote it, or restore an export: cbfs init --restore FILE",
)


def pack(*fields: object) -> bytes:
    """One record, of these fields."""
    data: bytes = msgpack.packb(fields)
    return data


def unpack(data: bytes, *types: type) -> list[Any]:
    """The fields of a record, which must be of just these types. Raises DecodeError."""
    try:
        fields = msgpack.unpackb(data, use_list=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise DecodeError(*_DAMAGED) from error
    if not isinstance(fields, list) or tuple(map(type, fields)) != types:
        raise DecodeError(*_DAMAGED)
    return fields


def unpack_map(found: dict[Any, Any], key: type[K], value: type[V]) -> dict[K, V]:
    """A field that is a map, whose keys and values must be of just these types. Raises
    DecodeError."""
    if any(type(k) is not key or type(v) is not value for k, v in found.items()):
        raise DecodeError(*_DAMAGED)
    return found


def u32(number: int) -> bytes:
    """4 bytes, big-endian, so that keys sort as numbers."""
    return number.to_bytes(4, "big")


def u64(number: int) -> bytes:
    """8 bytes, big-endian, so that keys sort as numbers."""
    return number.to_bytes(8, "big")


def number_of(data: bytes | None) -> int:
    """The number that ``u32`` or ``u64`` wrote, 0 where there is no record."""
    return int.from_bytes(data or b"", "big")
