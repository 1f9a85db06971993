"""Requests to the name directory and its replies, in the frames of ``transport``.
PROTOCOL.rst, Names: requests. msgpack arrays ``[kind, field, ...]``; what is hashed or signed
keeps its own layout inside."""

from dataclasses import dataclass
from typing import Any

import msgpack

from cbfs_common.errors import DecodeError
from cbfs_common.limits import FEED_PART, HEAD_MAX, NAMES_CONFIG_MAX, WORK_BITS_MAX
from cbfs_common.names.changes import HistoryLink
from cbfs_common.names.entry import ROUND_SIZE_MAX
from cbfs_common.names.layout import Fields
from cbfs_common.names.operations import SUBMIT_MAX, Refusal
from cbfs_common.names.proofs import (
    Evidence,
    encode_links,
    encode_proof,
    read_evidence,
    read_links,
    read_proof,
)
from cbfs_common.person import check_name
from cbfs_common.primitives import SIGNATURE_SIZE
from cbfs_common.strict_msgpack import unpack

NAMES_REPLY_MAX = 16_384
"""Bytes of an encoded reply: it fits one frame."""

_NUMBER_MAX = 2**64


@dataclass(frozen=True, slots=True)
class Lookup:
    """What does the map have at ``name``? Says nothing of who asks, or what they know."""

    name: str


@dataclass(frozen=True, slots=True)
class AskHistory:
    """Asks for the operations on ``name`` after this version of this incarnation."""

    name: str
    incarnation: int
    version: int


@dataclass(frozen=True, slots=True)
class Submit:
    """Put this encoded operation into a round; answered when the round is published, by a
    verifier with its receipt at once."""

    operation: bytes


@dataclass(frozen=True, slots=True)
class AskHead:
    """The newest head. Says nothing of who asks, or what they know."""


@dataclass(frozen=True, slots=True)
class AskChanges:
    """Bytes ``part`` * FEED_PART and following of a tile of the change feed."""

    tile: int
    part: int


@dataclass(frozen=True, slots=True)
class AskTerms:
    """The text of the configuration in force in this round."""

    round: int


@dataclass(frozen=True, slots=True)
class AskConsistency:
    """The proof that the log of ``size`` rounds goes on from its first ``old_size``, which is a
    multiple of FOLLOW_MAX: it is the same for all who have been away for about as long."""

    old_size: int
    size: int


Request = Lookup | AskHistory | Submit | AskHead | AskChanges | AskTerms | AskConsistency


@dataclass(frozen=True, slots=True)
class LookedUp:
    """``links``: the newest operations on the name that fit, oldest first."""

    evidence: Evidence
    links: tuple[HistoryLink, ...]


@dataclass(frozen=True, slots=True)
class Steps:
    """The next operations, oldest first, as many as fit."""

    links: tuple[HistoryLink, ...]


@dataclass(frozen=True, slots=True)
class Submitted:
    """The operation that was submitted stands in this round."""

    round: int


