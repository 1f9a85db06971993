"""``-o sync_send``: fsync of a file in the outbox returns when the servers have it, or says why
not, and never wedges who waits."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.world import WAIT, Service, User, World, run, wait_for

WRITE = """
import os, sys
with open(sys.argv[1], "wb", buffering=0) as file:
    file.write(sys.argv[2].encode())
    print("written", flush=True)
    os.fsync(file.fileno())
    print("synced", flush=True)
"""


@contextmanager
def writer(path: Path, text: str) -> Iterator[subprocess.Popen[str]]:
    """A program that writes and waits in fsync."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, path, text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "written\n"
            yield program
        finally:
            program.kill()


def sync(path: Path, text: str) -> int:
    """Write, and fsync: 0 or its errno."""
    with path.open("wb", buffering=0) as file:
        file.write(text.encode())
        try:
            os.fsync(file.fileno())
        except OSError as error:
            return error.errno or -1
        return 0


def again(path: Path) -> int:
    """fsync of a file that is there, which is not written: 0 or its errno."""
    with path.open("rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            return error.errno or -1
        return 0


def state(user: User, text: str) -> str:
    """How far one's own message is."""
    for path in user.messages(user.name):
        if path.read_text() == text:
            return os.getxattr(path, "user.cbfs.state").decode()
    return ""


def is_there(user: User, text: str) -> bool:
    """Whether the servers have it: the message shows itself a moment after it is made."""
    return "queued" not in wait_for(lambda: state(user, text), f"{text!r} to be shown")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("sync"), stack)


@pytest.fixture(scope="module")
def people(world: World) -> tuple[User, User, Service]:
    """alice and bob, who have a conversation, on servers of their own."""
    server = world.another_server("bobs")
    alice, bob = world.account("alice"), world.account("bob", server)
    bob.mount()
    alice.mount("grace=3600,sync_send=1000")
    (alice.mountpoint / "outbox" / "bob").mkdir()
    assert sync(alice.mountpoint / "outbox" / "bob" / "first", "first") == 0
    assert is_there(alice, "first"), "it was there when fsync returned"
    bob.wait_message("alice", "first")
    return alice, bob, server


@pytest.mark.mount
def test_fsync_waits_for_the_servers_and_a_grace_does_not_hold_it(
    people: tuple[User, User, Service],
) -> None:
    alice, bob, _server = people
    (folder,) = (p for p in (alice.mountpoint / "outbox").iterdir() if not p.is_symlink())
    with (folder / "two").open("wb", buffering=0) as file:
        file.write(b"one")
        os.fsync(file.fileno())
        assert is_there(alice, "one")
        os.fsync(file.fileno())  # nothing new
        file.write(b" and two")
        os.fsync(file.fileno())
        assert is_there(alice, "one and two")
    (folder / "three").write_text("three")
    subprocess.run(["sync", folder / "three"], check=True, timeout=WAIT)
    assert is_there(alice, "three")
    for text in ("one", "one and two", "three"):
        bob.wait_message("alice", text)


@pytest.mark.mount
def test_fsync_waits_for_a_server_that_is_down_until_it_is_back(
    people: tuple[User, User, Service],
) -> None:
    alice, bob, server = people
    server.end()
    (folder,) = (p for p in (alice.mountpoint / "outbox").iterdir() if not p.is_symlink())
    with writer(folder / "late", "late") as program:
        wait_for(lambda: "queued" in state(alice, "late"), "the message to be in the queue")
        with writer(folder / "interrupted", "interrupted") as other:
            wait_for(lambda: "queued" in state(alice, "interrupted"), "the other message")
            other.send_signal(signal.SIGINT)
            assert other.wait(WAIT) != 0
        with writer(folder / "killed", "killed") as other:
            wait_for(lambda: "queued" in state(alice, "killed"), "the third message")
            other.kill()
            other.wait(WAIT)
        assert sync(folder / "scratch.tmp", "no message") == 0
        assert program.poll() is None
        server.start()
        assert program.wait(WAIT) == 0
    assert is_there(alice, "late")
    for text in ("late", "interrupted", "killed"):
        bob.wait_message("alice", text)
    (folder / "scratch.tmp").unlink()


@pytest.mark.mount
def test_fsync_says_what_it_could_not_do(people: tuple[User, User, Service]) -> None:
    alice, bob, server = people
    alice.unmount()
    alice.mount("grace=3600,sync_send=1")
    (folder,) = (alice.mountpoint / "outbox").iterdir()
    server.end()
    try:
        assert sync(folder / "slow", "slow") == errno.ETIMEDOUT
        wait_for(lambda: "queued" in state(alice, "slow"), "the message to be in the queue")
    finally:
        server.start()
    bob.wait_message("alice", "slow")
    (alice.mountpoint / "outbox" / "no-such-name").mkdir()
    lost = alice.mountpoint / "outbox" / "no-such-name" / "hello"
    assert sync(lost, "hello") in {errno.EACCES, errno.ETIMEDOUT}
    wait_for((lost.parent.parent / "no-such-name.error").exists, "the error file")
    wait_for(lambda: again(lost) == errno.EACCES, "fsync to say that it cannot be sent")


@pytest.mark.mount
def test_without_the_option_fsync_waits_for_no_server(
    world: World, people: tuple[User, User, Service]
) -> None:
    alice, bob, server = people
    alice.unmount()
    alice.mount("grace=0.1")
    (folder,) = (p for p in (alice.mountpoint / "outbox").iterdir() if "no-such" not in p.name)
    server.end()
    try:
        assert sync(folder / "plain", "plain") == 0
        assert state(alice, "plain") in {"", "bob: queued"}
    finally:
        server.start()
    bob.wait_message("alice", "plain")
    done = run("mount.cbfs", alice.account, world.place, "-o", "sync_send=0", *alice.mounts)
    assert done.returncode == 2
