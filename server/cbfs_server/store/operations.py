"""What is asked of a store, by name: changes and questions, as values.

A ``Change`` is durable, in the way of its store, before its result is given; a ``Question`` changes
nothing. What a client asks for results in the reply that the client gets. Each says whose rows it
touches: ``user`` (32), and never those of another one; empty for what concerns the whole store.

Made twice, a change leaves what it leaves when it is made once, and gives the same result: but for
``GivePrekey``, which may use up one more prekey, and where something else has come in between. So a
store may repeat what it does not know to be done.

``now`` is in seconds since 1970, as far as the server's clock is believed; a ``day`` is one of the
server's life.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cbfs_common.names.config import Registration
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import AnyReply, Code, ErrorReply
from cbfs_host.calendar import ClockMark

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

REFUSED: dict[Code, ErrorReply] = {code: ErrorReply(code) for code in Code}
DONE = Done()


class Change(Generic[R_co]):
    """Something to be changed, which results in an ``R_co``."""

    __slots__ = ()
    user: bytes


class Question(Generic[R_co]):
    """Something to be looked up, which results in an ``R_co``."""

    __slots__ = ()
    user: bytes


# Mail


@dataclass(frozen=True, slots=True)
class AddEnvelope(Change[AnyReply]):
    """Append an envelope, whose ``id`` (16) follows from it, to a mailbox. Done also when it is
    there, even in a mailbox that is full; UNKNOWN_USER; MAILBOX_FULL from ``Limits.mailbox`` on, or
    when the account has more than its share of the room; FULL when nobody has room."""

    user: bytes
    id: bytes
    envelope: bytes
    day: int


@dataclass(frozen=True, slots=True)
class RemoveEnvelopes(Change[AnyReply]):
    """Take envelopes out of the user's mailbox, as far as they are in it. Done; NO_ACCOUNT."""

    user: bytes
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ListIds(Question[AnyReply]):
    """EnvelopeIds: the first LIST_PAGE behind the id ``after`` (empty: all), oldest first, and
    whether there are more. NO_ACCOUNT; UNKNOWN_ENVELOPE when ``after`` is not there."""

    user: bytes
    after: bytes


@dataclass(frozen=True, slots=True)
class ReadEnvelope(Question[AnyReply]):
    """Stored: the envelope of this id. NO_ACCOUNT; UNKNOWN_ENVELOPE."""

    user: bytes
    id: bytes


@dataclass(frozen=True, slots=True)
class Mail:
    """An envelope in a mailbox, with its place there: serials rise, and none is given twice in
    the life of an account."""

    serial: int
    id: bytes
    envelope: bytes


@dataclass(frozen=True, slots=True)
class NextMail(Question[Iterable[Mail]]):
    """Up to ``most`` envelopes behind the serial ``after``, oldest first: fewer only when there are
    no more. Nothing when there is no such account. To be used before ``done`` returns, as it may be
    read only then: what raises StoreError. What is damaged is left out."""

    user: bytes
    after: int
    most: int


@dataclass(frozen=True, slots=True)
class AskPresent(Question[frozenset[bytes]]):
    """Which of these envelopes are in the mailbox."""

    user: bytes
    ids: tuple[bytes, ...]


# Prekeys


@dataclass(frozen=True, slots=True)
class GivePrekey(Change[AnyReply]):
    """PrekeyRecord: the first one-time prekey in the order of their ids that has not expired
    ``now``, which is gone then, as long as no more than PREKEY_BURST and one every PREKEY_PERIOD
    leave the account; else a last-resort prekey that has not expired, which stays. UNKNOWN_USER;
    NO_PREKEY. Prekeys that have expired stay, as the clock may be wrong."""

    user: bytes
    now: float


@dataclass(frozen=True, slots=True)
class AddPrekeys(Change[AnyReply]):
    """Store signed records (id 16, kind 1, expiry u64, ...) under their ids and kinds, and the
    account's static ML-KEM key. A last-resort prekey takes the place of those that are there; with
    ``replace``, all that are there go. When there would be more than PREKEYS_MAX one-time prekeys,
    those that have expired ``now`` go first. Done; NO_ACCOUNT; TOO_MANY; FULL."""

    user: bytes
    records: tuple[bytes, ...]
    kem: bytes
    replace: bool
    now: float


