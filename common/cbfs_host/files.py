"""Files and directories that a power loss leaves whole or not there at all, and directories that
one process uses at a time.

A file's bytes are on the disk after fsync of the file; that it is there under its name, after fsync
of its directory; and a directory, after fsync of the one above it. Functions raise OSError where
they say nothing else.
"""

import errno
import fcntl
import os
import pwd
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from cbfs_host.complaints import HostError

HOPS_MAX: Final = 40
"""Symbolic links on the way to a directory."""


def sync_directory(path: Path) -> None:
    """Bring to the disk what was made, renamed or removed in a directory; it is there on return."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory (0700), and those above it, if need be; what was made is on the disk on
    return."""
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
    """A file to write, in a directory of our own, which is in its place, whole and on the disk,
    after the block. Until then, and after an exception, what was there before is. It has ``.new``
    behind its name meanwhile, and replaces what is called so."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with _written_as(fresh, path, mode) as file:
        yield file


@contextmanager
def written_beside_others(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """As ``written``, in a directory of the user's, who may have any other name: nothing else is
    touched, and nothing of it is seen or left before it is whole, whatever happens. Where the file
    system knows no files without names (vfat, NFS) it is ``.cbfs-LETTERS.part`` until then, which a
    crash leaves."""
    part = path.with_name(f".cbfs-{secrets.token_hex(8)}.part")
    descriptor = _nameless(path.parent, mode)
    if descriptor is None:
        with _written_as(part, path, mode) as file:
            yield file
        return
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
        yield file
        file.flush()
        os.fsync(file.fileno())
        try:
            _link(file.fileno(), path)
        except FileExistsError:
            _link(file.fileno(), part)
            part.replace(path)
    sync_directory(path.parent)


def _link(descriptor: int, path: Path) -> None:
    """Give a file that has no name this one."""
    above = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:  # without a descriptor, Python does not follow the link to the file
        os.link(f"/proc/self/fd/{descriptor}", path.name, dst_dir_fd=above, follow_symlinks=True)
    finally:
        os.close(above)


def _nameless(directory: Path, mode: int) -> int | None:
    """A descriptor of a file without a name, None where there are none, or it could get none."""
    if not Path("/proc/self/fd").is_dir():
        return None
    try:
        return os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}:
            return None
        raise


@contextmanager
def _written_as(fresh: Path, path: Path, mode: int) -> Iterator[BinaryIO]:
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
    """Put ``data`` into a file of a directory of our own, whole or not at all, on the disk on
    return."""
    with written(path, mode) as file:
        file.write(data)


def write_beside_others(path: Path, data: bytes, mode: int = 0o600) -> None:
    """As ``write_file``, in a directory of the user's: see ``written_beside_others``."""
    with written_beside_others(path, mode) as file:
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


# Directories that one process uses at a time


def take_lock(directory: Path) -> tuple[int, bool]:
    """(descriptor of the directory's lock file, whether the lock is ours): as long as the
    descriptor is open, nobody else's is."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(directory / "lock", flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return lock, False
    return lock, True


@contextmanager
def opened_data(path: Path, program: str) -> Iterator[Path]:
    """The data directory of a server ``program``, made (0700) if need be, and locked for the block.
    Gives where it really is. It belongs to this user, nobody else may write to it, and nobody else
    has put a link on the way there. Raises HostError."""
    try:
        place = trusted_path(path)
        make_directory(place)
        _check_own(place)
        lock, ours = take_lock(place)
    except OSError as error:
        raise HostError(
            f"{path} cannot be used: {error.strerror}",
            "give a directory that this user may write, with --data",
        ) from error
    try:
        if not ours:
            raise HostError(
                f"another {program} uses {path}", "stop it first, or give another --data"
            )
        yield place
    finally:
        os.close(lock)


def _check_own(place: Path) -> None:
    """Raises HostError when ``place`` belongs to another user or others may write to it,
    OSError."""
    held = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        found = os.fstat(held)
        if found.st_uid != os.geteuid():
            raise HostError(
                f"{place} belongs to {_name(found.st_uid)}",
                "run this program as its owner, or give another --data",
            )
        if found.st_mode & 0o022:
            if any(place.iterdir()):
                raise HostError(
                    f"others may write to {place}",
                    f"look at what is in it; then: chmod 700 {place}",
                )
            os.fchmod(held, 0o700)
    finally:
        os.close(held)


def trusted_path(path: Path) -> Path:
    """``path`` without symbolic links, none of which is somebody else's; and root goes through no
    directory of somebody else, who could put one there at any time. Raises HostError, OSError."""
    at, pending, links = Path("/"), list(reversed(Path.cwd().joinpath(path).parts[1:])), 0
    while pending:
        part = pending.pop()
        if part == "..":
            at = at.parent
            continue
        step = at / part
        try:
            found = step.lstat()
        except FileNotFoundError:
            return step.joinpath(*reversed(pending))
        linked = stat.S_ISLNK(found.st_mode)
        if not _trusted(found.st_uid) and (linked or (pending and os.geteuid() == 0)):
            what = "a symbolic link" if linked else "a directory"
            raise HostError(
                f"the way to {path} goes through {what} of {_name(found.st_uid)}: {step}",
                "run this program as its owner, or give another --data",
            )
        if not linked:
            at = step
            continue
        links += 1
        if links > HOPS_MAX:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = step.readlink()
        at = Path("/") if target.is_absolute() else at
        pending += reversed(target.parts[1:] if target.is_absolute() else target.parts)
    return at


def _trusted(owner: int) -> bool:
    """This user or root. Within a user namespace, root outside of it has the number of nobody."""
    return owner in (0, os.geteuid()) or (_in_namespace() and owner == _overflow())


def _in_namespace() -> bool:
    try:
        return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def _overflow() -> int:
    return int(Path("/proc/sys/kernel/overflowuid").read_text())


def _name(owner: int) -> str:
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"user {owner}"
