"""Blobs of others: fetched from their home servers, checked chunk by chunk, and kept as what the
sender has written. PROTOCOL.rst, Blobs.

What is here stands in the store in whole records, with how far it is in the same transaction; so
after a crash it goes on at the chunk. What one person has sent comes in its order, and waits for
nothing of anybody else: else a slow server would show in what is asked of another one. Each try
is a connection of its own, with a fresh key.

A file is fetched from the home server of its sender, as the directory has it, and from no other:
a message must not choose whom this machine connects to. Whatever goes wrong is told to the user,
and tried again ever more seldom; to whoever has sent it nothing is said but, at last, a receipt.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import trio

from cbfs.context import Context, Events
from cbfs.messages.content import read_table
from cbfs.messages.history import get_message, remove_message
from cbfs.messages.model import Message
from cbfs.messages.queues import blobs
from cbfs.messages.queues.blobs import Blob, BlobStage
from cbfs.messages.queues.note_queue import Dues
from cbfs.network.dial import DialError
from cbfs.network.link import Link, ServerRefused, open_link, request_in_order
from cbfs.problems import Cause, NotYet, in_words
from cbfs.receiving.reassembly import BLOB_RECORD, Reception, acknowledge
from cbfs.storage.encoding import u32, u64
from cbfs.storage.faults import contained
from cbfs.storage.store import Reader, Table, Writer
from cbfs_common.errors import CbfsError, CryptoError, DecodeError, TransportError
from cbfs_common.limits import BLOB_CHUNK, BLOB_FANOUT
from cbfs_common.messages.blobs import (
    BlobKeys,
    BlobReference,
    Shape,
    blob_keys,
    check_data,
    check_node,
    check_top,
    decode_reference,
    shape_of,
)
from cbfs_common.wire.blobs import BlobChunk, GetChunk
from cbfs_common.wire.requests import Code

CHUNKS_AT_ONCE = 64
"""Chunks that are asked for at once, 1 MiB, and kept in one transaction. With a pace, those of one
turn."""

ROOM_LEFT = 64 << 20
"""Bytes of the disk that no file is fetched into: a full disk would stop receipt and sending."""


PAUSE = 5.0
"""Seconds after a try that failed until the next file of the same person is tried, and"""

TOLD_MAX = 8
"""of how many files of one person, the oldest, is told that they are not to be had: one message can
speak of a file that is nowhere, and there may be thousands."""


class FetchFailed(CbfsError):
    """A blob is not to be had now, and why."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a blob is, and all that follows from its reference."""

    link: Link
    keys: BlobKeys
    shape: Shape
    reference: BlobReference


