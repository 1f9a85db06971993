"""``cbfs invite``: a line by which somebody gets an account, or with ``--contact`` by which
somebody who has one becomes a contact; and what lies at the server for it.

Its drop is at the server of a ``cbfs host`` on this machine, or at one's own home server.
"""

import argparse
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from cbfs.account.account import (
    SYSTEM_RANDOM,
    Account,
    load_account,
    opened_store,
    reading_store,
)
from cbfs.account.awaited import Awaited, await_, hand_over
from cbfs.account.passphrase import unlocking
from cbfs.account.passphrase_source import PassphraseSource
from cbfs.commands.account import add_old_passphrase
from cbfs.commands.home.host_settings import (
    CONTROL,
    NAMES,
    SERVER,
    address_of,
    read_settings,
    read_text,
)
from cbfs.commands.home.line import show_line
from cbfs.commands.online import reached
from cbfs.commands.options import add_account, add_network, network_options, say
from cbfs.commands.process.running import run
from cbfs.contacts.user_names import typed_name
from cbfs.mount.mount_table import mountpoints_of
from cbfs.network.access import Network
from cbfs.network.drop import at_drop, put
from cbfs.network.options import NetworkOptions
from cbfs.network.own_server import installed
from cbfs.network.tor.config import TorOptions
from cbfs.receiving.signing_up import sign_up
from cbfs.storage.root_key import Unlock
from cbfs.storage.store import Meta, Table
from cbfs_common.errors import CbfsError, CryptoError
from cbfs_common.limits import LINE_DAYS, LINE_FINISH_DAYS, LINE_SALT_SIZE
from cbfs_common.names.policy import parse_policy
from cbfs_common.newcomers import parse_server_invite
from cbfs_common.profile import Address
from cbfs_common.wire.lines import InviteRecord, line_to

DAY: Final = 86_400

TOOL_TIMEOUT: Final = 60.0
"""Seconds that a server's program may take to make an invite."""


