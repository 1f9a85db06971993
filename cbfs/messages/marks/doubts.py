"""Which messages have come on sessions in which their senders are not proven, as records.

Whoever has stolen a prekey can begin a session with its owner in anybody's name. Until the other
side has answered in it, nothing proves who has written what comes on it (PROTOCOL.rst, States).
``Message.doubts`` says on which such sessions a message has come, and there is a record of
``Table.DOUBTED`` for each of them, so that they are found when the sender is proven. A message
that never is known to be its sender's keeps its records until it is deleted.

Everything here belongs into the transaction of what brings it about.
"""

from cbfs.messages.model import Message
from cbfs.storage.encoding import number_of, u64
from cbfs.storage.store import Meta, Reader, Table, Writer


def note(writer: Writer, message: Message) -> None:
    """A message is here, with all of its doubts."""
    for session in message.doubts:
        writer.put(Table.DOUBTED, _key(session, message), b"\1")


def forget(writer: Writer, message: Message) -> None:
    """A message is not doubted any more, or deleted."""
    for session in message.doubts:
        writer.delete(Table.DOUBTED, _key(session, message))


def proven(writer: Writer, session: bytes) -> bool:
    """The peer is proven in a session: what has come on it before is to be marked no more, which
    ``pending`` remembers. False when nothing has."""
    some = any(True for _ in writer.keys(Table.DOUBTED, session))
    if some:
        writer.put(Table.META, Meta.PROVEN + session, b"\1")
    return some


def settled(writer: Writer, session: bytes) -> None:
    """Nothing that has come on a session is marked any more."""
    writer.delete(Table.META, Meta.PROVEN + session)


def pending(reader: Reader) -> list[bytes]:
    """The sessions that were proven, and of which something may still be marked."""
    return [key[len(Meta.PROVEN) :] for key in reader.keys(Table.META, Meta.PROVEN)]


def marked(reader: Reader, session: bytes, most: int) -> list[tuple[bytes, int]]:
    """(conversation, serial) of messages, ``most`` of them, that have come on a session."""
    found: list[tuple[bytes, int]] = []
    for key in reader.keys(Table.DOUBTED, session):
        if len(found) == most:
            break
        found.append((key[16:32], number_of(key[32:])))
    return found


def _key(session: bytes, message: Message) -> bytes:
    return session + message.conversation + u64(message.serial)
