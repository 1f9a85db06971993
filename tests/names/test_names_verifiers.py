"""Verifiers that are processes of their own, under a sequencer that lies to them."""

import logging
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from cbfs_common.names.config import Config, ConfigFile
from cbfs_common.names.note import Checkpoint, SignedNote, cosign, parse_note
from cbfs_common.names.operations import Operation, OperationKind, Refusal
from cbfs_common.names.wire import AskHead, HeadIs, Receipted, RefusedReply, Submit, decode_reply
from cbfs_names.commands.main import main
from cbfs_names.processes.roles import Deployment, SequencerRole
from cbfs_names.state.block import Block
from cbfs_names.state.keys import ServerKeys
from cbfs_names.state.store import StateStore
from cbfs_names.wire.peer_link import PeerLink, connected
from cbfs_names.wire.peer_messages import Acknowledged, Await, Offer, Vote
from tests.support.names_local import (
    DIRECTORY,
    KEYS,
    NAMESPACE,
    commit,
)
from tests.support.names_proposer import (
    PATIENCE,
    RANDOM,
    Place,
    Proposer,
    ask,
    key,
    place,
    proposer,
    quorum_of,
    seed,
    serving,
    stored,
    verifier,
)

TWO_OF_THREE: Config = quorum_of("v1", "v2", "v3", threshold=2)


