"""A directory for tests that says what it is told to say, and signs it: honest until it is changed.

All verifiers and the sequencer are in its hand. What it answers comes from the naive implementation
of the trees, over every round that it has made."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from cbfs_common.limits import FEED_PART, FEED_TILE
from cbfs_common.names.changes import HistoryLink, apply_change, apply_register
from cbfs_common.names.entry import Entry, Round, changes_hash, name_index
from cbfs_common.names.feed import FeedRound
from cbfs_common.names.note import Checkpoint, SignedNote, cosign, sign_checkpoint
from cbfs_common.names.operations import (
    OperationKind,
    OperationRefused,
    decode_operation,
)
from cbfs_common.names.proofs import Evidence
from cbfs_common.names.wire import (
    AskChanges,
    AskConsistency,
    AskHead,
    AskHistory,
    AskTerms,
    ChangesAre,
    ConsistencyIs,
    HeadIs,
    LookedUp,
    Lookup,
    RefusedReply,
    Reply,
    Request,
    Steps,
    Submit,
    Submitted,
    TermsAre,
)
from tests.support.names_naive import (
    CONFIG,
    DIRECTORY,
    LOG_SEED,
    NAMESPACE,
    TERMS,
    ZERO,
    log_consistency,
    log_path,
    log_root,
    map_proof,
    subtree,
    verifier_key,
    verifier_seed,
)

LIFETIME = 10**7


@dataclass
class Liar:
    """``requests``: all that it was asked. ``clock``: seconds, of its signatures. ``twist``
    changes replies on their way out."""

    requests: list[Request] = field(default_factory=list)
    clock: Callable[[], float] = time.time
    signers: tuple[int, ...] = (1,)
    twist: Callable[[Request, Reply], Reply | None] = lambda request, reply: reply
    rounds: list[FeedRound] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    links: dict[str, list[HistoryLink]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.put()

    # what it says

    def put(self, *entries: Entry, changed: tuple[str, ...] = ()) -> Round:
        """One more round: these entries, and ``changed`` names beside them."""
        for entry in entries:
            self.entries[entry.name] = entry
        names = {*changed, *(entry.name for entry in entries)}
        prefixes = tuple(sorted(name_index(DIRECTORY, name)[:8] for name in names))
        number, now = len(self.rounds), int(self.clock())
        root, changes = subtree(self._leaves(), ""), changes_hash(prefixes)
        made = Round(NAMESPACE, number, now, root, ZERO, changes, CONFIG)
        self.rounds.append(FeedRound(made, prefixes))
        return made

    def reregister(self, name: str, profile: bytes) -> Entry:
        """Somebody else has the name."""
        old = self.entries[name]
        taken = replace(
            old,
            incarnation=old.incarnation + 1,
            version=1,
            round=len(self.rounds),
            previous=old.digest(),
            profile=profile,
        )
        self.links[name] = []
        self.put(taken)
        return taken

    @contextmanager
    def memory(self) -> Iterator[None]:
        """What it says in the block is forgotten after it."""
        kept = list(self.rounds), dict(self.entries), dict(self.links)
        try:
            yield
        finally:
            self.rounds, self.entries, self.links = kept

    # what it answers

    def answer(self, request: Request) -> Reply | None:
        """To one request."""
        self.requests.append(request)
        return self.twist(request, self.honest(request))

    def honest(self, request: Request) -> Reply:
        """As what it says makes it."""
        match request:
            case Lookup(name):
                return self._look_up(name)
            case AskHistory(name, _, version):
                return Steps(tuple(self.links.get(name, [])[version - 1 :]))
            case AskHead():
                return HeadIs(self.note(), self.rounds[-1].round.encode(), self._last())
            case AskChanges(tile, part):
                rounds = self.rounds[tile * FEED_TILE : (tile + 1) * FEED_TILE]
                data = b"".join(each.encode() for each in rounds)[part * FEED_PART :]
                return ChangesAre(data[:FEED_PART], len(data) > FEED_PART)
            case Submit(operation):
                return self._submit(operation)
            case AskConsistency(old_size, size):
                return ConsistencyIs(tuple(log_consistency(old_size, self._log()[:size])))
            case AskTerms():
                return TermsAre(TERMS, 0)

    def note(self) -> bytes:
        """The signed head."""
        log = self._log()
        text = Checkpoint(NAMESPACE, len(log), log_root(log)).encode()
        now = int(self.clock())
        lines = [sign_checkpoint(LOG_SEED, NAMESPACE, text)]
        lines += [cosign(verifier_seed(n), verifier_key(n).name, now, text) for n in self.signers]
        return SignedNote(text, tuple(lines)).encode()

    def asked_for(self, name: str) -> bool:
        """Whether anybody has asked for this name."""
        return any(
            isinstance(request, Lookup | AskHistory) and request.name == name
            for request in self.requests
        )

    def _log(self) -> list[bytes]:
        return [each.round.digest() for each in self.rounds]

    def _last(self) -> tuple[bytes, ...]:
        return tuple(log_path(len(self.rounds) - 1, self._log()))

    def _leaves(self) -> dict[bytes, bytes]:
        return {name_index(DIRECTORY, e.name): e.digest() for e in self.entries.values()}

    def _look_up(self, name: str) -> LookedUp:
        entry = self.entries.get(name)
        evidence = Evidence(
            self.note(),
            self.rounds[-1].round.encode(),
            self._last(),
            map_proof(self._leaves(), name_index(DIRECTORY, name)).encode(),
            entry.encode() if entry else b"",
        )
        return LookedUp(evidence, tuple(self.links.get(name, [])))

    def _submit(self, encoded: bytes) -> Reply:
        operation = decode_operation(encoded)
        number, now = len(self.rounds), int(self.clock())
        old = self.entries.get(operation.name)
        try:
            match operation.kind:
                case OperationKind.COMMIT:
                    self.put()
                case OperationKind.REGISTER:
                    self.put(apply_register(old, operation, number, now, LIFETIME))
                case _:
                    entry = apply_change(old, operation, number, now)
                    self.links.setdefault(operation.name, []).append(
                        HistoryLink(number, now, encoded)
                    )
                    self.put(entry)
        except OperationRefused as error:
            return RefusedReply(error.refusal)
        return Submitted(number)
