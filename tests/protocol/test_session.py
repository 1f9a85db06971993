"""Sessions: limits, lost and stolen state, and that any bytes are refused in the same way."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs_common.errors import CryptoError, DecodeError, LimitError
from cbfs_common.limits import BODY_MAX, ENVELOPE_SIZE, SKIPPED_KEPT_MAX, SKIPPED_LIFETIME
from cbfs_common.session.prekey import PrekeyKind, decode_prekey
from cbfs_common.session.routes import Routes
from cbfs_common.session.session import (
    Party,
    Session,
    TooFar,
    decode_session,
    handshake_of,
    make_turn_keys,
    open_first,
    start,
)
from tests.support.talking import NOW, party, peer_of, prekey_of, seeded, started

RANDOM = seeded("test_session")
ALICE, BOB = party(RANDOM), party(RANDOM)
PAIR = prekey_of(RANDOM, PrekeyKind.LAST_RESORT)


def pair_of_sessions() -> tuple[Session, Session]:
    """Alice's and Bob's, after one message each way."""
    alice, envelope = started(ALICE, BOB, PAIR, RANDOM).seal(ALICE, b"", RANDOM)
    bob, _ = open_first(BOB, PAIR, envelope, NOW)
    bob, envelope = bob.seal(BOB, b"", RANDOM)
    return alice.open(envelope, NOW)[0], bob


TALKING = pair_of_sessions()


def several(session: Session, me: Party, count: int) -> tuple[Session, list[bytes]]:
    envelopes = []
    for _ in range(count):
        session, envelope = session.seal(me, b"x", RANDOM)
        envelopes.append(envelope)
    return session, envelopes


def test_a_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    fresh = started(ALICE, BOB, PAIR, RANDOM)
    for session in (fresh, TALKING[0]):
        with pytest.raises(LimitError):
            session.seal(ALICE, bytes(BODY_MAX + 1), RANDOM)
    _, envelope = fresh.seal(ALICE, bytes(BODY_MAX), RANDOM)
    assert len(envelope) == ENVELOPE_SIZE
    assert open_first(BOB, PAIR, envelope, NOW)[1] == bytes(BODY_MAX)
    _, envelope = TALKING[0].seal(ALICE, bytes(BODY_MAX), RANDOM)
    assert TALKING[1].open(envelope, NOW)[1] == bytes(BODY_MAX)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=BODY_MAX))
def test_any_body_comes_out_as_it_went_in(body: bytes) -> None:
    alice, bob = TALKING
    alice, envelope = alice.seal(ALICE, body, RANDOM)
    assert len(envelope) == ENVELOPE_SIZE
    assert bob.open(envelope, NOW)[1] == body


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=64), st.sampled_from([0, 1, ENVELOPE_SIZE - 64, ENVELOPE_SIZE]))
def test_any_bytes_are_refused(data: bytes, size: int) -> None:
    data = data.ljust(size, b"\x5a")
    for session in TALKING:
        with pytest.raises(CryptoError):
            session.open(data, NOW)
    with pytest.raises(CryptoError if len(data) == ENVELOPE_SIZE else DecodeError):
        open_first(BOB, PAIR, data[:16] + PAIR.id + data[32:], NOW)
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
    sealed, envelope = alice.seal(ALICE, b"x", seeded("encapsulation"), keys)
    assert not sealed.needs_turn
    assert bob.open(envelope, NOW)[1] == b"x"
    assert sealed.state.sending is not None
    assert sealed.state.sending.keys is keys


def test_a_session_with_oneself_is_refused() -> None:
    prekey = decode_prekey(PAIR.public(bytes(32)))
    with pytest.raises(CryptoError):
        start(BOB, peer_of(BOB), prekey, RANDOM)


def test_confirmed_once_the_peer_has_written() -> None:
    alice, envelope = started(ALICE, BOB, PAIR, RANDOM).seal(ALICE, b"", RANDOM)
    bob, _ = open_first(BOB, PAIR, envelope, NOW)
    assert (alice.heard, bob.heard) == (False, True)
    assert TALKING[0].heard
    assert (alice.id, alice.start_hash) == (bob.id, bob.start_hash)
    assert (alice.peer, bob.peer) == (peer_of(BOB), peer_of(ALICE))


def test_another_envelope_of_a_known_start_names_the_same_session() -> None:
    _, (first, second) = several(started(ALICE, BOB, PAIR, RANDOM), ALICE, 2)
    assert handshake_of(first) == handshake_of(second) == PAIR.id
    bob, _ = open_first(BOB, PAIR, first, NOW)
    again, _ = open_first(BOB, PAIR, second, NOW)
    assert again.id == bob.id
    assert bob.open(second, NOW)[1] == b"x"


def test_a_start_is_for_one_recipient_with_one_prekey() -> None:
    _, envelope = started(ALICE, BOB, PAIR, RANDOM).seal(ALICE, b"", RANDOM)
    for me, pair in (
        (party(RANDOM), PAIR),
        (replace(BOB, auth_public=ALICE.auth_public), PAIR),
        (BOB, prekey_of(RANDOM)),
        (BOB, replace(PAIR, x_secret=bytes(range(32)))),
        (BOB, replace(PAIR, kem_seed=bytes(64))),
    ):
        with pytest.raises(CryptoError):
            open_first(me, pair, envelope, NOW)


def test_skipped_keys_are_limited_and_the_newest_kept() -> None:
    alice, bob = TALKING
    alice, envelopes = several(alice, ALICE, SKIPPED_KEPT_MAX + 12)
    bob, _ = bob.open(envelopes[-1], NOW)
    receiving = bob.state.receiving
    assert receiving is not None
    assert len(receiving.skipped) == SKIPPED_KEPT_MAX
    with pytest.raises(CryptoError):
        bob.open(envelopes[10], NOW)
    assert bob.open(envelopes[11], NOW)[1] == b"x"
    assert decode_session(bob.encode()) == bob


def test_skipped_keys_are_limited_over_all_turns() -> None:
    alice, bob = TALKING
    late = []
    for _ in range(3):
        alice, envelopes = several(alice, ALICE, 900)
        bob, _ = bob.open(envelopes[-1], NOW)
        bob, envelope = bob.seal(BOB, b"", RANDOM)
        alice, _ = alice.open(envelope, NOW)
        late.append(envelopes)
    state = bob.state
    assert state.receiving is not None
    kept = [len(chain.skipped) for chain in state.retired] + [len(state.receiving.skipped)]
    assert kept == [SKIPPED_KEPT_MAX - 2 * 899, 899, 899]
    with pytest.raises(CryptoError):
        bob.open(late[0][0], NOW)
    for envelopes in late:
        assert bob.open(envelopes[-2], NOW)[1] == b"x"


def test_skipped_keys_expire() -> None:
    alice, bob = TALKING
    alice, early = several(alice, ALICE, 3)
    bob, _ = bob.open(early[2], NOW)
    bob, envelope = bob.seal(BOB, b"", RANDOM)
    alice, _ = alice.open(envelope, NOW)
    alice, later = several(alice, ALICE, 3)
    bob, _ = bob.open(later[2], NOW + 10)
    assert bob.expire(NOW + SKIPPED_LIFETIME) is bob
    older = bob.expire(NOW + SKIPPED_LIFETIME + 1)
    for envelope in early[:2]:
        assert bob.open(envelope, NOW)[1] == b"x"
        with pytest.raises(CryptoError):
            older.open(envelope, NOW)
    assert older.open(later[0], NOW)[1] == b"x"
    oldest = bob.expire(NOW + SKIPPED_LIFETIME + 11)
    with pytest.raises(CryptoError):
        oldest.open(later[0], NOW)


def test_too_far_opens_once_something_between_has_come() -> None:
    alice, bob = TALKING
    alice, envelopes = several(alice, ALICE, 4_099)
    bob, _ = bob.open(envelopes[0], NOW)
    with pytest.raises(TooFar):
        bob.open(envelopes[4_098], NOW)
    bob, _ = bob.open(envelopes[1], NOW)
    assert bob.open(envelopes[4_098], NOW)[1] == b"x"


def stolen(session: Session) -> Session:
    """What a thief has of a session's state: all of it."""
    return decode_session(session.encode())


