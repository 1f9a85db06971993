"""Marks and what follows from them, without a server."""

from dataclasses import replace
from hashlib import blake2b

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cbfs.account.claim import (
    CopyMark,
    CopyStanding,
    CopyState,
    Finding,
    Marker,
    decode_standing,
    open_mark,
    seal_mark,
)
from cbfs_common.errors import CryptoError, DecodeError
from cbfs_common.limits import COPIES_WITHIN, MARK_SIZE
from tests.support.talking import seeded

KEY, OTHER = b"k" * 32, b"o" * 32
CLAIM = 2**32
NOW = 1_000_000_000_000
WITHIN = COPIES_WITHIN * 1_000
RANDOM = seeded("marks")
MARKER = Marker(KEY, RANDOM)
MINE, THEIRS = b"mine    ", b"theirs  "


def sealed(counter: int, instance: bytes = THEIRS, key: bytes = KEY) -> bytes:
    return seal_mark(CopyMark(counter, instance), key, RANDOM)


def standing(counter: int = 10, begun: int = 0) -> CopyStanding:
    return CopyStanding(counter, MINE, sealed(counter, MINE), begun, CopyState.GOES_ON)


def test_a_mark_is_what_the_text_says() -> None:
    data = seal_mark(CopyMark(CLAIM + 7, MINE), KEY, RANDOM)
    key = blake2b(key=KEY, digest_size=32, person=b"cbfs1 mark key").digest()
    both = blake2b(data[:24], key=key, digest_size=44, person=b"cbfs1 mark").digest()
    plain = ChaCha20Poly1305(both[:32]).decrypt(both[32:], data[24:], b"")
    assert plain == (CLAIM + 7).to_bytes(8, "big") + MINE
    assert len(data) == MARK_SIZE
    assert open_mark(data, KEY) == CopyMark(CLAIM + 7, MINE)
    assert open_mark(data, KEY).claim == 1


def test_what_nobody_has_sealed_is_no_mark() -> None:
    data = sealed(3)
    flipped = [
        data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        for at in (0, 23, 24, 39, 40, MARK_SIZE - 1)
    ]
    others = (b"", bytes(MARK_SIZE), data[1:], data + b"x", sealed(3, key=OTHER), sealed(2**63 + 1))
    for each in (*flipped, *others):
        with pytest.raises(CryptoError):
            open_mark(each, KEY)
        known = standing()
        assert MARKER.judge(known, each, NOW) == (known, Finding.NOTHING)


@pytest.mark.parametrize(
    ("mark", "begun", "finding"),
    [
        (sealed(9), 0, Finding.NOTHING),
        (sealed(9, MINE), 0, Finding.NOTHING),
        (sealed(10), 0, Finding.COPY),
        (sealed(10, MINE), 0, Finding.COPY),  # one of the same counter that was not put here
        (sealed(11), 0, Finding.COPY),
        (sealed(2**63), 0, Finding.TWO),  # a claim, and the last one that there can be
        (sealed(CLAIM), 0, Finding.TWO),
        (sealed(11), NOW, Finding.TWO),
        (sealed(11), NOW - WITHIN + 1, Finding.TWO),
        (sealed(11), NOW - WITHIN, Finding.COPY),
        (sealed(11), NOW + 1, Finding.COPY),  # by a clock that was ahead
        (sealed(11, MINE), NOW, Finding.COPY),  # put back once more: it is this one itself
    ],
)
def test_what_a_mark_shows(mark: bytes, begun: int, finding: Finding) -> None:
    known = standing(begun=begun)
    after, found = MARKER.judge(known, mark, NOW)
    assert found is finding
    counter = open_mark(mark, KEY).counter
    match found:
        case Finding.NOTHING:
            assert after is known
        case Finding.COPY:
            assert after.counter == counter + 1
            assert after.instance not in (MINE, THEIRS)
            assert open_mark(after.put, KEY) == CopyMark(after.counter, after.instance)
            assert (after.begun, after.state) == (NOW, CopyState.GOES_ON)
        case Finding.TWO:
            assert (after.counter, after.state) == (counter, CopyState.STOPPED)


