"""``cbfs move`` as processes: an old computer that waits, and a new one that comes."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.world import ENVIRONMENT, WAIT, program


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
