"""A draft of which something may be missing is no message: what a program was told has failed, what
was cut off by a signal or by the end of the mount. Until it is written anew."""

import errno
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from cbfs.outbox import error_files
from cbfs.storage.store import CannotWrite
from cbfs.tree.nodes import Failure, File, Folder, Node, Text
from cbfs.tree.rules import TreeError
from cbfs_common.limits import BLOB_SIZE_MAX
from tests.support.mounted import Mounted, mounted
from tests.support.world import WAIT, wait_for
from tests.tree.test_tree import Mount, refused, run, until

LARGE = 70_000_000
LIMIT = 1 << 20


async def opened(mount: Mount, folder: Folder, name: str) -> File:
    """As a program opens a file to write, that is there or not."""
    there = folder.entries.get(name)
    file = there if isinstance(there, File) else mount.changes.create(folder, name, 0o600, None)
    mount.tree.contents.opened(file)
    file.writers += 1
    file.handles += 1
    return file


async def failed(mount: Mount, folder: Folder, name: str = "clip.mp4") -> File:
    """What cp leaves of a file that is too large."""
    file = await opened(mount, folder, name)
    await mount.tree.contents.write(file, 0, b"the beginning")
    with refused(errno.EFBIG):
        await mount.tree.contents.write(file, BLOB_SIZE_MAX - 1, b"..")
    await mount.close(file)
    return file


def told(folder: Folder) -> str:
    """What the error files of a folder say."""
    texts = [node.render().decode() for node in folder.entries.values() if isinstance(node, Text)]
    return "".join(text for text in texts if "What to do" in text)


async def is_told(mount: Mount, folder: Folder, file: File) -> None:
    await until(lambda: file.error)
    assert "may not be complete" in told(folder)
    assert "may not be complete" in mount.view.status.render().decode()
    assert not mount.backend.sent


