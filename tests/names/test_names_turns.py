"""How often a name may be changed, and that nobody who changes it often keeps its owner from what
helps against him."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cbfs_common import limits
from cbfs_common.names.entry import Entry, Status, name_index
from cbfs_common.names.layout import ZERO
from cbfs_common.names.operations import (
    NEVER,
    Operation,
    OperationKind,
    OperationRefused,
    Refusal,
)
from cbfs_common.primitives import sign_public
from cbfs_names.state.replay import Replay, config_now
from cbfs_names.state.tables import StateTable
from tests.support.names_local import (
    DIRECTORY,
    LIFETIME,
    NOW,
    Local,
    commit,
    local,
    owners,
    register,
    rotate,
    update,
)

OWNER, OTHER, AGENT, HEIR = b"o" * 32, b"n" * 32, b"g" * 32, b"h" * 32
ALICE = name_index(DIRECTORY, "alice")
HOUR, DAY = limits.CHANGE_PACE, limits.KEYS_PACE


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Local]:
    with local(tmp_path / "store") as made:
        made.round(commit("alice"))
        with_agent = replace(register("alice"), agent=sign_public(AGENT), signatures=())
        made.round(replace(with_agent, recovery=owners(HEIR)).signed((OWNER,)))
        yield made


def updated(directory: Local, text: str) -> Refusal | None:
    return done(directory, update(directory.entry("alice"), text.encode()))


def done(directory: Local, operation: Operation) -> Refusal | None:
    outcome = directory.round(operation)
    assert (outcome.head is None) is (operation.encode() in outcome.refused)
    return outcome.refused.get(operation.encode())


def turned(directory: Local, new: bytes = OWNER, old: bytes = OWNER) -> Operation:
    """A ROTATE, as its owner makes it who has found out that others have the keys."""
    made = rotate(directory.entry("alice"), owners(new))
    return replace(made, recovery=owners(HEIR), signatures=()).signed(tuple(sorted({old, new})))


def made(directory: Local, kind: OperationKind, *seeds: bytes, **fields: object) -> Operation:
    operation = replace(update(directory.entry("alice"), b""), kind=kind, signatures=())
    return replace(operation, **fields).signed(seeds)  # type: ignore[arg-type]


def test_a_burst_of_updates_then_one_an_hour(directory: Local) -> None:
    for number in range(limits.CHANGES_AT_ONCE):
        assert updated(directory, f"{number}") is None
    assert updated(directory, "one too many") is Refusal.CHANGED_OFTEN
    directory.now += HOUR - 1
    assert updated(directory, "still") is Refusal.CHANGED_OFTEN
    directory.now += 1
    assert updated(directory, "an hour later") is None
    assert updated(directory, "and another") is Refusal.CHANGED_OFTEN
    directory.now += limits.CHANGES_AT_ONCE * HOUR
    for number in range(limits.CHANGES_AT_ONCE):
        assert updated(directory, f"again {number}") is None
    assert updated(directory, "no more than before") is Refusal.CHANGED_OFTEN


def test_a_burst_in_one_round_is_one_as_well(directory: Local) -> None:
    """Each is of the version that the one before it makes."""
    entry, pending = directory.entry("alice"), []
    for number in range(limits.CHANGES_AT_ONCE + 2):
        each = update(entry, b"%d" % number)
        pending.append(each)
        entry = replace(
            entry,
            version=entry.version + 1,
            round=3,
            previous=entry.digest(),
            profile=each.profile,
        )
    outcome = directory.round(*pending)
    assert len(outcome.placed) == limits.CHANGES_AT_ONCE
    assert outcome.refused[pending[-2].encode()] is Refusal.CHANGED_OFTEN


def test_what_a_thief_changes_keeps_the_owner_from_nothing(directory: Local) -> None:
    """With the owner's key he has used all turns for changes: new keys, a freeze, a recovery and
    giving the name up have theirs."""
    while updated(directory, f"{directory.entry('alice').version}") is None:
        pass
    directory.now += 1
    until = directory.now + LIFETIME
    renewed = made(directory, OperationKind.RENEW, OWNER, profile=b"", until=until)
    assert done(directory, renewed) is Refusal.CHANGED_OFTEN
    assert done(directory, turned(directory)) is None
    recovery = made(directory, OperationKind.RECOVER, *sorted((HEIR, OTHER)), owners=owners(OTHER))
    assert done(directory, recovery) is None
    assert done(directory, made(directory, OperationKind.CANCEL, OWNER)) is None
    frozen = made(directory, OperationKind.FREEZE, OWNER, version=0, previous=ZERO, expires=NEVER)
    assert done(directory, frozen) is None
    assert directory.entry("alice").status is Status.FROZEN
    again = made(directory, OperationKind.RECOVER, *sorted((HEIR, OTHER)), owners=owners(OTHER))
    assert done(directory, again) is None


def test_what_an_agent_does_uses_none_of_the_owners_turns(directory: Local) -> None:
    """Nor does what the owner has used up keep the agent from renewing."""
    for number in range(limits.CHANGES_AT_ONCE):
        assert updated(directory, f"{number}") is None
    entry = directory.entry("alice")
    directory.now += LIFETIME // limits.AGENT_RENEWALS
    until = entry.expires + LIFETIME // limits.AGENT_RENEWALS
    while updated(directory, f"{directory.entry('alice').version}") is None:
        pass
    assert done(directory, made(directory, OperationKind.RENEW, AGENT, until=until)) is None
    with directory.store.read() as view:
        assert view.turns_used(ALICE, OperationKind.RENEW) == 0
    suspended = made(
        directory, OperationKind.FREEZE, AGENT, version=0, previous=ZERO, expires=NEVER
    )
    assert done(directory, suspended) is None
    assert done(directory, turned(directory, OTHER)) is None


@pytest.mark.parametrize("kind", ["ROTATE", "RECOVER", "CANCEL"])
def test_a_name_has_new_keys_eight_times_and_then_once_a_day(directory: Local, kind: str) -> None:
    """So who owns many names does not fill the log with these either."""

    def once() -> Refusal | None:
        if kind == "ROTATE":
            return done(directory, turned(directory))
        heirs = {"owners": owners(OTHER)}
        recovery = made(directory, OperationKind.RECOVER, *sorted((HEIR, OTHER)), **heirs)
        if kind == "RECOVER":
            return done(directory, recovery)
        with_turns(directory, OperationKind.RECOVER, 0)
        assert done(directory, recovery) is None
        return done(directory, made(directory, OperationKind.CANCEL, OWNER))

    for _ in range(limits.CHANGES_AT_ONCE):
        assert once() is None
    assert once() is Refusal.CHANGED_OFTEN
    directory.now += DAY
    assert once() is None
    assert once() is Refusal.CHANGED_OFTEN


def with_turns(directory: Local, kind: OperationKind, used: int) -> None:
    """As if a name's turns for changes of this kind had been used until then."""
    with directory.store.write() as writer:
        writer._put(StateTable.TURNS, ALICE + bytes([kind]), used.to_bytes(8, "big"))


def test_a_verifier_refuses_a_round_with_a_change_too_many(directory: Local) -> None:
    """The rule is not the sequencer's own policy: whoever replays the log comes to the same."""
    for number in range(limits.CHANGES_AT_ONCE):
        assert updated(directory, f"{number}") is None
    one_more: Entry = directory.entry("alice")
    with directory.store.read() as view:
        tip = view.tip()
        assert tip is not None
        again = Replay(view, config_now(view), tip.number + 1, NOW)
        with pytest.raises(OperationRefused, match="changed too often"):
            again.apply(update(one_more, b"too many").encode())
        later = Replay(view, config_now(view), tip.number + 1, NOW + HOUR)
        later.apply(update(one_more, b"in time").encode())
