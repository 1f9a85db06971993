"""The messages of conversations as records of the store. PROTOCOL.rst, Messages.

Functions that take a ``Writer`` belong into one transaction with whatever else the caller must
keep true together with them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from cbfs.messages import lifetimes, listings, name_pages, order, search_index, transcript
from cbfs.messages.content import drop_content, gone_key, read_content, read_table
from cbfs.messages.conversations import label, note_met
from cbfs.messages.file_names import folder_message_name, message_name
from cbfs.messages.marks import doubts, mail_pages
from cbfs.messages.model import Content, Delivery, Message, Origin, ParentRef
from cbfs.messages.order import Absence, Known, parents_of
from cbfs.messages.queues import blobs
from cbfs.messages.transcript import Extent, Line
from cbfs.storage.encoding import number_of, pack, u64, unpack
from cbfs.storage.store import Meta, Reader, Series, Table, Writer
from cbfs_common.messages.body import MESSAGE_ID_SIZE
from cbfs_common.messages.conversation import FOREVER, Lifetime, end_of

HEADS_MAX = 16
"""Parents that a message names at most."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is known of a message that is to be shown: see ``Message`` for the fields. One whose
    sender is ``muted`` is not unread. ``left_out``: those of the recipients to whom it is not
    sent. A note to oneself has oneself as its recipient. ``origin`` has what a copy of it would
    have as well, should its sender send it once more without knowing."""

    hash: bytes
    sender: str
    date: int
    parents: tuple[ParentRef, ...]
    file_name: str
    inode: int
    content: Content
    recipients: tuple[str, ...]
    muted: bool = False
    folder: bool = False
    lifetime: Lifetime = FOREVER
    left_out: tuple[str, ...] = ()
    origin: Origin | None = None
    leaving: bool = False
    added: tuple[str, ...] = ()
    doubts: tuple[bytes, ...] = ()

    @property
    def id(self) -> bytes:
        """As in ``Message``."""
        return self.hash[:MESSAGE_ID_SIZE]

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
        message
        for serial in listings.serials(reader, conversation)
        if (message := get_message(reader, conversation, serial)) is not None
    )


def named_message(reader: Reader, conversation: bytes, which: str | int) -> Message | None:
    """The message of a conversation with that name or serial, or None."""
    if isinstance(which, int):
        return get_message(reader, conversation, which)
    serial = name_pages.serial_of(reader, conversation, which)
    return get_message(reader, conversation, serial) if serial else None


def newest_message(reader: Reader, conversation: bytes) -> Message | None:
    """The message of a conversation that came last, or None."""
    newest = listings.newest(reader, conversation, 1)
    return get_message(reader, conversation, newest[0]) if newest else None


def get_message(reader: Reader, conversation: bytes, serial: int) -> Message | None:
    """The message of a conversation with this serial, or None when it was deleted."""
    key = conversation + u64(serial)
    data = reader.get(Table.MESSAGES, key)
    return None if data is None else _decode(key, data)


def message_of(key: bytes) -> tuple[bytes, int]:
    """(conversation, serial) of a key in Table.MESSAGES."""
    return key[:16], number_of(key[16:])


def _decode(key: bytes, data: bytes) -> Message:
    types = (bytes, str, int, int, str, int, list, list, list, str, int, bool, str, list, int)
    fields = unpack(data, *types, list, list, bool, list, list)
    hash_, sender, date, received, name, inode, content, recipients, parents = fields[:9]
    file_name, shown, folder, called, (seconds, change, ends), place = fields[9:15]
    missing, origin, leaving, added, doubted = fields[15:]
    return Message(
        hash_,
        key[:16],
        number_of(key[16:]),
        sender,
        date,
        received,
        name,
        inode,
        Content(*content),
        tuple((who, Delivery(state)) for who, state in recipients),
        parents_of(parents),
        file_name,
        shown,
        folder,
        called,
        Lifetime(seconds, change),
        ends,
        place,
        parents_of(missing),
        Origin(*origin) if origin else None,
        leaving,
        tuple(added),
        tuple(doubted),
    )


def _encode(message: Message) -> bytes:
    content, origin = message.content, message.origin
    return pack(
        message.hash,
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
        list(message.missing),
        [origin.salt, origin.date, origin.digest] if origin else [],
        message.leaving,
        list(message.added),
        list(message.doubts),
    )


def message_content(key: bytes, data: bytes) -> Content:
    """The content that a message's record refers to."""
    return _decode(key, data).content


