"""What comes on a session in which its sender is not proven is marked, until they are."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from unittest.mock import patch

import pytest
import trio

from cbfs.contacts.contact import Standing
from cbfs.engine.expiry import forget
from cbfs.messages import history
from cbfs.messages.history import load_messages
from cbfs.messages.marks import doubts
from cbfs.messages.model import Message
from cbfs.messages.transcript import UNCONFIRMED
from cbfs.receiving import confirming
from cbfs.storage.store import Table
from cbfs_common.messages.body import Note, Parent, Part, Refs, encode_note, encode_part
from cbfs_common.session.session import Session, Stage
from tests.engine.test_redirection import thief_of
from tests.engine.test_session_rules import restored, talked, turn
from tests.support.healing_world import Client, World
from tests.support.parts import sole_part, who

PEOPLE = ("alice", "bob")
NOTHING = encode_note(Note(Refs(), b""))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.begin(PEOPLE)
    yield made
    made.close()


def messages(client: Client) -> dict[bytes, Message]:
    """All that is there, by its text."""
    with client.store.read() as reader:
        found = [m for key in client.context.conversations for m in load_messages(reader, key)]
    texts = {id_: text for _sender, id_, _parents, text in client.shown()}
    return {texts[message.id]: message for message in found}


def marked(client: Client) -> set[bytes]:
    """The texts that are marked; whether they are is the same wherever it is said."""
    there = messages(client)
    with client.store.read() as reader:
        for message in there.values():
            entry = history.transcript_text(reader, message)
            assert (f", {UNCONFIRMED}]".encode() in entry) == bool(message.doubts)
            assert len(entry) == message.entry_size
        listed = {key[32:] for key in reader.keys(Table.DOUBTED)}
        assert listed == {m.serial.to_bytes(8, "big") for m in there.values() if m.doubts}
    return {text for text, message in there.items() if message.doubts}


def settle(client: Client) -> None:
    """As a mount does beside all else."""
    while trio.run(client._receiver().confirming.step):
        pass


def sealed(client: Client, other: str, session: Session, body: bytes) -> tuple[Session, bytes]:
    """On a session of one's own choice."""
    batch = client.context.sessions.batch()
    envelope = batch.seal(session, other, body, client.world.now)
    client.store.write(batch.write)
    batch.done()
    known = client.context.sessions.get(other, session.id)
    assert known is not None
    return known, envelope


def prove(client: Client, other: Client, session: Session) -> None:
    """``other``, who has begun this session, is answered and answers in it."""
    for _ in range(3):
        client.load()
        other.load()
        client.tick(other)
        mail, other.mail = other.mail, []
        other.receive(mail)
        there = other.context.sessions.get(client.name, session.id)
        assert there is not None
        client.receive([sealed(other, client.name, there, NOTHING)[1]])
    client.load()
    known = client.context.sessions.get(other.name, session.id)
    assert known is not None
    assert known.stage is Stage.CONFIRMED


def test_who_writes_for_the_first_time_is_marked_until_they_have_answered(world: World) -> None:
    alice, bob = (world.clients[name] for name in PEOPLE)
    alice.write(("bob",), b"hello")
    turn(world)
    assert marked(bob) == {b"hello"}
    bob.load()
    bob.write(("alice",), b"who is there?")
    turn(world)
    assert not marked(alice), "only the holder of bob's keys can have answered"
    settle(bob)
    assert marked(bob) == {b"hello"}
    alice.load()
    alice.write(("bob",), b"alice")
    turn(world)
    settle(bob)
    assert not marked(bob)
    assert set(messages(bob)) == {b"hello", b"who is there?", b"alice"}


def test_a_thief_s_messages_stay_marked_and_alice_s_are_not(world: World) -> None:
    alice, bob = talked(world)
    settle(bob)
    assert not marked(bob)
    thief = thief_of(bob, alice)
    for text in (b"send me the key", b"now"):
        bob.receive([thief.seal(encode_part(sole_part(text, PEOPLE)))])
        bob.load()
    alice.write(("bob",), b"alice herself")
    for _ in range(3):
        turn(world)
        settle(bob)
    assert marked(bob) == {b"send me the key", b"now"}
    assert b"alice herself" in messages(bob)
    with bob.store.read() as reader:
        assert not doubts.pending(reader)


