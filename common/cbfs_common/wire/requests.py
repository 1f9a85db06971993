"""What clients ask the message server, and its answers. PROTOCOL.rst, Message server.

Each request, reply and push is one frame's payload: a msgpack array whose first item is its kind.
``encode`` gives the payload; ``decode_request``, ``decode_reply`` and ``decode_push`` take any
bytes and give a checked value or DecodeError, which is UnknownRequest for a request that a later
version has.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from typing import Any, ClassVar, TypeVar

import msgpack

from cbfs_common.errors import DecodeError
from cbfs_common.limits import (
    CHALLENGE_SIZE,
    ENVELOPE_SIZE,
    GRANT_INDEX_MAX,
    GRANTED_TOKEN_SIZE,
    IDS_MAX,
    INVITE_SIZE,
    MARK_SIZE,
    NEWCOMER_BITS_MAX,
    PREKEY_RECORD_SIZE,
    UPLOAD_MAX,
)
from cbfs_common.primitives import KEM_PUBLIC_SIZE, KEY_SIZE
from cbfs_common.session.prekey import PREKEY_ID_SIZE, PrekeyKind
from cbfs_common.strict_msgpack import unpack
from cbfs_common.wire import blobs
from cbfs_common.wire.blobs import (
    BlobChunk,
    BlobState,
    GetChunk,
    MakeBlob,
    PutChunk,
    RemoveBlob,
    StatBlob,
)
from cbfs_common.wire.fields import (
    WRONG,
    Done,
    Reply,
    Request,
    UnknownRequest,
    between,
    bytes_of,
    bytes_or_none,
    count_of,
    flag_of,
    list_of,
)

ID_SIZE = 16
VERSION_MAX = 255
KINDS_OF_REQUESTS = range(1, 64)


def envelope_id(envelope: bytes) -> bytes:
    """16 bytes that name an envelope: its hash, so that delivering it twice stores it once."""
    return blake2b(envelope, digest_size=ID_SIZE, person=b"cbfs1 envelope").digest()


class Code(IntEnum):
    """Why a server refused."""

    BAD_REQUEST = 1
    NO_ACCOUNT = 2
    UNKNOWN_USER = 3
    MAILBOX_FULL = 4
    NO_PREKEY = 5
    UNKNOWN_ENVELOPE = 6
    TOO_MANY = 7
    TROUBLE = 8
    FULL = 9
    SUSPENDED = 10
    WORK_NEEDED = 11
    INVITE_NEEDED = 12
    UNKNOWN_BLOB = 13
    NO_CHUNK = 14
    BLOB_DIFFERS = 15
    BLOB_QUOTA = 16
    BLOB_TOO_LARGE = 17
    GRANT_NEEDED = 18
    INVITES_SPENT = 19
    LATER_VERSION = 20
    EARLIER_VERSION = 21


def _kind(record: bytes) -> PrekeyKind:
    try:
        return PrekeyKind(record[PREKEY_ID_SIZE])
    except ValueError as error:
        raise DecodeError("not a prekey record") from error


@dataclass(frozen=True, slots=True)
class ErrorReply(Reply):
    """Nothing was done, and why."""

    KIND: ClassVar[int] = 65
    code: Code

    def fields(self) -> tuple[Any, ...]:
        """code u8."""
        return (int(self.code),)


@dataclass(frozen=True, slots=True)
class PrekeyCount(Reply):
    """Unexpired one-time prekeys left, and when the last-resort one expires (seconds since
    1970; 0 when there is none)."""

    KIND: ClassVar[int] = 66
    one_time: int
    last_resort_expires: int

    def fields(self) -> tuple[Any, ...]:
        """one_time u64, last_resort_expires u64."""
        return (self.one_time, self.last_resort_expires)


@dataclass(frozen=True, slots=True)
class PrekeyRecord(Reply):
    """A signed public prekey (PREKEY_RECORD_SIZE bytes), as its owner uploaded it, and the owner's
    static ML-KEM-768 public key (1184)."""

    KIND: ClassVar[int] = 67
    record: bytes
    kem: bytes

    def fields(self) -> tuple[Any, ...]:
        """record, kem."""
        return (self.record, self.kem)


@dataclass(frozen=True, slots=True)
class EnvelopeIds(Reply):
    """Ids (16 bytes each) of stored envelopes in the order of their arrival. ``more``: ask again
    after the last of them."""

    KIND: ClassVar[int] = 68
    ids: tuple[bytes, ...]
    more: bool

    def fields(self) -> tuple[Any, ...]:
        """ids, more."""
        return (self.ids, self.more)


@dataclass(frozen=True, slots=True)
class Stored(Reply):
    """A stored envelope (ENVELOPE_SIZE bytes)."""

    KIND: ClassVar[int] = 69
    envelope: bytes

    def fields(self) -> tuple[Any, ...]:
        """envelope."""
        return (self.envelope,)


@dataclass(frozen=True, slots=True)
class ServerLimits(Reply):
    """What this server keeps for one account: envelopes, seconds, one-time prekeys."""

    KIND: ClassVar[int] = 70
    mailbox: int
    retention: int
    prekeys: int

    def fields(self) -> tuple[Any, ...]:
        """mailbox u64, retention u64, prekeys u64."""
        return (self.mailbox, self.retention, self.prekeys)


@dataclass(frozen=True, slots=True)
class LastMark(Reply):
    """The mark (MARK_SIZE bytes) that the account had when it was asked for; empty for none."""

    KIND: ClassVar[int] = 71
    mark: bytes

    def fields(self) -> tuple[Any, ...]:
        """mark."""
        return (self.mark,)


@dataclass(frozen=True, slots=True)
class NewcomerTerms(Reply):
    """What the server asks of newcomers now: an invite (``invited``), or that the hash of a proof
    of work for the ``challenge`` (CHALLENGE_SIZE) begins with so many zero ``bits``."""

    KIND: ClassVar[int] = 72
    invited: bool
    challenge: bytes
    bits: int

    def fields(self) -> tuple[Any, ...]:
        """invited flag, challenge, bits u8."""
        return (self.invited, self.challenge, self.bits)


@dataclass(frozen=True, slots=True)
class ServerVersion(Reply):
    """The highest version of the protocol that the server reads."""

    KIND: ClassVar[int] = 76
    version: int

    def fields(self) -> tuple[Any, ...]:
        """version u8."""
        return (self.version,)


@dataclass(frozen=True, slots=True)
class CreateAccount(Request[Done]):
    """An account for the key that the client proved. Done also when there is one already.
    ``invite`` (INVITE_SIZE), or the ``number`` that is a proof of work for a ``challenge``
    (CHALLENGE_SIZE): where the server asks for it, else empty and 0."""

    KIND: ClassVar[int] = 1
    invite: bytes = b""
    challenge: bytes = b""
    number: int = 0

    def fields(self) -> tuple[Any, ...]:
        """invite, challenge, number u64."""
        return (self.invite, self.challenge, self.number)


@dataclass(frozen=True, slots=True)
class DeleteAccount(Request[Done]):
    """Forget the client's account: prekeys, envelopes, everything."""

    KIND: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class UploadPrekeys(Request[Done]):
    """1 to UPLOAD_MAX records of the client. One of an id that is there replaces it, a
    last-resort one replaces the last; ``replace``: forget all that were there before. ``kem``:
    the client's static ML-KEM-768 public key (1184), in the place of the last."""

    KIND: ClassVar[int] = 3
    records: tuple[bytes, ...]
    kem: bytes
    replace: bool = False

    def fields(self) -> tuple[Any, ...]:
        """records, kem, replace."""
        return (self.records, self.kem, self.replace)


