"""``cbfs host`` as a process, and accounts by its lines."""

import signal
import subprocess
from pathlib import Path

from tests.support.world import ENVIRONMENT, WAIT, program, run


class RunningHost:
    """``cbfs host`` as a process; ``said`` is what it has printed."""

    def __init__(self, place: Path, *options: str) -> None:
        self.place = place
        self.log = place.with_name(f"{place.name}.log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                program("cbfs", "host", place, *options),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=ENVIRONMENT,
            )
        out = self.process.stdout
        assert out is not None
        self.said = out.readline() + out.readline()

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        code = self.process.wait(WAIT)
        if self.process.stdout:
            self.process.stdout.close()
        return code

    def invite(self, *words: str, account: Path | None = None) -> str:
        """A line."""
        who = ("--account", account or self.place / "nobody")
        done = run("cbfs", "invite", "--host", self.place, *who, *words)
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        return line


def init_by(line: str, place: Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    """``cbfs init LINE``, or with ``-`` for a line that is typed first."""
    return subprocess.run(
        program("cbfs", "init", line, place, "--no-tor"),
        input=typed,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
        env=ENVIRONMENT,
    )
