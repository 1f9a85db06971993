"""What tor sends in pieces is acknowledged piece by piece: behind an open one the next waits."""

import array
import fcntl
import os
import socket
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from cbfs.network.tor.circuits import Lease
from cbfs.network.tor.dial import TorStream
from cbfs_common.wire.requests import List, encode
from cbfs_common.wire.transport import ClientConnection, Event, ServerSecret
from cbfs_host.acknowledging import acknowledge
from cbfs_names.wire.sockets import serve
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.push import Pusher
from cbfs_server.service import Service
from cbfs_server.sockets import Server
from tests.support.serving import RANDOM

ServerMaker = Callable[[socket.socket, Path], AbstractAsyncContextManager[None]]

PATIENCE = 150.0
SECRET = ServerSecret(bytes(range(96)))


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection. The second delays what it acknowledges, as one does over which
    answers go back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        two, _ = listener.accept()
    two.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    return one, two


def unacknowledged(sock: socket.socket) -> int:
    """Bytes that were sent and are not acknowledged (tcp(7), SIOCOUTQ)."""
    found = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, found)
    return found[0]


def test_what_has_come_is_acknowledged() -> None:
    one, two = tcp_pair()
    with one, two:
        one.send(b"a piece")
        two.recv(100)
        acknowledge(two)
        assert unacknowledged(one) == 0


def test_other_sockets_are_left_alone() -> None:
    one, two = socket.socketpair()
    with one, two:
        acknowledge(one)


class NoGate:
    """Of a stream that was not dialled."""

    async def socks(self) -> tuple[str, int]:
        raise NotImplementedError

    def failed(self) -> None:
        raise NotImplementedError

    def lease(self, isolation: bytes) -> Lease:
        raise NotImplementedError

    def release(self, lease: Lease) -> None:
        return


def test_a_client_acknowledges_what_comes_from_tor() -> None:
    async def main() -> None:
        tor, ours = tcp_pair()
        plain = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        with tor:
            async with TorStream(plain, NoGate(), Lease("", "")) as stream:
                tor.send(b"a piece")
                assert await stream.receive_some() == b"a piece"
                assert unacknowledged(tor) == 0

    trio.run(main)


@asynccontextmanager
async def message_server(listener: socket.socket, place: Path) -> AsyncIterator[None]:
    store = LmdbStore(place / "store")
    async with trio.open_nursery() as nursery:
        pusher = Pusher(store)
        service = Service(store, pusher, trio.current_time)
        Server(SECRET, RANDOM, service, pusher, nursery).start(listener)
        yield
        nursery.cancel_scope.cancel()
    store.close()


class Echo:
    """Answers with what it was asked."""

    def answer(self, payload: bytes) -> bytes:
        return payload


@asynccontextmanager
async def directory(listener: socket.socket, place: Path) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, [listener], SECRET, RANDOM, Echo())
        yield
        nursery.cancel_scope.cancel()


class Client:
    """Writes when it is told to."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.transport = ClientConnection(SECRET.key, os.urandom(32), RANDOM)

    async def receive(self) -> list[Event]:
        events: list[Event] = []
        while not events:
            data = await self.stream.receive_some()
            assert data
            events = self.transport.receive(data)
        return events


@pytest.mark.parametrize(
    ("where", "server"),
    [("cbfs_server.sockets", message_server), ("cbfs_names.wire.sockets", directory)],
)
def test_a_server_acknowledges_half_a_frame(
    where: str, server: ServerMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        acknowledged = trio.Event()
        monkeypatch.setattr(f"{where}.acknowledge", lambda _sock: acknowledged.set())
        with socket.create_server(("127.0.0.1", 0)) as listener, trio.fail_after(PATIENCE):
            listener.setblocking(False)
            port = listener.getsockname()[1]
            async with server(listener, tmp_path):
                client = Client(await trio.open_tcp_stream("127.0.0.1", port))
                async with client.stream:
                    await client.stream.send_all(client.transport.start())
                    await client.receive()
                    await client.stream.send_all(client.transport.data_to_send())
                    frame = client.transport.send(1, encode(List(b"")))
                    await client.stream.send_all(frame[:1_000])
                    await acknowledged.wait()
                    await client.stream.send_all(frame[1_000:])
                    await client.receive()

    trio.run(main)
