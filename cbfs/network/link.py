"""A connection to one server: requests with their replies, and pushes.

The only file of the client that pumps bytes between a stream and the transport. Requests are
pipelined and told apart by their ids; one task reads for all. When the connection ends, every
call that waits and every later one raises LinkClosed, and ``pushes`` ends.

A reply never waits behind a push that nobody takes: pushes go into a buffer that holds all that
a server may send ahead (PUSH_WINDOW), and a server that sends more has broken the protocol. So a
push may be answered by a call on the same link. Delete an envelope only after it was taken.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

from cbfs.network.dial import Dialer
from cbfs_common.errors import CbfsError, DecodeError, TransportError
from cbfs_common.limits import PADDING_MEAN, PUSH_WINDOW
from cbfs_common.primitives import KEY_SIZE, Random, exponential
from cbfs_common.profile import Address
from cbfs_common.wire.fields import R_co, Request
from cbfs_common.wire.requests import Code, ErrorReply, decode_reply, encode
from cbfs_common.wire.transport import PUSH, ClientConnection, Event, Frame

HANDSHAKE_TIMEOUT = 60.0
"""Seconds until the server has proved itself; a fresh onion circuit takes 3 to 8."""

CALL_TIMEOUT = 120.0
"""Seconds until the reply; past them the connection counts as dead."""

READ_SIZE = 65_536
ABANDONED_MAX = 1_000
"""Calls given up by their caller whose replies are still to come."""

_LAST_ID = 2**32 - 1
_AGAIN = "cbfs tries again when the server can be reached"

_WORDS = {
    Code.BAD_REQUEST: ("does not understand the request", "it may be of another version"),
    Code.NO_ACCOUNT: ("has no account for this key", "make it anew: cbfs sign-up"),
    Code.UNKNOWN_USER: ("does not know the recipient", "they may have moved to another server"),
    Code.MAILBOX_FULL: ("says that the recipient's mailbox is full", _AGAIN),
    Code.NO_PREKEY: ("has no prekey of the recipient", "they have to come online first"),
    Code.UNKNOWN_ENVELOPE: ("does not have this envelope", "it was deleted already"),
    Code.TOO_MANY: ("has reached one of its limits", _AGAIN),
    Code.TROUBLE: ("could not write to its disk", _AGAIN),
    Code.FULL: ("has no room left", _AGAIN),
    Code.SUSPENDED: ("has suspended the account", "ask who runs the server"),
    Code.UNKNOWN_BLOB: ("does not have this large file", "it may be too old, or was removed"),
    Code.NO_CHUNK: ("does not have this part of a large file yet", _AGAIN),
    Code.BLOB_DIFFERS: ("has another large file in this place", _AGAIN),
    Code.BLOB_QUOTA: (
        "keeps no more large files for this account",
        "remove one, or wait until one is too old",
    ),
    Code.BLOB_TOO_LARGE: (
        "takes no file of this size",
        "ask who runs it for more (--blob-quota), or send less",
    ),
    Code.GRANT_NEEDED: (
        "does not let this account invite anybody",
        "ask whoever runs it (user-invites): whom an account has invited may from the next week on",
    ),
    Code.INVITES_SPENT: (
        "gives this account no more invites this week",
        "wait until next week, or ask whoever runs it for more (user-invites)",
    ),
    Code.LATER_VERSION: (
        "is of an earlier version than what was asked of it",
        "ask who runs it to upgrade it",
    ),
    Code.EARLIER_VERSION: (
        "is of a later version, and takes no such request any more",
        "install a newer cbfs",
    ),
    Code.WORK_NEEDED: ("asks newcomers for work", _AGAIN),
    Code.INVITE_NEEDED: (
        "takes newcomers by invite only",
        "ask whoever runs it for one, put it into a file, and say --server-invite FILE; for an"
        " account that has ended: cbfs sign-up --server-invite FILE",
    ),
}


class LinkClosed(TransportError):
    """The connection has ended, or the server did not answer in time. What was asked may or
    may not have been done: ask again on a new link."""


class ServerRefused(CbfsError):
    """The server answered that it did nothing, and why: ``code``."""

    def __init__(self, code: Code) -> None:
        words, hint = _WORDS[code]
        super().__init__(f"the server {words}", hint)
        self.code = code


Replies = list[bytes | None]
"""Of several calls, in their order."""


class _Call:
    __slots__ = ("done", "id", "reply")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.id = 0
        self.reply: bytes | None = None


class Link:
    """A connection to one server that has proved its key. Made by ``open_link``. ``pushes`` gives
    the payloads that nobody asked for."""

    def __init__(
        self, stream: trio.abc.Stream, connection: ClientConnection, push_capacity: int
    ) -> None:
        self.pushes: trio.MemoryReceiveChannel[bytes]
        self._push, self.pushes = trio.open_memory_channel[bytes](push_capacity)
        self._stream = stream
        self._connection = connection
        self._sending = trio.Lock()
        self._calls: dict[int, _Call] = {}
        self._abandoned: set[int] = set()
        self._last_id = 0
        self._end: LinkClosed | None = None
        self._ended = trio.Event()

    async def call(self, payload: bytes) -> bytes:
        """Send a request, give the payload of its reply. Raises LimitError for a payload over
        PAYLOAD_MAX, LinkClosed when the link has ended. A caller that is cancelled while it waits
        for the reply leaves the link usable; one that is cancelled within a frame ends it."""
        (reply,) = await self.call_in_order([lambda: payload])
        if reply is None:
            raise self._closed()
        return reply

    async def call_in_order(self, payloads: Iterable[Callable[[], bytes | None]]) -> Replies:
        """Send several requests, without waiting between them: each frame is written after the one
        before it. A payload is asked for when its frame is about to be written; None leaves it out.
        Gives the payloads of the replies; in the place of one that has not come, as the link ended
        before, is None. Raises what ``call`` raises."""
        calls: list[_Call] = []
        try:
            with trio.fail_after(CALL_TIMEOUT), suppress(TransportError):
                for payload in payloads:
                    calls.append(_Call())
                    await self._send(payload, calls[-1])
                for call in calls:
                    await call.done.wait()
        except trio.TooSlowError:
            self._finish(LinkClosed("the server does not answer", _AGAIN))
        finally:
            for call in calls:
                if self._calls.pop(call.id, None) is not None:
                    self._abandon(call.id)
        return [call.reply for call in calls]

    @property
    def end(self) -> tuple[str, str]:
        """Why the link has ended, and what to do about it."""
        closed = self._closed()
        return str(closed), closed.hint

    async def wait_closed(self) -> LinkClosed:
        """Wait until the link has ended; gives the reason."""
        await self._ended.wait()
        return self._closed()

    async def handshake(self) -> None:
        """Prove the server's key and then one's own. ``open_link`` calls it."""
        await self._write(self._connection.start())
        events: list[Event] = []
        while not events:
            data = await self._stream.receive_some(READ_SIZE)
            if not data:
                raise LinkClosed("the server closed the connection", "is it a cbfs server?")
            events = self._connection.receive(data)
        await self._write(self._connection.data_to_send())
        for event in events:
            self._take(event)

    async def read(self) -> None:
        """Hand out what arrives until the link ends. ``open_link`` runs it."""
        try:
            while True:
                data = await self._stream.receive_some(READ_SIZE)
                if not data:
                    self._finish(LinkClosed("the server closed the connection", _AGAIN))
                    return
                for event in self._connection.receive(data):
                    self._take(event)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._finish(LinkClosed("the connection to the server broke", _AGAIN))
        except TransportError as error:
            self._finish(LinkClosed(str(error), error.hint))
        finally:
            self._finish(LinkClosed("the link is closed"))

    async def pad(self, random: Random) -> None:
        """Send padding at random moments until the link ends. ``open_link`` runs it."""
        while self._end is None:
            await trio.sleep(exponential(random, PADDING_MEAN))
            async with self._sending:
                if self._end is None:
                    with suppress(LinkClosed):
                        await self._write(self._connection.send(PUSH, b""))

    async def _send(self, make: Callable[[], bytes | None], call: _Call) -> None:
        async with self._sending:
            if self._end is not None:
                raise self._closed()
            payload = make()
            if payload is None:
                call.done.set()
                return
            id = self._next_id()
            frame = self._connection.send(id, payload)
            self._calls[id] = call
            call.id = id
            await self._write(frame)

    async def _write(self, data: bytes) -> None:
        whole = False
        try:
            await self._stream.send_all(data)
            whole = True
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._finish(LinkClosed("the connection to the server broke", _AGAIN))
            raise self._closed() from error
        finally:
            if not whole:  # after half a frame nothing can follow
                self._finish(LinkClosed("the connection to the server broke", _AGAIN))

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % _LAST_ID + 1
            if self._last_id not in self._calls and self._last_id not in self._abandoned:
                return self._last_id

    def _take(self, event: Event) -> None:
        if not isinstance(event, Frame):
            return
        if event.id == PUSH:
            try:
                self._push.send_nowait(event.payload)
            except trio.WouldBlock as error:
                raise TransportError("the server pushes more than it may") from error
            except trio.BrokenResourceError:
                return  # nobody listens to pushes any more
        elif (call := self._calls.pop(event.id, None)) is not None:
            call.reply = event.payload
            call.done.set()
        elif event.id in self._abandoned:
            self._abandoned.discard(event.id)
        else:
            raise TransportError("the server answers what was not asked")

    def _abandon(self, id: int) -> None:
        self._abandoned.add(id)
        if len(self._abandoned) > ABANDONED_MAX:
            self._finish(LinkClosed("the server does not answer", _AGAIN))

    def _closed(self) -> LinkClosed:
        """The reason for the end as a fresh exception: several callers raise it."""
        end = self._end or LinkClosed("the link is closed")
        return LinkClosed(str(end), end.hint)

    def _finish(self, reason: LinkClosed) -> None:
        if self._end is not None:
            return
        self._end = reason
        self._ended.set()
        self._push.close()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.done.set()


@asynccontextmanager
async def open_link(
    dialer: Dialer,
    address: Address,
    own_secret: bytes | None,
    isolation: bytes,
    random: Random,
    push_capacity: int = PUSH_WINDOW,
) -> AsyncIterator[Link]:
    """A link to the server at ``address``, closed at the end of the block. ``own_secret``
    (X25519, 32 bytes) is for the home server only; None proves a fresh key, for requests of
    nobody. Raises what the dialer raises, TransportError when the server's key is another,
    LinkClosed when the server closes or does not answer."""
    secret = random.token(KEY_SIZE) if own_secret is None else own_secret
    connection = ClientConnection(address.key, secret, random)
    async with await dialer.dial(address.host, address.port, isolation) as stream:
        link = Link(stream, connection, push_capacity)
        await _shake_hands(link)
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.read)
            nursery.start_soon(link.pad, random)
            try:
                yield link
            except Exception as error:  # the body's own, not to be wrapped in a group
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _shake_hands(link: Link) -> None:
    with trio.move_on_after(HANDSHAKE_TIMEOUT):
        try:
            await link.handshake()
            return
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise LinkClosed("the connection to the server broke", _AGAIN) from error
    raise LinkClosed("the server does not answer", _AGAIN)


async def request(link: Link, asked: Request[R_co]) -> R_co:
    """Send one request; its reply. Raises ServerRefused with the server's reason, LinkClosed, or
    DecodeError when the reply is not one to this request."""
    return _read(asked, await link.call(encode(asked)))


async def request_in_order(
    link: Link,
    asked: Sequence[Request[R_co]],
    is_wanted: Callable[[int], bool] = lambda _index: True,
) -> "list[R_co | CbfsError | None]":
    """Send several requests, which leave in their order; for each its reply, or the error that
    ``request`` would raise. ``is_wanted`` is asked when one is about to leave: what is not wanted
    any more stays here, and is None."""
    left: list[bool] = []

    def payload(index: int) -> bytes | None:
        left.append(is_wanted(index))
        return encode(asked[index]) if left[-1] else None

    replies = await link.call_in_order(partial(payload, index) for index in range(len(asked)))
    found: list[R_co | CbfsError | None] = []
    for index, one in enumerate(asked):
        if index < len(left) and not left[index]:
            found.append(None)
            continue
        try:
            reply = replies[index] if index < len(replies) else None
            found.append(LinkClosed(*link.end) if reply is None else _read(one, reply))
        except CbfsError as error:
            found.append(error)
    return found


def _read(asked: Request[R_co], payload: bytes) -> R_co:
    reply = decode_reply(payload)
    if isinstance(reply, ErrorReply):
        raise ServerRefused(reply.code)
    if type(reply) is not asked.REPLY:
        raise DecodeError("the server's reply does not fit the request")
    return reply  # type: ignore[return-value]  # REPLY is the class that R_co stands for
