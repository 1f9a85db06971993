"""A verifier, or the sequencer, of a directory of separate processes is killed at every commit and
at every signature while names are registered, over real sockets; the others run on."""

import signal
import sys
from collections import defaultdict
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import trio

from cbfs.names.lookups import DirectoryDown
from cbfs_common.names.checks import Absent, Found
from cbfs_common.names.note import parse_note
from cbfs_common.names.operations import OperationRefused
from cbfs_names.commands.main import main
from tests.names.test_names_crash import watch
from tests.names.test_names_roles import ALICE, Town
from tests.support.children import exit_code
from tests.support.killing import Kill, Record
from tests.support.world import WAIT

POINTS = {"v1": range(1, 21, 2), "sequencer": (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 32, 43, 54)}
"""Points at which the process is killed, one after the other. It passes the first while it starts,
and catches up with what it has missed; a registration takes the sequencer a dozen."""


RECORDING = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from cbfs_names.commands.main import main
from tests.support.killing import Kill, Record
from tests.names.test_names_crash import watch
watch(Record(Path(sys.argv.pop(1))), Kill(0))
raise SystemExit(main())
"""
"""The program without a kill, which records what it signs, as when it was killed."""


def serve(place: Path, name: str, listen: str, number: int) -> int:
    """The program, with points, until it is killed; ended by SIGTERM it gives 0."""
    watch(Record(place / "record"), Kill(number))
    role = "--sequencer" if name == "sequencer" else "--verifier"
    options = ["--data", place / name, "--config", place / "config", "--listen", listen]
    return main([role, *map(str, options)])


async def register_for_ever(town: Town, told: list[str], one: trio.Event) -> None:
    """One name after the other; ``told`` are those whose registration was acknowledged."""
    for number in count():
        name = f"name-{number}"
        try:
            await town.client().register(name, b"profile", ALICE)
            told.append(name)
            one.set()
        except (FileNotFoundError, DirectoryDown, OperationRefused):
            await trio.sleep(0.05)


async def kill_at(town: Town, name: str, number: int) -> None:
    """Run the process until it is killed at this point."""
    run = partial(exit_code, serve, town.place, name, town.urls[name], number)
    assert await trio.to_thread.run_sync(run) == -signal.SIGKILL


async def signed_by(town: Town, name: str) -> None:
    """Wait until the verifier has signed the newest head: it has remembered all it must."""
    with trio.fail_after(WAIT):
        while True:
            head = (await town.status("sequencer")).head
            if head and name in {line.name for line in parse_note(head).lines}:
                return
            await trio.sleep(0.1)


@pytest.mark.parametrize("victim", POINTS)
def test_a_process_that_is_killed_anywhere_signs_one_history_and_loses_nothing(
    memory: Path, victim: str
) -> None:
    town = Town(memory)
    town.configure("v1", "v2", "v3", rules="group two 2 v1 v2 v3\nquorum two\n")
    rest = [name for name in ("sequencer", "v1", "v2", "v3") if name != victim]
    told: list[str] = []

    async def go() -> None:
        async with trio.open_nursery() as nursery:
            one = trio.Event()
            nursery.start_soon(register_for_ever, town, told, one)
            for number in POINTS[victim]:
                await kill_at(town, victim, number)
            town.program = [sys.executable, "-c", RECORDING, str(memory / "record")]
            town.start(victim)
            with trio.fail_after(WAIT):
                await one.wait()
            nursery.cancel_scope.cancel()
        if victim == "v1":
            await town.register("one")
            await signed_by(town, "v1")
            town.kill("v2")  # now it must sign
        await town.register("last")
        for name in told:
            found = await town.client().lookups.lookup(name)
            assert not isinstance(found, Absent)
            assert isinstance(found, Found)
            assert found.entry.version == 1

    try:
        for name in rest:
            role = "--sequencer" if name == "sequencer" else "--verifier"
            town.spawn(name, role, town.urls[name])
        trio.run(go)
    finally:
        town.kill(*list(town.running))
    heads = defaultdict(set)
    for kind, *words in Record(memory / "record").lines():
        if kind == "signed":
            heads[words[0], words[1]].add(words[2])
    assert heads
    assert all(len(roots) == 1 for roots in heads.values()), heads
    assert not list(memory.glob("*/evidence/*"))
