"""Making an account: keys, account at the home server, prekeys, name. Cut off at any point, the
same command goes on where it stopped, with the same keys."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

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
from cbfs.commands.home.joining import Joining, noted
from cbfs.commands.home.taking_up import is_to_be_taken_up, take_up
from cbfs.commands.mountpoints import remove_tree
from cbfs.commands.online import online, published
from cbfs.commands.owner.kept_apart import KeyKind, check_seed_file, write_seed
from cbfs.commands.process.running import run
from cbfs.contacts.user_names import typed_name
from cbfs.context import Context, make_context, make_directory, milliseconds
from cbfs.names.directory import Directory, NameTaken, check_free
from cbfs.names.lookups import DirectoryDown
from cbfs.names.own_name import write_own
from cbfs.network.access import Network
from cbfs.network.dial import HOME, Dialer
from cbfs.network.link import open_link
from cbfs.network.options import NetworkOptions
from cbfs.network.pacing import PacedDialer
from cbfs.problems import Problems
from cbfs.receiving.prekeys import top_up
from cbfs.receiving.signing_up import read_server_invite, sign_up
from cbfs.storage.records import Meta
from cbfs.storage.root_key import ProtectionKind, Unlock
from cbfs.storage.store import Store, Table, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.names.checks import Found, NameExpired
from cbfs_common.names.entry import Entry
from cbfs_common.names.operations import OperationRefused
from cbfs_common.names.policy import parse_policy
from cbfs_common.names.registration import Token, parse_token
from cbfs_common.profile import Address, parse_address, same_profile

T = TypeVar("T")

POLICY_FILE_MAX = 1 << 16
INVITE_FILE_MAX = 4_096


@dataclass(frozen=True, slots=True)
class Wish:
    """The account that is asked for: its name, its home server (None: one of its own), the text of
    the policy of its name directory, and whether its owner key is kept apart."""

    name: str
    server: Address | None
    policy: str
    owner_apart: bool = False


def protect(store: Store, begun: ProtectionKind | None, guard: Callable[[], Guard]) -> None:
    """Protect an account that was begun without protection as it is wished for now."""
    if begun is ProtectionKind.NOTHING:  # else what protects it was just given
        asked = guard()
        store.protect(asked.protection, asked.lock)


def is_finished(store: Store) -> bool:
    """Whether the account in a store has its name."""
    with store.read() as reader:
        return reader.get(Table.META, Meta.OWN) is not None


def is_asked_for(store: Store) -> bool:
    """Whether the directory may have the name of the account in a store, with its keys."""
    with store.read() as reader:
        return reader.get(Table.META, Meta.NAME_ASKED_FOR) is not None


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
    *,
    owner_key: Path | None = None,
    server_invite: Path | None = None,
) -> str:
    """Make the account ``name`` in ``directory``: with a server of its own when ``server_url`` is
    None, with the invites in files where the name directory and the server ask for one, and with
    the key that owns the name in the file ``owner_key``, which may be from an earlier try. Gives
    the name as the
    directory has it. Raises CbfsError; then a name that somebody has, or an address that is wrong,
    stands in the way of no other try in the same directory."""
    name = typed_name(name)
    server = None if server_url is None else parse_address(server_url)
    wish = Wish(name, server, read_policy(policy_file), owner_key is not None)
    if owner_key is not None:
        check_seed_file(owner_key, KeyKind.OWNER, name, directory)
    token = None if invite is None else _read_invite(invite, wish)
    to_server = b""
    if server_invite is not None and server is not None:
        to_server = read_server_invite(server_invite, server)
    fresh, taken_up = not directory.exists(), False
    begun = protection_of(directory)
    try:
        with opened_store(directory, SYSTEM_RANDOM, unlock, create=guard) as store:
            taken_up = check_begun(store, directory, wish, may_take_up=True)
            protect(store, begun, guard)

            async def steps(network: Network) -> None:
                account = await begin_account(store, wish, network)
                brought = Brought(token, to_server, owner_key)
                await take_steps(store, account, network.dialer, say, brought)

            run(online, store, directory, options, say, steps, server is None)
    except NameTaken as error:
        if fresh:
            remove_tree(directory)
        if taken_up:
            raise CbfsError(
                f"somebody else is called {name} there, and the account is as it was",
                "go on with it in another name directory: --names POLICYFILE",
            ) from error
        raise
    return name


def read_policy(path: Path) -> str:
    """The text of a policy file. Raises CbfsError."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(POLICY_FILE_MAX)
    except (OSError, UnicodeDecodeError) as error:
        raise CbfsError(
            f"cannot read the policy file {path}", "cbfs-names writes it: DIR/policy"
        ) from error
    parse_policy(text)
    return text


def check_begun(store: Store, directory: Path, wish: Wish, *, may_take_up: bool = False) -> bool:
    """Give up what was begun here for another wish, so that a mistyped name or address can be put
    right. One of long ago goes on by the wish, if it ``may_take_up`` its name: True then. Raises
    CbfsError when that cannot be: the account is finished, or the directory may have its name by
    now, which would be lost with its keys."""
    account = load_account(store)
    if account is None:
        store.write(Writer.clear)  # what an export had that was not restored to its end
        return False
    finished, asked = is_finished(store), is_asked_for(store)
    server = None if load_own_server(store) else account.server
    apart = not account.owner
    begun = Wish(account.name, server, account.policy, apart)
    if not finished and begun == wish:
        return False
    if not (finished or asked) and noted(store) and replace(begun, name=wish.name) == wish:
        renamed = replace(account, name=wish.name)
        store.write(lambda writer: put_account(writer, renamed))  # the line is good for its keys
        return False
    if may_take_up and account.name == wish.name and is_to_be_taken_up(store):
        if wish.owner_apart:
            raise CbfsError("the account has its owner key", "leave out --owner-key")
        take_up(store, account, wish.server, wish.policy, SYSTEM_RANDOM)
        return True
    if finished:
        raise CbfsError(
            f"{directory} holds the account of {account.name} already",
            "choose another directory with --account",
        )
    if asked:
        home = account.server.url() if server else "one of its own"
        raise CbfsError(
            f"the name {account.name} may be registered already, for the account in {directory}",
            f"finish it with the same name, policy file and server ({home}),"
            f" {'with the same' if apart else 'without'} --owner-key; or choose another directory"
            " with --account",
        )
    store.write(Writer.clear)
    return False


