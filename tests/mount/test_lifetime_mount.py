"""Lifetimes as a user of a mount sees and sets them: metadata.toml by every way to save it, and
messages that go by themselves, in one mount and between three."""

import errno
import os
import stat
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.mounted import Mounted, Watch, mounted
from tests.support.world import User, World, wait_for, world

pytestmark = pytest.mark.mount


@pytest.fixture
def mount() -> Iterator[Mounted]:
    with mounted() as made:
        yield made


def begin(mount: Mounted) -> tuple[Path, Path]:
    """A message has come: the conversation's folder, and that under outbox/."""
    mount.arrive("bob", "hello")
    drafts = wait_for(lambda: next((mount.path / "outbox").iterdir(), None), "the folder")
    wait_for(lambda: len(list(shown(mount).iterdir())) == 3 or None, "the message")
    return shown(mount), drafts


def shown(mount: Mounted) -> Path:
    return next((mount.path / "conversations").iterdir())


def save(path: Path, text: str) -> int:
    """Write over it; the errno of close, or 0."""
    file = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(file, text.encode())
    try:
        os.close(file)
    except OSError as error:
        return error.errno or 0
    return 0


def says(path: Path, words: str) -> None:
    wait_for(lambda: words in path.read_text() or None, words)


def gone(path: Path) -> None:
    wait_for(lambda: not os.path.lexists(path) or None, f"{path} to go")


SET = 's/^lifetime = .*/lifetime = "SET"/'
EMACS = (
    '(progn (find-file "metadata.toml") (re-search-forward "^lifetime = .*")'
    ' (replace-match "lifetime = \\"SET\\"") (save-buffer))'
)


def test_every_way_to_save_it_sets_it(mount: Mounted) -> None:
    folder, drafts = begin(mount)
    for seconds, script in enumerate(
        (
            "echo 'lifetime = \"SET\"' >> metadata.toml",
            "sed -i 's/^lifetime = .*/lifetime = \"SET\"/' metadata.toml",
            "echo 'lifetime = \"SET\"' > metadata.toml",
            "echo 'lifetime = \"SET\"' > x.tmp; mv x.tmp metadata.toml",
            "cp -p metadata.toml metadata.toml~; echo 'lifetime = \"SET\"' > metadata.toml",
            "mv metadata.toml metadata.toml~; echo 'lifetime = \"SET\"' > metadata.toml",
            f"printf '%s\\nw\\nq\\n' ',{SET}' | ed -s metadata.toml",
            f"printf '%s\\nwq\\n' '%{SET}' | vim -N -es metadata.toml",
            f"printf '%s\\nwq\\n' '%{SET}' | vim -N -es -c 'set backupcopy=no' metadata.toml",
            f"emacs -Q --batch --eval '{EMACS}' 2>&1 | grep -v Wrote || true",
            "chmod 600 metadata.toml; touch metadata.toml; sed -i '/lifetime/d' metadata.toml;"
            " echo 'lifetime = \"SET\"' > metadata.toml",
            "echo 'lifetime = \"SET\"' > ../../tmp/x; cp ../../tmp/x metadata.toml",
            "echo 'lifetime = \"SET\"' > ../../tmp/x; mv ../../tmp/x metadata.toml",
        ),
        11,
    ):
        mount.run(f"cd '{drafts}'; {script.replace('SET', f'{seconds}s')}; rm -f *~")
        said = f'lifetime = "{seconds}s"\nlifetime_from = "alice"'
        assert said in (folder / "metadata.toml").read_text(), script
        says(drafts / "metadata.toml", said)
        assert not (drafts / "metadata.toml.error").exists()
    assert mount.run(f"cd '{drafts}'; ls -A") == "metadata.toml\n"
    assert not mount.messages()
    mount.unmount()
    mount.mount()
    assert 'lifetime = "23s"' in (drafts / "metadata.toml").read_text()
    assert save(drafts / "metadata.toml", 'lifetime = ""') == 0
    assert 'lifetime = ""' in (folder / "metadata.toml").read_text()


