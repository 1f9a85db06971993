"""Rows over the private Tor network, each beside plain loopback in the same run and beside the
floor: a bare echo by SOCKS over the same network, which crosses it as often as a message does, once
to a server and once from it.

The network's relays are on this machine. Its times are those of tor's scheduler (10 ms a hop) and
of the system's delayed acknowledgements (40 ms), which tor runs into between relays as it does not
switch Nagle's algorithm off: 16 KiB are 33 cells, one of them alone takes some 10 ms.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import trio

from cbfs.network.tor.config import TorOptions
from cbfs.network.tor.private_network import PrivateTorNetwork, running_network
from cbfs.sending.sender import LINGER
from cbfs_common.limits import FRAME_SIZE
from cbfs_common.onion import PORT
from tests.bench.mounts import TEXT, Watch, conversation, folder_of, say
from tests.bench.table import Row, faster, rate
from tests.support.tornet import dial, onion_echo, tor_of
from tests.support.world import User, Way, through_tor

FILE = 1 << 20
TIMEOUT = 300.0
LOOK = 0.02
"""Seconds between looks for the last of a burst."""


@dataclass(frozen=True)
class Results:
    """Seconds of one message over a new circuit and over one that is open, and of a file of one
    MiB; messages a second in a burst."""

    cold: float
    warm: float
    file: float
    burst: float


def over_tor(quick: bool) -> Iterator[Row]:
    """Two mounts, their server and directory, and nothing but tor between them."""
    with running_network(lambda step: None) as network:
        floor = trio.run(echoes, network, quick)
        ours = messages(through_tor(network), quick)
    plain = messages(None, quick)
    for peer, other in (("bare SOCKS echo", floor), ("plain loopback", plain)):
        yield faster("over Tor: save to visible, cold", ours.cold, peer, other.cold)
        yield faster("over Tor: save to visible, warm", ours.warm, peer, other.warm)
        yield faster("over Tor: a file of 1 MiB", ours.file, peer, other.file)
        what = "over Tor: messages in a burst"
        yield Row(what, rate(ours.burst), peer, rate(other.burst), ours.burst / other.burst)


def messages(way: Way | None, quick: bool) -> Results:
    """From alice to bob. Cold: when her last delivery session has ended."""
    count, burst = (1, 5) if quick else (5, 200)
    with conversation(way) as (_, _, alice, bob):
        watch = Watch(folder_of(bob))
        cold, warm = [], []
        for number in range(count):
            time.sleep(LINGER + 1)
            cold.append(say(alice, watch, 1_000 + number))
        for number in range(4 * count):
            warm.append(say(alice, watch, 2_000 + number))
        file = timed(alice, bob, [os.urandom(FILE)])
        many = timed(alice, bob, [TEXT] * burst)
        watch.close()
    return Results(median(cold), median(warm), file, burst / many)


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


async def echoes(network: PrivateTorNetwork, quick: bool) -> Results:
    """The same by a service that sends back what it gets, a frame for a message."""
    count, burst = (1, 5) if quick else (5, 200)
    options = TorOptions(control=network.control("client"))
    with tempfile.TemporaryDirectory() as place:
        async with (
            onion_echo(network) as host,
            tor_of(options, Path(place) / "tor") as (tor, _),
        ):
            cold, warm = [], []
            for number in range(count):
                started = time.perf_counter()
                stream = await dial(tor, host, PORT, b"deliver:%d" % number)
                await echo(stream, FRAME_SIZE)
                cold.append(time.perf_counter() - started)
                await stream.aclose()
            stream = await dial(tor, host, PORT, b"deliver:warm")
            for _ in range(4 * count):
                warm.append(await echo(stream, FRAME_SIZE))
            file = await echo(stream, FILE)
            many = await echo(stream, burst * FRAME_SIZE)
            await stream.aclose()
    return Results(median(cold), median(warm), file, burst / many)


async def echo(stream: trio.abc.Stream, size: int) -> float:
    """Seconds until all came back."""
    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, os.urandom(size))
        left = size
        while left:
            more = await stream.receive_some(65_536)
            if not more:
                raise AssertionError("the echo ended")
            left -= len(more)
    return time.perf_counter() - started
