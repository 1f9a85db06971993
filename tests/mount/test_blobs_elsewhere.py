"""Large files in a mount of one conversation, and in an account that goes on from an export."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.mount.test_blobs import (
    SMALL,
    caught,
    is_same,
    own,
    progress,
    state,
    written,
)
from tests.mount.test_disk_full import said
from tests.support.world import WAIT, User, run, wait_for, world

pytestmark = pytest.mark.mount


def alone(user: User) -> Path:
    """A mount of their conversation; it ends with that of the account."""
    (folder,) = (path.name for path in (user.mountpoint / "conversations").iterdir())
    place = user.mountpoint.parent / f"{user.name}-alone"
    place.mkdir()
    done = run("mount.cbfs", user.account, place, "-o", f"only={folder}", "--no-tor")
    assert done.returncode == 0, done.stderr
    return place


def test_a_conversation_alone_sends_and_reads_them(tmp_path: Path) -> None:
    source = tmp_path / "film.bin"
    written(source, SMALL)
    with world(tmp_path) as programs:
        alice, bob = programs.user("alice"), programs.user("bob")
        (alice.mountpoint / "outbox" / "bob").mkdir()
        alice.write("bob", "first", "first")
        bob.wait_message("alice", "first")
        here, there = alone(alice), alone(bob)
        try:
            (outbox,) = (here / "outbox").iterdir()
            shutil.copyfile(source, outbox / "film.bin")
            (found,) = wait_for(lambda: list(there.glob("conversations/*/*film.bin")), "the file")
            wait_for(lambda: progress(found) == 100, "all of it")
            assert is_same(found, source)
            (sent,) = here.glob("conversations/*/*film.bin")
            wait_for(lambda: "received" in state(sent), "the receipt")
            assert is_same(sent, source)
        finally:
            for place in (here, there):
                subprocess.run(["fusermount3", "-u", "-z", place], check=True, timeout=WAIT)


def test_an_export_has_what_is_there_and_the_rest_is_fetched_where_it_is_restored(
    tmp_path: Path,
) -> None:
    """That of the sender has all of it."""
    source = tmp_path / "film.bin"
    written(source, 32 << 20)
    with world(tmp_path) as programs:
        alice, bob = programs.user("alice"), programs.user("bob")
        there = caught(alice, bob, source, programs.server)
        source = next(tmp_path.glob("film?.bin"))
        assert progress(there) < 100
        for user in (alice, bob):
            user.unmount()
        programs.server.end(signal.SIGKILL)
        programs.server.start()
        for user in (alice, bob):
            exported = tmp_path / f"{user.name}.export"
            said(f"export {user.account} {exported} --passphrase-fd 0")
            user.account.rename(user.account.with_name(f"{user.name}-old"))
            said(f"init --restore {exported} --account {user.account} --export-passphrase-fd 0")
            user.mount()
        (found,) = (path for path in bob.messages("alice") if path.name == there.name)
        wait_for(lambda: progress(found) == 100, "all of it")
        assert is_same(found, source)
        assert is_same(own(alice), source)
