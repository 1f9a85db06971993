"""Sessions: limits, lost and stolen state, and that any bytes are refused in the same way."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs_common.errors import CryptoError, DecodeError, LimitError
from cbfs_common.limits import BODY_MAX, ENVELOPE_SIZE, SKIPPED_KEPT_MAX, SKIPPED_LIFETIME
from cbfs_common.session.envelope import number_of, route_of
from cbfs_common.session.prekey import PrekeyKind, decode_prekey
from cbfs_common.session.routes import Routes
from cbfs_common.session.session import (
    Party,
    Session,
    Stage,
    TooFar,
    decode_session,
    make_turn_keys,
    outer_of,
    start,
)
from tests.support.talking import (
    LIFE,
    NOW,
    opened,
    party,
    peer_of,
    prekey_of,
    seeded,
    started,
)

RANDOM = seeded("test_session")
ALICE, BOB = party(RANDOM), party(RANDOM)
PAIR = prekey_of(RANDOM, PrekeyKind.LAST_RESORT)


def pair_of_sessions() -> tuple[Session, Session]:
    """Alice's and Bob's, after one message each way."""
    alice, envelope = started(ALICE, BOB, PAIR, RANDOM).seal(ALICE, b"", RANDOM, LIFE)
    bob, _ = opened(BOB, PAIR, envelope)
    bob, envelope = bob.seal(BOB, b"", RANDOM, LIFE)
    return alice.open(ALICE, envelope, NOW)[0], bob


TALKING = pair_of_sessions()


def several(session: Session, me: Party, count: int) -> tuple[Session, list[bytes]]:
    envelopes = []
    for _ in range(count):
        session, envelope = session.seal(me, b"x", RANDOM, LIFE)
        envelopes.append(envelope)
    return session, envelopes


def test_a_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    fresh = started(ALICE, BOB, PAIR, RANDOM)
    for session in (fresh, TALKING[0]):
        with pytest.raises(LimitError):
            session.seal(ALICE, bytes(BODY_MAX + 1), RANDOM, LIFE)
    _, envelope = fresh.seal(ALICE, bytes(BODY_MAX), RANDOM, LIFE)
    assert len(envelope) == ENVELOPE_SIZE
    assert opened(BOB, PAIR, envelope)[1] == bytes(BODY_MAX)
    _, envelope = TALKING[0].seal(ALICE, bytes(BODY_MAX), RANDOM, LIFE)
    assert TALKING[1].open(BOB, envelope, NOW)[1] == bytes(BODY_MAX)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=BODY_MAX))
def test_any_body_comes_out_as_it_went_in(body: bytes) -> None:
    alice, bob = TALKING
    alice, envelope = alice.seal(ALICE, body, RANDOM, LIFE)
    assert len(envelope) == ENVELOPE_SIZE
    assert bob.open(BOB, envelope, NOW)[1] == body


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=64), st.sampled_from([0, 1, ENVELOPE_SIZE - 64, ENVELOPE_SIZE]))
def test_any_bytes_are_refused(data: bytes, size: int) -> None:
    data = data.ljust(size, b"\x5a")
    for me, session in zip((ALICE, BOB), TALKING, strict=True):
        with pytest.raises(CryptoError):
            session.open(me, data, NOW)
    with pytest.raises(CryptoError):
        outer_of(BOB, data)
    routes = Routes()
    routes.update(TALKING[0])
    assert routes.find(data) is None
    assert routes.search(data) is None


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_bytes_are_a_session_or_refused(data: st.DataObject) -> None:
    good = TALKING[0].encode()
    at = data.draw(st.integers(0, len(good) - 1))
    for damaged in (good[:at], good[:at] + data.draw(st.binary(max_size=8)) + good[at:]):
        try:
            assert decode_session(damaged).encode() == damaged
        except DecodeError:
            continue


def test_turn_keys_may_be_made_ahead() -> None:
    alice, bob = TALKING
    assert alice.needs_turn
    keys = make_turn_keys(RANDOM)
    sealed, envelope = alice.seal(ALICE, b"x", seeded("encapsulation"), LIFE, keys)
    assert not sealed.needs_turn
    assert bob.open(BOB, envelope, NOW)[1] == b"x"
    assert sealed.state.sending is not None
    assert sealed.state.sending.keys is keys


def test_a_session_with_oneself_is_refused() -> None:
    prekey = decode_prekey(PAIR.public(bytes(32)))
    with pytest.raises(CryptoError):
        start(BOB, peer_of(BOB), prekey, BOB.kem.public(), LIFE, RANDOM)


def test_how_far_a_session_has_come() -> None:
    alice, envelope = started(ALICE, BOB, PAIR, RANDOM).seal(ALICE, b"", RANDOM, LIFE)
    bob, _ = opened(BOB, PAIR, envelope)
    assert (alice.stage, bob.stage) == (Stage.OUT, Stage.IN)
    assert (alice.turn, bob.turn) == (0, 0)
    assert (alice.heard, bob.heard) == (False, True)
    assert (alice.id, alice.start_hash) == (bob.id, bob.start_hash)
    assert (alice.peer, bob.peer) == (peer_of(BOB), peer_of(ALICE))
    assert (alice.own_life, alice.peer_life) == (LIFE, None)
    assert (bob.own_life, bob.peer_life) == (None, LIFE)
    bob, envelope = bob.seal(BOB, b"", RANDOM, bytes(8))
    alice, _ = alice.open(ALICE, envelope, NOW)
    assert (alice.stage, bob.stage) == (Stage.CONFIRMED, Stage.IN)
    assert (alice.turn, bob.turn) == (1, 1)
    alice, envelope = alice.seal(ALICE, b"", RANDOM, b"another!")
    bob, _ = bob.open(BOB, envelope, NOW)
    assert (alice.stage, bob.stage) == (Stage.CONFIRMED, Stage.CONFIRMED)
    assert (alice.turn, bob.turn) == (2, 2)
    assert (alice.own_life, alice.peer_life) == (LIFE, bytes(8))
    assert (bob.own_life, bob.peer_life) == (bytes(8), LIFE)


def test_another_envelope_of_a_known_start_names_the_same_session() -> None:
    _, (first, second) = several(started(ALICE, BOB, PAIR, RANDOM), ALICE, 2)
    assert outer_of(BOB, first).prekey_id == outer_of(BOB, second).prekey_id == PAIR.id
    bob, _ = opened(BOB, PAIR, first)
    again, _ = opened(BOB, PAIR, second)
    assert again.id == bob.id
    assert bob.open(BOB, second, NOW)[1] == b"x"


def test_a_start_is_for_one_recipient_with_one_prekey() -> None:
    _, envelope = started(ALICE, BOB, PAIR, RANDOM).seal(ALICE, b"", RANDOM, LIFE)
    for me, pair in (
        (party(RANDOM), PAIR),
        (replace(BOB, auth_secret=ALICE.auth_secret), PAIR),
        (replace(BOB, auth_public=ALICE.auth_public), PAIR),
        (replace(BOB, kem=ALICE.kem), PAIR),
        (BOB, prekey_of(RANDOM)),
        (BOB, replace(PAIR, x_secret=bytes(range(32)))),
        (BOB, replace(PAIR, kem_seed=bytes(64))),
    ):
        with pytest.raises(CryptoError):
            opened(me, pair, envelope)


def test_skipped_keys_are_limited_and_the_newest_kept() -> None:
    alice, bob = TALKING
    alice, envelopes = several(alice, ALICE, SKIPPED_KEPT_MAX + 12)
    bob, _ = bob.open(BOB, envelopes[-1], NOW)
    receiving = bob.state.receiving
    assert receiving is not None
    assert len(receiving.skipped) == SKIPPED_KEPT_MAX
    with pytest.raises(CryptoError):
        bob.open(BOB, envelopes[10], NOW)
    assert bob.open(BOB, envelopes[11], NOW)[1] == b"x"
    assert decode_session(bob.encode()) == bob


def test_skipped_keys_are_limited_over_all_turns() -> None:
    alice, bob = TALKING
    late = []
    for _ in range(3):
        alice, envelopes = several(alice, ALICE, 900)
        bob, _ = bob.open(BOB, envelopes[-1], NOW)
        bob, envelope = bob.seal(BOB, b"", RANDOM, LIFE)
        alice, _ = alice.open(ALICE, envelope, NOW)
        late.append(envelopes)
    state = bob.state
    assert state.receiving is not None
    kept = [len(chain.skipped) for chain in state.retired] + [len(state.receiving.skipped)]
    assert kept == [SKIPPED_KEPT_MAX - 2 * 899, 899, 899]
    with pytest.raises(CryptoError):
        bob.open(BOB, late[0][0], NOW)
    for envelopes in late:
        assert bob.open(BOB, envelopes[-2], NOW)[1] == b"x"


def test_skipped_keys_expire() -> None:
    alice, bob = TALKING
    alice, early = several(alice, ALICE, 3)
    bob, _ = bob.open(BOB, early[2], NOW)
    bob, envelope = bob.seal(BOB, b"", RANDOM, LIFE)
    alice, _ = alice.open(ALICE, envelope, NOW)
    alice, later = several(alice, ALICE, 3)
    bob, _ = bob.open(BOB, later[2], NOW + 10)
    assert bob.expire(NOW + SKIPPED_LIFETIME) is bob
    older = bob.expire(NOW + SKIPPED_LIFETIME + 1)
    for envelope in early[:2]:
        assert bob.open(BOB, envelope, NOW)[1] == b"x"
        with pytest.raises(CryptoError):
            older.open(BOB, envelope, NOW)
    assert older.open(BOB, later[0], NOW)[1] == b"x"
    oldest = bob.expire(NOW + SKIPPED_LIFETIME + 11)
    with pytest.raises(CryptoError):
        oldest.open(BOB, later[0], NOW)


def test_too_far_opens_once_something_between_has_come() -> None:
    alice, bob = TALKING
    alice, envelopes = several(alice, ALICE, 4_099)
    bob, _ = bob.open(BOB, envelopes[0], NOW)
    with pytest.raises(TooFar):
        bob.open(BOB, envelopes[4_098], NOW)
    bob, _ = bob.open(BOB, envelopes[1], NOW)
    assert bob.open(BOB, envelopes[4_098], NOW)[1] == b"x"


def stolen(session: Session) -> Session:
    """What a thief has of a session's state: all of it."""
    return decode_session(session.encode())


