"""Who tells different things to different members of a conversation is noticed when one of them
answers; so is who leaves somebody out. What is missing stands in its place, with why."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.messages import history, order
from cbfs.messages.queues import note_queue
from cbfs.messages.queues.note_queue import NoteKind
from cbfs.messages.transcript import Line
from cbfs_common.limits import ASKS_MAX
from cbfs_common.messages.body import Note, Parent, Part, Refs, encode_note, encode_part
from tests.support.healing_world import Client, World
from tests.support.parts import sole_part, who

PEOPLE = ("alice", "bob", "carol")
HOUR = 3_600_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.begin(PEOPLE)
    yield made
    made.close()


def part(text: bytes, salt: bytes = bytes(16)) -> Part:
    return sole_part(text, PEOPLE, salt=salt)


def send(sender: Client, to: Client, body: bytes) -> None:
    """Whatever it says, sealed by ``sender``."""
    batch = sender.context.sessions.batch()
    to.receive([batch.seal(sender.session(to), to.name, body, 1)])
    batch.done()


def text(client: Client) -> list[str]:
    """The one transcript, in lines, without dates."""
    with client.store.read() as reader:
        (key,) = client.context.conversations
        lines: list[Line] = sorted(
            history.transcript_entries(reader, key, 0), key=lambda line: (line.place, line.tie)
        )
        entries = [history.transcript_entry(reader, key, line.serial) for line in lines]
        assert [len(entry) for entry in entries] == [line.size for line in lines]
    whole = b"".join(entries).decode()
    return [line.partition("] ")[2] for line in whole.splitlines()]


def exchange(world: World, rounds: int = 6) -> None:
    """Everybody tells what is due, and hears it."""
    for _ in range(rounds):
        world.now += HOUR
        for client in world.clients.values():
            client.load()
            client.pump(fails=False)
        for client in world.clients.values():
            mail, client.mail = client.mail, []
            client.receive(mail)


def test_another_text_for_each_member_is_noticed_by_the_answer(world: World) -> None:
    """carol tells alice "yes" and bob "no", in messages that are the same but for that. alice
    answers; what she answers is not what bob has, and no request of his brings it."""
    alice, bob, carol = (world.clients[name] for name in PEOPLE)
    send(carol, alice, encode_part(part(b"yes")))
    send(carol, bob, encode_part(part(b"no")))
    alice.load()
    alice.write(("bob", "carol"), b"good")
    alice.pump(fails=False)
    bob.load()
    bob.receive(bob.mail)
    assert text(alice) == ["carol: yes", "alice: good"]
    assert text(bob) == [
        "carol: no",
        "(alice answers a message of carol's that has not come)",
        "alice: good",
    ]
    exchange(world, 3)
    assert text(bob)[0] == "carol: no"
    assert "has not come" in text(bob)[1], "alice has it, and does not pass it on"


def test_two_texts_under_one_id_are_two_messages(world: World) -> None:
    """Should somebody find two texts whose hashes begin alike, the rest of them tells them
    apart; the second does not take the place of the first."""
    alice, bob = world.clients["alice"], world.clients["bob"]
    send(bob, alice, encode_part(part(b"yes")))
    alice.load()
    (key,) = alice.context.conversations
    with alice.store.read() as reader:
        (message,) = history.load_messages(reader, key)
    other = message.id + bytes(16)
    answer = replace(part(b"good"), parents=(Parent(who("bob"), other),))
    send(world.clients["carol"], alice, encode_part(answer))
    assert "(carol answers a message of bob's that has not come)" in text(alice)


def test_what_was_asked_for_in_vain_is_a_warning_until_it_comes(world: World) -> None:
    alice, bob, carol = (world.clients[name] for name in PEOPLE)
    lost = part(b"lost")
    answer = replace(part(b"yes"), parents=(Parent(who("carol"), lost.hash(who("carol"))),))
    send(bob, alice, encode_part(answer))
    assert text(alice) == ["(bob answers a message of carol's that has not come)", "bob: yes"]
    (key,) = alice.context.conversations
    for _ in range(ASKS_MAX):
        with alice.store.read() as reader:
            assert order.in_vain(reader, key) == 0
            wanted = list(note_queue.items_for(reader, "carol", NoteKind.WANT))
        assert wanted
        alice.store.write(lambda w, told=wanted: note_queue.settle(w, told, 1))  # type: ignore[misc]
    with alice.store.read() as reader:
        assert order.in_vain(reader, key) == 1
    assert text(alice)[0] == "(bob answers a message of carol's that never came: ask them)"
    send(carol, alice, encode_part(lost))
    with alice.store.read() as reader:
        assert order.in_vain(reader, key) == 0
    assert text(alice) == ["carol: lost", "bob: yes"]


def test_the_warning_goes_with_the_answer(world: World) -> None:
    alice, bob = world.clients["alice"], world.clients["bob"]
    answer = replace(part(b"yes"), parents=(Parent(who("carol"), bytes(32)),))
    send(bob, alice, encode_part(answer))
    (key,) = alice.context.conversations
    alice.store.write(
        lambda w: history.explain_absence(w, key, "carol", bytes(16), order.Absence.IN_VAIN)
    )
    with alice.store.read() as reader:
        assert order.in_vain(reader, key) == 1
        (message,) = history.load_messages(reader, key)
    alice.store.write(lambda writer: history.remove_message(writer, message))
    with alice.store.read() as reader:
        assert order.in_vain(reader, key) == 0
        assert order.waiting(reader, key, bytes(16)) is None


@pytest.mark.parametrize("removed", ["while it waits", "when it is at carol's server"])
def test_what_was_taken_back_is_said_to_be(removed: str, world: World) -> None:
    """alice removes what bob has not got, after she has written more: what she wrote says so
    still, and bob is told why nothing is there. He asks nobody."""
    alice, bob, carol = (world.clients[name] for name in PEOPLE)
    gone = alice.write(("bob", "carol"), b"gone")
    alice.load()
    alice.write(("bob", "carol"), b"kept")
    if removed != "while it waits":
        alice._deliver(carol, again=False, fails=False)
    alice.remove(gone)
    alice.pump(fails=False)
    bob.receive(bob.mail)
    bob.mail = []
    assert text(bob)[-1] == "alice: kept"
    exchange(world)
    assert text(bob) == ["(alice has taken back a message)", "alice: kept"]
    assert text(alice) == ["alice: kept"]
    for client in (bob, carol):
        with client.store.read() as reader:
            assert not list(note_queue.items_for(reader, "alice", NoteKind.WANT))
            assert not order.in_vain(reader, next(iter(client.context.conversations)))


def test_only_its_author_takes_a_message_back(world: World) -> None:
    """As far as who answers it says whose it is. What is here stays, whoever takes it back."""
    alice, bob, carol = (world.clients[name] for name in PEOPLE)
    lost = part(b"lost")
    answer = replace(part(b"yes"), parents=(Parent(who("bob"), lost.hash(who("bob"))),))
    send(carol, alice, encode_part(answer))
    before = text(alice)
    ref = lost.conversation + lost.hash(who("bob"))[:16]
    taken = encode_note(Note(Refs(taken_back=(ref,)), b""))
    send(carol, alice, taken)
    assert text(alice) == before
    send(bob, alice, taken)
    assert text(alice) == ["(carol answers a message that bob has taken back)", "carol: yes"]
    send(bob, alice, encode_part(lost))
    send(bob, alice, taken)
    assert text(alice) == ["bob: lost", "carol: yes"]


def test_who_claims_the_message_of_another_does_not_take_it_back(world: World) -> None:
    """bob is asked for it all the same, whatever carol says of a message that she calls hers; and
    what never comes is a warning."""
    alice, bob, carol = (world.clients[name] for name in PEOPLE)
    hash_ = part(b"lost").hash(who("bob"))
    for sender in (bob, carol):
        answer = replace(part(b"yes"), parents=(Parent(who(sender.name), hash_),))
        send(sender, alice, encode_part(answer))
    (key,) = alice.context.conversations
    ref = key + hash_[:16]
    taken = encode_note(Note(Refs(taken_back=(ref,)), b""))
    send(carol, alice, taken)
    said = ["(bob has written something before this that has not come)", "bob: yes"]
    claimed = ["(carol has taken back a message)", "carol: yes"]
    assert sorted(text(alice)) == sorted(said + claimed)
    with alice.store.read() as reader:
        assert [each.ref for each in note_queue.items_for(reader, "bob", NoteKind.WANT)] == [ref]
    alice.store.write(
        lambda w: history.explain_absence(w, key, "bob", ref[16:], order.Absence.IN_VAIN)
    )
    send(carol, alice, taken)
    with alice.store.read() as reader:
        assert order.in_vain(reader, key) == 1
    assert "(bob has written something before this that never came: ask them)" in text(alice)
    send(bob, alice, taken)
    assert "(bob has taken back a message)" in text(alice)
    with alice.store.read() as reader:
        assert order.in_vain(reader, key) == 0
        assert not list(note_queue.items_for(reader, "bob", NoteKind.WANT))


def test_who_is_restored_and_sends_a_draft_again_sends_one_message(world: World) -> None:
    """What names the second one names the first one, too, where only that is."""
    alice, bob, carol = (world.clients[name] for name in PEOPLE)
    first = part(b"draft", SYSTEM_RANDOM.token(16))
    again = replace(first, date=first.date + HOUR)
    answer = replace(part(b"yes"), parents=(Parent(who("bob"), again.hash(who("bob"))),))
    send(bob, alice, encode_part(first))
    send(carol, alice, encode_part(answer))
    assert "(carol answers a message of bob's that has not come)" in text(alice)
    send(bob, alice, encode_part(again))
    assert sorted(text(alice)) == ["bob: draft", "carol: yes"]


def test_parts_that_say_different_things_are_no_message(world: World) -> None:
    """They differ in number, chunk and bundle, and in nothing else: what they say is hashed with
    each, and into how many they are cut is refused, with a word."""
    alice, bob = world.clients["alice"], world.clients["bob"]
    whole = b"0123456789"
    message = replace(part(whole), count=2, chunk=whole[:5])
    second = replace(message, number=1, chunk=whole[5:])
    send(bob, alice, encode_part(message))
    for changed in (
        replace(second, subject="lunch"),
        replace(second, date=1),
        replace(second, file_name="x"),
        replace(second, parents=(Parent(who("bob"), bytes(32)),)),
    ):
        send(bob, alice, encode_part(changed))
    assert not alice.context.conversations or not text(alice)
    send(bob, alice, encode_part(replace(message, count=4, number=3, chunk=b"9")))
    assert any("dropped" in line for line in alice.context.problems.lines())
    send(bob, alice, encode_part(second))
    assert text(alice) == ["bob: 0123456789"]
