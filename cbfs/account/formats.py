"""Formats of an account's store, and how one of an earlier format is brought to the newest.

The newest is ``FORMAT`` of ``cbfs.storage.root_key``, where the root file says which one a store
has. ``UPGRADES`` has a function for each earlier one that is known. Who opens an account to work
with it upgrades it:

1. a copy of the account as it is, root file and store, is made: ``before/``, there whole or not
   at all, itself an account directory;
2. all upgrades are made in one transaction of the store, whose new root says the new format;
3. the store is closed and opened again, as one of the newest format;
4. the key of the copy is overwritten, and the copy removed.

A crash or a full disk leaves the old store up to the end of 2, and the new one from there on; the
next opening goes on. What an upgrade raises leaves the old store, without a copy. Where only 3
fails the copy stays, for the cbfs of before.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cbfs.account.place import BEFORE, BEFORE_NEW
from cbfs.storage import root_key
from cbfs.storage.store import Store, Writer
from cbfs_common.errors import CbfsError
from cbfs_host.complaints import hint_of
from cbfs_host.files import built, sync_directory
from cbfs_host.lmdb_environment import DATA

Upgrade = Callable[[Writer], None]

UPGRADES: Final[Mapping[int, Upgrade]] = {}
"""By the format before: what brings the records of a store to the next one. It decodes and encodes
by itself, as the records of now are others later, and touches nothing but its Writer."""

Open = Callable[[Callable[[Writer, int], None] | None], Store]
"""Opens the store of an account, and upgrades it by a function if there is one."""


def upgrade(writer: Writer, found: int) -> None:
    """Bring the records of a store of the format ``found`` to the newest, in this transaction.
    Raises what the upgrades raise."""
    for number in range(found, root_key.FORMAT):
        UPGRADES[number](writer)


def open_upgraded(directory: Path, open_store: Open) -> Store:
    """The store of a locked account directory, of the newest format. Raises CbfsError."""
    root, copy = directory / "root.key", directory / BEFORE
    try:
        numbers = root_key.format_numbers(root.read_bytes())
        earlier = {n for n in numbers if root_key.OLDEST <= n < root_key.FORMAT}
        if earlier and max(numbers) <= root_key.FORMAT:
            if earlier == numbers or not copy.exists():
                forget(copy)
                _copy(directory, copy)
            _open_to_upgrade(root, copy, open_store)
        store = open_store(None)
    except OSError as error:
        raise CbfsError(
            f"cannot upgrade the account in {directory}: {(error.strerror or '').lower()}",
            hint_of(error, "it is as it was; make room for another copy of it, and try again"),
        ) from error
    try:
        for leftover in copy, directory / BEFORE_NEW:
            forget(leftover)
    except OSError as error:
        store.close()
        raise CbfsError(
            f"cannot remove {copy}: {(error.strerror or '').lower()}",
            hint_of(error, "remove it: the account does not need it any more"),
        ) from error
    return store


def _open_to_upgrade(root: Path, copy: Path, open_store: Open) -> None:
    try:
        open_store(upgrade).close()
    except BaseException:
        if root_key.FORMAT not in root_key.format_numbers(root.read_bytes()):
            forget(copy)  # nothing was changed
        raise


def _copy(directory: Path, copy: Path) -> None:
    """Copy root file and store. Raises OSError, and leaves nothing then."""
    fresh = directory / BEFORE_NEW
    forget(fresh)
    try:
        with built(copy) as place:
            (place / "store").mkdir(mode=0o700)
            for name in (f"store/{DATA}", "root.key"):
                shutil.copyfile(directory / name, place / name)
                (place / name).chmod(0o600)
                descriptor = os.open(place / name, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
    except OSError:
        forget(fresh)
        raise


def forget(copy: Path) -> None:
    """Overwrite the key of a copy, and remove it. Raises OSError."""
    if not copy.exists():
        return
    erase(copy / "root.key")
    shutil.rmtree(copy)
    sync_directory(copy.parent)


def erase(root: Path) -> None:
    """Overwrite a root file, if it is there. Raises OSError."""
    if root.exists():
        with root.open("r+b") as file:
            file.write(bytes(root.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
