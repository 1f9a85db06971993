"""Each rule of the table of states does something: taken out of it, something goes wrong that is
right with it. Real clients, without a network, whose reactions are prompt: nothing ticks."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.messages.queues import delivery_queue
from cbfs_common.messages.body import Note, Refs, encode_note
from cbfs_common.session.session import Session
from cbfs_common.session.states import TABLE, Action, Event, Stage, StateChange
from tests.engine.test_redirection import thief_of
from tests.support.healing_world import Client, World

MINUTE = 60_000
NOTHING = encode_note(Note(Refs(), b""))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.begin(("alice", "bob"))
    yield made
    made.close()


def turn(world: World, times: int = 1) -> None:
    for _ in range(times):
        for client in world.clients.values():
            client.load()
            client.pump(fails=False)
        for client in world.clients.values():
            mail, client.mail = client.mail, []
            client.load()
            client.receive(mail)
        world.now += MINUTE


def talked(world: World) -> tuple[Client, Client]:
    """alice and bob, whose session is confirmed on both sides."""
    alice, bob = world.clients["alice"], world.clients["bob"]
    for client, other in ((alice, "bob"), (bob, "alice")) * 2:
        client.load()
        client.write((other,), b"of %s" % client.name.encode())
        turn(world)
    turn(world, 3)
    return alice, bob


def restored(world: World, client: Client) -> None:
    """It has all that it had but for sessions and prekeys."""
    client.load()
    client.restore(client.export())


def texts(client: Client) -> list[bytes]:
    return [text for *_, text in client.shown()]


def stages(client: Client) -> list[Stage]:
    client.load()
    return [held.session.stage for held in client.context.sessions._held.values()]


def notes_of_others_are_dropped(world: World) -> bool:
    alice, bob = talked(world)
    written = bob.write(("alice",), b"not received")
    bob.pump(fails=False)
    alice.mail.clear()
    thief = thief_of(bob, alice)
    bob.load()
    (place,) = bob.context.conversations
    wants = encode_note(Note(Refs(wanted=(place + written.id,)), b""))
    bob.receive([thief.seal(wants)])
    with bob.store.read() as reader:
        return not delivery_queue.pending(reader, "alice")


def later_notes_of_others_are_dropped(world: World) -> bool:
    alice, bob = talked(world)
    written = bob.write(("alice",), b"not received")
    bob.pump(fails=False)
    alice.mail.clear()
    thief = thief_of(bob, alice)
    bob.load()
    (place,) = bob.context.conversations
    bob.receive([thief.seal(NOTHING)])
    bob.receive([thief.seal(encode_note(Note(Refs(wanted=(place + written.id,)), b"")))])
    with bob.store.read() as reader:
        return not delivery_queue.pending(reader, "alice")


def who_has_lost_all_is_known_again(world: World) -> bool:
    """alice was restored and says nothing but a note: soon the two have a session again."""
    alice, bob = talked(world)
    restored(world, alice)
    turn(world, 4)
    chosen = alice.chosen(bob), bob.chosen(alice)
    return all(each.first is not None and each.first.proven for each in chosen[1:]) and all(
        each.first is not None and each.first.stage is Stage.CONFIRMED for each in chosen
    )


def who_is_answered_again_is_known(world: World) -> bool:
    """The first answer was lost, and alice's next envelope of the start asks for another."""
    alice, bob = talked(world)
    restored(world, alice)
    alice.pump(fails=False)
    world.now += MINUTE
    session = alice.session(bob)
    for lost in (True, False):
        batch = alice.context.sessions.batch()
        envelope = batch.seal(session, "bob", NOTHING, world.now)
        alice.store.write(batch.write)
        batch.done()
        session = alice.context.sessions.get("bob", session.id) or session
        bob.load()
        bob.receive([envelope])
        bob.pump(fails=False)
        if lost:
            alice.mail.clear()
    turn(world, 3)
    return Stage.CONFIRMED in stages(alice)


def what_was_lost_arrives(world: World) -> bool:
    """bob's message came before alice was restored to a time before it."""
    alice, bob = talked(world)
    records = alice.export()
    bob.load()
    bob.write(("alice",), b"before the loss")
    bob.pump(fails=False)
    alice.mail.clear()
    alice.restore(records)
    turn(world, 5)
    return b"before the loss" in texts(alice)


