"""Timing that bears other work on the machine: both sides in turn, medians of many rounds."""

import time
from collections.abc import Callable
from statistics import median


def times(rounds: int, *works: Callable[[], int]) -> list[float]:
    """Seconds a unit for each of ``works``, which do some units of work and say how many. They
    run one after the other in every round, so that a slow moment meets all of them."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, results in zip(works, taken, strict=True):
            started = time.perf_counter()
            units = work()
            results.append((time.perf_counter() - started) / units)
    return [median(results) for results in taken]
