"""Prekeys: what others need to start a session with somebody who is away.
PROTOCOL.rst, Prekeys."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from cbfs_common.errors import CryptoError, DecodeError
from cbfs_common.primitives import (
    KEM_PUBLIC_SIZE,
    KEM_SEED_SIZE,
    KEY_SIZE,
    SIGNATURE_SIZE,
    Random,
    check_dh_public,
    check_kem_public,
    dh_public,
    kem_public,
    sign,
    verify,
)

PREKEY_ID_SIZE = 16
PREKEY_TERMS_SIZE = PREKEY_ID_SIZE + 1 + 8 + KEY_SIZE + KEM_PUBLIC_SIZE
"""The signed part of a record: id 16 | kind 1 | expires u64 | x 32 | ek 1184."""

PREKEY_SIZE = PREKEY_TERMS_SIZE + SIGNATURE_SIZE
"""A public record."""

PAIR_SIZE = PREKEY_TERMS_SIZE + KEY_SIZE + KEM_SEED_SIZE
_SIGNED = b"cbfs1 prekey"


class PrekeyKind(IntEnum):
    """A one-time prekey leaves the server once; the last-resort one when none is left."""

    ONE_TIME = 1
    LAST_RESORT = 2


@dataclass(frozen=True, slots=True)
class Prekey:
    """A public record as a sender got it. ``terms`` is the signed part, and the other fields
    are what it says; ``expires`` is in seconds since 1970."""

    id: bytes
    kind: PrekeyKind
    expires: int
    x: bytes
    ek: bytes
    signature: bytes
    terms: bytes

    def verify(self, signing_public: bytes, now: int) -> None:
        """Raises CryptoError when the signature is not by ``signing_public`` (Ed25519, 32), the
        record has expired at ``now`` (seconds), or its keys are not usable ones."""
        verify(signing_public, _SIGNED + self.terms, self.signature)
        if now >= self.expires:
            raise CryptoError("the prekey has expired", "the recipient has not been online lately")
        check_dh_public(self.x)
        check_kem_public(self.ek)


@dataclass(frozen=True, slots=True, repr=False)
class PrekeyPair:
    """A prekey with its secrets, as its owner keeps it."""

    id: bytes
    kind: PrekeyKind
    expires: int
    x_secret: bytes
    kem_seed: bytes
    terms: bytes

    def public(self, signing_seed: bytes) -> bytes:
        """The record to upload, PREKEY_SIZE bytes, signed with an Ed25519 seed (32)."""
        return self.terms + sign(signing_seed, _SIGNED + self.terms)

    def encode(self) -> bytes:
        """PAIR_SIZE bytes: terms | x_secret 32 | kem_seed 64."""
        return self.terms + self.x_secret + self.kem_seed

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Undo ``encode``. Raises DecodeError."""
        if len(data) != PAIR_SIZE:
            raise DecodeError("not a prekey pair")
        terms, secrets = data[:PREKEY_TERMS_SIZE], data[PREKEY_TERMS_SIZE:]
        prekey_id, kind, expires = _read_terms(terms)
        return cls(prekey_id, kind, expires, secrets[:KEY_SIZE], secrets[KEY_SIZE:], terms)


def make_prekey(random: Random, kind: PrekeyKind, expires: int) -> PrekeyPair:
    """A new prekey that expires at ``expires`` (seconds since 1970)."""
    prekey_id = random.token(PREKEY_ID_SIZE)
    x_secret = random.token(KEY_SIZE)
    kem_seed = random.token(KEM_SEED_SIZE)
    terms = b"".join(
        (
            prekey_id,
            bytes([kind]),
            expires.to_bytes(8, "big"),
            dh_public(x_secret),
            kem_public(kem_seed),
        )
    )
    return PrekeyPair(prekey_id, kind, expires, x_secret, kem_seed, terms)


def decode_prekey(data: bytes) -> Prekey:
    """Parse a public record. Raises DecodeError; call ``verify`` before using it."""
    if len(data) != PREKEY_SIZE:
        raise DecodeError("not a prekey")
    terms, signature = data[:PREKEY_TERMS_SIZE], data[PREKEY_TERMS_SIZE:]
    prekey_id, kind, expires = _read_terms(terms)
    return Prekey(prekey_id, kind, expires, terms[25:57], terms[57:], signature, terms)


def _read_terms(terms: bytes) -> tuple[bytes, PrekeyKind, int]:
    try:
        kind = PrekeyKind(terms[PREKEY_ID_SIZE])
    except ValueError as error:
        raise DecodeError("not a prekey") from error
    return terms[:PREKEY_ID_SIZE], kind, int.from_bytes(terms[17:25], "big")
