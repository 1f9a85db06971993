"""A directory of separate processes: a sequencer and the verifiers of two organisations."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cbfs.dial import LoopbackDialer
from cbfs.directory import Directory, Found
from cbfs_common.errors import DecodeError
from cbfs_common.names_client import parse_policy
from cbfs_common.names_note import parse_note
from cbfs_common.names_refusals import OperationRefused, Refusal
from cbfs_common.names_registration import parse_token
from cbfs_common.primitives import Random, kem_encapsulate
from cbfs_common.profile import parse_address
from cbfs_names.calls import connected
from cbfs_names.peer_wire import AskStatus, Status, decode, encode
from tests.names_server import Kept

RANDOM = Random(os.urandom, kem_encapsulate)
PROGRAM = [sys.executable, "-c", "from cbfs_names.cli import main; raise SystemExit(main())"]
ALICE, BOB = b"a" * 32, b"b" * 32
PATIENCE = 120


def packed(fields: list[int | bytes]) -> bytes:
    numbers = [f if isinstance(f, bytes) else f % 2**64 for f in fields]
    made: bytes = msgpack.packb(numbers)
    return made


def run(*arguments: str | Path) -> str:
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout


@dataclass
class Town:
    """Processes by name; each has an address of this machine of its own."""

    place: Path
    running: dict[str, "subprocess.Popen[str]"] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = self.place / "config"

    def configure(self, *names: str, terms: str = "", rules: str) -> None:
        lines = [self._key("--sequencer", "example.org/names", "sequencer", 1)]
        lines += [self._key("", name, name, at) for at, name in enumerate(names, 2)]
        self.config.write_text("".join(lines) + terms + rules)

    def _key(self, option: str, name: str, data: str, at: int) -> str:
        pid = os.getpid()
        host = f"127.{100 + (pid >> 16) % 100}.{(pid >> 8) % 256}.{pid % 25 * 10 + at}"
        self.urls[data] = f"{host}:7701"
        more = [option] if option else []
        given = ["--data", str(self.place / data), *more, "--address", self.urls[data], name]
        return run("key", *given)

    def start(self, *names: str) -> None:
        for name in names:
            role = "--sequencer" if name == "sequencer" else "--verifier"
            options = [role, "--data", str(self.place / name), "--config", str(self.config)]
            with (self.place / f"{name}.log").open("a") as log:
                self.running[name] = subprocess.Popen(
                    [*PROGRAM, *options, "--listen", self.urls[name]],
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
        for name in names:
            out = self.running[name].stdout
            assert out is not None
            assert out.readline().startswith("cbfs-names://"), self.log(name)

    def log(self, name: str) -> str:
        return (self.place / f"{name}.log").read_text()

    def kill(self, *names: str) -> None:
        for name in names:
            process = self.running.pop(name)
            process.kill()
            process.communicate()

    def client(self, at: str = "sequencer") -> Directory:
        text = (self.place / "sequencer" / "policy").read_text()
        if at != "sequencer":
            url = next(word for word in self.config.read_text().split() if self.urls[at] in word)
            text = re.sub(r"cbfs-names://\S+", url, text)
        kept = Kept()
        return Directory(
            LoopbackDialer(), parse_policy(text), kept.load, kept.save, time.time, RANDOM
        )

    async def register(self, name: str, **more: object) -> Found:
        """As soon as a quorum is there."""
        with trio.fail_after(PATIENCE):
            while True:
                try:
                    return await self.client().register(name, b"profile", ALICE, **more)  # type: ignore[arg-type]
                except OperationRefused as error:
                    if error.refusal is not Refusal.NO_QUORUM:
                        raise
                await trio.sleep(0.1)

    async def status(self, name: str) -> Status:
        words = self.config.read_text().split()
        url = next(word for word in words if self.urls[name] in word)
        async with connected(parse_address(url, "cbfs-names"), RANDOM) as link:
            found = await link.call(AskStatus())
        assert isinstance(found, Status)
        return found


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    try:
        yield made
    finally:
        made.kill(*list(made.running))


def test_two_organisations_of_three_replicas_each(town: Town) -> None:
    replicas = "a1", "a2", "a3", "b1", "b2", "b3"
    rules = "group a 2 a1 a2 a3\ngroup b 2 b1 b2 b3\ngroup both all a b\nquorum both\n"
    town.configure(*replicas, rules=rules)
    town.start("sequencer", *replicas)

    async def go() -> None:
        first = await town.register("alice")
        town.kill("a1", "b3")
        await town.register("bobby")
        client = town.client()
        changed = await client.update("alice", b"another", ALICE, first.entry)
        assert changed.entry.profile == b"another"
        town.kill("a2")
        with pytest.raises(OperationRefused, match="too few of the directory's verifiers") as told:
            await client.update("alice", b"a third", ALICE, changed.entry)
        assert told.value.refusal is Refusal.NO_QUORUM
        same = await client.lookup("alice", changed.entry)
        assert isinstance(same, Found)
        assert same.entry == changed.entry
        town.kill("sequencer")  # it offers the same round again
        town.start("sequencer", "a1", "a2", "b3")
        await town.register("carol")
        last = await town.client().lookup("alice")
        assert isinstance(last, Found)
        assert last.entry.profile == b"a third"
        with trio.fail_after(PATIENCE):  # a verifier answers look-ups too, when it has caught up
            while True:
                try:
                    if isinstance(await town.client("a1").lookup("carol"), Found):
                        return
                except OperationRefused:
                    pass
                await trio.sleep(0.1)

    trio.run(go)


def test_a_verifier_restored_from_a_copy_signs_no_second_head(town: Town) -> None:
    """The sequencer and a third are old copies as well, with another round in the place of the one
    that the verifier signed, and do not tell: another verifier does."""
    town.configure("v1", "v2", "v3", rules="group all 2 v1 v2 v3\nquorum all\n")
    town.start("sequencer", "v1", "v2", "v3")

    def signers(note: bytes) -> set[str]:
        return {line.name for line in parse_note(note).lines}

    async def go() -> None:
        await town.register("alice")
        names = "sequencer", "v1", "v2", "v3"
        copied = "sequencer", "v1", "v3"
        town.kill(*names)
        for name in copied:
            shutil.copytree(town.place / name, town.place / f"{name}.copy")
        town.start(*names)
        await town.register("bobby")
        with trio.fail_after(PATIENCE):  # v2 has seen v1's signature of the newest round
            while "v1" not in signers((await town.status("v2")).head) or (
                (await town.status("v2")).head.split(b"\n")[1]
                != (await town.status("sequencer")).head.split(b"\n")[1]
            ):
                await trio.sleep(0.1)
        old = (await town.status("v2")).head
        town.kill(*names)
        for name in copied:
            shutil.rmtree(town.place / name)
            (town.place / f"{name}.copy").rename(town.place / name)
        town.start("sequencer", "v1", "v3", "v2")
        with trio.fail_after(PATIENCE):
            while "restored from a copy" not in town.log("v1"):
                await trio.sleep(0.1)
        with pytest.raises(OperationRefused) as told, trio.fail_after(PATIENCE):
            while True:
                await town.client().register("mallory", b"profile", BOB)
        assert told.value.refusal is Refusal.NO_QUORUM
        with trio.fail_after(PATIENCE):
            while "is not signed: restored from a copy" not in town.log("v1"):
                await trio.sleep(0.1)
        for name in "sequencer", "v1", "v3":
            status = await town.status(name)
            for note in (status.head, status.votes):
                if note and note.split(b"\n")[1] >= old.split(b"\n")[1]:
                    assert "v1" not in signers(note)

    trio.run(go)


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
