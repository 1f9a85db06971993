"""Operations on names: layout, signatures, what each does to an entry, why one is refused, and a
verifier's receipt for one. PROTOCOL.rst, Names: operations, requests, receipts.

The sequencer, every verifier and every client run the same ``apply_*`` functions, so that they
cannot come to different entries.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from hashlib import sha256
from typing import TypedDict

from cbfs_common.errors import CbfsError, CryptoError
from cbfs_common.limits import (
    COSIGNERS_MAX,
    NAME_MAX,
    NAMES_CONFIG_MAX,
    OWNER_KEYS_MAX,
    PROFILE_MAX,
)
from cbfs_common.names.entry import (
    NO_KEYS,
    Keys,
    read_agent,
    read_keys,
    read_name,
)
from cbfs_common.names.layout import HASH_SIZE, ZERO, Fields, labelled, long, short
from cbfs_common.person import DIRECTORY_SIZE, Person
from cbfs_common.primitives import KEY_SIZE, SIGNATURE_SIZE, kdf, sign, sign_public, verify

_VERSION = 1
_FIRST = bytes([_VERSION])
OPERATION_LABEL = b"cbfs1 names operation"
COMMIT_LABEL = b"cbfs1 names commit"
RECEIPT_LABEL = b"cbfs1 names receipt"
SALT_SIZE = 32
SIGNATURES_MAX = 2 * OWNER_KEYS_MAX
INVITE_MAX = 256
"""Bytes of an encoded invite."""

NEVER = 2**64 - 1
"""FREEZE alone may expire so late: it is signed beforehand, for a day that may not come."""


# Refusals


class Refusal(IntEnum):
    """Why an operation is not applied."""

    BAD_REQUEST = 1
    WRONG_DIRECTORY = 2
    OUT_OF_DATE = 3
    NAME_TAKEN = 4
    NO_COMMIT = 5
    NO_SUCH_NAME = 6
    WRONG_VERSION = 7
    WRONG_SIGNATURE = 8
    NAME_EXPIRED = 9
    COMMIT_REPEATED = 10
    WRONG_ORDER = 11
    TOO_MANY = 12
    STOPPED = 13
    NAME_FROZEN = 14
    NAME_RELEASED = 15
    NO_RECOVERY = 16
    WRONG_TERM = 17
    INVITE_NEEDED = 18
    INVITE_SPENT = 19
    WORK_NEEDED = 20
    REGISTRAR_NEEDED = 21
    NO_QUORUM = 22
    EQUIVOCATION = 23
    WRONG_CONFIG = 24
    CHANGED_OFTEN = 25
    NAME_SUSPENDED = 26


_WORDS = {
    Refusal.BAD_REQUEST: ("the operation is malformed", ""),
    Refusal.WRONG_DIRECTORY: ("the operation is for another directory", ""),
    Refusal.OUT_OF_DATE: ("the operation has expired", "make it again"),
    Refusal.NAME_TAKEN: ("the name is taken", "choose another name"),
    Refusal.NO_COMMIT: ("the name was not committed to in an earlier round", "try again"),
    Refusal.NO_SUCH_NAME: ("the name is not registered", ""),
    Refusal.WRONG_VERSION: ("the entry has changed since", "look it up and try again"),
    Refusal.WRONG_SIGNATURE: ("the operation is not signed by the owner", ""),
    Refusal.NAME_EXPIRED: (
        "the name has run out, too long ago to be renewed",
        "register another one, or this one again 120 days after its end: cbfs init",
    ),
    Refusal.COMMIT_REPEATED: ("the commitment was made already", ""),
    Refusal.WRONG_ORDER: ("registrations are not in the order of their commitments", ""),
    Refusal.TOO_MANY: ("the directory has too much to do", "try again later"),
    Refusal.STOPPED: ("the directory makes no rounds now", "tell its operator"),
    Refusal.NAME_FROZEN: ("the name is frozen", "only its recovery keys can free it"),
    Refusal.NAME_SUSPENDED: (
        "the name was frozen with its agent key",
        "its owner key frees it, with new keys: cbfs name rotate",
    ),
    Refusal.NAME_RELEASED: ("the name was given up by its owner", ""),
    Refusal.NO_RECOVERY: ("there is no recovery of the name to act on", ""),
    Refusal.WRONG_TERM: ("the name cannot be renewed to that time", "see the directory's terms"),
    Refusal.INVITE_NEEDED: (
        "the directory registers by invitation only",
        "ask its operator for an invite",
    ),
    Refusal.INVITE_SPENT: ("the invite has been used", "ask for another"),
    Refusal.WORK_NEEDED: ("the registration lacks the proof of work that is asked", "try again"),
    Refusal.REGISTRAR_NEEDED: (
        "a name so short needs the registrar's grant",
        "choose a longer name, or ask the directory's operator for an invite to it",
    ),
    Refusal.NO_QUORUM: (
        "too few of the directory's verifiers sign at present",
        "it may still be carried out once they do: look before you try again",
    ),
    Refusal.EQUIVOCATION: (
        "the directory has stopped, as one of its keys has signed two histories",
        "ask its operator for the evidence",
    ),
    Refusal.CHANGED_OFTEN: (
        "the name has been changed too often in a short time",
        "try again in an hour; new keys, a freeze or a recovery do not wait for that",
    ),
    Refusal.WRONG_CONFIG: ("the configuration does not follow from the present one", ""),
}


class OperationRefused(CbfsError):
    """An operation that is not valid where it stands; nothing was changed."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(*_WORDS[refusal])
        self.refusal = refusal


