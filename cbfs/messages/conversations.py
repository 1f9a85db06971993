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
from cbfs_common.person import Person, read_directory_text


def load_conversations(reader: Reader) -> dict[bytes, Conversation]:
    """All conversations, by id."""
    return {key: _decode(key, data) for key, data in reader.items(Table.CONVERSATIONS)}


def _decode(key: bytes, data: bytes) -> Conversation:
    types = (list, str, int, str, int, int, bytes, bytes, list)
    participants, subject, started, folder, inode, outbox, root, next_, left = unpack(data, *types)
    place = tuple(participants), subject, started, folder, inode, outbox
    return Conversation(key, *place, root, next_, tuple(left))


def _encode(conversation: Conversation) -> bytes:
    return pack(
        list(conversation.participants),
        conversation.subject,
        conversation.started,
        conversation.folder,
        conversation.inode,
        conversation.outbox_inode,
        conversation.root,
        conversation.next,
        list(conversation.left),
    )


def put_conversation(writer: Writer, conversation: Conversation) -> Conversation:
    """Store what has changed of a conversation, but for its folder's name; gives it back."""
    writer.put(Table.CONVERSATIONS, conversation.id, _encode(conversation))
    return conversation


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


def writers(reader: Reader, conversation: bytes) -> tuple[str, ...]:
    """Who has written in a conversation that goes on from another one."""
    data = reader.get(Table.META, Meta.WRITERS + conversation)
    return () if data is None else _decode_writers(data)


def note_writer(writer: Writer, conversation: Conversation, sender: str) -> None:
    """Somebody has written in a conversation. Of one that goes on from another it is remembered:
    by that those are found from which they go on, however many messages there are."""
    known = writers(writer, conversation.id) if conversation.root else (sender,)
    if sender not in known:
        writer.put(Table.META, Meta.WRITERS + conversation.id, _encode_writers((*known, sender)))


def _encode_writers(names: tuple[str, ...]) -> bytes:
    return pack(list(names))


def _decode_writers(data: bytes) -> tuple[str, ...]:
    (names,) = unpack(data, list)
    return tuple(names)


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
    reader: Reader, participants: tuple[Person, ...], subject: str, random: bytes
) -> tuple[bytes, Conversation | None]:
    """Where the first file of a folder belongs: (id, None) of a conversation to begin, or the one
    that somebody else has begun with these people about this, and that was not answered yet, nor
    left by anybody. ``random``: 16 bytes for an id."""
    for number in range(CONVERSATION_NUMBERS):
        key = conversation_id(participants, subject, number)
        known = get_conversation(reader, key)
        if known is None and reader.get(Table.META, Meta.GOING_ON + key) is not None:
            continue  # whoever has named it as the root of theirs waits for it
        if known is None:
            return key, None
        changed = known.next or known.left
        if not changed and reader.get(Table.META, Meta.WROTE + key) is None:
            return key, known
    return random_conversation_id(random), None


def add_conversation(
    writer: Writer,
    key: bytes,
    sender: str,
    participants: tuple[str, ...],
    subject: str,
    started: int,
    root: bytes = b"",
) -> Conversation:
    """Store a new conversation of this id, named and with inodes. ``key`` must not be there yet;
    ``sender`` has begun it; ``started`` in milliseconds since 1970; ``root`` is the id of the one
    from which it goes on, or empty."""

    inode, outbox = writer.next_number(Series.INODE), writer.next_number(Series.INODE)
    made = Conversation(key, participants, subject, started, "", inode, outbox, root)
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
    return put_conversation(writer, named)


def exchange_names(
    writer: Writer, one: Conversation, other: Conversation
) -> tuple[Conversation, Conversation]:
    """Have each of two conversations the folder's name of the other; gives them as they are
    then."""
    names = other.folder, one.folder
    found = [replace(each, folder=name) for each, name in zip((one, other), names, strict=True)]
    for each in found:
        writer.put(Table.META, Meta.FOLDER + writer.key_part(each.folder.encode()), each.id)
    return put_conversation(writer, found[0]), put_conversation(writer, found[1])


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


# With whom messages were exchanged


def note_met(writer: Writer, name: str) -> None:
    """A message of theirs has come, or one is at their server."""
    key = Meta.MET + writer.key_part(name.encode())
    if writer.get(Table.META, key) is None:
        writer.put(Table.META, key, name.encode())


def met(reader: Reader) -> set[str]:
    """True names of all with whom messages were exchanged, be it that those are deleted."""
    return {data.decode() for _key, data in reader.items(Table.META, Meta.MET)}


# What people are shown as


def label(reader: Reader, name: str) -> str:
    """What somebody is shown as, by their true name."""
    data = reader.get(Table.META, Meta.LABEL + reader.key_part(name.encode()))
    return shown_name(reader, name) if data is None else data.decode()


def shown_name(reader: Reader, name: str) -> str:
    """A true name as people see it: with the namespace of its directory, where that is another one
    that is followed."""
    local, at, place = name.partition("@")
    if not at:
        return name
    data = reader.get(Table.META, Meta.NAMESPACE + read_directory_text(place))
    return name if data is None else f"{local}@{data.decode()}"


def put_namespace(writer: Writer, directory: bytes, namespace: str) -> None:
    """Show the people of a directory (16) with this namespace from now on; without one when it is
    empty."""
    key = Meta.NAMESPACE + directory
    if namespace:
        writer.put(Table.META, key, namespace.encode())
    else:
        writer.delete(Table.META, key)


def put_label(writer: Writer, name: str, shown: str) -> None:
    """Show somebody as ``shown`` from now on; their true name takes that away."""
    key = Meta.LABEL + writer.key_part(name.encode())
    if shown == name:
        writer.delete(Table.META, key)
    else:
        writer.put(Table.META, key, shown.encode())
