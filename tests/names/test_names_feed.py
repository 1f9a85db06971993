"""The change feed, positions in the log, and the degraded policy: pure checks."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs_common.errors import DecodeError
from cbfs_common.names.checks import (
    Absent,
    DirectoryLies,
    DirectoryState,
    Fault,
    Found,
    NameExpired,
    Shown,
    check_feed,
    check_lookup,
    check_newest,
    decode_state,
    is_current,
    new_state,
    open_bundle,
    parse_policy,
)
from cbfs_common.names.entry import Entry, Round, changes_hash, name_index
from cbfs_common.names.feed import (
    FeedRound,
    Followed,
    Position,
    decode_tile,
    follow,
    position_after,
)
from cbfs_common.names.policy import Policy
from cbfs_common.names.proofs import encode_bundle
from cbfs_common.names.wire import HeadIs
from tests.support.names_asked import ALICE, BOB, HERE
from tests.support.names_naive import (
    CONFIG,
    DIRECTORY,
    NAMESPACE,
    NOW,
    ZERO,
    Forger,
    log_path,
    log_root,
    make_policy,
)
from tests.support.vectors import vectors

POLICY = make_policy(HERE)


def rounds(count: int, changes: Mapping[int, tuple[bytes, ...]] | None = None) -> list[FeedRound]:
    found = []
    for number in range(count):
        prefixes = (changes or {}).get(number, ())
        leaf = Round(NAMESPACE, number, NOW, ZERO, ZERO, changes_hash(prefixes), CONFIG)
        found.append(FeedRound(leaf, prefixes))
    return found


def leaves(feed: list[FeedRound]) -> list[bytes]:
    return [each.round.digest() for each in feed]


def position(feed: list[FeedRound]) -> Position:
    at = Position(0, ())
    for leaf in leaves(feed):
        at = at.add(leaf)
    return at


@given(st.integers(0, 200))
def test_position_is_the_log_of_rfc_9162(size: int) -> None:
    feed = rounds(size)
    assert position(feed).root() == log_root(leaves(feed))
    if size:
        proof = tuple(log_path(size - 1, leaves(feed)))
        assert position_after(size, leaves(feed)[-1], proof) == position(feed)


def test_position_must_fit_its_size() -> None:
    for size, hashes in ((1, ()), (2, (ZERO, ZERO)), (1 << 64, (ZERO,))):
        with pytest.raises(DecodeError):
            Position(size, hashes)


def test_following_gathers_changes() -> None:
    feed = rounds(9, {2: (b"a" * 8,), 5: (b"b" * 8, b"c" * 8)})
    start = position(feed[:3])
    assert follow(start, feed, 9) == Followed(position(feed), {b"b" * 8: 5, b"c" * 8: 5})
    for missing in (feed[4:], feed[:8], feed[:4] + feed[5:]):
        with pytest.raises(DecodeError):
            follow(start, missing, 9)


def test_following_from_any_position_to_any_later_one() -> None:
    """The rounds of two tiles of the vectors."""
    tiles = [case.given for case in vectors("names-feed")["tile"] if case.gives]
    feed = [each for tile in tiles for each in decode_tile(**tile)]
    sizes = (0, 1, 2, 3, 7, 8, 63, 64, 65, 70)
    assert len(feed) == sizes[-1]
    at = {size: position(feed[:size]) for size in sizes}
    for start in sizes:
        for end in (size for size in sizes if size >= start):
            followed = follow(at[start], feed, end)
            assert followed.position == at[end]
            changed = {each for round_ in feed[start:end] for each in round_.changes}
            assert set(followed.changes) == changed
    with pytest.raises(DecodeError):
        follow(at[0], feed, 71)


def test_tile_holds_its_own_rounds_and_true_changes() -> None:
    feed = rounds(64, {3: (b"a" * 8, b"b" * 8)})
    data = b"".join(each.encode() for each in feed)
    assert decode_tile(0, data) == tuple(feed)
    assert decode_tile(0, b"") == ()
    wrong = replace(feed[3], changes=(b"a" * 8,))
    unsorted = replace(feed[3], changes=(b"b" * 8, b"a" * 8))
    for bad in (
        data[:-1],
        feed[1].encode(),
        wrong.encode(),
        feed[0].encode() + feed[2].encode(),
        data + rounds(65)[64].encode(),
        b"".join(each.encode() for each in feed[:3]) + unsorted.encode(),
    ):
        with pytest.raises(DecodeError):
            decode_tile(0, bad)
    with pytest.raises(DecodeError):
        decode_tile(1, data)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_tile_or_an_error(data: bytes) -> None:
    with suppress(DecodeError):
        decode_tile(0, data)


# Polling: a forger whose whole log is known.


def forger(feed: list[FeedRound], **changes: object) -> Forger:
    """A directory whose log begins with these rounds, and has one more."""
    made = Forger([ALICE, BOB], filler=len(feed), earlier=tuple(leaves(feed)))
    return replace(made, **changes)  # type: ignore[arg-type]


def polled(directory: Forger) -> HeadIs:
    log = directory.log()
    proof = tuple(log_path(len(log) - 1, log))
    return HeadIs(directory.note().encode(), directory.round().encode(), proof)


def whole_feed(feed: list[FeedRound], directory: Forger) -> tuple[FeedRound, ...]:
    return (*feed, FeedRound(directory.round(), ()))


def accepted(feed: list[FeedRound], directory: Forger) -> DirectoryState:
    """The state after a first look-up at this forger."""
    reply = directory.look_up("alice")
    state, _ = check_lookup(POLICY, new_state(POLICY), reply.evidence, (), "alice", None, NOW)
    assert state.feed == state.head
    return state


def fault(call: object, *arguments: object) -> Fault:
    with pytest.raises(DirectoryLies) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.fault


# the empty changes of Forger.round are hashed so
EMPTY = changes_hash(())


@pytest.fixture(autouse=True)
def _true_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forger's last round changes nothing, and says so."""
    original = Forger.round
    monkeypatch.setattr(
        Forger, "round", lambda self: replace(original(self), changes=EMPTY, time=NOW)
    )


