"""What runs on this machine, from /proc (see ``cbfs.outbox.Processes``), and what can be run."""

import shutil
import sysconfig
from pathlib import Path

from cbfs.outbox import Process
from cbfs_common.errors import CbfsError

_PROC = Path("/proc")
_START_TIME = 19
"""The field of /proc/PID/stat that says when it started, counted from the one after the name."""


class ProcFS:
    """Reads /proc."""

    def of_thread(self, thread: int) -> Process | None:
        """The process that a thread id (as FUSE gives it) belongs to; None when it is gone."""
        try:
            for line in (_PROC / str(thread) / "status").read_text().splitlines():
                if line.startswith("Tgid:"):
                    return self._read(int(line.split()[1]))
        except (OSError, ValueError):
            pass
        return None

    def is_alive(self, process: Process) -> bool:
        """See ``Processes``."""
        now = self._read(process.pid)
        return now is not None and now.start == process.start

    def is_running(self, pid: int) -> bool:
        """See ``Processes``."""
        return (_PROC / str(pid)).exists()

    def _read(self, pid: int) -> Process | None:
        try:
            text = (_PROC / str(pid) / "stat").read_text(errors="replace")
            name, _, rest = text.partition("(")[2].rpartition(")")
            fields = rest.split()
            if fields[0] in "ZX":  # ended, and only its parent has not noticed
                return None
            return Process(pid, int(fields[_START_TIME]), name)
        except (OSError, ValueError, IndexError):
            return None


def installed(name: str) -> str:
    """The path of the program that was installed together with this one. Raises CbfsError."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise CbfsError(f"{name} is not installed", "./run demo installs it")
    return found
