"""Somebody has a backup of bob's, and begins a session with him as alice, in an old conversation:
that redirects nothing, and takes nothing away."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, Account, make_account
from cbfs.messages import lifetimes
from cbfs.messages.history import load_messages
from cbfs.messages.model import Delivery, Message
from cbfs.messages.queues import delivery_queue, note_queue
from cbfs.messages.queues.note_queue import NoteKind
from cbfs.storage.store import Table
from cbfs_common.messages.body import Note, Refs, encode_note, encode_part
from cbfs_common.messages.conversation import FOREVER, Lifetime
from cbfs_common.session.envelope import seal_envelope
from cbfs_common.session.prekey import PrekeyKind, PrekeyPair
from cbfs_common.session.session import Peer, Session, Stage, decode_session
from tests.support.changing_world import going_on
from tests.support.forged_start import Thief, opened
from tests.support.healing_world import Client, World, contact_of
from tests.support.parts import sole_part, talk_id

HOUR = 3_600_000
PEOPLE = ("alice", "bob")
THREE = (*PEOPLE, "mallory")
ROOT = talk_id(PEOPLE)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """alice and bob have talked, and bob's last message has no receipt."""
    made = World(tmp_path)
    made.begin(PEOPLE)
    alice, bob = made.clients["alice"], made.clients["bob"]
    alice.write(("bob",), b"hello")
    for _ in range(3):
        both(made)
    bob.write(("alice",), b"without a receipt")
    bob.pump(fails=False)
    yield made
    made.close()


def both(world: World) -> None:
    """All is sent that waits, each ticks for the other, and all is read."""
    for client in world.clients.values():
        client.load()
        client.pump(fails=False)
        for other in world.clients.values():
            if other is not client:
                client.tick(other)
    for client in world.clients.values():
        mail, client.mail = client.mail, []
        client.receive(mail)
        client.load()
    world.now += HOUR


def thief_of(
    bob: Client, alice: Client, fresh: Account | None = None, pair: PrekeyPair | None = None
) -> Thief:
    """``fresh``: what alice has in the place of her account. ``pair``: of bob's prekeys, by default
    the oldest."""
    account, hers = bob.account, fresh or alice.account
    profile = account.profile
    peer = Peer(profile.identity(account.person), profile.auth, profile.kem)
    posed = hers.profile
    keys = posed.identity(hers.person), posed.auth, hers.kem_public
    pair = pair or next(iter(bob.context.sessions.prekeys.pairs.values()))
    return Thief(pair, account.party, peer, keys)


def texts(client: Client) -> list[bytes]:
    return [text for _sender, _id, _parents, text in client.shown()]


def own_messages(client: Client) -> list[Message]:
    with client.store.read() as reader:
        found = [m for key in client.context.conversations for m in load_messages(reader, key)]
    return [message for message in found if message.sender == client.name]


def test_a_stolen_prekey_redirects_nothing(world: World) -> None:
    alice, bob = (world.clients[name] for name in PEOPLE)
    stolen = [decode_session(h.session.encode()) for h in bob.context.sessions._held.values()]
    both(world)  # one round trip from the clean machine
    bob.write(("alice",), b"without a receipt either")
    bob.pump(fails=False)
    lost, alice.mail = alice.mail, []
    thief = thief_of(bob, alice)
    note = Note(Refs(received=(bytes(32),), wanted=(bytes(32),)), b"")
    bob.receive([thief.seal(encode_note(note))])
    bob.receive([thief.seal(encode_part(sole_part(b"send me the key", PEOPLE)))])
    bob.load()
    with bob.store.read() as reader:
        assert not delivery_queue.pending(reader, "alice"), "nothing is sent again for him"
    bob.write(("alice",), b"the key is under the mat")
    seen = list(lost)
    for _ in range(6):
        bob.pump(fails=False)
        bob.tick(alice)
        seen += alice.mail
        both(world)
        bob.load()
    now = world.now // 1_000
    assert thief.recognises(seen), "he is answered, as she would be"
    assert not thief.reads(seen, now)
    for copy in stolen:
        assert not [body for body in opened(copy, bob.account.party, seen, now) if b"mat" in body]
    assert b"the key is under the mat" in texts(alice)
    assert b"without a receipt" in texts(alice)


