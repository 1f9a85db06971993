"""Makes what the daemon changes visible through its own mount.

inotify tells of system calls only, not of what a file system changes by itself. So a process
makes the change by a system call in the mounted directory; the handler that the call comes to
knows the process by its id and puts the thing into the tree.

It must be another process, without a descriptor of /dev/fuse. A call from the FUSE loop would
wait for itself. A call from another thread goes well until the daemon is killed in the middle
of it: the thread then waits for an answer from a process that cannot end before it, and that no
signal can free.
"""

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyfuse3
import trio

from cbfs.mount import notifier_worker
from cbfs.storage.faults import harmless
from cbfs.tree.nodes import Node

_log = logging.getLogger(__name__)

STAGED = ".cbfs-"
"""What the names of things that are about to be shown begin with."""

_WORKER = (sys.executable, "-I", "-S", notifier_worker.__file__)

BATCH = 64
"""Changes that the process is told of at once, at most."""

STOP_TIMEOUT = 5.0
"""Seconds that the process has to end."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One thing that the process is to do, or the kernel to forget. ``number``: that of a change of
    the tree; else an inode."""

    kind: str
    path: str
    number: int
    new: str = ""

    @property
    def is_change(self) -> bool:
        """Whether the tree is to change with it, and not only what the kernel remembers."""
        return self.kind not in {"touch", "outdate"}


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of the tree that is to be made when the process's call comes, with the name
    ``called``."""

    called: str
    node: Node | None
    apply: Callable[[], None]


class Notifier:
    """Makes changes through one mount, so that inotify tells of them: each call returns at once,
    and what is asked for happens in order. ``run`` it when the FUSE loop runs; it has started when
    the mount answers. ``close`` it when the mount has ended. Before and after, changes are made at
    once, as nobody can watch.

    ``process_id`` is that of the process that makes the calls, -1 while there is none."""

    def __init__(self, failed: Callable[[], None]) -> None:
        """``failed`` is told of faults."""
        self._failed = failed
        self._mountpoint = Path()
        self._jobs, self._work = trio.open_memory_channel[_Job](sys.maxsize)
        self._changes: dict[int, _Change] = {}
        self._touched: set[int] = set()
        self._number = 0
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._answered = trio.Event()  # of the changes that the process is told of
        self._is_on = False
        self.has_begun = False
        self.process_id = -1

    @property
    def waiting(self) -> int:
        """How many changes wait to be made."""
        return len(self._changes)

    def show(self, path: str, node: Node, enter: Callable[[], None]) -> None:
        """``enter`` puts ``node`` at ``path`` into the tree, while watchers look."""
        self._put("show", path, node, enter)

    def make(self, path: str, enter: Callable[[], None]) -> None:
        """``enter`` puts a directory at ``path`` into the tree, while watchers look."""
        self._put("make", path, None, enter)

    def remove(self, path: str, leave: Callable[[], None]) -> None:
        """``leave`` takes the file at ``path`` out of the tree, while watchers look."""
        self._put("remove", path, None, leave)

    def remove_folder(self, path: str, leave: Callable[[], None]) -> None:
        """``leave`` takes the directory at ``path``, and all that is in it, out of the tree."""
        self._put("remove folder", path, None, leave)

    def move(self, path: str, new: str, change: Callable[[], None]) -> None:
        """``change`` gives what is at ``path`` the name ``new`` in the same directory."""
        self._put("move", path, None, change, new)

    def touch(self, inode: int) -> None:
        """The content of that inode has changed by itself: the kernel forgets it. Many touches
        count as one."""
        if inode not in self._touched and self._is_on:
            self._touched.add(inode)
            self._jobs.send_nowait(_Job("touch", "", inode))

    def outdate(self, folder: int, name: str) -> None:
        """Nothing has that name any more in the folder of that inode: the kernel forgets it, and
        no watcher is told."""
        if self._is_on:
            self._jobs.send_nowait(_Job("outdate", name, folder))

    async def removed(self, path: str) -> None:
        """Take the file at ``path`` out, which has left the tree: the kernel has forgotten it on
        return."""
        gone = trio.Event()
        self.remove(path, gone.set)
        await gone.wait()
        if self._is_on:
            await self._answered.wait()  # the kernel goes on when the handler has replied

    # what the handlers ask

    def staged(self, name: str) -> Node | None:
        """What is about to be shown under a staged name."""
        change = self._changes.get(_number(name))
        return change.node if change else None

    def apply(self, name: str) -> None:
        """The process's call for that name, staged or final, has come to its handler: make the
        change. It makes them in order, so that calls for those before have failed on their way to
        a handler: what they were for is done all the same, without being shown."""
        until: list[int] = []
        for number, change in islice(self._changes.items(), BATCH):
            until.append(number)
            if change.called == name:
                self._apply(until)
                return

    # its life

    async def run(
        self,
        mountpoint: Path,
        device: int = 0,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Work on what is asked for from now on, until ``close``. When the process ends too early,
        changes are made without being shown. ``device``: the st_dev of the mount, where another
        process has made it: it may have done so elsewhere than where we see ``mountpoint``."""
        self._mountpoint = mountpoint
        self._is_on = self.has_begun = True
        try:
            process = await trio.lowlevel.open_process(
                [*_WORKER, str(mountpoint), *([str(device)] if device else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # else who started the mount would wait for its end
                cwd="/",
            )
        except BaseException:  # no descriptor or process is left, or it is not wanted any more
            self._end()
            raise
        self.process_id = process.pid
        try:
            with self._scope:
                async with aclosing(_answers(process)) as answers:
                    await anext(answers, None)
                    task_status.started()
                    await self._work_on(process, answers)
        finally:
            self._is_on = False
            self._ended.set()
            with trio.move_on_after(STOP_TIMEOUT, shield=True):
                process.kill()
                await process.wait()
            self._end()

    async def _work_on(self, process: trio.Process, answers: AsyncIterator[list[int]]) -> None:
        async for job in self._work:
            jobs = [job, *self._waiting()]
            with harmless(self._failed):
                await self._do(process, answers, jobs)
            # what a fault has kept from being shown, and calls that never came
            self._apply([job.number for job in jobs if job.is_change])
            self._answered.set()

    def _end(self) -> None:
        """What is still asked for is done without being shown."""
        self._is_on = False
        self._ended.set()
        self._apply(list(self._changes))
        self._answered.set()

    async def close(self) -> None:
        """End it, if it has begun; what it has not come to is changed without being shown."""
        if not self.has_begun:
            return
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    def _put(
        self, kind: str, path: str, node: Node | None, apply: Callable[[], None], new: str = ""
    ) -> None:
        if not self._is_on:
            with harmless(self._failed):
                apply()
            return
        self._number += 1
        called = f"{STAGED}{self._number}" if kind == "show" else path.rpartition("/")[2]
        self._changes[self._number] = _Change(called, node, apply)
        self._jobs.send_nowait(_Job(kind, path, self._number, new))

    def _waiting(self) -> Iterator[_Job]:
        """What waits besides, so that a batch of it is one turn of the process."""
        with suppress(trio.WouldBlock):
            for _ in range(BATCH - 1):
                yield self._work.receive_nowait()

    async def _do(
        self, process: trio.Process, answers: AsyncIterator[list[int]], jobs: list[_Job]
    ) -> None:
        touched = [job.number for job in jobs if job.kind == "touch"]
        outdated = [job for job in jobs if job.kind == "outdate"]
        changes = [job for job in jobs if job.is_change]
        if touched:
            self._touched.difference_update(touched)
            await trio.to_thread.run_sync(_invalidate, touched, abandon_on_cancel=True)
        if outdated:
            await trio.to_thread.run_sync(_outdate, outdated, abandon_on_cancel=True)
        if not changes:
            return
        told, self._answered = None, trio.Event()
        if process.stdin is not None:
            words = [self._words(job) for job in changes]
            with suppress(trio.BrokenResourceError):
                await process.stdin.send_all(json.dumps(words).encode() + b"\n")
                told = await anext(answers, None)
        for number in set(told if told is not None else [errno.EPIPE]) - {0}:
            _log.warning("a change could not be shown to watchers: %s", os.strerror(number))

    def _words(self, job: _Job) -> tuple[str, str, str]:
        path = self._mountpoint / job.path
        if job.kind == "move":
            return "show", str(path), str(path.parent / job.new)
        return job.kind, str(path.parent / f"{STAGED}{job.number}"), str(path)

    def _apply(self, numbers: list[int]) -> None:
        for number in numbers:
            change = self._changes.pop(number, None)
            if change:
                with harmless(self._failed):
                    change.apply()


async def _answers(process: trio.Process) -> AsyncGenerator[list[int], None]:
    buffer = b""
    while process.stdout is not None and (data := await process.stdout.receive_some()):
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _invalidate(inodes: list[int]) -> None:
    for inode in inodes:
        with suppress(OSError):  # the kernel may not know it
            pyfuse3.invalidate_inode(pyfuse3.InodeT(inode))


def _outdate(jobs: list[_Job]) -> None:
    for job in jobs:
        with suppress(OSError):
            pyfuse3.invalidate_entry(
                pyfuse3.InodeT(job.number), pyfuse3.FileNameT(job.path.encode())
            )


def _number(name: str) -> int:
    digits = name.removeprefix(STAGED)
    return int(digits) if name.startswith(STAGED) and digits.isdecimal() else -1
