"""``cbfs init``: keys, account, prekeys, name. Cut off at any point, the same command goes on
where it stopped, with the same keys.

With a line by which somebody was invited, all but the name follows from that
(``cbfs.commands.inviting.joining``)."""

import argparse
import sys
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
from cbfs.account.passphrase import Guard, unlocking
from cbfs.account.passphrase_source import PassphraseSource
from cbfs.account.place import check_account
from cbfs.account.settings import Configuration
from cbfs.commands.account import add_protection, guard, restore, tell_ready
from cbfs.commands.inviting.joining import Joining, looked, noted, settle
from cbfs.commands.mountpoints import remove_tree
from cbfs.commands.online import online, published, reached
from cbfs.commands.options import (
    absolute,
    add_account,
    add_network,
    add_server_invite,
    network_options,
    say,
)
from cbfs.commands.owner.kept_apart import KeyKind, check_seed_file, tell_kept, write_seed
from cbfs.commands.process.running import run
from cbfs.contacts.user_names import typed_name
from cbfs.context import make_context, make_directory, milliseconds
from cbfs.names.directory import Directory, NameTaken, check_free
from cbfs.names.lookups import DirectoryDown
from cbfs.names.own_name import write_own
from cbfs.network.access import Network
from cbfs.network.dial import HOME, Dialer
from cbfs.network.drop import Drop, LineSpent, check_unused
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
from cbfs_common.names.operations import OperationRefused
from cbfs_common.names.policy import parse_policy
from cbfs_common.names.registration import Token, parse_token
from cbfs_common.newcomers import parse_server_invite
from cbfs_common.profile import Address, parse_address
from cbfs_common.wire.lines import Line, Record, is_line, parse_line

T = TypeVar("T")

POLICY_FILE_MAX = 1 << 16
INVITE_FILE_MAX = 4_096

OWN = "own"
"""The answer that stands for ``--own-server``."""

_ASK_NAME = "Your name, to which others write: 3 to 32 of a-z, 0-9, - and _. It stays yours."
_ASK_SERVER = (
    "Your server, which keeps messages until you fetch them, and cannot read them: its address,\n"
    "cbfs://KEY@HOST:PORT, from whoever runs it; or own, for one here that runs while you mount."
)
_ASK_SERVER_NO_TOR = (
    "Your server, which keeps messages until you fetch them, and cannot read them: its address,\n"
    "cbfs://KEY@HOST:PORT, from whoever runs it."
)
_ASK_POLICY = (
    "The policy file of your name directory, which says whose signatures make a name valid:\n"
    "a path like ~/policy. Whoever runs the directory hands it out."
)


@dataclass(frozen=True, slots=True)
class Wish:
    """The account that is asked for: its name, its home server (None: one of its own), the text of
    the policy of its name directory, and whether its owner key is kept apart."""

    name: str
    server: Address | None
    policy: str
    owner_apart: bool = False


def add_init(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs init`` takes."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME|LINE",
        help="your name; or the line by which you were invited, which is asked for nothing else",
    )
    parser.add_argument(
        "directory",
        nargs="?",
        type=Path,
        metavar="DIR",
        help="with a line: where the account is kept, as --account",
    )
    add_account(parser)
    home = parser.add_mutually_exclusive_group()
    home.add_argument("--server", metavar="URL", help="the home server: cbfs://KEY@HOST:PORT")
    home.add_argument(
        "--own-server",
        action="store_true",
        help="the home server is one of your own, an onion service that runs while the account is"
        " mounted",
    )
    parser.add_argument(
        "--names",
        type=Path,
        metavar="POLICYFILE",
        help="the policy file of the name directory",
    )
    parser.add_argument(
        "--invite",
        type=Path,
        metavar="FILE",
        help="the invite that the directory's operator has given, where one is needed",
    )
    add_server_invite(parser)
    parser.add_argument(
        "--owner-key",
        type=Path,
        metavar="FILE",
        help="keep the key that owns the name in a new file (0600), and not in the account: who has"
        " a copy of the account cannot take the name",
    )
    add_network(parser)
    parser.add_argument(
        "--restore", type=Path, metavar="FILE", help="make the account that was exported to FILE"
    )
    parser.add_argument(
        "--export-passphrase-fd",
        type=int,
        metavar="N",
        help="read the passphrase of the export from descriptor N",
    )
    add_protection(parser)
    parser.set_defaults(run=_init, usage=parser.error)


