"""What lets a COMMIT in: an invite of the registrar, or a proof of work. PROTOCOL.rst, Names:
registration.

It stands in the COMMIT and not in the REGISTER, since COMMITs are what strangers can flood the
log with. An invite is a key pair: the registrar signs its public half, its holder signs the
COMMIT, so that whoever sees the COMMIT cannot use the invite for another.

The work grows with the COMMITs of late, so that who floods the directory makes it dear for himself,
and nobody is ever refused who does the work.
"""

import base64
import binascii
from dataclasses import dataclass, replace
from hashlib import sha256

from cbfs_common.errors import CryptoError, DecodeError
from cbfs_common.limits import COMMIT_PACE, COMMITS_EASY, NAME_MAX, OPEN_WORK, WORK_BITS_MAX
from cbfs_common.names.config import Registration, Terms
from cbfs_common.names.layout import Fields, labelled, long, short
from cbfs_common.names.operations import (
    INVITE_MAX,
    Operation,
    OperationKind,
    OperationRefused,
    Refusal,
)
from cbfs_common.person import DIRECTORY_SIZE, check_name
from cbfs_common.primitives import KEY_SIZE, SIGNATURE_SIZE, sign, sign_public, verify

_VERSION = 1
INVITE_LABEL = b"cbfs1 names invite"
WORK_LABEL = b"cbfs1 names work"
TOKEN_PREFIX = "cbfs-invite:"  # noqa: S105  # what tokens begin with, not one


@dataclass(frozen=True, slots=True)
class Invite:
    """The registrar's word that the holder of ``key`` (Ed25519, 32) may register one name until
    ``expires`` (seconds): the ``name``, or when that is empty any that is not too short."""

    directory: bytes
    key: bytes
    expires: int
    name: str
    signature: bytes = bytes(SIGNATURE_SIZE)

    def body(self) -> bytes:
        """version u8 | directory 16 | key 32 | expires u64 | short(name)."""
        return (
            bytes([_VERSION])
            + self.directory
            + self.key
            + self.expires.to_bytes(8, "big")
            + short(self.name.encode("ascii"))
        )

    def encode(self) -> bytes:
        """body | signature 64."""
        return self.body() + self.signature

    def signed(self, registrar_seed: bytes) -> "Invite":
        """This invite, signed by the registrar (Ed25519 seed, 32)."""
        message = INVITE_LABEL + b"\n" + self.body()
        return replace(self, signature=sign(registrar_seed, message))

    def verify(self, registrar: bytes) -> None:
        """Raises CryptoError unless the registrar (Ed25519, 32) has signed it."""
        verify(registrar, INVITE_LABEL + b"\n" + self.body(), self.signature)


def decode_invite(data: bytes) -> Invite:
    """Undo ``Invite.encode``. Raises DecodeError."""
    fields = Fields(data, "an invite")
    if len(data) > INVITE_MAX or fields.number(1) != _VERSION:
        raise fields.error()
    directory = fields.take(DIRECTORY_SIZE)
    key, expires = fields.take(KEY_SIZE), fields.number(8)
    name = fields.short()
    if len(name) > NAME_MAX or not name.isascii():
        raise fields.error()
    text = check_name(name.decode("ascii")) if name else ""
    made = Invite(directory, key, expires, text, fields.take(SIGNATURE_SIZE))
    fields.end()
    return made


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """What the invited person is given: the invite and its key's ``seed`` (32), a secret."""

    seed: bytes
    invite: Invite

    def encode(self) -> bytes:
        """seed 32 | invite."""
        return self.seed + self.invite.encode()

    def text(self) -> str:
        """``cbfs-invite:`` and base32."""
        return TOKEN_PREFIX + base64.b32encode(self.encode()).decode().rstrip("=").lower()


def parse_token(text: str) -> Token:
    """Undo ``Token.text``. Raises DecodeError, whose text has nothing of the token."""
    body = text.strip().removeprefix(TOKEN_PREFIX)
    try:
        data = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    except (binascii.Error, ValueError) as error:
        raise DecodeError("not an invite", "it begins with cbfs-invite:") from error
    return decode_token(data)


def decode_token(data: bytes) -> Token:
    """Undo ``Token.encode``. Raises DecodeError."""
    token = Token(data[:KEY_SIZE], decode_invite(data[KEY_SIZE:]))
    if len(token.seed) != KEY_SIZE or sign_public(token.seed) != token.invite.key:
        raise DecodeError("not an invite", "was it copied whole?")
    return token


