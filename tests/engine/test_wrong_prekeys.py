"""A recipient's server that swaps prekeys: the sender refuses, says so, and sends nothing."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
import trio

from cbfs import problems
from cbfs.account.account import SYSTEM_RANDOM
from cbfs.context import milliseconds
from cbfs.network.link import Link, request, request_in_order
from cbfs.sending import sender
from cbfs.sending.sender import WrongPrekey
from cbfs_common.primitives import kem_public, sign_public
from cbfs_common.session.prekey import PrekeyKind, make_prekey
from cbfs_common.wire.requests import Deliver, PrekeyRecord, TakePrekey
from tests.engine.test_engine import Recorder, read, send, two, until
from tests.support.world import World

LATER = milliseconds() // 1_000 + 86_400


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("prekeys"), stack)


def mine(reply: PrekeyRecord) -> PrekeyRecord:
    """The server's own, whose secrets it has."""
    made = make_prekey(SYSTEM_RANDOM, PrekeyKind.ONE_TIME, LATER)
    return replace(reply, record=made.public(bytes(32)))


def key_swapped(reply: PrekeyRecord) -> PrekeyRecord:
    """bob's, but for the X25519 key."""
    return replace(reply, record=reply.record[:25] + sign_public(bytes(32)) + reply.record[57:])


def kept_longer(reply: PrekeyRecord) -> PrekeyRecord:
    """bob's, with another expiry."""
    return replace(reply, record=reply.record[:17] + LATER.to_bytes(8, "big") + reply.record[25:])


def kem_swapped(reply: PrekeyRecord) -> PrekeyRecord:
    """bob's prekey, with a static KEM key of which the server has the secret."""
    return replace(reply, kem=kem_public(bytes(64)))


def noise(reply: PrekeyRecord) -> PrekeyRecord:
    """Of the right size."""
    return PrekeyRecord(bytes(len(reply.record)), bytes(len(reply.kem)))


SWAPS: list[Callable[[PrekeyRecord], PrekeyRecord]] = [
    mine,
    key_swapped,
    kept_longer,
    kem_swapped,
    noise,
]


def test_a_swapped_prekey_is_refused_and_the_message_waits(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All swaps one after another; then the server behaves."""
    left = list(SWAPS)
    refused: list[str] = []
    delivered: list[Deliver] = []
    new_session = sender.Sender._new_session

    async def lying(link: Link, asked: object) -> object:
        reply = await request(link, asked)  # type: ignore[arg-type,var-annotated]
        if isinstance(asked, TakePrekey) and left:
            assert isinstance(reply, PrekeyRecord)
            return left[0](reply)
        return reply

    async def in_order(link: Link, asked: list[Deliver], is_wanted: object) -> object:
        delivered.extend(asked)
        assert not left, "nothing is sealed to a prekey that bob has not signed"
        return await request_in_order(link, asked, is_wanted)  # type: ignore[arg-type]

    async def watched(self: sender.Sender, contact: object) -> object:
        try:
            return await new_session(self, contact)  # type: ignore[arg-type]
        except WrongPrekey as error:
            refused.append(str(error))
            left.pop(0)
            raise

    monkeypatch.setattr(sender, "request", lying)
    monkeypatch.setattr(sender, "request_in_order", in_order)
    monkeypatch.setattr(problems, "FIRST", 0.2)
    monkeypatch.setattr(sender.Sender, "_new_session", watched)

    async def main() -> None:
        async with two(here, "alice", "bob") as (alice, bob):
            view = Recorder()
            bob.attach(view)
            await send(alice, ("bob",), b"hello")
            await until(lambda: refused, "the first prekey to be refused")
            await until(
                lambda: any("wrong prekey" in line for line in alice.report().problems),
                "the status to say so",
            )
            await until(lambda: view.arrived, "the message")
            assert read(bob, view.arrived[0]) == b"hello"

    trio.run(main)
    assert len(refused) == len(SWAPS)
    assert delivered
