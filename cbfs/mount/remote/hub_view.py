"""What a mount on another machine knows of its hub, kept as new as the hub tells: it is asked for
what nobody knows yet, and what it says by itself is shown to those who watch."""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, cast

import trio

from cbfs.mount.notifier import Notifier
from cbfs.mount.remote.cache import BLOCK, SealedCache
from cbfs.mount.remote.link import AwayError, HubLink
from cbfs.mount.remote.nodes import FRESH, RemoteContent, RemoteNode, RemoteTree, path_of
from cbfs.mount.remote.wire import (
    APPEARS,
    GOES,
    ID_SIZE,
    MOVES,
    OUTDATED,
    STALE,
    Stat,
    decode_stat,
    is_name,
    parts_of,
    stays_inside,
)
from cbfs.storage.faults import Tasks
from cbfs.tree.nodes import Node
from cbfs_common.errors import DecodeError
from cbfs_common.primitives import Random

FETCHED_AT_ONCE: Final = 1024 * 1024
"""Bytes of a message that are fetched at once; the next ones meanwhile."""

SEEN_MAX: Final = 1_000
"""Messages of which it is to be told that they were read, while the hub is away."""

_BLOCKS = FETCHED_AT_ONCE // BLOCK
_WHOLE = (1 << 62) - 1


