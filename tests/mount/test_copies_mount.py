"""Copies of an account as real processes: mounts, a real server, a real directory."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM, opened_store
from cbfs.storage.store import Table
from tests.support.copied import put_in_place, settle_in
from tests.support.world import User, World, run, wait_for, world

pytestmark = pytest.mark.mount

COPY = "this is a copy of an account"
STOPPED = "THIS COPY HAS STOPPED"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def status(user: User) -> str:
    return (user.mountpoint / "status").read_text()


def sessions(account: Path) -> set[bytes]:
    with opened_store(account, SYSTEM_RANDOM) as store, store.read() as reader:
        return set(reader.keys(Table.SESSIONS))


def wait_status(user: User, words: str, *, there: bool) -> None:
    wait_for(lambda: (words in status(user)) is there or None, f"{words!r} at {user.name}")


def talk(one: User, other: User, words: str) -> None:
    for a, b in ((one, other), (other, one)):
        folder = a.mountpoint / "outbox" / b.name
        if not folder.exists():
            folder.mkdir()
        a.write(b.name, words, f"{words} of {a.name}")
        b.wait_message(a.name, f"{words} of {a.name}")


def test_a_backup_in_place_is_noticed_at_the_next_mount(here: World) -> None:
    alice, bob = here.user("alice"), here.user("bob")
    talk(alice, bob, "hello")
    bob.unmount()
    backup = here.place / "backup"
    shutil.copytree(bob.account, backup)
    old = sessions(bob.account)
    assert old
    bob.mount()
    assert COPY not in status(bob)
    talk(alice, bob, "later")
    bob.unmount()
    put_in_place(backup, bob.account)
    assert sessions(bob.account) == old
    bob.mount()
    wait_for(lambda: COPY in status(bob) or None, "it to be noticed")
    talk(alice, bob, "after all")
    bob.wait_message("alice", "later of alice")
    assert COPY not in status(alice)
    assert STOPPED not in status(bob)
    bob.unmount()
    assert not old & sessions(bob.account)
    bob.mount()
    talk(alice, bob, "and on")
    assert COPY not in status(bob), "once"


def second(bob: User) -> User:
    """Another mount of the same person, of a directory of its own."""
    made = object.__new__(User)
    made.name, made.mounts = "bob", bob.mounts
    made.account = bob.account.with_name("bob-clone")
    made.mountpoint = bob.mountpoint.with_name("bob-clone-mount")
    made.mountpoint.mkdir()
    return made


def test_two_mounts_of_one_account(here: World) -> None:
    """One backup is put back while its account is mounted elsewhere, as in a clone of a machine."""
    alice, bob = here.user("alice"), here.user("bob")
    talk(alice, bob, "hello")
    bob.unmount()
    clone = second(bob)
    shutil.copytree(bob.account, clone.account)
    settle_in(clone.account)
    bob.mount()
    talk(alice, bob, "later")
    clone.mount()
    try:
        wait_for(lambda: COPY in status(clone) or None, "the clone to notice")
        both = (bob, clone)

        def stopped() -> list[User]:
            return [user for user in both if STOPPED in status(user)]

        for _ in range(8):
            if stopped():
                break
            here.server.end()
            for user in both:
                wait_status(user, "not connected", there=True)
            here.server.start()
            for user in both:
                wait_status(user, "not connected to", there=False)
        [loser] = stopped()
        [winner] = [user for user in both if user is not loser]
        warning = (loser.mountpoint / "WARNING").read_text()
        assert "cbfs claim" in warning
        assert not (winner.mountpoint / "WARNING").exists()
        alice.write("bob", "who", "who goes on?")
        winner.wait_message("alice", "who goes on?")
        assert not [p for p in loser.messages("alice") if p.read_text() == "who goes on?"]
        (loser.mountpoint / "outbox" / "alice").mkdir(exist_ok=True)
        loser.write("alice", "kept", "not from here")
        wait_for(lambda: "another copy" in status(loser) or None, "it to be said")

        done = run("cbfs", "claim", "--account", loser.account)
        assert done.returncode == 1, "it is mounted"
        loser.unmount()
        done = run("cbfs", "claim", "--account", loser.account)
        assert done.returncode == 0, done.stderr
        assert "The other copy stops" in done.stdout
        loser.mount()
        here.server.end()
        here.server.start()
        wait_for(lambda: STOPPED in status(winner) or None, "the other to stop")
        alice.write("bob", "again", "and now?")
        loser.wait_message("alice", "and now?")
        assert STOPPED not in status(loser)
        alice.wait_message("bob", "not from here")
    finally:
        clone.unmount()