def test_poll_follows_the_feed_to_a_new_head() -> None:
    feed = rounds(4)
    before = forger(feed)
    state = accepted(feed, before)
    index = name_index(DIRECTORY, "bob")[:8]
    longer = [*whole_feed(feed, before), *rounds(8, {6: (index,)})[5:]]
    after = forger(longer)
    newest = check_newest(POLICY, state, polled(after), NOW)
    assert not newest.degraded
    moved, changes = check_feed(state, newest, whole_feed(longer, after))
    assert changes == {index: 6}
    assert moved.size == 9
    assert moved.feed == moved.head == position(list(whole_feed(longer, after)))
    assert decode_state(moved.encode()) == moved


def test_false_feeds_and_heads_are_named() -> None:
    feed = rounds(4)
    before = forger(feed)
    state = accepted(feed, before)
    longer = [*whole_feed(feed, before), *rounds(8)[5:]]
    after = forger(longer)
    newest = check_newest(POLICY, state, polled(after), NOW)
    good = whole_feed(longer, after)
    assert fault(check_feed, state, newest, good[:-1]) is Fault.FEED
    # an insertion that is reverted before the next poll still is two rounds of the feed
    hidden = (*good[:6], replace(good[6], round=replace(good[6].round, map_root=b"x" * 32)))
    assert fault(check_feed, state, newest, (*hidden, *good[7:])) is Fault.FORK
    fork = forger(rounds(9, {4: (b"z" * 8,)}))
    forked = check_newest(POLICY, state, polled(fork), NOW)
    rest = whole_feed(rounds(9, {4: (b"z" * 8,)}), fork)
    assert fault(check_feed, state, forked, rest) is Fault.FORK
    assert fault(check_newest, POLICY, state, polled(forger(feed[:2])), NOW) is Fault.SMALLER
    stale, future = NOW + 301, NOW - 61
    assert fault(check_newest, POLICY, state, polled(after), stale) is Fault.STALE
    assert fault(check_newest, POLICY, state, polled(after), future) is Fault.FUTURE
    late = replace(state, time=NOW + 1)
    assert fault(check_newest, POLICY, late, polled(after), NOW) is Fault.CLOCK
    unsigned = forger(longer, signers=())
    assert fault(check_newest, POLICY, state, polled(unsigned), NOW) is Fault.QUORUM
    other = forger(longer, config=bytes(32))
    assert fault(check_newest, POLICY, state, polled(other), NOW) is Fault.CONFIG
    off = forger(longer, number_off=1)
    assert fault(check_newest, POLICY, state, polled(off), NOW) is Fault.LAST_ROUND


