"""Sequencers and verifiers that lie to a real verifier, over real sockets: every lie has a name,
and nothing is signed."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from cbfs_common.names.config import Terms
from cbfs_common.names.entry import name_index
from cbfs_common.names.note import SignatureLine, SignedNote, cosign, parse_note
from cbfs_common.names.operations import Operation, OperationRefused, Refusal
from cbfs_common.names.wire import (
    RefusedReply,
    Reply,
    Request,
    Submit,
    decode_reply,
)
from cbfs_names.commands.main import main
from cbfs_names.processes import gossip as peers
from cbfs_names.rounds.verifier import Diverged
from cbfs_names.state.block import Block, Reason
from cbfs_names.state.replay import Committed, Replay
from cbfs_names.wire.peer_messages import Offer
from tests.names.test_names_registration import INVITED, invited, token
from tests.support.names_local import (
    CONFIG,
    DIRECTORY,
    NAMESPACE,
    NOW,
    Local,
    commit,
    local,
    register,
)
from tests.support.names_proposer import (
    PATIENCE,
    Proposer,
    ask,
    key,
    place,
    proposer,
    quorum_of,
    seed,
    stored,
    verifier,
)
from tests.support.names_server import Kept, answering, client

ALICE, BOB = b"a" * 32, b"b" * 32


class SpendsTwice(Replay):
    def _use(self, invite, hidden):  # type: ignore[no-untyped-def]
        self._invites[invite.key] = hidden


class TakesTwice(Replay):
    """And in any order."""

    def _change(self, operation: Operation, encoded: bytes) -> None:
        self._entries.pop(name_index(DIRECTORY, operation.name), None)
        self._last_registered = None
        super()._change(operation, encoded)


class AsksForNoCommitment(Replay):
    def _registrable(self, operation: Operation) -> Committed:
        return Committed(0, 0, NOW)


def changed(sequencer: Proposer, **fields: object) -> Block:
    block = sequencer.make(commit("alice"))
    return sequencer.signed(replace(block, round=replace(block.round, **fields)))  # type: ignore[arg-type]


def forged(sequencer: Proposer) -> Block:
    block = sequencer.make(commit("carol"))
    taken = replace(register("alice"), profile=b"another")
    return sequencer.signed(replace(block, operations=(*block.operations, taken.encode())))


@dataclass(frozen=True)
class Lie:
    """Told after these rounds."""

    reason: Reason
    tell: Callable[[Proposer], Block]
    before: tuple[tuple[Operation, ...], ...] = ()
    terms: Terms = CONFIG.terms


LIES = {
    "a spent invite": Lie(
        Reason.OPERATION,
        lambda s: s.make(invited("bobby", token()), rules=SpendsTwice),
        ((invited("alice", token()),), (register("alice"),)),
        INVITED,
    ),
    "an invite twice in a batch": Lie(
        Reason.OPERATION,
        lambda s: s.make(invited("alice", token()), invited("bobby", token()), rules=SpendsTwice),
        terms=INVITED,
    ),
    "two registrations of one name in a batch": Lie(
        Reason.OPERATION,
        lambda s: s.make(register("alice", ALICE), register("alice", BOB), rules=TakesTwice),
        ((commit("alice", ALICE), commit("alice", BOB)),),
    ),
    "a later commitment first": Lie(
        Reason.OPERATION,
        lambda s: s.make(register("bobby"), register("alice"), rules=TakesTwice),
        ((commit("alice"), commit("bobby")),),
    ),
    "a name that is taken, again": Lie(
        Reason.OPERATION,
        lambda s: s.signed(
            replace(
                s.make(commit("carol")),
                operations=(register("alice", BOB).encode(),),
            )
        ),
        ((commit("alice", ALICE), commit("alice", BOB)), (register("alice", ALICE),)),
    ),
    "a stolen registration": Lie(
        Reason.OPERATION, lambda s: s.make(register("alice"), rules=AsksForNoCommitment)
    ),
    "a forged operation": Lie(Reason.OPERATION, forged, ((commit("alice"),),)),
    "an operation that is left out of a round": Lie(
        Reason.ROOTS,
        lambda s: s.signed(replace(s.make(commit("alice")), operations=())),
    ),
    "another map": Lie(Reason.ROOTS, lambda s: changed(s, map_root=bytes(32))),
    "a change that is not told": Lie(Reason.ROOTS, lambda s: changed(s, changes=bytes(32))),
    "a time to come": Lie(Reason.TIME_OFF, lambda s: changed(s, time=NOW + 31)),
    "a time before the last": Lie(Reason.TIME_BACK, lambda s: changed(s, time=NOW - 1)),
    "another namespace": Lie(Reason.CONFIGURATION, lambda s: changed(s, namespace="other/log")),
    "another configuration": Lie(Reason.CONFIGURATION, lambda s: changed(s, config=bytes(32))),
    "a signature of somebody else": Lie(
        Reason.SIGNATURE, lambda s: replace(s.make(commit("alice")), signature=bytes(64))
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_false_round_is_refused_by_its_reason(tmp_path: Path, name: str) -> None:
    lie = LIES[name]
    config = quorum_of("v1", threshold=1, terms=lie.terms)

    async def go(sequencer: Proposer) -> None:
        for operations in ((), *lie.before):
            await sequencer.round(*operations, signers=("v1",))
        block = lie.tell(sequencer)
        sequencer.propose(block)
        await sequencer.until(lambda: bool(sequencer.refused))
        (refusal,) = sequencer.refused
        assert (refusal.leaf, refusal.reason) == (block.round.digest(), lie.reason)
        last = invited("erin1", token(9)) if lie.terms is INVITED else commit("erin1")
        await sequencer.round(last, signers=("v1",))
        assert len({note.text for note in sequencer.heard}) == len(lie.before) + 2

    async def run() -> None:
        async with place("s") as s, place("v1") as p1:
            with stored(tmp_path / "s", config) as store:
                async with (
                    proposer(s, store) as sequencer,
                    verifier(tmp_path / "v1", "v1", config, p1, s.address, {}),
                ):
                    await go(sequencer)

    trio.run(run)


@pytest.mark.slow
def test_another_block_of_a_restarted_sequencer_is_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the place of the one that is locked: nobody signs for a round twice."""
    caplog.set_level(logging.INFO)
    config = quorum_of("v1", threshold=1)

    async def run() -> None:
        async with place("s") as s, place("v1") as p1:
            with stored(tmp_path / "s", config) as store:
                async with verifier(tmp_path / "v1", "v1", config, p1, s.address, {}):
                    async with proposer(s, store) as sequencer:
                        await sequencer.round(signers=("v1",))
                        block = sequencer.make(commit("alice"))
                        other = sequencer.make(commit("mallory"))
                        sequencer.propose(block)
                        await sequencer.until(lambda: sequencer.signed_by("v1", block))
                    async with proposer(s, store) as sequencer:
                        sequencer.block = other
                        await sequencer.until(lambda: sequencer.signed_by("v1", block))
                        leaf = other.round.digest()
                        sequencer.forced = Offer(sequencer.head, leaf, False, (), b"")
                        sequencer.tell()
                        error = "the sequencer: a peer sends another round than it offers"
                        with trio.fail_after(PATIENCE):
                            while error not in caplog.text:
                                await trio.sleep(0.05)
                        assert not sequencer.signed_by("v1", other)

    trio.run(run)


