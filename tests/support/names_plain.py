"""Rounds, heads and tiles of the name directory for vectors, byte by byte from the text of
protocol/names.rst. Nothing here calls an encoder of the programs."""

import base64
import struct
from functools import cache
from hashlib import sha256

from nacl.signing import SigningKey

from tests.support.names_naive import NAMESPACE, NOW


def short(data: bytes) -> bytes:
    return struct.pack(">B", len(data)) + data


def long(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def public(seed: bytes) -> bytes:
    return bytes(SigningKey(seed).verify_key)


def signature(seed: bytes, data: bytes) -> bytes:
    return SigningKey(seed).sign(data).signature


@cache
def changes_hash(changes: tuple[bytes, ...]) -> bytes:
    data = b"cbfs1 names changes\n" + struct.pack(">I", len(changes)) + b"".join(changes)
    return sha256(data).digest()


def leaf(number: int, changes: tuple[bytes, ...] = (), config: bytes = bytes(32)) -> bytes:
    """A round's bytes."""
    return (
        b"cbfs1 names round\n"
        + short(NAMESPACE.encode())
        + struct.pack(">QQ", number, NOW + number)
        + sha256(b"map %d" % number).digest()
        + sha256(b"operations %d" % number).digest()
        + changes_hash(changes)
        + config
    )


def leaf_hash(data: bytes) -> bytes:
    return sha256(b"\x00" + data).digest()


def changed(number: int) -> tuple[bytes, ...]:
    """What round ``number`` of the feed has changed: between 0 and 4 prefixes."""
    made = {sha256(b"name %d" % (number * 3 + n)).digest()[:8] for n in range(number % 5)}
    return tuple(sorted(made))


def feed_round(number: int, changes: tuple[bytes, ...]) -> bytes:
    return short(leaf(number, changes)) + struct.pack(">H", len(changes)) + b"".join(changes)


def checkpoint(size: int, root: bytes, origin: str = NAMESPACE) -> bytes:
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n".encode()


def vkey(name: str, kind: int, key: bytes) -> str:
    """A C2SP verifier key."""
    id = sha256(name.encode() + b"\n" + bytes([kind]) + key).digest()[:4]
    return f"{name}+{id.hex()}+{base64.b64encode(bytes([kind]) + key).decode()}"


def note(seed: bytes, name: str, text: bytes) -> bytes:
    """A checkpoint signed by the log's key."""
    id = sha256(name.encode() + b"\n\x01" + public(seed)).digest()[:4]
    line = base64.b64encode(id + signature(seed, text)).decode()
    return text + f"\n\u2014 {name} {line}\n".encode()
