"""Home servers that are down, slow, half-open, resetting, or answer garbage: the client backs off
with jitter, says so, and goes on when they answer. Streams in memory and a clock that jumps: hours
of waiting pass at once."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
import trio.testing

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.network.dial import DialError
from cbfs.network.link import CALL_TIMEOUT, HANDSHAKE_TIMEOUT
from cbfs.network.pacing import PacedDialer
from cbfs.problems import MOST
from cbfs.receiving.mailbox import Mailbox
from cbfs.sending.cover_traffic import CoverTraffic
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import (
    Code,
    CountPrekeys,
    ErrorReply,
    GetLimits,
    LastMark,
    PrekeyCount,
    ServerLimits,
    ServerVersion,
    Subscribe,
    SwapMark,
    TellVersion,
    UploadPrekeys,
    decode_request,
    encode,
)
from cbfs_common.wire.transport import Frame, ServerConnection, ServerSecret
from tests.engine.test_prekey_upkeep import account

SERVER_SECRET = ServerSecret(SYSTEM_RANDOM.token(96))
FAR = 2**40

Behaviour = Callable[[trio.abc.Stream], "object"]


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps when all tasks wait, and be it for a thread: minutes would pass in which
    the disk is merely slow."""

    async def at_once(
        work: Callable[..., object], *arguments: object, **_options: object
    ) -> object:
        await trio.lowlevel.checkpoint()
        return work(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)


class _Receiver:
    async def take(self, envelopes: list[bytes]) -> None:
        raise AssertionError("nothing arrives")


@dataclass
class Network:
    """A dialer: each connection behaves as the next of ``plan`` says, then as its last one."""

    plan: list[str]
    nursery: trio.Nursery
    dialled: list[float] = field(default_factory=list)

    async def dial(self, host: str, port: int, isolation: bytes) -> trio.abc.Stream:
        kind = self.plan[min(len(self.dialled), len(self.plan) - 1)]
        self.dialled.append(trio.current_time())
        if kind == "down":
            raise DialError("no connection", "is the server running there?")
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(serve, theirs, kind)
        return ours


async def serve(stream: trio.abc.Stream, kind: str) -> None:
    """A home server. ``well``: as it should be."""
    connection = ServerConnection(SERVER_SECRET, SYSTEM_RANDOM)
    answered = 0
    late: list[Frame] = []
    swapped = False
    try:
        while data := await stream.receive_some(65_536):
            if kind == "silent":
                continue
            if kind == "resetting":
                return await stream.aclose()
            if kind == "garbage":
                await stream.send_all(os.urandom(20_000))
                continue
            events = connection.receive(data)
            await stream.send_all(connection.data_to_send())
            for event in events:
                if not isinstance(event, Frame):
                    continue
                answered += 1
                if kind == "half-open" and answered > 3:
                    continue
                if kind == "slow":
                    await trio.sleep(5)
                if kind == "other answers":
                    await stream.send_all(connection.send(event.id, b"\x93\x01\x02\x03"))
                    continue
                if kind == "unasked":
                    await stream.send_all(connection.send(event.id + 99, encode(Done())))
                    continue
                late.append(event)
                asked = decode_request(event.payload)
                is_one_of_many = isinstance(asked, UploadPrekeys) and not asked.replace
                if kind == "last first" and is_one_of_many and not swapped:
                    swapped = True
                    continue  # the next one is on its way: they do not wait for one another
                for each in reversed(late):
                    await stream.send_all(connection.send(each.id, reply(each.payload)))
                late.clear()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


def reply(payload: bytes) -> bytes:
    asked = decode_request(payload)
    if isinstance(asked, CountPrekeys):
        return encode(PrekeyCount(100, FAR))
    if isinstance(asked, GetLimits):
        return encode(ServerLimits(1, 1, 1))
    if isinstance(asked, TellVersion):
        return encode(ServerVersion(asked.version))
    if isinstance(asked, SwapMark):
        return encode(LastMark(b""))
    return encode(Done())