def test_alice_goes_on_at_once_where_the_thief_was_heard_before(world: World) -> None:
    alice, bob = (world.clients[name] for name in PEOPLE)
    both(world)
    thief = thief_of(bob, alice)
    bob.receive([thief.seal(encode_part(sole_part(b"as alice", PEOPLE)))])
    bob.load()
    alice.write(("bob",), b"alice herself")
    both(world)
    assert b"alice herself" in texts(bob)
    bob.write(("alice",), b"to alice")
    bob.pump(fails=False)
    assert len(alice.mail) == 2, "and one on the session that may be the thief's"
    alice.receive(alice.mail[:1])
    assert b"to alice" in texts(alice)
    chosen = bob.chosen(alice)
    assert chosen.first is not None
    assert chosen.first.stage is Stage.CONFIRMED


def test_he_moves_no_state_and_asks_for_nothing(world: World) -> None:
    """Who has a session of which the peer is proven takes no note of another."""
    alice, bob = (world.clients[name] for name in PEOPLE)
    (written,) = own_messages(bob)
    thief = thief_of(bob, alice)
    ref = written.conversation + written.id
    bob.receive([thief.seal(encode_note(Note(Refs(received=(ref,)), b"")))])
    bob.receive([thief.seal(encode_note(Note(Refs(wanted=(ref,)), b"")))])
    (after,) = own_messages(bob)
    assert after.recipients == written.recipients
    with bob.store.read() as reader:
        assert not delivery_queue.pending(reader, "alice")


def test_many_starts_of_his_leave_the_conversation_as_it_is(world: World) -> None:
    alice, bob = (world.clients[name] for name in PEOPLE)
    both(world)
    own = bob.context.sessions.lives("alice").own
    for number in range(12):
        bob.load()
        if bob.context.sessions.prekeys.pairs:
            text = b"as alice, %d" % number
            bob.receive([thief_of(bob, alice).seal(encode_part(sole_part(text, PEOPLE)))])
            bob.look_after_prekeys()
    bob.load()
    held = [h.session.stage for h in bob.context.sessions._held.values()]
    assert held.count(Stage.IN) == 2
    assert bob.context.sessions.lives("alice").own == own
    alice.write(("bob",), b"alice herself")
    both(world)
    bob.load()
    bob.write(("alice",), b"to alice")
    both(world)
    assert b"alice herself" in texts(bob)
    assert b"to alice" in texts(alice)


def test_a_start_of_his_that_comes_apart_takes_nothing_with_it(world: World) -> None:
    """He seals on it what cannot be opened: he has its header key."""
    alice, bob = (world.clients[name] for name in PEOPLE)
    both(world)
    own = bob.context.sessions.lives("alice").own
    thief = thief_of(bob, alice)
    bob.receive([thief.seal(encode_note(Note(Refs(), b"")))])
    bob.load()
    state = thief.session.state
    assert state.sending is not None
    apart = replace(state, sending=replace(state.sending, chain_key=bytes(32)))
    thief.session = Session(apart)
    bob.receive([thief.seal(b"x")])
    bob.load()
    assert bob.context.sessions.lives("alice").own == own
    assert {h.session.stage for h in bob.context.sessions._held.values()} == {Stage.CONFIRMED}


