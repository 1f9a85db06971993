"""Stores of the client for tests."""

from pathlib import Path

from cbfs.account.account import SYSTEM_RANDOM, no_lock
from cbfs.storage.root_key import NO_LOCK, Protection, RootFile, make_root_file
from cbfs.storage.store import Store


def open_store(place: Path, *, read_only: bool = False) -> Store:
    """The store in an account directory, made when it is not there, without a lock."""
    path = place / "root.key"
    if not path.exists():
        make_root_file(path, Protection(), NO_LOCK, SYSTEM_RANDOM.token)
    root_file = RootFile(path, no_lock, SYSTEM_RANDOM.token, read_only=read_only)
    return Store(place / "store", root_file, SYSTEM_RANDOM, read_only=read_only)