def put_message(writer: Writer, message: Message) -> None:
    """Store a message, or store what has changed of it."""
    writer.put(Table.MESSAGES, message.conversation + u64(message.serial), _encode(message))


def known_message(reader: Reader, conversation: bytes, id_: bytes) -> Known | None:
    """What is known of a message with this id, be it deleted since; None when none has ever been
    here."""
    data = reader.get(Table.MESSAGE_IDS, conversation + id_)
    return None if data is None else order.decode_known(data)


def has_message(reader: Reader, conversation: bytes, sender: str, id_: bytes) -> bool:
    """Whether this message of this sender has ever been stored, be it deleted since."""
    known = known_message(reader, conversation, id_)
    return known is not None and known.sender == sender


def find_message(reader: Reader, conversation: bytes, sender: str, id_: bytes) -> Message | None:
    """One message by its id, or None when it never was here or was deleted."""
    known = known_message(reader, conversation, id_)
    if known is None or known.sender != sender:
        return None
    return get_message(reader, conversation, known.serial)


def _copy_key(conversation: bytes, sender: str, salt: bytes, digest: bytes) -> bytes:
    return conversation + salt + digest + sender.encode()


def copied(
    reader: Reader, conversation: bytes, sender: str, salt: bytes, digest: bytes
) -> Known | None:
    """A message of this salt and content that this sender has sent before: who restores a backup
    may send the same draft once more, with another date and other parents."""
    id_ = reader.get(Table.MESSAGE_IDS, _copy_key(conversation, sender, salt, digest))
    return known_message(reader, conversation, id_) if id_ else None


def note_copy(writer: Writer, conversation: bytes, known: Known, hash_: bytes) -> None:
    """A copy of a message that is known has come, which is not shown, and which others may name in
    its place."""
    id_ = hash_[:MESSAGE_ID_SIZE]
    same = replace(known, hash=hash_)
    writer.put(Table.MESSAGE_IDS, conversation + id_, same.encode())
    waiting = order.waited_for(writer, conversation, id_)
    _came(writer, conversation, hash_, waiting.serials if waiting else ())


def add_message(writer: Writer, conversation: bytes, arrival: Arrival, now: int) -> Message:
    """Store what has arrived as a message: named, numbered, listed, indexed, and the heads
    moved. Its content is its alone so far. ``now`` in milliseconds since 1970."""

    def taken(name: str) -> bool:
        return name_pages.serial_of(writer, conversation, name, pages) is not None

    serial, pages = writer.next_number(Series.MESSAGE), name_pages.Read()
    date, place, missing, waiting = _placed(writer, conversation, arrival, now, serial)
    naming = folder_message_name if arrival.folder else message_name
    shown = label(writer, arrival.sender)
    name = naming(date, shown, arrival.file_name, taken)
    waits = any(state is Delivery.QUEUED for _who, state in arrival.states())
    message = Message(
        arrival.hash,
        conversation,
        serial,
        arrival.sender,
        date,
        now,
        name,
        arrival.inode,
        arrival.content,
        arrival.states(),
        arrival.parents,
        arrival.file_name,
        0,
        arrival.folder,
        shown,
        arrival.lifetime,
        end_of(arrival.lifetime, now, waits=waits),
        place,
        missing,
        arrival.origin if arrival.recipients else None,
        arrival.leaving,
        arrival.added,
        arrival.doubts,
    )
    message = replace(message, entry_size=len(transcript_text(writer, message)))
    put_message(writer, message)
    listings.add(writer, message)
    lifetimes.schedule(writer, message)
    doubts.note(writer, message)
    words = searched_text(writer, message, search_index.TEXT_MAX)
    search_index.add(writer, message, words, unread=not (arrival.recipients or arrival.muted))
    extend_transcript(writer, conversation, message.entry_size, 0)
    name_pages.name_file(writer, conversation, name, serial, pages)
    _put_known(writer, message)
    if origin := arrival.origin:
        copy = _copy_key(conversation, arrival.sender, origin.salt, origin.digest)
        writer.put(Table.MESSAGE_IDS, copy, arrival.id)
    _move_heads(writer, message)
    if arrival.recipients:
        writer.put(Table.META, Meta.LAST_OWN + conversation, arrival.hash)
    else:
        note_met(writer, arrival.sender)
    if waiting:
        _came(writer, conversation, message.hash, waiting)
        _raise(writer, message, waiting)
    return message