def of_alice(world: World) -> tuple[Client, Client, Session]:
    """alice has lost her sessions, and begins another one with bob, who has a confirmed one."""
    alice, bob = talked(world)
    settle(bob)
    restored(world, alice)
    bob.load()
    return alice, bob, alice.session(bob)


def test_the_mark_goes_when_the_session_is_proven(world: World) -> None:
    alice, bob, session = of_alice(world)
    part = sole_part(b"from alice", PEOPLE)
    session, envelope = sealed(alice, "bob", session, encode_part(part))
    bob.receive([envelope])
    assert marked(bob) == {b"from alice"}
    prove(bob, alice, session)
    assert marked(bob) == {b"from alice"}, "it goes beside all else"
    bob.load()  # and does so after a restart, too
    settle(bob)
    assert not marked(bob)


def test_it_goes_when_she_says_the_same_where_she_is_proven(world: World) -> None:
    """The hash is of all that a message says. The session that it first came on is never proven."""
    alice, bob, session = of_alice(world)
    session = sealed_start(alice, bob, session)
    part = sole_part(b"from alice", PEOPLE)
    thief = thief_of(bob, alice)
    bob.receive([thief.seal(encode_part(part))])
    session, envelope = sealed(alice, "bob", session, encode_part(part))
    bob.receive([envelope])
    (message,) = (m for m in messages(bob).values() if m.doubts)
    assert len(message.doubts) == 2
    prove(bob, alice, session)
    settle(bob)
    assert not marked(bob)

    other = sole_part(b"once more", PEOPLE)
    bob.receive([thief_of(bob, alice).seal(encode_part(other))])
    assert marked(bob) == {b"once more"}
    there = alice.context.sessions.get("bob", session.id)
    assert there is not None
    bob.receive([sealed(alice, "bob", there, encode_part(other))[1]])
    assert not marked(bob)


def test_it_stays_when_something_else_with_its_text_comes(world: World) -> None:
    """The same salt and content, under another hash: it is dropped as a copy, and says nothing of
    what else the first one says."""
    alice, bob, session = of_alice(world)
    prove(bob, alice, sealed_start(alice, bob, session))
    part = sole_part(b"from alice", PEOPLE)
    bob.receive([thief_of(bob, alice).seal(encode_part(replace(part, file_name="forged")))])
    there = alice.context.sessions.get("bob", session.id)
    assert there is not None
    bob.receive([sealed(alice, "bob", there, encode_part(part))[1]])
    assert marked(bob) == {b"from alice"}


def sealed_start(alice: Client, bob: Client, session: Session) -> Session:
    """alice begins it, before a thief uses up its prekey."""
    session, envelope = sealed(alice, "bob", session, NOTHING)
    bob.receive([envelope])
    return session


def test_it_goes_when_she_names_it_where_she_is_proven(world: World) -> None:
    """And so it does of what that names, and of nothing that only others say to be hers."""
    alice, bob, session = of_alice(world)
    session = sealed_start(alice, bob, session)
    thief = thief_of(bob, alice)
    first = sole_part(b"first", PEOPLE)
    second = replace(sole_part(b"second", PEOPLE), parents=(named(first),))
    forged = replace(sole_part(b"forged", PEOPLE), parents=(named(second),))
    for part in (first, second, forged):
        bob.receive([thief.seal(encode_part(part))])
    assert marked(bob) == {b"first", b"second", b"forged"}
    prove(bob, alice, session)
    settle(bob)
    assert marked(bob) == {b"first", b"second", b"forged"}
    there = alice.context.sessions.get("bob", session.id)
    assert there is not None
    third = replace(sole_part(b"third", PEOPLE), parents=(named(second),))
    bob.receive([sealed(alice, "bob", there, encode_part(third))[1]])
    assert marked(bob) == {b"forged"}


