"""A directory of separate processes: a sequencer and the verifiers of two organisations."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cbfs.names.directory import Directory
from cbfs.names.lookups import DirectoryDown, Lookups
from cbfs.network.dial import LoopbackDialer
from cbfs_common.errors import DecodeError
from cbfs_common.names.checks import Fault, Found, parse_policy
from cbfs_common.names.faults import DirectoryLies
from cbfs_common.names.operations import OperationRefused, Refusal
from cbfs_common.names.registration import parse_token
from cbfs_common.primitives import Random, kem_encapsulate
from cbfs_common.profile import parse_address
from cbfs_names.wire.peer_link import connected
from cbfs_names.wire.peer_messages import AskStatus, PeerStatus, decode, encode
from tests.support.names_server import Kept

RANDOM = Random(os.urandom, kem_encapsulate)
PROGRAM = [sys.executable, "-m", "cbfs_names.commands.main"]
ALICE, BOB = b"a" * 32, b"b" * 32
PATIENCE = 120
README = Path(__file__).parents[2] / "README.rst"


def packed(fields: list[int | bytes]) -> bytes:
    numbers = [f if isinstance(f, bytes) else f % 2**64 for f in fields]
    made: bytes = msgpack.packb(numbers)
    return made


def run(*arguments: str | Path) -> str:
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout


def host(at: int) -> str:
    """An address of this machine that no other process of tests uses."""
    number = os.getpid() % 65_536 * 16 + at
    return f"127.{100 + (number >> 16)}.{(number >> 8) % 256}.{number % 256}"


@contextmanager
def readme(place: Path) -> Iterator[dict[str, int]]:
    """What the README starts, at another address: process ids by the name of ``--data``."""
    text = README.read_text().split("A directory of several organisations\n===")[1]
    block = text.split("::\n\n", 1)[1].split("\n\n", 1)[0].replace("127.0.0.1", host(0))
    script = re.sub(r"--data (\S+) (.*) &", r"--data \1 \2 & echo \1 $!", block) + "\necho\nwait\n"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with subprocess.Popen(
        ["sh", "-e", "-c", script],
        cwd=place,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            assert shell.stdout is not None
            lines = iter(shell.stdout.readline, "\n")
            words = [line.split() for line in lines if not line.startswith("cbfs-names://")]
            yield {name: int(pid) for name, pid in words}
        finally:
            os.killpg(shell.pid, signal.SIGKILL)


@dataclass
class Town:
    """Processes by name; each has an address of this machine of its own."""

    place: Path
    program: list[str] = field(default_factory=lambda: PROGRAM)
    running: dict[str, "subprocess.Popen[str]"] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = self.place / "config"
        self.sequencer = self.place / "sequencer"

    def configure(self, *names: str, terms: str = "", rules: str) -> None:
        lines = [self.key("--sequencer", "example.org", "sequencer", 1)]
        lines += [self.key("", name, name, at) for at, name in enumerate(names, 2)]
        terms = terms or "registration work 0\n"
        self.config.write_text("".join(lines) + terms + "short 3\n" + rules)

    def key(self, option: str, name: str, data: str, at: int) -> str:
        self.urls[data] = f"{host(at)}:7701"
        more = [option] if option else []
        given = ["--data", str(self.place / data), *more, "--address", self.urls[data], name]
        return run("key", *given)

    def start(self, *names: str) -> None:
        for name in names:
            role = "--sequencer" if name == "sequencer" else "--verifier"
            self.spawn(name, role, self.urls[name])
        for name in names:
            out = self.running[name].stdout
            assert out is not None
            assert out.readline().startswith("cbfs-names://"), self.log(name)

    def spawn(self, name: str, role: str, listen: str, *more: str) -> None:
        options = [role, *more, "--data", str(self.place / name), "--config", str(self.config)]
        with (self.place / f"{name}.log").open("a") as log:
            self.running[name] = subprocess.Popen(
                [*self.program, *options, "--listen", listen],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def log(self, name: str) -> str:
        return (self.place / f"{name}.log").read_text()

    def kill(self, *names: str) -> None:
        for name in names:
            process = self.running.pop(name)
            process.kill()
            process.communicate()

    def client(self, at: str = "sequencer") -> Directory:
        text = (self.sequencer / "policy").read_text()
        if at != "sequencer":
            url = next(word for word in self.config.read_text().split() if self.urls[at] in word)
            text = re.sub(r"cbfs-names://\S+", url, text)
        kept = Kept()
        return Directory(
            Lookups(LoopbackDialer(), parse_policy(text), kept.load, kept.save, time.time, RANDOM)
        )

    async def register(self, name: str, **more: object) -> Found:
        """As soon as a quorum is there."""
        with trio.fail_after(PATIENCE):
            while True:
                try:
                    return await self.client().register(name, b"profile", ALICE, **more)  # type: ignore[arg-type]
                except (FileNotFoundError, DirectoryDown):
                    pass  # it is only starting
                except OperationRefused as error:
                    if error.refusal is not Refusal.NO_QUORUM:
                        raise
                await trio.sleep(0.1)

    async def status(self, name: str) -> PeerStatus:
        words = self.config.read_text().split()
        url = next(word for word in words if self.urls[name] in word)
        async with connected(parse_address(url, "cbfs-names"), RANDOM) as link:
            found = await link.call(AskStatus(b""))
        assert isinstance(found, PeerStatus)
        return found


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    try:
        yield made
    finally:
        made.kill(*list(made.running))


def test_two_organisations_of_three_replicas_each(tmp_path: Path) -> None:
    """By the README's commands. One replica of each is killed, one more, and the sequencer."""
    town = Town(tmp_path)
    town.sequencer = tmp_path / "seq"

    async def go(pids: dict[str, int]) -> None:
        first = await town.register("alice")
        for name in "a1", "b3":
            os.kill(pids[name], signal.SIGKILL)
        await town.register("bobby")
        client = town.client()
        changed = await client.update("alice", b"another", ALICE, first.entry)
        assert changed.entry.profile == b"another"
        os.kill(pids["a2"], signal.SIGKILL)
        with pytest.raises(OperationRefused, match="too few of the directory's verifiers") as told:
            await client.update("alice", b"a third", ALICE, changed.entry)
        assert told.value.refusal is Refusal.NO_QUORUM
        same = await client.lookups.lookup("alice", changed.entry)
        assert isinstance(same, Found)
        assert same.entry == changed.entry
        os.kill(pids["seq"], signal.SIGKILL)  # it offers the same round again
        town.spawn("seq", "--sequencer", f"{host(0)}:7710")
        town.spawn("a1", "--verifier", f"{host(0)}:7721")
        town.spawn("a2", "--verifier", f"{host(0)}:7722")
        await town.register("carol")
        last = await town.client().lookups.lookup("alice")
        assert isinstance(last, Found)
        assert last.entry.profile == b"a third"
        town.urls["a1"] = f"{host(0)}:7721"
        with trio.fail_after(PATIENCE):  # a verifier answers look-ups too, when it has caught up
            while True:
                try:
                    if isinstance(await town.client("a1").lookups.lookup("carol"), Found):
                        return
                except (OperationRefused, DirectoryDown):
                    pass  # it is only starting
                await trio.sleep(0.1)

    with readme(tmp_path) as pids:
        try:
            assert list(pids) == ["seq", "a1", "b1", "a2", "b2", "a3", "b3"]
            trio.run(go, pids)
        finally:
            town.kill(*list(town.running))