def test_what_was_sent_is_safe_from_who_steals_the_state_after() -> None:
    alice, bob = TALKING
    alice, (envelope,) = several(alice, ALICE, 1)
    bob, _ = bob.open(BOB, envelope, NOW)
    for me, thief in ((ALICE, stolen(alice)), (BOB, stolen(bob))):
        with pytest.raises(CryptoError):
            thief.open(me, envelope, NOW)


def test_a_stolen_state_is_worth_nothing_after_a_round_trip() -> None:
    alice, bob = TALKING
    thief = stolen(bob)
    alice, (envelope,) = several(alice, ALICE, 1)
    bob, _ = bob.open(BOB, envelope, NOW)
    thief, body = thief.open(BOB, envelope, NOW)
    assert body == b"x"
    bob, answer = bob.seal(BOB, b"", RANDOM, LIFE)
    alice, _ = alice.open(ALICE, answer, NOW)
    _, (envelope,) = several(alice, ALICE, 1)
    with pytest.raises(CryptoError):
        thief.open(BOB, envelope, NOW)


def test_the_same_number_with_other_words_shares_no_key() -> None:
    """A state that was restored by mistake: only that it was is to be seen."""
    alice = TALKING[0].seal(ALICE, b"", RANDOM, LIFE)[0]
    _, one = alice.seal(ALICE, b"one", RANDOM, LIFE)
    _, other = alice.seal(ALICE, b"other", RANDOM, LIFE)
    assert one[:16] == other[:16]
    same = sum(a == b for a, b in zip(one[16:], other[16:], strict=True))
    assert same < 200  # of 16,368: one in 256 by chance


