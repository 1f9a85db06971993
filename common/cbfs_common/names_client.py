"""What a client believes of the name directory, and why. PROTOCOL.rst, Names: checks.

Pure: ``check_lookup(policy, state, answer, ...) -> (new state, result)``. Every refused answer is
a DirectoryLies with the ``Fault`` that was found first, in the order of the specification.
"""

from dataclasses import dataclass
from enum import Enum

from cbfs_common.errors import CbfsError, CryptoError, DecodeError, LimitError
from cbfs_common.limits import COSIGNATURE_AGE_MAX, COSIGNATURE_AHEAD_MAX
from cbfs_common.names_entry import Entry, Round, decode_entry, decode_round, name_index
from cbfs_common.names_evidence import Evidence, decode_bundle, encode_bundle
from cbfs_common.names_layout import HASH_SIZE, Fields, labelled
from cbfs_common.names_log import extends, includes
from cbfs_common.names_map import decode_map_proof
from cbfs_common.names_note import (
    Checkpoint,
    parse_checkpoint,
    parse_note,
    verify_cosignature,
    verify_log,
)
from cbfs_common.names_operations import Link, OperationRefused
from cbfs_common.names_policy import Policy, parse_policy

__all__ = ["Policy", "parse_policy"]

_STATE_VERSION = 1
STATE_LABEL = b"cbfs1 names state"


class Fault(Enum):
    """What is wrong with an answer, in the order of the checks."""

    MALFORMED = "it is malformed"
    SIGNATURE = "a signature of its head is wrong"
    QUORUM = "too few of the policy's verifiers have signed its head"
    NAMESPACE = "it is another directory's"
    CONFIG = "its verifiers run another configuration than the policy's"
    STALE = "its head was signed too long ago"
    FUTURE = "its head is signed for a time to come"
    CLOCK = "its head was signed earlier than one seen before"
    LAST_ROUND = "its round is not the last of its log"
    SMALLER = "its log is shorter than before"
    FORK = "its log contradicts the one seen before"
    MAP_PROOF = "its proof is wrong"
    WRONG_NAME = "it is about another name"
    VANISHED = "it denies a name that it had"
    SAME_VERSION = "it has two entries of one version"
    ROLLED_BACK = "it has an older entry than before"
    CHAIN = "its entry does not follow from the one known"


_CLOCK_HINT = "check this computer's clock; if it is right, the directory's verifiers have stopped"
_HINTS = {
    Fault.STALE: _CLOCK_HINT,
    Fault.FUTURE: "check this computer's clock",
    Fault.CLOCK: _CLOCK_HINT,
    Fault.NAMESPACE: "use the policy file of the directory that the account was made with",
}


class DirectoryLies(CbfsError):
    """An answer that fails a check. Nothing of it is believed."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(
            f"the name directory's answer is refused: {fault.value}",
            _HINTS.get(fault, "tell the directory's operator; nothing was changed here"),
        )
        self.fault = fault


class NameExpired(CbfsError):
    """The name's registration has run out; ``entry`` is what it was."""

    def __init__(self, entry: Entry) -> None:
        super().__init__("the name's registration has expired", "its owner must renew it")
        self.entry = entry


class NameChanged(CbfsError):
    """Somebody else, or the owner anew, has registered a known contact's name: ``entry``. Only
    the user can say whether it is the same person."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(
            "the name belongs to a new owner", "ask the person, by voice, before writing to them"
        )
        self.entry = entry


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """The newest head accepted: ``size`` rounds under ``root`` (32), signed at ``time`` (seconds);
    and a hash of the ``namespace`` (32) it belongs to. Size 0: none yet."""

    namespace: bytes
    size: int
    root: bytes
    time: int

    def encode(self) -> bytes:
        """version u8 | namespace hash 32 | size u64 | root 32 | time u64."""
        return (
            bytes([_STATE_VERSION])
            + self.namespace
            + self.size.to_bytes(8, "big")
            + self.root
            + self.time.to_bytes(8, "big")
        )


def new_state(policy: Policy) -> DirectoryState:
    """Before the first answer."""
    namespace = labelled(STATE_LABEL, policy.namespace.encode("ascii"))
    return DirectoryState(namespace, 0, bytes(HASH_SIZE), 0)


def decode_state(data: bytes) -> DirectoryState:
    """Undo ``DirectoryState.encode``. Raises DecodeError."""
    fields = Fields(data, "a stored head of the name directory")
    if fields.number(1) != _STATE_VERSION:
        raise fields.error()
    namespace, size, root = fields.take(HASH_SIZE), fields.number(8), fields.take(HASH_SIZE)
    state = DirectoryState(namespace, size, root, fields.number(8))
    fields.end()
    return state


@dataclass(frozen=True, slots=True)
class Found:
    """The name is registered: its entry, and the bundle that shows it to others, which is empty
    when the entry is too large for one."""

    entry: Entry
    bundle: bytes


@dataclass(frozen=True, slots=True)
class Absent:
    """Proven: nobody has the name."""


@dataclass(frozen=True, slots=True)
class Head:
    """A head with a quorum's signatures. ``times``: (witness, seconds) of each cosignature."""

    checkpoint: Checkpoint
    round: Round
    times: tuple[tuple[str, int], ...]


