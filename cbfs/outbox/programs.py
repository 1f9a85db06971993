"""Which programs that change files of the outbox have ended, and when.

The kernel tells of the end of a process by a descriptor (pidfd): nobody looks again and again, and
an id that another process has got meanwhile deceives nobody. What cannot be known (a process of
another namespace, a system without pidfd, too many at once) is taken to be alive: then the whole
grace has to pass.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

from cbfs.storage.faults import Tasks
from cbfs.tree.processes import Process, Processes

WATCHED_MAX = 128
"""Programs whose end is waited for at once: each takes a descriptor."""

WATCHED_FOR = 60.0
"""Seconds for which the end of a program is waited for since it has last changed a file, or a
little less; after that it matters no more."""

KEPT = 5.0
"""Seconds for which it is known that a program has ended: more than there is a short grace for."""


@dataclass(frozen=True, slots=True)
class _End:
    """When a program ended (monotonic clock), and who had started it, and so on."""

    at: float
    above: tuple[Process, ...]


class Programs:
    """The programs at one mount's outbox. ``changed`` is called when one has ended: a file may be
    finished then."""

    def __init__(self, processes: Processes, tasks: Tasks, changed: Callable[[], None]) -> None:
        self._processes = processes
        self._tasks = tasks
        self._changed = changed
        self._watched: dict[Process, tuple[Process, ...]] = {}
        self._ended: dict[Process, _End] = {}
        self._is_known = _sees_own_processes()

    def seen(self, thread: int) -> Process | None:
        """The process whose thread (its id) is in a call on the mount, and cannot end before that
        is answered. None when that cannot be known."""
        process = self._processes.of_thread(thread)
        if process is not None and process not in self._watched:
            self._watch(process)
        return process

    def is_alive(self, process: Process) -> bool:
        """Whether that very process still runs."""
        return self._processes.is_alive(process)

    def is_running(self, pid: int) -> bool:
        """Whether any process has this id."""
        return self._processes.is_running(pid)

    def ended(self, process: Process) -> float | None:
        """When it has ended, on the monotonic clock; None while it lives, or if that cannot be
        known."""
        end = self._ended.get(process)
        return None if end is None else end.at

    def is_followed(self, process: Process) -> bool:
        """Whether more may follow of what a program that has ended was a part of: the nearest of
        those above it that lives is an editor, or is not at rest. What a shell still has to do of
        a command line is not done yet."""
        end = self._ended.get(process)
        if end is None:
            return True
        for above in end.above:
            if self._processes.is_alive(above):
                return above.edits or self._processes.goes_on(above, process)
        return False

    def _watch(self, process: Process) -> None:
        if not self._is_known or len(self._watched) >= WATCHED_MAX:
            return
        try:
            descriptor = os.pidfd_open(process.pid)
        except OSError:
            return
        self._watched[process] = self._processes.above(process)
        self._tasks.start_soon(self._wait, process, descriptor)

    async def _wait(self, process: Process, descriptor: int) -> None:
        """Until it has ended, which is told; or not any more."""
        ended = False
        try:
            with trio.move_on_after(WATCHED_FOR):
                await trio.lowlevel.wait_readable(descriptor)
                ended = True
        finally:
            os.close(descriptor)
            above = self._watched.pop(process)
        if ended:
            now = time.monotonic()
            while self._ended and now - next(iter(self._ended.values())).at > KEPT:
                del self._ended[next(iter(self._ended))]
            self._ended[process] = _End(now, above)
            self._changed()


def _sees_own_processes() -> bool:
    """Whether /proc shows the processes by the ids that we know: it may be another namespace's."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())  # noqa: PTH115 - no path is wanted
    except OSError:
        return False
