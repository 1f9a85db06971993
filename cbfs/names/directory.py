"""The client's way to the name directory: operations on own names, each signed, handed in, and then
looked for in the directory."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import trio

from cbfs.names.lookups import DirectoryDown, Lookups, Turn, unexpected
from cbfs.names.receipts import OperationHeld, hand_to_verifiers
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import AGENT_RENEWALS, COMMIT_ROUNDS_MAX, ROUND_TIME_OFF_MAX
from cbfs_common.names.changes import taken_until
from cbfs_common.names.checks import (
    Absent,
    DirectoryLies,
    Fault,
    Found,
)
from cbfs_common.names.config import Config, Registration, config_of
from cbfs_common.names.entry import NO_KEYS, Entry, Keys, Status
from cbfs_common.names.layout import ZERO
from cbfs_common.names.operations import (
    NEVER,
    Operation,
    OperationKind,
    OperationRefused,
    Refusal,
    commitment,
    decode_operation,
    registration_salt,
)
from cbfs_common.names.registration import Token, by_invite, check_granted, worked
from cbfs_common.names.wire import (
    AskTerms,
    Submit,
    Submitted,
    TermsAre,
)
from cbfs_common.person import Person, check_name
from cbfs_common.primitives import sign_public
from cbfs_common.profile import same_profile

SUBMIT_PATIENCE = 90.0
"""Seconds for the sequencer's reply, which comes within 30 when it is honest, and over Tor."""

OPERATION_ROUNDS = 4_096
"""Rounds after which an operation that did not get through is void."""

COMMIT_ROUNDS = COMMIT_ROUNDS_MAX - 24
"""Rounds after which a COMMIT is void: a few less than it may have, as the directory can be some
rounds further."""

WORK_SLICE = 1 << 16
"""Tries of a proof of work between two looks at whether it is to go on."""

WORK_TRIES = 8
"""How often more work is done when others have made it dearer meanwhile."""

Told = Callable[[str], None]
"""Told the user what takes time, in words."""


class NameTaken(CbfsError):
    """Somebody else has the name, or had it a short time ago: ``until`` (seconds since 1970) it is
    kept from others."""

    def __init__(self, until: int = 0) -> None:
        if not until:
            super().__init__("the name is taken", "choose another name")
            return
        day = datetime.fromtimestamp(until, UTC) + timedelta(days=1)
        super().__init__(
            "the name was given up or has expired, and nobody else can have it for some months",
            f"choose another name, or register it from {day:%Y-%m-%d} on",
        )


class NotDue(CbfsError):
    """A name that was renewed a short time ago and is due in ``wait`` seconds only."""

    def __init__(self, wait: int) -> None:
        super().__init__("the name needs no renewal yet", "try again in a few days")
        self.wait = wait


