"""``cbfs move`` as processes: an old computer that waits, and a new one that comes."""

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cbfs.commands.process.entry import cbfs
from cbfs.storage import store as store_module
from tests.support.children import exit_code
from tests.support.killing import Kill, KillingEnv
from tests.support.world import ENVIRONMENT, WAIT, program, wait_for


class Leaver:
    """``cbfs move`` on the old computer; ``line`` is what it has printed."""

    def __init__(self, account: Path, *options: str) -> None:
        self.log = account.with_name(f"{account.name}.move.log")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                program("cbfs", "move", "--account", account, *(options or ("--no-tor",))),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=ENVIRONMENT,
            )
        assert self._process.stdout is not None
        self.line = self._process.stdout.readline().strip()

    def wait(self) -> tuple[int, str]:
        """Its exit code, and the rest of what it has printed."""
        assert self._process.stdout is not None
        said = self._process.stdout.read()
        return self._process.wait(WAIT), said

    def end(self) -> None:
        """End it, if it has not ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(WAIT)
        if self._process.stdout:
            self._process.stdout.close()


@contextmanager
def leaving(account: Path, *options: str) -> Iterator[Leaver]:
    """The old computer waits, for the block."""
    leaver = Leaver(account, *options)
    try:
        yield leaver
    finally:
        leaver.end()


def arrive(line: str, place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """``cbfs move -`` on the new computer."""
    return subprocess.run(
        program("cbfs", "move", "-", "--account", place, *(options or ("--no-tor",))),
        input=f"{line}\n",
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
        env=ENVIRONMENT,
    )


def moves(words: list[str], typed: str, said: Path, number: int = 0) -> int:
    """``cbfs move`` in this process, which is a test's child, killed at the point of this number;
    its exit code. What it says goes into the file ``said``."""
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdin = io.StringIO(typed)
    sys.argv = ["cbfs", "move", "--no-tor", *words]
    if number:
        kill = Kill(number)
        for name in ("fdatasync", "rename", "replace"):
            setattr(os, name, kill.around(getattr(os, name)))
        opened = store_module.__dict__["open_environment"]
        store_module.__dict__["open_environment"] = lambda *place, **more: KillingEnv(
            opened(*place, **more), kill
        )
    code = cbfs()
    sys.stdout.flush()
    return code


class Beside:
    """``moves`` in a child, beside the test."""

    def __init__(self, words: list[str], typed: str, said: Path, number: int = 0) -> None:
        self._said = said
        said.unlink(missing_ok=True)
        self._code: list[int] = []
        arguments = (moves, words, typed, said, number)
        self._thread = threading.Thread(target=self._run, args=arguments)
        self._thread.start()

    def _run(self, *arguments: Any) -> None:
        self._code.append(exit_code(*arguments))

    def line(self) -> str:
        """The line that it prints, empty when it has ended without one."""

        def look() -> str | None:
            text = self.said()
            if "cbfs-move:" in text and "\n" in text.partition("cbfs-move:")[2]:
                return "cbfs-move:" + text.partition("cbfs-move:")[2].split()[0]
            return None if self._thread.is_alive() else "-"

        return wait_for(look, "a line").removeprefix("-")

    def said(self) -> str:
        """What it has said."""
        return self._said.read_text() if self._said.exists() else ""

    def wait(self) -> int:
        """Its exit code."""
        self._thread.join()
        return self._code[0]
