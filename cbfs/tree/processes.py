"""Processes of this machine: what is known of each, from /proc."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_PROC = Path("/proc")
_TOLD_MAX = 4_096
_SIGNAL_SETS = ("SigPnd", "ShdPnd", "SigBlk")
_ENDING = sum(
    1 << number - 1
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)
)
_START_TIME = 19
"""The field of /proc/PID/stat that says when it started, counted from the one after the name."""
_FLAGS, _KILLED = 6, 0x400
"""The field that has the kernel's flags of the process, counted likewise, and PF_SIGNALED in it."""

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


class ProcFS:
    """Processes of this machine, as /proc has them."""

    def of_thread(self, thread: int) -> Process | None:
        """The process that a thread id (as FUSE gives it) belongs to; None when it is gone."""
        try:
            _, found, rest = _told(thread, "status").partition("\nTgid:")
            return self._read(int(rest.split(maxsplit=1)[0])) if found else None
        except (OSError, ValueError, IndexError):
            return None

    def name_of(self, thread: int) -> str | None:
        """The name of the process that a thread id belongs to; None when it is gone."""
        try:
            name, _, rest = _told(thread, "status").removeprefix("Name:\t").partition("\n")
            leader = int(rest.partition("\nTgid:")[2].split(maxsplit=1)[0])
        except (OSError, ValueError, IndexError):
            return None
        if leader == thread:
            return name
        process = self._read(leader)
        return None if process is None else process.name

    def is_alive(self, process: Process) -> bool:
        """Whether that very process still runs: the one of its id has the same start time."""
        now = self._read(process.pid)
        return now is not None and now.start == process.start

    def is_ending(self, process: Process) -> bool:
        """Whether it has ended, or has been sent a signal to end it that it has not seen yet."""
        try:
            told = _told(process.pid, "status")
            lines = dict(line.split(":\t", 1) for line in told.splitlines() if ":\t" in line)
            sent, shared, blocked = (int(lines[each], 16) for each in _SIGNAL_SETS)
        except (OSError, ValueError, KeyError):
            return True
        return bool((sent | shared) & ~blocked & _ENDING) or not self.is_alive(process)

    def is_killed(self, process: Process) -> bool:
        """Whether it is just ending, or has ended, and by a signal."""
        try:
            fields = _told(process.pid, "stat").rpartition(")")[2].split()
            start, flags = int(fields[_START_TIME]), int(fields[_FLAGS])
        except (OSError, ValueError, IndexError):
            return False
        return start == process.start and bool(flags & _KILLED)

    def is_running(self, pid: int) -> bool:
        """Whether any process has this id."""
        return (_PROC / str(pid)).exists()

    def _read(self, pid: int) -> Process | None:
        try:
            name, _, rest = _told(pid, "stat").partition("(")[2].rpartition(")")
            fields = rest.split()
            if fields[0] in "ZX":  # ended, and only its parent has not noticed
                return None
            return Process(pid, int(fields[_START_TIME]), name)
        except (OSError, ValueError, IndexError):
            return None


def _told(pid: int, what: str) -> str:
    """The beginning of a file of /proc/PID, without the cost of pathlib and buffers: it is read
    at each opening of a new message. Raises OSError."""
    descriptor = os.open(f"{_PROC}/{pid}/{what}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _TOLD_MAX).decode(errors="replace")
    finally:
        os.close(descriptor)
