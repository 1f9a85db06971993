"""The handlers of a mount on another machine. What is known here is answered at once; for the rest
the hub is asked, and no handler waits for it for longer than ``cbfs.mount.remote.link`` says."""

import errno
import functools
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import pyfuse3
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

from cbfs.mount.notifier import STAGED
from cbfs.mount.remote.contents import stat_told
from cbfs.mount.remote.handing import Handing
from cbfs.mount.remote.hub_view import HubView, below
from cbfs.mount.remote.link import AwayError
from cbfs.mount.remote.moves import RemoteMoves
from cbfs.mount.remote.nodes import (
    FRESH,
    RemoteContent,
    RemoteNode,
    is_here,
    local_stat,
    path_of,
)
from cbfs.mount.remote.writing import RemoteWriting
from cbfs.storage.faults import harmless, log_fault
from cbfs.tree.processes import Process, ProcFS, counts_as_reading
from cbfs.tree.rules import name_fault
from cbfs_common.limits import FILE_NAME_MAX

TOLD_SECONDS = 300.0
"""For how long the kernel may answer for us of what the hub tells the end of."""

H = TypeVar("H", bound=Callable[..., Awaitable[Any]])


def _handler(function: H) -> H:
    """Turn what goes wrong into errno; what nobody foresaw is logged and is EIO."""

    @functools.wraps(function)
    async def wrapped(*arguments: Any) -> Any:
        try:
            return await function(*arguments)
        except FUSEError:
            raise
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from error
        except Exception as error:
            log_fault(error)
            raise FUSEError(errno.EIO) from error

    return wrapped  # type: ignore[return-value]  # the same signature


@dataclass(slots=True)
class _Open:
    """An open file. ``content`` is what is read of the hub's, ``data`` what is read of what is
    here; neither of one that only writes. ``counts``: who reads it has read it. ``author``: whose
    it is, if it writes."""

    node: RemoteNode
    writes: bool
    content: RemoteContent | None = None
    data: bytes | None = None
    counts: bool = False
    author: Process | None = None


