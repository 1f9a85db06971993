"""What arrives, as entries of a log, and what is to be done outside when one was applied.

``cbfs.receiving.incoming.apply`` sees nothing but the account, as it stands, and one entry: what it
would else read of a clock, draw at random or ask a name directory stands in the entry. So a log of
entries says what has become of an account, in whatever batches and with whatever restarts it is
applied. An envelope that was kept and is tried again is another entry.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import count

from cbfs.contacts.contact import Contact, decode_contact
from cbfs.messages.model import Conversation, Message, Turnover
from cbfs.messages.queues.note_queue import Dues
from cbfs.messages.queues.quarantine import Why
from cbfs.receiving.notes import Effects
from cbfs.storage.encoding import pack, u64, unpack
from cbfs.storage.store import Table
from cbfs_common.errors import DecodeError
from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.primitives import kdf

SEED_SIZE = 32
_TIME_END = 1 << 63
_KEPT = {Table.INBOX: 24, Table.QUARANTINE: 40}
"""The tables that an envelope may have been kept in until now, with the sizes of their keys."""

_TABLES = {"": None, **{table.name: table for table in _KEPT}}


class Course(Enum):
    """What is done with an envelope."""

    OPEN = "o"  # it is opened, and all that it says is taken in
    ALONE = "a"  # the same, but for what strangers have sent before, in which a fault may be
    FAULT = "f"  # it has met a fault of this program, and is kept
    UNCONFIRMED = "u"  # the directory does not confirm who has sent it: it is kept
    UNHEARD = "x"  # who has sent it is a stranger too many: it is dropped


_COURSES = {course.value: course for course in Course}


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An envelope that is applied at ``now``, with a ``seed`` (32) from which all randomness comes
    that this takes. A receipt for it is due after ``delay``; both are in milliseconds. ``kept`` is
    the record that it was in until now: (table, key). ``confirmed`` is who has sent it, where the
    name directory was asked: a contact from then on, if they are none."""

    envelope: bytes
    now: int
    seed: bytes
    delay: int = 0
    kept: tuple[Table, bytes] | None = None
    course: Course = Course.OPEN
    confirmed: Contact | None = None

    def encode(self) -> bytes:
        """As a record of a log."""
        table, key = (self.kept[0].name, self.kept[1]) if self.kept else ("", b"")
        confirmed = self.confirmed.encode() if self.confirmed else b""
        course = self.course.value
        return pack(self.envelope, self.now, self.seed, self.delay, table, key, course, confirmed)

    def token(self) -> Callable[[int], bytes]:
        """``token(n)`` gives n bytes, at most 64, that are random to whoever has not the seed; the
        same ones in the same order for each function that this gives."""
        drawn = count()
        return lambda size: kdf(self.seed, b"cbfs1 entry", u64(next(drawn)), size)


def decode_entry(data: bytes) -> LogEntry:
    """The entry that ``LogEntry.encode`` made. Raises DecodeError for anything else."""
    envelope, now, seed, delay, table, key, course, contact = unpack(
        data, bytes, int, bytes, int, str, bytes, str, bytes
    )
    place = _TABLES.get(table)
    fits = (
        (len(envelope), len(seed)) == (ENVELOPE_SIZE, SEED_SIZE)
        and 0 <= now < _TIME_END
        and 0 <= delay < _TIME_END
        and table in _TABLES
        and len(key) == (_KEPT[place] if place else 0)
        and course in _COURSES
    )
    if not fits:
        raise DecodeError("an entry of a log is damaged")
    kept = (place, key) if place else None
    confirmed = decode_contact(contact) if contact else None
    entry = LogEntry(envelope, now, seed, delay, kept, _COURSES[course], confirmed)
    if entry.encode() != data:
        raise DecodeError("an entry of a log is damaged")
    return entry


@dataclass(frozen=True, slots=True)
class LeftUnread:
    """An envelope that is kept, why, and in which session that is known; ``new`` if it was not kept
    before."""

    why: Why
    session: bytes
    new: bool


@dataclass(frozen=True, slots=True)
class Outputs:
    """What is to be done outside when an entry, or several, are on the disk: then each envelope may
    be deleted at the server as well.

    Conversations that are ``new`` or other than before, and which have ``moved`` into the folders
    of which others; ``conversations`` that something has come for; messages that have ``arrived``
    or ``changed``; to whom there is something to send ``again``, and when (milliseconds) notes are
    due to whom; strangers whose ``requests`` are others than before. Whether ``parts`` of messages
    were kept, and something was ``refused``. What those who are known say of themselves, for the
    monitor: ``bundles``. What is ``unread``; whether the directory is to be asked who somebody is
    (``asks``), and of which one that is not followed somebody says to be (``elsewhere``). The
    sessions that have ``advanced``, and whether somebody is ``proven`` in one."""

    new: tuple[Conversation, ...] = ()
    moved: tuple[tuple[bytes, bytes], ...] = ()
    conversations: tuple[Conversation, ...] = ()
    arrived: tuple[Message, ...] = ()
    changed: tuple[Message, ...] = ()
    again: tuple[str, ...] = ()
    dues: tuple[tuple[str, int], ...] = ()
    requests: tuple[str, ...] = ()
    parts: bool = False
    refused: bool = False
    bundles: tuple[tuple[str, bytes], ...] = ()
    unread: tuple[LeftUnread, ...] = ()
    asks: bool = False
    elsewhere: bytes = b""
    advanced: tuple[bytes, ...] = ()
    proven: bool = False

    @property
    def turnover(self) -> Turnover:
        """What has become of conversations."""
        return Turnover({one.id: one for one in self.new}, dict(self.moved))


def effects_as_outputs(effects: Effects) -> Outputs:
    """What is told of effects, of a batch or of a decision about strangers."""
    arrivals, told = effects.arrivals, effects.told
    return Outputs(
        tuple(arrivals.changes.new.values()),
        tuple(arrivals.changes.moved.items()),
        tuple(arrivals.conversations.values()),
        tuple(arrivals.messages),
        (*arrivals.confirmed, *told.messages),
        tuple(sorted(told.again)),
        tuple(sorted(arrivals.dues.items())),
        tuple(sorted(effects.requests)),
        arrivals.parts > 0,
        arrivals.refused > 0,
    )


def together(some: Iterable[Outputs]) -> Outputs:
    """What several, one after the other, come to."""
    each = list(some)
    turnover, dues, conversations = Turnover(), Dues(), dict[bytes, Conversation]()
    for one in each:
        conversations |= {found.id: found for found in one.conversations}
        # what has become of one since it was begun
        conversations |= {found.id: found for found in one.new if found.id in conversations}
        turnover.add(one.turnover)
        for peer, due in one.dues:
            dues[peer] = min(due, dues.get(peer, due))
    return Outputs(
        tuple(turnover.new.values()),
        tuple(turnover.moved.items()),
        tuple(conversations.values()),
        tuple(found for one in each for found in one.arrived),
        tuple(found for one in each for found in one.changed),
        _all(one.again for one in each),
        tuple(sorted(dues.items())),
        _all(one.requests for one in each),
        any(one.parts for one in each),
        any(one.refused for one in each),
        tuple(found for one in each for found in one.bundles),
        tuple(found for one in each for found in one.unread),
        any(one.asks for one in each),
        next((one.elsewhere for one in reversed(each) if one.elsewhere), b""),
        tuple(found for one in each for found in one.advanced),
        any(one.proven for one in each),
    )


def _all(names: Iterator[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({name for some in names for name in some}))
