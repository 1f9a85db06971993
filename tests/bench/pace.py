"""Rows of the pace: what a watcher tells by all that a network sees, with one and without."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.table import Row
from tests.support.watcher import lives, reach

PACE = 300.0
HOUR = 3_600.0


@dataclass(frozen=True)
class _Size:
    """How long each client lives (seconds), how many pairs of them the watcher knows and how many
    he is tried on, and the windows (hours)."""

    span: float
    known: int
    tried: int
    windows: tuple[float, ...]


_WHOLE = _Size(46 * HOUR, 6, 8, (0.5, 1.0, 6.0))
_QUICK = _Size(4 * HOUR, 2, 1, (1.0,))


def pace(quick: bool) -> Iterator[Row]:
    """Whether the user wrote in a window, told by a classifier over all features: the share that is
    right, of which half is chance."""
    size = _QUICK if quick else _WHOLE
    where = Path("/dev/shm")  # nothing here is about a disk
    with tempfile.TemporaryDirectory(dir=where if where.is_dir() else None) as place:
        traces = {}
        for what, seconds in (("paced", PACE), ("free", 0.0)):
            span = size.span if seconds or quick else size.span / 4  # it takes less to see it
            folder = Path(place) / what
            folder.mkdir()
            known = lives(folder, seconds, span, size.known, f"{what} known")
            traces[what] = known, lives(folder, seconds, span, size.tried, f"{what} tried")
    for hours in size.windows:
        ours, theirs = (reach(*traces[what], hours * HOUR) for what in ("paced", "free"))
        yield Row(
            f"writes in {hours:g} h? of {ours.of}, at most {ours.between[1]:.1%}",
            f"{ours.share:.1%}",
            f"no pace, of {theirs.of}, at least {theirs.between[0]:.1%}",
            f"{theirs.share:.1%}",
            theirs.share / ours.share,
        )
