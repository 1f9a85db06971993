"""Sessions that were begun and not answered, or only half, displace none that is confirmed: after
weeks off the first that is written is read at once, whatever was lost when the two began."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.claim import Marker
from cbfs.receiving.copies import begin_anew
from cbfs.receiving.lost_state import notice_loss
from cbfs.storage.store import Table, Writer
from cbfs_common.session.session import Stage
from tests.support.healing_world import Client, World

DAY = 86_400_000
SESSIONS = (Table.SESSIONS, Table.PREKEYS)
OFF = 37 * DAY
FIRST = 6
"""Envelopes of which any may be lost."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.begin(("alice", "bob"))
    yield made
    made.close()


def goes_to(world: World, client: Client, other: Client, text: bytes) -> list[bytes]:
    """The envelopes of what a client writes to another."""
    client.load()
    client.write((other.name,), text)
    before = len(other.mail)
    client._deliver(other, again=False, fails=False)
    world.now += 1_000
    return other.mail[before:]


def take(client: Client) -> None:
    mail, client.mail = client.mail, []
    client.load()
    client.receive(mail)


def off(world: World) -> None:
    """Both are away, and look after their sessions when they come back."""
    world.now += OFF
    for client in world.clients.values():
        client.load()
        trio.run(client.context.sessions.tidy, client.store, world.now // 1_000)
        client.renew_prekeys()


def texts(client: Client) -> list[bytes]:
    return [text for _sender, _id, _parents, text in client.shown()]


LOSSES = [lost for lost in product((False, True), repeat=FIRST) if sum(lost) in {0, 1, 3, 4, 6}]


@pytest.mark.parametrize("whose", [("alice", "bob"), ("bob", "alice")])
@pytest.mark.parametrize("shift", range(3))
def test_what_is_written_first_after_weeks_is_read(
    world: World, whose: tuple[str, str], shift: int
) -> None:
    """Both have begun at once, and of their first envelopes some were lost."""
    alice, bob = (world.clients[name] for name in ("alice", "bob"))
    for number, lost in enumerate(LOSSES[shift::9]):
        for turn in range(FIRST // 2):
            for client, other, gone in ((alice, bob, lost[turn]), (bob, alice, lost[-turn - 1])):
                text = b"%d %d of %s" % (number, turn, client.name.encode())
                goes_to(world, client, other, text)
                if gone:
                    other.mail.clear()
            take(alice)
            take(bob)
        off(world)
        for name in whose:
            client = world.clients[name]
            other = bob if client is alice else alice
            text = b"%d, after it, of %s" % (number, name.encode())
            assert len(goes_to(world, client, other, text)) == 1
            take(other)
            assert text in texts(other), (lost, name)
        for client in (alice, bob):
            client.store.write(lambda writer: [writer.delete_prefix(t, b"") for t in SESSIONS])
            client.load()
            client.renew_prekeys()


def test_a_session_that_nobody_answers_takes_no_place_of_a_confirmed_one(world: World) -> None:
    """Both have begun, and only bob's start was lost. He has a session that is out, for ever, and
    one that is confirmed."""
    alice, bob = (world.clients[name] for name in ("alice", "bob"))
    goes_to(world, alice, bob, b"hello")
    goes_to(world, bob, alice, b"lost")
    alice.mail.clear()
    take(bob)
    for turn in range(2):
        for client, other in ((bob, alice), (alice, bob)):
            goes_to(world, client, other, b"%d of %s" % (turn, client.name.encode()))
            take(other)
    bob.load()
    stages = [h.session.stage for h in bob.context.sessions._held.values()]
    assert sorted(stage.value for stage in stages) == ["confirmed", "out"]
    for week in range(5):
        world.now += 8 * DAY
        bob.load()
        trio.run(bob.context.sessions.tidy, bob.store, world.now // 1_000)
        chosen = bob.chosen(alice)
        assert chosen.first is not None
        assert not chosen.silent
        assert chosen.first.stage is Stage.CONFIRMED, week
        for client, other in ((bob, alice), (alice, bob)):
            text = b"week %d of %s" % (week, client.name.encode())
            goes_to(world, client, other, text)
            take(other)
            assert text in texts(other)
    trio.run(bob.context.sessions.tidy, bob.store, world.now // 1_000)
    assert [h.session.stage for h in bob.context.sessions._held.values()] == [Stage.CONFIRMED]


@pytest.mark.parametrize("days", [1, 8, 40])
def test_who_has_lost_all_and_only_reads_is_heard_late_too(world: World, days: int) -> None:
    """alice was restored. For so long bob's clock has not ticked for her: he has many contacts, and
    has not written to her. Then he does, on the session that she has lost."""
    alice, bob = (world.clients[name] for name in ("alice", "bob"))
    for _ in range(3):
        for client, other in ((alice, bob), (bob, alice)):
            goes_to(world, client, other, b"hello")
        take(alice)
        take(bob)
    alice.load()
    alice.restore(alice.export())
    alice.tick(bob)
    take(bob)
    for _ in range(days):
        world.now += DAY
        alice.load()
        alice.tick(bob)
        take(bob)
    goes_to(world, bob, alice, b"are you there")
    take(alice)
    for _ in range(3):
        for client, other in ((bob, alice), (alice, bob)):
            client.load()
            client.tick(other)
            client.pump(fails=False)
            take(other)
    assert b"are you there" in texts(alice)


def test_a_claim_ends_what_no_mark_tells(world: World) -> None:
    """bob has lost everything, and alice knows his new life. Then a backup of before is put back
    and not noticed: he lives his old life, which counts no more, and what she writes he cannot
    read."""
    alice, bob = (world.clients[name] for name in ("alice", "bob"))

    def both(times: int) -> None:
        for _ in range(times):
            for client, other in ((alice, bob), (bob, alice)):
                client.load()
                client.tick(other)
                client.pump(fails=False)
                take(other)

    goes_to(world, alice, bob, b"hello")
    both(3)
    with bob.store.read() as reader:
        backup = {table: list(reader.items(table)) for table in Table}
    bob.restore(bob.export())
    both(4)

    def put_back(writer: Writer) -> None:
        for table in Table:
            writer.delete_prefix(table, b"")
            for key, value in backup[table]:
                writer.put(table, key, value)

    bob.store.write(put_back)
    bob.load()
    bob.renew_prekeys()
    goes_to(world, alice, bob, b"to bob")
    both(6)
    assert b"to bob" not in texts(bob)
    marker = Marker(bob.account.transport, SYSTEM_RANDOM)
    bob.store.write(lambda writer: begin_anew(writer, marker, world.now))
    notice_loss(bob.store, "bob", world.now, SYSTEM_RANDOM)
    bob.load()
    bob.renew_prekeys()
    both(6)
    assert b"to bob" in texts(bob)
