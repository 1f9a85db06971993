"""Rows of an account after a life of messages: what waits for what, and how much memory it takes.

The accounts are filled once, straight through the store, and kept between runs in LIFE_CACHE
(by default ``~/.cache/cbfs-bench``); LIFE_MESSAGES says of how many messages they are (by default
``20000 100000 1000000``). Their servers are gone: nothing is sent or comes.
"""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from cbfs.account.account import SYSTEM_RANDOM, opened_store
from cbfs.storage.root_key import MAGIC
from cbfs.storage.store import Meta, Store, Table, Writer
from tests.bench.at_size import fill
from tests.bench.server import on_disk
from tests.bench.start import compiled
from tests.bench.table import Row, duration, faster
from tests.support.world import User, run, wait_for, world

SIZES = "20000 100000 1000000"
CONVERSATIONS = 1_000
REMOVED = 1_000
"""Messages of the conversation that is removed."""

WAIT_AIM = 0.05
"""Seconds for which an operation may wait while another one takes long."""

COMMON = "station"
"""A word that every message has."""

AIM = "aim at any size"

SAVED, SAVED_AT_ONCE = 5_000, 250
"""Files that are saved while the server is down, and how many by one program."""


class Waits:
    """Asks a mount for its free space all the time: ``longest`` is the most seconds that took."""

    def __init__(self, mount: Path) -> None:
        self._mount = mount
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.longest = 0.0

    def _ask(self) -> None:
        while not self._over.wait(0.002):
            began = time.perf_counter()
            os.statvfs(self._mount)
            self.longest = max(self.longest, time.perf_counter() - began)

    def __enter__(self) -> "Waits":
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()


