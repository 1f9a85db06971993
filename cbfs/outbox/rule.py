"""When a file in the outbox is a finished message. Design: filesystem.md, "When a file is sent".

Pure: what is known of processes comes through ``Processes``. Over 119 recorded save sequences of
30 programs this rule erred in 2. What is not sent stays where it is until somebody removes it, and
after a minute it is told why: nothing of the user's goes by itself.
"""

import math
import re
import struct
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from cbfs.messages.file_names import ERROR_SUFFIX

RECHECK = 0.5
"""Seconds until a file that an editor holds is looked at again."""

CLOCK_RECHECK = 60.0
"""Seconds until a file that its date holds is looked at again: the clock may be set."""

METADATA = "metadata.toml"

QUIET = 60.0
"""Seconds without a change after which it is told why something is not sent, and in which a file
is remembered that was beside its backup."""

_OWN = re.compile(r"\.DS_Store\Z|\._|\.directory\Z|(thumbs\.db|desktop\.ini)\Z", re.IGNORECASE)
"""What file managers keep for themselves in each folder that they show."""

_LOCKS = re.compile(
    r"\..*\.sw[a-px]\Z | .*\.sw[opx]\Z | \.\#. | \#.*\#\Z | \.~lock\..*\#\Z | \..*\.kate-swp\Z"
    r"| .*\.lock\Z | ~\$",
    re.VERBOSE | re.IGNORECASE,
)
_DOWNLOADS = re.compile(
    r".*\.(part|partial|filepart|crdownload|opdownload|download)\Z", re.IGNORECASE
)
_TEMPORARY = re.compile(
    r"""(?i:.*\.(tmp|temp)\Z) | DEADJOE\Z
    | sed[A-Za-z0-9]{6}\Z | XX[A-Za-z0-9]{6}\Z | tmp[A-Za-z0-9_]{6,8}\Z""",
    re.VERBOSE,
)
_ERROR = re.compile(rf".*{re.escape(ERROR_SUFFIX)}\Z")
_TAKEN_FOR = (
    (_LOCKS, "an editor's lock, swap or rescue file"),
    (_DOWNLOADS, "a download that is not complete"),
    (_TEMPORARY, "a temporary file"),
    (re.compile(r"\."), "a hidden file"),
    (_ERROR, "an error file"),
)

_BACKUP = re.compile(r"(.+?)(\.~[0-9]+~|~|(?i:\.(bak|orig|rej|save)))\Z")

_PROBE = re.compile(r"[0-9]{4,5}\Z")
"""As what vim makes to see whether it may, empty."""

_FOLDER_TAKEN_FOR = (
    (re.compile(r"\."), "a hidden folder"),
    (re.compile(r".*~\Z"), "a backup"),
    (re.compile(r".*\.(tmp|temp|part|partial)\Z", re.IGNORECASE), "a folder that is not complete"),
    (_ERROR, "an error file"),
)
"""A folder may well be called XXabcdef: no program saves one under such a name."""

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


class Failure(Enum):
    """Why the content of a file may be less than what was to be in it."""

    NONE = 0
    WRITE = 1
    KILLED = 2
    UNMOUNT = 3


_FAILED = {
    Failure.WRITE: "writing it failed, so it may not be complete",
    Failure.KILLED: "the program that wrote it was ended by a signal, so it may not be complete",
    Failure.UNMOUNT: "the mount ended while it was being written, so it may not be complete",
}


@dataclass(frozen=True, slots=True)
class Original:
    """Of the file whose backup something seems to be: its name, whether it is there, or when it
    left (on the clock of ``now``)."""

    name: str
    is_there: bool
    left: float


@dataclass(frozen=True, slots=True)
class Draft:
    """What counts for one file or folder. Times in seconds; ``changed`` on the clock of ``now``,
    ``until`` on the wall clock: a modification time in the future holds a message until then.
    ``original``: what it is, or was when it got its name, the backup of. ``held``: it is a lock or
    swap file whose editor lives."""

    name: str
    size: int
    fresh: bool
    writers: int
    author: Process | None
    changed: float
    until: float
    failure: Failure = Failure.NONE
    original: Original | None = None
    held: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """Not yet: why, in words, and in how many seconds to look again (None: when it changes). One
    with a ``hint`` is told in an error file: in ``tell`` seconds."""

    why: str
    again: float | None
    hint: str = ""
    tell: float = 0.0

    @property
    def in_full(self) -> str:
        """Why, and what to do about it."""
        return f"{self.why} ({self.hint})" if self.hint else self.why


