"""How soon lost messages are there: clients without a network, second by second."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM
from cbfs_common.messages.body import Note, Refs, encode_note
from tests.support.healing_world import ONE_TIME, Client, World
from tests.support.talking import LIFE

LOST = 8
MINUTE = 60


@pytest.fixture
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        made = World(Path(place))
        made.begin(("alice", "bob", "carol"))
        yield made
        made.close()


def turn(world: World) -> None:
    """A second."""
    for client in world.clients.values():
        client.load()
        client.pump(fails=False)
    for client in world.clients.values():
        mail, client.mail = client.mail, []
        if mail:
            client.receive(mail)
    world.now += 1_000


def texts(client: Client) -> list[bytes]:
    return [text for _sender, _id, _parents, text in client.shown()]


@pytest.mark.parametrize("people", [("bob",), ("bob", "carol")])
def test_eight_lost_messages_are_there_within_a_minute(
    world: World, people: tuple[str, ...]
) -> None:
    """From when the next one shows that they are missing."""
    alice, bob = world.clients["alice"], world.clients["bob"]
    alice.write(people, b"first")
    turn(world)
    written = [b"first"]
    for number in range(LOST):
        written.append(b"lost %d" % number)
        alice.load()
        alice.write(people, written[-1])
        alice.pump(fails=False)
        bob.mail.clear()
        world.now += 1_000
    written.append(b"last")
    alice.load()
    alice.write(people, written[-1])
    for _ in range(MINUTE):
        turn(world)
        if len(texts(bob)) == len(written):
            break
    assert texts(bob) == written


HOUR = 3_600_000
WEEK = 7 * 24 * HOUR


def five_hours(world: World) -> None:
    """All is sent and read that can be; then time passes."""
    turn(world)
    world.now += 5 * HOUR


def test_what_a_prekey_of_others_has_made_unreadable_arrives_over_the_session_that_works(
    world: World,
) -> None:
    """bob's server gives everybody one prekey, and for ever: whoever comes second begins sessions
    that he cannot read. He is heard all the same, and knows how to answer."""
    alice, bob, carol = (world.clients[name] for name in ("alice", "bob", "carol"))
    bob.shelf.says = ONE_TIME
    alice.write(("bob",), b"first")
    turn(world)
    carol.load()
    carol.write(("bob",), b"unreadable")
    for _ in range(12):  # the first two offers go into such sessions as well
        five_hours(world)
    assert texts(bob) == [b"first"]
    bob.load()
    bob.write(("carol",), b"of bob's own")
    turn(world)
    assert texts(carol) == [b"unreadable", b"of bob's own"]
    for _ in range(200):
        five_hours(world)
        if b"unreadable" in texts(bob):
            break
    assert sorted(texts(bob)) == [b"first", b"of bob's own", b"unreadable"]


def test_a_fresh_session_that_cannot_be_read_takes_no_place_of_the_one_that_works(
    world: World,
) -> None:
    """alice's server gives everybody one prekey, for ever, and throws away what comes for two days.
    So carol begins sessions that alice cannot read. alice says nothing meanwhile."""
    alice, bob, carol = (world.clients[name] for name in ("alice", "bob", "carol"))
    alice.shelf.says = ONE_TIME
    bob.write(("alice",), b"used up")
    turn(world)
    alice.load()
    alice.write(("carol",), b"first")
    five_hours(world)
    turn(world)
    carol.load()
    carol.write(("alice",), b"of carol")
    for _ in range(12):
        carol.load()
        carol.pump(fails=False)
        alice.mail.clear()
        world.now += 5 * HOUR
    for _ in range(90):
        five_hours(world)
        if len(texts(alice)) == 3:
            break
    assert sorted(texts(alice)) == [b"first", b"of carol", b"used up"]


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_prekeys_that_others_have_used_at_both_sides_are_got_over_once_one_can_be_read(
    world: World, copies: int
) -> None:
    """carol's server gives everybody one prekey, for ever, and bob's gives one to alice that carol
    then gets a few times. Both write once a week, and take another prekey each time while they
    hear nothing. Whoever is heard at last is answered on that session."""
    alice, bob, carol = (world.clients[name] for name in ("alice", "bob", "carol"))
    carol.shelf.says = ONE_TIME
    bob.shelf.one_time[:0] = bob.shelf.one_time[:1] * copies
    alice.write(("bob", "carol"), b"first")
    turn(world)
    for week in range(copies + 1):
        for client, other in ((bob, carol), (carol, bob)):
            client.load()
            client.write((other.name,), b"%s %d" % (client.name.encode(), week))
        for _ in range(WEEK // (5 * HOUR) + 1):
            five_hours(world)
    assert b"carol %d" % copies in texts(bob)
    for _ in range(14 * WEEK // (5 * HOUR)):
        if {b"carol 0", b"bob 0"} <= {*texts(bob), *texts(carol)}:
            break
        five_hours(world)
    assert b"carol 0" in texts(bob)
    assert b"bob 0" in texts(carol)


def test_a_session_that_has_come_apart_is_given_up_once(world: World) -> None:
    """bob's state was copied: two of his envelopes are of the same turn, and alice cannot read the
    second one. It is kept, and tried again at each mount, which changes nothing."""
    alice, bob = world.clients["alice"], world.clients["bob"]
    alice.write(("bob",), b"hello")
    turn(world)
    bob.load()
    session, party = bob.session(alice), bob.account.party
    note = encode_note(Note(Refs(), b""))
    copies = [session.seal(party, note, SYSTEM_RANDOM, LIFE)[1] for _ in range(2)]
    alice.load()
    before = alice.context.sessions.lives("bob").own
    alice.receive(copies)
    sessions = alice.context.sessions
    given_up = sessions.lives("bob").own
    assert given_up != before
    assert len(sessions) == 0
    alice.load()
    alice.retry()
    assert alice.context.sessions.lives("bob").own == given_up
    alice.write(("bob",), b"after it")
    bob.write(("alice",), b"of bob")
    for _ in range(4):
        five_hours(world)
    assert sorted(texts(alice)) == sorted(texts(bob)) == [b"after it", b"hello", b"of bob"]
