"""Blobs of one's own: put at the home server, one after the other, and taken away there when nobody
needs them any more. PROTOCOL.rst, Blobs.

A message whose content is a blob is queued for its recipients in the transaction that notes that
all of it is there; so a crash before leaves a blob that is put, from the chunk that the server
lacks on. What a blob is sealed under is in the reference, which goes with the message.

What the server is asked, and when, follows from what the user does, and from a clock of its own:
that recipients have got something shows at the earliest with its next tick.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace

import trio

from cbfs.context import Context, Events
from cbfs.messages.content import read_content
from cbfs.messages.history import get_message
from cbfs.messages.model import Content, Delivery, Message
from cbfs.messages.queues import blobs, delivery_queue
from cbfs.messages.queues.blobs import Blob, BlobStage
from cbfs.network.dial import HOME, DialError
from cbfs.network.link import Link, ServerRefused, open_link, request, request_in_order
from cbfs.problems import Cause, NotYet, Refused, Retries, in_words
from cbfs.sending.compose import NewBlob, is_blocked
from cbfs.storage.encoding import u32, u64
from cbfs.storage.faults import contained, harmless
from cbfs.storage.store import Reader, Store, Table, Writer
from cbfs_common.errors import CbfsError, TransportError
from cbfs_common.limits import (
    BLOB_ABOVE,
    BLOB_CHUNK,
    BLOB_CLOCK,
    BLOB_DAYS,
    BLOB_RENEWALS,
    FILE_SIZE_MAX,
)
from cbfs_common.messages.blobs import (
    BlobKeys,
    BlobReference,
    Shape,
    TreeMaker,
    blob_keys,
    decode_reference,
    shape_of,
)
from cbfs_common.primitives import KEY_SIZE, exponential
from cbfs_common.wire.blobs import MakeBlob, PutChunk, RemoveBlob
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import Code

CHUNKS_AT_ONCE = 64
"""Chunks under way at once, 1 MiB: what a server takes from one connection. With a pace, those of
one turn."""

READ_AT_ONCE = 256 * BLOB_CHUNK
"""Bytes of a content that are read in one transaction of the store."""

DAY = 86_400_000
"""In milliseconds."""

SURELY_GONE = 2 * DAY
"""Behind its time: a server keeps a blob for whole days and looks for old ones some times a day.
One that is still there when it is put again would be kept no longer for that."""

_FORGOTTEN = frozenset((Code.NO_ACCOUNT, Code.UNKNOWN_BLOB, Code.BAD_REQUEST))
"""Refusals that say that a blob is not there."""

_REFUSALS = {
    Code.BLOB_TOO_LARGE: (
        "your server takes nothing so large",
        "remove it from conversations/, or ask who runs the server for more",
    ),
    Code.BLOB_QUOTA: (
        "your files at your server are over what it keeps for you",
        "it goes when others are gone there, or remove some",
    ),
    Code.FULL: ("your server has no room left", "cbfs tries again"),
    Code.BAD_REQUEST: (
        "your server takes no large files",
        "remove it from conversations/, set blobs = false in config.toml, and save it again",
    ),
    Code.SUSPENDED: ("your server has suspended the account", "ask who runs it"),
}


class UploadRefused(CbfsError):
    """The home server does not take a blob, and why."""


async def settle_content(
    context: Context, content: Content, *, alone: bool
) -> tuple[NewBlob | None, bytes]:
    """(the blob that a content travels as, or None; its digest). What is for oneself ``alone``
    travels nowhere. Raises Refused for what is too large without blobs."""
    if not alone and content.size > BLOB_ABOVE:
        if context.configuration.current.blobs:
            return await new_blob(context, content)
        if content.size > FILE_SIZE_MAX:
            raise Refused("it is too large", "set blobs = true in config.toml")
    if content.size <= content.chunk:
        return None, _digest(context.store, content)
    return None, await trio.to_thread.run_sync(_digest, context.store, content)


def _digest(store: Store, content: Content) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for data in _stretches(store, content):
        digest.update(data)
    return digest.digest()


async def new_blob(context: Context, content: Content) -> tuple[NewBlob, bytes]:
    """A content, which nobody changes any more, as the blob that it is to travel as, and the digest
    of that. Reads all of it, in a thread."""
    tree, digest = await trio.to_thread.run_sync(_tree, context.store, content)
    secret = context.random.token(KEY_SIZE)
    reference = BlobReference(context.account.server, secret, content.size, digest)
    return NewBlob(reference.encode(), blob_keys(secret).id, tree), digest


def _tree(store: Store, content: Content) -> tuple[tuple[bytes, ...], bytes]:
    maker, nodes = TreeMaker(shape_of(content.size)), []
    for data in _stretches(store, content):
        trio.from_thread.check_cancelled()
        for at in range(0, len(data), BLOB_CHUNK):
            node = maker.add(data[at : at + BLOB_CHUNK])
            if node is not None:
                nodes.append(node)
    end = maker.end()
    return (end.top, *nodes, *end.nodes), end.digest


def _stretches(store: Store, content: Content) -> Iterator[bytes]:
    """All of a content, each stretch in a transaction of its own, as it may take long."""
    for start in range(0, content.size, READ_AT_ONCE):
        with store.read() as reader:
            data = read_content(reader, content, start, READ_AT_ONCE)
        yield data


class Uploads:
    """The ones of an account at work. ``put(message)`` is told when a blob is there and its message
    in the queue, on the disk."""

    def __init__(self, context: Context, events: Events, put: Callable[[Message], None]) -> None:
        self._context = context
        self._events = events
        self._put = put
        self._news = trio.Event()

    def wake(self) -> None:
        """There is something more to put, or to take away."""
        self._news.set()
        self._news = trio.Event()

    async def run(self) -> None:
        """Put what is to be put, and, beside that, take away what was removed. Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._work_on, BlobStage.PUTTING)
            nursery.start_soon(self._work_on, BlobStage.LEAVING)

    async def keep_house(self) -> None:
        """At random times, take away what all have got, and put again what is there no more and
        somebody still lacks. Until cancelled."""
        while True:
            await trio.sleep(exponential(self._context.random, BLOB_CLOCK))
            with harmless():
                await self.tidy()

    async def tidy(self) -> None:
        """What a tick of that clock does. Raises StoreError."""
        context, now = self._context, self._context.clock()
        with context.store.read() as reader:
            stored = list(blobs.every(reader, BlobStage.STORED))
            needed = {blob.content: _is_needed(reader, blob) for blob in stored}
        for blob in stored:
            if not needed[blob.content]:
                with suppress(CbfsError), contained():  # the next tick tries it again
                    await self._taken_away(blob)
                    await self._note(blob, replace(blob, state=BlobStage.DELETED))
            elif not self._is_here(blob):
                await self._note(blob, replace(self._anew(blob), state=BlobStage.PUTTING))
            elif context.may_delete and blob.until + SURELY_GONE <= now:
                count = blob.renewed + 1
                again = replace(blob, state=BlobStage.PUTTING, done=0, until=0, renewed=count)
                ends = count > BLOB_RENEWALS
                await self._note(blob, replace(blob, state=BlobStage.DELETED) if ends else again)
        self.wake()

    # within

    async def _work_on(self, state: BlobStage) -> None:
        while True:
            news = self._news
            with trio.move_on_after(await self._work(state)):
                await news.wait()

    async def _work(self, state: BlobStage) -> float:
        """All that are in this state, one after the other, oldest first. Seconds until one is to be
        tried again."""
        with self._context.store.read() as reader:
            found = sorted(blobs.every(reader, state), key=lambda blob: blob.since)
        for blob in found:
            while self._retries.due(_turn(blob)) <= trio.current_time():
                now = self._now(blob)
                if now is None or now.state is not state or await self._try(now):
                    break
        due = (self._retries.due(_turn(blob)) for blob in found)
        return max(0.0, min((each for each in due if each), default=math.inf) - trio.current_time())

    def _now(self, blob: Blob) -> Blob | None:
        """As it is now; None when nothing is to be done with it any more."""
        with self._context.store.read() as reader:
            return blobs.get(reader, blob.content)

    @property
    def _retries(self) -> Retries:
        return self._context.retries

    async def _try(self, blob: Blob) -> bool:
        """Whether nothing is left to do; a turn of the pace may take it a part of its way."""
        topic = _topic(blob)
        try:
            with contained():
                if blob.state is BlobStage.LEAVING:
                    await self._taken_away(blob)
                    await self._context.store.commit(lambda writer: _forget(writer, blob))
                    whole = True
                else:
                    whole = await self._go_on(blob)
        except CbfsError as error:
            wait = self._retries.failed(_turn(blob), _cause(error))
            if self._is_wanted(blob):
                again = f"tried again within {in_words(wait)}"
                self._context.problems.set(
                    topic, f"{self._name(blob)} is not at your server: {error.in_full}; {again}"
                )
            else:
                self._context.problems.clear(topic)
            return False
        self._retries.forget(_turn(blob))
        self._context.problems.clear(topic)
        return whole

    def _name(self, blob: Blob) -> str:
        with self._context.store.read() as reader:
            message = get_message(reader, blob.conversation, blob.serial)
        return message.name if message else "a file"

    def _link(self) -> AbstractAsyncContextManager[Link]:
        """A connection to the home server, as the account; with a pace, at its turn."""
        context, account = self._context, self._context.account
        dialer = context.dialer if context.pace else context.dialer.direct
        isolation = HOME + context.random.token(16)
        return open_link(dialer, account.server, account.transport, isolation, context.random)

    async def _taken_away(self, blob: Blob) -> None:
        """Have the server delete it. Raises CbfsError when that is to be tried again."""
        async with self._link() as link:
            try:
                await request(link, RemoveBlob(blob.id))
            except ServerRefused as error:
                if error.code not in _FORGOTTEN:
                    raise

    def _is_here(self, blob: Blob) -> bool:
        """Whether it was put at the server of now."""
        return decode_reference(blob.reference).server == self._context.account.server

    async def _go_on(self, blob: Blob) -> bool:
        """Put what the server lacks. True when nothing is left to do; with a pace that may take
        several turns."""
        if not self._is_here(blob):  # the account has another server since
            moved = await self._note(blob, self._anew(blob))
            if moved is None:
                return True
            blob = moved
        keys, shape = blob_keys(decode_reference(blob.reference).secret), shape_of(blob.size)
        try:
            async with self._link() as link:
                state = await request(link, MakeBlob(keys.id, shape.data, BLOB_DAYS))
                if not blob.until:
                    until = self._context.clock() + state.days * DAY
                    blob = await self._note(blob, replace(blob, until=until)) or blob
                at = state.put
                while at < shape.chunks and self._is_wanted(blob):
                    at = await self._put_some(link, blob, keys, shape, at)
                    if self._context.pace:
                        break
                if not self._is_wanted(blob):  # a removal may have been there before it was made
                    await request(link, RemoveBlob(keys.id))
        except ServerRefused as error:
            # what recipients look for is put again under its own id, once it is erased there
            if error.code is Code.BLOB_DIFFERS and not blob.renewed:
                await self._note(blob, self._anew(blob))
            if error.code in _REFUSALS:
                words, hint = _REFUSALS[error.code]
                raise UploadRefused(words, hint) from error
            raise
        if at >= shape.chunks:
            await self._finish(blob)
            return True
        return not self._is_wanted(blob)

    async def _put_some(self, link: Link, blob: Blob, keys: BlobKeys, shape: Shape, at: int) -> int:
        """The next chunks from this one on: which is the next then."""
        count = min(CHUNKS_AT_ONCE, shape.chunks - at)
        sealed = await trio.to_thread.run_sync(
            _sealed, self._context.store, self._content(blob), blob.tree, keys, shape, at, count
        )
        asked = [PutChunk(keys.id, at + i, chunk) for i, chunk in enumerate(sealed)]
        for reply in await request_in_order(link, asked):
            if not isinstance(reply, Done):
                raise reply if isinstance(reply, CbfsError) else UploadRefused("it was cut off")
        done = min(blob.size, max(0, at + count - shape.tree) * BLOB_CHUNK)
        self._context.store.ride(lambda writer: _note_done(writer, blob, done))
        self._events.progressed()
        return at + count

    def _content(self, blob: Blob) -> Content:
        with self._context.store.read() as reader:
            message = get_message(reader, blob.conversation, blob.serial)
        if message is None:
            raise UploadRefused("it was removed", "its place at your server goes as well")
        return message.content

    def _is_wanted(self, blob: Blob) -> bool:
        now = self._now(blob)
        return now is not None and now.state is BlobStage.PUTTING

    def _anew(self, blob: Blob) -> Blob:
        """Under a fresh secret, at the server of now. Its message tells of that."""
        before = decode_reference(blob.reference)
        secret = self._context.random.token(KEY_SIZE)
        server = self._context.account.server
        reference = BlobReference(server, secret, before.size, before.digest)
        encoded, id = reference.encode(), blob_keys(secret).id
        return replace(blob, reference=encoded, id=id, done=0, until=0, renewed=0)

    async def _note(self, before: Blob, now: Blob) -> Blob | None:
        """Store what has changed of a blob, unless something else has meanwhile: then None."""

        def change(writer: Writer) -> Blob | None:
            known = blobs.get(writer, before.content)
            if known is None or (known.state, known.id) != (before.state, before.id):
                return None
            blobs.put(writer, now)
            return now

        return await self._context.store.commit(change)

    async def _finish(self, blob: Blob) -> None:
        """All of it is at the server: its message goes to its recipients."""
        now = self._context.clock()

        def change(writer: Writer) -> Message | None:
            known = blobs.get(writer, blob.content)
            message = get_message(writer, blob.conversation, blob.serial)
            if known is None or (known.state, known.id) != (BlobStage.PUTTING, blob.id):
                return None
            blobs.put(writer, replace(known, state=BlobStage.STORED, done=blob.size))
            if known.renewed or message is None:
                return None
            return delivery_queue.add_blob(
                writer, message, lambda who: is_blocked(writer, who), now
            )

        message = await self._context.store.commit(change)
        self._events.progressed()
        if message is not None:
            self._put(message)
            self._events.message_changed(message)


