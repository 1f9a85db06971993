"""``cbfs invite``: a line by which somebody gets an account, or with ``--contact`` by which
somebody who has one becomes a contact; and what lies at the server for it.

Its drop is at the server of a ``cbfs host`` on this machine, or at one's own home server.
"""

import argparse
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from cbfs.account.account import (
    SYSTEM_RANDOM,
    Account,
    load_account,
    load_own_server,
    opened_store,
    reading_store,
)
from cbfs.account.awaited import Awaited, await_, hand_over
from cbfs.account.leaving import check_lives_here
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
from cbfs.commands.home.taking_up import is_to_be_taken_up
from cbfs.commands.online import reached
from cbfs.commands.options import add_account, add_network, network_options, say
from cbfs.commands.process.running import run
from cbfs.contacts.user_names import typed_name
from cbfs.mount.mount_table import mountpoints_of
from cbfs.mount.single.connection import NotServed, connected
from cbfs.network.access import Network
from cbfs.network.dial import HOME
from cbfs.network.drop import at_drop, put
from cbfs.network.link import ServerRefused, open_link, request
from cbfs.network.options import NetworkOptions
from cbfs.network.own_server import installed
from cbfs.network.tor.config import TorOptions
from cbfs.receiving.signing_up import sign_up
from cbfs.storage.root_key import Unlock
from cbfs.storage.store import Meta, Table
from cbfs_common.errors import CbfsError, CryptoError
from cbfs_common.limits import GRANT_INDEX_MAX, LINE_DAYS, LINE_FINISH_DAYS, LINE_SALT_SIZE
from cbfs_common.names.policy import parse_policy
from cbfs_common.names.registration import decode_token
from cbfs_common.newcomers import ServerInvite, parse_server_invite
from cbfs_common.profile import Address
from cbfs_common.wire.lines import InviteLine, InviteRecord, line_to
from cbfs_common.wire.requests import AskInvite, Code, CreateAccount, Granted

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
    unlock = unlocking(PassphraseSource(options.account_passphrase_fd).once)
    inviter = _inviter(options, unlock)
    if inviter is None and (options.contact or not options.host):
        raise CbfsError(
            f"there is no account in {options.account}, which could invite anybody",
            "which one is it? --account DIR; who runs a host: --host DIR",
        )
    place = _host(options) if options.host or inviter is None else _home(options, inviter)
    lines = _Lines(place, inviter, name, contact=options.contact)
    made = lines.by_host() if options.host else lines.by_account
    line, record = run(reached, place.directory, place.network, say, made)
    if record.inviter:  # before anybody has the line: whoever comes by it is awaited
        _await(options, Awaited(line, record.expires), unlock)
    use = "paste it into contacts/NEW of your mount" if options.contact else "cbfs init -"
    show_line(
        line.text(),
        "give it to one person, by a way that nobody else reads. It is good once, for"
        f" {LINE_DAYS} days: {use}",
    )
    return 0


@dataclass(frozen=True, slots=True)
class _Inviter:
    """An account, and its ``grant`` (INVITE_SIZE), or empty."""

    account: Account
    grant: bytes


