"""What a mount on another machine and the hub, the daemon that has the account, say to each other.

Frames are those of ``cbfs.mount.single.wire``, over standard input and output of ``cbfs serve``.
Everything is named by its path, and nothing is kept between two requests: a link that ends, or a
hub that begins anew, leaves nothing to be found again. Number 0 from the hub is news: [word, ...].
Some answers come in several frames, each [more, ...]: the last has ``more`` False.

A stat is an array of the fields of ``Stat``, in their order.
"""

from errno import EILSEQ, EINVAL, ENAMETOOLONG
from stat import S_IFDIR, S_IFLNK, S_IFREG, S_ISUID, S_ISVTX
from stat import S_IFMT as _S_IFMT
from typing import Any, Final, NamedTuple

import msgpack

from cbfs.mount.single.wire import Answer, SingleRequest
from cbfs.tree.rules import TreeError, name_fault
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

BEFORE_MAX: Final = 64
"""Ids of what one file is in the place of."""

REQUEST_PART_MAX: Final = 16_384
"""Bytes of a path, or of any other argument but the content of a file: as long as paths are that a
kernel can ask for."""

PIECE_MAX: Final = 512 * 1024
"""Bytes of a frame from the hub: a part of a file, or LISTED_AT_ONCE entries."""

ARGUMENTS: Final[dict[str, tuple[type, ...]]] = {
    # version, id of the mount: of those of the same mount, earlier links are over when this is
    # answered; gives [version, time, id of the account, or of the conversation]
    "hello": (int, bytes),
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
    "part": (bytes, int, bytes),  # id, offset, content; gives how many bytes are there, in order
    "upload": (bytes,),  # id; gives how many bytes are there, nil where that id is known
    # id, path, mode, mtime or 0, size, conversation or empty, whether it may replace, the ids of
    # what it is in the place of; gives [name, stat], or nothing where that id is known
    "put": (bytes, bytes, int, int, int, bytes, bool, bytes),
    "taken": (list,),  # ids that need not be remembered any more; not answered
    # ids in a row: what they have become is to be a draft no more, and what comes under them is
    # ECANCELED; gives the ids, in a row, of what was sent, or removed, before
    "withdraw": (bytes,),
}
"""The words, with the types of their arguments."""

UNANSWERED: Final = frozenset(("seen", "taken"))

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
    content is the same for ever. ``conversation``: of a folder whose files go to one, its id; of a
    draft, what tells it from all others, for ever."""

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
_KINDS = frozenset((S_IFREG, S_IFDIR, S_IFLNK))
_OF_OTHERS = S_ISUID | S_ISVTX  # what runs as somebody else: nothing there does


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
    if _S_IFMT(mode) not in _KINDS or len(value[8]) not in {0, ID_SIZE}:
        raise DecodeError("a wrong stat")
    return stat._replace(mode=mode & ~_OF_OTHERS)


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
    word, *rest = news
    types = NEWS.get(word)
    if types is None or [type(each) for each in rest] != list(types):
        raise DecodeError("wrong news")
    if word in {APPEARS, GOES, MOVES}:
        parts = parts_of(rest[0])
        if not parts:
            raise DecodeError("news of the root, which stays")
        if not all(map(is_name, parts)):
            raise DecodeError("wrong news")
    if word in {MOVES, OUTDATED} and not is_name(rest[1]):
        raise DecodeError("wrong news")
    if word == APPEARS:
        decode_stat(rest[1])


def _fit(word: str, arguments: list[Any]) -> bool:
    types = ARGUMENTS.get(word)
    if types is None or [type(argument) for argument in arguments] != list(types):
        return False
    most = PART if word == "part" else REQUEST_PART_MAX
    if any(type(each) is bytes and len(each) > most for each in arguments):
        return False
    if word == "taken":
        ids = arguments[0]
        return len(ids) <= TAKEN_MAX and all(type(i) is bytes and len(i) == ID_SIZE for i in ids)
    if word == "hello" and len(arguments[1]) != ID_SIZE:
        return False
    if word in {"part", "put", "upload"} and len(arguments[0]) != ID_SIZE:
        return False
    if word == "withdraw" and not is_ids(arguments[0]):
        return False
    if word == "put" and not is_ids(arguments[7]):
        return False
    if word == "describe":
        return len(arguments[1]) == 2 and all(v is None or type(v) is int for v in arguments[1])
    return True


def parts_of(path: bytes) -> tuple[bytes, ...]:
    """The names in a path; none for the root. Raises DecodeError for what is no path of ours.
    Whether a name is too long, or no text, is for who looks at each: there is an errno for that."""
    if not path:
        return ()
    parts = tuple(path.split(b"/"))
    if len(path) > PATH_MAX or len(parts) > PATH_NAMES_MAX:
        raise DecodeError("a path that is too long")
    if any(name_fault(part) not in {0, ENAMETOOLONG, EILSEQ} for part in parts):
        raise DecodeError("a wrong path")
    return parts


def stays_inside(path: bytes, target: bytes) -> bool:
    """Whether a symbolic link at ``path`` with this target leads to a place in the same mount,
    whatever other links are on the way: ``..`` is followed from where one is by then, so that it
    may only stand at the beginning, where that is the link's own folder."""
    if not target or target.startswith(b"/") or b"\0" in target or len(target) > PATH_MAX:
        return False
    parts = [part for part in target.split(b"/") if part not in {b"", b"."}]
    up = next((at for at, part in enumerate(parts) if part != b".."), len(parts))
    return up <= path.count(b"/") and b".." not in parts[up:]


def link_target(target: bytes) -> str:
    """Where a symbolic link is to lead. Raises TreeError."""
    if not target or b"\0" in target:
        raise TreeError(EINVAL)
    if len(target) > PATH_MAX:
        raise TreeError(ENAMETOOLONG)
    try:
        return target.decode()
    except UnicodeDecodeError as error:
        raise TreeError(EILSEQ) from error


def is_ids(value: bytes) -> bool:
    """Whether it is some ids in a row."""
    return len(value) % ID_SIZE == 0 and len(value) <= BEFORE_MAX * ID_SIZE


def ids_in(value: bytes) -> list[bytes]:
    """The ids in a row."""
    return [value[at : at + ID_SIZE] for at in range(0, len(value), ID_SIZE)]


def is_name(name: bytes) -> bool:
    """Whether something may be called so."""
    return not name_fault(name)


def _unpacked(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, use_list=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise DecodeError("a wrong frame") from error