def add_invite(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs invite`` takes."""
    parser.description = (
        "Prints one line by which somebody gets an account: cbfs init LINE. It is a secret until it"
        f" is used, once, within {LINE_DAYS} days."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the only name that it is good for")
    parser.add_argument(
        "--contact",
        action="store_true",
        help="a line for somebody who has an account, wherever that is: pasted into contacts/NEW of"
        " their mount, it makes you contacts of each other",
    )
    parser.add_argument("--host", type=Path, metavar="DIR", help="the directory of cbfs host")
    add_account(parser)
    add_old_passphrase(parser)
    add_network(parser)
    parser.set_defaults(run=_invite, usage=parser.error)


@dataclass(frozen=True, slots=True)
class _DropPlace:
    """Where the drop of a line is to be: at the message server ``server``, which is reached by
    ``network``, whose files are in ``directory``. ``policy``: the text of that of the name
    directory which newcomers there are registered with."""

    directory: Path
    server: Address
    network: NetworkOptions
    policy: str


def _invite(options: argparse.Namespace) -> int:
    name = typed_name(options.name) if options.name else ""
    if options.contact and name:
        options.usage("NAME is of a newcomer: with --contact, leave it out")
    if not (options.contact or options.host):
        options.usage("missing: --host DIR, or --contact")
    unlock = unlocking(PassphraseSource(options.account_passphrase_fd).once)
    account = _inviter(options, unlock)
    if options.contact and account is None:
        raise CbfsError(
            f"there is no account in {options.account}, whose contact somebody could be",
            "which one is it? --account DIR",
        )
    place = _host(options) if options.host or account is None else _home(options, account)
    record = _record(place, account, name, contact=options.contact, host=options.host is not None)
    line = line_to(place.server, record)
    text = line.text()
    invite = _to_server(place) if options.host else b""

    async def steps(network: Network) -> None:
        async with at_drop(network.dialer, line, SYSTEM_RANDOM) as link:
            await sign_up(link, line.drop, SYSTEM_RANDOM, invite, say)
            await put(link, line, record)

    run(reached, place.directory, place.network, say, steps)
    if record.inviter:  # before anybody has the line: whoever comes by it is awaited
        _await(options, Awaited(line, record.expires), unlock)
    use = "paste it into contacts/NEW of your mount" if options.contact else "cbfs init -"
    show_line(
        text,
        "give it to one person, by a way that nobody else reads. It is good once, for"
        f" {LINE_DAYS} days: {use}",
    )
    return 0


def _record(
    place: _DropPlace, account: Account | None, name: str, *, contact: bool, host: bool
) -> InviteRecord:
    """What is to lie at the drop."""
    salt = SYSTEM_RANDOM.token(LINE_SALT_SIZE)
    expires = int(time.time()) + LINE_DAYS * DAY
    inviter, identity = "", b""
    if account is not None:
        own = account.person.directory
        if contact or own == parse_policy(place.policy).directory:
            inviter, identity = account.name, account.profile.identity(account.person)
    if contact and account is not None:
        return InviteRecord(
            salt, expires, account.policy, inviter=inviter, identity=identity, contact=True
        )
    words = [name] if name else []
    token = _made("cbfs-names", place.directory / NAMES, *words)
    invite = _made("cbfs-server", place.directory / SERVER)
    return InviteRecord(salt, expires, place.policy, token, invite, name, inviter, identity)


def _home(options: argparse.Namespace, account: Account) -> _DropPlace:
    """One's own home server."""
    directory = options.account.absolute()
    network: NetworkOptions = network_options(options)
    control = directory / "tor" / "control"
    if not (network.no_tor or options.tor) and control.is_socket():
        # of the mount, which has its data: a second tor could not have that as well
        network = NetworkOptions(tor=TorOptions(str(control)))
    return _DropPlace(directory, account.server, network, account.policy)


def _host(options: argparse.Namespace) -> _DropPlace:
    """The server of a host that runs. Raises CbfsError."""
    if options.no_tor or options.tor or options.bridges or options.torrc:
        options.usage("the host knows how it is reached: leave out --no-tor, --tor and the like")
    place: Path = options.host.absolute()
    settings = read_settings(place)
    if settings is None:
        raise CbfsError(f"there is no host in {place}", f"start it first: cbfs host {place}")
    server = address_of(place)
    if not (place / CONTROL).exists():
        raise CbfsError(
            "the host does not run, and the line's record has to lie at its server",
            f"start it first: cbfs host {place}",
        )
    control = read_text(place / CONTROL)
    network = NetworkOptions(no_tor=not settings.tor, tor=TorOptions(control))
    return _DropPlace(place, server, network, read_text(place / NAMES / "policy"))


def _to_server(place: _DropPlace) -> bytes:
    """An invite (INVITE_SIZE) to the server of a host. Raises CbfsError."""
    return parse_server_invite(_made("cbfs-server", place.directory / SERVER)).invite


def _inviter(options: argparse.Namespace, unlock: Unlock) -> Account | None:
    """The account of who invites; None when there is none, or it is not finished."""
    if not (options.account / "root.key").exists():
        return None
    with reading_store(options.account.absolute(), SYSTEM_RANDOM, unlock) as store:
        account = load_account(store)
        with store.read() as reader:
            finished = reader.get(Table.META, Meta.OWN) is not None
    return account if finished else None


def _await(options: argparse.Namespace, one: Awaited, unlock: Unlock) -> None:
    """Let the account, mounted or not, await who comes by a line. Raises CbfsError."""
    place = options.account.absolute()
    try:
        if mountpoints_of(place):
            hand_over(place, one, SYSTEM_RANDOM)
            return
        with opened_store(place, SYSTEM_RANDOM, unlock) as store:
            store.write(partial(await_, one=one))
    except (OSError, CryptoError) as error:
        raise CbfsError(
            "your account cannot be told of the line", "is it yours, and is there room on the disk?"
        ) from error


def _made(program: str, data: Path, *words: str) -> str:
    """An invite of a server. Raises CbfsError."""
    command = [installed(program), "invite", "--data", str(data), "--days", str(LINE_FINISH_DAYS)]
    command += words
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TOOL_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CbfsError(f"{program} makes no invite", "does this machine run well?") from error
    if done.returncode:
        told = done.stderr.strip().splitlines()[:1] or ["it did not say why"]
        raise CbfsError(f"{program} makes no invite: {told[0]}", "is it your host?")
    return done.stdout.strip()
