"""What the command line and ``-o`` of ``mount.cbfs`` say."""

import argparse
import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cbfs.account.bounds import GRACE_MAX
from cbfs.account.passphrase_source import PassphraseSource
from cbfs.account.place import check_account, check_way, default_account
from cbfs.commands.mountpoints import account_of
from cbfs.mount.mount_table import SINGLE_SOURCE, become
from cbfs.mount.mounting import MountPlace
from cbfs.network.options import NetworkOptions
from cbfs.network.tor.config import TorOptions
from cbfs_host.entry import add_version

if TYPE_CHECKING:
    from cbfs.mount.remote.ssh.address import HubAddress

SYNC_SEND, SYNC_SEND_MAX = 60.0, 3_600.0
"""Seconds until fsync gives up waiting: by default, and at most."""

_IGNORED = frozenset(
    (
        "rw",
        "user",
        "users",
        "owner",
        "group",
        "noauto",
        "auto",
        "nofail",
        "_netdev",
        "nosuid",
        "nodev",
        "noexec",
        "suid",
        "dev",
        "exec",
        "defaults",
        "relatime",
        "noatime",
        "atime",
        "sync",
        "async",
    )
)
"""What mount(8) passes that does not concern us."""

_VALUES = {
    "grace": "SECONDS",
    "sync_send": "SECONDS",
    "tor": "ADDRESS",
    "bridges": "FILE",
    "torrc": "FILE",
    "passphrase_fd": "N",
    "uid": "USER",
    "only": "CONVERSATION",
}
"""Words of ``-o`` that have a value, and what it is."""

_WORD = re.compile(r"(?:[^,\\]|\\.|\\\Z)+", re.DOTALL)

