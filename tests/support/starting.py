"""Programs of ours started in odd ways, and interrupted at chosen moments; and what may be left
then: an exit code, a line or two, no process and no dead mount."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.world import ENVIRONMENT, WAIT, program, wait_for

INTERRUPTING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
main, left, wanted = os.getpid(), int(sys.argv[1]), sys.argv[2]
def hook(event, arguments):
    global left
    if event == "subprocess.Popen":
        event = os.path.basename(arguments[0])
    if wanted not in ("", event):
        return
    left -= 1
    if left == 0:
        os.kill(main, signal.SIGINT)
import cbfs.commands.process.entry
sys.addaudithook(hook)
begin = getattr(cbfs.commands.process.entry, sys.argv[3])
del sys.argv[:4]
code = begin()
if left > 0:
    print("EVENTS", left, file=sys.stderr)
sys.exit(code)
"""
"""Sends SIGINT to itself at its N-th event of those that Python tells an auditor: imports, files,
sockets, processes. So each moment can be tried again, and no clock has a say."""

MANY = 1_000_000


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program has ended."""

    code: int
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stderr.splitlines()

    def check_words(self) -> None:
        """It has said what is wrong in our words, and not many."""
        assert "Traceback" not in self.stderr, self.stderr
        ours = (
            "cbfs: ",
            "fuse: ",
            "fusermount3: ",
            "usage: ",
            "mount.cbfs: error: ",
            "cbfs init: error: ",
        )
        assert all(line.startswith(ours) for line in self.lines), self.stderr
        assert len(self.lines) <= 4, self.stderr


def interrupted(
    number: int, entry: str, *arguments: str | Path, stdin: int = subprocess.DEVNULL, at: str = ""
) -> Ended:
    """One of our programs, interrupted at its N-th event, or at the N-th that is called ``at``, or
    starts a program of that name."""
    words = [sys.executable, "-c", INTERRUPTING, str(number), at, entry, "-", *map(str, arguments)]
    done = subprocess.run(
        words,
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
        env=ENVIRONMENT,
    )
    return Ended(done.returncode, done.stderr)


def events(entry: str, *arguments: str | Path) -> int:
    """How many there are until it has ended well."""
    done = interrupted(MANY, entry, *arguments)
    assert done.code == 0, done.stderr
    (line,) = (line for line in done.lines if line.startswith("EVENTS "))
    return MANY - int(line.split()[1])


class Place:
    """An account and a mountpoint, and who uses them."""

    def __init__(self, account: Path, mountpoint: Path) -> None:
        self.account = account
        self.mountpoint = mountpoint

    def start(self, script: str, *options: str, env: dict[str, str] | None = None) -> Ended:
        """Mount by a shell script that runs ``"$@"``."""
        words = program("mount.cbfs", self.account, self.mountpoint, "--no-tor", *options)
        with (self.account.parent / "stderr").open("w+") as told:
            done = subprocess.run(
                ["sh", "-c", script, "sh", *words],
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                timeout=WAIT,
                check=False,
                env=ENVIRONMENT if env is None else env,
            )
            told.seek(0)
            return Ended(done.returncode, told.read())

    def pids(self) -> list[int]:
        """Processes that have the account or the mount in their command lines."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if os.fsencode(self.mountpoint) in words:
                    found.append(int(entry.name))
        return found

    def daemon(self) -> int:
        """The process that has the account."""
        (pid,) = (
            pid for pid in self.pids() if b"mount.cbfs" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        return pid

    def answers(self) -> bool:
        """Whether the mount is there, and what is in it."""
        return (self.mountpoint / "conversations").is_dir()

    def is_clean(self) -> bool:
        """No mount, no dead one, no process."""
        return not self.pids() and not any(self.mountpoint.iterdir())

    def wait_clean(self) -> None:
        wait_for(lambda: self.is_clean() or None, "the end of all that was started")

    def unmount(self) -> None:
        subprocess.run(["fusermount3", "-u", self.mountpoint], check=True, timeout=WAIT)
        self.wait_clean()

    def check_usable(self) -> None:
        """A plain mount works."""
        done = self.start('exec "$@"')
        assert done.code == 0, done.stderr
        assert self.answers()
        self.unmount()


@contextmanager
def no_mount_left(place: Place) -> Iterator[None]:
    """Whatever a test has done."""
    try:
        yield
    finally:
        for pid in place.pids():
            os.kill(pid, 9)
        subprocess.run(
            ["fusermount3", "-uz", place.mountpoint],
            check=False,
            stderr=subprocess.DEVNULL,
            timeout=WAIT,
        )
