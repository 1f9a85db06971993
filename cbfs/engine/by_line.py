"""People become contacts by a line: who has made one, and who comes by it, with the keys that each
has told the other of by that and that their name directory has."""

from dataclasses import dataclass, replace

import trio

from cbfs.contacts.contact import How
from cbfs.context import Context, passing_directory
from cbfs.engine.directories import EngineDirectories
from cbfs.names.lookups import DirectoryDown
from cbfs.network.dial import DialError
from cbfs.network.drop import answer, at_drop, check_unused, claim, look
from cbfs.problems import NotYet, Refused
from cbfs.receiving.message_requests import Admission
from cbfs.storage.store import StoreError
from cbfs_common.errors import CbfsError, TransportError
from cbfs_common.names.checks import Found
from cbfs_common.names.entry import Entry
from cbfs_common.names.policy import Policy, parse_policy
from cbfs_common.person import Person
from cbfs_common.profile import decode_profile
from cbfs_common.wire.lines import InviteLine, InviteRecord, LineArrival, parse_line

ADD_TIMEOUT = 180.0
"""Seconds that a program waits at most which pastes a line: past them it is told to try again."""

_AGAIN = "paste the line again, a while later"


class OtherKeys(Refused):
    """The name directory has other keys for a name than a line says, or than are known."""

    def __init__(self, shown: str) -> None:
        super().__init__(
            f"the name directory has other keys for {shown} than the line says",
            f"ask them what they are called, and write to nobody of that name until then: {shown}"
            " may be somebody else",
        )


@dataclass(frozen=True, slots=True)
class ToldOf:
    """Somebody of whom a line tells, as their directory has them: their true ``name`` here, and the
    ``policy`` of their directory when that is not followed yet."""

    name: str
    entry: Entry
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

    async def add(self, text: str) -> None:
        """The user has pasted this line: who has made it is a contact, and is told. Again is no
        error. On the disk on return. Raises Refused for a line that is good for nothing, and NotYet
        when a server does not answer; then nobody was added, or it is not known whether the other
        was told."""
        try:
            with trio.fail_after(ADD_TIMEOUT):
                await self._add(text)
        except StoreError:
            raise
        except (DialError, TransportError, DirectoryDown, NotYet) as error:
            raise NotYet(str(error), _AGAIN) from error
        except trio.TooSlowError as error:
            raise NotYet("a server does not answer", _AGAIN) from error
        except CbfsError as error:
            raise Refused(str(error), error.hint) from error

    async def _add(self, text: str) -> None:
        line, context = parse_line(text), self._context
        account = context.account
        async with at_drop(context.dialer, line, context.random) as link:
            drop = await look(link, line, context.clock() / 1_000)
        record = drop.record
        self._check(record)
        check_unused(line, drop, account.user_id)
        policy = parse_policy(record.policy)
        found = await self.find(policy, record.inviter, record.identity)
        await self._use(line, found, self._arrival(policy))

    def _check(self, record: InviteRecord) -> None:
        account = self._context.account
        if not record.contact:
            raise Refused(
                "this line makes an account, and is not for somebody who has one",
                "ask for one that is, and say: cbfs invite --contact",
            )
        if record.identity == account.profile.identity(account.person):
            raise Refused("this line is your own", "give it to somebody else")

    def _arrival(self, policy: Policy) -> LineArrival:
        """What is told to who is of the directory with this policy."""
        account, own = self._context.account, self._context.followed.own.policy
        other = "" if policy.directory == own.directory else own.encode()
        return LineArrival(account.name, account.profile.identity(account.person), other)

    async def _use(self, line: InviteLine, found: ToldOf, arrival: LineArrival) -> None:
        context = self._context
        async with at_drop(context.dialer, line, context.random) as link:
            await claim(link, line, context.account.user_id)
            await self.keep(found)
            await answer(link, line, arrival)

    async def find(self, policy: Policy | None, name: str, identity: bytes) -> ToldOf:
        """Who has this name in the directory with this policy, None for one's own; nothing is kept
        of it. Of a directory that is followed, its policy counts as it is known. Raises OtherKeys
        unless it is who has this identity (32), PolicyRefused, and what look-ups raise."""
        context, followed = self._context, self._context.followed
        directory = followed.directories.own if policy is None else policy.directory
        person = Person(directory, name)
        true = followed.directories.text(person)
        if policy is None or followed.follows(true):
            lookups, fresh, shown = followed.of(directory), None, followed.shown(true)
        else:
            followed.check(policy)
            lookups = passing_directory(policy.encode(), context.dialer).lookups
            fresh, shown = policy, f"{name}@{policy.namespace}"
        found = await lookups.lookup(name)
        if not isinstance(found, Found):
            raise OtherKeys(shown)
        known = context.contacts.get(true)
        if decode_profile(found.entry.profile).identity(person) != identity or (
            known is not None and known.profile != decode_profile(found.entry.profile)
        ):
            raise OtherKeys(shown)
        return ToldOf(true, found.entry, fresh)

    async def keep(self, found: ToldOf) -> None:
        """Let them be a contact, known by a line. On the disk on return; a crash before may leave
        their directory followed. Raises PolicyRefused."""
        contacts = self._context.contacts
        if found.policy is not None:
            await self._directories.follow(found.policy.encode().encode())
        contact = await contacts.learn(found.name, found.entry, How.LINE)
        await contacts.decide([replace(contact, how=How.LINE)], lambda writer: None)
        await self._admission.admit([found.name])
