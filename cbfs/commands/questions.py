"""``cbfs init`` on a terminal: asks for what its command line leaves out.

Each answer is checked at once, and asked for again when it cannot be used.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cbfs.commands.init import read_policy
from cbfs.contacts.user_names import typed_name
from cbfs_common.errors import CbfsError
from cbfs_common.profile import parse_address

T = TypeVar("T")

OWN = "own"
"""The answer that stands for ``--own-server``."""

_NAME = "Your name, by which others write to you: 3 to 32 of a-z, 0-9, - and _. It stays yours."
_SERVER = (
    "Your server, which keeps messages until you fetch them, and cannot read them: its address,\n"
    "cbfs://KEY@HOST:PORT, from who runs it; or own, for one that runs here while you are mounted."
)
_SERVER_NO_TOR = (
    "Your server, which keeps messages until you fetch them, and cannot read them: its address,\n"
    "cbfs://KEY@HOST:PORT, from who runs it."
)
_POLICY = (
    "The policy file of your name directory, which says whose signatures make a name valid:\n"
    "a path, as ~/policy. Who runs the directory hands it out."
)


def missing(options: argparse.Namespace) -> list[str]:
    """What ``cbfs init`` needs and was not told, as its usage names it."""
    needs = (
        (options.name, "NAME"),
        (options.server or options.own_server, "--server URL or --own-server"),
        (options.names, "--names POLICYFILE"),
    )
    return [what for given, what in needs if not given]


def can_ask() -> bool:
    """Whether there is somebody at a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask_missing(options: argparse.Namespace) -> None:
    """Put the answers into ``options``. Raises CbfsError when there are no more of them, and
    nothing has been made then."""
    print(f"The account will be kept in {options.account}; --account DIR chooses another place.")
    if not options.name:
        ask_name(options)
    if not (options.server or options.own_server):
        explained = _SERVER_NO_TOR if options.no_tor else _SERVER
        answer = _ask(explained, "server", lambda text: _server(text, options.no_tor))
        options.own_server = answer == OWN
        options.server = None if options.own_server else answer
    if not options.names:
        options.names = _ask(_POLICY, "policy file", _policy)


def ask_name(options: argparse.Namespace) -> None:
    """The same for the name alone: for another one, when it is taken."""
    options.name = _ask(_NAME, "name", typed_name)


def complain(error: CbfsError) -> None:
    """An answer that cannot be used, in one line."""
    print(f"cbfs: {error}" + (f": {error.hint}" if error.hint else ""))


def _ask(explained: str, what: str, check: Callable[[str], T]) -> T:
    print(f"\n{explained}")
    while True:
        try:
            text = input(f"{what}: ").strip()
        except EOFError as error:
            print()
            raise CbfsError(f"there is no answer for {what}; nothing was made") from error
        except UnicodeDecodeError:
            text = "?"  # not of the terminal's encoding, so nothing that could be meant
        try:
            return check(text)
        except CbfsError as error:
            complain(error)


def _server(text: str, no_tor: bool) -> str:
    if text.casefold() == OWN:
        if no_tor:
            raise CbfsError("a server of one's own is reached through Tor", "not with --no-tor")
        return OWN
    return parse_address(text).url()


def _policy(text: str) -> Path:
    path = Path(text)
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise CbfsError(f"there is no user of whom {text} could be the home") from error
    read_policy(path)
    return path
