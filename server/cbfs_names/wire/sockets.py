"""The pump between sockets and the transport. The only file of the directory that knows
sockets."""

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from cbfs_common.errors import CbfsError, TransportError
from cbfs_common.primitives import Random
from cbfs_common.wire.transport import (
    PUSH,
    Established,
    Event,
    Frame,
    ServerConnection,
    ServerSecret,
)
from cbfs_host.listening import Place
from cbfs_host.listening import listen as bound
from cbfs_host.logs import tell_fault
from cbfs_names.limits import (
    CONNECTIONS_MAX,
    HANDSHAKE_TIMEOUT,
    IDLE_TIMEOUT,
    PENDING_PER_CONNECTION,
    QUIET_LEAST,
    RECEIVE_SIZE,
    ROOM,
    WRITE_TIMEOUT,
)

_log = logging.getLogger(__name__)


class DeferredReply:
    """A reply that is still to come. ``late``: what is replied after ``patience`` seconds without
    it."""

    __slots__ = ("_done", "_patience", "_reply")

    def __init__(self, late: bytes, patience: float) -> None:
        self._done = trio.Event()
        self._patience = patience
        self._reply = late

    def settle(self, reply: bytes) -> None:
        """Give the reply, once."""
        self._reply = reply
        self._done.set()

    async def reply(self) -> bytes:
        """Wait for the reply, encoded; for ``patience`` seconds at most."""
        with trio.move_on_after(self._patience):
            await self._done.wait()
        return self._reply


class Answering(Protocol):
    """What answers the requests of clients."""

    def answer(self, payload: bytes) -> bytes | DeferredReply:
        """The encoded reply to one request, or what to wait on for it."""


async def listen(host: str, port: int) -> trio.SocketListener:
    """A listening socket of TCP. Raises HostError."""
    sock = await trio.to_thread.run_sync(bound, Place(host, port))
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def listening_port(listener: trio.SocketListener) -> int:
    """The port that a listener has, also when 0 was asked for."""
    port: int = listener.socket.getsockname()[1]
    return port


async def serve(
    listener: trio.SocketListener, secret: ServerSecret, random: Random, service: Answering
) -> None:
    """Answer connections until cancelled. ``secret``: the server's long-term keys."""
    clients = _Clients()

    async def handle(client: "_Client") -> None:
        try:
            await client.run()
        except TransportError as error:
            _log.warning("a connection was ended: %s", error.in_full)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            _log.debug("a connection broke or was too slow")
        except CbfsError as error:
            _log.error("a connection was ended: %s", error.in_full)
        except Exception as error:  # whatever it sent, it is the end of this one alone
            tell_fault("a connection", error)
        finally:
            clients.remove(client)

    async with trio.open_nursery() as nursery:
        while True:
            stream = await _accept(listener, clients)
            await clients.wait_for_room()
            client = _Client(stream, ServerConnection(secret, random), service)
            clients.add(client)
            nursery.start_soon(handle, client)


class _Clients:
    """Who is connected. Whoever holds all connections open does not keep others out."""

    def __init__(self) -> None:
        self._all: set[_Client] = set()
        self._gone = trio.Event()

    def add(self, client: "_Client") -> None:
        self._all.add(client)

    def remove(self, client: "_Client") -> None:
        self._all.discard(client)
        self._gone.set()

    async def wait_for_room(self) -> None:
        """Wait until there is room for one more, and make some."""
        while len(self._all) >= CONNECTIONS_MAX:
            self._gone = trio.Event()
            self.make_room()
            with trio.move_on_after(ACCEPT_PAUSE):
                await self._gone.wait()

    def make_room(self) -> None:
        """End those that have been quiet for longest and wait for nothing, many at once."""
        quiet = [each for each in self._all if each.quiet >= QUIET_LEAST]
        quiet.sort(key=lambda each: each.quiet, reverse=True)
        for each in quiet[:ROOM]:
            each.end()


async def _accept(listener: trio.SocketListener, clients: _Clients) -> trio.SocketStream:
    told = False
    while True:
        try:
            return await listener.accept()
        except OSError as error:  # out of descriptors, or the peer went before it was taken
            if not told:
                _log.warning("connections are not taken: %s", error.strerror)
            told = True
            clients.make_room()
            await trio.sleep(ACCEPT_PAUSE)


ACCEPT_PAUSE = 0.1
"""Seconds to let descriptors, or connections, become free."""


class _Client:
    """One connection of a client."""

    def __init__(
        self, stream: trio.SocketStream, connection: ServerConnection, service: Answering
    ) -> None:
        self._stream = stream
        self._connection = connection
        self._service = service
        self._sending = trio.Lock()
        self._free = trio.Semaphore(PENDING_PER_CONNECTION)
        self._first: list[Event] = []
        self._scope = trio.CancelScope()
        self._active = trio.current_time()

    @property
    def quiet(self) -> float:
        """Seconds for which it has asked for nothing; 0 while something is under way."""
        busy = self._free.value < PENDING_PER_CONNECTION or self._sending.locked()
        return 0.0 if busy else trio.current_time() - self._active

    def end(self) -> None:
        """End the connection, as others wait for one."""
        self._scope.cancel()

    async def run(self) -> None:
        """Until either side ends it. Raises TransportError for what breaks the protocol."""
        with self._scope:
            async with self._stream:
                await self._serve()

    async def _serve(self) -> None:
        with trio.move_on_after(HANDSHAKE_TIMEOUT) as handshake:
            if not await self._handshake():
                return
        if handshake.cancelled_caught:
            raise TransportError("no handshake in time")
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            try:
                await self._pump(nursery.start_soon)
            except (
                CbfsError,
                trio.BrokenResourceError,
                trio.ClosedResourceError,
                trio.TooSlowError,
            ) as error:
                failure = error  # not to be wrapped in a group
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _handshake(self) -> bool:
        """False when the client went away. A client sends no request before it has the
        server's part, but its first one may come together with its own."""
        while True:
            data = await self._stream.receive_some(RECEIVE_SIZE)
            if not data:
                return False
            events = self._connection.receive(data)
            out = self._connection.data_to_send()
            if out:
                await self._stream.send_all(out)
            if events:
                self._first = events[1:]
                self._active = trio.current_time()
                return isinstance(events[0], Established)

    async def _pump(self, spawn: Callable[..., object]) -> None:
        events = self._first
        while True:
            for event in events:
                if not isinstance(event, Frame) or event.id == PUSH:
                    raise TransportError("a frame that is not a request")
                found = self._service.answer(event.payload)
                if isinstance(found, DeferredReply):
                    await self._free.acquire()
                    spawn(self._later, event.id, found.reply)
                else:
                    await self._send(event.id, found)
            with trio.move_on_after(IDLE_TIMEOUT) as idle:
                data = await self._stream.receive_some(RECEIVE_SIZE)
            if idle.cancelled_caught:
                if self._free.value == PENDING_PER_CONNECTION:
                    return
                events = []
                continue
            if not data:
                return
            events = self._connection.receive(data)
            if events:  # padding is none, and half a frame neither
                self._active = trio.current_time()

    async def _later(self, id: int, reply: Callable[[], Awaitable[bytes]]) -> None:
        try:
            await self._send(id, await reply())
        except (
            TransportError,
            trio.BrokenResourceError,
            trio.ClosedResourceError,
            trio.TooSlowError,
        ):
            await self._stream.aclose()  # the reader ends, and everything with it
        finally:
            self._free.release()

    async def _send(self, id: int, reply: bytes) -> None:
        async with self._sending:
            with trio.fail_after(WRITE_TIMEOUT):
                await self._stream.send_all(self._connection.send(id, reply))
