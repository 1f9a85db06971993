"""What a client does about state that it has lost: without sessions, because it is a copy
(``cbfs.receiving.copies``) or the account was restored, another life begins with everybody
(``cbfs.contacts.lives``), and all with whom messages were exchanged are to hear of it.
"""

from array import array
from dataclasses import replace
from functools import partial

from cbfs.contacts.lives import load_lives, renew_lives
from cbfs.messages import listings, name_pages, search_index
from cbfs.messages.conversations import met, note_met
from cbfs.messages.history import (
    extend_transcript,
    get_message,
    message_of,
    put_message,
    searched_text,
    transcript_text,
)
from cbfs.messages.model import Delivery, Message
from cbfs.messages.queues.note_queue import NOTHING, Dues, NoteKind, count_anew, enqueue
from cbfs.storage.encoding import pack, u32, unpack
from cbfs.storage.store import Meta, Reader, Series, Store, Table, Writer
from cbfs_common.limits import LOST_APART
from cbfs_common.primitives import Random, below, exponential

_SEALED = frozenset((Delivery.SENT, Delivery.RECEIVED))

MADE_AT_ONCE = 4_096
"""Messages of which something is made again in one transaction."""

LOST_FIRST = 5_000
"""Milliseconds within which, at random, a prompt client writes to the first."""


def notice_loss(store: Store, me: str, now: int, random: Random) -> None:
    """When there is no session: another life begins with everybody, and with whom messages were
    exchanged an envelope is due. Before the store runs; ``now`` in milliseconds."""
    with store.read() as reader:
        if reader.count(Table.SESSIONS) or not (load_lives(reader) or met(reader)):
            return

    def change(writer: Writer) -> None:
        renew_lives(writer)
        tell_loss(writer, {}, me, now, random)

    store.write(change)


def tell_loss(writer: Writer, dues: Dues, me: str, now: int, random: Random) -> None:
    """An envelope is due to everybody with whom messages were exchanged, to one after the other,
    LOST_APART seconds apart in the mean: all at once would show a server of several that they are
    one person's peers."""
    count_anew(writer)  # of a damaged store some may have been lost
    peers = sorted(met(writer) - {me})
    writer.put(Table.META, Meta.BEGUN_ANEW, _encode_begun(now, peers))
    due = now + below(random, LOST_FIRST)
    while peers:
        peer = peers.pop(below(random, len(peers)))
        enqueue(writer, dues, peer, NoteKind.TURN, NOTHING, due)
        due += int(exponential(random, LOST_APART) * 1_000)


def begun_anew(reader: Reader) -> tuple[int, tuple[str, ...]]:
    """(when all sessions were lost last, in milliseconds since 1970; with whom)."""
    data = reader.get(Table.META, Meta.BEGUN_ANEW)
    if data is None:
        return 0, ()
    return _decode_begun(data)


def _encode_begun(since: int, peers: list[str]) -> bytes:
    return pack(since, peers)


def _decode_begun(data: bytes) -> tuple[int, tuple[str, ...]]:
    since, peers = unpack(data, int, list)
    return since, tuple(peers)


def make_listings(store: Store) -> None:
    """Make the pages of ``cbfs.messages.listings`` and of names of files, and note with whom
    messages were exchanged: what a store lacks that was restored. One that was brought over from
    long ago (``cbfs.earlier``) also lacks what transcripts and searches go by. Before the store
    runs. In many transactions: a crash before the last leaves all of it to the next start."""
    with store.read() as reader:
        if reader.get(Table.META, Meta.LISTED) is not None:
            return
        newest = reader.number(Series.MESSAGE)
        brought = newest > 0 and reader.get(Table.META, Meta.SEGMENTS) is None

    def clear(writer: Writer) -> None:
        writer.delete_prefix(Table.LISTINGS, b"")
        writer.delete_prefix(Table.FILE_NAMES, b"")
        writer.delete_prefix(Table.META, Meta.FOLDERS)
        if brought:
            writer.delete_prefix(Table.META, Meta.TRANSCRIPT)
            writer.delete_prefix(Table.TERMS, b"")

    store.write(clear)
    there: dict[bytes, array[int]] = {}
    with store.read() as reader:
        for key in reader.keys(Table.MESSAGES):
            conversation, serial = message_of(key)
            there.setdefault(conversation, array("Q")).append(serial)
    for conversation, found in there.items():
        serials = sorted(found)
        for start in range(0, len(serials), MADE_AT_ONCE):
            some = serials[start : start + MADE_AT_ONCE]
            store.write(
                lambda writer, key=conversation, some=some: _list(
                    writer, key, some, brought=brought
                )  # type: ignore[misc]
            )
    segments = newest // search_index.SEGMENT
    for segment in range(segments) if brought else ():
        store.write(partial(search_index.put_together, segment=segment))

    def end(writer: Writer) -> None:
        if brought:
            writer.put(Table.META, Meta.SEGMENTS, u32(segments + 1))
        writer.put(Table.META, Meta.LISTED, b"\1")

    store.write(end)


def _list(writer: Writer, conversation: bytes, serials: list[int], *, brought: bool) -> None:
    for serial in serials:
        message = get_message(writer, conversation, serial)
        if message is None:
            continue
        if brought:
            message = _enter_again(writer, message)
        listings.add(writer, message)
        name_pages.name_file(writer, conversation, message.name, serial)
        if not message.recipients:
            note_met(writer, message.sender)
        for who, state in message.recipients:
            if state in _SEALED:
                note_met(writer, who)


def _enter_again(writer: Writer, message: Message) -> Message:
    """Put a message that the store has into its conversation's transcript, and have it found by its
    words. The message as it is then."""
    message = replace(message, entry_size=len(transcript_text(writer, message)))
    put_message(writer, message)
    extend_transcript(writer, message.conversation, message.entry_size, 0)
    text = searched_text(writer, message, search_index.TEXT_MAX)
    search_index.add_words(writer, message, text)
    return message
