"""What links envelopes to each other: a server that holds them looks for bytes that two share.

Real servers, real clients, and an attacker who has a mailbox as its home server has it.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, Account, load_account, opened_store
from cbfs.engine.running import running
from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import open_link, request
from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.wire.requests import Fetch, List
from tests.engine.test_engine import NO_TOR, Recorder, account, send, until
from tests.support.world import World

SHARED_MAX = 7
"""Bytes in a row that two random envelopes may share by chance: 8 once in 10**11 pairs."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("linking"), stack)


def linked(envelopes: list[bytes]) -> list[tuple[int, int]]:
    """Pairs of envelopes that share more than SHARED_MAX bytes in a row, wherever they lie."""
    size = SHARED_MAX + 1
    seen: dict[bytes, int] = {}
    pairs = set()
    for number, envelope in enumerate(envelopes):
        for at in range(len(envelope) - size + 1):
            first = seen.setdefault(envelope[at : at + size], number)
            if first != number:
                pairs.add((first, number))
    return sorted(pairs)


def load(place: Path) -> Account:
    with opened_store(place, SYSTEM_RANDOM) as store:
        found = load_account(store)
    assert found is not None
    return found


async def mailbox(of: Account) -> list[bytes]:
    """All that lies in a mailbox."""
    async with open_link(LoopbackDialer(), of.server, of.transport, b"test", SYSTEM_RANDOM) as link:
        return [
            (await request(link, Fetch(id_))).envelope
            for id_ in (await request(link, List(b""))).ids
        ]


def test_nothing_links_the_envelopes_in_a_mailbox(here: World) -> None:
    """Of two who have begun to write and are not answered, and of the turns after that: which came
    from one sender, in one session, to one prekey, nobody can tell by what they hold. (All
    envelopes before the first answer had 1,136 bytes in common.)"""
    places = {name: account(here, name) for name in ("alice", "bob", "carol")}

    async def main() -> None:
        async def write(sender: str, texts: list[bytes]) -> None:
            async with running(places[sender], NO_TOR) as engine:
                for text in texts:
                    await send(engine, ("bob",), text)
                    await until(lambda: not engine.report().queue, "it to be at the server")

        bob = load(places["bob"])
        for sender in ("alice", "carol"):
            await write(sender, [b"one", b"one", bytes(30_000)])
        first = await mailbox(bob)
        assert len(first) > 2 * 4  # 30,000 bytes take several
        assert not linked(first)

        view = Recorder()
        async with running(places["bob"], NO_TOR) as engine:
            engine.attach(view)
            await until(lambda: len(view.arrived) == 6, "all of them at bob")
            await send(engine, ("alice",), b"answer")
            await send(engine, ("carol",), b"answer")
            await until(lambda: not engine.report().queue, "the answers to be at the server")
        for sender in ("alice", "carol"):
            seen = Recorder()
            async with running(places[sender], NO_TOR) as engine:
                engine.attach(seen)
                await until(lambda seen=seen: seen.arrived, "the answer")
                await send(engine, ("bob",), b"two")
                await until(lambda engine=engine: not engine.report().queue, "it to be there")
        # some that bob has taken in may be there still: they are deleted a second later
        later = [each for each in await mailbox(bob) if each not in first]
        assert len(later) >= 2
        assert all(len(envelope) == ENVELOPE_SIZE for envelope in first + later)
        assert not linked(first + later)

    trio.run(main)


def test_what_two_share_is_found() -> None:
    """Else nothing above would fail."""
    one, two, other = (SYSTEM_RANDOM.token(ENVELOPE_SIZE) for _ in range(3))
    at = 4_000
    two = two[:at] + one[100 : 100 + SHARED_MAX + 1] + two[at + SHARED_MAX + 1 :]
    assert linked([one, two, other]) == [(0, 1)]
