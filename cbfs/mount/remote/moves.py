"""Moves and new names in a mount on another machine: of what the hub has, of what waits for it, and
of what only this machine knows."""

import errno
from contextlib import AsyncExitStack

from cbfs.mount.remote.handing import Handing
from cbfs.mount.remote.hub_view import HubView, below
from cbfs.mount.remote.nodes import RemoteNode, is_here, path_of


class RemoteMoves:
    """Renames in what ``view`` knows; files that wait go through ``handing``."""

    def __init__(self, view: HubView, handing: Handing) -> None:
        self._view = view
        self._tree = view.tree
        self._link = view.link
        self._handing = handing

    async def rename(
        self, source: RemoteNode, old: bytes, target: RemoteNode, new: bytes, *, replace: bool
    ) -> None:
        """Move an entry of ``source`` to ``target``. Raises OSError: then it is where it was."""
        node = await self._view.look_up(source, old)
        there = target.entries.get(new)
        if there is node:
            return
        if there is not None and not replace:
            raise OSError(errno.EEXIST, "")
        if target.gone:
            raise OSError(errno.ENOENT, "")
        first, *second = sorted(
            (each for each in (node, there) if each is not None), key=lambda each: each.number
        )
        async with first.lock, AsyncExitStack() as held:
            for each in second:
                await held.enter_async_context(each.lock)
            if node.gone or target.entries.get(new) is not there:
                raise OSError(errno.EBUSY, "")  # it has changed meanwhile
            if node.is_folder:
                await self._folder(node, there, target, new, replace)
            elif node.outgoing is not None or node.local:
                await self._here(node, there, target, new)
            else:
                await self._there(node, there, target, new, replace)
        for folder in (source, target):
            folder.listed = -1.0

    async def _folder(
        self,
        node: RemoteNode,
        there: RemoteNode | None,
        target: RemoteNode,
        name: bytes,
        replace: bool,
    ) -> None:
        if there is not None and any(map(is_here, there.entries.values())):
            raise OSError(errno.ENOTEMPTY, "")
        if node.local:
            if not self._tree.is_outbox(target) or there is not None:
                raise OSError(errno.EXDEV, "")
            await self._handing.folder_moved(node, target, name)
            return
        if not node.stat.conversation and any(map(is_here, node.entries.values())):
            raise OSError(errno.EBUSY, "")  # where would they go?
        await self._there(node, there, target, name, replace)

    async def _there(
        self,
        node: RemoteNode,
        there: RemoteNode | None,
        target: RemoteNode,
        name: bytes,
        replace: bool,
    ) -> None:
        """What the hub has gets another name."""
        over = None if there is None or there.is_folder else there
        async with self._handing.replaced(over):  # what waits goes with its name
            await self._link.ask("rename", path_of(node), below(target, name), replace)
        if there is not None:
            there.unlinked = True
        self._tree.move(node, target, name)
        node.stale = True

    async def _here(
        self, node: RemoteNode, there: RemoteNode | None, target: RemoteNode, name: bytes
    ) -> None:
        """What the hub has not got yet, or may not have got, gets another name."""
        if not self._tree.in_outbox(target):
            raise OSError(errno.EXDEV, "")  # mv then copies, and removes it
        if there is not None and there.is_folder:
            raise OSError(errno.EISDIR, "")
        if not await self._handing.moved(node, target, name):
            if not node.local:  # it has been handed over meanwhile
                await self._there(node, there, target, name, replace=True)
                return
            async with self._handing.replaced(there) as (has, before):
                # what is stored is to be in the place of that
                node.local, node.before = not has, before
            self._tree.move(node, target, name)
        if there is not None:
            there.unlinked = True
