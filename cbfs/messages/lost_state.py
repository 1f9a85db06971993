"""What a client does at its start about state that it has lost.

Sessions must not be used twice: a copy of an account directory (a backup that was put back, say)
would seal with keys that were used already, and its peers are ahead of it. A copy is told by the
identity of the store's file (``cbfs.storage.file_identity``), which no copy shares; a snapshot of a
whole disk, or a file that was overwritten in place, cannot be told so, and heals as lost messages
do (``cbfs.messages.queues.note_queue``). Without sessions, be it for that or because the account
was restored, everybody with whom messages were exchanged is told that what they sealed is lost.
"""

from array import array
from pathlib import Path

from cbfs.messages import listings, name_pages
from cbfs.messages.conversations import load_conversations
from cbfs.messages.history import get_message, load_messages, message_of
from cbfs.messages.model import Delivery
from cbfs.messages.queues.note_queue import NOTHING, NoteKind, count_anew, enqueue
from cbfs.storage.file_identity import decode_identity, identity_of
from cbfs.storage.store import Meta, Reader, Store, Table, Writer
from cbfs_common.primitives import Random

_SEALED = frozenset((Delivery.SENT, Delivery.RECEIVED))


LOST_SPREAD = 5_000
"""Milliseconds within which, at random, peers are told that sessions are lost."""


def notice_copy(store: Store, directory: Path) -> bool:
    """Forget sessions and prekeys when the store is a copy. True when it is. Before the store
    runs. A crash before the commit notices it at the next start."""
    file = identity_of(directory / "store" / "data.mdb")

    def change(writer: Writer) -> bool:
        known = writer.get(Table.META, Meta.PLACE)
        if known == file.encode():
            return False
        writer.put(Table.META, Meta.PLACE, file.encode())
        if known is None or decode_identity(known).may_be(file):
            return False
        writer.delete_prefix(Table.SESSIONS, b"")
        writer.delete_prefix(Table.PREKEYS, b"")
        return True

    return store.write(change)


def notice_loss(store: Store, me: str, now: int, random: Random) -> None:
    """When messages were exchanged and there is no session: tell everybody. Before the store
    runs; ``now`` in milliseconds."""
    with store.read() as reader:
        if reader.count(Table.SESSIONS):
            return
        peers = _talked_to(reader, me)

    def change(writer: Writer) -> None:
        count_anew(writer)  # of a damaged store some may have been lost
        for peer in sorted(peers):
            wait = int.from_bytes(random.token(2), "big") * LOST_SPREAD // 65_536
            enqueue(writer, {}, peer, NoteKind.LOST, NOTHING, now + wait)

    if peers:
        store.write(change)


def make_listings(store: Store) -> None:
    """Make the pages of ``cbfs.messages.listings`` and of names of files, which a store lacks that
    was restored. Before the store runs. A crash before the commit leaves that to the
    next start."""
    with store.read() as reader:
        if reader.get(Table.META, Meta.LISTED) is not None:
            return

    def change(writer: Writer) -> None:
        writer.delete_prefix(Table.LISTINGS, b"")
        writer.delete_prefix(Table.FILE_NAMES, b"")
        writer.delete_prefix(Table.META, Meta.FOLDERS)
        there: dict[bytes, array[int]] = {}
        for key in writer.keys(Table.MESSAGES):
            conversation, serial = message_of(key)
            there.setdefault(conversation, array("Q")).append(serial)
        for conversation, serials in there.items():
            for serial in sorted(serials):
                message = get_message(writer, conversation, serial)
                if message is not None:
                    listings.add(writer, message)
                    name_pages.name_file(writer, conversation, message.name, serial)
        writer.put(Table.META, Meta.LISTED, b"\1")

    store.write(change)


def _talked_to(reader: Reader, me: str) -> set[str]:
    """Those from whom something came, or for whom something was sealed."""
    peers: set[str] = set()
    for conversation in load_conversations(reader):
        for message in load_messages(reader, conversation):
            peers.add(message.sender)
            peers |= {who for who, state in message.recipients if state in _SEALED}
    return peers - {me}
