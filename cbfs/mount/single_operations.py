"""The handlers of a mount of a single conversation: those of the account's mount, on what that one
shows.

They run in the daemon that has the account; the process that has the mount's own /dev/fuse passes
the kernel's requests on to ``cbfs.mount.single_server``.
"""

import errno
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyfuse3
from pyfuse3 import EntryAttributes, FileHandleT

from cbfs.mount.attributes import CACHE_SECONDS, Attributes
from cbfs.mount.notifier import Notifier
from cbfs.mount.operations import Operations
from cbfs.mount.quota import BLOCK_SIZE, Quota, Space
from cbfs.mount.single_view import SingleInodes, SingleView
from cbfs.mount.view import MountView
from cbfs.tree.nodes import File, Folder, MessageFile, Node
from cbfs.tree.processes import ProcFS
from cbfs.tree.virtual.conversation_folder import ConversationFolder
from cbfs.tree.virtual.virtual_directory import DOTS
from cbfs.tree.xattrs import xattrs

SPACE = 1 << 30
"""Bytes of free space that such a mount tells of while there is any: how much there really is
changes with every message of the account."""

LISTED_AT_ONCE = 128
"""Entries of a directory in one answer."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What handlers want to know of who has made a request: the thread (its id)."""

    pid: int

    @property
    def context(self) -> pyfuse3.RequestContext:
        """The caller, as a handler is given it: pyfuse3 lets nobody else make such a context."""
        return cast(pyfuse3.RequestContext, self)


@dataclass(frozen=True, slots=True)
class ChangedFields:
    """Which of the attributes a setattr sets."""

    update_uid: bool
    update_gid: bool
    update_size: bool
    update_mode: bool
    update_mtime: bool

    @property
    def fields(self) -> pyfuse3.SetattrFields:
        """The fields, as the handler of setattr is given them."""
        return cast(pyfuse3.SetattrFields, self)


class FixedQuota(Quota):
    """Tells nothing but whether there is room."""

    def space(self) -> Space:
        """A fixed size, all of it free while the largest file has room, else none."""
        room = super().space().free * BLOCK_SIZE >= self._configuration.current.file_size_max
        blocks = SPACE // BLOCK_SIZE
        return Space(blocks, blocks if room else 0)


class SingleAttributes(Attributes):
    """What is told of what one conversation's mount shows, under the ``numbers`` of that mount."""

    def __init__(self, view: MountView, numbers: SingleInodes) -> None:
        super().__init__(view, CACHE_SECONDS)  # a message that goes may go elsewhere
        self._numbers = numbers

    def of(self, node: Node) -> EntryAttributes:
        """The attributes of a node, with its number here. The next call may change what this one
        gives."""
        entry = super().of(node)
        entry.st_ino = pyfuse3.InodeT(self._numbers.number(node))
        return entry


