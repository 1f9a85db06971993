"""What a mount on another machine has read of its hub: sealed, under a key that nobody keeps.

The file has no name, and is gone when the mount ends, however that ends. What is longest unused
makes room.
"""

import os
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Final

from cbfs.storage.encoding import u64
from cbfs_common.errors import CryptoError
from cbfs_common.primitives import KEY_SIZE, NONCE_SIZE, Random, open_sealed, seal

BLOCK: Final = 16 * 1024
"""Bytes of a file that are kept, and forgotten, together."""

CACHE_MAX: Final = 512 * 1024 * 1024
"""Bytes of content that are kept."""

_SLOT = BLOCK + 64


class SealedCache:
    """Blocks of files by (file, index); ``file`` is a number that nothing else has or had."""

    def __init__(self, place: Path, random: Random, most: int = CACHE_MAX) -> None:
        """In a file without a name in the directory ``place``. Raises OSError."""
        self._file = _nameless(place)
        self._key = random.token(KEY_SIZE)
        self._count = 0  # of what was sealed: each nonce seals once
        self._most = max(1, most // BLOCK)
        self._slots: OrderedDict[tuple[int, int], tuple[int, int, bytes]] = OrderedDict()
        self._free: list[int] = []
        self._of_file: dict[int, set[int]] = {}

    def put(self, file: int, index: int, data: bytes) -> None:
        """Keep a block, unless the disk does not take it."""
        self._drop(file, index)
        if self._free:
            slot = self._free.pop()
        elif len(self._slots) < self._most:
            slot = len(self._slots)
        else:
            (old, at), _ = next(iter(self._slots.items()))
            self._drop(old, at)
            slot = self._free.pop()
        self._count += 1
        nonce = self._count.to_bytes(NONCE_SIZE, "big")
        sealed = seal(self._key, nonce, data, u64(file) + u64(index))
        try:
            written = os.pwrite(self._file, sealed, slot * _SLOT)
        except OSError:
            written = -1
        if written != len(sealed):
            self._free.append(slot)
            return
        self._slots[file, index] = slot, len(sealed), nonce
        self._of_file.setdefault(file, set()).add(index)

    def get(self, file: int, index: int) -> bytes | None:
        """A block, if it is kept."""
        found = self._slots.get((file, index))
        if found is None:
            return None
        self._slots.move_to_end((file, index))
        slot, size, nonce = found
        try:
            sealed = os.pread(self._file, size, slot * _SLOT)
            return open_sealed(self._key, nonce, sealed, u64(file) + u64(index))
        except (OSError, CryptoError):
            self._drop(file, index)
            return None

    def has(self, file: int, index: int) -> bool:
        """Whether a block is kept."""
        return (file, index) in self._slots

    def forget(self, file: int) -> None:
        """Keep nothing of a file."""
        for index in list(self._of_file.get(file, ())):
            self._drop(file, index)

    def close(self) -> None:
        """Nothing is kept any more, and nobody can read what was."""
        self._key = b""
        self._slots.clear()
        os.close(self._file)

    def _drop(self, file: int, index: int) -> None:
        found = self._slots.pop((file, index), None)
        if found is None:
            return
        self._free.append(found[0])
        indices = self._of_file[file]
        indices.discard(index)
        if not indices:
            del self._of_file[file]


def _nameless(place: Path) -> int:
    try:
        return os.open(place, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # not every file system has such
        descriptor, name = tempfile.mkstemp(dir=place)
        os.unlink(name)  # noqa: PTH108 - a name
        return descriptor
