"""A real FUSE mount of a fake backend, for tests: its daemon is a process of its own.

A mount that hangs cannot be interrupted, only aborted: a watchdog does that, so that no test can
hang and no mount is left behind."""

import ctypes
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.world import ENVIRONMENT, WAIT, wait_for

ROOT = Path(__file__).parents[2]
WATCHDOG = 240.0
"""Seconds that one test may take until its mount is aborted whatever happens: fewer than a test may
take at all (setup.cfg)."""

TEST = "PYTEST_CURRENT_TEST"
"""What pytest says in the environment of itself: which test is at work."""


class Mounted:
    """The mount of an account below ``place``."""

    def __init__(
        self, place: Path, options: str = "grace=0.05", watchdog: float = WATCHDOG
    ) -> None:
        self.program = ["tests.support.fake_backend"]
        self.account = place / "account"
        self.path = place / "mount"
        self.options = options
        for folder in (self.account, self.path):
            folder.mkdir(exist_ok=True)
        self._log = (place / "log").open("a+b")
        self._daemon: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()
        self._limit = watchdog
        self._minor = 0

    def mount(self) -> None:
        """Start the daemon; returns when the mount answers."""
        command = [sys.executable, "-m", *self.program, str(self.account), str(self.path)]
        self._daemon = subprocess.Popen(
            [*command, "--no-tor", "-o", self.options],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )
        wait_for(self._answers, f"the mount to answer: {self.log()}")
        self._minor = os.minor(self.path.stat().st_dev)
        self._over = threading.Event()
        threading.Thread(target=self._watch, args=(self._over,), daemon=True).start()

    def _watch(self, over: threading.Event) -> None:
        """Abort the mount when one test has had it for too long: those of a file that share a mount
        may together take as long as they take."""
        test, began = os.environ.get(TEST), time.monotonic()
        while not over.wait(1.0):
            if os.environ.get(TEST) != test:
                test, began = os.environ.get(TEST), time.monotonic()
            if time.monotonic() - began > self._limit:
                self.abort()
                return

    def _answers(self) -> bool:
        if self._daemon is None or self._daemon.poll() is not None:
            raise AssertionError(f"the daemon ended: {self.log()}")
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
        there = any(line.split()[4] == os.fsencode(self.path) for line in lines)
        try:
            return there and (self.path / "README").exists()
        except OSError:  # the mount of a daemon that was killed
            return False

    @property
    def pid(self) -> int:
        """Of the daemon."""
        return self._daemon.pid if self._daemon else 0

    def log(self) -> str:
        """What the daemon has written to stderr."""
        # not by the open file, whose place the daemon shares and moves
        return Path(self._log.name).read_bytes().decode()

    def abort(self) -> None:
        """Let every call on the mount fail, whatever state its daemon is in."""
        control = Path(f"/sys/fs/fuse/connections/{self._minor}/abort")
        if self._minor and control.exists():
            control.write_text("1")

    def memory(self) -> int:
        """Bytes that the daemon has for itself."""
        if self._daemon is None:
            raise AssertionError("not mounted")
        status = Path(f"/proc/{self._daemon.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
        return int(line.split()[1]) * 1024

    def arrive(self, sender: str, text: str) -> None:
        """A message comes in."""
        self.order(f"arrive {sender} {text}")

    def order(self, line: str) -> None:
        """Tell the backend; see tests.support.fake_backend."""
        if self._daemon is None or self._daemon.stdin is None:
            raise AssertionError("not mounted")
        self._daemon.stdin.write(f"{line}\n".encode())
        self._daemon.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the daemon."""
        if self._daemon is None:
            raise AssertionError("not mounted")
        self._daemon.send_signal(number)

    def signal(self, number: signal.Signals) -> int:
        """Send a signal to the daemon; its exit code."""
        self.send(number)
        return self.wait()

    def unmount(self) -> int:
        """fusermount3 -u; the daemon's exit code. It is busy while the notifier's process shows
        something in it."""
        command = ["fusermount3", "-u", str(self.path)]
        wait_for(
            lambda: subprocess.run(command, check=False, timeout=WAIT).returncode == 0,
            "the mount to be busy no more",
        )
        return self.wait()

    def wait(self) -> int:
        """Until the daemon has ended."""
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return 0
        code = daemon.wait(WAIT)
        if daemon.stdin:
            daemon.stdin.close()
        self._over.set()
        return code

    def close(self) -> None:
        """Leave nothing behind."""
        if self._daemon is not None:
            self._daemon.kill()
            self.wait()
        self.abort()
        lazy = ["fusermount3", "-uz", str(self.path)]
        subprocess.run(lazy, check=False, stderr=subprocess.DEVNULL, timeout=WAIT)
        self._log.close()

    def run(self, script: str) -> str:
        """A shell script in the mount; what it printed. It must succeed."""
        done = subprocess.run(
            ["sh", "-euc", script],
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        if done.returncode != 0 or done.stderr:
            raise AssertionError(f"{script}: {done.returncode}\n{done.stderr}\n{self.log()}")
        return done.stdout

    def messages(self, sender: str = "alice") -> list[str]:
        """Texts of the messages of one sender that are files, in order of names."""
        found = sorted((self.path / "conversations").glob(f"*/*Z-{sender}*"))
        return [path.read_text() for path in found if path.is_file()]

    def wait_messages(self, *texts: str, sender: str = "alice") -> None:
        """Until just these are there."""
        expected = sorted(texts)
        wait_for(lambda: sorted(self.messages(sender)) == expected or None, f"{expected}")


class Watch:
    """inotify on one folder; ``names`` are those that were seen to appear there, or to go."""

    _EVENT = struct.Struct("iIII")
    APPEARS = 0x80 | 0x100
    """IN_MOVED_TO and IN_CREATE."""
    GOES = 0x200
    """IN_DELETE."""

    def __init__(self, folder: Path, events: int = APPEARS) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_CLOEXEC)
        if libc.inotify_add_watch(self._descriptor, os.fsencode(folder), events) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        self.names: list[str] = []

    def wait(self, part: str, count: int = 1) -> None:
        """Until so many names with ``part`` in them have appeared."""
        while sum(part in name for name in self.names) < count:
            if not self.look(WAIT):
                raise AssertionError(f"waited in vain: {self.names}")

    def look(self, seconds: float) -> bool:
        """Whether something has appeared since the last look, or does within so long."""
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return False
        data = os.read(self._descriptor, 65_536)
        while data:
            *_, size = self._EVENT.unpack_from(data)
            name, data = data[16 : 16 + size], data[16 + size :]
            self.names.append(os.fsdecode(name.rstrip(b"\0")))
        return True

    def close(self) -> None:
        """End watching."""
        os.close(self._descriptor)


@contextmanager
def mounted(options: str = "grace=0.05", watchdog: float = WATCHDOG) -> Iterator[Mounted]:
    """Outside /tmp, where editors take short cuts."""
    with tempfile.TemporaryDirectory(prefix="cbfs-mount-", dir="/var/tmp") as place:
        mount = Mounted(Path(place), options, watchdog)
        try:
            mount.mount()
            yield mount
        finally:
            mount.close()
