"""What a client believes of the name directory, and why. PROTOCOL.rst, Names: checks.

A look-up says nothing of the heads that the client has seen, so that the directory cannot tell by
it which look-ups are one client's. Its head is kept, and the log must lead through it when the
client follows the log the next time.

Pure: ``check_lookup(policy, state, answer, ...) -> (new state, result)``. Every refused answer is
a DirectoryLies with the ``Fault`` that was found first, in the order of the specification.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from cbfs_common.errors import CryptoError, DecodeError, LimitError
from cbfs_common.limits import COSIGNATURE_AGE_MAX, COSIGNATURE_AHEAD_MAX, HEADS_SEEN_MAX
from cbfs_common.names.changes import HistoryLink
from cbfs_common.names.entry import (
    CHANGE_SIZE,
    Entry,
    Round,
    Status,
    decode_entry,
    decode_round,
    name_index,
)
from cbfs_common.names.faults import BundleRefused, DirectoryLies, Fault, NameChanged, NameExpired
from cbfs_common.names.feed import (
    FeedRound,
    Followed,
    Position,
    follow,
    position_after,
    read_position,
)
from cbfs_common.names.layout import Fields
from cbfs_common.names.note import (
    Checkpoint,
    parse_checkpoint,
    parse_note,
    verify_cosignature,
    verify_log,
)
from cbfs_common.names.operations import OperationRefused
from cbfs_common.names.policy import Policy, parse_policy
from cbfs_common.names.proofs import Evidence, decode_bundle, encode_bundle
from cbfs_common.names.trees import decode_map_proof, extends, includes
from cbfs_common.names.wire import HeadIs
from cbfs_common.person import DIRECTORY_SIZE, Person

__all__ = ["DirectoryLies", "Fault", "NameChanged", "NameExpired", "Policy", "parse_policy"]

_STATE_VERSION = 3


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """The ``head`` up to which the log was followed (size 0: none yet), the ``directory``
    (16) it belongs to, and the newest ``time`` (seconds) at which a head that was accepted was
    signed. ``feed``: up to where the changes are known. ``seen``: heads of look-ups since, by
    growing size, of which it is not known yet whether they are on one log."""

    directory: bytes
    head: Position
    time: int
    feed: Position
    seen: tuple[Position, ...] = ()

    @property
    def newest(self) -> Position:
        """The largest head that was accepted."""
        return self.seen[-1] if self.seen else self.head

    @property
    def size(self) -> int:
        """How many rounds the largest head has."""
        return self.newest.size

    def with_head(self, position: Position, time: int) -> "DirectoryState | None":
        """This state after a look-up with that head, which was signed at ``time``; None when the
        log was followed past it, so that it cannot be compared. Raises DirectoryLies (FORK) when
        another head of its size is known."""
        if not self.head.size:
            return replace(self, head=position, feed=position, time=time)
        if position.size < self.head.size:
            return None
        known = {each.size: each for each in (self.head, *self.seen)}
        if known.setdefault(position.size, position).root() != position.root():
            raise DirectoryLies(Fault.FORK)
        seen = tuple(known[size] for size in sorted(known) if size != self.head.size)
        return replace(self, seen=seen, time=time)

    def encode(self) -> bytes:
        """version u8 | directory 16 | head | time u64 | feed | count u8 | seen."""
        return (
            bytes([_STATE_VERSION])
            + self.directory
            + self.head.encode()
            + self.time.to_bytes(8, "big")
            + self.feed.encode()
            + bytes([len(self.seen)])
            + b"".join(each.encode() for each in self.seen)
        )


_START = Position(0, ())


def new_state(policy: Policy) -> DirectoryState:
    """What is known of a directory before its first answer."""
    return DirectoryState(policy.directory, _START, 0, _START)


def decode_state(data: bytes) -> DirectoryState:
    """Undo ``DirectoryState.encode``. Raises DecodeError."""
    fields = Fields(data, "a stored head of the name directory")
    if fields.number(1) != _STATE_VERSION:
        raise fields.error()
    directory, head = fields.take(DIRECTORY_SIZE), read_position(fields)
    time, feed, count = fields.number(8), read_position(fields), fields.number(1)
    if count > HEADS_SEEN_MAX:
        raise fields.error()
    seen = tuple(read_position(fields) for _ in range(count))
    fields.end()
    sizes = [feed.size, head.size, *(each.size for each in seen)]
    if sizes[0] > sizes[1] or any(one >= other for one, other in pairwise(sizes[1:])):
        raise fields.error()
    return DirectoryState(directory, head, time, feed, seen)


@dataclass(frozen=True, slots=True)
class Found:
    """The name is registered: its entry, and the bundle that shows it to others, which is empty
    when the entry is too large for one. ``degraded``: only the policy's weaker quorum has signed,
    and the entry is the contact's as it was known."""

    entry: Entry
    bundle: bytes
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class Absent:
    """Proven: nobody has the name."""


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head with a quorum's signatures. ``times``: (witness, seconds) of each cosignature."""

    checkpoint: Checkpoint
    round: Round
    times: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Newest:
    """A head that was polled and passes the checks of a head alone. ``degraded``: only under the
    policy's weaker quorum; then nothing may be learnt from it."""

    head: Position
    time: int
    degraded: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """What a message's bundle shows: the entry as of ``head``, which is no date, in that
    ``directory`` (16)."""

    entry: Entry
    head: Position
    directory: bytes

    @property
    def person(self) -> Person:
        """Whose entry it is."""
        return Person(self.directory, self.entry.name)


