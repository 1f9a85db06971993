"""The line between two computers by which an account moves from one to the other. PROTOCOL.rst,
Moving.

All of it is one secret. From that follow the onion service at which the old computer waits, the
keys by which it proves to the new one that it has the secret, and the key by which the new one
does. Where there is no Tor, to try it out, the line also has an address on this machine.
"""

import base64
import binascii
from dataclasses import dataclass

from cbfs_common.errors import DecodeError
from cbfs_common.limits import INVITE_LINE_MAX, LINE_SECRET_SIZE
from cbfs_common.onion import PORT, SEED_SIZE, ServiceKey
from cbfs_common.primitives import KEM_SEED_SIZE, KEY_SIZE, equal, kdf
from cbfs_common.profile import Address
from cbfs_common.wire.transport import ServerSecret

PREFIX = "cbfs-move:"
"""How a line begins; the rest is base32 without padding."""

VERSION = 1
_CHECK_SIZE = 4
_PORT_SIZE = 2
_MISTYPED = "this line is mistyped, or not whole"
_COPY = "copy it again, from cbfs-move: to its end"


@dataclass(frozen=True, slots=True, repr=False)
class MoveLine:
    """The ``secret`` (LINE_SECRET_SIZE), and where the old computer waits when that is no onion
    service: ``host`` and ``port``, else empty and 0."""

    secret: bytes
    host: str = ""
    port: int = 0

    def text(self) -> str:
        """The line, of at most INVITE_LINE_MAX characters. Raises DecodeError where the host's name
        is too long for that."""
        place = b""
        if self.host:
            place = self.port.to_bytes(_PORT_SIZE, "big") + self.host.encode("ascii")
        body = bytes([VERSION]) + self.secret + place
        text = PREFIX + base64.b32encode(body + _check(body)).decode().rstrip("=").lower()
        if len(text) > INVITE_LINE_MAX:
            raise DecodeError("this address is too long for a line", "listen at 127.0.0.1:0")
        return text

    @property
    def service(self) -> ServiceKey:
        """The onion service at which the old computer waits."""
        return ServiceKey(self._derived(b"cbfs1 move onion", SEED_SIZE))

    @property
    def old(self) -> ServerSecret:
        """The keys by which the old computer proves that it has the secret."""
        x, kem = self._derived(b"cbfs1 move old", KEY_SIZE), b"cbfs1 move kem"
        return ServerSecret(x + self._derived(kem, KEM_SEED_SIZE))

    @property
    def new(self) -> bytes:
        """The X25519 secret (32) by which the new computer proves it."""
        return self._derived(b"cbfs1 move new", KEY_SIZE)

    @property
    def address(self) -> Address:
        """Where the old computer is."""
        if self.host:
            return Address(self.old.key, self.host, self.port)
        return Address(self.old.key, self.service.host, PORT)

    def _derived(self, label: bytes, size: int) -> bytes:
        return kdf(self.secret, label, b"", size)


def parse_move_line(text: str) -> MoveLine:
    """Undo ``MoveLine.text``; upper case is taken as well. Raises DecodeError, whose text has
    nothing of the line."""
    plain = text.strip().lower()
    if not plain.startswith(PREFIX):
        raise DecodeError(
            "this is no line by which an account moves",
            f"such a line begins with {PREFIX}; cbfs move prints it on the old computer",
        )
    body = plain.removeprefix(PREFIX)
    try:
        data = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    except (binascii.Error, ValueError) as error:
        raise DecodeError(_MISTYPED, _COPY) from error
    inner = data[:-_CHECK_SIZE]
    if len(plain) > INVITE_LINE_MAX or not inner or not equal(data[-_CHECK_SIZE:], _check(inner)):
        raise DecodeError(_MISTYPED, _COPY)
    if inner[0] != VERSION:
        raise DecodeError("this line is of a later version of cbfs", "is there a newer one?")
    secret, place = inner[1 : 1 + LINE_SECRET_SIZE], inner[1 + LINE_SECRET_SIZE :]
    line = _line(secret, place)
    if line.text() != plain:
        raise DecodeError(_MISTYPED, _COPY)
    return line


def _line(secret: bytes, place: bytes) -> MoveLine:
    if len(secret) != LINE_SECRET_SIZE or 0 < len(place) <= _PORT_SIZE:
        raise DecodeError(_MISTYPED, _COPY)
    if not place:
        return MoveLine(secret)
    try:
        host = place[_PORT_SIZE:].decode("ascii")
        line = MoveLine(secret, host, int.from_bytes(place[:_PORT_SIZE], "big"))
        _ = line.address  # says whether it is one
    except (UnicodeDecodeError, DecodeError) as error:
        raise DecodeError(_MISTYPED, _COPY) from error
    return line


def _check(body: bytes) -> bytes:
    return kdf(b"", b"cbfs1 move check", body, _CHECK_SIZE)
