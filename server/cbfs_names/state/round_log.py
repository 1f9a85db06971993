"""The log of rounds as stored subtree hashes: appending and making proofs (RFC 9162, 2.1); and its
newest head as clients get it.

Hash (level, index) is that of the complete subtree over leaves index * 2^level and following.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cbfs_common.names.note import SignedNote
from cbfs_common.names.operations import Refusal
from cbfs_common.names.trees import EMPTY_ROOT, node_hash
from cbfs_host.complaints import StoreError
from cbfs_names.state.store import Snapshot


@dataclass(frozen=True, slots=True)
class RoundLog:
    """The log as it is stored: ``size`` leaves; ``hash(level, index)`` gives the hash (32) of a
    complete subtree."""

    size: int
    hash: Callable[[int, int], bytes]

    def root(self) -> bytes:
        """The hash (32) of the log's root."""
        return self._range(0, self.size) if self.size else EMPTY_ROOT

    def append(self, leaf: bytes) -> tuple[bytes, dict[tuple[int, int], bytes]]:
        """The root (32) with one more leaf hash (32), and the subtree hashes it completes."""
        made = {(0, self.size): leaf}
        level, index, found = 0, self.size, leaf
        while index & 1:
            found = node_hash(self.hash(level, index - 1), found)
            level, index = level + 1, index >> 1
            made[level, index] = found

        def both(level: int, index: int) -> bytes:
            return made[level, index] if (level, index) in made else self.hash(level, index)

        return RoundLog(self.size + 1, both).root(), made

    def inclusion(self, index: int) -> tuple[bytes, ...]:
        """Proof that leaf ``index`` is in the log. RFC 9162, 2.1.3.1."""
        return tuple(self._path(index, 0, self.size))

    def consistency(self, old_size: int) -> tuple[bytes, ...]:
        """Proof that the log of ``old_size`` leaves was its beginning. RFC 9162, 2.1.4.1.
        Empty for sizes from which there is nothing to prove."""
        if not 0 < old_size < self.size:
            return ()
        return tuple(self._subproof(old_size, 0, self.size, whole=True))

    def _range(self, begin: int, end: int) -> bytes:
        """The hash over leaves begin to end - 1, where begin is a multiple of what fits."""
        size = end - begin
        if size & (size - 1) == 0:
            level = size.bit_length() - 1
            return self.hash(level, begin >> level)
        middle = begin + _split(size)
        return node_hash(self._range(begin, middle), self._range(middle, end))

    def _path(self, index: int, begin: int, end: int) -> list[bytes]:
        if end - begin == 1:
            return []
        middle = begin + _split(end - begin)
        if index < middle:
            return [*self._path(index, begin, middle), self._range(middle, end)]
        return [*self._path(index, middle, end), self._range(begin, middle)]

    def _subproof(self, old: int, begin: int, end: int, *, whole: bool) -> list[bytes]:
        """``whole``: the old tree's root is what is being completed, so the client knows it."""
        if old == end:
            return [] if whole else [self._range(begin, end)]
        middle = begin + _split(end - begin)
        if old <= middle:
            return [*self._subproof(old, begin, middle, whole=whole), self._range(middle, end)]
        return [*self._subproof(old, middle, end, whole=False), self._range(begin, middle)]


def _split(size: int) -> int:
    """The largest power of two smaller than ``size`` (at least 2)."""
    return 1 << ((size - 1).bit_length() - 1)


# Its newest head


@dataclass(frozen=True, slots=True)
class Head:
    """The newest published round as clients get it: signed head, leaf, and proof that it is the
    last. ``number``: the round's."""

    note: bytes
    round: bytes
    number: int
    log_proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of operations: ``placed`` are in the round of ``head``, ``refused`` in none.
    ``head`` is None when no round was made."""

    head: Head | None
    placed: frozenset[bytes]
    refused: dict[bytes, Refusal]


def head_of(view: Snapshot, note: SignedNote) -> Head:
    """The newest round in ``view`` under its signed head."""
    tip = view.tip()
    if tip is None:
        raise StoreError("the store has no round", "restore it from a backup")
    proof = RoundLog(tip.number + 1, view.log_hash).inclusion(tip.number)
    return Head(note.encode(), tip.encode(), tip.number, proof)
