"""``cbfs init``: keys, account, prekeys, name. Cut off at any point, the same command goes on
where it stopped, with the same keys."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from cbfs.account.account import (
    SYSTEM_RANDOM,
    Account,
    load_account,
    load_own_server,
    make_account,
    no_lock,
    opened_store,
    protection_of,
    put_account,
    put_own_server,
)
from cbfs.account.passphrase import Guard
from cbfs.account.settings import Configuration
from cbfs.commands.removing import remove_tree
from cbfs.contacts.user_names import typed_name
from cbfs.context import make_context, make_directory, milliseconds
from cbfs.names.directory import Directory, NameTaken, check_free
from cbfs.names.lookups import DirectoryDown
from cbfs.names.own_name import write_own
from cbfs.network.access import Network, NetworkOptions, reaching, run
from cbfs.network.dial import HOME, Dialer, DialError
from cbfs.network.link import open_link
from cbfs.network.own_server import OwnServer
from cbfs.network.pacing import PacedDialer
from cbfs.problems import Backoff, Problems
from cbfs.receiving.mailbox import sign_up
from cbfs.receiving.prekeys import top_up
from cbfs.storage.records import Meta
from cbfs.storage.root_key import ProtectionKind, Unlock
from cbfs.storage.store import Store, Table, Writer
from cbfs_common.errors import CbfsError, TransportError
from cbfs_common.names.checks import Found, NameExpired
from cbfs_common.names.policy import parse_policy
from cbfs_common.names.refusals import OperationRefused
from cbfs_common.names.registration import Token, parse_token
from cbfs_common.profile import Address, parse_address

T = TypeVar("T")

POLICY_FILE_MAX = 1 << 16
INVITE_FILE_MAX = 4_096

BOOTSTRAP_TIMEOUT = 300.0
"""Seconds that Tor has to connect."""


TRIES = 4
"""Times that it is gone on through Tor, where a connection that fails is nothing unusual."""


@dataclass(frozen=True, slots=True)
class Wish:
    """The account that is asked for: its name, its home server (None: one of its own) and the
    text of the policy of its name directory."""

    name: str
    server: Address | None
    policy: str


def make(
    name: str,
    directory: Path,
    server_url: str | None,
    policy_file: Path,
    options: NetworkOptions,
    say: Callable[[str], None],
    invite: Path | None = None,
    unlock: Unlock = no_lock,
    guard: Callable[[], Guard] = Guard,
) -> str:
    """Make the account ``name`` in ``directory``, with a server of its own when ``server_url`` is
    None, and with the invite in a file where the name directory asks for one; the name as the
    directory has it. Raises CbfsError, and then a name that is taken or an
    address that is wrong stands in the way of no other try in the same directory."""
    name = typed_name(name)
    server = None if server_url is None else parse_address(server_url)
    wish = Wish(name, server, read_policy(policy_file))
    token = None if invite is None else _read_invite(invite, wish)
    fresh = not directory.exists()
    begun = protection_of(directory)
    try:
        with opened_store(directory, SYSTEM_RANDOM, unlock, create=guard) as store:
            check_begun(store, directory, wish)
            if begun is ProtectionKind.NOTHING:  # else what protects it was just given
                asked = guard()
                store.protect(asked.protection, asked.lock)

            async def steps(network: Network) -> None:
                account = await begin_account(store, wish, network)
                await _steps(store, account, network.dialer, say, token)

            run(online, store, directory, options, say, steps, server is None)
    except NameTaken:
        if fresh:
            remove_tree(directory)
        raise
    return name


def read_policy(path: Path) -> str:
    """A policy file's text. Raises CbfsError."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(POLICY_FILE_MAX)
    except (OSError, UnicodeDecodeError) as error:
        raise CbfsError(
            f"cannot read the policy file {path}", "cbfs-names writes it: DIR/policy"
        ) from error
    parse_policy(text)
    return text


def check_begun(store: Store, directory: Path, wish: Wish) -> None:
    """What was begun here for another wish is given up, so that a mistyped name or address can be
    put right. Raises CbfsError when that cannot be: the account is finished, or the directory may
    have its name by now, which would be lost with its keys."""
    account = load_account(store)
    if account is None:
        return
    with store.read() as reader:
        finished = reader.get(Table.META, Meta.OWN) is not None
        asked = reader.get(Table.META, Meta.NAME_ASKED_FOR) is not None
    server = None if load_own_server(store) else account.server
    if not finished and Wish(account.name, server, account.policy) == wish:
        return
    if finished:
        raise CbfsError(
            f"{directory} holds the account of {account.name} already",
            "choose another directory with --account",
        )
    if asked:
        home = account.server.url() if server else "one of its own"
        raise CbfsError(
            f"the name {account.name} may be registered already, for the account in {directory}",
            f"finish it with the same name, policy file and server ({home}); or choose another"
            " directory with --account",
        )
    store.write(_give_up)


def _give_up(writer: Writer) -> None:
    for table in Table:
        for key in list(writer.keys(table, b"")):
            if (table, key) != (Table.META, Meta.BLIND):
                writer.delete(table, key)


def asked_for(writer: Writer) -> None:
    """From here on somebody else may know the keys of the account as those of its name."""
    writer.put(Table.META, Meta.NAME_ASKED_FOR, b"")


def _refused(writer: Writer) -> None:
    writer.delete(Table.META, Meta.NAME_ASKED_FOR)


