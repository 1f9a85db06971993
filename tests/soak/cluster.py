"""Message servers that share a database of three machines, and the loss of machines one after the
other. 64 callers deliver and take prekeys through two servers, each of them again and again until
it is acknowledged; then all that was acknowledged is looked for, and compared. ``rolling`` is about
servers that are restarted instead."""

import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import shake_256
from pathlib import Path
from random import Random
from shutil import copy
from tempfile import TemporaryDirectory
from typing import Protocol

import trio

from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import Link, open_link, request
from cbfs_common.errors import CbfsError
from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.requests import (
    Deliver,
    Fetch,
    TakePrekey,
    UploadPrekeys,
    envelope_id,
)
from tests.soak import rolling
from tests.support.postgres_cluster import Cluster, running_cluster
from tests.support.serving import KEM, RANDOM, RunningServer, listed, new_account, record

CALLERS = 64
TAKERS = 4
MAILBOXES = 16
PREKEYS = 100
OWNERS = 60
"""Accounts with so many prekeys each, which are as many as may leave one at once."""

UPLOAD = 10
"""Prekeys in one request."""

CALL = 15.0
"""Seconds after which a caller asks the other server."""

LOOK = 0.05


@dataclass
class Tally:
    """What was acknowledged, and when the last time was."""

    sent: dict[bytes, list[int]] = field(default_factory=dict)
    given: list[bytes] = field(default_factory=list)
    last: float = 0.0
    gap: float = 0.0

    def count(self) -> None:
        """Something was acknowledged now."""
        now = time.monotonic()
        if self.last:
            self.gap = max(self.gap, now - self.last)
        self.last = now

    @property
    def acknowledged(self) -> int:
        """How many envelopes."""
        return sum(map(len, self.sent.values()))


class Outcome(Protocol):
    """What a case has come to."""

    @property
    def right(self) -> bool:
        """Nothing is lost, and nothing is there twice."""

    def report(self) -> str:
        """One line."""


@dataclass
class Losses:
    """What a case has come to."""

    case: str
    seconds: float
    acknowledged: int
    lost: int
    different: int
    doubled: int
    prekeys: int
    prekeys_twice: int
    gap: float

    @property
    def right(self) -> bool:
        """Nothing is lost, and nothing was given twice."""
        return not (self.lost or self.different or self.doubled or self.prekeys_twice)

    def report(self) -> str:
        """One line."""
        return (
            f"{self.case}: {self.seconds:.0f} s, {self.acknowledged} acknowledged,"
            f" {self.lost} lost, {self.different} different, {self.doubled} twice;"
            f" {self.prekeys} prekeys given, {self.prekeys_twice} twice;"
            f" longest gap {self.gap:.1f} s"
        )


class Servers:
    """Two servers with one key."""

    def __init__(self, cluster: Cluster, place: Path) -> None:
        self.cluster = cluster
        self._options = "--store", cluster.address, "--mailbox", "1000000"
        first = RunningServer(place / "one", *self._options)
        (place / "other").mkdir(mode=0o700)
        copy(place / "one" / "key", place / "other" / "key")
        self.all = [first, RunningServer(place / "other", *self._options)]

    def start(self, number: int) -> None:
        """One that has ended begins again."""
        self.all[number] = RunningServer(self.all[number].data, *self._options)

    def end(self) -> None:
        """Both."""
        for each in self.all:
            each.process.kill()
            each.process.wait()


def envelope_of(user: bytes, number: int) -> bytes:
    """The contents of an envelope, which can be made again."""
    return shake_256(user + number.to_bytes(8, "big")).digest(ENVELOPE_SIZE)


