"""The pump between sockets and the transport. The only file of the directory that knows
sockets."""

import logging
import resource
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from cbfs_common.errors import CbfsError, TransportError
from cbfs_common.names.wire import kind_in_a_word, refusal_of
from cbfs_common.primitives import Random
from cbfs_common.wire.transport import (
    PUSH,
    Established,
    Event,
    Frame,
    ServerConnection,
    ServerSecret,
)
from cbfs_host.acknowledging import acknowledge
from cbfs_host.handshakes import HANDSHAKES_PART, Handshakes
from cbfs_host.lobby import Lobby
from cbfs_host.logs import tell_fault
from cbfs_host.meter import Meters
from cbfs_host.settings import Current
from cbfs_names.limits import (
    ACCEPTS_MAX,
    BUSY_PART,
    FILES_LEFT,
    HANDSHAKE_TIMEOUT,
    HANDSHAKES_MAX,
    IDLE_TIMEOUT,
    PENDING_PER_CONNECTION,
    QUIET_LEAST,
    RECEIVE_SIZE,
    ROOM,
    SILENCE_CHECK,
    WRITE_TIMEOUT,
    DirectoryLimits,
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


async def serve(
    listeners: Sequence[socket.socket],
    secret: ServerSecret,
    random: Random,
    service: Answering,
    clients: "Clients | None" = None,
) -> None:
    """Answer connections at non-blocking listening sockets, until cancelled. ``secret``: the
    server's long-term keys. ``clients`` gets who is connected."""
    clients = clients or Clients()
    lobby = clients.lobby

    async def handle(client: "_Client") -> None:
        try:
            await client.run()
        except TransportError as error:
            clients.count("broken")
            _log.warning("a connection was ended: %s", error.in_full)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            _log.debug("a connection broke or was too slow")
        except CbfsError as error:
            _log.error("a connection was ended: %s", error.in_full)
        except Exception as error:  # whatever it sent, it is the end of this one alone
            tell_fault("a connection", error)
        finally:
            clients.remove(client)

    try:
        async with trio.open_nursery() as nursery:
            for each in listeners:
                nursery.start_soon(_accept, each, clients)
            nursery.start_soon(_end_silent, lobby)
            while True:
                for sock in await lobby.spoke():
                    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
                    transport = ServerConnection(secret, random)
                    client = _Client(stream, transport, service, clients)
                    clients.add(client)
                    nursery.start_soon(handle, client)
    finally:
        lobby.clear()


class Clients:
    """Who is connected. Whoever holds all connections open does not keep others out. What they ask,
    and what becomes of them, is counted in ``meters``."""

    def __init__(
        self, meters: Meters | None = None, limits: Current[DirectoryLimits] | None = None
    ) -> None:
        self.meters = meters or Meters()
        self.lobby = Lobby()
        self._limits = limits or Current(DirectoryLimits())
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._files = max(ROOM, files - FILES_LEFT)
        self.handshakes: Handshakes[_Client] = Handshakes(HANDSHAKES_MAX)
        self._all: dict[_Client, None] = {}  # who came first is first
        self._gone = trio.Event()

    @property
    def connections(self) -> int:
        """How many there are, those whose handshake is under way included."""
        return len(self._all) + len(self.lobby)

    @property
    def handshaking(self) -> int:
        """Those whose handshake is under way, or has not begun."""
        return len(self.handshakes) + len(self.lobby)

    def count(self, what: str) -> None:
        """Count what has become of a connection."""
        self.meters.connections.count(what)

    def add(self, client: "_Client") -> None:
        """One that has said something."""
        self._all[client] = None
        self.handshakes.add(client)

    def remove(self, client: "_Client") -> None:
        """One that has ended."""
        self._all.pop(client, None)
        self.handshakes.remove(client)
        self._gone.set()

    @property
    def _most(self) -> int:
        return min(self._limits.now.connections, self._files)

    async def wait_for_room(self) -> None:
        """Wait until there is room for one more, and make some: by who is silent, or else by the
        first handshake that is under way, when these have more than their part or there is nobody
        else. Or else by those who have been quiet for longest and wait for nothing, many at once;
        when all are busy, by those who came first, and last of them those who wait for an
        answer."""
        if self.handshaking >= min(HANDSHAKES_MAX, self._most * 2 // 3):
            self._end_handshake()
        while self.connections >= self._most:
            await self.make_room()

    async def make_room(self) -> None:
        """End some; wait until one is gone, for a moment."""
        self._gone = trio.Event()
        if self.handshaking > self._most // HANDSHAKES_PART or not self._end_others():
            self._end_handshake()
        with trio.move_on_after(ACCEPT_PAUSE):
            await self._gone.wait()

    def _end_handshake(self) -> None:
        if self.lobby.end_oldest():
            self._gone.set()
        elif nobody := self.handshakes.first_to_go():
            self.handshakes.remove(nobody)
            nobody.end()
        else:
            return
        self.count("ended for others")

    def _end_others(self) -> bool:
        """Of those whose handshake is over; False when there are none."""
        others = [each for each in self._all if each not in self.handshakes]
        quiet = [each for each in others if each.quiet >= QUIET_LEAST]
        quiet.sort(key=lambda each: each.quiet, reverse=True)
        busy = sorted(others, key=lambda each: each.waits)
        going = quiet[:ROOM] or busy[: 1 + len(busy) // BUSY_PART]
        for each in going:
            self.count("ended for others")
            each.end()
        return bool(going)


async def _accept(listener: socket.socket, clients: Clients) -> None:
    """Take in who connects, many between two looks at others: each costs little."""
    while True:
        await trio.lowlevel.wait_readable(listener)
        for _ in range(ACCEPTS_MAX):
            try:
                sock, _address = listener.accept()
            except BlockingIOError:
                break
            except ConnectionError:
                continue  # gone again before it was accepted
            except OSError as error:  # the system says so also when nobody waits
                _log.warning("connections are not taken: %s", error.strerror)
                await trio.lowlevel.wait_readable(listener)
                await clients.make_room()
                break
            await clients.wait_for_room()
            sock.setblocking(False)
            clients.count("accepted")
            clients.lobby.add(sock)


async def _end_silent(lobby: Lobby) -> None:
    while True:
        await trio.sleep(SILENCE_CHECK)
        lobby.end_older(HANDSHAKE_TIMEOUT)


ACCEPT_PAUSE = 0.1
"""Seconds to let descriptors, or connections, become free."""


class _Client:
    """One connection of a client."""

    def __init__(
        self,
        stream: trio.SocketStream,
        connection: ServerConnection,
        service: Answering,
        clients: Clients,
    ) -> None:
        self._handshakes = clients.handshakes
        self._meters = clients.meters
        self._stream = stream
        self._connection = connection
        self._service = service
        self._sending = trio.Lock()
        self._free = trio.Semaphore(PENDING_PER_CONNECTION)
        self._first: list[Event] = []
        self._scope = trio.CancelScope()
        self._active = trio.current_time()

    @property
    def waits(self) -> bool:
        """Whether it waits for an answer that is not there yet."""
        return self._free.value < PENDING_PER_CONNECTION

    @property
    def quiet(self) -> float:
        """Seconds for which it has asked for nothing; 0 while something is under way."""
        busy = self.waits or self._sending.locked()
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
            events = self._receive(data)
            out = self._connection.data_to_send()
            if out:
                self._handshakes.answered(self)
                await self._stream.send_all(out)
            if events:
                self._handshakes.remove(self)
                self._first = events[1:]
                self._active = trio.current_time()
                return isinstance(events[0], Established)

    def _receive(self, data: bytes | bytearray) -> list[Event]:
        """Events that these bytes complete. Raises TransportError."""
        events = self._connection.receive(data)
        if self._connection.in_part:
            acknowledge(self._stream)
        return events

    async def _pump(self, spawn: Callable[..., object]) -> None:
        events = self._first
        while True:
            for event in events:
                if not isinstance(event, Frame) or event.id == PUSH:
                    raise TransportError("a frame that is not a request")
                self._meters.requests.count(kind_in_a_word(event.payload))
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
            events = self._receive(data)
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
        refusal = refusal_of(reply)
        if refusal is not None:
            self._meters.refusals.count(refusal.name)
        async with self._sending:
            with trio.fail_after(WRITE_TIMEOUT):
                await self._stream.send_all(self._connection.send(id, reply))
