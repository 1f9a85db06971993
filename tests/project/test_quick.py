"""The rule of ``./run test quick`` holds, and what breaks it is found."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.support.quick import ROOT, Guard, NotQuick, may_start_programs, room_of

ROOMS = {
    *("protocol", "names", "server", "storage", "tree", "engine", "mount", "tor", "project"),
    *("hostile", "models", "power", "soak", "golden", "release"),
}


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard()


async def _sleeping() -> None:
    await trio.sleep(0.1)


def _caught() -> None:
    with suppress(BaseException):
        subprocess.run(["true"], check=True)


@pytest.mark.parametrize(
    "work",
    [
        lambda: subprocess.run(["true"], check=True),
        lambda: os.system("true"),
        lambda: os._exit(0) if os.fork() == 0 else None,
        lambda: time.sleep(0.1),
        lambda: trio.run(_sleeping),
        _caught,
    ],
    ids=["program", "shell", "fork", "sleep", "trio", "caught"],
)
def test_what_is_not_quick_is_stopped(guard: Guard, work: Callable[[], object]) -> None:
    with pytest.raises((NotQuick, BaseExceptionGroup)), guard.watching():
        work()
    work()  # when nobody watches, it is allowed


def test_what_is_quick_is_let_be(guard: Guard) -> None:
    with guard.watching():
        time.sleep(0.001)
        trio.run(trio.sleep, 1_000, clock=trio.testing.MockClock(autojump_threshold=0))


SAMPLE = """
import time
import {module}

def test_sleeps():
    time.sleep(0.1)
"""


@pytest.mark.parametrize(("module", "fails"), [("json", True), ("subprocess", False)])
def test_a_quick_test_fails_that_sleeps(module: str, fails: bool, tmp_path: Path) -> None:
    """With pytest itself: what could start a program is not among the quick ones."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_sample.py").write_text(SAMPLE.format(module=module))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", ROOT / "setup.cfg", "--rootdir", tmp_path, tmp_path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("NotQuick: time.sleep(0.1)" in done.stdout, done.returncode) == (fails, int(fails))


def test_files_stand_in_the_rooms_that_are_for_them() -> None:
    """Every file of tests has a room. The protocol's is for what needs no program, those of mounts
    and of long runs are for what does."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    assert {room_of(path) for path in files} == ROOMS
    started = {path: may_start_programs(path) for path in files}
    assert not [path for path in files if room_of(path) == "protocol" and started[path]]
    assert sum(not started[path] for path in files) * 3 > len(files)
