"""The same random file operations on the mount and on a plain directory, side by side.

Several threads work in the same folders, each on names of its own, so that what one does never
changes what another must get: each result, be it an errno, is compared at once; names, contents,
attributes and times after each burst, when nobody works. Folders are read while they change, in
small pieces, with seeks to places that were told before. A remount must change nothing.
"""

import hashlib
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.twin import Differs, Side, Worker, told
from tests.support.mounted import Mounted, mounted

WORKERS = 4
BURST = 60
"""Operations of each worker between two comparisons."""

BURSTS = 4
"""In one round, with a remount in its middle. Each round has a seed and folders of its own."""

FOLDERS = ("a", "b")
PLACES = ("ui_info", "tmp", "outbox")
GRACE = 3600.0
"""Nothing is sent meanwhile."""

EXPLICIT = 10**18
"""Nanoseconds since 1970: a time before is one that a worker has set."""

SPARE = 300.0
"""Seconds that the mount may take longer than it was told."""


@dataclass
class Outcome:
    """``wrong``: a line for each difference. The others are counts."""

    seed: int
    wrong: list[str] = field(default_factory=list)
    rounds: int = 0
    operations: int = 0
    refused: int = 0
    listings: int = 0

    def report(self) -> str:
        return (
            f"files: {self.rounds} rounds from seed {self.seed} on, {self.operations} operations"
            f" ({self.refused} of them refused by both), {self.listings} listings of folders that"
            f" changed, {len(self.wrong)} differences"
        )


def soak(seconds: float, seed: int) -> Outcome:
    """Run it until the time is over or something differs. The round of one seed is always the
    same, but for how its threads are interleaved."""
    outcome, end = Outcome(seed), time.monotonic() + seconds
    with mounted(f"grace={GRACE}", seconds + SPARE) as mount:
        while not outcome.wrong and (not outcome.rounds or time.monotonic() < end):
            number = seed + outcome.rounds
            outcome.rounds += 1
            for place in PLACES:
                if not outcome.wrong:
                    _Round(mount, place, number, outcome).run()
            if "Traceback" in mount.log():
                outcome.wrong.append(f"seed {number}: {mount.log()[-2000:]}")
    return outcome


@dataclass(frozen=True, slots=True)
class _Node:
    """What is known of one name. ``data`` is a digest of its content, or where a link leads."""

    mode: int
    links: int
    size: int
    data: str
    inode: int
    mtime: int
    ctime: int

    @property
    def compared(self) -> tuple[object, ...]:
        """What must be the same on both sides."""
        return self.mode, self.links, self.size, self.data