def test_envelopes_look_random() -> None:
    """Every bit of a first and of a later envelope is set about half of the time."""
    count = 400
    first = [several(started(ALICE, BOB, prekey_of(RANDOM), RANDOM), ALICE, 1)[1] for _ in range(9)]
    _, later = several(TALKING[0], ALICE, count)
    ones = 0
    for envelope in later:
        ones += int.from_bytes(envelope, "big").bit_count()
    assert abs(ones / (count * ENVELOPE_SIZE * 8) - 0.5) < 0.001
    assert {envelope[0][47] >> 7 for envelope in first} == {0, 1}


def routes_of(*sessions: Session) -> Routes:
    routes = Routes()
    for session in sessions:
        routes.update(session)
    return routes


def test_routes_lead_to_the_session_and_are_forgotten_with_it() -> None:
    alice, bob = TALKING
    others = [pair_of_sessions()[1] for _ in range(3)]
    routes = routes_of(*others, bob)
    held = len(routes)
    _, envelopes = several(alice, ALICE, 10)
    assert routes.find(envelopes[0]) == routes.find(envelopes[0][:16]) == bob.id
    assert routes.find(envelopes[9]) is None
    assert routes.search(envelopes[9]) == bob.id
    assert routes.search(envelopes[9][:-1]) is None
    bob, _ = bob.open(BOB, envelopes[9], NOW)
    routes.update(bob)
    for envelope in envelopes[:9]:
        assert routes.find(envelope) == bob.id
    routes.remove(bob.id)
    routes.remove(bob.id)
    assert routes.find(envelopes[0]) is None
    assert routes.search(envelopes[0]) is None
    assert len(routes) == held - held // 4


