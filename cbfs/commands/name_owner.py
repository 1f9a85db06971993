"""What the owner of a name does with it: ``cbfs name``, on an account that is not mounted.

New keys and a new server are prepared first, stored as ``account next``, and made known there; then
the directory is told; then one transaction makes them the account. Cut off at any point, the same
command goes on with the same keys. The old mailbox is looked into for some time afterwards.
"""

import base64
import binascii
import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
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
from cbfs.contacts.contact import Standing, decode_contact
from cbfs.context import make_context, make_directory, milliseconds, passing_directory
from cbfs.messages.file_names import moment
from cbfs.messages.queues import note_queue
from cbfs.messages.queues.delivery_queue import reseal
from cbfs.names.directory import Directory
from cbfs.names.own_name import Intent, read_own, write_intent, write_own, write_released
from cbfs.network.access import Network, NetworkOptions, run
from cbfs.network.dial import HOME, Dialer, LoopbackDialer
from cbfs.network.link import ServerRefused, open_link, request
from cbfs.network.pacing import PacedDialer
from cbfs.problems import Problems
from cbfs.receiving.mailbox import sign_up
from cbfs.receiving.prekeys import top_up
from cbfs.storage.root_key import Unlock
from cbfs.storage.store import Store, Table, Writer
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.names.checks import Absent, Found
from cbfs_common.names.entry import NO_KEYS, Entry, Keys
from cbfs_common.names.operations import OPERATION_MAX, OperationKind, decode_operation
from cbfs_common.primitives import KEM_SEED_SIZE, KEY_SIZE, sign_public
from cbfs_common.profile import Address
from cbfs_common.wire.requests import Code, DeleteAccount
from cbfs_host.files import write_file

Say = Callable[[str], None]
T = TypeVar("T")

SEED_HEAD = "cbfs recovery key: keep it apart from the account, and secret"
FREEZE_HEAD = "cbfs certificate: freezes the name, so that nobody with its keys can use them"


