"""The messages of conversations as records of the store. PROTOCOL.rst, Messages.

Functions that take a ``Writer`` belong into one transaction with whatever else the caller must
keep true together with them.
"""

from dataclasses import dataclass, replace
from itertools import islice

from cbfs.messages import lifetimes, listings, order, search_index, transcript
from cbfs.messages.content import drop_content, gone_key, hold_content, read_content, read_table
from cbfs.messages.conversations import get_conversation, label
from cbfs.messages.file_names import folder_message_name, message_name
from cbfs.messages.model import Content, Delivery, Message
from cbfs.messages.transcript import Extent, Line
from cbfs.storage.encoding import number_of, pack, u64, unpack
from cbfs.storage.store import Meta, Reader, Series, Table, Writer
from cbfs_common.messages.conversation import FOREVER, Lifetime, end_of

HEADS_MAX = 16
"""Parents that a message names at most."""

AFTER_MAX = 256
"""Messages behind one that is taken back among which the next of its sender is looked for."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is known of a message that is to be shown: see ``Message`` for the fields. One whose
    sender is ``muted`` is not unread. ``left_out``: those of the recipients to whom it is not
    sent. A note to oneself has oneself as its recipient."""

    id: bytes
    sender: str
    date: int
    parents: tuple[bytes, ...]
    file_name: str
    inode: int
    content: Content
    recipients: tuple[str, ...]
    muted: bool = False
    folder: bool = False
    lifetime: Lifetime = FOREVER
    left_out: tuple[str, ...] = ()

    def states(self) -> tuple[tuple[str, Delivery], ...]:
        """How far a new message is on its way to each recipient."""

        def state(who: str) -> Delivery:
            if who == self.sender:
                return Delivery.KEPT
            return Delivery.LEFT_OUT if who in self.left_out else Delivery.QUEUED

        return tuple((who, state(who)) for who in self.recipients)


# Messages


def load_messages(reader: Reader, conversation: bytes) -> tuple[Message, ...]:
    """All messages of a conversation, in order of arrival."""
    return tuple(
        _decode(key, data) for key, data in reader.items(Table.MESSAGES, prefix=conversation)
    )


def named_message(reader: Reader, conversation: bytes, which: str | int) -> Message | None:
    """The message of a conversation with that name or serial, or None."""
    if isinstance(which, int):
        return get_message(reader, conversation, which)
    serial = reader.get(Table.META, name_key(reader, conversation, which))
    return get_message(reader, conversation, number_of(serial)) if serial else None


def name_key(reader: Reader, conversation: bytes, name: str) -> bytes:
    """In Table.META: of the serial of the message that its folder shows under this name."""
    return Meta.NAME + reader.blind(conversation, name.encode())


def note_dropped(writer: Writer, ref: bytes) -> None:
    """A message (conversation id, message id) was thrown away: nobody is asked for it."""
    writer.put(Table.META, _dropped_key(ref), b"\1")


def _dropped_key(ref: bytes) -> bytes:
    return Meta.DROPPED + ref


def newest_message(reader: Reader, conversation: bytes) -> Message | None:
    """The message of a conversation that came last, or None."""
    entry = reader.last(Table.MESSAGES, conversation)
    return _decode(*entry) if entry else None


def get_message(reader: Reader, conversation: bytes, serial: int) -> Message | None:
    """The message of a conversation with this serial, or None when it was deleted."""
    key = conversation + u64(serial)
    data = reader.get(Table.MESSAGES, key)
    return None if data is None else _decode(key, data)


def _decode(key: bytes, data: bytes) -> Message:
    types = (bytes, str, int, int, str, int, list, list, list, str, int, bool, str, list, int)
    fields = unpack(data, *types)
    id_, sender, date, received, name, inode, content, recipients, parents = fields[:9]
    file_name, shown, folder, called, (seconds, change, ends), place = fields[9:]
    return Message(
        id_,
        key[:16],
        number_of(key[16:]),
        sender,
        date,
        received,
        name,
        inode,
        Content(*content),
        tuple((who, Delivery(state)) for who, state in recipients),
        tuple(parents),
        file_name,
        shown,
        folder,
        called,
        Lifetime(seconds, change),
        ends,
        place,
    )


