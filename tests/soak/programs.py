"""24 programs at once on one mount, while messages arrive all the time."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field

from tests.soak.worker import is_whole, text
from tests.support.mounted import ROOT, Mounted, mounted
from tests.support.world import WAIT, wait_for

ROLES = {"scratch": 7, "saver": 5, "packer": 2, "reader": 5, "watcher": 5}
ARRIVALS_PER_SECOND = 20
GRACE = 0.5
SPARE = 300.0
"""Seconds that all may take longer than they were told."""


@dataclass
class Outcome:
    """``wrong``: a line for each thing that must not be. The others are counts."""

    wrong: list[str] = field(default_factory=list)
    saved: int = 0
    moved: int = 0
    arrived: int = 0
    read: int = 0
    rounds: int = 0

    def report(self) -> str:
        return (
            f"programs: {sum(ROLES.values())} at once, {self.saved} saved and sent,"
            f" {self.moved} folders moved in and sent,"
            f" {self.arrived} arrived and seen by {ROLES['watcher']} watchers, {self.read} read,"
            f" {self.rounds} rounds of file operations, {len(self.wrong)} wrong"
        )


def _start(mount: Mounted, role: str, seed: int, seconds: float) -> subprocess.Popen[str]:
    words = [role, str(mount.path), str(seed), str(seconds)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.soak.worker", *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _arrive(mount: Mounted, seconds: float) -> list[str]:
    sent: list[str] = []
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        words = text("bob", len(sent))
        mount.arrive("bob", words)
        sent.append(words)
        time.sleep(max(0.0, started + len(sent) / ARRIVALS_PER_SECOND - time.monotonic()))
    return sent


def soak(seconds: float) -> Outcome:
    """Run it; what went wrong is in the outcome."""
    outcome = Outcome()
    with mounted(f"grace={GRACE}", seconds + SPARE) as mount:
        mount.arrive("bob", text("bob", 0))
        folders = mount.path / "conversations"
        wait_for(lambda: list(folders.glob("*-bob-alice/*Z-bob*")), "the first")
        workers = [
            (role, _start(mount, role, number, seconds))
            for role, count in ROLES.items()
            for number in range(count)
        ]
        for role, worker in workers:
            if role == "watcher" and worker.stdout is not None:
                worker.stdout.readline()
        arrived = _arrive(mount, seconds)
        saved: list[str] = []
        moved: list[str] = []
        seen: list[list[str]] = []
        for role, worker in workers:
            try:
                out, errors = worker.communicate(f"{len(arrived)}\n", timeout=SPARE)
            except subprocess.TimeoutExpired:
                mount.abort()
                worker.kill()
                outcome.wrong.append(f"{role} hung")
                continue
            if worker.returncode != 0:
                outcome.wrong.append(f"{role}: {errors[-600:]}")
                continue
            done = json.loads(out)
            if role == "saver":
                saved += done
            elif role == "packer":
                moved += done
            elif role == "watcher":
                seen.append(done)
            elif role == "reader":
                outcome.read += done
            else:
                outcome.rounds += done
        _compare(mount, outcome, saved, arrived, seen)
        _compare_folders(mount, outcome, moved)
        if "Traceback" in mount.log():
            outcome.wrong.append(mount.log()[-2000:])
    return outcome


def _compare(
    mount: Mounted, outcome: Outcome, saved: list[str], arrived: list[str], seen: list[list[str]]
) -> None:
    outcome.saved, outcome.arrived = len(saved), len(arrived)
    end = time.monotonic() + WAIT
    while len(mount.messages()) < len(saved) and time.monotonic() < end:
        time.sleep(0.5)
    if sorted(mount.messages()) != sorted(saved):
        outcome.wrong.append(f"{len(saved)} saved, {len(mount.messages())} sent")
    first = text("bob", 0)
    received = sorted(words.rstrip("\n") for words in mount.messages("bob"))
    if received != sorted([first, *arrived]):
        outcome.wrong.append(f"{len(arrived)} arrived, {len(received)} are there")
    for names in seen:
        if len(set(names)) != len(arrived) or len(names) != len(arrived):
            outcome.wrong.append(f"a watcher saw {len(set(names))} of {len(arrived)}")


def _compare_folders(mount: Mounted, outcome: Outcome, moved: list[str]) -> None:
    outcome.moved = len(moved)
    found = [
        path for path in (mount.path / "conversations").glob("*/*Z-alice-folder-*") if path.is_dir()
    ]
    names = sorted(path.name.partition("Z-alice-")[2] for path in found)
    if names != sorted(moved):
        outcome.wrong.append(f"{len(moved)} folders moved in, {len(names)} sent")
    outcome.wrong += [f"{path.name} is not whole" for path in found if not is_whole(path)]