@dataclass(frozen=True, slots=True)
class CountPrekeys(Request[PrekeyCount]):
    """Asks how many of the client's prekeys are left."""

    KIND: ClassVar[int] = 4
    REPLY: ClassVar[type[Reply]] = PrekeyCount


@dataclass(frozen=True, slots=True)
class TakePrekey(Request[PrekeyRecord]):
    """One prekey of ``user_id`` (32 bytes); a one-time one leaves the server at most once."""

    KIND: ClassVar[int] = 5
    REPLY: ClassVar[type[Reply]] = PrekeyRecord
    user_id: bytes

    def fields(self) -> tuple[Any, ...]:
        """user_id."""
        return (self.user_id,)


@dataclass(frozen=True, slots=True)
class Deliver(Request[Done]):
    """Put ``envelope`` (ENVELOPE_SIZE bytes) in the mailbox of ``user_id`` (32 bytes)."""

    KIND: ClassVar[int] = 6
    user_id: bytes
    envelope: bytes

    def fields(self) -> tuple[Any, ...]:
        """user_id, envelope."""
        return (self.user_id, self.envelope)


@dataclass(frozen=True, slots=True)
class List(Request[EnvelopeIds]):
    """Ids of the client's envelopes, from the first (``after`` empty) or from behind that id."""

    KIND: ClassVar[int] = 7
    REPLY: ClassVar[type[Reply]] = EnvelopeIds
    after: bytes = b""

    def fields(self) -> tuple[Any, ...]:
        """after."""
        return (self.after,)


