"""A large file to three people over a real server on loopback, beside a copy of it and three times
reading that."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.server import on_disk
from tests.bench.table import Row, faster
from tests.support.world import Service, User, world

PEOPLE = ("bob", "carol", "dave")
AIM = 1 / 3
"""The design's: within three times that."""

_MIB = 1 << 20


def blobs(quick: bool) -> Iterator[Row]:
    """From before the file is saved until all of it is at everybody."""
    size = 8 * _MIB if quick else int(os.environ.get("BENCH_BLOB_MIB", "1024")) * _MIB
    with on_disk() as place, world(place) as programs:
        server = Service("cbfs-server", place / "large", ("--blob-quota", "4G"))
        try:
            people = [programs.user(name, server) for name in ("alice", *PEOPLE)]
            source = place / "film.bin"
            _make(source, size)
            plain = _copied(source, place / "copy.bin")
            upload, whole = _sent(people[0], people[1:], source)
        finally:
            server.close()
    what = f"{size // _MIB:,} MiB to three people"
    yield faster(what, whole, "cp, and three times reading it", plain, AIM)
    yield faster("- until it is at the server", upload, "cp, and three times reading it", plain)


def _make(path: Path, size: int) -> None:
    beginning = os.urandom(_MIB)
    with path.open("wb") as file:
        for number in range(size // _MIB):
            file.write(number.to_bytes(8, "big") + beginning[8:])


def _copied(source: Path, target: Path) -> float:
    began = time.perf_counter()
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    for _ in PEOPLE:
        with target.open("rb") as file:
            while file.read(_MIB):
                pass
    return time.perf_counter() - began


def _sent(alice: User, others: list[User], source: Path) -> tuple[float, float]:
    """Seconds until the first hears of it, and until all have it."""
    folder = alice.mountpoint / "outbox" / ",".join(PEOPLE)
    folder.mkdir()
    began = time.perf_counter()
    shutil.copyfile(source, folder / source.name)
    _wait(lambda: any(user.messages("alice") for user in others))
    upload = time.perf_counter() - began
    _wait(lambda: all(map(_has, others)))
    return upload, time.perf_counter() - began


def _has(user: User) -> bool:
    found = user.messages("alice")
    try:
        return bool(found) and not os.getxattr(found[0], "user.cbfs.progress")
    except OSError:
        return True


def _wait(look: Callable[[], bool]) -> None:
    """However long it takes."""
    while not look():
        time.sleep(0.05)
