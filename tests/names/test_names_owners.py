"""What owners do with their names beyond UPDATE and ROTATE: renew, release, freeze, recover,
cancel; each step followed by a client from the entry before."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cbfs_common.limits import NAME_GRACE, NAME_QUARANTINE, RECOVERY_DELAY
from cbfs_common.names.changes import HistoryLink, apply_change
from cbfs_common.names.checks import Found
from cbfs_common.names.entry import NO_KEYS, Entry, Keys, Status, decode_entry
from cbfs_common.names.layout import ZERO
from cbfs_common.names.operations import (
    NEVER,
    Operation,
    OperationKind,
    OperationRefused,
    Refusal,
)
from cbfs_common.primitives import sign_public
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

OWNER, HEIR, SAFE, THIEF = b"o" * 32, b"h" * 32, b"s" * 32, b"t" * 32
AGENT, NEXT = b"a" * 32, b"n" * 32


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Local]:
    with local(tmp_path / "store") as made:
        yield made


def change(old: Entry, kind: OperationKind, *seeds: bytes, **fields: object) -> Operation:
    base = replace(update(old, b""), kind=kind, profile=b"", **fields)  # type: ignore[arg-type]
    return base.signed(seeds)


def freeze(incarnation: int, *seeds: bytes) -> Operation:
    """A certificate, made before anybody knows when it will be needed."""
    return Operation(OperationKind.FREEZE, DIRECTORY, "alice", incarnation, 0, ZERO, NEVER).signed(
        seeds
    )


def recover(old: Entry, heirs: Keys, *seeds: bytes) -> Operation:
    return change(old, OperationKind.RECOVER, *seeds, owners=heirs)


def refusal(directory: Local, operation: Operation) -> Refusal:
    outcome = directory.round(operation)
    assert outcome.head is None
    return outcome.refused[operation.encode()]


def step(directory: Local, operation: Operation) -> Entry:
    """One accepted operation; a client that knew the entry before follows it."""
    before, reply = stored(directory), None
    assert directory.round(operation).head is not None
    after = stored(directory)
    reply = directory.look_up("alice")
    assert reply.links[-1].follow(before, DIRECTORY) == after
    assert after.version == before.version + 1
    return after


def stored(directory: Local) -> Entry:
    """Whatever its status."""
    return decode_entry(directory.look_up("alice").evidence.entry)


def taken(directory: Local, recovery: Keys = NO_KEYS) -> Entry:
    directory.round(commit("alice", OWNER))
    directory.round(replace(register("alice"), recovery=recovery).signed((OWNER,)))
    return stored(directory)


def test_renewal_moves_the_expiry_as_far_as_the_terms_allow(directory: Local) -> None:
    entry = taken(directory)
    directory.now += 1_000
    most = directory.now + LIFETIME
    for until in (most + 1, entry.expires, 0):
        wrong = change(entry, OperationKind.RENEW, OWNER, until=until)
        assert refusal(directory, wrong) is Refusal.WRONG_TERM
    thief = change(entry, OperationKind.RENEW, THIEF, until=most)
    assert refusal(directory, thief) is Refusal.WRONG_SIGNATURE
    renewed = step(directory, change(entry, OperationKind.RENEW, OWNER, until=most))
    assert renewed.expires == most
    directory.now = renewed.expires + NAME_GRACE + 1
    late = change(renewed, OperationKind.RENEW, OWNER, until=directory.now + LIFETIME)
    assert refusal(directory, late) is Refusal.NAME_EXPIRED


def test_released_name_is_free_after_quarantine_for_a_new_incarnation(directory: Local) -> None:
    entry = taken(directory)
    assert (
        refusal(directory, change(entry, OperationKind.RELEASE, THIEF)) is Refusal.WRONG_SIGNATURE
    )
    gone = step(directory, change(entry, OperationKind.RELEASE, OWNER))
    assert (gone.status, gone.profile, gone.expires) == (Status.RELEASED, b"", NOW)
    assert refusal(directory, update(gone, b"back")) is Refusal.NAME_RELEASED
    directory.now += NAME_QUARANTINE
    directory.round(commit("alice", HEIR))
    new = register("alice", HEIR, old=gone)
    assert refusal(directory, new) is Refusal.NAME_TAKEN
    directory.now += 1
    assert directory.round(new).head is not None
    assert (stored(directory).incarnation, stored(directory).version) == (2, 1)


def test_freeze_signed_beforehand_holds_for_whatever_version_there_is(directory: Local) -> None:
    entry = taken(directory, owners(SAFE))
    certificate = freeze(1, OWNER)
    assert refusal(directory, freeze(1, THIEF)) is Refusal.WRONG_SIGNATURE
    assert refusal(directory, freeze(2, OWNER)) is Refusal.WRONG_VERSION
    for n in range(3):
        entry = step(directory, update(entry, b"version %d" % n))
    directory.now += 5_000
    frozen = step(directory, certificate)
    assert frozen.status is Status.FROZEN
    for kind in (OperationKind.UPDATE, OperationKind.RELEASE, OperationKind.CANCEL):
        assert refusal(directory, change(frozen, kind, OWNER)) is Refusal.NAME_FROZEN
    assert refusal(directory, certificate) is Refusal.NAME_FROZEN


def test_recovery_gives_the_name_to_its_heirs_after_the_delay(directory: Local) -> None:
    entry = taken(directory, owners(SAFE))
    frozen = step(directory, freeze(1, OWNER))
    pending = step(directory, recover(frozen, owners(HEIR), SAFE, HEIR))
    assert (pending.heirs, pending.due) == (owners(HEIR), NOW + RECOVERY_DELAY)
    assert (pending.owners, pending.status) == (entry.owners, Status.FROZEN)
    assert refusal(directory, change(pending, OperationKind.CANCEL, OWNER)) is Refusal.NAME_FROZEN
    directory.now = pending.due - 1
    assert refusal(directory, update(pending, b"early", HEIR)) is Refusal.NAME_FROZEN
    directory.now = pending.due
    assert refusal(directory, update(pending, b"late", OWNER)) is Refusal.WRONG_SIGNATURE
    assert refusal(directory, freeze(1, OWNER)) is Refusal.WRONG_SIGNATURE
    mine = step(directory, update(pending, b"mine again", HEIR))
    assert (mine.owners, mine.heirs, mine.due) == (owners(HEIR), NO_KEYS, 0)
    assert (mine.status, mine.profile) == (Status.ACTIVE, b"mine again")


def test_owner_cancels_a_recovery_that_is_not_theirs(directory: Local) -> None:
    entry = taken(directory, owners(SAFE))
    assert refusal(directory, change(entry, OperationKind.CANCEL, OWNER)) is Refusal.NO_RECOVERY
    pending = step(directory, recover(entry, owners(THIEF), SAFE, THIEF))
    again = step(directory, update(pending, b"an update cancels nothing"))
    assert again.heirs == owners(THIEF)
    assert refusal(directory, change(again, OperationKind.CANCEL, THIEF)) is Refusal.WRONG_SIGNATURE
    kept = step(directory, change(again, OperationKind.CANCEL, OWNER))
    directory.now = pending.due + 1
    assert (kept.heirs, kept.due) == (NO_KEYS, 0)
    assert refusal(directory, update(kept, b"stolen", THIEF)) is Refusal.WRONG_SIGNATURE


@pytest.mark.parametrize("seeds", [(OWNER, HEIR), (SAFE,), (HEIR,), (SAFE, HEIR, THIEF)])
def test_recovery_needs_the_recovery_keys_and_the_heirs_and_nobody_else(
    directory: Local, seeds: tuple[bytes, ...]
) -> None:
    entry = taken(directory, owners(SAFE))
    wrong = recover(entry, owners(HEIR), *seeds)
    assert refusal(directory, wrong) is Refusal.WRONG_SIGNATURE


def test_name_without_recovery_keys_cannot_be_recovered(directory: Local) -> None:
    entry = taken(directory)
    wrong = recover(entry, owners(HEIR), SAFE, HEIR)
    assert refusal(directory, wrong) is Refusal.NO_RECOVERY


def test_stolen_registration_gains_nothing(directory: Local) -> None:
    """Whoever sees a REGISTER before it stands cannot have the name: neither with the same
    commitment under other keys, nor by a commitment made after the sight of it."""
    directory.round(commit("alice", OWNER))
    seen = register("alice", OWNER)
    stolen = replace(seen, owners=owners(THIEF)).signed((THIEF,))
    assert refusal(directory, stolen) is Refusal.NO_COMMIT
    directory.round(commit("alice", THIEF))
    outcome = directory.round(register("alice", THIEF), seen)
    assert outcome.refused == {register("alice", THIEF).encode(): Refusal.NAME_TAKEN}
    assert stored(directory).owners == owners(OWNER)


def test_rotation_voids_a_freeze_made_before_it(directory: Local) -> None:
    entry = taken(directory)
    certificate = freeze(1, OWNER)
    step(directory, rotate(entry, owners(HEIR), OWNER, HEIR))
    assert refusal(directory, certificate) is Refusal.WRONG_SIGNATURE


class Life(RuleBasedStateMachine):
    """Any sequence of operations by anybody: what is accepted is what the rules say, a client
    follows every step, and without the keys nobody gets the name."""

    def __init__(self) -> None:
        super().__init__()
        self.time = NOW
        self.entry = Entry(
            "alice", 1, 1, Status.ACTIVE, NOW + 10 * RECOVERY_DELAY, 1, ZERO, owners(OWNER),
            owners(SAFE), b"", agent=sign_public(AGENT),
        )  # fmt: skip

    @rule(seconds=st.sampled_from([0, 1, RECOVERY_DELAY - 1, RECOVERY_DELAY]))
    def wait(self, seconds: int) -> None:
        self.time += seconds

    @rule(
        kind=st.sampled_from([kind for kind in OperationKind if 3 <= kind <= 9]),
        seeds=st.sets(st.sampled_from([OWNER, HEIR, SAFE, THIEF, AGENT, NEXT]), min_size=1),
        heir=st.sampled_from([OWNER, HEIR]),
        agent=st.sampled_from([b"", sign_public(AGENT), sign_public(NEXT)]),
    )
    def act(self, kind: OperationKind, seeds: set[bytes], heir: bytes, agent: bytes) -> None:
        names_owners = kind in (OperationKind.ROTATE, OperationKind.RECOVER)
        operation = change(
            self.entry,
            kind,
            *seeds,
            owners=owners(heir) if names_owners else NO_KEYS,
            recovery=owners(SAFE) if kind is OperationKind.ROTATE else NO_KEYS,
            agent=agent if kind is OperationKind.ROTATE else b"",
            until=self.entry.expires + 1 if kind is OperationKind.RENEW else 0,
        )
        if kind is OperationKind.FREEZE:
            operation = freeze(1, *seeds)
        now = self.entry.settled(self.time)
        try:
            made = apply_change(self.entry, operation, 5, self.time)
        except OperationRefused:
            return
        signers = frozenset(key for key, _ in operation.signatures)
        if signers == {now.agent}:
            self.check_agent_s(kind, now, made)
        else:
            needed = now.recovery if kind is OperationKind.RECOVER else now.owners
            assert needed.satisfied(signers)
        assert now.status is not Status.RELEASED
        assert now.status is not Status.FROZEN or kind is OperationKind.RECOVER
        if now.status is Status.SUSPENDED:
            assert kind in (OperationKind.ROTATE, OperationKind.FREEZE, OperationKind.RECOVER)
            assert made.status is not Status.ACTIVE or made.agent != now.agent
        assert made.previous == self.entry.digest()
        link = HistoryLink(5, self.time, operation.encode())
        assert link.follow(self.entry, DIRECTORY) == made
        self.entry = decode_entry(made.encode())

    def check_agent_s(self, kind: OperationKind, now: Entry, made: Entry) -> None:
        """What an agent has signed has changed the expiry, or suspended the name."""
        assert now.status is Status.ACTIVE
        assert now.agent
        wanted = replace(now, version=made.version, round=made.round, previous=made.previous)
        if kind is OperationKind.RENEW:
            assert made == replace(wanted, expires=made.expires)
        else:
            assert kind is OperationKind.FREEZE
            assert made == replace(wanted, status=Status.SUSPENDED)

    @invariant()
    def never_the_thief_s(self) -> None:
        for thief in (THIEF, AGENT, NEXT):
            assert owners(thief) not in (self.entry.owners, self.entry.heirs)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_released_and_frozen_names_are_found_with_their_status(directory: Local) -> None:
    taken(directory)
    step(directory, freeze(1, OWNER))
    _, found = directory.checked("alice")
    assert isinstance(found, Found)
    assert found.entry.status is Status.FROZEN
