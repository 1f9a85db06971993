"""Clients that send each other large files, without a network: the real stores and records, and
home servers for blobs that are dictionaries, which can break off, lie, and lose what they have.
After every step a client is loaded anew from its store."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.engine.expiry import forget
from cbfs.interface import Outgoing
from cbfs.messages import history
from cbfs.messages.content import read_content
from cbfs.messages.model import Content, Message
from cbfs.messages.queues import blobs
from cbfs.messages.queues.blobs import Blob, BlobStage
from cbfs.network.link import LinkClosed, Replies
from cbfs.receiving.fetching import Fetching
from cbfs.receiving.reassembly import Reception
from cbfs.sending.compose import Settled, make_message
from cbfs.sending.uploads import Uploads, new_blob
from cbfs.storage.encoding import u32, u64
from cbfs.storage.store import Table, Writer
from cbfs_common.messages.blobs import blob_id, tree_chunks
from cbfs_common.profile import Address
from cbfs_common.wire.blobs import (
    BlobChunk,
    BlobState,
    GetChunk,
    MakeBlob,
    PutChunk,
    RemoveBlob,
    StatBlob,
)
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import AnyReply, Code, ErrorReply, decode_request, encode
from tests.support.healing_world import CHUNK, Client, Quiet, World

DAYS = 21


@dataclass
class BlobServer:
    """A home server. ``cuts``: so many requests until the connection breaks; ``lies``: places whose
    chunks are wrong, each as often as it says; ``refuses``: what is said of every new blob."""

    chunks: dict[bytes, list[bytes]] = field(default_factory=dict)
    sizes: dict[bytes, int] = field(default_factory=dict)
    asked: Counter[tuple[type, int]] = field(default_factory=Counter)
    cuts: int | None = None
    lies: Counter[int] = field(default_factory=Counter)
    refuses: Code | None = None
    ever: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    """All that was ever put: nothing is sealed twice in two ways."""

    def answer(self, payload: bytes) -> bytes:
        request: Any = decode_request(payload)
        self.asked[type(request), getattr(request, "index", 0)] += 1
        return encode(self._answer(request))

    def _answer(self, request: Any) -> AnyReply:
        if isinstance(request, GetChunk):
            return self._get(blob_id(request.capability), request.index)
        if isinstance(request, RemoveBlob):
            self.lose(request.id)
            return Done()
        if isinstance(request, MakeBlob):
            if self.refuses is not None:
                return ErrorReply(self.refuses)
            self.chunks.setdefault(request.id, [])
            self.sizes[request.id] = request.chunks + tree_chunks(request.chunks)
        if request.id not in self.chunks:
            return ErrorReply(Code.UNKNOWN_BLOB)
        put = self.chunks[request.id]
        if isinstance(request, MakeBlob | StatBlob):
            return BlobState(len(put), DAYS)
        assert isinstance(request, PutChunk)
        if request.index > len(put):
            return ErrorReply(Code.NO_CHUNK)
        known = self.ever.setdefault((request.id, request.index), request.chunk)
        assert known == request.chunk, "two contents under one key and nonce"
        if request.index == len(put):
            put.append(request.chunk)
        return Done()

    def _get(self, id_: bytes, index: int) -> AnyReply:
        if id_ not in self.chunks:
            return ErrorReply(Code.UNKNOWN_BLOB)
        if index >= len(self.chunks[id_]):
            return ErrorReply(Code.NO_CHUNK)
        chunk = self.chunks[id_][index]
        if self.lies[index]:
            self.lies[index] -= 1
            chunk = bytes([chunk[0] ^ 1]) + chunk[1:]
        return BlobChunk(chunk)

    def lose(self, id_: bytes) -> None:
        self.chunks.pop(id_, None)

    def whole(self) -> list[bytes]:
        """The ids of the blobs of which everything is here."""
        return [id_ for id_, put in self.chunks.items() if len(put) == self.sizes[id_]]


class BlobLink:
    """A connection to one of them."""

    def __init__(self, server: BlobServer) -> None:
        self._server = server
        self.end = ("the connection to the server broke", "")

    async def call(self, payload: bytes) -> bytes:
        (reply,) = await self.call_in_order([lambda: payload])
        if reply is None:
            raise LinkClosed(*self.end)
        return reply

    async def call_in_order(self, payloads: Iterable[Callable[[], bytes | None]]) -> Replies:
        await trio.lowlevel.checkpoint()
        replies: Replies = []
        for payload in payloads:
            data = payload()
            if self._server.cuts == 0:
                replies.append(None)
            elif data is not None:
                if self._server.cuts is not None:
                    self._server.cuts -= 1
                replies.append(self._server.answer(data))
        return replies


class Told(Quiet):
    """Remembers what it hears of messages, too."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.context)
        self.changed: list[Message] = []
        self.ended: list[Message] = []
        self.message_changed = self._changed
        self.message_ended = self._ended

    def _changed(self, *arguments: object) -> None:
        self.changed.append(cast(Message, arguments[0]))

    def _ended(self, *arguments: object) -> None:
        self.ended.append(cast(Message, arguments[0]))


