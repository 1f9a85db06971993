"""One link of a mount on another machine, in the daemon that has the account: it answers what is
asked, and tells what changes by itself."""

import errno
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import trio

from cbfs.mount.quota import errno_of
from cbfs.mount.remote.files import HandedParts, HubFiles, Running
from cbfs.mount.remote.wire import (
    APPEARS,
    GOES,
    ID_SIZE,
    MOVES,
    OUTDATED,
    STALE,
    UNANSWERED,
    VERSION,
    read_hub_request,
)
from cbfs.mount.single.view import SingleView, conversation_called, drop_tmp, make_tmp
from cbfs.mount.single.wire import Frames, FrameSender, SingleRequest, frame
from cbfs.mount.view import MountView
from cbfs.storage.faults import harmless, log_fault
from cbfs.storage.store import Meta, StoreError, Table, Writer
from cbfs.tree.nodes import ROOT, Node
from cbfs.tree.rules import TreeError
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.primitives import Random

_log = logging.getLogger(__name__)

ASKED_MAX = 64
"""Requests of one link that are being answered at a time."""

SILENT_MAX = 90.0
"""Seconds without a word, or without anything taken, after which a link is ended: a mount pings all
the time, and one whose machine sleeps makes another link when it wakes."""

OVER_MAX = 30.0
"""Seconds for which a new link waits until all is over that an earlier one of the same mount has
asked: less than the mount waits for the greeting."""

NEWS_MAX = 20_000
"""News that wait for one link. One that takes none is ended: it looks at all anew when it is back.
"""

_KEY_SIZE = 32


@contextmanager
def errors(failed: Callable[[], None]) -> Iterator[None]:
    """What goes wrong within comes out as OSError with the errno that a program would get."""
    try:
        yield
    except TreeError as error:
        raise OSError(error.errno, "") from error
    except StoreError as error:
        raise OSError(errno_of(error), "") from error
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, DecodeError):
        raise
    except Exception as error:
        log_fault(error)
        failed()
        raise OSError(errno.EIO, "") from error