@dataclass(frozen=True, slots=True)
class Fetch(Request[Stored]):
    """Asks for one of the client's envelopes, by its id."""

    KIND: ClassVar[int] = 8
    REPLY: ClassVar[type[Reply]] = Stored
    id: bytes

    def fields(self) -> tuple[Any, ...]:
        """id."""
        return (self.id,)


@dataclass(frozen=True, slots=True)
class Delete(Request[Done]):
    """Forget up to IDS_MAX of the client's envelopes; ids that are not there are passed over."""

    KIND: ClassVar[int] = 9
    ids: tuple[bytes, ...]

    def fields(self) -> tuple[Any, ...]:
        """ids."""
        return (self.ids,)


@dataclass(frozen=True, slots=True)
class Subscribe(Request[Done]):
    """From now on push the client's envelopes on this connection, the stored ones first, at most
    PUSH_WINDOW ahead of their deletion."""

    KIND: ClassVar[int] = 10


@dataclass(frozen=True, slots=True)
class GetLimits(Request[ServerLimits]):
    """Asks what the server keeps for an account."""

    KIND: ClassVar[int] = 11
    REPLY: ClassVar[type[Reply]] = ServerLimits


@dataclass(frozen=True, slots=True)
class SwapMark(Request[LastMark]):
    """Put ``new`` (MARK_SIZE bytes) in the place of the account's mark, if that is ``seen``: it has
    the same size, or is empty where there is none."""

    KIND: ClassVar[int] = 12
    REPLY: ClassVar[type[Reply]] = LastMark
    seen: bytes
    new: bytes

    def fields(self) -> tuple[Any, ...]:
        """seen, new."""
        return (self.seen, self.new)


@dataclass(frozen=True, slots=True)
class GetTerms(Request[NewcomerTerms]):
    """Asks what a newcomer has to bring."""

    KIND: ClassVar[int] = 13
    REPLY: ClassVar[type[Reply]] = NewcomerTerms


@dataclass(frozen=True, slots=True, repr=False)
class Granted(Reply):
    """Invites for one line: ``drop`` and ``invite`` (INVITE_SIZE each), to this server, for the
    line's drop and for who comes by it; the ``grant`` (INVITE_SIZE) by which they may invite in
    their turn; and the ``token`` (GRANTED_TOKEN_SIZE), an invite to the name directory that belongs
    to this server, empty where there is none."""

    KIND: ClassVar[int] = 75
    drop: bytes
    invite: bytes
    grant: bytes
    token: bytes

    def fields(self) -> tuple[Any, ...]:
        """drop, invite, grant, token."""
        return (self.drop, self.invite, self.grant, self.token)


