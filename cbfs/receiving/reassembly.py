"""Parts of messages that have arrived: kept until the message is whole, then shown.

What a peer may not do is refused here: to write into a conversation of others, to write in
somebody else's name, to change who takes part. Who goes on with more people begins another one
(``cbfs.receiving.compositions``).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cbfs.messages import lifetimes
from cbfs.messages.content import read_table
from cbfs.messages.conversations import (
    add_conversation,
    come_back,
    get_conversation,
    leave,
    note_writer,
    put_conversation,
    writers,
)
from cbfs.messages.history import (
    Arrival,
    add_message,
    copied,
    find_message,
    known_message,
    missing_parents,
    note_copy,
)
from cbfs.messages.model import Content, Conversation, Message, Origin, Turnover, parents_heard
from cbfs.messages.queues import blobs
from cbfs.messages.queues.blobs import Blob, BlobStage
from cbfs.messages.queues.incomplete import (
    Incomplete,
    complete,
    get_incomplete,
    put_incomplete,
    share_of,
)
from cbfs.messages.queues.note_queue import Dues, NoteKind, arrived, enqueue
from cbfs.receiving.compositions import (
    Compositions,
    added_by,
    followed,
    note_begun,
)
from cbfs.receiving.confirming import both_doubted, came_again, named_by_sender, still_doubted
from cbfs.storage.encoding import u32, u64
from cbfs.storage.store import Reader, Series, Table, Writer
from cbfs_common.errors import DecodeError
from cbfs_common.limits import ASK_FIRST, ASK_SPREAD, BLOB_CHUNK
from cbfs_common.messages.body import MESSAGE_ID_SIZE, Part
from cbfs_common.messages.conversation import agreed, fits
from cbfs_common.person import Directories


@dataclass(slots=True)
class Arrivals:
    """What a batch brought. ``known`` are all conversations that are in memory, no copy of them, as
    there may be many; ``conversations`` are those that parts came for, be they new or not, and
    ``changes`` says what has become of them and of others. ``parts`` were kept for messages that
    are not whole yet; ``confirmed`` are those that are known to be their senders', and were not
    before."""

    known: Mapping[bytes, Conversation]
    conversations: dict[bytes, Conversation] = field(default_factory=dict)
    changes: Turnover = field(default_factory=Turnover)
    messages: list[Message] = field(default_factory=list)
    parts: int = 0
    confirmed: list[Message] = field(default_factory=list)
    refused: int = 0
    dues: Dues = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reception:
    """Who receives and when: ``now`` and ``delay`` (of a receipt) in milliseconds; ``receipts``
    says whether any are sent; ``directories`` what people are called; what ``muted`` people send is
    not unread."""

    me: str
    now: int
    delay: int
    receipts: bool
    directories: Directories
    muted: frozenset[str] = frozenset()


def store_part(
    writer: Writer,
    arrivals: Arrivals,
    reception: Reception,
    sender: str,
    part: Part,
    doubts: tuple[bytes, ...] = (),
) -> None:
    """Take in one part; the last one makes the message appear, for which a receipt is queued, and a
    question for each parent that is not here. ``doubts`` as in ``Message``, of this part alone."""
    me, now = reception.me, reception.now
    if (conversation := _conversation(writer, arrivals, reception, sender, part)) is None:
        arrivals.refused += 1
        return
    hash_ = part.hash(reception.directories.person(sender))
    ref = conversation.id + hash_[:MESSAGE_ID_SIZE]
    has_left = me in conversation.left
    if has_left or _is_known(writer, arrivals, conversation.id, sender, part, hash_):
        if has_left:
            _drop(writer, conversation, ref)
        came_again(writer, arrivals.confirmed, ref, hash_, doubts)
        _confirm(writer, arrivals, reception, sender, part, ref)  # the sender did not know
        return
    parents = parents_heard(reception.directories, part.parents)
    if (got := _collect(writer, arrivals, sender, part, hash_, now, doubts)) is None:
        return
    content, doubts = got
    arrival = Arrival(
        hash_,
        sender,
        part.date,
        parents,
        part.file_name,
        writer.next_number(Series.INODE),
        content,
        (),
        muted=sender in reception.muted,
        folder=part.folder,
        lifetime=part.lifetime,
        origin=Origin(part.salt, part.date, part.digest),
        leaving=part.leaving,
        added=added_by(writer, conversation, sender),
        doubts=doubts,
    )
    lifetimes.learn(writer, conversation.id, part.lifetime, sender, now)
    message = add_message(writer, conversation.id, arrival, now)
    arrivals.messages.append(message)
    if not doubts:
        named_by_sender(writer, arrivals.confirmed, message)
    come_back(writer, conversation.id)
    note_writer(writer, conversation, sender)
    if part.leaving:
        _has_left(writer, arrivals, reception, conversation, sender)
    _confirm(writer, arrivals, reception, sender, part, ref)
    share = share_of(sender, unconfirmed=bool(doubts))
    due = _ask_from(writer, reception, conversation, ref)
    for parent in missing_parents(writer, conversation.id, parents):
        missing = conversation.id + parent.id
        for person in sorted({*conversation.participants} - {me}):
            enqueue(writer, arrivals.dues, person, NoteKind.WANT, missing, due, share)


BLOB_RECORD = 4 * BLOB_CHUNK
"""Bytes of a record of the content of a blob that is fetched."""


def _begin_blob(writer: Writer, part: Part, now: int) -> Content:
    """The content that a part refers to is to be fetched. Before the message is added, whose
    serial is the next one. A receipt is sent when the content is here."""
    content = Content(writer.random_number(), part.size, BLOB_RECORD)
    serial = writer.number(Series.MESSAGE) + 1
    known = part.size, part.chunk, part.conversation, serial, now
    blobs.put(writer, Blob(content.id, BlobStage.FETCHING, *known))
    return content


def _confirm(
    writer: Writer,
    arrivals: Arrivals,
    reception: Reception,
    sender: str,
    part: Part,
    ref: bytes,
) -> None:
    """A message has come, perhaps not for the first time: a receipt for it, unless it refers to a
    blob that is not here. Where that is, and under which key, is what it has said last."""
    message = find_message(writer, ref[:16], sender, ref[16:]) if part.blob else None
    blob = blobs.get(writer, message.content.id) if message else None
    if blob is None or blob.state is not BlobStage.FETCHING:
        acknowledge(writer, arrivals.dues, reception, sender, ref)
    elif blob.reference != part.chunk:
        blobs.put(writer, replace(blob, reference=part.chunk))


def _ask_from(writer: Writer, reception: Reception, conversation: Conversation, ref: bytes) -> int:
    """A message is here: when somebody is asked for what it names and is not."""
    wanted = arrived(writer, conversation.participants, ref)
    wait = 0 if wanted else ASK_FIRST * 1_000
    return reception.now + wait + reception.delay // ASK_SPREAD


def _has_left(
    writer: Writer,
    arrivals: Arrivals,
    reception: Reception,
    conversation: Conversation,
    sender: str,
) -> None:
    me = reception.me
    compositions = Compositions(writer, reception.directories, me, conversation.began)
    compositions.leave(conversation, sender)
    compositions.written(b"", "")  # others may go on without who was missing there
    _take(arrivals, me, compositions.changes)


def says_more(reader: Reader, sender: str, part: Part) -> bool:
    """Whether a part says more of its conversation than that there is a message: who takes part in
    it beside ``sender`` and oneself, that ``sender`` has left it, or how long messages are kept."""
    known = lifetimes.setting(reader, part.conversation).lifetime
    if part.leaving or agreed(known, part.lifetime) != known:
        return True
    if part.root:
        return sender not in writers(reader, part.conversation)
    return len(part.participants) > 2 and get_conversation(reader, part.conversation) is None


def drop_part(
    writer: Writer,
    known: Mapping[bytes, Conversation],
    reception: Reception,
    sender: str,
    part: Part,
) -> None:
    """Take note of a message of somebody whom the user has blocked, and of nothing in it: others
    may name it as a parent, and nobody is to be asked for it."""
    conversation = known.get(part.conversation) or get_conversation(writer, part.conversation)
    if conversation is None or sender not in conversation.participants:
        return
    ref = part.conversation + part.hash(reception.directories.person(sender))[:MESSAGE_ID_SIZE]
    _drop(writer, conversation, ref)


def _drop(writer: Writer, conversation: Conversation, ref: bytes) -> None:
    writer.put(Table.DROPPED, ref, b"\1")  # nobody is asked for it
    arrived(writer, conversation.participants, ref)


def acknowledge(writer: Writer, dues: Dues, reception: Reception, sender: str, ref: bytes) -> None:
    """Queue a receipt for ``sender``, when receipts are sent."""
    if reception.receipts:
        enqueue(writer, dues, sender, NoteKind.RECEIPT, ref, reception.now + reception.delay)


def _conversation(
    writer: Writer, arrivals: Arrivals, reception: Reception, sender: str, part: Part
) -> Conversation | None:
    """The conversation of a part, begun when it is new; None when it is refused. By this part
    others may go on in it, or it in another one."""
    me, directories = reception.me, reception.directories
    people = directories.texts(part.participants)
    if me not in people or sender not in people:
        return None
    # what has become of it a moment ago is in the store, and not in memory yet
    known = get_conversation(writer, part.conversation)
    if known is not None and (known.participants, known.root) != (people, part.root):
        return None
    conversation = known or _begin(writer, arrivals, reception, sender, part)
    if conversation is None:
        return None
    if part.root and me not in conversation.left:
        fresh = b"" if known else conversation.id
        compositions = Compositions(writer, directories, me, part.root, fresh)
        compositions.written(conversation.id, sender)
        _take(arrivals, me, compositions.changes)
        conversation = compositions.changes.new.get(conversation.id, conversation)
    if me not in conversation.left:
        arrivals.conversations[conversation.id] = conversation
    return conversation


def _begin(
    writer: Writer, arrivals: Arrivals, reception: Reception, sender: str, part: Part
) -> Conversation | None:
    """A conversation that is new; one by which others go on with what oneself has left is not
    shown."""
    if not fits(part.conversation, part.participants, part.subject, part.root):
        return None
    me, people = reception.me, reception.directories.texts(part.participants)
    before = followed(writer, part.root, people, part.subject, sender)
    key, started = part.conversation, min(part.date, reception.now)
    made = add_conversation(writer, key, sender, people, part.subject, started, part.root)
    note_begun(writer, made)
    if any(me in one.left for one in before):
        made = put_conversation(writer, replace(made, left=(me,)))
        leave(writer, key)
        arrivals.changes.new[key] = made
    return made


def _take(arrivals: Arrivals, me: str, changes: Turnover) -> None:
    """What has become of conversations: some are new by that, too."""
    arrivals.changes.add(changes)
    for key, conversation in changes.new.items():
        news = key in arrivals.conversations or key not in arrivals.known
        if news and me not in conversation.left:
            arrivals.conversations[key] = conversation


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
    writer: Writer,
    arrivals: Arrivals,
    sender: str,
    part: Part,
    hash_: bytes,
    now: int,
    doubts: tuple[bytes, ...],
) -> tuple[Content, tuple[bytes, ...]] | None:
    """Keep a part. The content and the message's doubts when it is whole and its digest right, else
    None. One that does not fit those that are here is refused; it has said the same as they, but
    for its share. The content of a blob is to be fetched."""
    if part.blob:
        return _begin_blob(writer, part, now), doubts
    key = writer.key_part(part.conversation, hash_)
    before = known = get_incomplete(writer, key)
    if known is None:
        known = Incomplete(
            writer.random_number(),
            bytes(part.count),
            part.digest,
            part.conversation,
            sender,
            part.file_name,
            part.size,
            doubts,
        )
        if part.count > 1:
            lifetimes.schedule_parts(writer, key, part.lifetime, now)
    seen, at = known.seen, part.number
    if len(seen) != part.count or seen[at]:
        arrivals.refused += len(seen) != part.count
        return None
    known = replace(known, doubts=both_doubted(known.doubts, doubts))
    writer.put(Table.CONTENT, u64(known.content) + u32(at), part.chunk)
    seen = seen[:at] + b"\1" + seen[at + 1 :]
    if not all(seen):
        put_incomplete(writer, key, replace(known, seen=seen), len(part.chunk))
        arrivals.parts += 1
        return None
    if before:
        complete(writer, key)
    chunk_size = len(part.chunk)
    if part.count > 1 and part.number == part.count - 1:
        chunk_size = (part.size - len(part.chunk)) // (part.count - 1)
    if not _fits(writer, known.content, part, chunk_size):
        writer.delete_prefix(Table.CONTENT, u64(known.content))
        arrivals.refused += 1
        return None
    # whether anybody is proven by now where this part has come was seen a moment ago
    left = still_doubted(writer, known.doubts) if before else known.doubts
    return Content(known.content, part.size, chunk_size), left


def _fits(writer: Writer, content: int, part: Part, chunk_size: int) -> bool:
    """Whether the chunks are as long as the last part to come says, the digest is right, and a
    folder is one."""
    whole, size = hashlib.blake2b(digest_size=32), 0
    stored = (chunk for _key, chunk in writer.items(Table.CONTENT, prefix=u64(content)))
    for number, chunk in enumerate(stored if part.count > 1 else (part.chunk,)):
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
