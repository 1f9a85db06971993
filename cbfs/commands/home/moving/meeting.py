"""The connection through which an account moves: how the old computer waits for the new one, and
how the new one comes. What is said on it is ``cbfs.commands.home.moving.sides``.

The transport is that of a message server, whose keys and whose client's key both follow from the
line: so each side has proved that it has the secret before anything is said, and what was said
cannot be read by who gets the line later. Who has not proved it costs the old side one connection,
for a while; after some of them it waits no more.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.commands.home.moving.messages import Data, MoveEnd, MoveMessage, decode_message
from cbfs.commands.home.moving.sides import MoveArrival, MoveDeparture, NewSide, OldSide
from cbfs.network.dial import Dialer, DialError
from cbfs_common.errors import CbfsError, DecodeError, TransportError
from cbfs_common.primitives import dh_public, equal
from cbfs_common.wire.move_line import MoveLine
from cbfs_common.wire.transport import ClientConnection, Established, Frame, ServerConnection

PROOF_TIMEOUT: Final = 60.0
"""Seconds until the other side must have proved that it has the secret."""

STALL_TIMEOUT: Final = 1_800.0
"""Seconds in which something must come: somebody may have to type a passphrase, or what has come
of a large account be read again."""

WAIT_TIMEOUT: Final = 3_600.0
"""Seconds for which the old side waits for the new one, from when it was last there."""

PROVING_MAX: Final = 8
"""Connections that may not have proved anything yet; what is more is closed."""

WRONG_MAX: Final = 32
"""Connections that end without having proved anything, after which the old side waits no more."""

LAST_WORD_TIMEOUT: Final = 10.0
"""Seconds that the new side leaves for its last word to arrive."""

READ_SIZE: Final = 65_536

_ISOLATION: Final = b"move:"
_AGAIN: Final = "what was cut off goes on: run the same command again where it has ended"

Told = Callable[[int, int], None]
"""Hears how many bytes are through, and how many there are."""


class MoveCut(TransportError):
    """The connection between the two has ended before the move has."""

    def __init__(self, how: str) -> None:
        super().__init__(f"the connection to the other computer {how}", _AGAIN)


@contextmanager
def _cut() -> Iterator[None]:
    """Turns trio's errors of streams into ours."""
    try:
        yield
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise MoveCut("broke") from error


class MoveWire:
    """A connection with the other side, or with who has not proved yet that it is that."""

    def __init__(
        self, stream: trio.abc.Stream, connection: ClientConnection | ServerConnection
    ) -> None:
        self._stream = stream
        self._connection = connection
        self._frames: list[Frame] = []

    async def proved(self, start: bytes = b"") -> bytes:
        """The key (X25519, 32) that the other side has proved, in PROOF_TIMEOUT. ``start``: what is
        written first. Raises TransportError."""
        with trio.move_on_after(PROOF_TIMEOUT), _cut():
            await self._stream.send_all(start)
            while True:
                events = self._connection.receive(await self._some())
                await self._stream.send_all(self._connection.data_to_send())
                self._frames += [each for each in events if isinstance(each, Frame)]
                for each in events:
                    if isinstance(each, Established):
                        return each.peer_key
        raise MoveCut("brings no proof that it is that computer")

    async def say(self, message: MoveMessage) -> None:
        """Send a message. Raises TransportError."""
        data = self._connection.send(message.KIND, message.payload())
        with _cut():
            await self._stream.send_all(data)

    async def heard(self) -> MoveMessage:
        """The next message. Raises TransportError, DecodeError."""
        with trio.move_on_after(STALL_TIMEOUT), _cut():
            while not self._frames:
                events = self._connection.receive(await self._some())
                self._frames += [each for each in events if isinstance(each, Frame)]
            return decode_message(self._frames.pop(0))
        raise MoveCut("is silent")

    async def until_closed(self) -> None:
        """Until the other side has closed the connection, or should have."""
        with trio.move_on_after(LAST_WORD_TIMEOUT):
            try:
                while await self._stream.receive_some(READ_SIZE):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _some(self) -> bytes | bytearray:
        data = await self._stream.receive_some(READ_SIZE)
        if not data:
            raise MoveCut("was closed there")
        return data


async def _answer(
    wire: MoveWire, answers: Iterator[MoveMessage], told: Callable[[int], None]
) -> None:
    """Send what a side answers. What it reads and notes, it does in a thread, and to the end."""
    while (message := await trio.to_thread.run_sync(next, answers, None)) is not None:
        await wire.say(message)
        if isinstance(message, Data):
            told(len(message.data))