def is_scratch(name: str) -> bool:
    """Whether programs use such names for what is no document."""
    return bool(
        _taken_for(name, _TAKEN_FOR) or _OWN.match(name) or backup_of(name) or _PROBE.match(name)
    )


def is_lock(name: str) -> bool:
    """Whether editors call their lock, swap and rescue files so."""
    return _LOCKS.match(name) is not None


def backup_of(name: str) -> str:
    """What the file would be called whose backup has this name, empty for no backup."""
    match = _BACKUP.match(name)
    return match[1] if match else ""


def is_backup(name: str, there: Container[str], left: Mapping[str, float], now: float) -> bool:
    """Whether what gets this name among the names that are ``there`` is the backup of a file that
    is one of them, is being edited, or ``left`` just now (by when it did)."""
    base = backup_of(name)
    if not base:
        return False
    near = now - left.get(base, -math.inf) < QUIET
    return near or any(each in there for each in (base, *lock_names(base)))


def original_of(
    name: str, there: Container[str], left: Mapping[str, float], now: float, *, spare: bool
) -> Original | None:
    """Of what a file is the backup, if it is one: ``spare``, as it was one when it got its name, or
    since the file is there or was just now."""
    base = backup_of(name)
    gone = left.get(base, -math.inf)
    if base and (spare or base in there or now - gone < QUIET):
        return Original(base, base in there, gone)
    return None


def _taken_for(name: str, patterns: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    return next((what for pattern, what in patterns if pattern.match(name)), "")


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
        _scratch(draft, now, _taken_for(draft.name, _TAKEN_FOR))
        or _no_message(draft, now)
        or _in_use(draft, locks, processes)
        or (_too_soon(draft, now, grace) if draft.failure is not Failure.NONE else None)
        or _failed(draft)
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
    files = list(inside)
    taken_for = _taken_for(folder.name, _FOLDER_TAKEN_FOR)
    hold = _scratch(folder, now, taken_for) or _no_message(folder, now)
    if hold:
        return hold
    for draft, locks in files:
        hold = _in_use(draft, locks, processes)
        if hold:
            return Hold(f"{draft.name} in it: {hold.why}", hold.again)
    soon = _too_soon(folder, now, grace)
    if soon is None:
        for draft, _locks in files:
            failed = _failed(draft)
            if failed:
                return replace(failed, why=f"{draft.name} in it: {failed.why}")
    return _later(folder, wall) or soon


def _scratch(draft: Draft, now: float, taken_for: str) -> Hold | None:
    """Whether its name says that it is no document, or it is in the way of one."""
    if draft.name == METADATA or _OWN.match(draft.name):
        return Hold("its name is that of a scratch file", None)
    original = draft.original
    if original is not None:
        taken_for = f"the backup of {original.name}"
    if not taken_for:
        return None
    why = f"it is taken for a scratch file: {taken_for}"
    hint = "rename it to send it, or rm it"
    if draft.held:
        return Hold(why, QUIET, hint, math.inf)
    if draft.writers or (original is not None and original.is_there):
        return Hold(why, None)
    rested = max(draft.changed, original.left if original else draft.changed)
    return _told(why, hint, rested, now)


def _no_message(draft: Draft, now: float) -> Hold | None:
    if not draft.fresh:
        return Hold("it has been sent", None)
    if draft.size or draft.failure is not Failure.NONE:
        return None
    if draft.writers:
        return Hold("it is empty", None)
    return _told("it is empty", "write something into it, or rm it", draft.changed, now)


def _told(why: str, hint: str, changed: float, now: float) -> Hold:
    return Hold(why, None, hint, max(0.0, changed + QUIET - now))


def _failed(draft: Draft) -> Hold | None:
    if draft.failure is Failure.NONE:
        return None
    hint = "save it again from its start, or rm it; a copy of it is sent as it is"
    return Hold(_FAILED[draft.failure], None, hint)


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
        if is_live(lock, processes):
            return Hold(f"an editor holds {lock.name}", RECHECK)
    return None


def is_live(lock: Lock, processes: Processes) -> bool:
    """Whether an editor still has it. A lock counts while its process runs: a crashed editor must
    not hold a message for ever."""
    if lock.author is not None and processes.is_alive(lock.author):
        return True
    if lock.name.startswith(".#"):
        digits = re.search(rb"\.([0-9]{1,9})(?::[0-9]+)?\Z", lock.head)
        return digits is not None and processes.is_running(int(digits[1]))
    if re.search(r"\.sw[opnx]\Z", lock.name) and len(lock.head) >= _SWAP_PID_OFFSET + 4:
        pid: int = _SWAP_PID.unpack_from(lock.head, _SWAP_PID_OFFSET)[0]
        return pid > 0 and processes.is_running(pid)
    return False
