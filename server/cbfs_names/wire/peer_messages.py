"""What a sequencer and its verifiers say to each other, in the frames of ``transport``.
PROTOCOL.rst, Names: verifiers. msgpack arrays ``[kind, field, ...]`` with kinds of their own."""

from dataclasses import dataclass
from typing import Any

import msgpack

from cbfs_common.errors import DecodeError
from cbfs_common.names.layout import HASH_SIZE, Fields
from cbfs_common.names.operations import SUBMIT_MAX
from cbfs_common.names.proofs import encode_proof, read_proof
from cbfs_common.primitives import KEY_SIZE, SIGNATURE_SIZE
from cbfs_common.strict_msgpack import unpack

BLOCK_PAGE = 16_000
"""Bytes of a block in one reply."""


@dataclass(frozen=True, slots=True)
class Await:
    """I have ``size`` rounds: what comes next? ``seen``: leaf hash (32) of the proposal that I
    have answered, or empty. ``shown``: of how many rounds the newest head is that I have. Answered
    when there is something else, or after a while without."""

    size: int
    seen: bytes
    shown: int


@dataclass(frozen=True, slots=True)
class GetBlock:
    """A page of the block of a round, published or proposed."""

    round: int
    page: int


@dataclass(frozen=True, slots=True)
class Vote:
    """A checkpoint with my cosignature: a signed note."""

    note: bytes


@dataclass(frozen=True, slots=True)
class Reject:
    """My signed refusal of a proposal."""

    refusal: bytes


@dataclass(frozen=True, slots=True)
class AskStatus:
    """Which heads do you know, and which of the verifier with this ``key`` (Ed25519, 32)? Empty:
    nobody's."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Forward:
    """I have given a receipt (``signature``, 64) for this operation at ``time`` (seconds)."""

    operation: bytes
    time: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Offer:
    """``head``: newest published head, or empty. ``leaf`` (32): the block that is next, or empty.
    ``proof``: that it is in the head, when it is published. ``votes``: a proposal's checkpoint
    with the cosignatures so far, or empty."""

    head: bytes
    leaf: bytes
    published: bool
    proof: tuple[bytes, ...]
    votes: bytes


@dataclass(frozen=True, slots=True)
class BlockPage:
    """One of ``pages`` of an encoded block."""

    pages: int
    data: bytes


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """``head``: newest published head; ``votes``: the newest checkpoint that the verifier has
    signed, as far as it is known; each may be empty."""

    head: bytes
    votes: bytes


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What was sent is taken, and on the disk where it must be."""


Peer = (
    Await
    | GetBlock
    | Vote
    | Reject
    | AskStatus
    | Forward
    | Offer
    | BlockPage
    | PeerStatus
    | Acknowledged
)


def encode(message: Peer) -> bytes:
    """A message as the payload of one frame."""
    match message:
        case Await(size, seen, shown):
            fields: list[object] = [32, size, seen, shown]
        case GetBlock(round_, page):
            fields = [33, round_, page]
        case Vote(note):
            fields = [34, note]
        case Reject(refusal):
            fields = [35, refusal]
        case AskStatus(key):
            fields = [36, key]
        case Forward(operation, time, signature):
            fields = [37, operation, time, signature]
        case Offer(head, leaf, published, proof, votes):
            fields = [160, head, leaf, published, encode_proof(proof), votes]
        case BlockPage(pages, data):
            fields = [161, pages, data]
        case PeerStatus(head, votes):
            fields = [162, head, votes]
        case Acknowledged():
            fields = [163]
    packed: bytes = msgpack.packb(fields)
    return packed


def decode(payload: bytes) -> Peer:
    """The message of a frame's payload. Raises DecodeError for anything else."""
    match _unpack(payload):
        case [32, int(size), bytes(seen), int(shown)] if (
            _number(size) and len(seen) in (0, HASH_SIZE) and _number(shown)
        ):
            return Await(size, seen, shown)
        case [33, int(round_), int(page)] if _number(round_) and _number(page):
            return GetBlock(round_, page)
        case [34, bytes(note)]:
            return Vote(note)
        case [35, bytes(refusal)]:
            return Reject(refusal)
        case [36, bytes(key)] if len(key) in (0, KEY_SIZE):
            return AskStatus(key)
        case [37, bytes(operation), int(time), bytes(signature)] if (
            len(operation) <= SUBMIT_MAX and _number(time) and len(signature) == SIGNATURE_SIZE
        ):
            return Forward(operation, time, signature)
        case [160, bytes(head), bytes(leaf), bool(published), bytes(proof), bytes(votes)] if len(
            leaf
        ) in (0, HASH_SIZE):
            fields = Fields(proof, "a log proof")
            hashes = read_proof(fields)
            fields.end()
            return Offer(head, leaf, published, hashes, votes)
        case [161, int(pages), bytes(data)] if _number(pages):
            return BlockPage(pages, data)
        case [162, bytes(head), bytes(votes)]:
            return PeerStatus(head, votes)
        case [163]:
            return Acknowledged()
        case _:
            raise DecodeError("not a message between verifiers")


def _unpack(payload: bytes) -> Any:
    return unpack(payload, "not a message between verifiers", 8)


def _number(value: int) -> bool:
    return not isinstance(value, bool) and 0 <= value < 2**64
