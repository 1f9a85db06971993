"""How soon lost messages are there: clients without a network, second by second."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.healing_world import Client, World

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
