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
import resource
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import perf_counter

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
from cbfs_host.acknowledging import acknowledge
from cbfs_host.handshakes import HANDSHAKES_PART, Handshakes
from cbfs_host.logs import keep_going, tell_fault
from cbfs_server import turns
from cbfs_server.limits import (
    ACCEPTS_MAX,
    BUSY_PART,
    FILES_LEFT,
    HANDSHAKE_TIMEOUT,
    HANDSHAKES_MAX,
    IDLE_TIMEOUT,
    IN_FLIGHT_MAX,
    PADDING_CHECK,
    READ_SIZE,
    ROOM,
    SEND_TIMEOUT,
    TICK,
    WAITING_MAX,
)
from cbfs_server.push import Client, Pusher
from cbfs_server.service import Service
from cbfs_server.turns import Turns

ACCEPT_PAUSE = 0.1
"""Seconds before accepting again when the system has no file descriptor or memory left."""

TELL_PAUSE = 60.0
"""Seconds before the log says again that connections are not taken."""

_log = logging.getLogger(__name__)


class Connection:
    """One client. ``key`` is empty until it is proved."""

    __slots__ = (
        "_empty",
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
        self._empty = 0.0  # when its bucket is, see ``turns``
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
            while True:
                if self._busy():
                    await self._wait_free()
                more = self._read_counted()
                if turns.is_over(self._empty, perf_counter()):
                    await self._server.turns.wait()
                    if more:
                        self._empty = turns.waited(self._empty, perf_counter())
                if not more:
                    self._empty = turns.ended(self._empty, perf_counter())
                    await trio.lowlevel.wait_readable(self._socket)
        except TransportError as error:
            self._server.count("broken")
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
        if id != PUSH:
            self._in_flight -= 1
            self._server.in_flight -= 1
        if self.closed:
            return
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
        most = IN_FLIGHT_MAX if self._server.in_flight < WAITING_MAX else 1
        return self._partial is not None or self._in_flight >= most

    async def _wait_free(self) -> None:
        self._free = trio.Event()
        await self._free.wait()
        self._free = None
        if self.closed:
            raise trio.ClosedResourceError

    def _release(self) -> None:
        if self._free is not None and not self._busy():
            self._free.set()

    def _read_counted(self) -> bool:
        """``_read``, whose time counts. (Not in ``run``: what stands there takes memory for as long
        as it waits.)"""
        begun = perf_counter()
        more = self._read()
        self._empty = turns.count(self._empty, begun, perf_counter())
        return more

    def _read(self) -> bool:
        """Read what is there and handle it; whether there may be more, as the buffer was full."""
        buffer = self._server.buffer
        try:
            size = self._socket.recv_into(buffer)
        except BlockingIOError:
            return False
        if size == 0:
            raise ConnectionError  # the client has closed it
        events = self._transport.receive(buffer[:size])
        if self._transport.in_part:
            acknowledge(self._socket)
        if events:  # padding is none: it keeps nobody's connection open
            self.active = self._server.ticks
        out = self._transport.data_to_send()
        if out:
            self._server.handshakes.answered(self)
            self._write(out)
        for event in events:
            self._handle(event)
        return size == len(buffer)

    def _handle(self, event: Event) -> None:
        if isinstance(event, Established):
            self.key = event.peer_key
            self._server.handshakes.remove(self)
        elif event.id == PUSH:
            raise TransportError("a push from a client")
        else:
            self._in_flight += 1
            self._server.in_flight += 1
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
        self.turns = Turns()
        self.ticks = 0
        self.in_flight = 0  # of all connections, those that have ended as well
        self.buffer = memoryview(bytearray(READ_SIZE))
        self._connections: list[Connection] = []
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._files = max(ROOM, files - FILES_LEFT)
        self.handshakes: Handshakes[Connection] = Handshakes(HANDSHAKES_MAX)
        self._accepted = 0
        self._tell_at = -math.inf

    @property
    def _most(self) -> int:
        """Connections at once."""
        return min(self.service.limits.now.connections, self._files)

    def start(self, *listeners: socket.socket) -> None:
        """Serve who connects to non-blocking listening sockets, until the nursery is cancelled."""
        loops: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            *(("accepting connections", partial(self.accept, each)) for each in listeners),
            ("watching connections", self.end_overdue),
            ("padding", self.pad),
            ("pushing", self.pusher.run),
            ("taking turns", self.turns.run),
        ]
        for what, loop in loops:
            self.nursery.start_soon(keep_going, what, loop)

    @property
    def connections(self) -> int:
        """How many there are, those whose handshake is under way included."""
        return len(self._connections)

    def end(self, user: bytes) -> None:
        """End the connections of this user, as the operator wants it."""
        for each in [each for each in self._connections if each.key == user]:
            each.close("the operator has ended it")

    def count(self, what: str) -> None:
        """Count what has become of a connection."""
        self.service.meters.connections.count(what)

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        last = self._connections.pop()
        if last is not connection:
            last.place = connection.place
            self._connections[last.place] = last
        self.handshakes.remove(connection)
        self.pusher.unsubscribe(connection)

    async def accept(self, listener: socket.socket) -> None:
        """Accept on a non-blocking listening socket until cancelled."""
        while True:
            for _ in range(ACCEPTS_MAX):
                try:
                    sock, _ = listener.accept()
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(listener)
                    break
                except ConnectionError:
                    continue  # gone again before it was accepted
                except OSError as error:  # the system says so also when nobody waits
                    await trio.lowlevel.wait_readable(listener)
                    self._tell_refused(error)
                    if not self._make_room():
                        await trio.sleep(ACCEPT_PAUSE)
                    break
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

    def _make_room(self) -> bool:
        """End whoever holds connections open and keeps others out: the first handshake that is
        under way, when these have more than their part or there is nobody else. Or else those that
        have been quiet for longest and wait for nothing, many at once. When all are busy, be it
        with asking for little or with not reading: those that came first, or subscribers of the
        accounts that have most of them, whichever there are more of. False when there are none."""
        first = self.handshakes.first_to_go()
        part = 0 if self.handshakes.full else self._most // HANDSHAKES_PART
        if first is not None and len(self.handshakes) > part:
            self._end(first)
            return True
        going = self._going() or ([] if first is None else [first])
        for each in going:
            self._end(each)
        return bool(going)

    def _going(self) -> Sequence[Client]:
        """Of those whose handshake is over."""
        known = [each for each in self._connections if each.key]
        others = [each for each in known if not self.pusher.subscribed(each)]
        quiet = sorted((each for each in others if each.idle), key=lambda each: each.active)
        if quiet:
            return quiet[:ROOM]
        if 2 * len(others) > len(known):
            few = 1 + len(others) // BUSY_PART
            return sorted(others, key=lambda each: each.number)[:few]
        return self.pusher.crowd(ROOM)

    def _end(self, client: Client) -> None:
        self.count("ended for others")
        client.close("others wait for a connection")

    def _admit(self, sock: socket.socket) -> None:
        most = self._most
        self.handshakes.most = min(HANDSHAKES_MAX, most // 2)
        if len(self._connections) >= most or self.handshakes.full:
            self._make_room()
        if len(self._connections) >= most:
            self.count("refused")
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
        self.count("accepted")
        connection = Connection(self, sock, self._accepted)
        connection.place = len(self._connections)
        self._connections.append(connection)
        self.handshakes.add(connection)
        self.nursery.start_soon(connection.run)
