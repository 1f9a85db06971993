"""A program at a terminal of its own, that needs no screen of anybody's."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from tests.support.world import WAIT

_CONTROL = re.compile(rb"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x1b\x07]*(?:\x07|\x1b\\)|[()][A-Z0-9]|.)")
"""What moves and colours, by which texts are cut."""


class Screen:
    """What a program has written to its terminal, and its keyboard."""

    def __init__(self, terminal: int, limit: float) -> None:
        self._terminal = terminal
        self._limit = limit
        self._written = b""

    def wait(self, text: str) -> None:
        """Until this has been written since the last time."""
        end = time.monotonic() + self._limit
        while True:
            before, found, after = _CONTROL.sub(b"", self._written).partition(text.encode())
            if found:
                self._written = after
                return
            more = b""
            with suppress(OSError):  # it has ended
                if select.select([self._terminal], [], [], max(0, end - time.monotonic()))[0]:
                    more = os.read(self._terminal, 65_536)
            if not more:
                raise AssertionError(f"{text!r} is not on the screen: {before[-2_000:]!r}")
            self._written += more

    def type(self, keys: str) -> None:
        """Press these keys."""
        os.write(self._terminal, keys.encode())


@contextmanager
def on_screen(
    command: Sequence[str], environment: dict[str, str], limit: float = WAIT
) -> Iterator[Screen]:
    """A program that runs on such a screen until the block ends; ``limit``: for how many seconds
    something is waited for."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], list(command), environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 40, 160, 0, 0))
    try:
        yield Screen(terminal, limit)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
