"""Who is who: names, as the directory proves them, and the contacts that were learnt so.

From the first time on, every entry that is shown for a contact's name must follow from the one
that is stored by operations that its owner has signed. What does not is kept beside it for the
user to decide, and nothing is sent to that contact until then.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from cbfs.contacts.contact import Contact, How, Standing, decode_contact
from cbfs.contacts.fingerprint import Fingerprint, fingerprint
from cbfs.contacts.user_names import look_alike, typed_name
from cbfs.names.followed import FollowedDirectories
from cbfs.storage.store import Store, Table, Writer
from cbfs_common.errors import DecodeError
from cbfs_common.names.entry import CHANGE_SIZE, Entry, name_index
from cbfs_common.profile import Profile, decode_profile

T = TypeVar("T")


class Contacts:
    """All contacts of an account, in memory and in the store. ``changed`` is told the name of each
    of whom something is new."""

    def __init__(
        self,
        store: Store,
        followed: FollowedDirectories,
        own: bytes,
        clock: Callable[[], int],
        reseal: Callable[[Writer, str], None],
    ) -> None:
        """``followed``: the directories whose people are shown by a namespace. ``own``: one's own
        identity (32 bytes). ``clock``: milliseconds since 1970. ``reseal`` has what waits for a
        name sealed anew, in the transaction that gives it other keys."""
        self._store = store
        self.directories = followed.directories
        self._followed = followed
        self._own = own
        self._clock = clock
        self._reseal = reseal
        self.changed: Callable[[str], None] = lambda name: None
        self._known: dict[str, Contact] = {}
        self._names: dict[bytes, str] = {}  # by identity
        self._petnames: dict[str, str] = {}
        with store.read() as reader:
            for _key, data in reader.items(Table.PEERS):
                self._remember(decode_contact(data))

    def all(self) -> tuple[Contact, ...]:
        """All contacts, sorted by name."""
        return tuple(self._known[name] for name in sorted(self._known))

    def get(self, name: str) -> Contact | None:
        """The contact of this name; None when nobody is known by it."""
        return self._known.get(name)

    def of_identity(self, identity: bytes) -> Contact | None:
        """The contact with this user id; None when nobody is known by it."""
        name = self._names.get(identity)
        return self.get(name) if name else None

    def label(self, name: str) -> str:
        """What somebody is shown as: their petname, ``@NAME`` when another's petname is their name,
        else the name as ``shown`` has it."""
        known = self._known.get(name)
        if known is not None and known.petname:
            return known.petname
        return f"@{name}" if name in self._petnames else self.shown(name)

    def shown(self, name: str) -> str:
        """Somebody's true name as people see it, with the namespace of another directory."""
        return self._followed.shown(name)

    def called(self, text: str) -> str:
        """The true name of whom the user means by a label, or by a name as people type it. Raises
        DecodeError for what is no name."""
        local, _at, place = text.rpartition("@")
        if local:
            return self._followed.meant(typed_name(local), place)
        name = typed_name(place)
        return name if text.startswith("@") else self._petnames.get(name, name)

    def is_used(self, petname: str, name: str) -> bool:
        """Whether anybody but ``name`` has this petname, or it is the name of a contact."""
        return petname in self._known or self._petnames.get(petname, name) != name

    def named(self, name: str) -> Contact:
        """The contact of a name that is known to be one's."""
        return self._known[name]

    async def learn(
        self, name: str, entry: Entry, how: How, standing: Standing = Standing.KNOWN
    ) -> Contact:
        """Keep an entry that was checked against the one that is known of ``name``: it holds from
        now on. ``standing``: of somebody who was not known. Of somebody who is known from long ago,
        one with other keys is offered to the user. Raises DecodeError for one that is no person's;
        then nothing is kept."""
        _check_profile(entry)  # it is the owner's: anything that the directory was given
        known = self._known.get(name)
        now = self._clock()
        if known is None:
            directory = self.directories.person(name).directory
            contact = Contact(
                entry,
                now,
                how,
                warning=self._warning(name),
                standing=standing,
                directory=b"" if directory == self.directories.own else directory,
            )
        elif known.is_outlived and not known.is_taken_up(entry):
            await self.offer(name, entry)
            return self._known[name]
        elif known.entry == entry:
            contact = replace(known, doubted=0, offered=None, stopped=0)
        else:
            contact = known.moved_to(entry, now)
        await self._keep(contact)
        return contact

    def _warning(self, name: str) -> str:
        """What there is to say of somebody new because of their name; empty for nothing."""
        if name in self._petnames:
            return f"is not {self._petnames[name]}, whom you call {name}"
        friends = [c for c in self.all() if c.standing is Standing.KNOWN]
        person = self.directories.person(name)
        for friend in friends:
            if person.name in {friend.entry.name, friend.petname} and friend.name != name:
                label = self.label(friend.name)
                return f"has the name of {label}, and is somebody else, of another name directory"
        names = ((c, shown) for c in friends for shown in (c.entry.name, c.petname) if shown)
        alike = {shown: c.name for c, shown in names}
        other = look_alike(person.name, alike)
        return f"looks like {self.label(alike[other])}, and is somebody else" if other else ""

    async def offer(self, name: str, entry: Entry) -> None:
        """Keep an entry of a new owner under a contact's name: nothing is sent to the name until
        the user has decided."""
        known = self._known[name]
        _check_profile(entry)
        stopped = known.stopped if known.offered == entry else self._clock()
        await self._keep(replace(known, offered=entry, stopped=stopped, doubted=0))

    async def warn(self, name: str, warning: str) -> None:
        """Keep in words what the directory did with a contact's name that does not fit. The entry
        that is known holds, and is not in doubt."""
        await self._keep(replace(self._known[name], doubted=0, warning=warning))

    async def doubt(self, directory: bytes, changed: Mapping[bytes, int]) -> None:
        """Doubt each contact of a directory (16) whose index prefix has changed in a round after
        that of its entry. One transaction."""
        doubted = [
            replace(contact, doubted=self._clock())
            for contact in self._known.values()
            if not (contact.doubted or contact.is_outlived)
            and self.directories.person(contact.name).directory == directory
            and changed.get(self.prefix(contact.name), -1) > contact.entry.round
        ]
        if doubted:
            await self._keep(*doubted)

    def identity(self, name: str, profile: Profile) -> bytes:
        """The identity (32) that somebody has in sessions with this profile."""
        return profile.identity(self.directories.person(name))

    def prefix(self, name: str) -> bytes:
        """What stands for a name in the change feed (8 bytes)."""
        return name_index(*self.directories.person(name))[:CHANGE_SIZE]

    # what the user decides

    def compare(self, contact: Contact) -> Fingerprint:
        """The fingerprint to compare with this person: of the keys that are offered, when there are
        any."""
        profile = contact.offered_profile or contact.profile
        return fingerprint(self._own, self.identity(contact.name, profile))

    async def accept(self, name: str) -> None:
        """Accept the new owner of a name, of whom the user says that it is the person they want to
        write to."""
        known = self._known[name]
        if known.offered is not None:
            now = self._clock()
            offered = Contact(known.offered, known.since, How.USER, moved=now)
            await self._keep(
                replace(
                    offered,
                    blocked=known.blocked,
                    muted=known.muted,
                    standing=known.standing,
                    declined=known.declined,
                    petname=known.petname,
                    directory=known.directory,
                )
            )

    async def verify(self, name: str, text: str) -> bool:
        """Note that the user has compared this fingerprint. False when it is not the one of now."""
        known = self._known[name]
        if not self.compare(known).is_in(text):
            return False
        await self.accept(name)
        await self._keep(replace(self._known[name], verified=self._clock()))
        return True

    async def unverify(self, name: str) -> None:
        """Note that the user takes the comparison back."""
        await self._keep(replace(self._known[name], verified=0))

    async def bring_back(self, now: int) -> None:
        """Put every date at ``now`` (milliseconds since 1970) that is later."""
        await self._keep(*(contact.brought_back(now) for contact in self._known.values()))

    async def _keep(self, *contacts: Contact) -> None:
        if any(self._known.get(contact.name) != contact for contact in contacts):
            await self.decide(contacts, lambda writer: None)

    async def decide(self, contacts: Sequence[Contact], also: Callable[[Writer], T]) -> T:
        """Keep contacts as they are given; ``also`` is done in the same transaction, and what it
        gives is given."""
        others = [contact.name for contact in contacts if self._has_other_keys(contact)]

        def change(writer: Writer) -> T:
            for contact in contacts:
                _put(writer, contact)
            for other in others:
                self._reseal(writer, other)
            return also(writer)

        result = await self._store.commit(change)
        self._kept(contacts)
        return result

    def _kept(self, contacts: Collection[Contact]) -> None:
        """These are on the disk."""
        for contact in contacts:
            self._remember(contact)
        for contact in contacts:
            self.changed(contact.name)

    def batch(self) -> "ContactBatch":
        """What becomes of them in one transaction."""
        return ContactBatch(self)

    async def forget(self, names: Sequence[str], also: Callable[[Writer], None]) -> None:
        """Forget people; ``also`` is done in the same transaction."""

        def change(writer: Writer) -> None:
            for name in names:
                writer.delete(Table.PEERS, writer.key_part(name.encode()))
            also(writer)

        await self._store.commit(change)
        for name in names:
            self._names.pop(self.identity(name, self._known.pop(name).profile), None)

    def _has_other_keys(self, contact: Contact) -> bool:
        before = self.get(contact.name)
        return before is not None and before.profile.keys != contact.profile.keys

    def _remember(self, contact: Contact) -> None:
        before = self.get(contact.name)
        if before is not None:  # keys that others have replaced prove nothing any more
            self._names.pop(self.identity(contact.name, before.profile), None)
            self._petnames.pop(before.petname, None)
        if contact.petname:
            self._petnames[contact.petname] = contact.name
        self._known[contact.name] = contact
        self._names[self.identity(contact.name, contact.profile)] = contact.name


