"""Padding: random moments, and what connections send when nothing is said."""

import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import open_link, request
from cbfs_common.limits import FRAME_SIZE, PADDING_MEAN
from cbfs_common.primitives import Random, below, exponential, kem_encapsulate
from cbfs_common.profile import Address
from cbfs_common.wire.requests import GetLimits
from cbfs_common.wire.transport import (
    ANSWER_SIZE,
    HELLO_SIZE,
    PROOF_SIZE,
    ClientConnection,
    ServerSecret,
)
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.push import Pusher
from cbfs_server.service import Service
from cbfs_server.sockets import Server
from tests.support.serving import RANDOM
from tests.support.talking import seeded

SECRET = ServerSecret(bytes(range(96)))


def off(samples: list[float], mean: float) -> float:
    """Kolmogorov's distance between the samples and the exponential distribution."""
    count = len(samples)
    return max(
        max((index + 1) / count - expected, expected - index / count)
        for index, expected in enumerate(1 - math.exp(-x / mean) for x in sorted(samples))
    )


def test_waiting_times_are_exponential() -> None:
    random = seeded("waits")
    samples = [exponential(random, 5.0) for _ in range(20_000)]
    assert off(samples, 5.0) < 1.63 / math.sqrt(len(samples))  # 1 in 100, and seeded


@given(st.binary(min_size=8, max_size=8), st.integers(1, 10**6))
def test_any_draw_gives_a_moment_and_a_choice(draw: bytes, count: int) -> None:
    random = Random(lambda size: draw[:size], kem_encapsulate)
    assert 0 <= exponential(random, 1.0) < 37
    assert 0 <= below(random, count) < count


def test_choices_are_even() -> None:
    random = seeded("choices")
    counts = [0] * 10
    for _ in range(20_000):
        counts[below(random, 10)] += 1
    assert all(1_800 < count < 2_200 for count in counts)


@asynccontextmanager
async def server(place: Path) -> AsyncIterator[Address]:
    """A message server in this process, on the clock of the test."""
    store = LmdbStore(place / "store")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    async with trio.open_nursery() as nursery:
        pusher = Pusher(store)
        service = Service(store, pusher, trio.current_time)
        made = Server(SECRET, RANDOM, service, pusher, nursery)
        for task in (made.pad, made.end_overdue, made.turns.run):
            nursery.start_soon(task)
        nursery.start_soon(made.accept, listener)
        yield Address(SECRET.key, "127.0.0.1", listener.getsockname()[1])
        nursery.cancel_scope.cancel()
    listener.close()
    store.close()


class Counting(trio.abc.Stream):
    """Counts the bytes of both directions of a stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.sent = self.received = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += len(data)
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self.received += len(data)
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


class CountingDialer(LoopbackDialer):
    async def dial(self, host: str, port: int, isolation: bytes) -> trio.abc.Stream:
        self.stream = Counting(await super().dial(host, port, isolation))
        return self.stream


def test_both_ends_of_a_silent_connection_send_padding(tmp_path: Path) -> None:
    """30 times the mean: each end sends some 30 frames. And a request still goes through."""

    async def main() -> None:
        dialer = CountingDialer()
        async with (
            server(tmp_path) as address,
            open_link(dialer, address, None, b"test", RANDOM) as link,
        ):
            end = trio.current_time() + 30 * PADDING_MEAN
            while trio.current_time() < end:
                await request(link, GetLimits())  # anonymous connections are ended when idle
                await trio.sleep(PADDING_MEAN)
            counted = dialer.stream
            asked = 30 * FRAME_SIZE
            sent = counted.sent - HELLO_SIZE - PROOF_SIZE - asked
            received = counted.received - ANSWER_SIZE - asked
            for size in (sent, received):
                assert size % FRAME_SIZE == 0
                assert 5 <= size / FRAME_SIZE <= 80  # 30, with standard deviation 5.5

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.001))


def test_padding_keeps_no_connection_open(tmp_path: Path) -> None:
    """It would be free to hold all that a server takes."""

    async def main() -> None:
        async with server(tmp_path) as address:
            stream = await trio.open_tcp_stream("127.0.0.1", address.port)
            connection = ClientConnection(address.key, RANDOM.token(32), RANDOM)
            await stream.send_all(connection.start())
            while not connection.receive(await stream.receive_some()):
                pass
            await stream.send_all(connection.data_to_send())
            with pytest.raises(trio.BrokenResourceError):
                for _ in range(100):
                    await trio.sleep(60)
                    await stream.send_all(connection.send(0, b""))
            await stream.aclose()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.001))
