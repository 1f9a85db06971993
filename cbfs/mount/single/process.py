"""The process of a single conversation's mount: it mounts, and passes every request of the kernel
on to the daemon that has the account. It holds no key, and can ask for one conversation only.
"""

import errno
import functools
import logging
import os
import sys
from collections import Counter
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

from cbfs.mount.mount_table import SINGLE_SOURCE, device_of
from cbfs.mount.mounting import MountPlace, begin, unmount_at
from cbfs.mount.single.connection import connected
from cbfs.mount.single.wire import (
    LOOK,
    MOUNTED,
    OWN_HANDLE,
    STAT,
    STATVFS,
    Answer,
    Frames,
    FrameSender,
    frame,
    read_answer,
)
from cbfs.storage.faults import harmless, log_fault
from cbfs_common.errors import CbfsError
from cbfs_common.limits import FILE_NAME_MAX

_log = logging.getLogger(__name__)

HELD = 0.05
"""Seconds until the daemon is told of what it need not answer, as that a file is closed, when it is
asked nothing meanwhile."""


class Daemon:
    """The connection to the daemon. ``run`` reads what it answers."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._wire = FrameSender(stream)
        self._answers: dict[int, tuple[Answer, int]] = {}
        self._news = 0
        self.is_outdated = False
        """Whether, since the answer came that was given out last, the kernel was to forget
        something: that may be what the answer has."""
        self._waiting: dict[int, trio.Event] = {}
        self._last = 0
        self.ended = trio.Event()
        self._told = trio.Event()
        self._outdate, self.outdated = trio.open_memory_channel[list[Any]](sys.maxsize)
        self.given: set[int] = set()
        """What may be opened for reading without a question, as the kernel has it."""
        self.open = Counter[int]()
        """How often each inode is open."""

    async def run(self) -> None:
        """Until the daemon ends. What waits for it fails then."""
        frames = Frames()
        try:
            async for data in self._stream:
                for each in frames.add(data):
                    answer = read_answer(each)
                    if not answer.number:
                        self._take(answer.result)
                    elif answer.number in self._waiting:
                        self._answers[answer.number] = answer, self._news
                        self._waiting.pop(answer.number).set()
        except trio.BrokenResourceError:
            pass
        except CbfsError as error:
            _log.error("the daemon was not understood: %s", error.in_full)
        finally:
            self._wire.close()
            self.ended.set()
            for event in self._waiting.values():
                event.set()

    def _take(self, news: list[Any]) -> None:
        """What the daemon says by itself. In its order: what is given may be outdated later."""
        if isinstance(news[0], list):
            for inode, content in news:
                self.give(InodeT(inode), content)
        else:
            inode, name = news
            self._news += 1
            if not name:
                self.given.discard(inode)
            self._outdate.send_nowait(news)

    async def ask(self, word: str, *arguments: object) -> Any:
        """The result of ``word`` in the daemon. Raises FUSEError: what the daemon says, or ENOTCONN
        when it has ended."""
        answer = await self.answer(word, *arguments)
        if answer.errno:
            raise FUSEError(answer.errno)
        return answer.result

    async def answer(self, word: str, *arguments: object) -> Answer:
        """What the daemon answers to ``word``; with errno ENOTCONN when it has ended."""
        self._last += 1
        number, event = self._last, trio.Event()
        if not self.ended.is_set():
            self._waiting[number] = event
            with suppress(FUSEError):  # it has just ended
                await self._send(number, word, list(arguments))
                await event.wait()
        none = Answer(number, errno.ENOTCONN, None), self._news
        answer, news = self._answers.pop(number, none)
        self.is_outdated = news != self._news
        return answer

    def give(self, inode: InodeT, content: bytes) -> None:
        """Put the content of a message into the kernel's cache. Not while somebody has it open, who
        may be waiting for our answer with the page locked that we would wait for."""
        if self.open[inode]:
            return
        with suppress(OSError):  # then the kernel asks
            pyfuse3.notify_store(inode, 0, content)
            self.given.add(inode)

    async def tell(self, word: str, *arguments: object) -> None:
        """Send ``word``, which is not answered, with the next that is, or a moment later."""
        if not self._wire.holds:
            self._told.set()
        self._wire.hold(frame(0, word, list(arguments)))

    async def push(self) -> None:
        """Send what was told and has not gone with anything else, until cancelled, or the daemon
        ends."""
        while not self.ended.is_set():
            await self._told.wait()
            self._told = trio.Event()
            await trio.sleep(HELD)
            with suppress(FUSEError):
                await self._sent(self._wire.push())

    async def _send(self, *fields: object) -> None:
        await self._sent(self._wire.send(frame(*fields)))

    async def _sent(self, sending: Awaitable[None]) -> None:
        try:
            await sending
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise FUSEError(errno.ENOTCONN) from error


H = TypeVar("H", bound=Callable[..., Awaitable[Any]])


def _handler(function: H) -> H:
    """What is no errno would end the mount: it is logged, and is EIO."""

    @functools.wraps(function)
    async def wrapped(*arguments: Any) -> Any:
        try:
            return await function(*arguments)
        except FUSEError:
            raise
        except Exception as error:
            log_fault(error)
            raise FUSEError(errno.EIO) from error

    return wrapped  # type: ignore[return-value]  # the same signature


class Passing(pyfuse3.Operations):
    """The handlers of the mount: each passes its request on to ``daemon``, and its answer back."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self._daemon = daemon
        self._ask = daemon.ask
        self._writing: set[int] = set()
        self._inodes: dict[int, int] = {}  # of what is open, by handle
        self._own_handle = OWN_HANDLE

    def _fresh_entry(self, stat: list[Any]) -> EntryAttributes:
        """Of the answer that was given out last. Where something was to be forgotten since, the
        kernel may have been told of that before it gets this."""
        entry = _entry(stat)
        if self._daemon.is_outdated:
            entry.entry_timeout = entry.attr_timeout = 0
        return entry

    @_handler
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return self._fresh_entry(await self._ask("lookup", parent_inode, name, ctx.pid))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        # is not answered: even a FUSEError would end the mount with a traceback
        with harmless(), suppress(FUSEError):
            self._daemon.given.difference_update(inode for inode, _count in inode_list)
            await self._daemon.tell("forget", [list(each) for each in inode_list])

    @_handler
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._fresh_entry(await self._ask("getattr", inode))

    @_handler
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        values = [
            attr.st_uid if fields.update_uid else None,
            attr.st_gid if fields.update_gid else None,
            attr.st_size if fields.update_size else None,
            attr.st_mode if fields.update_mode else None,
            attr.st_mtime_ns if fields.update_mtime else None,
        ]
        return _entry(await self._ask("setattr", inode, values))

    @_handler
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        return _entry(await self._ask("mkdir", parent_inode, name, mode, ctx.pid))

    @_handler
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return _entry(await self._ask("symlink", parent_inode, name, target, ctx.pid))

    @_handler
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(await self._ask("readlink", inode))

    @_handler
    async def link(
        self,
        inode: InodeT,
        new_parent_inode: InodeT,
        new_name: FileNameT,
        ctx: RequestContext,
    ) -> EntryAttributes:
        return _entry(await self._ask("link", inode, new_parent_inode, new_name))

    @_handler
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._ask("unlink", parent_inode, name, ctx.pid)

    @_handler
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._ask("rmdir", parent_inode, name)

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
        places = (parent_inode_old, name_old, parent_inode_new, name_new)
        await self._ask("rename", *places, flags, ctx.pid)

    @_handler
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return FileHandleT(await self._ask("opendir", inode))

    @_handler
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        taken = 0
        for place, name, stat in await self._ask("list", fh, start_id):
            if not pyfuse3.readdir_reply(token, FileNameT(name), self._fresh_entry(stat), place):
                break
            taken += 1
        await self._daemon.tell("listed", fh, taken)

    @_handler
    async def releasedir(self, fh: FileHandleT) -> None:
        await self._daemon.tell("releasedir", fh)

    @_handler
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """Names are on the disk when the call that made them returns."""

    @_handler
    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        info, stat = await self._ask("create", parent_inode, name, mode, flags, ctx.pid)
        self._writing.add(info[0])
        return _info(info), _entry(stat)

    @_handler
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        if inode in self._daemon.given and not (writes or flags & os.O_TRUNC):
            self._own_handle += 1
            await self._daemon.tell("opened", inode, self._own_handle)
            info: list[Any] = [self._own_handle, False, True, b""]
        else:
            info = await self._ask("open", inode, flags, ctx.pid)
        handle, *_, content = info
        if writes:
            self._writing.add(handle)
        elif content and not self._daemon.is_outdated:
            self._daemon.give(inode, content)
        self._inodes[handle] = inode
        self._daemon.open[inode] += 1
        return _info(info)

    @_handler
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return bytes(await self._ask("read", fh, off, size))

    @_handler
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        return int(await self._ask("write", fh, off, buf))

    @_handler
    async def flush(self, fh: FileHandleT) -> None:
        if fh in self._writing:
            await self._ask("flush", fh)

    @_handler
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._ask("fsync", fh)

    @_handler
    async def release(self, fh: FileHandleT) -> None:
        inode = self._inodes.pop(fh, None)
        if inode is not None:
            self._daemon.open[inode] -= 1
            if not self._daemon.open[inode]:
                del self._daemon.open[inode]
        if fh in self._writing:
            self._writing.discard(fh)
            await self._ask("release", fh)
        else:
            await self._daemon.tell("release", fh)

    @_handler
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        data = StatvfsData()
        for name, value in zip(STATVFS, await self._ask("statfs"), strict=True):
            setattr(data, name, value)
        data.f_favail = data.f_ffree
        data.f_namemax = FILE_NAME_MAX
        return data

    @_handler
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        return bytes(await self._ask("getxattr", inode, name))

    @_handler
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[XAttrNameT]:
        return [XAttrNameT(name) for name in await self._ask("listxattr", inode)]

    @_handler
    async def setxattr(self, *_arguments: object) -> None:
        raise FUSEError(errno.ENOTSUP)

    @_handler
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        raise FUSEError(errno.ENOTSUP)


