"""FUSE requests onto the tree, and the files that they have open. The one place where errors become
errno.

No handler of lookup, getattr, readdir, open, read or statfs waits for the network or the disk's
flush. A handler that raises anything but FUSEError would end the mount, so each is wrapped.
"""

import errno
import functools
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from cbfs.mount.attributes import Attributes
from cbfs.mount.notifier import STAGED, Notifier
from cbfs.mount.quota import BLOCK_SIZE, Quota, errno_of
from cbfs.mount.view import MountView
from cbfs.storage.faults import harmless, log_fault
from cbfs.storage.store import StoreError
from cbfs.tree.changes import Changes
from cbfs.tree.nodes import (
    File,
    Folder,
    MessageFile,
    Node,
    SymbolicLink,
    Text,
)
from cbfs.tree.processes import Process, ProcFS
from cbfs.tree.rules import TreeError
from cbfs.tree.virtual.conversation_folder import MessageFolder
from cbfs.tree.virtual.unread_folder import counts_as_reading
from cbfs.tree.virtual.virtual_directory import DOTS, Listing, VirtualDirectory
from cbfs.tree.xattrs import xattrs
from cbfs_common.limits import FILE_NAME_MAX

_log = logging.getLogger(__name__)

H = TypeVar("H", bound=Callable[..., Awaitable[Any]])


def _handler(function: H) -> H:
    """Turn what goes wrong into errno; what nobody foresaw is logged and is EIO."""

    @functools.wraps(function)
    async def wrapped(*arguments: Any) -> Any:
        try:
            return await function(*arguments)
        except FUSEError:
            raise
        except TreeError as error:
            raise FUSEError(error.errno) from error
        except StoreError as error:
            _log.error("%s", error.in_full)
            raise FUSEError(errno_of(error)) from error
        except Exception as error:
            log_fault(error)
            arguments[0]._view.failed()
            raise FUSEError(errno.EIO) from error

    return wrapped  # type: ignore[return-value]  # the same signature


@dataclass(frozen=True, slots=True)
class Handle:
    """One open file. ``writes``: it may be written to. ``new``: reading it to the end makes the
    message read. ``thread`` has opened it, ``author`` is its process when it writes. ``appends``:
    by O_APPEND."""

    node: Node
    writes: bool
    new: bool
    thread: int = 0
    author: Process | None = None
    appends: bool = False


class Handles:
    """The open files of a mount, by the number that the kernel gives back with each request. Counts
    in each ``File`` how many have it open, and how many of them write."""

    def __init__(self) -> None:
        self._open: dict[int, Handle] = {}
        self._last = 0

    def number(self) -> int:
        """A fresh number."""
        self._last += 1
        return self._last

    def open(
        self,
        node: Node,
        thread: int,
        *,
        writes: bool,
        new: bool,
        author: Process | None = None,
        appends: bool = False,
    ) -> int:
        """A handle on a file: its number."""
        number = self.number()
        self._open[number] = Handle(node, writes, new, thread, author, appends)
        if isinstance(node, File):
            node.handles += 1
            node.writers += writes
        return number

    def __getitem__(self, number: int) -> Handle:
        return self._open[number]

    def close(self, number: int) -> Handle:
        """The handle of that number, which is no more."""
        handle = self._open.pop(number)
        if isinstance(handle.node, File):
            handle.node.handles -= 1
            handle.node.writers -= handle.writes
        return handle

    def numbers(self) -> list[int]:
        """Those that are open."""
        return list(self._open)

    def nodes(self) -> list[Node]:
        """What is open, once for each handle."""
        return [handle.node for handle in self._open.values()]


