"""Replaying operations over the directory's state. Pure: the same bytes give the same round
everywhere. The sequencer builds rounds with it, every verifier repeats it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Protocol

from cbfs_common.errors import DecodeError
from cbfs_common.limits import (
    COMMIT_LIFETIME,
    COMMITS_MAX,
    ROUND_COMMITS_MAX,
    ROUND_OPERATIONS_MAX,
)
from cbfs_common.names.changes import (
    HistoryLink,
    apply_change,
    apply_register,
    check_place,
    check_term,
    commit_fits,
    taken_turn,
    turn_of,
)
from cbfs_common.names.config import Config, config_of
from cbfs_common.names.entry import (
    CHANGE_SIZE,
    Entry,
    Round,
    changes_hash,
    decode_entry,
    name_index,
    operations_hash,
)
from cbfs_common.names.operations import (
    Operation,
    OperationKind,
    OperationRefused,
    Refusal,
    commitment,
    decode_operation,
)
from cbfs_common.names.registration import (
    Invite,
    busy_after,
    check_commit,
    check_granted,
    waiting_at,
    work_asked,
)
from cbfs_common.names.trees import EMPTY_MAP
from cbfs_common.person import Person
from cbfs_names.state.map_nodes import Leaf, MapTree


@dataclass(frozen=True, slots=True, order=True)
class Committed:
    """When a COMMIT was made: round, its place in the round, the round's time; the key (32) of
    the invite that let it in, or empty, and the name that the invite was for, or empty."""

    round: int
    place: int
    time: int
    invite: bytes = b""
    granted: str = ""


class StateView(Protocol):
    """A consistent view of the directory's state, as it is before a round."""

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

    def commit_count(self) -> int:
        """How many commitments are kept."""

    def busy_until(self) -> int:
        """Until when (seconds) COMMITs that no invite has let in are remembered: see
        ``registration.work_asked``."""

    def turns_used(self, index: bytes, kind: OperationKind) -> int:
        """Until when (seconds) the turns for changes of this kind are used of the name at an index
        (32): see ``changes.turn_of``."""

    def invite(self, key: bytes) -> bytes | None:
        """The commitment (32) that an invite (by its key, 32) was last used for, empty when it is
        spent, None when it is new."""

    def config_text(self) -> str:
        """The configuration in force in the next round."""

    def commits_until(self, time: int) -> Iterator[bytes]:
        """Commitments made at or before ``time``."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What a round changes. ``links``: (index, incarnation, version, link). ``config``: the text
    that is in force from the next round on, when it is another. ``busy``: see
    ``StateView.busy_until``; ``turns``: ``StateView.turns_used``."""

    round: Round
    operations: tuple[bytes, ...]
    entries: dict[bytes, bytes]
    nodes: dict[bytes, bytes]
    links: tuple[tuple[bytes, int, int, HistoryLink], ...]
    commits: dict[bytes, Committed]
    commits_over: tuple[bytes, ...]
    busy: int
    turns: dict[tuple[bytes, OperationKind], int]
    invites: dict[bytes, bytes]
    config: str | None


