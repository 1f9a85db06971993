"""Opening LMDB, for the stores of all three programs, and what each of them can find wrong with it.

Other files that know lmdb are the stores themselves. Besides, what the stores of both servers have
in common: check values behind their records, against sick disks. LMDB has no checks of its own:
what a disk has changed it gives back as it is. A server must know, since it answers for what it
gives out, and since a verifier must not sign what follows from it. A check value is not against
attackers, who can make it too. The client seals its records, and looks at the pages instead.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import lmdb

from cbfs_host.complaints import StoreError, hint_of, reason_of
from cbfs_host.files import built

MAP_SIZE: Final = 1 << 40
MAP_SIZE_LEAST: Final = 1 << 30
"""Bytes of address space, not of disk: the file grows as it is filled. Where there is not so much
(ulimit -v), a sixteenth of it is tried, down to the least."""

LOCK_SIZE: Final = 8_192
"""Bytes of LMDB's lock file, with room for its 126 readers."""

CHECK_SIZE: Final = 4

DATA: Final = "data.mdb"


# Opening


def build_environment(path: Path, tables: int, begin: Callable[[Any], object]) -> None:
    """Make an environment of up to ``tables`` tables, whole or not at all: ``begin`` puts into it
    what a new one has. LMDB makes an empty file long before the first commit fills it, so it is
    made beside its place. Raises lmdb.Error, OSError, and what ``begin`` raises."""
    with built(path) as fresh:
        env = open_environment(fresh, tables)
        try:
            begin(env)
        finally:
            env.close()


def open_environment(path: Path, tables: int, *, read_only: bool = False) -> Any:
    """The environment in a directory. Its lock file has its room on the disk. Read only, it may be
    opened beside the process that writes, and needs no right to write. Raises lmdb.Error or
    OSError."""
    if not read_only:
        _allocate_lock(path / "lock.mdb")
    lock = not read_only or os.access(path, os.W_OK)
    return _opened(path, max_dbs=tables, readonly=read_only, lock=lock)


def open_file(path: Path, tables: int) -> Any:
    """The environment in a file that nobody else has open. Raises lmdb.Error or OSError."""
    return _opened(path, max_dbs=tables, subdir=False, lock=False)


def _opened(path: Path, **options: Any) -> Any:
    size = MAP_SIZE
    while True:
        try:
            return lmdb.open(os.fsencode(path), map_size=size, mode=0o600, **options)
        except lmdb.MemoryError:
            if size <= MAP_SIZE_LEAST:
                raise
            size //= 16


def open_checked(path: Path, tables: int, damaged: str) -> Any:
    """The environment of a store whose records have check values; what is missing at the end of
    its file is then found out as damage. Raises StoreError with the hint ``damaged`` for a file
    that is empty or missing, where LMDB would begin anew; else lmdb.Error or OSError."""
    file = path / DATA
    if not file.exists() or not file.stat().st_size:
        raise StoreError(f"{file} is {'empty' if file.exists() else 'missing'}", damaged)
    env = open_environment(path, tables)
    _lengthen(env, file)
    return env


def _allocate_lock(path: Path) -> None:
    """LMDB writes into a map of this file: without room on the disk that would end the process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, max(LOCK_SIZE, os.fstat(descriptor).st_size))
    finally:
        os.close(descriptor)


def _lengthen(env: Any, file: Path) -> None:
    """A file that was cut short would end the process at the first look behind its end: what is
    missing is made zeros."""
    size = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if file.stat().st_size < size:
        os.truncate(file, size)


def unopened(path: Path, error: Exception, damaged: str) -> StoreError:
    """What to raise when opening has failed by ``error``; ``damaged``: the hint if nothing better
    is known."""
    return StoreError(
        f"the store in {path} cannot be opened: {reason_of(error)}", hint_of(error, damaged)
    )


# Records with check values


def with_check(table: bytes, key: bytes, value: bytes) -> bytes:
    """The value and a CRC-32 (4 bytes) of table, key and value."""
    return value + _check(table, key, value)


def checked(start: int, key: bytes, value: bytes) -> bytes:
    """As ``with_check``; ``start`` is the table's, see ``check_of_start``."""
    return value + crc32(value, crc32(key, start)).to_bytes(CHECK_SIZE, "big")


def without_check(table: bytes, key: bytes, data: bytes, damaged: str) -> bytes:
    """The value of a record as ``with_check`` has made it. Raises StoreError with the hint
    ``damaged`` when it is not what was written there."""
    value = data[:-CHECK_SIZE]
    if len(data) < CHECK_SIZE or data[-CHECK_SIZE:] != _check(table, key, value):
        raise StoreError("a record of the store is damaged", damaged)
    return value


def check_of_start(table: bytes, start: bytes = b"") -> int:
    """What ``holds`` takes for all records of the table whose keys begin so."""
    return crc32(start, crc32(table))


def holds(start: int, rest: bytes, data: bytes) -> bool:
    """Whether a record, with the ``rest`` of its key, is what was written there: as
    ``without_check``, for many in a row. It has no value to speak of, but for its last bytes."""
    return data[-CHECK_SIZE:] == crc32(data[:-CHECK_SIZE], crc32(rest, start)).to_bytes(
        CHECK_SIZE, "big"
    )


def _check(table: bytes, key: bytes, value: bytes) -> bytes:
    return crc32(value, crc32(key, crc32(table))).to_bytes(CHECK_SIZE, "big")
