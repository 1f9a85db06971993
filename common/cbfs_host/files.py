"""Files and directories that a power loss leaves whole or not there at all.

A file's bytes are on the disk after fsync of the file; that it is there under its name, after fsync
of its directory; and a directory, after fsync of the one above it. All functions raise OSError.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def sync_directory(path: Path) -> None:
    """What was made, renamed or removed in it is on the disk on return."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make it (0700), and those above it, if need be; what was made is on the disk on return."""
    missing: list[Path] = []
    for each in (path, *path.parents):
        if each.exists():
            break
        missing.append(each)
    for each in reversed(missing):
        each.mkdir(mode=0o700 if each == path else 0o777, exist_ok=True)
        sync_directory(each.parent)
    path.mkdir(mode=0o700, exist_ok=True)  # raises when it is something else


@contextmanager
def written(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file to write, which is in its place, whole and on the disk, after the block. Until then,
    and after an exception, what was there before is."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put ``data`` into a file, whole or not at all, on the disk on return."""
    with written(path, mode) as file:
        file.write(data)


@contextmanager
def built(path: Path) -> Iterator[Path]:
    """A directory (0700) to put files into, which is in its place, with all of them and on the
    disk, after the block. A crash before leaves one that nobody looks at, and that the next one
    removes."""
    fresh = path.with_name(f"{path.name}.new")
    if fresh.exists():
        shutil.rmtree(fresh)
    fresh.mkdir(mode=0o700)
    yield fresh
    for each in fresh.iterdir():
        descriptor = os.open(each, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_directory(fresh)
    fresh.rename(path)
    sync_directory(path.parent)