def test_a_draft_is_held_through_everything_until_it_is_written_anew(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        file = await failed(mount, folder)
        await is_told(mount, folder, file)
        await mount.changes.rename(folder, "clip.mp4", folder, "other.mp4", replace=True)
        await until(lambda: "other.mp4.error" in folder.entries)
        await mount.changes.link(file, folder, "third.mp4")
        await mount.changes.rename(folder, "other.mp4", folder, "clip.mp4", replace=True)
        again = await opened(mount, folder, "clip.mp4")  # what does not reach its end
        await tree.contents.write(again, 0, b"the")
        await mount.close(again)
        more = await opened(mount, folder, "clip.mp4")  # as >> does
        await tree.contents.write(more, more.size, b"more")
        await mount.close(more)
        await mount.changes.unlink(folder, "third.mp4")
        await is_told(mount, folder, file)

    async def after(mount: Mount) -> None:
        tree = mount.tree
        folder = tree.outbox.entries["bob"]
        assert isinstance(folder, Folder)
        file = folder.entries["clip.mp4"]
        assert isinstance(file, File)
        assert file.failure is Failure.WRITE
        await is_told(mount, folder, file)
        await opened(mount, folder, "clip.mp4")
        await tree.contents.truncate(file, 0)
        await tree.contents.write(file, 0, b"all of it")
        await mount.close(file)
        await until(lambda: [data for _m, data in mount.backend.sent] == [b"all of it"])
        assert not told(folder)

    run(tmp_path, body)
    run(tmp_path, after)


def test_who_removes_all_in_a_folder_finds_the_error_files_that_were_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``rm -r`` has listed the folder, and complains of what is not there any more. Who removes
    the drafts alone can remove the folder at once, and what stays there has no error file."""
    # each removal waits for the disk, which may take longer than a second
    monkeypatch.setattr(error_files, "LINGER", 3_600.0)

    async def body(mount: Mount) -> None:
        tree = mount.tree
        for names in (["a.wav", "a.wav.error", "b.wav", "b.wav.error"], ["a.wav", "b.wav"]):
            folder = await mount.changes.mkdir(tree.outbox, "bob")
            for name in "a.wav", "b.wav":
                await is_told(mount, folder, await failed(mount, folder, name))
            while len(folder.entries) < 4:
                await trio.sleep(0.05)
            for name in names:
                await mount.changes.unlink(folder, name)
                await trio.sleep(0.05)  # it is looked at
            await mount.changes.rmdir(tree.outbox, "bob")
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        await is_told(mount, folder, await failed(mount, folder, "a.wav"))
        with refused(errno.ENOTEMPTY):
            await mount.changes.rmdir(tree.outbox, "bob")
        monkeypatch.setattr(error_files, "LINGER", 0.1)
        await mount.changes.unlink(folder, "a.wav")
        await until(lambda: not folder.entries)

    run(tmp_path, body)


def test_written_anew_from_its_start_is_whole(tmp_path: Path) -> None:
    """By who opens it again, not by who goes on after the failure."""

    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        file = await opened(mount, folder, "a.wav")
        with refused(errno.EFBIG):
            await tree.contents.write(file, BLOB_SIZE_MAX, b"sound")
        await tree.contents.write(file, 0, b"header")
        await mount.close(file)
        await is_told(mount, folder, file)
        await opened(mount, folder, "a.wav")
        await tree.contents.write(file, 0, b"hea")
        await tree.contents.write(file, 3, b"der, and sound")
        await mount.close(file)
        await until(lambda: [data for _m, data in mount.backend.sent] == [b"header, and sound"])

    run(tmp_path, body)


async def _truncate(mount: Mount, file: File) -> None:
    with refused(errno.EFBIG):
        await mount.tree.contents.truncate(file, BLOB_SIZE_MAX + 1)


async def _full(mount: Mount, file: File) -> None:
    with refused(errno.ENOSPC), mount.tree.contents.failing(file):
        raise TreeError(errno.ENOSPC)


async def _sick(mount: Mount, file: File) -> None:
    with pytest.raises(CannotWrite), mount.tree.contents.failing(file):
        raise CannotWrite("the store cannot be written")


@pytest.mark.parametrize("fails", [_truncate, _full, _sick])
@pytest.mark.parametrize("place", ["outbox", "tmp"])
def test_each_failure_counts_wherever_it_happens(
    tmp_path: Path, fails: Callable[..., object], place: str
) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        where = folder if place == "outbox" else tree.tmp
        file = await opened(mount, where, "f")
        await tree.contents.write(file, 0, b"some")
        await fails(mount, file)  # type: ignore[misc]
        await mount.close(file)
        if where is not folder:
            await mount.changes.rename(where, "f", folder, "f", replace=False)
        await is_told(mount, folder, file)

    run(tmp_path, body)


def test_nothing_but_a_failure_is_told_at_once(tmp_path: Path) -> None:
    """Not after a minute, as of an empty file that nobody has failed to write."""

    async def body(mount: Mount) -> None:
        folder = await mount.changes.mkdir(mount.tree.outbox, "bob")
        file = await opened(mount, folder, "f")
        await _full(mount, file)
        await mount.close(file)
        await is_told(mount, folder, file)

    run(tmp_path, body)


def test_a_folder_with_such_a_file_waits_for_it(tmp_path: Path) -> None:
    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        photos = await mount.changes.mkdir(tree.tmp, "photos")
        await mount.save(photos, "one.jpg", b"one")
        file = await failed(mount, photos, "two.jpg")
        await mount.changes.rename(tree.tmp, "photos", folder, "photos", replace=False)
        await until(lambda: photos.folder_draft and photos.folder_draft.error)
        assert "two.jpg in it: writing it failed" in told(folder)
        await opened(mount, photos, "two.jpg")
        await tree.contents.truncate(file, 0)
        await tree.contents.write(file, 0, b"two")
        await mount.close(file)
        await until(lambda: mount.backend.sent)

    run(tmp_path, body)


def test_what_is_being_written_when_the_mount_ends_is_cut_off(tmp_path: Path) -> None:
    """Whether it ends in order or not; what was closed before is whole."""

    async def body(mount: Mount) -> None:
        tree = mount.tree
        folder = await mount.changes.mkdir(tree.outbox, "bob")
        await mount.save(folder, "whole", b"whole")
        one = await opened(mount, folder, "one")
        await tree.contents.write(one, 0, b"half")
        await tree.contents.save_all([one])
        two = await opened(mount, folder, "two")
        await tree.contents.write(two, 0, b"half")
        await tree.contents.save(two, whole=False)  # fsync

    async def after(mount: Mount) -> None:
        folder = mount.tree.outbox.entries["bob"]
        assert isinstance(folder, Folder)
        await until(lambda: [data for _m, data in mount.backend.sent] == [b"whole"])
        for name in ("one", "two"):
            node: Node = (folder.alias or folder).entries[name]
            assert isinstance(node, File)
            await until(lambda n=node: n.error)  # type: ignore[misc]
            assert "the mount ended" in node.error

    run(tmp_path, body, grace=1e6)
    run(tmp_path, after)


# through FUSE


COPIES = {
    "cp": "cp {large} {folder}/clip.mp4",
    "cp --preserve": "cp -a {large} {folder}/clip.mp4",
    "cp, sparse": "cp --sparse=always {large} {folder}/clip.mp4",
    "dd": "dd if={large} of={folder}/clip.mp4 bs=64k",
    "dd, anew": "dd if={large} of={folder}/clip.mp4 bs=64k conv=fsync",
    "cat": "cat {large} >{folder}/clip.mp4",
    "rsync, in place": "rsync --inplace {large} {folder}/clip.mp4",
    "gio": "gio copy {large} {folder}/clip.mp4",
    "install": "install {large} {folder}/clip.mp4",
    "shutil": 'python3 -c \'import shutil; shutil.copyfile("{large}", "{folder}/clip.mp4")\'',
    "truncate": "truncate -s 2M {folder}/clip.mp4",
    "fallocate": 'python3 -c \'import os; os.posix_fallocate(os.open("{folder}/clip.mp4",'
    " os.O_RDWR | os.O_CREAT), 0, 2 << 20)'",
    "mv": "cp {large} {tmp}/clip.mp4 || mv {tmp}/clip.mp4 {folder}/; false",
    "a folder": "cp -r {photos} {tmp}/ || mv {tmp}/photos {folder}/; false",
}


@pytest.mark.mount
def test_no_program_that_fails_to_copy_sends_a_part(tmp_path: Path) -> None:
    large = tmp_path / "photos" / "large"
    large.parent.mkdir()
    large.write_bytes(os.urandom(3 * LIMIT))
    (large.parent / "small").write_text("small")
    with mounted("grace=0.2") as mount:
        mount.run("echo 'file_size_max = \"1 MiB\"' > config.toml")
        for number, (program, command) in enumerate(COPIES.items()):
            folder, tmp = mount.path / "outbox" / f"bob {number}", mount.path / "tmp"
            folder.mkdir()
            done = subprocess.run(
                [
                    "sh",
                    "-c",
                    command.format(large=large, photos=large.parent, folder=folder, tmp=tmp),
                ],
                capture_output=True,
                timeout=WAIT,
                check=False,
            )
            assert done.returncode, program
            if list(folder.iterdir()):  # who clears up what failed has nothing to send
                wait_for(lambda f=folder: list(f.glob("*.error")) or None, program)  # type: ignore[misc]
            mount.run("rm -rf tmp/*")
        assert mount.messages() == []
        conversations = mount.path / "conversations"
        assert not list(conversations.iterdir())
        mount.unmount()
        mount.mount()
        mount.run("mkdir outbox/carol; echo sentinel > outbox/carol/sentinel")
        mount.wait_messages("sentinel\n")


@pytest.mark.mount
def test_a_file_of_70_million_bytes_is_refused_and_not_sent(tmp_path: Path) -> None:
    large = tmp_path / "clip.mp4"
    with large.open("wb") as file:
        file.truncate(LARGE)
        file.seek(0)
        file.write(b"x" * LARGE)
    with mounted("grace=0.2") as mount:
        mount.run("echo 'blobs = false' > config.toml")
        mount.run("mkdir outbox/bob")
        done = subprocess.run(
            ["cp", large, mount.path / "outbox" / "bob"], capture_output=True, check=False
        )
        assert done.returncode == 1
        error = mount.path / "outbox" / "bob" / "clip.mp4.error"
        wait_for(lambda: error.exists() or None, "the error file")
        assert "writing it failed" in error.read_text()
        assert mount.messages() == []


def _killed(mount: Mounted, script: str, number: signal.Signals) -> None:
    """Write in the outbox, and be ended by a signal in the middle."""
    with subprocess.Popen(
        ["sh", "-c", f"exec {script}"], cwd=mount.path, stdin=subprocess.PIPE
    ) as p:
        if p.stdin is None:
            raise AssertionError("no stdin")
        p.stdin.write(b"half of it\n")
        p.stdin.flush()
        path = mount.path / "outbox" / "bob" / "f"
        wait_for(lambda: (path.exists() and path.stat().st_size) or None, "the first half")
        p.send_signal(number)
        p.wait(WAIT)


@pytest.mark.mount
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_what_a_signal_ended_is_not_sent(number: signal.Signals) -> None:
    with mounted("grace=0.2") as mount:
        mount.run("mkdir outbox/bob")
        _killed(mount, "cat >outbox/bob/f", number)
        error = mount.path / "outbox" / "bob" / "f.error"
        wait_for(lambda: error.exists() or None, "the error file")
        assert "ended by a signal" in error.read_text()
        mount.run("echo all of it > outbox/bob/f")
        mount.wait_messages("all of it\n")
        # a program that ends by itself has finished, whatever it says
        mount.run("sh -c 'echo done; exit 1' > outbox/bob/g || true")
        mount.wait_messages("all of it\n", "done\n")


@pytest.mark.mount
def test_what_a_child_leaves_is_whole_when_its_shell_goes_on() -> None:
    with mounted("grace=0.2") as mount:
        mount.run("mkdir outbox/bob")
        subprocess.run(
            ["bash", "-c", "{ echo one; (kill -9 $BASHPID); echo two; } >outbox/bob/f"],
            cwd=mount.path,
            check=True,
            timeout=WAIT,
            stderr=subprocess.DEVNULL,
        )
        mount.wait_messages("one\ntwo\n")


@pytest.mark.mount
def test_what_a_child_leaves_for_which_its_parent_has_opened_the_file_is_sent() -> None:
    """Known not to work, as the manual says: of who wrote nothing is told, only of who opened."""
    with mounted("grace=0.2") as mount:
        mount.run("mkdir outbox/bob")
        _killed(mount, "timeout 60 cat >outbox/bob/f", signal.SIGTERM)  # which it hands on
        mount.wait_messages("half of it\n")


@pytest.mark.mount
def test_what_was_written_by_memory_counts() -> None:
    with mounted("grace=0.2") as mount:
        mount.run("mkdir outbox/bob")
        subprocess.run(
            [
                "python3",
                "-c",
                "import mmap, os, signal\n"
                "f = open('outbox/bob/f', 'w+b'); f.truncate(100_000)\n"
                "m = mmap.mmap(f.fileno(), 0); m[:5] = b'hello'\n"
                "os.kill(os.getpid(), signal.SIGKILL)\n",
            ],
            cwd=mount.path,
            check=False,
            timeout=WAIT,
        )
        error = mount.path / "outbox" / "bob" / "f.error"
        wait_for(lambda: error.exists() or None, "the error file")
        assert mount.messages() == []