def check_lookup(
    policy: Policy,
    state: DirectoryState,
    evidence: Evidence,
    links: tuple[HistoryLink, ...],
    name: str,
    known: Entry | None,
    now: int,
    *,
    lapsed: bool = False,
) -> tuple[DirectoryState, Found | Absent]:
    """Check an answer to a look-up of ``name`` at ``now`` (seconds since 1970).

    ``known`` is the contact's entry as last accepted, or None. ``lapsed``: one that has run out,
    or was given up, is found all the same, for its owner. Raises DirectoryLies, NameExpired or
    NameChanged; then the old state holds.
    """
    try:
        state = check_head(policy, state, evidence, now)
    except DirectoryLies as error:
        if policy.degraded is None or known is None or error.fault not in _WEAKER:
            raise
        weaker = policy.degraded
        found = _unchanged(weaker, state, evidence, known, now, error)
        if found.entry.expires < now and not lapsed:
            raise NameExpired(found.entry) from None
        return state, found
    entry = _check_entry(policy, evidence, name)
    if entry is None:
        if known is not None:
            raise DirectoryLies(Fault.VANISHED)
        return state, Absent()
    over = entry.expires < now or entry.status is Status.RELEASED
    if over and not lapsed:
        raise NameExpired(entry)
    if known is not None and _age(entry) < _age(known):
        raise DirectoryLies(Fault.ROLLED_BACK)
    check_succession(policy, known, entry, links)
    try:
        bundle = encode_bundle(policy.directory, evidence, links)
    except LimitError:
        bundle = b""
    return state, Found(entry, bundle)


def check_head(
    policy: Policy, state: DirectoryState, evidence: Evidence, now: int
) -> DirectoryState:
    """The checks of a look-up's head alone; the state after it, whose ``newest`` it is. Raises
    DirectoryLies."""
    head = _open_head(policy, evidence.note, evidence.round)
    if state.directory != policy.directory:
        raise DirectoryLies(Fault.NAMESPACE)
    time = _check_times(policy, head, state.time, now)
    position = _check_last(head, evidence.log_proof)
    after = None if position.size < state.size else state.with_head(position, time)
    if after is None:
        raise DirectoryLies(Fault.SMALLER)
    return after


def check_newest(policy: Policy, state: DirectoryState, polled: HeadIs, now: int) -> Newest:
    """The checks of a polled head but that it extends the stored one, which ``check_feed`` makes.
    Raises DirectoryLies."""
    try:
        return _check_newest(policy, state, polled, now)
    except DirectoryLies as error:
        if policy.degraded is None or error.fault not in _WEAKER:
            raise
        return replace(_check_newest(policy.degraded, state, polled, now), degraded=True)


def check_feed(
    state: DirectoryState, newest: Newest, rounds: tuple[FeedRound, ...]
) -> tuple[DirectoryState, Mapping[bytes, int]]:
    """Follow the change feed to a strict ``newest`` head by these rounds, through every head that
    was seen: the state after it, and the index prefixes that changed since the last time, each with
    the last round that did it. Raises DirectoryLies."""
    changes = check_leads_to(state.feed, rounds, newest.head)
    for position in (state.head, *state.seen):
        check_leads_to(position, rounds, newest.head)
    return replace(followed(state, newest), feed=newest.head), changes


def followed(state: DirectoryState, newest: Newest) -> DirectoryState:
    """The state when the log has been followed to a strict ``newest`` head."""
    return replace(state, head=newest.head, time=newest.time, seen=())


