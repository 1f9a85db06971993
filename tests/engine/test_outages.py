"""A home server that was away is asked again as soon as status says, and what waits with it."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from cbfs.network.link import LinkClosed
from cbfs.problems import FIRST, MOST, SOON, Retries
from cbfs.receiving import mailbox
from cbfs.receiving.mailbox import STABLE, Mailbox
from cbfs.receiving.receiver import Receiver
from cbfs.sending.cover_traffic import CoverTraffic
from cbfs_common.limits import SPOKEN_VERSION
from cbfs_common.wire.requests import LastMark, ServerLimits, ServerVersion
from tests.engine.test_prekey_upkeep import account


class Outage:
    """The way to a home server that is there or not, and how often it was tried."""

    def __init__(self, place: Path, patch: pytest.MonkeyPatch) -> None:
        self.place = place
        self.is_up = False
        self.tries: list[float] = []
        self.said: list[str] = []
        self.breaks = trio.Event()
        self.home: Mailbox
        self.retries: Retries
        patch.setattr(mailbox, "open_link", self._open_link)
        patch.setattr(mailbox, "request", self._request)
        patch.setattr(mailbox, "request_in_order", self._settled)
        for work in ("_receive", "_keep_prekeys", "_see_alive"):
            patch.setattr(Mailbox, work, self._work)

    @asynccontextmanager
    async def _open_link(self, *_arguments: object) -> AsyncIterator[object]:
        self.tries.append(trio.current_time())
        if not self.is_up:
            raise LinkClosed("the server is off")
        yield None

    async def _request(self, *_arguments: object) -> object:
        return LastMark(b"")

    async def _settled(self, *_arguments: object) -> list[object]:
        return [ServerVersion(SPOKEN_VERSION), ServerLimits(1 << 10, 30 * 86_400, 100)]

    async def _work(self, *_arguments: object) -> None:
        await self.breaks.wait()
        raise LinkClosed("the server closed the connection")

    async def lost(self) -> None:
        """The connection breaks, and the server is off from now on."""
        self.is_up = False
        before, self.breaks = self.breaks, trio.Event()
        before.set()
        await trio.testing.wait_all_tasks_blocked()

    def run(self, body: Callable[[], Coroutine[object, object, None]]) -> None:
        """With a client that stays connected."""

        async def main() -> None:
            async with account(self.place) as context, trio.open_nursery() as nursery:
                self.retries = context.retries
                nothing = cast(Receiver, None), cast(CoverTraffic, None)
                self.home = Mailbox(context, *nothing, self._changed)
                nursery.start_soon(self.home._stay_connected)
                await body()
                nursery.cancel_scope.cancel()

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))

    def _changed(self) -> None:
        self.said.append(self.home.connection)


@pytest.fixture
def outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(tmp_path, monkeypatch)


def test_a_server_that_is_away_is_tried_again_as_status_says(outage: Outage) -> None:
    async def body() -> None:
        await trio.sleep(3_600)
        waits = [b - a for a, b in zip(outage.tries, outage.tries[1:], strict=False)]
        assert max(waits) <= MOST == 300
        assert len(outage.tries) < 60
        assert "the server is off" in outage.said[-1]
        assert outage.said[-1].rpartition("tried again within ")[2] in {
            f"{minutes} min" for minutes in range(2, 6)
        }
        outage.is_up = True
        await trio.sleep(MOST)
        assert outage.said[-1].startswith("connected to")

    outage.run(body)


def test_it_is_tried_soon_when_anything_else_is_reached(outage: Outage) -> None:
    """An outage of the network is over for all when it is for one: deliveries go out while the
    home server's next try is minutes away."""

    async def body() -> None:
        await trio.sleep(3_600)
        outage.is_up = True
        outage.retries.worked("somebody else's server")
        await trio.sleep(2 * SOON)
        assert outage.said[-1].startswith("connected to")

    outage.run(body)


def test_what_waits_is_tried_soon_when_it_is_there_again(outage: Outage) -> None:
    async def body() -> None:
        await trio.sleep(3_000)
        for _ in range(20):
            outage.retries.failed("to bob")
        assert outage.retries.due("to bob") > trio.current_time() + 2 * SOON
        outage.is_up = True
        while not outage.said[-1].startswith("connected to"):
            await trio.sleep(1)
        assert outage.retries.due("to bob") <= trio.current_time() + SOON

    outage.run(body)


@pytest.mark.parametrize("lasted", [STABLE / 2, STABLE * 2])
def test_a_connection_that_lasted_is_made_anew_at_once(outage: Outage, lasted: float) -> None:
    """And one that did not, ever more seldom."""

    async def body() -> None:
        await trio.sleep(3_600)
        outage.is_up = True
        while not outage.said[-1].startswith("connected to"):
            await trio.sleep(1)
        await trio.sleep(lasted)
        await outage.lost()
        begun, before = trio.current_time(), len(outage.tries)
        await trio.sleep(FIRST)
        assert (len(outage.tries) > before) == (lasted > STABLE)
        assert trio.current_time() - begun < SOON

    outage.run(body)
