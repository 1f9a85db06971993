"""The cryptographic primitives, one function each. PROTOCOL.rst, Primitives.

Keys, secrets and digests are ``bytes`` of the sizes named in the docstrings; callers
have checked sizes when they parsed, so a wrong size here is a bug and raises ValueError.
"""

import hmac
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.poly1305 import Poly1305
from nacl import bindings
from nacl import exceptions as nacl

from cbfs_common.errors import CryptoError

KEY_SIZE = 32
TAG_SIZE = 16
NONCE_SIZE = 12
KEM_SEED_SIZE = 64
KEM_PUBLIC_SIZE = 1_184
KEM_CIPHERTEXT_SIZE = 1_088
SIGNATURE_SIZE = 64

_ZERO = bytes(KEY_SIZE)
_P = 2**255 - 19
_LOW_ORDER = frozenset(
    number.to_bytes(KEY_SIZE, "little")
    for number in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        _P - 1,
        _P,
        _P + 1,
    )
)
"""All X25519 public keys of low order, top bit clear (RFC 7748, 6.1; cr.yp.to/ecdh.html)."""

_KEM_VECTOR_SIZE = 1_152
_KEM_ONES = sum(1 << 24 * i for i in range(384))
_KEM_EVEN = 4_095 * _KEM_ONES
_KEM_ABOVE = (4_096 - 3_329) * _KEM_ONES
_KEM_CARRY = 4_096 * _KEM_ONES


@dataclass(frozen=True, slots=True)
class Random:
    """The source of randomness that the core is given; programs pass the real one.

    ``token(n)`` gives n random bytes. ``encapsulate(public)`` gives (secret 32, ciphertext 1088)
    for an ML-KEM-768 public key; it is here because the library draws its own randomness.
    """

    token: Callable[[int], bytes]
    encapsulate: Callable[[bytes], tuple[bytes, bytes]]


def kdf(key: bytes, label: bytes, data: bytes = b"", size: int = 64) -> bytes:
    """Derive ``size`` (1 to 64) bytes: BLAKE2b keyed with ``key`` (0 to 64 bytes),
    personalised with ``label`` (at most 16 bytes, one per use). RFC 7693."""
    return blake2b(data, digest_size=size, key=key, person=label).digest()


def equal(a: bytes, b: bytes) -> bool:
    """Whether two strings of bytes are equal, compared in constant time."""
    return hmac.compare_digest(a, b)


def dh_public(secret: bytes) -> bytes:
    """X25519 public key (32) of a secret key (32). RFC 7748."""
    return bindings.crypto_scalarmult_base(secret)


def dh_public_unmarked(secret: bytes) -> bytes:
    """X25519 public key (32) whose bit 255, which X25519 ignores, is that of the secret key (32,
    ignored there as well): no bit of it is constant."""
    public = bytearray(dh_public(secret))
    public[-1] |= secret[-1] & 0x80
    return bytes(public)


def dh(secret: bytes, public: bytes) -> bytes:
    """X25519 shared secret (32). Raises CryptoError when it is all zero."""
    try:
        shared = bindings.crypto_scalarmult(secret, public)
    except nacl.CryptoError as error:  # libsodium refuses low-order points
        raise CryptoError("key agreement failed") from error
    if equal(shared, _ZERO):
        raise CryptoError("key agreement failed")
    return shared


def kem_public(seed: bytes) -> bytes:
    """ML-KEM-768 public key (1184) of a key pair's seed (64: d, z). FIPS 203."""
    return MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()


def kem_encapsulate(public: bytes) -> tuple[bytes, bytes]:
    """(secret 32, ciphertext 1088) with the library's own randomness; see ``Random``.
    Raises CryptoError for a public key that is not one (FIPS 203, 7.2)."""
    try:
        return MLKEM768PublicKey.from_public_bytes(public).encapsulate()
    except ValueError as error:
        raise CryptoError("key agreement failed") from error


def check_kem_public(public: bytes) -> None:
    """Raises CryptoError for bytes that are not an ML-KEM-768 public key: each of the 768
    12-bit numbers must be below 3329 (FIPS 203, 7.2). Sums of whole rows at once take a tenth
    of the time that the library takes to expand a key."""
    if len(public) != KEM_PUBLIC_SIZE:
        raise CryptoError("key agreement failed")
    packed = int.from_bytes(public[:_KEM_VECTOR_SIZE], "little")
    even, odd = packed & _KEM_EVEN, packed >> 12 & _KEM_EVEN
    if ((even + _KEM_ABOVE) | (odd + _KEM_ABOVE)) & _KEM_CARRY:
        raise CryptoError("key agreement failed")