def test_what_was_sent_is_safe_from_who_steals_the_state_after() -> None:
    alice, bob = TALKING
    alice, (envelope,) = several(alice, ALICE, 1)
    bob, _ = bob.open(envelope, NOW)
    for thief in (stolen(alice), stolen(bob)):
        with pytest.raises(CryptoError):
            thief.open(envelope, NOW)


def test_a_stolen_state_is_worth_nothing_after_a_round_trip() -> None:
    alice, bob = TALKING
    thief = stolen(bob)
    alice, (envelope,) = several(alice, ALICE, 1)
    bob, _ = bob.open(envelope, NOW)
    thief, body = thief.open(envelope, NOW)
    assert body == b"x"
    bob, answer = bob.seal(BOB, b"", RANDOM)
    alice, _ = alice.open(answer, NOW)
    _, (envelope,) = several(alice, ALICE, 1)
    with pytest.raises(CryptoError):
        thief.open(envelope, NOW)


def test_the_same_number_with_other_words_shares_no_key() -> None:
    """A state that was restored by mistake: only that it was is to be seen."""
    alice = TALKING[0].seal(ALICE, b"", RANDOM)[0]
    _, one = alice.seal(ALICE, b"one", RANDOM)
    _, other = alice.seal(ALICE, b"other", RANDOM)
    assert one[:2_376] == other[:2_376]
    same = sum(a == b for a, b in zip(one[2_376:], other[2_376:], strict=True))
    assert same < 200  # of 14,008: one in 256 by chance


def test_envelopes_look_random() -> None:
    """Every bit of a first and of a later envelope is set about half of the time."""
    count = 400
    first = [several(started(ALICE, BOB, prekey_of(RANDOM), RANDOM), ALICE, 1)[1] for _ in range(9)]
    _, later = several(TALKING[0], ALICE, count)
    ones = 0
    for envelope in later:
        ones += int.from_bytes(envelope, "big").bit_count()
    assert abs(ones / (count * ENVELOPE_SIZE * 8) - 0.5) < 0.001
    assert {envelope[0][63] >> 7 for envelope in first} == {0, 1}


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
    bob, _ = bob.open(envelopes[9], NOW)
    routes.update(bob)
    for envelope in envelopes[:9]:
        assert routes.find(envelope) == bob.id
    routes.remove(bob.id)
    routes.remove(bob.id)
    assert routes.find(envelopes[0]) is None
    assert routes.search(envelopes[0]) is None
    assert len(routes) == held - held // 4


def test_trials_are_bounded_and_begin_with_who_wrote_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbfs_common.session.routes.TRIALS_MAX", 4)
    pairs = [pair_of_sessions() for _ in range(4)]  # each Bob has two header keys
    routes = routes_of(*(bob for _, bob in pairs))
    far = [several(alice, ALICE, 10)[1][9] for alice, _ in pairs]
    ids = [bob.id for _, bob in pairs]
    assert [routes.search(envelope) for envelope in far] == [None, None, *ids[2:]]
    routes.update(pairs[0][1])
    assert [routes.search(envelope) for envelope in far] == [ids[0], None, None, ids[3]]