def _init(options: argparse.Namespace) -> int:
    account = options.account.absolute()
    if options.restore:
        return restore(options, account)
    if options.name and is_line(options.name):
        return _join(options)
    if options.directory:
        options.usage("DIR follows a line; with a name: --account DIR")
    lacking = _missing(options)
    if lacking and not _can_ask():
        options.usage(f"missing: {', '.join(lacking)}; on a terminal, cbfs init asks for them")
    if lacking:
        _ask_missing(options)
    name = _made(options, account, asked_name="NAME" in lacking)
    tell_ready(name, account, options)
    if options.owner_key:
        tell_kept(options.owner_key, name)
    return 0


def _made(options: argparse.Namespace, account: Path, *, asked_name: bool) -> str:
    """Make the account; ask for another name where that which was asked for is taken."""
    network = network_options(options)
    while True:
        try:
            return make(
                options.name,
                account,
                options.server,
                options.names,
                network,
                say,
                absolute(options.invite),
                unlocking(PassphraseSource(options.passphrase_fd).once),
                lambda: guard(options, options.name),
                owner_key=absolute(options.owner_key),
                server_invite=absolute(options.server_invite),
            )
        except NameTaken as error:
            if not asked_name:
                raise
            _complain(error)
            _ask_name(options)


def _join(options: argparse.Namespace) -> int:
    """Make an account by a line."""
    given = (options.server, options.own_server, options.names, options.invite)
    if any(given) or options.server_invite:
        options.usage("leave out --server, --names and invites: the line has them")
    line, network = parse_line(options.name), network_options(options)
    place = (options.directory or options.account).absolute()
    unlock = unlocking(PassphraseSource(options.passphrase_fd).once)
    begun = _begun_by(line, place, unlock) if (place / "root.key").exists() else None
    try:
        record = _look(line, place, network, begun.user_id if begun else b"")
    except LineSpent:
        if begun is None or not _settled(place, unlock):
            raise
        tell_ready(begun.name, place, options)
        return 0
    options.name = begun.name if begun else record.name
    if not options.name:
        _ask_name(options)
    while True:
        try:
            _make_by_line(Joining(line, record), place, network, unlock, options)
            break
        except NameTaken as error:
            if record.name:
                raise
            _complain(error)
            _ask_name(options)
    tell_ready(options.name, place, options)
    if options.owner_key:
        tell_kept(options.owner_key, options.name)
    return 0


def _begun_by(line: Line, place: Path, unlock: Unlock) -> Account | None:
    """The account that was begun in ``place`` by this line; None when none was begun. Raises
    CbfsError when it is another one's."""
    with opened_store(place, SYSTEM_RANDOM, unlock) as store:
        account, drop = load_account(store), noted(store)
    if account is None or drop == line.drop:
        return account
    raise CbfsError(
        f"{place} holds the account of {account.name} already",
        "choose another directory: cbfs init LINE DIR",
    )


def _settled(place: Path, unlock: Unlock) -> bool:
    """Whether the account there is finished; then nothing is left to do with its line."""
    with opened_store(place, SYSTEM_RANDOM, unlock) as store:
        finished = is_finished(store)
        if finished:
            store.write(lambda writer: writer.delete(Table.META, Meta.LINE))
    return finished


