"""The very first start of all programs, on one disk of which something else is synced all the time.

Wherever the power fails in it, all start again, and what was told stays true."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from tests.power.acks import Ack, Acks, Recording
from tests.power.box import start
from tests.power.programs import Programs, attach, start_disks

DISKS = ("all",)


def record(recording: Recording, seconds: float, seed: int, fault: str) -> None:
    """In a box."""
    disk = start_disks(recording.journal, recording.base, DISKS)["all"]
    acks = recording.written()
    start(lambda: _sync_for_ever(disk / "other-file"), recording.log)
    programs = Programs(lambda _: disk / "deep" / "below", recording.log, fault, acks)
    _begin(programs, acks)


def _sync_for_ever(path: Path) -> None:
    while True:
        with path.open("w") as file:
            file.write(str(time.time()))
            file.flush()
            os.fsync(file.fileno())
        path.rename(path.with_suffix(".old"))
        time.sleep(0.002)


def _begin(programs: Programs, acks: Acks) -> None:
    acks.write("names", programs.names())
    server = programs.server()
    acks.write("server", server)
    if programs.init("alice", server):
        raise AssertionError("no account")
    acks.write("alice", "made")


def check(recording: Recording, images: Path, acks: list[Ack]) -> Iterator[str]:
    """In a box: what is wrong, one after the other."""
    disk = attach(images, DISKS)["all"]
    log = images / "log"
    programs = Programs(lambda _: disk / "deep" / "below", log)
    told = {ack.kind: ack.what for ack in acks}
    for name, begin in (("names", programs.names), ("server", programs.server)):
        address = begin()
        if not address:
            yield f"{name} does not start: {log.read_text()}"
        if told.get(name, address) != address:
            yield f"{name} has another address than was told"
    server = address
    if "alice" not in told and programs.init("alice", server) and not _finished(log):
        yield f"no account can be made: {log.read_text()}"
    try:
        programs.mount("alice")
    except AssertionError as error:
        yield f"{error}: {log.read_text()}"


def _finished(log: Path) -> bool:
    """Whether the account was made before, though nobody had been told yet."""
    return "holds the account of alice already" in log.read_text()
