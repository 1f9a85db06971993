"""Looking people up in the name directory, and whether one may write to them.

One look-up of a name at a time; what the directory proves becomes a contact, or settles what was in
doubt of one. Refusals name what the user can do.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import trio

from cbfs.contacts.contact import Contact, How, Standing
from cbfs.contacts.contacts import Contacts
from cbfs.names.followed import FollowedDirectories, UnknownDirectory
from cbfs.names.lookups import DirectoryDown
from cbfs.problems import ContactRefused, NotYet, Refused
from cbfs_common.errors import CbfsError
from cbfs_common.names.checks import Absent, DirectoryLies, NameChanged, NameExpired
from cbfs_common.names.entry import Status

PREPARE_MAX = 256
"""Names that wait for a look-up in the background."""


class Unknown(Refused):
    """Names that nobody has: the directory proves it."""

    def __init__(self, names: Iterable[str], shown: Callable[[str], str] = str) -> None:
        """``shown``: what users see of a name."""
        self.names = frozenset(names)
        listed = ", ".join(sorted(map(shown, self.names)))
        super().__init__(
            f"nobody is called {listed}",
            "rename the folder, or correct participants in metadata.toml",
        )


class Lapsed(Refused):
    """A name under which nobody can be found, and somebody could until a while ago."""

    def __init__(self, name: str, *, released: bool) -> None:
        if released:
            super().__init__(
                f"{name} was given up by its owner",
                "ask them in another way what they are called now",
            )
        else:
            super().__init__(
                f"{name}'s registration has expired",
                "tell them in another way: their client renews it as soon as it runs",
            )


class Stopped(ContactRefused):
    """A name that has another owner than the contact that is known."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"{name} has other keys than before, and nobody but you can say whether it is the"
            " same person",
            f"read contacts/{name}/CHANGED",
        )


