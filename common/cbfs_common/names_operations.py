"""Operations on names: layout, signatures and what each does to an entry.
PROTOCOL.rst, Names: operations.

The sequencer, every verifier and every client run the same ``apply_*`` functions, so that they
cannot come to different entries.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

from cbfs_common.errors import CbfsError, CryptoError, DecodeError
from cbfs_common.limits import (
    COMMIT_LIFETIME,
    NAME_GRACE,
    NAME_MAX,
    NAME_QUARANTINE,
    NAMESPACE_MAX,
    OPERATION_ROUNDS_MAX,
    OWNER_KEYS_MAX,
    PROFILE_MAX,
)
from cbfs_common.names_entry import NO_KEYS, Entry, Keys, Status, read_keys, read_name
from cbfs_common.names_layout import HASH_SIZE, ZERO, Fields, labelled, long, short
from cbfs_common.primitives import KEY_SIZE, SIGNATURE_SIZE, kdf, sign, sign_public, verify

_VERSION = 1
OPERATION_LABEL = b"cbfs1 names operation"
COMMIT_LABEL = b"cbfs1 names commit"
SALT_SIZE = 32
SIGNATURES_MAX = 2 * OWNER_KEYS_MAX


class Kind(IntEnum):
    """What an operation does."""

    COMMIT = 1
    REGISTER = 2
    UPDATE = 3
    ROTATE = 4


class Refusal(IntEnum):
    """Why an operation is not applied."""

    BAD_REQUEST = 1
    WRONG_NAMESPACE = 2
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


_WORDS = {
    Refusal.BAD_REQUEST: "the operation is malformed",
    Refusal.WRONG_NAMESPACE: "the operation is for another directory",
    Refusal.OUT_OF_DATE: "the operation has expired",
    Refusal.NAME_TAKEN: "the name is taken",
    Refusal.NO_COMMIT: "the name was not committed to in an earlier round",
    Refusal.NO_SUCH_NAME: "the name is not registered",
    Refusal.WRONG_VERSION: "the entry has changed since",
    Refusal.WRONG_SIGNATURE: "the operation is not signed by the owner",
    Refusal.NAME_EXPIRED: "the name has expired",
    Refusal.COMMIT_REPEATED: "the commitment was made already",
    Refusal.WRONG_ORDER: "registrations are not in the order of their commitments",
    Refusal.TOO_MANY: "the directory has too much to do",
    Refusal.STOPPED: "the directory makes no rounds now",
}


class OperationRefused(CbfsError):
    """An operation that is not valid where it stands; nothing was changed."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(_WORDS[refusal])
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Operation:
    """One signed operation.

    ``name``, ``incarnation``, ``version`` and ``previous`` (32) say what entry it makes and of
    which; of a COMMIT they are empty and zero. ``expires``: the last round that may hold it.
    ``secret`` (32): COMMIT's commitment, REGISTER's salt. ``signatures``: (key 32, signature 64),
    sorted by key.
    """

    kind: Kind
    namespace: str
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

    def body(self) -> bytes:
        """What is signed, after the label."""
        head = (
            bytes([_VERSION, self.kind])
            + short(self.namespace.encode("ascii"))
            + short(self.name.encode("ascii"))
            + self.incarnation.to_bytes(4, "big")
            + self.version.to_bytes(4, "big")
            + self.previous
            + self.expires.to_bytes(8, "big")
        )
        if self.kind is Kind.COMMIT:
            return head + self.secret
        if self.kind is Kind.REGISTER:
            head += self.secret
        if self.kind in (Kind.REGISTER, Kind.ROTATE):
            head += self.owners.encode() + self.recovery.encode()
        return head + long(self.profile)

    def encode(self) -> bytes:
        """body | count u8 | signatures."""
        signatures = b"".join(key + signature for key, signature in self.signatures)
        return self.body() + bytes([len(self.signatures)]) + signatures

    def signed(self, seeds: tuple[bytes, ...]) -> "Operation":
        """The same with a signature (Ed25519) by each seed (32)."""
        message = OPERATION_LABEL + b"\n" + self.body()
        made = {sign_public(seed): sign(seed, message) for seed in seeds}
        return replace(self, signatures=tuple(sorted(made.items())))

    def signers(self) -> frozenset[bytes]:
        """The keys that have signed. Raises OperationRefused when a signature is wrong."""
        message = OPERATION_LABEL + b"\n" + self.body()
        try:
            for key, signature in self.signatures:
                verify(key, message, signature)
        except CryptoError as error:
            raise OperationRefused(Refusal.WRONG_SIGNATURE) from error
        return frozenset(key for key, _ in self.signatures)


