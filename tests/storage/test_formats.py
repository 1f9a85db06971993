"""Accounts and exports of an earlier format, which are upgraded, and of a later one, which are
refused: with a next format that there is not yet, whose upgrade writes each peer's record anew."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cbfs.account import formats
from cbfs.account.account import SYSTEM_RANDOM, opened_store, reading_store, salvaging
from cbfs.account.passphrase import Guard, by_passphrase, unlocking
from cbfs.commands import export
from cbfs.commands.export import NotAnExport, restore_export, write_export
from cbfs.storage import root_key
from cbfs.storage.root_key import FORMAT, RootError, RootFile, magic
from cbfs.storage.store import CannotWrite, Meta, Store, Table, Writer
from cbfs_common.errors import CbfsError
from cbfs_host import files
from tests.support.disk import small_disk
from tests.support.killing import Kill, KillingEnv, every_point

NEXT = FORMAT + 1
RECORDS = {b"%d" % number: b"value" for number in range(20)}
UPGRADED = {key: value + b", upgraded" for key, value in RECORDS.items()}


def written_anew(writer: Writer) -> None:
    for key, value in list(writer.items(Table.PEERS)):
        writer.put(Table.PEERS, key, value + b", upgraded")


@contextmanager
def next_cbfs(change: Callable[[Writer], None] = written_anew) -> Iterator[None]:
    """That of the format after this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(root_key, "FORMAT", NEXT)
        patch.setattr(formats, "UPGRADES", {FORMAT: change})
        patch.setattr(export, "FORMAT", NEXT)
        patch.setattr(export, "MAGIC", export.magic(NEXT))
        patch.setattr(export, "STORE_FORMATS", {**export.STORE_FORMATS, NEXT: NEXT})
        yield


def fill(writer: Writer) -> None:
    for key, value in RECORDS.items():
        writer.put(Table.PEERS, key, value)
    for key in Meta.ACCOUNT, Meta.OWN:
        writer.put(Table.META, key, b"not looked into")


def make(account: Path) -> Path:
    """An account directory of the format of now."""
    with opened_store(account, SYSTEM_RANDOM, create=Guard) as store:
        store.write(fill)
    return account


def peers(store: Store) -> dict[bytes, bytes]:
    with store.read() as reader:
        return dict(reader.items(Table.PEERS))


def opened(account: Path) -> dict[bytes, bytes]:
    with opened_store(account, SYSTEM_RANDOM) as store:
        return peers(store)


def numbers(account: Path) -> set[int]:
    return root_key.format_numbers((account / "root.key").read_bytes())


def leftovers(account: Path) -> list[str]:
    return [path.name for path in account.glob("before*")]


def test_every_format_since_the_oldest_has_its_upgrade() -> None:
    assert set(formats.UPGRADES) == set(range(root_key.OLDEST, root_key.FORMAT))
    assert export.STORE_FORMATS[export.FORMAT] == root_key.FORMAT
    assert min(export.STORE_FORMATS.values()) == root_key.OLDEST
    assert len(magic(9)) == len(magic(10)) == len(export.magic(7)) == len(export.magic(10)) == 16


def test_an_account_of_before_is_upgraded_once(tmp_path: Path) -> None:
    account = make(tmp_path / "account")
    with next_cbfs():
        assert opened(account) == UPGRADED
        assert numbers(account) == {NEXT}
        assert opened(account) == UPGRADED
    assert leftovers(account) == []


