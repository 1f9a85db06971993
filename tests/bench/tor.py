"""Rows over the private Tor network, each beside bare streams that take the same way through the
same network in the same run, and some beside plain loopback as well.

The bare streams are the floor: a service that is nothing but a pipe takes whole frames from one
circuit and hands them on to another, as a message server does, or answers each on the circuit that
it came by.

What they wait for, as traces of loopback show: a word of one cell is there and back in some 10 ms.
A frame is 34 cells. The tor of the client sends them in one go; of the six relays, one has read
seven of them when its scheduler (KIST) runs, and sends the others at its next run, up to 10 ms
later: some 17 ms there. A relay reads 32 cells at a time from another, so that the last
two follow in one run more; and at one relay or another they wait for the acknowledgement of the
segment before them, as tor leaves Nagle's algorithm on: up to 40 ms here, and on a real network the
way to the next relay and back besides. With the segments of loopback every part of a frame waited
so, at every relay (``cbfs.network.tor.segments``) and at both ends (``cbfs_host.acknowledging``):
0.24 s for a call. What a message takes above the floor is what it takes on plain loopback: it waits
for one frame there and one back.
"""

import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import trio

from cbfs.network.link import open_link
from cbfs.network.tor.config import TorOptions
from cbfs.network.tor.private_network import PrivateTorNetwork, running_network
from cbfs.network.tor.tor import Tor
from cbfs.sending.sender import LINGER
from cbfs_common.limits import FRAME_SIZE
from cbfs_common.onion import PORT, make_service_key
from cbfs_common.profile import parse_address
from cbfs_common.wire.requests import List, encode
from cbfs_host.acknowledging import acknowledge
from cbfs_host.listening import Place
from cbfs_host.onion import Onion
from cbfs_host.onion_service import published
from tests.bench.mounts import TEXT, Watch, conversation, folder_of, say
from tests.bench.table import Row, faster, rate
from tests.support.serving import RANDOM
from tests.support.tornet import dial, tor_of
from tests.support.world import User, Way, through_tor

FILE = 20 << 20
BURST = 100
TIMEOUT = 300.0
LOOK = 0.02
"""Seconds between looks for the last of a burst."""

FLOOR = 1 / 1.2
"""The aim beside bare streams: a fifth more time at most."""

CIRCUITS = 6
CALLS = 5
"""Circuits of each kind, since some are slower than others, and calls or messages on each."""


@dataclass(frozen=True)
class Results:
    """Seconds of a call, of a message over a new circuit and over one that is open, and of a file;
    messages a second in a burst."""

    call: float
    cold: float
    warm: float
    file: float
    burst: float


def over_tor(quick: bool) -> Iterator[Row]:
    """Two mounts, their server and directory, and nothing but tor between them."""
    with running_network(lambda step: None) as network:
        floor = trio.run(bare, network, quick)
        ours = messages(through_tor(network), network, quick)
    plain = messages(None, None, quick)
    yield faster("over Tor: a call", ours.call, "bare streams", floor.call, FLOOR)
    yield faster("over Tor: save to visible, warm", ours.warm, "bare streams", floor.warm, FLOOR)
    for peer, other in (("bare streams", floor), ("plain loopback", plain)):
        if other is plain:
            yield faster("over Tor: save to visible, warm", ours.warm, peer, other.warm)
        yield faster("over Tor: save to visible, cold", ours.cold, peer, other.cold)
        yield faster("over Tor: a file of 20 MiB", ours.file, peer, other.file)
        what = f"over Tor: messages in a burst of {BURST}"
        yield Row(what, rate(ours.burst), peer, rate(other.burst), ours.burst / other.burst)


def messages(way: Way | None, network: PrivateTorNetwork | None, quick: bool) -> Results:
    """From alice to bob. Cold: when her last delivery session has ended."""
    circuits, burst, size = (1, 5, FRAME_SIZE) if quick else (CIRCUITS, BURST, FILE)
    with conversation(way) as (_, programs, alice, bob):
        watch = Watch(folder_of(bob))
        cold, warm = [], []
        for circuit in range(circuits):
            time.sleep(LINGER + 1)
            cold.append(say(alice, watch, 1_000 + circuit))
            warm += [say(alice, watch, 2_000 + CALLS * circuit + call) for call in range(CALLS)]
        file = timed(alice, bob, [os.urandom(size)])
        many = timed(alice, bob, [TEXT] * burst)
        watch.close()
        call = trio.run(calls, network, programs.server.url, circuits) if network else 0.0
    return Results(call, median(cold), median(warm), file, burst / many)


def timed(sender: User, receiver: User, contents: list[bytes]) -> float:
    """Seconds from before the first is saved until the last is seen."""
    target = sender.mountpoint / "outbox" / folder_of(sender).name
    folder = folder_of(receiver)
    wanted = sum(1 for _ in folder.iterdir()) + len(contents)
    started = time.perf_counter()
    for number, content in enumerate(contents):
        (target / f"burst-{len(contents)}-{number}").write_bytes(content)
    while sum(1 for _ in folder.iterdir()) < wanted:
        if time.perf_counter() > started + TIMEOUT:
            raise AssertionError("waited in vain for messages")
        time.sleep(LOOK)
    return time.perf_counter() - started