# Operations


class OperationKind(IntEnum):
    """What an operation does."""

    COMMIT = 1
    REGISTER = 2
    UPDATE = 3
    ROTATE = 4
    RENEW = 5
    RELEASE = 6
    FREEZE = 7
    RECOVER = 8
    CANCEL = 9
    CONFIGURE = 10


@dataclass(frozen=True, slots=True)
class Operation:
    """One signed operation.

    ``name``, ``incarnation``, ``version`` and ``previous`` (32) say what entry of the ``directory``
    (16) it makes, and of which; of a COMMIT they are empty and zero. ``expires``: the last round
    that may hold it. ``secret`` (32): COMMIT's commitment, REGISTER's salt. ``agent``: the agent's
    key (32) that the entry is to have, or empty. ``signatures``: (key 32, signature 64), sorted by
    key.
    """

    kind: OperationKind
    directory: bytes
    name: str
    incarnation: int
    version: int
    previous: bytes
    expires: int
    secret: bytes = b""
    owners: Keys = NO_KEYS
    recovery: Keys = NO_KEYS
    profile: bytes = b""
    signatures: tuple[tuple[bytes, bytes], ...] = ()
    work: int = 0
    invite: bytes = b""
    until: int = 0
    terms: str = ""
    agent: bytes = b""

    def body(self) -> bytes:
        """What is signed, after the label."""
        head = (
            bytes([_VERSION, self.kind])
            + self.directory
            + short(self.name.encode("ascii"))
            + self.incarnation.to_bytes(4, "big")
            + self.version.to_bytes(4, "big")
            + self.previous
            + self.expires.to_bytes(8, "big")
        )
        match self.kind:
            case OperationKind.COMMIT:
                return head + self.secret + self.work.to_bytes(8, "big") + long(self.invite)
            case OperationKind.REGISTER:
                head += self.secret
            case OperationKind.RENEW:
                return head + self.until.to_bytes(8, "big")
            case OperationKind.RECOVER:
                return head + self.owners.encode()
            case OperationKind.CONFIGURE:
                return head + long(self.terms.encode("ascii"))
            case OperationKind.RELEASE | OperationKind.FREEZE | OperationKind.CANCEL:
                return head
        if self.kind is not OperationKind.UPDATE:
            head += self.owners.encode() + self.recovery.encode() + short(self.agent)
        return head + long(self.profile)

    def encode(self) -> bytes:
        """body | count u8 | signatures."""
        signatures = b"".join(key + signature for key, signature in self.signatures)
        return self.body() + bytes([len(self.signatures)]) + signatures

    def signed(self, seeds: tuple[bytes, ...]) -> "Operation":
        """This operation with a signature (Ed25519) by each seed (32)."""
        message = OPERATION_LABEL + b"\n" + self.body()
        made = {sign_public(seed): sign(seed, message) for seed in seeds}
        return replace(self, signatures=tuple(sorted(made.items())))

    def claimed(self) -> frozenset[bytes]:
        """The keys that are said to have signed. No signature is verified for this: whether these
        keys would do is asked first, as anybody may send signatures by keys of their own."""
        return frozenset(key for key, _ in self.signatures)

    def signers(self) -> frozenset[bytes]:
        """The keys that have signed: those of ``claimed``. Raises OperationRefused when a signature
        is wrong."""
        message = OPERATION_LABEL + b"\n" + self.body()
        try:
            for key, signature in self.signatures:
                verify(key, message, signature)
        except CryptoError as error:
            raise OperationRefused(Refusal.WRONG_SIGNATURE) from error
        return self.claimed()


