"""People become contacts by a line: who has made one, and who comes by it, with the keys that each
has told the other of by that and that their name directory has."""

from dataclasses import dataclass, replace

from cbfs.contacts.contact import How
from cbfs.context import Context, passing_directory
from cbfs.engine.directories import EngineDirectories
from cbfs.problems import Refused
from cbfs.receiving.message_requests import Admission
from cbfs_common.names.checks import Found, NameChanged
from cbfs_common.names.entry import Entry
from cbfs_common.names.policy import Policy
from cbfs_common.person import Person
from cbfs_common.profile import decode_profile


class OtherKeys(Refused):
    """The name directory has other keys for a name than a line says, or than are known."""

    def __init__(self, shown: str) -> None:
        super().__init__(
            f"the name directory has other keys for {shown} than the line says",
            f"ask them what they are called, and write to nobody of that name until then: {shown}"
            " may be somebody else",
        )


class Oneself(Refused):
    """A line tells of whom it is used by, or was made by."""

    def __init__(self) -> None:
        super().__init__("this line is your own: who is told of is you", "give it to somebody else")


@dataclass(frozen=True, slots=True)
class ToldOf:
    """Somebody of whom a line tells, as their directory has them: their true ``name`` here, the
    ``identity`` that was told, the ``entry``, which was checked against the one that was ``known``,
    and the ``policy`` of their directory when that is not followed yet."""

    name: str
    identity: bytes
    entry: Entry
    known: Entry | None
    policy: Policy | None


class ByLine:
    """Makes contacts by lines, for an account at work. ``admission`` lets in who has written
    before, ``directories`` follows those of people of others."""

    def __init__(
        self, context: Context, admission: Admission, directories: EngineDirectories
    ) -> None:
        self._context = context
        self._admission = admission
        self._directories = directories

    async def find(self, policy: Policy | None, name: str, identity: bytes) -> ToldOf:
        """Who has this name in the directory with this policy, None for one's own; nothing is kept
        of it, but for a new owner of the name of a contact, of whom the user decides. Of a
        directory that is followed, its policy counts as it is known. Raises OtherKeys unless it is
        who has this identity (32), Oneself, PolicyRefused, and what look-ups raise."""
        context, followed = self._context, self._context.followed
        directory = followed.directories.own if policy is None else policy.directory
        person = Person(directory, name)
        if person == context.account.person:
            raise Oneself
        true = followed.directories.text(person)
        if policy is None or followed.follows(true):
            lookups, fresh, shown = followed.of(directory), None, followed.shown(true)
        else:
            followed.check(policy)
            lookups = passing_directory(policy.encode(), context.dialer).lookups
            fresh, shown = policy, f"{name}@{policy.namespace}"
        contact = context.contacts.get(true)
        known = contact.followed if contact else None
        try:
            found = await lookups.lookup(name, known)
        except NameChanged as error:
            if fresh is None:  # else nothing is sent to them anyway
                await context.contacts.offer(true, error.entry)
            raise OtherKeys(shown) from error
        if not isinstance(found, Found):
            raise OtherKeys(shown)
        if decode_profile(found.entry.profile).identity(person) != identity:
            raise OtherKeys(shown)
        return ToldOf(true, identity, found.entry, known, fresh)

    async def keep(self, found: ToldOf) -> None:
        """Let them be a contact, known by a line. On the disk on return; a crash before may leave
        their directory followed. Raises PolicyRefused, and OtherKeys when others have come to be
        known since they were found."""
        contacts = self._context.contacts
        if found.policy is not None:
            await self._directories.follow(found.policy.encode().encode(), only_new=True)
        known = contacts.get(found.name)
        if known is None or (known.followed == found.known and known.entry != found.entry):
            known = await contacts.learn(found.name, found.entry, How.LINE)
        if contacts.identity(found.name, known.profile) != found.identity:
            raise OtherKeys(contacts.shown(found.name))
        await contacts.decide([replace(known, how=How.LINE)], lambda writer: None)
        await self._admission.admit([found.name])
