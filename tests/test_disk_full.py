"""A real mount whose account's disk is full: programs are told, nothing is half done, and all goes
on by itself when there is room."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.disk import small_disk, use_up
from tests.world import User, World, run, wait_for

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
