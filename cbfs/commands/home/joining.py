"""A newcomer's way to an account by a line. Done again with the same line after a crash at any
point, it goes on where it was cut off.

What is looked at before anything is made uses nothing up. Then the keys are in the store, and which
line it is; and only then is the line claimed, for these keys. So a line is used by one account, and
whoever finds it used was not the one who has those keys. From then on the record is in the store,
too: the account is finished by that, however long it takes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from cbfs.account.account import SYSTEM_RANDOM, Account
from cbfs.contacts.contact import How
from cbfs.context import Context
from cbfs.names.lookups import DirectoryDown
from cbfs.network.dial import Dialer
from cbfs.network.drop import Drop, answer, at_drop, claim, forget, look
from cbfs.network.link import ServerRefused
from cbfs.storage.store import Meta, Store, Table, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.names.checks import Found
from cbfs_common.person import Person
from cbfs_common.primitives import KEY_SIZE
from cbfs_common.profile import decode_profile
from cbfs_common.wire.lines import InviteLine, InviteRecord, LineArrival, decode_record
from cbfs_common.wire.requests import Code


def noted(store: Store) -> bytes:
    """The drop (32) of the line by which the account in a store was begun, until that has been
    settled; empty for none."""
    return _line_of(store)[:KEY_SIZE]


def kept(store: Store) -> InviteRecord | None:
    """The record of that line, from when the line is used for the account on: by it the account can
    be finished when the line is too old, or nothing lies at the server any more. Raises
    DecodeError."""
    record = _line_of(store)[KEY_SIZE:]
    return decode_record(record) if record else None


def _line_of(store: Store) -> bytes:
    """drop 32 | record, when the line is used."""
    with store.read() as reader:
        return reader.get(Table.META, Meta.LINE) or b""


async def looked(line: InviteLine, dialer: Dialer, user: bytes) -> Drop:
    """What lies at the server for a line, for ``user`` (32), or empty. Raises LineSpent, and what
    ``look`` raises."""
    async with at_drop(dialer, line, SYSTEM_RANDOM) as link:
        return await look(link, line, time.time(), user)


@dataclass(frozen=True, slots=True)
class Joining:
    """The way of one newcomer by a ``line``, whose ``record`` was read."""

    line: InviteLine
    record: InviteRecord

    def note(self, writer: Writer) -> None:
        """The account that this transaction makes is begun by this line."""
        writer.put(Table.META, Meta.LINE, self.line.drop)
        if self.record.grant:
            writer.put(Table.META, Meta.GRANT, self.record.grant)

    async def claim(self, store: Store, dialer: Dialer, user: bytes) -> None:
        """Use the line for ``user`` (32), of whom the store is, or find that it is used for them;
        the record is in the store then. Raises LineSpent."""
        if kept(store) is not None:
            return
        async with at_drop(dialer, self.line, SYSTEM_RANDOM) as link:
            await claim(link, self.line, user)
        data = self.line.drop + self.record.encode()
        await store.commit(lambda writer: writer.put(Table.META, Meta.LINE, data))

    async def meet(self, context: Context, say: Callable[[str], None]) -> None:
        """Let who has invited be a contact, if the directory has the keys for them that the line
        says; else say why not. Raises DirectoryDown."""
        inviter = self.record.inviter
        if not inviter:
            return
        try:
            known = await self._learn(context, inviter)
        except DirectoryDown:
            raise
        except CbfsError as error:  # the name has ended, or the directory lies: no reason to fail
            say(f"{inviter}, who has invited you, is no contact of yours yet: {error.in_full}")
            return
        if not known:
            say(
                f"the name directory has other keys for {inviter} than your line says: one of the"
                f" two is wrong. Ask {inviter} before you write to them"
            )

    async def _learn(self, context: Context, inviter: str) -> bool:
        """Whether the directory has the keys for who has invited that the line says; then they are
        a contact. Raises what look-ups raise."""
        lookups = context.followed.own
        found = await lookups.lookup(inviter)
        if not isinstance(found, Found):
            return False
        person = Person(lookups.policy.directory, inviter)
        if decode_profile(found.entry.profile).identity(person) != self.record.identity:
            return False
        contact = await context.contacts.learn(inviter, found.entry, How.LINE)
        return contact.offered is None  # else known from long ago, with other keys


async def settle(
    joining: Joining, store: Store, account: Account, dialer: Dialer, say: Callable[[str], None]
) -> None:
    """The account is made: tell who has invited, or remove what lies at the server when nobody
    waits for that. Raises what ``request`` raises."""
    line, record = joining.line, joining.record
    async with at_drop(dialer, line, SYSTEM_RANDOM) as link:
        if record.inviter:
            identity = account.profile.identity(account.person)
            try:
                await answer(link, line, LineArrival(account.name, identity))
            except ServerRefused as error:
                if error.code is not Code.UNKNOWN_USER:
                    raise
                say(
                    "nothing lies at the server any more for the line: if you are no contact of"
                    f" {record.inviter}, write to them"
                )
        else:
            await forget(link)
    await store.commit(lambda writer: writer.delete(Table.META, Meta.LINE))