@dataclass(frozen=True, slots=True)
class CountPrekeysLeft(Question[AnyReply]):
    """PrekeyCount: one-time prekeys that have not expired ``now``, and until when the last-resort
    prekey is good (0: there is none). NO_ACCOUNT."""

    user: bytes
    now: float


# Accounts


@dataclass(frozen=True, slots=True)
class Rule:
    """What the operator wants of newcomers: ``work`` are the zero bits that a proof must have at
    any time."""

    registration: Registration = Registration.OPEN
    work: int = 0


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof of work for a challenge that counts: the ``window`` of the challenge, the ``number``
    that was found, and how many zero ``bits`` it has for its user. Each makes one account; what was
    used is known for as long as its window counts: the ``newest`` there is, and the one before."""

    window: int
    number: int
    bits: int
    newest: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a newcomer has brought, as far as it can be looked at without the store: an ``invite``,
    by its id (16), empty for one that does not count; or a ``proof``, if that counts. None: none
    was brought."""

    invite: bytes | None = None
    proof: Proof | None = None


@dataclass(frozen=True, slots=True)
class MakeAccount(Change[AnyReply]):
    """Make an account, with a visit on its first day. Done also when there is one. TOO_MANY when
    the door is ``closed`` to newcomers or there are ``Limits.accounts``; FULL when there is little
    room; INVITE_NEEDED for an invite that does not count or was used, and without one where the
    rule wants it; WORK_NEEDED for less than the price (``pricing``), or by a proof that was used.
    Who comes without an invite makes it dearer for the next; an invite is noted with the day."""

    user: bytes
    day: int
    ticket: Ticket = Ticket()
    rule: Rule = Rule()
    closed: bool = False


@dataclass(frozen=True, slots=True)
class AskPrice(Question[int]):
    """The zero bits that a newcomer's proof must have now; 0: none is needed."""

    rule: Rule
    user: bytes = b""


@dataclass(frozen=True, slots=True)
class AskAccount(Question[AnyReply]):
    """Done when the user has an account; NO_ACCOUNT."""

    user: bytes


@dataclass(frozen=True, slots=True)
class EndAccount(Change[int | None]):
    """Forget an account and all that is stored for it: how many envelopes that were, None when
    there is no such account. A suspension stays."""

    user: bytes


@dataclass(frozen=True, slots=True)
class ChangeMark(Change[AnyReply]):
    """LastMark: the mark (56) of the account's client, empty when there is none; it is replaced by
    ``new`` if it is the one that was ``seen``. Also when there is no room. NO_ACCOUNT."""

    user: bytes
    seen: bytes
    new: bytes


@dataclass(frozen=True, slots=True)
class NoteVisit(Change[None]):
    """Note that an account's owner was there on a day; with ``fetches``, that the owner has
    fetched, which stays so. Nothing when there is no such account."""

    user: bytes
    day: int
    fetches: bool


@dataclass(frozen=True, slots=True)
class Suspend(Change[None]):
    """Suspend a user, who need not have an account, or (``on`` is False) no longer: what
    ``MailboxStore.suspended`` says is so by the time of the result."""

    user: bytes
    on: bool


# Blobs


@dataclass(frozen=True, slots=True)
class AddBlob(Change[AnyReply]):
    """Reserve a blob of so many ``data`` chunks for an account, made on a ``day`` and kept for
    ``days``, or ``Limits.blob_days``. BlobState, also of one that is there and is the same;
    NO_ACCOUNT; BLOB_DIFFERS when the id (32) is another blob's, or one's that is being erased, or
    that somebody else makes at the same time;
    BLOB_TOO_LARGE, BLOB_QUOTA past ``Limits.blob_quota``; TOO_MANY; FULL when the account's share
    of the room, or what blobs may have of it, is less."""

    user: bytes
    id: bytes
    data: int
    days: int
    day: int