def test_a_note_under_new_keys_is_doubted_like_any(world: World) -> None:
    """alice has new keys, under which nothing is proven: he need not wait for her to write."""
    alice, bob = (world.clients[name] for name in PEOPLE)
    both(world)
    bob.load()
    written = bob.write(("alice",), b"without a receipt either")
    bob.pump(fails=False)
    fresh = make_account("alice", alice.account.server, alice.account.policy, SYSTEM_RANDOM)
    entry = replace(contact_of(alice).entry, profile=fresh.profile.encode())
    bob.know([replace(contact_of(alice), entry=entry, moved=world.now)])
    thief = thief_of(bob, alice, fresh)
    (place,) = bob.context.conversations
    ref = place + written.id
    bob.receive([thief.seal(encode_note(Note(Refs(received=(ref,)), b"")))])
    states = [dict(message.recipients)["alice"] for message in own_messages(bob)]
    assert Delivery.RECEIVED not in states


def test_he_adds_nobody_to_a_conversation(world: World) -> None:
    """Whoever is added reads what is written from then on: so he would read it after all."""
    alice, bob = (world.clients[name] for name in PEOPLE)
    both(world)
    bob.load()
    thief = thief_of(bob, alice)
    for text in ("mallory is here", "look"):
        bob.receive([thief.seal(encode_part(going_on(THREE, text, ROOT)))])
        bob.load()
    written = bob.write(("alice",), b"to alice alone")
    (message,) = (m for m in own_messages(bob) if m.id == written.id)
    assert [name for name, _state in message.recipients] == ["alice"]
    assert not any(one.next for one in bob.context.conversations.values())


def test_alice_adds_people_as_soon_as_she_is_proven(world: World) -> None:
    """She has lost everything, adds somebody, and is proven later: it comes once more."""
    alice, bob = (world.clients[name] for name in PEOPLE)
    both(world)
    alice.load()
    alice.restore(alice.export())
    session = alice.session(bob)
    part = going_on(THREE, "mallory is here", ROOT)

    def sealed(body: bytes) -> bytes:
        batch = alice.context.sessions.batch()
        known = alice.context.sessions.get("bob", session.id) or session
        envelope = batch.seal(known, "bob", body, world.now)
        alice.store.write(batch.write)
        batch.done()
        return envelope

    bob.load()
    bob.receive([sealed(encode_part(part))])
    assert len(bob.context.conversations) == 1
    with bob.store.read() as reader:
        kinds = [item.kind for item in note_queue.items_for(reader, "alice")]
    assert NoteKind.RECEIPT not in kinds, "so she offers it again"
    assert NoteKind.WANT in kinds, "and sooner when she is asked, where she is proven"
    for _ in range(3):
        bob.tick(alice)
        mail, alice.mail = alice.mail, []
        alice.receive(mail)
        alice.load()
        bob.receive([sealed(encode_note(Note(Refs(), b"")))])
        bob.load()
    there = bob.context.sessions.get("alice", session.id)
    assert there is not None
    assert there.stage is Stage.CONFIRMED
    bob.receive([sealed(encode_part(part))])
    bob.load()
    assert bob.context.conversations[ROOT].next == part.conversation
    with bob.store.read() as reader:
        assert not list(note_queue.items_for(reader, "alice", NoteKind.WANT))


def test_he_says_of_nobody_that_they_have_left(world: World) -> None:
    alice, bob = (world.clients[name] for name in PEOPLE)
    both(world)
    bob.load()
    gone = replace(sole_part(b"I have left this conversation.", PEOPLE), leaving=True)
    bob.receive([thief_of(bob, alice).seal(encode_part(gone))])
    bob.load()
    (place,) = bob.context.conversations.values()
    assert not place.left


def test_he_sets_no_lifetime(world: World) -> None:
    alice, bob = (world.clients[name] for name in PEOPLE)
    both(world)
    bob.load()
    short = replace(sole_part(b"x", PEOPLE), lifetime=Lifetime(10, 1))
    bob.receive([thief_of(bob, alice).seal(encode_part(short))])
    (place,) = bob.context.conversations
    with bob.store.read() as reader:
        assert lifetimes.setting(reader, place).lifetime == FOREVER


