"""What a listing of mail/ tells of messages, as records of the store, so that nothing of a message
need be opened for that: when each came, and how long it is as a mail.

Those of the messages of one segment are one record of ``Table.MAIL``, which is made when somebody
has looked: what is missing in it, or is damaged, is found in the messages. Nothing of what a
message says is in there.
"""

import struct
from typing import NamedTuple

from cbfs.messages.marks import mail_notes
from cbfs.messages.search_index import SEGMENT, entries
from cbfs.storage.encoding import u32
from cbfs.storage.store import DamagedRecord, Reader, Table, Writer
from cbfs_common.errors import DecodeError

STAMP_SIZE = 8
"""Bytes that stand for all that the length of a mail depends on besides its message."""

_ROW = struct.Struct(f">B16sqQ{STAMP_SIZE}s")
_KIND = b"\1"
"""What the keys of these records end with, beside those of ``cbfs.messages.marks.mail_notes``."""

_DATES = 1 << 62
"""No message comes so many milliseconds before or after 1970."""


class Row(NamedTuple):
    """One message. ``received``: when it came, in milliseconds since 1970. ``size``: of the mail,
    in bytes, as long as what it depends on is what ``stamp`` stands for; 0 while nobody knows."""

    conversation: bytes
    received: int
    size: int = 0
    stamp: bytes = bytes(STAMP_SIZE)


Page = dict[int, Row]
"""Of the messages of a segment, by their numbers in it."""


def page_of(reader: Reader, segment: int) -> Page:
    """What is known of the messages of a segment that are there. What is damaged is as good as
    nothing: it can be made again."""
    there = {number: conversation for number, conversation, *_ in entries(reader, segment)}
    known = _stored(reader, segment)
    return {n: row for n, row in known.items() if there.get(n) == row.conversation}


def add_to_page(writer: Writer, segment: int, rows: Page) -> None:
    """Keep these rows of a segment, but those of messages that are gone by now."""
    there = {number: conversation for number, conversation, *_ in entries(writer, segment)}
    known = page_of(writer, segment)
    found = {n: row for n, row in rows.items() if there.get(n) == row.conversation}
    if found.items() - known.items():
        writer.put(Table.MAIL, _key(segment), encode_page(known | found))


def forget(writer: Writer, serial: int) -> None:
    """A message is deleted: nothing is kept of it, nor noted."""
    mail_notes.forget(writer, serial)
    forget_row(writer, serial)


def forget_row(writer: Writer, serial: int) -> None:
    """A message has come at another time than before."""
    segment, number = divmod(serial, SEGMENT)
    known = _stored(writer, segment)
    if known.pop(number, None) is None:
        return
    if known:
        writer.put(Table.MAIL, _key(segment), encode_page(known))
    else:
        writer.delete(Table.MAIL, _key(segment))


def encode_page(page: Page) -> bytes:
    """As a record."""
    return b"".join(_ROW.pack(number, *row) for number, row in sorted(page.items()))


def decode_page(data: bytes) -> Page:
    """The rows of a record. Raises DecodeError for what ``encode_page`` did not write."""
    if not data or len(data) % _ROW.size:
        raise DecodeError("what mail/ shows of messages is damaged")
    page = {number: Row(*rest) for number, *rest in _ROW.iter_unpack(data)}
    right = all(n < SEGMENT and -_DATES < row.received < _DATES for n, row in page.items())
    if not right or list(page) != sorted(page) or len(page) * _ROW.size != len(data):
        raise DecodeError("what mail/ shows of messages is damaged")
    return page


def _stored(reader: Reader, segment: int) -> Page:
    try:
        data = reader.get(Table.MAIL, _key(segment))
        return {} if data is None else decode_page(data)
    except (DamagedRecord, DecodeError):
        return {}


def _key(segment: int) -> bytes:
    return u32(segment) + _KIND
