"""The newest published round as clients get it."""

from dataclasses import dataclass

from cbfs_common.names.note import SignedNote
from cbfs_common.names.operations import Refusal
from cbfs_host.lmdb_environment import StoreError
from cbfs_names.state.round_log import Log
from cbfs_names.state.store import Snapshot


@dataclass(frozen=True, slots=True)
class Head:
    """Signed head, leaf, and proof that it is the last. ``number``: the round's."""

    note: bytes
    round: bytes
    number: int
    log_proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """``placed`` operations are in the round of ``head``; ``refused`` in none. ``head`` is None
    when no round was made."""

    head: Head | None
    placed: frozenset[bytes]
    refused: dict[bytes, Refusal]


def head_of(view: Snapshot, note: SignedNote) -> Head:
    """The newest round in ``view`` under its signed head."""
    tip = view.tip()
    if tip is None:
        raise StoreError("the store has no round", "restore it from a backup")
    proof = Log(tip.number + 1, view.log_hash).inclusion(tip.number)
    return Head(note.encode(), tip.encode(), tip.number, proof)
