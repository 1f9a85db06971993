"""A program in a pseudo-terminal, as a person has it in front of them."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from pathlib import Path

from tests.support.world import WAIT

_ESCAPES = re.compile(
    rb"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[P_^][^\x1b]*\x1b\\|\x1b\[[0-?]*[ -/]*[@-~]"
    rb"|\x1b[()][0-9A-Za-z]|\x1b[=>78cDEHMNOZ]|[\x00-\x08\x0e\x0f]"
)
_SIZE = struct.pack("HHHH", 24, 120, 0, 0)


class Terminal:
    """``text`` is all that the program has written, without escape sequences."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, _SIZE)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            cwd=folder,
            env={**environment, "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self._written = bytearray()
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        return _ESCAPES.sub(b"", bytes(self._written)).decode(errors="replace")

    def send(self, keys: str) -> None:
        """Press these keys."""
        os.write(self._master, keys.encode())

    def wait(self, part: str, after: int = 0) -> None:
        """Until the program has written ``part``, behind the first ``after`` characters."""
        end = time.monotonic() + WAIT
        with self._news:
            while part not in self.text[after:]:
                left = end - time.monotonic()
                if left <= 0 or not self._news.wait(left):
                    raise AssertionError(f"waited in vain for {part!r}: {self.text[-2000:]!r}")

    def kill(self) -> None:
        """SIGKILL, as when the machine is short of memory."""
        self.process.send_signal(signal.SIGKILL)
        self.ended()

    def ended(self) -> int:
        """Until it has ended; its exit code."""
        try:
            code = self.process.wait(WAIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"it did not end: {self.text[-2000:]!r}") from None
        self._reader.join(WAIT)
        os.close(self._master)
        return code

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65_536)
            except OSError:  # the other side is closed
                data = b""
            with self._news:
                self._written += data
                self._news.notify_all()
            if not data:
                return