def check_leads_to(
    position: Position, rounds: tuple[FeedRound, ...], end: Position
) -> Mapping[bytes, int]:
    """That these rounds lead from one position to the other; what they changed. Raises
    DirectoryLies."""
    try:
        found = follow(position, rounds, end.size)
    except DecodeError as error:
        raise DirectoryLies(Fault.FEED) from error
    if found.position.root() != end.root():
        raise DirectoryLies(Fault.FORK)
    return found.changes


def check_extends(
    position: Position,
    rounds: tuple[FeedRound, ...],
    proof: tuple[bytes, ...],
    old: int,
    end: Position,
) -> Followed:
    """That the log at ``end`` goes on from a position: by rounds up to size ``old``, and by a
    consistency proof from there. What the rounds lead to. Raises DirectoryLies."""
    try:
        between = follow(position, rounds, old)
    except DecodeError as error:
        raise DirectoryLies(Fault.FEED) from error
    if not extends(old, end.size, between.position.root(), end.root(), proof):
        raise DirectoryLies(Fault.FORK)
    return between


def is_current(
    policy: Policy, state: DirectoryState, shown: Shown, rounds: tuple[FeedRound, ...]
) -> bool:
    """Whether what a bundle shows is still so where the feed has been followed to: its head lies
    on the same log, and its index is not among the changes since. Raises DirectoryLies."""
    changes = check_leads_to(shown.head, rounds, state.feed)
    index = name_index(policy.directory, shown.entry.name)
    return index[:CHANGE_SIZE] not in changes


_WEAKER = frozenset((Fault.QUORUM, Fault.STALE))
"""What a degraded policy may help with."""


def _check_newest(policy: Policy, state: DirectoryState, polled: HeadIs, now: int) -> Newest:
    head = _open_head(policy, polled.note, polled.round)
    if state.directory != policy.directory:
        raise DirectoryLies(Fault.NAMESPACE)
    time = _check_times(policy, head, state.time, now)
    position = _check_last(head, polled.log_proof)
    if position.size < state.size:
        raise DirectoryLies(Fault.SMALLER)
    return Newest(position, time, degraded=False)


def _unchanged(
    weaker: Policy,
    state: DirectoryState,
    evidence: Evidence,
    known: Entry,
    now: int,
    error: DirectoryLies,
) -> Found:
    """What a degraded policy allows: the contact as it was known, and nothing else."""
    check_head(weaker, state, evidence, now)
    entry = _check_entry(weaker, evidence, known.name)
    if entry is None or entry.digest() != known.digest():
        raise error
    return Found(entry, b"", degraded=True)


def open_bundle(policy: Policy, bundle: bytes, known: Entry | None = None) -> Shown:
    """What a message's bundle shows, at a time of its own that nothing says: ask ``is_current``.
    An entry older than ``known`` is not followed: it comes out as it is. Raises BundleRefused or
    NameChanged."""
    try:
        return _open_bundle(policy, bundle, known)
    except DirectoryLies as error:
        raise BundleRefused(error.fault) from error


def _open_bundle(policy: Policy, bundle: bytes, known: Entry | None) -> Shown:
    try:
        directory, evidence, links = decode_bundle(bundle)
    except DecodeError as error:
        raise DirectoryLies(Fault.MALFORMED) from error
    if directory != policy.directory:
        raise DirectoryLies(Fault.NAMESPACE)
    head = _open_head(policy, evidence.note, evidence.round)
    position = _check_last(head, evidence.log_proof)
    entry = _check_entry(policy, evidence, None)
    if entry is None:
        raise DirectoryLies(Fault.MALFORMED)
    if known is not None and entry.name != known.name:
        raise DirectoryLies(Fault.WRONG_NAME)
    if known is None or _age(entry) >= _age(known):
        check_succession(policy, known, entry, links)
    return Shown(entry, position, directory)


def check_bundle(policy: Policy, bundle: bytes, known: Entry | None = None) -> Entry:
    """The entry that a bundle shows, or ``known`` when that is newer. Raises what ``open_bundle``
    does."""
    entry = open_bundle(policy, bundle, known).entry
    return known if known is not None and _age(entry) < _age(known) else entry


