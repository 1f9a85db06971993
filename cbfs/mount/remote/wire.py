"""What a mount on another machine and the hub, the daemon that has the account, say to each other.

Frames are those of ``cbfs.mount.single.wire``, over standard input and output of ``cbfs serve``.
Everything is named by its path, and nothing is kept between two requests: a link that ends, or a
hub that begins anew, leaves nothing to be found again. Number 0 from the hub is news: [word, ...].
Some answers come in several frames, each [more, ...]: the last has ``more`` False.

A stat is an array of the fields of ``Stat``, in their order.
"""

from typing import Any, Final, NamedTuple

import msgpack

from cbfs.mount.single.wire import Answer, SingleRequest
from cbfs_common.errors import DecodeError

VERSION: Final = 1
"""Of this protocol. Both sides must have the same."""

ID_SIZE: Final = 16
"""Bytes of the id under which a file is handed over."""

PART: Final = 256 * 1024
"""Bytes of a file in one frame, at most."""

PATH_MAX: Final = 4_096
PATH_NAMES_MAX: Final = 64
"""Bytes of a path, and names in it."""

TAKEN_MAX: Final = 1_024
"""Ids in one ``taken``."""

ARGUMENTS: Final[dict[str, tuple[type, ...]]] = {
    "hello": (int,),  # version; gives [version, time]
    "ping": (),  # gives the time (nanoseconds)
    "stat": (bytes,),
    "list": (bytes,),  # in several frames: [more, [name, stat] each]
    # path, offset, size; in several frames: [more, stat, bytes], the stat of what is read
    "fetch": (bytes, int, int),
    "readlink": (bytes,),
    "xattrs": (bytes,),  # gives {name: value}
    "statfs": (),
    "seen": (bytes,),  # somebody has read it to its end; not answered
    "mkdir": (bytes, int),  # path, mode
    "rmdir": (bytes,),
    "unlink": (bytes,),
    "rename": (bytes, bytes, bool),  # whether it may replace
    "symlink": (bytes, bytes),  # path, target
    "describe": (bytes, list),  # path, [mode, mtime], nil for what stays
    "part": (bytes, int, bytes),  # id, offset, content; not answered
    # id, path, mode, mtime or 0, size, conversation or empty, whether it may replace; gives
    # [name, stat], or nothing where that id is known
    "put": (bytes, bytes, int, int, int, bytes, bool),
    "taken": (list,),  # ids that need not be remembered any more; not answered
}
"""The words, with the types of their arguments."""

UNANSWERED: Final = frozenset(("seen", "part", "taken"))

APPEARS, GOES, MOVES, STALE, OUTDATED = "appears", "goes", "moves", "stale", "outdated"
NEWS: Final[dict[str, tuple[type, ...]]] = {
    APPEARS: (bytes, list),  # path, stat
    GOES: (bytes,),  # path
    MOVES: (bytes, bytes),  # path, its new name
    STALE: (int,),  # the content of that inode of the hub's has changed
    OUTDATED: (int, bytes),  # nothing has that name any more in the folder of that inode
}
"""What the hub says by itself, with the types of what goes with it."""


class Stat(NamedTuple):
    """What is told of a file. ``inode`` is the hub's number; times are nanoseconds. ``fixed``: its
    content is the same for ever. ``conversation``: of a folder whose files go to one, its id."""

    inode: int
    mode: int
    links: int
    size: int
    accessed: int
    modified: int
    changed: int
    fixed: bool
    conversation: bytes

    @property
    def version(self) -> tuple[int, int, int, int]:
        """Another one for any other content."""
        return self.inode, self.size, self.modified, self.changed


_STAT_TYPES = (int, int, int, int, int, int, int, bool, bytes)
_MOST = 1 << 63


def decode_stat(value: Any) -> Stat:
    """What was sent. Raises DecodeError."""
    if type(value) is not list or tuple(map(type, value)) != _STAT_TYPES:
        raise DecodeError("a wrong stat")
    stat = Stat._make(value)
    inode, mode, links, size, *times = value[:7]
    if not (0 <= inode < _MOST and 0 <= mode < 1 << 16 and 0 <= links < 1 << 31):
        raise DecodeError("a wrong stat")
    if not 0 <= size < _MOST or any(not -_MOST <= each < _MOST for each in times):
        raise DecodeError("a wrong stat")
    return stat


def read_hub_request(data: bytes) -> SingleRequest:
    """The request in one frame. Raises DecodeError."""
    match _unpacked(data):
        case [int(number), str(word), list(arguments)] if number >= 0 and _fit(word, arguments):
            return SingleRequest(number, word, arguments)
    raise DecodeError("a wrong request")


def read_hub_answer(data: bytes) -> Answer:
    """What the hub says, in one frame. Raises DecodeError."""
    match _unpacked(data):
        case [int(number), int(error), result] if number >= 0 and 0 <= error < _ERRNO_MAX:
            if number == 0 and not error:
                _check_news(result)
            return Answer(number, error, result)
    raise DecodeError("a wrong answer")


_ERRNO_MAX = 4_096


def _check_news(news: Any) -> None:
    if not isinstance(news, list) or not news or not isinstance(news[0], str):
        raise DecodeError("wrong news")
    types = NEWS.get(news[0])
    if types is None or [type(each) for each in news[1:]] != list(types):
        raise DecodeError("wrong news")


def _fit(word: str, arguments: list[Any]) -> bool:
    types = ARGUMENTS.get(word)
    if types is None or [type(argument) for argument in arguments] != list(types):
        return False
    if word == "taken":
        ids = arguments[0]
        return len(ids) <= TAKEN_MAX and all(type(i) is bytes and len(i) == ID_SIZE for i in ids)
    if word in {"part", "put"} and len(arguments[0]) != ID_SIZE:
        return False
    if word == "describe":
        return len(arguments[1]) == 2 and all(v is None or type(v) is int for v in arguments[1])
    return True


def parts_of(path: bytes) -> tuple[bytes, ...]:
    """The names in a path; none for the root. Raises DecodeError for what is no path of ours."""
    if not path:
        return ()
    parts = tuple(path.split(b"/"))
    if len(path) > PATH_MAX or len(parts) > PATH_NAMES_MAX:
        raise DecodeError("a path that is too long")
    if any(part in {b"", b".", b".."} or b"\0" in part for part in parts):
        raise DecodeError("a wrong path")
    return parts


def stays_inside(path: bytes, target: bytes) -> bool:
    """Whether a symbolic link at ``path`` with this target leads to a place in the same mount."""
    if target.startswith(b"/") or b"\0" in target:
        return False
    depth = path.count(b"/")
    for part in target.split(b"/"):
        depth += (part not in {b"", b".", b".."}) - (part == b"..")
        if depth < 0:
            return False
    return True


def is_name(name: bytes) -> bool:
    """Whether something may be called so."""
    wrong = name in {b"", b".", b".."} or b"/" in name or b"\0" in name
    return not wrong and len(name) <= PATH_MAX


def _unpacked(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, use_list=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise DecodeError("a wrong frame") from error
