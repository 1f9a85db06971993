"""The change feed: what each round has changed, in tiles that everybody asks for alike.
PROTOCOL.rst, Names: change feed.

Pure. ``Position`` is how far a client has followed the log: a size and the hashes that its root is
made of, so that the next rounds can be added to it without a proof made for this client.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from cbfs_common.errors import DecodeError
from cbfs_common.limits import FEED_TILE, ROUND_OPERATIONS_MAX
from cbfs_common.names.entry import CHANGE_SIZE, Round, changes_hash, decode_round
from cbfs_common.names.layout import Fields, short
from cbfs_common.names.trees import EMPTY_ROOT, PROOF_MAX, node_hash


@dataclass(frozen=True, slots=True)
class FeedRound:
    """One round, and the sorted, distinct index prefixes (8 bytes each) that it changed."""

    round: Round
    changes: tuple[bytes, ...]

    def encode(self) -> bytes:
        """short(round) | count u16 | prefixes."""
        count = len(self.changes).to_bytes(2, "big")
        return short(self.round.encode()) + count + b"".join(self.changes)


def tile_of(number: int) -> int:
    """The tile that holds a round."""
    return number // FEED_TILE


def decode_tile(tile: int, data: bytes) -> tuple[FeedRound, ...]:
    """The rounds of a tile, from its first on. Raises DecodeError for other rounds, and for
    changes that are not those that the round has hashed."""
    fields = Fields(data, "a tile of the change feed")
    rounds: list[FeedRound] = []
    while fields.position < len(data):
        round_ = decode_round(fields.short())
        count = fields.number(2)
        if count > ROUND_OPERATIONS_MAX or len(rounds) == FEED_TILE:
            raise fields.error()
        changes = tuple(fields.take(CHANGE_SIZE) for _ in range(count))
        if (
            round_.number != tile * FEED_TILE + len(rounds)
            or any(one >= other for one, other in pairwise(changes))
            or changes_hash(changes) != round_.changes
        ):
            raise fields.error()
        rounds.append(FeedRound(round_, changes))
    return tuple(rounds)


@dataclass(frozen=True, slots=True)
class Position:
    """``hashes`` (32 each): the complete subtrees that ``size`` leaves consist of, largest
    first; there is one for each bit that is set in ``size``."""

    size: int
    hashes: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.hashes) != self.size.bit_count() or self.size >> PROOF_MAX:
            raise DecodeError("not a position in the log")

    def root(self) -> bytes:
        """The log's root (32) at this size."""
        if not self.hashes:
            return EMPTY_ROOT
        found = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            found = node_hash(left, found)
        return found

    def add(self, leaf: bytes) -> "Position":
        """The position after one more leaf, by its hash (32)."""
        hashes, size = list(self.hashes), self.size
        while size & 1:
            leaf = node_hash(hashes.pop(), leaf)
            size >>= 1
        return Position(self.size + 1, (*hashes, leaf))

    def encode(self) -> bytes:
        """size u64 | hashes."""
        return self.size.to_bytes(8, "big") + b"".join(self.hashes)


def read_position(fields: Fields) -> Position:
    """The next Position of a layout. Raises DecodeError."""
    size = fields.number(8)
    return Position(size, fields.hashes(size.bit_count()))


def position_after(size: int, leaf: bytes, proof: tuple[bytes, ...]) -> Position:
    """Where a log of ``size`` leaves is, from the inclusion proof of its last ``leaf``, which
    must have been checked: all siblings on that path are complete subtrees to the left."""
    return Position(size - 1, tuple(reversed(proof))).add(leaf)


@dataclass(frozen=True, slots=True)
class Followed:
    """``changes``: index prefix -> the last round that changed it."""

    position: Position
    changes: Mapping[bytes, int]


def follow(position: Position, rounds: Iterable[FeedRound], end: int) -> Followed:
    """Go on to ``end`` by these rounds, which may begin earlier and go further. Raises DecodeError
    when one is missing."""
    changes: dict[bytes, int] = {}
    for each in rounds:
        if each.round.number < position.size or position.size >= end:
            continue
        if each.round.number != position.size:
            break
        position = position.add(each.round.digest())
        changes.update(dict.fromkeys(each.changes, each.round.number))
    if position.size != end:
        raise DecodeError("the change feed lacks rounds")
    return Followed(position, changes)
