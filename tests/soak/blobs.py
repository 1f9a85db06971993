"""One large file to two people, with kills of all five processes on the way: the three mounts, the
message server and the name directory. At the end both have it, byte by byte, and the sender has
two receipts. SOAK_BLOB_MIB: how large it is."""

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.world import Service, User, World, world

PEOPLE = ("bob", "carol")
KILL_EVERY = (4.0, 12.0)
"""Seconds between two kills, at random: so long that something is done between them."""

PATIENCE = 3_600.0
"""Seconds for all of it, for each GiB, and once more."""

_MIB = 1 << 20


@dataclass
class Outcome:
    """``wrong``: a line for each thing that is."""

    size: int
    wrong: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    anonymous: dict[str, int] = field(default_factory=dict)
    """The most that each mount had for itself, in MiB."""

    def report(self) -> str:
        kills = ", ".join(f"{who} {count}" for who, count in sorted(self.kills.items()))
        held = ", ".join(f"{who} {mib} MiB" for who, mib in sorted(self.anonymous.items()))
        return (
            f"blobs: {self.size // _MIB:,} MiB to {len(PEOPLE)} people in {self.seconds:.0f} s,"
            f" {self.kills.total()} kills ({kills}), memory at most {held},"
            f" {len(self.wrong)} differences"
        )


def soak(size: int, seed: int, kill_every: tuple[float, float] = KILL_EVERY) -> Outcome:
    """Run it once."""
    outcome, began = Outcome(size), time.monotonic()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place, world(Path(place)) as programs:
        Soak(outcome, programs, Path(place), seed, kill_every).run()
    outcome.seconds = time.monotonic() - began
    return outcome


class Soak:
    """One run."""

    def __init__(
        self,
        outcome: Outcome,
        programs: World,
        place: Path,
        seed: int,
        kill_every: tuple[float, float],
    ) -> None:
        self._outcome = outcome
        self._random = random.Random(seed)
        self._kill_every = kill_every
        self._end = time.monotonic() + PATIENCE * (1 + outcome.size / 2**30)
        quota = max(2, 2 * outcome.size >> 30)
        self._server = Service("cbfs-server", place / "large", ("--blob-quota", f"{quota}G"))
        self._names = programs.names
        self._people = {name: programs.user(name, self._server) for name in ("alice", *PEOPLE)}
        self._source = place / "film.bin"

    def run(self) -> None:
        """Save, kill, compare."""
        self._make()
        alice = self._people["alice"]
        folder = alice.mountpoint / "outbox" / ",".join(PEOPLE)
        folder.mkdir()
        shutil.copyfile(self._source, folder / "film.bin")
        try:
            sent = self._until(lambda: next(iter(_messages(alice, "alice")), None))
            if sent is None:
                self._outcome.wrong.append("it has not become a message")
                return
            self._kill_until(lambda: all(self._has(name) for name in PEOPLE))
            wanted = ", ".join(f"{name}: received" for name in PEOPLE)
            if self._until(lambda: _state(alice) == wanted or None) is None:
                self._outcome.wrong.append(f"the receipts: {_state(alice)}")
        finally:
            self._server.close()

    def _make(self) -> None:
        beginning = self._random.randbytes(_MIB)
        with self._source.open("wb") as file:
            for number in range(self._outcome.size // _MIB):
                file.write(number.to_bytes(8, "big") + beginning[8:])

    def _kill_until(self, done: Callable[[], bool]) -> None:
        turns: list[str] = []
        while time.monotonic() < self._end:
            pause = time.monotonic() + self._random.uniform(*self._kill_every)
            while time.monotonic() < pause:
                self._measure()
                if done():
                    self._compare()
                    return
                time.sleep(0.5)
            turns = turns or self._random.sample(("server", "names", *self._people), 5)
            who = turns.pop()
            self._outcome.kills[who] += 1
            self._kill(who)
        self._outcome.wrong.append("it has not arrived")

    def _kill(self, who: str) -> None:
        if who in self._people:
            self._people[who].kill()
            self._people[who].mount()
            return
        service = self._server if who == "server" else self._names
        service.end(signal.SIGKILL)
        service.start()

    def _has(self, name: str) -> bool:
        found = _messages(self._people[name], "alice")
        return bool(found) and not _progress(found[0])

    def _compare(self) -> None:
        for name in PEOPLE:
            found = _messages(self._people[name], "alice")
            if len(found) != 1:
                self._outcome.wrong.append(f"{name} has {len(found)} messages")
            elif subprocess.run(["cmp", found[0], self._source], check=False).returncode:
                self._outcome.wrong.append(f"what {name} has is not what was sent")

    def _measure(self) -> None:
        for name, user in self._people.items():
            for pid in user.pids():
                held = self._outcome.anonymous.get(name, 0)
                self._outcome.anonymous[name] = max(held, _anonymous(pid))

    def _until(self, look: Callable[[], object]) -> object:
        while time.monotonic() < self._end:
            if (found := look()) is not None:
                return found
            time.sleep(0.5)
        return None


def _messages(user: User, sender: str) -> list[Path]:
    try:
        return user.messages(sender)
    except OSError:
        return []


def _progress(path: Path) -> str:
    try:
        return os.getxattr(path, "user.cbfs.progress").decode()
    except OSError:
        return ""


def _state(user: User) -> str:
    found = _messages(user, user.name)
    try:
        return os.getxattr(found[0], "user.cbfs.state").decode() if found else ""
    except OSError:
        return ""


def _anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) >> 10 for line in lines if line.startswith("RssAnon:"))
