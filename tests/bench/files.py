"""Rows of the file system alone, beside a plain directory and the least that pyfuse3 can do."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.bench.at_size import make_account, text_of
from tests.bench.mounts import Watch, taken_by
from tests.bench.server import on_disk
from tests.bench.table import Row, faster
from tests.support.mounted import ROOT, Mounted
from tests.support.world import WAIT, program, wait_for

AIM = 1 / 1.2
"""At most 1.2 times as long as the minimal one."""

READ_AIM = 1 / 1.3
"""And reading in the mount of a conversation alone, by another process, 1.3 times."""

MIB = 1 << 20
PEER, LEAST = "plain directory", "minimal pyfuse3, in memory"


class Minimal:
    """A mount of ``minimal_fs`` with so many files."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self._count = path, count
        path.mkdir()
        self.mount()

    def mount(self) -> float:
        """Seconds until it answers."""
        started = time.perf_counter()
        words = ["-m", "tests.bench.minimal_fs", str(self.path), str(self._count)]
        self.process = subprocess.Popen([sys.executable, *words], cwd=ROOT)
        wait_for(self.path.is_mount, "the minimal one")
        return time.perf_counter() - started

    def unmount(self) -> None:
        subprocess.run(["fusermount3", "-u", str(self.path)], check=True, timeout=WAIT)
        self.process.wait(WAIT)


class Three:
    """The same messages three times: ``ours``, ``least`` and ``plain`` are their folders."""

    def __init__(self, place: Path, count: int) -> None:
        ours = place / "ours"
        ours.mkdir()
        make_account(ours / "account", 1, count)
        self.mounted = Mounted(ours, "grace=0", watchdog=3600.0)
        self.ours_mount = self._mount()
        self.minimal = Minimal(place / "least", count)
        self.least = self.minimal.path
        self.plain = place / "plain"
        self.plain.mkdir()
        for number in range(count):
            (self.plain / f"{number:08}.txt").write_bytes(text_of(number))

    def _mount(self) -> float:
        started = time.perf_counter()
        self.mounted.mount()
        return time.perf_counter() - started

    @property
    def ours(self) -> Path:
        (folder,) = (self.mounted.path / "conversations").iterdir()
        return folder

    def again(self) -> tuple[float, float]:
        """Everything cold; seconds until each mount answers."""
        self.mounted.unmount()
        self.minimal.unmount()
        return self._mount(), self.minimal.mount()

    @contextmanager
    def alone(self) -> Iterator[Path]:
        """The messages in a mount of their conversation alone, which has just been made."""
        name, place = self.ours.name, self.plain.parent / "alone"
        place.mkdir(exist_ok=True)
        only = program("mount.cbfs", self.mounted.account, place, "-o", f"only={name}")
        subprocess.run(only, check=True, timeout=WAIT)
        try:
            yield place / "conversations" / name
        finally:
            subprocess.run(["fusermount3", "-u", str(place)], check=True, timeout=WAIT)

    def close(self) -> None:
        self.mounted.close()
        self.minimal.unmount()


@contextmanager
def three(count: int) -> Iterator[Three]:
    with on_disk() as place:
        sides = Three(place, count)
        try:
            yield sides
        finally:
            sides.close()


def beside(
    what: str, sides: Three, measure: Callable[[Path], float], *, rounds: int = 3, cold: bool = True
) -> Iterator[Row]:
    """Rows of what takes a time in a folder."""
    if cold:
        sides.again()
        theirs, least, ours = (measure(p) for p in (sides.plain, sides.least, sides.ours))
        yield faster(f"{what}, cold", ours, LEAST, least, AIM)
        yield faster(f"{what}, cold", ours, PEER, theirs)
    taken = [[measure(p) for p in (sides.plain, sides.least, sides.ours)] for _ in range(rounds)]
    theirs, least, ours = (median(column) for column in zip(*taken, strict=True))
    yield faster(f"{what}, warm", ours, LEAST, least, AIM)
    yield faster(f"{what}, warm", ours, PEER, theirs)


