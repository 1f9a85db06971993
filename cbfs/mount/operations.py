"""FUSE requests onto the tree. The one place where errors become errno.

No handler of lookup, getattr, readdir, open, read or statfs waits for the network or the disk's
flush. A handler that raises anything but FUSEError would end the mount, so each is wrapped.
"""

import errno
import functools
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
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
from cbfs.mount.handles import GivenMessages, Handles, wanted
from cbfs.mount.notifier import STAGED, Notifier
from cbfs.mount.quota import BLOCK_SIZE, Quota, errno_of
from cbfs.mount.view import MountView
from cbfs.storage.faults import harmless, log_fault
from cbfs.storage.store import StoreError
from cbfs.tree.changes import Changes
from cbfs.tree.nodes import File, Folder, MessageFile, Node, SymbolicLink, Text
from cbfs.tree.processes import Process, ProcFS, counts_as_reading
from cbfs.tree.rules import Area, TreeError
from cbfs.tree.virtual.conversation_folder import MessageFolder, OpenTranscript
from cbfs.tree.virtual.mail.mails import MailFile, OpenMail
from cbfs.tree.virtual.virtual_directory import DOTS, Listing, SearchedDirectory, VirtualDirectory
from cbfs.tree.xattrs import xattrs
from cbfs_common.limits import FILE_NAME_MAX

_log = logging.getLogger(__name__)

