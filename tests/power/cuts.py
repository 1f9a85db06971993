"""Recordings, and checks of what is left of them at many moments.

``WORLDS`` are what is recorded; each has ``record`` and ``check``, which run in a box.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from random import Random

from tests.power import first, life, signing
from tests.power.acks import Ack, Recording
from tests.power.box import boxed
from tests.power.images import Cut, Mode
from tests.power.programs import make_base

RECORD_LIMIT, CHECK_LIMIT = 300.0, 240.0
"""Seconds after which a box is ended: it hangs."""

DISK_SIZE = 64 << 20


@dataclass(frozen=True, slots=True)
class World:
    disks: tuple[str, ...]
    record: Callable[[Recording, float, int, str], None]
    check: Callable[[Recording, Path, list[Ack]], Iterator[str]]
    begun: str
    """The acknowledgement from which on the power is cut; "": from the start."""
    told: frozenset[str]
    """Kinds of acknowledgements right after which it is cut."""


WORLDS = {
    "life": World(
        life.DISKS,
        life.record,
        life.check,
        "begun",
        frozenset({"saved", "synced", "came", "removed", "taken", "registered"}),
    ),
    "first": World(
        first.DISKS,
        first.record,
        first.check,
        "",
        frozenset({"opened", "names", "server", "alice"}),
    ),
    "signing": World(
        signing.DISKS, signing.record, signing.check, "begun", frozenset({"signed", "registered"})
    ),
}


class Recorded:
    """One world that was recorded in a directory, with a fault or without."""

    def __init__(self, place: Path, kind: str, seconds: float, seed: int, fault: str = "") -> None:
        """Raises AssertionError when it could not be recorded."""
        self.world = WORLDS[kind]
        place.mkdir()
        self._recording = Recording(place, self.world.disks)
        self._place = place
        self._random = Random(seed)
        make_base(self._recording.base, DISK_SIZE)
        arguments = (self._recording, seconds, seed, fault)
        code = boxed(self.world.record, *arguments, limit=RECORD_LIMIT + seconds)
        if code:
            log = self._recording.log.read_text() if self._recording.log.exists() else ""
            raise AssertionError(f"{kind} was not recorded ({code}): {log[-4000:]}")
        self.journal, self.acks = self._recording.load()
        self._start = next((a.position for a in self.acks if a.kind == self.world.begun), 0)

    def cuts(self, count: int) -> Iterator[Cut]:
        """For ever other moments: right after somebody was told something, with nothing taken that
        was not flushed; and where very much was waiting to be written."""
        told = [a.position for a in self.acks if a.kind in self.world.told]
        crowded = self.journal.crowded(count, self._start)
        random = self._random
        for kind in cycle(("told", "told torn", "crowded", "any")):
            seed = random.randrange(1 << 30)
            if kind == "told":
                yield Cut(random.choice(told), Mode.NONE, seed)
            elif kind == "told torn":
                yield Cut(random.choice(told), random.choice([Mode.SOME, Mode.TORN]), seed)
            elif kind == "crowded":
                yield Cut(random.choice(crowded), random.choice(list(Mode)), seed)
            else:
                at = random.randrange(self._start + 1, self.journal.end)
                yield Cut(at, random.choice(list(Mode)), seed)

    def before(self, cut: Cut) -> list[Ack]:
        """What had been acknowledged."""
        return [ack for ack in self.acks if ack.position <= cut.position]

    def check(self, cut: Cut, *, flushing: bool = True) -> str:
        """What is wrong after it; empty when all is well."""
        images = self._place / "images"
        shutil.rmtree(images, ignore_errors=True)
        images.mkdir()
        for number, disk in enumerate(self.journal.disks.values()):
            disk.make(cut, images / str(number), flushing=flushing)
        said, acks = images / "said", self.before(cut)
        code = boxed(_say, said, self.world.check, self._recording, images, acks, limit=CHECK_LIMIT)
        wrong = said.read_text() if said.exists() else "it was not looked at"
        return wrong or (f"the check itself ended with {code}" if code else "")

    def unerased(self, cut: Cut) -> str:
        """What can still be opened that must not be; for lives only."""
        acks = self.before(cut)
        found = (life.unerased(self.journal.disks[who], cut, acks, who) for who in ("alice", "bob"))
        return next((each for each in found if each), "")


def _say(
    said: Path,
    check: Callable[[Recording, Path, list[Ack]], Iterator[str]],
    recording: Recording,
    images: Path,
    acks: list[Ack],
) -> None:
    said.write_text(next(check(recording, images, acks), ""))


@dataclass
class Outcome:
    """Of many cuts. ``wrong`` has what was lost, by cut."""

    checks: int = 0
    erasures: int = 0
    wrong: list[str] = field(default_factory=list)
    told: int = 0
    """Acknowledgements that were held against an image."""

    def report(self) -> str:
        """In a line or two."""
        return (
            f"{self.checks} starts after a power loss, {self.told} acknowledgements looked for,"
            f" {self.erasures} disks searched for erased keys: {len(self.wrong)} wrong"
        )


def try_cuts(
    recorded: Recorded,
    outcome: Outcome,
    until: Callable[[Outcome], bool],
    *,
    flushing: bool = True,
) -> None:
    """Cut and check until it is enough, or something is wrong."""
    for cut in recorded.cuts(200):
        if outcome.wrong or until(outcome):
            return
        wrong = recorded.check(cut, flushing=flushing)
        outcome.checks += 1
        outcome.told += len(recorded.before(cut))
        if wrong:
            outcome.wrong.append(f"{cut}: {wrong}")


def try_erasures(recorded: Recorded, outcome: Outcome, count: int) -> None:
    """Look at disks as they are, for keys that were to be gone."""
    for cut, _ in zip(recorded.cuts(200), range(count), strict=False):
        wrong = recorded.unerased(cut)
        outcome.erasures += 1
        if wrong:
            outcome.wrong.append(f"{cut}: {wrong}")
            return


def for_seconds(seconds: float) -> Callable[[Outcome], bool]:
    end = time.monotonic() + seconds
    return lambda _: time.monotonic() > end
