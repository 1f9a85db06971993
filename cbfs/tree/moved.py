"""What is in a folder of the outbox in which a conversation has begun belongs to the conversation's
own folder from then on; records of the one turn into records of the other.

A record that was made before, and comes into the store after it, still names the old folder:
therefore it is remembered until the next mount where that went.
"""

from cbfs.messages.content import u64
from cbfs.storage.records import Reader, Table, Writer
from cbfs.storage.store import Meta
from cbfs.tree.nodes import in_another_folder


def take_along(writer: Writer, old: int, new: int) -> None:
    """In the transaction in which the conversation begins. Contents stay as they are."""
    writer.delete(Table.NODES, u64(old))
    writer.put(Table.META, Meta.MOVED + u64(old), u64(new))
    for key, data in list(writer.items(Table.NODES)):
        record = in_another_folder(data, old, new)
        if record is not None:
            writer.put(Table.NODES, key, record)


def load_moved(reader: Reader) -> dict[int, int]:
    """Folders that have moved since the last mount began: keys by keys."""
    return {
        int.from_bytes(key[len(Meta.MOVED) :], "big"): int.from_bytes(new, "big")
        for key, new in reader.items(Table.META, Meta.MOVED)
    }


def forget_moved(writer: Writer) -> None:
    """In the transaction after which no record names an old folder."""
    writer.delete_prefix(Table.META, Meta.MOVED)
