"""The daemon's side of mounts of single conversations: a socket in the account directory, and a
session for each such mount.

The account has one owner, this daemon; and a process has one /dev/fuse. So a single conversation
is mounted by a process of its own, which passes the kernel's requests on to here and knows nothing
else.
"""

import errno
import logging
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileNameT, FlagT, InodeT, ModeT, XAttrNameT

from cbfs.mount.single.operations import Caller, ChangedFields, SingleOperations, stat_of
from cbfs.mount.single.view import SingleView, conversation_called, drop_tmp, make_tmp
from cbfs.mount.single.wire import (
    CREDENTIALS,
    HUB,
    LOOK,
    MOUNTED,
    SOCKET,
    STATVFS,
    Frames,
    FrameSender,
    SingleRequest,
    frame,
    read_request,
)
from cbfs.mount.view import MountView
from cbfs.outbox.loop import FAULT_PAUSE
from cbfs.storage.faults import harmless, log_fault
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.primitives import Random

if TYPE_CHECKING:
    from cbfs.mount.remote.files import HandedParts

_log = logging.getLogger(__name__)

SINGLE_MOUNTS_MAX = 64
"""Mounts of single conversations of one account at a time, and links of other machines."""

MACHINES_MAX = 32
"""Links of other machines among them."""

MACHINES_FOR_ONE_MAX = 8
"""Those that are about one conversation: who may ask for nothing else leaves room for others."""

_QUICK = frozenset(("lookup", "getattr", "readlink", "list", "statfs", "getxattr", "listxattr"))
"""Words that are answered at once, whatever they are about."""

KEY_SIZE = 32


class SingleServer:
    """One for the mount of an account: listens on the socket SOCKET in its directory, for mounts of
    single conversations and for those on other machines."""

    def __init__(self, view: MountView, account: Path, random: Random) -> None:
        self.view = view
        self.account = account
        self.random = random
        self.uploads: HandedParts | None = None
        """What other machines hand over, since the first has come."""
        self.machines = Counter[str]()
        """Links of other machines, by the conversation that they are about."""
        self._count = 0
        self._used = trio.current_time()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Has started when single conversations can be mounted."""
        started: Callable[[], None] = task_status.started
        while True:
            with harmless(self.view.failed):
                await self._listen(started)
            started = _nobody
            await trio.sleep(FAULT_PAUSE)

    async def _listen(self, started: Callable[[], None]) -> None:
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            try:
                await self._bind(listening)
                listening.listen()
            except OSError as error:  # some file systems hold no sockets: all else works
                _log.warning("no mount of a single conversation is possible: %s", error.strerror)
                started()
                await trio.sleep_forever()
            started()
            try:
                await trio.serve_listeners(self._serve, [trio.SocketListener(listening)])
            finally:
                (self.account / SOCKET).unlink(missing_ok=True)

    async def _bind(self, listening: trio.socket.SocketType) -> None:
        """The account is ours alone: a socket that is there is left from a crash. By way of a
        descriptor, as the path of a socket must be short."""
        (self.account / SOCKET).unlink(missing_ok=True)
        folder = os.open(self.account, os.O_PATH | os.O_DIRECTORY)
        try:
            await listening.bind(f"/proc/self/fd/{folder}/{SOCKET}")
        finally:
            os.close(folder)
        (self.account / SOCKET).chmod(0o600)

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One single conversation's mount. A fault is the end of none of the others."""
        with harmless(self.view.failed):
            await self._serve_one(stream)

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        """Serve who is this user, unless too many are served already."""
        data = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        _process, user, _group = CREDENTIALS.unpack(data)
        if user != os.getuid() or self._count >= SINGLE_MOUNTS_MAX:
            await stream.aclose()
            return
        self._count += 1
        try:
            async with stream:
                await _Session(stream, self).run()
        finally:
            self._count -= 1
            self._used = trio.current_time()

    @property
    def unused(self) -> float:
        """Seconds for which nobody has been connected."""
        return 0.0 if self._count else trio.current_time() - self._used


def _nobody() -> None:
    """Nobody waits for the start any more."""


