"""Conversations as records of the store: their people, subject and folder, what one has left, and
what people are shown as (``cbfs.messages.petnames``).

Functions that take a ``Writer`` belong into one transaction with whatever else the caller must
keep true together with them.
"""

from collections.abc import Callable
from dataclasses import replace

from cbfs.messages.file_names import folder_name
from cbfs.messages.model import Conversation
from cbfs.storage.encoding import number_of, pack, u64, unpack
from cbfs.storage.store import Meta, Reader, Series, Table, Writer
from cbfs_common.limits import CONVERSATION_NUMBERS
from cbfs_common.messages.conversation import conversation_id, random_conversation_id


def load_conversations(reader: Reader) -> dict[bytes, Conversation]:
    """All conversations, by id."""
    return {key: _decode(key, data) for key, data in reader.items(Table.CONVERSATIONS)}


def _decode(key: bytes, data: bytes) -> Conversation:
    participants, subject, started, folder, inode, outbox = unpack(
        data, list, str, int, str, int, int
    )
    return Conversation(key, tuple(participants), subject, started, folder, inode, outbox)


def _encode(conversation: Conversation) -> bytes:
    return pack(
        list(conversation.participants),
        conversation.subject,
        conversation.started,
        conversation.folder,
        conversation.inode,
        conversation.outbox_inode,
    )


def get_conversation(reader: Reader, key: bytes) -> Conversation | None:
    """The conversation of this id, or None."""
    data = reader.get(Table.CONVERSATIONS, key)
    return None if data is None else _decode(key, data)


def mark_written(writer: Writer, conversation: bytes, now: int) -> None:
    """The user has written in this conversation, at ``now`` (milliseconds)."""
    writer.put(Table.META, Meta.WROTE + conversation, u64(now))


def last_written(reader: Reader, conversation: bytes) -> int:
    """When the user has last written in this conversation, in milliseconds; 0 for never."""
    return number_of(reader.get(Table.META, Meta.WROTE + conversation))


def leave(writer: Writer, conversation: bytes) -> None:
    """Show a conversation no more. Who begins one with the same people and subject writes in it
    again."""
    writer.put(Table.META, Meta.LEFT + conversation, b"\1")
    writer.delete(Table.META, Meta.WROTE + conversation)


def come_back(writer: Writer, conversation: bytes) -> bool:
    """Something was written in a conversation. True when it had been left, which it is no more."""
    return writer.delete(Table.META, Meta.LEFT + conversation)


def is_left(reader: Reader, conversation: bytes) -> bool:
    """Whether a conversation has been left, so that it is not shown."""
    return reader.get(Table.META, Meta.LEFT + conversation) is not None


def left_ones(reader: Reader) -> set[bytes]:
    """The ids of the conversations that have been left."""
    return {key.removeprefix(Meta.LEFT) for key in reader.keys(Table.META, Meta.LEFT)}


def conversation_for(
    reader: Reader, participants: tuple[str, ...], subject: str, random: bytes
) -> tuple[bytes, Conversation | None]:
    """Where the first file of a folder belongs: (id, None) of a conversation to begin, or the one
    that somebody else has begun with these people about this, and that was not answered yet.
    ``random``: 16 bytes for an id."""
    for number in range(CONVERSATION_NUMBERS):
        key = conversation_id(participants, subject, number)
        known = get_conversation(reader, key)
        if known is None:
            return key, None
        if reader.get(Table.META, Meta.WROTE + key) is None:
            return key, known
    return random_conversation_id(random), None


def add_conversation(
    writer: Writer,
    key: bytes,
    sender: str,
    participants: tuple[str, ...],
    subject: str,
    started: int,
) -> Conversation:
    """Store a new conversation of this id, named and with inodes. ``key`` must not be there yet;
    ``sender`` has begun it; ``started`` in milliseconds since 1970."""

    inode, outbox = writer.next_number(Series.INODE), writer.next_number(Series.INODE)
    made = Conversation(key, participants, subject, started, "", inode, outbox)
    return name_folder(writer, made, sender)


def name_folder(writer: Writer, conversation: Conversation, sender: str) -> Conversation:
    """Store a conversation with its folder named after what people are called now; ``sender`` has
    begun it. The conversation as it is then."""

    def name_key(name: str) -> bytes:
        return Meta.FOLDER + writer.key_part(name.encode())

    if conversation.folder:
        writer.delete(Table.META, name_key(conversation.folder))

    def taken(name: str) -> bool:
        return writer.get(Table.META, name_key(name)) is not None

    folder = _folder_name(writer, conversation, sender, taken)
    named = replace(conversation, folder=folder)
    writer.put(Table.META, name_key(folder), named.id)
    writer.put(Table.CONVERSATIONS, named.id, _encode(named))
    return named


def _folder_name(
    reader: Reader, conversation: Conversation, sender: str, taken: Callable[[str], bool]
) -> str:
    people = [label(reader, name) for name in conversation.participants if name != sender]
    started, subject = conversation.started, conversation.subject
    return folder_name(started, label(reader, sender), people, subject, taken)


def begun_by(reader: Reader, conversation: Conversation) -> str:
    """Who has begun a conversation, as its folder's name says."""
    for name in conversation.participants:
        stem = _folder_name(reader, conversation, name, lambda _name: False)
        if conversation.folder == stem or conversation.folder.startswith(f"{stem} ("):
            return name
    return conversation.participants[0]


# What people are shown as


def label(reader: Reader, name: str) -> str:
    """What somebody is shown as, by their true name."""
    data = reader.get(Table.META, Meta.LABEL + reader.key_part(name.encode()))
    return name if data is None else data.decode()


def put_label(writer: Writer, name: str, shown: str) -> None:
    """Show somebody as ``shown`` from now on; their true name takes that away."""
    key = Meta.LABEL + writer.key_part(name.encode())
    if shown == name:
        writer.delete(Table.META, key)
    else:
        writer.put(Table.META, key, shown.encode())
