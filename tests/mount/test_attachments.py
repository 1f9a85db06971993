"""Files of many parts between two real mounts that do without blobs: how far they are, kills on
both sides, memory."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.world import User, wait_for, world

SIZE = 6 << 20
IN_ENVELOPES = """printf 'blobs = false\nreactions = "prompt"\n' > config.toml"""
"""Files are sent in parts, however large they are."""

pytestmark = pytest.mark.mount


def progress(user: User) -> str:
    """What the conversation's folder says of files that are arriving in it."""
    for folder in (user.mountpoint / "conversations").iterdir():
        try:
            return os.getxattr(folder, "user.cbfs.progress").decode()
        except OSError:
            pass
    return ""


def memory(user: User) -> int:
    """Bytes that the daemon has for itself."""
    found = 0
    for pid in user.pids():
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                found = max(found, int(line.split()[1]) * 1024)
    return found


def wait_progress(user: User, sender: User, words: str) -> None:
    """Until parts have come of what is called so, of which some are still to come: ``sender`` is
    stopped with the first, as all of them may come while this process waits for its turn."""
    wait_for(lambda: progress(user), "the first parts to arrive")
    for pid in sender.pids():
        os.kill(pid, signal.SIGSTOP)
    assert words in progress(user)


def test_a_large_file_goes_on_where_it_was_after_kills(tmp_path: Path) -> None:
    data = os.urandom(SIZE)
    with world(tmp_path) as programs:
        alice, bob = programs.user("alice"), programs.user("bob")
        alice.run(IN_ENVELOPES)
        (alice.mountpoint / "outbox" / "bob").mkdir()
        before = memory(alice)
        alice.write("bob", "film.bin", data)
        wait_progress(bob, alice, "film.bin from alice")
        assert "film.bin" in (bob.mountpoint / "status").read_text()
        assert not bob.messages("alice")
        bob.kill()
        bob.mount()
        alice.kill()
        alice.mount()
        (there,) = wait_for(lambda: bob.messages("alice"), "the file to be complete")
        assert there.name.endswith("film.bin")
        assert there.read_bytes() == data
        assert progress(bob) == ""
        assert "film.bin" not in (bob.mountpoint / "status").read_text()
        (sent,) = alice.messages("alice")
        wait_for(lambda: b"received" in os.getxattr(sent, "user.cbfs.state") or None, "the receipt")
        assert sent.read_bytes() == data
        assert memory(alice) < before + (24 << 20)


def test_a_folder_arrives_whole_though_both_are_killed_in_the_middle(tmp_path: Path) -> None:
    files = {"one.txt": b"one", "deep/film.bin": os.urandom(SIZE), "deep/er/last": b"last"}
    with world(tmp_path) as programs:
        alice, bob = programs.user("alice"), programs.user("bob")
        alice.run(IN_ENVELOPES)
        (alice.mountpoint / "outbox" / "bob").mkdir()
        top = alice.mountpoint / "tmp" / "photos"
        for name, data in files.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(data)
        top.rename(alice.mountpoint / "outbox" / "bob" / "photos")
        wait_progress(bob, alice, "photos from alice")
        assert not bob.messages("alice")
        bob.kill()
        alice.kill()
        bob.mount()
        alice.mount()
        (there,) = wait_for(lambda: bob.messages("alice"), "the folder to be complete")
        (sent,) = alice.messages("alice")
        for found in (there, sent):
            assert found.name.endswith("-alice-photos")
            assert {
                str(path.relative_to(found)): path.read_bytes()
                for path in found.rglob("*")
                if path.is_file()
            } == files
        unread = bob.mountpoint / "unread"
        wait_for(lambda: not list(unread.iterdir()) or None, "it to be no longer unread")
        assert there.name in (there.parent / "transcript").read_text()
        wait_for(lambda: b"received" in os.getxattr(sent, "user.cbfs.state") or None, "the receipt")
        shutil.rmtree(there)
        assert not bob.messages("alice")
        assert len(alice.messages("alice")) == 1
