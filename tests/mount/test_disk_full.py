"""A real mount whose account's disk is full: programs are told, nothing is half done, and all goes
on by itself when there is room."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cbfs.storage.lmdb_pages import Pages
from tests.support.disk import PAGE, small_disk, use_up
from tests.support.world import WAIT, User, World, program, run, wait_for

SIZE = 48 << 20


@contextmanager
def refused(*numbers: int) -> Iterator[None]:
    with pytest.raises(OSError) as raised:
        yield
    assert raised.value.errno in numbers, raised.value


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[User, User]]:
    """alice, whose account is on a small disk, and bob."""
    with ExitStack() as stack:
        place = tmp_path_factory.mktemp("full")
        stack.enter_context(small_disk(place / "alice-account", SIZE))
        world = World(place, stack)
        alice, bob = world.user("alice"), world.user("bob")
        for writer, reader in ((alice, bob), (bob, alice)):
            (writer.mountpoint / "outbox" / reader.name).mkdir()
            writer.write(reader.name, "first", f"hello from {writer.name}")
            reader.wait_message(writer.name, f"hello from {writer.name}")
        yield alice, bob


@pytest.mark.mount
def test_a_full_disk_is_told_and_all_goes_on_when_there_is_room(
    people: tuple[User, User],
) -> None:
    alice, bob = people
    there = alice.mountpoint
    (there / "ui_info" / "kept").write_text("before")
    other = use_up(alice.account)
    outbox = sorted(path.name for path in (there / "outbox").iterdir())
    failed = number = 0
    while not failed:  # LMDB has some free pages left
        number += 1
        link = there / "ui_info" / f"link{number}"
        try:
            link.symlink_to("x" * 4_000)
        except OSError as error:
            failed = error.errno or -1
            assert not link.is_symlink()
    assert failed == errno.ENOSPC
    old, new = there / "ui_info" / "link1", there / "ui_info" / ("y" * 250)
    try:
        old.rename(new)  # which takes fewer pages
        old, new = new, old
    except OSError as error:
        assert error.errno == errno.ENOSPC
    assert old.is_symlink()
    assert not new.is_symlink()
    with refused(errno.ENOSPC):
        (there / "outbox" / "bob" / "second").write_text("second")
    (there / "outbox" / "bob" / "second").unlink(missing_ok=True)
    assert (there / "ui_info" / "kept").read_text() == "before"
    bob.write("alice", "big", "while the disk was full " * 500)
    bob.write("alice", "more", "and more")
    wait_for(lambda: all(map(sent, bob.messages("bob"))), "bob's messages to be at the server")
    assert os.path.ismount(there)
    assert sorted(path.name for path in (there / "outbox").iterdir()) == outbox
    other.unlink()
    alice.wait_message("bob", "while the disk was full " * 500)
    alice.wait_message("bob", "and more")
    alice.write("bob", "third", "there is room again")
    bob.wait_message("alice", "there is room again")
    assert sum(path.read_text() == "and more" for path in alice.messages("bob")) == 1


def sent(message: Path) -> bool:
    """Whether it is at the server, at least."""
    return b"queued" not in os.getxattr(message, "user.cbfs.state")


@pytest.mark.mount
def test_a_full_disk_at_the_end_and_at_the_beginning_of_a_mount_harms_nothing(
    people: tuple[User, User],
) -> None:
    alice, _bob = people
    (alice.mountpoint / "ui_info" / "end").write_text("end")
    (alice.mountpoint / "tmp" / "rest").write_text("rest")
    other = use_up(alice.account)
    alice.unmount()
    done = run("mount.cbfs", alice.account, alice.mountpoint, *alice.mounts)
    if done.returncode:
        assert done.returncode == 1
        assert "cbfs: error: " in done.stderr
        assert "cbfs: hint: " in done.stderr
    assert "Traceback" not in done.stderr
    other.unlink()
    if done.returncode:
        alice.mount()
    assert (alice.mountpoint / "ui_info" / "end").read_text() == "end"
    assert not list((alice.mountpoint / "tmp").iterdir())
    done = run("mount.cbfs", Path("/nowhere"), alice.mountpoint, *alice.mounts)
    assert done.returncode == 1


@pytest.mark.mount
def test_a_damaged_account_is_told_exported_and_restored(people: tuple[User, User]) -> None:
    """A page is lost below an account that is not mounted."""
    alice, bob = people
    texts = sorted(path.read_text() for path in bob.messages())
    bob.unmount()
    file, export = bob.account / "store" / "data.mdb", bob.account.parent / "bob.export"
    data = bytearray(file.read_bytes())
    with file.open("rb") as opened:
        lost = Pages(opened.fileno()).metas()[0].records.root  # without it LMDB finds nothing
    data[lost * PAGE : (lost + 1) * PAGE] = bytes(PAGE)
    file.write_bytes(data)
    done = run("mount.cbfs", bob.account, bob.mountpoint, *bob.mounts)
    assert done.returncode == 1
    assert "is damaged" in done.stderr
    assert "cbfs: hint: what is intact can be saved: cbfs export" in done.stderr
    assert "Traceback" not in done.stderr
    said(f"export {bob.account} {export} --passphrase-fd 0")
    bob.account.rename(bob.account.with_name("bob-damaged"))
    said(f"init --restore {export} --account {bob.account} --export-passphrase-fd 0")
    bob.mount()
    assert sorted(path.read_text() for path in bob.messages()) == texts
    (alice.mountpoint / "outbox" / "bob").mkdir(exist_ok=True)
    alice.write("bob", "again", "are you back?")
    bob.wait_message("alice", "are you back?")


def said(words: str) -> None:
    """``cbfs``, which is told the passphrase."""
    done = subprocess.run(
        program("cbfs", *words.split()),
        input="a long passphrase\n",
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
