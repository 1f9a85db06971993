"""What shows changes to watchers, without a mount."""

from pathlib import Path

import pytest
import trio

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