def _encode(message: Message) -> bytes:
    content = message.content
    return pack(
        message.id,
        message.sender,
        message.date,
        message.received,
        message.name,
        message.inode,
        [content.id, content.size, content.chunk],
        [[who, state.value] for who, state in message.recipients],
        list(message.parents),
        message.file_name,
        message.entry_size,
        message.folder,
        message.label,
        [message.lifetime.seconds, message.lifetime.change, message.ends],
        message.place,
    )


def message_content(key: bytes, data: bytes) -> Content:
    """The content that a message's record refers to."""
    return _decode(key, data).content


def put_message(writer: Writer, message: Message) -> None:
    """Store a message, or store what has changed of it."""
    writer.put(Table.MESSAGES, message.conversation + u64(message.serial), _encode(message))


def _message_id(writer: Reader, conversation: bytes, sender: str, id_: bytes) -> bytes:
    return writer.blind(conversation, sender.encode(), id_)


def has_message(reader: Reader, conversation: bytes, sender: str, id_: bytes) -> bool:
    """Whether this message has ever been stored, be it deleted since."""
    key = _message_id(reader, conversation, sender, id_)
    return reader.get(Table.MESSAGE_IDS, key) is not None


def find_message(reader: Reader, conversation: bytes, sender: str, id_: bytes) -> Message | None:
    """One message by its id, or None when it never was here or was deleted."""
    data = reader.get(Table.MESSAGE_IDS, _message_id(reader, conversation, sender, id_))
    return get_message(reader, conversation, order.decode_known(data)[0]) if data else None


def add_message(writer: Writer, conversation: bytes, arrival: Arrival, now: int) -> Message:
    """Store what has arrived as a message: named, numbered, listed, indexed, its content counted,
    and the heads moved. ``now`` in milliseconds since 1970."""

    def taken(name: str) -> bool:
        return writer.get(Table.META, name_key(writer, conversation, name)) is not None

    serial = writer.next_number(Series.MESSAGE)
    date, place, waiting = _placed(writer, conversation, arrival, now, serial)
    naming = folder_message_name if arrival.folder else message_name
    shown = label(writer, arrival.sender)
    name = naming(date, shown, arrival.file_name, taken)
    recipients = arrival.states()
    waits = any(state is Delivery.QUEUED for _who, state in recipients)
    message = Message(
        arrival.id,
        conversation,
        serial,
        arrival.sender,
        date,
        now,
        name,
        arrival.inode,
        arrival.content,
        recipients,
        arrival.parents,
        arrival.file_name,
        0,
        arrival.folder,
        shown,
        arrival.lifetime,
        end_of(arrival.lifetime, now, waits=waits),
        place,
    )
    entry = transcript_text(writer, message)
    message = replace(message, entry_size=len(entry))
    put_message(writer, message)
    listings.add(writer, message)
    lifetimes.schedule(writer, message)
    words = _text(writer, message, search_index.TEXT_MAX)
    search_index.add(writer, message, words, unread=not (arrival.recipients or arrival.muted))
    extend_transcript(writer, conversation, len(entry), 0)
    writer.put(Table.META, name_key(writer, conversation, name), u64(serial))
    _put_known(writer, message)
    hold_content(writer, arrival.content.id)
    _move_heads(writer, conversation, arrival.id, arrival.parents)
    if arrival.recipients:
        writer.put(Table.META, Meta.LAST_OWN + conversation, arrival.id)
    if waiting:
        _raise(writer, message, waiting)
    return message


def _put_known(writer: Writer, message: Message) -> None:
    key = _message_id(writer, message.conversation, message.sender, message.id)
    writer.put(Table.MESSAGE_IDS, key, order.encode_known(message.serial, message.place))


def _placed(
    writer: Writer, conversation: bytes, arrival: Arrival, now: int, serial: int
) -> tuple[int, int, list[int]]:
    """(the date that a message is shown under, its place, the serials of those here that name it as
    a parent). The former is its own, but a date that is still to come is the time of receipt, and
    it is behind its parents and, within order.BEFORE_MAX, before those that it is a parent of."""
    date = min(arrival.date, now)
    before, waiting = order.waited_for(writer, conversation, arrival.id)
    if before is not None and date < before + order.BEFORE_MAX:
        date = min(date, before - 1)
    missing: list[bytes] = []
    places: list[int] = []
    for parent in arrival.parents:
        known = _by_anybody(writer, conversation, parent)
        if known is None:
            missing.append(parent)
            continue
        places.append(known[1])
        message = get_message(writer, conversation, known[0])
        date = max(date, message.date + 1) if message else date
    date = max(0, date)
    for parent in missing:
        order.wait_for(writer, conversation, parent, date, serial)
    sent = date if arrival.recipients else arrival.date  # what others see of one's own
    return date, order.place_of(sent, places), waiting


