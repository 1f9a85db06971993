"""``cbfs init`` asks on a terminal for what it is not told."""

import os
import pty
import select
import subprocess
import termios
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM, no_lock, opened_store
from cbfs.account.passphrase import Guard, by_passphrase
from tests.support.world import ENVIRONMENT, WAIT, program, run, wait_for, world


class Terminal:
    """A program of ours at a terminal of its own."""

    def __init__(self, *arguments: str | Path) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [
                "env",
                "--default-signal=INT",
                "setsid",
                "--ctty",
                *program(*map(str, arguments)),
            ],  # ^C is of a controlling terminal
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=ENVIRONMENT,
        )
        os.close(theirs)
        self.shown = ""
        self._seen = 0

    def wait(self, text: str) -> None:
        """Until it shows that, after what was waited for before."""
        while text not in self.shown[self._seen :]:
            if not self._read():
                raise AssertionError(f"{text!r} is not in {self.shown}")
        self._seen = self.shown.index(text, self._seen) + len(text)

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._ours)[3] & termios.ECHO)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode(errors="surrogateescape"))

    def end(self) -> int:
        """Its exit code."""
        while self._read():
            pass
        os.close(self._ours)
        return self._process.wait(WAIT)

    def _read(self) -> bool:
        if not select.select([self._ours], [], [], WAIT)[0]:
            self._process.kill()
            raise AssertionError(f"it hangs after {self.shown}")
        try:
            data = os.read(self._ours, 4_096)
        except OSError:  # EIO: nobody has the other end any more
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An account, and one with a passphrase."""
    place = tmp_path_factory.mktemp("made")
    for name, guard in (("account", Guard()), ("locked", by_passphrase(b"words", SYSTEM_RANDOM))):
        create = partial(replace, guard)
        with opened_store(place / name, SYSTEM_RANDOM, no_lock, create=create):
            pass
    return place


def test_each_answer_is_checked_at_once(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        here.account("alice")
        place = tmp_path / "asked"
        terminal = Terminal("cbfs", "init", "--account", place, "--no-tor")
        terminal.wait(str(place))
        for bad in ("a", "no such name", "\x1b[A", "alice"):
            terminal.wait("name: ")
            terminal.type(f"{bad}\n")
        for bad in ("host", "own", here.server.url):
            terminal.wait("server: ")
            terminal.type(f"{bad}\n")
        for path in (f"{tmp_path}/missing", "~nobody-of-that-name/policy", f"{tmp_path}"):
            terminal.wait("policy file: ")
            terminal.type(f"{path}\n")
            terminal.wait("cbfs: ")
        terminal.wait("policy file: ")
        terminal.type(f"{tmp_path}/names/policy\n")
        terminal.wait("the name is taken")
        terminal.wait("name: ")
        terminal.type("Bob\n")
        terminal.wait("bob is ready. Mount it: mount.cbfs")
        assert terminal.end() == 0, terminal.shown
        assert "Traceback" not in terminal.shown


def test_it_asks_only_for_what_is_not_given(tmp_path: Path) -> None:
    place = tmp_path / "asked"
    terminal = Terminal("cbfs", "init", "alice", "--own-server", "--account", place)
    terminal.wait("policy file: ")
    assert "Your name" not in terminal.shown
    assert "Your server" not in terminal.shown
    terminal.type("\x04")
    terminal.wait("nothing was made")
    assert terminal.end() == 1
    assert not place.exists()


def test_control_c_makes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "asked"
    terminal = Terminal("cbfs", "init", "--account", place)
    terminal.wait("name: ")
    terminal.type("\x03\n")  # the line's end: for a signal that came right before input() reads
    assert terminal.end() == 130
    assert "Traceback" not in terminal.shown
    assert not place.exists()


_ASKING = pytest.mark.parametrize(
    ("words", "prompt"),
    [
        (("cbfs", "export", "ACCOUNT", "FILE"), "passphrase of the export: "),
        (("cbfs", "passphrase", "ACCOUNT"), "new passphrase of the account: "),
        (("cbfs", "init", "--restore", "FILE", "--account", "NEW"), "passphrase of the export: "),
        (("mount.cbfs", "LOCKED", "MOUNT", "--no-tor"), "passphrase of the account: "),
        (("cbfs", "name", "show", "--account", "LOCKED"), "passphrase of the account: "),
    ],
)


@_ASKING
def test_control_c_at_a_passphrase(
    words: tuple[str, ...], prompt: str, made: Path, tmp_path: Path
) -> None:
    """One line, and the terminal shows what is typed again."""
    places = {"ACCOUNT": made / "account", "LOCKED": made / "locked"}
    places |= {name: tmp_path / name for name in ("FILE", "NEW", "MOUNT")}
    places["MOUNT"].mkdir()
    terminal = Terminal(*(places.get(word, word) for word in words))
    terminal.wait(prompt)
    wait_for(lambda: not terminal.echoes() or None, "it to read")
    terminal.type("half of a passphr\x03\n")  # the line's end: for a signal right before it reads
    terminal.wait("cbfs: interrupted\r\n")
    assert terminal.echoes()
    assert terminal.end() == 130
    assert "Traceback" not in terminal.shown
    assert "half" not in terminal.shown
    assert not list(places["MOUNT"].iterdir())


@_ASKING
def test_what_is_typed_that_is_no_text(
    words: tuple[str, ...], prompt: str, made: Path, tmp_path: Path
) -> None:
    """One line, and the terminal shows what is typed again: at a terminal with other letters."""
    places = {"ACCOUNT": made / "account", "LOCKED": made / "locked"}
    places |= {name: tmp_path / name for name in ("FILE", "NEW", "MOUNT")}
    places["MOUNT"].mkdir()
    terminal = Terminal(*(places.get(word, word) for word in words))
    terminal.wait(prompt)
    wait_for(lambda: not terminal.echoes() or None, "it to read")
    terminal.type("Gr\udcfc\udcdfe\n")
    terminal.wait("not UTF-8")
    assert terminal.echoes()
    assert terminal.end() == 1
    assert "Traceback" not in terminal.shown


def test_an_answer_that_is_no_text_is_asked_for_again(tmp_path: Path) -> None:
    terminal = Terminal("cbfs", "init", "--account", tmp_path / "asked")
    terminal.wait("name: ")
    terminal.type("Gr\udcfc\udcdfe\n")
    terminal.wait("name: ")
    terminal.type("\x04")
    terminal.wait("nothing was made")
    assert terminal.end() == 1
    assert "Traceback" not in terminal.shown


@pytest.mark.parametrize(
    ("given", "lacking"),
    [
        ((), "missing: NAME, --server URL or --own-server, --names POLICYFILE"),
        (("alice", "--own-server"), "missing: --names POLICYFILE"),
    ],
)
def test_without_a_terminal_it_says_what_is_missing(
    given: tuple[str, ...], lacking: str, tmp_path: Path
) -> None:
    done = run("cbfs", "init", *given, "--account", tmp_path / "none")
    assert done.returncode == 2
    assert lacking in done.stderr
    assert not (tmp_path / "none").exists()