def _entry(stat: list[Any]) -> EntryAttributes:
    entry = EntryAttributes()
    for name, value in zip(STAT, stat, strict=True):
        setattr(entry, name, value)
    return entry


def _info(fields: list[Any]) -> FileInfo:
    handle, direct, keep, _content = fields
    return FileInfo(fh=FileHandleT(handle), direct_io=direct, keep_cache=keep)


def _forget(inode: InodeT, name: bytes) -> None:
    """Let the kernel forget a name in a folder, or without a name what it knows of an inode. In a
    thread: who looks at it may hold it, and be waiting for us."""
    with suppress(OSError):  # the kernel may not know it
        if name:
            pyfuse3.invalidate_entry(inode, FileNameT(name))
        else:
            pyfuse3.invalidate_inode(inode)


async def serve(
    place: MountPlace,
    only: str,
    ready: Callable[[], None],
    stop: trio.Event,
    mounted: trio.Event,
) -> None:
    """Mount the conversation ``only`` (the name of its folder, or its id) of an account that is
    mounted, until it is unmounted, the account is, or ``stop`` is set. ``mounted`` is set when the
    kernel has it; ``ready`` is called when it answers. Raises CbfsError."""
    async with _stream(place.account) as stream, trio.open_nursery() as nursery:
        daemon = Daemon(stream)
        nursery.start_soon(daemon.run)
        nursery.start_soon(daemon.push)
        if any("\ud800" <= letter <= "\udfff" for letter in only):
            raise CbfsError("no conversation has such a name", "its id is in its metadata.toml")
        answer = await daemon.answer(LOOK, only)
        if answer.errno:
            error, hint = answer.result or ("the account was just unmounted", "mount it again")
            raise CbfsError(error, hint)
        begin(Passing(daemon), place, f"fsname={SINGLE_SOURCE}")
        mounted.set()
        device = device_of(place.mountpoint)
        try:
            await _live(daemon, place.mountpoint, ready, stop, device)
        finally:
            pyfuse3.close(unmount=device_of(place.mountpoint) == device)
        nursery.cancel_scope.cancel()


def _stream(account: Path) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(connected(account)))


async def _live(
    daemon: Daemon,
    mountpoint: Path,
    ready: Callable[[], None],
    stop: trio.Event,
    device: int,
) -> None:
    """From the first answer until the mount has ended."""
    ended = trio.Event()
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            await pyfuse3.main()
            ended.set()

        async def follow() -> None:
            await daemon.ended.wait()  # the account is unmounted
            ended.set()

        async def forget() -> None:
            async for outdated in daemon.outdated:
                await trio.to_thread.run_sync(_forget, *outdated, abandon_on_cancel=True)

        async def end() -> None:
            await ended.wait()
            nursery.cancel_scope.cancel()

        for task in (answer, follow, end, forget):
            nursery.start_soon(task)
        nursery.start_soon(unmount_at, stop, device, ended)
        await daemon.answer(MOUNTED, os.fsencode(mountpoint), device)
        ready()
