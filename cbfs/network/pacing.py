"""Connections at moments that say nothing (``pace`` in config.toml).

With a pace, every connection but those to the home server waits for its turn: turns come at the
moments of ``Slots``, and one for which nothing waits is used by cover traffic. Whoever
wants to connect comes through here, be it to deliver, to fetch a prekey or to ask for a name; so
nothing has to be thought of twice. Without a pace connections are made at once.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from cbfs.network.dial import Dialer, NotAllowed
from cbfs_common.primitives import Random, exponential

LINGER_MEAN = 2.0
"""Seconds that a connection stays open after the last thing that came, in the mean: when it ends
must not depend on what is done with the answer."""


class Slots:
    """Moments with exponentially distributed times between them, ``mean`` seconds apart in the
    mean, on the clock of ``now``. They depend on nothing that is done in them."""

    def __init__(self, random: Random, mean: float, now: float) -> None:
        self._random = random
        self._mean = mean
        self.next = now + exponential(random, mean)

    def due(self, now: float) -> int:
        """How many moments have come since the last call. After a long sleep of the machine those
        that were slept through are left out: a burst would tell of it."""
        count = 0
        if now - self.next > self._mean:
            self.next = now
        while self.next <= now:
            count += 1
            self.next += exponential(self._random, self._mean)
        return count


class LingeringStream(trio.abc.Stream):
    """Ends ``linger`` seconds after the last bytes came. Cancelled, it ends at once."""

    def __init__(self, stream: trio.abc.Stream, linger: float) -> None:
        self._stream = stream
        self._linger = linger
        self._last = trio.current_time()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send data on the connection below."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the connection below may be able to send."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive bytes of the connection below, and note when they came."""
        data = await self._stream.receive_some(max_bytes)
        self._last = trio.current_time()
        return data

    async def aclose(self) -> None:
        """Close the connection below when its time has come."""
        try:
            await trio.sleep_until(self._last + self._linger)
        finally:
            await self._stream.aclose()


class DirectDialer:
    """Makes connections as ``direct`` does, until it is shut: then none any more."""

    def __init__(self, direct: Dialer) -> None:
        self._direct = direct
        self._is_shut = False

    def shut(self) -> None:
        """Make no more connections. Those that there are stay."""
        self._is_shut = True

    async def dial(self, host: str, port: int, isolation: bytes) -> trio.abc.Stream:
        """A connection. Raises NotAllowed when the gate is shut, and what ``direct`` raises."""
        if not self._is_shut:
            stream = await self._direct.dial(host, port, isolation)
            if not self._is_shut:
                return stream
            await trio.aclose_forcefully(stream)
        raise NotAllowed(
            "this copy of the account has stopped", "see the file WARNING in the mount"
        )


class LingeringDialer:
    """Makes connections at once, which end as those do that have had a turn."""

    def __init__(self, direct: Dialer, random: Random) -> None:
        self._direct = direct
        self._random = random

    async def dial(self, host: str, port: int, isolation: bytes) -> trio.abc.Stream:
        """A connection, made at once. Raises DialError or NotAllowed."""
        linger = exponential(self._random, LINGER_MEAN)
        return LingeringStream(await self._direct.dial(host, port, isolation), linger)


class Pace(Protocol):
    """The setting ``pace`` as it is now."""

    @property
    def pace(self) -> float:
        """Mean seconds between two turns; 0: connections are made at once."""

    async def wait_changed(self) -> None:
        """Wait until any setting has changed."""


class PacedDialer:
    """The way to all servers but the home server. ``direct`` does not wait."""

    def __init__(self, direct: Dialer, pace: Pace, random: Random) -> None:
        self.direct = DirectDialer(direct)
        self._pace = pace
        self.in_turn = LingeringDialer(self.direct, random)
        """For cover traffic, which is given its turn."""
        self._random = random
        self._waiting: deque[trio.Event] = deque()

    async def dial(self, host: str, port: int, isolation: bytes) -> trio.abc.Stream:
        """A connection, made at its turn when there is a pace, else at once. Raises DialError or
        NotAllowed."""
        if not self._pace.pace:
            return await self.direct.dial(host, port, isolation)
        turn = trio.Event()
        self._waiting.append(turn)
        try:
            await turn.wait()
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
        return await self.in_turn.dial(host, port, isolation)

    async def run(self, cover: Callable[[], Awaitable[None]]) -> None:
        """Give turns until cancelled. ``cover`` does what looks like a delivery, in a turn for
        which nothing waits; it raises nothing."""
        async with trio.open_nursery() as nursery:
            while True:
                mean = self._pace.pace
                if mean:
                    await self._give_turns(mean, nursery, cover)
                    continue
                while self._waiting:
                    self._waiting.popleft().set()
                await self._pace.wait_changed()

    async def _give_turns(
        self, mean: float, nursery: trio.Nursery, cover: Callable[[], Awaitable[None]]
    ) -> None:
        slots = Slots(self._random, mean, trio.current_time())
        while self._pace.pace == mean:
            with trio.move_on_at(slots.next):
                await self._pace.wait_changed()
                continue
            for _ in range(slots.due(trio.current_time())):
                if self._waiting:
                    self._waiting.popleft().set()
                else:
                    nursery.start_soon(cover)