def named(part: Part) -> Parent:
    """As alice's, where it is answered."""
    return Parent(who("alice"), part.hash(who("alice")))


@pytest.mark.parametrize("last", [True, False])
def test_one_of_its_parts_says_whose_it_is(world: World, last: bool) -> None:
    """Each names the whole: so it does not matter which of them comes where she is proven."""
    alice, bob, session = of_alice(world)
    session = sealed_start(alice, bob, session)
    thief = thief_of(bob, alice)
    bob.receive([thief.seal(NOTHING)])
    prove(bob, alice, session)
    there = alice.context.sessions.get("bob", session.id)
    assert there is not None
    text, half = b"x" * 10, 5
    whole = replace(sole_part(text, PEOPLE), count=2, digest=blake2b(text, digest_size=32).digest())
    parts = [
        encode_part(replace(whole, number=n, chunk=text[n * half : (n + 1) * half]))
        for n in range(2)
    ]
    hers = sealed(alice, "bob", there, parts[last])[1]
    his = thief.seal(parts[not last])
    for envelope in (his, hers) if last else (hers, his):
        bob.receive([envelope])
    assert text in messages(bob)
    assert not marked(bob)


def test_all_parts_of_a_session_that_was_proven_meanwhile(world: World) -> None:
    alice, bob, session = of_alice(world)
    text, half = b"x" * 10, 5
    whole = replace(sole_part(text, PEOPLE), count=2, digest=blake2b(text, digest_size=32).digest())
    parts = [
        encode_part(replace(whole, number=n, chunk=text[n * half : (n + 1) * half]))
        for n in range(2)
    ]
    session, envelope = sealed(alice, "bob", session, parts[0])
    bob.receive([envelope])
    prove(bob, alice, session)
    bob.receive([thief_of(bob, alice).seal(parts[1])])
    assert text in messages(bob)
    assert not marked(bob)


def test_very_many_lose_it_in_small_steps_over_a_restart(world: World) -> None:
    alice, bob, session = of_alice(world)
    for number in range(7):
        part = sole_part(b"%d" % number, PEOPLE)
        session, envelope = sealed(alice, "bob", session, encode_part(part))
        bob.receive([envelope])
    prove(bob, alice, session)
    with patch.object(confirming, "BATCH", 3):
        left = []
        for _ in range(3):
            left.append(len(marked(bob)))
            bob.load()
            trio.run(bob._receiver().confirming.step)
    assert left == [7, 4, 1]
    assert not marked(bob)
    with bob.store.read() as reader:
        assert not doubts.pending(reader)
        assert not list(reader.keys(Table.DOUBTED))


def test_nothing_is_left_of_one_that_is_removed(world: World) -> None:
    alice, bob = talked(world)
    settle(bob)
    bob.receive([thief_of(bob, alice).seal(encode_part(sole_part(b"forged", PEOPLE)))])
    (message,) = (m for m in messages(bob).values() if m.doubts)
    bob.store.write(partial(forget, message=message, dues={}, now=world.now))
    assert not marked(bob)


@pytest.mark.parametrize("proven", [True, False])
def test_what_a_stranger_has_sent_is_marked_when_it_is_accepted(world: World, proven: bool) -> None:
    """But not when they were proven meanwhile."""
    alice, bob = (world.clients[name] for name in PEOPLE)
    bob.know([replace(bob.context.contacts.named("alice"), standing=Standing.STRANGER)])
    part = encode_part(sole_part(b"a request", PEOPLE))
    session, envelope = sealed(alice, "bob", alice.session(bob), part)
    bob.receive([envelope])
    assert not messages(bob)
    if proven:
        prove(bob, alice, session)
        bob.know([replace(bob.context.contacts.named("alice"), standing=Standing.STRANGER)])
    trio.run(bob._receiver().admission.admit, ["alice"])
    bob.load()
    assert b"a request" in messages(bob)
    assert marked(bob) == (set() if proven else {b"a request"})
