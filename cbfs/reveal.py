"""Makes what the daemon changes visible through its own mount.

inotify tells of system calls only, not of what a file system changes by itself. So a thread
makes the change by a system call in the mounted directory; the handler that the call comes to
knows the thread by its id and puts the thing into the tree. It must be a thread: a system call
on the own mount from the FUSE loop would wait for itself, and nothing could end it.
"""

import logging
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import trio

from cbfs.nodes import Node

_log = logging.getLogger(__name__)

STAGED = ".cbfs-"
"""What the names of things that are about to be shown begin with."""


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
    """See ``courier.Revealer``. Start it when the mount answers, ``close`` it before it ends."""

    def __init__(self, mountpoint: Path) -> None:
        self._mountpoint = mountpoint
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._changes: dict[int, _Change] = {}
        self._touched: set[int] = set()
        self._number = 0
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._work, name="reveal", daemon=True)
        self._ready = threading.Event()
        self.thread_id = 0
        self._thread.start()
        self._ready.wait()

    def show(self, path: str, node: Node, enter: Callable[[], None]) -> None:
        """See ``courier.Revealer``."""
        self._put("show", path, _Change(node, enter))

    def make(self, path: str, enter: Callable[[], None]) -> None:
        """See ``courier.Revealer``."""
        self._put("make", path, _Change(None, enter))

    def remove(self, path: str, leave: Callable[[], None]) -> None:
        """See ``courier.Revealer``."""
        self._put("remove", path, _Change(None, leave))

    def touch(self, inode: int) -> None:
        """See ``courier.Revealer``."""
        if inode not in self._touched:
            self._touched.add(inode)
            self._jobs.put(_Job("touch", "", inode))

    async def close(self) -> None:
        """End the thread; what it has not come to is applied without being shown."""
        self._jobs.put(None)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)
        for change in list(self._changes.values()):
            change.apply()
        self._changes.clear()

    # what the handlers ask, on the trio thread

    def staged(self, name: str) -> Node | None:
        """What is about to be shown under a staged name."""
        change = self._changes.get(_number(name))
        return change.node if change else None

    def apply(self) -> None:
        """The thread's call has come to its handler: make the change. It works on one at a
        time, the first that is left."""
        number = next(iter(self._changes), None)
        if number is not None:
            self._changes.pop(number).apply()

    def _put(self, kind: str, path: str, change: _Change) -> None:
        self._number += 1
        self._changes[self._number] = change
        self._jobs.put(_Job(kind, path, self._number))

    def _settle(self, number: int) -> None:
        """A call that never came to its handler: change the tree all the same."""
        change = self._changes.pop(number, None)
        if change:
            change.apply()

    # the thread

    def _work(self) -> None:
        self.thread_id = threading.get_native_id()
        self._ready.set()
        while (job := self._jobs.get()) is not None:
            if job.kind == "touch":
                self._touched.discard(job.number)
                with suppress(OSError):
                    pyfuse3.invalidate_inode(pyfuse3.InodeT(job.number))
                continue
            try:
                self._call(job)
            except OSError as error:
                _log.warning("a change could not be shown to watchers: %s", error.strerror)
            with suppress(trio.RunFinishedError):
                # every path ends here: what the handler has applied is not there any more
                self._token.run_sync_soon(self._settle, job.number)

    def _call(self, job: _Job) -> None:
        path = self._mountpoint / job.path
        if job.kind == "show":
            os.rename(path.parent / f"{STAGED}{job.number}", path)  # noqa: PTH104
        elif job.kind == "make":
            path.mkdir(mode=0o700)
        else:
            path.unlink()


def _number(name: str) -> int:
    digits = name.removeprefix(STAGED)
    return int(digits) if name.startswith(STAGED) and digits.isdecimal() else -1