def asked_for(writer: Writer) -> None:
    """Note that from here on somebody else may know the keys of the account as those of its
    name."""
    writer.put(Table.META, Meta.NAME_ASKED_FOR, b"")


def _refused(writer: Writer) -> None:
    writer.delete(Table.META, Meta.NAME_ASKED_FOR)


async def begin_account(
    store: Store,
    wish: Wish,
    network: Network,
    also: Callable[[Writer], None] = lambda writer: None,
) -> Account:
    """The account that was begun here, or a new one; ``also`` is done in the transaction that makes
    it. Raises CbfsError."""
    account = load_account(store)
    if account is not None:
        return account
    own = network.own_server
    server = wish.server if own is None else await published(own)
    if server is None:
        raise CbfsError("an account needs a server", "name one: --server URL, or --own-server")
    account = make_account(
        wish.name, server, wish.policy, SYSTEM_RANDOM, owner_apart=wish.owner_apart
    )

    def change(writer: Writer) -> None:
        put_account(writer, account)
        also(writer)
        if own is not None:
            put_own_server(writer, server)

    await store.commit(change)
    return account


def _read_invite(path: Path, wish: Wish) -> Token:
    """The invite in a file. Raises CbfsError for one that is not for this name at this directory:
    to send it would use it up."""
    try:
        with path.open(encoding="ascii") as file:
            token = parse_token(file.read(INVITE_FILE_MAX))
    except (OSError, UnicodeDecodeError) as error:
        raise CbfsError(f"cannot read an invite from {path}", "is it the right file?") from error
    if token.invite.directory != parse_policy(wish.policy).directory:
        raise CbfsError(
            f"the invite in {path} is for another name directory", "is it the right policy file?"
        )
    if token.invite.name not in ("", wish.name):
        raise CbfsError(
            f"the invite in {path} is for the name {token.invite.name}",
            f"cbfs init {token.invite.name}; the invite was not used",
        )
    return token


@dataclass(frozen=True, slots=True)
class Brought:
    """What a newcomer has besides a wish: invites to the directory and to the server (INVITE_SIZE,
    or empty), the file of an owner key that is kept apart, and a line."""

    token: Token | None
    invite: bytes
    owner_key: Path | None
    joining: Joining | None = None


async def take_steps(
    store: Store, account: Account, dialer: Dialer, say: Callable[[str], None], brought: Brought
) -> None:
    owner_key, joining = brought.owner_key, brought.joining
    directory = make_directory(store, account, dialer)
    await _check_free(directory, account)
    if joining is not None:
        await joining.claim(store, dialer, account.user_id)
    say(f"making an account at {account.server.place}")
    context = _context(store, account, directory, dialer)
    async with open_link(dialer, account.server, account.transport, HOME, SYSTEM_RANDOM) as link:
        await sign_up(link, account.user_id, SYSTEM_RANDOM, brought.invite, say)
        say("making prekeys")
        await top_up(link, context)
    say(f"registering {account.name}")
    profile = account.profile.encode()
    earlier = is_asked_for(store)
    owner = account.owner
    if owner_key is not None:  # it is on the disk before anybody else knows of it
        owner = write_seed(owner_key, KeyKind.OWNER, account.name)
    await store.commit(asked_for)
    try:
        found = await directory.register(
            *(account.name, profile, owner, brought.token), agent=account.agent_key, told=say
        )
    except (NameTaken, OperationRefused):
        if owner_key is not None and await _is_there(directory, account):
            raise CbfsError(
                f"{account.name} was registered, with another owner key than that in {owner_key}",
                "give the file of the first try: --owner-key FILE",
            ) from None
        if not earlier:  # else what was asked for before may still come about
            await store.commit(_refused)
        raise
    # the last step: with the bundle in place the account is finished
    await store.commit(lambda writer: write_own(writer, found))


async def meet_inviter(
    store: Store, account: Account, dialer: Dialer, say: Callable[[str], None], joining: Joining
) -> None:
    """Let who has invited the account, which is finished, be a contact. Raises DirectoryDown."""
    directory = make_directory(store, account, dialer)
    await joining.meet(_context(store, account, directory, dialer), say)


def _context(store: Store, account: Account, directory: Directory, dialer: Dialer) -> Context:
    configuration = Configuration(store)
    paced = PacedDialer(dialer, configuration, SYSTEM_RANDOM)
    return make_context(store, account, configuration, directory, paced, Problems(lambda: None))


def has_profile(entry: Entry, account: Account) -> bool:
    """Whether an entry has the keys and the server of this account, whatever version of the
    protocol was told with them."""
    return same_profile(entry.profile, account.profile.encode())


async def _is_there(directory: Directory, account: Account) -> bool:
    """Whether the directory has the name for this account, whoever owns it."""
    found = await directory.lookups.lookup(account.name)
    return isinstance(found, Found) and has_profile(found.entry, account)


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
    if isinstance(found, Found) and not has_profile(found.entry, account):
        raise NameTaken