_ENTRIES = os.W_OK | os.X_OK
"""What changing the entries of a directory takes."""

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
        *,
        alone: bool = False,
    ) -> None:
        """``alone``: nobody but the user asks, and the kernel does not look at modes."""
        super().__init__()
        self._alone = alone
        self.notifier = notifier
        self.ended = trio.Event()
        self._view = view
        self._tree = view.tree
        self._changes = Changes(view.tree)
        self._contents = view.tree.contents
        self._unread = view.search_folders.unread
        self._processes = processes
        self._programs = view.programs
        self._quota = Quota(account, self._tree.backend)
        self._xattrs: Callable[[int], dict[str, str]] = lambda inode: xattrs(
            self._node(inode), view.tree.backend, account
        )
        self._attributes = attributes
        self._inodes = self._tree.inodes
        self._handles = Handles()
        self._given = GivenMessages()
        self._listings: dict[int, Listing] = {}

    # entries

    @_handler
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        directory = self._directory(parent_inode)
        text = _text(name)
        self._allow(directory, os.X_OK, ctx)
        if self._is_notifier(ctx) and text.startswith(STAGED):
            node = self.notifier.staged(text)
            if node is None:
                raise FUSEError(errno.ENOENT)
            return self._remember(node)
        if isinstance(directory, SearchedDirectory):
            await directory.look_for(text)
        node = self._find(directory, text)
        if isinstance(node, VirtualDirectory):
            node.found_in(directory)
        return self._remember(node, elsewhere=self._node(parent_inode) is not directory)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        # is not answered: even a FUSEError would end the mount
        for inode, count in inode_list:
            with harmless(self._view.failed):
                self._inodes.forget(inode, count)
                self._given.forget(inode)
                self._tree.mail.forgotten(inode)

    @_handler
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes.of(self._node(inode))

    @_handler
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        return self._allows(self._node(inode), mode, ctx)

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
        by = self._programs.seen(ctx.pid) if isinstance(node, File) else None
        if fields.update_size:
            _check_reachable(node)
            if fh is None:  # else it is open for writing
                self._allow(node, os.W_OK, ctx)
            node = file = self._changes.to_write(node)
            file.author = by
            await self._contents.truncate(file, attr.st_size)
            if not file.writers:
                await self._changes.close(file)
        if fields.update_mode or fields.update_mtime:
            await self._changes.describe(
                node,
                attr.st_mode if fields.update_mode else None,
                attr.st_mtime_ns if fields.update_mtime else None,
                by,
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
        self._allow(directory, _ENTRIES, ctx)
        maker = self._changer(directory, ctx)
        return self._remember(await self._changes.mkdir(directory, text, mode, maker))

    @_handler
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        author = self._processes.of_thread(ctx.pid)
        directory = self._directory(parent_inode)
        self._allow(directory, _ENTRIES, ctx)
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
        node, directory = self._node(inode), self._directory(new_parent_inode)
        self._allow(directory, _ENTRIES, ctx)
        await self._changes.link(node, directory, _text(new_name))
        return self._remember(node)

    @_handler
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        if self._is_notifier(ctx):
            self.notifier.apply(_text(name))
            return
        directory = self._directory(parent_inode)
        self._allow(directory, _ENTRIES, ctx)
        await self._unlink(directory, _text(name), self._changer(directory, ctx))

    @_handler
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        if self._is_notifier(ctx):
            self.notifier.apply(_text(name))
            return
        directory = self._directory(parent_inode)
        self._allow(directory, _ENTRIES, ctx)
        await self._changes.rmdir(directory, _text(name))

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
        source = self._directory(parent_inode_old)
        target = self._directory(parent_inode_new)
        for directory in (source, target):
            self._allow(directory, _ENTRIES, ctx)
        node = source.entries.get(old) if source is not target else None
        if isinstance(node, Folder):  # its ``..`` changes
            self._allow(node, os.W_OK, ctx)
        await self._changes.rename(
            source,
            old,
            target,
            _text(name_new),
            replace=not flags & pyfuse3.RENAME_NOREPLACE,
            by=self._changer(target, ctx),
        )

    # directories

    @_handler
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        directory = self._directory(inode)
        self._allow(directory, os.R_OK, ctx)
        handle = self._handles.number()
        self._listings[handle] = Listing(directory)
        return FileHandleT(handle)

    @_handler
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        told: list[Node] = []
        reply, attributes = pyfuse3.readdir_reply, self._attributes.listed
        await self._listings[fh].look_from(start_id)
        for place, name, listed in self._listings[fh].some_after(start_id):
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
        author = self._programs.seen(ctx.pid)
        directory = await self._changes.ready(self._directory(parent_inode))
        self._allow(directory, _ENTRIES, ctx)
        file = self._changes.create(directory, _text(name), mode, author)
        opened = self._open(file, ctx.pid, flags, writes=True)
        return opened, self._remember(file, elsewhere=self._node(parent_inode) is not directory)

    @_handler
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        node = self._node(inode)
        if isinstance(node, Folder):
            raise FUSEError(errno.EISDIR)
        _check_reachable(node)
        self._allow(node, wanted(flags), ctx)
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        if isinstance(node, MailFile) and not (writes or flags & os.O_TRUNC):
            return self._open_mail(node, ctx.pid)
        if writes or flags & os.O_TRUNC:
            node = file = self._changes.to_write(node)
            file.author = self._programs.seen(ctx.pid)
            if writes:
                self._contents.opened(file)
            if flags & os.O_TRUNC:
                await self._contents.truncate(file, 0)
            if not writes and not file.writers:  # what it has cut off is all that it does
                await self._changes.close(file)
        counts = self._is_new(node) and counts_as_reading(self._processes.name_of(ctx.pid))
        if not counts and (content := self._content_to_give(node)):
            self._give(node, content)
        return self._open(node, ctx.pid, flags, writes=writes, new=counts)

    @_handler
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        handle = self._handles[fh]
        self._check_shown(handle.node)
        node = handle.node
        if isinstance(node, OpenTranscript) or (isinstance(node, OpenMail) and node.packs):
            return await node.read_apart(off, size)
        if self._contents.is_arriving(node):
            await self._contents.come(node, off)
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
            self._check_shown(node)
            more = len(buf) + (node.draft.held if node.draft else 0)
            self._quota.check(more, setting=self._contents.is_setting(node))
        if handle.appends and self._attributes.is_shared(node):
            off = node.size  # the kernel may not know yet what another one has appended
        node.author = handle.author
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
        self._inodes.closed(node)
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

    async def _unlink(self, directory: Folder, name: str, by: Process | None) -> None:
        self._erased(directory, name, await self._changes.unlink(directory, name, by))

    def _content_to_give(self, node: Node) -> bytes:
        """The content of a message that the kernel is to have with its opening; empty for none, and
        for what cannot be read, which is told to who reads it."""
        if not self._given.take(node, is_open=self._inodes.is_open(node)):
            return b""
        try:
            return self._contents.read(node, 0, node.size)
        except (TreeError, StoreError):
            self._given.forget(node.inode)
            return b""

    def _give(self, node: Node, content: bytes) -> None:
        """Put the content of a message that nobody has open into the kernel's cache."""
        with suppress(OSError):  # then it asks
            pyfuse3.notify_store(InodeT(node.inode), 0, content)

    def _erased(self, directory: Folder, name: str, node: Node) -> None:
        """Something was removed. A message is to be found in no kernel's cache, neither by its name
        nor by who has it open."""
        if isinstance(node, MessageFile | MailFile):
            self._view.watchers.touch(node.inode)
            self._view.watchers.left(directory.inode, name)

    def _check_shown(self, node: Node) -> None:
        """Raises FUSEError(ESTALE) for what is here no more, though somebody holds it."""

    def _is_new(self, node: Node) -> bool:
        """Whether reading it to its end makes a message read."""
        return self._unread.is_new(node)

    # within

    def _is_notifier(self, ctx: RequestContext) -> bool:
        return ctx.pid == self.notifier.process_id

    def _allows(self, node: Node, wanted: int, ctx: RequestContext) -> bool:
        """Whether the user may do that with a node, as its mode says; root may do everything."""
        return not self._alone or ctx.uid == 0 or not wanted & ~(node.mode >> 6)

    def _allow(self, node: Node, wanted: int, ctx: RequestContext) -> None:
        if not self._allows(node, wanted, ctx):
            raise FUSEError(errno.EACCES)

    def _changer(self, directory: Folder, ctx: RequestContext) -> Process | None:
        """The program that makes a change in a directory, where it matters which."""
        return self._programs.seen(ctx.pid) if directory.area is Area.DRAFTS else None

    def _node(self, inode: int) -> Node:
        node = self._inodes.get(inode)
        if node is None:
            raise FUSEError(errno.ESTALE)
        self._check_shown(node)
        return node

    def _directory(self, inode: int) -> Folder:
        node = self._node(inode)
        if not isinstance(node, Folder):
            raise FUSEError(errno.ENOTDIR)
        return node.alias or node

    def _remember(self, node: Node, *, elsewhere: bool = False) -> EntryAttributes:
        """The attributes of a node that the kernel gets to know once more."""
        self._inodes.count(node)
        return self._attributes.found(node, elsewhere=elsewhere)

    def _in_use(self, node: Node) -> Node:
        """In the place of a node of a message that a listing has made: the one that is known."""
        if isinstance(node, MessageFile | MessageFolder):
            return self._tree.inodes.known(node.inode) or node
        return node

    def _open(
        self, node: Node, thread: int, flags: int, *, writes: bool, new: bool = False
    ) -> FileInfo:
        self._inodes.opened(node)  # not what is opened of it, which would be looked up then
        if isinstance(node, Text):
            node = node.opened()
        author = node.author if writes and isinstance(node, File) else None
        number = self._handles.open(
            node,
            thread,
            writes=writes,
            new=new,
            author=author,
            appends=bool(flags & os.O_APPEND),
        )
        # who only writes gains nothing by the kernel's cache, and it would ask for the
        # capabilities of the file before it wrote into that
        only_writes = flags & os.O_ACCMODE == os.O_WRONLY
        arriving = self._contents.is_arriving(node)
        return FileInfo(
            fh=FileHandleT(number),
            # a text may change between two looks; of a new message we must see how far it is read
            # what is arriving is given as far as it has come, and no further
            direct_io=isinstance(node, Text) or new or only_writes or arriving,
            # a message never changes; of a new one we must see that it is read
            keep_cache=isinstance(node, MessageFile) and not (new or node.removed or arriving),
        )

    def _open_mail(self, node: MailFile, thread: int) -> FileInfo:
        """A handle on a mail. The kernel has a small one as a whole from then on, and asks no more
        until it is told that there is another."""
        whole, shown = node.is_given, node
        if not whole:
            content = node.give()
            whole = bool(content)
            if whole and node.was_another:
                with suppress(OSError):
                    pyfuse3.invalidate_inode(InodeT(node.inode), attr_only=True)
            if whole and not self._inodes.is_open(node):  # else it may wait for this very page
                self._give(node, content)
        if not whole:
            shown = node.opened()
        self._inodes.opened(node)
        number = self._handles.open(shown, thread, writes=False, new=False)
        return FileInfo(fh=FileHandleT(number), direct_io=not whole, keep_cache=whole)

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