def test_a_wrong_one_changes_nothing_and_says_why(mount: Mounted) -> None:
    folder, drafts = begin(mount)
    metadata, error = drafts / "metadata.toml", drafts / "metadata.toml.error"
    assert save(metadata, 'lifetime = "1h"') == 0
    for text, why in (
        ('lifetime = "soon"', "lifetime is not a time like"),
        ('lifetime = "9s"', 'from "10s" to "366d"'),
        ('lifetme = "1d"', "did you mean lifetime"),
        ('subject = "dinner"', "subject of a conversation cannot be changed"),
        ("lifetime = ", "metadata.toml is wrong"),
    ):
        assert save(metadata, text) == errno.EINVAL
        assert why in error.read_text()
        assert 'lifetime = "1h"' in (folder / "metadata.toml").read_text()
    (mount.path / "tmp" / "x").write_text('lifetime = "soon"')
    with pytest.raises(PermissionError):
        (mount.path / "tmp" / "x").rename(metadata)
    with pytest.raises(PermissionError):
        save(folder / "metadata.toml", 'lifetime = "1d"')
    assert save(metadata, 'lifetime = "1d"') == 0
    gone(error)
    assert 'lifetime = "1d"' in (folder / "metadata.toml").read_text()


def test_one_that_is_taken_away_comes_back(mount: Mounted) -> None:
    folder, drafts = begin(mount)
    metadata = drafts / "metadata.toml"
    before = metadata.read_text()
    metadata.rename(mount.path / "tmp" / "away")
    assert not metadata.exists()
    wait_for(lambda: metadata.exists() or None, "it to come back")
    assert metadata.read_text() == before
    metadata.write_text("")
    wait_for(lambda: metadata.read_text() or None, "it to say something again")
    assert metadata.read_text() == before
    assert "lifetime" not in (folder / "metadata.toml").read_text()


def test_messages_show_when_they_end_and_go_from_every_view(mount: Mounted) -> None:
    folder, drafts = begin(mount)
    first = next(path for path in folder.iterdir() if "Z-bob" in path.name)
    assert save(drafts / "metadata.toml", 'lifetime = "7d"') == 0
    mount.arrive("bob", "secret lunch")
    (drafts / "answer").write_text("coming\n")
    mount.wait_messages("coming\n")
    mount.run(f"mkdir tmp/trip; echo map > tmp/trip/map; mv tmp/trip '{drafts}'")
    trip = wait_for(lambda: next(folder.glob("*-trip"), None), "the folder that is a message")
    assert mount.run(f"ls -ld '{trip}'").startswith("drwx-----T")
    (last,) = [p for p in folder.glob("*Z-bob*") if p != first]
    link = mount.path / "unread" / last.name
    wait_for(lambda: os.path.lexists(link) or None, "the link in unread/")
    status = last.stat()
    assert status.st_mode & stat.S_ISVTX
    assert not first.stat().st_mode & stat.S_ISVTX
    assert 6 * 86_400 < status.st_atime - status.st_mtime < 8 * 86_400
    assert os.getxattr(last, "user.cbfs.lifetime") == b"7d"
    assert os.getxattr(last, "user.cbfs.ends").endswith(b"Z")
    assert os.getxattr(folder, "user.cbfs.lifetime") == b"7d"
    assert mount.run(f"ls -l '{last}'").startswith("-r-------T")
    assert ", kept 7d] bob:" in (folder / "transcript").read_text()
    assert "kept" not in (folder / "transcript").read_text().splitlines()[0]
    day = mount.path / "by-date" / last.name[:10]
    search = mount.path / "search" / "secret"
    assert (day / last.name).exists()
    assert len(list(search.iterdir())) == 1
    watches = [Watch(place, Watch.GOES) for place in (folder, mount.path / "unread")]
    with last.open("rb") as file:
        mount.order("end")
        for watch in watches:
            watch.wait(last.name)
            watch.close()
        with pytest.raises(OSError, match="Stale") as stale:
            file.read()
    assert stale.value.errno == errno.ESTALE
    for path in (last, link, day / last.name, folder / last.name):
        gone(path)
    assert not list(search.iterdir())
    wait_for(lambda: not list(folder.glob("*Z-alice*")) or None, "one's own to go")
    gone(trip)
    assert first.read_text() == "hello\n"
    assert "secret" not in (folder / "transcript").read_text()
    assert mount.run(f"ls '{folder}'").split() == [first.name, "metadata.toml", "transcript"]


