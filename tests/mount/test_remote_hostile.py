"""Who watches the link, a hub that lies, and a machine that says anything; and a hub that is not
mounted."""

import errno
import os
import random
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM, load_account, opened_store
from cbfs.commands.process import memory
from cbfs.mount.remote.wire import ID_SIZE, read_hub_request
from cbfs.mount.single.connection import connected
from cbfs.mount.single.server import MACHINES_FOR_ONE_MAX
from cbfs.mount.single.wire import HUB, Answer, Frames, frame, read_answer
from cbfs.storage.store import Table
from tests.mount.test_memory import locked
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
        told = tap.up.read_bytes()
        hello = next(read_hub_request(each) for each in Frames().add(told))
        honest = told.replace(hello.arguments[1], bytes(ID_SIZE))  # which only the mount knows
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
send(frame(2, 0, [1, 0, b"a" * 16]))
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


TRAP = """
import os, sys, time
sys.path.insert(0, {root!r})
import msgpack
from cbfs.mount.single.wire import Frames, frame
folder = [5, 0o40700, 2, 0, 1, 1, 1, False, b""]
file = [6, 0o100600, 1, 10, 1, 1, 1, False, b""]
links = {{b"s": b".", b"t": b"s/../victim", b"u": b"t"}}
NEWS = [["appears", b"t/made", folder], ["appears", b"u/kept", file], ["goes", b"t/kept"],
    ["moves", b"t/kept", b"moved"], ["goes", b""]]
send = lambda data: os.write(1, data)
send(frame(1, 0, None))
send(frame(2, 0, [1, 0, b"a" * 16]))
frames, told = Frames(), 0
while data := os.read(0, 65536):
    for each in frames.add(data):
        number, word, arguments = msgpack.unpackb(each)
        if not number or word == "hello":
            continue
        if word == "list":
            path = arguments[0]
            found = [[n, [7, 0o120777, 1, 1, 1, 1, 1, True, b""]] for n in links]
            found += [[b"outbox", folder], [b"conversations", folder], [b"status", file]]
            inside = [[b"kept", file], [b"inner", folder]]
            send(frame(number, 0, [True, inside if path in (b"t", b"u") else found]))
            send(frame(number, 0, [False, []]))
        elif word == "stat":
            name = arguments[0].rpartition(b"/")[2]
            kind = [7, 0o120777, 1, 1, 1, 1, 1, True, b""] if name in links else folder
            send(frame(number, 0, file if name in (b"status", b"kept") else kind))
        elif word == "readlink":
            send(frame(number, 0, links[arguments[0]]))
        elif word == "statfs":
            which = int(open({which!r}).read())  # the test says which news it is to be
            send(frame(0, 0, NEWS[which]))
            send(frame(number, 0, [4096, 1, 1]))
        elif word == "ping":
            send(frame(number, 0, 1))
        else:
            send(frame(number, 5, None))
"""


def told(machine: Laptop, first: int) -> bool:
    """Let the hub say its news, whenever there is a link. Whether there is another one by now."""
    with suppress(OSError):
        os.statvfs(machine.path)
    return machine.child() not in {0, first}


def test_a_hub_that_lies_has_nothing_changed_outside_of_the_mount(tmp_path: Path) -> None:
    which = tmp_path / "which"
    trap = tmp_path / "trap.py"
    trap.write_text(TRAP.format(root=str(Path.cwd()), which=str(which)))
    script = tmp_path / "ssh"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} {trap}\n")
    script.chmod(0o700)
    machine = Laptop(tmp_path / "laptop", Path("account"), str(script))
    victim = machine.place / "victim"
    (victim / "inner").mkdir(parents=True)
    (victim / "kept").write_text("mine")
    which.write_text("0")
    try:
        machine.mount()
        for name in ("t", "u"):
            for act in (os.listdir, Path.read_bytes, os.readlink):
                with suppress(OSError):
                    act(machine.path / name)
        with pytest.raises(OSError):
            (machine.path / "t/kept").read_text()
        for number in range(5):
            which.write_text(str(number))
            # news through a link, or of the root, is the end of the one that they came on
            first = wait_for(machine.child, "a link")
            wait_for(lambda first=first: told(machine, first), f"another link: {number}")  # type: ignore[misc]
            assert sorted(os.listdir(victim)) == ["inner", "kept"]  # noqa: PTH208
            assert not list((victim / "inner").iterdir())
            assert os.listdir(machine.path)  # noqa: PTH208
        assert (victim / "kept").read_text() == "mine"
        assert "fault of this program" not in machine.log()
    finally:
        machine.close()