def test_a_verifier_restored_from_a_copy_signs_no_second_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The sequencer has another round in the place of the one that the verifier has signed, and
    tells nothing; another verifier does. From the next round on it signs again."""
    caplog.set_level(logging.WARNING)

    async def go(store: StateStore) -> None:
        async with place("s") as s, place("v1") as p1, place("v2") as p2:
            peers = {"v1": p1.address, "v2": p2.address}

            async with (
                proposer(s, store, "v3") as sequencer,
                verifier(tmp_path / "v2", "v2", TWO_OF_THREE, p2, s.address, peers),
            ):
                args = tmp_path / "v1", "v1", TWO_OF_THREE, p1, s.address, peers
                async with verifier(*args):
                    await sequencer.round(signers=("v1", "v2"))
                shutil.copytree(tmp_path / "v1", tmp_path / "copy")
                async with verifier(*args):
                    block = sequencer.make(commit("alice"))
                    other = sequencer.make(commit("mallory"))
                    sequencer.propose(block)
                    await sequencer.until(lambda: sequencer.signed_by("v1", block))
                    await sequencer.until(lambda: sequencer.signed_by("v2", block))
                    before = sequencer.head
                    sequencer.publish(block)
                    asked = 2, block.round.digest(), 2
                    await sequencer.until(lambda: sequencer.answered.count(asked) >= 2)
                shutil.rmtree(tmp_path / "v1")
                (tmp_path / "copy").rename(tmp_path / "v1")
                after, sequencer.head = sequencer.head, before
                sequencer.block = other
                leaf = other.round.digest()
                async with verifier(*args):
                    await sequencer.until(lambda: (1, leaf, 1) in sequencer.answered)
                    assert "restored from a copy: rounds up to 1 are left" in caplog.text
                    assert not sequencer.signed_by("v1", other)
                    sequencer.head, sequencer.block = after, None
                    sequencer.tell()
                    await sequencer.round(commit("bobby"), signers=("v1", "v2"))
                texts = {note.text for note in sequencer.heard}
                assert len(texts) == 3  # one for each size

    with stored(tmp_path / "s", TWO_OF_THREE) as store:
        trio.run(go, store)


@pytest.mark.slow
def test_a_sequencer_restored_from_a_copy_proposes_again_what_was_locked(tmp_path: Path) -> None:
    """It takes over the round that was published since, and the one that is only locked."""
    config = quorum_of("v1", threshold=1)
    blocks: list[Block] = []

    async def go() -> None:
        async with place("s") as s, place("v1") as p1:
            peers = {"v1": p1.address}
            async with verifier(tmp_path / "v1", "v1", config, p1, s.address, peers):
                with stored(tmp_path / "s", config) as store:
                    async with proposer(s, store) as sequencer:
                        await sequencer.round(signers=("v1",))
                shutil.copytree(tmp_path / "s", tmp_path / "copy")
                with stored(tmp_path / "s", config) as store:
                    async with proposer(s, store) as sequencer:
                        sequencer.head = store_head(store)
                        await sequencer.round(commit("alice"), signers=("v1",))
                        block = sequencer.make(commit("bobby"))
                        sequencer.propose(block)
                        await sequencer.until(lambda: sequencer.signed_by("v1", block))
                        blocks.append(block)
                with stored(tmp_path / "copy", config) as store:
                    beside = Deployment(ConfigFile(config, None, peers), None, (), current=False)
                    keys = ServerKeys(s.secret, KEYS.log, bytes(32))
                    role = SequencerRole(store, keys, tmp_path, beside, RANDOM)
                    await until_head(s, role, store, 3)
                    with store.read() as view:
                        assert view.block(2) == blocks[0]

    trio.run(go)


def store_head(store: StateStore) -> bytes:
    with store.read() as view:
        return view.head() or b""


async def until_head(at: Place, role: SequencerRole, store: StateStore, size: int) -> None:
    """Run it until so many rounds are published."""
    async with serving(at, role), trio.open_nursery() as nursery:
        nursery.start_soon(role.run)
        with trio.fail_after(PATIENCE):
            while not (head := store_head(store)) or head.split(b"\n")[1] != b"%d" % size:
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    role.close()


def test_what_only_a_verifier_was_told_is_in_the_sequencer_s_next_round(tmp_path: Path) -> None:
    config = quorum_of("v1", threshold=1)
    wanted = commit("alice").encode()

    async def run() -> None:
        async with place("s") as s, place("v1") as p1:
            peers = {"v1": p1.address}
            beside = Deployment(ConfigFile(config, None, peers), None, (), current=False)
            with stored(tmp_path / "s", config) as store:
                keys = ServerKeys(s.secret, KEYS.log, bytes(32))
                role = SequencerRole(store, keys, tmp_path, beside, RANDOM)
                args = tmp_path / "v1", "v1", config, p1, s.address, peers, time.time
                async with verifier(*args), trio.open_nursery() as nursery:
                    nursery.start_soon(until_head, s, role, store, 2)
                    with trio.fail_after(PATIENCE):  # there is a first round
                        while not isinstance(
                            decode_reply(await ask(p1.address, Submit(wanted))), Receipted
                        ):
                            await trio.sleep(0.05)
                with store.read() as view:
                    assert view.block(1).operations == (wanted,)

    trio.run(run)


def test_the_quorum_gives_the_directory_into_other_hands(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A verifier that was away meanwhile follows when its operator gives it the new configuration,
    and not before; one that comes in with it replays everything."""
    caplog.set_level(logging.INFO)
    old, new = quorum_of("v1", threshold=1), quorum_of("v2", threshold=1)
    change = Operation(
        OperationKind.CONFIGURE, DIRECTORY, "", 0, 0, old.digest(), 100, terms=new.encode()
    ).signed((seed("v1"),))

    async def go(sequencer: Proposer, s: Place, p1: Place, p2: Place) -> None:
        args = tmp_path / "v1", "v1"
        async with verifier(*args, old, p1, s.address, {}):
            await sequencer.round(signers=("v1",))
        shutil.copytree(tmp_path / "v1", tmp_path / "copy")
        async with (
            verifier(*args, old, p1, s.address, {}),
            verifier(tmp_path / "v2", "v2", new, p2, s.address, {}, first=old),
        ):
            await sequencer.round(change, signers=("v1",))
            await sequencer.round(signers=("v2",))  # empty, since it is due
            await sequencer.round(commit("alice"), signers=("v2",))
        shutil.rmtree(tmp_path / "v1")
        (tmp_path / "copy").rename(tmp_path / "v1")
        async with verifier(*args, old, p1, s.address, {}):
            with trio.fail_after(PATIENCE):
                while "a head that no quorum has signed" not in caplog.text:
                    await trio.sleep(0.05)
        sequencer.answered.clear()
        async with verifier(*args, new, p1, s.address, {}):
            await sequencer.until(lambda: any(size == 4 for size, _, _ in sequencer.answered))

    async def run() -> None:
        async with place("s") as s, place("v1") as p1, place("v2") as p2:
            with stored(tmp_path / "s", old) as store:
                async with proposer(s, store) as sequencer:
                    await go(sequencer, s, p1, p2)

    trio.run(run)


