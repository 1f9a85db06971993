"""Envelopes that were changed on their way: their recipient's client keeps them, and no more."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cbfs.messages.queues.quarantine import Why, reason_at
from cbfs.storage.store import Table
from cbfs_common.messages.body import encode_part
from tests.engine.test_hostile_peers import Mallory, messages, part
from tests.support.healing_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.begin(("alice", "bob", "mallory"))
    yield made
    made.close()


@pytest.mark.parametrize("at", [0, 15, 16, 2_000, 3_000, 16_383])
def test_who_garbles_an_envelope_learns_nothing(at: int, world: World) -> None:
    """It is kept as noise, no note is owed to anybody, and the sender's own one still opens. (A
    server that had both mailboxes saw by the answer whose envelope it had changed.)"""
    mallory, alice = Mallory(world), world.clients["alice"]
    mallory.send(encode_part(part(b"first")))
    for number in (1, 2):  # in turn 0, and in a turn of its own
        envelope = mallory.seal(encode_part(part(b"%d" % number)))
        with alice.store.read() as reader:
            before = [list(reader.items(table)) for table in (Table.NOTE_ITEMS, Table.SESSIONS)]
        alice.receive([envelope[:at] + bytes([envelope[at] ^ 1]) + envelope[at + 1 :]])
        with alice.store.read() as reader:
            after = [list(reader.items(table)) for table in (Table.NOTE_ITEMS, Table.SESSIONS)]
            assert after == before
            assert reader.count(Table.QUARANTINE) == number
            assert reason_at(reader, max(reader.keys(Table.QUARANTINE))) is Why.NOISE
        alice.receive([envelope])
        assert [m.sender for m in messages(alice)].count("mallory") == 1 + number
        alice.write(("mallory",), b"answer")
        alice.pump(fails=False)
        mallory.client.receive(mallory.client.mail)
