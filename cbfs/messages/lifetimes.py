"""Lifetimes of conversations, and when messages end, as records of the store. PROTOCOL.rst,
Lifetimes.

``Table.ENDS`` has a record for each message that ends, under ``key_part(slot) 16 | conversation
16 | serial u64``, for each file that is arriving in parts, under ``key_part(slot) 16 | parts' key
16``, and for each envelope's worth of a stranger's request, under ``key_part(slot) 16 | r |
request's key 24``: when, in milliseconds since 1970. A slot is an hour; which slots there are is
one more record. So what ends next is found without looking at all. The records are put and taken
away in the transaction of what they are about.
"""

import re
from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, replace

from cbfs.messages.model import Delivery, Message
from cbfs.storage.encoding import number_of, pack, u32, u64, unpack
from cbfs.storage.records import KEY_PART_SIZE
from cbfs.storage.store import Meta, Reader, Table, Writer
from cbfs_common.limits import INCOMPLETE_FOR, MESSAGE_LIFETIME_MAX, MESSAGE_LIFETIME_MIN
from cbfs_common.messages.conversation import FOREVER, Lifetime, agreed, changed, end_of

SLOT = 3_600_000
"""Milliseconds."""

_CONVERSATION = slice(KEY_PART_SIZE, KEY_PART_SIZE + 16)
_OF_MESSAGE = KEY_PART_SIZE + 24
_REQUEST = b"r"
_OF_REQUEST = KEY_PART_SIZE + len(_REQUEST) + 24

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}


# The setting


@dataclass(frozen=True, slots=True)
class Setting:
    """The lifetime of a conversation: from whom it is known, and since when (milliseconds since
    1970); nobody and 0 when it was never changed."""

    lifetime: Lifetime = FOREVER
    source: str = ""
    since: int = 0

    def encode(self) -> bytes:
        """As a record of ``Meta.LIFETIME``."""
        return pack(self.lifetime.seconds, self.lifetime.change, self.source, self.since)


def _decode_setting(data: bytes) -> Setting:
    seconds, change, source, since = unpack(data, int, int, str, int)
    return Setting(Lifetime(seconds, change), source, since)


def setting(reader: Reader, conversation: bytes) -> Setting:
    """The lifetime that new messages of a conversation get."""
    data = reader.get(Table.META, Meta.LIFETIME + conversation)
    return Setting() if data is None else _decode_setting(data)


def choose(writer: Writer, conversation: bytes, seconds: int, me: str, now: int) -> None:
    """The user sets the lifetime of a conversation, in seconds, for what is written from now on.
    ``now`` in milliseconds since 1970."""
    known = setting(writer, conversation).lifetime
    _put(writer, conversation, known, Setting(changed(known, seconds), me, now))


def learn(writer: Writer, conversation: bytes, told: Lifetime, sender: str, now: int) -> None:
    """A message has come that says ``told`` of its conversation's lifetime. ``now`` in milliseconds
    since 1970."""
    known = setting(writer, conversation).lifetime
    _put(writer, conversation, known, Setting(agreed(known, told), sender, now))


def inherit(writer: Writer, before: Iterable[bytes], conversation: bytes) -> None:
    """A conversation in which others go on has the shortest of their lifetimes, as its first
    change, unless it has one itself."""
    settings = [setting(writer, each) for each in before]
    kept = [each for each in settings if each.lifetime.seconds]
    known = setting(writer, conversation).lifetime
    if kept and known == FOREVER:
        first = min(kept, key=lambda each: (each.lifetime.seconds, each.since))
        new = replace(first, lifetime=changed(FOREVER, first.lifetime.seconds))
        _put(writer, conversation, known, new)


def _put(writer: Writer, conversation: bytes, known: Lifetime, new: Setting) -> None:
    if new.lifetime != known:
        writer.put(Table.META, Meta.LIFETIME + conversation, new.encode())


def parse(value: object) -> int:
    """Seconds of ``7d``; 0 of an empty text. Raises ValueError with what it must be."""
    if value == "":
        return 0
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,8}) ?([smhdw])", value)):
        seconds = int(match[1]) * _UNITS[match[2]]
        if MESSAGE_LIFETIME_MIN <= seconds <= MESSAGE_LIFETIME_MAX:
            return seconds
    raise ValueError('a time like "30m", "12h", "7d" or "4w", from "10s" to "366d", or "" for ever')