def test_the_mark_that_was_put_here_is_one_s_own() -> None:
    known = standing()
    assert MARKER.judge(known, known.put, NOW) == (known, Finding.NOTHING)
    following = MARKER.next(known)
    assert following.counter == known.counter + 1
    assert open_mark(following.put, KEY) == CopyMark(following.counter, MINE)
    assert MARKER.judge(following, known.put, NOW) == (following, Finding.NOTHING)


def test_who_has_begun_anew_takes_over() -> None:
    for fresh in (MARKER.first(), MARKER.copied(standing(), NOW)):
        assert fresh.state is CopyState.TAKES_OVER
        for counter in (0, 40, 3 * CLAIM):
            after, found = MARKER.judge(fresh, sealed(counter), NOW)
            assert found is Finding.NOTHING
            assert after.counter > counter
            assert after.begun == fresh.begun
            taken = after.state is CopyState.GOES_ON
            assert taken is (counter >= fresh.counter)


def test_a_claim_goes_on_and_stops_the_others() -> None:
    stopped, _ = MARKER.judge(standing(begun=NOW), sealed(90), NOW)
    assert MARKER.copied(stopped, NOW) is stopped, "so it is in another file, too"
    claimed = MARKER.next(MARKER.claimed(stopped, NOW))
    assert claimed.claim == 1
    assert MARKER.judge(claimed, sealed(200), NOW) == (claimed, Finding.NOTHING)
    assert MARKER.judge(standing(200), claimed.put, NOW + 9 * WITHIN)[1] is Finding.TWO
    again = MARKER.claimed(claimed, NOW)
    assert again.claim == 2


def test_the_last_claim_counts_where_the_one_before_was_not_seen() -> None:
    """One was claimed and went on for days; then the other one, which was off all the time."""
    one, other = MARKER.claimed(standing(20), NOW), standing(10)
    for _ in range(5):
        one = MARKER.next(one)
    later = NOW + 3 * WITHIN
    for also in (lambda s: s, lambda s: MARKER.copied(s, later)):  # be it in another file, too
        claimed = also(MARKER.claimed(other, later))
        after, found = MARKER.judge(claimed, one.put, later)
        assert found is Finding.NOTHING
        assert after.claim == 2
        assert MARKER.judge(one, after.put, later)[1] is Finding.TWO, "the other one stops"
        assert MARKER.judge(MARKER.next(after), one.put, later)[1] is Finding.NOTHING


def test_marks_of_a_key_that_is_new_are_counted_anew() -> None:
    """A thief of the one before has counted as far as there is, so that no later one counts."""
    spoiled, _ = MARKER.judge(standing(), sealed(2**63), NOW)
    spoiled = replace(spoiled, counter=2**63 + 1)
    fresh = Marker(OTHER, RANDOM)
    for mended in (fresh.settled(spoiled), fresh.claimed(fresh.settled(spoiled), NOW)):
        assert open_mark(mended.put, OTHER).counter == mended.counter


def test_marks_of_another_key_are_not_put_again() -> None:
    known = standing()
    assert MARKER.settled(known) is known
    moved = Marker(OTHER, RANDOM).settled(known)
    assert moved.put != known.put
    assert open_mark(moved.put, OTHER) == CopyMark(1, MINE)
    assert replace(moved, put=known.put, counter=known.counter) == known


def test_what_a_store_knows_comes_back() -> None:
    for known in (standing(), MARKER.first(), MARKER.claimed(standing(), NOW)):
        assert decode_standing(known.encode()) == known
    good = standing()
    for wrong in (
        replace(good, counter=-1),
        replace(good, begun=-1),
        replace(good, instance=b"short"),
        replace(good, put=b""),
    ):
        with pytest.raises(DecodeError):
            decode_standing(wrong.encode())
    for data in (b"", b"\xc0", good.encode()[:-1], good.encode()[:-1] + b"\x09"):
        with pytest.raises(DecodeError):
            decode_standing(data)