@asynccontextmanager
async def home(place: Path, *plan: str) -> AsyncIterator[tuple[Mailbox, Network, list[str]]]:
    """A home that runs against servers that behave so."""
    said: list[str] = []
    async with account(place) as given, trio.open_nursery() as nursery:
        network = Network(list(plan), nursery)
        server = replace(given.account.server, key=SERVER_SECRET.key)
        paced = PacedDialer(network, given.configuration, SYSTEM_RANDOM)
        context = replace(given, dialer=paced, account=replace(given.account, server=server))
        made = Mailbox(
            context,
            _Receiver(),  # type: ignore[arg-type]
            CoverTraffic(context),
            lambda: said.append(made.connection),
        )
        nursery.start_soon(made.run)
        yield made, network, said
        nursery.cancel_scope.cancel()


BROKEN = ("down", "silent", "resetting", "garbage", "other answers", "unasked", "half-open")


@pytest.mark.parametrize("kind", BROKEN)
def test_the_client_backs_off_says_so_and_resumes(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path / "a", *[kind] * 12, "well") as (made, network, said):
            while len(network.dialled) < 13 or not said[-1].startswith("connected"):
                await trio.sleep(600)
            assert any(text.startswith("not connected to 127.0.0.1") for text in said)
            waits = [b - a for a, b in zip(network.dialled, network.dialled[1:], strict=False)]
            longest = MOST + HANDSHAKE_TIMEOUT + CALL_TIMEOUT
            if kind != "half-open":  # which works for a while each time, and so begins anew
                assert all(wait < longest for wait in waits)
                assert waits[-1] > 10 * max(waits[0] - HANDSHAKE_TIMEOUT - CALL_TIMEOUT, 1)
                assert len({round(wait, 6) for wait in waits}) == len(waits)  # jitter
            assert made.connection.startswith("connected")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("kind", ["slow", "last first"])
def test_slow_and_disordered_answers_are_answers(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path / "a", kind) as (made, network, said):
            await trio.sleep(3_600)
            assert len(network.dialled) == 1
            assert said == [made.connection]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def _connected(
    place: Path, monkeypatch: pytest.MonkeyPatch, refused: type, answer: bytes
) -> tuple[list[str], int]:
    """What is said of a server that answers so to requests of a kind, and how often it was
    dialled."""
    said: list[str] = []
    well = reply

    def answering(payload: bytes) -> bytes:
        return answer if isinstance(decode_request(payload), refused) else well(payload)

    async def main() -> int:
        async with home(place, "well") as (_made, network, told):
            await trio.sleep(60)
            said.extend(told)
            return len(network.dialled)

    monkeypatch.setattr(f"{__name__}.reply", answering)
    return said, trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_later_server_is_gone_on_with_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, dialled = _connected(tmp_path / "a", monkeypatch, TellVersion, encode(ServerVersion(7)))
    assert dialled == 1
    assert "reads version 7 of the protocol, and this cbfs version 1 (a newer cbfs" in said[-1]


@pytest.mark.parametrize("code", [Code.BAD_REQUEST, Code.LATER_VERSION])
def test_a_server_that_knows_no_versions_is_of_the_first(
    code: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = encode(ErrorReply(code))
    said, dialled = _connected(tmp_path / "a", monkeypatch, TellVersion, answer)
    assert dialled == 1
    assert said[-1].startswith("connected to")
    assert "version" not in said[-1]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (Code.LATER_VERSION, "ask who runs it to upgrade it"),
        (Code.EARLIER_VERSION, "install a newer cbfs"),
    ],
)
def test_who_has_to_upgrade_is_in_the_status(
    code: Code, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = encode(ErrorReply(code))
    said, dialled = _connected(tmp_path / "a", monkeypatch, Subscribe, answer)
    assert dialled > 1
    assert words in said[-1]
