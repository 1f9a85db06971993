"""Ids of conversations. PROTOCOL.rst, Message, Conversations.

The first conversation of some people about a subject has an id that follows from them, and so
has the second, and so on. Two who begin the same conversation at once thus begin one.
"""

from cbfs_common.limits import CONVERSATION_NUMBERS
from cbfs_common.primitives import kdf

CONVERSATION_ID_SIZE = 16
_DERIVED = 0x80


def conversation_id(participants: tuple[str, ...], subject: str, number: int) -> bytes:
    """16 bytes: the id of conversation ``number``, from 0, of these people (sorted names) about
    this. Its first bit is set."""
    fields = [name.encode() for name in participants]
    fields = [bytes([len(fields)]), *(bytes([len(name)]) + name for name in fields)]
    fields += [number.to_bytes(2, "big"), subject.encode()]
    derived = kdf(b"", b"cbfs1 talk id", b"".join(fields), CONVERSATION_ID_SIZE)
    return bytes([derived[0] | _DERIVED]) + derived[1:]


def random_conversation_id(random: bytes) -> bytes:
    """An id for somebody with CONVERSATION_NUMBERS conversations already, from 16 random bytes.
    Its first bit is not set."""
    return bytes([random[0] & ~_DERIVED]) + random[1:]


def fits(id: bytes, participants: tuple[str, ...], subject: str) -> bool:
    """Whether a conversation of these people about this may have this id. A derived id belongs
    to its participants and subject: nobody else can begin a conversation under it first."""
    return not id[0] & _DERIVED or any(
        conversation_id(participants, subject, number) == id
        for number in range(CONVERSATION_NUMBERS)
    )
