"""What a client believes of the name directory, and why. PROTOCOL.rst, Names: checks.

Pure: ``check_lookup(policy, state, answer, ...) -> (new state, result)``. Every refused answer is
a DirectoryLies with the ``Fault`` that was found first, in the order of the specification.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cbfs_common.errors import CryptoError, DecodeError, LimitError
from cbfs_common.limits import COSIGNATURE_AGE_MAX, COSIGNATURE_AHEAD_MAX
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
from cbfs_common.names.feed import FeedRound, Position, follow, position_after, read_position
from cbfs_common.names.layout import HASH_SIZE, Fields, labelled
from cbfs_common.names.note import (
    Checkpoint,
    parse_checkpoint,
    parse_note,
    verify_cosignature,
    verify_log,
)
from cbfs_common.names.operations import HistoryLink, OperationRefused
from cbfs_common.names.policy import Policy, parse_policy
from cbfs_common.names.proofs import Evidence, decode_bundle, encode_bundle
from cbfs_common.names.trees import decode_map_proof, extends, includes
from cbfs_common.names.wire import HeadIs

__all__ = ["DirectoryLies", "Fault", "NameChanged", "NameExpired", "Policy", "parse_policy"]

_STATE_VERSION = 2
STATE_LABEL = b"cbfs1 names state"


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """The newest ``head`` accepted, signed at ``time`` (seconds), and a hash of the ``namespace``
    (32) it belongs to. Size 0: none yet. ``feed``: how far the change feed has been followed."""

    namespace: bytes
    head: Position
    time: int
    feed: Position

    @property
    def size(self) -> int:
        """How many rounds the newest head has."""
        return self.head.size

    @property
    def root(self) -> bytes:
        """The root (32) of the newest head."""
        return self.head.root()

    def encode(self) -> bytes:
        """version u8 | namespace hash 32 | head | time u64 | feed."""
        return (
            bytes([_STATE_VERSION])
            + self.namespace
            + self.head.encode()
            + self.time.to_bytes(8, "big")
            + self.feed.encode()
        )


_START = Position(0, ())


def new_state(policy: Policy) -> DirectoryState:
    """What is known of a directory before its first answer."""
    namespace = labelled(STATE_LABEL, policy.namespace.encode("ascii"))
    return DirectoryState(namespace, _START, 0, _START)


def decode_state(data: bytes) -> DirectoryState:
    """Undo ``DirectoryState.encode``. Raises DecodeError."""
    fields = Fields(data, "a stored head of the name directory")
    if fields.number(1) != _STATE_VERSION:
        raise fields.error()
    namespace, head = fields.take(HASH_SIZE), read_position(fields)
    state = DirectoryState(namespace, head, fields.number(8), read_position(fields))
    fields.end()
    return state


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
    """What a message's bundle shows: the entry as of ``head``, which is no date."""

    entry: Entry
    head: Position


def check_lookup(
    policy: Policy,
    state: DirectoryState,
    evidence: Evidence,
    consistency: tuple[bytes, ...],
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
        state = check_head(policy, state, evidence, consistency, now)
    except DirectoryLies as error:
        if policy.degraded is None or known is None or error.fault not in _WEAKER:
            raise
        weaker = policy.degraded
        found = _unchanged(weaker, state, evidence, consistency, known, now, error)
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
        bundle = encode_bundle(evidence, links)
    except LimitError:
        bundle = b""
    return state, Found(entry, bundle)


def check_head(
    policy: Policy,
    state: DirectoryState,
    evidence: Evidence,
    consistency: tuple[bytes, ...],
    now: int,
) -> DirectoryState:
    """The checks of a head alone; the state after it. Raises DirectoryLies."""
    head = _open_head(policy, evidence.note, evidence.round)
    if state.namespace != new_state(policy).namespace:
        raise DirectoryLies(Fault.NAMESPACE)
    time = _check_times(policy, head, state.time, now)
    position = _check_last(head, evidence.log_proof)
    if position.size < state.size:
        raise DirectoryLies(Fault.SMALLER)
    if state.size and not extends(
        state.size, position.size, state.root, position.root(), consistency
    ):
        raise DirectoryLies(Fault.FORK)
    feed = state.feed if state.size else position
    return DirectoryState(state.namespace, position, time, feed)


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
    """Follow the change feed to a strict ``newest`` head by these rounds: the state after it, and
    the index prefixes that changed since the last time, each with the last round that did it.
    Raises DirectoryLies."""
    try:
        followed = follow(state.feed, rounds, newest.head.size, past=state.size)
    except DecodeError as error:
        raise DirectoryLies(Fault.FEED) from error
    if followed.position.root() != newest.head.root() or followed.passed != state.root:
        raise DirectoryLies(Fault.FORK)
    return DirectoryState(state.namespace, newest.head, newest.time, newest.head), followed.changes


def is_current(
    policy: Policy, state: DirectoryState, shown: Shown, rounds: tuple[FeedRound, ...]
) -> bool:
    """Whether what a bundle shows is still so where the feed has been followed to: its head lies
    on the same log, and its index is not among the changes since. Raises DirectoryLies."""
    try:
        followed = follow(shown.head, rounds, state.feed.size)
    except DecodeError as error:
        raise DirectoryLies(Fault.FEED) from error
    if followed.position.root() != state.feed.root():
        raise DirectoryLies(Fault.FORK)
    index = name_index(policy.namespace, shown.entry.name)
    return index[:CHANGE_SIZE] not in followed.changes


_WEAKER = frozenset((Fault.QUORUM, Fault.STALE))
"""What a degraded policy may help with."""


def _check_newest(policy: Policy, state: DirectoryState, polled: HeadIs, now: int) -> Newest:
    head = _open_head(policy, polled.note, polled.round)
    if state.namespace != new_state(policy).namespace:
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
    consistency: tuple[bytes, ...],
    known: Entry,
    now: int,
    error: DirectoryLies,
) -> Found:
    """What a degraded policy allows: the contact as it was known, and nothing else."""
    check_head(weaker, state, evidence, consistency, now)
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
        evidence, links = decode_bundle(bundle)
    except DecodeError as error:
        raise DirectoryLies(Fault.MALFORMED) from error
    head = _open_head(policy, evidence.note, evidence.round)
    position = _check_last(head, evidence.log_proof)
    entry = _check_entry(policy, evidence, None)
    if entry is None:
        raise DirectoryLies(Fault.MALFORMED)
    if known is not None and entry.name != known.name:
        raise DirectoryLies(Fault.WRONG_NAME)
    if known is None or _age(entry) >= _age(known):
        check_succession(policy, known, entry, links)
    return Shown(entry, position)


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
            at = link.follow(at, policy.namespace)
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
    if not proof.proves(root, name_index(policy.namespace, asked), value):
        raise DirectoryLies(Fault.MAP_PROOF)
    return entry
