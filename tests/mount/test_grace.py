"""How soon a finished file goes: the grace is for programs that live. Real programs, real mount."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounted import Mounted, mounted
from tests.support.world import wait_for

pytestmark = pytest.mark.mount

TRIES = 10
"""How often a machine may be so busy that a file lies for a second before it is looked at."""


@pytest.fixture(scope="module")
def mount() -> Iterator[Mounted]:
    """With the grace that is the default."""
    with mounted("grace=1") as mount:
        yield mount


@pytest.fixture
def folder(mount: Mounted, request: pytest.FixtureRequest) -> Path:
    """An empty one of the outbox."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    made: Path = mount.path / "outbox" / f"bob {name}"
    made.mkdir()
    return made


def sent(mount: Mounted, folder: Path) -> list[str]:
    """What was sent of a folder, in order."""
    pattern = f"*{folder.name.partition(' ')[2]}/*Z-*"
    return [path.read_text() for path in sorted((mount.path / "conversations").glob(pattern))]


def wait_sent(mount: Mounted, folder: Path, count: int) -> list[str]:
    return wait_for(lambda: ((s := sent(mount, folder)) and len(s) == count and s) or None, "files")


SOON = {
    "cp": "cp $1/letter later",
    "cp -p": "cp -p $1/letter later",
    "install": "install -m 600 $1/letter later",
    "mv": "cp $1/letter $1/copy; mv $1/copy later",
    "mv within the mount": "cp $1/letter ../../tmp/copy; mv ../../tmp/copy later",
    "redirection": "cat $1/letter > later",
    "subshell": "(echo second) > later",
    "rsync": "rsync -a $1/letter later",
    "rsync --delay-updates": "rsync -a --delay-updates $1/letter . && mv letter later",
    "sed -i": "cp $1/letter later; sed -i s/none/more/ later",
    "python": """python3 -c 'open("later", "w").write("second\\n")'""",
}


@pytest.mark.parametrize("program", SOON)
def test_what_a_program_that_has_ended_has_written_goes_before_what_one_that_lives_has(
    mount: Mounted, folder: Path, tmp_path: Path, program: str
) -> None:
    (tmp_path / "letter").write_text("second\n")
    for number in range(TRIES):
        (folder / "earlier").write_text("first\n")  # by this process
        mount.run(f"cd 'outbox/{folder.name}'; set -- '{tmp_path}'; {SOON[program]}")
        order = wait_sent(mount, folder, 2 * number + 2)[2 * number :]
        assert sorted(order) == ["first\n", "second\n"]
        if order == ["second\n", "first\n"]:
            return
        wait_for(lambda: not any(map(Path.exists, folder.glob("*er"))) or None, "them to leave")
    raise AssertionError("it never went first")
