"""Signed notes, checkpoints and cosignatures. C2SP signed-note, tlog-checkpoint and
tlog-cosignature (cosignature/v1)."""

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256

from cbfs_common.errors import DecodeError
from cbfs_common.limits import COSIGNERS_MAX, HEAD_MAX, NAMESPACE_MAX
from cbfs_common.names.layout import HASH_SIZE
from cbfs_common.primitives import KEY_SIZE, SIGNATURE_SIZE, sign, sign_public, verify

LOG_KEY = 0x01
COSIGNER_KEY = 0x04
"""Signature types of signed-note: Ed25519, and timestamped Ed25519 cosignatures."""

KEY_ID_SIZE = 4
_TIME_MAX = 2**63 - 1
_KEY_NAME = re.compile(r"[!-*,-~]{1,64}\Z")  # printable ASCII, no space, no plus
_SIZE = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z")


def from_base64(text: str) -> bytes:
    """Strict standard base64: one text for one value."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DecodeError("not base64") from error
    if base64.b64encode(data).decode() != text:
        raise DecodeError("not base64")
    return data


def to_base64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode()


@dataclass(frozen=True, slots=True)
class NoteKey:
    """An Ed25519 public key (32) under a name, of one signature type: a C2SP "vkey"."""

    name: str
    kind: int
    public: bytes

    @property
    def id(self) -> bytes:
        """The key's id (4): the beginning of a hash of its name, type and public key."""
        data = self.name.encode("ascii") + b"\n" + bytes([self.kind]) + self.public
        return sha256(data).digest()[:KEY_ID_SIZE]

    def encode(self) -> str:
        """The key as text: ``NAME+ID+KEY``."""
        return f"{self.name}+{self.id.hex()}+{to_base64(bytes([self.kind]) + self.public)}"


def parse_note_key(text: str, kind: int) -> NoteKey:
    """Undo ``NoteKey.encode`` for a key of this type. Raises DecodeError."""
    parts = text.split("+", 2)
    if len(parts) != 3 or not _KEY_NAME.match(parts[0]):
        raise DecodeError("not a verifier key")
    material = from_base64(parts[2])
    if len(material) != 1 + KEY_SIZE or material[0] != kind:
        raise DecodeError("not a verifier key of the right type")
    key = NoteKey(parts[0], kind, material[1:])
    if key.id.hex() != parts[1]:
        raise DecodeError("a verifier key with a wrong id")
    return key


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A head of the log: ``size`` leaves under ``root`` (32)."""

    origin: str
    size: int
    root: bytes

    def encode(self) -> bytes:
        """The text of the note that is signed."""
        return f"{self.origin}\n{self.size}\n{to_base64(self.root)}\n".encode("ascii")


def parse_checkpoint(text: str) -> Checkpoint:
    """Undo ``Checkpoint.encode``; extension lines are refused. Raises DecodeError."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not _KEY_NAME.match(lines[0]) or not _SIZE.match(lines[1]):
        raise DecodeError("not a checkpoint")
    root = from_base64(lines[2])
    if len(lines[0]) > NAMESPACE_MAX or len(root) != HASH_SIZE:
        raise DecodeError("not a checkpoint")
    return Checkpoint(lines[0], int(lines[1]), root)


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """``signature``: 64 bytes, or 72 of a cosignature (time u64 in front)."""

    name: str
    key_id: bytes
    signature: bytes

    @property
    def time(self) -> int:
        """When a cosignature that verifies was made, in seconds since 1970."""
        return int.from_bytes(self.signature[:8], "big")

    def encode(self) -> str:
        """The line as it stands in a signed note, with its newline."""
        return f"\u2014 {self.name} {to_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class SignedNote:
    """A checkpoint's exact ``text`` and its signature lines."""

    text: bytes
    lines: tuple[SignatureLine, ...]

    def encode(self) -> bytes:
        """The note with its signature lines, in bytes."""
        return self.text + b"\n" + "".join(line.encode() for line in self.lines).encode()

    def signature(self, key: NoteKey) -> bytes | None:
        """The signature bytes of this key's line, unverified."""
        for line in self.lines:
            if line.name == key.name and line.key_id == key.id:
                return line.signature
        return None


def parse_note(data: bytes) -> SignedNote:
    """Undo ``SignedNote.encode``. Raises DecodeError, also when a key (name and id) signs twice."""
    if len(data) > HEAD_MAX:
        raise DecodeError("a signed head is too large")
    text, blank, tail = data.rpartition(b"\n\n")
    try:
        lines = tail.decode("utf-8").split("\n")
        text.decode("ascii")
    except UnicodeDecodeError as error:
        raise DecodeError("not a signed head") from error
    if not blank or lines.pop() or not 1 <= len(lines) <= COSIGNERS_MAX + 1:
        raise DecodeError("not a signed head")
    found = tuple(_signature_line(line) for line in lines)
    if len({(line.name, line.key_id) for line in found}) != len(found):
        raise DecodeError("a key signs a head twice")
    return SignedNote(text + b"\n", found)


def _signature_line(line: str) -> SignatureLine:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != "\u2014" or not _KEY_NAME.match(parts[1]):
        raise DecodeError("not a signature line")
    data = from_base64(parts[2])
    if len(data) <= KEY_ID_SIZE:
        raise DecodeError("not a signature line")
    return SignatureLine(parts[1], data[:KEY_ID_SIZE], data[KEY_ID_SIZE:])


def sign_checkpoint(seed: bytes, name: str, text: bytes) -> SignatureLine:
    """The log's own signature (type 0x01) over a checkpoint's text."""
    key = NoteKey(name, LOG_KEY, sign_public(seed))
    return SignatureLine(name, key.id, sign(seed, text))


def verify_log(key: NoteKey, text: bytes, signature: bytes) -> None:
    """Raises CryptoError unless the log's key signed the text."""
    verify(key.public, text, signature)


def _cosigned(time: int, text: bytes) -> bytes:
    return b"cosignature/v1\ntime %d\n" % time + text


def cosign(seed: bytes, name: str, time: int, text: bytes) -> SignatureLine:
    """A verifier's cosignature (type 0x04) at ``time`` (seconds since 1970)."""
    key = NoteKey(name, COSIGNER_KEY, sign_public(seed))
    signature = sign(seed, _cosigned(time, text))
    return SignatureLine(name, key.id, time.to_bytes(8, "big") + signature)


def verify_cosignature(key: NoteKey, text: bytes, signature: bytes) -> int:
    """The time of a cosignature. Raises DecodeError or CryptoError."""
    if len(signature) != 8 + SIGNATURE_SIZE:
        raise DecodeError("not a cosignature")
    time = int.from_bytes(signature[:8], "big")
    if time > _TIME_MAX:
        raise DecodeError("not a cosignature")
    verify(key.public, _cosigned(time, text), signature[8:])
    return time
