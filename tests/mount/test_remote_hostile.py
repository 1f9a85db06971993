"""Who watches the link, a hub that lies, and a machine that says anything; and a hub that is not
mounted."""

import errno
import os
import random
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM, load_account, opened_store
from cbfs.mount.single.connection import connected
from cbfs.mount.single.wire import HUB, Frames, frame, read_answer
from cbfs.storage.store import Table
from tests.support.mounted import Mounted, mounted
from tests.support.remote import Laptop, Tapped, laptop, sshd
from tests.support.world import WAIT, User, World, wait_for

pytestmark = pytest.mark.mount


@pytest.fixture
def hub() -> Iterator[Mounted]:
    with mounted() as mount:
        mount.arrive("bob", "hello")
        mount.wait_messages("hello\n", sender="bob")
        yield mount


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def texts(mount: Path, who: str) -> list[str]:
    return sorted(p.read_text() for p in mount.glob(f"conversations/*/*-{who}") if p.is_file())


def long_parts(data: bytes, size: int = 24) -> set[bytes]:
    return {data[at : at + size] for at in range(len(data) - size + 1)}


def secrets_of(user: User) -> set[bytes]:
    """Pieces of whatever only the account may know: its keys, its sessions, its prekeys, and the
    key of its store."""
    with opened_store(user.account, SYSTEM_RANDOM) as store:
        account = load_account(store)
        assert account is not None
        found = {account.transport, account.signing, account.auth, account.owner, account.kem}
        with store.read() as reader:
            for table in (Table.SESSIONS, Table.PREKEYS):
                found |= {value for _key, value in reader.items(table)}
    found.add((user.account / "root.key").read_bytes())
    return set().union(*map(long_parts, found))


def test_no_secret_of_the_account_goes_over_the_link(here: World, tmp_path: Path) -> None:
    alice, bob = here.user("alice"), here.user("bob")
    tap = Tapped(tmp_path / "tap")
    machine = Laptop(tmp_path / "laptop", alice.account, tap.command)
    try:
        machine.mount()
        (machine.path / "outbox/bob").mkdir()
        (machine.path / "outbox/bob/hi").write_text("over the link\n")
        wait_for(lambda: "over the link\n" in texts(bob.mountpoint, "alice"), "it to arrive")
        answer = bob.mountpoint / "outbox" / next((bob.mountpoint / "conversations").iterdir()).name
        (answer / "answer").write_text("and back\n")
        wait_for(lambda: "and back\n" in texts(machine.path, "bob"), "the answer")
        for folder, _folders, files in os.walk(machine.path):
            for name in files:
                with suppress(OSError):
                    (Path(folder) / name).read_bytes()
                    os.listxattr(Path(folder) / name)
    finally:
        machine.close()
    alice.unmount()
    heard = tap.up.read_bytes(), tap.down.read_bytes()
    assert all(len(each) > 1_000 for each in heard)
    assert any(b"and back" in each for each in heard)
    secrets = secrets_of(alice)
    assert len(secrets) > 100
    for each in heard:
        assert not long_parts(each) & secrets


def test_a_hub_that_is_not_mounted_is_served_and_others_join(here: World, tmp_path: Path) -> None:
    alice, bob = here.account("alice"), here.user("bob")
    forced = f"cbfs serve --no-tor --account {alice.account}"
    with sshd(tmp_path / "sshd", forced=forced) as served:
        elsewhere = Path("elsewhere")
        with (
            laptop(tmp_path / "one", elsewhere, served) as one,
            laptop(tmp_path / "two", elsewhere, served) as two,
        ):
            (one.path / "outbox/bob").mkdir()
            (one.path / "outbox/bob/hi").write_text("from one\n")
            wait_for(lambda: texts(bob.mountpoint, "alice") == ["from one\n"], "it to arrive")
            name = next((bob.mountpoint / "conversations").iterdir()).name
            (bob.mountpoint / "outbox" / name / "answer").write_text("to both\n")
            for machine in (one, two):
                wait_for(lambda at=machine.path: texts(at, "bob") == ["to both\n"], "the answer")  # type: ignore[misc]
            for pid in alice.pids():
                os.kill(pid, 9)
            (two.path / "outbox" / os.listdir(two.path / "conversations")[0] / "more").write_text(  # noqa: PTH208
                "from two\n"
            )
            expected = ["from one\n", "from two\n"]
            wait_for(lambda: texts(bob.mountpoint, "alice") == expected, "that, once")
        for pid in alice.pids():
            os.kill(pid, 15)
        alice.wait_ended()


