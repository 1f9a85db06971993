"""Parts of messages that have arrived: kept until the message is whole, then shown.

What a peer may not do is refused here: to write into a conversation of others, to write in
somebody else's name, to change who takes part.
"""

import hashlib
from dataclasses import dataclass, field, replace

from cbfs.messages import lifetimes
from cbfs.messages.content import read_table
from cbfs.messages.conversations import add_conversation, come_back, get_conversation
from cbfs.messages.history import (
    Arrival,
    add_message,
    copied,
    known_message,
    missing_parents,
    note_copy,
    note_dropped,
)
from cbfs.messages.model import Content, Conversation, Message, Origin
from cbfs.messages.queues.incomplete import Incomplete, complete, get_incomplete, put_incomplete
from cbfs.messages.queues.note_queue import Dues, NoteKind, arrived, enqueue
from cbfs.storage.encoding import u32, u64
from cbfs.storage.store import Series, Table, Writer
from cbfs_common.errors import DecodeError
from cbfs_common.limits import ASK_FIRST, ASK_SPREAD
from cbfs_common.messages.body import MESSAGE_ID_SIZE, Part
from cbfs_common.messages.conversation import fits


@dataclass(slots=True)
class Arrivals:
    """What a batch brought. ``known`` are all conversations that are in memory; ``conversations``
    are those that parts came for, be they new or not. ``parts``
    were kept for messages that are not whole yet."""

    known: dict[bytes, Conversation]
    conversations: dict[bytes, Conversation] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    parts: int = 0
    refused: int = 0
    dues: Dues = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reception:
    """Who receives and when: ``now`` and ``delay`` (of a receipt) in milliseconds; ``receipts``
    says whether any are sent; what ``muted`` people send is not unread."""

    me: str
    now: int
    delay: int
    receipts: bool
    muted: frozenset[str] = frozenset()


def store_part(
    writer: Writer, arrivals: Arrivals, reception: Reception, sender: str, part: Part
) -> None:
    """Take in one part; the last one that was missing makes the message appear. A receipt
    is queued for a message that is whole, and a question for each parent that is not here."""
    me, now = reception.me, reception.now
    conversation = _conversation(writer, arrivals, me, sender, part, now)
    if conversation is None:
        arrivals.refused += 1
        return
    arrivals.conversations[conversation.id] = conversation
    hash_ = part.hash(sender)
    ref = conversation.id + hash_[:MESSAGE_ID_SIZE]
    if _is_known(writer, arrivals, conversation.id, sender, part, hash_):
        acknowledge(writer, arrivals.dues, reception, sender, ref)  # the sender did not know
        return
    content = _collect(writer, arrivals, sender, part, hash_, now)
    if content is None:
        return
    arrival = Arrival(
        hash_,
        sender,
        part.date,
        part.parents,
        part.file_name,
        writer.next_number(Series.INODE),
        content,
        (),
        muted=sender in reception.muted,
        folder=part.folder,
        lifetime=part.lifetime,
        origin=Origin(part.salt, part.date, part.digest),
    )
    lifetimes.learn(writer, conversation.id, part.lifetime, sender, now)
    arrivals.messages.append(add_message(writer, conversation.id, arrival, now))
    come_back(writer, conversation.id)
    acknowledge(writer, arrivals.dues, reception, sender, ref)
    wanted = arrived(writer, ref)
    for parent in missing_parents(writer, conversation.id, part.parents):
        for person in conversation.participants:
            if person != me:
                due = now + (0 if wanted else ASK_FIRST * 1_000) + reception.delay // ASK_SPREAD
                missing = conversation.id + parent.id
                enqueue(writer, arrivals.dues, person, NoteKind.WANT, missing, due, sender)


def drop_part(writer: Writer, known: dict[bytes, Conversation], sender: str, part: Part) -> None:
    """Take note of a message of somebody whom the user has blocked, and of nothing in it: others
    may name it as a parent, and nobody is to be asked for it."""
    conversation = known.get(part.conversation) or get_conversation(writer, part.conversation)
    if conversation is None or sender not in conversation.participants:
        return
    ref = part.conversation + part.hash(sender)[:MESSAGE_ID_SIZE]
    note_dropped(writer, ref)
    arrived(writer, ref)