def check_succession(
    policy: Policy, known: Entry | None, entry: Entry, links: tuple[HistoryLink, ...]
) -> None:
    """That ``entry`` is ``known`` or follows from it by operations that its owners signed: the
    last of ``links``, oldest first. Raises DirectoryLies or NameChanged."""
    if known is None:
        return
    if entry.incarnation != known.incarnation:
        raise NameChanged(entry)
    if entry.version == known.version:
        if entry.digest() != known.digest():
            raise DirectoryLies(Fault.SAME_VERSION)
        return
    steps = entry.version - known.version
    if len(links) < steps:
        raise DirectoryLies(Fault.CHAIN)
    at, recovered = known, False
    try:
        for link in links[-steps:]:
            recovered = recovered or at.settled(link.time).owners != at.owners
            at = link.follow(at, policy.directory)
    except (OperationRefused, DecodeError) as error:
        raise DirectoryLies(Fault.CHAIN) from error
    if at.digest() != entry.digest():
        raise DirectoryLies(Fault.CHAIN)
    if recovered:
        raise NameChanged(entry)


def _age(entry: Entry) -> tuple[int, int]:
    return entry.incarnation, entry.version


def _open_head(policy: Policy, signed: bytes, leaf: bytes) -> SignedHead:
    """Policy over distinct keys on identical bytes; then namespace and configuration."""
    try:
        note = parse_note(signed)
        checkpoint = parse_checkpoint(note.text.decode("ascii"))
        round_ = decode_round(leaf)
        signature = note.signature(policy.log)
        if signature is not None:
            verify_log(policy.log, note.text, signature)
        lines = [(name, key, note.signature(key)) for name, key in policy.witnesses]
        times = tuple(
            (name, verify_cosignature(key, note.text, line))
            for name, key, line in lines
            if line is not None
        )
    except CryptoError as error:
        raise DirectoryLies(Fault.SIGNATURE) from error
    except DecodeError as error:
        raise DirectoryLies(Fault.MALFORMED) from error
    if signature is None or not policy.satisfied(name for name, _ in times):
        raise DirectoryLies(Fault.QUORUM)
    if checkpoint.origin != policy.namespace or round_.namespace != policy.namespace:
        raise DirectoryLies(Fault.NAMESPACE)
    if round_.config != policy.config:
        raise DirectoryLies(Fault.CONFIG)
    return SignedHead(checkpoint, round_, times)


def _check_times(policy: Policy, head: SignedHead, floor: int, now: int) -> int:
    """The latest time by which a quorum had signed."""
    newest = sorted(head.times, key=lambda each: each[1], reverse=True)
    timely = [each for each in newest if each[1] <= now + COSIGNATURE_AHEAD_MAX]
    if not policy.satisfied(name for name, _ in timely):
        raise DirectoryLies(Fault.FUTURE, now - _signed_by(policy, newest))
    time = _signed_by(policy, timely)
    if time < now - COSIGNATURE_AGE_MAX:
        raise DirectoryLies(Fault.STALE, now - time)
    # a floor of a time to come was kept while this computer's clock was wrong
    if time < floor <= now + COSIGNATURE_AHEAD_MAX:
        raise DirectoryLies(Fault.CLOCK)
    return time


def _signed_by(policy: Policy, newest: list[tuple[str, int]]) -> int:
    """The time by which a quorum of these had signed, newest first; there is one among them."""
    count = next(
        count
        for count in range(1, len(newest) + 1)
        if policy.satisfied(name for name, _ in newest[:count])
    )
    return newest[count - 1][1]


def _check_last(head: SignedHead, proof: tuple[bytes, ...]) -> Position:
    """The head's round is the last leaf of its log; the position that this shows."""
    size = head.checkpoint.size
    leaf = head.round.digest()
    if head.round.number != size - 1 or not includes(
        size - 1, size, leaf, proof, head.checkpoint.root
    ):
        raise DirectoryLies(Fault.LAST_ROUND)
    return position_after(size, leaf, proof)


def _check_entry(policy: Policy, evidence: Evidence, name: str | None) -> Entry | None:
    """The proven entry of ``name`` (None: whatever name the entry has), or None: proven absent."""
    try:
        proof = decode_map_proof(evidence.map_proof)
        entry = decode_entry(evidence.entry) if evidence.entry else None
    except DecodeError as error:
        raise DirectoryLies(Fault.MAP_PROOF) from error
    asked = name if name is not None else (entry.name if entry else "")
    value = entry.digest() if entry else None
    root = decode_round(evidence.round).map_root
    if entry is not None and entry.name != asked:
        raise DirectoryLies(Fault.WRONG_NAME)
    if not proof.proves(root, name_index(policy.directory, asked), value):
        raise DirectoryLies(Fault.MAP_PROOF)
    return entry