class HubView:
    """``tree`` as the hub behind ``link`` tells it; contents are kept in ``cache``. ``outdate`` is
    told what the kernel must forget: (inode, name), or without a name what it knows of an inode."""

    def __init__(
        self,
        tree: RemoteTree,
        link: HubLink,
        cache: SealedCache,
        tasks: Tasks,
        random: Random,
        outdate: Callable[[int, bytes], None],
        failed: Callable[[], None],
    ) -> None:
        self.tree = tree
        self.link = link
        self.notifier = Notifier(failed)
        self._cache = cache
        self._tasks = tasks
        self._outdate = outdate
        self._random = random
        self._seen: list[bytes] = []
        self._files = 0
        self._space: list[int] = [4_096, 0, 0]

    # what is asked

    def is_fresh(self, node: RemoteNode) -> bool:
        """Whether what is known of a node need not be asked for."""
        if not self.link.is_up or node.local or node.outgoing is not None or node.writers:
            return True
        if node.leaving:
            return True
        if node.stale or node.generation != self.link.generation:
            return False
        above = node.above
        if (node.stat.fixed or node.is_folder) and above is not None and self.tree.told(above):
            return True
        return time.monotonic() - node.at < FRESH

    async def refreshed(self, node: RemoteNode) -> RemoteNode:
        """What is at the place of a node now. Raises OSError."""
        if node.gone:
            raise OSError(errno.ESTALE, "")
        if self.is_fresh(node):
            return node
        above = node.above
        if above is None:
            generation = self.link.generation
            try:
                self.tree.update(node, stat_told(await self.link.ask("stat", b"")), generation)
            except AwayError:
                return node
            return node
        return await self.look_up(above, node.name)

    async def look_up(self, folder: RemoteNode, name: bytes) -> RemoteNode:
        """The entry of that name. Raises OSError: ENOENT, or that nobody can tell."""
        known = folder.entries.get(name)
        if known is not None and self.is_fresh(known):
            return known
        if known is None and (folder.local or self._is_listed(folder)):
            raise OSError(errno.ENOENT, "")
        generation = self.link.generation
        try:
            told = stat_told(await self.link.ask("stat", below(folder, name)))
        except AwayError:
            if known is not None and folder.entries.get(name) is known:
                return known
            if self.tree.in_outbox(folder) or folder is self._outbox or folder.listed >= 0:
                raise OSError(errno.ENOENT, "") from None  # as far as is known here
            raise
        except OSError as error:
            known = folder.entries.get(name)
            gone = error.errno in {errno.ENOENT, errno.ESTALE, errno.ENOTDIR}
            if gone and known is not None and not _is_here(known):
                self.drop(known)
            raise
        if folder.gone:
            raise OSError(errno.ESTALE, "")
        known = folder.entries.get(name)
        node = self.tree.enter(folder, name, told, generation)
        if known is not None and known is not node:
            self._forget_content(known)
        return node

    @property
    def _outbox(self) -> RemoteNode | None:
        return self.tree.root.entries.get(b"outbox")

    def _is_listed(self, folder: RemoteNode) -> bool:
        if folder.listed < 0 or folder.listed_on != self.link.generation or not self.link.is_up:
            return False
        return self.tree.told(folder) or time.monotonic() - folder.listed < FRESH

    async def listing(self, folder: RemoteNode) -> list[RemoteNode]:
        """What is in a folder. Raises OSError."""
        if not folder.local and not self._is_listed(folder):
            try:
                await self.list_anew(folder)
            except AwayError:
                if folder.listed < 0 and not folder.entries and folder is not self._outbox:
                    raise
        return list(folder.entries.values())

    async def list_anew(self, folder: RemoteNode) -> None:
        """Ask for all that is in a folder. Raises OSError."""
        generation, began = self.link.generation, time.monotonic()
        mine = folder.during = folder.during if folder.during is not None else {}
        told: dict[bytes, Stat] = {}
        try:
            with self.link.pieces("list", path_of(folder)) as pages:
                async for page in pages:
                    for name, fields in _entries(page):
                        told[name] = stat_told(fields)
        finally:
            if folder.during is mine:
                folder.during = None
        if folder.gone:
            raise OSError(errno.ESTALE, "")
        enter = self.tree.enter
        for name, each in told.items():
            if mine.get(name, True):
                enter(folder, name, each, generation)
        for name, node in list(folder.entries.items()):
            if name not in told and not mine.get(name, False) and not _is_here(node):
                self.drop(node)
        folder.listed, folder.listed_on = began, generation

    async def read_link(self, node: RemoteNode) -> bytes:
        """Where a symbolic link leads. Raises OSError."""
        if node.target is None or not self.is_fresh(node):
            try:
                target = await self.link.ask("readlink", path_of(node))
            except AwayError:
                if node.target is None:
                    raise
            else:
                if not isinstance(target, bytes) or not stays_inside(path_of(node), target):
                    raise OSError(errno.EIO, "")
                node.target = target
        return node.target or b""

    async def attributes(self, node: RemoteNode) -> dict[str, str]:
        """The extended attributes of a node. Raises OSError."""
        now = time.monotonic()
        if node.outgoing is not None or node.local:
            held = {"user.cbfs.state": "waits on this machine until the hub has it"}
            return held | ({"user.cbfs.error": node.trouble} if node.trouble else {})
        if node.attributes is None or now - node.attributes_at >= FRESH:
            try:
                found = await self.link.ask("xattrs", path_of(node))
            except AwayError:
                if node.attributes is None:
                    raise
                return node.attributes
            match found:
                case dict() if all(type(k) is type(v) is str for k, v in found.items()):
                    node.attributes, node.attributes_at = found, now
                case _:
                    raise OSError(errno.EIO, "")
        return node.attributes

    async def space(self) -> list[int]:
        """Block size, blocks, free blocks: as they were told last, while it is away."""
        try:
            match await self.link.ask("statfs"):
                case [int(size), int(blocks), int(free)] if 0 < size <= 1 << 20:
                    self._space = [size, max(0, min(blocks, _WHOLE)), max(0, min(free, _WHOLE))]
        except AwayError:
            pass
        return self._space

    # contents

    async def content(self, node: RemoteNode) -> RemoteContent:
        """What is read by who opens a file now: of what changes, all of it is fetched. Raises
        OSError."""
        known = node.content
        if node.stat.fixed:
            if known is None or known.version[1:3] != node.stat.version[1:3]:
                self._forget_content(node)
                known = node.content = self._new(node.stat.version, node.stat.size)
            return known
        recent = known is not None and time.monotonic() - known.at < FRESH
        if not self.link.is_up:
            self.link.hurry()
        if known is not None and (not self.link.is_up or (recent and not node.stale)):
            return known
        try:
            fresh = await self._fetched(node)
        except AwayError:
            if known is None:
                raise
            return known
        if known is not None and not node.opened:
            self._cache.forget(known.file)
        node.content = fresh
        return fresh

    def _new(self, version: tuple[int, int, int, int], size: int) -> RemoteContent:
        self._files += 1
        return RemoteContent(self._files, version, size)

    async def _fetched(self, node: RemoteNode) -> RemoteContent:
        content = self._new(node.stat.version, 0)
        buffer, index = bytearray(), 0
        with self.link.pieces("fetch", path_of(node), 0, _WHOLE) as pieces:
            async for piece in pieces:
                told, data = _piece(piece)
                content.version = told.version
                buffer += data
                content.size += len(data)
                index = self._keep(content.file, index, buffer)
        self._cache.put(content.file, index, bytes(buffer))
        content.at = time.monotonic()
        return content

    def _keep(self, file: int, index: int, buffer: bytearray) -> int:
        """Keep what is whole of the blocks from ``index`` on. Gives the next one."""
        while len(buffer) >= BLOCK:
            self._cache.put(file, index, bytes(buffer[:BLOCK]))
            del buffer[:BLOCK]
            index += 1
        return index

    async def read(self, node: RemoteNode, content: RemoteContent, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer at the end. Raises OSError."""
        end = min(offset + size, content.size)
        if offset >= end:
            return b""
        parts: list[bytes] = []
        for index in range(offset // BLOCK, (end - 1) // BLOCK + 1):
            data = self._cache.get(content.file, index)
            if data is None:
                if not node.stat.fixed:
                    raise OSError(errno.EIO, "")  # it was more than there is room for
                await self._fetch(node, content, index // _BLOCKS)
                data = self._cache.get(content.file, index)
            if data is None:
                raise OSError(errno.EIO, "")
            parts.append(data)
        window = (end - 1) // FETCHED_AT_ONCE
        if node.stat.fixed and content.last in {window - 1, window}:
            self._read_ahead(node, content, window + 1)
        content.last = window
        start = offset % BLOCK
        return b"".join(parts)[start : start + end - offset]

    def _read_ahead(self, node: RemoteNode, content: RemoteContent, window: int) -> None:
        first = window * _BLOCKS
        wanted = window * FETCHED_AT_ONCE < content.size and window not in content.fetching
        if wanted and self.link.is_up and not self._cache.has(content.file, first):
            self._tasks.start_soon(self._fetch_quietly, node, content, window)

    async def _fetch_quietly(self, node: RemoteNode, content: RemoteContent, window: int) -> None:
        with suppress(OSError):  # who reads on is told
            await self._fetch(node, content, window)

    async def _fetch(self, node: RemoteNode, content: RemoteContent, window: int) -> None:
        """Fetch a window of a message, unless somebody does so already. Raises OSError."""
        begun = content.fetching.get(window)
        if begun is not None:
            await begun.wait()
            return
        done = content.fetching[window] = trio.Event()
        try:
            if node.gone:
                raise OSError(errno.ESTALE, "")
            buffer, index = bytearray(), window * _BLOCKS
            end = min(content.size, (window + 1) * FETCHED_AT_ONCE)
            got = window * FETCHED_AT_ONCE
            words = path_of(node), got, end - got
            with self.link.pieces("fetch", *words) as pieces:
                async for piece in pieces:
                    told, data = _piece(piece)
                    if told.version[1:3] != content.version[1:3] or got + len(data) > end:
                        raise OSError(errno.ESTALE, "")
                    got += len(data)
                    buffer += data
                    index = self._keep(content.file, index, buffer)
            if got != end:
                raise OSError(errno.EIO, "")
            if buffer:
                self._cache.put(content.file, index, bytes(buffer))
        finally:
            done.set()
            content.fetching.pop(window, None)

    def _forget_content(self, node: RemoteNode) -> None:
        if node.content is not None:
            self._cache.forget(node.content.file)
            node.content = None

    def forget(self, node: RemoteNode) -> None:
        """Keep nothing of what is in a file."""
        self._forget_content(node)

    async def seen(self, node: RemoteNode) -> None:
        """Somebody has read a message to its end: the hub is told, now or when it is back."""
        self._seen.append(path_of(node))
        del self._seen[:-SEEN_MAX]
        await self.tell_seen()

    async def tell_seen(self) -> None:
        """Tell the hub what was read."""
        try:
            while self._seen:
                await self.link.tell("seen", self._seen[0])
                self._seen.pop(0)
        except AwayError:
            pass

    async def put(self, node: RemoteNode, content: bytes) -> list[Any] | None:
        """Give the hub a file that is no message, as a whole. Gives the stat, if there is one.
        Raises OSError."""
        told = stat.S_IMODE(node.stat.mode), 0
        identity = self._random.token(ID_SIZE)
        result = await self.link.hand_over(identity, content, path_of(node), told, b"", True)
        await self.link.tell("taken", [identity])
        match result:
            case [bytes(), list(fields)]:
                return fields
        return None

    def drop(self, node: RemoteNode) -> None:
        """The hub has it no more: no kernel and no cache keeps it."""
        above = node.above
        self._forget_content(node)
        self.tree.remove(node)
        if above is not None:
            self._outdate(above.number, node.name)
        self._outdate(node.number, b"")

    # what the hub says by itself

    def linked(self) -> None:
        """There is a new link: the hub may have begun anew, with other inodes."""
        self.tree.inodes.clear()
        self.tree.inodes[self.tree.root.stat.inode] = self.tree.root

    def news(self, told: list[Any]) -> None:
        """One piece of news. Raises DecodeError."""
        word, *rest = told
        if word == APPEARS:
            parts_of(rest[0])
            self._appears(rest[0], decode_stat(rest[1]))
        elif word == GOES:
            parts_of(rest[0])
            self._goes(rest[0])
        elif word == MOVES:
            parts_of(rest[0])
            if not is_name(rest[1]):
                raise DecodeError("a wrong name")
            self._moves(*rest)
        elif word == STALE:
            node = self.tree.inodes.get(rest[0])
            if node is not None:
                self._is_stale(node)
        elif word == OUTDATED:
            folder = self.tree.inodes.get(rest[0])
            if folder is not None:
                self._outdated(folder, rest[1])

    def _appears(self, path: bytes, told: Stat) -> None:
        above, _, name = path.rpartition(b"/")
        folder = self.tree.find(above)
        if folder is None or not name:
            return
        self._texts_stale(folder)
        if folder.during is not None:
            folder.during[name] = True
        self.show(folder, name, told)

    def show(self, folder: RemoteNode, name: bytes, told: Stat) -> None:
        """Let watchers see what has come into a folder."""
        generation = self.link.generation

        def enter() -> None:
            if not folder.gone and name not in folder.entries:
                self.tree.enter(folder, name, told, generation)
            elif name in folder.entries:
                folder.entries[name].stale = True

        if name in folder.entries:
            enter()
            return
        path = os.fsdecode(below(folder, name))
        if stat.S_ISDIR(told.mode):
            self.notifier.make(path, enter)
            return
        staged = self.tree.staged(folder, name, told)

        def enter_staged() -> None:
            if not folder.gone and name not in folder.entries:
                self.tree.place(staged, folder)
                self.tree.update(staged, told, generation)

        self.notifier.show(path, cast(Node, staged), enter_staged)

    def _goes(self, path: bytes) -> None:
        node = self.tree.find(path)
        if node is None:
            above, _, name = path.rpartition(b"/")
            folder = self.tree.find(above)
            if folder is not None and folder.during is not None:
                folder.during[name] = False
            return
        if node.above is not None:
            self._texts_stale(node.above)
        if node.outgoing is None and not node.writers:
            self.hide(node)

    def hide(self, node: RemoteNode) -> None:
        """Let watchers see that something goes."""
        self._forget_content(node)
        node.leaving = True
        if node.above is not None and node.above.during is not None:
            node.above.during[node.name] = False

        def leave() -> None:
            self.tree.remove(node)
            self._outdate(node.number, b"")

        path = os.fsdecode(path_of(node))
        if node.is_folder:
            self.notifier.remove_folder(path, leave)
        else:
            self.notifier.remove(path, leave)

    def _moves(self, path: bytes, new: bytes) -> None:
        node = self.tree.find(path)
        above = node.above if node is not None else None
        if node is None or above is None:
            return

        def change() -> None:
            if not node.gone and node.above is above:
                self.tree.move(node, above, new)

        self.notifier.move(os.fsdecode(path), os.fsdecode(new), change)

    def _is_stale(self, node: RemoteNode) -> None:
        node.stale = True
        node.attributes = None
        if node.stat.fixed:
            self._forget_content(node)
        self._outdate(node.number, b"")

    def _outdated(self, folder: RemoteNode, name: bytes) -> None:
        folder.listed = -1.0
        node = folder.entries.get(name)
        if node is not None:
            node.stale = True
            self._outdate(folder.number, name)

    def _texts_stale(self, folder: RemoteNode) -> None:
        """What the hub writes about what is in a folder, it writes anew."""
        folder.stale = True
        for name in (b"transcript", b"metadata.toml"):
            text = folder.entries.get(name)
            if text is not None:
                text.stale = True

    async def catch_up(self) -> None:
        """There is a link again: show what has come and gone meanwhile in what is told. Raises
        OSError."""
        above = self.tree.root.entries.get(b"conversations")
        if above is None:
            return
        before = {folder: folder.stat.modified for folder in above.entries.values()}
        await self._catch_up_in(above)
        for folder, modified in before.items():
            looked_at = folder.listed >= 0 or folder.stat.modified != modified
            if looked_at and folder.is_folder and not folder.gone:
                await self._catch_up_in(folder)

    async def _catch_up_in(self, folder: RemoteNode) -> None:
        """In one folder. Where nobody knows what was in it before, that is shown which has come
        since the last link."""
        known, was_listed = set(folder.entries), folder.listed >= 0
        fresh = await self._list_quietly(folder)
        if fresh is None:
            return
        for name in known - set(fresh):
            node = folder.entries.get(name)
            if node is not None and not _is_here(node):
                self.hide(node)
        for name, told in fresh.items():
            if name in folder.entries:
                self.tree.enter(folder, name, told, self.link.generation)
            elif was_listed or told.changed > self.link.since:
                self.show(folder, name, told)

    async def _list_quietly(self, folder: RemoteNode) -> dict[bytes, Stat] | None:
        """What is in a folder now; None where it is not there any more."""
        found: dict[bytes, Stat] = {}
        mine = folder.during = {}
        generation, began = self.link.generation, time.monotonic()
        try:
            with self.link.pieces("list", path_of(folder)) as pages:
                async for page in pages:
                    for name, fields in _entries(page):
                        found[name] = stat_told(fields)
        except AwayError:
            raise
        except OSError:
            return None
        finally:
            folder.during = None
        for name, there in mine.items():
            if not there:
                found.pop(name, None)
        if folder.listed >= 0:
            folder.listed, folder.listed_on = began, generation
        return found


def _is_here(node: RemoteNode) -> bool:
    """Whether more is known here of a file than at the hub."""
    return node.local or node.outgoing is not None or node.writers > 0


def below(folder: RemoteNode, name: bytes) -> bytes:
    """The path of what has this name in a folder."""
    above = path_of(folder)
    return above + b"/" + name if above else name


def stat_told(fields: Any) -> Stat:
    """What the hub has answered. Raises OSError(EIO)."""
    try:
        return decode_stat(fields)
    except DecodeError as error:
        raise OSError(errno.EIO, "") from error


def _entries(page: list[Any]) -> Iterator[tuple[bytes, list[Any]]]:
    match page:
        case [list(entries)]:
            for each in entries:
                match each:
                    case [bytes(name), list(fields)] if is_name(name):
                        yield name, fields
                    case _:
                        raise OSError(errno.EIO, "")
        case _:
            raise OSError(errno.EIO, "")


def _piece(rest: list[Any]) -> tuple[Stat, bytes]:
    match rest:
        case [list(fields), bytes(data)]:
            return stat_told(fields), data
    raise OSError(errno.EIO, "")
