"""Onion services of version 3, as far as they need no network: addresses, keys, the file of
admitted clients, and the command that publishes one. rend-spec-v3, control-spec 3.27."""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from nacl import bindings

from cbfs_common.errors import DecodeError

PORT = 1984
"""Where onion services of ours are reached."""

SEED_SIZE = 32

CLIENTS_MAX = 256
"""Admitted clients of a private service: each takes room in its descriptor (50,000 bytes)."""

_VERSION = b"\x03"
_KEY_FILE = re.compile(r"cbfs-onion-key-1 ([A-Za-z0-9+/]{43}=)\n?\Z")
_CLIENT = re.compile(r"(?:\S+[ \t]+)?descriptor:x25519:([A-Z2-7]{52})\Z", re.IGNORECASE)


def onion_host(public: bytes) -> str:
    """The host name of the service with this Ed25519 public key (32). rend-spec-v3 6."""
    return base64.b32encode(public + _checksum(public) + _VERSION).decode().lower() + ".onion"


def is_onion_host(host: str) -> bool:
    """Whether ``host``, in lower case, is a complete onion address, perhaps under a subdomain."""
    label = host.removesuffix(".onion").rpartition(".")[2]
    try:
        raw = base64.b32decode(label.upper())
    except (binascii.Error, ValueError):
        return False
    return host.endswith(".onion") and len(raw) == 35 and onion_host(raw[:32]) == f"{label}.onion"


def _checksum(public: bytes) -> bytes:
    return hashlib.sha3_256(b".onion checksum" + public + _VERSION).digest()[:2]


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """The secret of an onion service: whoever has it is the service."""

    seed: bytes
    """Ed25519 seed, 32 bytes (RFC 8032)."""

    def __repr__(self) -> str:
        return f"ServiceKey({self.host})"

    @property
    def host(self) -> str:
        """The host name that follows from the key."""
        return onion_host(bindings.crypto_sign_seed_keypair(self.seed)[0])

    def encode(self) -> str:
        """The text of the key file."""
        return f"cbfs-onion-key-1 {base64.b64encode(self.seed).decode()}\n"

    def for_tor(self) -> str:
        """The expanded secret key (RFC 8032 5.1.5) in the words of ADD_ONION."""
        expanded = bytearray(hashlib.sha512(self.seed).digest())
        expanded[0] &= 248
        expanded[31] &= 63
        expanded[31] |= 64
        return f"ED25519-V3:{base64.b64encode(expanded).decode()}"


def make_service_key(token: Callable[[int], bytes]) -> ServiceKey:
    """A new service. ``token(n)`` gives n random bytes."""
    return ServiceKey(token(SEED_SIZE))


def decode_service_key(text: str) -> ServiceKey:
    """Undo ``ServiceKey.encode``. Raises DecodeError."""
    found = _KEY_FILE.match(text)
    if not found:
        raise DecodeError("no key of an onion service", "put the file back from a backup")
    return ServiceKey(base64.b64decode(found[1]))


def parse_clients(text: str) -> tuple[str, ...]:
    """The public keys (base32) of the clients that a private service admits.

    One a line, ``[NAME] descriptor:x25519:KEY`` as in tor(1), CLIENT AUTHORIZATION; lines that
    begin with # are notes. Raises DecodeError, naming the line; a file of no client is refused,
    as it would open a server that was meant to be private.
    """
    clients = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        found = _CLIENT.match(stripped)
        if not found:
            raise DecodeError(
                f"line {number} holds no key of a client",
                "a line is NAME descriptor:x25519:KEY, with 52 letters and digits of KEY",
            )
        clients.append(found[1].upper())
    if not 0 < len(clients) <= CLIENTS_MAX:
        raise DecodeError(f"{len(clients)} clients", f"a file names 1 to {CLIENTS_MAX}")
    return tuple(dict.fromkeys(clients))


def add_onion_command(
    key: ServiceKey, target: str, clients: tuple[str, ...], proof_of_work: bool
) -> str:
    """Publishes the service at PORT and connects it to ``target``, an address and a port. It is
    gone when the control connection ends that gave the command."""
    words = ["ADD_ONION", key.for_tor(), "Flags=DiscardPK" + (",V3Auth" if clients else "")]
    if proof_of_work:
        words.append("PoWDefensesEnabled=1")
    words.append(f"Port={PORT},{target}")
    words += [f"ClientAuthV3={client}" for client in clients]
    return " ".join(words)
