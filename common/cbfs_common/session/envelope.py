"""Envelopes: 16,384 bytes each, as they lie on servers. PROTOCOL.rst, Envelope.

    first chain     route 16 | outer 2272 | sealed header 1336 | auth 32 | sealed body 12728
    later chains    route 16 | sealed header 2364 | auth 32 | sealed body 13972

    outer           F 32 | ct 1088 | sealed handshake 1152

This module seals and opens one envelope under keys that it is given; which keys those are is
the ratchet's business.
"""

from dataclasses import dataclass

from cbfs_common.errors import CryptoError
from cbfs_common.limits import BODY_MAX, ENVELOPE_SIZE
from cbfs_common.primitives import (
    KEM_CIPHERTEXT_SIZE,
    KEM_PUBLIC_SIZE,
    KEY_SIZE,
    NONCE_SIZE,
    TAG_SIZE,
    KemKey,
    Random,
    dh,
    dh_public_unmarked,
    equal,
    kdf,
    open_sealed,
    poly1305,
    seal,
)

ROUTE_SIZE = 16
ROUTE_TAG_SIZE = 12
PREKEY_ID_SIZE = 16
AUTH_SIZE = 32
NUMBER_SIZE = 4
LENGTH_SIZE = 2
LIFE_SIZE = 8

HANDSHAKE_SIZE = PREKEY_ID_SIZE + KEY_SIZE + KEM_CIPHERTEXT_SIZE
"""prekey id 16 | e 32 | ct 1088"""

OUTER_SIZE = KEY_SIZE + KEM_CIPHERTEXT_SIZE + HANDSHAKE_SIZE + TAG_SIZE
"""F 32 | ct 1088 | sealed handshake 1152"""

FIRST_TERMS_SIZE = HANDSHAKE_SIZE + LIFE_SIZE + 4 * KEY_SIZE + KEM_PUBLIC_SIZE
"""handshake | life 8 | sender identity 32 | sender auth 32 | ratchet 32 | ratchet auth 32 |
sender's static ek 1184"""

LATER_TERMS_SIZE = NUMBER_SIZE + LIFE_SIZE + 2 * KEY_SIZE + KEM_PUBLIC_SIZE + KEM_CIPHERTEXT_SIZE
"""pn u32 | life 8 | ratchet 32 | ratchet auth 32 | ek 1184 | ct 1088"""

FIRST_HEADER_SIZE = FIRST_TERMS_SIZE - HANDSHAKE_SIZE + TAG_SIZE
LATER_HEADER_SIZE = LATER_TERMS_SIZE + TAG_SIZE
"""Sealed: what of the terms is not in the handshake | tag 16"""

FIRST_BODY_SIZE = ENVELOPE_SIZE - ROUTE_SIZE - OUTER_SIZE - FIRST_HEADER_SIZE - AUTH_SIZE
LATER_BODY_SIZE = ENVELOPE_SIZE - ROUTE_SIZE - LATER_HEADER_SIZE - AUTH_SIZE
"""Sealed: length u16 | body | zeros | tag 16"""

_CIPHERTEXT = ROUTE_SIZE + KEY_SIZE
_SEALED_HANDSHAKE = _CIPHERTEXT + KEM_CIPHERTEXT_SIZE
_OUTER_END = ROUTE_SIZE + OUTER_SIZE
_SECRET_SIZE = KEY_SIZE + NONCE_SIZE
_ZEROS = bytes(LATER_BODY_SIZE)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie in one kind of envelope. ``handshake`` is the size of what of the terms is
    not in the header, ``padded`` that of a padded body; the others are offsets."""

    handshake: int
    header: int
    auth: int
    body: int
    padded: int


def _layout(handshake: int, outer: int, header_size: int) -> Layout:
    header = ROUTE_SIZE + outer
    auth = header + header_size
    body = auth + AUTH_SIZE
    return Layout(handshake, header, auth, body, ENVELOPE_SIZE - body - TAG_SIZE)


FIRST = _layout(HANDSHAKE_SIZE, OUTER_SIZE, FIRST_HEADER_SIZE)
LATER = _layout(0, 0, LATER_HEADER_SIZE)


@dataclass(frozen=True, slots=True, repr=False)
class Seal:
    """What seals every envelope of one chain. ``terms`` is all that is constant in them: the
    handshake (first chain only) and then the header; ``digest`` (32) is its hash."""

    layout: Layout
    header_key: bytes
    mac_key: bytes
    terms: bytes
    digest: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Outer:
    """The outer layer of one envelope of a first chain, opened or made. ``handshake`` (1136) is
    what it holds, and ``secret`` (32) goes into the keys of this envelope's header and body.
    ``sealed`` (2272) is how it lies in the envelope."""

    handshake: bytes
    secret: bytes
    sealed: bytes

    @property
    def prekey_id(self) -> bytes:
        """The 16 bytes that name the recipient's prekey."""
        return self.handshake[:PREKEY_ID_SIZE]


