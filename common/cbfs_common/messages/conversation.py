"""Conversations: their ids, and how long their messages are kept. PROTOCOL.rst, Message,
Conversations and Lifetimes.

The first conversation of some people about a subject has an id that follows from them, and so has
the second, and so on. Two who begin the same conversation at once thus begin one. One that goes on
with other people has an id that follows from these and from the id of the one in which it began.
The clock is the caller's.
"""

from dataclasses import dataclass

from cbfs_common.limits import (
    CONVERSATION_NUMBERS,
    DATE_MAX,
    LIFETIME_CHANGE_MAX,
    LIFETIME_CHANGES_AHEAD,
    LIFETIME_WAIT,
    MESSAGE_LIFETIME_MAX,
    MESSAGE_LIFETIME_MIN,
)
from cbfs_common.person import Person
from cbfs_common.primitives import kdf

CONVERSATION_ID_SIZE = 16
_DERIVED = 0x80


def conversation_id(participants: tuple[Person, ...], subject: str, number: int) -> bytes:
    """16 bytes: the id of conversation ``number``, from 0, of these people (sorted) about this. Its
    first bit is set."""
    return _derived(_numbered(_people(participants), subject.encode(), number))


def _numbered(people: bytes, subject: bytes, number: int) -> bytes:
    said = people + number.to_bytes(2, "big") + subject
    return kdf(b"", b"cbfs1 talk id", said, CONVERSATION_ID_SIZE)


def continued_id(root: bytes, participants: tuple[Person, ...], subject: str) -> bytes:
    """16 bytes: the id under which these people (sorted) go on with what they, or some of them,
    began under the id ``root`` (16). Its first bit is set."""
    said = root + _people(participants) + subject.encode()
    return _derived(kdf(b"", b"cbfs1 talk on", said, CONVERSATION_ID_SIZE))


def _people(participants: tuple[Person, ...]) -> bytes:
    return bytes([len(participants)]) + b"".join(person.encode() for person in participants)


def _derived(id: bytes) -> bytes:
    return bytes([id[0] | _DERIVED]) + id[1:]


def random_conversation_id(random: bytes) -> bytes:
    """An id for somebody with CONVERSATION_NUMBERS conversations already, from 16 random bytes.
    Its first bit is not set."""
    return bytes([random[0] & ~_DERIVED]) + random[1:]


def fits(id: bytes, participants: tuple[Person, ...], subject: str, root: bytes = b"") -> bool:
    """Whether a conversation of these people about this may have this id; one that goes on from the
    one of the id ``root``, if that is not empty. A derived id belongs to its participants and
    subject: nobody else can begin a conversation under it first."""
    if root:
        return id == continued_id(root, participants, subject)
    if not id[0] & _DERIVED:
        return True
    hashes = id, bytes([id[0] & ~_DERIVED]) + id[1:]
    people, said = _people(participants), subject.encode()
    return any(_numbered(people, said, number) in hashes for number in range(CONVERSATION_NUMBERS))


def carried_on(
    id: bytes, participants: tuple[Person, ...], subject: str, root: bytes = b""
) -> tuple[bytes, bytes]:
    """(id, root) under which these people (sorted) go on with a conversation when names of theirs
    are in another directory than before: as it was where that ``fits`` still, else as one that goes
    on from where it began. So all who have it, and whoever has not, meet in the same."""
    if fits(id, participants, subject, root):
        return id, root
    began = root or id
    return continued_id(began, participants, subject), began


# Lifetimes


@dataclass(frozen=True, slots=True)
class Lifetime:
    """``seconds`` for which a message is kept once it is there, 0 for ever. ``change``: how often
    the people of its conversation had changed that, as far as its sender knew; 0 is never, and
    then the seconds are 0."""

    seconds: int = 0
    change: int = 0


FOREVER = Lifetime()


def is_lifetime(seconds: object, change: object) -> bool:
    """Whether a message may say so."""
    if type(seconds) is not int or type(change) is not int:
        return False
    if not 0 <= change <= LIFETIME_CHANGE_MAX:
        return False
    return seconds == 0 or (change > 0 and MESSAGE_LIFETIME_MIN <= seconds <= MESSAGE_LIFETIME_MAX)


def agreed(known: Lifetime, told: Lifetime) -> Lifetime:
    """The lifetime of a conversation after a message with another one: the later change counts,
    of two that were made at once the shorter. A change that is too far ahead does not count, so
    that nobody can use up the numbers. All who have the same messages agree."""
    if told.change > known.change + LIFETIME_CHANGES_AHEAD:
        return known
    return max(known, told, key=_rank)


def changed(known: Lifetime, seconds: int) -> Lifetime:
    """The lifetime of a conversation after one of its people has set ``seconds``."""
    if seconds == known.seconds:
        return known
    return Lifetime(seconds, min(known.change + 1, LIFETIME_CHANGE_MAX))


def _rank(lifetime: Lifetime) -> tuple[int, int]:
    return lifetime.change, -(lifetime.seconds or MESSAGE_LIFETIME_MAX + 1)


def end_of(lifetime: Lifetime, now: int, *, waits: bool) -> int:
    """When a message ends that is there at ``now`` (milliseconds since 1970, by the own clock:
    nobody else's date counts), 0 for never. One that ``waits`` to be delivered ends
    LIFETIME_WAIT later, unless it is delivered."""
    if not lifetime.seconds:
        return 0
    left = lifetime.seconds + (LIFETIME_WAIT if waits else 0)
    return min(now + left * 1_000, DATE_MAX)
