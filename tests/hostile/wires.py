"""A network in memory, and the servers on it: honest ones, that do what a test says instead."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio
import trio.testing

from cbfs.account.account import SYSTEM_RANDOM, Account
from cbfs.network.dial import DialError
from cbfs_common.errors import TransportError
from cbfs_common.limits import CHALLENGE_SIZE, PUSH_WINDOW, SPOKEN_VERSION
from cbfs_common.names.wire import Reply as NamesReply
from cbfs_common.names.wire import Request as NamesRequest
from cbfs_common.names.wire import decode_request as decode_names_request
from cbfs_common.names.wire import encode_reply as encode_names_reply
from cbfs_common.profile import Address
from cbfs_common.session.prekey import PREKEY_ID_SIZE, PrekeyKind, PrekeyPair
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import (
    AnyReply,
    AnyRequest,
    Arrived,
    Code,
    CountPrekeys,
    CreateAccount,
    Delete,
    DeleteAccount,
    Deliver,
    EnvelopeIds,
    ErrorReply,
    Fetch,
    GetLimits,
    GetTerms,
    LastMark,
    List,
    NewcomerTerms,
    PrekeyCount,
    PrekeyRecord,
    ServerLimits,
    ServerVersion,
    Stored,
    Subscribe,
    SwapMark,
    TakePrekey,
    TellVersion,
    UploadPrekeys,
    decode_request,
    encode,
    envelope_id,
)
from cbfs_common.wire.transport import PUSH, Established, Frame, ServerConnection, ServerSecret

EXPIRES = slice(PREKEY_ID_SIZE + 1, PREKEY_ID_SIZE + 9)


@dataclass(eq=False)
class Line:
    """One connection of a client to a server."""

    connection: ServerConnection
    stream: trio.abc.Stream
    client: bytes = b""
    subscribed: bool = False
    ahead: set[bytes] = field(default_factory=set)
    sending: trio.Lock = field(default_factory=trio.Lock)


class Server:
    """``cut``: bytes until the connection ends, counted over all connections; None for never."""

    def __init__(self, port: int) -> None:
        self.secret = ServerSecret(SYSTEM_RANDOM.token(96))
        self.address = Address(self.secret.key, "127.0.0.1", port)
        self.cut: int | None = None

    async def serve(self, stream: trio.abc.Stream) -> None:
        line = Line(ServerConnection(self.secret, SYSTEM_RANDOM), stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_closed, self.attend, line)
            await self._until_closed(self._read, line)
            nursery.cancel_scope.cancel()
            await trio.aclose_forcefully(stream)

    async def _until_closed(self, work: Callable[[Line], Awaitable[None]], line: Line) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, TransportError):
            await work(line)

    async def _read(self, line: Line) -> None:
        while data := await line.stream.receive_some(65_536):
            events = line.connection.receive(data)
            await self.write(line, line.connection.data_to_send())
            for event in events:
                if isinstance(event, Established):
                    line.client = event.peer_key
                elif isinstance(event, Frame) and not await self.take(line, event):
                    return

    async def attend(self, line: Line) -> None:
        """Send what nobody asked for."""

    async def send(self, line: Line, id: int, payload: bytes) -> None:
        async with line.sending:
            await self.write(line, line.connection.send(id, payload))

    async def write(self, line: Line, data: bytes) -> None:
        if self.cut is not None:
            data, self.cut = data[: self.cut], self.cut - len(data)
            if self.cut <= 0:
                self.cut = None
                await line.stream.send_all(data)
                await line.stream.aclose()
                raise trio.BrokenResourceError
        if data:
            await line.stream.send_all(data)

    async def take(self, line: Line, message: Frame) -> bool:
        """False to close the connection."""
        raise NotImplementedError


Twist = Callable[[AnyRequest, AnyReply], "AnyReply | bytes | None"]


def straight(_request: AnyRequest, reply: AnyReply) -> AnyReply:
    """The honest reply."""
    return reply


class Office(Server):
    """A home server for everybody. ``twist`` changes replies: other ones, any bytes, or None to
    close. ``pushes``: raw payloads that are pushed at the next occasion."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.boxes: dict[bytes, dict[bytes, bytes]] = {}
        self.prekeys: dict[bytes, dict[bytes, bytes]] = {}
        self.last: dict[bytes, bytes] = {}
        self.kems: dict[bytes, bytes] = {}
        self.marks: dict[bytes, bytes] = {}
        self.twist: Twist = straight
        self.pushes: list[bytes] = []
        self.pushed: dict[bytes, int] = {}
        """How often each envelope was pushed."""
        self._news = trio.Event()

    def put(self, user: bytes, envelope: bytes) -> None:
        """As a delivery does."""
        self.box(user)[envelope_id(envelope)] = envelope
        self.tell()

    def box(self, user: bytes) -> dict[bytes, bytes]:
        return self.boxes.setdefault(user, {})

    def prekey(self, user: bytes) -> bytes | None:
        one_time = self.prekeys.get(user)
        if one_time:
            return one_time.pop(next(iter(one_time)))
        return self.last.get(user)

    async def attend(self, line: Line) -> None:
        while True:
            news = self._news
            await self._push(line)
            await news.wait()

    async def _push(self, line: Line) -> None:
        if not line.subscribed:
            return
        while self.pushes:
            await self.send(line, PUSH, self.pushes.pop(0))
        for id_, envelope in list(self.box(line.client).items()):
            if len(line.ahead) < PUSH_WINDOW and id_ not in line.ahead:
                line.ahead.add(id_)
                self.pushed[id_] = self.pushed.get(id_, 0) + 1
                await self.send(line, PUSH, encode(Arrived(id_, envelope)))

    def tell(self) -> None:
        """There is something to push."""
        news, self._news = self._news, trio.Event()
        news.set()

    async def take(self, line: Line, message: Frame) -> bool:
        request = decode_request(message.payload)
        reply = self.twist(request, self._answer(line, request))
        if reply is None:
            return False
        payload = reply if isinstance(reply, bytes) else encode(reply)
        await self.send(line, message.id, payload)
        self.tell()
        return True

    def keep(self, account: Account, pair: PrekeyPair) -> None:
        """A last-resort prekey of somebody who has not uploaded any."""
        user = account.profile.user_id
        self.last[user], self.kems[user] = pair.public(account.signing), account.kem_public

    def _answer(self, line: Line, request: AnyRequest) -> AnyReply:
        user = line.client
        match request:
            case Subscribe():
                line.subscribed = True
            case UploadPrekeys(records, kem, replace):
                self.kems[user] = kem
                if replace:
                    self.prekeys[user] = {}
                for record in records:
                    if record[PREKEY_ID_SIZE] == PrekeyKind.LAST_RESORT:
                        self.last[user] = record
                    else:
                        self.prekeys.setdefault(user, {})[record[:PREKEY_ID_SIZE]] = record
            case Delete(ids):
                for id_ in ids:
                    self.box(user).pop(id_, None)
                    line.ahead.discard(id_)
            case Deliver(to, envelope):
                self.put(to, envelope)
            case _:
                return self._told(user, request)
        return Done()

    def _told(self, user: bytes, request: AnyRequest) -> AnyReply:
        match request:
            case GetLimits():
                return ServerLimits(100_000, 30 * 86_400, 100)
            case SwapMark(seen, new):
                mark = self.marks.get(user, b"")
                if mark == seen:
                    self.marks[user] = new
                return LastMark(mark)
            case CountPrekeys():
                last = self.last.get(user)
                expires = int.from_bytes(last[EXPIRES], "big") if last else 0
                return PrekeyCount(len(self.prekeys.get(user, ())), expires)
            case TakePrekey(owner):
                record = self.prekey(owner)
                return (
                    PrekeyRecord(record, self.kems[owner]) if record else ErrorReply(Code.NO_PREKEY)
                )
            case List():
                return EnvelopeIds(tuple(self.box(user))[:64], False)
            case Fetch(id_):
                found = self.box(user).get(id_)
                return Stored(found) if found else ErrorReply(Code.UNKNOWN_ENVELOPE)
            case CreateAccount() | DeleteAccount():
                return Done()
            case TellVersion():
                return ServerVersion(SPOKEN_VERSION)
            case GetTerms():
                return NewcomerTerms(False, bytes(CHALLENGE_SIZE), 0)
        raise AssertionError(request)


class NameServer(Server):
    """A name directory that answers as ``answer`` says; None closes."""

    def __init__(
        self, port: int, answer: Callable[[NamesRequest], NamesReply | bytes | None]
    ) -> None:
        super().__init__(port)
        self.answer = answer

    async def take(self, line: Line, message: Frame) -> bool:
        reply = self.answer(decode_names_request(message.payload))
        if reply is None:
            return False
        payload = reply if isinstance(reply, bytes) else encode_names_reply(reply)
        await self.send(line, message.id, payload)
        return True


class Wires:
    """``Dialer`` of everybody: servers by their ports. Set ``nursery`` in each run."""

    def __init__(self) -> None:
        self.servers: dict[int, Server] = {}
        self.dials: list[tuple[float, int]] = []
        """When somebody tried to connect, and to which port."""
        self.nursery: trio.Nursery

    async def dial(self, host: str, port: int, _isolation: bytes) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.dials.append((round(trio.current_time(), 6), port))
        server = self.servers.get(port)
        if server is None:
            raise DialError(f"no connection to {host}:{port}")
        near, far = trio.testing.memory_stream_pair()
        self.nursery.start_soon(server.serve, far)
        return near