class Fetching:
    """Of an account at work. ``reception`` gives who receives and when; ``events`` hears of what is
    whole."""

    def __init__(
        self, context: Context, reception: Callable[[], Reception], events: Events
    ) -> None:
        self._context = context
        self._reception = reception
        self._events = events
        self._news = trio.Event()
        self._come = trio.Event()
        self._busy: set[str] = set()

    def news(self) -> None:
        """There may be something more to fetch, or nothing in the way of it any more."""
        self._news.set()
        self._news = trio.Event()

    async def come(self) -> None:
        """Wait until more of anything has come, or nothing more of it will."""
        await self._come.wait()

    def moved(self) -> None:
        """Let those who wait in ``come`` look again."""
        self._come.set()
        self._come = trio.Event()

    async def run(self) -> None:
        """Fetch what there is, until cancelled."""
        self._busy.clear()
        async with trio.open_nursery() as nursery:
            while True:
                news = self._news
                for sender in self._senders() - self._busy:
                    self._busy.add(sender)
                    nursery.start_soon(self._fetch_all, sender)
                await news.wait()

    # within

    def _senders(self) -> set[str]:
        with self._context.store.read() as reader:
            found = [_message(reader, blob) for blob in blobs.every(reader, BlobStage.FETCHING)]
        return {message.sender for message in found if message is not None}

    def _waiting(self, sender: str) -> list[tuple[Blob, Message]]:
        """What this person has sent and is not here, in the order in which it came."""
        with self._context.store.read() as reader:
            found = [(b, _message(reader, b)) for b in blobs.every(reader, BlobStage.FETCHING)]
        theirs = [(b, m) for b, m in found if m is not None and m.sender == sender]
        return sorted(theirs, key=lambda each: each[0].serial)

    async def _fetch_all(self, sender: str) -> None:
        """All that one person has sent, until nothing of it is missing."""
        retries = self._context.retries
        try:
            while waiting := self._waiting(sender):
                news, now = self._news, trio.current_time()
                due = [each for each in waiting if retries.due(_topic(each[0])) <= now]
                due.sort(key=lambda each: retries.due(_topic(each[0])))  # what was never tried
                ready = due if self._is_welcome(sender) else []
                if ready:
                    told = ready[0] in waiting[:TOLD_MAX]
                    if not await self._try(*ready[0], told=told):
                        await trio.sleep(PAUSE)
                    continue
                left = [retries.due(_topic(blob)) for blob, _message in waiting]
                until = min((each for each in left if each > now), default=math.inf)
                with trio.move_on_at(until):
                    await news.wait()
        finally:
            self._busy.discard(sender)

    def _is_welcome(self, sender: str) -> bool:
        """Whether this is somebody whom the user has not blocked."""
        contact = self._context.contacts.get(sender)
        return contact is not None and not contact.blocked

    async def _try(self, blob: Blob, message: Message, *, told: bool = True) -> bool:
        """Whether nothing went wrong; else the user is ``told``, unless it is not wanted any
        more."""
        context, topic = self._context, _topic(blob)
        try:
            with contained():
                await self._fetch(blob, message)
        except CbfsError as error:
            wait = context.retries.failed(topic, _cause(error))
            if self._is_wanted(blob) and told:
                who = context.contacts.label(message.sender)
                context.problems.set(
                    topic,
                    f"{message.name} from {who} is not here: {error.in_full};"
                    f" tried again within {in_words(wait)}",
                )
            if self._is_wanted(blob):
                return False
        context.retries.forget(topic)
        context.problems.clear(topic)
        return True

    async def _fetch(self, blob: Blob, message: Message) -> None:
        """Go on where it has stopped. With a pace one turn's share of it."""
        context = self._context
        reference, shape = decode_reference(blob.reference), shape_of(blob.size)
        contact = context.contacts.named(message.sender)
        if reference.server != contact.profile.server:
            raise FetchFailed(
                "it is not at their server",
                "they may have moved to another one: ask them to send it again",
            )
        self._check_room(blob.size - blob.done)
        keys = blob_keys(reference.secret)
        isolation = b"blob:" + context.random.token(16)
        async with open_link(
            context.dialer, reference.server, None, isolation, context.random
        ) as link:
            await self._go_on(blob, _Source(link, keys, shape, reference), message.sender)

    def _check_room(self, left: int) -> None:
        """Whether so much may come. Others take room meanwhile, so that it is looked at before each
        stretch."""
        context = self._context
        if context.store.room() < left + ROOM_LEFT:
            raise FetchFailed("there is no room for it on the disk", "make some")
        quota = context.configuration.current.quota
        if quota and context.store.space()[0] + left > quota:
            raise FetchFailed("it would be over the quota", "raise quota in config.toml")

    async def _go_on(self, blob: Blob, source: _Source, sender: str) -> None:
        shape, number = source.shape, blob.done // BLOB_CHUNK
        digest = source.reference.digest
        top = await _checked(source, 0, lambda chunk: check_top(shape, digest, chunk))
        node, known = top, 0
        while number < shape.count and self._is_wanted(blob) and self._is_welcome(sender):
            place = shape.node(number)
            if place != known:
                node, known = await self._node(source, top, place), place
            behind = number // BLOB_FANOUT * BLOB_FANOUT + BLOB_FANOUT
            last = min(number + CHUNKS_AT_ONCE, behind, shape.count)
            self._check_room(blob.size - number * BLOB_CHUNK)
            found, failure = await _data(source, node, range(number, last))
            await self._keep(blob, number, found)
            if failure is not None:
                raise failure
            number = last
            if self._context.pace:
                return

    async def _node(self, source: _Source, top: bytes, place: int) -> bytes:
        return await _checked(source, place, lambda chunk: check_node(top, place - 1, chunk))

    def _is_wanted(self, blob: Blob) -> bool:
        with self._context.store.read() as reader:
            known = blobs.get(reader, blob.content)
        return known is not None and known.state is BlobStage.FETCHING

    async def _keep(self, blob: Blob, number: int, found: list[bytes]) -> None:
        """These chunks, from that number on, are checked: they are on the disk on return, as far as
        they fill records."""
        whole = number + len(found) == -(-blob.size // BLOB_CHUNK)
        data, first = b"".join(found), number * BLOB_CHUNK // BLOB_RECORD
        if not whole:
            data = data[: len(data) // BLOB_RECORD * BLOB_RECORD]
        if not data:
            return
        reception, dues = self._reception(), Dues()

        def change(writer: Writer) -> tuple[Message | None, bool]:
            known = blobs.get(writer, blob.content)
            message = _message(writer, known) if known else None
            if known is None or message is None or known.state is not BlobStage.FETCHING:
                return None, True
            for at, start in enumerate(range(0, len(data), BLOB_RECORD), first):
                record = data[start : start + BLOB_RECORD]
                writer.put(Table.CONTENT, u64(known.content) + u32(at), record)
            if not whole:
                done = number * BLOB_CHUNK + len(data)
                blobs.put(writer, replace(known, done=done))
                return None, True
            here = replace(known, state=BlobStage.HERE, done=known.size, reference=b"")
            blobs.put(writer, here)
            ref = message.conversation + message.id
            acknowledge(writer, dues, reception, message.sender, ref)
            right = not message.folder or _is_folder(writer, message)
            if not right:
                remove_message(writer, message)
            return message, right

        message, right = await self._context.store.commit(change)
        self._events.progressed()
        self.moved()
        if message is not None:
            self._tell(message, dues, right=right)

    def _tell(self, message: Message, dues: Dues, *, right: bool) -> None:
        if right:
            self._events.message_changed(message)
        else:
            self._events.message_ended(message, ())
            self._context.problems.set(
                "refused",
                f"{message.name} was dropped: what has come of it is no folder (who sent it has to"
                " send it again)",
            )
        if dues:
            self._events.notes_due(dues)


async def _chunks(source: _Source, places: list[int]) -> list[bytes | CbfsError]:
    """What the server has at these places, opened; an error for what it has not, or cannot be."""
    asked = [GetChunk(source.keys.capability, place) for place in places]
    found: list[bytes | CbfsError] = []
    for place, reply in zip(places, await request_in_order(source.link, asked), strict=True):
        if isinstance(reply, BlobChunk):
            try:
                found.append(source.keys.open(place, reply.chunk))
            except CryptoError as error:
                found.append(error)
        else:
            found.append(reply if isinstance(reply, CbfsError) else TransportError("cut off"))
    return found


async def _checked(
    source: _Source, place: int, check: Callable[[bytes], object], tries: int = 2
) -> bytes:
    """The chunk at a place; one for which ``check`` raises CryptoError is asked for so often.
    Raises CbfsError."""
    for left in reversed(range(tries)):
        (chunk,) = await _chunks(source, [place])
        try:
            if isinstance(chunk, CbfsError):
                raise chunk
            check(chunk)
            return chunk
        except CryptoError as error:
            if not left:
                raise FetchFailed(
                    "their server gives something else than they have sent",
                    "ask them to send it again if it stays so",
                ) from error
        except ServerRefused as error:
            raise _missing(error) from error
    raise AssertionError


async def _data(
    source: _Source, node: bytes, numbers: range
) -> tuple[list[bytes], CbfsError | None]:
    """These chunks of the content, up to the first that is not to be had, and why that is so."""

    found: list[bytes] = []
    places = [source.shape.index(number) for number in numbers]
    for number, chunk in zip(numbers, await _chunks(source, places), strict=True):
        try:
            if isinstance(chunk, CbfsError):
                raise chunk
            found.append(check_data(source.shape, node, number, chunk))
        except CryptoError:
            check = partial(check_data, source.shape, node, number)
            try:
                place = source.shape.index(number)
                found.append(check(await _checked(source, place, check, tries=1)))
            except CbfsError as error:
                return found, error
        except ServerRefused as error:
            return found, _missing(error)
        except CbfsError as error:
            return found, error
    return found, None


def _missing(error: ServerRefused) -> CbfsError:
    if error.code is Code.UNKNOWN_BLOB:
        return FetchFailed(
            "it is no longer at their server", "ask them to send it again if it does not come"
        )
    if error.code is Code.NO_CHUNK:
        return FetchFailed("not all of it is at their server yet")
    return error


def _message(reader: Reader, blob: Blob) -> Message | None:
    return get_message(reader, blob.conversation, blob.serial)


def _is_folder(reader: Reader, message: Message) -> bool:
    try:
        read_table(reader, message.content)
    except DecodeError:
        return False
    return True


def _topic(blob: Blob) -> str:
    return f"blob {blob.content}"


def _cause(error: CbfsError) -> Cause:
    away = isinstance(error, TransportError | DialError | NotYet)
    return Cause.AWAY if away else Cause.REFUSED
