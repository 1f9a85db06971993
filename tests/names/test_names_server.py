"""The program cbfs-names over real sockets: started, asked, killed, started again."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from cbfs.names.directory import Directory, NameTaken
from cbfs.names.lookups import DirectoryDown, Lookups
from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import open_link
from cbfs_common.errors import TransportError
from cbfs_common.limits import BUNDLE_MAX, CHANGE_PACE
from cbfs_common.names.checks import Absent, Found, check_bundle, parse_policy
from cbfs_common.names.entry import Entry, Keys, decode_entry, name_index
from cbfs_common.names.operations import (
    Operation,
    OperationKind,
    OperationRefused,
    Refusal,
    commitment,
    registration_salt,
)
from cbfs_common.names.policy import SCHEME, Policy
from cbfs_common.names.wire import (
    Lookup,
    RefusedReply,
    Submit,
    Submitted,
    decode_reply,
    encode_request,
)
from cbfs_common.person import Person
from cbfs_common.primitives import Random, kem_encapsulate, sign_public
from cbfs_common.profile import parse_address
from cbfs_common.wire.transport import FRAME_SIZE
from tests.bench.names_at_size import directory as filled
from tests.support.names_local import update
from tests.support.names_server import Kept
from tests.support.world import CHEAP_NAMES

RANDOM = Random(os.urandom, kem_encapsulate)
PROFILE = b"a profile of usual size: " + bytes(170)
ALICE, BOB = b"a" * 32, b"b" * 32


@dataclass
class Running:
    """A cbfs-names process and what it has said."""

    process: subprocess.Popen[str]
    url: str
    data: Path

    @property
    def policy(self) -> Policy:
        return parse_policy((self.data / "policy").read_text())

    def client(self, kept: Kept) -> Directory:
        return Directory(
            Lookups(LoopbackDialer(), self.policy, kept.load, kept.save, time.time, RANDOM)
        )


def spawn(*arguments: str) -> "subprocess.Popen[str]":
    program = [sys.executable, "-m", "cbfs_names.commands.main"]
    return subprocess.Popen(
        [*program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@contextmanager
def names(data: Path, listen: str = "127.0.0.1:0") -> Iterator[Running]:
    process = spawn("--data", str(data), "--listen", listen, *CHEAP_NAMES)
    try:
        assert process.stdout is not None
        yield Running(process, process.stdout.readline().strip(), data)
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate()


def test_a_name_lives_through_its_life(tmp_path: Path) -> None:
    async def go(running: Running) -> None:
        kept, friend = Kept(), Kept()
        own, other = running.client(kept), running.client(friend)
        assert await other.lookups.lookup("alice") == Absent()
        made = await own.register("alice", PROFILE, ALICE)
        assert made.entry.profile == PROFILE
        assert await own.register("alice", PROFILE, ALICE) == made
        assert len(made.bundle) <= BUNDLE_MAX
        assert check_bundle(running.policy, made.bundle) == made.entry
        known = await other.lookups.lookup("alice")
        assert isinstance(known, Found)
        with pytest.raises(NameTaken):
            await other.register("alice", PROFILE, BOB)
        changed = await own.update("alice", PROFILE + b"2", ALICE, made.entry)
        turned = await own.rotate("alice", PROFILE + b"3", ALICE, BOB, changed.entry)
        assert turned.entry.owners.keys == (sign_public(BOB),)
        with pytest.raises(OperationRefused) as caught:
            await own.update("alice", PROFILE, ALICE, turned.entry)
        assert caught.value.refusal is Refusal.WRONG_SIGNATURE
        again = await other.lookups.lookup("alice", known.entry)
        assert again == turned
        assert check_bundle(running.policy, turned.bundle, known.entry) == turned.entry

    with names(tmp_path / "names") as running:
        assert running.policy.server == parse_address(running.url, SCHEME)
        trio.run(go, running)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait() == 0


def test_long_history_is_fetched_in_pages(tmp_path: Path) -> None:
    """Of a name that was changed each hour for some days."""
    entries: list[Entry] = []
    with filled(tmp_path / "names") as (store, core, here):
        now = int(time.time()) - 80 * CHANGE_PACE
        core.start(now)
        owners = Keys(1, (sign_public(ALICE),))
        person, salt = Person(here, "alice"), registration_salt(ALICE, Person(here, "alice"))
        hidden = commitment(person, owners, salt)
        commit = Operation(OperationKind.COMMIT, here, "", 0, 0, bytes(32), 100, hidden)
        register = replace(
            commit,
            kind=OperationKind.REGISTER,
            name="alice",
            incarnation=1,
            version=1,
            secret=salt,
            owners=owners,
            profile=PROFILE,
        )
        core.round([commit.encode()], now)
        core.round([register.signed((ALICE,)).encode()], now)
        for number in range(71):
            with store.read() as view:
                data = view.entry(name_index(here, "alice"))
            assert data is not None
            entries.append(decode_entry(data))
            change = replace(update(entries[-1], bytes([number]) * 1_000), directory=here)
            now += CHANGE_PACE
            core.round([replace(change, signatures=()).signed((ALICE,)).encode()], now)

    async def go(running: Running) -> None:
        found = await running.client(Kept()).lookups.lookup("alice", entries[0])
        assert isinstance(found, Found)
        assert found.entry.version == 72

    with names(tmp_path / "names") as running:
        trio.run(go, running)


def test_many_register_at_once(tmp_path: Path) -> None:
    async def take(running: Running, name: str) -> None:
        await running.client(Kept()).register(name, PROFILE, ALICE)

    async def go(running: Running) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(take, running, f"name{number}")

    with names(tmp_path / "names") as running:
        trio.run(go, running)


def test_of_two_who_register_a_name_one_gets_it(tmp_path: Path) -> None:
    async def go(running: Running) -> list[str]:
        results = []

        async def take(seed: bytes) -> None:
            try:
                await running.client(Kept()).register("alice", PROFILE, seed)
                results.append("got it")
            except NameTaken:
                results.append("taken")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, ALICE)
            nursery.start_soon(take, BOB)
        return results

    with names(tmp_path / "names") as running:
        assert sorted(trio.run(go, running)) == ["got it", "taken"]


def test_killed_directory_loses_nothing_it_has_published(tmp_path: Path) -> None:
    """SIGKILL at whatever it is doing while others register; then every name that a client was
    given is there, in a log that goes on from the one before."""
    data, kept = tmp_path / "names", Kept()
    given: list[str] = []

    async def register_until_killed(running: Running, round_: int) -> None:
        async def keep_on(part: int) -> None:
            client = running.client(Kept())
            for number in range(1_000):
                name = f"name-{round_}-{part}-{number}"
                try:
                    await client.register(name, PROFILE, ALICE)
                except DirectoryDown:
                    return
                given.append(name)
                if part == 0 and number == 5:
                    running.process.kill()

        await running.client(kept).lookups.lookup("nobody")
        async with trio.open_nursery() as nursery:
            for part in range(3):
                nursery.start_soon(keep_on, part)

    async def all_there(running: Running) -> None:
        client = running.client(kept)
        for name in given:
            assert isinstance(await client.lookups.lookup(name), Found)

    for round_ in range(3):
        with names(data) as running:
            trio.run(register_until_killed, running, round_)
            assert running.process.wait() == -signal.SIGKILL
    with names(data) as running:
        trio.run(all_there, running)
    assert len(given) >= 15


def test_registration_that_was_cut_off_is_taken_up_again(tmp_path: Path) -> None:
    """A client died after its COMMIT: the same call later goes on with the same commitment."""

    async def go(running: Running) -> None:
        directory, owners = running.policy.directory, Keys(1, (sign_public(ALICE),))
        salt = registration_salt(ALICE, Person(directory, "alice"))
        hidden = commitment(Person(directory, "alice"), owners, salt)
        commit = Operation(OperationKind.COMMIT, directory, "", 0, 0, bytes(32), 100, hidden)
        request = encode_request(Submit(commit.encode()))
        address = running.policy.server
        async with open_link(LoopbackDialer(), address, None, b"", RANDOM) as link:
            assert decode_reply(await link.call(request)) == Submitted(1)
            again = decode_reply(await link.call(request))
            assert again == RefusedReply(Refusal.COMMIT_REPEATED)
        found = await running.client(Kept()).register("alice", PROFILE, ALICE)
        assert found.entry.round == 2

    with names(tmp_path / "names") as running:
        trio.run(go, running)


def test_what_is_no_request_is_answered_and_what_is_no_frame_ends_the_connection(
    tmp_path: Path,
) -> None:
    async def go(running: Running) -> None:
        address = running.policy.server
        async with open_link(LoopbackDialer(), address, None, b"", RANDOM) as link:
            for payload in (b"", b"\xc1", b"\x90", encode_request(Lookup("alice"))[:-1]):
                assert decode_reply(await link.call(payload)) == RefusedReply(Refusal.BAD_REQUEST)
        for noise in (b"GET / HTTP/1.1\r\n\r\n" * 200, os.urandom(3 * FRAME_SIZE), bytes(5_000)):
            stream = await trio.open_tcp_stream(address.host, address.port)
            async with stream:
                try:
                    await stream.send_all(noise)
                    while await stream.receive_some(65_536):
                        pass
                except trio.BrokenResourceError:
                    pass
        with pytest.raises(TransportError):
            wrong = parse_address(f"{SCHEME}://{'a' * 52}@{address.host}:{address.port}", SCHEME)
            async with open_link(LoopbackDialer(), wrong, None, b"", RANDOM):
                pass
        assert await running.client(Kept()).lookups.lookup("alice") == Absent()

    with names(tmp_path / "names") as running:
        trio.run(go, running)


def test_files_are_private_and_the_policy_is_not(tmp_path: Path) -> None:
    data = tmp_path / "names"
    with names(data) as running:
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data.iterdir()}
        first = running.policy
    assert (modes.pop("store"), modes.pop("admin")) == (0o700, 0o700)
    for name in "policy", "policy.degraded", "config":  # for clients, and operators
        assert modes.pop(name) == 0o644
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    with names(data) as running:
        assert running.policy.config == first.config
        assert running.policy.server.key == first.server.key


def failure(*arguments: str) -> tuple[int, str]:
    process = spawn(*arguments)
    out, error = process.communicate()
    assert out == ""
    return process.returncode, error


def test_what_it_cannot_do_is_said_in_a_line_and_a_hint(tmp_path: Path) -> None:
    data = str(tmp_path / "names")
    with names(tmp_path / "names"):
        code, error = failure("--data", data)
        assert (code, error.count("\n")) == (1, 2)
        assert "another cbfs-names uses" in error
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, error = failure("--data", data, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        assert (code, error.count("\n")) == (1, 2)
        assert "cannot listen" in error
    for listen in ("127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000"):
        code, error = failure("--data", data, "--listen", listen)
        assert (code, error.count("error: argument --listen: ")) == (2, 1)
    code, error = failure("--data", data, "--listen", "0.0.0.0:0")
    assert (code, error.count("error:"), error.count("hint:")) == (1, 1, 1)
    (tmp_path / "file").write_text("")
    assert failure("--data", str(tmp_path / "file"))[0] == 1
    (tmp_path / "names" / "verifier.key").unlink()
    code, error = failure("--data", data)
    assert code == 1
    assert "verifier.key is missing" in error
    assert failure()[0] == 2


def test_an_operator_chooses_the_namespace_once(tmp_path: Path) -> None:
    data = tmp_path / "names"
    with names(data) as running:
        assert running.policy.namespace.endswith(".names")
    shutil.rmtree(data)
    program = ("--data", str(data), "--listen", "127.0.0.1:0")
    for _ in range(2):
        process = spawn(*program, "--namespace", "example.org")
        assert process.stdout is not None
        assert process.stdout.readline().startswith(SCHEME)
        process.terminate()
        process.communicate()
        assert parse_policy((data / "policy").read_text()).namespace == "example.org"
    with names(data) as running:
        assert running.policy.namespace == "example.org"
    for wrong in ("example.com", "Example.org", "a/b", "", "a..b"):
        process = spawn(*program, "--namespace", wrong)
        _, said = process.communicate()
        assert process.returncode == (1 if wrong else 2)
        assert "namespace" in said
