"""What somebody can do to a session who has some of its secrets, or the envelopes: each attack that
PROTOCOL.rst says does not work, as it would be done."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbfs_common.errors import CryptoError
from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.primitives import KemKey, Random, seal
from cbfs_common.session import envelope as envelopes
from cbfs_common.session.envelope import FIRST, LATER, number_of
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.session.session import (
    Duplicate,
    Party,
    Session,
    SessionDiverged,
    Stage,
    decode_session,
    make_turn_keys,
    outer_of,
)
from cbfs_common.session.state import Sending
from tests.support.talking import LIFE, NOW, opened, party, peer_of, prekey_of, seeded, started

RANDOM = seeded("test_session_attacks")
ALICE, BOB = party(RANDOM), party(RANDOM)
PAIR = prekey_of(RANDOM, PrekeyKind.LAST_RESORT)


def say(session: Session, me: Party, body: bytes = b"x") -> tuple[Session, bytes]:
    return session.seal(me, body, RANDOM, LIFE)


def began() -> tuple[Session, Session]:
    """Alice's and Bob's, after her first message."""
    alice, envelope = say(started(ALICE, BOB, PAIR, RANDOM), ALICE)
    return alice, opened(BOB, PAIR, envelope)[0]


def exchange(sender: Session, me: Party, receiver: Session, to: Party) -> tuple[Session, Session]:
    sender, envelope = say(sender, me)
    return sender, receiver.open(to, envelope, NOW)[0]


def talking() -> tuple[Session, Session]:
    """Two turns of each; Alice writes next."""
    alice, bob = began()
    for _ in range(2):
        bob, alice = exchange(bob, BOB, alice, ALICE)
        alice, bob = exchange(alice, ALICE, bob, BOB)
    bob, alice = exchange(bob, BOB, alice, ALICE)
    return alice, bob


# Garbled envelopes


def waiting() -> dict[str, tuple[Session | None, bytes]]:
    """Bob, or nobody yet, and an envelope that opens, of every place that one can have."""
    start, (alice, bob) = started(ALICE, BOB, PAIR, RANDOM), talking()
    start, first = say(start, ALICE)
    start, second = say(start, ALICE)
    _, late = say(start, ALICE)
    known = opened(BOB, PAIR, first)[0]
    skipping = known.open(BOB, late, NOW)[0]
    alice, turn = say(alice, ALICE)
    turned = bob.open(BOB, turn, NOW)[0]
    alice, skipped = say(alice, ALICE)
    alice, last = say(alice, ALICE)
    far = turned.open(BOB, last, NOW)[0]
    far, alice = exchange(far, BOB, alice, ALICE)
    alice, far = exchange(alice, ALICE, far, BOB)
    return {
        "the first": (None, first),
        "of turn 0": (known, second),
        "of turn 0, skipped": (skipping, second),
        "a new turn": (bob, turn),
        "of the last turn": (turned, skipped),
        "of an earlier turn": (far, skipped),
    }


WAITING = waiting()
BORDERS = sorted(
    {0, 11, 12, 15, 16, 47, 48, 1_135, 1_136, 2_287, 2_288, ENVELOPE_SIZE - 1}
    | {at for layout in (FIRST, LATER) for at in (layout.auth - 1, layout.auth, layout.body)}
)


def take(session: Session | None, envelope: bytes) -> tuple[Session, bytes]:
    return opened(BOB, PAIR, envelope) if session is None else session.open(BOB, envelope, NOW)


@pytest.mark.parametrize("place", WAITING)
@settings(max_examples=60, deadline=None)
@given(
    at=st.one_of(st.sampled_from(BORDERS), st.integers(0, ENVELOPE_SIZE - 1)),
    bit=st.integers(0, 7),
)
def test_any_flipped_bit_makes_it_noise(place: str, at: int, bit: int) -> None:
    """Not an envelope that diverged, or one that has come: nothing is told of whose it was."""
    session, envelope = WAITING[place]
    changed = envelope[:at] + bytes([envelope[at] ^ 1 << bit]) + envelope[at + 1 :]
    with pytest.raises(CryptoError) as caught:
        take(session, changed)
    assert caught.type is CryptoError
    assert take(session, envelope)[1] == b"x"


def test_an_envelope_that_was_changed_after_it_was_opened_is_noise_too() -> None:
    """Not a duplicate: whoever was told of those could find out whose an envelope is."""
    for session, envelope in WAITING.values():
        after, _ = take(session, envelope)
        with pytest.raises(Duplicate):
            after.open(BOB, envelope, NOW)
        with pytest.raises(CryptoError) as caught:
            after.open(BOB, envelope[:-1] + bytes([envelope[-1] ^ 1]), NOW)
        assert caught.type is CryptoError


# States that were copied or restored


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[bytes, set[tuple[bytes, bytes]]]]:
    """What was sealed by each key and nonce: plain text and associated data."""
    seen: dict[bytes, set[tuple[bytes, bytes]]] = {}

    def noting(key: bytes, nonce: bytes, plain: bytes, data: bytes = b"") -> bytes:
        seen.setdefault(key + nonce, set()).add((bytes(plain), bytes(data)))
        return seal(key, nonce, plain, data)

    monkeypatch.setattr(envelopes, "seal", noting)
    yield seen


BODIES = st.sampled_from([b"", b"one", b"two", bytes(40)])
STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "write", "back", "arrive"]), st.integers(0, 1), BODIES),
    min_size=4,
    max_size=30,
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS)
def test_no_rollback_makes_a_key_and_nonce_seal_two_things(
    sealed: dict[bytes, set[tuple[bytes, bytes]]],
    steps: list[tuple[str, int, bytes]],
) -> None:
    """Each side may go back to its first state at any time, and write something else, or the same,
    under the same number and in another turn of the same number."""
    sealed.clear()
    alice, bob = began()
    people, now, past = (ALICE, BOB), [alice, bob], [[alice], [bob]]
    mail: list[list[bytes]] = [[], []]
    for what, side, body in steps:
        if what == "write":
            now[side], envelope = say(now[side], people[side], body)
            mail[1 - side].append(envelope)
        elif what == "back":
            now[side] = decode_session(past[side][len(body) % len(past[side])].encode())
        elif mail[side]:
            try:
                now[side], _ = now[side].open(people[side], mail[side].pop(), NOW)
            except CryptoError:
                continue
        past[side].append(now[side])
    assert all(len(what) == 1 for what in sealed.values())


@pytest.mark.parametrize("turn", ["the start", "turn 1", "the same turn"])
def test_a_number_that_is_sealed_twice_shares_no_key_and_nonce(
    turn: str, sealed: dict[bytes, set[tuple[bytes, bytes]]]
) -> None:
    """Once with each of two texts, by a state that was rolled back to before its own turn or within
    it. In the start the same text is sealed twice as well, as there more than it differs."""
    _, bob = began()
    state, me = {
        "the start": (started(ALICE, BOB, PAIR, RANDOM), ALICE),
        "turn 1": (bob, BOB),
        "the same turn": (say(bob, BOB)[0], BOB),
    }[turn]
    sealed.clear()
    made = [say(state, me, body)[1] for body in (b"one", b"two", b"one")]
    assert len({envelope[:16] for envelope in made}) == 1  # this is seen, and it is all
    assert all(len(what) == 1 for what in sealed.values())
    count = {"the start": 3 * 3, "turn 1": 3 * 2, "the same turn": 2 * 2}[turn]
    assert len(sealed) == count


# What envelopes show


def test_two_first_envelopes_share_no_bytes() -> None:
    """Neither two of one start nor two of two starts with one prekey: no six bytes are in both."""
    start = started(ALICE, BOB, PAIR, RANDOM)
    start, one = say(start, ALICE)
    start, two = say(start, ALICE)
    _, other = say(started(ALICE, BOB, PAIR, RANDOM), ALICE)
    pieces = [{e[at : at + 6] for at in range(len(e) - 5)} for e in (one, two, other)]
    assert not pieces[0] & pieces[1]
    assert not pieces[0] & pieces[2]
    assert PAIR.id not in one


# Stolen secrets


def test_the_start_opens_only_with_the_static_keys_of_its_recipient() -> None:
    """Who has all of the prekey, and one of the two static secrets, does not even see its id."""
    _, envelope = say(started(ALICE, BOB, PAIR, RANDOM), ALICE)
    for thief in (
        replace(BOB, auth_secret=RANDOM.token(32)),
        replace(BOB, kem=KemKey(RANDOM.token(64))),
    ):
        with pytest.raises(CryptoError):
            outer_of(thief, envelope)


@pytest.mark.parametrize("has", ["neither", "the auth secret", "the KEM secret"])
def test_who_forges_a_start_cannot_read_the_answer(has: str) -> None:
    """Somebody who has stolen a prekey begins a session as alice, whose static secrets he has in
    part. He knows of it all that she would know, but for those."""
    forged, envelope = say(started(ALICE, BOB, PAIR, RANDOM), ALICE)
    bob, _ = opened(BOB, PAIR, envelope)
    assert bob.stage is Stage.IN
    thief = Party(
        ALICE.identity,
        ALICE.auth_secret if has == "the auth secret" else RANDOM.token(32),
        ALICE.auth_public,
        ALICE.kem if has == "the KEM secret" else KemKey(RANDOM.token(64)),
    )
    bob, answer = say(bob, BOB)
    forged, more = say(forged, thief)
    bob, _ = bob.open(BOB, more, NOW)  # of the same turn, which follows from nothing of bob's
    with pytest.raises(SessionDiverged):
        forged.open(thief, answer, NOW)
    honest, _ = forged.open(ALICE, answer, NOW)  # she could have
    assert honest.stage is Stage.CONFIRMED
    assert bob.stage is Stage.IN


def test_the_answer_is_by_who_has_the_static_keys_of_the_recipient() -> None:
    """Who has stolen a prekey and an envelope to it, but not the KEM secret, cannot answer: it is
    needed to see the handshake."""
    _, envelope = say(started(ALICE, BOB, PAIR, RANDOM), ALICE)
    thief = replace(BOB, kem=KemKey(RANDOM.token(64)))
    with pytest.raises(CryptoError):
        opened(thief, PAIR, envelope)


def known_headers(thief: Session) -> list[bytes]:
    state = thief.state
    keys = [state.core.next_header]
    keys += [c.seal.header_key for c in (state.sending, state.receiving) if c is not None]
    return keys + [chain.header_key for chain in state.retired]


@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("whose", [0, 1])
def test_headers_heal_with_the_turn_after_the_bodies(after: int, whose: int) -> None:
    """A thief who has copied all of one side, and listens: from that side's next turn on he opens
    no body, and from the turn after it no header either."""
    sides, people = list(talking()), (ALICE, BOB)
    turns = 0
    for _ in range(after):
        sides[turns % 2], sides[1 - turns % 2] = exchange(
            sides[turns % 2], people[turns % 2], sides[1 - turns % 2], people[1 - turns % 2]
        )
        turns += 1
    thief = decode_session(sides[whose].encode())
    closed = 0
    for _ in range(6):
        writer = turns % 2
        sides[writer], envelope = say(sides[writer], people[writer])
        sides[1 - writer], _ = sides[1 - writer].open(people[1 - writer], envelope, NOW)
        turns += 1
        closed += writer == whose or closed > 0
        if closed == 0:
            thief, _ = thief.open(people[whose], envelope, NOW)
            continue
        with pytest.raises(CryptoError):
            thief.open(people[whose], envelope, NOW)
        seen = any(number_of(key, envelope) is not None for key in known_headers(thief))
        assert seen == (closed == 1)


def test_who_writes_next_says_the_same_life() -> None:
    """Who has stolen the state of a session cannot say in it that its peer has lost all."""
    alice, bob = talking()
    assert alice.own_life == LIFE
    _, envelope = alice.seal(ALICE, b"x", RANDOM, bytes(8))
    assert bob.open(BOB, envelope, NOW)[0].peer_life == LIFE


def test_randomness_that_is_drawn_is_what_is_used() -> None:
    """Each first envelope draws an f and an encapsulation of its own."""
    drawn: list[int] = []

    def token(size: int) -> bytes:
        drawn.append(size)
        return RANDOM.token(size)

    start = started(ALICE, BOB, PAIR, RANDOM)
    random = Random(token, RANDOM.encapsulate)
    for _ in range(3):
        start, _ = start.seal(ALICE, b"x", random, LIFE)
    assert drawn == [32] * 3


def test_who_receives_could_have_written_it_all() -> None:
    """So no envelope, key or state of bob's shows a third person that it was alice: with what he
    has himself, before her envelopes come, he makes others that open just as hers do."""
    alice, envelope = say(started(ALICE, BOB, PAIR, RANDOM), ALICE)
    bob, _ = opened(BOB, PAIR, envelope)
    bob, answer = say(bob, BOB)
    alice, _ = alice.open(ALICE, answer, NOW)
    alice, envelope = say(alice, ALICE)
    bob, _ = bob.open(BOB, envelope, NOW)
    for session in (opened(BOB, PAIR, say(started(ALICE, BOB, PAIR, RANDOM), ALICE)[1])[0], bob):
        heard = session.state.receiving
        assert heard is not None
        keys = make_turn_keys(RANDOM)  # which wait: hers is the turn in which he forges
        hers = Sending(heard.seal, heard.chain_key, heard.number, keys, BOB.kem.public())
        core = replace(session.state.core, peer=peer_of(BOB))
        forger = Session(replace(session.state, core=core, sending=hers))
        _, forged = forger.seal(BOB, b"I owe bob a house", RANDOM, session.peer_life or b"")
        after, body = session.open(BOB, forged, NOW)
        assert body == b"I owe bob a house"
        assert after.peer == session.peer
