"""The client's way to the name directory: operations on own names, each signed, handed in, and then
looked for in the directory."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import trio

from cbfs.names.lookups import DirectoryDown, Lookups, Turn, unexpected
from cbfs.names.receipts import OperationHeld, hand_to_verifiers
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import ROUND_TIME_OFF_MAX
from cbfs_common.names.checks import (
    Absent,
    DirectoryLies,
    Fault,
    Found,
    NameExpired,
)
from cbfs_common.names.config import Config, Terms, config_of
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
    taken_until,
)
from cbfs_common.names.registration import Token, check_granted, let_in
from cbfs_common.names.wire import (
    AskTerms,
    Submit,
    Submitted,
    TermsAre,
)
from cbfs_common.person import Person, check_name
from cbfs_common.primitives import sign_public

SUBMIT_PATIENCE = 90.0
"""Seconds for the sequencer's reply, which comes within 30 when it is honest, and over Tor."""

OPERATION_ROUNDS = 4_096
"""Rounds after which an operation that did not get through is void."""


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
        self, name: str, profile: bytes, owner_seed: bytes, token: Token | None = None
    ) -> Found:
        """Register a name with an encoded profile and the owner's Ed25519 seed (32 bytes), and with
        the invite of ``token`` where the directory asks for one. Done again with the same arguments
        it goes on where it was cut off. Raises NameTaken, OperationRefused and what
        ``Lookups.lookup`` raises."""
        check_name(name)
        owners = Keys(1, (sign_public(owner_seed),))
        async with self.lookups.turn() as turn:
            old: Entry | None = None
            try:
                found = await turn.lookup(name, None)
            except NameExpired as expired:
                old = expired.entry
                check_free(old, int(self.lookups.clock()))
            else:
                if isinstance(found, Found):
                    return _own(found, owners, profile)
            try:
                await self._commit_and_register(turn, name, profile, owner_seed, old, token)
            except NameTaken:  # by this very registration, when verifiers had brought it there?
                found = await turn.lookup(name, None)
                if isinstance(found, Absent):
                    raise
                return _own(found, owners, profile)
            found = await turn.lookup(name, None)
            if isinstance(found, Absent):
                raise DirectoryLies(Fault.VANISHED)
            return _own(found, owners, profile)

    async def update(self, name: str, profile: bytes, owner_seed: bytes, known: Entry) -> Found:
        """Give an own name a new profile. ``known`` is the own entry as last accepted. Raises
        OperationRefused and what ``Lookups.lookup`` raises."""
        return await self._change(
            OperationKind.UPDATE, name, profile, (owner_seed,), known, known.owners
        )

    async def rotate(
        self,
        name: str,
        profile: bytes,
        old_seed: bytes,
        new_seed: bytes,
        known: Entry,
        recovery: Keys | None = None,
    ) -> Found:
        """Put a new owner key (the seed of Ed25519, 32 bytes) in the old one's place, signed by
        both, with a new profile and other recovery keys (None: those of before). Raises
        OperationRefused and what ``Lookups.lookup`` raises."""
        owners = Keys(1, (sign_public(new_seed),))
        seeds = old_seed, new_seed
        return await self._change(
            OperationKind.ROTATE, name, profile, seeds, known, owners, recovery
        )

    async def renew(
        self, name: str, owner_seed: bytes, known: Entry, *, least: float = 0.0
    ) -> Found:
        """Keep a name for as long from now on as the directory gives one, also one that has run
        out a short time ago. One that was renewed since ``known`` is found as it is. Raises NotDue
        when that would add less than ``least`` of a name's whole time."""
        check_name(name)
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
                turn, operation, (owner_seed,), old, lambda entry: entry.expires >= until
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
        """Give a name up, for good. Raises OperationRefused and what ``Lookups.lookup`` raises."""
        async with self.lookups.turn() as turn:
            await self._submit(
                turn, self._operation(OperationKind.RELEASE, known, turn.size).signed((owner_seed,))
            )
            with suppress(NameExpired):
                await turn.lookup(name, known)
                raise OperationRefused(Refusal.WRONG_VERSION)

    def freeze_certificate(self, owner_seed: bytes, known: Entry) -> bytes:
        """A signed operation to be kept: whoever has it can freeze the name, until its owner keys
        change."""
        return (
            replace(
                self._operation(OperationKind.FREEZE, known, 0),
                version=0,
                previous=ZERO,
                expires=NEVER,
            )
            .signed((owner_seed,))
            .encode()
        )

    async def freeze(self, certificate: bytes) -> Entry:
        """Freeze a name by a certificate that ``freeze_certificate`` made; the frozen entry. A name
        that is frozen already is no error. Raises OperationRefused and what ``Lookups.lookup``
        raises."""
        name = decode_operation(certificate).name
        async with self.lookups.turn() as turn:
            found = await turn.lookup(name, None, lapsed=True)
            if isinstance(found, Found) and found.entry.status is Status.FROZEN:
                return found.entry
            await self._submit(turn, decode_operation(certificate))
            found = await turn.lookup(name, None, lapsed=True)
            if isinstance(found, Absent) or found.entry.status is not Status.FROZEN:
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

    async def inherit(self, name: str, profile: bytes, owner_seed: bytes, known: Entry) -> Found:
        """Put an own profile into a name whose recovery is due. Raises NameTaken, OperationRefused
        and what ``Lookups.lookup`` raises."""
        owners = Keys(1, (sign_public(owner_seed),))
        async with self.lookups.turn() as turn:
            if (known.owners, known.profile) == (owners, profile):
                found = await turn.lookup(name, None, lapsed=True)
                if isinstance(found, Absent):
                    raise DirectoryLies(Fault.VANISHED)
                return found
            operation = self._operation(OperationKind.UPDATE, known, turn.size, profile=profile)
            await self._submit(turn, operation.signed((owner_seed,)))
            found = await turn.lookup(name, None, lapsed=True)
            if isinstance(found, Absent):
                raise DirectoryLies(Fault.VANISHED)
            return _own(found, owners, profile)

    async def _change(
        self,
        kind: OperationKind,
        name: str,
        profile: bytes,
        seeds: tuple[bytes, ...],
        known: Entry,
        owners: Keys,
        recovery: Keys | None = None,
    ) -> Found:
        check_name(name)
        async with self.lookups.turn() as turn:
            found = await turn.lookup(name, known, lapsed=True)
            if isinstance(found, Absent):
                raise OperationRefused(Refusal.NO_SUCH_NAME)
            old = found.entry
            recovery = old.recovery if recovery is None else recovery
            if (old.owners, old.recovery, old.profile) == (owners, recovery, profile):
                return found
            operation = self._operation(kind, old, turn.size, profile=profile)
            if kind is OperationKind.ROTATE:
                operation = replace(operation, owners=owners, recovery=recovery)
            return await self._carry_out(
                turn,
                operation,
                seeds,
                old,
                lambda entry: (entry.owners, entry.profile) == (owners, profile),
            )

    async def _config(self, turn: Turn) -> Config:
        """The directory's configuration in full, which the policy pins by its hash."""
        reply = await turn.ask(AskTerms(turn.size - 1))
        if not isinstance(reply, TermsAre):
            raise unexpected(reply)
        try:
            config = config_of(reply.config)
        except DecodeError as error:
            raise DirectoryLies(Fault.MALFORMED) from error
        if config.digest() != self.lookups.policy.config:
            raise DirectoryLies(Fault.CONFIG)
        return config

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
        profile: bytes,
        seed: bytes,
        old: Entry | None,
        token: Token | None,
    ) -> None:
        person = Person(self.lookups.policy.directory, name)
        owners = Keys(1, (sign_public(seed),))
        salt = registration_salt(seed, person)
        expires = turn.size + OPERATION_ROUNDS
        hidden = commitment(person, owners, salt)
        if token is not None:  # the COMMIT spends it: what it is for is looked at before
            check_granted((await self._config(turn)).terms, name, token.invite.name)
        commit = Operation(OperationKind.COMMIT, person.directory, "", 0, 0, ZERO, expires, hidden)
        await self._commit(turn, commit if token is None else let_in(Terms(), commit, token))
        register = Operation(
            OperationKind.REGISTER,
            person.directory,
            name,
            1 if old is None else old.incarnation + 1,
            1,
            ZERO if old is None else old.digest(),
            expires,
            salt,
            owners,
            profile=profile,
        )
        try:
            await self._submit(turn, register.signed((seed,)))
        except OperationRefused as error:
            if error.refusal is Refusal.NAME_TAKEN:
                raise NameTaken from error
            raise

    async def _commit(self, turn: Turn, commit: Operation) -> None:
        try:
            await self._submit(turn, commit)
        except OperationRefused as error:
            if error.refusal is Refusal.WORK_NEEDED and not commit.work:
                terms = (await self._config(turn)).terms
                worked = await trio.to_thread.run_sync(
                    let_in, terms, commit, None, abandon_on_cancel=True
                )
                if worked == commit:  # it asks for work that its terms do not ask for
                    raise
                await self._commit(turn, worked)
            elif error.refusal is not Refusal.COMMIT_REPEATED:
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


def check_free(entry: Entry, now: int) -> None:
    """Raises NameTaken for an entry that has ended, at ``now`` (seconds since 1970), while its name
    is kept from others."""
    until = taken_until(entry)
    if now <= until:
        raise NameTaken(until)


def _own(found: Found, owners: Keys, profile: bytes) -> Found:
    if found.entry.owners != owners:
        raise NameTaken
    if found.entry.profile != profile:
        raise OperationRefused(Refusal.WRONG_VERSION)
    return found
