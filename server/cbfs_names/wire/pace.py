"""How fast the log grows: when the next round may be made, and how much may stand in it.

Everybody who follows the directory fetches every round, so that rounds without end would cost all
of them; and what stands in them is kept for ever. A burst costs nobody much, so there is room for
one. This is the sequencer's own policy, since nobody else sees what waits for it.
"""

from collections.abc import Callable, Iterable

from cbfs_host.calendar import running
from cbfs_names.limits import (
    LOG_AT_ONCE,
    LOG_PACE,
    ROUND_COST,
    ROUND_PACE,
    ROUND_ROOM_LEAST,
    ROUNDS_AT_ONCE,
)


class Allowance:
    """So many at once, and then ``rate`` of them a second. ``clock``: seconds, never set."""

    def __init__(self, most: float, rate: float, clock: Callable[[], float] = running) -> None:
        self._most, self._rate, self._clock = most, rate, clock
        self._left, self._at = most, clock()

    def left(self) -> float:
        """How many there may be now; less than none after more than there might have been."""
        now = self._clock()
        self._left = min(self._most, self._left + max(now - self._at, 0) * self._rate)
        self._at = now
        return self._left

    def take(self, count: float) -> None:
        """There were so many."""
        self._left = self.left() - count

    def wait(self, count: float) -> float:
        """Seconds until there may be so many."""
        return max(count - self.left(), 0) / self._rate


class LogPace:
    """The rounds and bytes of a log. ``a_day``: bytes that it may grow by in one."""

    def __init__(
        self, a_day: int = 86_400 * LOG_PACE, clock: Callable[[], float] = running
    ) -> None:
        self._rounds = Allowance(ROUNDS_AT_ONCE, 1 / ROUND_PACE, clock)
        self._bytes = Allowance(LOG_AT_ONCE, a_day / 86_400, clock)

    def wait(self) -> float:
        """Seconds until the next round may be made."""
        return max(self._rounds.wait(1), self._bytes.wait(ROUND_ROOM_LEAST))

    def room(self) -> int:
        """Bytes of operations that may stand in it."""
        return int(self._bytes.left()) - ROUND_COST

    def made(self, operations: Iterable[bytes]) -> None:
        """A round was made, with these encoded operations."""
        self._rounds.take(1)
        self._bytes.take(ROUND_COST + sum(map(len, operations)))
