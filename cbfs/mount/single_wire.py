"""What the process of a single conversation's mount and the daemon say to each other over a unix
socket. Pure.

A frame is its length (u32, big-endian) and a msgpack array: [number, word, arguments] asks,
[number, errno, result] answers. Number 0 asks for no answer. Paths and names are bytes; a stat is
an array of the fields of ``STAT``, in its order; times are nanoseconds.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from cbfs_common.errors import DecodeError

SOCKET: Final = "windows"
"""The daemon's socket, in the account directory."""

CREDENTIALS: Final = struct.Struct("3i")
"""What SO_PEERCRED gives of who is at the other end: process, user, group."""

FRAME_MAX: Final = 2 << 20
"""Bytes of a frame: a write of the kernel's (at most 1 MiB) and what goes with it."""

STAT: Final = (
    *("st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blksize", "st_blocks"),
    *("st_atime_ns", "st_mtime_ns", "st_ctime_ns", "entry_timeout", "attr_timeout"),
)
STATVFS: Final = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree")

LOOK: Final = "look"
"""[conversation]: which one this connection is about. The errno is 0, or EINVAL with a result of
[error, hint]."""

MOUNTED: Final = "mounted"
"""[mountpoint, st_dev]: it answers from now on; answered when changes are shown there."""

ARGUMENTS: Final[dict[str, tuple[type, ...]]] = {
    LOOK: (str,),
    MOUNTED: (bytes, int),
    "lookup": (int, bytes, int),  # parent, name, thread
    "forget": (list,),  # [inode, count] each; not answered
    "getattr": (int,),
    "setattr": (int, list),  # inode, [uid, gid, size, mode, mtime], nil for what stays
    "mkdir": (int, bytes, int, int),  # parent, name, mode, thread
    "symlink": (int, bytes, bytes, int),  # parent, name, target, thread
    "readlink": (int,),
    "link": (int, int, bytes),  # inode, parent, name
    "unlink": (int, bytes, int),
    "rmdir": (int, bytes),
    "rename": (int, bytes, int, bytes, int, int),  # from, to, flags, thread
    "opendir": (int,),
    "list": (int, int),  # handle, place; gives [place, name, stat] each
    "listed": (int, int),  # handle, how many of those were taken; not answered
    "releasedir": (int,),
    "create": (int, bytes, int, int, int),  # parent, name, mode, flags, thread
    "open": (int, int, int),  # inode, flags, thread; gives [handle, direct, keep]
    "read": (int, int, int),
    "write": (int, int, bytes),
    "flush": (int,),
    "fsync": (int,),
    "release": (int,),
    "statfs": (),
    "getxattr": (int, bytes),
    "listxattr": (int,),
}
"""The words, with the types of their arguments."""

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class SingleRequest:
    """A request of the kernel's, passed on. ``arguments`` are of the types that ``ARGUMENTS`` has
    for ``word``; number 0 asks for no answer."""

    number: int
    word: str
    arguments: list[Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """To the request of that number. ``errno`` is 0 for success."""

    number: int
    errno: int
    result: Any


def frame(*fields: object) -> bytes:
    """One frame."""
    data: bytes = msgpack.packb(fields)
    return _LENGTH.pack(len(data)) + data


def read_request(data: bytes) -> SingleRequest:
    """The request in one frame. Raises DecodeError."""
    match _fields(data):
        case [int(number), str(word), list(arguments)] if number >= 0 and _fit(word, arguments):
            return SingleRequest(number, word, arguments)
    raise DecodeError("a wrong request")


def read_answer(data: bytes) -> Answer:
    """The answer in one frame. Raises DecodeError."""
    match _fields(data):
        case [int(number), int(number_of_error), result]:
            return Answer(number, number_of_error, result)
    raise DecodeError("a wrong answer")


def _fit(word: str, arguments: list[Any]) -> bool:
    types = ARGUMENTS.get(word)
    if types is None or [type(argument) for argument in arguments] != list(types):
        return False
    if word == "forget":
        return all(
            isinstance(each, list) and [type(part) for part in each] == [int, int]
            for each in arguments[0]
        )
    if word == "setattr":
        values = arguments[1]
        return len(values) == 5 and all(v is None or type(v) is int for v in values)
    return True


def _fields(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, use_list=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise DecodeError("a wrong frame") from error


class Frames:
    """Cuts what comes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def add(self, data: bytes | bytearray) -> Iterator[bytes]:
        """The frames that are whole now. Raises DecodeError for one beyond FRAME_MAX."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > FRAME_MAX:
                raise DecodeError("a frame that is too long")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            whole = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield whole
