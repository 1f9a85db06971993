"""The options of ``cbfs`` that say which account, and how servers are reached."""

import argparse
import difflib
import sys
from pathlib import Path
from typing import NoReturn

from cbfs.account.account import default_account
from cbfs.network.access import NetworkOptions
from cbfs.network.tor.config import TorOptions


class Parser(argparse.ArgumentParser):
    """The parser of ``cbfs``: it says which option may have been meant by one that does not
    exist."""

    def error(self, message: str) -> NoReturn:
        """End with the message and usage on stderr, and exit code 2."""
        wrong, _, words = message.partition("unrecognized arguments: ")
        if not wrong and words:
            message += "".join(f"; did you mean {each}?" for each in self._meant(words)[:1])
        super().error(message)

    def _meant(self, words: str) -> list[str]:
        known = sorted(_options(self))
        first, *rest = words.split()
        if first == "-o" and rest:  # as for mount.cbfs
            first = "--" + rest[0].replace("_", "-")
        return difflib.get_close_matches(first.partition("=")[0], known, 1)


def _options(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a parser and of its commands."""
    found: set[str] = set()
    for action in parser._actions:
        found |= {option for option in action.option_strings if option.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                found |= _options(below)
    return found


def add_account(parser: argparse.ArgumentParser) -> None:
    """Add ``--account`` to a command."""
    parser.add_argument(
        "--account",
        type=Path,
        metavar="DIR",
        default=default_account(),
        help="where the account is kept (default: %(default)s)",
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
