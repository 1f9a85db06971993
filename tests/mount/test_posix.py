"""How files behave in tmp/ and ui_info/: as POSIX says, but for what mount.cbfs(8) lists."""

import ctypes
import errno
import fcntl
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.file_model import FileModel
from tests.support.mounted import Mounted, mounted

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def mount() -> Iterator[Mounted]:
    with mounted() as mount:
        yield mount


@pytest.fixture(params=["tmp", "ui_info"])
def place(request: pytest.FixtureRequest, mount: Mounted) -> Path:
    """An empty folder of each kind."""
    name = request.node.name.replace("[", "-").replace("]", "")
    folder: Path = mount.path / request.param / name
    folder.mkdir()
    return folder


@contextmanager
def refused(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number, caught.value


def test_fsx(place: Path) -> None:
    for seed in range(3):
        model = FileModel(place / f"file{seed}", seed)
        model.steps(120)
        model.close()


def test_rename_of_files(place: Path) -> None:
    (place / "a").write_text("a")
    (place / "b").write_text("b")
    inode = (place / "a").stat().st_ino
    (place / "a").rename(place / "b")
    assert (place / "b").read_text() == "a"
    assert (place / "b").stat().st_ino == inode
    assert [p.name for p in place.iterdir()] == ["b"]
    (place / "b").rename(place / "b")
    with refused(errno.ENOENT):
        (place / "a").rename(place / "c")
    os.link(place / "b", place / "same")
    (place / "b").rename(place / "same")  # two names of one file: POSIX does nothing
    assert sorted(p.name for p in place.iterdir()) == ["b", "same"]


def test_rename_of_folders(place: Path) -> None:
    for name in ("full", "empty", "moved"):
        (place / name).mkdir()
    (place / "full" / "f").write_text("f")
    (place / "file").touch()
    with refused(errno.ENOTEMPTY):
        (place / "moved").rename(place / "full")
    with refused(errno.ENOTDIR):
        (place / "moved").rename(place / "file")
    with refused(errno.EISDIR):
        (place / "file").rename(place / "empty")
    with refused(errno.EINVAL):
        (place / "full").rename(place / "full" / "inside")
    (place / "full").rename(place / "empty")
    (place / "empty").rename(place / "moved" / "deep")
    assert (place / "moved" / "deep" / "f").read_text() == "f"


def test_links(place: Path) -> None:
    (place / "a").write_text("a")
    os.link(place / "a", place / "b")
    assert (place / "a").stat().st_nlink == 2
    (place / "b").write_text("changed")
    assert (place / "a").read_text() == "changed"
    (place / "a").unlink()
    assert (place / "b").stat().st_nlink == 1
    assert (place / "b").read_text() == "changed"
    with refused(errno.EEXIST):
        (place / "c").touch()
        os.link(place / "b", place / "c")
    (place / "d").mkdir()
    with refused(errno.EPERM):
        os.link(place / "d", place / "e")


def test_symbolic_links(place: Path) -> None:
    (place / "a").write_text("a")
    (place / "link").symlink_to("a")
    assert (place / "link").read_text() == "a"
    assert (place / "link").readlink() == Path("a")
    assert stat.S_ISLNK((place / "link").lstat().st_mode)
    (place / "dangling").symlink_to("nowhere")
    with refused(errno.ENOENT):
        (place / "dangling").read_text()
    (place / "dangling").rename(place / "other")
    (place / "other").unlink()
    (place / "loop").symlink_to("loop")
    with refused(errno.ELOOP):
        (place / "loop").read_text()


def test_what_is_unlinked_stays_while_it_is_open(place: Path) -> None:
    with (place / "f").open("w+b") as file:
        file.write(b"one")
        file.flush()
        (place / "f").unlink()
        assert os.fstat(file.fileno()).st_size == 3
        file.write(b"two")
        file.seek(0)
        assert file.read() == b"onetwo"
        (place / "f").write_text("another")
        file.seek(0)
        assert file.read() == b"onetwo"
    assert (place / "f").read_text() == "another"


def test_permissions_and_times(place: Path) -> None:
    (place / "f").touch(mode=0o600)
    for mode in (0o600, 0o644, 0o755, 0o400):
        (place / "f").chmod(mode)
        assert stat.S_IMODE((place / "f").stat().st_mode) == mode
    os.utime(place / "f", ns=(1_000_000_001, 2_000_000_002))
    assert (place / "f").stat().st_mtime_ns == 2_000_000_002
    os.chown(place / "f", os.getuid(), os.getgid())
    before = (place / "f").stat().st_ctime_ns
    (place / "f").chmod(0o600)
    assert (place / "f").stat().st_ctime_ns > before
    was = place.stat().st_mtime_ns
    (place / "new").touch()
    assert place.stat().st_mtime_ns > was


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, " ", "a\nb", "-rf", "*", "\x7f", "..."])
def test_names(place: Path, name: str) -> None:
    (place / name).write_text("text")
    assert [p.name for p in place.iterdir()] == [name]
    assert (place / name).read_text() == "text"
    (place / name).unlink()
    (place / name).mkdir()
    (place / name).rmdir()
    assert list(place.iterdir()) == []