ENDLESS = """
import os, sys
sys.path.insert(0, {root!r})
import msgpack
from cbfs.mount.single.wire import Frames, frame
folder = [5, 0o40700, 2, 0, 1, 1, 1, False, b""]
file = [6, 0o100600, 1, 10, 1, 1, 1, False, b""]
def send(data):
    while data:
        data = data[os.write(1, data):]
send(frame(1, 0, None))
send(frame(2, 0, [1, 0, b"a" * 16]))
frames = Frames()
while data := os.read(0, 65536):
    for each in frames.add(data):
        number, word, arguments = msgpack.unpackb(each)
        if not number or word == "hello":
            continue
        if word == "list" and arguments[0] == b"":
            names = [[b"outbox", folder], [b"conversations", folder], [b"status", file]]
            send(frame(number, 0, [False, names + [[b"endless", folder], [b"long", file]]]))
        elif word == "list" and arguments[0] == b"endless":
            while True:
                send(frame(number, 0, [True, [[b"x", file]]]))
        elif word == "list":
            send(frame(number, 0, [False, []]))
        elif word == "fetch" and arguments[0] == b"long":
            while True:
                send(frame(number, 0, [True, file, b"x" * 100]))
        elif word == "fetch":
            send(frame(number, 0, [False, file, b"ten bytes!"]))
        elif word == "stat":
            there = {{b"": folder, b"long": file, b"status": file}}
            send(frame(number, 0, there.get(arguments[0], folder)))
        elif word == "ping":
            send(frame(number, 0, 1))
        else:
            send(frame(number, 5, None))
"""


@pytest.mark.parametrize("name", ["endless", "long"])
def test_an_answer_without_an_end_holds_nobody(name: str, tmp_path: Path) -> None:
    hub = tmp_path / "hub.py"
    hub.write_text(ENDLESS.format(root=str(Path.cwd())))
    script = tmp_path / "ssh"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} {hub}\n")
    script.chmod(0o700)
    machine = Laptop(tmp_path / "laptop", Path("account"), str(script))
    try:
        machine.mount()
        act = os.listdir if name == "endless" else Path.read_bytes
        with pytest.raises(OSError) as caught:
            act(machine.path / name)
        assert caught.value.errno in {errno.EIO, errno.EFBIG, errno.ETIMEDOUT, errno.EHOSTUNREACH}
        words = Path(f"/proc/{machine.pid}/status").read_text().split("VmRSS:")[1].split()
        assert int(words[0]) < 400_000
        assert machine.path.is_dir()
    finally:
        machine.close()


class Raw:
    """A link of another machine, as ``cbfs serve`` has it."""

    def __init__(self, account: Path, only: str) -> None:
        self._socket = connected(account)
        self._socket.settimeout(WAIT)
        self._frames = Frames()
        self._socket.sendall(frame(1, HUB, [only]))

    def answer(self) -> Answer:
        while True:
            data = self._socket.recv(65_536)
            assert data, "the hub has ended it"
            for each in self._frames.add(data):
                return read_answer(each)

    def close(self) -> None:
        self._socket.close()


def test_links_of_one_conversation_leave_room_for_others(hub: Mounted) -> None:
    name = next((hub.path / "conversations").iterdir()).name
    links = [Raw(hub.account, name) for _ in range(MACHINES_FOR_ONE_MAX)]
    try:
        assert [link.answer().errno for link in links] == [0] * len(links)
        with closing(Raw(hub.account, name)) as more:
            refused = more.answer()
            assert refused.errno == errno.EINVAL
            assert "too many machines" in refused.result[0]
        with closing(Raw(hub.account, "")) as whole:
            assert whole.answer().errno == 0
        links.pop().close()

        def there_is_room() -> bool:
            with closing(Raw(hub.account, name)) as again:
                return again.answer().errno == 0

        wait_for(there_is_room, "the place of one that has gone")
    finally:
        for link in links:
            link.close()


def test_what_is_read_there_is_locked_in_memory(hub: Mounted, tmp_path: Path) -> None:
    tap = Tapped(tmp_path / "tap")
    machine = Laptop(tmp_path / "laptop", hub.account, tap.command)
    try:
        machine.mount()
        before = locked(machine.pid)
        content = "x" * 30_000_000
        with (machine.path / "tmp/large").open("w") as file:
            file.write(content)
            file.flush()
            grown = locked(machine.pid) - before
        assert (grown > 20_000) is memory.may_lock()
    finally:
        machine.close()


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
