"""What shows changes to watchers, without a mount."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from cbfs.mount import notifier_worker
from cbfs.mount.notifier import Notifier
from tests.support.world import WAIT


def test_what_the_kernel_forgets_makes_no_change_before_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inode of a folder may be the number of a change that is still to be shown."""
    made: list[str] = []
    before: list[list[str]] = []
    done = trio.Event()
    notifier = Notifier(lambda: None)

    async def do(*_arguments: object) -> None:
        before.append(list(made))
        if len(before) == 1:
            notifier.remove("conversations/bob/a", lambda: made.append("a"))
        else:
            done.set()

    monkeypatch.setattr(notifier, "_do", do)

    async def main() -> None:
        with trio.fail_after(WAIT):
            async with trio.open_nursery() as nursery:
                await nursery.start(notifier.run, tmp_path)
                notifier.outdate(1, "b")
                await done.wait()
                await notifier.close()

    trio.run(main)
    assert before == [[], []]
    assert made == ["a"]


def test_the_process_that_makes_changes_follows_no_link(tmp_path: Path) -> None:
    """A hub that lies may say that a folder is one that leads anywhere."""
    place, victim = tmp_path / "mount", tmp_path / "victim"
    for folder in (place / "a", victim / "empty"):
        folder.mkdir(parents=True)
    (victim / "kept").write_text("mine")
    (place / "t").symlink_to(victim)
    (place / "a/t").symlink_to("../t")
    (place / "a/file").write_text("goes")
    words = [
        ("show", f"{place}/t/kept", f"{place}/t/moved"),
        ("make", "", f"{place}/t/new"),
        ("make", "", f"{place}/a/t/new"),
        ("remove folder", "", f"{place}/t/empty"),
        ("remove", "", f"{place}/t/kept"),
        ("remove", "", f"{place}/a/file"),
        ("make", "", f"{place}/new"),
    ]
    done = subprocess.run(
        [sys.executable, "-I", "-S", notifier_worker.__file__, str(place)],
        input=json.dumps(words) + "\n",
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[1]) == [errno.ENOTDIR] * 5 + [0, 0]
    assert sorted(path.name for path in victim.iterdir()) == ["empty", "kept"]
    assert not (place / "a/file").exists()
    assert (place / "new").is_dir()
