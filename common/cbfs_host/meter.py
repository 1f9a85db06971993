"""Counts of what happens in a server, by name: since it was started, and in the last minute. No
name in it is anybody's: they are all words of the program."""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

Counts = tuple[tuple[str, int], ...]
"""Names and how often, in the order of the names."""

LOOK_PERIOD: Final = 15.0
LOOKS: Final = 5
"""Seconds between two looks at the counts, and how many are kept: they span a minute."""


class Meter:
    """``clock``: seconds of a clock that is never set."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._counts: Counter[str] = Counter()
        self._looks: deque[tuple[float, Counter[str]]] = deque(maxlen=LOOKS)
        self.look()

    def count(self, name: str, number: int = 1) -> None:
        """It has happened, so many times."""
        self._counts[name] += number

    @property
    def uptime(self) -> int:
        """Seconds since the start."""
        return int(self._clock() - self._begun)

    def total(self) -> Counts:
        """How often each has happened since the start."""
        return tuple(sorted(self._counts.items()))

    def per_minute(self) -> Counts:
        """How often each has happened in the last minute, or what that comes to when the server is
        younger; without those that have not."""
        since, before = self._looks[0]
        span = max(self._clock() - since, 1.0)
        found = ((name, round((now - before[name]) * 60 / span)) for name, now in self.total())
        return tuple((name, rate) for name, rate in found if rate)

    def look(self) -> None:
        """Keep the counts of now, for ``per_minute``."""
        self._looks.append((self._clock(), self._counts.copy()))


@dataclass(frozen=True, slots=True)
class Meters:
    """What a server counts: ``requests`` by kind, ``refusals`` by reason, and what has become of
    ``connections``."""

    requests: Meter = field(default_factory=Meter)
    refusals: Meter = field(default_factory=Meter)
    connections: Meter = field(default_factory=Meter)

    @property
    def uptime(self) -> int:
        """Seconds since the start."""
        return self.requests.uptime

    async def run(self) -> None:
        """Look at all counts now and then, until cancelled."""
        while True:
            await trio.sleep(LOOK_PERIOD)
            for meter in (self.requests, self.refusals, self.connections):
                meter.look()