def _put_known(writer: Writer, message: Message) -> None:
    known = Known(message.serial, message.place, message.hash, message.sender)
    key = message.conversation + message.id
    writer.put(Table.MESSAGE_IDS, key, known.encode())


def _came(writer: Writer, conversation: bytes, hash_: bytes, waiting: Iterable[int]) -> None:
    """What these name as a parent is not missing any more."""
    for serial in waiting:
        message = get_message(writer, conversation, serial)
        if message is not None:
            left = tuple(parent for parent in message.missing if parent.hash != hash_)
            put_changed(writer, replace(message, missing=left))


def explain_absence(
    writer: Writer, conversation: bytes, author: str, id_: bytes, why: Absence
) -> list[Message]:
    """Why a message is not here that others name as one of this author's. Gives those of which the
    transcript says something else by that."""
    named = [m for m, parent in _waiting_for(writer, conversation, id_) if parent.author == author]
    if not named or not order.explain(writer, conversation, id_, author, why):
        return []
    return [put_changed(writer, message) for message in named]


def is_taken_back(reader: Reader, conversation: bytes, id_: bytes) -> bool:
    """Whether everybody who is said to have written a message that is not here has taken it
    back."""
    known = order.waiting(reader, conversation, id_)
    authors = {parent.author for _message, parent in _waiting_for(reader, conversation, id_)}
    return known is not None and all(known.why(who) is Absence.TAKEN_BACK for who in authors)


def _waiting_for(
    reader: Reader, conversation: bytes, id_: bytes
) -> Iterator[tuple[Message, ParentRef]]:
    """The messages that name one that is not here, and as what they name it."""
    known = order.waiting(reader, conversation, id_)
    for serial in known.serials if known else ():
        message = get_message(reader, conversation, serial)
        for parent in message.missing if message else ():
            if message and parent.id == id_:
                yield message, parent


def _placed(
    writer: Writer, conversation: bytes, arrival: Arrival, now: int, serial: int
) -> tuple[int, int, tuple[ParentRef, ...], tuple[int, ...]]:
    """(the date that a message is shown under, its place, those of its parents that have never been
    here and are waited for, the serials of those here that name it as a parent). The date is its
    own, but one that is still to come is the time of receipt, and it is behind its parents and,
    within order.BEFORE_MAX, before those that it is a parent of."""
    date = min(arrival.date, now)
    waiting = order.waited_for(writer, conversation, arrival.id)
    if waiting is not None and date < waiting.date + order.BEFORE_MAX:
        date = min(date, waiting.date - 1)
    if not (arrival.recipients and date == arrival.date):  # one's own was made behind them
        date = max(0, behind(writer, conversation, arrival.parents, date))
    missing = tuple(
        parent
        for parent in missing_parents(writer, conversation, arrival.parents)
        if order.wait_for(writer, conversation, parent.id, date, serial)
    )
    known = (_parent(writer, conversation, parent) for parent in arrival.parents)
    place = order.place_of(arrival.date, (parent.place for parent in known if parent))
    return date, place, missing, waiting.serials if waiting else ()


