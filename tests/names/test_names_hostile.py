"""Directories that lie, over real sockets: every lie ends in the error that names it, and
changes nothing at the client."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from cbfs_common.limits import (
    COSIGNATURE_AGE_MAX,
    COSIGNATURE_AHEAD_MAX,
)
from cbfs_common.names.checks import (
    Absent,
    Fault,
    Found,
    NameChanged,
    NameExpired,
    check_bundle,
    decode_state,
)
from cbfs_common.names.entry import Keys, name_index
from cbfs_common.names.faults import DirectoryLies
from cbfs_common.names.note import parse_note
from cbfs_common.names.trees import MapProof, Terminal
from cbfs_common.names.wire import (
    LookedUp,
    Reply,
    Submitted,
)
from cbfs_common.primitives import sign_public
from tests.support.names_asked import ALICE, BOB, HERE, Asked, changed, flipped, forged, honest
from tests.support.names_naive import (
    DIRECTORY,
    NAMESPACE,
    NOW,
    Forger,
    make_policy,
    map_proof,
)


def fork_now() -> Reply:
    return replace(honest(), salt=b"fork").look_up("alice")


def shorter() -> Reply:
    return replace(honest(), filler=1).look_up("alice")


def without_line(line: int) -> LookedUp:
    note = parse_note(forged().evidence.note)
    left = replace(note, lines=note.lines[:line] + note.lines[line + 1 :])
    return changed(forged(), note=left.encode())


def of_two(answer: Callable[[], Reply]) -> Asked:
    """Asked under a policy of both of two verifiers."""
    return Asked(answer, witnesses=2, threshold=2)


def grafted() -> LookedUp:
    """The same verifier has signed another log's head of the same size and root."""
    ours, theirs = honest().note(), replace(honest(), origin="other/log").note()
    note = replace(ours, lines=(ours.lines[0], theirs.lines[1]))
    return changed(forged(), note=note.encode())


def mixed_quorum() -> LookedUp:
    """Verifier 1 signed this head, verifier 2 another one."""
    one = replace(honest(), signers=(1,)).note()
    other = replace(honest(), signers=(2,), salt=b"other").note()
    return changed(forged(), note=replace(one, lines=(*one.lines, other.lines[1])).encode())


def counted_twice() -> LookedUp:
    """Verifier 1 signs at two times, of which the second is under verifier 2's name."""
    note = replace(honest(), signers=(1,)).note()
    again = replace(honest(), signers=(1,), time=NOW - 1).note().lines[1]
    return changed(forged(), note=replace(note, lines=(*note.lines, again)).encode())


def renamed_key() -> LookedUp:
    note = replace(honest(), signers=(1,)).note()
    two = replace(honest(), signers=(2,)).note().lines[1]
    line = replace(note.lines[1], name=two.name, key_id=two.key_id)
    return changed(forged(), note=replace(note, lines=(*note.lines, line)).encode())


def present_as_absent() -> LookedUp:
    """The neighbour on the way to alice is shown as if it ended the path."""
    leaves = honest().leaves()
    proof = map_proof(leaves, name_index(DIRECTORY, "alice"))
    index = name_index(DIRECTORY, "bob")
    lie = MapProof(proof.siblings, Terminal.OTHER, index, leaves[index])
    return changed(forged(), map_proof=lie.encode(), entry=b"")


def absent_as_present() -> LookedUp:
    without = Forger([BOB]).look_up("alice")
    proof = map_proof(Forger([BOB]).leaves(), name_index(DIRECTORY, "alice"))
    lie = MapProof(proof.siblings, Terminal.HERE)
    return changed(without, map_proof=lie.encode(), entry=ALICE.encode())


