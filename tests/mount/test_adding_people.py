"""People are added to a conversation by its metadata.toml, in a real mount, and leave it by
rmdir."""

import errno
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounted import Mounted, Watch, mounted
from tests.support.world import User, World, wait_for, world


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def folders(user: User, above: str = "outbox") -> list[str]:
    """Those of conversations, without their dates."""
    found = (user.mountpoint / above).iterdir()
    return sorted(p.name[11:] for p in found if p.is_dir() and not p.is_symlink())


def wait_folders(user: User, *names: str, above: str = "outbox") -> None:
    wait_for(lambda: folders(user, above) == sorted(names), f"{names} at {user.name}")


def test_people_are_added_and_leave(here: World) -> None:
    """As the manual tells it: alice writes to bob, adds carol, and bob leaves."""
    alice, bob, carol = (here.user(name) for name in ("alice", "bob", "carol"))
    alice.run("mkdir outbox/bob; echo 'to bob alone' > outbox/bob/hi")
    bob.wait_message("alice", "to bob alone\n")
    wait_folders(alice, "alice-bob")
    alice.run(
        "cd outbox/*-alice-bob\n"
        "echo 'held for carol, too' > draft.part\n"
        """echo 'participants = ["alice", "bob", "carol"]' > metadata.toml\n"""
        "echo 'welcome, carol' > hi"  # the shell is in the folder still
    )
    wait_folders(alice, "alice-bob-carol")
    wait_folders(alice, "alice-bob", "alice-bob-carol", above="conversations")
    assert (next((alice.mountpoint / "outbox").glob("*-carol")) / "draft.part").is_file()
    for user in (bob, carol):
        user.wait_message("alice", "welcome, carol\n")
        wait_folders(user, "alice-bob-carol")
    assert folders(carol, "conversations") == ["alice-bob-carol"]
    assert len(carol.messages()) == 1
    old, new = (
        next((bob.mountpoint / "conversations").glob(name)) for name in ("*-bob", "*-carol")
    )
    assert "goes_on = true" in (old / "metadata.toml").read_text()
    assert "continues" in (new / "metadata.toml").read_text()
    assert old.name[:10] == new.name[:10]
    for user, line in ((alice, True), (bob, True), (carol, False)):
        text = next((user.mountpoint / "conversations").glob("*-carol")) / "transcript"
        assert ("(alice has added carol)" in text.read_text()) == line

    bob.run("rmdir outbox/*-alice-bob-carol")
    wait_folders(bob)
    wait_folders(bob, "alice-bob", above="conversations")
    for user in (alice, carol):
        text = next((user.mountpoint / "conversations").glob("*-carol")) / "transcript"
        wait_for(lambda text=text: "nothing more is sent to bob" in text.read_text(), "bob to go")  # type: ignore[misc]
        said = tomllib.loads((text.parent / "metadata.toml").read_text())
        assert (said["participants"], said["left"]) == (["alice", "carol"], ["bob"])
    alice.run("cd outbox/*-carol; echo 'he is gone' > f")
    carol.wait_message("alice", "he is gone\n")
    path = next((alice.mountpoint / "outbox").glob("*-carol")) / "metadata.toml"
    with pytest.raises(OSError, match="Invalid argument"):
        path.write_text('participants = ["alice", "bob", "carol"]')
    assert "bob has left" in path.with_name("metadata.toml.error").read_text()
    alice.unmount()
    alice.mount()
    wait_folders(alice, "alice-bob-carol")
    assert not [p for p in bob.messages("alice") if p.read_bytes() == b"he is gone\n"]


def test_nobody_of_that_name(here: World) -> None:
    """Nothing is changed, and it is said why; the file stays to be mended."""
    alice, _bob = here.user("alice"), here.user("bob")
    alice.run("mkdir outbox/bob; echo hello > outbox/bob/hi")
    wait_folders(alice, "alice-bob")
    folder = next((alice.mountpoint / "outbox").glob("*-bob"))
    with pytest.raises(OSError, match="Invalid argument"):
        (folder / "metadata.toml").write_text('participants = ["bob", "zoe"]')
    assert "zoe" in (folder / "metadata.toml.error").read_text()
    assert folders(alice) == ["alice-bob"]
    (folder / "metadata.toml").write_text('participants = ["bob"]')
    wait_for(lambda: not (folder / "metadata.toml.error").exists(), "the error to go")
    assert folders(alice) == ["alice-bob"]


# without a network


@pytest.fixture
def mount() -> Iterator[Mounted]:
    with mounted() as made:
        yield made