class RemoteOperations(pyfuse3.Operations):
    """The handlers, on what ``view`` knows; files of the outbox go through ``handing``. ``status``
    gives what is said before the hub's own status."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(
        self,
        view: HubView,
        handing: Handing,
        status: Callable[[], bytes],
    ) -> None:
        super().__init__()
        self._view = view
        self._tree = view.tree
        self._link = view.link
        self._handing = handing
        self._status = status
        self._uid, self._gid = os.getuid(), os.getgid()
        self._open: dict[int, _Open] = {}
        self._listings: dict[int, list[tuple[bytes, RemoteNode]]] = {}
        self._last = 0
        self._processes = ProcFS()
        self._moves = RemoteMoves(view, handing)
        self._writing = RemoteWriting(view, handing)

    # entries

    def _entry(self, node: RemoteNode) -> EntryAttributes:
        told, entry = node.stat, EntryAttributes()
        entry.st_ino = InodeT(node.number)
        entry.st_mode = ModeT(told.mode)
        entry.st_nlink = told.links
        entry.st_uid, entry.st_gid = self._uid, self._gid
        entry.st_size = len(node.writing) if node.writing is not None else told.size
        entry.st_blksize = 65_536
        entry.st_blocks = (entry.st_size + 511) // 512
        entry.st_atime_ns, entry.st_mtime_ns = told.accessed, told.modified
        entry.st_ctime_ns = told.changed
        seconds = FRESH
        if told.fixed and node.above is not None and self._tree.told(node.above):
            seconds = TOLD_SECONDS if self._view.is_fresh(node) else 0
        elif not node.is_folder:
            seconds = 0
        entry.entry_timeout = entry.attr_timeout = seconds
        return entry

    def _node(self, inode: int) -> RemoteNode:
        node = self._tree.numbers.get(inode)
        if node is None:
            raise FUSEError(errno.ESTALE)
        return node

    def _folder(self, inode: int) -> RemoteNode:
        node = self._node(inode)
        if not node.is_folder:
            raise FUSEError(errno.ENOTDIR)
        return node

    def _remember(self, node: RemoteNode) -> EntryAttributes:
        node.lookups += 1
        self._tree.numbers[node.number] = node
        return self._entry(node)

    def _is_notifier(self, ctx: RequestContext) -> bool:
        return ctx.pid == self._view.notifier.process_id

    @_handler
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        folder = self._folder(parent_inode)
        if self._is_notifier(ctx):
            text = name.decode(errors="replace")
            staged = self._view.notifier.staged(text) if text.startswith(STAGED) else None
            found = cast(RemoteNode, staged) if staged is not None else folder.entries.get(name)
            if found is None:
                raise FUSEError(errno.ENOENT)
            return self._remember(found)
        _check_name(name)
        return self._remember(await self._view.look_up(folder, name))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        # is not answered: even a FUSEError would end the mount
        for inode, count in inode_list:
            with harmless():
                self._tree.forget(inode, count)

    @_handler
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        node = self._node(inode)
        if not self._is_notifier(ctx) and not (node.gone and node.opened):
            fresh = await self._view.refreshed(node)
            if fresh is not node:
                raise FUSEError(errno.ESTALE)
        return self._entry(node)

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
        if (fields.update_uid and attr.st_uid != self._uid) or (
            fields.update_gid and attr.st_gid != self._gid
        ):
            raise FUSEError(errno.EPERM)
        if fields.update_size:
            await self._writing.truncate(node, attr.st_size)
        if fields.update_mode or fields.update_mtime:
            mode = stat.S_IMODE(attr.st_mode) if fields.update_mode else None
            modified = attr.st_mtime_ns if fields.update_mtime else None
            await self._writing.describe(node, mode, modified)
        return self._entry(node)

    @_handler
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        folder = self._folder(parent_inode)
        if folder.gone:
            raise FUSEError(errno.ENOENT)
        if self._is_notifier(ctx):
            self._view.notifier.apply(name.decode(errors="replace"))
            found = folder.entries.get(name)
            if found is None:
                raise FUSEError(errno.ENOENT)
            return self._remember(found)
        _check_name(name)
        if name in folder.entries:
            raise FUSEError(errno.EEXIST)
        try:
            told = stat_told(await self._link.ask("mkdir", below(folder, name), mode))
        except AwayError:
            if self._link.is_up or folder.above is not self._tree.root or folder.name != b"outbox":
                raise
            made = local_stat(stat.S_IFDIR | stat.S_IMODE(mode))  # it is made with what is in it
            return self._remember(self._tree.make(folder, name, made))
        return self._remember(self._tree.enter(folder, name, told, self._link.generation))

    @_handler
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        folder = self._folder(parent_inode)
        _check_name(name)
        told = stat_told(await self._link.ask("symlink", below(folder, name), target))
        return self._remember(self._tree.enter(folder, name, told, self._link.generation))

    @_handler
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        node = self._node(inode)
        if not stat.S_ISLNK(node.stat.mode):
            raise FUSEError(errno.EINVAL)
        return FileNameT(await self._view.read_link(node))

    @_handler
    async def link(self, *_arguments: object) -> EntryAttributes:
        raise FUSEError(errno.EPERM)  # as on file systems that know one name of a file

    @_handler
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        if self._is_notifier(ctx):
            self._view.notifier.apply(name.decode(errors="replace"))
            return
        node = await self._view.look_up(self._folder(parent_inode), name)
        async with node.lock:
            if not await self._handing.dropped(node):
                if not node.local and not node.gone:
                    await self._link.ask("unlink", path_of(node))
                self._tree.remove(node)
            node.unlinked = True
        self._view.contents.forget(node)

    @_handler
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        if self._is_notifier(ctx):
            self._view.notifier.apply(name.decode(errors="replace"))
            return
        node = await self._view.look_up(self._folder(parent_inode), name)
        if any(map(is_here, node.entries.values())):
            raise FUSEError(errno.ENOTEMPTY)
        if not node.local:
            await self._link.ask("rmdir", path_of(node))
        self._tree.remove(node)

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
        if self._is_notifier(ctx):
            self._view.notifier.apply(name_old.decode(errors="replace"))
            return
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise FUSEError(errno.EINVAL)
        _check_name(name_new)
        source, target = self._folder(parent_inode_old), self._folder(parent_inode_new)
        replace = not flags & pyfuse3.RENAME_NOREPLACE
        await self._moves.rename(source, name_old, target, name_new, replace=replace)

    # directories

    @_handler
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        folder = self._folder(inode)
        found = await self._view.listing(folder)
        self._last += 1
        self._listings[self._last] = [(each.name, each) for each in found]
        return FileHandleT(self._last)

    @_handler
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        reply, entry = pyfuse3.readdir_reply, self._entry
        listing = self._listings[fh]
        for place in range(start_id, len(listing)):
            name, node = listing[place]
            if node.gone:
                continue
            if not reply(token, FileNameT(name), entry(node), place + 1):
                break
            node.lookups += 1

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
        folder = self._folder(parent_inode)
        _check_name(name)
        if folder.gone:
            raise FUSEError(errno.ENOENT)
        if name in folder.entries:
            raise FUSEError(errno.EEXIST)
        if not self._tree.in_outbox(folder) and not self._link.is_up:
            raise FUSEError(errno.EHOSTUNREACH)
        node = self._tree.make(folder, name, local_stat(stat.S_IFREG | stat.S_IMODE(mode)))
        node.writing, node.dirty = bytearray(), True
        author = self._processes.of_thread(ctx.pid)
        return self._opened(_Open(node, writes=True, author=author), flags), self._remember(node)

    @_handler
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        node = self._node(inode)
        if node.is_folder:
            raise FUSEError(errno.EISDIR)
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        if writes or flags & os.O_TRUNC:
            node.writers += 1  # what the hub tells meanwhile changes nothing of it
            try:
                await self._writing.begin(node, anew=bool(flags & os.O_TRUNC))
                author = self._processes.of_thread(ctx.pid)
                opened = self._opened(_Open(node, writes=True, author=author), flags)
            finally:
                self._writing.wrote(node)
            return opened
        if node.writing is not None:
            return self._opened(_Open(node, writes=False), flags)
        if node.outgoing is not None:
            data_here = await self._handing.read(node.outgoing)
            return self._opened(_Open(node, writes=False, data=data_here), flags)
        if self._is_status(node):
            told = await self._read_status(node)
            return self._opened(_Open(node, writes=False, data=told), flags)
        content = await self._view.contents.opened(node)
        new = node.stat.fixed and not node.seen
        counts = new and counts_as_reading(self._processes.name_of(ctx.pid))
        return self._opened(_Open(node, writes=False, content=content, counts=counts), flags)

    def _is_status(self, node: RemoteNode) -> bool:
        return node.above is self._tree.root and node.name == b"status"

    async def _read_status(self, node: RemoteNode) -> bytes:
        """The hub's, behind what is to be said of the link to it."""
        try:
            content = await self._view.contents.opened(node)
            told = await self._view.contents.read(node, content, 0, content.size)
        except OSError:
            told = b""
        return self._status() + told

    def _opened(self, opened: _Open, flags: int) -> FileInfo:
        node = opened.node
        node.opened += 1
        node.writers += opened.writes
        self._last += 1
        self._open[self._last] = opened
        fixed = opened.content is not None and node.stat.fixed
        return FileInfo(
            fh=FileHandleT(self._last),
            direct_io=not fixed or opened.counts,
            keep_cache=fixed and not opened.counts,
        )

    @_handler
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        opened = self._open[fh]
        node = opened.node
        if node.writing is not None and opened.content is None and opened.data is None:
            return bytes(node.writing[off : off + size])
        if opened.data is not None:
            return opened.data[off : off + size]
        if opened.content is None:  # it was being written when it was opened
            if node.outgoing is not None:
                opened.data = await self._handing.read(node.outgoing)
                return opened.data[off : off + size]
            opened.content = await self._view.contents.opened(node)
        if node.gone and node.stat.fixed:
            raise FUSEError(errno.ESTALE)
        data = await self._view.contents.read(node, opened.content, off, size)
        if opened.counts and off + len(data) >= node.stat.size and not node.seen:
            node.seen = True
            await self._view.seen(node)
        return data

    @_handler
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        if not self._open[fh].writes:
            raise FUSEError(errno.EBADF)
        return self._writing.write(self._open[fh].node, off, buf)

    @_handler
    async def flush(self, fh: FileHandleT) -> None:
        opened = self._open[fh]
        if opened.writes:
            author = opened.author
            killed = author is not None and self._processes.is_killed(author)
            await self._writing.close(opened.node, killed=killed)

    @_handler
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        if self._open[fh].writes:
            await self._writing.store(self._open[fh].node, whole=False)

    @_handler
    async def release(self, fh: FileHandleT) -> None:
        opened = self._open.pop(fh)
        node = opened.node
        node.opened -= 1
        if opened.writes:
            self._writing.wrote(node)
        if node.gone and not node.opened and not node.lookups:
            self._tree.ended(node)

    # the rest

    @_handler
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        size, blocks, free = await self._view.space()
        data = StatvfsData()
        data.f_bsize = data.f_frsize = size
        data.f_blocks = blocks
        data.f_bfree = data.f_bavail = data.f_files = data.f_ffree = data.f_favail = free
        data.f_namemax = FILE_NAME_MAX
        return data

    @_handler
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        if not name.startswith(b"user."):
            raise FUSEError(errno.ENOTSUP)
        found = await self._view.attributes(self._node(inode))
        value = found.get(name.decode(errors="replace"))
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return os.fsencode(value)

    @_handler
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[XAttrNameT]:
        found = await self._view.attributes(self._node(inode))
        return [XAttrNameT(name.encode()) for name in found]

    @_handler
    async def setxattr(self, *_arguments: object) -> None:
        raise FUSEError(errno.ENOTSUP)

    @_handler
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        raise FUSEError(errno.ENOTSUP)


def _check_name(name: bytes) -> None:
    number = name_fault(name)
    if number:
        raise FUSEError(number)