class HubSession:
    """Answers on ``wire``, for the account that ``view`` shows. ``uploads``: of all links."""

    def __init__(
        self,
        wire: FrameSender,
        view: MountView,
        account: Path,
        random: Random,
        uploads: HandedParts,
    ) -> None:
        self._wire = wire
        self._view = view
        self._account = account
        self._random = random
        self._uploads = uploads
        self._sending: set[trio.CancelScope] = set()
        self._slots = trio.Semaphore(ASKED_MAX)

    async def run(
        self, first: SingleRequest, stream: trio.abc.ReceiveStream, frames: Frames
    ) -> None:
        """From ``serve``'s word on, until the link ends. Raises DecodeError for what is none of our
        words, and what the stream raises."""
        tree, only = self._view.tree, str(first.arguments[0])
        single: SingleView | None = None
        if only:
            tmp = await make_tmp(tree)
            try:
                single = SingleView(tree, conversation_called(tree, only), tmp)
            except CbfsError as error:
                await drop_tmp(tree, tmp)
                await self._send(first.number, errno.EINVAL, [str(error), error.hint])
                return
        handed = self._uploads.of((single.drafts.conversation or b"") if single else b"")
        news = News(self._view, single, self._random.token(_KEY_SIZE))
        files = HubFiles(self._view, self._account, handed, single, news.inode_of)
        news.stat = files.stat
        self._view.watchers.observers.append(news)  # at once, or a conversation is renamed unheard
        try:
            account = await self._account_id(single)
            await self._send(first.number, 0, None)
            with _Registered(handed.links) as links:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._tell, news)
                    words = _HubWords(files, links)
                    await self._answer_all(words, stream, frames, nursery, account)
                    nursery.cancel_scope.cancel()
        finally:
            self._view.watchers.observers.remove(news)
            with trio.CancelScope(shield=True):
                with harmless(self._view.failed):
                    await files.close()
                if single is not None:
                    with harmless(self._view.failed):
                        await drop_tmp(tree, single.tmp)

    async def _account_id(self, single: SingleView | None) -> bytes:
        """ID_SIZE random bytes that are always the same for this account, or for this conversation
        of it; who has one conversation learns nothing of another by them."""
        fresh = self._random.token(ID_SIZE)

        def change(writer: Writer) -> bytes:
            known = writer.get(Table.META, Meta.HUB)
            if known is None:
                writer.put(Table.META, Meta.HUB, fresh)
            return known or fresh

        with self._view.tree.backend.store.read() as reader:
            known = reader.get(Table.META, Meta.HUB)
        account = await self._view.tree.backend.store.commit(change) if known is None else known
        if single is None:
            return account
        conversation = single.drafts.conversation or b""
        return blake2b(conversation, digest_size=ID_SIZE, key=account).digest()

    async def _tell(self, news: "News") -> None:
        async for each in news.told:
            await self._send(0, 0, each)
        raise trio.BrokenResourceError("it takes no news")

    async def _answer_all(
        self,
        words: "_HubWords",
        stream: trio.abc.ReceiveStream,
        frames: Frames,
        nursery: trio.Nursery,
        account: bytes,
    ) -> None:
        greeted = False
        data: bytes | bytearray = b""  # what came behind the first word
        while True:
            for each in frames.add(data):
                request = read_hub_request(each)
                if not greeted:
                    if request.word != "hello":
                        raise DecodeError("a mount on another machine that does not greet")
                    greeted = True
                    await words.alone(request.arguments[1], nursery.cancel_scope)
                    answer = [VERSION, time.time_ns(), account]
                    await self._send(request.number, 0, answer)
                elif request.word in UNANSWERED:  # in their order
                    with harmless(self._view.failed):
                        await words.tell(request, self._view.failed)
                else:
                    await self._slots.acquire()
                    if request.word == "part":  # in their order as well
                        told = await words.part(request, self._view.failed)
                        nursery.start_soon(self._tell_part, request.number, *told)
                    else:
                        nursery.start_soon(self._answer, request, words)
            data = b""
            with trio.move_on_after(SILENT_MAX):
                data = await stream.receive_some()
            if not data:  # nobody is there any more, or nobody says so
                return

    async def _answer(self, request: SingleRequest, words: "_HubWords") -> None:
        try:
            with errors(self._view.failed):
                await words.answer(request, self._send)
        except DecodeError:
            await self._send(request.number, errno.EINVAL, None)
        except OSError as error:
            await self._send(request.number, error.errno or errno.EIO, None)
        finally:
            self._slots.release()

    async def _tell_part(self, number: int, error: int, there: int) -> None:
        try:
            await self._send(number, error, there)
        finally:
            self._slots.release()

    async def _send(self, *fields: object) -> None:
        with trio.move_on_after(SILENT_MAX) as scope:
            self._sending.add(scope)
            try:
                await self._wire.send(frame(*fields))
            finally:
                self._sending.discard(scope)
            for each in self._sending:  # it takes something: those behind have their time
                each.deadline = trio.current_time() + SILENT_MAX
            return
        raise trio.BrokenResourceError("it takes nothing")


class _Registered:
    """One link among the ``links`` of all mounts, while the block runs: nothing goes on that was
    asked on it when the block has ended."""

    def __init__(self, links: dict[bytes, list[Running]]) -> None:
        self._links = links
        self._own: Running | None = None
        self._mount = b""

    def __enter__(self) -> "_Registered":
        return self

    def __exit__(self, *_error: object) -> None:
        if self._own is None:
            return
        self._own.over.set()
        self._links[self._mount].remove(self._own)
        if not self._links[self._mount]:
            del self._links[self._mount]

    async def alone(self, mount: bytes, scope: trio.CancelScope) -> None:
        """End every other link of this mount, whatever has come on it and was not read, and wait
        until all is over that it has asked. ``scope`` ends this one. Raises
        trio.BrokenResourceError where it takes too long: the mount makes another link."""
        self._mount, self._own = mount, Running(scope, trio.Event())
        same = self._links.setdefault(mount, [])
        earlier = list(same)
        same.append(self._own)
        for each in earlier:
            each.scope.cancel()
        with trio.move_on_after(OVER_MAX):
            for each in earlier:
                await each.over.wait()
            return
        raise trio.BrokenResourceError("an earlier link of it goes on")


Send = Callable[..., Awaitable[None]]


