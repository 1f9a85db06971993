"""Fair queueing by cost: who has used much of the server's time stands in line.

Every connection has a bucket of seconds that leaks: what its requests have cost goes in, and
TURN_DRAIN of the time that passes runs out. One that is over TURN_BURST waits in one line with all
others that are, and one at a time is let through, for TURN_TIME, between two looks at everybody
else; what it does not use of that at once is over. So however many there are that ask for as much
as they can, one that asks for little waits for one of them at a time, and they share the rest by
time, not by requests.
"""

from collections import deque

import trio

from cbfs_server.limits import TURN_BURST, TURN_DRAIN, TURN_TIME


def count(empty: float, begun: float, ended: float) -> float:
    """When a bucket will be empty that was to be so at ``empty``, with the time of some work in it.
    Seconds of a clock that is never set, as all here: one number is all that is kept of a
    connection, as most are silent."""
    return max(empty, begun) + (ended - begun) / TURN_DRAIN


def is_over(empty: float, now: float) -> bool:
    """Whether so much is in the bucket that its connection has to stand in line."""
    return (empty - now) * TURN_DRAIN > TURN_BURST


def waited(empty: float, now: float) -> float:
    """When the bucket of one that has stood in line is empty: it may go on for one turn."""
    return min(empty, now + (TURN_BURST - TURN_TIME) / TURN_DRAIN)


def ended(empty: float, now: float) -> float:
    """When the bucket is empty of one that has nothing left to do for now: full is what it was
    before a turn, of which it has had some or none. Else many would each have the rest of one, all
    of them between two looks."""
    left = (empty - now) * TURN_DRAIN
    return now + TURN_BURST / TURN_DRAIN if left > TURN_BURST - TURN_TIME else empty


class Turns:
    """The line."""

    def __init__(self) -> None:
        self._line: deque[trio.Event] = deque()
        self._taken = False
        """Whether somebody was let through since everybody else was looked at."""
        self._news = trio.Event()

    async def wait(self) -> None:
        """Wait for one's turn. Who is the only one has it at once."""
        if not self._taken:
            self._taken = True
            self._news.set()
            return
        mine = trio.Event()
        self._line.append(mine)
        await mine.wait()

    async def run(self) -> None:
        """Let one after the other through, until cancelled."""
        while True:
            while self._taken:
                await trio.lowlevel.checkpoint()
                if self._line:
                    self._line.popleft().set()
                else:
                    self._taken = False
            self._news = trio.Event()
            await self._news.wait()
