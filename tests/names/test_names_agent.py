"""An agent's key, which an entry may have beside its owners': it renews the name, and suspends it,
and does nothing else; what its owners do then. Each step is followed by a client."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cbfs_common.limits import AGENT_RENEWALS, RECOVERY_DELAY
from cbfs_common.names.changes import HistoryLink
from cbfs_common.names.entry import NO_KEYS, Entry, Keys, Status
from cbfs_common.names.operations import Operation, OperationKind, OperationRefused, Refusal
from cbfs_common.primitives import sign_public
from tests.names.test_names_owners import (
    AGENT,
    HEIR,
    NEXT,
    OWNER,
    SAFE,
    THIEF,
    change,
    freeze,
    recover,
    refusal,
    step,
    stored,
)
from tests.support.names_local import DIRECTORY, LIFETIME, Local, commit, local, owners, register


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Local]:
    with local(tmp_path / "store") as made:
        yield made


def taken(directory: Local, recovery: Keys = NO_KEYS) -> Entry:
    """alice's, with an agent."""
    directory.round(commit("alice", OWNER))
    made = replace(register("alice"), recovery=recovery, agent=sign_public(AGENT))
    directory.round(made.signed((OWNER,)))
    return stored(directory)


def rotate(old: Entry, agent: bytes, *seeds: bytes) -> Operation:
    """To the owner's present key, with another agent."""
    keys = {"owners": old.owners, "recovery": old.recovery}
    return change(old, OperationKind.ROTATE, *seeds, **keys, agent=agent)


def renew(old: Entry, until: int, *seeds: bytes) -> Operation:
    return change(old, OperationKind.RENEW, *seeds, until=until)


def refused_by_client(before: Entry, operation: Operation) -> Refusal:
    """What a client finds wrong with a history that a quorum of liars has put this into."""
    link = HistoryLink(before.round + 1, 0, operation.encode())
    with pytest.raises(OperationRefused) as error:
        link.follow(before, DIRECTORY)
    return error.value.refusal


def test_the_agent_renews_the_name_and_nothing_else_changes(directory: Local) -> None:
    entry = taken(directory)
    assert entry.agent == sign_public(AGENT)
    directory.now += LIFETIME // 2
    until = directory.now + LIFETIME
    renewed = step(directory, renew(entry, until, AGENT))
    assert renewed == replace(
        entry, expires=until, version=2, round=renewed.round, previous=entry.digest()
    )


def test_many_renewals_of_an_agent_do_not_keep_the_owner_out(directory: Local) -> None:
    """Each is another version. What is refused here is what the owner's change would wait for."""
    entry = taken(directory)
    directory.now += LIFETIME
    least = LIFETIME // AGENT_RENEWALS
    wrong = renew(entry, entry.expires + least - 1, AGENT)
    assert refusal(directory, wrong) is Refusal.WRONG_TERM
    for _ in range(AGENT_RENEWALS):
        entry = step(directory, renew(entry, entry.expires + least, AGENT))
    more = renew(entry, directory.now + LIFETIME, AGENT)
    assert refusal(directory, more) is Refusal.WRONG_TERM
    directory.now += 1
    step(directory, renew(entry, entry.expires + 1, OWNER))  # which is the owner's own affair


@pytest.mark.parametrize("kind", [k for k in OperationKind if 3 <= k <= 9 and k not in (5, 7)])
@pytest.mark.parametrize("status", [Status.ACTIVE, Status.SUSPENDED])
def test_what_an_agent_signs_beside_that_is_refused_by_verifiers_and_by_clients(
    directory: Local, kind: OperationKind, status: Status
) -> None:
    entry = taken(directory, owners(SAFE))
    pending = step(directory, recover(entry, owners(HEIR), SAFE, HEIR))
    if status is Status.SUSPENDED:
        pending = step(directory, freeze(1, AGENT))
    fields: dict[str, object] = {}
    if kind in (OperationKind.ROTATE, OperationKind.RECOVER):
        fields = {"owners": owners(AGENT)}
    wrong = change(pending, kind, AGENT, **fields)
    assert refusal(directory, wrong) is refused_by_client(pending, wrong)
    assert stored(directory) == pending