@dataclass(frozen=True, slots=True)
class RefusedReply:
    """The request has changed nothing, and why."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class HeadIs:
    """The newest published round: signed head, leaf, and the proof that it is the last."""

    note: bytes
    round: bytes
    log_proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ChangesAre:
    """A part of a tile; ``more``: it has a next part. A tile grows at its end only, up to
    FEED_TILE rounds."""

    data: bytes
    more: bool


@dataclass(frozen=True, slots=True)
class TermsAre:
    """The text of the configuration that was asked for. ``work``: leading zero bits that a COMMIT
    without an invite would need in the next round."""

    config: str
    work: int


@dataclass(frozen=True, slots=True)
class Receipted:
    """A verifier has the operation since ``time`` (seconds), and from a minute later on signs no
    round without it while it is valid. ``signature`` (64): see ``sign_receipt``."""

    time: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class ConsistencyIs:
    """The proof that was asked for: hashes (32 each)."""

    proof: tuple[bytes, ...]


Reply = (
    LookedUp | Steps | Submitted | RefusedReply | HeadIs | ChangesAre | TermsAre | Receipted
    | ConsistencyIs
)  # fmt: skip

_LOOKUP, _HISTORY, _SUBMIT, _ASK_HEAD, _ASK_CHANGES, _ASK_TERMS, _ASK_CONSISTENCY = range(1, 8)
_LOOKED_UP, _STEPS, _SUBMITTED, _REFUSED, _HEAD_IS, _CHANGES_ARE = 129, 130, 131, 132, 133, 134
_TERMS_ARE, _RECEIPTED, _CONSISTENCY_IS = 135, 136, 137

_KINDS = (Lookup, AskHistory, Submit, AskHead, AskChanges, AskTerms, AskConsistency)
_REFUSED_START = msgpack.packb((_REFUSED, 0))[:-1]


def encode_request(request: Request) -> bytes:
    """A request as the payload of a frame."""
    match request:
        case Lookup(name):
            return _pack(_LOOKUP, name)
        case AskHistory(name, incarnation, version):
            return _pack(_HISTORY, name, incarnation, version)
        case Submit(operation):
            return _pack(_SUBMIT, operation)
        case AskHead():
            return _pack(_ASK_HEAD)
        case AskChanges(tile, part):
            return _pack(_ASK_CHANGES, tile, part)
        case AskTerms(round_):
            return _pack(_ASK_TERMS, round_)
        case AskConsistency(old_size, size):
            return _pack(_ASK_CONSISTENCY, old_size, size)


def encode_reply(reply: Reply) -> bytes:
    """A reply as the payload of a frame."""
    match reply:
        case LookedUp(evidence, links):
            return _pack(_LOOKED_UP, evidence.encode(), encode_links(links))
        case Steps(links):
            return _pack(_STEPS, encode_links(links))
        case Submitted(round_):
            return _pack(_SUBMITTED, round_)
        case RefusedReply(refusal):
            return _pack(_REFUSED, int(refusal))
        case HeadIs(note, round_leaf, proof):
            return _pack(_HEAD_IS, note, round_leaf, encode_proof(proof))
        case ChangesAre(data, more):
            return _pack(_CHANGES_ARE, data, more)
        case TermsAre(config, bits):
            return _pack(_TERMS_ARE, config, bits)
        case Receipted(time, signature):
            return _pack(_RECEIPTED, time, signature)
        case ConsistencyIs(proof):
            return _pack(_CONSISTENCY_IS, encode_proof(proof))


def decode_request(payload: bytes) -> Request:
    """The request that a payload is. Raises DecodeError."""
    match _unpack(payload):
        case [1, str(name)]:
            return Lookup(check_name(name))
        case [2, str(name), int(incarnation), int(version)] if _is_number(
            incarnation
        ) and _is_number(version):
            return AskHistory(check_name(name), incarnation, version)
        case [3, bytes(operation)] if len(operation) <= SUBMIT_MAX:
            return Submit(operation)
        case [4]:
            return AskHead()
        case [5, int(tile), int(part)] if _is_number(tile) and _is_number(part):
            return AskChanges(tile, part)
        case [6, int(round_)] if _is_number(round_):
            return AskTerms(round_)
        case [7, int(old_size), int(size)] if _is_number(old_size) and _is_number(size):
            return AskConsistency(old_size, size)
        case _:
            raise DecodeError("not a request to the name directory")


def kind_in_a_word(payload: bytes) -> str:
    """What a payload asks if it is a request, by its kind alone; ``other`` for any other."""
    number = payload[1] if len(payload) > 1 else 0
    return _KINDS[number - 1].__name__ if 0 < number <= len(_KINDS) else "other"


def refusal_of(reply: bytes) -> Refusal | None:
    """Why an encoded reply refuses; None when it does not."""
    if not reply.startswith(_REFUSED_START):
        return None
    decoded = decode_reply(reply)
    return decoded.refusal if isinstance(decoded, RefusedReply) else None


def decode_reply(payload: bytes) -> Reply:
    """The reply that a payload is. Raises DecodeError."""
    match _unpack(payload):
        case [129, bytes(evidence), bytes(links)]:
            return LookedUp(_evidence(evidence), _links(links))
        case [130, bytes(links)]:
            return Steps(_links(links))
        case [131, int(round_)] if _is_number(round_):
            return Submitted(round_)
        case [132, int(refusal)] if refusal in set(Refusal):
            return RefusedReply(Refusal(refusal))
        case [133, bytes(note), bytes(leaf), bytes(proof)] if (
            len(note) <= HEAD_MAX and len(leaf) <= ROUND_SIZE_MAX
        ):
            return HeadIs(note, leaf, _proof(proof))
        case [134, bytes(data), bool(more)] if len(data) <= FEED_PART:
            return ChangesAre(data, more)
        case [135, str(config), int(bits)] if (
            len(config) <= NAMES_CONFIG_MAX and _is_number(bits) and bits <= WORK_BITS_MAX
        ):
            return TermsAre(config, bits)
        case [136, int(time), bytes(signature)] if (
            _is_number(time) and len(signature) == SIGNATURE_SIZE
        ):
            return Receipted(time, signature)
        case [137, bytes(proof)]:
            return ConsistencyIs(_proof(proof))
        case _:
            raise DecodeError("not a reply of the name directory")


def _pack(*fields: object) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed


def _unpack(payload: bytes) -> Any:
    return unpack(payload, "not a message of the name directory", 8)


def _is_number(value: int) -> bool:
    return not isinstance(value, bool) and 0 <= value < _NUMBER_MAX


def _evidence(data: bytes) -> Evidence:
    fields = Fields(data, "evidence")
    evidence = read_evidence(fields)
    fields.end()
    return evidence


def _proof(data: bytes) -> tuple[bytes, ...]:
    fields = Fields(data, "a log proof")
    proof = read_proof(fields)
    fields.end()
    return proof


def _links(data: bytes) -> tuple[HistoryLink, ...]:
    fields = Fields(data, "a chain of operations")
    links = read_links(fields)
    fields.end()
    return links