OPERATION_MAX = (
    2 + 1 + NAMESPACE_MAX + 1 + NAME_MAX + 4 + 4 + HASH_SIZE + 8 + SALT_SIZE
    + 2 * (2 + KEY_SIZE * OWNER_KEYS_MAX) + 2 + PROFILE_MAX
    + 1 + SIGNATURES_MAX * (KEY_SIZE + SIGNATURE_SIZE)
)  # fmt: skip
"""Bytes of an encoded operation, at most."""


def decode_operation(data: bytes) -> Operation:
    """Undo ``Operation.encode``. Raises DecodeError. Signatures are not verified yet."""
    fields = Fields(data, "an operation on a name")
    version, number = fields.number(1), fields.number(1)
    if version != _VERSION or number not in set(Kind):
        raise fields.error()
    kind = Kind(number)
    namespace = fields.text(NAMESPACE_MAX)
    name = _no_name(fields) if kind is Kind.COMMIT else read_name(fields)
    incarnation, entry_version = fields.number(4), fields.number(4)
    previous, expires = fields.take(HASH_SIZE), fields.number(8)
    if kind is Kind.COMMIT:
        if incarnation or entry_version or previous != ZERO:
            raise fields.error()
        made = Operation(kind, namespace, name, 0, 0, ZERO, expires, fields.take(SALT_SIZE))
    else:
        secret = fields.take(SALT_SIZE) if kind is Kind.REGISTER else b""
        with_keys = kind is not Kind.UPDATE
        owners = read_keys(fields) if with_keys else NO_KEYS
        recovery = read_keys(fields) if with_keys else NO_KEYS
        profile = fields.long()
        if (with_keys and not owners.keys) or len(profile) > PROFILE_MAX:
            raise fields.error()
        made = Operation(
            kind, namespace, name, incarnation, entry_version, previous, expires,
            secret, owners, recovery, profile,
        )  # fmt: skip
    made = replace(made, signatures=_signatures(fields, 0 if kind is Kind.COMMIT else 1))
    fields.end()
    return made


def _no_name(fields: Fields) -> str:
    if fields.number(1):
        raise fields.error()
    return ""


def _signatures(fields: Fields, least: int) -> tuple[tuple[bytes, bytes], ...]:
    count = fields.number(1)
    if not least <= count <= (SIGNATURES_MAX if least else 0):
        raise fields.error()
    found = tuple((fields.take(KEY_SIZE), fields.take(SIGNATURE_SIZE)) for _ in range(count))
    keys = [key for key, _ in found]
    if keys != sorted(set(keys)):
        raise fields.error()
    return found


def commitment(namespace: str, name: str, owners: Keys, salt: bytes) -> bytes:
    """What a COMMIT publishes (32): it hides the name and binds the owners."""
    parts = short(namespace.encode("ascii")), short(name.encode("ascii")), owners.encode(), salt
    return labelled(COMMIT_LABEL, *parts)


def registration_salt(seed: bytes, namespace: str, name: str) -> bytes:
    """The salt (32) of a registration, from the owner's seed (32), so that a registration that
    was cut off can be taken up with nothing stored."""
    data = short(namespace.encode("ascii")) + short(name.encode("ascii"))
    return kdf(seed, b"cbfs1 names salt", data, SALT_SIZE)