OPERATION_MAX = (
    2 + DIRECTORY_SIZE + 1 + NAME_MAX + 4 + 4 + HASH_SIZE + 8 + SALT_SIZE
    + 2 * (2 + KEY_SIZE * OWNER_KEYS_MAX) + 1 + KEY_SIZE + 2 + PROFILE_MAX
    + 1 + SIGNATURES_MAX * (KEY_SIZE + SIGNATURE_SIZE)
)  # fmt: skip
"""Bytes of an encoded operation on a name, at most."""

SUBMIT_MAX = (
    2 + DIRECTORY_SIZE + 1 + 4 + 4 + HASH_SIZE + 8 + 2 + NAMES_CONFIG_MAX
    + 1 + COSIGNERS_MAX * (KEY_SIZE + SIGNATURE_SIZE)
)  # fmt: skip
"""Bytes of any encoded operation, at most: a CONFIGURE is the longest."""

_KINDS = frozenset(OperationKind)
_NAMELESS = (OperationKind.COMMIT, OperationKind.CONFIGURE)
_SIGNATURES = {OperationKind.COMMIT: (0, 1), OperationKind.CONFIGURE: (1, COSIGNERS_MAX)}
"""How many at least and at most, where it is not 1 to SIGNATURES_MAX."""


def decode_operation(data: bytes) -> Operation:
    """Undo ``Operation.encode``. Raises DecodeError. Signatures are not verified yet."""
    fields = Fields(data, "an operation on a name")
    version, number = fields.number(1), fields.number(1)
    if version != _VERSION or number not in _KINDS:
        raise fields.error()
    kind = OperationKind(number)
    nameless = kind in _NAMELESS
    directory = fields.take(DIRECTORY_SIZE)
    name = _no_name(fields) if nameless else read_name(fields)
    incarnation, entry_version = fields.number(4), fields.number(4)
    previous, expires = fields.take(HASH_SIZE), fields.number(8)
    rest = _read_rest(fields, kind)
    signatures = _signatures(fields, *_SIGNATURES.get(kind, (1, SIGNATURES_MAX)))
    fields.end()
    versioned = not nameless and kind is not OperationKind.FREEZE
    if bool(incarnation) is nameless or bool(entry_version) is not versioned:
        raise fields.error()
    if kind in (OperationKind.COMMIT, OperationKind.FREEZE) and previous != ZERO:
        raise fields.error()
    return Operation(
        kind,
        directory,
        name,
        incarnation,
        entry_version,
        previous,
        expires,
        signatures=signatures,
        **rest,
    )


