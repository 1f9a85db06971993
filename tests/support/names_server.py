"""A directory's server for tests: the real transport, with answers that the test makes."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import shake_256

import trio

from cbfs.names.directory import Directory
from cbfs.names.lookups import Lookups
from cbfs.network.dial import LoopbackDialer
from cbfs_common.names.policy import Policy
from cbfs_common.names.wire import Reply, Request, decode_request, encode_reply
from cbfs_common.primitives import Random, kem_encapsulate
from cbfs_common.profile import Address
from cbfs_common.wire.transport import Frame, ServerConnection, ServerSecret

SERVER_SECRET = ServerSecret(b"s" * 96)

Answer = Callable[[Request], Reply | bytes | None]
"""A reply, raw bytes of one, or None: break the connection."""


def seeded_random(seed: bytes) -> Random:
    """Repeatable, except for the KEM, which draws its own."""
    state = [0]

    def token(size: int) -> bytes:
        state[0] += 1
        return shake_256(seed + state[0].to_bytes(4, "big")).digest(size)

    return Random(token, kem_encapsulate)


@asynccontextmanager
async def answering(
    answer: Answer, at: tuple[int, socket.socket] | None = None
) -> AsyncIterator[Address]:
    """A server that answers so: on loopback, or ``at`` a listening socket of that port."""

    async def handle(stream: trio.SocketStream) -> None:
        connection = ServerConnection(SERVER_SECRET, seeded_random(b"server"))
        while True:
            try:
                data = await stream.receive_some(65_536)
            except trio.BrokenResourceError:
                return
            if not data:
                return
            events = connection.receive(data)
            out = connection.data_to_send()
            if out:
                await stream.send_all(out)
            for event in events:
                if isinstance(event, Frame):
                    reply = answer(decode_request(event.payload))
                    if reply is None:
                        return
                    payload = reply if isinstance(reply, bytes) else encode_reply(reply)
                    await stream.send_all(connection.send(event.id, payload))

    async with trio.open_nursery() as nursery:
        if at is None:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port: int = listeners[0].socket.getsockname()[1]
        else:
            port, listening = at
            listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listening))]
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        failure: Exception | None = None
        try:
            yield Address(SERVER_SECRET.key, "127.0.0.1", port)
        except Exception as error:  # the test's own, not to be wrapped in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class Kept:
    """Where a client keeps its state."""

    def __init__(self) -> None:
        self.state: bytes | None = None

    def load(self) -> bytes | None:
        return self.state

    async def save(self, state: bytes) -> None:
        self.state = state


def client(policy: Policy, kept: Kept, clock: Callable[[], float]) -> Directory:
    """A client's directory over plain loopback."""
    random = seeded_random(b"client")
    return Directory(Lookups(LoopbackDialer(), policy, kept.load, kept.save, clock, random))