def _raise(writer: Writer, late: Message, waiting: list[int]) -> None:
    """A message has come of which these are children: they, and those behind them, are to be
    behind it."""
    conversation = late.conversation
    children = (get_message(writer, conversation, serial) for serial in waiting)
    if not any(child is not None and child.place <= late.place for child in children):
        return
    found = (get_message(writer, conversation, n) for n in order.newest(writer, conversation))
    messages = sorted((m for m in found if m is not None), key=lambda m: (m.place, m.id))
    known = {message.id: message for message in messages}
    moved = order.raised(((m.id, m.place, m.parents) for m in messages), late.id, late.place)
    for id_, place in moved.items():
        message = replace(known[id_], place=place)
        put_message(writer, message)
        listings.change(writer, message)
        _put_known(writer, message)
    extend_transcript(writer, conversation, 0, 1)


def _by_anybody(reader: Reader, conversation: bytes, id_: bytes) -> tuple[int, int] | None:
    """(serial, place) of a message, be it deleted since, or None when it has never been here."""
    known = get_conversation(reader, conversation)
    for sender in known.participants if known else ():
        data = reader.get(Table.MESSAGE_IDS, _message_id(reader, conversation, sender, id_))
        if data is not None:
            return order.decode_known(data)
    return None


def place_of(reader: Reader, conversation: bytes, id_: bytes) -> int | None:
    """The place of a message that has been here, None when it never was."""
    known = _by_anybody(reader, conversation, id_)
    return known[1] if known else None


def ancestors_by(
    reader: Reader, conversation: bytes, id_: bytes, sender: str, most: int
) -> list[bytes]:
    """Ids of the nearest messages of one sender behind a message of others, found by looking at no
    more than ``most`` messages. The message itself when it is the sender's."""
    found: list[bytes] = []
    seen: set[bytes] = set()
    left = [id_]
    while left and len(seen) < most:
        here = left.pop()
        known = None if here in seen else _by_anybody(reader, conversation, here)
        seen.add(here)
        message = get_message(reader, conversation, known[0]) if known else None
        if message is not None and message.sender == sender:
            found.append(here)
        elif message is not None:
            left += message.parents
    return found


def own_before(reader: Reader, message: Message, me: str) -> Message | None:
    """The message of one's own that one of one's own names as a parent, if it is here."""
    for parent in message.parents:
        found = find_message(reader, message.conversation, me, parent)
        if found is not None:
            return found
    return None


def missing_parents(
    reader: Reader, conversation: bytes, parents: tuple[bytes, ...]
) -> tuple[bytes, ...]:
    """Those of the parents that have never been here, be it to be dropped."""
    return tuple(
        parent
        for parent in parents
        if _by_anybody(reader, conversation, parent) is None
        and reader.get(Table.META, _dropped_key(conversation + parent)) is None
    )


def remove_message(writer: Writer, message: Message) -> None:
    """Delete a message; its content goes with the last delivery of it."""
    if writer.delete(Table.MESSAGES, message.conversation + u64(message.serial)):
        writer.delete(Table.META, name_key(writer, message.conversation, message.name))
        if message.folder:
            writer.delete_prefix(Table.META, gone_key(message))
        listings.remove(writer, message)
        search_index.remove(writer, message)
        lifetimes.unschedule(writer, message)
        extend_transcript(writer, message.conversation, -message.entry_size, 1)
        drop_content(writer, message.content.id)


# Transcripts


def transcript_extent(reader: Reader, conversation: bytes) -> Extent:
    """How long the transcript of a conversation is, and how often it has changed."""
    data = reader.get(Table.META, Meta.TRANSCRIPT + conversation)
    return _decode_extent(data) if data else Extent(0, 0)


def _decode_extent(data: bytes) -> Extent:
    return Extent(*unpack(data, int, int))


def _encode_extent(extent: Extent) -> bytes:
    return pack(extent.size, extent.changes)


def transcript_entries(reader: Reader, conversation: bytes, start: int) -> list[Line]:
    """Where the messages of a conversation from a serial on stand in its transcript, in order of
    arrival."""
    return [
        Line(serial, size, date + behind, tie)
        for serial, date, *_, size, _f, _e, _r, behind, tie in listings.every(
            reader, conversation, start
        )
    ]


