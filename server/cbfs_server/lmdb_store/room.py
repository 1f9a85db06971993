"""How much more the store may take in. What the committer asks before each transaction.

Pages of LMDB that are free are room like those that are not there yet: what was deleted is written
over. A reserve is kept beside all that is taken in: bytes behind the store's last page, which are
allocated on the disk ahead of their use, or as many free pages. So deleting and expiry, which write
new pages before old ones become free, work on a disk that others have filled to the last byte
(where the file system overwrites in place: btrfs and ZFS promise nothing of the kind).
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from cbfs_host.lmdb_environment import DATA
from cbfs_host.settings import Current
from cbfs_server.limits import NEWCOMERS_SHARE, RESERVE, RESERVE_STEP, ROOM_TIME, Limits
from cbfs_server.store.room import Room


def find_room(used: int, end: int, growth: int, most: int | None) -> Room:
    """The room in a file of which ``used`` bytes are in use and ``end - used`` free, and which may
    grow by ``growth``; at most ``most`` are to be in use, the reserve included."""
    beyond = end - used + growth
    if most is not None:
        beyond = min(beyond, most - used)
    left = max(0, beyond - RESERVE)
    return Room(left, used + left)


class Disk:
    """The file of an environment in ``path`` and the disk under it. Raises OSError."""

    def __init__(self, path: Path, env: Any, limits: Current[Limits]) -> None:
        self._env = env
        self._limits = limits
        self._page = int(env.stat()["psize"])
        self._map = int(env.info()["map_size"])
        self._allocated = 0
        self._room = Room(0, 0)
        self._until, self._least = 0.0, 0
        self._file = os.open(path / DATA, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def room(self, pages: Callable[[], int], pinned: bool = False) -> Room:
        """The room beside so many ``pages`` in use; the reserve is allocated if the disk has it.
        ``pinned``: somebody reads who keeps pages that become free from being written over, so that
        only what the disk has counts. Where there is plenty, it is that of the last look less what
        was taken in since, for ROOM_TIME and a small part of the reserve."""
        now = monotonic()
        if pinned or now >= self._until or self._room.left <= self._least:
            room = self._room = self._look(pages(), pinned)
            self._until = 0.0 if pinned else now + ROOM_TIME
            self._least = max(room.left - RESERVE // 8, room.all // NEWCOMERS_SHARE)
        return self._room

    def look_again(self) -> None:
        """What was taken in has not come to count."""
        self._until = 0.0

    def _look(self, pages: int, pinned: bool) -> Room:
        most = self._limits.now.store_max
        cap = self._map if most is None else min(most, self._map)
        end = (int(self._env.info()["last_pgno"]) + 1) * self._page
        self._allocated = max(self._allocated, end)
        for ahead in (RESERVE + RESERVE_STEP, RESERVE):
            if self._allocated >= min(end + RESERVE, cap):
                break
            self._allocate(end, min(end + ahead, cap))
        growth = self._allocated - end + max(0, self._free())
        room = find_room(pages * self._page, end, min(growth, self._map - end), most)
        if pinned:
            room.left = min(room.left, max(0, growth - RESERVE))
        return room

    def _free(self) -> int:
        """Bytes of the disk that are ours to take; below 0 when others have taken more."""
        usage = os.fstatvfs(self._file)
        return usage.f_bavail * usage.f_frsize - self._limits.now.disk_free

    def _allocate(self, end: int, target: int) -> None:
        """Have the file's bytes from ``end`` to ``target`` on the disk, if they are ours."""
        there = max(os.fstat(self._file).st_size, self._allocated)
        if target - there > self._free():
            return
        try:
            os.posix_fallocate(self._file, end, target - end)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EOPNOTSUPP, errno.EINVAL):
                raise
        else:
            self._allocated = target