_EXAMPLES = """examples:
  mount.cbfs ~/chat                      the account in ~/.local/share/cbfs
  mount.cbfs ~/bots/alerts ~/alerts -o grace=0
  mount.cbfs ssh://home.example ~/chat   the account that is on that machine
  fusermount3 -u ~/chat
"""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What the command line says."""

    account: Path
    mountpoint: Path
    foreground: bool
    grace: float | None
    network: NetworkOptions
    fuse: frozenset[str]
    passphrase: PassphraseSource
    only: str = ""
    sync_send: float = 0
    hub: "HubAddress | None" = None

    @property
    def place(self) -> MountPlace:
        """Which account is mounted where."""
        return MountPlace(self.account, self.mountpoint, self.fuse)

    @property
    def source(self) -> str:
        """What the table of mounts says is mounted."""
        if self.hub is not None:
            return self.hub.url
        return SINGLE_SOURCE if self.only else str(self.account)


def parse(arguments: list[str]) -> tuple[MountOptions, bool]:
    """(the options, whether mount(8) asks for a dry run). Exits with 2 for wrong usage. Becomes
    the user that ``uid`` names, whose default account it then is. Raises CbfsError."""
    parser = command_line()
    given = parser.parse_args(arguments)
    if len(given.paths) > 2:
        parser.error("at most an account and a mountpoint")
    words = _words(parser, given)
    for key in ("tor", "bridges", "torrc"):
        if vars(given)[key]:
            words.tor[key] = vars(given)[key]
    hub = _hub(parser, given.paths, words)
    account = Path(given.paths[0]) if len(given.paths) == 2 else default_account()
    if words.only and words.sync_send:
        parser.error("sync_send belongs to the mount of the account, not to only=CONVERSATION")
    if words.only and hub is None:
        account = account_of(account)
    mountpoint = Path(os.path.abspath(given.paths[-1]))  # noqa: PTH100
    check_way(mountpoint)
    mountpoint = Path(os.path.realpath(mountpoint))
    account = Path(os.path.abspath(account))  # noqa: PTH100 - as it is given: mount -a compares it
    if hub is None:
        check_account(account)
    return (
        MountOptions(
            account,
            mountpoint,
            given.foreground,
            words.grace,
            NetworkOptions(words.no_tor, _tor_options(words.tor)),
            frozenset(words.fuse),
            words.passphrase,
            words.only,
            words.sync_send,
            hub,
        ),
        given.fake,
    )


def _hub(parser: argparse.ArgumentParser, paths: list[str], words: "_Words") -> "HubAddress | None":
    """The machine that has the account, where it is another one. Raises CbfsError."""
    if len(paths) < 2 or not paths[0].startswith("ssh://"):
        return None
    if words.sync_send or words.grace is not None or words.tor or words.no_tor:
        parser.error("the hub has its own grace, sync_send and tor: leave them out with ssh://")
    # nobody whose account is on this machine waits for it
    from cbfs.mount.remote.ssh.address import read_address  # noqa: PLC0415

    return read_address(paths[0])


@dataclass(slots=True)
class _Words:
    """What ``-o`` says."""

    no_tor: bool
    grace: float | None = None
    tor: dict[str, str] = field(default_factory=dict)
    passphrase: PassphraseSource = field(default_factory=PassphraseSource)
    only: str = ""
    sync_send: float = 0
    fuse: set[str] = field(default_factory=set)


def _words(parser: argparse.ArgumentParser, given: argparse.Namespace) -> _Words:
    found = _Words(given.no_tor)
    for word in _separate(given.words):
        key, _, value = word.partition("=")
        if key == "grace":
            found.grace = _seconds(parser, "grace", value, 0, GRACE_MAX)
        elif key == "sync_send":
            given_seconds = value or f"{SYNC_SEND:.0f}"
            found.sync_send = _seconds(parser, "sync_send", given_seconds, 1, SYNC_SEND_MAX)
        elif key == "only":
            found.only = value or parser.error("only=CONVERSATION takes the name of one")
        elif key == "uid" and value:
            become(value)
        elif key in {"tor", "bridges", "torrc"} and value:
            found.tor[key] = value
        elif key == "passphrase_fd":
            if not value.isdecimal() or len(value) > 9:
                parser.error("passphrase_fd=N takes the number of a descriptor")
            found.passphrase = PassphraseSource(int(value))
        elif word == "no_tor":
            found.no_tor = True
        elif word in {"allow_other", "allow_root"}:
            found.fuse.add(word)
        elif word and key not in _IGNORED and not word.startswith("x-"):
            parser.error(_unknown(word, key))
    return found


def _separate(given: list[str]) -> Iterator[str]:
    """The words of all ``-o``. As for fuse(8), a comma or a backslash in a word has a backslash
    before it."""
    for words in given:
        for found in _WORD.finditer(words):
            yield re.sub(r"\\([\\,])", r"\1", found[0])


def _unknown(word: str, key: str) -> str:
    if key in _VALUES:
        return f"-o {key}={_VALUES[key]} takes a value"
    meant = difflib.get_close_matches(key, [*_VALUES, "no_tor", "allow_other", "allow_root"], 1)
    if not meant:
        return f"unknown option: -o {word}"
    value = f"={_VALUES[meant[0]]}" if meant[0] in _VALUES else ""
    return f"unknown option: -o {word}; is it -o {meant[0]}{value} that you mean?"


def _seconds(
    parser: argparse.ArgumentParser, key: str, text: str, least: float, most: float
) -> float:
    try:
        seconds = float(text)
    except ValueError:
        parser.error(f"{key}=SECONDS takes a number")
    if not least <= seconds <= most:
        parser.error(f"{key}=SECONDS is between {least:.0f} and {most:.0f}")
    return seconds


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mount.cbfs",
        usage="mount.cbfs [ACCOUNT | ssh://HOST[/ACCOUNT]] MOUNTPOINT [-o OPTIONS] [--foreground]"
        " [--no-tor]",
        description="Mount a cbfs account: conversations/ to read, outbox/ to write into.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_version(parser)
    parser.add_argument("paths", nargs="+", metavar="PATH", help=argparse.SUPPRESS)
    parser.add_argument(
        "-o",
        action="append",
        default=[],
        metavar="OPTIONS",
        dest="words",
        help="grace=SECONDS (in the place of that in config.toml), sync_send[=SECONDS] (fsync of a"
        " file in the outbox returns when the servers have it), no_tor,"
        " tor=ADDRESS (the control socket or HOST:PORT of the tor to use, or own), bridges=FILE,"
        " torrc=FILE, passphrase_fd=N (read the passphrase from that descriptor),"
        " uid=USER (root mounts as that user), allow_other, only=CONVERSATION (nothing but that"
        " one, of an account that is mounted; ACCOUNT may be its mountpoint), and what mount(8)"
        " passes",
    )
    parser.add_argument("--foreground", action="store_true", help="stay, and log to stderr")
    parser.add_argument(
        "--no-tor", action="store_true", help="plain TCP, to loopback addresses only"
    )
    parser.add_argument("--tor", metavar="ADDRESS", help="as -o tor=ADDRESS")
    parser.add_argument("--bridges", metavar="FILE", help="as -o bridges=FILE")
    parser.add_argument("--torrc", metavar="FILE", help="as -o torrc=FILE")
    for flag in ("-s", "-n", "-v"):
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-f", action="store_true", dest="fake", help=argparse.SUPPRESS)
    parser.add_argument("-N", "-t", dest="ignored", help=argparse.SUPPRESS)
    return parser


def _tor_options(words: dict[str, str]) -> TorOptions:
    def path(key: str) -> Path | None:
        return Path(words[key]).absolute() if key in words else None

    control = words.get("tor", "")
    if "/" in control:  # the daemon works elsewhere
        control = str(Path(control).absolute())
    return TorOptions(control, path("bridges"), path("torrc"))
