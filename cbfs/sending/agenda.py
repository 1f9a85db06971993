"""Whom to serve next: those who have something waiting, each once. Pure.

What users wait for goes first, and finds a free place however much else there is; what has failed
before, and names that are asked for without need, wait for a turn of the account's
(``cbfs.problems``). Nobody who waits takes more than an entry in here.
"""

from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf

AT_ONCE = 32
"""Delivery sessions open at once."""

RESERVED = 8
"""Of them so many are only for what users wait for and has not failed."""


class Agenda:
    """Who has something waiting, in the order in which they are to be served. ``due`` gives when
    somebody is to be tried, in seconds of the caller's clock, 0 for what has not failed; ``turn``
    takes one of the account's turns and gives 0, or gives the seconds until there is one."""

    def __init__(self, due: Callable[[str], float], turn: Callable[[], float]) -> None:
        self._due = due
        self._turn = turn
        self._first: OrderedDict[str, None] = OrderedDict()
        self._rest: OrderedDict[str, None] = OrderedDict()
        self._turns: OrderedDict[str, None] = OrderedDict()
        self._waiting: set[str] = set()
        self._heap: list[tuple[float, str]] = []
        self._next_turn = 0.0

    def __len__(self) -> int:
        return sum(map(len, (self._first, self._rest, self._turns, self._waiting)))

    def want(self, key: str, now: float, *, urgent: bool, counts: bool) -> None:
        """There is something to do for this one. ``counts``: it needs a turn."""
        due = self._due(key)
        if due > now:
            self.drop(key)
            self._waiting.add(key)
            heappush(self._heap, (due, key))
        elif key not in self._first:
            self.drop(key)
            queue = self._first if urgent else self._rest
            queue = self._turns if due or (counts and not urgent) else queue
            queue[key] = None

    def drop(self, key: str) -> None:
        """There is nothing to do for this one any more."""
        for queue in (self._first, self._rest, self._turns):
            queue.pop(key, None)
        self._waiting.discard(key)

    def look_again(self) -> None:
        """What has failed is due at other times."""
        self._heap = [(self._due(key), key) for key in self._waiting]
        heapify(self._heap)

    def next(self, now: float, running: int) -> str | None:
        """Whom to begin with now, beside so many, if anybody."""
        self._take_due(now)
        if running < AT_ONCE and self._first:
            return self._first.popitem(last=False)[0]
        if running >= AT_ONCE - RESERVED:
            return None
        if self._rest:
            return self._rest.popitem(last=False)[0]
        if self._turns and now >= self._next_turn:
            wait = self._turn()
            if not wait:
                return self._turns.popitem(last=False)[0]
            self._next_turn = now + wait
        return None

    def wait(self, now: float, running: int) -> float:
        """Seconds until ``next`` may give another one, if nothing changes."""
        until = self._heap[0][0] if self._heap else inf
        if self._turns and running < AT_ONCE - RESERVED:
            until = min(until, self._next_turn)
        return max(0.0, until - now)

    def is_crowded(self, running: int) -> bool:
        """Whether somebody waits for nothing but a free place."""
        if self._first:
            return running >= AT_ONCE
        return bool(self._rest) and running >= AT_ONCE - RESERVED

    def _take_due(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            due, key = heappop(self._heap)
            if key in self._waiting and self._due(key) <= due:
                self._waiting.discard(key)
                self._turns[key] = None
