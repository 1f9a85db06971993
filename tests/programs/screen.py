"""A screen that nobody sees, with keyboard and mouse."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.world import WAIT, wait_for

SIZE = "1000x640x24"


class Screen:
    """``environment`` is that of programs on it. No window manager: keys go to the window under
    the mouse."""

    def __init__(self, display: int, environment: dict[str, str]) -> None:
        self.environment = {**environment, "DISPLAY": f":{display}", "NO_AT_BRIDGE": "1"}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
        """A program with a session bus of its own; it ends with the screen at the latest."""
        process = subprocess.Popen(
            ["dbus-run-session", "--", *command],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        """All that was started and is still there."""
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(WAIT)

    def tool(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        """xdotool and the like, to the end."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, timeout=WAIT, check=False
        )

    def keys(self, *names: str) -> None:
        self.tool("xdotool", "key", "--delay", "30", *names)

    def type(self, text: str) -> None:
        self.tool("xdotool", "type", "--delay", "30", text)

    def title(self, part: str) -> str:
        """The id of the window that has this in its title, when there is one."""
        search = ["xdotool", "search", "--onlyvisible", "--name", part]
        return self.tool(*search).stdout.decode().split("\n")[0]

    def wait_title(self, part: str) -> str:
        """The window with this in its title, once it is there."""

        def look() -> str:
            found = self.title(part)
            ended = [process.args for process in self._started if process.poll() is not None]
            if ended and not found:
                raise AssertionError(f"{ended} ended without a window {part!r}")
            return found

        return wait_for(look, f"a window {part!r}")

    def picture(self, path: Path) -> bytes:
        """All of it, as a PNG; gives its pixels."""
        self.tool("import", "-window", "root", "-strip", str(path))
        return self.tool("convert", str(path), "rgb:-").stdout


@contextmanager
def screen(environment: dict[str, str], size: str = SIZE) -> Iterator[Screen]:
    """A screen of its own, which ends with the block.

    Without ``-noreset`` the server starts anew whenever its last client has left it, as the tools
    here do all the time, and turns away a program that comes just then.
    """
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", size, "-nolisten", "tcp", "-noreset"],
        pass_fds=[writing],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        with open(reading) as numbers:  # noqa: PTH123 - a descriptor
            on = Screen(int(numbers.readline()), environment)
        try:
            yield on
        finally:
            on.end()
    finally:
        server.terminate()
        server.wait(WAIT)