class _Lines:
    """Makes a line, for ``name``, or empty, with a drop in this place; done again, the same one.
    ``contact``: for somebody who has an account."""

    def __init__(
        self, place: _DropPlace, inviter: _Inviter | None, name: str, *, contact: bool
    ) -> None:
        self._place, self._by, self._name, self._contact = place, inviter, name, contact
        self._salt = SYSTEM_RANDOM.token(LINE_SALT_SIZE)
        self._expires = int(time.time()) + LINE_DAYS * DAY

    def by_host(self) -> Callable[[Network], Awaitable[tuple[InviteLine, InviteRecord]]]:
        """With invites that the host has made, which runs here."""
        record = self._record(*(("", "", b"") if self._contact else self._invites()))
        invite = _made("cbfs-server", self._place.directory / SERVER)
        return partial(self._laid, record=record, invite=parse_server_invite(invite).invite)

    async def by_account(self, network: Network) -> tuple[InviteLine, InviteRecord]:
        """With those that the home server gives to the account, where it takes nobody without:
        else a line for somebody who has an account needs none."""
        if self._contact:
            with _unless_invite_needed():
                return await self._laid(network, self._record("", "", b""), b"")
        if self._by is None or not self._by.grant:
            raise CbfsError(
                "your account may invite nobody at its server, as no line of a host has made it",
                "ask whoever runs the server for a line",
            )
        address, key = self._place.server, self._by.account.transport
        async with open_link(network.dialer, address, key, HOME, SYSTEM_RANDOM) as home:
            for index in range(GRANT_INDEX_MAX):
                granted = await request(home, AskInvite(self._by.grant, index))
                record = self._record(*(("", "", b"") if self._contact else self._texts(granted)))
                with _unless_invite_needed():  # a line of before has used it
                    return await self._laid(network, record, granted.drop)
        raise ServerRefused(Code.INVITES_SPENT)

    async def _laid(
        self, network: Network, record: InviteRecord, invite: bytes
    ) -> tuple[InviteLine, InviteRecord]:
        """Raises ServerRefused(INVITE_NEEDED) when the invite (INVITE_SIZE) to the drop, or empty,
        is not taken."""
        line = line_to(self._place.server, record)
        line.text(), line.sealed(record)  # what is too long is told before anything is made
        async with at_drop(network.dialer, line, SYSTEM_RANDOM) as link:
            if invite:
                await request(link, CreateAccount(invite))
            else:
                await sign_up(link, line.drop, SYSTEM_RANDOM, say=say)
            await put(link, line, record)
        return line, record

    def _record(self, token: str, invite: str, grant: bytes) -> InviteRecord:
        policy, inviter, identity = self._place.policy, "", b""
        if self._by is not None:
            account = self._by.account
            policy = account.policy if self._contact else policy
            if account.person.directory == parse_policy(policy).directory:
                inviter, identity = account.name, account.profile.identity(account.person)
        return InviteRecord(
            *(self._salt, self._expires, policy, token, invite, self._name),
            *(inviter, identity, self._contact, grant),
        )

    def _invites(self) -> tuple[str, str, bytes]:
        """Of the host: to the directory and to the server, and a grant."""
        names, server = (self._place.directory / each for each in (NAMES, SERVER))
        token = _made("cbfs-names", names, *([self._name] if self._name else []))
        grant = parse_server_invite(_made("cbfs-server", server, "--grant")).invite
        return token, _made("cbfs-server", server), grant

    def _texts(self, granted: Granted) -> tuple[str, str, bytes]:
        """Of what the server has given: to the directory and to the server, and a grant. Raises
        DecodeError."""
        token = decode_token(granted.token).text() if granted.token else ""
        invite = ServerInvite(self._place.server.key, granted.invite)
        return token, invite.text(), granted.grant


@contextmanager
def _unless_invite_needed() -> Iterator[None]:
    """That a server wants an invite, or another one, is no error."""
    try:
        yield
    except ServerRefused as error:
        if error.code is not Code.INVITE_NEEDED:
            raise


def _home(options: argparse.Namespace, inviter: _Inviter) -> _DropPlace:
    """One's own home server."""
    directory = options.account.absolute()
    network: NetworkOptions = network_options(options)
    control = directory / "tor" / "control"
    theirs = _is_at_work(directory) and control.is_socket()
    if theirs and not (network.no_tor or options.tor):
        # of the daemon, which has its data: a second tor could not have that as well
        network = NetworkOptions(tor=TorOptions(str(control)))
    return _DropPlace(directory, inviter.account.server, network, inviter.account.policy)


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


def _inviter(options: argparse.Namespace, unlock: Unlock) -> _Inviter | None:
    """The account of who invites; None when there is none, or it is not finished."""
    if not (options.account / "root.key").exists():
        return None
    with reading_store(options.account.absolute(), SYSTEM_RANDOM, unlock) as store:
        check_lives_here(store)
        if is_to_be_taken_up(store):
            raise CbfsError(
                "nobody of now can find this account by its name",
                "take the name again first: EARLIER ACCOUNTS in mount.cbfs(8)",
            )
        account = load_account(store)
        with store.read() as reader:
            finished = reader.get(Table.META, Meta.OWN) is not None
            grant = reader.get(Table.META, Meta.GRANT) or b""
        own = load_own_server(store)
    if options.host is None and own is not None:
        raise CbfsError(
            "your home server is your own, and takes nobody else, nor what belongs to a line",
            "have the other invite you: cbfs invite --contact",
        )
    return _Inviter(account, grant) if account is not None and finished else None


def _is_at_work(account: Path) -> bool:
    """Whether a daemon has the account, which is mounted, or served to other machines."""
    if mountpoints_of(account):
        return True
    try:
        connected(account).close()
    except NotServed:
        return False
    return True


def _await(options: argparse.Namespace, one: Awaited, unlock: Unlock) -> None:
    """Let the account, mounted or not, await who comes by a line. Raises CbfsError."""
    place = options.account.absolute()
    try:
        if _is_at_work(place):
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