def test_same_head_under_another_root_is_a_fork() -> None:
    feed = rounds(4)
    state = accepted(feed, forger(feed))
    other = forger(rounds(4, {1: (b"z" * 8,)}))
    newest = check_newest(POLICY, state, polled(other), NOW)
    assert fault(check_feed, state, newest, ()) is Fault.FORK


def shown(feed: list[FeedRound], directory: Forger, name: str = "bob") -> Shown:
    reply = directory.look_up(name)
    return open_bundle(POLICY, encode_bundle(DIRECTORY, reply.evidence, ()))


def test_bundle_is_current_when_its_index_has_not_changed_since() -> None:
    feed = rounds(4)
    old = forger(feed)
    bundle = shown(feed, old)
    index = name_index(DIRECTORY, "bob")[:8]
    for changes, current in (({}, True), ({6: (b"q" * 8,)}, True), ({6: (index,)}, False)):
        longer = [*whole_feed(feed, old), *rounds(8, changes)[5:]]
        after = forger(longer)
        state = accepted(longer, after)
        rest = whole_feed(longer, after)
        assert is_current(POLICY, state, bundle, rest) is current
        assert fault(is_current, POLICY, state, bundle, rest[:-1]) is Fault.FEED


def test_bundle_of_a_fork_is_named() -> None:
    feed = rounds(4)
    bundle = shown(feed, forger(feed))
    other = rounds(9, {0: (b"f" * 8,)})
    after = forger(other)
    state = accepted(other, after)
    assert fault(is_current, POLICY, state, bundle, whole_feed(other, after)) is Fault.FORK


# Degraded.


def two_of_three() -> Policy:
    text = make_policy(HERE, 3, 3).encode()
    weaker = "# cbfs-degraded group some 2 v1 v2 v3\n# cbfs-degraded quorum some\n"
    policy = parse_policy(text + weaker)
    assert parse_policy(policy.encode()) == policy
    return policy


def looked_up(policy: Policy, directory: Forger, known: Entry | None) -> Found | Absent:
    reply = directory.look_up("alice")
    state = new_state(policy)
    after, found = check_lookup(policy, state, reply.evidence, (), "alice", known, NOW)
    if isinstance(found, Found) and found.degraded:
        assert after == state  # nothing is learnt from it
    return found


def test_degraded_policy_is_for_known_unchanged_contacts_alone() -> None:
    policy = two_of_three()
    most = Forger([ALICE, BOB], signers=(1, 3))
    assert looked_up(policy, most, ALICE) == Found(ALICE, b"", degraded=True)
    one = replace(most, signers=(1,))
    old = replace(most, signers=(1, 2, 3), times={2: NOW - 400})
    assert looked_up(policy, old, ALICE) == Found(ALICE, b"", degraded=True)
    changed = replace(ALICE, profile=b"mallory's")
    newer = replace(ALICE, version=2)
    for directory, known in (
        (most, None),
        (one, ALICE),
        (replace(most, entries=[BOB]), ALICE),
        (replace(most, entries=[changed]), ALICE),
        (replace(most, entries=[newer]), ALICE),
        (replace(most, signers=(1, 1)), ALICE),
    ):
        assert fault(looked_up, policy, directory, known) in {Fault.QUORUM, Fault.MALFORMED}
    with pytest.raises(NameExpired):
        past = replace(ALICE, expires=NOW - 1)
        looked_up(policy, replace(most, entries=[past]), past)
    whole = replace(most, signers=(1, 2, 3))
    found = looked_up(policy, whole, ALICE)
    assert isinstance(found, Found)
    assert not found.degraded
    newest = check_newest(policy, new_state(policy), polled(most), NOW)
    assert newest.degraded
    assert fault(check_newest, policy, new_state(policy), polled(one), NOW) is Fault.QUORUM


@pytest.mark.parametrize(
    "lines",
    [
        "# cbfs-degraded group some 2 v1 v2\n",
        "# cbfs-degraded quorum nobody\n",
        "# cbfs-degraded witness v9 x\n",
        "# cbfs-degraded group some 4 v1 v2 v3\n# cbfs-degraded quorum some\n",
    ],
)
def test_wrong_degraded_policy_is_refused(lines: str) -> None:
    with pytest.raises(DecodeError):
        parse_policy(make_policy(HERE, 3, 3).encode() + lines)
