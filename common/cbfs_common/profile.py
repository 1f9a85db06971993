"""Names, home servers and profiles. PROTOCOL.rst, Names and profiles."""

import base64
import binascii
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final

from cbfs_common.errors import DecodeError
from cbfs_common.limits import PROFILE_MAX, SPOKEN_VERSION
from cbfs_common.person import Person
from cbfs_common.primitives import KEY_SIZE, kdf

_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")
_ADDRESS = re.compile(
    r"(?P<scheme>[a-z-]+)://(?P<key>[a-z2-7]{52})"
    r"@(?P<host>\[[0-9a-f:]+\]|[^/@\[\]:]+):(?P<port>[0-9]+)\Z"
)
_FIRST = 1
_END = b"\0"  # of the host, where something of a later version is behind it
_FIXED = 1 + 5 * KEY_SIZE

NO_KEM: Final = bytes(KEY_SIZE)
"""In the profile of somebody who is known from a time before there were keys of ML-KEM: that of no
key."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, and the X25519 key (32) it proves in the handshake. An IPv6 address
    is in its shortest form, and in brackets only in a URL."""

    key: bytes
    host: str
    port: int

    def __post_init__(self) -> None:
        if len(self.key) != KEY_SIZE or not _is_host(self.host) or not 0 < self.port < 65_536:
            raise DecodeError("not a server address", "an address is SCHEME://KEY@HOST:PORT")

    def url(self, scheme: str = "cbfs") -> str:
        """``SCHEME://KEY@HOST:PORT`` with the key in lower-case base32."""
        key = base64.b32encode(self.key).decode().rstrip("=").lower()
        return f"{scheme}://{key}@{self.place}"

    @property
    def place(self) -> str:
        """``HOST:PORT``, as people write it."""
        return host_and_port(self.host, self.port)


def host_and_port(host: str, port: int) -> str:
    """``HOST:PORT``, or ``[IPV6]:PORT``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_host(host: str) -> bool:
    if ":" not in host:
        return bool(_HOST.match(host))
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return False
    # of a mapped IPv4 address there are two short forms, and it is one itself
    return address.compressed == host and not (address.scope_id or address.ipv4_mapped)


def parse_address(url: str, scheme: str = "cbfs") -> Address:
    """Undo ``Address.url``. Raises DecodeError."""
    match = _ADDRESS.match(url.strip())
    if not match or match["scheme"] != scheme or len(match["port"]) > 5:
        raise DecodeError("not a server address", f"an address is {scheme}://KEY@HOST:PORT")
    try:
        key = base64.b32decode(match["key"].upper() + "====")
    except binascii.Error as error:
        raise DecodeError("not a server address") from error
    host = match["host"].lower().removeprefix("[").removesuffix("]")
    address = Address(key, host, int(match["port"]))
    if address.url(scheme) != url.strip():  # base32 has spare bits: one key, one text
        raise DecodeError("not a server address", f"an address is {scheme}://KEY@HOST:PORT")
    return address


@dataclass(frozen=True, slots=True)
class Profile:
    """The public halves of an account, each 32 bytes, and its home server.

    ``user_id``: X25519, identifies the account to its home server.
    ``signing``: Ed25519, signs prekeys. ``auth``: X25519, authenticates messages.
    ``kem``: ``kem_id`` of an ML-KEM-768 key, which does the same against quantum computers, and
    which the home server has.

    ``version``: the highest version of the protocol that the owner's client read when the profile
    was made. ``later``: what a later version has behind the host, and this one passes over: empty,
    or it begins with a NUL. Neither says who somebody is, or where.
    """

    user_id: bytes
    signing: bytes
    auth: bytes
    kem: bytes
    server: Address
    version: int = field(default=SPOKEN_VERSION, compare=False)
    later: bytes = field(default=b"", compare=False)

    def encode(self) -> bytes:
        """version u8 | user_id | signing | auth | kem | server key | port u16 | host | later."""
        return (
            bytes([self.version])
            + self.user_id
            + self.signing
            + self.auth
            + self.kem
            + self.server.key
            + self.server.port.to_bytes(2, "big")
            + self.server.host.encode("ascii")
            + self.later
        )

    @property
    def keys(self) -> bytes:
        """The public keys that speak for this person, and not for the mailbox."""
        return self.signing + self.auth + self.kem

    def identity(self, person: Person) -> bytes:
        """32 bytes that stand for this person in every transcript: a hash of who they are and of
        the keys that speak for them. Moving to another server does not change it."""
        return kdf(b"", b"cbfs1 identity", person.encode() + self.keys, 32)


def kem_id(public: bytes) -> bytes:
    """32 bytes that stand for an ML-KEM-768 public key (1184) in a profile."""
    return kdf(b"", b"cbfs1 kem id", public, 32)


def same_profile(one: bytes, other: bytes) -> bool:
    """Whether two encoded profiles say the same of who somebody is, and where, whatever version of
    the protocol was told with them."""
    try:
        return one == other or decode_profile(one) == decode_profile(other)
    except DecodeError:  # a directory takes any bytes for one
        return False


def decode_profile(data: bytes) -> Profile:
    """Undo ``Profile.encode``. Of a later version as well, of which it gives what is common to
    all. Raises DecodeError."""
    if not _FIXED + 2 < len(data) <= PROFILE_MAX or data[0] < _FIRST:
        raise DecodeError("not a profile")
    user_id, signing, auth, kem, key = (data[1 + 32 * i : 33 + 32 * i] for i in range(5))
    place, end, behind = data[_FIXED + 2 :].partition(_END)
    if end and data[0] == _FIRST:
        raise DecodeError("not a profile")
    try:
        host = place.decode("ascii")
    except UnicodeDecodeError as error:
        raise DecodeError("not a profile") from error
    address = Address(key, host, int.from_bytes(data[_FIXED : _FIXED + 2], "big"))
    return Profile(user_id, signing, auth, kem, address, data[0], end + behind)