class Owner:
    """What ``cbfs name`` does: for the account in a directory, over the network."""

    def __init__(
        self, place: Path, options: NetworkOptions, say: Say, unlock: Unlock = no_lock
    ) -> None:
        self._place = place
        self._options = options
        self._say = say
        self._unlock = unlock

    def show(self) -> str:
        """What the directory has for the name, in words."""

        async def steps(at: _At) -> str:
            found = await at.directory.lookups.lookup(at.account.name, at.own, lapsed=True)
            if isinstance(found, Absent):
                return f"{at.account.name}: nobody has this name\n"
            return entry_text(found.entry, at.own)

        return self._run(steps)

    def rotate(self, recovery: Path | None, *, stolen: bool = False) -> None:
        """Make new keys for everything: owner key, message keys, mailbox. ``recovery``: a new file,
        for the seed of a recovery key (None: the recovery keys stay). ``stolen``: somebody else may
        have the keys, so that nothing of before is of use: mailbox, sessions and prekeys go, and
        contacts are told by a new life that what comes under the keys of before is not one's own.
        """

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
                owner=owner,
                former=() if stolen else account.moved(now),
            )

        async def steps(at: _At) -> None:
            heirs = at.own.recovery
            if recovery is not None:
                heirs = Keys(1, (sign_public(write_seed(recovery)),))
            fresh = await at.prepare(prepare, rotates=True, stolen=stolen)
            self._say("telling the name directory")
            found = await at.directory.rotate(
                fresh.name, fresh.profile.encode(), at.account.owner, fresh.owner, at.own, heirs
            )
            if fresh.former:
                await at.finish(fresh, found)
            else:
                await at.finish_after_theft(fresh, found)

        self._run(steps)

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
            fresh = await at.prepare(prepare, rotates=False)
            if fresh.server != server:
                raise CbfsError(
                    f"a move to {fresh.server.url()} is not finished", "finish that one first"
                )
            self._say("telling the name directory")
            found = await at.directory.update(
                fresh.name, fresh.profile.encode(), at.account.owner, at.own
            )
            await at.finish(fresh, found)

        self._run(steps)

    def renew(self) -> str:
        """Renew the name; until when it is registered, as YYYY-MM-DD."""

        async def steps(at: _At) -> str:
            if load_next(at.store) is not None:
                raise CbfsError("another change is not finished", "finish that one first")
            intent = Intent(at.own.owners, at.own.profile)
            await at.store.commit(lambda writer: write_intent(writer, intent))
            found = await at.directory.renew(at.own.name, at.account.owner, at.own)
            await at.store.commit(lambda writer: write_own(writer, found))
            return f"{moment(found.entry.expires * 1_000):%Y-%m-%d}"

        return self._run(steps)

    def cancel(self) -> None:
        """End a recovery that somebody else has begun."""

        async def steps(at: _At) -> None:
            found = await at.directory.cancel(at.own.name, at.account.owner, at.own)
            await at.store.commit(lambda writer: write_own(writer, found))

        self._run(steps)

    def release(self, name: str) -> None:
        """Give the name up, for good. ``name``: as the user has typed it, to be sure."""

        async def steps(at: _At) -> None:
            if at.own.name != name:
                raise CbfsError(f"the name of this account is {at.own.name}", "nothing was done")
            await at.store.commit(write_released)
            await at.directory.release(name, at.account.owner, at.own)

        self._run(steps)

    def certify(self, path: Path) -> None:
        """Write a certificate that freezes the name, into a new file. Nothing is sent."""

        async def steps(at: _At) -> None:
            write_certificate(path, at.directory.freeze_certificate(at.account.owner, at.own))

        self._run(steps, offline=True)

    def freeze(self, policy_file: Path, path: Path) -> str:
        """Freeze a name by the certificate in a file, from any machine; the name."""
        policy, certificate = read_policy(policy_file), read_certificate(path)

        async def steps(network: Network) -> str:
            return (await passing_directory(policy, network.dialer).freeze(certificate)).name

        return run(reached, self._place, self._options, self._say, steps)

    def recover(self, name: str, server: Address, policy_file: Path, recovery: Path) -> int:
        """Recover a name by its recovery key, into a new account. Done in two steps: gives when the
        second is due (seconds since 1970), 0 when the account is ready."""
        policy, seed = read_policy(policy_file), read_seed(recovery)
        with opened_store(self._place, SYSTEM_RANDOM, self._unlock, create=Guard) as store:
            wish = Wish(name, server, policy)
            check_begun(store, self._place, wish)

            async def steps(network: Network) -> int:
                dialer, account = network.dialer, await begin_account(store, wish, network)
                directory = make_directory(store, account, dialer)
                await store.commit(asked_for)
                entry = await directory.recover(name, seed, account.owner)
                settled = entry.settled(milliseconds() // 1_000)
                if settled.owners != Keys(1, (sign_public(account.owner),)):
                    return entry.due
                at = _At(store, account, entry, directory, dialer, self._say)
                await at.settle_in(account)
                profile = account.profile.encode()
                found = await directory.inherit(name, profile, account.owner, entry)
                await store.commit(lambda writer: write_own(writer, found))
                return 0

            return run(online, store, self._place, self._options, self._say, steps)

    def _run(self, steps: "Callable[[_At], Awaitable[T]]", *, offline: bool = False) -> T:
        with opened_store(self._place, SYSTEM_RANDOM, self._unlock) as store:
            account = load_account(store)
            with store.read() as reader:
                own = read_own(reader)
            if account is None or own is None:
                raise CbfsError(
                    f"the account in {self._place} is not finished", "run the same cbfs init again"
                )

            async def at(network: Network) -> T:
                directory = make_directory(store, account, network.dialer)
                here = _At(store, account, own, directory, network.dialer, self._say)
                return await steps(here)

            if offline:
                return run(at, Network(LoopbackDialer(), None))
            return run(online, store, self._place, self._options, self._say, at)


class _At:
    """The account while the network is open."""

    def __init__(
        self,
        store: Store,
        account: Account,
        own: Entry,
        directory: Directory,
        dialer: Dialer,
        say: Say,
    ) -> None:
        self.store = store
        self.account = account
        self.own = own
        self.directory = directory
        self.dialer = dialer
        self.say = say

    async def prepare(
        self, make: Callable[[Account], Account], *, rotates: bool, stolen: bool = False
    ) -> Account:
        """The account as it is to be, with a mailbox, and prekeys unless keys were ``stolen``. What
        was begun goes on; after a theft there are no mailboxes of before, and none of the keys that
        a change before it has made."""
        fresh = load_next(self.store)
        if fresh is None:
            made = make(self.account)
            owners = Keys(1, (sign_public(made.owner),)) if rotates else self.own.owners
            intent = Intent(owners, made.profile.encode())

            def change(writer: Writer) -> None:
                put_next(writer, made)
                write_intent(writer, intent)

            await self.store.commit(change)
            fresh = made
        elif (fresh.owner != self.account.owner) is not rotates:
            raise CbfsError("another change is not finished", "finish that one first")
        elif stolen and fresh.former:
            raise CbfsError(
                "a change of keys is not finished, and its new keys may be stolen as well",
                "finish it by cbfs name rotate, then do this",
            )
        await self.settle_in(fresh, prekeys=bool(fresh.former))
        return fresh

    async def settle_in(self, fresh: Account, *, prekeys: bool = True) -> None:
        """Make a mailbox with prekeys at the account's server; again is no error."""
        server = fresh.server
        self.say(f"making a mailbox at {server.place}")
        problems = Problems(lambda: None)
        configuration = Configuration(self.store)
        paced = PacedDialer(self.dialer, configuration, SYSTEM_RANDOM)
        context = make_context(self.store, fresh, configuration, self.directory, paced, problems)
        async with open_link(self.dialer, server, fresh.transport, HOME, SYSTEM_RANDOM) as link:
            await sign_up(link)
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
        await self.finish(fresh, found, _forget_keys)
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


def _forget_keys(writer: Writer) -> None:
    """Forget all sessions and secrets of prekeys, and have all that waits sealed anew."""
    for table in Table.SESSIONS, Table.PREKEYS:
        for key in list(writer.keys(table)):
            writer.delete(table, key)
    for _key, data in list(writer.items(Table.PEERS)):
        reseal(writer, decode_contact(data).name)


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
        "recovery keys": keys(entry.recovery),
        "recovery": f"due {moment(entry.due * 1_000):%Y-%m-%d %H:%M} UTC, to {keys(entry.heirs)}"
        if entry.heirs.keys
        else "none under way",
        "made here": "yes" if own is not None and entry.digest() == own.digest() else "NO",
    }
    return "".join(f"{name + ':':<15} {value}\n" for name, value in lines.items())


