"""What mail programs note of messages, as records of the store: their flags (answered, flagged,
...), and under which number mbsync knows them. Whether a message is read is not among it: that is
in ``cbfs.messages.search_index``.

Those of the messages of one segment are one record of ``Table.MAIL``, and a message of which
nothing is noted has none. What changes it belongs into the transaction that changes the message.
"""

import string
from dataclasses import dataclass

from cbfs.messages.search_index import SEGMENT
from cbfs.storage.encoding import pack, u32, unpack
from cbfs.storage.store import DamagedRecord, Reader, Table, Writer
from cbfs_common.errors import DecodeError

_FLAGS = frozenset(string.ascii_letters) - {"S", "T"}

UID_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Noted:
    """What is noted of one message. ``flags``: letters in order, without S and T. ``uid``: the
    number that mbsync gave it, or 0. ``taken``: a mail program has taken it out of new/, though it
    is not read."""

    flags: str = ""
    uid: int = 0
    taken: bool = False


NOTHING = Noted()

Notes = dict[int, Noted]
"""Of the messages of a segment, by their numbers in it."""


def notes_of(reader: Reader, segment: int) -> Notes:
    """What is noted of the messages of a segment. What is damaged is as good as nothing: flags are
    no reason for which a message cannot be deleted, or a box not be listed."""
    try:
        data = reader.get(Table.MAIL, u32(segment))
        return {} if data is None else decode_notes(data)
    except (DamagedRecord, DecodeError):
        return {}


def note(writer: Writer, serial: int, noted: Noted) -> None:
    """Note this of a message, in the place of what was noted before."""
    segment, number = divmod(serial, SEGMENT)
    note_all(writer, segment, {number: noted})


def note_all(writer: Writer, segment: int, notes: Notes) -> None:
    """Note these of messages of a segment, in the place of what was noted of them before."""
    known = notes_of(writer, segment)
    if all(known.get(number, NOTHING) == noted for number, noted in notes.items()):
        return
    left = {n: each for n, each in (known | notes).items() if each != NOTHING}
    if left:
        writer.put(Table.MAIL, u32(segment), encode_notes(left))
    else:
        writer.delete(Table.MAIL, u32(segment))


def forget(writer: Writer, serial: int) -> None:
    """A message is deleted."""
    note(writer, serial, NOTHING)


def encode_notes(notes: Notes) -> bytes:
    """As a record."""
    rows = [[n, each.flags, each.uid, each.taken] for n, each in sorted(notes.items())]
    return pack(rows)


def decode_notes(data: bytes) -> Notes:
    """The notes of a record. Raises DecodeError for what ``encode_notes`` did not write."""
    notes: Notes = {}
    (rows,) = unpack(data, list)
    for row in rows:
        if type(row) is not list or tuple(map(type, row)) != (int, str, int, bool):
            raise DecodeError("the notes of a mail program are damaged")
        number, flags, uid, taken = row
        noted = Noted(flags, uid, taken)
        if not (0 <= number < SEGMENT and 0 <= uid <= UID_MAX and _are_flags(flags)):
            raise DecodeError("the notes of a mail program are damaged")
        notes[number] = noted
    if encode_notes(notes) != data or NOTHING in notes.values():
        raise DecodeError("the notes of a mail program are damaged")
    return notes


def _are_flags(flags: str) -> bool:
    return "".join(sorted(set(flags))) == flags and not set(flags) - _FLAGS
