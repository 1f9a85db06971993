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
_STATE, _PARENT, _START_TIME = 0, 1, 19
"""The fields of /proc/PID/stat that say what it is doing, who has started it, and when it started,
counted from the one after the name."""
_FLAGS, _KILLED = 6, 0x400
"""The field that has the kernel's flags of the process, counted likewise, and PF_SIGNALED in it."""

ABOVE_MAX = 4
"""How many of those above a process are looked at: a shell, a program that starts others, ..."""

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


_LOOKERS = frozenset(
    (
        *("thunar", "pcmanfm", "pcmanfm-qt", "nautilus", "nemo", "caja", "dolphin", "ranger"),
        *("tumblerd", "gvfsd", "gvfsd-metadata", "gio", "file", "xdg-mime", "kioworker"),
        *("gdk-pixbuf-thum", "ffmpegthumbnail", "evince-thumbnai", "totem-video-thu"),
        *("tracker-miner-f", "tracker-extract", "localsearch-3", "localsearch-ext"),
        *("baloo_file", "baloo_file_extr", "updatedb", "updatedb.plocat", "recollindex"),
        *("cp", "rsync", "tar", "restic", "borg", "rclone", "duplicity", "deja-dup"),
        *("grep", "egrep", "fgrep", "zgrep", "rg", "ag", "ack", "diff", "cmp", "wc", "find"),
    )
)
"""Names of programs (15 characters, as the kernel keeps them) that read files for their indexes,
thumbnails, guesses at types, searches and copies: for them nobody has read a message."""


def counts_as_reading(program: str | None) -> bool:
    """Whether somebody has read what a program of this name reads."""
    return program is None or program.casefold() not in _LOOKERS


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

    def of_thread(self, thread: int) -> Process | None:
        """The process that a thread id (as FUSE gives it) belongs to; None when it is gone, or
        cannot be seen."""

    def above(self, process: Process) -> tuple[Process, ...]:
        """Who has started it, who has started that, and so on, as far as can be seen."""

    def goes_on(self, process: Process, ended: Process) -> bool:
        """Whether a process that lives may be about to do what is to follow ``ended``, which it,
        or one that it had started, has started."""


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

    def above(self, process: Process) -> tuple[Process, ...]:
        """Who has started it, who has started that, and so on: ABOVE_MAX at most, without the
        machine's first process, which starts nothing on anybody's behalf."""
        found: list[Process] = []
        here = self._read_with_parent(process.pid)
        while here is not None and here[1] > 1 and len(found) < ABOVE_MAX:
            here = self._read_with_parent(here[1])
            if here is not None:
                found.append(here[0])
        return tuple(found)

    def goes_on(self, process: Process, ended: Process) -> bool:
        """Whether a process may be about to do what is to follow ``ended``: it does not sleep, or
        one of its threads has started something since that has not ended. A shell that has more to
        do is never asleep without that, however busy the machine, unless it waits for the next
        line of a pipe."""
        try:
            fields = _told(process.pid, "stat").rpartition(")")[2].split()
            if fields[_STATE] != "S" or _reads_from_a_pipe(process.pid):
                return self.is_alive(process)
            children = _children(process.pid)
        except (OSError, ValueError, IndexError):
            return self.is_alive(process)  # nobody can say
        later = (self._read(child) for child in children)
        return any(child is not None and child.start >= ended.start for child in later)

    def _read(self, pid: int) -> Process | None:
        found = self._read_with_parent(pid)
        return None if found is None else found[0]

    def _read_with_parent(self, pid: int) -> tuple[Process, int] | None:
        """A process, and the id of the one that has started it."""
        try:
            name, _, rest = _told(pid, "stat").partition("(")[2].rpartition(")")
            fields = rest.split()
            if fields[_STATE] in "ZX":  # ended, and only its parent has not noticed
                return None
            return Process(pid, int(fields[_START_TIME]), name), int(fields[_PARENT])
        except (OSError, ValueError, IndexError):
            return None


def _children(pid: int) -> list[int]:
    """What a process has started, by any of its threads. Raises OSError, also when a thread ends
    meanwhile: others have its children then."""
    threads = os.listdir(f"{_PROC}/{pid}/task")  # noqa: PTH208 - no paths are wanted
    return [int(child) for t in threads for child in _told(pid, f"task/{t}/children").split()]


def _reads_from_a_pipe(pid: int) -> bool:
    """Whether its standard input is a pipe, as in ``ls | while read name``. Raises OSError. Only
    the link is read: to look at what it leads to may be to ask our own mount, which would wait for
    us."""
    try:
        return os.readlink(f"{_PROC}/{pid}/fd/0").startswith("pipe:")  # noqa: PTH115
    except FileNotFoundError:  # it has none, or has ended
        return False


def _told(pid: int, what: str) -> str:
    """The beginning of a file of /proc/PID, without the cost of pathlib and buffers: it is read
    at each opening of a new message. Raises OSError."""
    descriptor = os.open(f"{_PROC}/{pid}/{what}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _TOLD_MAX).decode(errors="replace")
    finally:
        os.close(descriptor)
