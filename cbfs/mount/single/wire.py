"""What the process of a single conversation's mount and the daemon say to each other over a unix
socket, and how it is sent.

A frame is its length (u32, big-endian) and a msgpack array: [number, word, arguments] asks,
[number, errno, result] answers. Number 0 asks for no answer, and answers nobody: its result is what
the kernel is to forget, [inode, name], a name in a folder, or without one what an inode is; or
messages that it is given, [inode, content] each, which may be opened for reading, again and again,
without a question, until they are forgotten. So may one whose content came with an opening. Paths
and names are bytes; a stat is an array of the fields of ``STAT``, in its order; times are
nanoseconds.
"""

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgpack
import trio

from cbfs_common.errors import DecodeError

SOCKET: Final = "windows"
"""The daemon's socket, in the account directory."""

CREDENTIALS: Final = struct.Struct("3i")
"""What SO_PEERCRED gives of who is at the other end: process, user, group."""

OWN_HANDLE: Final = 1 << 62
"""Handles from here on are of openings without a question."""

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

HUB: Final = "hub"
"""[conversation, or empty for the whole mount]: this connection is that of ``cbfs serve``, for a
mount on another machine, and what follows are words of ``cbfs.mount.remote.wire``. It says so from
its own command line, and not who is at the other end of its link. Answered as ``look``."""

MOUNTED: Final = "mounted"
"""[mountpoint, st_dev]: it answers from now on; answered when changes are shown there."""

ARGUMENTS: Final[dict[str, tuple[type, ...]]] = {
    LOOK: (str,),
    HUB: (str,),
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
    # parent, name, mode, flags, thread; gives [what open gives, stat]
    "create": (int, bytes, int, int, int),
    "open": (int, int, int),  # inode, flags, thread; gives [handle, direct, keep, content]
    "opened": (int, int),  # inode, a handle from OWN_HANDLE on: without a question; not answered
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

    def __init__(self, most: int = FRAME_MAX) -> None:
        """``most``: bytes of one."""
        self._buffer = bytearray()
        self._most = most

    def add(self, data: bytes | bytearray) -> Iterator[bytes]:
        """The frames that are whole now. Raises DecodeError for one that is too long."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > self._most:
                raise DecodeError("a frame that is too long")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            whole = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield whole


class FrameSender:
    """Sends frames on ``stream``, in order. What nobody waits for is held until the next that
    somebody does wait for, or until ``push``: so that closing a file is no journey of its own."""

    def __init__(self, stream: trio.abc.SendStream) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        self._held = bytearray()
        self._socket: socket.socket | None = None
        if isinstance(stream, trio.SocketStream):
            self._socket = socket.socket(fileno=os.dup(stream.socket.fileno()))
            self._socket.setblocking(False)

    def hold(self, frame: bytes) -> None:
        """Send this with the next frame."""
        self._held += frame

    @property
    def holds(self) -> bool:
        """Whether anything is to be sent that nobody waits for."""
        return bool(self._held)

    async def push(self) -> None:
        """Send what is held. Raises as ``send``."""
        if self._held:
            await self.send(b"")

    async def send(self, frame: bytes) -> None:
        """Send what is held, and then this. Raises trio.BrokenResourceError or
        trio.ClosedResourceError."""
        data = bytes(self._held) + frame
        self._held.clear()
        if not self._sending.locked():
            data = data[self._at_once(data) :]
            if not data:
                return
        async with self._sending:
            await self._stream.send_all(data)

    def _at_once(self, data: bytes) -> int:
        """Bytes that the connection takes now: nearly always all, and to wait for one's turn of
        the loop would be felt."""
        if self._socket is None:
            return 0
        try:
            return self._socket.send(data)
        except OSError:  # also that there is no room, or nobody any more: the stream tells
            return 0

    def close(self) -> None:
        """Send nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