class Callers:
    """They ask until they are answered."""

    def __init__(self, servers: Servers, tally: Tally, seed: int) -> None:
        self._servers = servers
        self._tally = tally
        self._random = Random(seed)
        self.ended = trio.Event()
        self.mailboxes: list[tuple[bytes, bytes]] = []
        self.owners: list[bytes] = []
        self._asked: dict[int, tuple[bytes, int]] = {}  # by caller, what is not acknowledged yet

    async def prepare(self) -> None:
        """Mailboxes and prekeys."""
        server = self._servers.all[0]
        for _ in range(MAILBOXES):
            self.mailboxes.append(await new_account(server))
        for _ in range(OWNERS):
            secret, user = await new_account(server)
            async with open_link(LoopbackDialer(), server.address, secret, b"t", RANDOM) as link:
                for _ in range(PREKEYS // UPLOAD):
                    records = tuple(record() for _ in range(UPLOAD))
                    await request(link, UploadPrekeys(records, KEM, False))
                await request(link, UploadPrekeys((record(PrekeyKind.LAST_RESORT),), KEM, False))
            self.owners.append(user)

    async def run(self, number: int) -> None:
        """One caller, until the end."""
        work = self._take if number < TAKERS else self._deliver
        turn = number
        while not self.ended.is_set():
            turn += 1
            server = self._servers.all[turn % 2]
            try:
                async with open_link(
                    LoopbackDialer(), server.address, os.urandom(32), b"t", RANDOM
                ) as link:
                    await work(link, number)
            except (CbfsError, trio.TooSlowError):  # and again
                await trio.sleep(LOOK)

    async def _deliver(self, link: Link, caller: int) -> None:
        """What was not acknowledged at the other server is asked for again, as clients do."""
        while not self.ended.is_set():
            if caller not in self._asked:
                _, user = self._random.choice(self.mailboxes)
                self._asked[caller] = user, self._random.getrandbits(62)
            user, number = self._asked[caller]
            with trio.fail_after(CALL):
                await request(link, Deliver(user, envelope_of(user, number)))
            self._tally.sent.setdefault(user, []).append(number)
            del self._asked[caller]
            self._tally.count()

    async def _take(self, link: Link, caller: int) -> None:
        while not self.ended.is_set():
            user = self._random.choice(self.owners)
            with trio.fail_after(CALL):
                given = await request(link, TakePrekey(user))
            if given.record[16] == PrekeyKind.ONE_TIME:
                self._tally.given.append(given.record)
            self._tally.count()
            await trio.sleep(LOOK)

    async def check(self) -> tuple[int, int, int]:
        """How many of the acknowledged are lost, how many are another, and how many are there
        that nobody has asked for, or twice."""
        lost = different = doubled = 0
        for secret, user in self.mailboxes:
            server = self._servers.all[0]
            async with open_link(LoopbackDialer(), server.address, secret, b"t", RANDOM) as home:
                ids = await listed(home)
                there = set(ids)
                sent = self._tally.sent.get(user, [])
                asked = [number for of, number in self._asked.values() if of == user]
                known = {envelope_id(envelope_of(user, each)) for each in (*sent, *asked)}
                doubled += len(ids) - len(known & there)
                for number in sent:
                    expected = envelope_of(user, number)
                    id = envelope_id(expected)
                    if id not in there:
                        lost += 1
                    elif (await request(home, Fetch(id))).envelope != expected:
                        different += 1
        return lost, different, doubled


Fault = Callable[[Servers], Awaitable[None]]


async def primary_killed(servers: Servers) -> None:
    """The machine of the primary loses its power, and has it again a minute later."""
    primary = servers.cluster.primary()
    primary.kill()
    await trio.sleep(60)
    primary.start()


async def primary_stopped(servers: Servers) -> None:
    """The primary stands still for 40 s, and goes on as if nothing had happened."""
    primary = servers.cluster.primary()
    primary.signal(signal.SIGSTOP)
    await trio.sleep(40)
    primary.signal(signal.SIGCONT)


async def standbys_then_primary(servers: Servers) -> None:
    """All machines lose their power, the primary last, and have it again at once."""
    primary, standbys = servers.cluster.primary(), servers.cluster.standbys()
    for node in standbys:
        node.kill()
    await trio.sleep(2)
    primary.kill()
    for node in servers.cluster.nodes:
        node.start()


async def etcd_killed(servers: Servers) -> None:
    """One of those that the machines agree by."""
    servers.cluster.etcd[0].kill()
    await trio.sleep(30)
    servers.cluster.etcd[0].start()


async def server_killed(servers: Servers) -> None:
    """One of the two message servers."""
    servers.all[1].kill()
    await trio.sleep(10)
    servers.start(1)


FAULTS: dict[str, Fault] = {
    "primary killed": primary_killed,
    "primary stopped": primary_stopped,
    "standbys, then primary": standbys_then_primary,
    "etcd": etcd_killed,
    "server killed": server_killed,
}


async def _case(name: str, servers: Servers, seconds: float, seed: int) -> Losses:
    tally = Tally()
    callers = Callers(servers, tally, seed)
    await callers.prepare()
    begun = time.monotonic()
    async with trio.open_nursery() as nursery:
        for number in range(CALLERS):
            nursery.start_soon(callers.run, number)
        await trio.sleep(min(20.0, seconds / 4))
        await FAULTS[name](servers)
        await trio.sleep(max(20.0, seconds - (time.monotonic() - begun)))
        callers.ended.set()
    tally.count()
    took = time.monotonic() - begun
    await trio.to_thread.run_sync(servers.cluster.wait)
    lost, different, doubled = await callers.check()
    twice = len(tally.given) - len(set(tally.given))
    given = len(tally.given)
    return Losses(name, took, tally.acknowledged, lost, different, doubled, given, twice, tally.gap)


@contextmanager
def _servers(cluster: Cluster) -> Iterator[Servers]:
    with TemporaryDirectory() as place, ExitStack() as stack:
        servers = Servers(cluster, Path(place))
        stack.callback(servers.end)
        yield servers


def _lose(name: str, cluster: Cluster, seconds: float, seed: int) -> Losses:
    with _servers(cluster) as servers:
        return trio.run(_case, name, servers, seconds, seed)


CASES: dict[str, Callable[[Cluster, float, int], Outcome]] = {
    **{name: partial(_lose, name) for name in FAULTS},
    "rolling": rolling.soak,
}
"""What can be asked for."""


def soak(seconds: float, seed: int, cases: tuple[str, ...] = tuple(CASES)) -> list[Outcome]:
    """Each case with a cluster of its own, for so many seconds."""
    found = []
    for name in cases:
        with running_cluster() as cluster:
            found.append(CASES[name](cluster, seconds, seed))
            print(found[-1].report(), flush=True)
    return found
