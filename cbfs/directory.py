"""The client's way to the name directory: look-ups and operations, each answer checked.

Every call makes a connection of its own, with a fresh key and a circuit of its own, so that the
directory cannot tell which names the same person asks for. One call at a time: each checks its
answer against the head that the one before has stored.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from cbfs.dial import Dialer, DialError
from cbfs.link import Link, open_link
from cbfs_common.errors import CbfsError, DecodeError, TransportError
from cbfs_common.names_client import (
    Absent,
    DirectoryLies,
    DirectoryState,
    Fault,
    Found,
    NameChanged,
    NameExpired,
    Policy,
    check_lookup,
    decode_state,
    new_state,
)
from cbfs_common.names_entry import Entry, Keys, decode_entry
from cbfs_common.names_layout import ZERO
from cbfs_common.names_operations import (
    Kind,
    Operation,
    OperationRefused,
    Refusal,
    commitment,
    registration_salt,
)
from cbfs_common.names_operations import (
    Link as Step,
)
from cbfs_common.names_wire import (
    History,
    LookedUp,
    Lookup,
    Refused,
    Reply,
    Request,
    Steps,
    Submit,
    Submitted,
    decode_reply,
    encode_request,
)
from cbfs_common.primitives import Random, sign_public
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

HISTORY_PAGES_MAX = 256
"""Requests for a known contact's operations, before giving up."""

ISOLATION_SIZE = 16


class DirectoryDown(CbfsError):
    """The directory cannot be reached, or broke off. Trying again later is right."""


class NameTaken(CbfsError):
    """Somebody else has the name."""

    def __init__(self) -> None:
        super().__init__("the name is taken", "choose another name")


class Directory:
    """One name directory, as its policy file describes it."""

    def __init__(
        self,
        dialer: Dialer,
        policy: Policy,
        load: Callable[[], bytes | None],
        save: Callable[[bytes], Awaitable[None]],
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        """``load`` gives what ``save`` was last given, which must then be on the disk. ``clock``
        gives seconds since 1970. Raises DecodeError when what was stored is damaged."""
        self._dialer = dialer
        self._policy = policy
        self._save = save
        self._clock = clock
        self._random = random
        self._turn = trio.Lock()
        stored = load()
        self._state = new_state(policy) if stored is None else decode_state(stored)

    async def lookup(self, name: str, known: Entry | None = None) -> Found | Absent:
        """What the directory has for a name, checked against the contact's ``known`` entry.
        Raises DirectoryDown, DirectoryLies, NameExpired, NameChanged, or DecodeError for what is
        no name."""
        check_name(name)
        async with self._turn, self._connected() as link:
            return await self._lookup(link, name, known)

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
        self, name: str, profile: bytes, old_seed: bytes, new_seed: bytes, known: Entry
    ) -> Found:
        """Put a new owner key in the old one's place, signed by both, with a new profile."""
        owners = Keys(1, (sign_public(new_seed),))
        return await self._change(Kind.ROTATE, name, profile, (old_seed, new_seed), known, owners)

    async def _change(
        self,
        kind: Kind,
        name: str,
        profile: bytes,
        seeds: tuple[bytes, ...],
        known: Entry,
        owners: Keys,
    ) -> Found:
        check_name(name)
        async with self._turn, self._connected() as link:
            found = await self._lookup(link, name, known)
            if isinstance(found, Absent):
                raise OperationRefused(Refusal.NO_SUCH_NAME)
            old = found.entry
            if (old.owners, old.profile) == (owners, profile):
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
                recovery=old.recovery if rotates else Keys(0, ()),
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

    async def _lookup(self, link: Link, name: str, known: Entry | None) -> Found | Absent:
        reply = await self._ask(link, Lookup(name, self._state.size))
        if not isinstance(reply, LookedUp):
            raise _unexpected(reply)
        steps = await self._steps(link, reply, name, known)
        state, found = check_lookup(
            self._policy,
            self._state,
            reply.evidence,
            reply.consistency,
            steps,
            name,
            known,
            int(self._clock()),
        )
        if state != self._state:
            await self._keep(state)
        return found

    async def _steps(
        self, link: Link, reply: LookedUp, name: str, known: Entry | None
    ) -> tuple[Step, ...]:
        """The newest operations; all since ``known`` when the reply does not reach back so far."""
        if known is None or not reply.evidence.entry:
            return reply.links
        try:
            entry = decode_entry(reply.evidence.entry)
        except DecodeError:
            return reply.links  # the checks will say so
        behind = entry.version - known.version
        if entry.incarnation != known.incarnation or behind <= len(reply.links):
            return reply.links
        found: list[Step] = []
        for _ in range(HISTORY_PAGES_MAX):
            page = await self._ask(
                link, History(name, known.incarnation, known.version + len(found))
            )
            if not isinstance(page, Steps):
                raise _unexpected(page)
            found += page.links
            if not page.links or len(found) >= behind:
                break
        return tuple(found[:behind])

    async def _keep(self, state: DirectoryState) -> None:
        """A crash before the save leaves the older head, against which the next one is checked
        just as well."""
        await self._save(state.encode())
        self._state = state

    async def _submit(self, link: Link, operation: Operation) -> None:
        reply = await self._ask(link, Submit(operation.encode()))
        if not isinstance(reply, Submitted):
            raise _unexpected(reply)

    async def _ask(self, link: Link, request: Request) -> Reply:
        payload = await link.call(encode_request(request))
        try:
            return decode_reply(payload)
        except DecodeError as error:
            raise DirectoryLies(Fault.MALFORMED) from error

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Link]:
        isolation = b"names:" + self._random.token(ISOLATION_SIZE)
        try:
            async with open_link(
                self._dialer, self._policy.server, None, isolation, self._random
            ) as link:
                yield link
        except (DialError, TransportError) as error:
            raise DirectoryDown(
                f"the name directory does not answer: {error}",
                error.hint or "it is tried again by itself",
            ) from error


def _own(found: Found, owners: Keys, profile: bytes) -> Found:
    if found.entry.owners != owners:
        raise NameTaken
    if found.entry.profile != profile:
        raise OperationRefused(Refusal.WRONG_VERSION)
    return found


def _unexpected(reply: Reply) -> CbfsError:
    if isinstance(reply, Refused):
        return OperationRefused(reply.refusal)
    return DirectoryLies(Fault.MALFORMED)
