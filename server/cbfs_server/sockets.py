"""The server's sockets: a thin pump around the sans-I/O connection.

Written for many idle connections and few busy ones. One task a connection; one read buffer for
all of them, since what is read is consumed before anything else runs; no other buffer is held
while nothing is under way. Reads and writes are tried first and waited for after. A connection
whose replies do not go out, or with IN_FLIGHT_MAX requests waiting for the disk, is not read
from: what it can make the server hold is bounded, and a reader that stops reading stops itself.
"""

import errno
import logging
import math
import socket
from collections import deque
from functools import partial

import trio

from cbfs_common.errors import TransportError
from cbfs_common.limits import PADDING_MEAN
from cbfs_common.primitives import Random, below, exponential
from cbfs_common.wire.transport import (
    PUSH,
    Established,
    Event,
    ServerConnection,
    ServerSecret,
)
from cbfs_host.logs import keep_going, tell_fault
from cbfs_server.limits import (
    CONNECTIONS_MAX,
    HANDSHAKE_TIMEOUT,
    IDLE_TIMEOUT,
    IN_FLIGHT_MAX,
    PADDING_CHECK,
    READ_SIZE,
    ROOM,
    SEND_TIMEOUT,
    TICK,
    TURNS_MAX,
)
from cbfs_server.push import Pusher
from cbfs_server.service import Service

ACCEPT_PAUSE = 0.1
"""Seconds before accepting again when the system has no file descriptor or memory left."""

TELL_PAUSE = 60.0
"""Seconds before the log says again that connections are not taken."""

_log = logging.getLogger(__name__)


class Connection:
    """One client. ``key`` is empty until it is proved."""

    __slots__ = (
        "_free",
        "_in_flight",
        "_partial",
        "_server",
        "_socket",
        "_transport",
        "_waiting",
        "active",
        "closed",
        "key",
        "number",
        "place",
    )

    def __init__(self, server: "Server", sock: socket.socket, number: int) -> None:
        self.key = b""
        self.number = number
        self.place = 0  # in the server's list
        self.active = server.ticks
        self.closed = False
        self._server = server
        self._socket = sock
        self._transport = ServerConnection(server.secret, server.random)
        self._in_flight = 0
        self._partial: memoryview | None = None  # the rest of a frame that is being sent
        self._waiting: deque[tuple[int, bytes]] | None = None  # what to send after it, unsealed
        self._free: trio.Event | None = None  # set when it may be read again

    @property
    def ready(self) -> bool:
        """All that was sent has gone to the network."""
        return self._partial is None and not self.closed

    async def run(self) -> None:
        """Serve until the connection ends, for whatever reason."""
        try:
            turns = 0
            while True:
                turns += 1
                if self._busy():
                    await self._wait_free()
                    turns = 0
                elif turns > TURNS_MAX:
                    await trio.lowlevel.checkpoint()
                    turns = 0
                if not self._read():
                    await trio.lowlevel.wait_readable(self._socket)
                    turns = 0
        except TransportError as error:
            self.close(error.in_full, logging.WARNING)
        except (OSError, trio.ClosedResourceError):
            self.close("the client has gone")
        except Exception as error:
            self._fault(error)
        finally:
            self.close("the server stops")

    def _fault(self, error: Exception) -> None:
        """One of our own: whatever the client sent, it is the end of this connection alone."""
        tell_fault(f"connection {self.number}", error)
        self.close("a fault of the server", logging.ERROR)

    def send(self, id: int, payload: bytes) -> None:
        """Send a frame, or keep it until those before it have gone. Every id but PUSH answers
        one request."""
        if self.closed:
            return
        if id != PUSH:
            self._in_flight -= 1
        if self._partial is not None:
            if self._waiting is None:
                self._waiting = deque()
            self._waiting.append((id, payload))
            return
        self._write(self._transport.send(id, payload))
        self._release()

    def pad(self) -> None:
        """Send a frame that says nothing, unless something is under way."""
        if self.key and self.ready:
            self._write(self._transport.send(PUSH, b""))

    def close(self, reason: str, level: int = logging.INFO) -> None:
        """End the connection. Only the first reason counts."""
        if self.closed:
            return
        self.closed = True
        _log.log(level, "connection %d ended: %s", self.number, reason)
        try:
            self._server.remove(self)
        except Exception as error:  # it is no matter of the others
            tell_fault(f"the end of connection {self.number}", error)
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        self._partial = self._waiting = None
        if self._free is not None:
            self._free.set()

    @property
    def idle(self) -> bool:
        """Nothing is under way, and nothing was for at least a TICK."""
        return (
            self._partial is None and not self._in_flight and self.active < self._server.ticks - 1
        )

    def overdue(self, ticks: int, subscribed: bool) -> str | None:
        """Why the connection has to end at ``ticks``, or None."""
        quiet = (ticks - self.active) * TICK
        if not self.key:
            return "no handshake in time" if quiet > HANDSHAKE_TIMEOUT else None
        if self._partial is not None:
            return "takes nothing of what is sent" if quiet > SEND_TIMEOUT else None
        return "idle" if quiet > IDLE_TIMEOUT and not subscribed and not self._in_flight else None

    def _busy(self) -> bool:
        return self._partial is not None or self._in_flight >= IN_FLIGHT_MAX

    async def _wait_free(self) -> None:
        self._free = trio.Event()
        await self._free.wait()
        self._free = None
        if self.closed:
            raise trio.ClosedResourceError

    def _release(self) -> None:
        if self._free is not None and not self._busy():
            self._free.set()

    def _read(self) -> bool:
        """Read what is there and handle it; False when nothing is."""
        buffer = self._server.buffer
        try:
            size = self._socket.recv_into(buffer)
        except BlockingIOError:
            return False
        if size == 0:
            raise ConnectionError  # the client has closed it
        events = self._transport.receive(buffer[:size])
        if events:  # padding is none: it keeps nobody's connection open
            self.active = self._server.ticks
        out = self._transport.data_to_send()
        if out:
            self._write(out)
        for event in events:
            self._handle(event)
        return True

    def _handle(self, event: Event) -> None:
        if isinstance(event, Established):
            self.key = event.peer_key
        elif event.id == PUSH:
            raise TransportError("a push from a client")
        else:
            self._in_flight += 1
            self._server.service.handle(self, event.id, event.payload)

    def _write(self, data: bytes) -> None:
        """Send, and let a task send the rest of what the network does not take now."""
        rest = self._try_send(memoryview(data))
        if rest is not None:
            self._partial = rest
            self._server.nursery.start_soon(self._flush)

    def _try_send(self, data: memoryview) -> memoryview | None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            return data
        except OSError:
            return None  # reading will tell
        return data[sent:] if sent < len(data) else None

    async def _flush(self) -> None:
        try:
            while self._partial is not None:
                await trio.lowlevel.wait_writable(self._socket)
                rest = self._try_send(self._partial)
                if self.closed:
                    return
                self.active = self._server.ticks
                if rest is None and self._waiting:
                    rest = memoryview(self._transport.send(*self._waiting.popleft()))
                self._partial = rest
            self._waiting = None
            self._release()
            self._server.pusher.ready(self)
        except (OSError, trio.ClosedResourceError):
            return  # the reading task ends the connection
        except Exception as error:
            self._fault(error)


