"""``cbfs init``: what the command line says of a new account, and asks for what it does not say.

With a line by which somebody was invited, all but the name follows from that
(``cbfs.commands.home.joining``).
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from cbfs.account.account import (
    SYSTEM_RANDOM,
    Account,
    load_account,
    locked,
    opened_store,
    protection_of,
)
from cbfs.account.passphrase import Guard, unlocking
from cbfs.account.passphrase_source import PassphraseSource
from cbfs.account.place import check_account
from cbfs.commands.account import add_protection, guard, restore, tell_ready
from cbfs.commands.home.joining import Joining, kept, looked, noted, settle
from cbfs.commands.home.line import read_line
from cbfs.commands.home.taking_up import is_to_be_taken_up
from cbfs.commands.init import (
    Brought,
    Wish,
    begin_account,
    check_begun,
    is_asked_for,
    is_finished,
    make,
    meet_inviter,
    protect,
    read_policy,
    take_steps,
)
from cbfs.commands.mountpoints import remove_tree
from cbfs.commands.online import online, reached
from cbfs.commands.options import (
    absolute,
    add_account,
    add_network,
    add_server_invite,
    network_options,
    say,
)
from cbfs.commands.owner.kept_apart import KeyKind, check_seed_file, tell_kept
from cbfs.commands.process.running import run
from cbfs.contacts.user_names import typed_name
from cbfs.names.directory import NameTaken
from cbfs.network.access import Network
from cbfs.network.drop import Drop, LineSpent, check_unused
from cbfs.network.options import NetworkOptions
from cbfs.storage.records import Meta
from cbfs.storage.root_key import Unlock
from cbfs.storage.store import Table
from cbfs_common.errors import CbfsError
from cbfs_common.names.registration import parse_token
from cbfs_common.newcomers import parse_server_invite
from cbfs_common.profile import parse_address
from cbfs_common.wire.lines import InviteLine, InviteRecord, is_line, parse_line

T = TypeVar("T")

GIVEN = "-"
"""What stands for a line that is read, so that no list of processes has it."""

OWN = "own"
"""The answer that stands for ``--own-server``."""

_ASK_LINE = "The line by which you were invited:"
_ASK_NAME = "Your name, to which others write: 3 to 32 of a-z, 0-9, - and _. It stays yours."
_ASK_NAME_OR_LINE = f"{_ASK_NAME}\nOr the line by which you were invited: cbfs-line:..."
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


def add_init(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs init`` takes."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME|LINE|-",
        help="your name; or the line by which you were invited, and then nothing else is asked for."
        " -: the line is read from standard input, and no other user of this machine sees it",
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
    if options.name == GIVEN:
        options.name = read_line(_ASK_LINE)
        return _join(options)
    if options.name and is_line(options.name):
        return _join(options)
    if options.directory:
        options.usage("DIR follows a line; with a name: --account DIR")
    lacking = _missing(options)
    if lacking and not _can_ask():
        options.usage(f"missing: {', '.join(lacking)}; on a terminal, cbfs init asks for them")
    if lacking:
        _ask_missing(options)
    if is_line(options.name):
        return _join(options)
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
    fresh = not place.exists()
    begun, record, outlived = None, None, False
    if (place / "root.key").exists():
        begun, record, outlived = _begun_by(line, place, unlock)
    try:
        if record is None:
            record = _look(line, place, network, begun.user_id if begun else b"")
    except LineSpent:
        if begun is None or outlived or not _settled(place, unlock):
            raise
        tell_ready(begun.name, place, options)
        return 0
    if outlived and begun and record.name not in ("", begun.name):
        raise CbfsError(
            f"the line is for {record.name}, and {place} holds the account of {begun.name}",
            "ask for a line for any name, or choose another directory: cbfs init LINE DIR",
        )
    options.name = begun.name if begun else record.name
    if not options.name:
        _ask_name(options)
    while True:
        try:
            _make_by_line(Joining(line, record), place, network, unlock, options, fresh=fresh)
            break
        except NameTaken as error:
            if record.name or outlived:
                raise
            _complain(error)
            _ask_name(options)
    tell_ready(options.name, place, options)
    if options.owner_key:
        tell_kept(options.owner_key, options.name)
    return 0


def _begun_by(
    line: InviteLine, place: Path, unlock: Unlock
) -> tuple[Account | None, InviteRecord | None, bool]:
    """The account that was begun in ``place`` by this line, None when none was begun; the line's
    record, when it is used for that; and whether the account is one of long ago, which goes on by
    any line. Raises CbfsError when it is another one's."""
    with opened_store(place, SYSTEM_RANDOM, unlock) as store:
        account, drop, record = load_account(store), noted(store), kept(store)
        outlived = is_to_be_taken_up(store)
    if account is None:
        return None, None, False
    if drop == line.drop:
        return account, record, outlived
    if outlived:
        return account, None, True
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