class _Session:
    """One single conversation's mount, from its first word to the end of its connection."""

    def __init__(self, stream: trio.SocketStream, server: SingleServer) -> None:
        self._stream = stream
        self._server = server
        self._view = server.view
        self._account = server.account
        self._random = server.random
        self._machines = server.machines
        self._wire = FrameSender(stream)

    async def run(self) -> None:
        """Until the connection ends, or says what is none of our words."""
        frames, operations = Frames(), None
        calls: _Calls | None = None
        try:
            async with trio.open_nursery() as nursery:
                async for data in self._stream:
                    for each in frames.add(data):
                        request = read_request(each)
                        if calls is None and request.word == HUB:
                            await self._serve_machine(request, frames)
                            return
                        if calls is None:
                            operations = await self._look(request)
                            if operations is None:
                                return
                            await self._send(request.number, 0, None)
                            calls = _Calls(operations, nursery)
                            operations.outdate = partial(self._outdated, nursery)
                        elif request.word in calls.at_once:
                            with harmless(self._view.failed):
                                calls.at_once[request.word](*request.arguments)
                        elif calls.is_quick(request):  # a task would be felt
                            await self._answer(request, calls)
                        else:
                            nursery.start_soon(self._answer, request, calls)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it has ended without a word
        except* DecodeError as group:
            _log.error("the mount of a single conversation was cut off: %s", group.exceptions[0])
        finally:
            self._wire.close()
            if operations is not None:
                self._view.watchers.observers.remove(operations)
                with trio.CancelScope(shield=True):
                    with harmless(self._view.failed):
                        await operations.close()
                    with harmless(self._view.failed):  # it goes when the account is unmounted
                        await drop_tmp(self._view.tree, operations.single.tmp)

    async def _serve_machine(self, first: SingleRequest, frames: Frames) -> None:
        """It is a mount on another machine."""
        # nobody whose account is mounted on one machine only waits for it at the start
        from cbfs.mount.remote.files import HandedParts  # noqa: PLC0415
        from cbfs.mount.remote.session import HubSession  # noqa: PLC0415

        only, served = first.arguments[0], self._machines
        if served.total() >= MACHINES_MAX or (only and served[only] >= MACHINES_FOR_ONE_MAX):
            told = ["too many machines have the account mounted", "unmount it on one of them"]
            await self._send(first.number, errno.EINVAL, told)
            return
        served[only] += 1
        try:
            uploads = self._server.uploads = self._server.uploads or HandedParts()
            hub = HubSession(self._wire, self._view, self._account, self._random, uploads)
            await hub.run(first, self._stream, frames)
        finally:
            served[only] -= 1
            served += Counter()  # forgets what is none

    async def _look(self, request: SingleRequest) -> SingleOperations | None:
        """The first word: which conversation. None, and the answer is given, when there is none."""
        if request.word != LOOK:
            raise DecodeError("the mount of a single conversation that does not say which")
        tree = self._view.tree
        tmp = await make_tmp(tree)  # first: nothing waits between a look at the tree and watching
        try:
            conversation = conversation_called(tree, request.arguments[0])
        except CbfsError as error:
            await drop_tmp(tree, tmp)
            await self._send(request.number, errno.EINVAL, [str(error), error.hint])
            return None
        key = self._random.token(KEY_SIZE)
        single = SingleView(tree, conversation, tmp)
        operations = SingleOperations(self._view, self._account, single, key)
        self._view.watchers.observers.append(operations)
        for name in single.drafts.entries:  # another kernel may change them from now on
            self._view.watchers.outdate(single.drafts.inode, name)
        return operations

    async def _answer(self, request: SingleRequest, calls: "_Calls") -> None:
        number, result = 0, None
        try:
            result = await calls.table[request.word](*request.arguments)
        except pyfuse3.FUSEError as error:
            number = error.errno
        except Exception as error:
            log_fault(error)
            self._view.failed()
            # a handle or a number that we have not given is told apart
            wrong = isinstance(error, KeyError | TypeError | ValueError | OverflowError)
            number = errno.EINVAL if wrong else errno.EIO
        if request.number:
            await self._send(request.number, number, result)
        ahead: list[tuple[int, bytes]] = []
        if request.word == "open" and isinstance(result, list):
            with harmless(self._view.failed):
                ahead = calls.ahead(result[0])
        if ahead:
            await self._send(0, 0, ahead)

    def _outdated(self, nursery: trio.Nursery, inode: int, name: bytes) -> None:
        nursery.start_soon(self._send, 0, 0, [inode, name])

    async def _send(self, *fields: object) -> None:
        await self._wire.send(frame(*fields))