def behind(reader: Reader, conversation: bytes, parents: tuple[ParentRef, ...], date: int) -> int:
    """The date (milliseconds), or the first one behind those that these parents are shown under."""
    for parent in parents:
        known = _parent(reader, conversation, parent)
        message = get_message(reader, conversation, known.serial) if known else None
        date = max(date, message.date + 1) if message else date
    return date


def _raise(writer: Writer, late: Message, waiting: Iterable[int]) -> None:
    """A message has come of which these are children: they, and those behind them, are to be
    behind it."""
    conversation = late.conversation
    children = (get_message(writer, conversation, serial) for serial in waiting)
    if not any(child is not None and child.place <= late.place for child in children):
        return
    newest = listings.newest(writer, conversation, order.REORDER_MAX)
    found = (get_message(writer, conversation, serial) for serial in newest)
    messages = sorted((m for m in found if m is not None), key=lambda m: (m.place, m.id))
    known = {message.id: message for message in messages}
    chain = ((m.id, m.place, tuple(parent.id for parent in m.parents)) for m in messages)
    moved = order.raised(chain, late.id, late.place)
    for id_, place in moved.items():
        message = replace(known[id_], place=place)
        put_message(writer, message)
        listings.change(writer, message)
        _put_known(writer, message)
    extend_transcript(writer, conversation, 0, 1)


def _parent(reader: Reader, conversation: bytes, parent: ParentRef) -> Known | None:
    """What is known of a parent, be it deleted since; None when it has never been here. One with
    its id and another hash is another message, of an author who has two texts for one id."""
    known = known_message(reader, conversation, parent.id)
    return known if known is not None and known.hash == parent.hash else None


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
        known = None if here in seen else known_message(reader, conversation, here)
        seen.add(here)
        message = get_message(reader, conversation, known.serial) if known else None
        if message is not None and message.sender == sender:
            found.append(here)
        elif message is not None:
            left += [parent.id for parent in message.parents]
    return found


def own_before(reader: Reader, message: Message, me: str) -> Message | None:
    """The message of one's own that one of one's own names as a parent, if it is here."""
    for parent in message.parents:
        found = find_message(reader, message.conversation, me, parent.id)
        if found is not None:
            return found
    return None


def missing_parents(
    reader: Reader, conversation: bytes, parents: tuple[ParentRef, ...]
) -> tuple[ParentRef, ...]:
    """Those of the parents that have never been here, be it to be dropped."""
    return tuple(
        parent
        for parent in parents
        if _parent(reader, conversation, parent) is None
        and reader.get(Table.DROPPED, conversation + parent.id) is None
    )


def remove_message(writer: Writer, message: Message) -> None:
    """Delete a message; its content goes with the last delivery of it."""
    if writer.delete(Table.MESSAGES, message.conversation + u64(message.serial)):
        name_pages.free_file_name(writer, message.conversation, message.name)
        if message.folder:
            writer.delete_prefix(Table.GONE, gone_key(message))
        for parent in message.missing:
            order.forgo(writer, message.conversation, parent.id, message.serial)
        listings.remove(writer, message)
        search_index.remove(writer, message)
        mail_pages.forget(writer, message.serial)
        lifetimes.unschedule(writer, message)
        doubts.forget(writer, message)
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
    blocked = (who for who, state in message.recipients if state is Delivery.LEFT_OUT)
    left_out = [label(reader, who) for who in blocked]
    absent = [_absence(reader, message, parent) for parent in message.missing]
    added = [label(reader, who) for who in message.added]
    beside = transcript.Beside(left_out, absent, added)
    if blobs.get(reader, message.content.id) is not None:
        return transcript.entry(message, b"\0", beside)  # the same before it is here
    if not message.folder:
        head = read_content(reader, message.content, 0, transcript.TEXT_MAX)
        return transcript.entry(message, head, beside)
    table = read_table(reader, message.content)
    return transcript.folder_entry(message, table.files, table.size, beside)


