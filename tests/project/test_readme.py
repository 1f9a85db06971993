"""The session of the README, typed as it stands there."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.world import WAIT

LIMIT = 900.0
"""Seconds for the whole session."""

README = Path(__file__).parents[2] / "README.rst"
TYPED = """
again() {
    printf '%s\\n' "$ $1"
    tries=0
    until eval "$1"; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || exit 1
        sleep 0.2
    done
}
"""
"""A reader waits until something is there, and looks again."""


def commands(section: str) -> list[str]:
    """What the blocks of a section say, a command each, but for pauses."""
    text = README.read_text().split(f"\n{section}\n{'=' * len(section)}\n")[1]
    blocks = re.findall(r"::\n\n((?:    .*\n|\n)+)", text.split("\n====")[0])
    found, begun = [], ""
    for line in "".join(blocks).splitlines():
        begun += line.removeprefix("    ") + "\n"
        whole = subprocess.run(["bash", "-n", "-c", begun], capture_output=True, check=False)
        if whole.returncode == 0 and not line.endswith("\\"):
            pause = not begun.strip() or begun.startswith("sleep ")
            found += [] if pause else [begun.strip()]
            begun = ""
    assert not begun
    return found


def host() -> str:
    """An address of this machine that no other process of tests uses."""
    pid = os.getpid()
    return f"127.{200 + (pid >> 16) % 50}.{(pid >> 8) % 256}.{pid % 256}"


@pytest.mark.mount
@pytest.mark.timeout(LIMIT + 60)
def test_the_session_of_the_readme(tmp_path: Path) -> None:
    photos, place = tmp_path / "photos", tmp_path / "try"
    photos.mkdir()
    (photos / "beach.jpg").write_bytes(b"sand")
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    typed = commands("By hand")
    assert len(typed) > 30
    mounts = [place / name for name in ("only", "alice", "bob", "carol")]
    said = typed_in(tmp_path, typed, mounts)
    for shown in ("hello alice, this is bob", "and carol", "beach.jpg", "All keys are new"):
        assert shown in said


@pytest.mark.mount
@pytest.mark.timeout(LIMIT + 60)
def test_two_people_from_nothing_to_a_message(tmp_path: Path) -> None:
    typed = commands("Two people, one line each")
    assert len(typed) > 12
    said = typed_in(tmp_path, typed, [tmp_path / "alice", tmp_path / "bob"])
    shown = said.split("$ cat alice/conversations")[1]
    assert "I am here." in shown
    assert 'known_by = "a line that one of you gave the other' in said
    assert "verified = false" in said


def typed_in(place: Path, typed: list[str], mounts: list[Path]) -> str:
    """What commands print that are typed there, each again until it does what it should."""
    script = TYPED + "".join(f"again {_quoted(each)}\n" for each in typed)
    output = place / "output"
    scripts = Path(sys.executable).parent
    path = f"{scripts}:{os.environ['PATH']}"
    with (
        output.open("wb") as file,
        subprocess.Popen(
            ["bash", "-c", script.replace("127.0.0.1", host())],
            cwd=place,
            env={**os.environ, "HOME": str(place), "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=file,  # no pipe: what it has started may live on
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as shell,
    ):
        try:
            shell.wait(LIMIT)
        finally:
            for mount in mounts:
                lazy = ["fusermount3", "-uz", str(mount)]
                subprocess.run(lazy, check=False, stderr=subprocess.DEVNULL, timeout=WAIT)
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    said = output.read_text()
    assert shell.returncode == 0, said
    return said


def _quoted(command: str) -> str:
    return "'" + command.replace("'", "'\\''") + "'"