@dataclass(frozen=True, slots=True, repr=False)
class AskInvite(Request[Granted]):
    """Invites by an account that has a ``grant`` (INVITE_SIZE): the ones of this week with the
    ``index`` (below GRANT_INDEX_MAX). The same ones whenever it is asked in that week."""

    KIND: ClassVar[int] = 19
    REPLY: ClassVar[type[Reply]] = Granted
    grant: bytes
    index: int

    def fields(self) -> tuple[Any, ...]:
        """grant, index u16."""
        return (self.grant, self.index)


@dataclass(frozen=True, slots=True)
class TellVersion(Request[ServerVersion]):
    """The highest version of the protocol that the client reads; gives the server's."""

    KIND: ClassVar[int] = 20
    REPLY: ClassVar[type[Reply]] = ServerVersion
    version: int

    def fields(self) -> tuple[Any, ...]:
        """version u8."""
        return (self.version,)


@dataclass(frozen=True, slots=True)
class Arrived:
    """Pushed to a subscriber: an envelope and its id. Delete it once it is safe."""

    KIND: ClassVar[int] = 128
    id: bytes
    envelope: bytes

    def fields(self) -> tuple[Any, ...]:
        """id, envelope."""
        return (self.id, self.envelope)


AnyRequest = (
    CreateAccount
    | DeleteAccount
    | UploadPrekeys
    | CountPrekeys
    | TakePrekey
    | Deliver
    | List
    | Fetch
    | Delete
    | Subscribe
    | GetLimits
    | SwapMark
    | GetTerms
    | AskInvite
    | TellVersion
    | MakeBlob
    | PutChunk
    | StatBlob
    | GetChunk
    | RemoveBlob
)
AnyReply = (
    Done
    | ErrorReply
    | PrekeyCount
    | PrekeyRecord
    | EnvelopeIds
    | Stored
    | ServerLimits
    | LastMark
    | NewcomerTerms
    | Granted
    | ServerVersion
    | BlobState
    | BlobChunk
)


def _upload(records: Any, kem: Any, replace: Any) -> UploadPrekeys:
    checked = list_of(records, PREKEY_RECORD_SIZE, UPLOAD_MAX)
    last_resort = sum(_kind(record) is PrekeyKind.LAST_RESORT for record in checked)
    ids = {record[:PREKEY_ID_SIZE] for record in checked}
    if not checked or len(ids) < len(checked) or last_resort > 1:
        raise DecodeError(WRONG)
    return UploadPrekeys(checked, bytes_of(kem, KEM_PUBLIC_SIZE), flag_of(replace))


def _refused(code: Any) -> ErrorReply:
    try:
        return ErrorReply(Code(count_of(code)))
    except ValueError as error:
        raise DecodeError(WRONG) from error


