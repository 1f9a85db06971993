"""Rounds: what operations do, what a verifier signs, and what it and the sequencer keep to
across crashes. Real store, no sockets."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cbfs_common.limits import (
    COMMIT_LIFETIME,
    NAME_GRACE,
    NAME_QUARANTINE,
    OPERATION_ROUNDS_MAX,
    ROUND_TIME_OFF_MAX,
)
from cbfs_common.names.checks import Absent, Found, NameExpired
from cbfs_common.names.config import Terms
from cbfs_common.names.note import Checkpoint, parse_checkpoint, parse_note
from cbfs_common.names.operations import Operation, Refusal
from cbfs_common.names.trees import EMPTY_ROOT, extends
from cbfs_common.names.wire import AskConsistency, ConsistencyIs, RefusedReply
from cbfs_common.primitives import sign, verify
from cbfs_host.complaints import StoreError
from cbfs_names.rounds.sequencer import build_block
from cbfs_names.rounds.verifier import check_block
from cbfs_names.state.block import Block, BlockRefused, Reason, proposal_text
from cbfs_names.state.round_log import RoundLog
from cbfs_names.state.store import StateStore, StateTable
from tests.support.names_local import (
    CONFIG,
    COSIGNER,
    KEYS,
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

ANOTHER = b"a" * 32


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Local]:
    with local(tmp_path / "store") as made:
        yield made


def refusal(directory: Local, operation: Operation) -> Refusal:
    outcome = directory.round(operation)
    assert outcome.head is None
    return outcome.refused[operation.encode()]


def test_name_is_registered_updated_and_rotated(directory: Local) -> None:
    state, nothing = directory.checked("alice")
    assert nothing == Absent()
    first = directory.take("alice")
    assert (first.incarnation, first.version, first.expires) == (1, 1, NOW + LIFETIME)
    state, _ = directory.checked("alice", state)
    directory.round(update(first, b"second"))
    second = directory.entry("alice")
    assert (second.version, second.profile, second.previous) == (2, b"second", first.digest())
    directory.round(rotate(second, owners(ANOTHER), b"o" * 32, ANOTHER))
    third = directory.entry("alice")
    assert third.owners == owners(ANOTHER)
    state, found = directory.checked("alice", state, known=first)
    assert isinstance(found, Found)
    assert found.entry == third
    assert refusal(directory, update(third, b"by the old key")) is Refusal.WRONG_SIGNATURE


def test_registration_needs_a_commitment_of_an_earlier_round(directory: Local) -> None:
    assert refusal(directory, register("alice")) is Refusal.NO_COMMIT
    outcome = directory.round(commit("alice"), register("alice"))
    assert outcome.refused == {register("alice").encode(): Refusal.NO_COMMIT}
    assert refusal(directory, commit("alice")) is Refusal.COMMIT_REPEATED
    assert refusal(directory, register("alice", ANOTHER)) is Refusal.NO_COMMIT
    assert directory.round(register("alice")).head is not None


def test_commitment_is_over_after_a_day_and_can_be_made_again(directory: Local) -> None:
    directory.round(commit("alice"))
    directory.now += COMMIT_LIFETIME + 1
    assert refusal(directory, register("alice")) is Refusal.NO_COMMIT
    directory.round(commit("alice"))
    assert directory.round(register("alice")).head is not None
    with directory.store.read() as view:
        assert len(list(view.commits_until(directory.now))) == 1


def test_of_two_who_want_a_name_the_first_to_commit_gets_it(directory: Local) -> None:
    directory.round(commit("alice", ANOTHER))
    directory.round(commit("alice"))
    outcome = directory.round(register("alice"), register("alice", ANOTHER))
    assert outcome.refused == {register("alice").encode(): Refusal.NAME_TAKEN}
    assert directory.entry("alice").owners == owners(ANOTHER)


def test_verifier_refuses_registrations_out_of_order(directory: Local) -> None:
    directory.round(commit("alice", ANOTHER))
    directory.round(commit("bobby"))
    with directory.store.read() as view:
        good, _, _ = build_block(
            view,
            CONFIG,
            KEYS.log,
            [register("bobby").encode(), register("alice", ANOTHER).encode()],
            NOW,
        )
        swapped = resigned(directory, replace(good, operations=good.operations[::-1]))
        with pytest.raises(BlockRefused) as caught:
            check_block(view, CONFIG, swapped, NOW)
    assert caught.value.reason is Reason.OPERATION


def test_two_changes_of_one_name_in_one_round_both_count(directory: Local) -> None:
    first = directory.take("alice")
    second = update(first, b"second")
    made = replace(first, version=2, previous=first.digest(), profile=b"second", round=3)
    third = update(made, b"third")
    outcome = directory.round(second, third)
    assert not outcome.refused
    assert (directory.entry("alice").version, directory.entry("alice").profile) == (3, b"third")


REFUSED: dict[str, tuple[Refusal, Callable[[Local], Operation]]] = {
    "a taken name": (Refusal.NAME_TAKEN, lambda d: committed(d, "alice", ANOTHER)),
    "another directory": (
        Refusal.WRONG_DIRECTORY,
        lambda d: replace(commit("carol"), directory=bytes(16)),
    ),
    "an operation that has expired": (
        Refusal.OUT_OF_DATE,
        lambda d: replace(commit("carol"), expires=0),
    ),
    "an operation that never expires": (
        Refusal.OUT_OF_DATE,
        lambda d: replace(commit("carol"), expires=OPERATION_ROUNDS_MAX + 100),
    ),
    "an update of nothing": (
        Refusal.NO_SUCH_NAME,
        lambda d: update(replace(d.entry("alice"), name="nobody"), b""),
    ),
    "a skipped version": (
        Refusal.WRONG_VERSION,
        lambda d: update(replace(d.entry("alice"), version=2), b""),
    ),
    "an update of another entry": (
        Refusal.WRONG_VERSION,
        lambda d: update(replace(d.entry("alice"), profile=b"x"), b""),
    ),
    "another incarnation": (
        Refusal.WRONG_VERSION,
        lambda d: update(replace(d.entry("alice"), incarnation=2), b""),
    ),
    "a first registration as the second": (
        Refusal.WRONG_VERSION,
        lambda d: committed(d, "carol", b"o" * 32, incarnation=2),
    ),
    "an update by somebody else": (
        Refusal.WRONG_SIGNATURE,
        lambda d: update(d.entry("alice"), b"", ANOTHER),
    ),
    "an update with a signature too many": (
        Refusal.WRONG_SIGNATURE,
        lambda d: update(d.entry("alice"), b"", ANOTHER, b"o" * 32),
    ),
    "an update whose signature is another's": (
        Refusal.WRONG_SIGNATURE,
        lambda d: replace(
            update(d.entry("alice"), b"one"), signatures=update(d.entry("alice"), b"two").signatures
        ),
    ),
    "a rotation that the new owner has not signed": (
        Refusal.WRONG_SIGNATURE,
        lambda d: rotate(d.entry("alice"), owners(ANOTHER), b"o" * 32),
    ),
    "a rotation that the old owner has not signed": (
        Refusal.WRONG_SIGNATURE,
        lambda d: rotate(d.entry("alice"), owners(ANOTHER), ANOTHER),
    ),
}


def committed(directory: Local, name: str, seed: bytes, incarnation: int = 1) -> Operation:
    directory.round(commit(name, seed))
    return replace(register(name, seed), incarnation=incarnation).signed((seed,))


@pytest.mark.parametrize("case", REFUSED)
def test_operation_is_refused(directory: Local, case: str) -> None:
    directory.take("alice")
    wanted, make = REFUSED[case]
    operation = make(directory)
    before = directory.entry("alice")
    assert refusal(directory, operation) is wanted
    assert directory.entry("alice") == before


def test_garbage_is_refused_without_a_round(directory: Local) -> None:
    outcome = directory.core.round([b"garbage"], NOW)
    assert outcome.refused == {b"garbage": Refusal.BAD_REQUEST}
    assert outcome.head is None


def test_threshold_of_owners_is_needed(directory: Local) -> None:
    two = owners(b"o" * 32, ANOTHER, threshold=2)
    first = directory.take("alice")
    directory.round(rotate(first, two, b"o" * 32, ANOTHER))
    second = directory.entry("alice")
    assert second.owners == two
    assert refusal(directory, update(second, b"alone")) is Refusal.WRONG_SIGNATURE
    assert directory.round(update(second, b"both", b"o" * 32, ANOTHER)).head is not None


def test_expired_name_is_free_after_grace_and_quarantine_as_a_new_incarnation(
    directory: Local,
) -> None:
    old = directory.take("alice")
    directory.now = old.expires + NAME_GRACE + 1
    with pytest.raises(NameExpired):
        directory.checked("alice")
    assert refusal(directory, update(old, b"late")) is Refusal.NAME_EXPIRED
    directory.round(commit("alice", ANOTHER))
    taken = register("alice", ANOTHER, old=old)
    assert refusal(directory, taken) is Refusal.NAME_TAKEN
    directory.now = old.expires + NAME_GRACE + NAME_QUARANTINE + 1
    directory.round(commit("alice", ANOTHER))
    assert directory.round(taken).head is not None
    new = directory.entry("alice")
    assert (new.incarnation, new.version, new.previous) == (2, 1, old.digest())


# What a verifier signs.


def next_block(directory: Local, *operations: Operation, now: int = NOW) -> Block:
    with directory.store.read() as view:
        block, _, _ = build_block(
            view, CONFIG, KEYS.log, [operation.encode() for operation in operations], now
        )
    return block


def resigned(directory: Local, block: Block, seed: bytes = KEYS.log) -> Block:
    """The block with the sequencer's signature over what it says now."""
    with directory.store.read() as view:
        root, _ = RoundLog(block.round.number, view.log_hash).append(block.round.digest())
    text = Checkpoint(CONFIG.namespace, block.round.number + 1, root).encode()
    return replace(block, signature=sign(seed, proposal_text(text)))