class SingleOperations(Operations):
    """The handlers of one such mount, of what ``single`` shows. It is told of each change of the
    tree that watchers of the account's mount see, so that its own see it as well. ``key``: random,
    32 bytes, for its inode numbers."""

    def __init__(self, view: MountView, account: Path, single: SingleView, key: bytes) -> None:
        self.single = single
        self.numbers = SingleInodes(view.tree, single.root, key)
        attributes = SingleAttributes(view, self.numbers)
        super().__init__(view, Notifier(view.failed), attributes, ProcFS(), account)
        backend = view.tree.backend
        self._inodes = self.numbers
        self._quota = FixedQuota(account, backend)
        self._xattrs = lambda inode: xattrs(self._node(inode), backend)
        self._places: dict[int, list[int]] = {}
        self._told: dict[int, list[Node | None]] = {}

    # what the tree's other users do

    def appears(self, path: str, node: Node) -> None:
        """``node`` has just come to ``path`` of the tree: show it here as well, while watchers
        look."""
        place = self.single.place(path)
        if place is None:
            return

        def enter() -> None:
            self.single.show(place)

        self.single.hide(place)
        self.notifier.show(self.single.path(path), node, enter)

    def disappears(self, path: str) -> None:
        """What is at ``path`` of the tree is about to go: take it out here as well, while watchers
        look."""
        place = self.single.place(path)
        node = place[0].entries.get(place[1]) if place else None
        if place is None or node is None:
            return
        self.single.leave(place, node)
        is_folder = isinstance(node, Folder)
        remove = self.notifier.remove_folder if is_folder else self.notifier.remove
        remove(self.single.path(path), lambda: self.single.gone(place))

    def moves(self, path: str, new: str) -> None:
        """The folder at ``path`` of the tree gets the name ``new``, which is not shown here."""
        self.single.moves(path, new)

    # directories

    def listed(self, handle: int, start: int) -> list[tuple[int, str, EntryAttributes]]:
        """Entries of an open directory from place ``start`` on. Places here only count: those of
        the tree count the messages of all conversations."""
        places = self._places.setdefault(handle, [0])
        del places[start + 1 :]
        found: list[tuple[int, str, EntryAttributes]] = []
        told: list[Node | None] = []
        directory = self._listings[handle].directory
        for place, name, there in self._listings[handle].after(places[start]):
            places.append(place)
            node = self._in_use(there)
            node = self.single.above(directory, node) if name == ".." else node
            if not self.single.is_hidden(directory, name):
                # a copy: that of messages is one object
                attributes = EntryAttributes()
                attributes.__setstate__(self._attributes.of(node).__getstate__())
                found.append((len(places) - 1, name, attributes))
                told.append(None if name in DOTS else node)
            if len(found) == LISTED_AT_ONCE:
                break
        self._told[handle] = told
        return found

    def counted(self, handle: int, count: int) -> None:
        """The kernel has taken so many of those that ``listed`` gave last."""
        told = self._told.pop(handle, [])[:count]
        self._inodes.count(*(node for node in told if node is not None))

    def forget_listing(self, handle: int) -> None:
        """A directory is closed: what was listed of it is forgotten."""
        self._listings.pop(handle, None)
        self._places.pop(handle, None)
        self._told.pop(handle, None)

    # its end

    async def close(self) -> None:
        """The kernel is gone: what was open is closed, and nothing is known any more."""
        for node in self._handles.nodes():
            if isinstance(node, File):
                self._contents.cut_off(node)
        for handle in self._handles.numbers():
            with suppress(pyfuse3.FUSEError):  # logged; the others may be stored
                await self.release(FileHandleT(handle))
        self.numbers.close()

    # hooks of ``Operations``

    def _find(self, directory: Folder, name: str) -> Node:
        leaving = self.single.leaving(directory, name)
        if leaving is not None:
            return leaving
        node = self._tree.lookup(directory, name)
        if self.single.is_hidden(directory, name):
            raise pyfuse3.FUSEError(errno.ENOENT)
        return node

    async def _unlink(self, directory: Folder, name: str) -> None:
        node, provider = directory.entries.get(name), self.single.folder.provider
        is_message = isinstance(node, MessageFile) and directory is self.single.folder
        if not is_message or node is None or not isinstance(provider, ConversationFolder):
            await self._changes.unlink(directory, name)
            return
        # it can be looked up until the mount of the account has let it go, and is not listed
        provider.leaving[name] = node
        try:
            await self._changes.unlink(directory, name)
            await self._show_removal(directory, name)
        finally:
            provider.leaving.pop(name, None)

    async def _show_removal(self, directory: Folder, name: str) -> None:
        """Let the mount of the account know of a message that has gone: its kernel keeps messages,
        and somebody may watch there."""
        revealer, path = self._view.watchers.revealer, self.single.outside(directory, name)
        if path and revealer is not None:
            await revealer.removed(path)

    def _is_new(self, node: Node) -> bool:
        return False  # it is the account's owner who has read a message or not