def test_names_that_cannot_be(place: Path) -> None:
    long = place / ("x" * 256)
    calls: tuple[Callable[[], object], ...] = (
        long.touch,
        long.mkdir,
        long.stat,
        lambda: long.symlink_to("a"),
        lambda: (place / "f").rename(long),
        lambda: os.link(place / "f", long),
    )
    (place / "f").touch()
    for call in calls:
        with refused(errno.ENAMETOOLONG):
            call()
    with refused(errno.EILSEQ):
        Path(os.fsdecode(os.fsencode(place) + b"/\xff")).mkdir()


def test_a_folder_that_changes_while_it_is_read(place: Path) -> None:
    names = {f"file-{number:04}" for number in range(1000)}
    for name in names:
        (place / name).touch()
    seen = []
    with os.scandir(place) as entries:
        for index, entry in enumerate(entries):
            seen.append(entry.name)
            if index % 10 == 0:
                (place / f"new-{index}").touch()
                (place / f"file-{999 - index // 10:04}").unlink(missing_ok=True)
    stayed = {name for name in names if (place / name).exists()}
    assert stayed <= set(seen)
    assert len(seen) == len(set(seen))
    for path in place.iterdir():
        path.unlink()
    place.rmdir()
    with refused(errno.ENOENT):
        list(place.iterdir())


def test_opening(place: Path) -> None:
    file = place / "f"
    with refused(errno.ENOENT):
        os.open(file, os.O_RDWR)
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with refused(errno.EEXIST):
        os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    file.write_text("text")
    os.close(os.open(file, os.O_WRONLY | os.O_TRUNC))
    assert file.stat().st_size == 0
    file.write_text("text")
    reader = os.open(file, os.O_RDONLY | os.O_TRUNC)
    assert os.read(reader, 10) == b""
    os.close(reader)
    assert file.read_bytes() == b""
    with refused(errno.ENOTDIR):
        os.open(file / "below", os.O_RDONLY)
    with refused(errno.ENOTDIR):
        os.open(file, os.O_DIRECTORY)
    with refused(errno.EISDIR):
        os.open(place, os.O_WRONLY)
    with refused(errno.EISDIR):
        place.unlink()
    with refused(errno.ENOTDIR):
        file.rmdir()
    appended = os.open(file, os.O_WRONLY | os.O_APPEND)
    os.write(appended, b"one")
    os.lseek(appended, 0, os.SEEK_SET)
    os.write(appended, b"two")
    os.close(appended)
    assert file.read_text() == "onetwo"


