"""What may be done where. Pure data: a directory's ``area`` decides, by ``RULES``.

A new kind of directory is a new ``Area`` with its line in ``RULES``; nothing else asks what an
area is, but for the outbox's rule of sending.
"""

import errno
from dataclasses import dataclass
from enum import Enum


class TreeError(Exception):
    """An operation that is refused; ``errno`` says why."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


class Area(Enum):
    """What a directory is for."""

    FIXED = "fixed"  # nothing: the daemon alone puts something there
    CONVERSATION = "conversation"  # read, delete
    OUTBOX = "outbox"  # make folders
    DRAFTS = "drafts"  # a folder of the outbox: files are messages
    SCRATCH = "scratch"  # tmp/: anything, until unmount
    KEPT = "kept"  # ui_info/: anything, for good


@dataclass(frozen=True, slots=True)
class Rules:
    """0 where something is allowed, else the errno of its refusal. ``files``: make files and
    symbolic links, move and remove them. ``folders``: make and move folders; what is made there
    is of the area ``inside``."""

    files: int
    folders: int
    inside: Area


RULES = {
    Area.FIXED: Rules(errno.EACCES, errno.EACCES, Area.FIXED),
    Area.CONVERSATION: Rules(errno.EACCES, errno.EACCES, Area.CONVERSATION),
    Area.OUTBOX: Rules(errno.EACCES, 0, Area.DRAFTS),
    Area.DRAFTS: Rules(0, errno.EPERM, Area.DRAFTS),
    Area.SCRATCH: Rules(0, 0, Area.SCRATCH),
    Area.KEPT: Rules(0, 0, Area.KEPT),
}


def check(number: int) -> None:
    """Raise TreeError for a rule that is not 0."""
    if number:
        raise TreeError(number)
