"""Backups of a server's store: a file that the operator's command opens, and that the server fills,
which need not be able to open it itself."""

import argparse
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from cbfs_host.admin import Asked, Lines
from cbfs_host.admin_command import Subcommands, ask, show
from cbfs_host.complaints import HostError
from cbfs_host.files import sync_directory
from cbfs_host.store_file import mark_backup

PART: Final = ".part"
"""What a backup's name has behind it until it is whole."""


def backed_up(copy_into: Callable[[int], None], file: int) -> Lines:
    """The server's part: put a copy of its store into the file of this descriptor, which has to be
    empty. Blocks. Raises HostError, StoreError."""
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_size:
        raise HostError("a backup goes into an empty file")
    copy_into(file)
    return (("bytes", os.fstat(file).st_size),)


def back_up(place: Path, path: Path) -> Lines:
    """The command's part: have the server at ``place`` make a backup at ``path``, mode 0600, which
    is there whole or not at all, and takes the place of nothing. Raises HostError, StoreError,
    OSError."""
    if os.path.lexists(path):
        raise _in_the_way(path)
    part = path.with_name(f"{path.name}{PART}")
    part.unlink(missing_ok=True)  # of one that was cut off
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(part, flags, 0o600)
    try:
        done = ask(place, Asked("backup"), descriptor)
        mark_backup(part)
        try:
            path.hardlink_to(part)  # which replaces nothing
        except FileExistsError as error:
            raise _in_the_way(path) from error
        part.unlink()
        sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    finally:
        os.close(descriptor)
    return done


def add_copying(commands: Subcommands) -> None:
    """Add the commands that copy and check the store of a server that runs."""
    backup = commands.add_parser("backup", help="copy the store, as it is now, into a new file")
    backup.add_argument("file", metavar="FILE", type=Path, help="what must not be there yet")
    backup.set_defaults(run=lambda got: show(back_up(got.place, got.file), as_json=False))
    check = commands.add_parser("check", help="look for damage in the whole store")
    check.set_defaults(run=_check)


def add_compact(commands: Subcommands) -> None:
    """Add the command that has the store written anew."""
    parser = commands.add_parser("compact", help="give the disk back what the store does not use")
    parser.set_defaults(run=lambda got: show(ask(got.place, Asked("compact")), as_json=False))


def _check(got: argparse.Namespace) -> None:
    found = ask(got.place, Asked("check"))
    show(found, as_json=False)
    if not dict(found)["sound"]:
        raise HostError("the store is damaged", "check the disk; the manual says what to do")


def _in_the_way(path: Path) -> HostError:
    return HostError(f"{path} is there", "give another name: a backup replaces no file")