def test_what_is_sent_again_goes_to_alice_whoever_was_heard_last(world: World) -> None:
    """He writes whenever she has asked for something."""
    alice, bob = (world.clients[name] for name in PEOPLE)
    both(world)
    bob.load()
    written = bob.write(("alice",), b"lost on its way")
    bob.pump(fails=False)
    alice.mail.clear()
    alice.load()
    (place,) = alice.context.conversations
    thief = thief_of(bob, alice)
    bob.receive([thief.seal(encode_note(Note(Refs(), b"")))])
    session = alice.session(bob)
    batch = alice.context.sessions.batch()
    wants = encode_note(Note(Refs(wanted=(place + written.id,)), b""))
    envelope = batch.seal(session, "bob", wants, world.now)
    alice.store.write(batch.write)
    batch.done()
    bob.receive([envelope])
    bob.receive([thief.seal(encode_note(Note(Refs(), b"")))])
    bob.load()
    bob.pump(fails=False)
    alice.load()
    alice.receive(alice.mail)
    assert b"lost on its way" in texts(alice)


def test_a_long_message_stays_on_the_session_that_it_was_begun_on(world: World) -> None:
    """He writes while it is being sealed, a few parts at a time."""
    alice, bob = (world.clients[name] for name in PEOPLE)
    both(world)
    thief = thief_of(bob, alice)
    bob.receive([thief.seal(encode_note(Note(Refs(), b"")))])
    alice.load()
    alice.write(("bob",), b"alice herself")
    both(world)
    bob.load()
    long = SYSTEM_RANDOM.token(300_000)
    bob.write(("alice",), long)
    for _ in range(4):
        bob.pump(fails=False)
        bob.receive([thief.seal(encode_note(Note(Refs(), b"")))])
        bob.load()
    alice.load()
    alice.receive(alice.mail)
    assert long in texts(alice)


def begins_behind(bob: Client, alice: Client, thief: Callable[[], Thief]) -> None:
    """bob reads what alice has begun, and two starts of the thief's behind it."""
    for start in (bob.mail, [], []):
        bob.load()
        bob.receive(start or [thief().seal(encode_note(Note(Refs(), b"")))])
    bob.mail.clear()
    bob.load()


def loses_all(alice: Client) -> None:
    alice.load()
    alice.restore(alice.export())
    alice.write(("bob",), b"I have lost everything")
    alice.pump(fails=False)
    alice.mail.clear()


def test_who_has_lost_all_is_answered_when_he_begins_no_more(world: World) -> None:
    """What he can, with prekeys as new as hers: with two starts behind each of hers, hers is
    forgotten; she is read, and gets no answer. When he stops, all that she missed reaches her."""
    alice, bob = (world.clients[name] for name in PEOPLE)
    both(world)
    loses_all(alice)
    begins_behind(bob, alice, lambda: thief_of(bob, alice))
    assert b"I have lost everything" in texts(bob)
    bob.write(("alice",), b"an answer")
    both(world)
    both(world)
    assert b"an answer" not in texts(alice)
    world.now += 8 * 24 * HOUR
    bob.load()
    bob.renew_prekeys()
    alice.load()
    alice.write(("bob",), b"are you there")
    for _ in range(5):
        both(world)
    assert b"are you there" in texts(bob)
    assert b"an answer" in texts(alice)


def test_who_has_lost_all_is_answered_though_he_begins_by_prekeys_of_before(world: World) -> None:
    """Those are given to nobody any more, and their starts make room for hers."""
    alice, bob = (world.clients[name] for name in PEOPLE)
    both(world)
    stolen = [bob.context.sessions.prekeys.of(PrekeyKind.LAST_RESORT)[-1]] * 9
    world.now += 16 * 24 * HOUR
    for client in (alice, bob):
        client.load()
        client.renew_prekeys()
    loses_all(alice)
    begins_behind(bob, alice, lambda: thief_of(bob, alice, pair=stolen.pop()))
    assert b"I have lost everything" in texts(bob)
    bob.write(("alice",), b"an answer")
    for _ in range(3):
        both(world)
    assert b"an answer" in texts(alice)


