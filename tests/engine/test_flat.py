"""What a message costs does not grow with an account: counted in calls, as nothing else is the same
on every machine."""

import sys
from pathlib import Path
from types import FrameType

from tests.bench.at_size import fill, text_of
from tests.support.fake_backend import NAME
from tests.support.healing_world import World

FEW, MANY = 20, 1_000
MORE = 1.1
"""Trees are a step deeper, and pages of names fuller."""


class Calls:
    """Calls of Python and C while it is open."""

    def __init__(self) -> None:
        self.count = 0

    def _called(self, _frame: FrameType, event: str, _what: object) -> None:
        self.count += event in {"call", "c_call"}

    def __enter__(self) -> "Calls":
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


def received(place: Path, conversations: int) -> int:
    """Calls to take in a message, in an account with so many conversations of three messages."""
    place.mkdir()
    world = World(place)
    world.begin((NAME, "bob"))
    alice, bob = world.clients[NAME], world.clients["bob"]
    fill(alice.store, conversations, 3 * conversations)
    alice.load()
    calls = Calls()
    for number in range(3):  # by the last one all is as it will be
        bob.write((NAME,), text_of(number))
        bob.pump(fails=False)
        mail = list(alice.mail)
        calls = Calls()
        with calls:
            alice.receive(mail)
        alice.mail.clear()
    world.close()
    return calls.count


def test_receiving_a_message_costs_the_same_with_many_conversations(tmp_path: Path) -> None:
    few, many = received(tmp_path / "few", FEW), received(tmp_path / "many", MANY)
    assert many < MORE * few, f"{few} calls with {FEW} conversations, {many} with {MANY}"