_REQUESTS: dict[int, tuple[int, Callable[..., AnyRequest]]] = {
    CreateAccount.KIND: (
        3,
        lambda invite, challenge, number: CreateAccount(
            bytes_or_none(invite, INVITE_SIZE),
            bytes_or_none(challenge, CHALLENGE_SIZE),
            count_of(number),
        ),
    ),
    DeleteAccount.KIND: (0, DeleteAccount),
    UploadPrekeys.KIND: (3, _upload),
    CountPrekeys.KIND: (0, CountPrekeys),
    TakePrekey.KIND: (1, lambda user: TakePrekey(bytes_of(user, KEY_SIZE))),
    Deliver.KIND: (
        2,
        lambda user, envelope: Deliver(bytes_of(user, KEY_SIZE), bytes_of(envelope, ENVELOPE_SIZE)),
    ),
    List.KIND: (1, lambda after: List(bytes_or_none(after, ID_SIZE))),
    Fetch.KIND: (1, lambda id: Fetch(bytes_of(id, ID_SIZE))),
    Delete.KIND: (1, lambda ids: Delete(list_of(ids, ID_SIZE, IDS_MAX))),
    Subscribe.KIND: (0, Subscribe),
    GetLimits.KIND: (0, GetLimits),
    SwapMark.KIND: (
        2,
        lambda seen, new: SwapMark(bytes_or_none(seen, MARK_SIZE), bytes_of(new, MARK_SIZE)),
    ),
    GetTerms.KIND: (0, GetTerms),
    AskInvite.KIND: (
        2,
        lambda grant, n: AskInvite(
            bytes_of(grant, INVITE_SIZE), between(n, 0, GRANT_INDEX_MAX - 1)
        ),
    ),
    TellVersion.KIND: (1, lambda version: TellVersion(between(version, 1, VERSION_MAX))),
    **blobs.REQUESTS,
}
_REPLIES: dict[int, tuple[int, Callable[..., AnyReply]]] = {
    Done.KIND: (0, Done),
    ErrorReply.KIND: (1, _refused),
    PrekeyCount.KIND: (2, lambda one, last: PrekeyCount(count_of(one), count_of(last))),
    PrekeyRecord.KIND: (
        2,
        lambda record, kem: PrekeyRecord(
            bytes_of(record, PREKEY_RECORD_SIZE), bytes_of(kem, KEM_PUBLIC_SIZE)
        ),
    ),
    EnvelopeIds.KIND: (
        2,
        lambda ids, more: EnvelopeIds(list_of(ids, ID_SIZE, IDS_MAX), flag_of(more)),
    ),
    Stored.KIND: (1, lambda envelope: Stored(bytes_of(envelope, ENVELOPE_SIZE))),
    ServerLimits.KIND: (3, lambda a, b, c: ServerLimits(count_of(a), count_of(b), count_of(c))),
    LastMark.KIND: (1, lambda mark: LastMark(bytes_or_none(mark, MARK_SIZE))),
    NewcomerTerms.KIND: (
        3,
        lambda invited, challenge, bits: NewcomerTerms(
            flag_of(invited),
            bytes_of(challenge, CHALLENGE_SIZE),
            between(bits, 0, NEWCOMER_BITS_MAX),
        ),
    ),
    Granted.KIND: (
        4,
        lambda drop, invite, grant, token: Granted(
            bytes_of(drop, INVITE_SIZE),
            bytes_of(invite, INVITE_SIZE),
            bytes_of(grant, INVITE_SIZE),
            bytes_or_none(token, GRANTED_TOKEN_SIZE),
        ),
    ),
    ServerVersion.KIND: (1, lambda version: ServerVersion(between(version, 1, VERSION_MAX))),
    **blobs.REPLIES,
}
_PUSHES: dict[int, tuple[int, Callable[..., Arrived]]] = {
    Arrived.KIND: (
        2,
        lambda id, envelope: Arrived(bytes_of(id, ID_SIZE), bytes_of(envelope, ENVELOPE_SIZE)),
    ),
}

T = TypeVar("T")


def encode(value: Request[Any] | Reply | Arrived) -> bytes:
    """The payload of a frame: msgpack [kind, fields ...]."""
    packed: bytes = msgpack.packb((value.KIND, *value.fields()))
    return packed


def _decode(
    data: bytes, table: dict[int, tuple[int, Callable[..., T]]], later: range = range(0)
) -> T:
    """``later``: the kinds that are for later versions where ``table`` does not have them."""
    items = unpack(data, WRONG, IDS_MAX)
    if type(items) is not list or not items or type(items[0]) is not int:
        raise DecodeError(WRONG)
    if items[0] in later and items[0] not in table:
        raise UnknownRequest("a request of a later version")
    count, make = table.get(items[0], (-1, None))
    if make is None or len(items) != count + 1:
        raise DecodeError(WRONG)
    return make(*items[1:])


def decode_request(data: bytes) -> AnyRequest:
    """The request that a payload is. Raises DecodeError, UnknownRequest for a kind of later."""
    return _decode(data, _REQUESTS, KINDS_OF_REQUESTS)


def decode_reply(data: bytes) -> AnyReply:
    """The reply that a payload is. Raises DecodeError."""
    return _decode(data, _REPLIES)


def decode_push(data: bytes) -> Arrived:
    """The push that a payload is. Raises DecodeError."""
    return _decode(data, _PUSHES)