def _resident(pid: int) -> float:
    """MiB that a process has for itself: not what it has mapped of its store."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def lists(quick: bool) -> Iterator[Row]:
    """Listing 100,000 messages of one conversation; memory and mounting with them."""
    count = 200 if quick else 100_000
    with three(count) as sides:
        ours, least = sides.again()
        yield faster(f"mounting with {count:,} messages", ours, LEAST, least)
        for command in (["ls", "-f"], ["ls", "-l"]):
            what = f"{' '.join(command)} of {count:,}"
            yield from beside(what, sides, lambda folder, words=command: taken_by(words, folder))  # type: ignore[misc]
        ours, least = _resident(sides.mounted.pid), _resident(sides.minimal.process.pid)
        what = f"memory, {count:,} messages listed"
        yield Row(what, f"{ours:.0f} MiB", LEAST, f"{least:.0f} MiB", least / ours)


def reads(quick: bool) -> Iterator[Row]:
    """Reading and searching 10,000 small messages."""
    count = 100 if quick else 10_000

    def read(folder: Path) -> float:
        messages = ["-type", "f", "!", "-name", "transcript"]
        return taken_by(["find", ".", *messages, "-exec", "cat", "{}", "+"], folder)

    def search(folder: Path) -> float:
        return taken_by(["grep", "-rc", "--exclude=transcript", "station", "."], folder)

    with three(count) as sides:
        yield from beside(f"reading {count:,}", sides, read)
        yield from beside(f"grep -r of {count:,}", sides, search)
        for what, measure in (("reading", read), ("grep -r of", search)):
            sides.again()
            with sides.alone() as folder:
                for state in ("cold", "warm"):
                    least, ours = measure(sides.least), measure(folder)
                    row = f"{what} {count:,}, -o only=, {state}"
                    yield faster(row, ours, LEAST, least, READ_AIM)


def bulk(quick: bool) -> Iterator[Row]:
    """64 MiB written and read in tmp/, without what the kernel keeps."""
    size = MIB if quick else 64 * MIB
    block = bytes(range(256)) * (MIB // 256)

    def write(folder: Path) -> float:
        started = time.perf_counter()
        with (folder / "big").open("wb") as file:
            for _ in range(size // MIB):
                file.write(block)
        return time.perf_counter() - started

    def read(folder: Path) -> float:
        with (folder / "big").open("rb") as file:  # the kernel gives up what it has kept
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return taken_by(["cat", "big"], folder)

    with three(10) as sides:
        folders = (sides.plain, sides.least, sides.mounted.path / "tmp")
        for what, measure in (("writing", write), ("reading", read)):
            taken = [[measure(folder) for folder in folders] for _ in range(3)]
            theirs, least, ours = (median(column) for column in zip(*taken, strict=True))
            yield faster(f"{what} {size // MIB} MiB", ours, LEAST, least, AIM)
            yield faster(f"{what} {size // MIB} MiB", ours, PEER, theirs)


def news(quick: bool) -> Iterator[Row]:
    """From a save to the message in the own mount, and from an arrival to the watcher."""
    count = 5 if quick else 100
    with three(10) as sides:
        mount, place = sides.mounted, sides.plain
        box = mount.path / "outbox" / sides.ours.name
        queued, plainly, arrived = [], [], []
        mine = Watch(sides.ours)
        for number in range(count):
            started = time.perf_counter()
            (box / f"new-{number}.txt").write_bytes(text_of(0))
            mine.wait(f"new-{number}.txt")
            queued.append(time.perf_counter() - started)
            beside_it = Watch(place)
            started = time.perf_counter()
            (place / f"new-{number}.txt").write_bytes(text_of(0))
            beside_it.wait(f"new-{number}.txt")
            plainly.append(time.perf_counter() - started)
            beside_it.close()
        other = sides.ours.name.rpartition("-")[2]
        for _ in range(count):
            started = time.perf_counter()
            mount.arrive(other, "text")
            mine.wait(f"Z-{other}")
            arrived.append(time.perf_counter() - started)
        mine.close()
    yield faster("save to message in the own mount", median(queued), PEER, median(plainly))
    yield faster("arrival to inotify", median(arrived), PEER, median(plainly))
