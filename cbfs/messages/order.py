"""The order of a conversation's messages, which is the same at everybody who has the same messages.

A message's **place** is the date that its sender gave it, or the place of the last of its parents
and one more, whichever is greater; between messages of one place their ids decide. So it is behind
its parents, and neither when it came nor anybody else's clock has a say. A parent that comes late
may raise the places of those that were here before it, and these those behind them.

Everything here belongs into the transaction that brings the message.
"""

from collections import deque
from collections.abc import Iterable

from cbfs.storage.encoding import number_of, pack, u64, unpack
from cbfs.storage.store import Meta, Reader, Table, Writer

BEFORE_MAX = 3_600_000
"""Milliseconds by which the date that a message is shown under is moved, at most, to be before that
of one that names it as a parent: clocks differ, but nobody is to date what others have written."""

WAITING_MAX = 64
"""Messages of which is remembered that they wait for one parent."""

REORDER_MAX = 2_000
"""Messages that one that comes late can raise: the newest of its conversation. What would be behind
it beyond them stays where it is."""


def place_of(date: int, parents: Iterable[int]) -> int:
    """The place of a message with this date (milliseconds since 1970), and parents of these
    places."""
    return max((date, *(place + 1 for place in parents)))


def raised(
    messages: Iterable[tuple[bytes, int, tuple[bytes, ...]]], late: bytes, place: int
) -> dict[bytes, int]:
    """Which of these (id, place, parents) have another place when the message ``late`` has come to
    its place. They stand in the order of before, which is right but for the late one."""
    moved = {late: place}
    for id_, before, parents in messages:
        floor = max((moved.get(parent, -1) for parent in parents), default=-1) + 1
        if floor > before and id_ != late:
            moved[id_] = floor
    del moved[late]
    return moved


def wait_for(writer: Writer, conversation: bytes, parent: bytes, date: int, serial: int) -> None:
    """A message that is shown at ``date`` names a parent that is not here."""
    known, waiting = _waiting(writer, conversation, parent)
    dates = [date] if known is None else [date, known]
    serials = [*waiting, serial][:WAITING_MAX]
    writer.put(Table.META, _key(conversation, parent), _encode_waiting(max(1, min(dates)), serials))


def waited_for(writer: Writer, conversation: bytes, id_: bytes) -> tuple[int | None, list[int]]:
    """A message is here: the date before which it is to be shown, if any, and the serials of those
    that have waited for it, which are forgotten."""
    found = _waiting(writer, conversation, id_)
    if found[0] is not None:
        writer.delete(Table.META, _key(conversation, id_))
    return found


def newest(reader: Reader, conversation: bytes) -> list[int]:
    """The serials of the newest REORDER_MAX messages of a conversation."""
    keys = deque(reader.keys(Table.MESSAGES, prefix=conversation), REORDER_MAX)
    return [number_of(key[16:]) for key in keys]


def _waiting(reader: Reader, conversation: bytes, parent: bytes) -> tuple[int | None, list[int]]:
    data = reader.get(Table.META, _key(conversation, parent))
    return (None, []) if data is None else _decode_waiting(data)


def _encode_waiting(date: int, serials: list[int]) -> bytes:
    return pack(date, serials)


def _decode_waiting(data: bytes) -> tuple[int, list[int]]:
    date, serials = unpack(data, int, list)
    return date, serials


def _key(conversation: bytes, parent: bytes) -> bytes:
    return Meta.BEFORE + conversation + parent


def encode_known(serial: int, place: int) -> bytes:
    """What stays of a message when it is deleted: serial u64 | place u64."""
    return u64(serial) + u64(place)


def decode_known(data: bytes) -> tuple[int, int]:
    """(serial, place) of a message. Undo ``encode_known``."""
    return number_of(data[:8]), number_of(data[8:])