async def times(at: Place) -> list[int]:
    """Of v1's cosignatures of the head."""
    reply = decode_reply(await ask(at.address, AskHead()))
    if not isinstance(reply, HeadIs):
        return []
    return [line.time for line in parse_note(reply.note).lines if line.name == "v1"]


async def voted(link: PeerLink, text: bytes, at: int) -> None:
    line = cosign(seed("v1"), "v1", at, text)
    assert await link.call(Vote(SignedNote(text, (line,)).encode())) == Acknowledged()


async def by_hand(path: Path, go: Callable[[PeerLink, Place, bytes], Awaitable[None]]) -> None:
    """A sequencer whose only verifier is in the test's hand, with the first round's checkpoint."""
    config = quorum_of("v1", threshold=1)
    async with place("s") as s:
        beside = Deployment(ConfigFile(config, None, {}), None, (), current=False)
        with stored(path / "s", config) as store:
            role = SequencerRole(store, ServerKeys(s.secret, KEYS.log, b""), path, beside, RANDOM)
            async with serving(s, role), trio.open_nursery() as nursery:
                nursery.start_soon(role.run)
                async with connected(s.address, RANDOM) as link:
                    offer = await link.call(Await(0, b"", 0))
                    assert isinstance(offer, Offer)
                    await go(link, s, Checkpoint(config.namespace, 1, offer.leaf).encode())
                nursery.cancel_scope.cancel()
            role.close()


def test_an_old_cosignature_that_is_shown_again_makes_no_head_older(tmp_path: Path) -> None:
    """By anybody who has kept one, to have clients refuse the head as stale."""

    async def go(link: PeerLink, s: Place, text: bytes) -> None:
        for at, expected in (1_000, 1_000), (3_000, 3_000), (2_000, 3_000):
            await voted(link, text, at)
            with trio.fail_after(PATIENCE):
                while not await times(s):  # the first round takes a moment
                    await trio.sleep(0.05)
            assert await times(s) == [expected]

    trio.run(by_hand, tmp_path, go)


def test_a_verifier_that_signs_two_heads_of_one_size_is_proven_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also before either is published. The directory stops, for people to decide."""

    async def go(link: PeerLink, s: Place, text: bytes) -> None:
        await voted(link, text, 1_000)
        other = Checkpoint(NAMESPACE, 1, bytes(32)).encode()
        await voted(link, other, 1_001)
        reply = decode_reply(await ask(s.address, Submit(commit("alice").encode())))
        assert reply == RefusedReply(Refusal.EQUIVOCATION)

    trio.run(by_hand, tmp_path, go)
    assert main(["audit", str(tmp_path / "evidence")]) == 0
    assert f"the key {key('v1').encode()} has signed two histories" in capsys.readouterr().out


def test_a_verifier_waits_for_who_is_away_unless_its_operator_vouches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """v2 is gone: with v3 away as well, nobody could say whether v1 and v2 have signed a head."""
    caplog.set_level(logging.WARNING)

    async def run() -> None:
        async with place("s") as s, place("v1") as p1:
            async with place("v2") as p2:
                peers = {"v1": p1.address, "v2": p2.address}
            with stored(tmp_path / "s", TWO_OF_THREE) as store:
                async with proposer(s, store, "v3") as sequencer:
                    block = sequencer.make()
                    sequencer.propose(block)
                    args = tmp_path / "v1", "v1", TWO_OF_THREE, p1, s.address, peers
                    async with verifier(*args):
                        with trio.fail_after(PATIENCE):
                            while "nothing is signed before more peers" not in caplog.text:
                                await trio.sleep(0.05)
                        assert not sequencer.answered
                    async with verifier(*args, current=True):
                        await sequencer.until(lambda: sequencer.signed_by("v1", block))

    trio.run(run)
