"""An account moves to another computer, and goes on there as if nothing had been."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM, reading_store
from cbfs.storage.store import Table
from cbfs_common.limits import INVITE_LINE_MAX
from tests.support.moving import arrive, leaving
from tests.support.world import User, World, run, world

pytestmark = pytest.mark.mount


@pytest.fixture
def town(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as here:
        yield here


def talked(alice: User, bob: User) -> None:
    """Each has sent the other a message, so that both have a session that is proven."""
    alice.run("mkdir outbox/bob && echo one > outbox/bob/one")
    bob.wait_message("alice", "one\n")
    bob.run("mkdir outbox/alice && echo two > outbox/alice/two")
    alice.wait_message("bob", "two\n")


def sessions(account: Path) -> list[bytes]:
    """The sessions of an account, mounted or not."""
    with reading_store(account, SYSTEM_RANDOM) as store, store.read() as reader:
        return sorted(reader.keys(Table.SESSIONS))


def test_an_account_goes_on_where_it_has_moved_and_mounts_no_more_where_it_was(
    town: World, tmp_path: Path
) -> None:
    alice, bob = town.user("alice"), town.user("bob")
    talked(alice, bob)
    known = sessions(bob.account)
    assert known
    before = {path.name: path.read_bytes() for path in alice.messages()}
    alice.unmount()
    bob.run("echo meanwhile > outbox/alice/meanwhile")
    new = tmp_path / "new-account"
    with leaving(alice.account) as old:
        assert old.line.startswith("cbfs-move:")
        assert len(old.line) <= INVITE_LINE_MAX
        done = arrive(old.line, new)
        assert done.returncode == 0, (done.stderr, old.log.read_text())
        assert "alice lives here now" in done.stdout
        code, said = old.wait()
        assert code == 0, old.log.read_text()
        assert "a backup" in said
    refused = run("mount.cbfs", alice.account, alice.mountpoint, "--no-tor")
    assert refused.returncode == 1
    assert "has moved to another computer" in refused.stderr
    assert not (new / "arriving").exists()
    old_account, alice.account = alice.account, new
    alice.mount()
    alice.wait_message("bob", "meanwhile\n")
    after = {path.name: path.read_bytes() for path in alice.messages()}
    assert before.items() <= after.items()
    alice.run("mkdir -p outbox/bob && echo four > outbox/bob/four")
    bob.wait_message("alice", "four\n")
    assert sessions(bob.account) == known
    status = run("cbfs", "status", alice.mountpoint).stdout
    assert "copy" not in status
    again = run("cbfs", "move", "--account", old_account, "--no-tor")
    assert again.returncode == 0
    assert "has moved" in again.stdout
    assert run("cbfs", "move", "--cancel", "--account", old_account).returncode == 1
    erased = run("cbfs", "move", "--erase", "--account", old_account)
    assert erased.returncode == 0, erased.stderr
    assert not old_account.exists()