def the_answered_session_is_sent_on(world: World) -> bool:
    """After a loss alice's next message goes on the session that bob has answered."""
    alice, bob = talked(world)
    restored(world, alice)
    for _ in range(4):
        turn(world)
        if Stage.CONFIRMED in stages(alice):
            break
    first = alice.chosen(bob).first
    return first is not None and first.stage is Stage.CONFIRMED


def what_has_come_apart_begins_anew(world: World) -> bool:
    alice, bob = talked(world)
    session, party = bob.session(alice), bob.account.party
    life = alice.context.sessions.lives("bob").own
    copies = [session.seal(party, NOTHING, SYSTEM_RANDOM, bytes(8))[1] for _ in range(2)]
    alice.load()
    alice.receive(copies)
    return alice.context.sessions.lives("bob").own != life and not stages(alice)


def a_start_that_has_come_apart_is_forgotten(world: World) -> bool:
    alice, bob = talked(world)
    thief = thief_of(bob, alice)
    bob.load()
    bob.receive([thief.seal(NOTHING)])
    state = thief.session.state
    assert state.sending is not None
    thief.session = Session(replace(state, sending=replace(state.sending, chain_key=bytes(32))))
    bob.load()
    bob.receive([thief.seal(NOTHING)])
    return Stage.IN not in stages(bob)


def only_two_are_in(world: World) -> bool:
    alice, bob = talked(world)
    for _ in range(4):
        bob.load()
        bob.receive([thief_of(bob, alice).seal(NOTHING)])
    return stages(bob).count(Stage.IN) == 2


def the_answer_of_a_later_life_counts(world: World) -> bool:
    """bob's start comes late, to alice who has given up meanwhile what she had begun after it."""
    alice, bob = world.clients["alice"], world.clients["bob"]
    bob.load()
    bob.write(("alice",), b"held back")
    bob.pump(fails=False)
    late, alice.mail = alice.mail, []
    begun = {held.session.id for held in bob.context.sessions._held.values()}
    world.now += MINUTE
    alice.load()
    alice.write(("bob",), b"in the first life")
    turn(world, 4)
    alice.load()
    assert not begun & alice.context.sessions._held.keys()
    batch = alice.context.sessions.batch()
    assert batch.diverged(alice.session(bob).id)
    alice.store.write(batch.write)
    batch.done()
    alice.load()
    alice.receive(late)
    turn(world, 3)
    alice.tick(bob)
    turn(world)
    chosen = alice.chosen(bob).first, bob.chosen(alice).first
    return chosen[0] is not None and chosen[1] is not None and chosen[0].id == chosen[1].id


Rule = tuple[Stage | None, Event, Action | None]
RULES: dict[Rule, Callable[[World], bool]] = {
    (None, Event.START, Action.DOUBT): notes_of_others_are_dropped,
    (None, Event.START, Action.OWE): who_has_lost_all_is_known_again,
    (Stage.OUT, Event.ANSWER, Action.COUNT): the_answered_session_is_sent_on,
    (Stage.OUT, Event.ANSWER, Action.OWE): who_has_lost_all_is_known_again,
    (Stage.IN, Event.MORE, Action.DOUBT): later_notes_of_others_are_dropped,
    (Stage.IN, Event.MORE, Action.OWE): who_is_answered_again_is_known,
    (Stage.IN, Event.PROOF, Action.COUNT): what_was_lost_arrives,
    (Stage.IN, Event.DIVERGED, None): a_start_that_has_come_apart_is_forgotten,
    (Stage.IN, Event.CROWDED, None): only_two_are_in,
    (Stage.CONFIRMED, Event.MORE, Action.COUNT): the_answer_of_a_later_life_counts,
    (Stage.CONFIRMED, Event.DIVERGED, Action.GIVE_UP): what_has_come_apart_begins_anew,
}
"""An action, or None for that the session is deleted."""


def test_every_action_has_a_scenario() -> None:
    every = {(*key, action) for key, change in TABLE.items() for action in change.actions}
    assert every == {rule for rule in RULES if rule[2] is not None}


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_it_is_right(rule: Rule, world: World) -> None:
    assert RULES[rule](world)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_without_the_rule_it_goes_wrong(
    rule: Rule, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, event, action = rule
    change = TABLE[stage, event]
    without = StateChange(change.stage, change.actions - {action}) if action else None
    ablated = without or StateChange(stage, change.actions)
    monkeypatch.setitem(TABLE, (stage, event), ablated)
    assert not RULES[rule](world)