def acknowledge(writer: Writer, dues: Dues, reception: Reception, sender: str, ref: bytes) -> None:
    """Queue a receipt for ``sender``, when receipts are sent."""
    if reception.receipts:
        enqueue(writer, dues, sender, NoteKind.RECEIPT, ref, reception.now + reception.delay)


def _conversation(
    writer: Writer, arrivals: Arrivals, me: str, sender: str, part: Part, now: int
) -> Conversation | None:
    """The conversation of a part, begun when it is new; None when it is refused."""
    if me not in part.participants or sender not in part.participants:
        return None
    # one that was begun here a moment ago is in the store, and not in memory yet
    known = arrivals.known.get(part.conversation) or get_conversation(writer, part.conversation)
    if known is not None:
        return known if known.participants == part.participants else None
    if not fits(part.conversation, part.participants, part.subject):
        return None
    return add_conversation(
        writer, part.conversation, sender, part.participants, part.subject, min(part.date, now)
    )


def _is_known(
    writer: Writer, arrivals: Arrivals, conversation: bytes, sender: str, part: Part, hash_: bytes
) -> bool:
    """Whether this message is here, be it deleted since, or one of another text in its place; or
    the same text of the same draft, which is then known by this hash as well."""
    known = known_message(writer, conversation, hash_[:MESSAGE_ID_SIZE])
    if known is not None:
        arrivals.refused += known.hash != hash_
        return True
    known = copied(writer, conversation, sender, part.salt, part.digest)
    if known is not None:
        note_copy(writer, conversation, known, hash_)
    return known is not None


def _collect(
    writer: Writer, arrivals: Arrivals, sender: str, part: Part, hash_: bytes, now: int
) -> Content | None:
    """Keep a part. The content when it is whole and its digest right, else None. One that does not
    fit those that are here is refused; it has said the same as they, but for its share."""
    key = writer.key_part(part.conversation, hash_)
    known = get_incomplete(writer, key)
    if known is None:
        known = Incomplete(
            writer.random_number(),
            bytes(part.count),
            part.digest,
            part.conversation,
            sender,
            part.file_name,
            part.size,
        )
        if part.count > 1:
            lifetimes.schedule_parts(writer, key, part.lifetime, now)
    seen, at = known.seen, part.number
    if len(seen) != part.count or seen[at]:
        arrivals.refused += len(seen) != part.count
        return None
    writer.put(Table.CONTENT, u64(known.content) + u32(at), part.chunk)
    seen = seen[:at] + b"\1" + seen[at + 1 :]
    if not all(seen):
        put_incomplete(writer, key, replace(known, seen=seen), len(part.chunk))
        arrivals.parts += 1
        return None
    complete(writer, key, sender)
    chunk_size = len(part.chunk)
    if part.count > 1 and part.number == part.count - 1:
        chunk_size = (part.size - len(part.chunk)) // (part.count - 1)
    if not _fits(writer, known.content, part, chunk_size):
        writer.delete_prefix(Table.CONTENT, u64(known.content))
        arrivals.refused += 1
        return None
    return Content(known.content, part.size, chunk_size)


def _fits(writer: Writer, content: int, part: Part, chunk_size: int) -> bool:
    """Whether the chunks are as long as the last part to come says, the digest is right, and a
    folder is one."""
    whole, size = hashlib.blake2b(digest_size=32), 0
    for number, (_key, chunk) in enumerate(writer.items(Table.CONTENT, prefix=u64(content))):
        if number < part.count - 1 and len(chunk) != chunk_size:
            return False
        size += len(chunk)
        whole.update(chunk)
    if size != part.size or whole.digest() != part.digest:
        return False
    return not part.folder or _is_folder(writer, Content(content, size, chunk_size))


def _is_folder(writer: Writer, content: Content) -> bool:
    try:
        read_table(writer, content)
    except DecodeError:
        return False
    return True
