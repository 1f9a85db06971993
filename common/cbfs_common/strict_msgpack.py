"""MessagePack as the protocol has it: one encoding for each value, and no other is read.

Everything that somebody else has encoded is read here: requests and replies of both servers, what
verifiers tell each other, bodies of messages, tables of folders. The formats above it check types.
"""

from types import NoneType
from typing import Any

import msgpack

from cbfs_common.errors import DecodeError

_PACKER = msgpack.Packer()
_TYPES = frozenset((int, bytes, str, bool, NoneType))


def unpack(data: bytes, wrong: str, longest: int) -> Any:
    """The value that ``data`` encodes: integers, bytes, strings, booleans, None, and lists of up to
    ``longest`` of them. Raises DecodeError, which says ``wrong``, for what is not one whole value,
    for maps, extensions and floating point, and for any encoding that is longer than it need be."""
    try:
        value = msgpack.unpackb(
            data, use_list=True, max_array_len=longest, max_map_len=0, max_ext_len=0
        )
        right = _is_plain(value) and _PACKER.pack(value) == data
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise DecodeError(wrong) from error
    if not right:
        raise DecodeError(wrong)
    return value


def _is_plain(value: Any) -> bool:
    if type(value) is not list:
        return type(value) in _TYPES
    return _TYPES.issuperset(map(type, value)) or all(map(_is_plain, value))