class Operations(pyfuse3.Operations):
    """The handlers of one mount, on what ``view`` shows; calls of the process of ``notifier`` make
    the changes that it is to show. ``ended`` is set when the kernel asks no more."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(
        self,
        view: MountView,
        notifier: Notifier,
        attributes: Attributes,
        processes: ProcFS,
        account: Path,
    ) -> None:
        super().__init__()
        self.notifier = notifier
        self.ended = trio.Event()
        self._view = view
        self._tree = view.tree
        self._changes = Changes(view.tree)
        self._contents = view.tree.contents
        self._unread = view.search_folders.unread
        self._processes = processes
        self._quota = Quota(account, self._tree.backend)
        self._xattrs: Callable[[int], dict[str, str]] = lambda inode: xattrs(
            self._node(inode), view.tree.backend, account
        )
        self._attributes = attributes
        self._inodes = self._tree.inodes
        self._handles = Handles()
        self._listings: dict[int, Listing] = {}

    # entries

    @_handler
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        directory = self._directory(parent_inode)
        text = _text(name)
        if self._is_notifier(ctx) and text.startswith(STAGED):
            node = self.notifier.staged(text)
            if node is None:
                raise FUSEError(errno.ENOENT)
            return self._remember(node)
        node = self._find(directory, text)
        if isinstance(node, VirtualDirectory):
            node.found_in(directory)
        return self._remember(node)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        # is not answered: even a FUSEError would end the mount
        for inode, count in inode_list:
            with harmless(self._view.failed):
                self._inodes.forget(inode, count)

    @_handler
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes.of(self._node(inode))

    @_handler
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        node = self._node(inode)
        if fields.update_uid and attr.st_uid != self._attributes.uid:
            raise FUSEError(errno.EPERM)
        if fields.update_gid and attr.st_gid != self._attributes.gid:
            raise FUSEError(errno.EPERM)
        if fields.update_size:
            _check_reachable(node)
            node = file = self._changes.to_write(node)
            await self._contents.truncate(file, attr.st_size)
            if not file.writers:
                await self._changes.close(file)
        if fields.update_mode or fields.update_mtime:
            await self._changes.describe(
                node,
                attr.st_mode if fields.update_mode else None,
                attr.st_mtime_ns if fields.update_mtime else None,
            )
        return self._attributes.of(node)

    @_handler
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        directory, text = self._directory(parent_inode), _text(name)
        if self._is_notifier(ctx):
            self.notifier.apply(text)
            return self._remember(self._tree.lookup(directory, text))
        return self._remember(await self._changes.mkdir(directory, text, mode))

    @_handler
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        author = self._processes.of_thread(ctx.pid)
        directory = self._directory(parent_inode)
        link = await self._changes.symlink(directory, _text(name), _text(target), author)
        return self._remember(link)

    @_handler
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        node = self._node(inode)
        if not isinstance(node, SymbolicLink):
            raise FUSEError(errno.EINVAL)
        return FileNameT(node.target.encode())

    @_handler
    async def link(
        self,
        inode: InodeT,
        new_parent_inode: InodeT,
        new_name: FileNameT,
        ctx: RequestContext,
    ) -> EntryAttributes:
        node = self._node(inode)
        await self._changes.link(node, self._directory(new_parent_inode), _text(new_name))
        return self._remember(node)

    @_handler
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        if self._is_notifier(ctx):
            self.notifier.apply(_text(name))
            return
        await self._unlink(self._directory(parent_inode), _text(name))

    @_handler
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        if self._is_notifier(ctx):
            self.notifier.apply(_text(name))
            return
        await self._changes.rmdir(self._directory(parent_inode), _text(name))

    @_handler
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        old = _text(name_old)
        if self._is_notifier(ctx):
            self.notifier.apply(old)
            return
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise FUSEError(errno.EINVAL)
        await self._changes.rename(
            self._directory(parent_inode_old),
            old,
            self._directory(parent_inode_new),
            _text(name_new),
            replace=not flags & pyfuse3.RENAME_NOREPLACE,
        )

    # directories

    @_handler
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        directory = self._directory(inode)
        handle = self._handles.number()
        self._listings[handle] = Listing(directory)
        return FileHandleT(handle)

    @_handler
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        told: list[Node] = []
        reply, attributes = pyfuse3.readdir_reply, self._attributes.of
        for place, name, listed in self._listings[fh].after(start_id):
            node = self._in_use(listed)
            if not reply(token, name.encode(), attributes(node), place):
                break
            if name not in DOTS:  # the kernel does not take these for look-ups
                told.append(node)
        self._inodes.count(*told)

    @_handler
    async def releasedir(self, fh: FileHandleT) -> None:
        self._listings.pop(fh, None)

    @_handler
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """Names are on the disk when the call that made them returns."""

    # files

    @_handler
    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        author = self._processes.of_thread(ctx.pid)
        directory = await self._changes.ready(self._directory(parent_inode))
        file = self._changes.create(directory, _text(name), mode, author)
        appends = bool(flags & os.O_APPEND)
        return self._open(file, ctx.pid, writes=True, appends=appends), self._remember(file)

    @_handler
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        node = self._node(inode)
        if isinstance(node, Folder):
            raise FUSEError(errno.EISDIR)
        _check_reachable(node)
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        if writes:
            node = file = self._changes.to_write(node)
            file.author = self._processes.of_thread(ctx.pid)
            self._contents.opened(file)
            if flags & os.O_TRUNC:
                await self._contents.truncate(file, 0)
        counts = self._is_new(node) and counts_as_reading(self._processes.name_of(ctx.pid))
        appends = bool(flags & os.O_APPEND)
        return self._open(node, ctx.pid, writes=writes, new=counts, appends=appends)

    @_handler
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        handle = self._handles[fh]
        data = self._contents.read(handle.node, off, size)
        if handle.new:
            self._unread.read_up_to(handle.node, off + len(data))
        return data

    @_handler
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        handle = self._handles[fh]
        node = handle.node
        if not isinstance(node, File):
            raise FUSEError(errno.EBADF)
        with self._contents.failing(node):
            more = len(buf) + (node.draft.held if node.draft else 0)
            self._quota.check(more, setting=self._contents.is_setting(node))
        if handle.appends and self._attributes.is_shared(node):
            off = node.size  # the kernel may not know yet what another one has appended
        return await self._contents.write(node, off, buf)

    @_handler
    async def flush(self, fh: FileHandleT) -> None:
        handle = self._handles[fh]
        node = handle.node if handle.writes and isinstance(handle.node, File) else None
        if node is not None and node.unfinished:
            killed = handle.author is not None and self._processes.is_killed(handle.author)
            self._contents.flushed(node, killed=killed)
        await self._store(fh)
        if node is not None:
            await self._changes.check_close(node)

    @_handler
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._store(fh, whole=self._view.sync_send.is_on)
        handle = self._handles[fh]
        await self._view.sync_send.wait(handle.node, handle.thread)

    @_handler
    async def release(self, fh: FileHandleT) -> None:
        handle = self._handles.close(fh)
        node = handle.node
        if isinstance(node, File) and handle.writes and not node.writers:
            await self._changes.close(node)
        if isinstance(node, File) and not node.handles:
            await self._contents.released(node)

    # the rest

    @_handler
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        space = self._quota.space()
        data = StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK_SIZE
        data.f_blocks = space.total
        data.f_bfree = data.f_bavail = data.f_files = data.f_ffree = data.f_favail = space.free
        data.f_namemax = FILE_NAME_MAX
        return data

    @_handler
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        if not name.startswith(b"user."):
            raise FUSEError(errno.ENOTSUP)
        value = self._xattrs(inode).get(name.decode(errors="replace"))
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return os.fsencode(value)

    @_handler
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[XAttrNameT]:
        return [XAttrNameT(name.encode()) for name in self._xattrs(inode)]

    @_handler
    async def setxattr(self, *_arguments: object) -> None:
        raise FUSEError(errno.ENOTSUP)

    @_handler
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        raise FUSEError(errno.ENOTSUP)

    async def save_open(self) -> None:
        """At the end: put on the disk what somebody still has open for writing."""
        await self._contents.save_all(self._handles.nodes())

    # what the mount of a single conversation does otherwise

    def _find(self, directory: Folder, name: str) -> Node:
        return self._tree.lookup(directory, name)

    async def _unlink(self, directory: Folder, name: str) -> None:
        await self._changes.unlink(directory, name)

    def _is_new(self, node: Node) -> bool:
        """Whether reading it to its end makes a message read."""
        return self._unread.is_new(node)

    # within

    def _is_notifier(self, ctx: RequestContext) -> bool:
        return ctx.pid == self.notifier.process_id

    def _node(self, inode: int) -> Node:
        node = self._inodes.get(inode)
        if node is None:
            raise FUSEError(errno.ESTALE)
        return node

    def _directory(self, inode: int) -> Folder:
        node = self._node(inode)
        if not isinstance(node, Folder):
            raise FUSEError(errno.ENOTDIR)
        return node.alias or node

    def _remember(self, node: Node) -> EntryAttributes:
        """The attributes of a node that the kernel gets to know once more."""
        self._inodes.count(node)
        return self._attributes.of(node)

    def _in_use(self, node: Node) -> Node:
        """In the place of a node of a message that a listing has made: the one that is known."""
        if isinstance(node, MessageFile | MessageFolder):
            return self._tree.inodes.get(node.inode) or node
        return node

    def _open(
        self, node: Node, thread: int, *, writes: bool, new: bool = False, appends: bool = False
    ) -> FileInfo:
        if isinstance(node, Text):
            node = node.opened()
        author = node.author if writes and isinstance(node, File) else None
        number = self._handles.open(
            node, thread, writes=writes, new=new, author=author, appends=appends
        )
        return FileInfo(
            fh=FileHandleT(number),
            # a text may change between two looks; of a new message we must see how far it is read
            direct_io=isinstance(node, Text) or new,
            # a message never changes
            keep_cache=isinstance(node, MessageFile) and not self._is_new(node),
        )

    async def _store(self, fh: int, *, whole: bool = True) -> None:
        handle = self._handles[fh]
        if handle.writes and isinstance(handle.node, File):
            with self._contents.failing(handle.node):
                await self._contents.save(handle.node, whole=whole)


def _check_reachable(node: Node) -> None:
    """Raises FUSEError(ESTALE) for a file that has no name, and that nobody has open: an old answer
    of ours has led there, and the kernel looks up anew. What is written there would be lost."""
    if isinstance(node, File) and not node.names and not node.handles:
        raise FUSEError(errno.ESTALE)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise FUSEError(errno.EILSEQ) from error