class Server:
    """Accepts connections and runs them. ``secret`` is the server's long-term keys."""

    def __init__(
        self,
        secret: ServerSecret,
        random: Random,
        service: Service,
        pusher: Pusher,
        nursery: trio.Nursery,
    ) -> None:
        self.secret = secret
        self.random = random
        self.service = service
        self.pusher = pusher
        self.nursery = nursery
        self.ticks = 0
        self.buffer = memoryview(bytearray(READ_SIZE))
        self._connections: list[Connection] = []
        self._accepted = 0
        self._tell_at = -math.inf

    def start(self, listener: socket.socket) -> None:
        """Serve who connects to a non-blocking listening socket, until the nursery is cancelled."""
        for what, loop in (
            ("accepting connections", partial(self.accept, listener)),
            ("watching connections", self.end_overdue),
            ("padding", self.pad),
        ):
            self.nursery.start_soon(keep_going, what, loop)

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        last = self._connections.pop()
        if last is not connection:
            last.place = connection.place
            self._connections[last.place] = last
        self.pusher.unsubscribe(connection)

    async def accept(self, listener: socket.socket) -> None:
        """Accept on a non-blocking listening socket until cancelled."""
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(listener)
                continue
            except ConnectionError:
                await trio.lowlevel.checkpoint()
                continue  # gone again before it was accepted
            except OSError as error:
                self._tell_refused(error)
                self._make_room()
                await trio.sleep(ACCEPT_PAUSE)
                continue
            self._admit(sock)
            await trio.lowlevel.checkpoint()

    async def end_overdue(self) -> None:
        """End connections that are overdue, until cancelled."""
        while True:
            await trio.sleep(TICK)
            self.ticks += 1
            for connection in tuple(self._connections):
                subscribed = self.pusher.subscribed(connection)
                reason = connection.overdue(self.ticks, subscribed)
                if reason is not None:
                    connection.close(reason)

    async def pad(self) -> None:
        """Send padding at random moments until cancelled, to each connection PADDING_MEAN apart in
        the mean. One task draws the moments of all together and each time one connection: that
        is as if each had its own, and takes no memory for any."""
        while True:
            count = len(self._connections)
            wait = exponential(self.random, PADDING_MEAN / count) if count else math.inf
            await trio.sleep(min(wait, PADDING_CHECK))
            if wait <= PADDING_CHECK and self._connections:
                self._connections[below(self.random, len(self._connections))].pad()

    def _tell_refused(self, error: OSError) -> None:
        """Once in a while: the system may have nothing left for as long as somebody likes."""
        if trio.current_time() >= self._tell_at:
            self._tell_at = trio.current_time() + TELL_PAUSE
            _log.error("cannot accept a connection: %s", error.strerror)

    def _make_room(self) -> None:
        """End those that have been quiet for longest and wait for nothing, many at once: whoever
        holds all connections open does not keep others out."""
        quiet = [
            each for each in self._connections if each.idle and not self.pusher.subscribed(each)
        ]
        quiet.sort(key=lambda each: each.active)
        for each in quiet[:ROOM]:
            each.close("others wait for a connection")

    def _admit(self, sock: socket.socket) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            self._make_room()
        if len(self._connections) >= CONNECTIONS_MAX:
            self._tell_refused(OSError(errno.EMFILE, "too many connections"))
            sock.close()
            return
        try:
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # gone again before it was accepted
            sock.close()
            return
        self._accepted += 1
        connection = Connection(self, sock, self._accepted)
        connection.place = len(self._connections)
        self._connections.append(connection)
        self.nursery.start_soon(connection.run)
