"""When a file in the outbox is a finished message. Design: filesystem.md, "When a file is sent".

Pure: what is known of processes comes through ``Processes``. Over 119 recorded save sequences of
30 programs this rule erred in 2.
"""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from cbfs.naming import ERROR_SUFFIX

RECHECK = 0.5
"""Seconds until a file that an editor holds is looked at again."""

CLOCK_RECHECK = 60.0
"""Seconds until a file that its date holds is looked at again: the clock may be set."""

METADATA = "metadata.toml"

_SCRATCH = re.compile(
    r"""\.            # hidden
    | .*~\Z | \#.*\#\Z | ~\$
    | .*\.(tmp|temp|part|partial|crdownload|download|lock|swp|swo|swx|bak|orig|rej|save)\Z
    | DEADJOE\Z | sed[A-Za-z0-9]{6}\Z | XX[A-Za-z0-9]{6}\Z | tmp[A-Za-z0-9_]{6,8}\Z
    | lu[^/]*\.tmp\Z | [0-9]{4,5}\Z""",
    re.VERBOSE,
)

_SCRATCH_FOLDER = re.compile(r"\.|.*~\Z|.*\.(tmp|temp|part|partial)\Z")
"""A folder may well be called 2024, or XXabcdef: no program saves one under such a name."""

_EDITORS = frozenset(
    (
        "vi",
        "vim",
        "vim.basic",
        "vim.tiny",
        "vim.nox",
        "vim.gtk3",
        "view",
        "ex",
        "nvim",
        "nano",
        "pico",
        "micro",
        "ne",
        "joe",
        "jmacs",
        "jstar",
        "jpico",
        "rjoe",
        "emacs",
        "emacs-nox",
        "emacs-gtk",
        "emacs-lucid",
        "emacs-x",
        "emacs-pgtk",
        "mg",
        "zile",
        "jed",
        "kak",
        "hx",
        "helix",
        "mcedit",
        "ed",
        "red",
        "tilde",
        "le",
        "vis",
    )
)

_SWAP_PID = struct.Struct("<I")
_SWAP_PID_OFFSET = 24


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it was when it wrote: thread group id, start time (clock ticks), name."""

    pid: int
    start: int
    name: str

    @property
    def edits(self) -> bool:
        """Whether it is an editor that keeps a file open in the user's eyes."""
        return self.name in _EDITORS


class Processes(Protocol):
    """What runs on this machine."""

    def is_alive(self, process: Process) -> bool:
        """Whether that very process still runs."""

    def is_running(self, pid: int) -> bool:
        """Whether any process has this id."""


@dataclass(frozen=True, slots=True)
class Lock:
    """A file or link beside the message that may be an editor's: its name, who made it, the
    head of its content (at least 28 bytes when there are so many) or the link's target."""

    name: str
    author: Process | None
    head: bytes


@dataclass(frozen=True, slots=True)
class Draft:
    """What counts for one file or folder. Times in seconds; ``changed`` on the clock of ``now``,
    ``until`` on the wall clock: a modification time in the future holds a message until then."""

    name: str
    size: int
    fresh: bool
    writers: int
    author: Process | None
    changed: float
    until: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Not yet: why, in words, and in how many seconds to look again (None: when it changes)."""

    why: str
    again: float | None


def is_scratch(name: str) -> bool:
    """Whether programs use such names for what is no document."""
    return _SCRATCH.match(name) is not None


def lock_names(name: str) -> tuple[str, ...]:
    """Names under which editors keep a lock or swap file for ``name``."""
    swaps = tuple(f".{name}.sw{letter}" for letter in "opnx")
    others = (f".~lock.{name}#", f".{name}.kate-swp", f".{name}.lock", f"{name}.lock")
    return (*swaps, f".#{name}", *others)


def verdict(
    draft: Draft,
    locks: Iterable[Lock],
    now: float,
    wall: float,
    grace: float,
    processes: Processes,
) -> Hold | None:
    """None when the file is a finished message."""
    return (
        _no_message(draft, scratch=is_scratch(draft.name))
        or _in_use(draft, locks, processes)
        or _later(draft, wall)
        or _too_soon(draft, now, grace)
    )


def folder_verdict(
    folder: Draft,
    inside: Iterable[tuple[Draft, Iterable[Lock]]],
    now: float,
    wall: float,
    grace: float,
    processes: Processes,
) -> Hold | None:
    """The same for a folder that was moved in. ``size`` is how many files it has, ``changed`` when
    something in it last has; ``inside`` are its files, whatever their names."""
    scratch = _SCRATCH_FOLDER.match(folder.name) is not None
    hold = (
        _no_message(folder, scratch=scratch)
        or _later(folder, wall)
        or _too_soon(folder, now, grace)
    )
    if hold:
        return hold
    for draft, locks in inside:
        hold = _in_use(draft, locks, processes)
        if hold:
            return Hold(f"{draft.name} in it: {hold.why}", hold.again)
    return None


def _no_message(draft: Draft, *, scratch: bool) -> Hold | None:
    if scratch or draft.name == METADATA or draft.name.endswith(ERROR_SUFFIX):
        return Hold("its name is that of a scratch file", None)
    if not draft.fresh:
        return Hold("it has been sent", None)
    return Hold("it is empty", None) if draft.size == 0 else None


def _later(draft: Draft, wall: float) -> Hold | None:
    if draft.until > wall:
        moment = datetime.fromtimestamp(draft.until, UTC)
        return Hold(f"held until {moment:%F %T} UTC", min(draft.until - wall, CLOCK_RECHECK))
    return None


def _too_soon(draft: Draft, now: float, grace: float) -> Hold | None:
    left = draft.changed + grace - now
    return Hold("it was just changed", left) if left > 0 else None


def _in_use(draft: Draft, locks: Iterable[Lock], processes: Processes) -> Hold | None:
    """Whether some program is still at it."""
    if draft.writers:
        return Hold("it is open for writing", None)
    if draft.author and draft.author.edits and processes.is_alive(draft.author):
        return Hold(f"{draft.author.name} has it open", RECHECK)
    for lock in locks:
        if _is_live(lock, processes):
            return Hold(f"an editor holds {lock.name}", RECHECK)
    return None


def _is_live(lock: Lock, processes: Processes) -> bool:
    """A lock counts while its process runs: a crashed editor must not hold a message for ever."""
    if lock.author is not None and processes.is_alive(lock.author):
        return True
    if lock.name.startswith(".#"):
        digits = re.search(rb"\.([0-9]{1,9})(?::[0-9]+)?\Z", lock.head)
        return digits is not None and processes.is_running(int(digits[1]))
    if re.search(r"\.sw[opnx]\Z", lock.name) and len(lock.head) >= _SWAP_PID_OFFSET + 4:
        pid: int = _SWAP_PID.unpack_from(lock.head, _SWAP_PID_OFFSET)[0]
        return pid > 0 and processes.is_running(pid)
    return False
