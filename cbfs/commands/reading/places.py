"""Where an archive of history goes: a new file or a new folder, which is there as a whole or not at
all, and which nobody else can read. Nothing that is there is overwritten but what is empty.
"""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cbfs.commands.mountpoints import remove_tree
from cbfs.messages.file_names import shown_file_name, split_name
from cbfs.messages.model import Message
from cbfs.tree.virtual.mail.letter import type_of
from cbfs_common.errors import CbfsError
from cbfs_host.files import sync_directory, written_beside_others

SAVED_NAME_MAX = 120
"""Bytes of the name of a saved file, without what is put before and behind it."""

_ACTIVE = frozenset(("text/html", "text/xml", "application/xml", "image/svg+xml", "text/xsl"))
"""Types of what a browser might run as a program, besides those that ``_is_active`` tells."""


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file (0600) to write, in its place and on the disk after the block; what a crash leaves is
    ``.cbfs-LETTERS.part`` at most. Raises CbfsError when there is something else at its place."""
    path = _placed(path)
    try:
        _check_free(path)
        with written_beside_others(path) as file:
            yield file
            _check_free(path)
    except OSError as error:
        raise _cannot(path, error) from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder (0700) to put files into, in its place after the block; a crash leaves
    ``.cbfs-LETTERS.part`` beside it. Raises CbfsError when there is something else at its place."""
    path = _placed(path)
    part = path.with_name(f".cbfs-{secrets.token_hex(8)}.part")
    try:
        _check_free(path)
        part.mkdir(mode=0o700)
        try:
            yield part
            sync_directory(part)
            part.rename(path)  # onto an empty folder at most
            sync_directory(path.parent)
        except BaseException:
            with suppress(CbfsError):
                remove_tree(part)
            raise
    except OSError as error:
        raise _cannot(path, error) from error


def save(path: Path, stretches: Iterable[bytes]) -> None:
    """Write a new file (0600) of a folder that is being made; on the disk on return, and not there
    after an exception. Raises OSError, and what ``stretches`` raises."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)  # what is there already is not ours to remove
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            for stretch in stretches:
                file.write(stretch)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def saved_name(message: Message, index: int, name: str) -> str:
    """What the file ``name`` of a message, of a folder the one with this ``index``, is saved as: no
    other file of the account is. Behind what a browser might run as a program there is ``.txt``,
    behind what it would have to guess ``.bin``: so it does neither."""
    before = f"{message.serial}-{index}" if message.folder else f"{message.serial}"
    last = name.rpartition("/")[2]
    shown = shown_file_name(f"{before}-{last}" if last else before)
    if len(shown.encode()) > SAVED_NAME_MAX:
        body, extension = split_name(shown)  # which is short: what is unique stays before it
        cut = body.encode()[: SAVED_NAME_MAX - len(extension.encode())]
        shown = cut.decode(errors="ignore").rstrip(" .") + extension
    kind = type_of(shown)
    if not kind:
        return f"{shown}.bin"
    return f"{shown}.txt" if _is_active(kind) else shown


def _is_active(kind: str) -> bool:
    return kind in _ACTIVE or kind.endswith("+xml") or "script" in kind


def _placed(path: Path) -> Path:
    """Without links and with all folders above it."""
    return Path(os.path.realpath(path))


def _check_free(path: Path) -> None:
    """Raises CbfsError when there is anything but an empty file or folder, OSError."""
    if not path.exists():
        return
    empty = not any(path.iterdir()) if path.is_dir() else path.is_file() and not path.stat().st_size
    if not empty:
        raise CbfsError(f"{path} is there already", "name a new one: nothing is overwritten")


def _cannot(path: Path, error: OSError) -> CbfsError:
    return CbfsError(
        f"cannot write {path}: {(error.strerror or '').lower()}",
        "is the folder above it there and yours, and has the disk room?",
    )
