"""The order of a conversation's messages, which is the same at everybody who has the same messages.

A message's **place** is the date that its sender gave it, or the place of the last of its parents
and one more, whichever is greater; between messages of one place their ids decide. So it is behind
its parents, and neither when it came nor anybody else's clock has a say. A parent that comes late
may raise the places of those that were here before it, and these those behind them.

Everything here belongs into the transaction that brings the message.
"""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from cbfs.messages.model import ParentRef
from cbfs.storage.encoding import pack, unpack
from cbfs.storage.store import Meta, Reader, Table, Writer

BEFORE_MAX = 3_600_000
"""Milliseconds by which the date that a message is shown under is moved, at most, to be before that
of one that names it as a parent: clocks differ, but nobody is to date what others have written."""

WAITING_MAX = 64
"""Messages of which is remembered that they wait for one parent."""

IN_VAIN_MAX = 64
"""Messages of a conversation that were asked for in vain, of which ``status`` tells."""

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


class Absence(Enum):
    """Why a message is not here that others name as a parent."""

    MISSING = 0  # it may come
    TAKEN_BACK = 1  # as who is said to have written it says
    IN_VAIN = 2  # it was asked for as often as anything is


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for a parent that is not here: the first ``date`` that one of them is shown at
    (milliseconds), the ``serials`` of WAITING_MAX of them, and why it is not here, by each of those
    who are said to have written it: who names a parent may say that it is anybody's. ``lacking``:
    who of the conversation has asked for it."""

    date: int
    serials: tuple[int, ...]
    whys: tuple[tuple[str, Absence], ...] = ()
    lacking: tuple[str, ...] = ()

    def why(self, author: str) -> Absence:
        """Why it is not here as a message of this author's."""
        return dict(self.whys).get(author, Absence.MISSING)

    def explained(self, author: str, why: Absence) -> "Waiting":
        """With another reason why it is not here as a message of this author's."""
        return replace(self, whys=tuple(sorted((dict(self.whys) | {author: why}).items())))

    @property
    def is_in_vain(self) -> bool:
        """Whether anybody was asked for it in vain as one of theirs."""
        return any(why is Absence.IN_VAIN for _author, why in self.whys)

    def encode(self) -> bytes:
        """As a record of ``Meta.BEFORE``."""
        whys = [[author, why.value] for author, why in self.whys]
        return pack(self.date, list(self.serials), whys, list(self.lacking))


def wait_for(writer: Writer, conversation: bytes, parent: bytes, date: int, serial: int) -> bool:
    """A message that is shown at ``date`` names a parent (16) that is not here. False when so many
    wait for it that this one is not told when it comes."""
    known = waiting(writer, conversation, parent)
    date, there = max(1, date), known.serials if known else ()
    made = replace(known, date=min(date, known.date)) if known else Waiting(date, ())
    told = len(there) < WAITING_MAX
    made = replace(made, serials=(*there, serial)) if told else made
    writer.put(Table.META, _key(conversation, parent), made.encode())
    return told


def waited_for(writer: Writer, conversation: bytes, id_: bytes) -> Waiting | None:
    """A message is here: what has waited for it, if anything, which is forgotten."""
    found = waiting(writer, conversation, id_)
    if found is not None:
        writer.delete(Table.META, _key(conversation, id_))
        if found.is_in_vain:
            left = [parent for parent in _asked_for(writer, conversation) if parent != id_]
            _put_asked_for(writer, conversation, left)
    return found


def explain(writer: Writer, conversation: bytes, parent: bytes, author: str, why: Absence) -> bool:
    """Why a parent is not here as a message of this author's. False when nothing waits for it, or
    that was known."""
    known = waiting(writer, conversation, parent)
    if known is None or known.why(author) is why:
        return False
    known = known.explained(author, why)
    asked_for = [each for each in _asked_for(writer, conversation) if each != parent]
    if known.is_in_vain:
        asked_for.append(parent)
    _put_asked_for(writer, conversation, asked_for)
    writer.put(Table.META, _key(conversation, parent), known.encode())
    return True


