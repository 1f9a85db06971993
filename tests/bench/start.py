"""Rows of starting, and of the memory that is taken from then on: what a user waits for each day,
and what a small machine must have for each program that stays."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from cbfs.account.account import SYSTEM_RANDOM, opened_store
from tests.bench.at_size import fill
from tests.bench.server import on_disk
from tests.bench.table import Row, faster
from tests.support.world import ENVIRONMENT, User, program, world

MIB = 1 << 20
CONVERSATIONS = 100

MOUNT_AIM, SERVER_AIM = 50, 35
"""MiB that a mount with 10,000 messages, and a server that has just started, may have in memory."""

NOTHING = ("an interpreter that does nothing", (sys.executable, "-c", "pass"))
LIBRARIES = ("reading in trio and pyfuse3", (sys.executable, "-c", "import trio, pyfuse3"))


def start(quick: bool) -> Iterator[Row]:
    """From a command line until it has answered, and what stays in memory."""
    rounds, messages = (2, 200) if quick else (20, 10_000)
    with on_disk() as place, compiled(place / "compiled"), world(place) as programs:
        alice = programs.account("alice")
        with opened_store(alice.account, SYSTEM_RANDOM) as store:
            fill(store, CONVERSATIONS, messages)
        alice.mount()
        status = program("cbfs", "status", alice.mountpoint)
        for what, words in (("cbfs --help", program("cbfs", "--help")), ("cbfs status", status)):
            yield _beside(f"{what}, until it has answered", words, *NOTHING, rounds)
        alice.unmount()
        _taken(LIBRARIES[1])
        mounts, peers = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            alice.mount()
            mounts.append(time.perf_counter() - began)
            alice.unmount()
            peers.append(_taken(LIBRARIES[1]))
        what = f"mount, {messages:,} messages, until it answers"
        yield faster(what, median(mounts), LIBRARIES[0], median(peers))
        alice.mount()
        yield from _memory(f"mount, {messages:,} messages", _daemon(alice), MOUNT_AIM)
        listing = ["ls", "-lR", str(alice.mountpoint / "conversations")]
        subprocess.run(listing, stdout=subprocess.DEVNULL, check=True)
        yield from _memory("the same, after ls -lR", _daemon(alice), MOUNT_AIM)
        yield from _memory("cbfs-server", programs.server.pid, SERVER_AIM)
        yield from _memory("cbfs-names", programs.names.pid, SERVER_AIM)


@contextmanager
def compiled(place: Path) -> Iterator[None]:
    """Programs keep there what Python makes of their source, as they do where they are installed.
    An environment that forbids that would have each start compile all of it, which takes as long
    again."""
    before = dict(ENVIRONMENT)
    ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)
    ENVIRONMENT["PYTHONPYCACHEPREFIX"] = str(place)
    try:
        yield
    finally:
        ENVIRONMENT.clear()
        ENVIRONMENT.update(before)


def _beside(what: str, ours: list[str], peer: str, theirs: tuple[str, ...], rounds: int) -> Row:
    """A program of ours beside another one, in turns."""
    taken = [(_taken(ours), _taken(theirs)) for _ in range(rounds)]
    return faster(what, median(a for a, _ in taken), peer, median(b for _, b in taken))


def _taken(words: list[str] | tuple[str, ...]) -> float:
    began = time.perf_counter()
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True, env=ENVIRONMENT)
    return time.perf_counter() - began


def _daemon(user: User) -> int:
    (pid,) = user.pids()
    return pid


def _memory(what: str, pid: int, aim: int) -> Iterator[Row]:
    """What a process has in memory: all of it (RSS), which counts what it shares with others in
    full, and what it has for itself."""
    kib = _held(pid)
    whole = kib["Rss:"]
    private = sum(size for key, size in kib.items() if key.startswith("Private_"))
    yield Row(f"memory, {what}", _mib(whole), "aim", _mib(aim * 1_024), aim * 1_024 / whole, 1.0)
    yield Row("- of it its own", _mib(private), "written", _mib(kib["Anonymous:"]), 1.0)


def _held(pid: int) -> dict[str, int]:
    """KiB of memory by what the kernel calls them."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split()[0]: int(line.split()[1]) for line in rollup}


def resident(pid: int) -> float:
    """MiB that a process has in memory, with all that it shares."""
    return _held(pid)["Rss:"] / 1_024


def proportional(pid: int) -> float:
    """The same, with its part of what it shares."""
    return _held(pid)["Pss:"] / 1_024


def _mib(kib: int) -> str:
    return f"{kib / 1_024:.1f} MiB"
