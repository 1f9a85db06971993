"""What the disk under the checkout has been told to write and to flush, by its own counters.

They count what all programs do, so that figures are of a quiet machine. Where the disk has none
(a file system in memory, a network), nothing is counted.
"""

import os
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
WRITTEN, FLUSHED = 6, 15
"""Which numbers of ``/sys/dev/block/*/stat`` (Documentation/block/stat.rst) these are."""


@dataclass(frozen=True)
class Counters:
    """``size``: bytes."""

    flushes: int = 0
    size: int = 0

    def since(self, before: "Counters") -> str:
        """What has come since then, as a column of the table says it; empty when nothing has."""
        flushes, size = self.flushes - before.flushes, self.size - before.size
        if not flushes and not size:
            return ""
        return f"{flushes:,} fl. {size / (1 << 20):,.1f} MiB"


def counters(place: Path = Path()) -> Counters:
    """Of the disk that this is on."""
    device = place.stat().st_dev
    file = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    try:
        numbers = [int(word) for word in file.read_text().split()]
        return Counters(numbers[FLUSHED], numbers[WRITTEN] * SECTOR)
    except (OSError, IndexError):  # older kernels count no flushes
        return Counters()