def transcript_entry(reader: Reader, conversation: bytes, serial: int) -> bytes:
    """What stands in the transcript of the message with this serial; empty when it is not there."""
    message = get_message(reader, conversation, serial)
    return transcript_text(reader, message) if message else b""


def transcript_text(reader: Reader, message: Message) -> bytes:
    """What stands in the transcript of a message."""
    left_out = [
        label(reader, who) for who, state in message.recipients if state is Delivery.LEFT_OUT
    ]
    if not message.folder:
        head = read_content(reader, message.content, 0, transcript.TEXT_MAX)
        return transcript.entry(message, head, left_out)
    table = read_table(reader, message.content)
    return transcript.folder_entry(message, table.files, table.size, left_out)


def put_changed(writer: Writer, message: Message) -> Message:
    """Store what has changed of a message where that may stand in its listing or in its entry in
    the transcript, which is then read anew. The message as it is stored."""
    size = len(transcript_text(writer, message))
    grown, message = size - message.entry_size, replace(message, entry_size=size)
    put_message(writer, message)
    listings.change(writer, message)
    extend_transcript(writer, message.conversation, grown, 1)
    return message


def _text(reader: Reader, message: Message, most: int) -> bytes:
    """Of whose words a message is found: the beginning of its content, or the names in a folder."""
    if not message.folder:
        return read_content(reader, message.content, 0, most)
    names = "\n".join(entry.name for entry in read_table(reader, message.content).entries)
    return names.encode()[:most]


def extend_transcript(writer: Writer, conversation: bytes, size: int, changes: int) -> None:
    """The transcript of a conversation has so many bytes more; with ``changes``, others than before
    where it was."""
    was = transcript_extent(writer, conversation)
    now = Extent(was.size + size, was.changes + changes)
    writer.put(Table.META, Meta.TRANSCRIPT + conversation, _encode_extent(now))


# Heads


def heads(reader: Reader, conversation: bytes) -> tuple[bytes, ...]:
    """Ids of the newest messages of a conversation, those that no other names as its parent."""
    data = reader.get(Table.META, Meta.HEADS + conversation) or b""
    return tuple(data[i : i + 16] for i in range(0, len(data), 16))


def replaced_as_parent(writer: Writer, gone: Message) -> Message | None:
    """A message of one's own is not delivered to all: what is written from now on names its parents
    in its place. Gives the message that names it already, and now names them as well."""
    conversation, me = gone.conversation, gone.sender
    known = heads(writer, conversation)
    if gone.id in known:
        _put_heads(writer, conversation, _without(known, gone))
    last = Meta.LAST_OWN + conversation
    if writer.get(Table.META, last) == gone.id:
        before = [p for p in gone.parents if has_message(writer, conversation, me, p)]
        if before:
            writer.put(Table.META, last, before[0])
        else:
            writer.delete(Table.META, last)
        return None
    start = conversation + u64(gone.serial + 1)
    for key, data in islice(writer.items(Table.MESSAGES, conversation, start), AFTER_MAX):
        after = _decode(key, data)
        if after.sender == me and gone.id in after.parents:
            after = replace(after, parents=_without(after.parents, gone))
            put_message(writer, after)
            return after
    return None


def _without(parents: tuple[bytes, ...], gone: Message) -> tuple[bytes, ...]:
    """These with the parents of one in its place, the nearest of whom are kept."""
    at = parents.index(gone.id)
    found = dict.fromkeys((*parents[:at], *gone.parents, *parents[at + 1 :]))
    return tuple(found)[:HEADS_MAX]


def parents_for(reader: Reader, conversation: bytes) -> tuple[bytes, ...]:
    """What a message of one's own names as its parents: the heads, and one's own last message, so
    that one's own are in order however many others have written meanwhile."""
    known, own = heads(reader, conversation), reader.get(Table.META, Meta.LAST_OWN + conversation)
    return known if own is None or own in known else (own, *known[1 - HEADS_MAX :])


def _move_heads(
    writer: Writer, conversation: bytes, id_: bytes, parents: tuple[bytes, ...]
) -> None:
    left = [head for head in heads(writer, conversation) if head not in parents]
    _put_heads(writer, conversation, (*left, id_))


def _put_heads(writer: Writer, conversation: bytes, ids: tuple[bytes, ...]) -> None:
    writer.put(Table.META, Meta.HEADS + conversation, b"".join(ids[-HEADS_MAX:]))
