"""Rows of the mount: everything real, on loopback, with two accounts."""

import ctypes
import os
import select
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.bench.server import on_disk
from tests.bench.table import Row, faster
from tests.support.world import User, Way, World, world

TIMEOUT = 60.0
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
EVENT = struct.Struct("iIII")
TEXT = b"See you at the station at ten, by the clock.\n"


class Watch:
    """inotify on one folder: how a file manager or a bot learns of a new message."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_CLOEXEC)
        watch = libc.inotify_add_watch(
            self._descriptor, os.fsencode(folder), IN_MOVED_TO | IN_CREATE
        )
        if self._descriptor < 0 or watch < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def wait(self, part: str, count: int = 1) -> None:
        """Until ``count`` names with ``part`` in them have appeared."""
        while select.select([self._descriptor], [], [], TIMEOUT)[0]:
            data = os.read(self._descriptor, 65_536)
            while data:
                *_, size = EVENT.unpack_from(data)
                name = data[EVENT.size : EVENT.size + size].rstrip(b"\0").decode()
                data = data[EVENT.size + size :]
                count -= part in name and not name.startswith(".")
            if count <= 0:
                return
        raise AssertionError("waited in vain for a message")

    def close(self) -> None:
        os.close(self._descriptor)


@contextmanager
def conversation(way: Way | None = None) -> Iterator[tuple[Path, World, User, User]]:
    """alice and bob, mounted without grace, and one message from each to the other. Also gives
    a place on the disk. ``way`` is by default plain loopback."""
    with on_disk() as place, world(place, way) as programs:
        people = [programs.user(name) for name in ("alice", "bob")]
        for user in people:
            user.unmount()
            user.mount("grace=0")
        alice, bob = people
        (alice.mountpoint / "outbox" / "bob").mkdir()
        alice.write("bob", "first", "first")
        bob.write(bob.wait_message("alice", "first").parent.name, "answer", "answer")
        alice.wait_message("bob", "answer")
        yield place, programs, alice, bob


def folder_of(user: User) -> Path:
    """The only conversation."""
    (folder,) = (user.mountpoint / "conversations").iterdir()
    return folder


def say(sender: User, watch: Watch, number: int) -> float:
    """Seconds from before the file is opened until the other side's watcher is told."""
    path = sender.mountpoint / "outbox" / folder_of(sender).name / f"message-{number}"
    started = time.perf_counter()
    path.write_bytes(TEXT)
    watch.wait(f"Z-{sender.name}")
    return time.perf_counter() - started


def plain(folder: Path, number: int) -> float:
    """The same into a plain directory, made durable, as a message in the outbox is."""
    watch = Watch(folder)
    started = time.perf_counter()
    with (folder / f"{number}Z-plain").open("wb") as file:
        file.write(TEXT)
        file.flush()
        os.fsync(file.fileno())
    watch.wait("Z-plain")
    taken = time.perf_counter() - started
    watch.close()
    return taken


def latency(quick: bool) -> Iterator[Row]:
    """From saving a file in one mount until it is seen in the other."""
    count = 5 if quick else 100
    with conversation() as (place, _, alice, bob):
        beside = place / "plain"
        beside.mkdir()
        one_way, turns, plainly = [], [], []
        at_alice, at_bob = Watch(folder_of(alice)), Watch(folder_of(bob))
        for number in range(count):
            one_way.append(say(alice, at_bob, number))
            plainly.append(plain(beside, number))
        for number in range(count, 2 * count):
            turns.append(say(bob, at_alice, number))
            turns.append(say(alice, at_bob, number))
        at_alice.close()
        at_bob.close()
    peer = "plain directory, with fsync"
    yield faster("save to visible, one way", median(one_way), peer, median(plainly))
    yield faster("save to visible, in turns", median(turns), peer, median(plainly))


def taken_by(command: list[str], folder: Path) -> float:
    """Seconds of a shell command in a folder, when nobody reads what it says."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def wait_all(user: User, count: int) -> None:
    """Until the conversation has so many messages. Looks seldom: a look costs the mount more
    than a message does."""
    folder, seen, since = folder_of(user), 0, time.monotonic()
    while seen < count:
        time.sleep(0.25)
        now = sum("Z-" in path.name for path in folder.iterdir())
        if now > seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() > since + TIMEOUT:
            raise AssertionError(f"only {seen} of {count} messages came")
    print(f"\r  {count:,} messages ", end="", file=sys.stderr, flush=True)


def folder(quick: bool) -> Iterator[Row]:
    """A conversation of many messages, beside a plain directory of the same files. Cold: the
    mount has just been made, while the plain directory is in the kernel's cache."""
    count = 50 if quick else 10_000
    with conversation() as (place, _, alice, bob):
        name = folder_of(alice).name
        for number in range(count - 2):
            alice.write(name, f"message-{number}", TEXT)
            if number % 500 == 499:
                wait_all(bob, number + 3)
        wait_all(bob, count)
        beside = place / "plain"
        shutil.copytree(folder_of(bob), beside)
        print("\r" + " " * 30 + "\r", end="", file=sys.stderr)
        for what, command in (
            (f"ls -l of {count:,} messages", ["ls", "-l"]),
            (f"reading {count:,} messages", ["find", ".", "-type", "f", "-exec", "cat", "{}", "+"]),
        ):
            bob.unmount()
            bob.mount("grace=0")
            theirs = min(taken_by(command, beside) for _ in range(3))
            cold = taken_by(command, folder_of(bob))
            warm = min(taken_by(command, folder_of(bob)) for _ in range(3))
            yield faster(f"{what}, cold", cold, "plain directory", theirs)
            yield faster(f"{what}, warm", warm, "plain directory", theirs)
