"""How many requests of the kernel it takes to send a file, and to read a message."""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cbfs.tree.nodes import ROOT
from tests.support.mounted import Mounted
from tests.support.world import wait_for

pytestmark = pytest.mark.mount

MOST = 10
"""Requests that are answered, from the opening of a file until its message is shown and it has
left the outbox."""

_REQUEST = re.compile(r"^unique: \d+, opcode: (\w+) \(\d+\), nodeid: (\d+),", re.MULTILINE)
_UNANSWERED = {"FORGET", "BATCH_FORGET"}
_LOOK = "GETATTR", str(ROOT)
"""What the notifier asks when something has been mounted or unmounted anywhere on the machine."""


@contextmanager
def counted() -> Iterator[Mounted]:
    """A mount that tells of each request."""
    with tempfile.TemporaryDirectory(prefix="cbfs-mount-", dir="/var/tmp") as place:
        mount = Mounted(Path(place), "grace=0")
        mount.program = ["tests.support.counted_backend"]
        try:
            mount.mount()
            yield mount
        finally:
            mount.close()


def requests(mount: Mounted, after: int = 0) -> list[str]:
    found = [each for each in _REQUEST.findall(mount.log()) if each != _LOOK]
    return [name for name, _inode in found if name not in _UNANSWERED][after:]


def send(mount: Mounted, folder: Path, script: str) -> Counter[str]:
    """Which requests a shell's command makes, with ``FOLDER`` in the place of a folder of the
    outbox, until its file has become a message and left."""
    before = len(requests(mount))
    assert os.system(script.replace("FOLDER", f"'{folder}'")) == 0

    def done() -> Counter[str] | None:
        found = requests(mount, before)
        return Counter(found) if {"RENAME", "UNLINK"} <= set(found) else None

    return wait_for(done, "the file to leave")


@pytest.mark.parametrize("way", ["cp", "echo", "python"])
def test_what_sending_a_file_takes(way: str, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("hello")
    script = {
        "cp": f"cp {tmp_path}/letter FOLDER/",
        "echo": "echo hello > FOLDER/letter",
        "python": """python3 -c 'import sys
open(sys.argv[1] + "/letter", "wb").write(b"hello")' FOLDER""",
    }[way]
    with counted() as mount:
        (mount.path / "outbox" / "bob").mkdir()
        (mount.path / "outbox" / "bob" / "first").write_text("first")
        mount.wait_messages("first")
        (proper,) = (mount.path / "conversations").iterdir()
        folder = mount.path / "outbox" / proper.name
        wait_for(lambda: not (folder / "first").exists() or None, "the first one to leave")
        send(mount, folder, script)
        for _ in range(2):  # it is the same each time, however long they lie apart
            found = send(mount, folder, script)
            assert found.total() <= MOST, found


def read(mount: Mounted, sender: str) -> list[str]:
    """What is asked for to read the one message of somebody."""
    (path,) = (mount.path / "conversations").glob(f"*/*Z-{sender}*")
    before = len(requests(mount))
    assert path.read_text()
    wait_for(lambda: "RELEASE" in requests(mount, before), "it to be closed")
    return [each for each in requests(mount, before) if each in {"OPEN", "READ"}]


def test_what_reading_a_message_takes() -> None:
    """Its content comes with its opening. One that is new must be asked for: else nobody would know
    that it is read."""
    with counted() as mount:
        (mount.path / "outbox" / "bob").mkdir()
        (mount.path / "outbox" / "bob" / "first").write_text("first")
        mount.wait_messages("first")
        mount.arrive("bob", "answer")
        wait_for(lambda: list((mount.path / "conversations").glob("*/*Z-bob*")), "the answer")
        mount.unmount()
        mount.mount()
        assert read(mount, "alice") == ["OPEN"]
        assert read(mount, "bob") == ["OPEN", "READ", "READ"]
        assert read(mount, "bob") == ["OPEN"]
