"""A name directory of a sequencer and two verifiers, each with a disk of its own, in which names
are registered until the power fails: no key ever signs two heads of one size."""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import trio

from cbfs.names.lookups import DirectoryDown
from cbfs_common.names.checks import Found
from cbfs_common.names.faults import DirectoryLies, Fault
from cbfs_common.names.operations import OperationRefused, Refusal
from tests.power.acks import Ack, Acks, Recording, read_acks
from tests.power.box import call, start
from tests.power.images import Position
from tests.power.life import OWNER, Kept, directory
from tests.power.programs import Programs, attach, start_disks
from tests.support.world import WAIT

DISKS = ("seq", "v1", "v2")
PLACES = {"seq": "127.0.0.1:7701", "v1": "127.0.0.2:7701", "v2": "127.0.0.3:7701"}
REGISTERING = 3
"""Clients that register names at once."""


def record(recording: Recording, seconds: float, seed: int, fault: str) -> None:
    """In a box."""
    disks = start_disks(recording.journal, recording.base, DISKS)
    acks = recording.written()
    programs = Programs(disks.__getitem__, recording.log, fault, acks)
    lines = []
    for name, place in PLACES.items():
        word = "example.org" if name == "seq" else name
        kind = ("--sequencer",) if name == "seq" else ()
        words = ("--data", programs.data(name), *kind, "--address", place, word)
        lines.append(programs.tool("key", *words))
    config = recording.place / "config"
    config.write_text(
        "".join(lines) + "group both 2 v1 v2\nquorum both\nregistration work 0\nshort 3\n"
    )
    _run(programs, recording.place)
    policy = programs.data("seq") / "policy"
    acks.write("begun", "")
    end = time.monotonic() + seconds
    pids = [
        start(lambda n=number: trio.run(register, policy, acks, f"n{n}", end), recording.log)  # type: ignore[misc]
        for number in range(REGISTERING)
    ]
    for pid in pids:
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise AssertionError(f"a worker failed: {recording.log.read_text()[-2000:]}")


def _run(programs: Programs, place: Path) -> None:
    for name, listen in PLACES.items():
        if not programs.role(name, listen, place / "config"):
            raise AssertionError(f"{name} does not start")


async def register(policy: Path, acks: Acks, prefix: str, end: float) -> None:
    """Names, one after the other."""
    number, client = 0, directory(policy, Kept())
    while time.monotonic() < end:
        number += 1
        await _registered(policy, f"{prefix}-{number}", client)
        acks.write("registered", f"{prefix}-{number}")


async def _registered(policy: Path, name: str, client: object = None) -> None:
    """As soon as a quorum is there."""
    asked = client or directory(policy, Kept())
    with trio.fail_after(WAIT):
        while True:
            try:
                await asked.register(name, b"profile", OWNER)  # type: ignore[attr-defined]
                return
            except DirectoryDown:
                pass
            except DirectoryLies as error:
                if error.fault is not Fault.STALE:  # of a head from before the power loss
                    raise
            except OperationRefused as error:
                if error.refusal is not Refusal.NO_QUORUM:
                    raise
            await trio.sleep(0.05)


def check(recording: Recording, images: Path, acks: list[Ack]) -> Iterator[str]:
    """In a box: what is wrong, one after the other."""
    disks = attach(images, DISKS)
    log, later = images / "log", images / "later"
    position = images / "position"
    programs = Programs(disks.__getitem__, log, "", Acks(later, Position(position, create=True)))
    try:
        _run(programs, recording.place)
    except AssertionError as error:
        yield f"{error}: {log.read_text()}"
        return
    policy, said = programs.data("seq") / "policy", images / "asked"

    async def ask() -> None:
        await _registered(policy, "after")
        client = directory(policy, Kept())
        for name in {ack.what for ack in acks if ack.kind == "registered"}:
            if not isinstance(await client.lookups.lookup(name), Found):
                said.write_text(f"{name} is no longer registered")

    if call(lambda: trio.run(ask), log, limit=WAIT):
        yield f"nothing can be registered: {log.read_text()[-2000:]}"
    if said.exists():
        yield said.read_text()
    heads: dict[tuple[str, str], set[str]] = defaultdict(set)
    for ack in (*acks, *read_acks(later)):
        if ack.kind == "signed":
            key, size, root = ack.what.split()
            heads[key, size].add(root)
    doubled = sorted(key for (key, _), roots in heads.items() if len(roots) > 1)
    if doubled:
        yield f"two heads of one size are signed: {doubled}"
    if not heads:
        yield "nothing was signed"