# What is not published.

TWO_OF_THREE = quorum_of("v1", "v2", "v3", threshold=2)


def with_lines(head: bytes, *lines: SignatureLine) -> bytes:
    note = parse_note(head)
    return SignedNote(note.text, (note.lines[0], *lines)).encode()


def line(name: str, text: bytes) -> SignatureLine:
    return cosign(seed(name), name, NOW, text)


NO_QUORUM = "a peer shows a head that no quorum has signed"
HEADS: dict[str, tuple[str, Callable[[bytes, bytes], bytes]]] = {
    "a cosigner counted twice": (
        "a key signs a head twice",
        lambda text, head: with_lines(head, line("v2", text), line("v2", text)),
    ),
    "too few": (NO_QUORUM, lambda text, head: with_lines(head, line("v2", text))),
    "a quorum of different heads": (
        NO_QUORUM,
        lambda text, head: with_lines(
            head, line("v2", text), line("v3", text.replace(b"\n2\n", b"\n3\n"))
        ),
    ),
    "another namespace's cosignature": (
        NO_QUORUM,
        lambda text, head: with_lines(
            head, line("v2", text), line("v3", text.replace(NAMESPACE.encode(), b"other/log"))
        ),
    ),
    "a verifier that the configuration does not name": (
        NO_QUORUM,
        lambda text, head: with_lines(head, line("v2", text), line("v9", text)),
    ),
    "nobody's": ("not a signed head", lambda text, head: b"nothing"),
}
OFFERS: dict[str, tuple[str, Callable[[Offer], Offer]]] = {
    "a round that is not in the head": (
        "a peer offers a round that is not in its head",
        lambda offer: replace(offer, leaf=bytes(32)) if offer.leaf else offer,
    ),
    "a proof of another round": (
        "a peer offers a round that is not in its head",
        lambda offer: replace(offer, proof=(bytes(32),)) if offer.leaf else offer,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("lie", [*HEADS, *OFFERS])
def test_what_no_quorum_has_published_is_not_taken_over(
    tmp_path: Path, lie: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def go(sequencer: Proposer) -> None:
        await sequencer.round(signers=("v1",))
        block = sequencer.make(commit("alice"))
        sequencer.publish(block)
        honest = sequencer.head
        if lie in HEADS:
            error, spoil = HEADS[lie]
            false = spoil(parse_note(honest).text, honest)
            sequencer.twist = lambda offer: replace(offer, head=false)
        else:
            error, sequencer.twist = OFFERS[lie]
        sequencer.tell()
        with trio.fail_after(PATIENCE):
            while f"the sequencer: {error}" not in caplog.text:
                await trio.sleep(0.05)
        assert not any(size == 2 for size, _, _ in sequencer.answered)
        sequencer.twist = lambda offer: offer
        sequencer.tell()
        await sequencer.until(lambda: any(size == 2 for size, _, _ in sequencer.answered))

    async def run() -> None:
        async with place("s") as s, place("v1") as p1:
            with stored(tmp_path / "s", TWO_OF_THREE) as store:
                async with (
                    proposer(s, store, "v2", "v3") as sequencer,
                    verifier(tmp_path / "v1", "v1", TWO_OF_THREE, p1, s.address, {}),
                ):
                    await go(sequencer)

    trio.run(run)


# Forks.


@pytest.mark.slow
def test_two_histories_are_found_out_and_proven_to_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sequencer shows one to v1 and another to v2, and v3 signs both."""
    monkeypatch.setattr(peers, "GOSSIP_PAUSE", 0.1)
    found: list[Path] = []

    def evidence() -> list[Path]:
        return list(tmp_path.glob("v1/evidence/*.evidence"))

    async def go(one: Proposer, other: Proposer, asked: Callable[[], object]) -> None:
        first = one.make()
        for sequencer, name in (one, "v1"), (other, "v2"):
            sequencer.propose(first)
            await sequencer.until(lambda s=sequencer, n=name: s.signed_by(n, first))  # type: ignore[misc]
            sequencer.publish(first)
        await one.round(commit("alice"), signers=("v1",))
        await other.round(commit("mallory"), signers=("v2",))
        with trio.fail_after(PATIENCE):
            while len(found) < 2:  # of the log's key and v3's
                await trio.sleep(0.05)
                found[:] = evidence()
        assert await asked() == RefusedReply(Refusal.EQUIVOCATION)  # type: ignore[misc]

    async def run() -> None:
        async with place("s") as s, place("t") as t, place("v1") as p1, place("v2") as p2:
            known = {"v1": p1.address, "v2": p2.address}

            async def asked() -> object:
                reply = await ask(p1.address, Submit(commit("carol").encode()))
                return decode_reply(reply)

            with (
                stored(tmp_path / "s", TWO_OF_THREE) as store,
                stored(tmp_path / "t", TWO_OF_THREE) as store2,
            ):
                async with (
                    proposer(s, store, "v3") as one,
                    proposer(t, store2, "v3") as other,
                    verifier(tmp_path / "v1", "v1", TWO_OF_THREE, p1, s.address, known),
                    verifier(tmp_path / "v2", "v2", TWO_OF_THREE, p2, t.address, known),
                ):
                    await go(one, other, asked)

    trio.run(run)
    assert main(["audit", str(found[0].parent)]) == 0
    said = capsys.readouterr().out
    assert said.count("has signed two histories") == 2
    assert f"the key {key('v3').encode()} has" in said
    assert f"the key {CONFIG.log.encode()} has" in said
    spoilt = tmp_path / "spoilt.evidence"
    data = bytearray(found[0].read_bytes())
    data[-10] ^= 1  # of the root
    spoilt.write_bytes(data)
    assert main(["audit", str(spoilt)]) == 1


def test_a_directory_that_asks_for_more_work_than_its_terms_say_is_given_up(
    tmp_path: Path,
) -> None:
    async def go(directory: Local) -> None:
        def answer(request: Request) -> Reply:
            if isinstance(request, Submit):
                return RefusedReply(Refusal.WORK_NEEDED)
            return directory.answer(request)

        async with answering(answer) as address:
            asking = client(CONFIG.policy(address), Kept(), lambda: NOW)
            with pytest.raises(OperationRefused) as told, trio.fail_after(PATIENCE):
                await asking.register("alice", b"profile", ALICE)
        assert told.value.refusal is Refusal.WORK_NEEDED

    with local(tmp_path / "store") as directory:
        trio.run(go, directory)


def test_who_is_given_another_history_ends_and_the_others_can_prove_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """v1 has signed one history, and is then shown what v2 has signed and is longer: v1 cannot
    prove it, since it has not got that log, but tells v2, which has."""
    monkeypatch.setattr(peers, "GOSSIP_PAUSE", 3_600)

    async def fork(one: Proposer, other: Proposer) -> None:
        first = one.make()
        one.propose(first)
        await one.until(lambda: one.signed_by("v1", first))
        one.publish(first)
        other.publish(first)
        await one.round(commit("alice"), signers=("v1",))
        for name in "mallory", "bobby":
            other.publish(other.make(commit(name)))
        await one.until(lambda: any((size, shown) == (2, 2) for size, _, shown in one.answered))
        await other.until(lambda: any((size, shown) == (3, 3) for size, _, shown in other.answered))
        one.store, one.head, one.block = other.store, other.head, None
        one.tell()
        await trio.sleep_forever()

    async def run() -> None:
        async with place("s") as s, place("t") as t, place("v1") as p1, place("v2") as p2:
            known = {"v1": p1.address, "v2": p2.address}
            with (
                stored(tmp_path / "s", TWO_OF_THREE) as store,
                stored(tmp_path / "t", TWO_OF_THREE) as store2,
            ):
                async with (
                    proposer(s, store, "v3") as one,
                    proposer(t, store2, "v2", "v3") as other,
                    verifier(tmp_path / "v2", "v2", TWO_OF_THREE, p2, t.address, known),
                ):
                    with pytest.raises(ExceptionGroup) as ended, trio.fail_after(PATIENCE):
                        async with verifier(
                            tmp_path / "v1", "v1", TWO_OF_THREE, p1, s.address, known
                        ):
                            await fork(one, other)
                    assert ended.group_contains(Diverged)

    trio.run(run)
    assert not list(tmp_path.glob("v1/evidence/*"))
    assert main(["audit", str(tmp_path / "v2" / "evidence")]) == 0