def test_invites(town: Town) -> None:
    registrar = run("key", "--data", town.place / "registrar", "--registrar", "it")
    town.configure("v1", terms=f"registration invite\n{registrar}", rules="quorum v1\n")
    town.start("sequencer", "v1")

    async def go() -> None:
        with pytest.raises(OperationRefused) as told:
            await town.register("alice")
        assert told.value.refusal is Refusal.INVITE_NEEDED
        given = run("invite", "--data", town.place / "registrar", "--config", town.config, "alice")
        await town.register("alice", token=parse_token(given))

    trio.run(go)


def test_proof_of_work(town: Town) -> None:
    town.configure("v1", terms="registration work 8\n", rules="quorum v1\n")
    town.start("sequencer", "v1")
    trio.run(town.register, "alice")


def test_operators_change_the_configuration_together(town: Town) -> None:
    """Two sign that a third comes in and newcomers prove work. Old policies end with it."""
    rules = "group all 2 {}\nquorum all\n"
    town.configure("v1", "v2", rules=rules.format("v1 v2"))
    old, new, change = town.config, town.place / "new", town.place / "change"
    another = town.place / "change.new"
    another.write_text("another change")
    third = town.key("", "v3", "v3", 9)
    text = old.read_text().replace("group all 2 v1 v2", third + "group all 2 v1 v2 v3")
    new.write_text(text.replace("registration work 0", "registration work 8"))
    town.start("sequencer", "v1", "v2")

    def signed(data: str) -> str:
        files = "--config", old, "--new", new, change
        return run("configure", "--data", town.place / data, *files)

    async def go() -> None:
        await town.register("alice")
        before = town.client()
        assert signed("v1").endswith("signed by v1; no quorum yet\n")
        with pytest.raises(subprocess.CalledProcessError):
            run("submit", "--config", old, change)
        assert signed("v2").endswith("signed by v1, v2; a quorum: submit it\n")
        assert another.read_text() == "another change"
        run("submit", "--config", old, change)
        town.kill("v2")
        town.config = new
        town.spawn("v3", "--verifier", town.urls["v3"], "--first-config", str(old))
        with trio.fail_after(PATIENCE):  # clients are told when there is a head for them
            while "witness v3" not in (town.sequencer / "policy").read_text():
                await trio.sleep(0.1)
        await town.register("bobby")
        with pytest.raises(DirectoryLies) as told:
            await before.lookups.lookup("alice")
        assert told.value.fault is Fault.QUORUM  # v2 was one of two

    trio.run(go)