def _put(writer: Writer, contact: Contact) -> None:
    writer.put(Table.PEERS, writer.key_part(contact.name.encode()), contact.encode())


class ContactBatch:
    """The contacts as a transaction changes them, which gives nobody other keys; ``done``, when it
    is on the disk, makes that count."""

    def __init__(self, contacts: Contacts) -> None:
        self._contacts = contacts
        self.directories = contacts.directories
        self._changed: dict[str, Contact] = {}
        self._names: dict[bytes, str] = {}

    def get(self, name: str) -> Contact | None:
        """As that of ``Contacts``."""
        return self._changed.get(name) or self._contacts.get(name)

    def of_identity(self, identity: bytes) -> Contact | None:
        """As that of ``Contacts``."""
        name = self._names.get(identity)
        known = None if name else self._contacts.of_identity(identity)
        return self.get(known.name if known else name or "")

    def identity(self, name: str, profile: Profile) -> bytes:
        """As that of ``Contacts``."""
        return self._contacts.identity(name, profile)

    def put(self, writer: Writer, contact: Contact) -> None:
        """Keep a contact, who is new or has the keys that are known."""
        _put(writer, contact)
        self._changed[contact.name] = contact
        self._names[self.identity(contact.name, contact.profile)] = contact.name

    def done(self) -> None:
        """The transaction is on the disk."""
        self._contacts._kept(self._changed.values())


def _check_profile(entry: Entry) -> None:
    """Raises DecodeError, with the name, for an entry whose profile is none."""
    try:
        decode_profile(entry.profile)
    except DecodeError as error:
        raise DecodeError(
            f"what the name directory has for {entry.name} is not a profile",
            "only they can change it: tell them",
        ) from error
