"""How an account of format 2 becomes one of the newest format: in a store of its own.

1. ``after/`` is made: root file and store as they are to be, there whole or not at all, opened
   once, itself an account directory;
2. ``before/`` is made, with the root file as it is, and the old store's file is moved into it;
3. the new store's file is moved to its place, and then the new root file to the old one's;
4. ``after/`` is removed. ``cbfs.account.formats`` opens the account, and removes ``before/``.

A crash or a full disk before the end of 2 leaves the old account as it was, with which the cbfs of
before may go on: the next opening begins with 1. After it the next opening goes on with 3, and
``before/`` is an account directory for the cbfs of before.
"""

import shutil
from pathlib import Path

from cbfs.account.formats import erase, forget, upgrade
from cbfs.account.place import AFTER, AFTER_NEW, BEFORE, BEFORE_NEW
from cbfs.earlier import bringing
from cbfs.earlier.old_store import OldStore
from cbfs.storage import root_key
from cbfs.storage.root_key import RootFile, Unlock, make_root_file
from cbfs.storage.store import Store
from cbfs_common.errors import CbfsError
from cbfs_common.primitives import Random
from cbfs_host.complaints import hint_of
from cbfs_host.files import built, sync_directory, write_file
from cbfs_host.lmdb_environment import DATA


def bring_over(directory: Path, unlock: Unlock, random: Random) -> None:
    """Make a locked account directory of format 2 one of the newest; nothing is to be done for any
    other, but what a crash has left. Raises CbfsError."""
    after, before = directory / AFTER, directory / BEFORE
    try:
        begun = after.exists() and (before / "store" / DATA).exists()
        if not begun:
            forget(after)  # its key opens all that the account has
            forget(directory / AFTER_NEW)
            numbers = root_key.format_numbers((directory / "root.key").read_bytes())
            if numbers != {root_key.BROUGHT_OVER}:
                return
            _build(directory, unlock, random)
            for leftover in before, directory / BEFORE_NEW:
                forget(leftover)
            with built(before) as place:
                write_file(place / "root.key", (directory / "root.key").read_bytes())
                (place / "store").mkdir(mode=0o700)
        _move(directory)
    except OSError as error:
        raise CbfsError(
            f"cannot upgrade the account in {directory}: {(error.strerror or '').lower()}",
            hint_of(error, "nothing of it is lost; make room for another copy, and try again"),
        ) from error


def _build(directory: Path, unlock: Unlock, random: Random) -> None:
    """Make ``after/``. Raises OSError and CbfsError, and leaves nothing then."""
    old = OldStore(directory, unlock)
    try:
        with built(directory / AFTER) as place:
            make_root_file(place / "root.key", old.protection, old.lock, random.token)
            store = _opened(place, old.lock, random)
            try:
                bringing.bring_over(
                    store, old.records(), random, lambda writer: upgrade(writer, bringing.FORMAT)
                )
            finally:
                store.close()
            _opened(place, old.lock, random).close()
            (place / "store" / "lock.mdb").unlink()
    except BaseException:
        forget(directory / AFTER_NEW)
        raise
    finally:
        old.close()


def _opened(place: Path, lock: bytes, random: Random) -> Store:
    root_file = RootFile(place / "root.key", lambda _protection: lock, random.token)
    try:
        return Store(place / "store", root_file, random)
    except BaseException:
        root_file.close()
        raise


def _move(directory: Path) -> None:
    """What is in ``after/`` takes its place, and the old store its own in ``before/``; as far as
    that is not done. Raises OSError."""
    store, after, before = directory / "store", directory / AFTER, directory / BEFORE
    if not (before / "store" / DATA).exists():
        (store / DATA).rename(before / "store" / DATA)
        sync_directory(before / "store")
        sync_directory(store)
    if (after / "store" / DATA).exists():
        (after / "store" / DATA).rename(store / DATA)
        sync_directory(store)
    if (after / "root.key").exists():
        erase(directory / "root.key")  # before/ has it until the new one has been opened
        (after / "root.key").rename(directory / "root.key")
        sync_directory(directory)
    shutil.rmtree(after)
    sync_directory(directory)
