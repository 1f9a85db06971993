"""How much an account takes on its disk, and whether there is room for more.

Programs are held to a quota, messages that arrive are not: the server has them only until then.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from cbfs.interface import Backend
from cbfs.tree.rules import TreeError

RESERVE = 32 << 20
"""Bytes of the disk that files are not written into: a full disk would stop receipt and sending."""

BLOCK_SIZE = 4_096


_TOLD = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True, slots=True)
class Space:
    """In blocks of BLOCK_SIZE: what an account may take in all, and what is left of it."""

    total: int
    free: int


class Quota:
    """The disk that the account in the directory ``account`` takes, and may take; ``backend`` has
    its store and its settings."""

    def __init__(self, account: Path, backend: Backend) -> None:
        self._account = account
        self._store = backend.store
        self._configuration = backend.configuration

    def space(self) -> Space:
        """What the account takes, and what its user may still use of the disk."""
        used, left = self._store.space()
        free = max(0, self._available() + left - RESERVE) // BLOCK_SIZE
        quota = self._configuration.current.quota
        if quota:
            free = min(free, max(0, quota - used) // BLOCK_SIZE)
        return Space(used // BLOCK_SIZE + free, free)

    def check(self, size: int, *, setting: bool) -> None:
        """Raises TreeError(EDQUOT) when the account may not take so many bytes more, unless they
        are a ``setting``, and TreeError(ENOSPC) when there is no room for them."""
        quota = self._configuration.current.quota
        if quota and not setting and self._store.space()[0] + size > quota:
            raise TreeError(errno.EDQUOT)
        available = self._available()
        if available < RESERVE + size and available + self._store.space()[1] < RESERVE + size:
            raise TreeError(errno.ENOSPC)

    def _available(self) -> int:
        disk = os.statvfs(self._account)
        return disk.f_bavail * disk.f_frsize


def errno_of(error: BaseException | None) -> int:
    """What a failure of the store means to a program: EDQUOT, ENOSPC or EROFS where the disk
    said so somewhere along its causes, else EIO."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _TOLD:
            return error.errno
        text = str(error)
        for number in _TOLD:
            if os.strerror(number) in text:
                return number
        error = error.__cause__
    return errno.EIO