def _look(line: Line, place: Path, network: NetworkOptions, user: bytes) -> Record:
    """What a line leads to that nobody has used but ``user`` (32; empty for nobody). Nothing is
    made and nothing is used up. Raises LineSpent, CbfsError."""
    fresh = not place.exists()
    check_account(place)

    async def steps(way: Network) -> Drop:
        return await looked(line, way.dialer)

    try:
        drop = run(reached, place, network, say, steps)
        check_unused(line, drop, user)
    except BaseException:
        if fresh and place.exists():
            remove_tree(place)
        raise
    return drop.record


def _make_by_line(
    joining: Joining,
    place: Path,
    network: NetworkOptions,
    unlock: Unlock,
    options: argparse.Namespace,
) -> None:
    """Make the account of the name in ``options`` by a line, or finish it. The store is kept
    whatever happens: the line is good for the keys in it only. Raises CbfsError."""
    line, record, owner_key = joining.line, joining.record, absolute(options.owner_key)
    name = options.name = typed_name(options.name)
    wish = Wish(name, line.address, record.policy, owner_key is not None)
    token = parse_token(record.token) if record.token else None
    invite = parse_server_invite(record.invite).invite if record.invite else b""
    if owner_key is not None:
        check_seed_file(owner_key, KeyKind.OWNER, name, place)
    brought = Brought(token, invite, owner_key, joining)

    def protection() -> Guard:
        return guard(options, name)

    begun = protection_of(place)
    with opened_store(place, SYSTEM_RANDOM, unlock, create=protection) as store:
        finished = is_finished(store)
        if not finished:
            check_begun(store, place, wish)
            _protect(store, begun, protection)

        async def steps(way: Network) -> None:
            account = await begin_account(store, wish, way, joining.note)
            if not finished:
                await _steps(store, account, way.dialer, say, brought)
            await settle(line, record, store, account, way.dialer)

        run(online, store, place, network, say, steps)


def _protect(store: Store, begun: ProtectionKind | None, guard: Callable[[], Guard]) -> None:
    """Protect an account that was begun without protection as it is wished for now."""
    if begun is ProtectionKind.NOTHING:  # else what protects it was just given
        asked = guard()
        store.protect(asked.protection, asked.lock)


def is_finished(store: Store) -> bool:
    """Whether the account in a store has its name."""
    with store.read() as reader:
        return reader.get(Table.META, Meta.OWN) is not None


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
    fresh = not directory.exists()
    begun = protection_of(directory)
    try:
        with opened_store(directory, SYSTEM_RANDOM, unlock, create=guard) as store:
            check_begun(store, directory, wish)
            _protect(store, begun, guard)

            async def steps(network: Network) -> None:
                account = await begin_account(store, wish, network)
                brought = Brought(token, to_server, owner_key)
                await _steps(store, account, network.dialer, say, brought)

            run(online, store, directory, options, say, steps, server is None)
    except NameTaken:
        if fresh:
            remove_tree(directory)
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


def check_begun(store: Store, directory: Path, wish: Wish) -> None:
    """Give up what was begun here for another wish, so that a mistyped name or address can be put
    right. Raises CbfsError when that cannot be: the account is finished, or the directory may have
    its name by now, which would be lost with its keys."""
    account = load_account(store)
    if account is None:
        return
    with store.read() as reader:
        finished = reader.get(Table.META, Meta.OWN) is not None
        asked = reader.get(Table.META, Meta.NAME_ASKED_FOR) is not None
    server = None if load_own_server(store) else account.server
    apart = not account.owner
    begun = Wish(account.name, server, account.policy, apart)
    if not finished and begun == wish:
        return
    if not (finished or asked) and noted(store) and replace(begun, name=wish.name) == wish:
        renamed = replace(account, name=wish.name)
        store.write(lambda writer: put_account(writer, renamed))  # the line is good for its keys
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
            f"finish it with the same name, policy file and server ({home}),"
            f" {'with the same' if apart else 'without'} --owner-key; or choose another directory"
            " with --account",
        )
    store.write(_give_up)


