"""Power that fails: see ``tests/power``. For longer: ``./run soak power``.

Each control takes away what the promise rests on, and must lose something: a harness that does not
see it would not see a fault of ours either."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.power.__main__ import LOST, run
from tests.power.box import missing
from tests.power.images import BLOCK, SECTOR, Cut, Journal, JournalFile, Mode

LIMIT = 900.0

pytestmark = [pytest.mark.mount, pytest.mark.timeout(LIMIT + 100)]

needs_power = pytest.mark.skipif(bool(missing()), reason=missing() or "none")

WORLDS = {"life": (4, 45), "first": (0, 15), "signing": (3, 15)}
"""Seconds of a recording, and of checks."""

MOST = 60
"""Cuts until something must have been lost, which is mostly so at the first."""

CONTROLS = [
    ("life", "client without sync"),
    ("life", "client without metasync"),
    ("life", "server without sync"),
    ("life", "names without sync"),
    ("life", "root.key without fdatasync"),
    ("life", "erasure without fdatasync"),
    ("first", "stores in place"),
    ("signing", "directory without sync"),
]


@needs_power
@pytest.mark.parametrize("world", WORLDS)
def test_a_power_loss_at_any_moment_loses_nothing_that_was_acknowledged(
    memory: Path, world: str
) -> None:
    record, check = WORLDS[world]
    code, said = run(world, memory, "--record", record, "--check", check, limit=LIMIT)
    print(said)
    assert code == 0, said


@needs_power
@pytest.mark.parametrize(("world", "fault"), CONTROLS)
def test_without_what_it_rests_on_something_is_lost(memory: Path, world: str, fault: str) -> None:
    options = ("--record", 2, "--least", MOST, "--fault", fault)
    code, said = run(world, memory, *options, limit=LIMIT)
    assert code == LOST, said


@needs_power
def test_a_disk_that_lies_loses_something(memory: Path) -> None:
    code, said = run("life", memory, "--record", 2, "--least", MOST, "--lying", limit=LIMIT)
    assert code == LOST, said


Steps = st.lists(
    st.none() | st.tuples(st.integers(0, 40), st.binary(min_size=1, max_size=2_000)), max_size=20
)
"""None for a flush, (sector, data) for a write."""


@settings(deadline=None, max_examples=60)
@given(Steps, st.sampled_from(Mode), st.integers(0, 20), st.integers(0, 3))
def test_an_image_has_what_was_flushed_and_of_the_rest_what_its_mode_says(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, bytes] | None],
    mode: Mode,
    at: int,
    seed: int,
) -> None:
    place = tmp_path_factory.mktemp("disk")
    base, size = place / "base", 12 * BLOCK
    base.write_bytes(b"b" * BLOCK + bytes(size - BLOCK))
    flushed, everything = bytearray(base.read_bytes()), bytearray(base.read_bytes())
    pending: list[tuple[int, bytes]] = []
    with JournalFile(place / "journal") as journal:
        for number, step in enumerate(steps):
            if step is None:
                journal.flush(0)
            else:
                journal.write(0, step[0] * SECTOR, step[1])
            if number >= at:
                continue
            if step is None:
                flushed[:], pending = everything, []
            else:
                offset, data = step[0] * SECTOR, step[1]
                everything[offset : offset + len(data)] = data
                pending.append((offset, data))
    (disk,) = Journal(place / "journal", base, ("one",)).disks.values()
    cut = Cut(min(at, len(steps)), mode, seed)
    disk.make(cut, place / "image")
    image = (place / "image").read_bytes()
    assert len(image) == size
    assert disk.pending(cut.position) == len(pending)
    assert b"".join(disk.blocks(cut).get(o, bytes(BLOCK)) for o in range(0, size, BLOCK)) == image
    if mode is Mode.NONE:
        assert image == flushed
    if mode is Mode.ALL:
        assert image == everything
    for place_ in range(size):
        maybe = {flushed[place_]}
        maybe |= {data[place_ - at] for at, data in pending if at <= place_ < at + len(data)}
        assert image[place_] in maybe
