"""What tells a file from any copy of it, be it in the same place and under the same name.

A file system gives the number of an inode again when its file is gone: on ext4 a store that is put
back from a backup has, nearly always, the number of the one that it replaces. The inode's
generation and the time of its birth are new then.
"""

import ctypes
import fcntl
import os
import struct
from dataclasses import astuple, dataclass
from pathlib import Path

from cbfs_common.errors import DecodeError

_IDENTITY = struct.Struct(">QQQ")
_GET_VERSION = 0x80007601 | struct.calcsize("l") << 16
"""FS_IOC_GETVERSION of ioctl_iflags(2), ``_IOR('v', 1, long)``."""

_STATX_SIZE = 256
_EMPTY_PATH, _BTIME = 0x1000, 0x800
_MASK = struct.Struct("=I")
_BORN = struct.Struct("=qI")
_BORN_AT = 80
"""Of struct statx, of statx(2): its size, and where the time of birth is in it."""


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Of a file: its inode's number and generation, and when it was born, in nanoseconds since
    1970. What the file system does not tell is 0."""

    inode: int
    generation: int
    born: int

    def encode(self) -> bytes:
        """inode u64 | generation u64 | born u64."""
        return _IDENTITY.pack(self.inode, self.generation, self.born)

    def may_be(self, other: "FileIdentity") -> bool:
        """Whether these are of one file, by all that is known of both."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return all(a == b or not a or not b for a, b in pairs)


def decode_identity(data: bytes) -> FileIdentity:
    """Undo ``FileIdentity.encode``. Raises DecodeError."""
    if len(data) != _IDENTITY.size:
        raise DecodeError("what is known of the store's file is damaged")
    return FileIdentity(*_IDENTITY.unpack(data))


def identity_of(path: Path) -> FileIdentity:
    """What the file at ``path`` is told by. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        inode = os.fstat(descriptor).st_ino
        return FileIdentity(inode, _generation(descriptor), _born(descriptor))
    finally:
        os.close(descriptor)


def _generation(descriptor: int) -> int:
    """The inode's, a u32, or 0 where the file system has none."""
    try:
        answer = fcntl.ioctl(descriptor, _GET_VERSION, bytes(8))
    except OSError:
        return 0
    generation: int = struct.unpack_from("=I", answer)[0]  # an int, whatever the number says
    return generation


def _born(descriptor: int) -> int:
    """When the inode was made, or 0 where the file system does not say."""
    statx = getattr(ctypes.CDLL(None), "statx", None)
    answer = ctypes.create_string_buffer(_STATX_SIZE)
    if statx is None or statx(descriptor, b"", _EMPTY_PATH, _BTIME, answer) != 0:
        return 0
    if not _MASK.unpack_from(answer)[0] & _BTIME:
        return 0
    seconds, nanoseconds = _BORN.unpack_from(answer, _BORN_AT)
    return max(0, int(seconds) * 1_000_000_000 + int(nanoseconds))
