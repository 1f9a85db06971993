"""When a file in the outbox is a finished message. Design: filesystem.md, "When a file is sent".

Pure: what is known of processes comes through ``Writers``. Over 119 recorded save sequences of
30 programs this rule erred in 2. What is not sent stays where it is until somebody removes it, and
after a minute it is told why: nothing of the user's goes by itself.
"""

import math
import re
import struct
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from cbfs.tree.nodes import Failure
from cbfs.tree.processes import Process
from cbfs.tree.rules import (
    METADATA,
    QUIET,
    SHORT_GRACE,
    backup_of,
    folder_taken_for,
    is_own,
    taken_for,
)

RECHECK = 0.5
"""Seconds until a file that an editor holds is looked at again."""

AFTER_END = 0.1
"""Seconds after the end of the programs that have changed a file for which it must be left alone,
if the grace is not over before, and is a short one."""

FOLLOWED_RECHECK = 0.05
"""Seconds until a file is looked at again on which something may follow."""

CLOCK_RECHECK = 60.0
"""Seconds until a file that its date holds is looked at again: the clock may be set."""

_SWAP_PID = struct.Struct("<I")
_SWAP_PID_OFFSET = 24


class Writers(Protocol):
    """The programs that change files of the outbox."""

    def is_alive(self, process: Process) -> bool:
        """Whether that very process still runs."""

    def is_running(self, pid: int) -> bool:
        """Whether any process has this id."""

    def ended(self, process: Process) -> float | None:
        """When it has ended, on the clock of ``now``; None while it lives, or if that cannot be
        known."""

    def is_followed(self, process: Process) -> bool:
        """Whether more may follow of what a program that has ended was a part of, as of a command
        line."""


@dataclass(frozen=True, slots=True)
class Lock:
    """A file or link beside the message that may be an editor's: its name, who made it, the
    head of its content (at least 28 bytes when there are so many) or the link's target."""

    name: str
    author: Process | None
    head: bytes


_FAILED = {
    Failure.WRITE: "writing it failed, so it may not be complete",
    Failure.KILLED: "the program that wrote it was ended by a signal, so it may not be complete",
    Failure.UNMOUNT: "the mount ended while it was being written, so it may not be complete",
    Failure.MORE: "others have added people since it was saved, to whom it would go as well",
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
    swap file whose editor lives, or a scratch folder whose program does. ``touched``: as in
    ``File``."""

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
    touched: Mapping[Process, float] = field(default_factory=dict)


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


def verdict(
    draft: Draft,
    locks: Iterable[Lock],
    now: float,
    wall: float,
    grace: float,
    processes: Writers,
) -> Hold | None:
    """None when the file is a finished message."""
    return (
        _scratch(draft, now, taken_for(draft.name))
        or _no_message(draft, now)
        or _in_use(draft, locks, processes)
        or (_too_soon(draft, now, grace, processes) if draft.failure is not Failure.NONE else None)
        or _failed(draft)
        or _later(draft, wall)
        or _too_soon(draft, now, grace, processes)
    )


def folder_verdict(
    folder: Draft,
    inside: Iterable[tuple[Draft, Iterable[Lock]]],
    now: float,
    wall: float,
    grace: float,
    processes: Writers,
) -> Hold | None:
    """None when a folder that was moved in is a finished message. ``size`` is how many files it
    has, ``changed`` when something in it last has; ``inside`` are its files, whatever their
    names."""
    files = list(inside)
    hold = _scratch(folder, now, folder_taken_for(folder.name)) or _no_message(folder, now)
    if hold:
        return hold
    for draft, locks in files:
        hold = _in_use(draft, locks, processes)
        if hold:
            return Hold(f"{draft.name} in it: {hold.why}", hold.again)
    soon = _too_soon(folder, now, grace, processes)
    if soon is None:
        for draft, _locks in files:
            failed = _failed(draft)
            if failed:
                return replace(failed, why=f"{draft.name} in it: {failed.why}")
    return _later(folder, wall) or soon


def _scratch(draft: Draft, now: float, what: str) -> Hold | None:
    """Whether its name says that it is no document, or it is in the way of one."""
    if draft.name == METADATA or is_own(draft.name):
        return Hold("its name is that of a scratch file", None)
    original = draft.original
    if original is not None:
        what = f"the backup of {original.name}"
    if not what:
        return None
    why = f"it is taken for a scratch file: {what}"
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
    if draft.failure is Failure.MORE:
        hint = "rename it or save it again to send it to all in its folder's name, or rm it"
    return Hold(_FAILED[draft.failure], None, hint)


def _later(draft: Draft, wall: float) -> Hold | None:
    if draft.until > wall:
        moment = datetime.fromtimestamp(draft.until, UTC)
        return Hold(f"held until {moment:%F %T} UTC", min(draft.until - wall, CLOCK_RECHECK))
    return None


def _too_soon(draft: Draft, now: float, grace: float, processes: Writers) -> Hold | None:
    left = draft.changed + grace - now
    if left > 0 and grace <= SHORT_GRACE:
        left = min(left, _left_by_programs(draft, now, grace, processes))
    return Hold("it was just changed", left) if left > 0 else None


def _left_by_programs(draft: Draft, now: float, grace: float, processes: Writers) -> float:
    """Seconds that are left of the grace, as far as each program needs it that has changed the
    file: one that lives all of it, one that has ended AFTER_END. Between two commands of one
    command line a file is not finished, whatever the machine does meanwhile."""
    if draft.changed not in draft.touched.values():
        return math.inf  # who knows by whom
    until, ended = -math.inf, []
    for process, at in draft.touched.items():
        end = processes.ended(process)
        if end is None:
            until = max(until, at + grace)
        elif at + grace > now:
            until = max(until, max(at, end) + AFTER_END)
            ended.append(process)
    if until <= now and any(map(processes.is_followed, ended)):
        return FOLLOWED_RECHECK
    return until - now


def _in_use(draft: Draft, locks: Iterable[Lock], processes: Writers) -> Hold | None:
    """Whether some program is still at it."""
    if draft.writers:
        return Hold("it is open for writing", None)
    if draft.author and draft.author.edits and processes.is_alive(draft.author):
        return Hold(f"{draft.author.name} has it open", RECHECK)
    for lock in locks:
        if is_live(lock, processes):
            return Hold(f"an editor holds {lock.name}", RECHECK)
    return None


def is_live(lock: Lock, processes: Writers) -> bool:
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