def test_of_several_formats_each_has_its_turn(tmp_path: Path) -> None:
    account = make(tmp_path / "account")

    def second(writer: Writer) -> None:
        assert dict(writer.items(Table.PEERS)) == UPGRADED
        writer.put(Table.PEERS, b"0", b"second")

    with next_cbfs(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(root_key, "FORMAT", NEXT + 1)
        patch.setattr(formats, "UPGRADES", {FORMAT: written_anew, NEXT: second})
        assert opened(account) == {**UPGRADED, b"0": b"second"}


def test_a_passphrase_is_asked_for_once(tmp_path: Path) -> None:
    account, asked = tmp_path / "account", 0
    guard = by_passphrase(b"secret", SYSTEM_RANDOM)
    with opened_store(account, SYSTEM_RANDOM, create=lambda: guard) as store:
        store.write(fill)

    def passphrase() -> bytes:
        nonlocal asked
        asked += 1
        return b"secret"

    with next_cbfs(), opened_store(account, SYSTEM_RANDOM, unlocking(passphrase)) as store:
        assert peers(store) == UPGRADED
    assert asked == 1


def test_a_wrong_passphrase_changes_nothing(tmp_path: Path) -> None:
    account, guard = tmp_path / "account", by_passphrase(b"secret", SYSTEM_RANDOM)
    with opened_store(account, SYSTEM_RANDOM, create=lambda: guard) as store:
        store.write(fill)
    with (
        next_cbfs(),
        pytest.raises(RootError),
        opened_store(account, SYSTEM_RANDOM, lambda _protection: bytes(32)),
    ):
        pass
    assert (numbers(account), leftovers(account)) == ({FORMAT}, [])
    with opened_store(account, SYSTEM_RANDOM, lambda _protection: guard.lock) as store:
        assert peers(store) == RECORDS


def test_an_account_of_before_is_not_read_as_if_it_was_of_now(tmp_path: Path) -> None:
    account = make(tmp_path / "account")
    with next_cbfs():
        with pytest.raises(RootError) as caught, reading_store(account, SYSTEM_RANDOM):
            pass
        assert f"format {FORMAT}" in str(caught.value)
        assert "mount" in caught.value.hint
        with pytest.raises(RootError), salvaging(account, SYSTEM_RANDOM):
            pass


def test_a_later_account_is_refused_in_words_and_left_alone(tmp_path: Path) -> None:
    account = make(tmp_path / "account")
    with next_cbfs():
        opened(account)
    before = {path: path.read_bytes() for path in account.rglob("*") if path.is_file()}
    opening: list[Callable[[], Any]] = [
        lambda: opened_store(account, SYSTEM_RANDOM),
        lambda: reading_store(account, SYSTEM_RANDOM),
        lambda: salvaging(account, SYSTEM_RANDOM),
    ]
    for each in opening:
        with pytest.raises(RootError) as caught, each():
            pass
        assert f"format {NEXT}, and this one knows those up to {FORMAT}" in str(caught.value)
        assert "newer" in caught.value.hint
    after = {path: path.read_bytes() for path in account.rglob("*") if path.is_file()}
    before.pop(account / "lock")
    after.pop(account / "lock")
    assert after == before


def test_an_upgrade_that_fails_leaves_the_account_as_it_was(tmp_path: Path) -> None:
    account = make(tmp_path / "account")

    def fails(writer: Writer) -> None:
        written_anew(writer)
        raise CbfsError("a record of the store is damaged", "restore an export")

    with next_cbfs(fails), pytest.raises(CbfsError, match="damaged"):
        opened(account)
    assert (numbers(account), leftovers(account)) == ({FORMAT}, [])
    assert opened(account) == RECORDS


def test_the_account_of_before_is_kept_until_the_new_one_was_opened(tmp_path: Path) -> None:
    """And is one that the cbfs of before opens."""
    account = make(tmp_path / "account")

    def no_longer(self: RootFile, generation: int) -> bytes:
        if self._oldest == FORMAT:  # to upgrade it
            return opening(self, generation)
        raise RootError("no longer")

    opening = RootFile.open
    with next_cbfs(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(RootFile, "open", no_longer)
        with pytest.raises(RootError, match="no longer"):
            opened(account)
    assert leftovers(account) == ["before"]
    assert opened(shutil.copytree(account / "before", tmp_path / "again")) == RECORDS
    with next_cbfs():
        assert opened(account) == UPGRADED
    assert leftovers(account) == []


def test_the_key_of_the_copy_is_overwritten(tmp_path: Path) -> None:
    account, seen = make(tmp_path / "account"), []
    removing = shutil.rmtree

    def seen_first(path: Path) -> None:
        seen.append(Path(path, "root.key").read_bytes())
        removing(path)

    with next_cbfs(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", seen_first)
        assert opened(account) == UPGRADED
    assert seen == [bytes(len(seen[0]))]


def upgraded_and_killed(place: Path, number: int) -> int:
    """Upgrade an account, with a point before and after each thing that reaches the disk."""
    kill = Kill(number)
    account = make(place / "account")
    for module, names in (
        (os, ("fsync", "fdatasync", "pwrite")),
        (shutil, ("copyfile", "rmtree")),
        (files, ("sync_directory",)),
        (formats, ("sync_directory",)),
    ):
        for name in names:
            vars(module)[name] = kill.around(vars(module)[name])
    Path.rename = kill.around(Path.rename)  # type: ignore[method-assign]
    store = vars(__import__("cbfs.storage.store", fromlist=["store"]))
    opening = store["open_environment"]
    store["open_environment"] = lambda *where, **how: KillingEnv(opening(*where, **how), kill)
    with next_cbfs():
        assert opened(account) == UPGRADED
    return 0


def test_a_kill_while_an_account_is_upgraded_leaves_the_old_or_the_new(memory: Path) -> None:
    """An upgrade that is made twice, or in part, is found by what it puts behind each record."""
    seen = []
    for place in every_point(upgraded_and_killed, memory):
        account = place / "account"
        found = numbers(account)
        copy = shutil.copytree(account, place / "copy")
        if found == {FORMAT}:
            assert opened(copy) == RECORDS, "the cbfs of before goes on with it"
        with next_cbfs():
            assert opened(account) == UPGRADED
            assert opened(account) == UPGRADED
        assert (numbers(account), leftovers(account)) == ({NEXT}, [])
        seen.append(found)
    assert [each for each, _ in itertools.groupby(seen)] == [{FORMAT}, {FORMAT, NEXT}, {NEXT}]


def test_a_full_disk_leaves_the_account_as_it_was(tmp_path: Path) -> None:
    """However much room there is: too little for the copy, or for what the upgrade writes."""
    fine = make(tmp_path / "account")

    def put_large(writer: Writer) -> None:
        for number in range(50):
            writer.put(Table.CONTENT, b"%d" % number, bytes(30_000))

    def upgrade(writer: Writer) -> None:
        written_anew(writer)
        put_large(writer)

    with opened_store(fine, SYSTEM_RANDOM) as store:
        store.write(put_large)

    size = sum(path.stat().st_size for path in fine.rglob("*") if path.is_file())
    refused = []
    for room in range(size + 40_960, 2 * size + 8_000_000, 400_000):
        with small_disk(tmp_path / "disk", room) as disk:
            account = shutil.copytree(fine, disk / "account")
            with next_cbfs(upgrade):
                try:
                    assert opened(account).keys() == UPGRADED.keys()
                    assert leftovers(account) == []
                    break
                except CbfsError as error:
                    refused.append(type(error))
                    assert "room" in error.hint or "full" in error.hint
            assert leftovers(account) == []
            assert opened(account) == RECORDS
    else:
        raise AssertionError("there was never enough room")
    assert {CbfsError, CannotWrite} <= set(refused)


def test_an_export_of_before_is_upgraded_as_it_is_restored(tmp_path: Path) -> None:
    account, file = make(tmp_path / "account"), tmp_path / "export"
    with opened_store(account, SYSTEM_RANDOM) as store:
        write_export(store, file, b"secret", SYSTEM_RANDOM)
    with next_cbfs(), opened_store(tmp_path / "new", SYSTEM_RANDOM, create=Guard) as store:
        restore_export(store, file, b"secret")
        assert peers(store) == UPGRADED


def test_a_later_export_is_refused_in_words_and_nothing_is_restored(tmp_path: Path) -> None:
    account, file = make(tmp_path / "account"), tmp_path / "export"
    with next_cbfs(), opened_store(account, SYSTEM_RANDOM) as store:
        write_export(store, file, b"secret", SYSTEM_RANDOM)
    with opened_store(tmp_path / "new", SYSTEM_RANDOM, create=Guard) as store:
        with pytest.raises(NotAnExport) as caught:
            restore_export(store, file, b"secret")
        assert f"format {NEXT}" in str(caught.value)
        assert "newer" in caught.value.hint
        assert peers(store) == {}


def test_a_root_file_that_is_read_while_it_is_written_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel copies one page after the other, and the slot that counts goes from one to the
    other meanwhile."""
    path = tmp_path / "root.key"
    root_key.make_root_file(path, root_key.Protection(), root_key.NO_LOCK, SYSTEM_RANDOM.token)
    file = RootFile(path, lambda _protection: root_key.NO_LOCK, SYSTEM_RANDOM.token, read_only=True)
    whole, looks = path.read_bytes(), iter([bytes(2 * root_key.BLOCK)] * 3)
    monkeypatch.setattr(os, "pread", lambda *_where: next(looks, whole))
    assert file.holds(0)
    monkeypatch.setattr(os, "pread", lambda *_where: bytes(2 * root_key.BLOCK))
    with pytest.raises(RootError, match="is damaged"):
        file.holds(0)
    monkeypatch.undo()
    file.close()
