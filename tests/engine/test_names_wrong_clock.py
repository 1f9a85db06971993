"""A client whose clock is wrong is told so, and by how much; and goes on when it is right."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from cbfs.commands import init
from cbfs.commands.owner.name_owner import Owner
from cbfs.engine.running import running
from cbfs.names.lookups import Polled
from cbfs.problems import NotYet
from cbfs_common.errors import CbfsError
from cbfs_common.limits import COSIGNATURE_AGE_MAX, COSIGNATURE_AHEAD_MAX
from cbfs_common.names.faults import DirectoryLies, Fault
from tests.engine.test_engine import NO_TOR, send, until
from tests.names.test_names_polls import ALICE
from tests.support.names_liar import Liar
from tests.support.names_naive import NOW, make_policy
from tests.support.names_server import Kept, answering, client
from tests.support.world import World

DAY = 86_400
AHEAD = "this computer's clock is {} ahead of the name directory's"
BEHIND = "this computer's clock is {} behind the name directory's"
WORDS = {
    3 * DAY: AHEAD.format("3 days"),
    DAY: AHEAD.format("1 day"),
    COSIGNATURE_AGE_MAX + 1: AHEAD.format("5 minutes"),
    3_650 * DAY: AHEAD.format("10 years"),
    -(COSIGNATURE_AHEAD_MAX + 1): BEHIND.format("1 minute"),
    -2 * 3_600: BEHIND.format("2 hours"),
    -NOW: BEHIND.format("54 years"),
}


class Clock:
    """In the place of the module time; ``off`` holds by how many seconds it is wrong."""

    def __init__(self, off: list[int]) -> None:
        self.off = off

    def time(self) -> float:
        return time.time() + self.off[0]

    def time_ns(self) -> int:
        return time.time_ns() + self.off[0] * 10**9


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("c"), stack)


@pytest.mark.parametrize("off", WORDS)
def test_a_wrong_clock_is_named_with_its_size_and_is_no_lie(off: int) -> None:
    async def mark(_polled: Polled) -> None:
        """Nothing is done with it."""

    async def go() -> None:
        liar = Liar(clock=lambda: float(NOW))
        liar.put(ALICE)
        async with answering(liar.answer) as address:
            clock = [float(NOW + off)]
            directory = client(make_policy(address), Kept(), lambda: clock[0])
            for ask in (
                lambda: directory.lookups.lookup("alice"),
                lambda: directory.lookups.poll(mark),
            ):
                with pytest.raises(DirectoryLies) as caught:
                    await ask()
                assert str(caught.value) == WORDS[off]
                assert caught.value.hint.startswith("set it right")
                assert directory.lookups.clock_ahead == off
            clock[0] = float(NOW)
            await directory.lookups.lookup("alice")
            assert directory.lookups.clock_ahead == 0

    trio.run(go)


def test_a_time_that_a_wrong_clock_has_accepted_does_not_count_when_it_is_right() -> None:
    """Directory and client were ahead together, as on one machine."""

    async def go() -> None:
        now = [float(NOW + 3_600)]
        liar = Liar(clock=lambda: now[0])
        liar.put(ALICE)
        async with answering(liar.answer) as address:
            kept = Kept()
            directory = client(make_policy(address), kept, lambda: now[0])
            await directory.lookups.lookup("alice")
            now[0] = float(NOW)
            await directory.lookups.lookup("alice")
            liar.clock = lambda: float(NOW - 9)  # and from then on it does not go back
            with pytest.raises(DirectoryLies) as caught:
                await directory.lookups.lookup("alice")
            assert caught.value.fault is Fault.CLOCK

    trio.run(go)


def test_status_and_held_files_name_a_wrong_clock(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written to somebody new waits, and no contact is warned of."""
    account = here.account("alice").account
    here.account("bobby")
    wrong = [3 * DAY]
    monkeypatch.setattr("cbfs.context.time", Clock(wrong))

    async def go() -> None:
        async with running(account, NO_TOR) as alice:
            with pytest.raises(NotYet, match="3 days ahead of the name directory's"):
                await send(alice, ("bobby",), b"hello")
            await until(
                lambda: any("3 days ahead" in line for line in alice.report().problems),
                "the clock in status",
            )
            assert not [contact for contact in alice.people.contacts() if contact.warning]
            wrong[0] = 0
            await send(alice, ("bobby",), b"hello")

    trio.run(go)


def test_init_and_name_name_a_wrong_clock(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They change nothing then, and do when it is right."""
    known = here.account("carol").account
    where = (tmp_path / "account", here.server.url, here.place / "names" / "policy", NO_TOR)

    def say(_text: str) -> None:
        """What is being done."""

    def make() -> None:
        init.make("newcomer", *where, say)

    uses: tuple[Callable[[], object], ...] = (
        make,
        Owner(known, NO_TOR, say).show,
        Owner(known, NO_TOR, say).renew,
    )
    for use in uses:
        for wrong, words in ((3 * DAY, WORDS[3 * DAY]), (-2 * 3_600, WORDS[-2 * 3_600])):
            with monkeypatch.context() as patch:
                patch.setattr("cbfs.context.time", Clock([wrong]))
                with pytest.raises(CbfsError) as caught:
                    use()
            assert str(caught.value) == words
            assert caught.value.hint.startswith("set it right")
    make()