def _absence(reader: Reader, message: Message, parent: ParentRef) -> tuple[str, Absence]:
    """Whose message is not here that this one names, and why."""
    known = order.waiting(reader, message.conversation, parent.id)
    why = known.why(parent.author) if known else Absence.MISSING
    return ("" if parent.author == message.sender else label(reader, parent.author)), why


def put_changed(writer: Writer, message: Message) -> Message:
    """Store what has changed of a message where that may stand in its listing or in its entry in
    the transcript, which is then read anew. The message as it is stored."""
    size = len(transcript_text(writer, message))
    grown, message = size - message.entry_size, replace(message, entry_size=size)
    put_message(writer, message)
    listings.change(writer, message)
    extend_transcript(writer, message.conversation, grown, 1)
    return message


def searched_text(reader: Reader, message: Message, most: int) -> bytes:
    """Of whose words a message is found: how its content begins, or a folder's names; no blob's."""
    if blobs.get(reader, message.content.id) is not None:
        return b""
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


def heads(reader: Reader, conversation: bytes) -> tuple[ParentRef, ...]:
    """The newest messages of a conversation, those that no other names as its parent."""
    data = reader.get(Table.META, Meta.HEADS + conversation)
    return _decode_heads(data) if data else ()


def replaced_as_parent(writer: Writer, gone: Message) -> bool:
    """A message of one's own is not delivered to all: what is written from now on names its parents
    in its place. True when something of one's own names it already, which stays so, as that is a
    part of what it says."""
    conversation, last = gone.conversation, Meta.LAST_OWN + gone.conversation
    instead = tuple(_standing_in(writer, conversation, gone.parents))
    known = heads(writer, conversation)
    if gone.as_parent in known:
        at = known.index(gone.as_parent)
        found = dict.fromkeys((*known[:at], *instead, *known[at + 1 :]))
        _put_heads(writer, conversation, tuple(found)[:HEADS_MAX])
    if writer.get(Table.META, last) != gone.hash:
        stays = Known(gone.serial, gone.place, gone.hash, gone.sender, instead)
        writer.put(Table.MESSAGE_IDS, conversation + gone.id, stays.encode())
        return True
    before = [p for p in instead if has_message(writer, conversation, gone.sender, p.id)]
    if before:
        writer.put(Table.META, last, before[0].hash)
    else:
        writer.delete(Table.META, last)
    return False


def _standing_in(
    reader: Reader, conversation: bytes, parents: tuple[ParentRef, ...]
) -> dict[ParentRef, None]:
    """These parents, in the place of those of one's own that were taken back what they name; in
    order, each once."""
    found: dict[ParentRef, None] = {}
    for parent in parents:
        known = known_message(reader, conversation, parent.id)
        found |= dict.fromkeys(known.instead if known and known.instead else (parent,))
    return found


def parents_for(reader: Reader, conversation: bytes, me: str) -> tuple[ParentRef, ...]:
    """What a message of one's own names as its parents: the heads, and one's own last message, so
    that one's own are in order however many others have written meanwhile."""
    known, own = heads(reader, conversation), reader.get(Table.META, Meta.LAST_OWN + conversation)
    if own is None or any(parent.hash == own for parent in known):
        return known
    return (ParentRef(me, own), *known[1 - HEADS_MAX :])


def _move_heads(writer: Writer, message: Message) -> None:
    known = heads(writer, message.conversation)
    named = {parent.hash for parent in message.parents}
    left = [head for head in known if head.hash not in named]
    _put_heads(writer, message.conversation, (*left, message.as_parent))


def _put_heads(writer: Writer, conversation: bytes, known: tuple[ParentRef, ...]) -> None:
    writer.put(Table.META, Meta.HEADS + conversation, _encode_heads(known[-HEADS_MAX:]))


def _encode_heads(known: tuple[ParentRef, ...]) -> bytes:
    return pack(list(known))


def _decode_heads(data: bytes) -> tuple[ParentRef, ...]:
    return parents_of(*unpack(data, list))
