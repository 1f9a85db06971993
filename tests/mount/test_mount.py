"""A real FUSE mount, driven by real programs. See ``tests.support.mounted``."""

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cbfs_common.limits import BLOB_SIZE_MAX
from tests.support.mounted import Watch, mounted
from tests.support.world import WAIT, program, run, wait_for

pytestmark = pytest.mark.mount

UNHURRIED = "grace=5"
"""Where a program comes to a file a second time, which on a busy machine takes it a while."""


@contextmanager
def refused(*numbers: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno in numbers, caught.value


def test_programs_that_write(tmp_path: Path) -> None:
    (tmp_path / "copied").write_text("copied\n")
    (tmp_path / "moved").write_text("moved\n")
    with mounted(UNHURRIED) as mount:
        mount.run("mkdir outbox/bob; echo redirected > outbox/bob/a")
        mount.wait_messages("redirected\n")
        mount.run(
            f"""
            cp {tmp_path}/copied outbox/bob/b
            mv {tmp_path}/moved outbox/bob/c
            echo prepared > tmp/d; mv tmp/d outbox/bob/
            touch outbox/bob/empty
            printf in > outbox/bob/e; sed -i s/in/sed/ outbox/bob/e
            """
        )
        mount.wait_messages("redirected\n", "copied\n", "moved\n", "prepared\n", "sed")


def test_appending_before_the_grace_is_over_is_one_message() -> None:
    with mounted(UNHURRIED) as mount:
        mount.run("mkdir outbox/bob; echo one > outbox/bob/a; echo two >> outbox/bob/a")
        mount.wait_messages("one\ntwo\n")


def test_programs_that_read(tmp_path: Path) -> None:
    with mounted() as mount:
        for number in range(20):
            mount.arrive("bob", f"text {number}")
        mount.wait_messages(*(f"text {number}\n" for number in range(20)), sender="bob")
        assert "drwx------" in mount.run("ls -l")
        assert len(mount.run("ls -l conversations/*").splitlines()) == 23
        assert len(mount.run("find conversations -type f").splitlines()) == 22
        assert len(mount.run("grep -r text conversations").splitlines()) == 40
        mount.run(f"cp -a conversations {tmp_path}/copy; diff -r conversations {tmp_path}/copy")
        assert "connected to nothing" in mount.run("cat status")
        mount.run("cat README profile.toml contacts/bob/*; du -s .; df .; tar cf /dev/null .")
        mount.run("rm conversations/*/*Z-bob*")
        assert mount.messages("bob") == []


def test_vim_sends_when_it_is_left_and_once() -> None:
    with mounted() as mount:
        mount.run("mkdir outbox/bob")
        draft = mount.path / "outbox" / "bob" / "letter.txt"
        vim = subprocess.Popen(
            ["vim", "-es", "-u", "NONE", "-c", "set backup swapfile", draft], stdin=subprocess.PIPE
        )
        if vim.stdin is None:
            raise AssertionError("no stdin")
        vim.stdin.write(b"a\nfirst\n.\nw\na\nsecond\n.\nw\n")
        vim.stdin.flush()
        wait_for(lambda: draft.exists() and "second" in draft.read_text(), "vim to have saved")
        wait_for(lambda: "letter.txt: " in mount.run("cat status") or None, "it to be held")
        assert mount.messages() == []
        vim.stdin.write(b"q!\n")
        vim.stdin.close()
        vim.wait(WAIT)
        mount.wait_messages("first\nsecond\n")
        # its backup is told of when it has lain there for a minute
        wait_for(lambda: "letter.txt: " not in mount.run("cat status"), "it to be told no more")


def test_any_folder_name_with_metadata() -> None:
    with mounted() as mount:
        mount.run(
            """
            mkdir tmp/x
            echo 'participants = ["bob", "carol"]' > tmp/x/metadata.toml
            echo hello > tmp/x/hi
            mv tmp/x 'outbox/any name'
            """
        )
        mount.wait_messages("hello\n")
        (folder,) = (mount.path / "conversations").iterdir()
        assert folder.name.endswith("-alice-bob-carol")
        link = mount.path / "outbox" / "any name"
        wait_for(link.is_symlink, "the user's name to become a link")
        assert link.resolve().name == folder.name


def test_errors_are_told_beside_the_file() -> None:
    with mounted() as mount:
        mount.run("mkdir outbox/nobody; echo hello > outbox/nobody/hi")
        box = mount.path / "outbox"
        wait_for((box / "nobody.error").exists, "the folder's error file")
        wait_for((box / "nobody" / "hi.error").exists, "the file's error file")
        assert "nobody" in (box / "nobody" / "hi.error").read_text()
        assert "nobody" in os.getxattr(box / "nobody" / "hi", "user.cbfs.error").decode()
        mount.run("mv outbox/nobody outbox/bob")
        mount.wait_messages("hello\n")
        wait_for(lambda: not list(box.glob("**/*.error")), "the error files to go")


def test_a_typo_is_mended_by_metadata_too() -> None:
    with mounted() as mount:
        mount.run("mkdir outbox/nobody; echo hello > outbox/nobody/hi")
        box = mount.path / "outbox"
        wait_for((box / "nobody" / "hi.error").exists, "the file's error file")
        (box / "nobody" / "metadata.toml").write_text('participants = ["Bob')
        told = box / "nobody.error"
        wait_for(lambda: "metadata.toml is wrong" in told.read_text() or None, "what is wrong")
        (box / "nobody" / "metadata.toml").write_text('participants = ["bob"]')
        mount.wait_messages("hello\n")
        wait_for(lambda: not list(box.glob("**/*.error")), "the error files to go")


def test_errno() -> None:
    with mounted() as mount:
        mount.arrive("bob", "text")
        mount.wait_messages("text\n", sender="bob")
        (message,) = (mount.path / "conversations").glob("*/*Z-bob*")
        top = mount.path
        for path in (top / "README", top / "new", message, message.with_name("new")):
            with refused(errno.EACCES, errno.EROFS):
                path.write_text("x")
        with refused(errno.EACCES):
            (top / "new").mkdir()
        with refused(errno.EACCES):
            (top / "outbox").rmdir()
        with refused(errno.EFBIG):
            os.truncate(_empty(top / "tmp" / "f"), BLOB_SIZE_MAX + 1)
        with (top / "tmp" / "f").open("r+b", buffering=0) as file, refused(errno.EFBIG):
            os.pwrite(file.fileno(), b"x", BLOB_SIZE_MAX)
        with refused(errno.ENOTSUP):
            os.setxattr(top / "tmp" / "f", "user.other", b"x")
        with refused(errno.EPERM):
            os.chown(top / "tmp" / "f", 12345, -1)
        with refused(errno.ENAMETOOLONG):
            (top / "tmp" / ("x" * 256)).touch()
        (top / "tmp" / ("x" * 255)).touch()
        with refused(errno.ENOTEMPTY):
            (top / "tmp").joinpath("d", "e").mkdir(parents=True)
            (top / "tmp" / "d").rmdir()


def _empty(path: Path) -> Path:
    path.touch()
    return path


def test_extended_attributes_of_a_message() -> None:
    with mounted() as mount:
        mount.arrive("bob", "text")
        mount.wait_messages("text\n", sender="bob")
        (message,) = (mount.path / "conversations").glob("*/*Z-bob*")
        names = set(os.listxattr(message))
        assert {f"user.cbfs.{name}" for name in ("sender", "date", "received", "id")} <= names
        assert os.getxattr(message, "user.cbfs.sender") == b"bob"
        assert os.getxattr(message, "user.cbfs.state") == b"received"


def test_what_a_close_has_returned_for_survives_kill_9() -> None:
    with mounted("grace=3600") as mount:
        mount.run("mkdir outbox/bob; mkdir ui_info/client; echo scratch > tmp/f")
        for number in range(10):
            (mount.path / "outbox" / "bob" / f"f{number}").write_text(f"text {number}\n")
        (mount.path / "ui_info" / "client" / "state").write_bytes(bytes(300_000))
        assert mount.signal(signal.SIGKILL) == -signal.SIGKILL
        mount.options = "grace=0.05"
        mount.mount()  # over the dead one
        mount.wait_messages(*(f"text {number}\n" for number in range(10)))
        assert (mount.path / "ui_info" / "client" / "state").read_bytes() == bytes(300_000)
        assert list((mount.path / "tmp").iterdir()) == []


def test_sent_once_through_a_kill() -> None:
    with mounted() as mount:
        mount.run("mkdir outbox/bob; echo first > outbox/bob/f")
        mount.wait_messages("first\n")
        for number in range(5):
            (mount.path / "outbox" / "bob" / f"f{number}").write_text(f"text {number}\n")
        mount.signal(signal.SIGKILL)
        mount.mount()
        mount.wait_messages("first\n", *(f"text {number}\n" for number in range(5)))
        mount.unmount()
        mount.mount()
        mount.wait_messages("first\n", *(f"text {number}\n" for number in range(5)))


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "fusermount3"])
def test_ends_cleanly(how: str) -> None:
    with mounted("grace=3600") as mount:
        mount.run("mkdir outbox/bob; echo kept > outbox/bob/f")
        code = mount.unmount() if how == "fusermount3" else mount.signal(signal.Signals[how])
        assert code == 0, mount.log()
        assert not mount.path.is_mount()
        mount.mount()
        assert mount.run("cat outbox/bob/f") == "kept\n"
        assert "Traceback" not in mount.log()


