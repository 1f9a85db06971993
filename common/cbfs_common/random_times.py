"""Random moments and choices, from the source of randomness that the caller was given."""

import math

from cbfs_common.primitives import Random

_BITS = 53
"""Of randomness: what a float holds."""


def exponential(random: Random, mean: float) -> float:
    """A waiting time, exponentially distributed with this mean; at most 37 times the mean.

    Such times have no memory: how long one has waited says nothing of how long it still takes.
    So one that has not come may be drawn anew, and many of them together are again one of this
    kind, with the sum of the rates."""
    draw = int.from_bytes(random.token(8), "big") >> (64 - _BITS)
    return -mean * math.log((draw + 1) / (1 << _BITS))


def below(random: Random, count: int) -> int:
    """One of 0 .. count - 1; even to within 2^-32 for counts below 2^32."""
    return int.from_bytes(random.token(8), "big") * count >> 64
