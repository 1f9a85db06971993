"""Lines that the user has pasted, until who has made them is a contact and has been told, or they
turn out to be good for nothing.

In the store, ``Meta.PASTED`` and the line's drop (32) is the key of a record: the line's text, when
it was pasted, what lies at the server for it, and whether who has made it is a contact.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cbfs.storage.encoding import pack, unpack
from cbfs.storage.store import Meta, Reader, Table, Writer
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.wire.lines import InviteLine, InviteRecord, decode_record, line_to, parse_line

PASTED_MAX: Final = 64
"""Lines that are worked on at once."""


@dataclass(frozen=True, slots=True, repr=False)
class Pasted:
    """A ``line``, and ``since`` when it is here (seconds since 1970). ``record``: what it leads to,
    from when it is used for this account on, be it too old by then. ``met``: who has made it is a
    contact, and only has to be told."""

    line: InviteLine
    since: int
    record: InviteRecord | None = None
    met: bool = False

    def encode(self) -> bytes:
        """The line's text, the time, the record or nothing, and 1 or 0."""
        record = self.record.encode() if self.record else b""
        return pack(self.line.text(), self.since, record, int(self.met))


def decode_pasted(data: bytes) -> Pasted:
    """Undo ``Pasted.encode``. Raises DecodeError."""
    text, since, plain, met = unpack(data, str, int, bytes, int)
    line, record = parse_line(text), decode_record(plain) if plain else None
    fits = record is None or (record.contact and line_to(line.address, record) == line)
    if since < 0 or met not in (0, 1) or not fits or (met and record is None):
        raise DecodeError(
            "a record of the store is damaged", "restore an export: cbfs init --restore FILE"
        )
    return Pasted(line, since, record, met == 1)


def pasted(reader: Reader) -> Iterator[Pasted]:
    """All lines that are worked on."""
    for _key, data in reader.items(Table.META, Meta.PASTED):
        yield decode_pasted(data)


def paste(writer: Writer, one: Pasted) -> None:
    """Work on a line; one that is here already stays as it is. Raises CbfsError when there are
    PASTED_MAX."""
    if writer.get(Table.META, Meta.PASTED + one.line.drop) is not None:
        return
    if sum(1 for _ in writer.keys(Table.META, Meta.PASTED)) >= PASTED_MAX:
        raise CbfsError(
            f"{PASTED_MAX} lines that you have pasted are worked on",
            "paste more when some are done: cat status",
        )
    keep(writer, one)


def keep(writer: Writer, one: Pasted) -> None:
    """A line that is worked on is further now."""
    writer.put(Table.META, Meta.PASTED + one.line.drop, one.encode())


def done(writer: Writer, one: Pasted) -> None:
    """Nothing is left to do for a line."""
    writer.delete(Table.META, Meta.PASTED + one.line.drop)