class Directory:
    """One name directory as its policy file describes it: ``lookups`` in it, and what owners do
    with their names there."""

    def __init__(self, lookups: Lookups) -> None:
        self.lookups = lookups

    async def register(
        self,
        name: str,
        profile: bytes,
        owner_seed: bytes,
        token: Token | None = None,
        *,
        agent: bytes = b"",
        told: Told = lambda line: None,
    ) -> Found:
        """Register a name with an encoded profile and the owner's Ed25519 seed (32 bytes), with an
        ``agent`` (public key, 32; empty for none), and with the invite of ``token`` where the
        directory asks for one, else with the work that it asks for: ``told`` learns how long that
        takes. Done again with the same arguments it goes on where it was cut off. Raises NameTaken,
        OperationRefused and what ``Lookups.lookup`` raises."""
        check_name(name)
        wish = _Wish(Keys(1, (sign_public(owner_seed),)), agent, profile)
        async with self.lookups.turn() as turn:
            found = await turn.lookup(name, None, lapsed=True)
            old: Entry | None = None
            if isinstance(found, Found):
                old, now = found.entry, int(self.lookups.clock())
                if now <= old.expires and old.status is not Status.RELEASED:
                    return _own(found, wish)
                check_free(old, now)
            try:
                await self._commit_and_register(turn, name, wish, owner_seed, old, token, told)
            except NameTaken:  # by this very registration, when verifiers had brought it there?
                found = await turn.lookup(name, None)
                if isinstance(found, Absent):
                    raise
                return _own(found, wish)
            found = await turn.lookup(name, None)
            if isinstance(found, Absent):
                raise DirectoryLies(Fault.VANISHED)
            return _own(found, wish)

    async def update(self, name: str, profile: bytes, owner_seed: bytes, known: Entry) -> Found:
        """Give an own name a new profile. ``known`` is the own entry as last accepted. Raises
        OperationRefused and what ``Lookups.lookup`` raises."""
        wish = _Wish(known.owners, known.agent, profile)
        return await self._change(OperationKind.UPDATE, name, wish, (owner_seed,), known)

    async def rotate(
        self,
        name: str,
        profile: bytes,
        old_seed: bytes,
        new_seed: bytes,
        known: Entry | None,
        recovery: Keys | None = None,
        *,
        agent: bytes = b"",
    ) -> Found:
        """Put a new owner key (the seed of Ed25519, 32 bytes) in the old one's place, which it may
        be, signed by both, with a new profile, another ``agent`` (public key, 32; empty for none)
        and other recovery keys (None: those of before). ``known`` None: of a name of which nothing
        is known here. Raises OperationRefused and what ``Lookups.lookup`` raises."""
        wish = _Wish(Keys(1, (sign_public(new_seed),)), agent, profile)
        seeds = old_seed, new_seed
        return await self._change(OperationKind.ROTATE, name, wish, seeds, known, recovery)

    async def renew(self, name: str, seed: bytes, known: Entry, *, least: float = 0.0) -> Found:
        """Keep a name for as long from now on as the directory gives one, also one that has run
        out a short time ago, with the ``seed`` of its owner or its agent. One that was renewed
        since ``known`` is found as it is. Raises NotDue when that would add less than ``least`` of
        a name's whole time, or less than an agent may."""
        check_name(name)
        if sign_public(seed) == known.agent:
            least = max(least, 1 / AGENT_RENEWALS)
        async with self.lookups.turn() as turn:
            found = await turn.lookup(name, known, lapsed=True)
            if isinstance(found, Absent):
                raise OperationRefused(Refusal.NO_SUCH_NAME)
            old = found.entry
            if old.expires > known.expires:
                return found
            config = await self._config(turn)
            # the round's time may be some seconds before this clock's
            until = int(self.lookups.clock()) + config.lifetime - 2 * ROUND_TIME_OFF_MAX
            early = old.expires + int(least * config.lifetime) - until
            if early >= 0:
                raise NotDue(early + 1)
            operation = self._operation(OperationKind.RENEW, old, turn.size, until=until)
            return await self._carry_out(
                turn, operation, (seed,), old, lambda entry: entry.expires >= until
            )

    async def cancel(self, name: str, owner_seed: bytes, known: Entry) -> Found:
        """End a recovery of an own name that somebody has begun. Raises OperationRefused and what
        ``Lookups.lookup`` raises."""
        async with self.lookups.turn() as turn:
            found = await turn.lookup(name, known, lapsed=True)
            if isinstance(found, Absent):
                raise OperationRefused(Refusal.NO_SUCH_NAME)
            operation = self._operation(OperationKind.CANCEL, found.entry, turn.size)
            return await self._carry_out(
                turn, operation, (owner_seed,), found.entry, lambda entry: not entry.heirs.keys
            )

    async def release(self, name: str, owner_seed: bytes, known: Entry) -> None:
        """Give a name up, for good; one that was given up is no error. Raises OperationRefused and
        what ``Lookups.lookup`` raises."""
        async with self.lookups.turn() as turn:
            found = await turn.lookup(name, known, lapsed=True)
            if isinstance(found, Absent):
                raise OperationRefused(Refusal.NO_SUCH_NAME)
            if found.entry.status is not Status.RELEASED:
                operation = self._operation(OperationKind.RELEASE, found.entry, turn.size)
                await self._carry_out(
                    turn,
                    operation,
                    (owner_seed,),
                    found.entry,
                    lambda entry: entry.status is Status.RELEASED,
                )

    def freeze_certificate(self, seed: bytes, known: Entry) -> bytes:
        """A signed operation to be kept: whoever has it can freeze the name, until its owner keys
        change. With the ``seed`` of its agent it is one that the owner can undo, and good until
        there is another agent."""
        return (
            replace(
                self._operation(OperationKind.FREEZE, known, 0),
                version=0,
                previous=ZERO,
                expires=NEVER,
            )
            .signed((seed,))
            .encode()
        )

    async def freeze(self, certificate: bytes) -> Entry:
        """Freeze a name by a certificate that ``freeze_certificate`` made; the frozen entry. A name
        that is frozen already, as much as this would, is no error. Raises OperationRefused and what
        ``Lookups.lookup`` raises."""
        operation = decode_operation(certificate)
        signers = {key for key, _ in operation.signatures}
        async with self.lookups.turn() as turn:
            found = await turn.lookup(operation.name, None, lapsed=True)
            if isinstance(found, Found):
                enough = (Status.FROZEN, Status.SUSPENDED)[: 1 + (signers == {found.entry.agent})]
                if found.entry.status in enough:
                    return found.entry
            await self._submit(turn, operation)
            found = await turn.lookup(operation.name, None, lapsed=True)
            if isinstance(found, Absent) or not found.entry.frozen:
                raise DirectoryLies(Fault.VANISHED)
            return found.entry

    async def recover(self, name: str, recovery_seed: bytes, owner_seed: bytes) -> Entry:
        """Begin to recover a name by its recovery key, both keys as seeds (32 bytes). Gives the
        entry, whose ``heirs`` are its owners from ``due`` on. Done again it gives what was begun,
        and does not begin anew. Raises OperationRefused and what ``Lookups.lookup`` raises."""
        heirs = Keys(1, (sign_public(owner_seed),))
        async with self.lookups.turn() as turn:
            found = await turn.lookup(name, None, lapsed=True)
            if isinstance(found, Absent):
                raise OperationRefused(Refusal.NO_SUCH_NAME)
            if heirs in (found.entry.heirs, found.entry.owners):
                return found.entry
            operation = self._operation(OperationKind.RECOVER, found.entry, turn.size, owners=heirs)
            seeds = recovery_seed, owner_seed
            done = await self._carry_out(
                turn, operation, seeds, found.entry, lambda entry: entry.heirs == heirs
            )
            return done.entry

    async def inherit(
        self, name: str, profile: bytes, owner_seed: bytes, known: Entry, *, agent: bytes = b""
    ) -> Found:
        """Put an own profile, and an ``agent`` (public key, 32; empty for none), into a name whose
        recovery is due. Raises NameTaken, OperationRefused and what ``Lookups.lookup`` raises."""
        wish = _Wish(Keys(1, (sign_public(owner_seed),)), agent, profile)
        async with self.lookups.turn() as turn:
            if not wish.is_so(known):
                operation = self._operation(OperationKind.ROTATE, known, turn.size)
                operation = wish.into(operation, known.recovery)
                await self._submit(turn, operation.signed((owner_seed,)))
            found = await turn.lookup(name, None, lapsed=True)
            if isinstance(found, Absent):
                raise DirectoryLies(Fault.VANISHED)
            return _own(found, wish)

    async def _change(
        self,
        kind: OperationKind,
        name: str,
        wish: "_Wish",
        seeds: tuple[bytes, ...],
        known: Entry | None,
        recovery: Keys | None = None,
    ) -> Found:
        check_name(name)
        async with self.lookups.turn() as turn:
            found = await turn.lookup(name, known, lapsed=True)
            if isinstance(found, Absent):
                raise OperationRefused(Refusal.NO_SUCH_NAME)
            old = found.entry
            recovery = old.recovery if recovery is None else recovery
            if wish.is_so(old) and old.recovery == recovery:
                return found
            operation = self._operation(kind, old, turn.size, profile=wish.profile)
            if kind is OperationKind.ROTATE:
                operation = wish.into(operation, recovery)
            return await self._carry_out(turn, operation, seeds, old, wish.is_so)

    async def _config(self, turn: Turn) -> Config:
        """The directory's configuration in full, which the policy pins by its hash."""
        return (await self._terms(turn))[0]

    async def _terms(self, turn: Turn) -> tuple[Config, int]:
        """The configuration; and how many bits of work the directory says that a COMMIT needs."""
        reply = await turn.ask(AskTerms(turn.size - 1))
        if not isinstance(reply, TermsAre):
            raise unexpected(reply)
        try:
            config = config_of(reply.config)
        except DecodeError as error:
            raise DirectoryLies(Fault.MALFORMED) from error
        if config.digest() != self.lookups.policy.config:
            raise DirectoryLies(Fault.CONFIG)
        return config, reply.work

    def _operation(
        self,
        kind: OperationKind,
        old: Entry,
        size: int,
        *,
        owners: Keys = NO_KEYS,
        profile: bytes = b"",
        until: int = 0,
    ) -> Operation:
        """An operation that is not signed yet, void OPERATION_ROUNDS after the log had ``size``
        rounds."""
        return Operation(
            kind,
            self.lookups.policy.directory,
            old.name,
            old.incarnation,
            old.version + 1,
            old.digest(),
            size + OPERATION_ROUNDS,
            owners=owners,
            profile=profile,
            until=until,
        )

    async def _carry_out(
        self,
        turn: Turn,
        operation: Operation,
        seeds: tuple[bytes, ...],
        old: Entry,
        done: Callable[[Entry], bool],
    ) -> Found:
        """Sign, submit, and see in the directory that it is so."""
        await self._submit(turn, operation.signed(seeds))
        changed = await turn.lookup(old.name, old, lapsed=True)
        if isinstance(changed, Absent):
            raise DirectoryLies(Fault.VANISHED)
        if not done(changed.entry):
            raise OperationRefused(Refusal.WRONG_VERSION)
        return changed

    async def _commit_and_register(
        self,
        turn: Turn,
        name: str,
        wish: "_Wish",
        seed: bytes,
        old: Entry | None,
        token: Token | None,
        told: Told,
    ) -> None:
        person = Person(self.lookups.policy.directory, name)
        salt = registration_salt(seed, person)
        hidden, expires = commitment(person, wish.owners, salt), turn.size + COMMIT_ROUNDS
        commit = Operation(OperationKind.COMMIT, person.directory, "", 0, 0, ZERO, expires, hidden)
        # what the COMMIT costs is lost where the name is refused: that is looked at before
        granted = None if token is None else token.invite.name
        check_granted((await self._config(turn)).terms, name, granted)
        if token is None:
            await self._commit_by_work(turn, commit, told)
        else:
            await self._commit(turn, by_invite(commit, token))
        register = Operation(
            OperationKind.REGISTER,
            person.directory,
            name,
            1 if old is None else old.incarnation + 1,
            1,
            ZERO if old is None else old.digest(),
            turn.size + OPERATION_ROUNDS,
            salt,
            wish.owners,
            profile=wish.profile,
            agent=wish.agent,
        )
        try:
            await self._submit(turn, register.signed((seed,)))
        except OperationRefused as error:
            if error.refusal is Refusal.NAME_TAKEN:
                raise NameTaken from error
            raise

    async def _commit_by_work(self, turn: Turn, commit: Operation, told: Told) -> None:
        """Do the work that is asked for, and more of it where others make it dearer meanwhile."""
        for left in reversed(range(WORK_TRIES)):
            config, bits = await self._terms(turn)
            if config.terms.registration is Registration.INVITE:
                raise OperationRefused(Refusal.INVITE_NEEDED)
            commit = await _work(commit, bits, told)
            try:
                await self._commit(turn, commit)
            except OperationRefused as error:
                if error.refusal is not Refusal.WORK_NEEDED or not left:
                    raise
            else:
                return

    async def _commit(self, turn: Turn, commit: Operation) -> None:
        try:
            await self._submit(turn, commit)
        except OperationRefused as error:
            if error.refusal is not Refusal.COMMIT_REPEATED:
                raise

    async def _submit(self, turn: Turn, operation: Operation) -> None:
        """Hand an operation to the sequencer, and to the verifiers when it does not accept it.
        Raises OperationRefused, OperationHeld, DirectoryDown."""
        encoded = operation.encode()
        failure: CbfsError = DirectoryDown("the name directory does not answer", "try again later")
        with trio.move_on_after(SUBMIT_PATIENCE):
            reply = await turn.ask(Submit(encoded))
            if isinstance(reply, Submitted):
                return
            failure = unexpected(reply)
        try:
            asked = self.lookups
            await hand_to_verifiers(asked.dialer, asked.policy, encoded, asked.random)
        except (OperationHeld, OperationRefused):
            if isinstance(failure, OperationRefused) and failure.refusal is Refusal.NO_QUORUM:
                raise failure from None  # who signs has it in a round that others do not sign
            raise
        raise failure


