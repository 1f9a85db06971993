"""What the new computer keeps of an account that comes, and what of one the old one sends."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbfs.account.account import SYSTEM_RANDOM, no_lock, opened_store
from cbfs.account.leaving import (
    COPY_SIZE,
    Leaving,
    LeavingStage,
    decode_leaving,
    write_leaving,
)
from cbfs.account.passphrase import by_passphrase, unlocking
from cbfs.commands.home.moving.cargo import (
    NEEDED,
    AccountDeparture,
    CargoFile,
    decode_manifest,
    encode_manifest,
    files_of,
    is_carried,
)
from cbfs.commands.home.moving.held import IncomingCopy
from cbfs.commands.home.moving.messages import Data, Unintelligible
from cbfs.storage import root_key
from cbfs.storage.root_key import Unlock
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import LINE_SECRET_SIZE
from cbfs_common.primitives import KEY_SIZE
from tests.support.moved import Meeting, bare_account, lives_here

LEAVING = Leaving(LeavingStage.OFFERED, b"s" * LINE_SECRET_SIZE, b"t" * KEY_SIZE)
LEAST = tuple(CargoFile(name, 5) for name in sorted(NEEDED))


@contextmanager
def offered(account: Path, unlock: Unlock = no_lock) -> Iterator[AccountDeparture]:
    """An account that may move."""
    with opened_store(account, SYSTEM_RANDOM, unlock, has_moved=True) as store:
        store.write(lambda writer: write_leaving(writer, LEAVING))
        yield AccountDeparture(account, store, LEAVING)


@pytest.fixture(scope="module")
def departure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccountDeparture]:
    with offered(bare_account(tmp_path_factory.mktemp("offered") / "old")) as found:
        yield found


def come(departure: AccountDeparture, held: IncomingCopy, most: int | None = None) -> None:
    """Until all has come, or more than so many bytes have."""
    meeting = Meeting(departure, held)
    while not held.is_whole and (most is None or held.count <= most):
        assert meeting.step_old() or meeting.step_new()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.lists(st.floats(0, 0.99), max_size=3), lost=st.integers(0, 3), same=st.booleans())
def test_what_comes_goes_on_where_it_was_cut_off_whatever_the_disk_has_lost(
    departure: AccountDeparture, memory: Path, cuts: list[float], lost: int, *, same: bool
) -> None:
    place = memory / "new"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    held = IncomingCopy(place, no_lock)
    for cut in sorted(cuts):
        come(departure, held, int(cut * departure.offer.size))
        if not same:
            held.close()
            written = [path for path in (place / "arriving" / "tree").rglob("*") if path.is_file()]
            if lost and written:
                last = max(written, key=lambda path: path.stat().st_mtime_ns)
                os.truncate(last, max(0, last.stat().st_size - lost))
            held = IncomingCopy(place, no_lock)
    come(departure, held)
    held.close()
    account = departure.account
    for each in files_of(account):
        name = "root.part" if each.name == "root.key" else each.name
        found = place / "arriving" / "tree" / name
        assert found.read_bytes() == (account / each.name).read_bytes()
        assert found.stat().st_mode & 0o777 == 0o600


def test_a_manifest_that_the_disk_has_spoilt_comes_anew(
    departure: AccountDeparture, tmp_path: Path
) -> None:
    """A power cut leaves the size of a file, and not always what was written."""
    place = tmp_path / "new"
    place.mkdir()
    held = IncomingCopy(place, no_lock)
    come(departure, held, departure.offer.manifest)
    held.close()
    manifest = place / "arriving" / "manifest"
    assert manifest.stat().st_mode & 0o777 == 0o600
    assert manifest.parent.stat().st_mode & 0o777 == 0o700
    manifest.write_bytes(bytes(manifest.stat().st_size))
    come(departure, held := IncomingCopy(place, no_lock))
    assert held.is_whole


def test_what_was_spoilt_on_the_way_is_found_and_comes_anew(
    departure: AccountDeparture, tmp_path: Path
) -> None:
    held = IncomingCopy(tmp_path, no_lock)
    meeting, spoilt = Meeting(departure, held), False
    with pytest.raises(CbfsError, match="not what was sent"):
        while meeting.step_old() or meeting.step_new():
            last = meeting.down[-1] if meeting.down else None
            if isinstance(last, Data) and len(last.data) > 1_000 and not spoilt:  # no manifest
                meeting.down[-1] = Data(last.data[:-1] + bytes([last.data[-1] ^ 1]))
                spoilt = True
    assert held.count == 0
    come(departure, held)


def test_an_account_comes_to_life_under_its_passphrase_only(tmp_path: Path) -> None:
    guard = by_passphrase(b"a b c", SYSTEM_RANDOM)
    old, new = bare_account(tmp_path / "old", lambda: guard), tmp_path / "new"
    new.mkdir()
    with offered(old, lambda _protection: guard.lock) as departure:
        wrong = IncomingCopy(new, unlocking(lambda: b"a b"))
        with pytest.raises(CbfsError, match="the passphrase is wrong"):
            come(departure, wrong)
        assert not wrong.is_whole
        asked = []

        def passphrase() -> bytes:
            asked.append(1)
            return b"a b c"

        held = IncomingCopy(new, unlocking(passphrase))
        meeting = Meeting(departure, held)
        meeting.go_on()
        assert meeting.old.done
        held.put_in_place()
    assert asked == [1]
    with opened_store(new, SYSTEM_RANDOM, lambda _protection: guard.lock):
        pass


def test_a_token_brings_nothing_to_life_that_is_not_whole(
    departure: AccountDeparture, tmp_path: Path
) -> None:
    held = IncomingCopy(tmp_path, no_lock)
    come(departure, held, departure.offer.size // 2)
    with pytest.raises(Unintelligible):
        held.note_token(LEAVING.token)
    come(departure, held)
    with pytest.raises(Unintelligible):
        held.note_token(b"x" * KEY_SIZE)
    assert not held.lives
    held.note_token(LEAVING.token)
    assert held.lives
    assert not lives_here(tmp_path)
    held.put_in_place()
    assert lives_here(tmp_path)


def test_an_account_of_another_version_does_not_come(
    departure: AccountDeparture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root_key, "FORMAT", root_key.FORMAT + 1)
    with pytest.raises(CbfsError, match="another version"):
        Meeting(departure, IncomingCopy(tmp_path, no_lock)).go_on()
    assert not list(tmp_path.iterdir())


def test_an_account_that_the_disk_has_no_room_for_does_not_come(
    departure: AccountDeparture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.statvfs_result((4096, 4096, 10, 5, 5, 10, 5, 5, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: full)
    with pytest.raises(CbfsError, match="more than this disk has room for"):
        Meeting(departure, IncomingCopy(tmp_path, no_lock)).go_on()


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../root.key", "store/../root.key", "root.key/", "", ".", "log", "lock"),
        *("store/lock.mdb", "store/closed", "store/data.mdb.new", "windows", "tor/data/state"),
        *("spool/a/b", "spool/.hidden", "server/log", "server/a/b/c/d", "server", "tor", "x/y"),
        *("arriving/token", "before/root.key", "spool/a b", "server/lock"),
    ],
)
def test_nothing_else_is_written_than_what_an_account_has(name: str) -> None:
    assert not is_carried(name)
    with pytest.raises(Unintelligible):
        decode_manifest(encode_manifest((*LEAST, CargoFile(name, 1))))


def test_a_manifest_is_read_as_it_was_written_and_in_no_other_way() -> None:
    files = (*LEAST, CargoFile("spool/key", 0), CargoFile("server/store/data.mdb", 1 << 40))
    data = encode_manifest(files)
    assert decode_manifest(data) == files
    wrong = [data[:-1], data + b"\0", data + data, b"", encode_manifest(LEAST[:1])]
    wrong += [encode_manifest((*LEAST, CargoFile("server/a", 1), CargoFile("server/a/b", 1)))]
    wrong += [encode_manifest((*LEAST, CargoFile("server/a", 1 << 43)))]
    for each in wrong:
        with pytest.raises(Unintelligible):
            decode_manifest(each)
    with pytest.raises(CbfsError, match="too many files"):
        encode_manifest(tuple(CargoFile(f"spool/{n:032}.mail", 1) for n in range(100_000)))


def test_what_is_known_of_a_move_is_read_as_it_was_written() -> None:
    moved = LEAVING.moved(b"c" * COPY_SIZE, b"d" * KEY_SIZE)
    for each in LEAVING, moved, moved.lives():
        assert decode_leaving(each.encode()) == each
        assert decode_leaving(each.encode()).check == LEAVING.check
    wrong = (
        Leaving(LeavingStage.MOVED, LEAVING.secret, LEAVING.token),
        Leaving(LeavingStage.OFFERED, b"short", LEAVING.token),
        Leaving(LeavingStage.OFFERED, LEAVING.secret, b"short"),
    )
    for each in wrong:
        with pytest.raises(DecodeError):
            decode_leaving(each.encode())
    with pytest.raises(DecodeError):
        decode_leaving(LEAVING.encode().replace(b"\x97\x00", b"\x97\x07"))