def test_prekeys_of_a_clock_that_was_ahead_are_no_newer_than_hers(world: World) -> None:
    """bob's clock was a year ahead when they were made, as he knows since it is right."""
    alice, bob = (world.clients[name] for name in PEOPLE)
    both(world)
    world.now += 366 * 24 * HOUR
    bob.load()
    bob.renew_prekeys()
    stolen = [bob.context.sessions.prekeys.of(PrekeyKind.LAST_RESORT)[-1]] * 9
    world.now -= 366 * 24 * HOUR
    bob.load()
    trio.run(bob.context.sessions.bring_back, bob.store, world.now)
    world.now += 16 * 24 * HOUR
    for client in (alice, bob):
        client.load()
        client.renew_prekeys()
    loses_all(alice)
    begins_behind(bob, alice, lambda: thief_of(bob, alice, pair=stolen.pop()))
    bob.write(("alice",), b"an answer")
    for _ in range(3):
        both(world)
    assert b"an answer" in texts(alice)


def test_what_she_writes_next_puts_his_starts_behind_hers(world: World) -> None:
    """Her session is gone, which was begun by a prekey that everybody is given. She does not know
    that; what she has sent before is still known for a copy."""
    alice, bob = (world.clients[name] for name in PEOPLE)
    both(world)
    bob.shelf.one_time.clear()
    loses_all(alice)
    copies = list(bob.mail)
    begins_behind(bob, alice, lambda: thief_of(bob, alice))
    session = alice.chosen(bob).first
    assert session is not None
    assert bob.context.sessions.get("alice", session.id) is None
    bob.receive(copies)
    assert bob.context.sessions.get("alice", session.id) is None
    alice.write(("bob",), b"are you there")
    alice.pump(fails=False)
    bob.receive(copies + bob.mail)
    bob.mail.clear()
    bob.load()
    assert b"are you there" in texts(bob)
    there = bob.context.sessions.get("alice", session.id)
    assert there is not None
    assert there.state.receiving is not None
    assert not there.state.receiving.skipped, "no key that was used"
    bob.receive(copies)
    with bob.store.read() as reader:
        assert not reader.count(Table.QUARANTINE)
    bob.write(("alice",), b"an answer")
    for _ in range(3):
        both(world)
    assert b"an answer" in texts(alice)


@pytest.mark.parametrize(("later", "begins"), [(0, True), (2, True), (4, False)])
def test_whoever_has_the_header_key_of_a_turn_has_both_begin_anew_once(
    world: World, later: int, begins: bool
) -> None:
    """Of alice's turn under way, or the one before it: nothing is lost by it."""
    alice, bob = (world.clients[name] for name in PEOPLE)
    both(world)
    stolen = bob.session(alice)
    receiving = stolen.state.receiving
    assert receiving is not None
    for _ in range(later):
        bob.write(("alice",), b"of bob")
        both(world)
    bob.load()
    own = bob.context.sessions.lives("alice").own

    def seal(number: int) -> bytes:
        key = SYSTEM_RANDOM.token(32)
        return seal_envelope(receiving.seal, number, key, b"x", None)

    bob.receive([seal(4_000)])
    bob.load()
    given_up = bob.context.sessions.lives("alice").own
    assert (given_up != own) is begins
    bob.receive([seal(4_001)])
    bob.load()
    assert bob.context.sessions.lives("alice").own == given_up
    bob.write(("alice",), b"after it")
    for _ in range(4):
        both(world)
    alice.write(("bob",), b"and back")
    for _ in range(4):
        both(world)
    assert b"after it" in texts(alice)
    assert b"and back" in texts(bob)
