"""Two people always have a session that both of them use, or come to one: whatever either has
forgotten as idle, crowded out or in excess, the other does not go on with that for ever."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cbfs_common.limits import SESSION_IDLE, SESSIONS_PER_PEER
from cbfs_common.session.session import Stage
from tests.support.healing_world import Client, World

DAY = 86_400_000
EVERY = 10
ROUNDS = 40
"""Days, of which people write every tenth. What they write in the first half arrives in the second,
as a third offer is due after 21."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.begin(("alice", "bob"))
    yield made
    made.close()


def wrote(client: Client, other: Client, text: bytes) -> list[bytes]:
    """The envelopes of what a client writes to another, which do not lie in the mailbox."""
    client.load()
    client.write((other.name,), text)
    before = len(other.mail)
    client._deliver(other, again=False, fails=False)
    client.world.now += 1_000
    mail, other.mail = other.mail[before:], other.mail[:before]
    return mail


def take(client: Client, mail: list[bytes] | None = None) -> None:
    if mail is None:
        mail, client.mail = client.mail, []
    client.load()
    client.receive(mail)
    client.world.now += 1_000


def tidy(client: Client) -> None:
    client.load()
    trio.run(client.context.sessions.tidy, client.store, client.world.now // 1_000)


def talk(world: World, rounds: int = 3) -> None:
    """Both tick, and take in what has come."""
    for _ in range(rounds):
        for client, other in pairs(world):
            client.load()
            client.pump(fails=False)
            client.tick(other)
        for client, _other in pairs(world):
            take(client)


def pairs(world: World) -> tuple[tuple[Client, Client], ...]:
    alice, bob = world.clients["alice"], world.clients["bob"]
    return (alice, bob), (bob, alice)


def texts(client: Client) -> set[bytes]:
    return {text for _sender, _id, _parents, text in client.shown()}


def heals(world: World, *who: str) -> None:
    """These people, or both, write now and then; each has it all in the end."""
    written = set()
    writers = [pair for pair in pairs(world) if not who or pair[0].name in who]
    for day in range(ROUNDS):
        if day % EVERY == 0:
            for client, other in writers:
                text = b"%d of %s" % (day, client.name.encode())
                other.mail += wrote(client, other, text)
                if day < ROUNDS // 2:
                    written.add(text)
        talk(world, 1)
        world.now += DAY
        for client, _other in pairs(world):
            tidy(client)
            client.look_after_prekeys()
    assert len(written) == len(writers) * ROUNDS // 2 // EVERY
    for client, _other in pairs(world):
        assert written <= texts(client), (client.name, written - texts(client))


def lose(client: Client) -> None:
    client.restore(client.export())


def test_somebody_loses_all_more_often_than_sessions_are_kept(world: World) -> None:
    (alice, bob), _ = pairs(world)
    for number in range(SESSIONS_PER_PEER + 2):
        take(bob, wrote(alice, bob, b"%d" % number))
        talk(world)
        assert b"%d" % number in texts(bob)
        lose(alice)
    heals(world)


def crossed(world: World) -> None:
    """Both have begun one at once, and each is to send on the one that the other has not heard on
    last: which is so every other time, when both write at once."""
    (alice, bob), _ = pairs(world)
    first, second = wrote(alice, bob, b"a"), wrote(bob, alice, b"b")
    take(bob, first)
    take(alice, second)
    talk(world, 6)
    for client, _other in pairs(world):
        stages = [h.session for h in client.context.sessions._held.values()]
        assert [s.stage for s in stages] == [Stage.CONFIRMED] * 2
        assert all(s.proven for s in stages)
    assert sent_on(alice, bob) != sent_on(bob, alice)


def sent_on(client: Client, other: Client) -> bytes:
    chosen = client.chosen(other).first
    assert chosen is not None
    return chosen.id


def test_both_were_away_with_something_on_its_way_on_two_sessions(world: World) -> None:
    """What was on its way then comes when they are back."""
    (alice, bob), _ = pairs(world)
    crossed(world)
    late = wrote(alice, bob, b"of alice, late"), wrote(bob, alice, b"of bob, late")
    world.now += SESSION_IDLE * 1_000 + DAY
    take(bob, late[0])
    take(alice, late[1])
    for client, _other in pairs(world):
        client.renew_prekeys()
        tidy(client)
    heals(world)


@pytest.mark.parametrize("writes", ["alice", "bob"])
def test_starts_of_former_lives_come_before_the_one_of_now_is_proven(
    world: World, writes: str
) -> None:
    """A server has held them back. They crowd out the session that is in use: its initiator knows
    it to be confirmed, and its responder has it no more, and sends on what the initiator has lost.
    Whichever of them writes then."""
    (alice, bob), _ = pairs(world)
    held = []
    for number in range(2):
        held += wrote(alice, bob, b"%d" % number)
        lose(alice)
    take(bob, wrote(alice, bob, b"now"))
    take(alice, wrote(bob, alice, b"hello"))
    stages = [h.session.stage for h in alice.context.sessions._held.values()]
    assert stages == [Stage.CONFIRMED]
    take(bob, held)
    heals(world, writes)


@pytest.mark.parametrize("writes", ["alice", "bob"])
def test_the_proof_of_a_former_life_comes_when_the_next_one_counts(
    world: World, writes: str
) -> None:
    """A server has held it back. It says nothing of which life is the later one."""
    (alice, bob), _ = pairs(world)
    take(bob, wrote(alice, bob, b"in the first life"))
    take(alice, wrote(bob, alice, b"hello"))
    late = wrote(alice, bob, b"proven in the first life")
    lose(alice)
    take(bob, wrote(alice, bob, b"in the second life"))
    talk(world)
    assert sent_on(alice, bob) == sent_on(bob, alice)
    take(bob, late)
    assert sent_on(alice, bob) == sent_on(bob, alice)
    heals(world, writes)


@pytest.mark.parametrize("writes", ["alice", "bob"])
def test_an_answer_of_a_new_life_to_a_session_that_was_begun_before_the_one_of_the_former(
    world: World, writes: str
) -> None:
    """bob's start was held back; alice has given up meanwhile what she began after it, and has
    her prekeys still."""
    (alice, bob), _ = pairs(world)
    late = wrote(bob, alice, b"held back")
    world.now += 1_000
    take(bob, wrote(alice, bob, b"in the first life"))
    talk(world)
    assert sent_on(alice, bob) == sent_on(bob, alice)
    batch = alice.context.sessions.batch()
    assert batch.diverged(sent_on(alice, bob))
    alice.store.write(batch.write)
    batch.done()
    take(alice, late)
    talk(world)
    heals(world, writes)


@pytest.mark.parametrize("writes", ["alice", "bob"])
@pytest.mark.parametrize("rounds", [0, 3])
def test_a_proof_of_the_former_life_comes_after_an_answer_of_the_next_one_to_an_older_session(
    world: World, rounds: int, writes: str
) -> None:
    """bob's start and alice's proof were held back; the start came to her next life, and its answer
    to bob before the proof. Be it that bob knows already that she has his later turns, or not."""
    (alice, bob), _ = pairs(world)
    start = wrote(bob, alice, b"held back")
    world.now += 1_000
    take(bob, wrote(alice, bob, b"in the first life"))
    take(alice, wrote(bob, alice, b"hello"))
    late = wrote(alice, bob, b"proven in the first life")
    batch = alice.context.sessions.batch()
    assert batch.diverged(sent_on(alice, bob))
    alice.store.write(batch.write)
    batch.done()
    take(alice, start)
    alice.load()
    alice.tick(bob)
    take(bob)
    talk(world, rounds)
    take(bob, late)
    talk(world)
    assert sent_on(alice, bob) == sent_on(bob, alice)
    heals(world, writes)


HALF_AN_HOUR = DAY // 48


@pytest.mark.parametrize("writes", ["alice", "bob"])
def test_a_clock_that_was_a_little_ahead_does_not_date_the_session_of_a_former_life_behind_all(
    world: World, writes: str
) -> None:
    """By less than what is looked for. bob's start was held back, and came to alice's next life."""
    (alice, bob), _ = pairs(world)
    late = wrote(bob, alice, b"held back")
    world.now += HALF_AN_HOUR
    take(bob, wrote(alice, bob, b"in the first life"))
    talk(world)
    world.now -= HALF_AN_HOUR
    batch = alice.context.sessions.batch()
    assert batch.diverged(sent_on(alice, bob))
    alice.store.write(batch.write)
    batch.done()
    take(alice, late)
    talk(world)
    heals(world, writes)


@pytest.mark.parametrize("writes", ["alice", "bob"])
def test_a_clock_that_is_put_right_leaves_sessions_in_their_order(
    world: World, writes: str
) -> None:
    """All of it was in a time to come. Then comes the proof of a former life."""
    (alice, bob), _ = pairs(world)
    world.now += 10 * DAY
    take(bob, wrote(alice, bob, b"in the first life"))
    take(alice, wrote(bob, alice, b"hello"))
    late = wrote(alice, bob, b"proven in the first life")
    lose(alice)
    take(bob, wrote(alice, bob, b"in the second life"))
    talk(world)
    assert sent_on(alice, bob) == sent_on(bob, alice)
    world.now -= 10 * DAY
    for client, _other in pairs(world):
        client.load()
        trio.run(client.context.sessions.bring_back, client.store, world.now)
    take(bob, late)
    talk(world)
    assert sent_on(alice, bob) == sent_on(bob, alice)
    heals(world, writes)


def test_prekeys_that_are_made_after_a_clock_was_put_right_are_kept_as_long_as_others(
    world: World,
) -> None:
    (alice, bob), _ = pairs(world)
    world.now += 366 * DAY
    bob.load()
    bob.renew_prekeys()
    ahead = set(bob.context.sessions.prekeys.pairs)
    world.now -= 366 * DAY
    bob.load()
    trio.run(bob.context.sessions.bring_back, bob.store, world.now)
    world.now += 60 * DAY
    alice.load()
    for client in (alice, bob):
        client.load()
        client.renew_prekeys()
    tidy(bob)
    assert not ahead & bob.context.sessions.prekeys.pairs.keys()
    take(bob, wrote(alice, bob, b"hello"))
    assert b"hello" in texts(bob)