def check_place(operation: Operation, namespace: str, round_: int) -> None:
    """Whether it may stand in this round of this directory. Raises OperationRefused."""
    if operation.namespace != namespace:
        raise OperationRefused(Refusal.WRONG_NAMESPACE)
    if not round_ <= operation.expires <= round_ + OPERATION_ROUNDS_MAX:
        raise OperationRefused(Refusal.OUT_OF_DATE)


def apply_register(
    old: Entry | None, operation: Operation, round_: int, time: int, lifetime: int
) -> Entry:
    """The entry that a REGISTER in this round (of this time, seconds) makes, for ``lifetime``
    seconds. Its commitment is the caller's to check. Raises OperationRefused."""
    incarnation, previous = 1, ZERO
    if old is not None:
        if time <= old.expires + NAME_GRACE + NAME_QUARANTINE:
            raise OperationRefused(Refusal.NAME_TAKEN)
        incarnation, previous = old.incarnation + 1, old.digest()
    if (operation.incarnation, operation.version, operation.previous) != (incarnation, 1, previous):
        raise OperationRefused(Refusal.WRONG_VERSION)
    signers = operation.signers()
    if not operation.owners.satisfied(signers) or signers.difference(operation.owners.keys):
        raise OperationRefused(Refusal.WRONG_SIGNATURE)
    return Entry(
        operation.name,
        incarnation,
        1,
        Status.ACTIVE,
        time + lifetime,
        round_,
        previous,
        operation.owners,
        operation.recovery,
        operation.profile,
    )


def apply_change(old: Entry | None, operation: Operation, round_: int, time: int) -> Entry:
    """The entry that an UPDATE or ROTATE in this round makes of ``old``. UPDATE is signed by the
    owners, ROTATE by the old owners and the new ones. Raises OperationRefused."""
    if old is None or old.name != operation.name:
        raise OperationRefused(Refusal.NO_SUCH_NAME)
    wanted = (old.incarnation, old.version + 1, old.digest())
    if (operation.incarnation, operation.version, operation.previous) != wanted:
        raise OperationRefused(Refusal.WRONG_VERSION)
    if time > old.expires + NAME_GRACE:
        raise OperationRefused(Refusal.NAME_EXPIRED)
    rotate = operation.kind is Kind.ROTATE
    owners = operation.owners if rotate else old.owners
    signers = operation.signers()
    if (
        not old.owners.satisfied(signers)
        or not owners.satisfied(signers)
        or signers.difference(old.owners.keys, owners.keys)
    ):
        raise OperationRefused(Refusal.WRONG_SIGNATURE)
    return replace(
        old,
        version=old.version + 1,
        round=round_,
        previous=old.digest(),
        owners=owners,
        recovery=operation.recovery if rotate else old.recovery,
        profile=operation.profile,
    )


def commit_fits(round_: int, time: int, made_round: int, made_time: int) -> bool:
    """Whether a REGISTER now may follow a COMMIT of then: a later round, within a day."""
    return made_round < round_ and time - made_time <= COMMIT_LIFETIME


@dataclass(frozen=True, slots=True)
class Link:
    """One step in an entry's history: an operation and the round (number, time) that held it."""

    round: int
    time: int
    operation: bytes

    def encode(self) -> bytes:
        """round u64 | time u64 | length u16 | operation."""
        return self.round.to_bytes(8, "big") + self.time.to_bytes(8, "big") + long(self.operation)

    def follow(self, old: Entry, namespace: str) -> Entry:
        """The entry after this step. Raises OperationRefused or DecodeError."""
        operation = decode_operation(self.operation)
        if operation.kind not in (Kind.UPDATE, Kind.ROTATE):
            raise DecodeError("not a change of a name")
        check_place(operation, namespace, self.round)
        return apply_change(old, operation, self.round, self.time)


def read_link(fields: Fields) -> Link:
    """The next Link of a layout. Raises DecodeError."""
    round_, time, operation = fields.number(8), fields.number(8), fields.long()
    if len(operation) > OPERATION_MAX:
        raise fields.error()
    return Link(round_, time, operation)