def _give_up(writer: Writer) -> None:
    for table in Table:
        writer.delete_prefix(table, b"")


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


async def _steps(
    store: Store, account: Account, dialer: Dialer, say: Callable[[str], None], brought: Brought
) -> None:
    owner_key, joining = brought.owner_key, brought.joining
    directory = make_directory(store, account, dialer)
    await _check_free(directory, account)
    if joining is not None:
        await joining.claim(dialer, account.user_id)
    say(f"making an account at {account.server.place}")
    configuration = Configuration(store)
    paced = PacedDialer(dialer, configuration, SYSTEM_RANDOM)
    problems = Problems(lambda: None)
    context = make_context(store, account, configuration, directory, paced, problems)
    async with open_link(dialer, account.server, account.transport, HOME, SYSTEM_RANDOM) as link:
        await sign_up(link, account.user_id, SYSTEM_RANDOM, brought.invite, say)
        say("making prekeys")
        await top_up(link, context)
    say(f"registering {account.name}")
    profile = account.profile.encode()
    with store.read() as reader:
        earlier = reader.get(Table.META, Meta.NAME_ASKED_FOR) is not None
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
    if joining is not None:
        await joining.meet(context, say)
    # the last step: with the bundle in place the account is finished
    await store.commit(lambda writer: write_own(writer, found))


async def _is_there(directory: Directory, account: Account) -> bool:
    """Whether the directory has the name for this account, whoever owns it."""
    found = await directory.lookups.lookup(account.name)
    return isinstance(found, Found) and found.entry.profile == account.profile.encode()


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


# what the command line leaves out


def _missing(options: argparse.Namespace) -> list[str]:
    """What ``cbfs init`` needs and was not told, as its usage names it."""
    needs = (
        (options.name, "NAME"),
        (options.server or options.own_server, "--server URL or --own-server"),
        (options.names, "--names POLICYFILE"),
    )
    return [what for given, what in needs if not given]


def _can_ask() -> bool:
    """Whether there is somebody at a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _ask_missing(options: argparse.Namespace) -> None:
    """Put the answers into ``options``. Raises CbfsError when there are no more of them, and
    nothing has been made then."""
    print(f"The account will be kept in {options.account}; --account DIR chooses another place.")
    if not options.name:
        _ask_name(options)
    if not (options.server or options.own_server):
        explained = _ASK_SERVER_NO_TOR if options.no_tor else _ASK_SERVER
        answer = _ask(explained, "server", lambda text: _server_answer(text, options.no_tor))
        options.own_server = answer == OWN
        options.server = None if options.own_server else answer
    if not options.names:
        options.names = _ask(_ASK_POLICY, "policy file", _policy_answer)


def _ask_name(options: argparse.Namespace) -> None:
    """Put a name into ``options``, or another one where the first is taken. Raises CbfsError when
    there are no more answers."""
    options.name = _ask(_ASK_NAME, "name", typed_name)


def _complain(error: CbfsError) -> None:
    """Say in one line why an answer cannot be used."""
    print(f"cbfs: {error}" + (f": {error.hint}" if error.hint else ""))


def _ask(explained: str, what: str, check: Callable[[str], T]) -> T:
    print(f"\n{explained}")
    while True:
        try:
            text = input(f"{what}: ").strip()
        except EOFError as error:
            print()
            raise CbfsError(f"no {what} was given; nothing was made") from error
        except UnicodeDecodeError:
            text = "?"  # not of the terminal's encoding, so nothing that could be meant
        try:
            return check(text)
        except CbfsError as error:
            _complain(error)


def _server_answer(text: str, no_tor: bool) -> str:
    if text.casefold() == OWN:
        if no_tor:
            raise CbfsError("your own server can only be reached through Tor", "not with --no-tor")
        return OWN
    return parse_address(text).url()


def _policy_answer(text: str) -> Path:
    path = Path(text)
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise CbfsError(f"{text} is the home of a user who does not exist") from error
    read_policy(path)
    return path
