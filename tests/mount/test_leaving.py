"""Conversations are removed, as programs remove folders, and come back with the next message."""

import errno
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounted import Mounted, Watch, mounted
from tests.support.world import WAIT, wait_for


@pytest.fixture(scope="module")
def mount() -> Iterator[Mounted]:
    with mounted() as made:
        yield made


def folder_of(mount: Mounted, sender: str) -> str:
    """The conversation that a message of somebody begins, or comes into."""
    mount.arrive(sender, f"from {sender}")
    conversations = mount.path / "conversations"
    found = wait_for(
        lambda: [p.parent.name for p in conversations.glob(f"*-{sender}-*/*Z-{sender}*")],
        f"the conversation with {sender}",
    )
    return found[0]


def both(mount: Mounted, name: str) -> list[bool]:
    return [(mount.path / above / name).exists() for above in ("conversations", "outbox")]


def wait_gone(mount: Mounted, name: str) -> None:
    wait_for(lambda: not any(both(mount, name)), f"{name} to go")


REMOVALS = (
    'rm -r "conversations/{}"',
    'rm -rf "conversations/{}"',
    'find "conversations/{}" -delete',
    'rmdir "outbox/{}"',
    'rm -r "outbox/{}"',
    'rm "conversations/{0}"/*Z-*; rmdir "conversations/{0}"',
)


@pytest.mark.parametrize("number", range(len(REMOVALS)))
def test_a_folder_is_removed_and_comes_back(mount: Mounted, number: int) -> None:
    sender = f"sender{number}"
    name = folder_of(mount, sender)
    mount.run(REMOVALS[number].format(name))
    wait_gone(mount, name)
    assert folder_of(mount, sender) == name
    wait_for(lambda: all(both(mount, name)), "both folders")
    there = sorted(path.name for path in (mount.path / "conversations" / name).iterdir())
    assert there[-2:] == ["metadata.toml", "transcript"]
    # what was removed under conversations/ is gone; what was only left is there again
    assert len(there) == (4 if "outbox" in REMOVALS[number] else 3)
    assert "from" in (mount.path / "conversations" / name / "transcript").read_text()
    mount.run(f'echo again > "outbox/{name}/f"')
    wait_for(lambda: mount.messages("alice"), "the answer")
    mount.run(f'rm "conversations/{name}"/*-alice*')


def test_python_removes_it_too(mount: Mounted) -> None:
    name = folder_of(mount, "shutil")
    shutil.rmtree(mount.path / "conversations" / name)
    wait_gone(mount, name)


def test_what_is_fixed_stays_while_there_are_messages(mount: Mounted) -> None:
    name = folder_of(mount, "fixed")
    folder = mount.path / "conversations" / name
    for each in ("metadata.toml", "transcript"):
        with pytest.raises(PermissionError):
            (folder / each).unlink()
    with pytest.raises(OSError) as raised:
        folder.rmdir()
    assert raised.value.errno == errno.ENOTEMPTY
    (message,) = folder.glob("*Z-fixed*")
    message.unlink()
    (folder / "transcript").unlink()
    assert [path.name for path in folder.iterdir()] == ["metadata.toml"]
    assert not (folder / "transcript").exists()
    assert folder_of(mount, "fixed") == name  # the next message brings it
    assert len(list(folder.iterdir())) == 3


def test_a_draft_stands_in_the_way_and_stays(mount: Mounted) -> None:
    """Whichever folder is removed; held ones too."""
    name = folder_of(mount, "drafts")
    draft = mount.path / "outbox" / name / "unfinished.part"
    draft.write_text("mine")
    for script in ('rmdir "outbox/{}"', 'rm -r "conversations/{}"'):
        done = subprocess.run(
            ["sh", "-c", script.format(name)], cwd=mount.path, capture_output=True, text=True,
            timeout=WAIT, check=False,
        )  # fmt: skip
        assert "not empty" in done.stderr
        assert draft.read_text() == "mine"
        assert all(both(mount, name))
    draft.unlink()
    mount.run(f'rmdir "outbox/{name}"')
    wait_gone(mount, name)


def test_what_is_unread_in_it_goes_too_when_somebody_has_looked(mount: Mounted) -> None:
    name = folder_of(mount, "seldom")
    unread = mount.path / "unread"
    assert [each for each in unread.iterdir() if "-seldom" in each.name]
    mount.run(f'rmdir "outbox/{name}"')
    wait_gone(mount, name)
    wait_for(lambda: not any("-seldom" in each.name for each in unread.iterdir()), "its link")


def test_watchers_see_the_other_folder_go(mount: Mounted) -> None:
    name = folder_of(mount, "watched")
    watch = Watch(mount.path / "outbox", Watch.GOES)
    mount.run(f'rm -r "conversations/{name}"')
    watch.wait(name)
    watch.close()


def test_the_user_s_name_for_it_goes_and_a_new_folder_resumes_it(mount: Mounted) -> None:
    mount.run("mkdir outbox/zoe; echo one > outbox/zoe/f")
    link = mount.path / "outbox" / "zoe"
    wait_for(link.is_symlink, "the link")
    name = str(link.readlink())
    wait_for(lambda: not (mount.path / "outbox" / name / "f").exists(), "f to leave")
    mount.run(f'rm -r "conversations/{name}"')
    wait_gone(mount, name)
    wait_for(lambda: not link.is_symlink(), "the link to go")


def test_it_stays_left_over_a_remount_and_a_kill(tmp_path: Path) -> None:
    with mounted() as mount:
        name, other = folder_of(mount, "carol"), folder_of(mount, "dave")
        mount.run(f'rm -r "conversations/{name}"; rmdir "outbox/{other}"')
        wait_gone(mount, name)
        wait_gone(mount, other)
        mount.unmount()
        mount.mount()
        assert not any(both(mount, name) + both(mount, other))
        mount.send(signal.SIGKILL)
        mount.wait()
        subprocess.run(["fusermount3", "-uz", mount.path], check=True)
        mount.mount()
        assert not any(both(mount, name) + both(mount, other))
        assert folder_of(mount, "carol") == name
        assert folder_of(mount, "dave") == other


def test_trash_changes_nothing(mount: Mounted) -> None:
    """There is none on a mount; file managers ask then whether to delete."""
    if shutil.which("gio") is None:
        pytest.skip("there is no gio here")
    name = folder_of(mount, "trash")
    done = subprocess.run(
        ["gio", "trash", mount.path / "conversations" / name],
        capture_output=True, timeout=WAIT, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert all(both(mount, name))
