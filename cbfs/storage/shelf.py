"""Where the records of one table are, in memory: a map in order of their keys that never changes.

What looks like a change gives another map, which shares nearly all with the one before. So every
transaction has the map of its own moment, nothing is locked, and what failed has changed nothing.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

BUCKET_MAX = 128
"""Keys that are copied by a change; a bucket with more is cut in two."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a record is: ``place`` (16), its key in LMDB. ``secret`` (32): what the places of
    records that belong to it are derived from, empty where none do."""

    place: bytes
    secret: bytes = b""


_Bucket = tuple[list[bytes], list[Spot]]


@dataclass(frozen=True, slots=True)
class Shelf:
    """Keys in order, in buckets, and the first key of each bucket. ``damaged``: how many records
    cannot be read, so that nobody knows what their keys were."""

    buckets: tuple[_Bucket, ...] = ()
    firsts: tuple[bytes, ...] = ()
    damaged: int = 0

    def get(self, key: bytes) -> Spot | None:
        """Where the record with this key is; None for one that is not known."""
        number = bisect_right(self.firsts, key) - 1
        if number < 0:
            return None
        keys, spots = self.buckets[number]
        at = bisect_left(keys, key)
        return spots[at] if at < len(keys) and keys[at] == key else None

    def put(self, key: bytes, spot: Spot) -> "Shelf":
        """With one more key, or another spot for it."""
        number = max(0, bisect_right(self.firsts, key) - 1)
        keys, spots = self.buckets[number] if self.buckets else ([], [])
        at = bisect_left(keys, key)
        behind = at + (at < len(keys) and keys[at] == key)
        keys = [*keys[:at], key, *keys[behind:]]
        return self._with(number, keys, [*spots[:at], spot, *spots[behind:]])

    def without(self, key: bytes) -> "Shelf":
        """With one key less."""
        if self.get(key) is None:
            return self
        number = bisect_right(self.firsts, key) - 1
        keys, spots = self.buckets[number]
        at = bisect_left(keys, key)
        return self._with(number, keys[:at] + keys[at + 1 :], spots[:at] + spots[at + 1 :])

    def _with(self, number: int, keys: list[bytes], spots: list[Spot]) -> "Shelf":
        """With these in the place of a bucket."""
        buckets: tuple[_Bucket, ...] = ((keys, spots),) if keys else ()
        if len(keys) > BUCKET_MAX:
            half = len(keys) // 2
            buckets = (keys[:half], spots[:half]), (keys[half:], spots[half:])
        firsts = tuple(keys[0] for keys, _spots in buckets)
        return Shelf(
            self.buckets[:number] + buckets + self.buckets[number + 1 :],
            self.firsts[:number] + firsts + self.firsts[number + 1 :],
            self.damaged,
        )

    def keys(self, prefix: bytes = b"", start: bytes | None = None) -> Iterator[bytes]:
        """Keys with ``prefix`` in order, from ``start`` on."""
        low = prefix if start is None else max(start, prefix)
        number = max(0, bisect_right(self.firsts, low) - 1)
        for keys, _spots in self.buckets[number:]:
            for key in keys[bisect_left(keys, low) :]:
                if not key.startswith(prefix):
                    return
                yield key

    def last_up_to(self, key: bytes) -> bytes | None:
        """The greatest key that is not above ``key``."""
        number = bisect_right(self.firsts, key) - 1
        if number < 0:
            return None
        keys = self.buckets[number][0]
        return keys[bisect_right(keys, key) - 1]

    def __len__(self) -> int:
        return sum(len(keys) for keys, _spots in self.buckets)


def make_shelf(entries: Iterable[tuple[bytes, Spot]], damaged: int = 0) -> Shelf:
    """The map of these keys, all different, in any order."""
    found = sorted(entries, key=lambda entry: entry[0])
    size = BUCKET_MAX // 2
    rows = [found[at : at + size] for at in range(0, len(found), size)]
    buckets = tuple(([key for key, _ in row], [spot for _, spot in row]) for row in rows)
    return Shelf(buckets, tuple(row[0][0] for row in rows), damaged)
