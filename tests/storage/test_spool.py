"""The spool: what waits in an account directory is sealed, whole, and bound to its name."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.place import unreadable, waiting
from cbfs.account.spool import (
    ID_SIZE,
    SPOOLED_MAX,
    Spool,
    decode_keys,
    encode_keys,
    make_key,
    sealed_to,
)
from cbfs.commands.reading.status import spool_text
from cbfs.commands.sendmail.letter import Letter, Recipient
from cbfs.commands.sendmail.options import Exit, NotSent
from cbfs.commands.sendmail.queueing import Queue
from cbfs_common.errors import CryptoError, DecodeError
from cbfs_common.limits import FILE_SIZE_MAX
from cbfs_host import files

KEY, OTHER = make_key(SYSTEM_RANDOM), make_key(SYSTEM_RANDOM)
ID = b"i" * ID_SIZE


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path)
    made.prepare()
    made.publish(KEY.public)
    return made


@given(st.binary(max_size=1_000))
def test_what_is_sealed_is_opened_by_the_secret_half_alone(plain: bytes) -> None:
    data = sealed_to(KEY.public, ID, plain, SYSTEM_RANDOM)
    assert KEY.open(ID, data) == plain
    for key, identity in ((OTHER, ID), (KEY, b"j" * ID_SIZE)):
        with pytest.raises(CryptoError):
            key.open(identity, data)


def test_no_byte_of_it_can_be_changed() -> None:
    data = sealed_to(KEY.public, ID, b"hello", SYSTEM_RANDOM)
    for at in [*range(0, len(data), 97), len(data) - 1]:
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(CryptoError):
            KEY.open(ID, bytes(changed))
    for cut in (0, 1, 32, 1_120, len(data) - 1):
        with pytest.raises(CryptoError):
            KEY.open(ID, data[:cut])


def test_nothing_of_it_is_twice_the_same() -> None:
    one, two = (sealed_to(KEY.public, ID, b"hello" * 10, SYSTEM_RANDOM) for _ in range(2))
    assert not any(one[at : at + 16] in two for at in range(len(one) - 16))


def test_a_key_that_is_none_is_refused() -> None:
    for public in (b"", KEY.public[:-1], bytes(32) + KEY.public[32:], b"\xff" * len(KEY.public)):
        with pytest.raises(CryptoError):
            sealed_to(public, ID, b"hello", SYSTEM_RANDOM)


def test_keys_are_a_record() -> None:
    assert decode_keys(encode_keys((KEY, OTHER))) == (KEY, OTHER)
    assert decode_keys(b"") == ()
    with pytest.raises(DecodeError):
        decode_keys(encode_keys((KEY,))[:-1])


def test_what_waits_is_closed_to_others_and_in_order(spool: Spool) -> None:
    assert spool.path.stat().st_mode & 0o777 == 0o700
    for text in (b"one", b"two"):
        spool.add(text, SYSTEM_RANDOM)
    assert waiting(spool.path.parent) == 2
    assert all(path.stat().st_mode & 0o077 == 0 for path in spool.path.iterdir())
    assert not any(b"one" in path.read_bytes() for path in spool.path.iterdir())
    assert sorted(KEY.open(each, spool.read(each)) for each in spool.waiting()) == [b"one", b"two"]


def test_what_is_not_known_to_be_on_the_disk_does_not_wait(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is told so sends it again."""

    def failing(_path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_directory", failing)
        with pytest.raises(OSError, match="Input/output"):
            spool.add(b"hello", SYSTEM_RANDOM)
    assert spool.waiting() == []
    spool.add(b"hello", SYSTEM_RANDOM)
    assert len(spool.waiting()) == 1


def test_what_was_interrupted_is_not_waiting_and_goes(spool: Spool) -> None:
    rest = spool.path / f"{ID.hex()}.mail.new"
    for path in (rest, spool.path / "x.mail.d", spool.path / ".mail", spool.path / "AB.mail"):
        path.write_bytes(b"half")
    assert spool.waiting() == []
    spool.drop([])
    assert not rest.exists()


def test_one_that_cannot_be_read_waits_no_more(spool: Spool) -> None:
    spool.add(b"one", SYSTEM_RANDOM)
    (identity,) = spool.waiting()
    aside = spool.set_aside(identity)
    assert aside.exists()
    assert spool.waiting() == []
    assert waiting(spool.path.parent) == 0


def test_what_is_no_file_does_not_wait_and_stays(spool: Spool) -> None:
    """A directory, a pipe and a link, which neither hold anybody up nor are followed."""
    names = [f"{digit * 32}.mail" for digit in "123"]
    folder, pipe, link = (spool.path / name for name in names)
    folder.mkdir()
    os.mkfifo(pipe)
    link.symlink_to(spool.path / "nowhere")
    (spool.path / "x.mail.new").mkdir()
    assert spool.waiting() == []
    for name in names:
        with pytest.raises(OSError, match=r"."):
            spool.read(bytes.fromhex(name.removesuffix(".mail")))
    spool.drop([bytes.fromhex(name.removesuffix(".mail")) for name in names])
    assert {folder, pipe, link} <= set(spool.path.iterdir())


def test_what_is_too_large_is_not_read(spool: Spool) -> None:
    path = spool.path / f"{ID.hex()}.mail"
    path.touch()
    os.truncate(path, SPOOLED_MAX + 1)
    with pytest.raises(OSError, match=r".") as caught:
        spool.read(ID)
    assert caught.value.errno == errno.EFBIG


def test_the_disk_is_waited_for_only_when_something_goes(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("cbfs.account.spool.sync_directory", synced.append)
    spool.drop([])
    assert synced == []
    (spool.path / "x.mail.new").touch()
    spool.drop([])
    assert synced == [spool.path]
    spool.drop([ID])  # it may have gone before, and not from the disk
    assert synced == [spool.path] * 2


def test_what_waits_and_what_was_set_aside_is_told(spool: Spool) -> None:
    account = spool.path.parent
    assert spool_text(account) == ""
    for _ in range(3):
        spool.add(b"one", SYSTEM_RANDOM)
    spool.set_aside(spool.waiting()[0])
    assert unreadable(account) == 1
    assert spool_text(account) == (
        "messages of cbfs sendmail that wait for the next mount, as its log says: 2\n"
        "messages in the spool that could not be read: 1 (remove them: spool/*.unreadable in the"
        " account directory)\n"
    )


def test_a_message_that_is_too_large_for_a_mount_does_not_wait(spool: Spool) -> None:
    half = bytes(FILE_SIZE_MAX // 2)
    letter = Letter((Recipient("bob"),), (), "", (), "f", (("a", half), ("b", half + b"x")))
    with Queue(spool.path.parent).held() as queue, pytest.raises(NotSent) as caught:
        queue.add(letter)
    assert caught.value.code == Exit.UNAVAILABLE
    assert str(caught.value) == "the message is too large: at most 67,108,864 bytes"
    assert spool.waiting() == []


def test_where_there_is_no_spool_nothing_waits(tmp_path: Path) -> None:
    assert waiting(tmp_path) == 0
    assert Spool(tmp_path).public() == b""


def test_who_adds_waits_for_who_takes_and_not_for_who_adds(spool: Spool) -> None:
    one, two, mount = (Spool(spool.path.parent) for _ in range(3))
    assert one.acquire(alone=False, limit=0)
    assert two.acquire(alone=False, limit=0)
    assert not mount.acquire(alone=True, limit=0)
    one.release()
    two.release()
    assert mount.acquire(alone=True, limit=0)
    assert not one.acquire(alone=False, limit=0)
    assert not two.acquire(alone=False, limit=0.03)
    mount.release()
    mount.release()
    assert one.acquire(alone=False, limit=0)
    one.release()
