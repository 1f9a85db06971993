"""The handlers of a mount of a single conversation: those of the account's mount, on what that one
shows.

They run in the daemon that has the account; the process that has the mount's own /dev/fuse passes
the kernel's requests on to ``cbfs.mount.single.server``.
"""

import errno
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyfuse3
from pyfuse3 import EntryAttributes, FileHandleT

from cbfs.mount.attributes import CACHE_SECONDS, Attributes
from cbfs.mount.notifier import Notifier
from cbfs.mount.operations import Operations
from cbfs.mount.quota import BLOCK_SIZE, Quota, Space
from cbfs.mount.single.view import SingleInodes, SingleView
from cbfs.mount.single.wire import OWN_HANDLE, STAT
from cbfs.mount.view import MountView
from cbfs.tree.changes import Changes
from cbfs.tree.nodes import FIRST_MESSAGE, File, Folder, FolderFile, MessageFile, Node
from cbfs.tree.processes import Process, ProcFS
from cbfs.tree.virtual.conversation_folder import ConversationFolder
from cbfs.tree.virtual.virtual_directory import DOTS
from cbfs.tree.xattrs import xattrs

SPACE = 1 << 30
"""Bytes of free space that such a mount tells of while there is any: how much there really is
changes with every message of the account."""

MESSAGE_SECONDS = 10.0
"""For how long the kernel may answer for us of a message: its names are pushed out of this kernel
as messages go, but another process has that, and may be told too early, or not at all."""

LISTED_AT_ONCE = 128
"""Entries of a directory in one answer."""

AHEAD = 16
"""Messages that the kernel is given at once ..."""

AHEAD_SPAN = 64
"""... of so many that have come behind the one that is read, to whatever conversation."""


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


def _nobody(_inode: int, _name: bytes) -> None:
    """Nobody is to be told."""


def stat_of(entry: EntryAttributes) -> list[Any]:
    """Attributes as another process is told them."""
    return [getattr(entry, name) for name in STAT]


class FixedQuota(Quota):
    """Tells nothing but whether there is room."""

    def space(self) -> Space:
        """A fixed size, all of it free while the largest file has room, else none."""
        room = super().space().free * BLOCK_SIZE >= self._configuration.current.largest
        blocks = SPACE // BLOCK_SIZE
        return Space(blocks, blocks if room else 0)


