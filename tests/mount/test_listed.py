"""What the kernel is told while a directory is read: it takes each entry for a look-up, and keeps
it. A stale one would lead programs to files that nobody can find again."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbfs.tree.inodes import Inodes
from cbfs.tree.nodes import ROOT, Folder, SymbolicLink
from cbfs.tree.rules import Area
from cbfs.tree.virtual.virtual_directory import Listing
from tests.support.mounted import Mounted, mounted

NAMES = [f".{number}-{'long' * 57}" for number in range(220)]
"""Files in a folder: more than a program asks for at once. Hidden ones are not sent meanwhile."""

LATE = NAMES[-10]
"""One that is listed late."""


@pytest.fixture(scope="module")
def mount() -> Iterator[Mounted]:
    with mounted() as mount:
        yield mount


def _remove(path: Path) -> None:
    path.unlink()


def _rename(path: Path) -> None:
    path.rename(path.with_name(".another"))


def _rename_over(path: Path) -> None:
    path.with_name(".another").touch()
    path.with_name(".another").rename(path)


def _make_anew(path: Path) -> None:
    path.unlink()
    path.touch()


def _make_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


def _change_places(path: Path) -> None:
    aside, early = path.with_name(".aside"), path.with_name(NAMES[0])
    path.rename(aside)
    early.rename(path)
    aside.rename(early)


CHANGES = (_remove, _rename, _rename_over, _make_anew, _make_a_link, _change_places)


@pytest.mark.mount
@pytest.mark.parametrize("place", ["tmp", "ui_info", "outbox"])
def test_what_changes_while_a_folder_is_read_is_not_lost(mount: Mounted, place: str) -> None:
    for number, change in enumerate(CHANGES):
        folder = mount.path / place / f"bob {number}"
        folder.mkdir()
        for name in NAMES:
            (folder / name).touch()
        late = folder / LATE
        with os.scandir(folder) as entries:
            listed = {next(entries).name}
            change(late)
            listed |= {entry.name for entry in entries}
        assert os.path.lexists(late) == (LATE in listed), change
        assert set(NAMES[1:]) - {LATE} <= listed
        if late.is_symlink():
            late.unlink()
        late.write_text("what must not be lost")
        assert late in folder.iterdir(), change
        assert late.read_text() == "what must not be lost"
        # without what the daemon says of empty files
        others = [path for path in map(folder.joinpath, NAMES) if path.is_file() and path != late]
        assert {path.stat().st_size for path in others} == {0}, change
        shutil.rmtree(folder, ignore_errors=True)  # the daemon looks at all drafts at each change


def test_a_place_in_a_folder_keeps_its_meaning() -> None:
    """As telldir(3) and seekdir(3) have it, while files come and go."""
    directory = Folder(1, Area.KEPT, 0)
    for number, name in enumerate(NAMES, 10):
        directory.add(name, SymbolicLink(number, "", 0, recorded=False))
    listing = Listing(directory)
    whole = list(listing.after(0))
    assert [name for _place, name, _node in whole] == [".", "..", *NAMES]
    for name in NAMES[::3]:
        directory.remove(name)
    directory.add("later", SymbolicLink(9, "", 0, recorded=False))
    for start in range(2, len(NAMES), 7):
        expected = [e for e in whole if e[0] > start and e[1] in directory.entries]
        assert list(listing.after(start)) == expected


def test_a_fresh_node_of_a_known_inode_takes_over_its_count() -> None:
    """The kernel counts what it was told of an inode, whichever object of ours that was."""
    inodes = Inodes(Folder(ROOT, Area.ROOT, 0))
    for target in ("a", "b", "c"):
        inodes.count(SymbolicLink(77, target, 0, recorded=False))
    inodes.forget(77, 2)
    last = inodes.get(77)
    assert isinstance(last, SymbolicLink)
    assert last.target == "c"
    inodes.forget(77, 1)
    assert 77 not in inodes
