"""Two message servers that share a database are restarted one after the other, again and again,
while two people write to each other from their mounts: each message arrives, once.

Both servers are behind one address, as they are behind an onion address or a name: a connection
goes to the next of them that takes it."""

import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.soak.proxy import Proxy, proxy
from tests.support.postgres import free_ports
from tests.support.postgres_cluster import Cluster
from tests.support.world import Service, User, world

MESSAGES = 500
"""That each of the two writes."""

LONG = 10
LONG_LINES = 1_000
"""One of so many takes several envelopes: so many lines."""

LOOK = 0.2
PAUSE = 20.0
"""Seconds between looks at what has arrived, and between a server that has begun again and the end
of the other: clients ask a server that breaks connections sooner ever more seldom."""

SETTLE = 900.0
"""Seconds that all has to arrive in when everybody has written all: back-off may take 300."""


@dataclass
class Rolled:
    """What it has come to."""

    seconds: float
    messages: int
    lost: int
    strange: int
    doubled: int
    restarts: int
    unclean: int
    connections: tuple[int, ...]
    gap: float

    @property
    def right(self) -> bool:
        """Each message is there once, for both, and the servers ended as they should."""
        return not (self.lost or self.strange or self.doubled or self.unclean)

    def report(self) -> str:
        """One line."""
        return (
            f"rolling: {self.seconds:.0f} s, {self.messages} messages, {self.lost} lost,"
            f" {self.strange} different, {self.doubled} twice; {self.restarts} restarts,"
            f" {self.unclean} of them unclean; connections at each server:"
            f" {', '.join(map(str, self.connections))}; longest gap {self.gap:.1f} s"
        )


class Writer(threading.Thread):
    """Saves the messages of one user in a folder of the outbox, spread over so many seconds."""

    def __init__(self, user: User, folder: str, seconds: float, seed: int) -> None:
        super().__init__(daemon=True)
        self._user = user
        self._folder = folder
        self._pause = seconds / MESSAGES
        self._random = random.Random(seed)
        self.texts: list[str] = []
        self.problem: OSError | None = None

    def run(self) -> None:
        try:
            for number in range(MESSAGES):
                text = f"{number} of {self._user.name}, {self._random.getrandbits(128):032x}\n"
                text *= 1 if number % LONG else LONG_LINES
                self._user.write(self._folder, f"{number}.txt", text)
                self.texts.append(text)
                time.sleep(2 * self._pause * self._random.random())
        except OSError as problem:
            self.problem = problem


class Watcher(threading.Thread):
    """Looks for how long nothing new appears in any mount."""

    def __init__(self, users: list[User]) -> None:
        super().__init__(daemon=True)
        self._users = users
        self.ended = threading.Event()
        self.gap = 0.0
        self.there = 0

    def run(self) -> None:
        last = time.monotonic()
        while not self.ended.wait(LOOK):
            there = sum(len(user.messages()) for user in self._users)
            if there != self.there:
                now = time.monotonic()
                self.gap = max(self.gap, now - last)
                self.there, last = there, now


@contextmanager
def _servers(place: Path, cluster: Cluster, seed: int) -> Iterator[tuple[list[Service], Proxy]]:
    """Two with one key, and what is in front of them."""
    ports = free_ports(2)
    with ExitStack() as stack:
        before = stack.enter_context(proxy(seed, *ports))
        before.calm()
        options = "--store", cluster.address, "--public", f"127.0.0.1:{before.port}"
        servers: list[Service] = []
        for name, port in zip(("one", "other"), ports, strict=True):
            data = place / name
            data.mkdir(mode=0o700)
            if servers:
                shutil.copy(place / "one" / "key", data / "key")
            servers.append(Service("cbfs-server", data, options, f"127.0.0.1:{port}"))
            stack.callback(servers[-1].close)
        yield servers, before


def _restart(servers: list[Service], writers: list[Writer]) -> tuple[int, int]:
    """One server after the other, until everybody has written all. How many restarts there were,
    and how many servers did not end well."""
    restarts = unclean = 0
    while any(writer.is_alive() for writer in writers):
        server = servers[restarts % len(servers)]
        unclean += server.end(signal.SIGTERM) != 0
        server.start()
        restarts += 1
        time.sleep(PAUSE)
    return restarts, unclean


def _look(users: list[User], texts: Counter[str]) -> tuple[int, int, int]:
    """How many messages are lost, are none that was written, and are there twice."""
    lost = strange = doubled = 0
    for user in users:
        there = Counter(path.read_text() for path in user.messages())
        lost += (texts - there).total()
        strange += sum(count for text, count in there.items() if text not in texts)
        doubled += sum(count - 1 for text, count in there.items() if text in texts)
    return lost, strange, doubled


def soak(cluster: Cluster, seconds: float, seed: int) -> Rolled:
    """Write for so many seconds."""
    with (
        tempfile.TemporaryDirectory(prefix="cbfs-soak-", dir="/var/tmp") as place,
        world(Path(place)) as here,
        _servers(Path(place), cluster, seed) as (servers, before),
    ):
        users = [here.user(name, servers[0]) for name in ("alice", "bob")]
        alice, bob = users
        (alice.mountpoint / "outbox" / "bob").mkdir()
        first = "to begin with\n"
        alice.write("bob", "first", first)
        folder = bob.wait_message("alice", first).parent.name
        alice.wait_message("alice", first)
        begun = time.monotonic()
        watcher = Watcher(users)
        watcher.start()
        writers = [Writer(user, folder, seconds, seed + n) for n, user in enumerate(users)]
        for writer in writers:
            writer.start()
        restarts, unclean = _restart(servers, writers)
        end, wanted = time.monotonic() + SETTLE, 2 * (len(writers) * MESSAGES + 1)
        while watcher.there < wanted and time.monotonic() < end:
            time.sleep(LOOK)
        took = time.monotonic() - begun
        watcher.ended.set()
        watcher.join()
        for writer in writers:
            writer.join()
            if writer.problem is not None:
                raise writer.problem
        texts = Counter([first, *(text for writer in writers for text in writer.texts)])
        lost, strange, doubled = _look(users, texts)
        connections = tuple(before.carried[port] for port in before.ports)
    return Rolled(
        *(took, len(texts), lost, strange, doubled, restarts, unclean, connections, watcher.gap)
    )
