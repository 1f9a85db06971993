"""What is in the files of a mount on another machine: fetched from the hub, ahead of who reads on,
and kept sealed for when it is away."""

import errno
import os
import time
from contextlib import suppress
from typing import Any, Final

import trio

from cbfs.mount.remote.cache import BLOCK, CACHE_MAX, SealedCache
from cbfs.mount.remote.link import AwayError, HubLink
from cbfs.mount.remote.nodes import FRESH, RemoteContent, RemoteNode, path_of
from cbfs.mount.remote.wire import Stat, decode_stat, is_name
from cbfs.storage.faults import Tasks
from cbfs_common.errors import DecodeError

FETCHED_AT_ONCE: Final = 1024 * 1024
"""Bytes of a message that are fetched at once; the next ones meanwhile."""

_BLOCKS = FETCHED_AT_ONCE // BLOCK


class RemoteContents:
    """The contents of files of the hub behind ``link``, kept in ``cache``. What is read ahead is
    fetched in ``tasks``."""

    def __init__(self, link: HubLink, cache: SealedCache, tasks: Tasks) -> None:
        self.link = link
        self._cache = cache
        self._tasks = tasks
        self._files = 0

    async def opened(self, node: RemoteNode) -> RemoteContent:
        """What is read by who opens a file now: of what changes, all of it is fetched. Raises
        OSError."""
        known = node.content
        if node.stat.fixed:
            if known is None or known.version[1:3] != node.stat.version[1:3]:
                self.forget(node)
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
        if node.stat.size > CACHE_MAX:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        content = self._new(node.stat.version, 0)
        buffer, index = bytearray(), 0
        with self.link.pieces("fetch", path_of(node), 0, CACHE_MAX) as pieces:
            async for piece in pieces:
                told, data = _piece(piece)
                if content.size + len(data) > CACHE_MAX:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
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
                try:
                    await self._fetch(node, content, index // _BLOCKS)
                except OSError:  # of what still arrives at the hub, the beginning may be here
                    if not self._cache.has(content.file, index):
                        raise
                data = self._cache.get(content.file, index)
            if data is None:  # who has read ahead was cut off
                raise OSError(errno.EIO, "") if self.link.is_up else AwayError()
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

    def forget(self, node: RemoteNode) -> None:
        """Keep nothing of what is in a file."""
        if node.content is not None:
            self._cache.forget(node.content.file)
            node.content = None


def stat_told(fields: Any) -> Stat:
    """What the hub has answered. Raises OSError(EIO)."""
    try:
        return decode_stat(fields)
    except DecodeError as error:
        raise OSError(errno.EIO, "") from error


def made_told(result: Any) -> tuple[bytes, Stat | None]:
    """The name and the stat of what was handed over; no stat where that was so before. Raises
    OSError(EIO) for what is no answer."""
    try:
        match result:
            case []:
                return b"", None
            case [bytes(name), list(fields)] if is_name(name):
                return name, decode_stat(fields)
    except DecodeError:
        pass
    raise OSError(errno.EIO, "")


def _piece(rest: list[Any]) -> tuple[Stat, bytes]:
    match rest:
        case [list(fields), bytes(data)]:
            return stat_told(fields), data
    raise OSError(errno.EIO, "")
