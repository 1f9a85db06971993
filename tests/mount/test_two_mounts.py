"""The mount of an account and a window on one of its conversations: two kernels, of which none
knows what programs do by way of the other."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.test_window import Window, folder_with
from tests.support.mounted import Mounted, mounted
from tests.support.world import wait_for

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Mounted, Window]]:
    with mounted("grace=3600") as mount:
        mount.arrive("bob", "hello")
        wait_for(lambda: mount.messages("bob") == ["hello\n"], "a message")
        window = Window(mount, folder_with(mount, "bob"))
        try:
            yield mount, window
        finally:
            window.close()


@pytest.fixture
def places(both: tuple[Mounted, Window]) -> tuple[Path, Path]:
    """The same folder of the outbox, in the mount and in the window."""
    mount, window = both
    return mount.path / "outbox" / folder_with(mount, "bob"), window.outbox


def _remove(path: Path) -> None:
    path.unlink()


def _rename(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def _rename_over(path: Path) -> None:
    path.with_name("fresh").write_text("fresh")
    path.with_name("fresh").rename(path)


@pytest.mark.parametrize("change", [_remove, _rename, _rename_over])
@pytest.mark.parametrize("from_window", [False, True])
def test_what_is_saved_where_another_mount_has_changed_names_is_not_lost(
    places: tuple[Path, Path], change: Callable[[Path], None], from_window: bool
) -> None:
    here, there = places[::-1] if from_window else places
    (here / "note").write_text("first")
    for path in (here, there):  # both kernels know it now, and somebody goes on reading it
        assert (path / "note").read_text() == "first"
    held = os.open(there / "note", os.O_RDONLY)
    try:
        change(here / "note")
        (there / "note").write_text("what must not be lost")
        assert os.pread(held, 100, 0) == b"first"
    finally:
        os.close(held)
    for path in (here, there):
        assert (path / "note").read_text() == "what must not be lost"
    for name in ("note", "elsewhere"):
        (here / name).unlink(missing_ok=True)


@pytest.mark.parametrize("into", ["save", "link", "mkdir", "move"])
@pytest.mark.parametrize("from_window", [False, True])
def test_nothing_comes_into_a_folder_that_another_mount_has_removed(
    places: tuple[Path, Path], into: str, from_window: bool
) -> None:
    here, there = places[::-1] if from_window else places
    tmp = there.parents[1] / "tmp"
    (tmp / "pack.part" / "in").mkdir(parents=True)
    (tmp / "pack.part").rename(there / "pack.part")  # held by its name
    (there / "moved").write_text("what must not be lost")
    held = os.open(there / "pack.part" / "in", os.O_RDONLY)  # as the working directory of a shell
    changes: dict[str, Callable[[Path], object]] = {
        "save": lambda new: new.write_text("what must not be lost"),
        "link": lambda new: new.symlink_to("elsewhere"),
        "mkdir": Path.mkdir,
        "move": (there / "moved").rename,
    }
    try:
        (here / "pack.part" / "in").rmdir()
        (here / "pack.part").rmdir()
        with pytest.raises(FileNotFoundError):
            changes[into](Path(f"/proc/self/fd/{held}/new"))
    finally:
        os.close(held)
    assert (there / "moved").read_text() == "what must not be lost"
    (there / "moved").unlink()


def test_the_tmp_of_a_window_stays_when_that_of_the_mount_is_emptied(
    both: tuple[Mounted, Window],
) -> None:
    mount, window = both
    (own,) = (mount.path / "tmp").iterdir()
    for change in (own.rmdir, lambda: own.rename(own.with_name("elsewhere"))):
        with pytest.raises(PermissionError):
            change()
    tmp = window.outbox.parents[1] / "tmp"
    (tmp / "file").write_text("mine")
    assert (tmp / "file").read_text() == "mine"


def test_two_mounts_append_to_one_file(places: tuple[Path, Path]) -> None:
    files = [(place / "log").open("a") for place in places]
    expected = []
    for number in range(20):
        file = files[number % 2]
        file.write(f"line {number}\n")
        file.flush()
        expected.append(f"line {number}")
    for file in files:
        file.close()
    for place in places:
        assert (place / "log").read_text().splitlines() == expected
    (places[0] / "log").unlink()


def test_sizes_and_contents_are_the_same_at_once(places: tuple[Path, Path]) -> None:
    here, there = places
    (here / "note").write_text("first")
    with (there / "note").open() as file:
        assert file.read() == "first"
        (here / "note").write_text("longer than the first")
        assert (there / "note").stat().st_size == 21
        file.seek(0)
        assert file.read() == "longer than the first"
    (there / "note").unlink()
    assert not (here / "note").exists()


def test_locks_of_two_mounts_are_apart(places: tuple[Path, Path]) -> None:
    """As the manual says."""
    here, there = places
    with (here / "note").open("w") as one, (there / "note").open("w") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with (here / "note").open("w") as three, pytest.raises(OSError) as caught:
            fcntl.flock(three, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert caught.value.errno == errno.EAGAIN
    (here / "note").unlink()


def test_a_message_that_is_removed_in_a_window_is_gone_in_the_mount(
    both: tuple[Mounted, Window],
) -> None:
    mount, window = both
    count = len(mount.messages("bob"))
    mount.arrive("bob", "to go")
    wait_for(lambda: len(mount.messages("bob")) == count + 1, "a message")
    name = max(path.name for path in window.messages.glob("*Z-bob*"))
    folder = mount.path / "conversations" / folder_with(mount, "bob")
    with os.scandir(folder) as entries:
        next(entries)
        (window.messages / name).unlink()
        assert not (folder / name).exists()
        assert len(list(entries)) >= 2
    assert not (folder / name).exists()
    assert name not in {path.name for path in folder.iterdir()}


def test_what_a_window_lists_has_the_numbers_that_stat_tells(both: tuple[Mounted, Window]) -> None:
    _mount, window = both
    for folder in (window.path, window.path / "outbox", window.outbox, window.path / "tmp"):
        with os.scandir(folder) as entries:
            inodes = {entry.name: entry.inode() for entry in entries}
        for path in folder.iterdir():
            assert inodes[path.name] == path.lstat().st_ino
        assert folder.stat().st_nlink == 2 + sum(path.is_dir() for path in folder.iterdir())
