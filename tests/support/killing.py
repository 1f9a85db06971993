"""Kills at a store's commit points. For a child's own process only (``tests.support.children``)."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.children import exit_code

POINTS_MAX = 500


class Kill:
    """SIGKILL to the own process at the ``number``-th point that is passed."""

    def __init__(self, number: int) -> None:
        self._left = number

    def point(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function with a point before it and one after it."""

        def wrapped(*arguments: Any, **more: Any) -> Any:
            self.point()
            result = function(*arguments, **more)
            self.point()
            return result

        return wrapped


class KillingEnv:
    """An LMDB environment whose write transactions have points before and after their commit."""

    def __init__(self, env: Any, kill: Kill) -> None:
        self._env = env
        self._kill = kill

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def begin(self, *arguments: Any, write: bool = False, **more: Any) -> Any:
        txn = self._env.begin(*arguments, write=write, **more)
        return self._committed(txn) if write else txn

    @contextmanager
    def _committed(self, txn: Any) -> Iterator[Any]:
        with txn:
            yield txn
            self._kill.point()
        self._kill.point()


class Record:
    """What a child has let out, line by line; of a killed one, all that it wrote is there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, *words: str) -> None:
        with self.path.open("a") as file:
            file.write(" ".join(words) + "\n")

    def lines(self) -> list[list[str]]:
        if not self.path.exists():
            return []
        return [line.split() for line in self.path.read_text().splitlines()]


def every_point(work: Callable[..., int], place: Path, step: int = 1) -> Iterator[Path]:
    """Run ``work(directory, number)`` in children that are killed at the first point and at each
    ``step``-th after it, until one comes to its end; each time a fresh directory, which is given
    after the kill."""
    for number in range(1, POINTS_MAX, step):
        directory = place / f"kill{number}"
        directory.mkdir()
        code = exit_code(work, directory, number)
        if code == 0:
            if number == 1:
                raise AssertionError("there are no points")
            return
        if code != -signal.SIGKILL:
            raise AssertionError(f"point {number}: a child ended with {code}")
        yield directory
    raise AssertionError("there are too many points")
