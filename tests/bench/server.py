"""Rows of the message server. It runs as a process of its own; the load comes from this one.

A connection of the load has one delivery on its way at a time, as a client that waits for the
server's word has. Every delivery is a whole frame of the transport either way, and counts when
the server has answered that it is on the disk.
"""

import os
import resource
import select
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.primitives import Random, dh_public, kem_encapsulate
from cbfs_common.profile import Address, parse_address
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import (
    AnyRequest,
    CreateAccount,
    Deliver,
    GetLimits,
    ServerLimits,
    decode_reply,
    encode,
)
from cbfs_common.wire.transport import ClientConnection, Established, Frame
from tests.bench.table import Row, rate
from tests.support.world import Service

RANDOM = Random(os.urandom, kem_encapsulate)
ORIGINAL = {1: (1_338, 1.3), 8: (2_408, 2.5), 64: (2_104, 4.0), 256: (1_677, 5.0)}
"""Connections: what the Go original was measured to deliver a second, and how many times that
we aim for. It was on a disk of ORIGINAL_SYNCS."""

ORIGINAL_SYNCS = 4_900
ORIGINAL_IDLE = (63 * 1_024, 110 * 1_024)
"""Bytes a connection took: idle, and after one request."""

IDLE_AIM = 5 * 1_024
USERS = 48
"""Mailboxes that the load is spread over; each holds 16,384 envelopes."""

TIMEOUT = 60.0


@contextmanager
def on_disk() -> Iterator[Path]:
    """A fresh directory on the disk of the checkout: /tmp may be memory."""
    results = Path("bench-results")
    results.mkdir(exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="run-", dir=results))
    try:
        yield place.absolute()
    finally:
        shutil.rmtree(place)


@contextmanager
def message_server(place: Path) -> Iterator[Service]:
    service = Service("cbfs-server", place / "server")
    try:
        yield service
    finally:
        service.end(signal.SIGTERM)
        service.close()
        shutil.rmtree(place / "server")