BAD_BLOCKS: dict[str, tuple[Reason, Callable[[Local, Block], Block]]] = {
    "an unsigned round": (Reason.SIGNATURE, lambda d, b: replace(b, signature=bytes(64))),
    "a round of another sequencer": (Reason.SIGNATURE, lambda d, b: resigned(d, b, ANOTHER)),
    "a changed time": (
        Reason.SIGNATURE,
        lambda d, b: replace(b, round=replace(b.round, time=NOW + 1)),
    ),
    "another namespace": (
        Reason.CONFIGURATION,
        lambda d, b: resigned(d, replace(b, round=replace(b.round, namespace="other/log"))),
    ),
    "another configuration": (
        Reason.CONFIGURATION,
        lambda d, b: resigned(d, replace(b, round=replace(b.round, config=bytes(32)))),
    ),
    "a time before the last round's": (
        Reason.TIME_BACK,
        lambda d, b: resigned(d, replace(b, round=replace(b.round, time=NOW - 1))),
    ),
    "a time to come": (
        Reason.TIME_OFF,
        lambda d, b: resigned(
            d, replace(b, round=replace(b.round, time=NOW + ROUND_TIME_OFF_MAX + 1))
        ),
    ),
    "another map": (
        Reason.ROOTS,
        lambda d, b: resigned(d, replace(b, round=replace(b.round, map_root=bytes(32)))),
    ),
    "an operation left out": (
        Reason.ROOTS,
        lambda d, b: resigned(d, replace(b, operations=b.operations[1:])),
    ),
    "changes that are not told": (
        Reason.ROOTS,
        lambda d, b: resigned(d, replace(b, round=replace(b.round, changes=bytes(32)))),
    ),
    "an operation that is not valid": (
        Reason.OPERATION,
        lambda d, b: resigned(
            d, replace(b, operations=(*b.operations, register("bobby").encode()))
        ),
    ),
    "an operation twice": (
        Reason.OPERATION,
        lambda d, b: resigned(d, replace(b, operations=b.operations * 2)),
    ),
}