@asynccontextmanager
async def client(network: PrivateTorNetwork) -> AsyncIterator[Tor]:
    """The network's own, with a control session of ours."""
    with tempfile.TemporaryDirectory() as place:
        options = TorOptions(control=network.control("client"))
        async with tor_of(options, Path(place) / "tor") as (tor, _):
            yield tor


class Patient:
    """A ``Dialer`` that tries again."""

    def __init__(self, tor: Tor) -> None:
        self._tor = tor

    async def dial(self, host: str, port: int, isolation: bytes) -> trio.abc.Stream:
        return await dial(self._tor, host, port, isolation)


async def calls(network: PrivateTorNetwork, url: str, circuits: int) -> float:
    """Seconds of a call over an open connection: a frame for a frame."""
    taken = []
    async with client(network) as tor:
        for circuit in range(circuits):
            isolation, address = b"prekey:%d" % circuit, parse_address(url)
            async with open_link(Patient(tor), address, None, isolation, RANDOM) as link:
                await link.call(encode(List(b"")))
                for _ in range(CALLS):
                    started = time.perf_counter()
                    await link.call(encode(List(b"")))
                    taken.append(time.perf_counter() - started)
    return median(taken)


# ---- the floor ---------------------------------------------------------------------------------

BACK, INTO, OUT = b"B", b"I", b"O"
"""What a stream of the pipe says first: frames come back on it, go in by it, or come out of it."""


class Pipe:
    """A service without a thought of its own."""

    def __init__(self) -> None:
        self._out: trio.SocketStream | None = None

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, until it ends."""
        with suppress(trio.BrokenResourceError):
            await self._serve(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        kind = bytes(await stream.receive_some(1))
        if kind == OUT:
            self._out = stream
            await stream.send_all(OUT)
            await stream.receive_some(1)
        while kind in (BACK, INTO) and (frame := await whole(stream, stream)):
            target = stream if kind == BACK else self._out
            if target is not None:
                await target.send_all(frame)


async def whole(stream: trio.abc.ReceiveStream, sock: trio.SocketStream | None) -> bytes:
    """A frame, or nothing at the end. A stream through Tor acknowledges by itself."""
    frame = bytearray()
    while len(frame) < FRAME_SIZE:
        more = await stream.receive_some(FRAME_SIZE - len(frame))
        if not more:
            return b""
        if sock is not None:
            acknowledge(sock)
        frame += more
    return bytes(frame)


@asynccontextmanager
async def pipe(network: PrivateTorNetwork) -> AsyncIterator[str]:
    """The host name of a pipe."""
    onion = Onion(make_service_key(os.urandom), (), network.control("host"))
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    place = Place("127.0.0.1", listener.socket.getsockname()[1])
    async with trio.open_nursery() as nursery, published(onion, place) as host:
        nursery.start_soon(trio.serve_listeners, Pipe().serve, [listener])
        yield host
        nursery.cancel_scope.cancel()


async def bare(network: PrivateTorNetwork, quick: bool) -> Results:
    """What bare streams take for the same, a frame for a message."""
    circuits, burst, size = (1, 5, FRAME_SIZE) if quick else (CIRCUITS, BURST, FILE)
    call, cold, warm = [], [], []
    async with client(network) as tor, pipe(network) as host, Streams(tor, host) as streams:
        out = await streams.open(OUT)
        await out.receive_some(1)
        for _ in range(circuits):
            back = await streams.open(BACK)
            await through(back, back, 1)
            call += [await through(back, back, 1) for _ in range(CALLS)]
            started = time.perf_counter()
            into = await streams.open(INTO)
            await through(into, out, 1)
            cold.append(time.perf_counter() - started)
            warm += [await through(into, out, 1) for _ in range(CALLS)]
        file = await through(into, out, size // FRAME_SIZE)
        many = await through(into, out, burst)
    return Results(median(call), median(cold), median(warm), file, burst / many)


class Streams:
    """Streams through Tor to a pipe, each on a circuit of its own."""

    def __init__(self, tor: Tor, host: str) -> None:
        self._tor = tor
        self._host = host
        self._open: list[trio.abc.Stream] = []

    async def open(self, kind: bytes) -> trio.abc.Stream:
        """One more of that kind."""
        isolation = b"deliver:%d" % len(self._open)
        self._open.append(await dial(self._tor, self._host, PORT, isolation))
        await self._open[-1].send_all(kind)
        return self._open[-1]

    async def __aenter__(self) -> "Streams":
        return self

    async def __aexit__(self, *_: object) -> None:
        for stream in self._open:
            await trio.aclose_forcefully(stream)


async def through(into: trio.abc.Stream, out: trio.abc.Stream, frames: int) -> float:
    """Seconds until so many frames that go in by one stream have come out of the other."""
    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(into.send_all, os.urandom(frames * FRAME_SIZE))
        for _ in range(frames):
            if not await whole(out, None):
                raise AssertionError("the pipe ended")
    return time.perf_counter() - started
