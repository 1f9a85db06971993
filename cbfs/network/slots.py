"""When something is sent: moments that say nothing. Pure: the caller has the clock."""

from cbfs_common.primitives import Random
from cbfs_common.random_times import exponential


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