def test_terms_of_a_directory_in_one_process(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.urls["sequencer"] = f"{host(1)}:7701"
    data = ["--data", str(town.sequencer), "--listen", town.urls["sequencer"]]

    @contextmanager
    def running(*terms: str) -> Iterator[None]:
        with subprocess.Popen(
            [*PROGRAM, *data, *terms], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline().startswith("cbfs-names://")
                yield
            finally:
                process.terminate()

    async def go() -> None:
        with running("--registration", "invite", "--short", "5"):
            with pytest.raises(OperationRefused) as told:
                await town.register("alice")
            assert told.value.refusal is Refusal.INVITE_NEEDED
            await town.register("alice", token=parse_token(run("invite", *data[:2])))
        with running():  # as it was
            with pytest.raises(OperationRefused) as told:
                await town.register("bobby")
            assert told.value.refusal is Refusal.INVITE_NEEDED
        with running("--registration", "work:8"):
            await town.register("bobby")

    trio.run(go)
    for wrong in (["--registration", "work"], ["--registration", "none"]):
        done = subprocess.run(
            [*PROGRAM, *data, *wrong], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "cbfs-names: error:" in done.stderr


@given(st.binary(max_size=200) | st.lists(st.integers() | st.binary()).map(packed))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        message = decode(data)
    except DecodeError:
        return
    assert decode(encode(message)) == message


def test_wrong_files_are_told(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.configure("v1", rules="quorum v1\n")
    given = ["--verifier", "--data", str(tmp_path / "new"), "--config", str(town.config)]
    done = subprocess.run([*PROGRAM, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no witness line for the key in --data" in done.stderr
    lost = tmp_path / "lost.evidence"
    lost.write_bytes(b"nothing")
    done = subprocess.run(
        [*PROGRAM, "audit", str(lost)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "cbfs-names: error:" in done.stderr
