"""Evidence that a key has signed two histories, which stands by itself. PROTOCOL.rst, Names:
equivocation.

Two heads signed by one key. From the larger one follows, by a consistency proof, which root its
log had at the smaller one's size; it is not the root that the smaller one has. Nobody without the
key can make that.
"""

from dataclasses import dataclass

from cbfs_common.errors import CryptoError, DecodeError
from cbfs_common.limits import HEAD_MAX
from cbfs_common.names.layout import HASH_SIZE, Fields, long, short
from cbfs_common.names.note import (
    COSIGNER_KEY,
    LOG_KEY,
    Checkpoint,
    NoteKey,
    SignedNote,
    parse_checkpoint,
    parse_note,
    parse_note_key,
    verify_cosignature,
    verify_log,
)
from cbfs_common.names.proofs import encode_proof, read_proof
from cbfs_common.names.trees import extends

EVIDENCE_LABEL = b"cbfs1 names equivocation"
_KEY_TEXT_MAX = 160
EVIDENCE_MAX = (
    len(EVIDENCE_LABEL) + 1 + 1 + _KEY_TEXT_MAX + 2 * (2 + HEAD_MAX) + HASH_SIZE + 1 + 64 * 32
)
"""Bytes of encoded evidence, at most."""


@dataclass(frozen=True, slots=True)
class Equivocation:
    """``smaller`` and ``larger`` (or of one size): notes signed by ``key``. ``root`` (32): what
    the larger's log had at the smaller's size, as ``proof`` (RFC 9162 consistency) shows."""

    key: NoteKey
    smaller: SignedNote
    larger: SignedNote
    root: bytes
    proof: tuple[bytes, ...]

    def encode(self) -> bytes:
        """label | newline | short(vkey) | long(note) | long(note) | root 32 | proof."""
        return (
            EVIDENCE_LABEL
            + b"\n"
            + short(self.key.encode().encode("ascii"))
            + long(self.smaller.encode())
            + long(self.larger.encode())
            + self.root
            + encode_proof(self.proof)
        )

    def proven(self) -> bool:
        """Whether the evidence shows that the key has signed two histories."""
        try:
            one, other = (parse_checkpoint(note.text.decode("ascii")) for note in self._notes())
            for note in self._notes():
                check_signed(self.key, note)
        except (DecodeError, CryptoError):
            return False
        return (
            one.origin == other.origin
            and 0 < one.size <= other.size
            and self.root != one.root
            and extends(one.size, other.size, self.root, other.root, self.proof)
        )

    def heads(self) -> tuple[Checkpoint, Checkpoint]:
        """The two checkpoints that were signed. Raises DecodeError."""
        one, other = (parse_checkpoint(note.text.decode("ascii")) for note in self._notes())
        return one, other

    def _notes(self) -> tuple[SignedNote, SignedNote]:
        return self.smaller, self.larger


def check_signed(key: NoteKey, note: SignedNote) -> None:
    """Raises CryptoError or DecodeError unless the key has signed the note."""
    signature = note.signature(key)
    if signature is None:
        raise CryptoError("the key has not signed the head")
    if key.kind == COSIGNER_KEY:
        verify_cosignature(key, note.text, signature)
    else:
        verify_log(key, note.text, signature)


def signed_by(key: NoteKey, note: SignedNote) -> bool:
    """Whether the key has signed the note."""
    try:
        check_signed(key, note)
    except (CryptoError, DecodeError):
        return False
    return True


def decode_equivocation(data: bytes) -> Equivocation:
    """Undo ``Equivocation.encode``. Raises DecodeError. Ask it whether it is ``proven``."""
    fields = Fields(data, "evidence of two histories")
    if len(data) > EVIDENCE_MAX or fields.take(len(EVIDENCE_LABEL) + 1) != EVIDENCE_LABEL + b"\n":
        raise fields.error()
    text = fields.text(_KEY_TEXT_MAX)
    try:
        key = parse_note_key(text, COSIGNER_KEY)
    except DecodeError:
        key = parse_note_key(text, LOG_KEY)
    smaller, larger = parse_note(fields.long()), parse_note(fields.long())
    made = Equivocation(key, smaller, larger, fields.take(HASH_SIZE), read_proof(fields))
    fields.end()
    return made