def words(seconds: int) -> str:
    """``7d`` of a number of seconds, empty for 0; ``parse`` gives the seconds again."""
    if not seconds:
        return ""
    unit = next(unit for unit in "dhms" if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


# When messages end


@dataclass(frozen=True, slots=True, order=True)
class End:
    """``key`` of a record, and when what it is about ends."""

    when: int
    key: bytes

    def encode(self) -> bytes:
        """As a record of ``Table.ENDS``, but for its key."""
        return pack(self.when)

    @property
    def message(self) -> tuple[bytes, int] | None:
        """(conversation, serial), None for what is no message yet."""
        if len(self.key) != _OF_MESSAGE:
            return None
        return self.key[_CONVERSATION], number_of(self.key[_OF_MESSAGE - 8 :])

    @property
    def request(self) -> bytes | None:
        """The key in ``Table.REQUESTS`` of what a stranger has sent, None for all else."""
        whole = len(self.key) == _OF_REQUEST
        return self.key[KEY_PART_SIZE + len(_REQUEST) :] if whole else None

    @property
    def parts(self) -> bytes:
        """The key in ``Table.PARTS`` of a file that is arriving."""
        return self.key[KEY_PART_SIZE:]


def _decode_end(key: bytes, data: bytes) -> End:
    return End(unpack(data, int)[0], key)


def end_of_message(reader: Reader, message: Message) -> End:
    """When a message that ends does, with the key of that record."""
    serial = u64(message.serial)
    return End(message.ends, _key(reader, message.ends, message.conversation + serial))


def schedule(writer: Writer, message: Message) -> None:
    """Note when a message ends, if it does."""
    if message.ends:
        _add(writer, end_of_message(writer, message))
        _count(writer, message.conversation, 1)


def unschedule(writer: Writer, message: Message) -> None:
    """Forget when a message ends: it has gone, or will end at another time."""
    if message.ends and take_out(writer, end_of_message(writer, message)):
        _count(writer, message.conversation, -1)


def schedule_parts(writer: Writer, parts: bytes, lifetime: Lifetime, now: int) -> None:
    """A file of several parts has begun to arrive. It may be whole or gone when its lifetime is
    over, or the time in which it should become whole."""
    latest = now + INCOMPLETE_FOR * 1_000
    ends = min(end_of(lifetime, now, waits=False) or latest, latest)
    _add(writer, End(ends, _key(writer, ends, parts)))


def schedule_request(writer: Writer, request: bytes, lifetime: Lifetime, now: int) -> None:
    """A stranger has sent something with a lifetime, which waits under this key."""
    ends = end_of(lifetime, now, waits=False)
    if ends:
        _add(writer, End(ends, _key(writer, ends, _REQUEST + request)))


def delivered(writer: Writer, message: Message, now: int) -> Message:
    """The state of a message has moved on: when it is at all servers, its time begins. Gives the
    message as it is now; what has changed of it is to be stored."""
    if not message.ends or any(state is Delivery.QUEUED for _who, state in message.recipients):
        return message
    ends = end_of(message.lifetime, now, waits=False)
    if ends >= message.ends:
        return message
    unschedule(writer, message)
    message = replace(message, ends=ends)
    schedule(writer, message)
    return message


def _add(writer: Writer, end: End) -> None:
    writer.put(Table.ENDS, end.key, end.encode())
    number, known = end.when // SLOT, slots(writer)
    if number not in known:
        insort(known, number)
        _put_slots(writer, known)


def take_out(writer: Writer, end: End) -> bool:
    """Forget when something ends. True when that was known."""
    if not writer.delete(Table.ENDS, end.key):
        return False
    if next(writer.keys(Table.ENDS, end.key[:KEY_PART_SIZE]), None) is None:
        number = end.when // SLOT
        _put_slots(writer, [slot for slot in slots(writer) if slot != number])
    return True


def bring_back(writer: Writer, now: int) -> None:
    """What a wrong clock has let end far ahead ends no later than if it had come at ``now``, and
    what was set then was set at ``now``."""
    for key, data in list(writer.items(Table.META, Meta.LIFETIME)):
        known = _decode_setting(data)
        if known.since > now:
            writer.put(Table.META, key, replace(known, since=now).encode())
    for slot in [slot for slot in slots(writer) if (slot + 1) * SLOT > now]:
        for end in in_slot(writer, slot):
            if end.message is None and end.when > now + MESSAGE_LIFETIME_MAX * 1_000:
                take_out(writer, end)
                latest = now + MESSAGE_LIFETIME_MAX * 1_000
                _add(writer, End(latest, _key(writer, latest, end.key[KEY_PART_SIZE:])))


def messages_after(reader: Reader, now: int) -> list[tuple[bytes, int]]:
    """(conversation, serial) of the messages that end later than in this hour."""
    later = [slot for slot in slots(reader) if (slot + 1) * SLOT > now]
    ends = (end for slot in later for end in in_slot(reader, slot))
    return [end.message for end in ends if end.message is not None]


def is_known(reader: Reader, end: End) -> bool:
    """Whether something still ends then."""
    data = reader.get(Table.ENDS, end.key)
    return data is not None and _decode_end(end.key, data) == end


def slots(reader: Reader) -> list[int]:
    """Hours since 1970 in which something ends, in order."""
    data = reader.get(Table.META, Meta.ENDS) or b""
    return [number_of(data[i : i + 4]) for i in range(0, len(data), 4)]


def in_slot(reader: Reader, slot: int) -> list[End]:
    """What ends in one hour, given as a number of hours since 1970."""
    items = reader.items(Table.ENDS, _slot_key(reader, slot))
    return [_decode_end(key, data) for key, data in items]


def counts(reader: Reader) -> dict[bytes, int]:
    """How many messages end in each conversation, by its id."""
    prefix = Meta.ENDING
    items = reader.items(Table.META, prefix)
    return {key.removeprefix(prefix): number_of(data) for key, data in items}


def _count(writer: Writer, conversation: bytes, more: int) -> None:
    key = Meta.ENDING + conversation
    count = number_of(writer.get(Table.META, key)) + more
    if count > 0:
        writer.put(Table.META, key, u64(count))
    else:
        writer.delete(Table.META, key)


def _put_slots(writer: Writer, numbers: list[int]) -> None:
    writer.put(Table.META, Meta.ENDS, b"".join(u32(number) for number in numbers))


def _key(reader: Reader, ends: int, what: bytes) -> bytes:
    return _slot_key(reader, ends // SLOT) + what


def _slot_key(reader: Reader, slot: int) -> bytes:
    return reader.key_part(Table.ENDS.value, u64(slot))