def lacks(writer: Writer, conversation: bytes, parent: bytes, who: str) -> None:
    """Somebody of the conversation asks for what is not here either."""
    known = waiting(writer, conversation, parent)
    if known is not None and who not in known.lacking:
        known = replace(known, lacking=tuple(sorted((*known.lacking, who))))
        writer.put(Table.META, _key(conversation, parent), known.encode())


def all_waited_for(reader: Reader) -> Iterator[tuple[bytes, bytes]]:
    """(conversation, id) of all messages that others name, and that are not here."""
    start = len(Meta.BEFORE)
    for key in reader.keys(Table.META, Meta.BEFORE):
        yield key[start : start + 16], key[start + 16 :]


def waiting(reader: Reader, conversation: bytes, parent: bytes) -> Waiting | None:
    """What waits for a parent that is not here, None when nothing does."""
    data = reader.get(Table.META, _key(conversation, parent))
    return None if data is None else _decode_waiting(data)


def forgo(writer: Writer, conversation: bytes, parent: bytes, serial: int) -> None:
    """A message that names a parent which is not here is deleted."""
    known = waiting(writer, conversation, parent)
    if known is None or serial not in known.serials:
        return
    left = tuple(number for number in known.serials if number != serial)
    if left:
        fewer = replace(known, serials=left)
        writer.put(Table.META, _key(conversation, parent), fewer.encode())
    else:
        waited_for(writer, conversation, parent)


def in_vain(reader: Reader, conversation: bytes, but: Container[bytes] = ()) -> int:
    """How many messages of a conversation others name that were asked for in vain, without those
    whose ids are in ``but``."""
    return sum(id_ not in but for id_ in _asked_for(reader, conversation))


def _asked_for(reader: Reader, conversation: bytes) -> list[bytes]:
    data = reader.get(Table.META, Meta.IN_VAIN + conversation)
    return _decode_asked_for(data) if data else []


def _put_asked_for(writer: Writer, conversation: bytes, parents: list[bytes]) -> None:
    key = Meta.IN_VAIN + conversation
    if parents:
        writer.put(Table.META, key, _encode_asked_for(parents[-IN_VAIN_MAX:]))
    else:
        writer.delete(Table.META, key)


def _encode_asked_for(parents: list[bytes]) -> bytes:
    return pack(parents)


def _decode_asked_for(data: bytes) -> list[bytes]:
    (parents,) = unpack(data, list)
    return list(parents)


def _decode_waiting(data: bytes) -> Waiting:
    date, serials, whys, lacking = unpack(data, int, list, list, list)
    said = tuple((who, Absence(why)) for who, why in whys)
    return Waiting(date, tuple(serials), said, tuple(lacking))


def _key(conversation: bytes, parent: bytes) -> bytes:
    return Meta.BEFORE + conversation + parent


@dataclass(frozen=True, slots=True)
class Known:
    """What stays of a message when it is deleted: its serial, its place, its hash (32) and who has
    sent it. ``instead``: of one's own that was taken back, what is named in its place."""

    serial: int
    place: int
    hash: bytes
    sender: str
    instead: tuple[ParentRef, ...] = ()

    def encode(self) -> bytes:
        """As a record of ``Table.MESSAGE_IDS``."""
        return pack(self.serial, self.place, self.hash, self.sender, list(self.instead))


def decode_known(data: bytes) -> Known:
    """Undo ``Known.encode``. Raises DecodeError."""
    serial, place, hash_, sender, instead = unpack(data, int, int, bytes, str, list)
    return Known(serial, place, hash_, sender, parents_of(instead))


def parents_of(packed: list[Any]) -> tuple[ParentRef, ...]:
    """Parents as a record has them."""
    return tuple(ParentRef(*each) for each in packed) if packed else ()
