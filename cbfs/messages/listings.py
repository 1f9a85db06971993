"""What a folder of messages shows of each, many in one record, so that listing opens few.

The messages of a conversation are in pages, in order of arrival: a page is one record of
``Table.LISTINGS``, whose key has the serial of its first message, and its value the entries one
after the other. All of it is in ``Table.MESSAGES`` too, and can be made again from there.

Everything that changes a page belongs into the transaction that changes the messages: a crash
leaves both or neither.
"""

from collections.abc import Iterator

import msgpack

from cbfs.messages.model import Content, Message
from cbfs.storage.encoding import number_of, pack, u64
from cbfs.storage.store import Meta, Reader, Table, Writer

PAGE_SIZE = 4_000
"""Bytes of a page: with what it is sealed in, one page of LMDB's."""


Entry = tuple[int, int, str, int, int, int, int, bool, int, int, int, int]
"""Serial, date in ms, name, the content's id, size and chunk, bytes in the transcript, whether it
is a folder, when it ends in ms or 0, when it came in ms, how far its place is from its date, and
what decides between messages of one place. A plain tuple, as a listing may make very many."""

TIE_SIZE = 8
"""Bytes of a message's id that decide between messages of one place."""


def content_of(entry: Entry) -> Content:
    """The content that an entry names."""
    return Content(*entry[3:6])


def is_folder(entry: Entry) -> bool:
    """Whether the message of an entry is a folder."""
    return entry[7]


def ends_of(entry: Entry) -> int:
    """When the message of an entry ends, in milliseconds since 1970, or 0."""
    return entry[8]


def received_of(entry: Entry) -> int:
    """When the message of an entry came, in milliseconds since 1970."""
    return entry[9]


def entry_of(message: Message) -> Entry:
    """What is listed of a message."""
    content = message.content
    numbers = content.id, content.size, content.chunk
    shown = message.entry_size, message.folder, message.ends, message.received
    order = message.place - message.date, int.from_bytes(message.id[:TIE_SIZE], "big")
    return (message.serial, message.date, message.name, *numbers, *shown, *order)


def add(writer: Writer, message: Message) -> None:
    """List a message, which must be the newest of its conversation."""
    if message.folder:
        _count_folders(writer, message.conversation, 1)
    fresh = _encode(entry_of(message))
    last = writer.last(Table.LISTINGS, message.conversation)
    if last is not None and len(last[1]) + len(fresh) <= PAGE_SIZE:
        writer.put(Table.LISTINGS, last[0], last[1] + fresh)
    else:
        writer.put(Table.LISTINGS, _key(message.conversation, message.serial), fresh)


def change(writer: Writer, message: Message) -> None:
    """Something of a message is other than before. Its page may grow beyond PAGE_SIZE by that."""
    _replace(writer, message, [_encode(entry_of(message))])


def remove(writer: Writer, message: Message) -> None:
    """A message is deleted: it is listed no more."""
    if _replace(writer, message, []) and message.folder:
        _count_folders(writer, message.conversation, -1)


# Pages


def folders(reader: Reader, conversation: bytes) -> int:
    """How many messages of a conversation are folders."""
    return number_of(reader.get(Table.META, Meta.FOLDERS + conversation))


def _count_folders(writer: Writer, conversation: bytes, more: int) -> None:
    count = folders(writer, conversation) + more
    writer.put(Table.META, Meta.FOLDERS + conversation, u64(count))


def _replace(writer: Writer, message: Message, by: list[bytes]) -> bool:
    """False when it is not listed."""
    key = _key(message.conversation, message.serial)
    page = writer.key_up_to(Table.LISTINGS, key, message.conversation)
    if page is None:
        return False
    left: list[bytes] = []
    found = False
    for entry in _decode_page(writer.get(Table.LISTINGS, page) or b""):
        found |= entry[0] == message.serial
        left += by if entry[0] == message.serial else [_encode(entry)]
    if left:
        writer.put(Table.LISTINGS, page, b"".join(left))
    else:
        writer.delete(Table.LISTINGS, page)
    return found


def listed(reader: Reader, conversation: bytes, start: int, most: int) -> list[Entry]:
    """At most ``most`` entries of a conversation, in order, from serial ``start`` on."""
    found: list[Entry] = []
    for page in _pages(reader, conversation, start):
        found += page if page[0][0] >= start else [entry for entry in page if entry[0] >= start]
        if len(found) >= most:
            break
    return found[:most]


def every(reader: Reader, conversation: bytes, start: int = 0) -> Iterator[Entry]:
    """All entries of a conversation from a serial on, in order."""
    for page in _pages(reader, conversation, start):
        yield from (entry for entry in page if entry[0] >= start)


def serials(reader: Reader, conversation: bytes, start: int = 0) -> Iterator[int]:
    """The serials of a conversation's messages in order, from one on."""
    return (entry[0] for entry in every(reader, conversation, start))


def newest(reader: Reader, conversation: bytes, most: int) -> list[int]:
    """The serials of the last ``most`` messages of a conversation, in order."""
    found: list[int] = []
    for key in reversed(list(reader.keys(Table.LISTINGS, conversation))):
        page = _decode_page(reader.get(Table.LISTINGS, key) or b"")
        found = [entry[0] for entry in page] + found
        if len(found) >= most:
            break
    return found[-most:]


def _pages(reader: Reader, conversation: bytes, start: int) -> Iterator[list[Entry]]:
    first = reader.key_up_to(Table.LISTINGS, _key(conversation, start), conversation)
    for _page, data in reader.items(Table.LISTINGS, conversation, first):
        yield _decode_page(data)


def _encode(entry: Entry) -> bytes:
    return pack(*entry)


def _decode_page(data: bytes) -> list[Entry]:
    unpacker = msgpack.Unpacker(use_list=False, max_buffer_size=len(data))
    unpacker.feed(data)
    return list(unpacker)


def _key(conversation: bytes, serial: int) -> bytes:
    return conversation + u64(serial)