def by_invite(commit: Operation, token: Token) -> Operation:
    """The COMMIT with an invite, signed by its holder."""
    return replace(commit, invite=token.invite.encode()).signed((token.seed,))


def work_asked(terms: Terms, waiting: int) -> int:
    """Leading zero bits that a COMMIT needs after ``waiting`` others that are not forgotten: one
    more each time that their number doubles, from COMMITS_EASY on. 0 where none come in without an
    invite."""
    if terms.registration is Registration.INVITE:
        return 0
    least = OPEN_WORK if terms.registration is Registration.OPEN else terms.work
    return min(least + (waiting // COMMITS_EASY).bit_length(), WORK_BITS_MAX)


def busy_after(busy: int, time: int) -> int:
    """Until when (seconds) COMMITs are remembered, with one more in a round of this ``time``, when
    it was until ``busy`` before it."""
    return max(busy, time) + COMMIT_PACE


def waiting_at(busy: int, time: int) -> int:
    """How many COMMITs are not forgotten at ``time`` when they are remembered until ``busy``."""
    return max(busy - time, 0) // COMMIT_PACE


def worked(commit: Operation, bits: int, tries: int) -> tuple[Operation, bool]:
    """The COMMIT, which has no invite, after so many ``tries`` more of a proof of this many bits,
    and whether it has that now. A proof takes 2^bits tries on average, of a microsecond each."""
    begin = sha256(WORK_LABEL + b"\n" + replace(commit, work=0).body()[: -len(_WORK_END)])
    first, limit = commit.work, 1 << 8 * begin.digest_size - bits
    for number in range(first, first + tries):
        each = begin.copy()
        each.update(number.to_bytes(8, "big") + _NO_INVITE)
        if int.from_bytes(each.digest(), "big") < limit:
            return replace(commit, work=number), True
    return replace(commit, work=first + tries), False


_NO_INVITE = long(b"")
_WORK_END = bytes(8) + _NO_INVITE
"""How the body of a COMMIT without an invite ends, whose work is 0."""


def proven(commit: Operation, bits: int) -> bool:
    """Whether the COMMIT's hash begins with so many zero bits."""
    digest = labelled(WORK_LABEL, commit.body())
    return int.from_bytes(digest, "big") >> (8 * len(digest) - bits) == 0


def check_commit(terms: Terms, commit: Operation, time: int, bits: int) -> Invite | None:
    """The invite that lets a COMMIT in at ``time`` (seconds); None when it needs none, but a proof
    of work of so many ``bits``. Raises OperationRefused. That the invite is not spent is the
    caller's to check."""
    if commit.kind is not OperationKind.COMMIT:
        raise OperationRefused(Refusal.BAD_REQUEST)
    if commit.invite:
        return _check_invite(terms, commit, time)
    if commit.signatures:
        raise OperationRefused(Refusal.WRONG_SIGNATURE)
    if terms.registration is Registration.INVITE:
        raise OperationRefused(Refusal.INVITE_NEEDED)
    if not proven(commit, bits):
        raise OperationRefused(Refusal.WORK_NEEDED)
    return None


def _check_invite(terms: Terms, commit: Operation, time: int) -> Invite:
    try:
        invite = decode_invite(commit.invite)
        if not terms.registrar or invite.directory != commit.directory:
            raise OperationRefused(Refusal.INVITE_NEEDED)
        invite.verify(terms.registrar)
    except (DecodeError, CryptoError) as error:
        raise OperationRefused(Refusal.INVITE_NEEDED) from error
    if time > invite.expires:
        raise OperationRefused(Refusal.INVITE_NEEDED)
    if commit.signers() != {invite.key}:
        raise OperationRefused(Refusal.WRONG_SIGNATURE)
    return invite


def check_granted(terms: Terms, name: str, granted: str | None) -> None:
    """Whether ``name`` may be registered after a COMMIT with an invite to ``granted`` (empty: any
    that is not short; None: no invite). Raises OperationRefused."""
    if granted and granted != name:
        raise OperationRefused(Refusal.INVITE_NEEDED)
    if len(name) < terms.short and granted != name:
        raise OperationRefused(Refusal.REGISTRAR_NEEDED)