class BlobWorld(World):
    """A world with a server for blobs at everybody's home."""

    def begin(self, names: tuple[str, ...]) -> None:
        super().begin(names)
        self.dialled: list[tuple[Address, bool]] = []
        self.servers = {name: BlobServer() for name in names}

    def server_at(self, address: Address) -> BlobServer:
        for name, client in self.clients.items():
            if client.account.server == address:
                return self.servers[name]
        raise LinkClosed("there is no such server")

    @contextmanager
    def linked(self) -> Iterator[None]:
        @asynccontextmanager
        async def open_link(
            _dialer: object, address: Address, secret: bytes | None, *_rest: object
        ) -> AsyncIterator[BlobLink]:
            self.dialled.append((address, secret is not None))
            yield BlobLink(self.server_at(address))

        with (
            patch("cbfs.sending.uploads.open_link", open_link),
            patch("cbfs.receiving.fetching.open_link", open_link),
        ):
            yield

    def save(
        self, client: Client, people: tuple[str, ...], data: bytes, *, folder: bool = False
    ) -> Message:
        """As the engine sends what is large."""
        everybody = tuple(sorted({*people, client.name}))

        def store(writer: Writer) -> Content:
            content = Content(writer.random_number(), len(data), CHUNK)
            for index, start in enumerate(range(0, len(data), CHUNK)):
                key = u64(content.id) + u32(index)
                writer.put(Table.CONTENT, key, data[start : start + CHUNK])
            return content

        content = client.store.write(store)
        blob, digest = trio.run(new_blob, client.context, content)
        known = [c for c in client.context.conversations.values() if c.participants == everybody]
        outgoing = Outgoing(
            known[0].id if known else None,
            people,
            "",
            "film",
            content,
            lambda _writer, _conversation: None,
            folder=folder,
        )
        settled = Settled(
            client.name,
            everybody,
            "",
            digest,
            self.now,
            SYSTEM_RANDOM.token(16),
            SYSTEM_RANDOM.token(16),
            client.context.contacts.directories,
            blob,
        )
        conversations = client.context.conversations
        _conversation, message = client.store.write(
            lambda writer: make_message(writer, conversations, outgoing, settled)
        )
        client.load()
        return message

    def upload(self, client: Client) -> list[Message]:
        """As far as it goes: the messages that were queued by that."""
        put: list[Message] = []
        client.load()
        uploads = Uploads(client.context, Told(client), put.append)
        with self.linked():
            for state in (BlobStage.LEAVING, BlobStage.PUTTING):
                trio.run(uploads._work, state)
        return put

    def tidy(self, client: Client) -> None:
        """The clock of its uploads ticks."""
        client.load()
        uploads = Uploads(client.context, Told(client), lambda _message: None)
        with self.linked():
            trio.run(uploads.tidy)

    def deliver(self, sender: Client, recipient: Client) -> None:
        """All that is queued, and what is due."""
        sender.load()
        recipient.load()
        sender.pump(fails=False)
        mail, recipient.mail = recipient.mail, []
        recipient.receive(mail)
        recipient.load()

    def fetch(self, client: Client) -> Told:
        """One try of each file that is not here."""
        client.load()
        told = Told(client)
        fetching = Fetching(client.context, partial(self._reception, client), told)

        async def once() -> None:
            for sender in sorted(fetching._senders()):
                for blob, message in fetching._waiting(sender):
                    if fetching._is_welcome(message.sender):
                        await fetching._try(blob, message)

        with self.linked():
            trio.run(once)
        return told

    def _reception(self, client: Client) -> Reception:
        directories = client.context.contacts.directories
        return Reception(client.name, self.now, 0, True, directories)

    def blob_of(self, client: Client, message: Message) -> Blob | None:
        with client.store.read() as reader:
            return blobs.get(reader, message.content.id)

    def got(self, client: Client, message: Message) -> Message | None:
        """The message as it is at another client."""
        with client.store.read() as reader:
            return history.find_message(reader, message.conversation, message.sender, message.id)

    def content(self, client: Client, message: Message) -> bytes:
        with client.store.read() as reader:
            return read_content(reader, message.content, 0, message.content.size)

    def remove(self, client: Client, message: Message) -> None:
        client.store.write(partial(forget, message=message, dues={}, now=self.now))
        client.load()


def make_world(place: Path, *names: str) -> BlobWorld:
    """With these people, who know each other."""
    world = BlobWorld(place)
    world.begin(names)
    return world