def kind_of(data: bytes) -> OperationKind | None:
    """What an encoded operation would be, without decoding it; None when it is none."""
    return (
        OperationKind(data[1]) if data[:1] == _FIRST and data[1:2] and data[1] in _KINDS else None
    )


class _Rest(TypedDict, total=False):
    """The fields that not every kind has."""

    secret: bytes
    owners: Keys
    recovery: Keys
    profile: bytes
    work: int
    invite: bytes
    until: int
    terms: str
    agent: bytes


def _read_rest(fields: Fields, kind: OperationKind) -> _Rest:
    """What follows the common fields, by kind."""
    match kind:
        case OperationKind.COMMIT:
            secret, work, invite = fields.take(SALT_SIZE), fields.number(8), fields.long()
            if len(invite) > INVITE_MAX:
                raise fields.error()
            return {"secret": secret, "work": work, "invite": invite}
        case OperationKind.RENEW:
            return {"until": fields.number(8)}
        case OperationKind.RECOVER:
            return {"owners": _some_keys(fields)}
        case OperationKind.CONFIGURE:
            return {"terms": _terms(fields)}
        case OperationKind.RELEASE | OperationKind.FREEZE | OperationKind.CANCEL:
            return {}
    rest: _Rest = {}
    if kind is OperationKind.REGISTER:
        rest["secret"] = fields.take(SALT_SIZE)
    if kind is not OperationKind.UPDATE:
        rest["owners"], rest["recovery"] = _some_keys(fields), read_keys(fields)
        rest["agent"] = read_agent(fields)
    rest["profile"] = fields.long()
    if len(rest["profile"]) > PROFILE_MAX:
        raise fields.error()
    return rest


def _some_keys(fields: Fields) -> Keys:
    keys = read_keys(fields)
    if not keys.keys:
        raise fields.error()
    return keys


def _terms(fields: Fields) -> str:
    raw = fields.long()
    if len(raw) > NAMES_CONFIG_MAX or not raw.isascii():
        raise fields.error()
    return raw.decode("ascii")


def _no_name(fields: Fields) -> str:
    if fields.number(1):
        raise fields.error()
    return ""


def _signatures(fields: Fields, least: int, most: int) -> tuple[tuple[bytes, bytes], ...]:
    count = fields.number(1)
    if not least <= count <= most:
        raise fields.error()
    found = tuple((fields.take(KEY_SIZE), fields.take(SIGNATURE_SIZE)) for _ in range(count))
    keys = [key for key, _ in found]
    if keys != sorted(set(keys)):
        raise fields.error()
    return found


def commitment(person: Person, owners: Keys, salt: bytes) -> bytes:
    """What a COMMIT publishes (32): it hides the name and binds the owners."""
    return labelled(COMMIT_LABEL, person.encode(), owners.encode(), salt)


def registration_salt(seed: bytes, person: Person) -> bytes:
    """The salt (32) of a registration, from the owner's seed (32), so that a registration that
    was cut off can be taken up with nothing stored."""
    return kdf(seed, b"cbfs1 names salt", person.encode(), SALT_SIZE)


# Receipts


def _receipt_body(directory: bytes, operation: bytes, time: int) -> bytes:
    """label | newline | directory 16 | SHA-256 of the operation 32 | time u64."""
    return RECEIPT_LABEL + b"\n" + directory + sha256(operation).digest() + time.to_bytes(8, "big")


def sign_receipt(seed: bytes, directory: bytes, operation: bytes, time: int) -> bytes:
    """The receipt (64) by a verifier's seed (32) for an encoded operation at ``time`` (seconds)."""
    return sign(seed, _receipt_body(directory, operation, time))


def verify_receipt(
    key: bytes, directory: bytes, operation: bytes, time: int, signature: bytes
) -> None:
    """Raises CryptoError unless the verifier's key (32) signed the receipt."""
    verify(key, _receipt_body(directory, operation, time), signature)