class Frozen(ContactRefused):
    """A name that its owner has frozen."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} has frozen the name: the keys may be in other hands",
            f"wait until {name} has recovered it",
        )


class Blocked(ContactRefused):
    """People whom the user has blocked."""

    def __init__(self, names: Iterable[str]) -> None:
        first, *more = sorted(names)
        who = ", ".join((first, *more))
        super().__init__(
            f"you have blocked {who}",
            f"write to the others only, or rm contacts/{first}/blocked",
        )


class NotFollowed(ContactRefused):
    """Somebody of a name directory that is not followed."""

    def __init__(self, name: str, directory: bytes) -> None:
        known = f"{name} is of a name directory that you do not follow"
        self.directory = directory
        super().__init__(known, "get its policy file from them: cp POLICY directories/")


class ContactLookUp:
    """Finds whom one writes to: among the contacts, else in the name directory that has the
    name."""

    def __init__(self, contacts: Contacts, followed: FollowedDirectories) -> None:
        self._contacts = contacts
        self._followed = followed
        self._locks: dict[str, trio.Lock] = {}

    async def ready(self, name: str) -> Contact:
        """The contact of a name, to send to; from the directory when it is not known. Raises
        Blocked, Stopped, Frozen, NotFollowed, what ``find`` raises, and NotYet while it is in
        doubt."""
        contact = self._contacts.get(name)
        if contact is None or (contact.is_outlived and not contact.blocked):
            contact = await self.find(name)
        if contact.blocked:
            raise Blocked([self._contacts.label(name)])
        if problem := self._in_the_way(name):
            raise problem
        if contact.doubted:
            raise NotYet(
                f"something about {self._contacts.label(name)} has changed in the name directory",
                "it is sent as soon as cbfs knows what",
            )
        return contact

    def known(self, name: str) -> Contact | None:
        """The contact of a name, if something can be sent to it without asking anybody."""
        contact = self._contacts.get(name)
        if contact is None or contact.blocked or contact.doubted or contact.is_outlived:
            return None
        return None if self._in_the_way(name) else contact

    async def written_to(self, names: Sequence[str], *, begins: bool) -> tuple[str, ...]:
        """To whom of the others in a conversation a message goes: all but those whom the user has
        blocked. Nobody's state keeps it from the rest: what is for somebody to whom nothing can be
        sent now waits for them. Raises Blocked when there is nobody else, Stopped, Frozen or
        NotFollowed when nothing can be sent to anybody, and for a conversation that ``begins`` what
        ``find_all`` raises: a name in it may be mistyped."""
        known = [self._contacts.get(name) for name in names]
        blocked = {contact.name for contact in known if contact and contact.blocked}
        written = tuple(name for name in names if name not in blocked)
        if blocked and not written:
            raise Blocked(map(self._contacts.label, blocked))
        if begins:
            await self.find_all(written)
        problems = [self._in_the_way(name) for name in written]
        if problems and problems[0] and all(problems):
            raise problems[0]
        return written

    async def find_all(self, names: Iterable[str]) -> None:
        """Look up those who are not known, side by side. Raises Unknown with all the names at once
        that nobody has, else what ``find`` raises."""
        unknown: set[str] = set()
        failures: list[CbfsError] = []

        async def one(name: str) -> None:
            try:
                await self.find(name)
            except Unknown as error:
                unknown.update(error.names)
            except NotYet as error:
                failures.append(error)
            except CbfsError as error:
                failures.insert(0, error)

        async with trio.open_nursery() as nursery:
            for name in names:
                if self._contacts.get(name) is None:
                    nursery.start_soon(one, name)
        if unknown:
            raise Unknown(unknown, self._contacts.label)
        if failures:
            raise failures[0]

    async def find(self, name: str, standing: Standing = Standing.KNOWN) -> Contact:
        """Ask the directory that has a name for it, also when it is known, and keep what it proves.
        Raises NotFollowed, Unknown, Lapsed, NotYet, Stopped, or what the checks raise."""
        async with self._alone(name):
            known, label = self._contacts.get(name), self._contacts.label(name)
            person = self._contacts.directories.person(name)
            try:
                lookups = self._followed.of(person.directory)
                with asking():
                    found = await lookups.lookup(person.name, known.followed if known else None)
            except UnknownDirectory as error:
                raise NotFollowed(label, person.directory) from error
            except NameChanged as error:
                await self._contacts.offer(name, error.entry)
                raise Stopped(label) from error
            except (DirectoryLies, NameExpired) as error:
                if known is not None:
                    await self._contacts.warn(name, f"{error.in_full}")
                elif isinstance(error, NameExpired):
                    released = error.entry.status is Status.RELEASED
                    raise Lapsed(label, released=released) from error
                raise
            if isinstance(found, Absent):
                if known is not None and known.is_outlived:
                    raise NotYet(
                        f"{label} has not taken the name in your name directory yet",
                        "tell them in another way to go on with their account there: cbfs init",
                    )
                raise Unknown([name], self._contacts.label)
            contact = await self._contacts.learn(name, found.entry, How.DIRECTORY, standing)
            if known is not None and known.is_outlived and contact.offered is not None:
                raise Stopped(label)
            return contact

    def _in_the_way(self, name: str) -> ContactRefused | None:
        """Why nothing is sent to somebody until they or the user do something; None for no
        reason that is known."""
        contact, label = self._contacts.get(name), self._contacts.label(name)
        try:
            self._followed.of_name(name)
        except UnknownDirectory as error:
            return NotFollowed(label, error.directory)
        if contact is None:
            return None
        if contact.offered is not None:
            return Stopped(label)
        return Frozen(label) if contact.entry.frozen else None

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """One look-up of a name at a time. No lock is kept of names that nobody looks up."""
        lock = self._locks.setdefault(name, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and self._locks.get(name) is lock:
                del self._locks[name]


@contextmanager
def asking() -> Iterator[None]:
    """That the directory does not answer, or that its answer does not fit this computer's clock,
    comes out as NotYet: it says nothing of the name that was asked for."""
    try:
        yield
    except DirectoryDown as error:
        raise NotYet(str(error), error.hint) from error
    except DirectoryLies as error:
        if not error.ahead:
            raise
        raise NotYet(str(error), error.hint) from error