class Client:
    """A connection over a plain socket: trio would take a good part of the load's own core."""

    def __init__(self, address: Address, secret: bytes, timeout: float = TIMEOUT) -> None:
        self.socket = socket.create_connection((address.host, address.port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = ClientConnection(address.key, secret, RANDOM)
        self.socket.sendall(self._connection.start())
        if not any(isinstance(event, Established) for event in self._events()):
            raise AssertionError("no handshake")
        self.socket.sendall(self._connection.data_to_send())

    def _events(self) -> list[object]:
        events: list[object] = []
        while not events:
            data = self.socket.recv(65_536)
            if not data:
                raise AssertionError("the server closed the connection")
            events = list(self._connection.receive(data))
        return events

    def send(self, payload: bytes) -> None:
        self.socket.sendall(self._connection.send(1, payload))

    def replies(self) -> list[bytes]:
        """What one read completes; an answer may take two."""
        data = self.socket.recv(65_536)
        if not data:
            raise AssertionError("the server closed the connection")
        events = self._connection.receive(data)
        return [event.payload for event in events if isinstance(event, Frame)]

    def ask(self, request: AnyRequest) -> object:
        """One request and its reply."""
        self.send(encode(request))
        while not (found := self.replies()):
            pass
        return decode_reply(found[0])


def users(address: Address) -> list[bytes]:
    """Make the accounts that get the deliveries."""
    made = []
    for _ in range(USERS):
        secret = os.urandom(32)
        client = Client(address, secret)
        if client.ask(CreateAccount()) != Done():
            raise AssertionError("no account")
        client.socket.close()
        made.append(dh_public(secret))
    return made


class Load:
    """Connections that deliver as fast as they are answered."""

    def __init__(
        self, address: Address, connections: int, mailboxes: Sequence[bytes] | None = None
    ) -> None:
        """``mailboxes``: where to, in turns; else USERS new ones."""
        self.answered = 0
        """Deliveries that were."""
        self._users = users(address) if mailboxes is None else mailboxes
        self._filler = os.urandom(ENVELOPE_SIZE - 8)
        self._sent = 0
        self._clients = [Client(address, os.urandom(32)) for _ in range(connections)]

    def _next(self) -> bytes:
        self._sent += 1
        user = self._users[self._sent % len(self._users)]
        return encode(Deliver(user, self._sent.to_bytes(8, "big") + self._filler))

    def run(self, seconds: float) -> float:
        """Deliveries a second."""
        done = encode(Done())
        poll = select.epoll()
        by_descriptor = {client.socket.fileno(): client for client in self._clients}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.EPOLLIN)
        self.answered = 0
        for client in self._clients:
            client.send(self._next())
        started = time.perf_counter()
        while (taken := time.perf_counter() - started) < seconds:
            for descriptor, _ in poll.poll(TIMEOUT):
                client = by_descriptor[descriptor]
                for reply in client.replies():
                    if reply != done:
                        raise AssertionError(f"refused: {decode_reply(reply)}")
                    self.answered += 1
                    client.send(self._next())
        poll.close()
        return self.answered / taken

    def close(self) -> None:
        for client in self._clients:
            client.socket.close()


def syncs(place: Path, seconds: float) -> float:
    """How often a second the disk can append 16 KiB and make them durable."""
    data, count = os.urandom(ENVELOPE_SIZE), 0
    path = place / "syncs"
    with path.open("wb", buffering=0) as file:
        started = time.perf_counter()
        while (taken := time.perf_counter() - started) < seconds:
            file.write(data)
            os.fdatasync(file.fileno())
            count += 1
    path.unlink()
    return count / taken


def deliveries(quick: bool) -> Iterator[Row]:
    """Deliveries a second that are on the disk, at several numbers of connections."""
    seconds = 0.5 if quick else 10.0
    for connections, (original, aim) in ORIGINAL.items():
        what = f"server, deliveries, connections: {connections}"
        with on_disk() as place, message_server(place) as service:
            load = Load(parse_address(service.url), connections)
            before = syncs(place, seconds / 5)
            ours = load.run(seconds)
            disk = max(before, syncs(place, seconds / 5))
            load.close()
        scaled = original * disk / ORIGINAL_SYNCS
        yield Row(
            what, rate(ours), "Go original, scaled by the disk", rate(scaled), ours / scaled, aim
        )
        yield Row(what, rate(ours), "the disk's fdatasync of 16 KiB", rate(disk), ours / disk)


def memory(pid: int) -> int:
    """Bytes that a process has for itself."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = (line.split() for line in rollup.splitlines()[1:])
    return 1_024 * sum(int(field[1]) for field in fields if field[0].startswith("Private_"))


def idle(quick: bool) -> Iterator[Row]:
    """What one more connection that is silent takes of memory: after the handshake, and after
    one request."""
    count = 100 if quick else 2_000
    may_open(2 * count + 200)
    with on_disk() as place, message_server(place) as service:
        address = parse_address(service.url)
        clients = [asked(address) for _ in range(50)]
        results = [memory(service.pid)]
        for connect in (silent, asked):
            clients += [connect(address) for _ in range(count)]
            clients[0].ask(GetLimits())  # by its reply the server has taken in the others
            results.append(memory(service.pid))
        for client in clients:
            client.socket.close()
    for what, original, before, after in zip(
        ("idle", "after a request"), ORIGINAL_IDLE, results, results[1:], strict=False
    ):
        each = (after - before) / count
        yield Row(
            f"server, memory a connection, {what}",
            f"{each / 1_024:.1f} KiB",
            "Go original, as once measured",
            f"{original / 1_024:.1f} KiB",
            original / each,
            original / IDLE_AIM if what == "idle" else None,
        )


CROWD, BUSY = 10_000, 64


def crowd(quick: bool) -> Iterator[Row]:
    """Deliveries over BUSY connections while CROWD others are silent, beside those without them;
    and what one of those takes."""
    count, seconds = (200, 0.5) if quick else (CROWD, 10.0)
    may_open(count + 400)
    with on_disk() as place, message_server(place) as service:
        address = parse_address(service.url)
        load = Load(address, BUSY)
        alone = load.run(seconds)
        load.close()
        before = memory(service.pid)
        clients = [silent(address) for _ in range(count)]
        asked(address).socket.close()  # by its reply the server has taken in the others
        each = (memory(service.pid) - before) / count
        load = Load(address, BUSY)
        among = load.run(seconds)
        load.close()
        for client in clients:
            client.socket.close()
    what = f"server, deliveries, {BUSY} busy, {count:,} idle"
    yield Row(what, rate(among), "without the idle ones", rate(alone), among / alone, 0.5)
    yield Row(
        f"server, memory of one of {count:,} idle",
        f"{each / 1_024:.1f} KiB",
        "Go original, as once measured",
        f"{ORIGINAL_IDLE[0] / 1_024:.1f} KiB",
        ORIGINAL_IDLE[0] / each,
        ORIGINAL_IDLE[0] / IDLE_AIM,
    )


def may_open(files: int) -> None:
    """Raise the limit of open files, as far as that is allowed; the server inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files > soft:
        limit = files if hard == resource.RLIM_INFINITY else min(hard, files)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def silent(address: Address) -> Client:
    """A connection that has only shaken hands."""
    return Client(address, os.urandom(32))


def asked(address: Address) -> Client:
    """A connection that has asked something once."""
    client = Client(address, os.urandom(32))
    if not isinstance(client.ask(GetLimits()), ServerLimits):
        raise AssertionError("no limits")
    return client