# files that the owner keeps apart from the account


def write_certificate(path: Path, operation: bytes) -> None:
    """Write a signed FREEZE into a new file. Raises CbfsError."""
    write_secret(path, f"{FREEZE_HEAD}\n{base64.b64encode(operation).decode()}\n")


def read_certificate(path: Path) -> bytes:
    """The signed FREEZE in a file that ``write_certificate`` made. Raises CbfsError."""
    try:
        with path.open(encoding="ascii") as file:
            head, _, text = file.read(4 * OPERATION_MAX).partition("\n")
        operation = base64.b64decode(text.strip(), validate=True)
        if head != FREEZE_HEAD or decode_operation(operation).kind is not OperationKind.FREEZE:
            raise DecodeError("not a certificate")
    except (OSError, UnicodeDecodeError, binascii.Error, DecodeError) as error:
        raise CbfsError(
            f"{path} is not a certificate that freezes a name", "is it the right file?"
        ) from (error)
    return operation


def write_seed(path: Path) -> bytes:
    """Make a new seed (32 bytes) in a new file (0600), which is on the disk on return; or the one
    in the file that an earlier try has left. Raises CbfsError."""
    if path.exists():
        return read_seed(path)
    seed = SYSTEM_RANDOM.token(KEY_SIZE)
    write_secret(path, f"{SEED_HEAD}\n{seed.hex()}\n")
    return seed


def read_seed(path: Path) -> bytes:
    """The seed in a file that ``write_seed`` made. Raises CbfsError."""
    try:
        head, _, text = path.read_text(encoding="ascii").partition("\n")
        seed = bytes.fromhex(text.strip())
    except (OSError, ValueError) as error:
        raise CbfsError(f"cannot read a recovery key from {path}", "is it the right file?") from (
            error
        )
    if head != SEED_HEAD or len(seed) != KEY_SIZE:
        raise CbfsError(f"{path} holds no recovery key", "is it the right file?")
    return seed


def write_secret(path: Path, text: str) -> None:
    """Write a new file that only its owner can read; it is on the disk on return. Raises
    CbfsError."""
    try:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        write_file(path, text.encode("ascii"))
    except OSError as error:
        raise CbfsError(
            f"cannot write {path}: {(error.strerror or '').lower()}",
            "name a new file",
        ) from error
