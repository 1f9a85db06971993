"""The options of ``cbfs`` that say which account, and how servers are reached."""

import argparse
import sys
from pathlib import Path

from cbfs.account.place import default_account
from cbfs.network.options import NetworkOptions
from cbfs.network.tor.config import TorOptions


def add_account(parser: argparse.ArgumentParser) -> None:
    """Add ``--account`` to a command."""
    parser.add_argument(
        "--account",
        type=Path,
        metavar="DIR",
        default=default_account(),
        help="where the account is kept (default: %(default)s)",
    )


def add_server_invite(parser: argparse.ArgumentParser) -> None:
    """Add ``--server-invite`` to a command that makes an account at a server."""
    parser.add_argument(
        "--server-invite",
        type=Path,
        metavar="FILE",
        help="the invite that the server's operator has given, where one is needed",
    )


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add ``--no-tor``, ``--tor``, ``--bridges`` and ``--torrc`` to a command."""
    parser.add_argument(
        "--no-tor",
        action="store_true",
        help="plain TCP, to loopback addresses only: hides nothing from this machine",
    )
    parser.add_argument(
        "--tor",
        default="",
        metavar="ADDRESS",
        help="the control socket or HOST:PORT of the tor to use, or own (default: one that is"
        " running, else one that cbfs starts)",
    )
    parser.add_argument(
        "--bridges", type=Path, metavar="FILE", help="bridge lines for a tor that cbfs starts"
    )
    parser.add_argument(
        "--torrc", type=Path, metavar="FILE", help="torrc lines for a tor that cbfs starts"
    )


def network_options(options: argparse.Namespace) -> NetworkOptions:
    """What the options of ``add_network`` say; warns when nothing is hidden."""
    if options.no_tor:
        print("cbfs: without Tor: only servers on this machine can be reached", file=sys.stderr)
    return NetworkOptions(
        no_tor=options.no_tor,
        tor=TorOptions(options.tor, absolute(options.bridges), absolute(options.torrc)),
    )


def say(text: str) -> None:
    """Tell how far a command is, on stderr."""
    print(f"cbfs: {text}", file=sys.stderr)


def absolute(path: Path | None) -> Path | None:
    """A path as seen from the working directory of now."""
    return path and path.absolute()
