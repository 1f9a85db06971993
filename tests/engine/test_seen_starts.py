"""Starts to last-resort prekeys are taken once: whoever has kept the envelopes begins nothing anew
with them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cbfs.storage.store import Meta, Table
from cbfs_common.limits import LAST_RESORT_GRACE, LAST_RESORT_LIFETIME, LAST_RESORT_RENEWAL
from tests.support.healing_world import Client, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.begin(("alice", "bob", "carol"))
    made.clients["bob"].shelf.one_time.clear()
    yield made
    made.close()


def starts(client: Client) -> set[bytes]:
    with client.store.read() as reader:
        return set(reader.keys(Table.META, Meta.START))


def begun(world: World, name: str, text: bytes) -> list[bytes]:
    """The envelopes of somebody's first message to bob."""
    client, bob = world.clients[name], world.clients["bob"]
    client.load()
    client.write(("bob",), text)
    client.pump(fails=False)
    mail, bob.mail = bob.mail, []
    return mail


def forget(bob: Client) -> None:
    """The sessions that bob has are gone, as if others had taken their place."""
    batch = bob.context.sessions.batch()
    for id_ in tuple(bob.context.sessions._held):
        batch.diverged(id_)
    bob.store.write(batch.write)
    batch.done()
    assert len(bob.context.sessions) == 0


@pytest.mark.parametrize("restarts", [False, True])
def test_a_copy_of_a_start_begins_nothing(world: World, restarts: bool) -> None:
    bob = world.clients["bob"]
    mail = begun(world, "alice", b"hello")
    bob.receive(mail)
    assert len(bob.context.sessions) == 1
    forget(bob)
    if restarts:
        bob.load()
    bob.receive(mail)
    assert len(bob.context.sessions) == 0
    assert [text for *_, text in bob.shown()] == [b"hello"]
    with bob.store.read() as reader:
        assert not reader.count(Table.QUARANTINE), "it is known for a copy"


def test_only_so_many_are_remembered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbfs.contacts.seen_starts.STARTS_MAX", 2)
    bob = world.clients["bob"]
    mails = []
    for name in ("alice", "carol"):
        for number in range(2):
            mails.append(begun(world, name, b"%d" % number))
            bob.load()
            bob.receive(mails[-1])
            world.now += 8 * 86_400_000  # nobody answers: the next message begins another
    assert len(starts(bob)) == 2
    forget(bob)
    for mail in mails[2:]:
        bob.receive(mail)
    assert len(bob.context.sessions) == 0
    bob.receive(mails[0])
    assert len(bob.context.sessions) == 1


def test_they_are_forgotten_with_the_secret(world: World) -> None:
    bob = world.clients["bob"]
    bob.receive(begun(world, "alice", b"hello"))
    now = world.now // 1_000
    for after, kept in ((0, 1), (LAST_RESORT_RENEWAL + LAST_RESORT_GRACE, 1)):
        trio.run(bob.context.sessions.tidy, bob.store, now + after)
        assert len(starts(bob)) == kept
    late = now + LAST_RESORT_LIFETIME + LAST_RESORT_GRACE + 1
    trio.run(bob.context.sessions.tidy, bob.store, late)
    assert not starts(bob)
    bob.load()
    assert not bob.context.sessions.prekeys.pairs