def check_dh_public(public: bytes) -> None:
    """Raises CryptoError for a public key with which every X25519 result is all zero."""
    if public[:31] + bytes([public[31] & 0x7F]) in _LOW_ORDER:
        raise CryptoError("key agreement failed")


class KemKey:
    """An ML-KEM-768 key pair. Expanding a seed (64) costs more than using it, so the expanded
    form is kept for as long as this object is."""

    __slots__ = ("_expanded", "seed")

    def __init__(self, seed: bytes) -> None:
        self.seed = seed
        self._expanded: MLKEM768PrivateKey | None = None

    def _expand(self) -> MLKEM768PrivateKey:
        if self._expanded is None:
            self._expanded = MLKEM768PrivateKey.from_seed_bytes(self.seed)
        return self._expanded

    def public(self) -> bytes:
        """The public key (1184)."""
        return self._expand().public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The secret (32); see ``kem_decapsulate``."""
        return self._expand().decapsulate(ciphertext)


def kem_decapsulate(seed: bytes, ciphertext: bytes) -> bytes:
    """Secret (32); a forged ciphertext gives a secret that nobody knows (FIPS 203, 6.3)."""
    return MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(ciphertext)


Buffer = bytes | memoryview


def seal(key: bytes, nonce: bytes, plain: Buffer, data: Buffer = b"") -> bytes:
    """ChaCha20-Poly1305 (RFC 8439): plain + 16 bytes. Each (key 32, nonce 12) is used once.
    ``data`` is the associated data, which is authenticated and not in the result."""
    return ChaCha20Poly1305(key).encrypt(nonce, plain, data)


def open_sealed(key: bytes, nonce: bytes, sealed: Buffer, data: Buffer = b"") -> bytes:
    """Undo ``seal``, with the same associated data. Raises CryptoError."""
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, sealed, data)
    except (InvalidTag, ValueError) as error:  # ValueError: shorter than a tag
        raise CryptoError("cannot be opened") from error


def poly1305(key: bytes, data: bytes) -> bytes:
    """One-time authenticator (16) under a key (32) that is used once. RFC 8439, 2.5."""
    return Poly1305.generate_tag(key, data)


def sign_public(seed: bytes) -> bytes:
    """Ed25519 public key (32) of a seed (32). RFC 8032."""
    return bindings.crypto_sign_seed_keypair(seed)[0]


def sign(seed: bytes, message: bytes) -> bytes:
    """Ed25519 signature (64)."""
    return bindings.crypto_sign(message, bindings.crypto_sign_seed_keypair(seed)[1])[
        :SIGNATURE_SIZE
    ]


def verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Raises CryptoError when the signature is not ``public``'s over ``message``. Libraries differ
    in what they take of somebody who signs as no honest signer does. The one rule is in
    PROTOCOL.rst, Primitives; ed25519.json of the vectors has its edges. libsodium computes R anew
    and compares bytes, refuses S of L or more, and small order; it takes public keys with a part of
    small order, which are refused here: with them the cofactor would make a difference."""
    try:
        if not _is_public(public):
            raise CryptoError("wrong signature")
        bindings.crypto_sign_open(signature + message, public)
    except nacl.CryptoError as error:
        raise CryptoError("wrong signature") from error


@lru_cache(maxsize=4_096)
def _is_public(public: bytes) -> bool:
    """Whether this is the canonical encoding of a point of prime order. That takes as long as to
    verify a signature, and most keys are seen often."""
    return bool(bindings.crypto_core_ed25519_is_valid_point(public))


def box_seal(public: bytes, secret: bytes, nonce: bytes, plain: bytes) -> bytes:
    """NaCl crypto_box, nonce 24: plain + 16 bytes."""
    return bindings.crypto_box(plain, nonce, public, secret)


def box_open(public: bytes, secret: bytes, nonce: bytes, sealed: bytes) -> bytes:
    """Undo ``box_seal``. Raises CryptoError."""
    try:
        return bindings.crypto_box_open(sealed, nonce, public, secret)
    except nacl.CryptoError as error:
        raise CryptoError("cannot be opened") from error


# Random moments and choices, from the source of randomness that the caller was given

_BITS = 53
"""Of randomness: what a float holds."""


def exponential(random: Random, mean: float) -> float:
    """A waiting time, exponentially distributed with this mean; at most 37 times the mean.

    Such times have no memory: how long one has waited says nothing of how long it still takes.
    So one that has not come may be drawn anew, and many of them together are again one of this
    kind, with the sum of the rates."""
    draw = int.from_bytes(random.token(8), "big") >> (64 - _BITS)
    return -mean * math.log((draw + 1) / (1 << _BITS))


def below(random: Random, count: int) -> int:
    """One of 0 .. count - 1; even to within 2^-32 for counts below 2^32."""
    return int.from_bytes(random.token(8), "big") * count >> 64