def _topic(blob: Blob) -> str:
    """Of what is wrong with it."""
    return f"blob {blob.content}"


def _turn(blob: Blob) -> str:
    """Of its tries: to take it away does not wait for the next one to put it."""
    return f"blob {blob.content} {blob.state.value}"


def _cause(error: CbfsError) -> Cause:
    away = isinstance(error, TransportError | DialError | NotYet)
    return Cause.AWAY if away else Cause.REFUSED


def _is_needed(reader: Reader, blob: Blob) -> bool:
    """Whether somebody is to get it who has not said that they have."""
    message = get_message(reader, blob.conversation, blob.serial)
    waiting = (Delivery.QUEUED, Delivery.SENT)
    return message is not None and any(state in waiting for _who, state in message.recipients)


def _forget(writer: Writer, blob: Blob) -> None:
    known = blobs.get(writer, blob.content)
    if known is not None and known.state is BlobStage.LEAVING:
        blobs.forget(writer, known)


def _note_done(writer: Writer, blob: Blob, done: int) -> None:
    known = blobs.get(writer, blob.content)
    if known is not None and (known.state, known.id) == (BlobStage.PUTTING, blob.id):
        blobs.put(writer, replace(known, done=done))


def _sealed(
    store: Store, content: Content, tree: int, keys: BlobKeys, shape: Shape, at: int, count: int
) -> list[bytes]:
    """Chunks of a blob from one on: those of its tree, then of its content, and zeros behind it."""
    found = []
    with store.read() as reader:
        first = max(at - shape.tree, 0)
        last = max(at + count - shape.tree, 0)
        start = first * BLOB_CHUNK
        data = read_content(reader, content, start, (last - first) * BLOB_CHUNK)
        for index in range(at, at + count):
            if index < shape.tree:
                chunk = reader.get(Table.CONTENT, u64(tree) + u32(index)) or b""
            else:
                begin = (index - shape.tree) * BLOB_CHUNK - start
                chunk = data[begin : begin + BLOB_CHUNK]
            found.append(keys.seal(index, chunk))
    return found
