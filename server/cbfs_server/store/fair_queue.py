"""A queue between threads that is fair, by what things have cost, to those who put them into it."""

import queue
from collections import deque
from heapq import heappop, heappush
from typing import Final, Generic, TypeVar

T = TypeVar("T")

FINISHED_MAX: Final = 4_096
"""Owners of whom is remembered what they have had, while others wait."""

LOOK_COST: Final = 0.002
"""In seconds. Who takes things one by one as they are put stands in the way of those who put them:
both want the interpreter's lock at each step, which takes a fifth more of the processor's time."""


class FairQueue(Generic[T]):
    """Things of many owners, for one who takes them and says what each has cost. Of each owner they
    keep their order; next is always the owner whose things have cost least since they began to
    wait (start-time fair queueing, Goyal, Vin and Cheng 1996). So whoever comes waits for things
    of LOOK_COST and the one that is under way, however many those before him have put; of several
    who came meanwhile, those whose things have the lowest rank are first. What the last thing of an
    owner has cost counts also for one that is put after it, while others wait: else owners of a
    lower rank who put one thing each, again and again, would be first for ever."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[tuple[object, T, int] | None] = queue.SimpleQueue()
        # all else is the taker's
        self._turns: list[tuple[float, int, int, object, T]] = []
        """The first thing of each owner who waits: when, in cost; then by rank and arrival."""
        self._behind: dict[object, deque[tuple[T, int]] | None] = {}
        """What comes after it, or after what is under way; None for nothing."""
        self._finished: dict[object, float] = {}
        """When, in cost, the next thing may come of owners who have put no more."""
        self._arrived = 0
        self._now = 0.0
        self._unseen = 0.0
        """What the things have cost that were taken since it was last looked at what has come."""
        self._last: object = self  # whose thing is under way; nobody's
        self._closed = False

    def put(self, owner: object, thing: T, rank: int = 0) -> None:
        """Add a thing."""
        self._inbox.put((owner, thing, rank))

    def close(self) -> None:
        """Let ``get`` give None once nothing waits."""
        self._inbox.put(None)

    def get(self, cost: float) -> T | None:
        """The next thing; the last has had this cost. Blocks until there is one; None at the
        end."""
        self._finish(cost)
        self._look()
        while not self._turns:
            self._finished.clear()  # nobody waits, so that nobody was ahead of anybody
            if self._closed:
                return None
            self._sort(self._inbox.get())
            self._look()
        return self._next()

    def get_nowait(self, cost: float) -> T | None:
        """The next thing, or None when there is none. It is looked at what has come after each
        LOOK_COST, and when nothing is left; the last has had this cost."""
        self._finish(cost)
        self._unseen += cost
        if self._unseen > LOOK_COST or not self._turns:
            self._look()
        return self._next()

    def _look(self) -> None:
        self._unseen = 0.0
        for _ in range(self._inbox.qsize()):
            self._sort(self._inbox.get())

    def _sort(self, item: tuple[object, T, int] | None) -> None:
        if item is None:
            self._closed = True
            return
        owner, thing, rank = item
        if owner not in self._behind:
            self._behind[owner] = None
            when = self._finished.pop(owner, 0.0)
            self._line_up(owner, thing, rank, max(self._now, when))
            return
        behind = self._behind[owner]
        if behind is None:
            behind = self._behind[owner] = deque()
        behind.append((thing, rank))

    def _line_up(self, owner: object, thing: T, rank: int, when: float) -> None:
        self._arrived += 1
        heappush(self._turns, (when, rank, self._arrived, owner, thing))

    def _finish(self, cost: float) -> None:
        owner, self._last = self._last, self
        if owner is self:
            return
        until = self._now + cost
        if behind := self._behind[owner]:
            self._line_up(owner, *behind.popleft(), until)
            return
        del self._behind[owner]
        if len(self._finished) >= FINISHED_MAX:
            self._finished = {o: at for o, at in self._finished.items() if at > self._now}
            if len(self._finished) >= FINISHED_MAX:
                self._finished.clear()
        self._finished[owner] = until

    def _next(self) -> T | None:
        if not self._turns:
            return None
        self._now, _, _, self._last, thing = heappop(self._turns)
        return thing
