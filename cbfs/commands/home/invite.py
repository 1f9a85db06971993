"""``cbfs invite``: a line by which somebody gets an account, and what lies at the server for it."""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import segno

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
from cbfs.commands.online import reached
from cbfs.commands.options import add_account, say
from cbfs.commands.process.running import run
from cbfs.contacts.user_names import typed_name
from cbfs.mount.mount_table import mountpoints_of
from cbfs.network.access import Network
from cbfs.network.drop import DROP, put
from cbfs.network.link import open_link
from cbfs.network.options import NetworkOptions
from cbfs.network.own_server import installed
from cbfs.network.tor.config import TorOptions
from cbfs.receiving.signing_up import sign_up
from cbfs.storage.root_key import Unlock
from cbfs.storage.store import Meta, Table
from cbfs_common.errors import CbfsError, CryptoError
from cbfs_common.limits import LINE_DAYS, LINE_SECRET_SIZE
from cbfs_common.names.policy import parse_policy
from cbfs_common.newcomers import parse_server_invite
from cbfs_common.profile import Address
from cbfs_common.wire.lines import InviteLine, InviteRecord

DAY: Final = 86_400

TOOL_TIMEOUT: Final = 60.0
"""Seconds that a server's program may take to make an invite."""

QUIET_ZONE: Final = 2
"""Modules around a QR code on a terminal."""


def add_invite(parser: argparse.ArgumentParser) -> None:
    """Add what ``cbfs invite`` takes."""
    parser.description = (
        "Prints one line by which somebody gets an account: cbfs init LINE. It is a secret until it"
        f" is used, once, within {LINE_DAYS} days."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the only name that it is good for")
    parser.add_argument(
        "--host", type=Path, required=True, metavar="DIR", help="the directory of cbfs host"
    )
    add_account(parser)
    add_old_passphrase(parser)
    parser.set_defaults(run=_invite)


@dataclass(frozen=True, slots=True)
class _Host:
    """What there is to know of a host that runs: where its message server is, how it is reached
    from here, and the text of its policy."""

    place: Path
    server: Address
    network: NetworkOptions
    policy: str


def _invite(options: argparse.Namespace) -> int:
    name = typed_name(options.name) if options.name else ""
    host = _host(options.host.absolute())
    unlock = unlocking(PassphraseSource(options.account_passphrase_fd).once)
    account = _inviter(options, unlock)
    record = InviteRecord(int(time.time()) + LINE_DAYS * DAY, host.policy, name=name)
    if account is not None and account.person.directory == parse_policy(host.policy).directory:
        identity = account.profile.identity(account.person)
        record = replace(record, inviter=account.name, identity=identity)
    data = host.place
    words = [name] if name else []
    token = _made("cbfs-names", data / NAMES, *words)
    record = replace(record, token=token, invite=_made("cbfs-server", data / SERVER))
    line = InviteLine(host.server, SYSTEM_RANDOM.token(LINE_SECRET_SIZE))
    text = line.text()
    invite = parse_server_invite(_made("cbfs-server", data / SERVER)).invite

    async def steps(network: Network) -> None:
        isolation = DROP + SYSTEM_RANDOM.token(16)
        dialer, address = network.dialer, host.server
        async with open_link(dialer, address, line.key, isolation, SYSTEM_RANDOM) as link:
            await sign_up(link, line.drop, SYSTEM_RANDOM, invite, say)
            await put(link, line, record)

    run(reached, data, host.network, say, steps)
    if record.inviter:  # before anybody has the line: whoever comes by it is awaited
        _await(options, Awaited(line, record.expires), unlock)
    sys.stdout.write(f"{text}\n")
    if sys.stdout.isatty():
        sys.stdout.flush()
        segno.make_qr(text.upper(), error="l").terminal(border=QUIET_ZONE, compact=True)
        say(
            f"give it to one person, by a way that nobody else reads. It is good once, for"
            f" {LINE_DAYS} days: cbfs init -"
        )
    return 0


def _host(place: Path) -> _Host:
    """A host that runs. Raises CbfsError."""
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
    return _Host(place, server, network, read_text(place / NAMES / "policy"))


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
    command = [installed(program), "invite", "--data", str(data), "--days", str(LINE_DAYS), *words]
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