class _Calls:
    """The words of a single conversation's mount, as calls of its handlers."""

    def __init__(self, operations: SingleOperations, nursery: trio.Nursery) -> None:
        self._do = operations
        self._nursery = nursery
        self.ahead = operations.ahead
        self.at_once: dict[str, Callable[..., None]] = {
            "forget": self._forget,
            "listed": operations.counted,
            "opened": operations.opened,
        }
        self.table: dict[str, Callable[..., Awaitable[Any]]] = {
            MOUNTED: self._mounted,
            "lookup": self._lookup,
            "getattr": self._getattr,
            "setattr": self._setattr,
            "mkdir": self._mkdir,
            "symlink": self._symlink,
            "readlink": self._readlink,
            "link": self._link,
            "unlink": self._unlink,
            "rmdir": self._rmdir,
            "rename": self._rename,
            "opendir": self._opendir,
            "list": self._list,
            "releasedir": self._releasedir,
            "create": self._create,
            "open": self._open,
            "read": operations.read,
            "write": operations.write,
            "flush": operations.flush,
            "fsync": self._fsync,
            "release": operations.release,
            "statfs": self._statfs,
            "getxattr": self._getxattr,
            "listxattr": self._listxattr,
        }

    def is_quick(self, request: SingleRequest) -> bool:
        """Whether a request can be answered at once: it waits for no disk, and for nobody."""
        word, arguments = request.word, request.arguments
        if word in {"read", "release"}:
            return self._do.is_quick(arguments[0])
        if word == "open":
            return not arguments[1] & (os.O_ACCMODE | os.O_TRUNC)
        return word in _QUICK

    async def _mounted(self, mountpoint: bytes, device: int) -> None:
        if not self._do.notifier.has_begun:
            place = Path(os.fsdecode(mountpoint))
            await self._nursery.start(self._do.notifier.run, place, device)

    def _forget(self, inodes: list[list[int]]) -> None:
        for inode, count in inodes:
            self._do.forget_one(inode, count)

    async def _lookup(self, parent: int, name: bytes, thread: int) -> list[Any]:
        context = Caller(thread).context
        return stat_of(await self._do.lookup(InodeT(parent), FileNameT(name), context))

    async def _getattr(self, inode: int) -> list[Any]:
        return stat_of(await self._do.getattr(InodeT(inode), Caller(0).context))

    async def _setattr(self, inode: int, values: list[int | None]) -> list[Any]:
        attributes = EntryAttributes()
        uid, gid, size, mode, mtime = values
        attributes.st_uid, attributes.st_gid = uid or 0, gid or 0
        attributes.st_size, attributes.st_mtime_ns = size or 0, mtime or 0
        attributes.st_mode = ModeT(mode or 0)
        fields = ChangedFields(*(value is not None for value in values)).fields
        context = Caller(0).context
        return stat_of(await self._do.setattr(InodeT(inode), attributes, fields, None, context))

    async def _mkdir(self, parent: int, name: bytes, mode: int, thread: int) -> list[Any]:
        context = Caller(thread).context
        return stat_of(await self._do.mkdir(InodeT(parent), FileNameT(name), ModeT(mode), context))

    async def _symlink(self, parent: int, name: bytes, target: bytes, thread: int) -> list[Any]:
        names = FileNameT(name), FileNameT(target)
        return stat_of(await self._do.symlink(InodeT(parent), *names, Caller(thread).context))

    async def _readlink(self, inode: int) -> bytes:
        return await self._do.readlink(InodeT(inode), Caller(0).context)

    async def _link(self, inode: int, parent: int, name: bytes) -> list[Any]:
        inodes = InodeT(inode), InodeT(parent)
        return stat_of(await self._do.link(*inodes, FileNameT(name), Caller(0).context))

    async def _unlink(self, parent: int, name: bytes, thread: int) -> None:
        await self._do.unlink(InodeT(parent), FileNameT(name), Caller(thread).context)

    async def _rmdir(self, parent: int, name: bytes) -> None:
        await self._do.rmdir(InodeT(parent), FileNameT(name), Caller(0).context)

    async def _rename(
        self, parent: int, name: bytes, target: int, new: bytes, flags: int, thread: int
    ) -> None:
        old_place, new_place = (InodeT(parent), FileNameT(name)), (InodeT(target), FileNameT(new))
        await self._do.rename(*old_place, *new_place, FlagT(flags), Caller(thread).context)

    async def _opendir(self, inode: int) -> int:
        return await self._do.opendir(InodeT(inode), Caller(0).context)

    async def _list(self, handle: int, place: int) -> list[list[Any]]:
        listed = self._do.listed(handle, place)
        return [[number, name.encode(), stat] for number, name, stat in listed]

    async def _releasedir(self, handle: int) -> None:
        self._do.forget_listing(handle)

    async def _create(
        self, parent: int, name: bytes, mode: int, flags: int, thread: int
    ) -> list[Any]:
        info, entry = await self._do.create(
            InodeT(parent), FileNameT(name), ModeT(mode), FlagT(flags), Caller(thread).context
        )
        return [_info(info), stat_of(entry)]

    async def _open(self, inode: int, flags: int, thread: int) -> list[Any]:
        info = await self._do.open(InodeT(inode), FlagT(flags), Caller(thread).context)
        return _info(info, self._do.offered(info.fh))

    async def _fsync(self, handle: int) -> None:
        await self._do.fsync(FileHandleT(handle), False)

    async def _statfs(self) -> list[int]:
        data = await self._do.statfs(Caller(0).context)
        return [getattr(data, name) for name in STATVFS]

    async def _getxattr(self, inode: int, name: bytes) -> bytes:
        return await self._do.getxattr(InodeT(inode), XAttrNameT(name), Caller(0).context)

    async def _listxattr(self, inode: int) -> list[bytes]:
        return list(await self._do.listxattr(InodeT(inode), Caller(0).context))


def _info(info: pyfuse3.FileInfo, content: bytes = b"") -> list[Any]:
    return [info.fh, info.direct_io, info.keep_cache, content]