def test_a_watcher_sees_every_arrival() -> None:
    with mounted() as mount:
        mount.arrive("bob", "0")
        mount.wait_messages("0\n", sender="bob")
        (folder,) = (mount.path / "conversations").iterdir()
        watch = Watch(folder)
        for number in range(1, 101):
            mount.arrive("bob", str(number))
        watch.wait("Z-bob", 100)
        watch.close()
        mount.wait_messages(*(f"{number}\n" for number in range(101)), sender="bob")


def test_a_watcher_sees_a_new_conversation() -> None:
    with mounted() as mount:
        watch = Watch(mount.path / "conversations")
        mount.arrive("bob", "hello")
        watch.wait("-bob-alice")
        watch.close()


def mount_fails(*arguments: str | Path) -> str:
    done = run("mount.cbfs", *arguments, "--no-tor")
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if "without Tor" not in line]
    assert len(lines) == 2, lines
    assert lines[0].startswith("cbfs: error: ")
    assert lines[1].startswith("cbfs: hint: ")
    return lines[0]


def test_where_nothing_can_be_mounted(tmp_path: Path) -> None:
    account = tmp_path / "account"
    account.mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "here").mkdir()
    mount_fails(account, tmp_path / "missing")
    mount_fails(account, tmp_path / "file")
    assert "no account" in mount_fails(account, tmp_path / "here")
    with mounted() as mount:
        assert "mounted" in mount_fails(account, mount.path)
    assert run("mount.cbfs").returncode == 2
    assert run("mount.cbfs", account, tmp_path / "here", "-o", "nonsense").returncode == 2


def test_without_dev_fuse(tmp_path: Path) -> None:
    """In a mount namespace of its own, where /dev is empty but for what Python needs."""
    script = (
        "mount --make-rprivate / && mkdir $0/dev && mount -t tmpfs none $0/dev"
        " && cp -a /dev/null /dev/urandom $0/dev && mount --move $0/dev /dev && shift 0; "
        'exec "$@"'
    )
    command = program("mount.cbfs", tmp_path, tmp_path, "--no-tor")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(tmp_path), *command],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 1
    assert "/dev/fuse" in done.stderr
    assert "cbfs: hint: " in done.stderr