# The old side


class OldComputer:
    """The old computer, which waits for who has the line. ``say`` tells its user what happens."""

    def __init__(
        self, line: MoveLine, departure: MoveDeparture, told: Told, say: Callable[[str], None]
    ) -> None:
        self._keys = line.old
        self._peer = dh_public(line.new)
        self._departure = departure
        self._told = told
        self._say = say
        self._unproved = 0
        self._wrong = 0
        self._current: trio.CancelScope | None = None
        self._turn = trio.Lock()
        self._deadline = trio.CancelScope()
        self._done = False

    async def until_moved(self, listener: trio.SocketListener) -> None:
        """Until the account has moved, and lives there. Raises CbfsError when nobody has come for
        WAIT_TIMEOUT, or too many without the line."""
        with self._deadline:
            self._here()
            await trio.serve_listeners(self._meet, [listener])
        if not self._done:
            raise CbfsError(
                "the new computer has not come, or not come back",
                "run cbfs move again; or, for the account to stay here: cbfs move --cancel",
            )

    def _here(self) -> None:
        self._deadline.deadline = trio.current_time() + WAIT_TIMEOUT

    async def _meet(self, stream: trio.SocketStream) -> None:
        async with stream:
            if self._unproved >= PROVING_MAX:
                return
            wire = MoveWire(stream, ServerConnection(self._keys, SYSTEM_RANDOM))
            if not await self._is_new(wire):
                return
            if self._current is not None:  # that one broke, and this side has not seen it yet
                self._current.cancel()
            async with self._turn:
                with trio.CancelScope() as self._current:
                    await self._go_through(wire)
                self._current = None
        if self._done:
            self._deadline.cancel()

    async def _is_new(self, wire: MoveWire) -> bool:
        """Whether the other side has proved that it has the secret. Raises CbfsError when too many
        have not."""
        self._unproved += 1
        try:
            if equal(await wire.proved(), self._peer):
                self._wrong = 0
                return True
        except TransportError:
            pass
        finally:
            self._unproved -= 1
        self._wrong += 1
        if self._wrong > WRONG_MAX and self._current is None:
            raise CbfsError(
                "somebody else connects here again and again, without the line",
                "begin anew, with another line: cbfs move --cancel, then cbfs move"
                if self._departure.gone is None
                else _AGAIN,
            )
        return False

    async def _go_through(self, wire: MoveWire) -> None:
        """One connection with the new computer, as far as it goes."""
        side, size = OldSide(self._departure), self._departure.offer.size
        through = 0

        def told(more: int) -> None:
            nonlocal through
            through += more
            self._here()
            self._told(through, size)

        try:
            await wire.say(side.start())
            while not side.done:
                message = await wire.heard()
                self._here()
                await _answer(wire, side.hear(message), told)
        except (TransportError, DecodeError) as error:
            self._say(f"{error.in_full}; this one waits")
        finally:
            self._done = self._done or side.done


# The new side


async def come(
    line: MoveLine, dialer: Dialer, arrival: MoveArrival, told: Told, unlock: Callable[[], None]
) -> None:
    """Fetch an account from the old computer, as far as one connection goes; it lives here when
    this returns. ``unlock`` is called when all of it has come, before it is opened. Raises
    DialError, TransportError, DecodeError, CbfsError, OSError."""
    address = line.address
    try:
        stream = await dialer.dial(address.host, address.port, _ISOLATION)
    except DialError as error:
        raise DialError(
            f"the old computer is not reached: {error}", "does cbfs move wait there?"
        ) from error
    connection = ClientConnection(address.key, line.new, SYSTEM_RANDOM)
    async with stream:
        wire, side = MoveWire(stream, connection), NewSide(arrival)
        await _prove(wire, connection.start())
        while not side.done:
            message = await wire.heard()
            if isinstance(message, MoveEnd):
                unlock()
            await _answer(wire, side.hear(message), lambda _more: None)
            told(side.at, side.size)
        await wire.until_closed()


async def _prove(wire: MoveWire, start: bytes) -> None:
    try:
        await wire.proved(start)
    except MoveCut:
        raise
    except TransportError as error:
        raise CbfsError(
            "what waits there does not know this line", "is it the line that was printed last?"
        ) from error