class _Round:
    def __init__(self, mount: Mounted, place: str, seed: int, outcome: Outcome) -> None:
        self._mount = mount
        self._seed = seed
        self._outcome = outcome
        self._place = place
        name = f"bob {seed}" if place == "outbox" else f"round {seed}"
        self._on_mount = mount.path / place / name
        self._plain = mount.path.parent / "plain" / place / name
        # folders cannot be made in a folder of the outbox
        self._folders = ["."] if place == "outbox" else list(FOLDERS)
        self._before: tuple[dict[int, _Node], dict[int, _Node]] = {}, {}
        """By their inodes: of two files that were made a moment apart the plain side has one time,
        so that one of them put in the other's place would seem to be the same."""
        self._newest: dict[int, _Node] = {}

    def run(self) -> None:
        """All of it; what differs is in the outcome."""
        for base in (self._plain, self._on_mount):
            base.mkdir(parents=base is self._plain)
            for folder in self._folders:
                (base / folder).mkdir(exist_ok=True)
        workers = [self._worker(number) for number in range(WORKERS)]
        try:
            self._burst(workers, 0)
            for burst in range(BURSTS):
                self._burst(workers, BURST)
                if burst == 1 and self._place == "ui_info":
                    self._remount(workers)
        except Differs as error:
            self._outcome.wrong.append(f"seed {self._seed}, {self._place}: {error}")
        finally:
            for worker in workers:
                for index in range(3):
                    counts = worker.counts[index]
                    name = ("operations", "refused", "listings")[index]
                    setattr(self._outcome, name, getattr(self._outcome, name) + counts)
                for side in worker.sides:
                    side.close()
        if not self._outcome.wrong:
            shutil.rmtree(self._plain)
            # in the outbox what the daemon says of files goes by itself
            shutil.rmtree(self._on_mount, ignore_errors=self._place == "outbox")

    def _worker(self, number: int) -> Worker:
        sides = Side(self._plain), Side(self._on_mount)
        seed = f"{self._seed} {self._place} {number}"
        return Worker(seed, number, sides, self._folders, flat=self._place == "outbox")

    def _burst(self, workers: list[Worker], steps: int) -> None:
        """Each worker in a thread, then compare. With no steps they only fill the folders."""
        failed: list[BaseException] = []

        def work(worker: Worker) -> None:
            try:
                worker.steps(steps) if steps else worker.fill()
            except (Differs, OSError) as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
        for worker in workers:
            worker.mapped.clear()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise Differs(str(failed[0])) from failed[0]
        mapped = {inode for worker in workers for inode in worker.mapped}
        self._compare(mapped)

    def _compare(self, mapped: set[int]) -> None:
        plain, mount = dict(_walk(self._plain)), dict(_walk(self._on_mount))
        only = {*plain} ^ {*mount}
        if only:
            raise Differs(f"names: only at one side: {sorted(only)[:4]}")
        for path, node in plain.items():
            other = mount[path]
            if node.compared != other.compared:
                raise Differs(f"{path}: plain {node}, mount {other}")
            if node.mtime < EXPLICIT and node.mtime != other.mtime and other.inode not in mapped:
                raise Differs(f"{path}: the time that was set: plain {node}, mount {other}")
            self._compare_times(path, node, other, mapped)
        self._before = _by_inode(plain), _by_inode(mount)
        self._newest |= {node.inode: node for node in mount.values()}

    def _compare_times(self, path: str, plain: _Node, mount: _Node, mapped: set[int]) -> None:
        """What has a new time at one side has one at the other; and none goes back."""
        known = self._newest.get(mount.inode)
        if known is not None and (
            mount.ctime < known.ctime or (stat.S_ISDIR(mount.mode) and mount.mtime < known.mtime)
        ):
            raise Differs(f"{path}: a time has gone back: {known}, {mount}")
        sides = zip(self._before, (plain, mount), strict=True)
        before = [known.get(node.inode) for known, node in sides]
        if before[0] is None or before[1] is None or mount.inode in mapped:
            return
        for what in ("mtime", "ctime"):
            changed = [
                getattr(then, what) != getattr(now, what)
                for then, now in zip(before, (plain, mount), strict=True)
                if then is not None
            ]
            if changed[0] != changed[1]:
                raise Differs(f"{path}: {what} of plain, mount: {changed}, {plain}, {mount}")

    def _remount(self, workers: list[Worker]) -> None:
        """Afterwards all is as before, with the same times."""
        for worker in workers:
            for side in worker.sides:
                side.close()
        before = dict(_walk(self._on_mount))
        self._mount.unmount()
        self._mount.mount()
        after = dict(_walk(self._on_mount))
        if before != after:
            paths = sorted({*before, *after})
            found = [f"{p}: {before.get(p)}, {after.get(p)}" for p in paths]
            differ = [
                line for p, line in zip(paths, found, strict=True) if before.get(p) != after.get(p)
            ]
            raise Differs(f"after a remount: {differ[:3]}")


def _by_inode(side: dict[str, _Node]) -> dict[int, _Node]:
    return {node.inode: node for node in side.values()}


def _walk(base: Path) -> Iterator[tuple[str, _Node]]:
    left = [base]
    while left:
        here = left.pop()
        for path in (here, *here.iterdir()):
            if path.name.endswith((".error", ".toml")):
                continue  # what the daemon says of it
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                data = ""
                if path != here:
                    left.append(path)
                    continue
            elif stat.S_ISLNK(status.st_mode):
                data = str(path.readlink())
            else:
                data = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            mode, links, size = told(status)
            times = status.st_mtime_ns, status.st_ctime_ns
            yield str(path.relative_to(base)), _Node(mode, links, size, data, status.st_ino, *times)