def test_a_new_conversation_can_begin_with_one(mount: Mounted) -> None:
    mount.run("mkdir tmp/new; echo soup > tmp/new/soup.txt")
    (mount.path / "tmp" / "new" / "metadata.toml").write_text(
        'participants = ["bob"]\nsubject = "lunch"\nlifetime = "12h"\n'
    )
    mount.run("mv tmp/new outbox/")
    mount.wait_messages("soup\n")
    (message,) = shown(mount).glob("*Z-alice*")
    assert os.getxattr(message, "user.cbfs.lifetime") == b"12h"
    assert 'lifetime = "12h"' in (shown(mount) / "metadata.toml").read_text()
    mount.run("mkdir tmp/wrong; echo soup > tmp/wrong/soup.txt")
    (mount.path / "tmp" / "wrong" / "metadata.toml").write_text(
        'participants = ["bob"]\nlifetime = "for ever"\n'
    )
    mount.run("mv tmp/wrong outbox/")
    error = mount.path / "outbox" / "wrong.error"
    wait_for(lambda: error.exists() or None, "the error file")
    assert "lifetime is not a time like" in error.read_text()


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("w")) as made:
        yield made


def ends(message: Path) -> float:
    return datetime.fromisoformat(os.getxattr(message, "user.cbfs.ends").decode()).timestamp()


def test_all_sides_delete_also_who_was_off(here: World) -> None:
    alice, bob, carol = here.user("alice"), here.user("bob"), here.user("carol")
    (alice.mountpoint / "outbox" / "bob,carol").mkdir()
    alice.write("bob,carol", "first", "for ever\n")
    folder = bob.wait_message("alice", "for ever\n").parent.name
    carol.wait_message("alice", "for ever\n")
    own = alice.wait_message("alice", "for ever\n")
    # so long that it is there until both have seen it, however busy the machine is
    assert save(alice.mountpoint / "outbox" / folder / "metadata.toml", 'lifetime = "90s"') == 0
    alice.write(folder, "second", "for a while\n")
    at_bob = bob.wait_message("alice", "for a while\n")
    watch = Watch(at_bob.parent, Watch.GOES)
    at_carol = carol.wait_message("alice", "for a while\n")
    over = ends(at_carol)
    carol.unmount()
    says(at_bob.parent / "metadata.toml", 'lifetime = "90s"\nlifetime_from = "alice"')
    says(bob.mountpoint / "outbox" / folder / "metadata.toml", 'lifetime = "90s"')
    status = (bob.mountpoint / "status").read_text()
    assert f"1 message in {folder}" in status
    assert "the next at " in status
    assert at_bob.lstat().st_mode & stat.S_ISVTX
    watch.wait(at_bob.name)
    watch.close()
    for user in (alice, bob):
        wait_for(lambda user=user: texts(user) == ["for ever\n"] or None, "it to go")  # type: ignore[misc]
    assert own.exists()
    wait_for(lambda: time.time() > over or None, "the time to be over")
    carol.mount()
    assert texts(carol) == ["for ever\n"]
    assert not list((carol.mountpoint / "search" / "while").iterdir())


def texts(user: User) -> list[str]:
    """Of all messages; one that has just gone does not count."""
    found = []
    for path in user.messages():
        try:
            found.append(path.read_text())
        except OSError as error:
            assert error.errno in {errno.ENOENT, errno.ESTALE}
    return found