def _look(line: InviteLine, place: Path, network: NetworkOptions, user: bytes) -> InviteRecord:
    """What a line leads to that nobody has used but ``user`` (32; empty for nobody). Nothing is
    made and nothing is used up. Raises LineSpent, CbfsError."""
    fresh = not place.exists()
    check_account(place)

    async def steps(way: Network) -> Drop:
        return await looked(line, way.dialer, user)

    try:
        drop = run(reached, place, network, say, steps)
        if drop.record.contact:
            raise CbfsError(
                "this line is for somebody who has an account, and makes none",
                "paste it into contacts/NEW of your mount; for an account ask for another: cbfs"
                " invite NAME",
            )
        check_unused(line, drop, user)
    except BaseException:
        if fresh:
            _clear(place)
        raise
    return drop.record


def _clear(place: Path) -> None:
    """Remove a directory in which no account is; when in doubt, nothing. Another program may have
    made one there in the meantime, or be about to."""
    with suppress(CbfsError), locked(place):
        if not (place / "root.key").exists():
            remove_tree(place)


def _make_by_line(
    joining: Joining,
    place: Path,
    network: NetworkOptions,
    unlock: Unlock,
    options: argparse.Namespace,
    *,
    fresh: bool,
) -> None:
    """Make the account of the name in ``options`` by a line, or finish it. The store is kept: the
    line is good for the keys in it only. But one that was begun here, in a ``fresh`` directory, is
    removed when somebody else was faster and nobody can know its keys. Raises CbfsError."""
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
        fresh = fresh and load_account(store) is None
        outlived = is_to_be_taken_up(store)
        if outlived:
            check_begun(store, place, wish, may_take_up=True)
            if noted(store) != joining.line.drop:  # else its record is there as well
                store.write(joining.note)
        elif not is_finished(store):
            check_begun(store, place, wish)
            protect(store, begun, protection)

        async def steps(way: Network) -> None:
            account = await begin_account(store, wish, way, joining.note)
            if not is_finished(store) or is_to_be_taken_up(store):
                await take_steps(store, account, way.dialer, say, brought)
            if noted(store):
                await meet_inviter(store, account, way.dialer, say, joining)
            await settle(joining, store, account, way.dialer, say)

        try:
            run(online, store, place, network, say, steps)
        except LineSpent:
            if fresh and not is_asked_for(store):
                remove_tree(place)
            raise


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
        options.name = _ask(_ASK_NAME_OR_LINE, "name", _name_answer)
    if is_line(options.name):
        return
    if not (options.server or options.own_server):
        explained = _ASK_SERVER_NO_TOR if options.no_tor else _ASK_SERVER
        answer = _ask(explained, "server", lambda text: _server_answer(text, options.no_tor))
        options.own_server = answer == OWN
        options.server = None if options.own_server else answer
    if not options.names:
        options.names = _ask(_ASK_POLICY, "policy file", _policy_answer)


def _name_answer(text: str) -> str:
    """A name, or a line that is none of the mistyped ones. Raises CbfsError."""
    if not is_line(text):
        return typed_name(text)
    parse_line(text)
    return text


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