@dataclass(slots=True)
class Replay:
    """One round in the making: ``number`` and ``time`` (seconds) are the round's."""

    view: StateView
    config: Config
    number: int
    time: int
    _operations: list[bytes] = field(default_factory=list)
    _entries: dict[bytes, Entry] = field(default_factory=dict)
    _links: list[tuple[bytes, int, int, HistoryLink]] = field(default_factory=list)
    _commits: dict[bytes, Committed] = field(default_factory=dict)
    _forgotten: dict[bytes, None] = field(default_factory=dict)
    _oldest: Iterator[bytes] | None = None
    _busy: int | None = None
    _turns: dict[tuple[bytes, OperationKind], int] = field(default_factory=dict)
    _invites: dict[bytes, bytes] = field(default_factory=dict)
    _last_registered: Committed | None = None
    _configured: str | None = None

    def apply(self, encoded: bytes) -> None:
        """Add an encoded operation. Raises OperationRefused; then it is not in the round."""
        if len(self._operations) >= ROUND_OPERATIONS_MAX:
            raise OperationRefused(Refusal.TOO_MANY)
        try:
            operation = decode_operation(encoded)
        except DecodeError as error:
            raise OperationRefused(Refusal.BAD_REQUEST) from error
        check_place(operation, self.config.directory, self.number)
        if operation.kind is OperationKind.COMMIT:
            self._commit(operation)
        elif operation.kind is OperationKind.CONFIGURE:
            self._configure(operation)
        else:
            self._change(operation, encoded)
        self._operations.append(encoded)

    def would_hold(self, encoded: bytes) -> bool:
        """Whether the round could hold this operation as well."""
        trial = replace(
            self,
            _operations=list(self._operations),
            _entries=dict(self._entries),
            _links=[],
            _commits=dict(self._commits),
            _forgotten=dict(self._forgotten),
            _oldest=None,
            _turns=dict(self._turns),
            _invites=dict(self._invites),
            _last_registered=None,  # it could have stood where its commitment's age puts it
        )
        try:
            trial.apply(encoded)
        except OperationRefused:
            return False
        return True

    def finish(self) -> Transition:
        """The round with everything applied. Raises StoreError when the map is damaged."""
        entries = {index: entry.encode() for index, entry in self._entries.items()}
        values = {index: entry.digest() for index, entry in self._entries.items()}
        tree, tip = MapTree(self.view.node, self.view.leaf), self.view.tip()
        tree.check_root(EMPTY_MAP if tip is None else tip.map_root)
        root, nodes = tree.update(values)
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
            round_,
            operations,
            entries,
            nodes,
            tuple(self._links),
            self._commits,
            (*over, *self._forgotten),
            self._busy_until(),
            self._turns,
            self._invites,
            self._configured,
        )

    def _commit(self, operation: Operation) -> None:
        if len(self._commits) >= ROUND_COMMITS_MAX:
            raise OperationRefused(Refusal.TOO_MANY)
        if self._committed(operation.secret) is not None:
            raise OperationRefused(Refusal.COMMIT_REPEATED)
        terms, busy = self.config.terms, self._busy_until()
        bits = work_asked(terms, waiting_at(busy, self.time))
        invite = check_commit(terms, operation, self.time, bits)
        made = Committed(self.number, len(self._operations), self.time)
        if invite is not None:
            self._use(invite, operation.secret)
            made = replace(made, invite=invite.key, granted=invite.name)
        else:
            self._busy = busy_after(busy, self.time)
            self._make_room()
        self._commits[operation.secret] = made

    def _busy_until(self) -> int:
        return self.view.busy_until() if self._busy is None else self._busy

    def _make_room(self) -> None:
        """For another COMMIT, when there are too many: the oldest goes that no invite has let in.
        Its owner can make it again, by the work that is asked then."""
        kept = self.view.commit_count() - len(self._forgotten) + len(self._commits)
        if kept < COMMITS_MAX:
            return
        if self._oldest is None:
            found = self.view.commits_until(self.time)
            candidates = (hidden for hidden in found if self._may_go(hidden))
            self._oldest = iter(tuple(islice(candidates, ROUND_COMMITS_MAX)))
        for hidden in self._oldest:
            self._forgotten[hidden] = None
            return

    def _may_go(self, hidden: bytes) -> bool:
        made = self._committed(hidden)
        return made is not None and not made.invite

    def _use(self, invite: Invite, hidden: bytes) -> None:
        """An invite is for one commitment at a time, and spent with its registration."""
        used = self._used(invite.key)
        if used is not None and (not used or self._committed(used) is not None):
            raise OperationRefused(Refusal.INVITE_SPENT)
        self._invites[invite.key] = hidden

    def _used(self, key: bytes) -> bytes | None:
        found = self._invites.get(key)
        return self.view.invite(key) if found is None else found

    def _configure(self, operation: Operation) -> None:
        """Signed by a quorum of the present configuration, for the rounds after this one."""
        try:
            new = config_of(operation.terms)
        except DecodeError as error:
            raise OperationRefused(Refusal.WRONG_CONFIG) from error
        if (
            self._configured is not None
            or operation.previous != self.config.digest()
            or new.log != self.config.log
            or new == self.config
        ):
            raise OperationRefused(Refusal.WRONG_CONFIG)
        claimed = [self.config.witness(key) for key in operation.claimed()]
        if None in claimed or not self.config.satisfied(each[0] for each in claimed if each):
            raise OperationRefused(Refusal.WRONG_SIGNATURE)
        operation.signers()
        self._configured = operation.terms

    def _committed(self, hidden: bytes) -> Committed | None:
        made = self._commits.get(hidden)
        if made is None and hidden not in self._forgotten:
            made = self.view.committed(hidden)
        if made is None or self.time - made.time > COMMIT_LIFETIME:
            return None
        return made

    def _change(self, operation: Operation, encoded: bytes) -> None:
        index = name_index(self.config.directory, operation.name)
        old = self._entries.get(index)
        if old is None:
            stored = self.view.entry(index)
            old = None if stored is None else decode_entry(stored)
        if operation.kind is OperationKind.REGISTER:
            made = self._registrable(operation)
            entry = apply_register(old, operation, self.number, self.time, self.config.lifetime)
            self._last_registered = made
            if made.invite:
                self._invites[made.invite] = b""
        else:
            if operation.kind is OperationKind.RENEW:
                check_term(old, operation, self.time, self.config.lifetime)
            entry = apply_change(old, operation, self.number, self.time)
            self._take_turn(index, operation, old)
        self._entries[index] = entry
        link = HistoryLink(self.number, self.time, encoded)
        self._links.append((index, entry.incarnation, entry.version, link))

    def _take_turn(self, index: bytes, operation: Operation, old: Entry | None) -> None:
        turn = None if old is None else turn_of(operation, old.settled(self.time))
        if turn is not None:
            kind, pace = turn
            used = self._turns.get((index, kind), self.view.turns_used(index, kind))
            self._turns[index, kind] = taken_turn(used, self.time, pace)

    def _registrable(self, operation: Operation) -> Committed:
        """REGISTERs stand in the order of their COMMITs: of two that want one name in the same
        round, the one that committed first gets it."""
        made = self._committed(registration_commitment(operation))
        if made is None or not commit_fits(self.number, self.time, made.round, made.time):
            raise OperationRefused(Refusal.NO_COMMIT)
        if self._last_registered is not None and made < self._last_registered:
            raise OperationRefused(Refusal.WRONG_ORDER)
        if made.invite and not self._used(made.invite):
            raise OperationRefused(Refusal.INVITE_SPENT)
        granted = made.granted if made.invite else None
        check_granted(self.config.terms, operation.name, granted)
        return made


def config_now(view: StateView) -> Config:
    """The configuration in force in the next round."""
    return config_of(view.config_text())


def registration_commitment(operation: Operation) -> bytes:
    """The commitment (32) that a REGISTER opens."""
    return commitment(
        Person(operation.directory, operation.name), operation.owners, operation.secret
    )
