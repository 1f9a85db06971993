"""A store that was put back from a backup is told from the one that it replaces."""

import shutil
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.claim import Marker
from cbfs.receiving.copies import notice_copy
from cbfs.storage.store import Table
from cbfs_common.errors import DecodeError
from cbfs_host.file_identity import FileIdentity, decode_identity, identity_of
from tests.support.stores import open_store

RESTORES = 40
MARKER = Marker(b"t" * 32, SYSTEM_RANDOM)


def notices(place: Path) -> tuple[bool, int]:
    """Whether a start in that account directory takes the store for a copy, and how many sessions
    it has then."""
    store = open_store(place)
    try:
        copied = notice_copy(store, place, MARKER, 1_000)
        with store.read() as reader:
            return copied, reader.count(Table.SESSIONS)
    finally:
        store.close()


def test_every_restored_backup_is_noticed(tmp_path: Path) -> None:
    """An inode that was freed a moment ago is what the file system gives next."""
    place, backup = tmp_path / "account", tmp_path / "backup"
    place.mkdir()
    store = open_store(place)
    notice_copy(store, place, MARKER, 1_000)
    store.write(lambda writer: writer.put(Table.SESSIONS, b"s" * 16, b"keys"))
    store.close()
    assert notices(place) == (False, 1)
    shutil.copytree(place, backup)
    found = []
    for _ in range(RESTORES):
        shutil.rmtree(place)
        shutil.copytree(backup, place)
        found.append(notices(place))
        assert notices(place) == (False, 0)
    assert found == [(True, 0)] * RESTORES


def test_a_move_is_no_copy(tmp_path: Path) -> None:
    place = tmp_path / "account"
    place.mkdir()
    store = open_store(place)
    notice_copy(store, place, MARKER, 1_000)
    store.close()
    place.rename(tmp_path / "elsewhere")
    assert notices(tmp_path / "elsewhere") == (False, 0)


def test_the_identity_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    found = identity_of(file)
    file.write_bytes(b"two")
    file.chmod(0o600)
    assert identity_of(file) == found == decode_identity(found.encode())
    assert found.inode == file.stat().st_ino
    for data in (b"", bytes(23), bytes(25)):
        with pytest.raises(DecodeError):
            decode_identity(data)
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(OSError, match="symbolic"):
        identity_of(tmp_path / "link")


def test_what_a_file_system_does_not_tell_says_nothing() -> None:
    """A kernel that begins to tell it makes no copy of the file."""
    whole = FileIdentity(1, 2, 3)
    for known in (FileIdentity(1, 0, 3), FileIdentity(1, 2, 0), FileIdentity(1, 0, 0)):
        assert known.may_be(whole)
        assert whole.may_be(known)
    for other in (FileIdentity(4, 2, 3), FileIdentity(1, 4, 3), FileIdentity(1, 2, 4)):
        assert not other.may_be(whole)
