"""What may be somebody else's is marked in a real mount, until it is known whose it is."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.test_attacks import Mailbox, Stolen, account, talk
from tests.support.world import User, World, wait_for, world

pytestmark = pytest.mark.mount


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def unconfirmed(user: User) -> list[str]:
    """What is marked so in the transcripts."""
    texts = (p.read_text() for p in (user.mountpoint / "conversations").glob("*/transcript"))
    lines = (line for text in texts for line in text.splitlines() if ", unconfirmed]" in line)
    return [line.partition(": ")[2] for line in lines]


def attribute(path: Path) -> bytes | None:
    """user.cbfs.unconfirmed, None where it is not there."""
    name = "user.cbfs.unconfirmed"
    return os.getxattr(path, name) if name in os.listxattr(path) else None


def test_what_a_thief_writes_stays_marked_and_what_she_writes_does_not(here: World) -> None:
    alice, bob = here.user("alice"), here.user("bob")
    talk(alice, bob, "hello")
    talk(alice, bob, "again")
    wait_for(lambda: not unconfirmed(bob), "the marks to go")
    bob.unmount()
    copy = here.place / "backup"
    shutil.copytree(bob.account, copy)
    stolen = Stolen.of(copy)
    bob.mount()
    alice.unmount()
    thief = stolen.poses_as(account(alice.account))
    Mailbox(stolen.account).put(thief.seal(stolen.part(b"where is the key?", ("alice", "bob"))))
    forged = bob.wait_message("alice", "where is the key?")
    assert unconfirmed(bob) == ["where is the key?"]
    assert attribute(forged) == b"yes"
    alice.mount()
    talk(alice, bob, "and on")
    wait_for(lambda: unconfirmed(bob) == ["where is the key?"], "her mark alone to go")
    assert [p for p in bob.messages("alice") if attribute(p)] == [forged]
