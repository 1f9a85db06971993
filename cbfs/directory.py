"""The client's way to the name directory: what ``Asking`` gives, and operations on own names."""

from cbfs.asking import Asking, DirectoryDown, unexpected
from cbfs.link import Link
from cbfs_common.errors import CbfsError
from cbfs_common.names_client import (
    Absent,
    DirectoryLies,
    Fault,
    Found,
    NameChanged,
    NameExpired,
    Policy,
)
from cbfs_common.names_entry import Entry, Keys
from cbfs_common.names_layout import ZERO
from cbfs_common.names_operations import (
    Kind,
    Operation,
    OperationRefused,
    Refusal,
    commitment,
    registration_salt,
)
from cbfs_common.names_wire import (
    Submit,
    Submitted,
)
from cbfs_common.primitives import sign_public
from cbfs_common.profile import check_name

__all__ = [
    "Absent",
    "Directory",
    "DirectoryDown",
    "DirectoryLies",
    "Found",
    "NameChanged",
    "NameExpired",
    "NameTaken",
    "OperationRefused",
    "Policy",
]

OPERATION_ROUNDS = 4_096
"""Rounds after which an operation that did not get through is void."""


class NameTaken(CbfsError):
    """Somebody else has the name."""

    def __init__(self) -> None:
        super().__init__("the name is taken", "choose another name")


class Directory(Asking):
    """One name directory, and what owners do there."""

    async def register(self, name: str, profile: bytes, owner_seed: bytes) -> Found:
        """Take a name for an encoded profile and the owner's Ed25519 seed (32). Done again with
        the same arguments it goes on where it was cut off. Raises NameTaken,
        OperationRefused and what ``lookup`` raises."""
        check_name(name)
        owners = Keys(1, (sign_public(owner_seed),))
        async with self._turn, self._connected() as link:
            old: Entry | None = None
            try:
                found = await self._lookup(link, name, None)
            except NameExpired as expired:
                old = expired.entry
            else:
                if isinstance(found, Found):
                    return _own(found, owners, profile)
            await self._commit_and_register(link, name, profile, owner_seed, old)
            found = await self._lookup(link, name, None)
            if isinstance(found, Absent):
                raise DirectoryLies(Fault.VANISHED)
            return _own(found, owners, profile)

    async def update(self, name: str, profile: bytes, owner_seed: bytes, known: Entry) -> Found:
        """Give an own name a new profile. ``known`` is the own entry as last accepted. Raises
        OperationRefused and what ``lookup`` raises."""
        return await self._change(Kind.UPDATE, name, profile, (owner_seed,), known, known.owners)

    async def rotate(
        self,
        name: str,
        profile: bytes,
        old_seed: bytes,
        new_seed: bytes,
        known: Entry,
        recovery: Keys | None = None,
    ) -> Found:
        """Put a new owner key in the old one's place, signed by both, with a new profile and other
        recovery keys (None: the same as before)."""
        owners = Keys(1, (sign_public(new_seed),))
        seeds = old_seed, new_seed
        return await self._change(Kind.ROTATE, name, profile, seeds, known, owners, recovery)

    async def _change(
        self,
        kind: Kind,
        name: str,
        profile: bytes,
        seeds: tuple[bytes, ...],
        known: Entry,
        owners: Keys,
        recovery: Keys | None = None,
    ) -> Found:
        check_name(name)
        async with self._turn, self._connected() as link:
            found = await self._lookup(link, name, known)
            if isinstance(found, Absent):
                raise OperationRefused(Refusal.NO_SUCH_NAME)
            old = found.entry
            recovery = old.recovery if recovery is None else recovery
            if (old.owners, old.recovery, old.profile) == (owners, recovery, profile):
                return found
            rotates = kind is Kind.ROTATE
            operation = Operation(
                kind,
                self._policy.namespace,
                name,
                old.incarnation,
                old.version + 1,
                old.digest(),
                self._state.size + OPERATION_ROUNDS,
                owners=owners if rotates else Keys(0, ()),
                recovery=recovery if rotates else Keys(0, ()),
                profile=profile,
            )
            await self._submit(link, operation.signed(seeds))
            changed = await self._lookup(link, name, old)
            if isinstance(changed, Absent):
                raise DirectoryLies(Fault.VANISHED)
            return _own(changed, owners, profile)

    async def _commit_and_register(
        self, link: Link, name: str, profile: bytes, seed: bytes, old: Entry | None
    ) -> None:
        namespace = self._policy.namespace
        owners = Keys(1, (sign_public(seed),))
        salt = registration_salt(seed, namespace, name)
        expires = self._state.size + OPERATION_ROUNDS
        hidden = commitment(namespace, name, owners, salt)
        commit = Operation(Kind.COMMIT, namespace, "", 0, 0, ZERO, expires, hidden)
        try:
            await self._submit(link, commit)
        except OperationRefused as error:
            if error.refusal is not Refusal.COMMIT_REPEATED:
                raise
        register = Operation(
            Kind.REGISTER,
            namespace,
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
            await self._submit(link, register.signed((seed,)))
        except OperationRefused as error:
            if error.refusal is Refusal.NAME_TAKEN:
                raise NameTaken from error
            raise

    async def _submit(self, link: Link, operation: Operation) -> None:
        reply = await self._ask(link, Submit(operation.encode()))
        if not isinstance(reply, Submitted):
            raise unexpected(reply)


def _own(found: Found, owners: Keys, profile: bytes) -> Found:
    if found.entry.owners != owners:
        raise NameTaken
    if found.entry.profile != profile:
        raise OperationRefused(Refusal.WRONG_VERSION)
    return found
