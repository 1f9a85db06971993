"""Envelopes: 16,384 bytes each, as they lie on servers. PROTOCOL.rst, Envelope.

    first chain     route 16 | handshake 1136 | sealed header 1332 | auth 32 | sealed body 13868
    later chains    route 16 | sealed header 2360 | auth 32 | sealed body 13976

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
    equal,
    kdf,
    open_sealed,
    poly1305,
    seal,
)

ROUTE_SIZE = 16
PREKEY_ID_SIZE = 16
AUTH_SIZE = 32
NUMBER_SIZE = 4
LENGTH_SIZE = 2

HANDSHAKE_SIZE = PREKEY_ID_SIZE + KEY_SIZE + KEM_CIPHERTEXT_SIZE
"""prekey id 16 | e 32 | kem_ct 1088"""

FIRST_TERMS_SIZE = HANDSHAKE_SIZE + 4 * KEY_SIZE + KEM_PUBLIC_SIZE
"""handshake | sender identity 32 | sender auth 32 | ratchet 32 | ratchet auth 32 | ek 1184"""

LATER_TERMS_SIZE = NUMBER_SIZE + 2 * KEY_SIZE + KEM_PUBLIC_SIZE + KEM_CIPHERTEXT_SIZE
"""pn u32 | ratchet 32 | ratchet auth 32 | ek 1184 | ct 1088"""

FIRST_HEADER_SIZE = NUMBER_SIZE + FIRST_TERMS_SIZE - HANDSHAKE_SIZE + TAG_SIZE
LATER_HEADER_SIZE = NUMBER_SIZE + LATER_TERMS_SIZE + TAG_SIZE
"""Sealed: n u32 | what of the terms is not in the handshake | tag 16"""

FIRST_BODY_SIZE = ENVELOPE_SIZE - ROUTE_SIZE - HANDSHAKE_SIZE - FIRST_HEADER_SIZE - AUTH_SIZE
LATER_BODY_SIZE = ENVELOPE_SIZE - ROUTE_SIZE - LATER_HEADER_SIZE - AUTH_SIZE
"""Sealed: length u16 | body | zeros | tag 16"""

_ZEROS = bytes(LATER_BODY_SIZE)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie in one kind of envelope. ``handshake`` is a size, the others offsets."""

    handshake: int
    header: int
    auth: int
    body: int
    padded: int


def _layout(handshake: int, header_size: int) -> Layout:
    header = ROUTE_SIZE + handshake
    auth = header + header_size
    body = auth + AUTH_SIZE
    return Layout(handshake, header, auth, body, ENVELOPE_SIZE - body - TAG_SIZE)


FIRST = _layout(HANDSHAKE_SIZE, FIRST_HEADER_SIZE)
LATER = _layout(0, LATER_HEADER_SIZE)


@dataclass(frozen=True, slots=True, repr=False)
class Seal:
    """What seals every envelope of one chain. ``terms`` is all that is constant in them: the
    handshake (first chain only) and then the header without n; ``digest`` (32) is its hash."""

    layout: Layout
    header_key: bytes
    mac_key: bytes
    terms: bytes
    digest: bytes


def route_tag(header_key: bytes, number: int) -> bytes:
    """The 16 bytes in front of envelope ``number`` of the chain with this header key."""
    return kdf(header_key, b"cbfs1 route", number.to_bytes(NUMBER_SIZE, "big"), ROUTE_SIZE)


def _header_secret(header_key: bytes, route: bytes) -> bytes:
    return kdf(header_key, b"cbfs1 header", route, KEY_SIZE + NONCE_SIZE)


def _body_secret(message_key: bytes, auth: bytes) -> bytes:
    return kdf(message_key, b"cbfs1 body", auth, KEY_SIZE + NONCE_SIZE)


def _content_key(mac_key: bytes, route: bytes) -> bytes:
    return kdf(mac_key, b"cbfs1 content", route, KEY_SIZE)


def _auth(mac_key: bytes, route: bytes, body: bytes) -> bytes:
    """The sender's proof. The identities and the terms are in the MAC key, n is in the route."""
    digest = poly1305(_content_key(mac_key, route), body)
    length = len(body).to_bytes(LENGTH_SIZE, "big")
    return kdf(mac_key, b"cbfs1 auth", route + length + digest, AUTH_SIZE)


def seal_envelope(by: Seal, number: int, message_key: bytes, body: bytes) -> bytes:
    """Envelope ``number`` of a chain, ENVELOPE_SIZE bytes. ``body`` has at most BODY_MAX."""
    layout = by.layout
    route = route_tag(by.header_key, number)
    secret = _header_secret(by.header_key, route)
    header = number.to_bytes(NUMBER_SIZE, "big") + by.terms[layout.handshake :]
    sealed_header = seal(secret[:KEY_SIZE], secret[KEY_SIZE:], header)
    auth = _auth(by.mac_key, route, body)
    secret = _body_secret(message_key, auth)
    size = len(body)
    padded = size.to_bytes(LENGTH_SIZE, "big") + body + _ZEROS[: layout.padded - size - LENGTH_SIZE]
    sealed_body = seal(secret[:KEY_SIZE], secret[KEY_SIZE:], padded)
    return b"".join((route, by.terms[: layout.handshake], sealed_header, auth, sealed_body))


def open_header(layout: Layout, header_key: bytes, envelope: bytes) -> tuple[int, bytes]:
    """(n, terms) of an envelope of ENVELOPE_SIZE bytes. Raises CryptoError when it is not one
    of the chain with this header key, or its route is not that of its number."""
    route = envelope[:ROUTE_SIZE]
    secret = _header_secret(header_key, route)
    sealed = envelope[layout.header : layout.auth]
    header = open_sealed(secret[:KEY_SIZE], secret[KEY_SIZE:], sealed)
    number = int.from_bytes(header[:NUMBER_SIZE], "big")
    if not equal(route, route_tag(header_key, number)):
        raise CryptoError("cannot be opened")
    return number, envelope[ROUTE_SIZE : layout.header] + header[NUMBER_SIZE:]


def open_body(layout: Layout, mac_key: bytes, message_key: bytes, envelope: bytes) -> bytes:
    """The body of an envelope whose header opened. Raises CryptoError."""
    auth = envelope[layout.auth : layout.body]
    secret = _body_secret(message_key, auth)
    padded = open_sealed(secret[:KEY_SIZE], secret[KEY_SIZE:], envelope[layout.body :])
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
