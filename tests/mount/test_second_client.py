"""A client that was written from the specification alone (``tests/support/naive_client.py``), with
real servers and a real mount at the other end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.naive_client import Directory, NaiveClient
from tests.support.naive_messages import address
from tests.support.world import User, wait_for, world

pytestmark = pytest.mark.mount


@contextmanager
def bob_and_carol(place: Path) -> Iterator[tuple[User, NaiveClient]]:
    """A mount, and a naive client with a name."""
    with world(place) as here:
        bob = here.user("bob")
        policy = (place / "names" / "policy").read_text()
        carol = NaiveClient("carol", address(here.server.url), Directory(policy))
        carol.init()
        yield bob, carol


def test_it_takes_a_name_writes_to_a_mount_and_reads_the_answers(tmp_path: Path) -> None:
    with bob_and_carol(tmp_path) as (bob, carol):
        carol.begin("bob")
        first = carol.write(b"hello from a naive client\n", [])
        shown = bob.wait_message("carol", "hello from a naive client\n")
        folder = shown.parent.name
        bob.write(folder, "answer", "hello to you\n")
        answer = carol.read(wait_for)
        assert answer["chunk"] == b"hello to you\n"
        assert answer["parents"] == [(carol.person, first[1:])]
        carol.write(b"and again\n", [answer["parent"]])
        bob.wait_message("carol", "and again\n")
        bob.write(folder, "last", "good bye\n")
        assert carol.read(wait_for)["chunk"] == b"good bye\n"


def test_it_is_written_to_by_a_mount_and_answers(tmp_path: Path) -> None:
    with bob_and_carol(tmp_path) as (bob, carol):
        (bob.mountpoint / "outbox" / "carol").mkdir()
        bob.write("carol", "note", "hello from a mount\n")
        first = carol.read(wait_for)
        assert (carol.peer, first["chunk"]) == ("bob", b"hello from a mount\n")
        carol.write(b"hello to you\n", [first["parent"]])
        folder = bob.wait_message("carol", "hello to you\n").parent.name
        bob.write(folder, "last", "good bye\n")
        assert carol.read(wait_for)["chunk"] == b"good bye\n"