async def _work(commit: Operation, bits: int, told: Told) -> Operation:
    """The COMMIT with a proof of work of so many bits, in slices, which can be cut off between."""
    said = False
    while True:
        begun = time.monotonic()
        commit, done = await trio.to_thread.run_sync(worked, commit, bits, WORK_SLICE)
        if done:
            return commit
        if not said:
            left = (time.monotonic() - begun) * (1 << bits) / WORK_SLICE
            told(
                "the name directory asks this computer for some work, so that nobody takes names"
                f" without end: {_about(left)}"
            )
            said = True


def _about(seconds: float) -> str:
    """A time that is only known in the mean, in words."""
    for unit, size in ("days", 86_400), ("hours", 3_600), ("minutes", 60):
        if seconds >= 2 * size:
            return f"about {seconds / size:.0f} {unit}"
    return f"about {seconds:.0f} seconds" if seconds >= 1.5 else "about a second"


def check_free(entry: Entry, now: int) -> None:
    """Raises NameTaken for an entry that has ended, at ``now`` (seconds since 1970), while its name
    is kept from others."""
    until = taken_until(entry)
    if now <= until:
        raise NameTaken(until)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What an own entry is to have."""

    owners: Keys
    agent: bytes
    profile: bytes

    def is_so(self, entry: Entry) -> bool:
        """Whether an entry has it."""
        has = (entry.owners, entry.agent) == (self.owners, self.agent)
        return not entry.frozen and has and same_profile(entry.profile, self.profile)

    def into(self, operation: Operation, recovery: Keys) -> Operation:
        """An operation that makes it so, with these recovery keys."""
        return replace(
            operation,
            owners=self.owners,
            recovery=recovery,
            agent=self.agent,
            profile=self.profile,
        )


def _own(found: Found, wish: _Wish) -> Found:
    if found.entry.owners != wish.owners:
        raise NameTaken
    if not wish.is_so(found.entry):
        raise OperationRefused(Refusal.WRONG_VERSION)
    return found