class SingleAttributes(Attributes):
    """What is told of what one conversation's mount shows, under the ``numbers`` of that mount."""

    def __init__(self, view: MountView, numbers: SingleInodes) -> None:
        super().__init__(view, MESSAGE_SECONDS)
        self._numbers = numbers

    def of(self, node: Node, *, elsewhere: bool = False) -> EntryAttributes:
        """The attributes of a node, with its number here. The next call may change what this one
        gives."""
        entry = super().of(node, elsewhere=elsewhere)
        entry.st_ino = pyfuse3.InodeT(self._numbers.number(node))
        return entry

    def _entry_seconds(self, node: Node) -> float:
        return CACHE_SECONDS  # other mounts change names as well


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
        self._changes = Changes(view.tree, adds=False)  # who is added would read what comes later
        self._inodes = self.numbers
        self._quota = FixedQuota(account, backend)
        self._xattrs = lambda inode: xattrs(self._node(inode), backend)
        self._places: dict[int, list[int]] = {}
        self._told: dict[int, list[Node | None]] = {}
        self._offered: tuple[Node | None, bytes] = None, b""
        self._last = -AHEAD_SPAN  # the serial of the message that was opened last, or was given
        self.outdate: Callable[[int, bytes], None] = _nobody
        """Is told what the mount's kernel must forget: a name in a folder (its number here), or,
        without a name, what it knows of an inode."""

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

    def made(self, path: str) -> None:
        """Conversations begin elsewhere."""

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

        def gone() -> None:
            self.single.gone(place)
            self.outdates(place[0].inode, place[1])  # nobody may have shown that it goes

        remove(self.single.path(path), gone)

    def moves(self, path: str, new: str) -> None:
        """The folder at ``path`` of the tree gets the name ``new``, which is not shown here."""
        self.single.moves(path, new)

    def touches(self, inode: int) -> None:
        """The content of that inode of the tree has changed, or is no more."""
        number = self.numbers.number_of(inode)
        if number in self.numbers:
            self._given.forget(inode)
            self.outdate(number, b"")

    def outdates(self, folder: int, name: str) -> None:
        """Nothing has that name any more in the folder of that inode of the tree."""
        number = self.numbers.number_of(folder)
        if number in self.numbers:
            self.outdate(number, name.encode())

    # files

    def forget_one(self, inode: int, count: int) -> None:
        """The mount's kernel has forgotten ``count`` look-ups of that number of here."""
        node = self.numbers.get(inode)
        if node is not None:
            self._given.forget(node.inode)
        self.numbers.forget(inode, count)

    def offered(self, handle: int) -> bytes:
        """The content that the mount's kernel is to be given with the opening that has just given
        this handle; empty for none."""
        (node, content), self._offered = self._offered, (None, b"")
        return content if self._handles[handle].node is node else b""

    def opened(self, inode: int, handle: int) -> None:
        """Something that the kernel was given is open, with a handle of the process that has it."""
        node = self.numbers.get(inode)
        if isinstance(node, MessageFile) and handle >= OWN_HANDLE and handle not in self._handles:
            self._handles.enter(handle, node)
            self._inodes.opened(node)

    def ahead(self, handle: int) -> list[tuple[int, bytes]]:
        """Messages behind the one that was just opened, by their numbers here, with their contents:
        some small ones, when somebody reads one after the other, so that they need not be asked
        for."""
        if not self.is_quick(handle):
            return []
        node, last = self._handles[handle].node, self._last
        if not isinstance(node, MessageFile) or isinstance(node, FolderFile):
            return []
        self._last = node.serial
        if not last < node.serial <= last + AHEAD_SPAN:
            return []
        found: list[tuple[int, bytes]] = []
        for serial in range(node.serial + 1, node.serial + 1 + AHEAD_SPAN):
            there = self._tree.inodes.known(FIRST_MESSAGE + serial)
            if there is None or not self._is_known_here(there, node.conversation):
                continue
            if content := self._content_to_give(there):
                found.append((self.numbers.number(there), content))
                self._last = serial
            if len(found) == AHEAD:
                break
        return found

    def _is_known_here(self, node: Node, conversation: bytes) -> bool:
        return (
            isinstance(node, MessageFile)
            and node.conversation == conversation
            and self.numbers.number(node) in self.numbers
        )

    def is_quick(self, handle: int) -> bool:
        """Whether what is read by a handle is there at once, and nothing is to be done when it is
        closed."""
        return handle in self._handles and isinstance(self._handles[handle].node, MessageFile)

    # directories

    def listed(self, handle: int, start: int) -> list[tuple[int, str, list[Any]]]:
        """Entries of an open directory from place ``start`` on, with their ``stat_of``. Places here
        only count: those of the tree count the messages of all conversations."""
        places = self._places.setdefault(handle, [0])
        del places[start + 1 :]
        found: list[tuple[int, str, list[Any]]] = []
        told: list[Node | None] = []
        directory = self._listings[handle].directory
        self._check_shown(directory)
        for place, name, there in self._listings[handle].after(places[start]):
            places.append(place)
            node = self._in_use(there)
            node = self.single.above(directory, node) if name == ".." else node
            if not self.single.is_hidden(directory, name):
                # at once: that of messages is one object
                found.append((len(places) - 1, name, stat_of(self._attributes.of(node))))
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

    async def _unlink(self, directory: Folder, name: str, by: Process | None) -> None:
        node, provider = directory.entries.get(name), self.single.folder.provider
        is_message = isinstance(node, MessageFile) and directory is self.single.folder
        if not is_message or node is None or not isinstance(provider, ConversationFolder):
            self._erased(directory, name, await self._changes.unlink(directory, name, by))
            return
        # it can be looked up until the mount of the account has let it go, and is not listed
        provider.leaving[name] = node
        try:
            self._erased(directory, name, await self._changes.unlink(directory, name))
            await self._show_removal(directory, name)
        finally:
            provider.leaving.pop(name, None)
            # who has looked it up meanwhile, in another window, was told of it
            self._view.watchers.left(directory.inode, name)

    async def _show_removal(self, directory: Folder, name: str) -> None:
        """Let the mount of the account know of a message that has gone: its kernel keeps messages,
        and somebody may watch there."""
        revealer, path = self._view.watchers.revealer, self.single.outside(directory, name)
        if path and revealer is not None:
            await revealer.removed(path)

    def _give(self, node: Node, content: bytes) -> None:
        self._offered = node, content  # another process has the mount's kernel

    def _check_shown(self, node: Node) -> None:
        if not self.single.shows(node):  # a draft of a conversation that goes on with others
            raise pyfuse3.FUSEError(errno.ESTALE)

    def _is_new(self, node: Node) -> bool:
        return False  # it is the account's owner who has read a message or not
