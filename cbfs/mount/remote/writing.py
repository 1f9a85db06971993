"""What programs write in a mount on another machine. A file is in memory while it is written, and
on a disk when it is closed: of outbox/ on this machine's, else on the hub's. What a program was not
able to write as a whole, or was killed in, is no message."""

import errno
import os
import stat
from contextlib import suppress

from cbfs.mount.remote.contents import stat_told
from cbfs.mount.remote.handing import CUT_OFF, Handing
from cbfs.mount.remote.hub_view import HubView
from cbfs.mount.remote.nodes import RemoteNode, local_stat, path_of
from cbfs.mount.remote.wire import Stat
from cbfs_common.limits import FILE_SIZE_MAX


class RemoteWriting:
    """Writes what ``view`` shows; files of the outbox go through ``handing``. Methods raise
    OSError."""

    def __init__(self, view: HubView, handing: Handing) -> None:
        self._view = view
        self._tree = view.tree
        self._link = view.link
        self._handing = handing

    async def begin(self, node: RemoteNode, *, anew: bool) -> None:
        """Somebody is about to write a file, who is one of its writers already; ``anew``: it is
        empty then."""
        data = await self._bytes(node, empty=anew)
        if anew:
            data.clear()
            node.dirty, node.timed, node.failed = True, 0, 0

    async def _bytes(self, node: RemoteNode, *, empty: bool) -> bytearray:
        if node.writing is not None:
            return node.writing
        if node.stat.fixed or not stat.S_ISREG(node.stat.mode):
            raise OSError(errno.EACCES, "")
        data = b""
        if not empty:
            if await self._handing.rest(node) and node.outgoing is not None:
                data = await self._handing.read(node.outgoing)
            elif not node.local:
                content = await self._view.contents.opened(node)
                if content.size > FILE_SIZE_MAX:
                    raise OSError(errno.EFBIG, "")
                data = await self._view.contents.read(node, content, 0, content.size)
        if node.writing is None:
            node.writing = bytearray(data)
        return node.writing

    def write(self, node: RemoteNode, offset: int, data: bytes) -> int:
        """Write at a place; gives how many bytes that are."""
        whole = node.writing
        if whole is None:
            raise OSError(errno.EBADF, "")
        if offset + len(data) > FILE_SIZE_MAX:
            node.failed = errno.EFBIG  # what is there is not what was to be
            raise OSError(errno.EFBIG, "")
        if offset > len(whole):
            whole += bytes(offset - len(whole))
        whole[offset : offset + len(data)] = data
        node.dirty, node.timed = True, 0
        return len(data)

    async def truncate(self, node: RemoteNode, size: int) -> None:
        """Give a file another size."""
        if size > FILE_SIZE_MAX:
            node.failed = errno.EFBIG if node.writers else 0
            raise OSError(errno.EFBIG, "")
        async with node.lock:
            node.writers += 1
            try:
                data = await self._bytes(node, empty=size == 0)
                del data[size:]
                data += bytes(size - len(data))
                node.dirty, node.timed = True, 0
                node.failed = node.failed if size else 0
                if node.writers == 1:
                    await self._store(node, whole=True)
            finally:
                self.wrote(node)

    async def describe(self, node: RemoteNode, mode: int | None, modified: int | None) -> None:
        """Give a file another mode or time."""
        async with node.lock:
            if node.unlinked:
                return
            if node.gone:
                raise OSError(errno.ESTALE, "")
            # what is to be stored has it then
            if node.dirty or await self._handing.described(node, mode, modified) or node.local:
                told = node.stat
                node.timed = node.timed if modified is None else modified
                node.stat = told._replace(
                    mode=told.mode if mode is None else stat.S_IFMT(told.mode) | mode,
                    modified=told.modified if modified is None else modified,
                )
                return
            told_now = await self._link.ask("describe", path_of(node), [mode, modified])
            self._tree.update(node, stat_told(told_now), self._link.generation)

    async def close(self, node: RemoteNode, *, killed: bool) -> None:
        """Who has written closes it, or was ``killed``: what he was writing is no message then, and
        nobody is there to be told."""
        if killed and self._is_in_outbox(node):
            if node.dirty:
                node.failed = node.failed or errno.EINTR
            with suppress(OSError):
                await self.store(node, whole=False)
            return
        await self.store(node, whole=True)

    async def store(self, node: RemoteNode, *, whole: bool) -> None:
        """What was written is on a disk on return; ``whole``: that is all. Who comes while it is
        being stored waits for that, and stores it himself where it has failed."""
        async with node.lock:
            await self._store(node, whole=whole)

    async def _store(self, node: RemoteNode, *, whole: bool) -> None:
        if node.writing is None or node.unlinked:
            return
        if node.failed:
            if node.outgoing is not None:  # what was stored before is not what was to be, either
                await self._handing.save(node, bytes(node.writing), whole=False)
            raise OSError(node.failed, os.strerror(node.failed))
        ends = whole and node.outgoing is not None and not node.outgoing.whole
        if not node.dirty and not ends:
            return
        if node.gone:
            raise OSError(errno.ESTALE, "")  # its folder has gone: nobody would get it
        node.dirty = False
        content = bytes(node.writing)
        above = node.above
        try:
            if above is not None and self._tree.in_outbox(above) and node.name != b"metadata.toml":
                await self._handing.save(node, content, whole=whole)
                node.stat = _saved(node, len(content))
                return
            result = await self._view.put(node, content)
        except BaseException:
            node.dirty = True
            raise
        node.local = False
        if result is not None:
            self._tree.update(node, result, self._link.generation)
        node.stale = True

    def wrote(self, node: RemoteNode) -> None:
        """Somebody writes no more."""
        node.writers -= 1
        if node.writers:
            return
        node.writing, node.dirty, node.failed = None, False, 0
        if node.outgoing is not None:
            if not node.outgoing.whole:
                node.trouble = CUT_OFF
            self._handing.wake()
        elif node.local and not node.is_folder and not node.gone:
            self._tree.remove(node)  # it was never taken

    def _is_in_outbox(self, node: RemoteNode) -> bool:
        here = node
        while here.above is not None:
            if self._tree.is_outbox(here):
                return True
            here = here.above
        return False


def _saved(node: RemoteNode, size: int) -> Stat:
    told = local_stat(node.stat.mode, size)
    return told._replace(modified=node.timed) if node.timed else told