def test_what_is_far_ahead_in_turn_0_is_found_when_its_prekey_is_gone() -> None:
    """By its route, and not by the outer layer, which its session opens."""
    _, envelopes = several(started(ALICE, BOB, PAIR, RANDOM), ALICE, 12)
    bob, _ = opened(BOB, PAIR, envelopes[0])
    routes = routes_of(TALKING[1], bob)
    assert routes.find(envelopes[1]) == bob.id
    assert routes.find(envelopes[11]) is None
    assert routes.search(envelopes[11]) == bob.id
    assert bob.open(BOB, envelopes[11], NOW)[1] == b"x"


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**32 - 1))
def test_a_route_says_its_number_to_who_has_the_key(key: bytes, number: int) -> None:
    route = route_of(key, number)
    assert len(route) == 16
    assert number_of(key, route) == number
    assert number_of(bytes(32), route) is None or key == bytes(32)
    for at in range(16):
        assert number_of(key, route[:at] + bytes([route[at] ^ 1]) + route[at + 1 :]) is None


def test_trials_are_bounded_and_begin_with_who_wrote_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbfs_common.session.routes.TRIALS_MAX", 4)
    pairs = [pair_of_sessions() for _ in range(4)]  # each Bob has two header keys
    routes = routes_of(*(bob for _, bob in pairs))
    far = [several(alice, ALICE, 10)[1][9] for alice, _ in pairs]
    ids = [bob.id for _, bob in pairs]
    assert [routes.search(envelope) for envelope in far] == [None, None, *ids[2:]]
    routes.update(pairs[0][1])
    assert [routes.search(envelope) for envelope in far] == [ids[0], None, None, ids[3]]


def test_a_turn_has_2_32_messages() -> None:
    """The last number is sealed, and then nothing until the peer has answered."""
    alice, bob = TALKING
    alice, _ = alice.seal(ALICE, b"", RANDOM, LIFE)
    sending = alice.state.sending
    assert sending is not None
    alice = Session(replace(alice.state, sending=replace(sending, number=2**32 - 1)))
    alice, envelope = alice.seal(ALICE, b"the last", RANDOM, LIFE)
    with pytest.raises(TooFar):
        bob.open(BOB, envelope, NOW)
    with pytest.raises(LimitError, match="without an answer"):
        alice.seal(ALICE, b"one more", RANDOM, LIFE)
