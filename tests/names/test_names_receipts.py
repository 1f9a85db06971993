"""Receipts of verifiers, and a sequencer that does not take somebody's operations."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from cbfs.names.directory import NameTaken
from cbfs.names.receipts import OperationHeld
from cbfs_common.errors import DecodeError
from cbfs_common.names.config import ConfigFile
from cbfs_common.names.operations import OperationRefused, Refusal, verify_receipt
from cbfs_common.names.policy import Policy, parse_policy
from cbfs_common.names.wire import (
    Receipted,
    RefusedReply,
    Submit,
    decode_reply,
    decode_request,
    encode_reply,
)
from cbfs_names.processes.roles import Deployment, SequencerRole
from cbfs_names.state.block import Reason
from cbfs_names.state.keys import ServerKeys
from cbfs_names.wire.sockets import DeferredReply
from tests.support.names_local import DIRECTORY, KEYS, commit, register
from tests.support.names_proposer import (
    PATIENCE,
    RANDOM,
    Proposer,
    ask,
    key,
    place,
    proposer,
    quorum_of,
    serving,
    stored,
    verifier,
)
from tests.support.names_server import Kept, client

ALICE, BOB = b"a" * 32, b"b" * 32


def test_a_round_without_an_operation_that_has_a_receipt_is_refused(tmp_path: Path) -> None:
    config = quorum_of("v1", threshold=1)
    wanted = commit("alice").encode()

    async def go(sequencer: Proposer, asked: Callable[[bytes], object]) -> None:
        assert await asked(wanted) == RefusedReply(Refusal.NO_QUORUM)  # type: ignore[misc]
        await sequencer.round(signers=("v1",))
        reply = await asked(wanted)  # type: ignore[misc]
        assert isinstance(reply, Receipted)
        verify_receipt(key("v1").public, DIRECTORY, wanted, reply.time, reply.signature)
        assert await asked(wanted) == reply  # type: ignore[misc]
        refused = await asked(register("alice").encode())  # type: ignore[misc]
        assert refused == RefusedReply(Refusal.NO_COMMIT)
        await sequencer.until(lambda: wanted in sequencer.forwarded)
        await sequencer.round(commit("bobby"), signers=("v1",))  # there is a minute for it
        sequencer.now += 61
        block = sequencer.make(commit("mallory"))
        sequencer.propose(block)
        await sequencer.until(lambda: bool(sequencer.refused))
        assert [refusal.reason for refusal in sequencer.refused] == [Reason.OMITTED]
        await sequencer.round(commit("mallory"), commit("alice"), signers=("v1",))

    async def run() -> None:
        async with place("s") as s, place("v1") as p1:
            with stored(tmp_path / "s", config) as store:
                async with proposer(s, store) as sequencer:

                    async def asked(operation: bytes) -> object:
                        return decode_reply(await ask(p1.address, Submit(operation)))

                    def clock() -> float:
                        return sequencer.now

                    async with verifier(tmp_path / "v1", "v1", config, p1, s.address, {}, clock):
                        await go(sequencer, asked)

    trio.run(run)


# A sequencer that does not take somebody's operations.


@dataclass
class Censor:
    """In front of a real sequencer: it hears verifiers and answers look-ups."""

    role: SequencerRole

    def answer(self, payload: bytes) -> bytes | DeferredReply:
        try:
            request = decode_request(payload)
        except DecodeError:
            return self.role.answer(payload)
        if isinstance(request, Submit):
            return encode_reply(RefusedReply(Refusal.TOO_MANY))
        return self.role.answer(payload)


def test_who_is_left_out_by_the_sequencer_gets_in_by_the_verifiers(tmp_path: Path) -> None:
    config = quorum_of("v1", threshold=1)

    async def tried(policy: Policy, until: type[BaseException] | None) -> None:
        """Until this error, or until it is done."""
        with trio.fail_after(PATIENCE):
            while True:
                asking = client(policy, Kept(), time.time)
                try:
                    await asking.register("alice", b"profile", ALICE)
                    return
                except (OperationRefused, OperationHeld, NameTaken) as error:
                    if until is not None and isinstance(error, until):
                        return
                await trio.sleep(0.05)

    async def run() -> None:
        async with place("s") as s, place("v1") as p1:
            beside = Deployment(
                ConfigFile(config, None, {"v1": p1.address}), None, (), current=False
            )
            with stored(tmp_path / "s", config) as store:
                role = SequencerRole(
                    store, ServerKeys(s.secret, KEYS.log, b""), tmp_path, beside, RANDOM
                )
                v1 = verifier(tmp_path / "v1", "v1", config, p1, s.address, {}, time.time)
                async with (
                    serving(s, Censor(role)),
                    v1,
                    trio.open_nursery() as nursery,
                ):
                    nursery.start_soon(role.run)
                    policy = config.policy(s.address)
                    with_urls = replace(policy, urls=(("v1", p1.address),))
                    assert parse_policy(with_urls.encode()) == with_urls
                    await tried(with_urls, OperationHeld)  # the commitment
                    await tried(with_urls, None)  # and the registration
                    nursery.cancel_scope.cancel()
                role.close()

    trio.run(run)