def test_a_listing_takes_few_questions_and_what_is_known_takes_none(
    hub: Mounted, tmp_path: Path
) -> None:
    for number in range(300):
        hub.arrive("bob", f"number {number}")
    folder = next((hub.path / "conversations").iterdir())
    wait_for(lambda: len(list(folder.glob("*-bob*"))) == 301, "all to be there")
    tap = Tapped(tmp_path / "tap")
    machine = Laptop(tmp_path / "laptop", hub.account, tap.command)
    try:
        machine.mount()
        there = machine.path / "conversations" / folder.name
        before = len(tap.asked())
        told = {entry.name: entry.stat().st_size for entry in os.scandir(there)}
        assert len(told) == 303
        assert len(tap.asked()) - before < 12
        message = next(there.glob("*-bob*"))
        assert message.read_text() == (hub.path / message.relative_to(machine.path)).read_text()
        before = tap.asked().count("list") + tap.asked().count("fetch")
        for _ in range(3):
            assert len(os.listdir(there)) == 303  # noqa: PTH208
            message.read_text()
            message.stat()
        assert tap.asked().count("list") + tap.asked().count("fetch") == before
    finally:
        machine.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_machine_that_says_anything_ends_its_own_link_and_no_other(
    seed: int, hub: Mounted, tmp_path: Path
) -> None:
    choice = random.Random(seed)
    folder = next((hub.path / "conversations").iterdir())
    tap = Tapped(tmp_path / "tap")
    machine = Laptop(tmp_path / "laptop", hub.account, tap.command)
    try:
        machine.mount()
        (machine.path / "tmp/a").write_text("some bytes to be garbled")
        next((machine.path / "conversations" / folder.name).glob("*-bob*")).read_bytes()
        honest = tap.up.read_bytes()
        for _ in range(30):
            wrong = bytearray(honest)
            for _ in range(choice.randrange(1, 6)):
                wrong[choice.randrange(len(wrong))] = choice.randrange(256)
            with connected(hub.account) as link:
                link.settimeout(WAIT)
                link.sendall(frame(1, HUB, [""]))
                with suppress(OSError):
                    link.sendall(choice.choice((bytes(wrong), choice.randbytes(300))))
                    link.shutdown(socket.SHUT_WR)
                    while link.recv(65_536):
                        pass
        assert (machine.path / "status").read_text() == (hub.path / "status").read_text()
        assert next((hub.path / "conversations").glob("*bob*"))
        assert tap.asked().count("hello") == 1
    finally:
        machine.close()


def test_a_conversation_that_there_is_not_is_told(hub: Mounted) -> None:
    with connected(hub.account) as link:
        link.settimeout(WAIT)
        link.sendall(frame(1, HUB, ["nothing"]))
        (answer,) = Frames().add(link.recv(65_536))
        assert read_answer(answer).errno == errno.EINVAL
        assert link.recv(1) == b""


LIAR = """
import os, random, sys
sys.path.insert(0, {root!r})
import msgpack
from cbfs.mount.single.wire import Frames, frame
choice = random.Random({seed})
stat = [5, 0o40700, 2, 0, 1, 1, 1, False, b""]
files = [6, 0o100400, 1, 10, 1, 1, 1, True, b""]
ODD = [None, 3, b"x", "y", [], [1], [True], [True, 3], [False, [[b"../x", stat]]], stat, files,
    [False, [[b"a", stat], [b"b", files], [b"a/b", files]]], [False, stat, b"x" * 99],
    [False, files, b"y" * 10], {{"user.cbfs.x": 3}}, {{b"a": b"b"}}, [0, 0, 0], [b"..", files]]
NEWS = [["appears", b"conversations/x", stat], ["goes", b"conversations/a"], ["stale", 6],
    ["moves", b"outbox/a", b"../b"], ["outdated", 5, b"a"], ["appears", b"/", 3]]
def send(data):
    while data:
        data = data[os.write(1, data):]
send(frame(1, 0, None))
send(frame(2, 0, [1, 0]))
frames = Frames()
asked = 0
while data := os.read(0, 65536):
    for each in frames.add(data):
        number, word, arguments = msgpack.unpackb(each)
        if not number or word == "hello":
            continue
        asked += 1
        if word == "list" and asked < 4:
            names = (b"outbox", b"conversations", b"status", b"tmp")
            send(frame(number, 0, [False, [[n, stat if n != b"status" else files] for n in names]]))
            continue
        news = choice.choice(NEWS)
        if choice.random() < 0.5:
            send(frame(0, 0, news))
        if choice.random() < 0.9:
            send(frame(number, choice.choice((0, 0, 0, 2, 5, 4000)), choice.choice(ODD)))
        else:
            send(choice.randbytes(choice.randrange(1, 200)))
"""


ACTS = os.listdir, os.stat, Path.read_bytes, os.listxattr, os.readlink, os.statvfs


@pytest.mark.parametrize("seed", range(3))
def test_a_hub_that_lies_gives_errors_and_ends_nothing(seed: int, tmp_path: Path) -> None:
    liar = tmp_path / "liar.py"
    liar.write_text(LIAR.format(root=str(Path.cwd()), seed=seed))
    script = tmp_path / "ssh"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} {liar}\n")
    script.chmod(0o700)
    machine = Laptop(tmp_path / "laptop", Path("account"), str(script))
    choice = random.Random(seed)
    names = ("", "outbox", "conversations", "status", "tmp", "conversations/a", "conversations/x")
    try:
        machine.mount()
        for _ in range(25):
            place = machine.path / choice.choice(names)
            for act in (
                os.listdir,
                os.stat,
                Path.read_bytes,
                os.listxattr,
                os.readlink,
                os.statvfs,
            ):
                if choice.random() < 0.3:
                    with suppress(OSError):
                        act(place)
            with suppress(OSError):
                (machine.path / "tmp" / "new").write_text("x")
        assert "fault of this program" not in machine.log()
        assert machine.unmount() == 0
    finally:
        machine.close()


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("echo 'Welcome to this machine! You have mail.'", "is not cbfs serve"),
        ("exit 127", "does not answer"),
        ("echo 'ssh: no such host' >&2; exit 255", "ssh: no such host"),
    ],
)
def test_what_is_no_hub_is_said_in_words(says: str, told: str, tmp_path: Path) -> None:
    script = tmp_path / "ssh"
    script.write_text(f"#!/bin/sh\n{says}\n")
    script.chmod(0o700)
    machine = Laptop(tmp_path / "laptop", Path("account"), str(script))
    with pytest.raises(AssertionError, match=told):
        machine.mount()
    machine.close()