def test_locks(place: Path) -> None:
    """The kernel keeps them by itself."""
    with (place / "f").open("w") as one, (place / "f").open("w") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with refused(errno.EAGAIN):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_is_not_supported(place: Path, mount: Mounted) -> None:
    """Each with the errno that mount.cbfs(8) names."""
    (place / "a").touch()
    (place / "b").touch()
    with refused(errno.ENOTSUP):
        os.setxattr(place / "a", "user.own", b"x")
    with refused(errno.EOPNOTSUPP):
        os.open(place, os.O_TMPFILE | os.O_RDWR)
    with refused(errno.EPERM):
        os.chown(place / "a", 12345, -1)
    with refused(errno.ENOSYS):
        os.mkfifo(place / "fifo")
    with (place / "a").open("r+b") as file, refused(errno.EOPNOTSUPP):
        _punch(file.fileno())
    other = "ui_info" if "/tmp/" in str(place.relative_to(mount.path.parent)) else "tmp"
    with refused(errno.EXDEV):
        os.link(place / "a", mount.path / other / "a-link")


def _punch(descriptor: int) -> None:
    """fallocate(2), with a hole."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(descriptor, 3, ctypes.c_long(0), ctypes.c_long(4096)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def test_what_is_removed_has_no_names(place: Path) -> None:
    with (place / "f").open("w") as file:
        os.link(place / "f", place / "g")
        assert os.fstat(file.fileno()).st_nlink == 2
        (place / "f").unlink()
        assert os.fstat(file.fileno()).st_nlink == 1
        (place / "h").touch()
        (place / "h").rename(place / "g")
        assert os.fstat(file.fileno()).st_nlink == 0
    (place / "folder").mkdir()
    folder = os.open(place / "folder", os.O_RDONLY)
    try:
        (place / "folder").rmdir()
        assert os.fstat(folder).st_nlink == 0
    finally:
        os.close(folder)


def test_folders_count_their_folders(place: Path, mount: Mounted) -> None:
    assert place.stat().st_nlink == 2
    (place / "one" / "below").mkdir(parents=True)
    (place / "two").mkdir()
    (place / "file").touch()
    assert place.stat().st_nlink == 4
    (place / "one").rename(place / "two" / "one")
    assert [path.stat().st_nlink for path in (place, place / "two", place / "two/one")] == [3, 3, 3]
    (place / "three").mkdir()
    (place / "three").rename(place / "two/one/below")
    assert (place / "two/one").stat().st_nlink == 3
    for folder in (mount.path, *(path for path in mount.path.iterdir() if path.is_dir())):
        folders = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
        assert folder.stat().st_nlink == 2 + len(folders), folder


def test_listings_begin_with_the_folder_and_what_is_above(place: Path, mount: Mounted) -> None:
    (place / "below").mkdir()
    for folder in (
        place / "below",
        place,
        mount.path,
        mount.path / "outbox",
        mount.path / "search",
    ):
        output = subprocess.run(
            ["ls", "-fai", str(folder)], capture_output=True, text=True, check=True
        ).stdout
        listed = [line.split(maxsplit=1) for line in output.splitlines()]
        assert [name for _inode, name in listed[:2]] == [".", ".."]
        assert listed[0][0] == str(folder.stat().st_ino)
        above = folder if folder == mount.path else folder.parent
        if folder != mount.path:  # what is above a mount is not its own
            assert listed[1][0] == str(above.stat().st_ino)


def test_permissions_at_creation_are_kept(place: Path) -> None:
    before = os.umask(0o027)
    try:
        for mode in (0o666, 0o444, 0o755):
            path = place / f"{mode:o}"
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
            os.write(descriptor, b"written")
            os.close(descriptor)
            assert stat.S_IMODE(path.stat().st_mode) == mode & ~0o027
            assert path.read_text() == "written"
        (place / "folder").mkdir()
        assert stat.S_IMODE((place / "folder").stat().st_mode) == 0o750
        (place / "folder").chmod(0o2770)
        (place / "folder" / "below").mkdir()
        assert stat.S_IMODE((place / "folder" / "below").stat().st_mode) == 0o2750
    finally:
        os.umask(before)


def test_a_symbolic_link_can_have_two_names(place: Path) -> None:
    (place / "link").symlink_to("nowhere")
    os.link(place / "link", place / "again", follow_symlinks=False)
    assert (place / "again").readlink() == Path("nowhere")
    assert (place / "link").lstat().st_nlink == 2
    (place / "link").unlink()
    assert (place / "again").readlink() == Path("nowhere")
    assert (place / "again").lstat().st_nlink == 1
