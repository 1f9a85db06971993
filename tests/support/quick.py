"""Which tests are quick, and that they are so: the first step of the suite, ``./run test quick``.

A quick test mounts nothing, starts no Tor and no other program, and never sleeps. Nobody marks
one: a file of tests is quick when it stands in no room that is for programs, and neither it nor
anything that it imports of ``tests`` imports a module by which programs are started. A test that is
marked ``mount``, ``tor`` or ``slow`` (it computes, or waits for a pause of what it tests) is not
quick either.

Who breaks the rule is told at once, in whatever way the suite is run: a quick test fails where it
starts a process, forks or sleeps. The hooks of pytest in here are ``tests/conftest.py``'s.
"""

import ast
import functools
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest
import trio
import trio.testing

ROOT = Path(__file__).parents[2]
TESTS = str(ROOT / "tests")

LONGEST_FIRST = ("power", "soak", "tor", "mount", "project", "hostile", "engine", "server", "names")
"""Rooms in the order of how long their longest file takes. All tests go side by side, a file as a
whole: what is begun last should take no time."""

PROGRAMS = {"power", "soak", "mount"}
"""Rooms that are for mounts and programs."""

STARTERS = (
    "concurrent.futures.ProcessPoolExecutor",
    "multiprocessing",
    "pty",
    "stem",
    "subprocess",
)
"""What a test imports to start programs."""

STARTED = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}
"""Events of Python's audit that tell of a process."""

SLEEP_MAX = 0.05
"""Seconds of sleep that pass for none: the pause of a loop that looks for what comes."""


def room_of(path: Path) -> str:
    """The room in tests/ that a file of tests stands in."""
    parts = path.relative_to(ROOT / "tests").parts if path.is_relative_to(ROOT / "tests") else ()
    return parts[0] if len(parts) > 1 else ""


@functools.cache
def _imports(path: Path) -> frozenset[str]:
    """Dotted names of all that a file imports, modules and what it takes from them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


@functools.cache
def may_start_programs(path: Path) -> bool:
    """Whether a file of tests, or a file of tests that it imports, could start a program."""
    seen, waiting = set[Path](), [path]
    while waiting:
        seen.add(file := waiting.pop())
        for name in _imports(file):
            if f"{name}.".startswith(tuple(f"{starter}." for starter in STARTERS)):
                return True
            other = ROOT.joinpath(*name.split(".")).with_suffix(".py")
            if name.startswith("tests.") and other.exists() and other not in seen:
                waiting.append(other)
    return False


def is_quick_file(path: Path) -> bool:
    """Whether a file of tests can have quick ones."""
    return room_of(path) not in PROGRAMS and not may_start_programs(path)


def is_quick(item: pytest.Item) -> bool:
    """Whether a test is one of the first step."""
    marked = any(item.get_closest_marker(name) for name in ("mount", "tor", "slow"))
    return not marked and is_quick_file(item.path)


class NotQuick(BaseException):
    """A quick test does what it must not. Nothing that is tested catches it."""


class Guard:
    """Stops whoever starts a process or sleeps while it watches."""

    def __init__(self) -> None:
        self._found: list[str] | None = None
        sys.addaudithook(self._heard)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """What is done in here ends by NotQuick where it starts a process or sleeps, or at the end
        when that was caught."""
        found: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "sleep", self._sleep)
            patch.setattr(trio, "sleep", self._trio_sleep)
            self._found = found
            try:
                yield
            finally:
                self._found = None
        if found:
            raise NotQuick(", ".join(found))

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in STARTED:
            self._stop(f"{event}{arguments!r:.100}")

    def _sleep(self, seconds: float) -> None:
        if seconds > SLEEP_MAX:
            self._stop(f"time.sleep({seconds})")
        _SLEEP(seconds)

    async def _trio_sleep(self, seconds: float) -> None:
        """What is tested may have tasks that sleep beside the test. The test may not."""
        mocked = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
        of_test = sys._getframe(1).f_code.co_filename.startswith(TESTS)
        if seconds > SLEEP_MAX and of_test and not mocked:
            self._stop(f"trio.sleep({seconds})")
        await _TRIO_SLEEP(seconds)

    def _stop(self, what: str) -> None:
        if self._found is not None:
            self._found.append(what)
            raise NotQuick(f"{what}: a quick test must not do this, see {Path(__file__).name}")


_SLEEP, _TRIO_SLEEP = time.sleep, trio.sleep
_GUARD = Guard()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Does not even read in what has none, when only quick ones are asked for."""
    asked = config.option.markexpr == "quick" and collection_path.name.startswith("test_")
    return True if asked and not is_quick_file(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the quick ones, and puts the rooms of long files first."""
    for item in items:
        if is_quick(item):
            item.add_marker(pytest.mark.quick)
    order = {room: number for number, room in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(room_of(item.path), len(order)))


def _watch(item: pytest.Item) -> AbstractContextManager[None]:
    return _GUARD.watching() if item.get_closest_marker("quick") else nullcontext()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """The fixtures of a quick test are quick."""
    with _watch(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """So is the test."""
    with _watch(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """So is what clears up after it."""
    with _watch(item):
        return (yield)
