"""Times and inode numbers, by which programs tell whether anything has changed: they survive a
remount, and never go back."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from cbfs.messages.listings import entry_of
from cbfs.tree.nodes import Folder, MessageFile, Node, SymbolicLink
from cbfs.tree.rules import Area
from cbfs.tree.times import Times, settle_times
from tests.support.mounted import Mounted, mounted
from tests.support.stores import open_store
from tests.support.world import WAIT, wait_for
from tests.tree.test_index import message


@pytest.fixture(scope="module")
def mount() -> Iterator[Mounted]:
    with mounted("grace=3600") as mount:
        mount.arrive("bob", "hello")
        mount.arrive("bob", "again")
        wait_for(lambda: len(mount.messages("bob")) == 2, "two messages")
        yield mount


def run(*command: str) -> str:
    """What a program prints; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def remount(mount: Mounted) -> None:
    mount.unmount()
    mount.mount()


STAYING = ("contacts", "conversations", "ui_info", "outbox", "README", "profile.toml")
"""What is in two mounts the same."""


def known(mount: Mounted) -> dict[str, tuple[int, int, int]]:
    """Inode number, mtime and ctime of all that stays, by its path."""
    found = {}
    for name in STAYING:
        for path in (mount.path / name, *(mount.path / name).rglob("*")):
            status = path.lstat()
            times = status.st_mtime_ns, status.st_ctime_ns
            found[str(path.relative_to(mount.path))] = status.st_ino, *times
    return found


@pytest.mark.mount
def test_git_sees_every_file_after_a_remount(mount: Mounted) -> None:
    """Its untracked cache believes that a folder whose mtime is as before has the files that it had
    then."""
    repository = mount.path / "ui_info" / "repository"
    below = repository / "below"
    below.mkdir(parents=True)
    git = ("git", "-C", str(repository), "-c", "core.untrackedCache=true")
    run(*git, "init", "-q")
    run(*git, "update-index", "--force-untracked-cache")
    os.utime(below, (10**9, 10**9))  # git trusts no time that is as new as what it wrote itself
    remount(mount)
    for _ in range(2):
        assert "below" not in run(*git, "status", "--porcelain")
    (below / "new").write_text("new")
    remount(mount)
    assert "?? below" in run(*git, "status", "--porcelain")
    (below / "new").unlink()  # which git itself misses on any disk, one time in three
    after = below.stat().st_mtime_ns
    remount(mount)
    assert below.stat().st_mtime_ns == after


@pytest.mark.mount
def test_every_name_is_there_after_a_remount(mount: Mounted) -> None:
    """Also where one file has names in folders of different depths."""
    top, seeded = mount.path / "ui_info" / "names", Random(1)
    folders = [top]
    top.mkdir()
    for number in range(12):
        folders.append(seeded.choice(folders) / f"folder-{number}")
        folders[-1].mkdir()
    for number in range(20):
        first, *others = (seeded.choice(folders) / f"{number}-{name}" for name in range(4))
        if number % 4:
            first.write_text(f"file {number}")
        else:
            first.symlink_to(f"nowhere-{number}")
        for other in others:
            os.link(first, other, follow_symlinks=False)

    def named() -> dict[Path, tuple[int, int]]:
        return {p: (p.lstat().st_ino, p.lstat().st_nlink) for p in top.rglob("*")}

    before = named()
    assert len(before) == 12 + 4 * 20
    remount(mount)
    assert named() == before


@pytest.mark.mount
def test_copies_after_a_remount_copy_nothing(mount: Mounted, tmp_path: Path) -> None:
    folder = mount.path / "ui_info" / "folder"
    folder.mkdir()
    (folder / "file").write_text("file")
    (folder / "link").symlink_to("file")
    (folder / "file").rename(folder / "other")
    (folder / "other").chmod(0o640)
    first = min((mount.path / "conversations").glob("*/*Z-bob*"))
    first.unlink()
    remount(mount)  # one contact's folder was made in this mount, and what it has since is kept
    before = known(mount)
    names = [str(mount.path / name) for name in STAYING]
    run("rsync", "-a", *names, str(tmp_path / "copy"))
    tar = ("tar", "--listed-incremental", str(tmp_path / "state"), "--no-check-device")
    run(*tar, "-cf", str(tmp_path / "0.tar"), "-C", str(mount.path), *STAYING)
    remount(mount)
    assert known(mount) == before
    assert run("rsync", "-ani", *names, str(tmp_path / "copy")) == ""
    run(*tar, "-cf", str(tmp_path / "1.tar"), "-C", str(mount.path), *STAYING)
    listed = run("tar", "-tf", str(tmp_path / "1.tar")).splitlines()
    assert [name for name in listed if not name.endswith("/")] == []


@pytest.mark.mount
def test_a_folder_has_its_time_and_its_names_after_a_crash(mount: Mounted) -> None:
    """Who has seen the one has seen the other."""
    folder = mount.path / "ui_info" / "crash"
    folder.mkdir()
    states = []
    for name in ("one", "two"):
        (folder / name).write_text(name)
        states.append((sorted(path.name for path in folder.iterdir()), folder.stat().st_mtime_ns))
    mount.signal(signal.SIGKILL)
    subprocess.run(["fusermount3", "-uz", str(mount.path)], check=True)
    mount.mount()
    names = sorted(path.name for path in folder.iterdir())
    assert (names, folder.stat().st_mtime_ns) == states[-1]


@pytest.mark.mount
def test_views_have_the_time_of_what_has_changed_in_them(mount: Mounted) -> None:
    folders = [mount.path / name for name in ("unread", "by-date")]
    (conversation,) = (mount.path / "conversations").glob("*bob-alice")
    folders += [conversation, conversation / "transcript"]
    before = [folder.stat().st_mtime_ns for folder in folders]
    count = len(mount.messages("bob"))
    mount.arrive("bob", "once more")
    wait_for(lambda: len(mount.messages("bob")) == count + 1, "a message")
    wait_for(
        lambda: all(
            folder.stat().st_mtime_ns > was for folder, was in zip(folders, before, strict=True)
        ),
        "the times",
    )


def test_the_ctime_of_a_message_is_when_it_came() -> None:
    """So that ``find -cnewer`` finds what has come since."""
    late = replace(message(1, bytes(16), "bob", 1), date=1_000, received=9_000)
    node = MessageFile(late.conversation, entry_of(late))
    assert (node.modified_ns, node.status_ns) == (1_000 * 10**6, 9_000 * 10**6)


def test_times_go_on_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    folder = Folder(2, Area.KEPT, 0)
    link = SymbolicLink(3, "", now, recorded=True)
    seen: list[tuple[int, int]] = []
    for step, back in enumerate((0, 0, 3_600 * 10**9, 10**18, 0)):
        monkeypatch.setattr(time, "time_ns", lambda back=back: now - back)
        folder.add(f"{step}", link)
        folder.remove(f"{step}")
        seen.append((folder.mtime_ns, link.status_ns))
    for which in (0, 1):
        times = [each[which] for each in seen]
        assert times == sorted(set(times))
    node: Node = folder
    assert node.status_ns == node.modified_ns


def test_what_has_changed_between_mounts_is_newer_whatever_the_clock_says(tmp_path: Path) -> None:
    store, kept = open_store(tmp_path), time.time_ns() + 3_600 * 10**9
    store.write(lambda writer: Times(kept, kept, b"of another content").put(writer, 2))
    folder = Folder(2, Area.KEPT, 0)
    with store.read() as reader:
        settle_times(reader, iter([folder]))
    assert folder.mtime_ns == folder.changed_ns > kept
    store.close()
