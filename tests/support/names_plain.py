"""The layouts of the name directory once more, byte by byte from PROTOCOL.rst.

Nothing here calls an encoder of the programs: the tests hold those equal to these. Signatures and
hashes come from libraries.
"""

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b, sha256
from pathlib import Path

from nacl.signing import SigningKey

from cbfs_common.names.entry import Entry
from cbfs_common.names.operations import HistoryLink, Operation
from cbfs_common.names.proofs import Evidence
from cbfs_common.names.trees import MapProof
from tests.support.names_naive import NAMESPACE, NOW, log_root

WORDS = Path(__file__).parents[2] / "cbfs" / "contacts" / "words.txt"


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


def position(leaves: list[bytes]) -> bytes:
    """Size, and the roots of the complete trees that so many leaves fall into, largest first."""
    hashes, at = [], 0
    for bit in reversed(range(64)):
        if len(leaves) >> bit & 1:
            hashes.append(log_root(leaves[at : at + (1 << bit)]))
            at += 1 << bit
    return struct.pack(">Q", len(leaves)) + b"".join(hashes)


@dataclass(frozen=True)
class Half:
    """One person's half of a fingerprint."""

    identity: bytes

    @property
    def bits(self) -> str:
        half = blake2b(self.identity, digest_size=32, person=b"cbfs1 compare").digest()
        return "".join(f"{byte:08b}" for byte in half)

    def words(self) -> list[str]:
        """The first 99 bits, 11 at a time."""
        listed = WORDS.read_text().split()
        return [listed[int(self.bits[at : at + 11], 2)] for at in range(0, 99, 11)]

    def digits(self) -> list[str]:
        """The first 240 bits, 40 at a time, modulo 100,000."""
        return [f"{int(self.bits[at : at + 40], 2) % 100_000:05d}" for at in range(0, 240, 40)]


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


def keys(threshold: int, members: Sequence[bytes]) -> bytes:
    return struct.pack(">BB", threshold, len(members)) + b"".join(members)


def entry(e: Entry) -> bytes:
    """An entry's bytes."""
    return (
        b"\x01"
        + short(e.name.encode())
        + struct.pack(">IIBQQ", e.incarnation, e.version, e.status, e.expires, e.round)
        + e.previous
        + b"".join(keys(k.threshold, k.keys) for k in (e.owners, e.recovery, e.heirs))
        + struct.pack(">Q", e.due)
        + long(e.profile)
    )


def operation(o: Operation) -> bytes:
    """An operation's bytes."""
    owners, recovery = (keys(k.threshold, k.keys) for k in (o.owners, o.recovery))
    rest = {
        1: o.secret + struct.pack(">Q", o.work) + long(o.invite),
        2: o.secret + owners + recovery + long(o.profile),
        3: long(o.profile),
        4: owners + recovery + long(o.profile),
        5: struct.pack(">Q", o.until),
        8: owners,
        10: long(o.terms.encode()),
    }
    return (
        struct.pack(">BB", 1, o.kind)
        + o.directory
        + short(o.name.encode())
        + struct.pack(">II", o.incarnation, o.version)
        + o.previous
        + struct.pack(">Q", o.expires)
        + rest.get(o.kind, b"")
        + struct.pack(">B", len(o.signatures))
        + b"".join(key + signed for key, signed in o.signatures)
    )


def bundle(directory: bytes, e: Evidence, links: Sequence[HistoryLink]) -> bytes:
    """A bundle's bytes."""
    return (
        b"\x01"
        + directory
        + long(e.note)
        + short(e.round)
        + struct.pack(">B", len(e.log_proof))
        + b"".join(e.log_proof)
        + long(e.map_proof)
        + long(e.entry)
        + struct.pack(">B", len(links))
        + b"".join(struct.pack(">QQ", at.round, at.time) + long(at.operation) for at in links)
    )


def map_proof(p: MapProof) -> bytes:
    """A proof's bytes."""
    bits = "".join("01"[sibling != bytes(32)] for sibling in p.siblings)
    padded = bits.ljust(-(-len(bits) // 8) * 8, "0")
    return (
        struct.pack(">H", len(bits))
        + bytes(int(padded[at : at + 8], 2) for at in range(0, len(padded), 8))
        + b"".join(sibling for sibling in p.siblings if sibling != bytes(32))
        + bytes([p.terminal])
        + p.other_index
        + p.other_value
    )