def folder_of(mount: Mounted, sender: str = "bob") -> Path:
    """Under outbox/, of a conversation in which somebody has written."""
    mount.arrive(sender, "hello")
    outbox = mount.path / "outbox"
    return wait_for(lambda: next(outbox.glob(f"*-{sender}-alice"), None), "the conversation")


ADD = 'participants = ["alice", "bob", "carol"]\n'


def test_ways_to_save_it(mount: Mounted) -> None:
    """By an editor that writes a new file and renames it, by mv and by sed."""
    ways = (
        "cd '{}'; printf '%s' '{}' > x.part; mv x.part metadata.toml",
        "cd '{}'; printf '%s' '{}' > ../../tmp/x; cp ../../tmp/x metadata.toml",
        "cd '{}'; printf '%s' '{}' | tee metadata.toml",
        """cd '{}'; sed -i 's/"alice"/"alice", "carol"/' metadata.toml""",
    )
    for number, way in enumerate(ways):
        folder = folder_of(mount, f"bob{number}")
        mount.run(way.format(folder, ADD.replace("bob", f"bob{number}")))
        gone = f"{folder.name} to get another name"
        wait_for(lambda folder=folder: not folder.exists(), gone)  # type: ignore[misc]
        new = folder.with_name(folder.name + "-carol")
        assert new.is_dir()
        text = wait_for(lambda new=new: (new / "metadata.toml").read_text(), "its text")  # type: ignore[misc]
        assert '"carol"' in text
        assert not (new / "metadata.toml.error").exists()


def test_watchers_see_the_folder_get_its_name(mount: Mounted) -> None:
    folder = folder_of(mount)
    watch = Watch(mount.path / "outbox")
    (folder / "metadata.toml").write_text(ADD)
    watch.wait(folder.name + "-carol")
    watch.close()


def test_the_user_s_name_for_it_goes(mount: Mounted) -> None:
    """It says who was meant by it, and would lead to more people."""
    mount.run("mkdir outbox/bob; echo one > outbox/bob/f")
    link = mount.path / "outbox" / "bob"
    wait_for(link.is_symlink, "the link")
    (link / "metadata.toml").write_text(ADD)
    wait_for(lambda: not link.is_symlink(), "the link to go")


def test_drafts_move_along_and_stay_over_a_kill(mount: Mounted) -> None:
    folder = folder_of(mount)
    (folder / "kept.part").write_text("mine")
    (folder / "metadata.toml").write_text(ADD)
    new = folder.with_name(folder.name + "-carol")
    wait_for(new.is_dir, "the folder")
    assert (new / "kept.part").read_text() == "mine"
    mount.send(signal.SIGKILL)
    mount.wait()
    subprocess.run(["fusermount3", "-uz", mount.path], check=True)
    mount.mount()
    assert (new / "kept.part").read_text() == "mine"
    assert not folder.exists()
    assert (mount.path / "conversations" / folder.name).is_dir()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('participants = ["alice"]', "bob cannot be taken out"),
        ('participants = ["alice", "bob", "no body"]', "not a user name"),
        ('participants = ["alice", "bob", "nobody"]', "not registered"),
        ('participants = "carol"', "for example"),
        ('participants = ["bob", "carol"]\nsubject = "x"', "subject of a conversation"),
        ('left = ["bob"]', "left of a conversation"),
    ],
)
def test_what_cannot_be_done(mount: Mounted, text: str, why: str) -> None:
    folder = folder_of(mount)
    with pytest.raises(OSError, match="Invalid argument") as raised:
        (folder / "metadata.toml").write_text(text)
    assert raised.value.errno == errno.EINVAL
    assert why in (folder / "metadata.toml.error").read_text()
    assert [p.name for p in (mount.path / "outbox").iterdir() if p.is_dir()] == [folder.name]
    (folder / "metadata.toml").unlink()


def test_an_editor_that_writes_over_the_whole_text_is_told_of_nothing_wrong(mount: Mounted) -> None:
    """As vim and nano do: what they have written says the id of before, and that was right."""
    folder = folder_of(mount)
    text = (folder / "metadata.toml").read_text()
    (folder / "metadata.toml").write_text(text.replace('"alice"', '"alice", "carol"'))
    new = folder.with_name(folder.name + "-carol")
    wait_for(new.is_dir, "the folder")
    wait_for(lambda: "continues" in (new / "metadata.toml").read_text(), "its text")
    assert {path.name for path in new.iterdir()} == {"metadata.toml"}