def make_outer(
    recipient: bytes, auth_public: bytes, kem_public: bytes, handshake: bytes, random: Random
) -> Outer:
    """A fresh outer layer to the recipient's static keys: ``recipient`` is their identity (32),
    ``auth_public`` X25519 (32), ``kem_public`` ML-KEM-768 (1184). Raises CryptoError for keys that
    are none."""
    f_secret = random.token(KEY_SIZE)
    f = dh_public_unmarked(f_secret)
    kem_secret, ciphertext = random.encapsulate(kem_public)
    shared = dh(f_secret, auth_public) + kem_secret
    secret, body_secret = _outer_secrets(shared, recipient, f + ciphertext)
    sealed = seal(secret[:KEY_SIZE], secret[KEY_SIZE:], handshake)
    return Outer(handshake, body_secret, b"".join((f, ciphertext, sealed)))


def open_outer(identity: bytes, auth_secret: bytes, kem: KemKey, envelope: bytes) -> Outer:
    """The outer layer of an envelope to these static keys of one's own. Anybody can have made it.
    Raises CryptoError when it is none, as all envelopes of later chains."""
    if len(envelope) != ENVELOPE_SIZE:
        raise CryptoError("cannot be opened")
    shared = dh(auth_secret, envelope[ROUTE_SIZE:_CIPHERTEXT])
    shared += kem.decapsulate(envelope[_CIPHERTEXT:_SEALED_HANDSHAKE])
    secret, body_secret = _outer_secrets(shared, identity, envelope[ROUTE_SIZE:_SEALED_HANDSHAKE])
    sealed = envelope[_SEALED_HANDSHAKE:_OUTER_END]
    handshake = open_sealed(secret[:KEY_SIZE], secret[KEY_SIZE:], sealed)
    return Outer(handshake, body_secret, envelope[ROUTE_SIZE:_OUTER_END])


def _outer_secrets(shared: bytes, recipient: bytes, public: bytes) -> tuple[bytes, bytes]:
    key = kdf(shared, b"cbfs1 outer", recipient + public, 64)
    return kdf(key, b"cbfs1 outer hs", b"", _SECRET_SIZE), kdf(key, b"cbfs1 outer body", b"", 32)


def route_of(header_key: bytes, number: int) -> bytes:
    """The 16 bytes in front of envelope ``number`` of the chain with this header key."""
    plain = number.to_bytes(NUMBER_SIZE, "big")
    tag = _route_tag(header_key, plain)
    return tag + _masked(header_key, tag, plain)


def number_of(header_key: bytes, route: bytes) -> int | None:
    """Undo ``route_of``, for a route or an envelope: None when it is not of this header key."""
    tag = route[:ROUTE_TAG_SIZE]
    plain = _masked(header_key, tag, route[ROUTE_TAG_SIZE:ROUTE_SIZE])
    if not equal(tag, _route_tag(header_key, plain)):
        return None
    return int.from_bytes(plain, "big")


def _route_tag(header_key: bytes, number: bytes) -> bytes:
    return kdf(header_key, b"cbfs1 route", number, ROUTE_TAG_SIZE)


