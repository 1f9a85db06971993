"""``-o sync_send``: fsync on a file of the outbox returns when the servers have the message.

Such an fsync says that the file is finished: neither the grace nor that it is still open holds it
back. What else holds a file (a scratch name, an editor's lock, a date in the future) does so here
too: fsync then returns when it is durable, as without the option. When it does not return in time,
the message is in the queue all the same, and goes on by itself.

FUSE tells us of no interrupt, so whether the caller has been sent a signal is looked up: the kernel
keeps it waiting until there is an answer, be it killed.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from cbfs.messages.model import Delivery, Message
from cbfs.outbox.outbox import Outbox
from cbfs.tree.nodes import Failure, File, Folder, Node
from cbfs.tree.processes import ProcFS
from cbfs.tree.rules import Area, TreeError

LOOK = 0.2
"""Seconds between two looks at the caller."""

WAITING_MAX = 32
"""Calls that may wait at once: each takes one of the handlers that the mount has."""


class SyncSend:
    """What fsync waits for in one mount's outbox. It waits for at most ``limit`` seconds; 0 is
    without the option."""

    def __init__(self, outbox: Outbox, limit: float) -> None:
        self._outbox = outbox
        self._limit = limit
        self._processes = ProcFS()
        self._waiting = 0
        self._news = trio.Event()

    @property
    def is_on(self) -> bool:
        """Whether fsync says that a file is all that is to be in it."""
        return self._limit > 0

    def changed(self) -> None:
        """Some message, or file of the outbox, is in a new state."""
        self._news.set()
        self._news = trio.Event()

    async def wait(self, node: Node, thread: int) -> None:
        """A program's ``thread`` has called fsync on ``node``, which is on the disk: with the
        option, wait until the servers have it as it is now. Raises TreeError: EACCES when it cannot
        be sent, ECANCELED when it was taken back, removed or changed meanwhile, ETIMEDOUT when the
        time is over, EINTR when the caller was sent a signal that ends it, EBUSY when too many
        wait."""
        if not self.is_on:
            return
        self._outbox.changed()
        if not isinstance(node, File) or not _places(node):
            return
        version = node.version
        if node.failure is not Failure.NONE:
            raise TreeError(errno.EACCES)
        if node.error and node.given_up == version:
            raise TreeError(errno.EACCES)
        node.asked = version
        if node.sent != version and self._is_held(node):
            return
        with self._counted():
            await self._wait(node, version, thread)

    async def _wait(self, file: File, version: int, thread: int) -> None:
        caller = self._processes.of_thread(thread)
        message: Message | None = None
        with trio.move_on_after(self._limit):
            while True:
                message = message or _message(file, version)
                if message is not None and self._is_there(message):
                    return
                with trio.move_on_after(LOOK):
                    await self._news.wait()
                if caller is not None and self._processes.is_ending(caller):
                    raise TreeError(errno.EINTR)
        raise TreeError(errno.ETIMEDOUT)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._waiting == WAITING_MAX:
            raise TreeError(errno.EBUSY)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    def _is_held(self, file: File) -> bool:
        return all(self._outbox.verdict(folder, name, file) for folder, name in _places(file))

    def _is_there(self, message: Message) -> bool:
        """Whether the servers of all recipients have it."""
        now = self._outbox.tree.backend.message(message.conversation, message.serial)
        states = [state for _name, state in now.recipients] if now else [Delivery.CANCELLED]
        if Delivery.CANCELLED in states:
            raise TreeError(errno.ECANCELED)
        return Delivery.QUEUED not in states


def _places(file: File) -> list[tuple[Folder, str]]:
    """Where it is in the outbox."""
    return [(folder, name) for folder, name in file.names if folder.area is Area.DRAFTS]


def _message(file: File, version: int) -> Message | None:
    """What this version has become, None when it is not sent yet."""
    if file.message is not None and file.sent == version:
        return file.message
    if file.error and file.given_up == version:
        raise TreeError(errno.EACCES)
    if file.version != version or not _places(file):
        raise TreeError(errno.ECANCELED)
    return None
