"""An account that was put back to what it was before knows, as far as it can, what of its own is
lost, and who lacks it."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cbfs.messages import order
from cbfs.messages.queues import note_queue, progress
from cbfs.receiving.lost_state import begun_anew
from cbfs.receiving.notes import Told, take_refs
from cbfs.receiving.reassembly import Reception
from cbfs_common.messages.body import Refs
from tests.engine.test_redirection import HOUR
from tests.support.healing_world import Client, World

PEOPLE = ("alice", "bob", "carol")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """alice has written to both after the backup that she was restored from. carol has not got it,
    and bob has answered it."""
    made = World(tmp_path)
    made.begin(PEOPLE)
    alice, bob, carol = (made.clients[name] for name in PEOPLE)
    alice.write(("bob", "carol"), b"hello")
    turns(made, 4)
    backup = alice.export()
    alice.write(("bob", "carol"), b"after the backup")
    alice.pump(fails=False)
    carol.mail.clear()
    bob.receive(bob.mail)
    bob.mail.clear()
    bob.load()
    alice.restore(backup)
    alice.mail.clear()
    bob.write(("alice", "carol"), b"I have read it")
    yield made
    made.close()


def turns(world: World, times: int) -> None:
    """All is sent that waits, each ticks for the others, and all is read."""
    for _ in range(times):
        for client in world.clients.values():
            client.load()
            client.pump(fails=False)
            for other in world.clients.values():
                if other is not client:
                    client.tick(other)
        for client in world.clients.values():
            mail, client.mail = client.mail, []
            client.receive(mail)
            client.load()
        world.now += HOUR


def lost(client: Client) -> dict[bytes, tuple[str, ...]]:
    """The ids of one's own messages that are lost, with who has asked for each."""
    with client.store.read() as reader:
        found = progress.lost_own(reader, client.name)
    return {id_: lacking for ids in found.values() for id_, lacking in ids.items()}


def silent(client: Client) -> set[str]:
    """Who has not answered since all began anew."""
    with client.store.read() as reader:
        since, peers = begun_anew(reader)
    assert since
    return {name for name in peers if not client.context.sessions.is_proven(name)}


def test_what_is_lost_is_known_and_who_has_not_got_it(world: World) -> None:
    alice, bob, carol = (world.clients[name] for name in PEOPLE)
    assert silent(alice) == {"bob", "carol"}
    assert not lost(alice)
    turns(world, 6)
    assert silent(alice) == set()
    ((id_, lacking),) = lost(alice).items()
    assert lacking == ("carol",), "bob has it"
    (place,) = alice.context.conversations
    with bob.store.read() as reader:
        assert order.waiting(reader, place, id_) is None
        assert not progress.lost_own(reader, "bob")
    with carol.store.read() as reader:
        assert not progress.lost_own(reader, "carol"), "it is not hers"
    with alice.store.read() as reader:
        refs = note_queue.missing(reader)
        assert place in refs
        assert place not in note_queue.missing(reader, (), {place + id_}), "not told twice"


def test_who_is_not_in_the_conversation_lacks_nothing(world: World) -> None:
    """Whatever somebody asks for, and however often."""
    alice = world.clients["alice"]
    turns(world, 6)
    (place,) = alice.context.conversations
    before = lost(alice)
    ((id_, _lacking),) = before.items()
    sender = alice.context.contacts.named("carol")
    told = Told({})
    for name in ("carol", "dave"):
        wanted = Refs(wanted=(place + id_, place + bytes(16), bytes(16) + id_))
        contact = replace(sender, entry=replace(sender.entry, name=name))
        taken = partial(
            take_refs, told=told, reception=reception(alice), contact=contact, refs=wanted
        )
        alice.store.write(taken)
    assert lost(alice) == before


def reception(client: Client) -> Reception:
    return Reception(client.name, client.world.now, 0, True, client.context.contacts.directories)


def test_the_words_say_what_to_do() -> None:
    def label(name: str) -> str:
        return f"<{name}>"

    line = progress.lost_line({b"1": ()}, "F", label)
    assert line.startswith("others in F answer a message of yours")
    assert "once more" not in line
    line = progress.lost_line({b"1": ("carol",), b"2": ("bob", "carol"), b"3": ()}, "F", label)
    assert "3 messages of yours" in line
    assert line.endswith("<bob>, <carol> have not got 2 of them: write them once more")
    line = progress.lost_line({b"1": ("carol",)}, "F", label)
    assert line.endswith("<carol> has not got it: write it once more")
    line = progress.begun_anew_line(1_800_000_000_000, ["bob"], label)
    assert line.startswith("this account began anew on 2027-01-15")
    assert "<bob> has not answered since" in line
