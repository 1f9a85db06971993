"""The table: one row a comparison, each with its peer in the same run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.bench.disk import counters

HEADINGS = ("what", "cbfs", "peer", "", "ratio", "aim", "", "disk, all of the row")


@dataclass(frozen=True)
class Row:
    """``ratio`` says how many times better than the peer: above 1 is better. ``aim`` is the
    ratio to reach, or None where the design names none."""

    what: str
    ours: str
    peer: str
    theirs: str
    ratio: float
    aim: float | None = None

    def cells(self) -> tuple[str, ...]:
        if self.aim is None:
            aim, met = "-", ""
        else:
            aim, met = f">= {self.aim:.2f}", "yes" if self.ratio >= self.aim else "NO"
        return self.what, self.ours, self.peer, self.theirs, f"{self.ratio:.2f}", aim, met


def faster(what: str, ours: float, peer: str, theirs: float, aim: float | None = None) -> Row:
    """A row of two times in seconds: less is better."""
    return Row(what, duration(ours), peer, duration(theirs), theirs / ours, aim)


def duration(seconds: float) -> str:
    """In the unit that suits."""
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2f} {unit}"
    return f"{seconds * 1e6:.1f} us"


def rate(per_second: float) -> str:
    """Of something done repeatedly."""
    return f"{per_second:,.0f}/s"


class Table:
    """Prints rows as they come, in columns wide enough for most. The last one has what the disk was
    told to flush and to write since the row before: for a row that comes of the same work as that,
    nothing."""

    WIDTHS = (46, 11, 34, 11, 7, 8, 3, 24)

    def _line(self, cells: Iterable[str]) -> None:
        left = {0, 2, 6, 7}
        texts = (
            f"{cell:<{width}}" if index in left else f"{cell:>{width}}"
            for index, (cell, width) in enumerate(zip(cells, self.WIDTHS, strict=True))
        )
        print("  ".join(texts).rstrip(), flush=True)

    def head(self) -> None:
        self._line(HEADINGS)
        self._line("-" * width for width in self.WIDTHS)

    def rows(self, rows: Iterator[Row]) -> None:
        before = counters()
        for row in rows:
            now = counters()
            self._line((*row.cells(), now.since(before)))
            before = now
