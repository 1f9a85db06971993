"""A pace: what a network sees of it."""

import math
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs.engine.engine import Engine
from cbfs.network.pacing import Slots
from cbfs.storage.store import Table
from tests.support.talking import seeded
from tests.support.traced import Conduct, Connection, distance, trace

PACE = 300.0
SPAN = 165_000.0


def test_a_dummy_comes_back_and_is_nothing(tmp_path: Path) -> None:
    """The polls bring it; neither a message nor something unreadable comes of it."""
    left: dict[Table, int] = {}

    def look(engine: Engine) -> None:
        with engine.store.read() as reader:
            for table in (Table.COVER, Table.QUARANTINE, Table.INBOX):
                left[table] = reader.count(table)
        assert not any("cannot be read" in line for line in engine.report().problems)

    seen = trace(tmp_path / "t", Conduct(PACE), 20_000.0, b"dummies", look)
    assert len(seen) > 50
    assert left[Table.QUARANTINE] == left[Table.INBOX] == 0
    assert 1 <= left[Table.COVER] < 12  # one is ready; few are on their way


@given(st.lists(st.floats(0, 10_000), max_size=50), st.integers())
def test_turns_depend_on_nothing_but_the_clock(looks: list[float], seed: int) -> None:
    """However often one looks, the same moments are counted, but for those of long sleeps."""
    often, seldom = (Slots(seeded(str(seed)), 100.0, 0.0) for _ in range(2))
    now = total = 0.0
    for step in looks:
        now += min(step, 100.0)
        total += often.due(now)
        assert often.next > now
    if now <= seldom.next + 100.0:
        assert seldom.due(now) == total


def test_no_burst_after_a_long_sleep() -> None:
    slots = Slots(seeded("sleep"), 60.0, 0.0)
    assert slots.due(1_000_000.0) < 10


@pytest.fixture
def memory() -> Iterator[Path]:
    """A place for stores without a disk: nothing here is about one."""
    where = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=where if where.is_dir() else None) as place:
        yield Path(place)


def features(trace: list[Connection], span: float) -> dict[str, list[float]]:
    began = [seen.began for seen in trace]
    pieces = sorted(moment for seen in trace for moment in seen.moments)
    hours: list[float] = [0.0] * math.ceil(span / 3_600)
    for moment in pieces:
        hours[min(int(moment // 3_600), len(hours) - 1)] += 1
    return {
        "times between connections": [b - a for a, b in pairwise(began)],
        "bytes up": [float(seen.up) for seen in trace],
        "bytes down": [float(seen.down) for seen in trace],
        "lengths": [seen.ended - seen.began for seen in trace],
        "times between pieces": [b - a for a, b in pairwise(pieces)],
        "times within connections": [b - a for s in trace for a, b in pairwise(s.moments)],
        "pieces in an hour": hours,
    }


def compared(a: list[Connection], b: list[Connection], span: float) -> dict[str, float]:
    of_b = features(b, span)
    return {what: distance(values, of_b[what]) for what, values in features(a, span).items()}


@pytest.mark.slow
@pytest.mark.parametrize("pace", [PACE, 0.0])
def test_whether_one_writes_is_seen_without_a_pace_and_not_with_one(
    memory: Path, pace: float
) -> None:
    span = SPAN if pace else SPAN / 2
    silent = trace(memory / "silent", Conduct(pace), span, b"silent")
    waiting: list[int] = []
    conduct = Conduct(pace, 800.0, 900.0)
    busy = trace(
        memory / "busy",
        conduct,
        span,
        b"busy",
        lambda engine: waiting.append(engine.report().envelopes_waiting),
    )
    assert waiting[0] < 60  # most was sent: 100 or 200 messages; the queue's length is chance
    for seen in (silent, busy):
        assert sum(len(connection.moments) for connection in seen) >= 1_000
    found = compared(silent, busy, span)
    print(pace, {what: round(value, 2) for what, value in found.items()}, len(silent), len(busy))
    if pace:
        assert len(silent) >= 1_000
        assert max(found.values()) < 1, found
    else:
        assert max(found.values()) > 1, found
