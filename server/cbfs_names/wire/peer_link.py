"""A verifier's connection to the sequencer, or to another verifier: calls, in parallel."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from cbfs_common.errors import CbfsError, TransportError
from cbfs_common.primitives import KEY_SIZE, Random
from cbfs_common.profile import Address
from cbfs_common.wire.transport import ClientConnection, Frame
from cbfs_names.limits import CALL_TIMEOUT, HANDSHAKE_TIMEOUT, RECEIVE_SIZE
from cbfs_names.wire.peer_messages import Peer, decode, encode


class PeerLink:
    """A connection to another server of the directory, made by ``connected``."""

    def __init__(self, stream: trio.abc.Stream, connection: ClientConnection) -> None:
        self._stream = stream
        self._connection = connection
        self._sending = trio.Lock()
        self._last = 0
        self._replies: dict[int, bytes] = {}
        self._waiting: dict[int, trio.Event] = {}
        self._over = False

    async def raw(self, payload: bytes) -> bytes:
        """Send an encoded request and wait for its encoded reply, for CALL_TIMEOUT at most. Raises
        TransportError."""
        try:
            with trio.fail_after(CALL_TIMEOUT):
                async with self._sending:
                    self._last += 1
                    id, done = self._last, trio.Event()
                    self._waiting[id] = done
                    await self._stream.send_all(self._connection.send(id, payload))
                await done.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            raise TransportError("the connection to a peer broke") from error
        if id not in self._replies:
            raise TransportError("the connection to a peer broke")
        return self._replies.pop(id)

    async def call(self, message: Peer) -> Peer:
        """Send a message and wait for its reply. Raises TransportError, DecodeError."""
        return decode(await self.raw(encode(message)))

    async def handshake(self) -> None:
        """Agree on keys with the other side. Raises TransportError."""
        await self._stream.send_all(self._connection.start())
        events: list[object] = []
        while not events:
            data = await self._stream.receive_some(RECEIVE_SIZE)
            if not data:
                raise TransportError("a peer closed the connection")
            events += self._connection.receive(data)
        await self._stream.send_all(self._connection.data_to_send())

    async def read(self) -> None:
        """Hand out replies until the connection ends; then every call ends."""
        try:
            while data := await self._stream.receive_some(RECEIVE_SIZE):
                for event in self._connection.receive(data):
                    if isinstance(event, Frame) and event.id in self._waiting:
                        self._replies[event.id] = event.payload
                        self._waiting.pop(event.id).set()
        except (trio.BrokenResourceError, trio.ClosedResourceError, TransportError):
            pass  # told to who waits
        finally:
            for done in self._waiting.values():
                done.set()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)


@asynccontextmanager
async def connected(address: Address, random: Random) -> AsyncIterator[PeerLink]:
    """A link to a server, from a fresh key. Raises TransportError."""
    try:
        with trio.fail_after(HANDSHAKE_TIMEOUT):
            stream = await trio.open_tcp_stream(address.host, address.port)
    except (OSError, trio.TooSlowError) as error:
        raise TransportError("a peer cannot be reached") from error
    failure: CbfsError | None = None
    async with stream:
        link = PeerLink(stream, ClientConnection(address.key, random.token(KEY_SIZE), random))
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                await link.handshake()
        except (trio.BrokenResourceError, trio.TooSlowError) as error:
            raise TransportError("a peer cannot be reached") from error
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.read)
            try:
                yield link
            except CbfsError as error:
                failure = error  # not to be wrapped in a group
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