class Aged:
    """An account of so many messages, kept in ``place``, and where it is mounted."""

    def __init__(self, place: Path, messages: int) -> None:
        self.account = place / "alice-account"
        self.path = place / "alice"
        self._messages = messages
        filled = place / "filled"
        if not filled.exists() or filled.read_bytes() != MAGIC:  # or of an earlier format
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            _make(place, messages)
            filled.write_bytes(MAGIC)

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Its store, while it is not mounted."""
        with opened_store(self.account, SYSTEM_RANDOM) as store:
            yield store

    def mount(self) -> float:
        """Seconds until it answers."""
        began = time.perf_counter()
        done = run("mount.cbfs", self.account, self.path, "-o", "grace=0.1", "--no-tor")
        if done.returncode != 0:
            raise AssertionError(done.stderr)
        return time.perf_counter() - began

    def unmount(self) -> float:
        """Seconds until the daemon is gone."""
        (pid,) = self._pids()
        began = time.perf_counter()
        subprocess.run(["fusermount3", "-u", "-z", self.path], check=True)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.02)
        return time.perf_counter() - began

    def memory(self) -> float:
        """MiB that the daemon has for itself."""
        (pid,) = self._pids()
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("RssAnon"))
        return int(line.split()[1]) / 1024

    def _pids(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if bytes(self.path) in words and any(b"mount.cbfs" in word for word in words):
                    found.append(int(entry.name))
        return found


def _make(place: Path, messages: int) -> None:
    """alice has exchanged messages with bob, and has many more from before."""
    with world(place) as programs:
        alice, bob = (programs.user(name) for name in ("alice", "bob"))
        (alice.mountpoint / "outbox" / "bob").mkdir()
        alice.write("bob", "first", "first")
        bob.write(bob.wait_message("alice", "first").parent.name, "answer", "answer")
        alice.wait_message("bob", "answer")
        _end(alice)
        _end(bob)
    with opened_store(place / "alice-account", SYSTEM_RANDOM) as store:
        fill(store, min(CONVERSATIONS, messages // 10), messages)


def _end(user: User) -> None:
    user.unmount()


def _timed(*command: str | Path) -> float:
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - began


def life(quick: bool) -> Iterator[Row]:
    """Mounting, listing, searching and removing in accounts of several sizes, and saving what
    cannot be sent."""
    cache = Path(os.environ.get("LIFE_CACHE", Path.home() / ".cache" / "cbfs-bench"))
    sizes = "2000" if quick else os.environ.get("LIFE_MESSAGES", SIZES)
    for size in map(int, sizes.split()):
        aged = Aged(cache / f"life-{size}", size)
        with on_disk() as place, compiled(place):
            aged.mount()  # Python compiles it
            aged.unmount()
            yield from _rows(aged, f"{size:,}")
    yield from _saves(500 if quick else SAVED)


def _rows(aged: Aged, size: str) -> Iterator[Row]:
    with aged.store() as store:
        removed = fill(store, 1, REMOVED, f"removed{time.time_ns()}")[0].folder
    yield faster(f"{size}: mount", aged.mount(), AIM, 1.0, 1.0)
    try:
        yield _memory(f"{size}: private memory, mounted", aged)
        yield from _looks(aged, size)
        yield _memory(f"{size}: private memory, all listed", aged)
        yield from _meanwhile(
            aged,
            f"{size}: rm -r of {REMOVED:,} messages",
            lambda: _timed("rm", "-r", aged.path / "conversations" / removed),
            REMOVED / 1_000,
        )
    finally:
        unmounted = aged.unmount()
    yield faster(f"{size}: unmount, all listed", unmounted, AIM, 10.0, 1.0)
    with _without_sessions(aged):
        yield faster(f"{size}: first mount without sessions", aged.mount(), AIM, 1.0, 1.0)
        aged.unmount()


def _looks(aged: Aged, size: str) -> Iterator[Row]:
    path = aged.path
    for what, command, aim in (
        (f"ls of search/{COMMON}", ("ls", "-f", path / "search" / COMMON), 3.0),
        ("ls of unread/, half of all", ("ls", "-f", path / "unread"), 3.0),
        ("ls of by-date/", ("ls", "-f", path / "by-date"), 3.0),
        ("ls of all days", ("ls", "-fR", path / "by-date"), 30.0),
        ("find of all", ("find", path), 300.0),
        ("du -s of conversations/", ("du", "-s", path / "conversations"), 300.0),
    ):
        yield from _meanwhile(aged, f"{size}: {what}", lambda words=command: _timed(*words), aim)  # type: ignore[misc]


def _saves(count: int) -> Iterator[Row]:
    """Files that are saved while the server is down, each until it is a message that waits."""
    with on_disk() as place, world(place) as programs:
        alice, bob = (programs.user(name) for name in ("alice", "bob"))
        folder = alice.mountpoint / "outbox" / "bob"
        folder.mkdir()
        alice.write("bob", "first", "first")
        bob.wait_message("alice", "first")
        programs.server.end()
        taken = []
        for first in range(0, count, SAVED_AT_ONCE):
            began = time.perf_counter()
            names = f"$(seq {first} {first + SAVED_AT_ONCE - 1})"
            alice.run(f"for n in {names}; do echo hello $n > outbox/bob/file$n; done")
            wait_for(lambda: not list(folder.glob("file*")), "messages")
            taken.append((time.perf_counter() - began) / SAVED_AT_ONCE)
        yield faster(
            f"saving a file, {count:,} wait for the server",
            taken[-1],
            "the first of them",
            taken[0],
            1 / 1.5,
        )


def _meanwhile(aged: Aged, what: str, work: Callable[[], float], aim: float) -> Iterator[Row]:
    with Waits(aged.path) as waits:
        taken = work()
    yield faster(what, taken, AIM, aim, 1.0)
    longest = waits.longest or WAIT_AIM
    row = duration(longest), "the longest that an operation waits", duration(WAIT_AIM)
    yield Row("  and a statfs meanwhile", *row, WAIT_AIM / longest, 1.0)


def _memory(what: str, aged: Aged) -> Row:
    used = aged.memory()
    return Row(what, f"{used:.0f} MiB", AIM, "100 MiB", 100 / used, 1.0)


@contextmanager
def _without_sessions(aged: Aged) -> Iterator[None]:
    """The account as it was restored from an export; it has them again afterwards."""
    with aged.store() as store:
        with store.read() as reader:
            kept = [
                (table, key, value)
                for table, prefix in ((Table.SESSIONS, b""), (Table.META, bytes(Meta.LIVES)))
                for key, value in reader.items(table, prefix)
            ]

        def lose(writer: Writer) -> None:
            for table, key, _value in kept:
                writer.delete(table, key)

        store.write(lose)
    try:
        yield
    finally:
        with aged.store() as store:

            def bring_back(writer: Writer) -> None:
                for table, key, value in kept:
                    writer.put(table, key, value)
                writer.delete_prefix(Table.NOTE_ITEMS, b"")
                writer.delete(Table.META, Meta.BEGUN_ANEW)

            store.write(bring_back)