LIES: dict[str, tuple[Fault, Asked]] = {
    "no answer of the protocol": (Fault.MALFORMED, Asked(lambda: b"\xc1")),
    "an answer to another question": (Fault.MALFORMED, Asked(lambda: Submitted(1))),
    "a head that is no note": (Fault.MALFORMED, Asked(lambda: changed(forged(), note=b"x"))),
    "one key signs twice": (Fault.MALFORMED, Asked(counted_twice)),
    "a head with a flipped bit": (
        Fault.SIGNATURE,
        Asked(lambda: changed(forged(), note=flipped(forged().evidence.note, len(NAMESPACE) + 1))),
    ),
    "a log signature of another key": (
        Fault.QUORUM,
        Asked(lambda: forged(log_seed=b"x" * 32)),
    ),
    "no log signature": (
        Fault.QUORUM,
        Asked(lambda: without_line(0)),
    ),
    "no cosignature": (
        Fault.QUORUM,
        Asked(lambda: without_line(1)),
    ),
    "too few cosignatures": (Fault.QUORUM, Asked(forged, witnesses=3, threshold=2)),
    "a cosigner counted twice": (
        Fault.MALFORMED,
        Asked(counted_twice, witnesses=2, threshold=2),
    ),
    "a cosigner under another's name": (
        Fault.SIGNATURE,
        Asked(renamed_key, witnesses=2, threshold=2),
    ),
    "a quorum of different heads": (
        Fault.SIGNATURE,
        Asked(mixed_quorum, witnesses=2, threshold=2),
    ),
    "another namespace's cosignature": (
        Fault.SIGNATURE,
        Asked(grafted),
    ),
    "another origin": (Fault.NAMESPACE, Asked(lambda: forged(origin="other/log"))),
    "another namespace's round": (Fault.NAMESPACE, Asked(lambda: forged(namespace="other/log"))),
    "another configuration": (Fault.CONFIG, Asked(lambda: forged(config=bytes(32)))),
    "a stale head": (Fault.STALE, Asked(lambda: forged(time=NOW - COSIGNATURE_AGE_MAX - 1))),
    "a quorum of which one is stale": (
        Fault.STALE,
        Asked(
            lambda: forged(signers=(1, 2), times={2: NOW - COSIGNATURE_AGE_MAX - 1}),
            witnesses=2,
            threshold=2,
        ),
    ),
    "a future head": (Fault.FUTURE, Asked(lambda: forged(time=NOW + COSIGNATURE_AHEAD_MAX + 1))),
    "a head older than one seen": (
        Fault.CLOCK,
        Asked(lambda: forged(time=NOW - 1), before=honest()),
    ),
    "a round that is not the last": (Fault.LAST_ROUND, Asked(lambda: forged(number_off=-1))),
    "a round that is not in the log": (
        Fault.LAST_ROUND,
        Asked(lambda: changed(forged(), round=replace(honest(), entries=[ALICE]).round().encode())),
    ),
    "a log proof too short": (
        Fault.LAST_ROUND,
        Asked(lambda: changed(forged(), log_proof=forged().evidence.log_proof[1:])),
    ),
    "a smaller log": (Fault.SMALLER, Asked(shorter, before=honest())),
    "a fork of the same size": (Fault.FORK, Asked(fork_now, before=honest())),
    "an entry that is not in the map": (
        Fault.MAP_PROOF,
        Asked(lambda: changed(forged(), entry=replace(ALICE, profile=b"mallory").encode())),
    ),
    "a map proof cut short": (
        Fault.MAP_PROOF,
        Asked(lambda: changed(forged(), map_proof=forged().evidence.map_proof[:-1])),
    ),
    "absence for presence": (Fault.MAP_PROOF, Asked(present_as_absent)),
    "presence for absence": (Fault.MAP_PROOF, Asked(absent_as_present)),
    "absence without proof": (Fault.MAP_PROOF, Asked(lambda: changed(forged(), entry=b""))),
    "somebody else's entry": (Fault.WRONG_NAME, Asked(lambda: honest().look_up("bob"))),
    "a known contact that is denied": (
        Fault.VANISHED,
        Asked(lambda: Forger([BOB]).look_up("alice"), known=ALICE),
    ),
    "another entry of the same version": (
        Fault.SAME_VERSION,
        Asked(lambda: Forger([replace(ALICE, profile=b"mallory")]).look_up("alice"), known=ALICE),
    ),
    "an older version": (
        Fault.ROLLED_BACK,
        Asked(forged, known=replace(ALICE, version=2)),
    ),
    "an older owner": (
        Fault.ROLLED_BACK,
        Asked(forged, known=replace(ALICE, incarnation=2)),
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_lie_is_named(lie: str) -> None:
    fault, asked = LIES[lie]
    with pytest.raises(DirectoryLies) as caught:
        asked.go()
    assert caught.value.fault is fault
    assert caught.value.hint


def test_honest_answers_are_accepted_and_the_head_moves_on() -> None:
    later = replace(honest(), filler=9, time=NOW + 5, earlier=tuple(honest().log()))
    found, kept = Asked(lambda: later.look_up("alice"), before=honest(), known=ALICE).go()
    assert isinstance(found, Found)
    assert found.entry == ALICE
    assert kept.state is not None
    state = decode_state(kept.state)
    assert (state.size, state.time) == (10, NOW + 5)
    assert check_bundle(make_policy(HERE), found.bundle) == ALICE


def test_absence_is_proven() -> None:
    found, _ = Asked(lambda: Forger([BOB]).look_up("alice")).go()
    assert found == Absent()


def test_degenerate_maps_prove_absence_too() -> None:
    found, _ = Asked(lambda: Forger([]).look_up("alice")).go()
    assert found == Absent()


def test_expired_name_is_a_result_of_its_own() -> None:
    with pytest.raises(NameExpired):
        Asked(lambda: Forger([replace(ALICE, expires=NOW - 1)]).look_up("alice")).go()


def test_new_owner_needs_the_user_s_word() -> None:
    stranger = replace(ALICE, incarnation=2, owners=Keys(1, (sign_public(b"m" * 32),)))
    with pytest.raises(NameChanged) as caught:
        Asked(lambda: Forger([stranger]).look_up("alice"), known=ALICE).go()
    assert caught.value.entry == stranger