def check_lookup(
    policy: Policy,
    state: DirectoryState,
    evidence: Evidence,
    consistency: tuple[bytes, ...],
    links: tuple[Link, ...],
    name: str,
    known: Entry | None,
    now: int,
) -> tuple[DirectoryState, Found | Absent]:
    """Check an answer to a look-up of ``name`` at ``now`` (seconds since 1970).

    ``known`` is the contact's entry as last accepted, or None. Raises DirectoryLies, NameExpired
    or NameChanged; then the old state holds.
    """
    state = check_head(policy, state, evidence, consistency, now)
    entry = _check_entry(policy, evidence, name)
    if entry is None:
        if known is not None:
            raise DirectoryLies(Fault.VANISHED)
        return state, Absent()
    if entry.expires < now:
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
    head = _open_head(policy, evidence)
    if state.namespace != new_state(policy).namespace:
        raise DirectoryLies(Fault.NAMESPACE)
    time = _check_times(policy, head, state.time, now)
    _check_last(head, evidence)
    checkpoint = head.checkpoint
    if checkpoint.size < state.size:
        raise DirectoryLies(Fault.SMALLER)
    if state.size and not extends(
        state.size, checkpoint.size, state.root, checkpoint.root, consistency
    ):
        raise DirectoryLies(Fault.FORK)
    return DirectoryState(state.namespace, checkpoint.size, checkpoint.root, time)


def check_bundle(policy: Policy, bundle: bytes, known: Entry | None = None) -> Entry:
    """The entry that a message's bundle shows, for an own, undated time: the directory should be
    asked afterwards whether it is current. An entry older than ``known`` is ignored: ``known`` is
    given back. Raises DirectoryLies or NameChanged."""
    try:
        evidence, links = decode_bundle(bundle)
    except DecodeError as error:
        raise DirectoryLies(Fault.MALFORMED) from error
    head = _open_head(policy, evidence)
    _check_last(head, evidence)
    entry = _check_entry(policy, evidence, None)
    if entry is None:
        raise DirectoryLies(Fault.MALFORMED)
    if known is not None and entry.name != known.name:
        raise DirectoryLies(Fault.WRONG_NAME)
    if known is not None and _age(entry) < _age(known):
        return known
    check_succession(policy, known, entry, links)
    return entry


def check_succession(
    policy: Policy, known: Entry | None, entry: Entry, links: tuple[Link, ...]
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
    at = known
    try:
        for link in links[-steps:]:
            at = link.follow(at, policy.namespace)
    except (OperationRefused, DecodeError) as error:
        raise DirectoryLies(Fault.CHAIN) from error
    if at.digest() != entry.digest():
        raise DirectoryLies(Fault.CHAIN)


def _age(entry: Entry) -> tuple[int, int]:
    return entry.incarnation, entry.version


def _open_head(policy: Policy, evidence: Evidence) -> Head:
    """Policy over distinct keys on identical bytes; then namespace and configuration."""
    try:
        note = parse_note(evidence.note)
        checkpoint = parse_checkpoint(note.text.decode("ascii"))
        round_ = decode_round(evidence.round)
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
    return Head(checkpoint, round_, times)


def _check_times(policy: Policy, head: Head, floor: int, now: int) -> int:
    """The latest time by which a quorum had signed."""
    newest = sorted(head.times, key=lambda each: each[1], reverse=True)
    timely = [each for each in newest if each[1] <= now + COSIGNATURE_AHEAD_MAX]
    if not policy.satisfied(name for name, _ in timely):
        raise DirectoryLies(Fault.FUTURE)
    count = next(
        count
        for count in range(1, len(timely) + 1)
        if policy.satisfied(name for name, _ in timely[:count])
    )
    time = timely[count - 1][1]
    if time < now - COSIGNATURE_AGE_MAX:
        raise DirectoryLies(Fault.STALE)
    if time < floor:
        raise DirectoryLies(Fault.CLOCK)
    return time


def _check_last(head: Head, evidence: Evidence) -> None:
    size = head.checkpoint.size
    leaf = head.round.digest()
    if head.round.number != size - 1 or not includes(
        size - 1, size, leaf, evidence.log_proof, head.checkpoint.root
    ):
        raise DirectoryLies(Fault.LAST_ROUND)


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
