"""Where a case of the save test runs: in a folder of the outbox, or in a plain one beside it.

What a program tells, what it leaves behind and what it has written in the plain folder is what it
must tell, leave and send in the outbox.
"""

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.mounted import Mounted
from tests.support.world import WAIT, wait_for

LETTER = "letter.txt"
OLD = "old text\n"
DAY = 86_400.0
_SCRATCH = "it is taken for a scratch file"
_COMPLAINTS = re.compile(
    r"[^\r\n]*(?:error|fail|denied|cannot|can't|not permitted|no such|unable|warning|E\d{2,4}:)"
    r"[^\r\n]*",
    re.IGNORECASE,
)


class Place:
    """One case in one folder. ``messages`` is what was finished in it, as the disk has it."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.home = home
        self.messages: list[bytes] = []
        self.documents: set[str] = set()
        self.told: list[str] = []
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != "DISPLAY"},
            "HOME": str(home),
            "TMPDIR": str(home),
            "XDG_RUNTIME_DIR": str(home),
            "LC_ALL": "C.UTF-8",
            "GSETTINGS_BACKEND": "memory",
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        self.home.mkdir(mode=0o700, parents=True)

    @property
    def letter(self) -> Path:
        """The document of most cases."""
        return self.folder / LETTER

    def existing(self, name: str = LETTER, text: str | bytes = OLD) -> None:
        """A file that is there before the program comes."""
        (self.folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    def finished(self, name: str = LETTER) -> None:
        """The file is a message as it is now."""
        self.documents.add(name)
        self.messages.append((self.folder / name).read_bytes())

    def sent(self, name: str = LETTER) -> None:
        """Until a finished file has left, as it leaves the outbox."""
        (self.folder / name).unlink()

    def pass_grace(self) -> None:
        """Until the grace is over for all that has been saved before."""

    def run(self, *command: str) -> None:
        """A program to its end, in the folder."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=WAIT,
            check=False,
        )
        self.tell(f"{done.returncode} {(done.stdout + done.stderr).decode()}")

    def shell(self, script: str) -> None:
        """A script, with the home as its argument."""
        self.run("sh", "-euc", script, "sh", str(self.home))

    def complaints(self, text: str) -> None:
        """Keep what a program with a screen has complained of."""
        self.tell("\n".join(sorted(set(_COMPLAINTS.findall(text)))))

    def tell(self, text: str) -> None:
        """Keep what a program has said, without what differs between places and runs."""
        for path, word in ((self.folder, "FOLDER"), (self.home, "HOME")):
            text = text.replace(str(path), word)
        self.told.append(re.sub(r"\b\d{3,}\b|0x[0-9a-f]+", "N", text))

    def saved(self, text: str, name: str = LETTER) -> None:
        """Until the file holds ``text``."""
        path = self.folder / name

        def look() -> bool:
            try:
                return text in path.read_text()
            except FileNotFoundError:  # being replaced
                return False

        wait_for(look, f"{text!r} in {path}")

    def left(self) -> set[str]:
        """Names of what is in the folder, but for finished files: scratch, locks, backups."""
        return {path.name for path in self.folder.iterdir()} - {"metadata.toml"} - self.documents


class Outbox(Place):
    """A folder of the outbox, which begins a conversation of its own."""

    def __init__(self, mount: "Sentinel", subject: str, home: Path) -> None:
        self._mount = mount
        self._scratch = mount.path / "tmp" / subject
        self.subject = subject
        folder = mount.path / "outbox" / f"bob {subject}"
        folder.mkdir()
        super().__init__(folder, home)

    def existing(self, name: str = LETTER, text: str | bytes = OLD) -> None:
        """Held by its date, until a program changes it."""
        self._scratch.write_bytes(text if isinstance(text, bytes) else text.encode())
        os.utime(self._scratch, (time.time() + DAY,) * 2)
        self._scratch.rename(self.folder / name)

    def finished(self, name: str = LETTER) -> None:
        """The plain folder has told what it holds."""

    def sent(self, name: str = LETTER) -> None:
        wait_for(lambda: not (self.folder / name).exists(), f"{self.folder / name} to be sent")

    def pass_grace(self) -> None:
        self._mount.pass_grace()

    def left(self) -> set[str]:
        """But for what is told of a scratch file that has lain there for a minute, as it has where
        the machine is slow."""
        names = super().left()
        scratch = {name + ".error" for name in names}
        return names - {name for name in names & scratch if _SCRATCH in self._text(name)}

    def _text(self, name: str) -> str:
        try:
            return (self.folder / name).read_text()
        except FileNotFoundError:  # taken away with what it told of
            return ""

    def received(self) -> list[bytes]:
        """What has been sent, in order."""
        found = sorted(
            (self._mount.path / "conversations").glob(f"*-alice-bob {self.subject}/*Z-*")
        )
        return [path.read_bytes() for path in found]


class Sentinel:
    """Knows when the grace is over: a file of its own that was saved later has been sent."""

    def __init__(self, mount: Mounted) -> None:
        self.path = mount.path
        self._folder = mount.path / "outbox" / "carol sentinel"
        self._folder.mkdir()
        self._numbers = iter(range(1_000_000))
        self._lock = threading.Lock()

    def pass_grace(self) -> None:
        """Until a file that is saved now has been sent."""
        with self._lock:
            number = next(self._numbers)
        path = self._folder / f"sentinel{number}.txt"
        path.write_text("x")
        pattern = f"*carol sentinel/*-sentinel{number}.txt"
        wait_for(lambda: any((self.path / "conversations").glob(pattern)) or None, "the sentinel")


@dataclass(frozen=True)
class Case:
    """``known``: the design calls it two messages where one was meant."""

    program: str
    scenario: str
    drive: Callable[[Place], None]
    version: Callable[[], str]
    known: bool = False
    normal: Callable[[bytes], bytes] = field(default=lambda data: data)

    @property
    def name(self) -> str:
        words = f"{self.program} {self.scenario}".replace(">>", "append").replace(">", "into")
        return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def version_of(package: str) -> Callable[[], str]:
    """Of a package of Debian."""

    def ask() -> str:
        query = ["dpkg-query", "-W", "-f=${Version}", package]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout

    return ask
