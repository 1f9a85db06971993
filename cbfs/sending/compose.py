"""Making a message of what somebody has written: one transaction, without a network."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cbfs.contacts.contact import decode_contact
from cbfs.interface import Outgoing
from cbfs.messages import history, lifetimes
from cbfs.messages.conversations import (
    add_conversation,
    come_back,
    conversation_for,
    mark_written,
    note_writer,
)
from cbfs.messages.history import Arrival
from cbfs.messages.model import Conversation, Message, Origin, ParentRef, parents_said
from cbfs.messages.queues import blobs, delivery_queue
from cbfs.messages.queues.blobs import Blob, BlobStage
from cbfs.storage.encoding import u32, u64
from cbfs.storage.store import Reader, Series, Table, Writer
from cbfs_common.messages.body import SALT_SIZE, Part
from cbfs_common.messages.conversation import Lifetime
from cbfs_common.person import Directories


@dataclass(frozen=True, slots=True)
class NewBlob:
    """As what a content travels: its encoded ``reference``, the ``id`` (32) that it has at the
    server, and the chunks of its ``tree`` of hashes, the first of which is its top."""

    reference: bytes
    id: bytes
    tree: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """What is settled of a message before its transaction. ``me`` writes it; ``participants``
    are people as ``directories`` calls them, sorted, oneself included, without who has left;
    ``fresh`` is random, for
    the id of a conversation that it may begin, ``salt`` as well, for its own when its draft has
    none (16 bytes each); ``digest`` is of its content, by BLAKE2b, or that of the ``blob`` that it
    travels as; ``now`` in milliseconds."""

    me: str
    participants: tuple[str, ...]
    subject: str
    digest: bytes
    now: int
    fresh: bytes
    salt: bytes
    directories: Directories
    blob: NewBlob | None = None


def make_message(
    writer: Writer,
    conversations: Mapping[bytes, Conversation],
    outgoing: Outgoing,
    settled: Settled,
    added: tuple[str, ...] = (),
) -> tuple[Conversation, Message]:
    """Put what is written into the history as a message, and queue a delivery for each of its
    recipients whom the user has not blocked; of a blob only when that is at the server. Gives its
    conversation, which this may begin, and the message, by which the user has ``added`` people.
    All of it is in the transaction of ``writer``."""
    conversation = _conversation(writer, conversations, outgoing, settled)
    mark_written(writer, conversation.id, settled.now)
    come_back(writer, conversation.id)
    if outgoing.lifetime:
        lifetimes.choose(writer, conversation.id, outgoing.lifetime, settled.me, settled.now)
    arrival = _arrival(writer, conversation, outgoing, settled, added)
    if settled.blob is not None:
        _begin(writer, settled.blob, conversation, arrival, settled.now)
    message = history.add_message(writer, conversation.id, arrival, settled.now)
    note_writer(writer, conversation, settled.me)
    if settled.blob is None:
        delivery_queue.add_jobs(writer, message, delivery_queue.job_for(message, conversation))
    outgoing.consume(writer, conversation)
    return conversation, message


def is_blocked(reader: Reader, name: str) -> bool:
    """Whether the user has blocked this person, as the store has it."""
    record = reader.get(Table.PEERS, reader.key_part(name.encode()))
    return record is not None and decode_contact(record).blocked > 0


def _begin(
    writer: Writer, new: NewBlob, conversation: Conversation, arrival: Arrival, now: int
) -> None:
    """The content is to be put at the home server. Before the message is added, whose serial is
    the next one."""
    content, tree = arrival.content, writer.random_number()
    for index, chunk in enumerate(new.tree):
        writer.put(Table.CONTENT, u64(tree) + u32(index), chunk)
    serial = writer.number(Series.MESSAGE) + 1
    blobs.put(
        writer,
        Blob(
            content.id,
            BlobStage.PUTTING,
            content.size,
            new.reference,
            conversation.id,
            serial,
            now,
            id=new.id,
            tree=tree,
        ),
    )


def _arrival(
    writer: Writer,
    conversation: Conversation,
    outgoing: Outgoing,
    settled: Settled,
    added: tuple[str, ...],
) -> Arrival:
    """What the message says, from now on and to everybody."""
    me, place = settled.me, conversation.id
    parents = history.parents_for(writer, place, me)
    date = history.behind(writer, place, parents, settled.now)
    origin = Origin(_salt(writer, place, outgoing.seed, settled), date, settled.digest)
    lifetime = lifetimes.setting(writer, place).lifetime
    others = tuple(name for name in settled.participants if name != me)
    return Arrival(
        _hash(conversation, outgoing, settled, parents, origin, lifetime),
        me,
        date,
        parents,
        outgoing.file_name,
        writer.next_number(Series.INODE),
        outgoing.content,
        others or (me,),
        folder=outgoing.folder,
        lifetime=lifetime,
        left_out=tuple(name for name in others if is_blocked(writer, name)),
        origin=origin,
        leaving=outgoing.leaving,
        added=added,
    )


def _hash(
    conversation: Conversation,
    outgoing: Outgoing,
    settled: Settled,
    parents: tuple[ParentRef, ...],
    origin: Origin,
    lifetime: Lifetime,
) -> bytes:
    directories = settled.directories
    blob = settled.blob
    part = Part(
        salt=origin.salt,
        conversation=conversation.id,
        parents=parents_said(directories, parents),
        participants=directories.people(conversation.participants),
        subject=conversation.subject,
        date=origin.date,
        file_name=outgoing.file_name,
        number=0,
        count=1,
        size=outgoing.content.size,
        digest=origin.digest,
        chunk=blob.reference if blob else b"",
        bundle=b"",
        folder=outgoing.folder,
        lifetime=lifetime,
        root=conversation.root,
        leaving=outgoing.leaving,
        blob=blob is not None,
    )
    return part.hash(directories.person(settled.me))


def _salt(reader: Reader, conversation: bytes, seed: bytes, settled: Settled) -> bytes:
    """The message's salt: the same whenever the same draft is sent with the same content, so that
    its recipients drop what an account sends once more that was restored from a backup. Random for
    what has no ``seed``, or where a message of that salt was written already."""
    salt = hashlib.blake2b(seed + settled.digest, digest_size=SALT_SIZE).digest()
    if not seed or history.copied(reader, conversation, settled.me, salt, settled.digest):
        return settled.salt
    return salt


def _conversation(
    writer: Writer,
    conversations: Mapping[bytes, Conversation],
    outgoing: Outgoing,
    settled: Settled,
) -> Conversation:
    if outgoing.conversation is not None:
        return conversations[outgoing.conversation]
    participants, subject = settled.participants, settled.subject
    people = settled.directories.people(participants)
    id_, known = conversation_for(writer, people, subject, settled.fresh)
    return known or add_conversation(writer, id_, settled.me, participants, subject, settled.now)
