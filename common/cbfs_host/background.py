"""Long work in a thread, beside which a server goes on answering."""

import time
from collections.abc import Callable
from time import perf_counter
from typing import Final, TypeVar

import trio

from cbfs_host.complaints import HostError

T = TypeVar("T")

WORK: Final = 0.002
REST: Final = 0.004
"""Seconds of work at once, and of rest after it: what the server does waits for one of the first at
most, as only one thread of a process of Python runs."""


class Breaks:
    """To be called again and again by work in a thread of trio's: rests when it is time. Raises
    ``trio.Cancelled`` when nobody wants the work any more."""

    def __init__(self) -> None:
        self._begun = perf_counter()

    def __call__(self) -> None:
        """Rest, if it is time."""
        if perf_counter() - self._begun >= WORK:
            trio.from_thread.check_cancelled()
            time.sleep(REST)
            self._begun = perf_counter()


class OneAtATime:
    """Long work of operators, of which there is one at a time."""

    def __init__(self) -> None:
        self._busy = ""

    async def run(self, what: str, work: Callable[[], T]) -> T:
        """Do it in a thread. Raises HostError when other work is under way, and what it raises."""
        if self._busy:
            raise HostError(f"{self._busy} is under way", "wait until it has ended")
        self._busy = what
        try:
            return await trio.to_thread.run_sync(work)
        finally:
            self._busy = ""
