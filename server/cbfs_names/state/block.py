"""What a sequencer proposes and a verifier locks or refuses. PROTOCOL.rst, Names: rounds."""

from dataclasses import dataclass
from enum import IntEnum

from cbfs_common.errors import CbfsError
from cbfs_common.limits import NAMESPACE_MAX, ROUND_OPERATIONS_MAX
from cbfs_common.names.entry import Round, decode_round
from cbfs_common.names.layout import HASH_SIZE, Fields, long, short
from cbfs_common.primitives import SIGNATURE_SIZE, sign, verify

REFUSAL_LABEL = b"cbfs1 names refusal"
PROPOSAL_LABEL = b"cbfs1 names proposal"


@dataclass(frozen=True, slots=True)
class Block:
    """A round, its encoded operations, and the log's ``signature`` (64) of the proposal: over
    PROPOSAL_LABEL, a newline and the checkpoint that the round makes. The checkpoint itself is
    signed by the log once a quorum has, so that it signs one for each size."""

    round: Round
    operations: tuple[bytes, ...]
    signature: bytes

    def encode(self) -> bytes:
        """round u8+ | signature 64 | count u32 | operations u16+."""
        return (
            short(self.round.encode())
            + self.signature
            + len(self.operations).to_bytes(4, "big")
            + b"".join(long(operation) for operation in self.operations)
        )


def decode_block(data: bytes) -> Block:
    """Undo ``Block.encode``. Raises DecodeError."""
    fields = Fields(data, "a block")
    round_ = decode_round(fields.short())
    signature, count = fields.take(SIGNATURE_SIZE), fields.number(4)
    if count > ROUND_OPERATIONS_MAX:
        raise fields.error()
    operations = tuple(fields.long() for _ in range(count))
    fields.end()
    return Block(round_, operations, signature)


def decode_block_round(data: bytes) -> Round:
    """The round alone of an encoded block. Raises DecodeError."""
    return decode_round(Fields(data, "a block").short())


def proposal_text(checkpoint: bytes) -> bytes:
    """What the log signs of a proposal that makes this checkpoint."""
    return PROPOSAL_LABEL + b"\n" + checkpoint


class Reason(IntEnum):
    """Why a verifier does not sign a block, with the number that stands for it in a refusal."""

    WRONG_ROUND = 1
    LOCKED = 2
    SIGNATURE = 3
    CONFIGURATION = 4
    TIME_BACK = 5
    TIME_OFF = 6
    OPERATION = 7
    ROOTS = 8
    OMITTED = 9


class BlockRefused(CbfsError):
    """A verifier has refused a block, for good: it will never sign it."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"the round is refused: {reason.name.lower().replace('_', ' ')}")
        self.reason = reason


class NotNow(CbfsError):
    """A verifier signs nothing at present, and has refused nothing for good."""


@dataclass(frozen=True, slots=True)
class SignedRefusal:
    """A verifier's word that it never signs the block with this leaf hash (32)."""

    namespace: str
    round: int
    leaf: bytes
    reason: Reason

    def body(self) -> bytes:
        """What is signed: label | newline | namespace u8+ | round u64 | leaf 32 | reason u8."""
        return (
            REFUSAL_LABEL
            + b"\n"
            + short(self.namespace.encode("ascii"))
            + self.round.to_bytes(8, "big")
            + self.leaf
            + bytes([self.reason])
        )

    def encode(self, seed: bytes) -> bytes:
        """The body, signed with the verifier's seed (32)."""
        return self.body() + sign(seed, self.body())

    def verify(self, key: bytes, signature: bytes) -> None:
        """Raises CryptoError unless the verifier's key (32) signed it."""
        verify(key, self.body(), signature)


def decode_refusal(data: bytes) -> tuple[SignedRefusal, bytes]:
    """Undo ``SignedRefusal.encode``: the refusal and its signature (64), unverified. Raises
    DecodeError."""
    fields = Fields(data, "a refusal")
    if fields.take(len(REFUSAL_LABEL) + 1) != REFUSAL_LABEL + b"\n":
        raise fields.error()
    namespace, number = fields.text(NAMESPACE_MAX), fields.number(8)
    leaf, reason = fields.take(HASH_SIZE), fields.number(1)
    signature = fields.take(SIGNATURE_SIZE)
    fields.end()
    if reason not in set(Reason):
        raise fields.error()
    return SignedRefusal(namespace, number, leaf, Reason(reason)), signature