class _HubWords:
    """The words of a link, as calls of what is done for it."""

    def __init__(self, files: HubFiles, links: _Registered) -> None:
        self.alone = links.alone
        self._files = files
        self._table: dict[str, Callable[..., Awaitable[Any]]] = {
            "ping": _now,
            "hello": _now,
            "readlink": files.target,
            "xattrs": files.attributes,
            "rmdir": files.rmdir,
            "unlink": files.unlink,
            "rename": files.rename,
            "upload": files.upload,
            "put": files.put,
            "withdraw": files.withdraw,
        }

    async def tell(self, request: SingleRequest, failed: Callable[[], None]) -> None:
        """What is not answered."""
        with suppress(OSError, DecodeError), errors(failed):
            if request.word == "seen":
                await self._files.seen(*request.arguments)
            else:
                await self._files.taken(*request.arguments)

    async def part(self, request: SingleRequest, failed: Callable[[], None]) -> tuple[int, int]:
        """Take a part of a file. Gives why not, else 0, and how many bytes are there."""
        try:
            with errors(failed):
                return 0, await self._files.part(*request.arguments)
        except OSError as error:
            return error.errno or errno.EIO, 0

    async def answer(self, request: SingleRequest, send: Send) -> None:
        """Do it, and send what it gives. Raises OSError, DecodeError, TreeError, StoreError."""
        word, arguments, number = request.word, request.arguments, request.number
        files = self._files
        if word == "list":
            await self._list(number, arguments[0], send)
            return
        if word == "fetch":
            await self._fetch(number, arguments, send)
            return
        result: Any
        if word == "stat":
            result = files.stat(await files.node(*arguments))
        elif word == "statfs":
            result = files.space()
        elif word == "mkdir":
            result = await files.mkdir(*arguments)
        elif word == "symlink":
            result = await files.symlink(*arguments)
        elif word == "describe":
            result = await files.describe(arguments[0], *arguments[1])
        else:
            result = await self._table[word](*arguments)
        await send(number, 0, result)

    async def _list(self, number: int, path: bytes, send: Send) -> None:
        async for page in self._files.listing(path):
            if page:
                await send(number, 0, [True, page])
        await send(number, 0, [False, []])

    async def _fetch(self, number: int, arguments: list[Any], send: Send) -> None:
        path, offset, size = arguments
        told = None
        async for told, data in self._files.content(path, offset, size):
            if data:  # at once: what comes behind it may be on its way here for long
                await send(number, 0, [True, told, data])
        if told is None:
            told = self._files.stat(await self._files.node(path))
        await send(number, 0, [False, told, b""])


async def _now(*_arguments: object) -> int:
    """The hub's time, in nanoseconds since 1970."""
    return time.time_ns()


class News:
    """``Observer`` of one link: what changes by itself, as news in ``told``. ``stat`` gives what is
    told of a node. Of one conversation (``single``) nothing is told of the others, and inodes have
    numbers that say nothing, made with ``key``."""

    def __init__(self, view: MountView, single: SingleView | None, key: bytes) -> None:
        self._tree = view.tree
        self._single = single
        self._key = key
        self._shown: set[int] = set()  # of one conversation: nothing is told of what is not there
        self.stat: Callable[[Node], Any] = lambda _node: None
        self._put, self.told = trio.open_memory_channel[list[Any]](NEWS_MAX)

    def inode_of(self, inode: int) -> int:
        """The number by which the other side knows an inode of the tree."""
        if self._single is None or inode == ROOT:
            return inode
        self._shown.add(inode)
        digest = blake2b(inode.to_bytes(8, "big"), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "big") >> 1

    def _say(self, *news: Any) -> None:
        try:
            self._put.send_nowait(list(news))
        except trio.WouldBlock:
            self._put.close()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass  # it is being ended

    def _path(self, path: str) -> bytes | None:
        if self._single is None:
            return path.encode()
        return self._single.path(path).encode() if self._single.place(path) else None

    def appears(self, path: str, node: Node) -> None:
        """``node`` has just come to ``path``."""
        place = self._path(path)
        if place is not None:
            self._say(APPEARS, place, self.stat(node))

    def made(self, path: str) -> None:
        """A directory has just come to ``path``."""
        if self._single is not None:
            return
        here: Node = self._tree.root
        for name in path.split("/"):
            here = here.entries[name]  # type: ignore[attr-defined]  # else a fault, and logged
        self._say(APPEARS, path.encode(), self.stat(here))

    def disappears(self, path: str) -> None:
        """What is at ``path`` is about to go."""
        place = self._path(path)
        if place is not None:
            self._say(GOES, place)

    def moves(self, path: str, new: str) -> None:
        """What is at ``path`` is about to have the name ``new``."""
        if self._single is not None:
            self._single.moves(path, new)
        else:
            self._say(MOVES, path.encode(), new.encode())

    def touches(self, inode: int) -> None:
        """The content of that inode has changed by itself."""
        if self._single is None or inode in self._shown:
            self._say(STALE, self.inode_of(inode))

    def outdates(self, folder: int, name: str) -> None:
        """Nothing has that name any more in the folder of that inode."""
        if self._single is None or folder in {
            self._single.folder.inode,
            self._single.drafts.inode,
        }:
            self._say(OUTDATED, self.inode_of(folder), name.encode())