def test_the_owner_alone_ends_what_an_agent_has_frozen_and_with_another_agent(
    directory: Local,
) -> None:
    entry = taken(directory)
    certificate = freeze(1, AGENT)
    assert refusal(directory, freeze(1, THIEF)) is Refusal.WRONG_SIGNATURE
    suspended = step(directory, certificate)
    assert suspended.status is Status.SUSPENDED
    assert (suspended.owners, suspended.profile) == (entry.owners, entry.profile)
    for kind in (OperationKind.UPDATE, OperationKind.RELEASE, OperationKind.CANCEL):
        assert refusal(directory, change(suspended, kind, OWNER)) is Refusal.NAME_SUSPENDED
    for seed in (AGENT, OWNER):
        again = renew(suspended, suspended.expires + 1, seed)
        assert refusal(directory, again) in (Refusal.NAME_SUSPENDED, Refusal.WRONG_TERM)
    assert refusal(directory, certificate) is Refusal.NAME_SUSPENDED
    same = rotate(suspended, suspended.agent, OWNER)
    assert refusal(directory, same) is Refusal.NAME_SUSPENDED
    freed = step(directory, rotate(suspended, sign_public(NEXT), OWNER))
    assert (freed.status, freed.agent) == (Status.ACTIVE, sign_public(NEXT))
    # anybody has the certificate by now, as it stands in the log
    assert refusal(directory, certificate) is Refusal.WRONG_SIGNATURE
    until = freed.expires + LIFETIME // 2
    directory.now += LIFETIME // 2
    assert refusal(directory, renew(freed, until, AGENT)) is Refusal.WRONG_SIGNATURE
    step(directory, renew(freed, until, NEXT))


def test_the_owner_can_freeze_for_good_what_an_agent_has_frozen(directory: Local) -> None:
    taken(directory)
    step(directory, freeze(1, AGENT))
    frozen = step(directory, freeze(1, OWNER))
    assert frozen.status is Status.FROZEN
    free = rotate(frozen, b"", OWNER)
    assert refusal(directory, free) is Refusal.NAME_FROZEN


def test_a_recovery_ends_what_an_agent_may_do(directory: Local) -> None:
    taken(directory, owners(SAFE))
    suspended = step(directory, freeze(1, AGENT))
    pending = step(directory, recover(suspended, owners(HEIR), SAFE, HEIR))
    directory.now += RECOVERY_DELAY
    assert refusal(directory, freeze(1, AGENT)) is Refusal.WRONG_SIGNATURE
    until = pending.expires + LIFETIME // 2
    assert refusal(directory, renew(pending, until, AGENT)) is Refusal.WRONG_SIGNATURE
    keys = {"owners": owners(HEIR), "recovery": owners(SAFE), "agent": sign_public(NEXT)}
    mine = step(directory, change(pending, OperationKind.ROTATE, HEIR, **keys))
    assert (mine.status, mine.agent) == (Status.ACTIVE, sign_public(NEXT))


def test_an_agent_is_of_one_name_alone(directory: Local) -> None:
    entry = taken(directory)
    directory.take("bob", THIEF)
    bob = directory.entry("bob")
    directory.now += LIFETIME // 2
    until = bob.expires + LIFETIME // 4
    wrong = replace(renew(bob, until), name="bob").signed((AGENT,))
    assert refusal(directory, wrong) is Refusal.WRONG_SIGNATURE
    assert refused_by_client(bob, wrong) is Refusal.WRONG_SIGNATURE
    certificate = replace(freeze(1), name="bob").signed((AGENT,))
    assert refusal(directory, certificate) is Refusal.WRONG_SIGNATURE
    step(directory, renew(entry, until, AGENT))


def test_what_agent_and_owner_have_signed_together_is_refused(directory: Local) -> None:
    entry = taken(directory)
    assert refusal(directory, freeze(1, AGENT, OWNER)) is Refusal.WRONG_SIGNATURE
    until = entry.expires + LIFETIME // 2
    directory.now += LIFETIME // 2
    both = renew(entry, until, AGENT, OWNER)
    assert refusal(directory, both) is Refusal.WRONG_SIGNATURE


def test_a_name_without_an_agent_has_none(directory: Local) -> None:
    """Not even one whose key would be an empty one."""
    directory.take("alice", OWNER)
    assert stored(directory).agent == b""
    assert refusal(directory, freeze(1, AGENT)) is Refusal.WRONG_SIGNATURE
