"""Replaying operations over the directory's state. Pure: the same bytes give the same round
everywhere. The sequencer builds rounds with it, every verifier repeats it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from cbfs_common.errors import DecodeError
from cbfs_common.limits import COMMIT_LIFETIME, ROUND_OPERATIONS_MAX
from cbfs_common.names_entry import (
    CHANGE_SIZE,
    Entry,
    Round,
    changes_hash,
    decode_entry,
    name_index,
    operations_hash,
)
from cbfs_common.names_operations import (
    Kind,
    Link,
    Operation,
    OperationRefused,
    Refusal,
    apply_change,
    apply_register,
    check_place,
    commit_fits,
    commitment,
    decode_operation,
)
from cbfs_names.config import Config
from cbfs_names.tree import Leaf, Tree


@dataclass(frozen=True, slots=True, order=True)
class Committed:
    """When a COMMIT was made: round, its place in the round, the round's time."""

    round: int
    place: int
    time: int


class View(Protocol):
    """A consistent view of the directory's state."""

    def tip(self) -> Round | None:
        """The last round, or None before the first."""

    def entry(self, index: bytes) -> bytes | None:
        """The encoded entry at an index (32)."""

    def node(self, key: bytes) -> bytes | None:
        """A record of the map's tree."""

    def leaf(self, index: bytes, depth: int) -> Leaf:
        """The only leaf under the first ``depth`` bits of an index."""

    def log_hash(self, level: int, index: int) -> bytes:
        """A complete subtree's hash of the log."""

    def committed(self, commitment: bytes) -> Committed | None:
        """When this commitment (32) was made."""

    def commits_until(self, time: int) -> Iterator[bytes]:
        """Commitments made at or before ``time``."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What a round changes. ``links``: (index, incarnation, version, link)."""

    round: Round
    operations: tuple[bytes, ...]
    entries: dict[bytes, bytes]
    nodes: dict[bytes, bytes]
    links: tuple[tuple[bytes, int, int, Link], ...]
    commits: dict[bytes, Committed]
    commits_over: tuple[bytes, ...]


@dataclass(slots=True)
class Replay:
    """One round in the making: ``number`` and ``time`` (seconds) are the round's."""

    view: View
    config: Config
    number: int
    time: int
    _operations: list[bytes] = field(default_factory=list)
    _entries: dict[bytes, Entry] = field(default_factory=dict)
    _links: list[tuple[bytes, int, int, Link]] = field(default_factory=list)
    _commits: dict[bytes, Committed] = field(default_factory=dict)
    _last_registered: Committed | None = None

    def apply(self, encoded: bytes) -> None:
        """Add an encoded operation. Raises OperationRefused; then it is not in the round."""
        if len(self._operations) >= ROUND_OPERATIONS_MAX:
            raise OperationRefused(Refusal.TOO_MANY)
        try:
            operation = decode_operation(encoded)
        except DecodeError as error:
            raise OperationRefused(Refusal.BAD_REQUEST) from error
        check_place(operation, self.config.namespace, self.number)
        if operation.kind is Kind.COMMIT:
            self._commit(operation)
        else:
            self._change(operation, encoded)
        self._operations.append(encoded)

    def finish(self) -> Transition:
        """The round with everything applied."""
        entries = {index: entry.encode() for index, entry in self._entries.items()}
        values = {index: entry.digest() for index, entry in self._entries.items()}
        root, nodes = Tree(self.view.node, self.view.leaf).update(values)
        operations = tuple(self._operations)
        changes = tuple(sorted({index[:CHANGE_SIZE] for index in entries}))
        round_ = Round(
            self.config.namespace,
            self.number,
            self.time,
            root,
            operations_hash(operations),
            changes_hash(changes),
            self.config.digest(),
        )
        over = tuple(self.view.commits_until(self.time - COMMIT_LIFETIME - 1))
        return Transition(
            round_, operations, entries, nodes, tuple(self._links), self._commits, over
        )

    def _commit(self, operation: Operation) -> None:
        if self._committed(operation.secret) is not None:
            raise OperationRefused(Refusal.COMMIT_REPEATED)
        made = Committed(self.number, len(self._operations), self.time)
        self._commits[operation.secret] = made

    def _committed(self, hidden: bytes) -> Committed | None:
        made = self._commits.get(hidden) or self.view.committed(hidden)
        if made is None or self.time - made.time > COMMIT_LIFETIME:
            return None
        return made

    def _change(self, operation: Operation, encoded: bytes) -> None:
        index = name_index(self.config.namespace, operation.name)
        old = self._entries.get(index)
        if old is None:
            stored = self.view.entry(index)
            old = None if stored is None else decode_entry(stored)
        if operation.kind is Kind.REGISTER:
            made = self._registrable(operation)
            entry = apply_register(old, operation, self.number, self.time, self.config.lifetime)
            self._last_registered = made
        else:
            entry = apply_change(old, operation, self.number, self.time)
        self._entries[index] = entry
        link = Link(self.number, self.time, encoded)
        self._links.append((index, entry.incarnation, entry.version, link))

    def _registrable(self, operation: Operation) -> Committed:
        """REGISTERs stand in the order of their COMMITs: of two that want one name in the same
        round, the one that committed first gets it."""
        made = self._committed(registration_commitment(operation))
        if made is None or not commit_fits(self.number, self.time, made.round, made.time):
            raise OperationRefused(Refusal.NO_COMMIT)
        if self._last_registered is not None and made < self._last_registered:
            raise OperationRefused(Refusal.WRONG_ORDER)
        return made


def registration_commitment(operation: Operation) -> bytes:
    """The commitment (32) that a REGISTER opens."""
    return commitment(operation.namespace, operation.name, operation.owners, operation.secret)
