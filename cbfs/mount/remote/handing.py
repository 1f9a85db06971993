"""What is saved in outbox/ of a mount on another machine: it waits in the spool of this machine,
on the disk, and is handed over to the hub, each file once."""

import errno
import logging
import math
import os
import stat
from dataclasses import replace
from typing import Any, Final

import trio

from cbfs.mount.remote.hub_view import HubView
from cbfs.mount.remote.link import AwayError
from cbfs.mount.remote.nodes import RemoteNode, local_stat, path_of
from cbfs.mount.remote.spool import OutgoingSpool, WaitingFile, moved
from cbfs.mount.remote.wire import decode_stat, is_name
from cbfs.storage.faults import harmless
from cbfs.tree.rules import is_scratch
from cbfs_common.errors import CryptoError, DecodeError

WAIT_MAX: Final = 20.0
"""Seconds for which who changes a file waits until it is handed over that just is."""

RETRY: Final = 5.0
"""Seconds until it is tried again, where the hub has not answered in time."""

_log = logging.getLogger(__name__)


class Handing:
    """Hands over what waits in ``spool``. ``run`` it while there is a mount."""

    def __init__(self, view: HubView, spool: OutgoingSpool) -> None:
        self._view = view
        self._spool = spool
        self._waiting: dict[bytes, tuple[WaitingFile, RemoteNode]] = {}
        self._wake = trio.Event()
        self._now: tuple[bytes, trio.Event] | None = None
        self._refused: dict[bytes, int] = {}
        # what the hub may have already: it does not take anything else under these ids
        self._tried: set[bytes] = set()
        self._using = trio.Lock()

    @property
    def count(self) -> int:
        """How many files wait."""
        return len(self._waiting)

    def troubles(self) -> list[tuple[str, str]]:
        """(path, why) of what the hub has refused."""
        return [
            (os.fsdecode(item.path), node.trouble)
            for item, node in self._waiting.values()
            if node.trouble
        ]

    def begin(self, waiting: list[WaitingFile]) -> None:
        """Show what waits from before."""
        for item in waiting:
            above, _, name = item.path.rpartition(b"/")
            node = self._node(above, name, item)
            if node is not None:
                node.outgoing = item
                self._waiting[item.identity] = item, node
                self._tried.add(item.identity)

    def _node(self, path: bytes, name: bytes, item: WaitingFile) -> RemoteNode | None:
        here = self._view.tree.root
        for part in path.split(b"/"):
            found = here.entries.get(part)
            if found is None:
                found = self._view.tree.make(here, part, local_stat(stat.S_IFDIR | 0o700))
            here = found
        told = local_stat(stat.S_IFREG | item.mode, item.size)
        return self._view.tree.make(here, name, told)

    def wake(self) -> None:
        """There may be something to be handed over."""
        self._wake.set()

    def again(self) -> None:
        """There is a link again: what was refused is tried once more."""
        self._refused.clear()
        self.wake()

    async def save(self, node: RemoteNode, content: bytes) -> None:
        """Let the content of a file wait; it is on the disk on return. Raises OSError."""
        async with self._using:
            before = node.outgoing
            above = node.above
            conversation = above.stat.conversation if above is not None else b""
            mode = stat.S_IMODE(node.stat.mode)
            if before is not None and before.identity not in self._tried:
                item = replace(before, path=path_of(node), size=len(content), mode=mode)
            else:
                replaces = before is not None or not node.local
                identity = self._spool.new_id()
                item = WaitingFile(
                    identity, path_of(node), mode, 0, conversation, replaces, len(content)
                )
            size = before.size if before and before.identity == item.identity else 0
            await trio.to_thread.run_sync(self._spool.save, item, content, size)
            node.outgoing, node.trouble = item, ""
            self._waiting[item.identity] = item, node
            self._refused.pop(item.identity, None)
            self._view.link.hurry()

    async def read(self, item: WaitingFile) -> bytes:
        """The content of what waits. Raises OSError."""
        try:
            return (await trio.to_thread.run_sync(self._spool.read, item.identity))[1]
        except (CryptoError, DecodeError) as error:
            raise OSError(errno.EIO, "") from error

    async def settled(self, node: RemoteNode) -> bool:
        """Whether a file waits, and is not just being handed over: that is waited for. Raises
        OSError where it takes too long."""
        with trio.move_on_after(WAIT_MAX):
            while node.outgoing is not None and self._is_being_handed(node.outgoing):
                if self._now is not None:
                    await self._now[1].wait()
                await trio.lowlevel.checkpoint()
            return node.outgoing is not None
        raise OSError(errno.EBUSY, "")

    async def renamed(self, node: RemoteNode, *, replaces: bool) -> None:
        """A file that waits has another place or name now. Raises OSError."""
        above = node.above
        if node.outgoing is None or above is None:
            return
        async with self._using:
            content = await self.read(node.outgoing)
            item = moved(node.outgoing, path_of(node), above.stat.conversation, replaces=replaces)
            await trio.to_thread.run_sync(self._spool.save, item, content, item.size)
            node.outgoing = item
            self._waiting[item.identity] = item, node
        self.wake()

    async def described(self, node: RemoteNode, mode: int | None, modified: int | None) -> None:
        """A file that waits gets another mode or time. Raises OSError."""
        item = node.outgoing
        if item is not None:
            async with self._using:
                content = await self.read(item)
                item = replace(
                    item,
                    mode=item.mode if mode is None else mode,
                    modified=item.modified if modified is None else modified,
                )
                await trio.to_thread.run_sync(self._spool.save, item, content, item.size)
                node.outgoing = item
                self._waiting[item.identity] = item, node

    async def drop(self, node: RemoteNode) -> None:
        """A file waits no more. Raises OSError."""
        item = node.outgoing
        if item is not None:
            async with self._using:
                await self._drop(item)
                node.outgoing = None

    async def _drop(self, item: WaitingFile) -> None:
        await trio.to_thread.run_sync(self._spool.drop, item)
        self._waiting.pop(item.identity, None)
        self._tried.discard(item.identity)
        self._refused.pop(item.identity, None)

    def _is_being_handed(self, item: WaitingFile) -> bool:
        return self._now is not None and self._now[0] == item.identity

    # handing over

    async def run(self) -> None:
        """Until cancelled."""
        wait = math.inf
        while True:
            with trio.move_on_after(wait):
                await self._wake.wait()
            self._wake = trio.Event()
            wait = RETRY
            with harmless():
                wait = math.inf if await self._all() else RETRY

    async def _all(self) -> bool:
        """Hand over what can be. False where that is to be tried again, though there is a link."""
        for identity in list(self._waiting):
            if not self._view.link.is_up:
                return True
            item, node = self._waiting.get(identity, (None, None))
            if item is None or node is None or node.writers or identity in self._refused:
                continue
            if is_scratch(os.fsdecode(node.name)):
                continue  # no message under such a name: it stays here
            done = trio.Event()
            self._now = identity, done
            self._tried.add(identity)
            try:
                await self._hand_over(item, node)
            except AwayError:
                return False  # with the same id
            except OSError as error:
                self._refused[identity] = error.errno or errno.EIO
                node.trouble = os.strerror(error.errno or errno.EIO)
                _log.warning("the hub does not take a file: %s", node.trouble)
            finally:
                self._now = None
                done.set()
        return True

    async def _hand_over(self, item: WaitingFile, node: RemoteNode) -> None:
        link, tree = self._view.link, self._view.tree
        async with self._using:
            content = await self.read(item)
        told = item.mode, item.modified
        result = await link.hand_over(
            item.identity, content, item.path, told, item.conversation, item.replaces
        )
        name, fields = _put(result)
        async with self._using:
            await self._drop(item)
        if node.outgoing is item:
            node.outgoing, node.trouble = None, ""
            above = node.above
            if fields is None or above is None:
                self._view.drop(node)
            else:
                if name != node.name:
                    tree.move(node, above, name)
                tree.update(node, fields, link.generation)
                node.stale = True
            if above is not None:
                above.listed = -1.0
                if above.local:
                    above.local, above.stale = False, True
        await link.tell("taken", [item.identity])


def _put(result: Any) -> tuple[bytes, Any]:
    """The name and the stat of what was handed over; no stat where that was so before. Raises
    OSError(EIO) for what is no answer."""
    try:
        match result:
            case []:
                return b"", None
            case [bytes(name), list(fields)] if is_name(name):
                return name, decode_stat(fields)
    except DecodeError:
        pass
    raise OSError(errno.EIO, "")
