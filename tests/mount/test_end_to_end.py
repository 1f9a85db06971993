"""Two and three mounts, a server and a directory: all real programs, on loopback and, where
``anywhere`` is asked for, over the private Tor network as well."""

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import stem.control

from cbfs_common.limits import FRAME_SIZE
from cbfs_common.onion import PORT
from cbfs_common.wire.transport import ANSWER_SIZE, HELLO_SIZE, PROOF_SIZE
from tests.support.postgres import free_ports
from tests.support.world import Service, User, World, run, through_tor, wait_for, world

pytestmark = pytest.mark.mount


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("w")) as made:
        yield made


@pytest.fixture(params=["loopback", pytest.param("tor", marks=pytest.mark.tor)])
def anywhere(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    way = None
    if request.param == "tor":
        way = through_tor(request.getfixturevalue("tor_network"))
    with world(tmp_path_factory.mktemp("w"), way) as made:
        yield made


def test_demo_shows_both_directions_and_leaves_nothing(tmp_path: Path) -> None:
    done = run("cbfs", "demo", tmp_path / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Hello Bob" in done.stdout
    assert "Hello Alice" in done.stdout
    assert not (tmp_path / "demo").exists()


def nothing_in_outbox(user: User) -> bool:
    """Whether all drafts have left."""
    found = (user.mountpoint / "outbox").glob("*/*")
    return all(path.name == "metadata.toml" for path in found)


def test_three_write_to_each_other(anywhere: World) -> None:
    here = anywhere
    alice, bob, carol = here.user("alice"), here.user("bob"), here.user("carol")
    (alice.mountpoint / "outbox" / "bob,carol").mkdir()
    alice.write("bob,carol", "hi", "hello\n")
    for reader in (bob, carol):
        path = reader.wait_message("alice", "hello\n")
        folder = path.parent.name
        assert re.fullmatch(r"\d{4}-\d\d-\d\d-alice-bob-carol", folder)
        reader.write(folder, "re", f"hello from {reader.name}\n")
    for reader in (alice, bob, carol):
        for writer in (bob, carol):
            if reader is not writer:
                reader.wait_message(writer.name, f"hello from {writer.name}\n")
    for user in (alice, bob, carol):  # a file that is sent stays for a second: ls would miss it
        wait_for(partial(nothing_in_outbox, user), f"what {user.name} has sent to leave")
        for command in (["ls", "-lR"], ["find"], ["grep", "-r", "hello"]):
            done = subprocess.run(
                [*command, user.mountpoint], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
        copy = here.place / f"copy-{user.name}"
        done = subprocess.run(
            ["cp", "-a", user.mountpoint / "conversations", copy],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert len(list(copy.glob("*/*Z-*"))) == 3


def test_unknown_name_gets_an_error_file(here: World) -> None:
    alice = here.user("alice")
    (alice.mountpoint / "outbox" / "nobody").mkdir()
    error = alice.mountpoint / "outbox" / "nobody.error"
    wait_for(lambda: error.exists() or None, "the error file")
    assert "nobody" in error.read_text()


def test_a_typo_is_mended_by_renaming_the_folder(here: World) -> None:
    alice, bob = here.user("alice"), here.user("bob")
    outbox = alice.mountpoint / "outbox"
    (outbox / "bobb").mkdir()
    alice.write("bobb", "note", "for bob\n")
    wait_for(lambda: (outbox / "bobb" / "note.error").exists() or None, "the error file")
    assert "bobb/note: This was not sent" in (alice.mountpoint / "status").read_text()
    (outbox / "bobb").rename(outbox / "bob")
    bob.wait_message("alice", "for bob\n")
    wait_for(lambda: not list(outbox.glob("**/*.error")) or None, "the old errors to go")


def test_metadata_says_who_and_about_what(here: World) -> None:
    alice, bob = here.user("alice"), here.user("bob")
    prepared = alice.mountpoint / "tmp" / "prepared"
    prepared.mkdir()
    (prepared / "metadata.toml").write_text('participants = ["bob"]\nsubject = "lunch"\n')
    (prepared / "soup.txt").write_text("soup\n")
    prepared.rename(alice.mountpoint / "outbox" / "any name")
    path = bob.wait_message("alice", "soup\n")
    assert path.parent.name.endswith("-alice-bob lunch")
    assert path.name.endswith("-alice-soup.txt")


def test_contacts_are_verified_and_take_new_keys(here: World) -> None:
    alice, bob = here.user("alice"), here.user("bob")
    (alice.mountpoint / "outbox" / "Bob").mkdir()  # however it is typed
    alice.write("Bob", "hi", "hello\n")
    folder = bob.wait_message("alice", "hello\n").parent.name
    wait_for(lambda: (bob.mountpoint / "contacts" / "alice").exists() or None, "the contact")
    theirs = (bob.mountpoint / "contacts" / "alice" / "fingerprint").read_text()
    assert (alice.mountpoint / "contacts" / "bob" / "fingerprint").read_text() == theirs
    digits = re.findall(r"\b[0-9]{5}\b", theirs)
    done = run("cbfs", "verify", alice.mountpoint, "bob", *reversed(digits))
    assert (done.returncode, "not the fingerprint" in done.stderr) == (1, True)
    done = run("cbfs", "verify", alice.mountpoint, "bob", *digits)
    assert done.returncode == 0, done.stderr
    verified = alice.mountpoint / "contacts" / "bob" / "verified"
    assert verified.exists()

    def name(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("cbfs", "name", *arguments, "--account", bob.account, "--no-tor")

    done = name("show")
    assert (done.returncode, "in use" in done.stderr) == (1, True)
    bob.unmount()
    done = name("show")
    assert re.search(r"version: +1, of round", done.stdout), done.stderr
    recovery = here.place / "recovery"
    done = name("rotate", "--recovery", str(recovery))
    assert done.returncode == 0, done.stderr
    assert recovery.stat().st_mode & 0o777 == 0o600
    done = name("show")
    assert re.search(r"version: +2, of round", done.stdout), done.stderr
    assert "recovery keys:  1 of" in done.stdout
    away = here.another_server("away2")
    assert name("update", "--server", away.url).returncode == 0
    bob.mount()
    bob.write(folder, "new", "with new keys\n")
    alice.wait_message("bob", "with new keys\n")
    alice.write(folder, "re", "to the new keys\n")
    bob.wait_message("alice", "to the new keys\n")
    wait_for(lambda: not verified.exists() or None, "the fingerprint to be compared anew")
    assert away.url in (alice.mountpoint / "contacts" / "bob" / "profile.toml").read_text()


def test_a_message_is_taken_back_by_rm(here: World) -> None:
    alice, bob = here.user("alice"), here.user("bob")
    alice.unmount()
    alice.mount("grace=30")
    (alice.mountpoint / "outbox" / "bob").mkdir()
    alice.write("bob", "regret", "never sent\n")
    (alice.mountpoint / "outbox" / "bob" / "regret").unlink()
    alice.unmount()
    alice.mount()
    alice.write("bob", "other", "sent\n")
    bob.wait_message("alice", "sent\n")
    assert [p.read_text() for p in bob.messages("alice")] == ["sent\n"]


def test_one_of_three_servers_is_down(here: World) -> None:
    away = here.another_server("away")
    alice, bob, carol = here.user("alice"), here.user("bob"), here.user("carol")
    dave = here.user("dave", away)
    away.end(signal.SIGKILL)
    (alice.mountpoint / "outbox" / "bob,carol,dave").mkdir()
    alice.write("bob,carol,dave", "news", "the news\n")
    bob.wait_message("alice", "the news\n")
    carol.wait_message("alice", "the news\n")
    assert not dave.messages("alice")
    assert "dave" in (alice.mountpoint / "status").read_text()
    away.start()
    dave.wait_message("alice", "the news\n")
    for user in (bob, carol, dave):
        assert len(user.messages("alice")) == 1


def _contents(user: User, sender: str) -> list[str]:
    return sorted(path.read_text() for path in user.messages(sender))


def test_kill_of_server_and_mount_amid_200_messages(anywhere: World) -> None:
    here = anywhere
    alice, bob = here.user("alice"), here.user("bob")
    (alice.mountpoint / "outbox" / "bob").mkdir()
    expected = [f"message {number:03}\n" for number in range(200)]
    for number, text in enumerate(expected):
        folder = "bob"
        if number == 60:
            here.server.end(signal.SIGKILL)
            here.server.start()
        if number == 120:
            alice.kill()
            alice.mount()
        if number >= 120:
            folder = alice.messages("alice")[0].parent.name
        if number == 160:
            bob.kill()
            bob.mount()
        alice.write(folder, f"m{number}", text)
    wait_for(lambda: len(bob.messages("alice")) >= 200 or None, "200 messages")
    assert _contents(bob, "alice") == expected
    assert _contents(alice, "alice") == expected
    # again from the disk, after a clean end
    bob.unmount()
    bob.mount()
    assert _contents(bob, "alice") == expected


class Tap:
    """A relay in front of a server that keeps all that passes."""

    def __init__(self) -> None:
        self.server = 0
        """The port of the server."""
        self.seen: list[bytearray] = []
        """What passes of each connection, either way."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.server))
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        kept = bytearray()
        self.seen.append(kept)
        try:
            while data := source.recv(65_536):
                kept += data
                target.sendall(data)
        except OSError:
            pass
        finally:
            source.close()
            target.close()

    def close(self) -> None:
        self._listener.close()


@contextmanager
def tapped(here: World) -> Iterator[tuple[Service, Tap]]:
    """A server with a tap right in front of it: behind that is, where there is one, Tor."""
    tap = Tap()
    if not here.way.servers:
        url, _, port = here.server.url.rpartition(":")
        tap.server = int(port)
        here.server.url = f"{url}:{tap.port}"
        yield here.server, tap
        return
    (tap.server,) = free_ports(1)
    control = here.way.servers[here.way.servers.index("--tor-control") + 1]
    with stem.control.Controller.from_socket_file(control) as tor:
        tor.authenticate()
        onion = tor.create_ephemeral_hidden_service({PORT: tap.port}, await_publication=True)
        host = f"{onion.service_id}.onion:{PORT}"
        yield here.server_at(f"127.0.0.1:{tap.server}", host), tap


def test_200_each_way_and_50_kib_through_a_tap(anywhere: World) -> None:
    with tapped(anywhere) as (server, tap):
        _talk_through(anywhere, server, tap)


def _talk_through(here: World, server: Service, tap: Tap) -> None:
    alice, bob = here.user("alice-the-first", server), here.user("bob-the-second", server)
    (alice.mountpoint / "outbox" / bob.name).mkdir()
    alice.write(bob.name, "first", "first word xylophone\n")
    folder = bob.wait_message(alice.name, "first word xylophone\n").parent.name
    large = os.urandom(50 * 1024)
    alice.write(folder, "large.bin", large)
    for number in range(200):
        alice.write(folder, f"a{number}", f"xylophone a {number}\n")
        bob.write(folder, f"b{number}", f"xylophone b {number}\n")
    wait_for(lambda: len(bob.messages(alice.name)) == 202 or None, "202 at bob")
    wait_for(lambda: len(alice.messages(bob.name)) == 200 or None, "200 at alice")
    assert [p.read_bytes() for p in bob.messages(alice.name) if p.suffix == ".bin"] == [large]
    texts = {p.read_text() for p in alice.messages(bob.name)}
    assert texts == {f"xylophone b {number}\n" for number in range(200)}
    # before anybody leaves, as whoever does may cut the frame that is on its way
    wait_for(lambda: all(map(_whole, filter(None, tap.seen))) or None, "whole frames")
    for user in (alice, bob):
        user.unmount()
    server.end()
    tap.close()
    data = b"".join(tap.seen)
    assert len(data) > 400 * 16_384
    for word in (b"xylophone", alice.name.encode(), bob.name.encode(), large[:64]):
        assert word not in data


def _whole(stream: bytearray) -> bool:
    """Whether it is frames of one size after the handshake of either side."""
    return any(
        (len(stream) - begin) % FRAME_SIZE == 0 for begin in (HELLO_SIZE + PROOF_SIZE, ANSWER_SIZE)
    )


def test_no_plaintext_and_no_name_on_the_disk(here: World) -> None:
    alice, bob = here.user("alice"), here.user("bob")
    (alice.mountpoint / "outbox" / "bob secretsubject").mkdir()
    alice.write("bob secretsubject", "note.txt", "xylophone\n")
    bob.wait_message("alice", "xylophone\n")
    for user in (alice, bob):
        user.unmount()
        for path in user.account.rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path
            if path.is_file():
                data = path.read_bytes()
                for word in (b"xylophone", b"secretsubject", b"note.txt", b"alice", b"bob"):
                    assert word not in data, (path, word)


def test_second_mount_of_an_account_is_refused(here: World) -> None:
    alice = here.user("alice")
    other = here.place / "other"
    other.mkdir()
    done = run("mount.cbfs", alice.account, other, "--no-tor")
    assert done.returncode == 1
    assert "cbfs: error:" in done.stderr
    assert "cbfs: hint:" in done.stderr


def test_an_account_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    done = run("mount.cbfs", tmp_path / "none", tmp_path, "--no-tor")
    assert done.returncode == 1
    assert "cbfs: hint:" in done.stderr
    assert not (tmp_path / "none").exists()


def test_without_tor_other_machines_are_refused(here: World) -> None:
    url = here.server.url.replace("127.0.0.1", "192.0.2.1")
    policy = here.place / "names" / "policy"
    place = here.place / "x"
    done = run(
        "cbfs", "init", "xavier", "--account", place, "--no-tor", "--server", url, "--names", policy
    )
    assert done.returncode == 1
    assert "192.0.2.1 is not on this machine" in done.stderr


def test_a_date_in_the_future_holds_a_message_until_it_is_taken_back(here: World) -> None:
    """Also through a restart; ``ls -l`` and ``status`` say until when."""
    alice, bob = here.user("alice"), here.user("bob")
    held = alice.mountpoint / "outbox" / "bob" / "held.txt"

    def shell(script: str) -> str:
        done = subprocess.run(
            ["sh", "-euc", script],
            cwd=alice.mountpoint,
            env={**os.environ, "TZ": "UTC"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def status_says(words: str) -> None:
        status = alice.mountpoint / "status"
        wait_for(lambda: words in status.read_text() or None, f"{words!r} in status")

    shell("mkdir outbox/bob; echo later > tmp/held.txt; touch -d '2100-01-02 08:00' tmp/held.txt")
    shell("mv tmp/held.txt outbox/bob/")
    status_says("bob/held.txt: held until 2100-01-02 08:00:00 UTC")
    assert "2100-01-02 08:00" in shell("ls -l --time-style=long-iso outbox/bob/held.txt")
    alice.unmount()
    alice.mount()
    status_says("bob/held.txt: held until 2100-01-02 08:00:00 UTC")
    shell("touch -d '3000-01-01' outbox/bob/held.txt")  # more than can be kept
    status_says("bob/held.txt: held until 2262-04-11")
    assert not bob.messages()
    shell("touch outbox/bob/held.txt")
    bob.wait_message("alice", "later\n")
    wait_for(lambda: not held.exists() or None, "the sent file to leave the outbox")
    assert "held until" not in (alice.mountpoint / "status").read_text()
