"""The least that a file system in pyfuse3 can do: files in memory, in one directory.

As a program: ``python -m tests.bench.minimal_fs MOUNTPOINT COUNT``, with so many of the texts of
``tests.bench.at_size``; until it is unmounted.
"""

import errno
import stat
import sys
from collections.abc import Sequence

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
)

from tests.bench.at_size import text_of

ROOT = pyfuse3.ROOT_INODE


class Minimal(pyfuse3.Operations):
    """Inode ``ROOT + 1 + n`` is the n-th file."""

    enable_writeback_cache = False

    def __init__(self, count: int) -> None:
        super().__init__()
        self._data = [bytearray(text_of(number)) for number in range(count)]
        self._names = {b"%08d.txt" % number: number for number in range(count)}
        self._listings: dict[int, list[tuple[bytes, int]]] = {}

    def _attributes(self, inode: int) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino = InodeT(inode)
        entry.st_mode = ModeT(stat.S_IFDIR | 0o700 if inode == ROOT else stat.S_IFREG | 0o600)
        entry.st_nlink = 1
        entry.st_size = 0 if inode == ROOT else len(self._data[inode - ROOT - 1])
        entry.entry_timeout = entry.attr_timeout = 1.0
        return entry

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(inode)

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        return self._attributes(inode)

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        number = self._names.get(name)
        if number is None:
            raise FUSEError(errno.ENOENT)
        return self._attributes(ROOT + 1 + number)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        pass

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        handle = len(self._listings)
        self._listings[handle] = list(self._names.items())
        return FileHandleT(handle)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        listing = self._listings[fh]
        for index in range(start_id, len(listing)):
            name, number = listing[index]
            attributes = self._attributes(ROOT + 1 + number)
            if not pyfuse3.readdir_reply(token, FileNameT(name), attributes, index + 1):
                return

    async def releasedir(self, fh: FileHandleT) -> None:
        pass

    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        number = self._names[bytes(name)] = len(self._data)
        self._data.append(bytearray())
        return FileInfo(fh=FileHandleT(number)), self._attributes(ROOT + 1 + number)

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        return FileInfo(fh=FileHandleT(inode - ROOT - 1), keep_cache=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return bytes(self._data[fh][off : off + size])

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        self._data[fh][off : off + len(buf)] = buf
        return len(buf)

    async def flush(self, fh: FileHandleT) -> None:
        pass

    async def release(self, fh: FileHandleT) -> None:
        pass


def main() -> None:
    """The entry point."""
    pyfuse3.init(Minimal(int(sys.argv[2])), sys.argv[1], {"fsname=minimal"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
