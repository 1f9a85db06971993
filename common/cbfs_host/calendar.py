"""What time it is for a server whose clock may jump. ``Calendar`` is pure: the caller has the
clocks.

Mail grows old by ``lived``, which is no date: it goes on with the time that the machine runs, and
takes at most a day for the time between two lives of the server, whatever the clock says. So a
clock that jumps, in either direction, makes no mail old. Prekeys have dates that clients made, and
are looked at by ``now``: the clock, but for one that jumps ahead by more than a day, which is
believed when it has stood so for a day. What is kept of both between two lives is a ``ClockMark``.
"""

import math
import struct
import time
from dataclasses import dataclass

from cbfs_common.errors import DecodeError

DAY = 86_400

EARLIEST = 1_600_000_000
"""In 2020. A clock that says less was not set since the machine was started."""

_MARK = struct.Struct(">QQQ")
_SECONDS_MAX = 2**63


def running() -> float:
    """Seconds since the machine was started, asleep or not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class ClockMark:
    """Seconds: what the server has ``lived``, the largest time that it has believed or ``seen``,
    and what the ``clock`` said when this was noted."""

    lived: int
    seen: int
    clock: int

    def encode(self) -> bytes:
        """The mark in 24 bytes: lived u64 | seen u64 | clock u64."""
        return _MARK.pack(self.lived, self.seen, self.clock)


def decode_mark(data: bytes) -> ClockMark:
    """Undo ``ClockMark.encode``. Raises DecodeError."""
    if len(data) != _MARK.size:
        raise DecodeError("not a mark of a server's clock")
    return ClockMark(*_MARK.unpack(data))


class Calendar:
    """The time of a server since its start, as far as its clock is believed. ``clock``: seconds
    since 1970, as the machine says; ``running``: seconds of a clock that is never set, and goes on
    while the machine sleeps. ``believable``: by how many seconds the clock may jump ahead and be
    believed after a day, all the same.
    """

    def __init__(
        self,
        mark: ClockMark | None,
        clock: float,
        running: float,
        believable: float = math.inf,
    ) -> None:
        clock = _within(clock)
        self._believable = believable
        self._running = running
        self._doubted: float | None = None
        self._told = False
        if mark is None:
            self._lived = self._seen = self._now = float(clock)
            return
        self._lived = mark.lived + min(max(clock - mark.clock, 0), DAY)
        self._seen = self._now = float(mark.seen)

    def look(self, clock: float, running: float) -> str:
        """Take the time from both clocks (seconds). Gives what there is to say of it in the log,
        mostly nothing."""
        clock = _within(clock)
        passed = max(running - self._running, 0)
        self._running = running
        self._lived += passed
        self._seen += passed
        said = ""
        if clock <= self._seen + DAY or self._seen < EARLIEST:
            if self._doubted is not None:
                said = "this computer's clock is right again"
            elif clock < self._seen - DAY and not self._told:
                said = f"this computer's clock has gone back by {_days(self._seen - clock)}"
            self._told = clock < self._seen - DAY
            self._doubted, self._now, self._seen = None, clock, max(self._seen, clock)
        elif self._doubted is None:
            self._doubted, self._now = running, self._seen
            said = (
                f"this computer's clock is {_days(clock - self._seen)} ahead of the last time that"
                " is known here: nothing expires for that. If it is wrong, set it right"
            )
        elif running - self._doubted >= DAY and clock - self._seen <= self._believable:
            self._doubted, self._now, self._seen = None, clock, clock
            said = "this computer's clock is believed now"
        else:
            self._now = self._seen
        return said

    @property
    def doubted(self) -> bool:
        """Whether the clock has jumped ahead, and is not believed."""
        return self._doubted is not None

    @property
    def lived(self) -> float:
        """Seconds by which mail grows old."""
        return self._lived

    @property
    def now(self) -> float:
        """Seconds since 1970, for the dates of prekeys."""
        return self._now

    def mark(self, clock: float) -> ClockMark:
        """What is to be kept for the next life; ``clock``: seconds since 1970, as the machine
        says."""
        return ClockMark(int(self._lived), int(self._seen), int(_within(clock)))


def _within(clock: float) -> float:
    return min(max(clock, 0.0), float(_SECONDS_MAX))


def _days(seconds: float) -> str:
    days = round(seconds / DAY)
    return f"{days} day{'' if days == 1 else 's'}"
