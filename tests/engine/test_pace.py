"""A pace: what a network sees of it."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs.engine.engine import Engine
from cbfs.messages.model import Delivery, Message
from cbfs.network.pacing import Slots
from cbfs.storage.store import Table
from tests.support.talking import seeded
from tests.support.traced import Conduct, Connection, trace
from tests.support.watcher import Trace, lives, reach

PACE = 300.0
SPAN, WINDOW = 28_800.0, 1_800.0
"""Seconds that a client lives, and that the watcher looks at a time."""


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


@pytest.mark.slow
@pytest.mark.parametrize("pace", [PACE, 0.0])
def test_whether_one_writes_is_seen_without_a_pace_and_not_with_one(
    memory: Path, pace: float
) -> None:
    """By a classifier over all that there is to see, on clients that it does not know."""
    known = lives(memory, pace, SPAN, 2, f"known {pace}")
    others = lives(memory, pace, SPAN, 1, f"other {pace}")
    assert sum(len(one.seen) for one in others) > 2 * SPAN / 600
    found = reach(known, others, WINDOW)
    print(pace, found)
    assert found.surprising is not bool(pace), str(found)


def test_what_is_written_leaves_with_a_pace(memory: Path) -> None:
    """Else the two would look the same because nothing was sent. How much of some 36 messages
    still waits is as random as the turns."""
    sent: list[Message] = []

    def look(engine: Engine) -> None:
        written = (message for key in engine.conversations() for message in engine.messages(key.id))
        sent.extend(m for m in written if m.recipients == (("bob", Delivery.SENT),))

    trace(memory / "busy", Conduct(PACE, 800.0, 900.0), SPAN, b"busy", look)
    assert len(sent) > 2


def made_up(seed: int, busy: bool) -> Trace:
    """Connections at random times. Of one in five of a busy client's, the last piece is a byte
    longer."""
    random = Random(seed)
    seen, now = [], 0.0
    while (now := now + random.expovariate(1 / 300)) < SPAN:
        moments = sorted(now + random.expovariate(1.0) for _ in range(4))
        longer = busy and random.random() < 0.2
        sizes = [1_200, -1_200, 17_000, -17_000 - longer]
        seen.append(Connection(now, moments[-1] + random.expovariate(1.0), moments, sizes))
    return Trace(tuple(seen), SPAN, busy)


def test_the_watcher_sees_a_byte_too_many() -> None:
    """And nothing where there is nothing."""
    known, others = ([made_up(seed + busy, bool(busy)) for seed in seeds for busy in (0, 1)]
                     for seeds in (range(0, 8, 2), range(8, 16, 2)))  # fmt: skip
    assert reach(known, others, WINDOW).surprising
    silent = [[made_up(seed, busy=False) for seed in range(16)][at : at + 8] for at in (0, 8)]
    known, others = (
        [replace(each, busy=bool(number % 2)) for number, each in enumerate(half)]
        for half in silent
    )
    assert not reach(known, others, WINDOW).surprising
