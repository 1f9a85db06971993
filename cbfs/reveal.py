"""Makes what the daemon changes visible through its own mount.

inotify tells of system calls only, not of what a file system changes by itself. So a process
makes the change by a system call in the mounted directory; the handler that the call comes to
knows the process by its id and puts the thing into the tree.

It must be another process, without a descriptor of /dev/fuse. A call from the FUSE loop would
wait for itself. A call from another thread goes well until the daemon is killed in the middle
of it: the thread then waits for an answer from a process that cannot end before it, and that no
signal can free.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import trio

from cbfs import reveal_worker
from cbfs.nodes import Node

_log = logging.getLogger(__name__)

STAGED = ".cbfs-"
"""What the names of things that are about to be shown begin with."""

STOP_TIMEOUT = 5.0
"""Seconds that the process has to end."""


@dataclass(frozen=True, slots=True)
class _Job:
    kind: str
    path: str
    number: int


@dataclass(frozen=True, slots=True)
class _Change:
    node: Node | None
    apply: Callable[[], None]


class Revealer:
    """See ``showing.Revealer``. ``run`` it when the FUSE loop runs; it has started when the mount
    answers. ``close`` it when the mount has ended."""

    def __init__(self, mountpoint: Path) -> None:
        self._mountpoint = mountpoint
        self._jobs, self._work = trio.open_memory_channel[_Job](sys.maxsize)
        self._changes: dict[int, _Change] = {}
        self._touched: set[int] = set()
        self._number = 0
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self.process_id = 0

    def show(self, path: str, node: Node, enter: Callable[[], None]) -> None:
        """See ``showing.Revealer``."""
        self._put("show", path, _Change(node, enter))

    def make(self, path: str, enter: Callable[[], None]) -> None:
        """See ``showing.Revealer``."""
        self._put("make", path, _Change(None, enter))

    def remove(self, path: str, leave: Callable[[], None]) -> None:
        """See ``showing.Revealer``."""
        self._put("remove", path, _Change(None, leave))

    def touch(self, inode: int) -> None:
        """See ``showing.Revealer``."""
        if inode not in self._touched and not self._ended.is_set():
            self._touched.add(inode)
            self._jobs.send_nowait(_Job("touch", "", inode))

    # what the handlers ask

    def staged(self, name: str) -> Node | None:
        """What is about to be shown under a staged name."""
        change = self._changes.get(_number(name))
        return change.node if change else None

    def apply(self) -> None:
        """The process's call has come to its handler: make the change. It works on one at a
        time, the first that is left."""
        number = next(iter(self._changes), None)
        if number is not None:
            self._changes.pop(number).apply()

    # its life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work on what is asked for until ``close``. When the process ends too early, changes are
        made without being shown."""
        process = await trio.lowlevel.open_process(
            [sys.executable, "-I", "-S", reveal_worker.__file__, str(self._mountpoint)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # else who started the mount would wait for its end
            cwd="/",
        )
        self.process_id = process.pid
        try:
            with self._scope:
                answers = _lines(process)
                await anext(answers, None)
                task_status.started()
                async for job in self._work:
                    await self._do(process, answers, job)
        finally:
            self._ended.set()
            with trio.move_on_after(STOP_TIMEOUT, shield=True):
                process.kill()
                await process.wait()
            for change in self._changes.values():
                change.apply()
            self._changes.clear()

    async def close(self) -> None:
        """End it; what it has not come to is changed without being shown."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    def _put(self, kind: str, path: str, change: _Change) -> None:
        if self._ended.is_set():
            change.apply()
            return
        self._number += 1
        self._changes[self._number] = change
        self._jobs.send_nowait(_Job(kind, path, self._number))

    async def _do(self, process: trio.Process, answers: AsyncIterator[str], job: _Job) -> None:
        if job.kind == "touch":
            self._touched.discard(job.number)
            await trio.to_thread.run_sync(_invalidate, job.number, abandon_on_cancel=True)
            return
        path = self._mountpoint / job.path
        words = [job.kind, str(path.parent / f"{STAGED}{job.number}"), str(path)]
        answer = None
        if process.stdin is not None:
            with suppress(trio.BrokenResourceError):
                await process.stdin.send_all(json.dumps(words).encode() + b"\n")
                answer = await anext(answers, None)
        if answer != "0":
            words = [os.strerror(int(answer))] if answer else ["the process has ended"]
            _log.warning("a change could not be shown to watchers: %s", words[0])
        # a call that never came to its handler: change the tree all the same
        change = self._changes.pop(job.number, None)
        if change:
            change.apply()


async def _lines(process: trio.Process) -> AsyncIterator[str]:
    buffer = b""
    while process.stdout is not None and (data := await process.stdout.receive_some()):
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            yield line.decode()


def _invalidate(inode: int) -> None:
    with suppress(OSError):  # the kernel may not know it
        pyfuse3.invalidate_inode(pyfuse3.InodeT(inode))


def _number(name: str) -> int:
    digits = name.removeprefix(STAGED)
    return int(digits) if name.startswith(STAGED) and digits.isdecimal() else -1
