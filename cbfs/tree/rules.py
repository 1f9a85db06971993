"""What may be done where. Pure data: a directory's ``area`` decides, by ``RULES``.

A new kind of directory is a new ``Area`` with its line in ``RULES``; nothing else asks what an
area is, but for the outbox's rule of sending.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from cbfs.messages.file_names import ERROR_SUFFIX
from cbfs.outbox.rule import is_scratch

CONFIG = "config.toml"
CONFIG_ERROR = CONFIG + ERROR_SUFFIX
VERIFIED, ACCEPTED, BLOCKED, MUTED = "verified", "accepted", "blocked", "muted"
"""What a user writes into the folder of a contact."""

_DECISIONS = frozenset((VERIFIED, ACCEPTED, BLOCKED, MUTED))


class TreeError(Exception):
    """An operation that is refused; ``errno`` says why."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


class Area(Enum):
    """What a directory is for."""

    FIXED = "fixed"  # nothing: the daemon alone puts something there
    ROOT = "root"  # the same, but for config.toml and what editors put beside it
    CONVERSATION = "conversation"  # read, delete
    OUTBOX = "outbox"  # make folders
    DRAFTS = "drafts"  # a folder of the outbox: files are messages
    PARCEL = "parcel"  # a folder moved in there: one message
    REQUESTS = "requests"  # move a request to contacts/, or remove it
    REQUEST = "request"  # a folder of requests/: decisions too
    CONTACT = "contact"  # a folder of contacts/: decisions, see cbfs.tree.virtual.people_folders
    SCRATCH = "scratch"  # tmp/: anything, until unmount
    KEPT = "kept"  # ui_info/: anything, for good


def _any(_name: str) -> bool:
    return True


def _of_config(name: str) -> bool:
    """config.toml, and the swap, backup, lock and scratch files of programs that save it."""
    return name != CONFIG_ERROR and (name.startswith(CONFIG) or is_scratch(name))


@dataclass(frozen=True, slots=True)
class Rules:
    """0 where something is allowed, else the errno of its refusal. ``files``: make files and
    symbolic links, move and remove them, if they have a name that ``names`` says yes to.
    ``folders``: move folders there, and unless ``mkdir`` says otherwise make them; they are of the
    area ``inside``."""

    files: int
    folders: int
    inside: Area
    names: Callable[[str], bool] = _any
    mkdir: int = 0


PERSON = frozenset((Area.REQUEST, Area.CONTACT))
"""The folders of people."""

RULES = {
    Area.FIXED: Rules(errno.EACCES, errno.EACCES, Area.FIXED),
    Area.ROOT: Rules(0, errno.EACCES, Area.FIXED, _of_config),
    Area.CONVERSATION: Rules(errno.EACCES, errno.EACCES, Area.CONVERSATION),
    Area.OUTBOX: Rules(errno.EACCES, 0, Area.DRAFTS),
    # moved in, a folder is whole; of one that is made and filled, nobody could tell when it is
    Area.DRAFTS: Rules(0, 0, Area.PARCEL, mkdir=errno.EPERM),
    Area.PARCEL: Rules(0, 0, Area.PARCEL),
    Area.REQUESTS: Rules(errno.EACCES, errno.EACCES, Area.FIXED),
    Area.REQUEST: Rules(0, errno.EACCES, Area.FIXED, _DECISIONS.__contains__),
    Area.CONTACT: Rules(0, errno.EACCES, Area.FIXED, _DECISIONS.__contains__),
    Area.SCRATCH: Rules(0, 0, Area.SCRATCH),
    Area.KEPT: Rules(0, 0, Area.KEPT),
}


def file_rule(area: Area, name: str) -> int:
    """The rule for a file or symbolic link of that name: 0 or an errno."""
    rules = RULES[area]
    return rules.files or (0 if rules.names(name) else errno.EACCES)


def check(number: int) -> None:
    """Raise TreeError for a rule that is not 0."""
    if number:
        raise TreeError(number)