@pytest.mark.parametrize("case", BAD_BLOCKS)
def test_verifier_refuses_a_bad_round_for_good(directory: Local, case: str) -> None:
    reason, spoil = BAD_BLOCKS[case]
    good = next_block(directory, commit("alice"))
    bad = spoil(directory, good)
    with pytest.raises(BlockRefused) as caught:
        directory.verifier.accept(bad, NOW)
    assert caught.value.reason is reason
    with directory.store.read() as view:
        tip = view.tip()
        kept = view.get(StateTable.REFUSALS, (1).to_bytes(8, "big") + bad.round.digest())
    assert tip is not None
    assert tip.number == 0
    assert kept is not None
    verify(CONFIG.witnesses[0][1].public, kept[:-64], kept[-64:])
    with pytest.raises(BlockRefused):
        directory.verifier.accept(bad, NOW)


def test_verifier_never_locks_two_blocks_for_a_round(directory: Local) -> None:
    one, other = next_block(directory, commit("alice")), next_block(directory, commit("bobby"))
    directory.verifier.accept(one, NOW)
    with pytest.raises(BlockRefused) as caught:
        directory.verifier.accept(other, NOW)
    assert caught.value.reason is Reason.LOCKED
    again = directory.verifier.accept(one, NOW)
    assert again == directory.verifier.cosign(NOW)
    assert again.name == COSIGNER


