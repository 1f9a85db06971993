"""An account of format 2 is brought over whole or not at all, whatever cuts that off; and it is not
brought over twice, nor when it is damaged."""

import errno
import itertools
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cbfs.account import brought, formats
from cbfs.account.account import SYSTEM_RANDOM, no_lock, opened_store, reading_store, salvaging
from cbfs.account.passphrase import asks_for_passphrase
from cbfs.account.settings import Configuration
from cbfs.contacts.contact import decode_contact
from cbfs.earlier.old_store import OldStore
from cbfs.receiving.lost_state import make_listings
from cbfs.storage import root_key
from cbfs.storage import store as store_module
from cbfs.storage.root_key import RootError
from cbfs.storage.store import Meta, Reader, Table
from cbfs_common.errors import CbfsError
from cbfs_host import files
from cbfs_host.complaints import StoreError
from tests.golden.test_golden import GOLDEN
from tests.support.disk import small_disk
from tests.support.killing import Kill, KillingEnv, every_point

OLD = {root_key.BROUGHT_OVER}
NEW = {root_key.FORMAT}

SAME = (Table.CONVERSATIONS, Table.MESSAGES, Table.MESSAGE_IDS, Table.PEERS, Table.REQUESTS)
"""Tables whose records have nothing that is drawn anew."""

Seen = tuple[list[Any], list[Any]]


def account_of_before(place: Path) -> Path:
    """That of bob, as he left it."""
    with tarfile.open(GOLDEN / "70e89ed" / "stores.tar.xz") as file:
        members = [each for each in file.getmembers() if each.name.startswith("bob-account")]
        file.extractall(place, members, filter="data")
    account = place / "bob-account"
    account.chmod(0o700)
    return account


def records(reader: Reader) -> list[Any]:
    return [(table, sorted(reader.items(table))) for table in (*SAME, Table.CONTENT)]


def opened(account: Path) -> list[Any]:
    with opened_store(account, SYSTEM_RANDOM) as store, store.read() as reader:
        return records(reader)


def old_records(account: Path) -> list[Any]:
    """What the cbfs of before has in an account directory."""
    store = OldStore(account, no_lock)
    try:
        return list(store.records())
    finally:
        store.close()


def numbers(account: Path) -> set[int]:
    return root_key.format_numbers((account / "root.key").read_bytes())


