"""One of the programs of a soak: ``python -m tests.soak.worker ROLE MOUNT SEED SECONDS``.

What it has done it prints as one line of JSON; an exception is a failure.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.support.file_model import FileModel
from tests.support.mounted import Watch

FOLDER_FILES = 12

ROUNDS_MIN = 2
"""What each does, however slow the machine is."""

PAUSE_MAX = 120.0
"""Seconds after which something that must happen has not."""


def text(who: str, number: int) -> str:
    """A text that says itself whether it is whole."""
    body = f"{who} {number} " + "x" * (number * 997 % 9000)
    return f"{hashlib.sha256(body.encode()).hexdigest()} {body}"


def check(data: str) -> None:
    """Raises AssertionError for a wrong byte."""
    digest, _, body = data.rstrip("\n").partition(" ")
    if digest != hashlib.sha256(body.encode()).hexdigest():
        raise AssertionError(f"wrong bytes: {data[:200]}")


def scratch(mount: Path, seed: int, end: float) -> object:
    """Random operations on files of tmp/."""
    rounds = 0
    while rounds < ROUNDS_MIN or time.monotonic() < end:
        model = FileModel(mount / "tmp" / f"file-{seed}", seed * 100_000 + rounds)
        model.steps(60)
        model.close()
        rounds += 1
    return rounds


def saver(mount: Path, seed: int, end: float) -> object:
    """Saves in a folder of its own, in three manners, one after the other."""
    folder = mount / "outbox" / f"bob saver-{seed}"
    folder.mkdir()
    saved: list[str] = []
    while len(saved) < ROUNDS_MIN or time.monotonic() < end:
        number = len(saved)
        words, path = text(f"saver-{seed}", number), folder / f"note-{number}.txt"
        if number % 3 == 0:
            path.write_text(words)
        elif number % 3 == 1:
            part = folder / f"note-{number}.tmp"
            part.write_text(words)
            part.rename(path)
        else:
            with path.open("w") as file:
                for start in range(0, len(words), 1000):
                    file.write(words[start : start + 1000])
                    file.flush()
        saved.append(words)
        since = time.monotonic()
        while path.exists():
            time.sleep(0.1)
            if time.monotonic() > since + PAUSE_MAX:
                raise AssertionError(f"{path} was not sent")
    return saved


def packer(mount: Path, seed: int, end: float) -> object:
    """Makes folders in tmp/ and moves them in, in a folder of its own, one after the other."""
    folder = mount / "outbox" / f"bob packer-{seed}"
    folder.mkdir()
    names: list[str] = []
    while time.monotonic() < end:
        name = f"folder-{seed}-{len(names)}"
        top = mount / "tmp" / name
        for number in range(FOLDER_FILES):
            path = top / f"deep-{number % 3}" / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(name, number))
        sent = folder / name
        top.rename(sent)
        names.append(name)
        since = time.monotonic()
        while sent.exists():
            time.sleep(0.1)
            if time.monotonic() > since + PAUSE_MAX:
                raise AssertionError(f"{sent} was not sent")
    return names


def is_whole(message: Path) -> bool:
    """Whether a message is a folder as ``packer`` makes them."""
    name = message.name.partition("Z-alice-")[2]
    files = sorted((path for path in message.rglob("*") if path.is_file()), key=lambda p: p.name)
    expected = sorted(f"{number}.txt" for number in range(FOLDER_FILES))
    return [path.name for path in files] == expected and all(
        path.read_text() == text(name, int(path.stem)) for path in files
    )


def reader(mount: Path, seed: int, end: float) -> object:
    """Looks at everything, and reads some of it."""
    random, count = Random(seed), 0
    while time.monotonic() < end:
        found = list((mount / "conversations").glob("*/*Z-*"))
        for path in random.sample(found, min(len(found), 60)):
            for file in path.rglob("*.txt") if path.is_dir() else (path,):
                check(file.read_text())
            os.listxattr(path)
            count += 1
        for name in ("README", "status", "profile.toml"):
            if not (mount / name).read_text():
                raise AssertionError(f"{name} is empty")
        os.statvfs(mount)
    return count


def watcher(mount: Path, _seed: int, end: float) -> object:
    """Waits for what arrives from bob, until it is told on its input how much there was."""
    (folder,) = (mount / "conversations").glob("*-bob-alice")
    watch = Watch(folder)
    print("ready", flush=True)
    while time.monotonic() < end:  # the kernel keeps only so many events for it
        watch.look(1.0)
    watch.wait("Z-bob", int(sys.stdin.readline()))
    watch.close()
    return [name for name in watch.names if "Z-bob" in name]


ROLES: dict[str, Callable[[Path, int, float], object]] = {
    role.__name__: role for role in (scratch, saver, packer, reader, watcher)
}

if __name__ == "__main__":
    _, role, mountpoint, seed, seconds = sys.argv
    done = ROLES[role](Path(mountpoint), int(seed), time.monotonic() + float(seconds))
    print(json.dumps(done))