@dataclass(frozen=True, slots=True)
class AddChunk(Change[AnyReply]):
    """Append a chunk to a blob of the account. Done also when it is there and is the same;
    NO_ACCOUNT; UNKNOWN_BLOB; NO_CHUNK when one before it is missing, or it is none of the blob;
    BLOB_DIFFERS when it is there with other bytes; FULL as ``AddBlob``."""

    user: bytes
    id: bytes
    index: int
    chunk: bytes


@dataclass(frozen=True, slots=True)
class EndBlob(Change[AnyReply]):
    """Forget a blob of the account, if there is one of this id. Its chunks are erased later. Done;
    NO_ACCOUNT."""

    user: bytes
    id: bytes


@dataclass(frozen=True, slots=True)
class AskBlob(Question[AnyReply]):
    """BlobState of a blob of the account. NO_ACCOUNT; UNKNOWN_BLOB."""

    user: bytes
    id: bytes


@dataclass(frozen=True, slots=True)
class ReadChunk(Question[AnyReply]):
    """BlobChunk: of anybody's blob, unless its owner is one of the ``barred``. UNKNOWN_BLOB;
    NO_CHUNK when it is not put, or is none of the blob."""

    id: bytes
    index: int
    barred: frozenset[bytes] = frozenset()
    user: bytes = b""


# Keeping house


@dataclass(frozen=True, slots=True)
class NoteTime(Change[None]):
    """Note the server's time, in the place of what was noted."""

    mark: ClockMark
    user: bytes = b""


@dataclass(slots=True)
class Expired:
    """What was forgotten: so many envelopes, of so many accounts; the ``oldest`` day of those that
    are left, None when none is; and the accounts that have ``ended``, ``unused`` of which had never
    fetched anything."""

    envelopes: int = 0
    accounts: int = 0
    oldest: int | None = None
    ended: list[bytes] = field(default_factory=list)
    unused: int = 0

    def add(self, other: "Expired") -> None:
        """Count another batch's with it."""
        self.envelopes += other.envelopes
        self.accounts += other.accounts
        self.ended += other.ended
        self.unused += other.unused
        self.oldest = min_day(self.oldest, other.oldest)


def min_day(one: int | None, other: int | None) -> int | None:
    """The earlier of two days, of which None is none."""
    return min((day for day in (one, other) if day is not None), default=None)


@dataclass(frozen=True, slots=True)
class Swept:
    """What a batch of the search for what is old has found, and the user to go on with (None: it
    was the last batch)."""

    rest: bytes | None
    expired: Expired


@dataclass(frozen=True, slots=True)
class ForgetOld(Change[Swept]):
    """A batch of accounts from the user ``start`` on: forget envelopes of before the day ``today -
    retention``, and accounts whose owners were not there for ``inactive`` days (NEWCOMER_DAYS for
    those who have never fetched), of which the last visit is on a day before ``today - inactive``.
    An account without a visit is noted as visited ``today``. About EXPIRY_BATCH accounts or
    envelopes, so that others have their turn; a store that several processes share lets one of them
    search."""

    start: bytes
    today: int
    retention: int
    inactive: int
    user: bytes = b""


@dataclass(frozen=True, slots=True)
class ForgetInvites(Change[bytes | None]):
    """A batch of the invites that were used, from ``start`` on: forget those used before a day.
    Gives where to go on, None at the end."""

    start: bytes
    before: int
    user: bytes = b""


@dataclass(frozen=True, slots=True)
class SweptBlobs:
    """The id to go on with (None: it was the last batch), and how many blobs were forgotten."""

    rest: bytes | None
    blobs: int


@dataclass(frozen=True, slots=True)
class ForgetBlobs(Change[SweptBlobs]):
    """A batch of the blobs from the id ``start`` on: forget those that were kept for their days,
    as of ``today``. A store that several processes share lets one of them search."""

    start: bytes
    today: int
    user: bytes = b""


@dataclass(frozen=True, slots=True)
class EraseChunks(Change[bool]):
    """Erase up to ERASE_BATCH chunks of blobs that were forgotten, where each blob counts like one
    as well. Whether there were any; then there may be more."""

    user: bytes = b""


@dataclass(frozen=True, slots=True)
class NoChange(Change[None]):
    """Changes nothing, in its turn: whoever makes changes is alive."""

    user: bytes = b""