def leftovers(account: Path) -> list[str]:
    return sorted(path.name for path in account.iterdir() if path.name.startswith(("be", "af")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What is in the account, before and after."""
    account = account_of_before(tmp_path_factory.mktemp("whole"))
    before = old_records(account)
    return before, opened(account)


def is_moving(account: Path) -> bool:
    """Whether the old store's file has left its place."""
    return (account / "after").exists() and (account / "before" / "store" / "data.mdb").exists()


def check_whole(account: Path, whole: Seen) -> None:
    """All is there for the cbfs of before, or it is in the copy or in the new account; and the next
    opening makes the new one of it."""
    old, new = whole
    if is_moving(account):
        assert old_records(account / "before") == old
    elif numbers(account) == OLD:
        assert old_records(account) == old
    for _ in range(2):
        assert opened(account) == new
    assert (numbers(account), leftovers(account)) == (NEW, [])


def with_points(point: Kill) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """What reaches the disk, with points around it: (where, name, function)."""
    for module, names in (
        (os, ("fsync", "fdatasync", "pwrite")),
        (shutil, ("rmtree",)),
        (files, ("sync_directory",)),
        (brought, ("sync_directory", "write_file")),
        (formats, ("sync_directory",)),
        (Path, ("rename", "replace", "unlink", "mkdir")),
    ):
        for name in names:
            yield module, name, point.around(vars(module)[name])
    opening = vars(store_module)["open_environment"]
    yield (
        store_module,
        "open_environment",
        lambda *where, **how: KillingEnv(opening(*where, **how), point),
    )


def brought_over_and_killed(place: Path, number: int) -> int:
    account = account_of_before(place)
    for where, name, function in list(with_points(Kill(number))):
        setattr(where, name, function)
    opened(account)
    return 0


@pytest.mark.slow
def test_a_kill_at_any_point_leaves_the_old_account_or_the_new(memory: Path, whole: Seen) -> None:
    phases = []
    for place in every_point(brought_over_and_killed, memory):
        account = place / "bob-account"
        phases.append((is_moving(account), numbers(account) == NEW))
        check_whole(account, whole)
        shutil.rmtree(place)
    order = [phase for phase, _ in itertools.groupby(phases)]
    assert order == [(False, False), (True, False), (True, True), (False, True)]


class Refusal(Kill):
    """ENOSPC at the ``number``-th point that is passed, and at none after it."""

    met = False

    def point(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.met = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **more: Any) -> Any:
            self.point()
            return function(*arguments, **more)

        return wrapped


@contextmanager
def refusing(number: int) -> Iterator[Refusal]:
    refusal = Refusal(number)
    with pytest.MonkeyPatch.context() as patch:
        for where, name, function in list(with_points(refusal)):
            patch.setattr(where, name, function)
        yield refusal


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_point_leaves_the_old_account_or_the_new(
    memory: Path, whole: Seen
) -> None:
    for number in itertools.count(1):
        account = account_of_before(memory / str(number))
        with refusing(number) as refusal:
            try:
                opened(account)
            except CbfsError as error:
                assert error.hint
        check_whole(account, whole)
        shutil.rmtree(memory / str(number))
        if not refusal.met:
            break
    assert number > 50


def test_a_small_disk_leaves_the_account_as_it_was(tmp_path: Path, whole: Seen) -> None:
    fine = account_of_before(tmp_path)
    size = sum(path.stat().st_size for path in fine.rglob("*") if path.is_file())
    refused = 0
    for room in range(size + 40_960, 4 * size, 40_960):
        with small_disk(tmp_path / "disk", room) as disk:
            account = shutil.copytree(fine, disk / "account")
            try:
                assert opened(account) == whole[1]
                break
            except CbfsError as error:
                refused += 1
                assert "room" in error.hint or "full" in error.hint
            assert numbers(account) == OLD
            assert leftovers(account) == []
            assert old_records(account) == whole[0]
    assert refused


def test_the_cbfs_of_before_may_have_gone_on_after_a_kill(tmp_path: Path, whole: Seen) -> None:
    """What was made of the account then does not count."""
    account = account_of_before(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brought, "_move", lambda _directory: None)
        with pytest.raises(RootError):
            opened(account)
    assert leftovers(account) == ["after", "before"]
    assert old_records(account) == whole[0]
    (account / "after" / "root.key").write_bytes(b"of yesterday")
    assert opened(account) == whole[1]
    assert leftovers(account) == []


def test_only_a_mount_brings_an_account_over(tmp_path: Path) -> None:
    account = account_of_before(tmp_path)
    for read in reading_store, salvaging:
        with pytest.raises(CbfsError) as caught, read(account, SYSTEM_RANDOM):
            pass
        assert "mount" in caught.value.hint
    assert numbers(account) == OLD


@pytest.mark.parametrize("number", [1, 3, 7, 9])
def test_formats_that_nobody_was_given_are_refused_in_words(tmp_path: Path, number: int) -> None:
    account = account_of_before(tmp_path)
    root = account / "root.key"
    said = b"cbfs root file 2"
    assert said in root.read_bytes()
    root.write_bytes(root.read_bytes().replace(said, root_key.magic(number)))
    before = {path: path.read_bytes() for path in account.rglob("*") if path.is_file()}
    with pytest.raises(RootError) as caught:
        opened(account)
    later = number > root_key.FORMAT
    assert ("later" if later else "earlier") in str(caught.value)
    assert caught.value.hint
    assert {path: path.read_bytes() for path in before} == before


def test_an_account_that_is_being_moved_asks_for_its_passphrase(tmp_path: Path) -> None:
    """Its root file was overwritten, and the new one is not in its place yet."""
    with tarfile.open(GOLDEN / "70e89ed" / "stores.tar.xz") as file:
        file.extract("alice-account/root.key", tmp_path, filter="data")
    account = tmp_path / "alice-account"
    root, after = account / "root.key", account / "after"
    after.mkdir()
    shutil.copyfile(root, after / "root.key")
    root.write_bytes(bytes(root.stat().st_size))
    assert asks_for_passphrase(account)


def test_a_copy_that_was_not_finished_leaves_no_key_behind(tmp_path: Path) -> None:
    account = account_of_before(tmp_path)
    (account / "before.new").mkdir()
    key = shutil.copyfile(account / "root.key", account / "before.new" / "root.key")
    with key.open("rb") as file:
        opened(account)
        assert not any(file.read())


@pytest.mark.slow
def test_a_damaged_account_of_before_is_left_as_it_is(tmp_path: Path, whole: Seen) -> None:
    fine = account_of_before(tmp_path)
    data = (fine / "store" / "data.mdb").read_bytes()
    refused = 0
    for page in range(len(data) // 4_096):
        account = shutil.copytree(fine, tmp_path / "damaged")
        place = page * 4_096 + 64
        torn = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        (account / "store" / "data.mdb").write_bytes(torn)
        try:
            assert opened(account) == whole[1]  # what was torn says nothing
        except (StoreError, CbfsError) as error:
            refused += 1
            assert error.hint
            assert numbers(account) == OLD
            assert leftovers(account) == []
            assert (account / "store" / "data.mdb").read_bytes() == torn
        shutil.rmtree(account)
    assert refused


def test_what_follows_from_messages_is_made_once(tmp_path: Path) -> None:
    account = account_of_before(tmp_path)
    with opened_store(account, SYSTEM_RANDOM) as store:
        make_listings(store)
        with store.read() as reader:
            made = [(t, sorted(reader.items(t))) for t in (Table.TERMS, Table.INDEX, Table.META)]
        make_listings(store)
        with store.read() as reader:
            again = [(t, sorted(reader.items(t))) for t in (Table.TERMS, Table.INDEX, Table.META)]
    assert again == made
    assert made[0][1]


def test_settings_of_a_later_version_are_refused_by_name_and_left_alone(tmp_path: Path) -> None:
    """Within a format there may be more of them: to go on without one might show what it was to
    hide."""
    account, later = account_of_before(tmp_path), b'colour = "red"\n'
    with opened_store(account, SYSTEM_RANDOM) as store:
        store.write(lambda writer: writer.put(Table.META, Meta.SETTINGS, later))
        with pytest.raises(CbfsError) as caught:
            Configuration(store)
        assert "'colour'" in str(caught.value)
        assert "another version" in caught.value.hint
        with store.read() as reader:
            assert reader.get(Table.META, Meta.SETTINGS) == later


def test_who_is_known_from_long_ago_is_whoever_has_their_keys_and_their_owner_key(
    tmp_path: Path,
) -> None:
    """Public keys alone anybody can name in another directory."""
    account = account_of_before(tmp_path)
    with opened_store(account, SYSTEM_RANDOM) as store, store.read() as reader:
        known = {c.name: c for _, data in reader.items(Table.PEERS) if (c := decode_contact(data))}
    alice, carol = known["alice"], known["carol"]
    assert alice.is_outlived
    assert alice.followed is None
    theirs = alice.profile
    profile = replace(theirs, user_id=bytes(32), kem=b"k" * 32).encode()
    entry = replace(alice.entry, version=1, round=1, profile=profile)
    assert alice.is_taken_up(entry)
    assert not alice.is_taken_up(replace(entry, owners=carol.entry.owners))
    for other in replace(theirs, auth=bytes(32)), replace(theirs, signing=bytes(32)):
        assert not alice.is_taken_up(replace(entry, profile=other.encode()))
    taken = alice.moved_to(entry, 7)
    assert not taken.is_outlived
    assert (taken.petname, taken.verified, taken.followed) == (alice.petname, 0, entry)
