"""Files that are disks: a small FUSE file system that journals what it is asked to write and flush.

As a program: ``python -m tests.power.disk JOURNAL BASE MOUNTPOINT COUNT``. The files are named by
number, and begin as copies of BASE. Nothing but a loop device may use them, and never this process.
"""

import errno
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

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
    RequestContext,
    SetattrFields,
)

from tests.power.images import JournalFile

ROOT = pyfuse3.ROOT_INODE


class Disks(pyfuse3.Operations):
    """Inode ``ROOT + 1 + n`` is the n-th disk."""

    enable_writeback_cache = False

    def __init__(self, journal: JournalFile, base: bytes, count: int) -> None:
        super().__init__()
        self._journal = journal
        self._data = [bytearray(base) for _ in range(count)]

    def _attributes(self, inode: int) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino = InodeT(inode)
        entry.st_mode = ModeT(stat.S_IFDIR | 0o700 if inode == ROOT else stat.S_IFREG | 0o600)
        entry.st_nlink = 1
        entry.st_size = 0 if inode == ROOT else len(self._data[inode - ROOT - 1])
        entry.entry_timeout = entry.attr_timeout = 1_000.0
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
        if not name.isdigit() or int(name) >= len(self._data):
            raise FUSEError(errno.ENOENT)
        return self._attributes(ROOT + 1 + int(name))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        pass

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        return FileInfo(fh=FileHandleT(inode - ROOT - 1), direct_io=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return bytes(self._data[fh][off : off + size])

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        if off + len(buf) > len(self._data[fh]):
            raise FUSEError(errno.ENOSPC)
        self._data[fh][off : off + len(buf)] = buf
        self._journal.write(fh, off, bytes(buf))
        return len(buf)

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        self._journal.flush(fh)

    async def flush(self, fh: FileHandleT) -> None:
        pass

    async def release(self, fh: FileHandleT) -> None:
        pass


def serve(journal: Path, base: Path, mountpoint: Path, count: int) -> None:
    """Until it is unmounted."""
    with JournalFile(journal) as file:
        disks = Disks(file, base.read_bytes(), count)
        pyfuse3.init(disks, str(mountpoint), {"fsname=cbfs-test-disks"})
        try:
            trio.run(pyfuse3.main)
        finally:
            pyfuse3.close(unmount=False)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
