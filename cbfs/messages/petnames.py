"""What people are called here, as records of the store: a petname in the place of a true name.

``label`` is what a name is shown as: in the names of folders and files, and in transcripts. It is
the petname of somebody who has one; ``@NAME`` of somebody whose true name is another's petname;
else the true name. A petname cannot be the true name or the petname of anybody who is known, so
that no label ever stands for two.

``rename`` changes the labels and the names of conversations in one transaction; messages follow in
many small ones (``relabel``), each of which a crash leaves done or not done. What is left is known
by a record, so that it goes on after a restart.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from cbfs.messages import conversations, history, listings, name_pages
from cbfs.messages.conversations import label, put_label
from cbfs.messages.file_names import folder_message_name, message_name
from cbfs.messages.model import Conversation, Delivery, Message
from cbfs.storage.encoding import pack, unpack
from cbfs.storage.store import Meta, Reader, Table, Writer
from cbfs_common.person import directory_text

BATCH = 256
"""Messages that are looked at in one transaction."""


def rename(
    writer: Writer, name: str, before: str, petname: str
) -> list[tuple[Conversation, Conversation]]:
    """``name`` is called ``petname`` from now on, and was ``before`` (either may be empty). Gives
    the conversations that thereby have another folder, before and after."""

    def change() -> None:
        if before:
            put_label(writer, before, before)
        if petname:
            put_label(writer, petname, f"@{petname}")
        put_label(writer, name, petname or name)

    return _name_folders(writer, {name, before} - {""}, change)


def rename_directory(
    writer: Writer, directory: bytes, namespace: str
) -> list[tuple[Conversation, Conversation]]:
    """The people of a directory (16) are shown with this namespace from now on; with the directory
    itself when it is empty. Gives the conversations that thereby have another folder, before and
    after."""
    ending = f"@{directory_text(directory)}"
    known = conversations.load_conversations(writer).values()
    people = {name for c in known for name in c.participants if name.endswith(ending)}
    return _name_folders(
        writer, people, lambda: conversations.put_namespace(writer, directory, namespace)
    )


def _name_folders(
    writer: Writer, changed: set[str], change: Callable[[], None]
) -> list[tuple[Conversation, Conversation]]:
    """Name conversations anew in which there is somebody who is called otherwise after ``change``,
    and let their messages follow. Gives those that thereby have another folder, before and
    after."""
    affected = [
        (conversation, conversations.begun_by(writer, conversation))
        for conversation in sorted(conversations.load_conversations(writer).values(), key=in_order)
        if not changed.isdisjoint(conversation.participants)
    ]
    change()
    for each in changed:
        key = Meta.RELABEL + writer.key_part(each.encode())
        writer.put(Table.META, key, _encode_relabel(each, b"", 0))
    renamed = [
        (conversation, conversations.name_folder(writer, conversation, sender))
        for conversation, sender in affected
    ]
    return [(old, new) for old, new in renamed if old != new]


def _encode_relabel(name: str, conversation: bytes, serial: int) -> bytes:
    """A record of ``Meta.RELABEL``: whose messages, and from which conversation and serial on they
    are to be looked at."""
    return pack(name, conversation, serial)


def _decode_relabel(data: bytes) -> tuple[str, bytes, int]:
    name, conversation, serial = unpack(data, str, bytes, int)
    return name, conversation, serial


def in_order(conversation: Conversation) -> tuple[int, int, str]:
    """The order in which conversations are named, so that one whose folder had no number keeps
    it."""
    return conversation.started, len(conversation.folder), conversation.folder


def pending(reader: Reader) -> list[str]:
    """True names of the people whose messages still have names of before."""
    return [_decode_relabel(data)[0] for _key, data in reader.items(Table.META, Meta.RELABEL)]


def left(reader: Reader, name: str) -> int:
    """How many messages are to be looked at for those of this person."""
    data = reader.get(Table.META, Meta.RELABEL + reader.key_part(name.encode()))
    if data is None:
        return 0
    return sum(1 for _ in _ahead(reader, data))


def relabel(writer: Writer, name: str) -> tuple[int, list[Message]]:
    """Look at the next BATCH messages for those of this person, and give them the names of now.
    Gives how many it has looked at, and those that were renamed, as they are now; ``pending`` says
    whether there are more."""
    key = Meta.RELABEL + writer.key_part(name.encode())
    data = writer.get(Table.META, key)
    if data is None:
        return 0, []
    looked = list(islice(_ahead(writer, data), BATCH))
    if len(looked) < BATCH:
        writer.delete(Table.META, key)
    else:
        conversation, serial = looked[-1]
        writer.put(Table.META, key, _encode_relabel(name, conversation, serial + 1))
    found = (history.get_message(writer, *which) for which in looked)
    renamed = [_name_message(writer, m, name) for m in found if m is not None]
    return len(looked), [message for message in renamed if message is not None]


def _name_message(writer: Writer, message: Message, name: str) -> Message | None:
    """``name`` is called otherwise: name it after what its sender is called now, and say who was
    left out or added, and whose message is not here, by what they are called now. The message as it
    is then, None when nothing of it has changed."""
    if message.sender != name:
        said = name in message.added or dict(message.recipients).get(name) is Delivery.LEFT_OUT
        if said or any(parent.author == name for parent in message.missing):
            history.put_changed(writer, message)
        return None
    shown = label(writer, message.sender)
    if message.label == shown:
        return None
    return name_anew(writer, replace(message, label=shown))


def name_anew(writer: Writer, message: Message) -> Message:
    """Store a message with another label or date than before, and the name of a file that follows
    from them. The message as it is then."""
    place = message.conversation
    name_pages.free_file_name(writer, place, message.name)
    naming = folder_message_name if message.folder else message_name
    new = naming(
        message.date,
        message.label,
        message.file_name,
        lambda name: name_pages.serial_of(writer, place, name) is not None,
    )
    name_pages.name_file(writer, place, new, message.serial)
    return history.put_changed(writer, replace(message, name=new))


def _ahead(reader: Reader, data: bytes) -> Iterator[tuple[bytes, int]]:
    """(conversation, serial) of the messages that a record of ``Meta.RELABEL`` leaves to be looked
    at, in order."""
    name, first, start = _decode_relabel(data)
    for key, conversation in sorted(conversations.load_conversations(reader).items()):
        if key >= first and name in conversation.participants:
            for serial in listings.serials(reader, key, start if key == first else 0):
                yield key, serial
