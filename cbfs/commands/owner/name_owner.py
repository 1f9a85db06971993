"""What the owner of a name does with it: ``cbfs name``, on an account that is not mounted.

New keys and a new server are prepared first, stored as ``account next``, and made known there; then
the directory is told; then one transaction makes them the account. Cut off at any point, the same
command goes on with the same keys. The old mailbox is looked into for some time afterwards.
"""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TypeVar

from cbfs.account.account import (
    SYSTEM_RANDOM,
    Account,
    load_account,
    load_next,
    no_lock,
    opened_store,
    put_account,
    put_next,
)
from cbfs.account.claim import Marker
from cbfs.account.passphrase import Guard
from cbfs.account.settings import Configuration
from cbfs.commands.init import (
    Wish,
    asked_for,
    begin_account,
    check_begun,
    read_policy,
)
from cbfs.commands.online import online, reached
from cbfs.commands.owner.kept_apart import (
    KeyKind,
    OwnerKey,
    check_apart,
    check_owner,
    check_seed_file,
    read_certificate,
    read_seed,
    write_certificate,
    write_seed,
)
from cbfs.commands.process.running import run
from cbfs.contacts.contact import Standing, decode_contact
from cbfs.context import make_context, make_directory, milliseconds, passing_directory
from cbfs.messages.file_names import moment
from cbfs.messages.queues import note_queue
from cbfs.names.directory import Directory
from cbfs.names.own_name import (
    Intent,
    read_intent,
    read_own,
    stays,
    write_intent,
    write_own,
    write_released,
)
from cbfs.network.access import Network
from cbfs.network.dial import HOME, Dialer, LoopbackDialer
from cbfs.network.link import ServerRefused, open_link, request
from cbfs.network.options import NetworkOptions
from cbfs.network.pacing import PacedDialer
from cbfs.problems import Problems
from cbfs.receiving.copies import begin_anew
from cbfs.receiving.prekeys import top_up
from cbfs.receiving.signing_up import read_server_invite, sign_up
from cbfs.storage.root_key import Unlock
from cbfs.storage.store import Store, Table, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.names.checks import Absent, Found
from cbfs_common.names.entry import NO_KEYS, Entry, Keys
from cbfs_common.names.operations import OperationRefused, Refusal
from cbfs_common.primitives import KEM_SEED_SIZE, KEY_SIZE, sign_public
from cbfs_common.profile import Address
from cbfs_common.wire.requests import Code, DeleteAccount

Say = Callable[[str], None]
T = TypeVar("T")


class _Purpose(Enum):
    """What ``account next`` is another account in."""

    KEYS = "all keys that are in the account"
    SERVER = "the home server"
    OWNER = "the owner key, which is kept apart"

    @classmethod
    def of(cls, account: Account, fresh: Account) -> "_Purpose":
        """What a change that is under way was begun for."""
        if fresh.auth != account.auth:
            return cls.KEYS
        return cls.SERVER if fresh.agent == account.agent else cls.OWNER