async def begin_account(store: Store, wish: Wish, network: Network) -> Account:
    """The account that was begun here, or a new one. Raises CbfsError."""
    account = load_account(store)
    if account is not None:
        return account
    own = network.own_server
    server = wish.server if own is None else await _published(own)
    if server is None:
        raise CbfsError("an account needs a server", "name one: --server URL, or --own-server")
    account = make_account(wish.name, server, wish.policy, SYSTEM_RANDOM)

    def change(writer: Writer) -> None:
        put_account(writer, account)
        if own is not None:
            put_own_server(writer, server)

    await store.commit(change)
    return account


async def _published(own: OwnServer) -> Address:
    with trio.move_on_after(BOOTSTRAP_TIMEOUT):
        return await own.address()
    raise CbfsError(own.line, "see its log, in the folder server of the account")


@dataclass(slots=True)
class _Progress:
    """Says how far Tor and one's own server are, each word once."""

    say: Callable[[str], None]
    network: Network | None = None
    said: frozenset[str] = frozenset()

    def tell(self) -> None:
        if self.network is None:
            return
        own = self.network.own_server
        lines = (self.network.lines()[0], *((own.line,) if own else ()))
        for line in lines:
            if line not in self.said:
                self.say(line)
        self.said = frozenset(lines)


async def online(
    store: Store,
    place: Path,
    options: NetworkOptions,
    say: Callable[[str], None],
    steps: Callable[[Network], Awaitable[T]],
    own_server: bool = False,
) -> T:
    """Run the store, the way to servers and one's own server where there is one or is to be, and
    all steps, each as often as it takes: done again, each goes on where it was cut off."""
    known = load_own_server(store)
    own = own_server or known is not None
    async with trio.open_nursery() as committer:
        await committer.start(store.run)
        done = await reached(place, options, say, steps, own_server=own, known=known)
        committer.cancel_scope.cancel()
    return done


async def reached(
    place: Path,
    options: NetworkOptions,
    say: Callable[[str], None],
    steps: Callable[[Network], Awaitable[T]],
    *,
    own_server: bool = False,
    known: Address | None = None,
) -> T:
    """The same without a store."""
    progress = _Progress(say)
    async with reaching(
        options, place, SYSTEM_RANDOM, progress.tell, own_server=own_server, known=known
    ) as network:
        progress.network = network
        if network.tor is not None:
            with trio.move_on_after(BOOTSTRAP_TIMEOUT) as waiting:
                await network.tor.wait_up()
            if waiting.cancelled_caught:
                report = network.tor.report()
                raise CbfsError(report.state, report.hint)
        if network.own_server is not None:
            await _published(network.own_server)
        return await _persist(network, say, steps)


async def _persist(
    network: Network, say: Callable[[str], None], steps: Callable[[Network], Awaitable[T]]
) -> T:
    backoff = Backoff(SYSTEM_RANDOM)
    for tries_left in reversed(range(TRIES if network.tor else 1)):
        try:
            return await steps(network)
        except (DialError, TransportError, DirectoryDown) as error:
            if not tries_left:
                raise
            say(f"{error.in_full}; trying again")
        await trio.sleep(backoff.next())
    raise RuntimeError("no tries")


def _read_invite(path: Path, wish: Wish) -> Token:
    """Raises CbfsError for one that is not for this name at this directory: to send it would spend
    it."""
    try:
        with path.open(encoding="ascii") as file:
            token = parse_token(file.read(INVITE_FILE_MAX))
    except (OSError, UnicodeDecodeError) as error:
        raise CbfsError(f"cannot read an invite from {path}", "is it the right file?") from error
    if token.invite.namespace != parse_policy(wish.policy).namespace:
        raise CbfsError(
            f"the invite in {path} is for another name directory", "is it the right policy file?"
        )
    if token.invite.name not in ("", wish.name):
        raise CbfsError(
            f"the invite in {path} is for the name {token.invite.name}",
            f"cbfs init {token.invite.name}; the invite was not used",
        )
    return token


async def _steps(
    store: Store,
    account: Account,
    dialer: Dialer,
    say: Callable[[str], None],
    token: Token | None,
) -> None:
    directory = make_directory(store, account, dialer)
    await _check_free(directory, account)
    say(f"making an account at {account.server.place}")
    configuration = Configuration(store)
    paced = PacedDialer(dialer, configuration, SYSTEM_RANDOM)
    problems = Problems(lambda: None)
    context = make_context(store, account, configuration, directory, paced, problems)
    async with open_link(dialer, account.server, account.transport, HOME, SYSTEM_RANDOM) as link:
        await sign_up(link)
        say("making prekeys")
        await top_up(link, context)
    say(f"registering {account.name}")
    profile = account.profile.encode()
    with store.read() as reader:
        earlier = reader.get(Table.META, Meta.NAME_ASKED_FOR) is not None
    await store.commit(asked_for)
    try:
        found = await directory.register(account.name, profile, account.owner, token)
    except (NameTaken, OperationRefused):
        if not earlier:  # else what was asked for before may still come about
            await store.commit(_refused)
        raise
    # the last step: with the bundle in place the account is finished
    await store.commit(lambda writer: write_own(writer, found))


async def _check_free(directory: Directory, account: Account) -> None:
    """Raises NameTaken before anything has been made for a name that somebody has."""
    try:
        found = await directory.lookups.lookup(account.name)
    except DirectoryDown as error:
        raise DirectoryDown(
            str(error), "is cbfs-names running where the policy file says?"
        ) from error
    except NameExpired as expired:
        check_free(expired.entry, milliseconds() // 1_000)
        return
    if isinstance(found, Found) and found.entry.profile != account.profile.encode():
        raise NameTaken
