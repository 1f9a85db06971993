"""A whole directory in the test's own process, without sockets, on a real store."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cbfs_common.names.checks import (
    Absent,
    DirectoryState,
    Found,
    check_lookup,
    new_state,
)
from cbfs_common.names.config import Config, Registration, Terms
from cbfs_common.names.entry import Entry, Keys
from cbfs_common.names.layout import ZERO
from cbfs_common.names.operations import Operation, OperationKind, commitment
from cbfs_common.names.registration import worked
from cbfs_common.names.wire import LookedUp, Lookup, Reply
from cbfs_common.person import Person
from cbfs_common.primitives import sign_public
from cbfs_common.profile import Address
from cbfs_common.wire.transport import ServerSecret
from cbfs_names.processes.single import Embedded
from cbfs_names.rounds.sequencer import Sequencer
from cbfs_names.rounds.verifier import Verifier
from cbfs_names.state.keys import VERIFIER, ServerKeys
from cbfs_names.state.round_log import Outcome
from cbfs_names.state.store import StateStore
from cbfs_names.wire.queries import Answers, Asked

KEYS = ServerKeys(ServerSecret(b"t" * 96), b"l" * 32, b"v" * 32)
LIFETIME = 1_000_000
NOW = 1_700_000_000
FREE = Terms(Registration.WORK, work=0)
"""Names cost nothing, as in most tests, until many come at once."""

CONFIG: Config = KEYS.config(replace(FREE, lifetime=LIFETIME))
NAMESPACE = CONFIG.namespace
DIRECTORY = CONFIG.directory
COSIGNER = CONFIG.witnesses[0][1].name
POLICY = CONFIG.policy(Address(KEYS.server, "127.0.0.1", 1))
SALT = b"a salt of thirty-two bytes ......"[:32]


@dataclass
class Local:
    """``now`` is the directory's clock, seconds."""

    store: StateStore
    now: int = NOW

    def __post_init__(self) -> None:
        self.core = Embedded(self.store, KEYS.log, KEYS.verifier, COSIGNER)
        self.sequencer = Sequencer(self.store, KEYS.log)
        self.verifier = Verifier(self.store, KEYS.verifier, COSIGNER)
        self.core.start(self.now)

    def round(self, *operations: Operation) -> Outcome:
        return self.core.round([operation.encode() for operation in operations], self.now)

    def look_up(self, name: str) -> LookedUp:
        """What a server of this state answers."""
        assert CONFIG.quorum == VERIFIER
        reply = self.answer(Lookup(name))
        assert isinstance(reply, LookedUp)
        return reply

    def answer(self, request: Asked) -> Reply:
        """To any request that reads."""
        answers = Answers(self.store, self.core.cosign(self.now))
        try:
            return answers.answer(request)
        finally:
            answers.close()

    def checked(
        self, name: str, state: DirectoryState | None = None, known: Entry | None = None
    ) -> tuple[DirectoryState, Found | Absent]:
        """The answer as a client takes it."""
        before = state or new_state(POLICY)
        reply = self.look_up(name)
        return check_lookup(
            POLICY,
            before,
            reply.evidence,
            reply.links,
            name,
            known,
            self.now,
        )

    def entry(self, name: str) -> Entry:
        _, found = self.checked(name)
        assert isinstance(found, Found)
        return found.entry

    def take(self, name: str, seed: bytes = b"o" * 32) -> Entry:
        """Register a name."""
        self.round(commit(name, seed))
        outcome = self.round(register(name, seed))
        assert not outcome.refused
        return self.entry(name)


@contextmanager
def local(path: Path, config: Config = CONFIG) -> Iterator[Local]:
    store = StateStore(path, config.encode())
    try:
        yield Local(store)
    finally:
        store.close()


def owners(*seeds: bytes, threshold: int = 1) -> Keys:
    return Keys(threshold, tuple(sorted(sign_public(seed) for seed in seeds)))


def commit(name: str, *seeds: bytes, salt: bytes = SALT) -> Operation:
    hidden = commitment(Person(DIRECTORY, name), owners(*(seeds or (b"o" * 32,))), salt)
    return Operation(OperationKind.COMMIT, DIRECTORY, "", 0, 0, ZERO, 1000, hidden)


def worked_for(operation: Operation, bits: int) -> Operation:
    """A COMMIT with a proof of work."""
    done = False
    while not done:
        operation, done = worked(operation, bits, 1_000)
    return operation


def register(name: str, *seeds: bytes, salt: bytes = SALT, old: Entry | None = None) -> Operation:
    seeds = seeds or (b"o" * 32,)
    return Operation(
        OperationKind.REGISTER,
        DIRECTORY,
        name,
        old.incarnation + 1 if old else 1,
        1,
        old.digest() if old else ZERO,
        1000,
        salt,
        owners(*seeds),
        profile=b"profile of " + name.encode(),
    ).signed(seeds)


def update(old: Entry, profile: bytes, *seeds: bytes) -> Operation:
    return Operation(
        OperationKind.UPDATE,
        DIRECTORY,
        old.name,
        old.incarnation,
        old.version + 1,
        old.digest(),
        1000,
        profile=profile,
    ).signed(seeds or (b"o" * 32,))


def rotate(old: Entry, new: Keys, *seeds: bytes) -> Operation:
    operation = replace(update(old, old.profile), kind=OperationKind.ROTATE, owners=new)
    return operation.signed(seeds)