class Owner:
    """What ``cbfs name`` does: for the account in a directory, over the network. ``key``: where
    the owner key is when it is not in the account; ``invite``: a file for a server that asks for
    one."""

    def __init__(
        self,
        place: Path,
        options: NetworkOptions,
        say: Say,
        unlock: Unlock = no_lock,
        key: OwnerKey | None = None,
        invite: Path | None = None,
    ) -> None:
        self._place = place
        self._options = options
        self._say = say
        self._unlock = unlock
        self._key = key or OwnerKey()
        self._invite = invite

    def show(self) -> str:
        """What the directory has for the name, in words."""

        async def steps(at: _At) -> str:
            found = await at.directory.lookups.lookup(at.account.name, at.own, lapsed=True)
            if isinstance(found, Absent):
                return f"{at.account.name}: nobody has this name\n"
            return entry_text(found.entry, at.own)

        return self._run(steps)

    def rotate(self, recovery: Path | None, *, stolen: bool = False) -> None:
        """Make new keys for all that is in the account: the owner's or agent's, those of messages,
        mailbox. An owner key that is kept apart stays. ``recovery``: a new file, for the seed of a
        recovery key (None: the recovery keys stay). ``stolen``: somebody else may have the keys, so
        that nothing of before is of use: mailbox, sessions and prekeys go, and contacts are told by
        a new life that what comes under the keys of before is not one's own."""

        def prepare(account: Account) -> Account:
            now = milliseconds() // 1_000
            keys = (SYSTEM_RANDOM.token(KEY_SIZE) for _ in range(4))
            transport, signing, auth, owner = keys
            return replace(
                account,
                transport=transport,
                signing=signing,
                auth=auth,
                kem=SYSTEM_RANDOM.token(KEM_SEED_SIZE),
                owner=owner if account.owner else b"",
                agent=b"" if account.owner else owner,
                former=() if stolen else account.moved(now),
            )

        async def steps(at: _At) -> None:
            heirs = at.own.recovery
            if recovery is not None:
                seed = write_seed(recovery, KeyKind.RECOVERY, at.account.name)
                heirs = Keys(1, (sign_public(seed),))
            fresh = await at.prepare(_Purpose.KEYS, prepare, stolen=stolen)
            found = await at.rotate(fresh, fresh.owner or at.owner, heirs)
            if fresh.former:
                await at.finish(fresh, found)
            else:
                await at.finish_after_theft(fresh, found)

        if recovery is not None:
            check_apart(recovery, self._place)
        self._run(steps, owner=True)

    def take_out(self, path: Path) -> str:
        """Make a new owner key in the new file ``path``, and an agent's key for the account in the
        place of the old one; the name. Who has a copy of the account, from before or later, cannot
        take the name. A crash before the directory knows it leaves the old owner key, in the
        account or where it was kept; after that the new one, which is in its file by then."""

        def prepare(account: Account) -> Account:
            return replace(account, owner=b"", agent=SYSTEM_RANDOM.token(KEY_SIZE))

        async def steps(at: _At) -> str:
            check_seed_file(path, KeyKind.OWNER, at.account.name, self._place)
            seed = write_seed(path, KeyKind.OWNER, at.account.name)
            if sign_public(seed) in at.own.owners.keys:
                raise CbfsError(
                    f"{path} holds the owner key that {at.account.name} has now", "name a new file"
                )
            fresh = await at.prepare(_Purpose.OWNER, prepare, owner=sign_public(seed))
            try:
                await at.finish(fresh, await at.rotate(fresh, seed))
            except BaseException:  # Ctrl-C as well: the directory may have it
                self._say(f"keep {path}: the key in it may own {at.account.name} by now")
                raise
            return at.account.name

        return self._run(steps, owner=True)

    def move(self, server: Address) -> None:
        """Move to another home server; the keys stay, but for that of the mailbox."""

        def prepare(account: Account) -> Account:
            now = milliseconds() // 1_000
            return replace(
                account,
                transport=SYSTEM_RANDOM.token(KEY_SIZE),
                server=server,
                former=account.moved(now),
            )

        async def steps(at: _At) -> None:
            if at.account.server == server:
                raise CbfsError("this is the home server already", "name another with --server")
            fresh = await at.prepare(_Purpose.SERVER, prepare)
            if fresh.server != server:
                raise CbfsError(
                    f"a move to {fresh.server.url()} is not finished", "finish that one first"
                )
            self._say("telling the name directory")
            found = await at.directory.update(fresh.name, fresh.profile.encode(), at.owner, at.own)
            await at.finish(fresh, found)

        self._run(steps, owner=True)

    def renew(self) -> str:
        """Renew the name; until when it is registered, as YYYY-MM-DD."""

        async def steps(at: _At) -> str:
            if load_next(at.store) is not None:
                raise CbfsError("another change is not finished", "finish that one first")
            intent = stays(at.own)
            await at.store.commit(lambda writer: write_intent(writer, intent))
            found = await at.directory.renew(at.own.name, at.account.renewing, at.own)
            await at.store.commit(lambda writer: write_own(writer, found))
            return f"{moment(found.entry.expires * 1_000):%Y-%m-%d}"

        return self._run(steps)

    def cancel(self) -> None:
        """End a recovery that somebody else has begun."""

        async def steps(at: _At) -> None:
            found = await at.directory.cancel(at.own.name, at.owner, at.own)
            await at.store.commit(lambda writer: write_own(writer, found))

        self._run(steps, owner=True)

    def release(self, name: str) -> None:
        """Give the name up, for good. ``name``: as the user has typed it, to be sure."""

        async def steps(at: _At) -> None:
            if at.own.name != name:
                raise CbfsError(f"the name of this account is {at.own.name}", "nothing was done")
            await at.store.commit(write_released)
            await at.directory.release(name, at.owner, at.own)

        self._run(steps, owner=True)

    def certify(self, path: Path) -> None:
        """Write a certificate that freezes the name, into a new file. Nothing is sent."""

        async def steps(at: _At) -> None:
            write_certificate(path, at.directory.freeze_certificate(at.owner, at.own))

        check_apart(path, self._place)
        self._run(steps, owner=True, offline=True)

    def suspend(self) -> str:
        """Freeze the name with the account's agent key, until the owner key ends that; the name."""

        async def steps(at: _At) -> str:
            if not at.account.agent:
                raise CbfsError(
                    "the owner key of this name is in the account: what it freezes stays frozen",
                    "make a certificate, cbfs name freeze FILE, and use it; or take all keys from"
                    " whoever has them: cbfs name rotate --stolen",
                )
            directory = at.directory
            await directory.freeze(directory.freeze_certificate(at.account.agent, at.own))
            return at.account.name

        return self._run(steps)

    def freeze(self, policy_file: Path, path: Path) -> str:
        """Freeze a name by the certificate in a file, from any machine; the name."""
        policy, certificate = read_policy(policy_file), read_certificate(path)

        async def steps(network: Network) -> str:
            return (await passing_directory(policy, network.dialer).freeze(certificate)).name

        return run(reached, self._place, self._options, self._say, steps)

    def recover(
        self,
        name: str,
        server: Address,
        policy_file: Path,
        recovery: Path,
        owner_key: Path | None = None,
    ) -> int:
        """Recover a name by its recovery key, into a new account, whose owner key is in the file
        ``owner_key`` when one is named. Done in two steps: gives when the second is due (seconds
        since 1970), 0 when the account is ready."""
        seed = read_seed(recovery, KeyKind.RECOVERY, name)
        if owner_key is not None:
            check_seed_file(owner_key, KeyKind.OWNER, name, self._place)

        async def steps(new: _New) -> int:
            account, owner = new.account, new.account.owner
            if owner_key is not None:
                owner = self._owner_of_recovery(new.store, owner_key, name)
            intent = Intent(Keys(1, (sign_public(owner),)), account.agent_key, b"")
            await new.store.commit(lambda writer: write_intent(writer, intent))
            entry = await new.directory.recover(name, seed, owner)
            settled = entry.settled(milliseconds() // 1_000)
            if settled.owners != Keys(1, (sign_public(owner),)):
                return entry.due
            await new.at(entry).settle_in(account)
            profile, agent = account.profile.encode(), account.agent_key
            found = await new.directory.inherit(name, profile, owner, entry, agent=agent)
            await new.store.commit(lambda writer: write_own(writer, found))
            return 0

        return self._run_new(
            Wish(name, server, read_policy(policy_file), owner_key is not None), steps
        )

    def _owner_of_recovery(self, store: Store, path: Path, name: str) -> bytes:
        """The seed of the owner key for a recovery, in a file that may be new. Raises CbfsError
        when another one was begun here: this one would only begin it anew."""
        with store.read() as reader:
            begun = read_intent(reader)
        if begun is not None:
            there = os.path.lexists(path) and read_seed(path, KeyKind.OWNER, name)
            if not there or Keys(1, (sign_public(there),)) != begun.owners:
                raise CbfsError(
                    f"{path} has not the owner key with which this recovery was begun",
                    f"name the file of then; if it is lost, begin anew: rm -r {self._place}",
                )
        return write_seed(path, KeyKind.OWNER, name)

    def take_back(self, name: str, server: Address, policy_file: Path) -> None:
        """Take a name into a new account by its owner key, which was not in the old one. At once:
        a recovery waits for the owner's word, and this is it."""
        wish = Wish(name, server, read_policy(policy_file), owner_apart=True)
        seed = self._key.seed(name)

        async def steps(new: _New) -> None:
            found = await new.directory.lookups.lookup(name, lapsed=True)
            if isinstance(found, Absent):
                raise OperationRefused(Refusal.NO_SUCH_NAME)
            check_owner(seed, name, found.entry.owners)
            at = new.at(found.entry, seed)
            await at.settle_in(new.account)
            made = await at.rotate(new.account, seed)
            await new.store.commit(lambda writer: write_own(writer, made))

        self._run_new(wish, steps)

    def _run_new(self, wish: Wish, steps: "Callable[[_New], Awaitable[T]]") -> T:
        """On an account that is begun here."""
        with opened_store(self._place, SYSTEM_RANDOM, self._unlock, create=Guard) as store:
            check_begun(store, self._place, wish)

            async def begun(network: Network) -> T:
                account = await begin_account(store, wish, network)
                directory = make_directory(store, account, network.dialer)
                await store.commit(asked_for)
                return await steps(
                    _New(store, account, directory, network.dialer, self._say, self._invite)
                )

            return run(online, store, self._place, self._options, self._say, begun)

    def _run(
        self,
        steps: "Callable[[_At], Awaitable[T]]",
        *,
        owner: bool = False,
        offline: bool = False,
    ) -> T:
        """On the account that is here. ``owner``: the steps take the owner key."""
        with opened_store(self._place, SYSTEM_RANDOM, self._unlock) as store:
            account = load_account(store)
            with store.read() as reader:
                own, intent = read_own(reader), read_intent(reader)
            if account is None or own is None:
                raise CbfsError(
                    f"the account in {self._place} is not finished", "run the same cbfs init again"
                )

            coming = () if intent is None else (intent.owners,)
            seed = self._owner_seed(account, own.owners, *coming) if owner else b""

            async def at(network: Network) -> T:
                directory = make_directory(store, account, network.dialer)
                new = _New(store, account, directory, network.dialer, self._say, self._invite)
                return await steps(new.at(own, seed))

            if offline:
                return run(at, Network(LoopbackDialer(), None))
            return run(online, store, self._place, self._options, self._say, at)

    def _owner_seed(self, account: Account, *owners: Keys) -> bytes:
        """The seed of the owner key (32), which is in the account, or kept apart and then one of
        these ``owners``. Raises CbfsError."""
        if not account.owner:
            seed = self._key.seed(account.name)
            check_owner(seed, account.name, *owners)
            return seed
        if self._key.path is not None:
            raise CbfsError(
                f"the owner key of {account.name} is in the account",
                "leave out --owner-key; to take it out: cbfs name owner-key --move-to FILE",
            )
        return account.owner


@dataclass(frozen=True, slots=True)
class _New:
    """An account while the network is open."""

    store: Store
    account: Account
    directory: Directory
    dialer: Dialer
    say: Say
    invite: Path | None

    def at(self, own: Entry, owner: bytes = b"") -> "_At":
        """It with its entry, and with the seed of the owner key (32), or empty."""
        return _At(
            self.store,
            self.account,
            self.directory,
            self.dialer,
            self.say,
            self.invite,
            own,
            owner,
        )


@dataclass(frozen=True, slots=True)
class _At(_New):
    """The account, whose entry is ``own``."""

    own: Entry
    owner: bytes

    async def prepare(
        self,
        what: _Purpose,
        make: Callable[[Account], Account],
        *,
        owner: bytes = b"",
        stolen: bool = False,
    ) -> Account:
        """The account as it is to be, with a mailbox, and prekeys unless keys were ``stolen``; with
        the ``owner`` key (public, 32) that is kept apart, or empty for the one of now. What was
        begun goes on; after a theft there are no mailboxes of before, and none of the keys that a
        change before it has made."""
        fresh = load_next(self.store)
        made = fresh or make(self.account)
        if made.owner:
            owner = sign_public(made.owner)
        owners = Keys(1, (owner,)) if owner else self.own.owners
        intent = Intent(owners, made.agent_key, made.profile.encode())
        if fresh is None:

            def change(writer: Writer) -> None:
                put_next(writer, made)
                write_intent(writer, intent)

            await self.store.commit(change)
            fresh = made
        elif _Purpose.of(self.account, fresh) is not what:
            raise CbfsError("another change is not finished", "finish that one first")
        elif stolen and fresh.former:
            raise CbfsError(
                "a change of keys is not finished, and its new keys may be stolen as well",
                "finish it by cbfs name rotate, then do this",
            )
        else:  # the file of an owner key may be another one than it was
            await self.store.commit(lambda writer: write_intent(writer, intent))
        if what is not _Purpose.OWNER:
            await self.settle_in(fresh, prekeys=bool(fresh.former))
        return fresh

    async def rotate(self, fresh: Account, owner: bytes, recovery: Keys | None = None) -> Found:
        """Tell the directory of the keys of ``fresh``, with the ``owner`` key of this seed (32) and
        these recovery keys (None: those of before)."""
        self.say("telling the name directory")
        return await self.directory.rotate(
            fresh.name,
            fresh.profile.encode(),
            self.owner,
            owner,
            self.own,
            recovery,
            agent=fresh.agent_key,
        )

    async def settle_in(self, fresh: Account, *, prekeys: bool = True) -> None:
        """Make a mailbox with prekeys at the account's server; again is no error."""
        server = fresh.server
        invite = b"" if self.invite is None else read_server_invite(self.invite, server)
        self.say(f"making a mailbox at {server.place}")
        problems = Problems(lambda: None)
        configuration = Configuration(self.store)
        paced = PacedDialer(self.dialer, configuration, SYSTEM_RANDOM)
        context = make_context(self.store, fresh, configuration, self.directory, paced, problems)
        async with open_link(self.dialer, server, fresh.transport, HOME, SYSTEM_RANDOM) as link:
            await sign_up(link, fresh.user_id, SYSTEM_RANDOM, invite, self.say)
            if prekeys:
                self.say("making prekeys")
                await top_up(link, context)

    async def finish_after_theft(self, fresh: Account, found: Found) -> None:
        """Make the new account the account, with nothing of the keys of before, and with prekeys. A
        crash before that leaves its mailboxes, or not; after, prekeys to be made by the mount."""
        for server, transport in (
            (self.account.server, self.account.transport),
            *((each.server, each.transport) for each in self.account.former),
        ):
            await self._delete_mailbox(server, transport)
        marker = Marker(fresh.transport, SYSTEM_RANDOM)
        await self.finish(fresh, found, lambda writer: begin_anew(writer, marker, milliseconds()))
        await self.settle_in(fresh)

    async def _delete_mailbox(self, server: Address, transport: bytes) -> None:
        """Delete a mailbox. One that cannot be reached is told, and stands in the way of
        nothing."""
        try:
            async with open_link(self.dialer, server, transport, HOME, SYSTEM_RANDOM) as link:
                await request(link, DeleteAccount())
        except CbfsError as error:
            if isinstance(error, ServerRefused) and error.code is Code.NO_ACCOUNT:
                return  # it is gone
            self.say(f"the old mailbox at {server.place} was not deleted: {error.in_full}")

    async def finish(
        self, fresh: Account, found: Found, also: Callable[[Writer], None] = lambda writer: None
    ) -> None:
        """Make the new account the account, and do ``also`` in the same transaction. A crash before
        leaves the old account and what it is to be; after, the new account, which tells its
        contacts when it is mounted."""
        now = milliseconds()

        def change(writer: Writer) -> None:
            also(writer)
            put_account(writer, fresh)
            write_own(writer, found)
            contacts = [decode_contact(data) for _key, data in writer.items(Table.PEERS)]
            known = [c.name for c in contacts if c.standing is not Standing.STRANGER]
            note_queue.announce(writer, known, now)

        await self.store.commit(change)


def entry_text(entry: Entry, own: Entry | None) -> str:
    """An entry, for its owner to read."""

    def keys(what: Keys) -> str:
        listed = ", ".join(key.hex() for key in what.keys)
        return f"{what.threshold} of {listed}" if what != NO_KEYS else "none"

    lines = {
        "name": entry.name,
        "status": entry.status.name.lower(),
        "owner": f"number {entry.incarnation}",
        "version": f"{entry.version}, of round {entry.round}",
        "expires": f"{moment(entry.expires * 1_000):%Y-%m-%d}",
        "owner keys": keys(entry.owners),
        "agent key": entry.agent.hex() or "none",
        "recovery keys": keys(entry.recovery),
        "recovery": f"due {moment(entry.due * 1_000):%Y-%m-%d %H:%M} UTC, to {keys(entry.heirs)}"
        if entry.heirs.keys
        else "none under way",
        "made here": "yes" if own is not None and entry.digest() == own.digest() else "NO",
    }
    return "".join(f"{name + ':':<15} {value}\n" for name, value in lines.items())