def test_a_refused_block_stays_refused_when_time_would_allow_it(directory: Local) -> None:
    early = next_block(directory, commit("alice"), now=NOW + ROUND_TIME_OFF_MAX + 1)
    for now in (NOW, NOW + ROUND_TIME_OFF_MAX):
        with pytest.raises(BlockRefused) as caught:
            directory.verifier.accept(early, now)
        assert caught.value.reason is Reason.TIME_OFF


# Crashes: what a process leaves that ends between two transactions.


def test_proposal_is_made_again_byte_for_byte_after_a_crash(tmp_path: Path) -> None:
    with local(tmp_path / "store") as before:
        block, _ = before.sequencer.propose([commit("alice").encode()], NOW)
    with local(tmp_path / "store") as after, after.store.read() as view:
        tip = view.tip_block()
    assert tip == block


def test_stale_proposal_is_dropped_once_it_is_refused(tmp_path: Path) -> None:
    with local(tmp_path / "store") as before:
        stale, _ = before.sequencer.propose([commit("alice").encode()], NOW)
    assert stale is not None
    store = StateStore(tmp_path / "store", CONFIG.encode())
    late = Local(store, NOW + 10 * ROUND_TIME_OFF_MAX)
    assert late.sequencer.outstanding() is None
    with pytest.raises(BlockRefused):
        late.verifier.accept(stale, NOW)
    assert late.round(commit("alice")).head is not None
    store.close()


def test_locked_round_without_a_signature_is_cosigned_at_the_next_start(tmp_path: Path) -> None:
    with local(tmp_path / "store") as before:
        block = next_block(before, commit("alice"))
        with before.store.write() as writer:
            checked = check_block(writer, CONFIG, block, NOW)
            writer.lock_round(block, checked.change, checked.log_hashes)
    with local(tmp_path / "store") as after:
        assert after.checked("alice")[0].size == 2


def test_a_transaction_that_fails_leaves_nothing(directory: Local) -> None:
    block = next_block(directory, commit("alice"))

    class Trouble(Exception):
        pass

    with pytest.raises(Trouble), directory.store.write() as writer:
        checked = check_block(writer, CONFIG, block, NOW)
        writer.lock_round(block, checked.change, checked.log_hashes)
        raise Trouble
    with directory.store.read() as view:
        assert view.lock(1) is None
        tip = view.tip()
    assert tip is not None
    assert tip.number == 0


def test_clock_set_back_stops_rounds_and_says_so(directory: Local) -> None:
    directory.now += 100_000
    directory.round(commit("alice"))
    directory.now -= 100_000
    assert refusal(directory, commit("bobby")) is Refusal.STOPPED


def test_store_of_other_keys_is_refused(tmp_path: Path) -> None:
    with local(tmp_path / "store"):
        pass
    with pytest.raises(StoreError) as caught:
        StateStore(tmp_path / "store", replace(KEYS, log=ANOTHER).config(Terms()).encode())
    assert caught.value.hint


def test_two_directories_replay_the_same_operations_to_the_same_rounds(tmp_path: Path) -> None:
    rounds = []
    for folder in ("one", "two"):
        with local(tmp_path / folder) as directory:
            for n in range(5):
                directory.take(f"name{n}")
            directory.round(*(commit(f"other{n}") for n in range(20)))
            directory.round(*(register(f"other{n}") for n in reversed(range(20))))
            with directory.store.read() as view:
                rounds.append(view.tip_block())
    assert rounds[0] == rounds[1]


def test_consistency_is_proven_from_sizes_that_many_have_in_common(
    directory: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs_names.wire.queries.FOLLOW_MAX", 4)
    roots = [EMPTY_ROOT]
    for number in range(9):
        if number:
            directory.round(commit(f"name{number}"))
        note = parse_note(directory.look_up("alice").evidence.note)
        roots.append(parse_checkpoint(note.text.decode()).root)
    for old, size in ((4, 9), (4, 4), (8, 9), (4, 7)):
        reply = directory.answer(AskConsistency(old, size))
        assert isinstance(reply, ConsistencyIs)
        assert extends(old, size, roots[old], roots[size], reply.proof)
    for old, size in ((0, 9), (5, 9), (8, 4), (4, 10), (12, 16), (2**63, 2**63)):
        assert directory.answer(AskConsistency(old, size)) == RefusedReply(Refusal.BAD_REQUEST)