def _masked(header_key: bytes, tag: bytes, number: bytes) -> bytes:
    mask = kdf(header_key, b"cbfs1 route n", tag, NUMBER_SIZE)
    masked = int.from_bytes(number, "big") ^ int.from_bytes(mask, "big")
    return masked.to_bytes(NUMBER_SIZE, "big")


def _header_secret(header_key: bytes, route: bytes, auth: bytes, outer_secret: bytes) -> bytes:
    return kdf(header_key, b"cbfs1 header", route + auth + outer_secret, _SECRET_SIZE)


def _body_secret(message_key: bytes, auth: bytes, outer_secret: bytes) -> bytes:
    return kdf(message_key, b"cbfs1 body", auth + outer_secret, _SECRET_SIZE)


def _auth(mac_key: bytes, route: bytes, body: bytes) -> bytes:
    """The sender's proof. The identities and the terms are in the MAC key, n is in the route."""
    digest = poly1305(kdf(mac_key, b"cbfs1 content", route, KEY_SIZE), body)
    length = len(body).to_bytes(LENGTH_SIZE, "big")
    return kdf(mac_key, b"cbfs1 auth", route + length + digest, AUTH_SIZE)


def seal_envelope(
    by: Seal, number: int, message_key: bytes, body: bytes, outer: Outer | None = None
) -> bytes:
    """Envelope ``number`` of a chain, ENVELOPE_SIZE bytes. ``body`` has at most BODY_MAX; ``outer``
    is of this envelope alone, in a first chain."""
    layout = by.layout
    outside, outer_secret = (outer.sealed, outer.secret) if outer else (b"", b"")
    route = route_of(by.header_key, number)
    auth = _auth(by.mac_key, route, body)
    secret = _body_secret(message_key, auth, outer_secret)
    size = len(body)
    zeros = _ZEROS[: layout.padded - size - LENGTH_SIZE]
    padded = b"".join((size.to_bytes(LENGTH_SIZE, "big"), body, zeros))
    rest = auth + seal(secret[:KEY_SIZE], secret[KEY_SIZE:], padded)
    secret = _header_secret(by.header_key, route, auth, outer_secret)
    header = by.terms[layout.handshake :]
    sealed = seal(secret[:KEY_SIZE], secret[KEY_SIZE:], header, outside + rest)
    return b"".join((route, outside, sealed, rest))


def open_header(
    layout: Layout, header_key: bytes, envelope: bytes, outer: Outer | None = None
) -> bytes:
    """The terms of an envelope of ENVELOPE_SIZE bytes whose route is of this header key. ``outer``:
    its outer layer, in a first chain. Raises CryptoError when any bit of it is not as somebody has
    sealed it who has the header key."""
    handshake, outer_secret = (outer.handshake, outer.secret) if outer else (b"", b"")
    view = memoryview(envelope)
    auth = envelope[layout.auth : layout.body]
    secret = _header_secret(header_key, envelope[:ROUTE_SIZE], auth, outer_secret)
    sealed, rest = view[layout.header : layout.auth], view[layout.auth :]
    data = b"".join((outer.sealed, rest)) if outer else rest
    return handshake + open_sealed(secret[:KEY_SIZE], secret[KEY_SIZE:], sealed, data)


def open_body(
    layout: Layout, mac_key: bytes, message_key: bytes, envelope: bytes, outer: Outer | None = None
) -> bytes:
    """The body of an envelope whose header opened. Raises CryptoError."""
    auth = envelope[layout.auth : layout.body]
    secret = _body_secret(message_key, auth, outer.secret if outer else b"")
    sealed = memoryview(envelope)[layout.body :]
    padded = open_sealed(secret[:KEY_SIZE], secret[KEY_SIZE:], sealed)
    end = LENGTH_SIZE + int.from_bytes(padded[:LENGTH_SIZE], "big")
    body = padded[LENGTH_SIZE:end]
    if (
        len(body) > BODY_MAX
        or end > len(padded)
        or not padded.endswith(_ZEROS[: len(padded) - end])
        or not equal(auth, _auth(mac_key, envelope[:ROUTE_SIZE], body))
    ):
        raise CryptoError("cannot be opened")
    return body
