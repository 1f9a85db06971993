"""Making a message of what somebody has written: one transaction, without a network."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cbfs.contacts.contact import decode_contact
from cbfs.interface import Outgoing
from cbfs.messages import history, lifetimes
from cbfs.messages.conversations import add_conversation, come_back, conversation_for, mark_written
from cbfs.messages.history import Arrival
from cbfs.messages.model import Conversation, Message
from cbfs.messages.queues import delivery_queue
from cbfs.storage.store import Reader, Series, Table, Writer


@dataclass(frozen=True, slots=True)
class Settled:
    """What is settled of a message before its transaction. ``me`` writes it; ``participants``
    are sorted, oneself included; ``fresh`` is random, for the id of a conversation that it may
    begin, ``message`` as well, for its own when its draft has none (16 bytes each); ``digest`` is
    of its content, by BLAKE2b; ``now`` in milliseconds."""

    me: str
    participants: tuple[str, ...]
    subject: str
    digest: bytes
    now: int
    fresh: bytes
    message: bytes


def make_message(
    writer: Writer,
    conversations: Mapping[bytes, Conversation],
    outgoing: Outgoing,
    settled: Settled,
) -> tuple[Conversation, Message]:
    """Put what is written into the history as a message, and queue a delivery for each of its
    recipients whom the user has not blocked. Gives its conversation, which this may begin, and the
    message. All of it is in the transaction of ``writer``."""
    conversation = _conversation(writer, conversations, outgoing, settled)
    mark_written(writer, conversation.id)
    come_back(writer, conversation.id)
    if outgoing.lifetime:
        lifetimes.choose(writer, conversation.id, outgoing.lifetime, settled.me, settled.now)
    others = tuple(name for name in settled.participants if name != settled.me)
    arrival = Arrival(
        _message_id(writer, conversation.id, outgoing.seed, settled),
        settled.me,
        settled.now,
        history.parents_for(writer, conversation.id),
        outgoing.file_name,
        writer.next_number(Series.INODE),
        outgoing.content,
        others or (settled.me,),
        folder=outgoing.folder,
        lifetime=lifetimes.setting(writer, conversation.id).lifetime,
        left_out=tuple(name for name in others if is_blocked(writer, name)),
    )
    message = history.add_message(writer, conversation.id, arrival, settled.now)
    delivery_queue.add_jobs(
        writer, message, delivery_queue.job_for(message, conversation, settled.digest)
    )
    outgoing.consume(writer, conversation)
    return conversation, message


def is_blocked(reader: Reader, name: str) -> bool:
    """Whether the user has blocked this person, as the store has it."""
    record = reader.get(Table.PEERS, reader.blind(name.encode()))
    return record is not None and decode_contact(record).blocked > 0


def _message_id(reader: Reader, conversation: bytes, seed: bytes, settled: Settled) -> bytes:
    """The message's id: the same whenever the same draft is sent with the same content, so that its
    recipients drop what an account sends once more that was restored from a backup. Random for
    what has no ``seed``, or where a message with that id was written already."""
    id_ = hashlib.blake2b(seed + settled.digest, digest_size=16).digest()
    if not seed or history.has_message(reader, conversation, settled.me, id_):
        return settled.message
    return id_


def _conversation(
    writer: Writer,
    conversations: Mapping[bytes, Conversation],
    outgoing: Outgoing,
    settled: Settled,
) -> Conversation:
    if outgoing.conversation is not None:
        return conversations[outgoing.conversation]
    participants, subject = settled.participants, settled.subject
    id_, known = conversation_for(writer, participants, subject, settled.fresh)
    return known or add_conversation(writer, id_, settled.me, participants, subject, settled.now)
