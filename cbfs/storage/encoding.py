"""Records of the client's store: msgpack arrays of fixed length and types."""

from typing import Any

import msgpack

from cbfs_common.errors import DecodeError

_DAMAGED = (
    "a record of the store is damaged, or of another version of cbfs",
    "use the version that wrote it, or restore an export: cbfs init --restore FILE",
)


def pack(*fields: object) -> bytes:
    """One record."""
    data: bytes = msgpack.packb(fields)
    return data


def unpack(data: bytes, *types: type) -> list[Any]:
    """The fields of a record, which must be of just these types. Raises DecodeError."""
    try:
        fields = msgpack.unpackb(data, use_list=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise DecodeError(*_DAMAGED) from error
    if (
        not isinstance(fields, list)
        or len(fields) != len(types)
        or any(type(field) is not kind for field, kind in zip(fields, types, strict=True))
    ):
        raise DecodeError(*_DAMAGED)
    return fields
