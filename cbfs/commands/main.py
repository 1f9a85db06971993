"""``cbfs``: what a shell user needs besides ls, cat, cp, mv and rm."""

import argparse
import sys
from pathlib import Path

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.passphrase import Asking, unlocking
from cbfs.commands import demo, init, questions
from cbfs.commands.account import (
    add_export,
    add_passphrase,
    add_protection,
    guard,
    restore,
    tell_ready,
)
from cbfs.commands.name import add_name, add_verify
from cbfs.commands.no_mount import is_in_a_mount, no_mount
from cbfs.commands.onion_key import admission
from cbfs.commands.options import Parser, absolute, add_account, add_network, network_options, say
from cbfs.commands.process import memory
from cbfs.commands.process.entry import complain
from cbfs.names.directory import NameTaken
from cbfs_common.errors import CbfsError

_EXAMPLES = """examples:
  cbfs init
  cbfs init alice --server cbfs://KEY@HOST:PORT --names policy
  mount.cbfs ~/chat
  mkdir ~/chat/outbox/bob && echo hello > ~/chat/outbox/bob/hi
  cbfs verify ~/chat bob
  cbfs status ~/chat
  cbfs export ~/chat ~/chat.export
  cbfs init --restore ~/chat.export
"""


def main() -> int:
    """The entry point."""
    memory.protect()
    try:
        options = _parser().parse_args()
        return int(options.run(options))
    except CbfsError as error:
        complain(str(error), error.hint)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="cbfs",
        description="Private messaging as a file system.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _init_parser(commands)
    add_verify(commands)
    add_name(commands)
    add_passphrase(commands)
    add_export(commands)

    status = commands.add_parser("status", help="tell how a mount is doing")
    status.add_argument("mountpoint", type=Path, metavar="MOUNTPOINT")
    status.set_defaults(run=_status)

    _onion_key_parser(commands)

    show = commands.add_parser("demo", help="two users on this machine, from nothing to a reply")
    show.add_argument(
        "directory",
        nargs="?",
        type=Path,
        metavar="DIR",
        help="made, and removed at the end if it was not there (default: a temporary one)",
    )
    show.add_argument(
        "--tor", action="store_true", help="over a private Tor network on this machine"
    )
    show.set_defaults(run=lambda options: demo.run(options.directory, tor=options.tor))
    return parser


def _onion_key_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "onion-key", help="make the key by which a private server admits this account"
    )
    parser.add_argument("address", metavar="ADDRESS", help="of the server, NAME.onion")
    add_account(parser)
    parser.set_defaults(run=_onion_key)


def _onion_key(options: argparse.Namespace) -> int:
    print(admission(options.account.absolute(), options.address, SYSTEM_RANDOM))
    print(
        "cbfs: give this line to the server's operator, for the file of --onion-clients;"
        " it is in effect from the next mount",
        file=sys.stderr,
    )
    return 0


def _init_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "init", help="make an account and register its name; asks for what is not given"
    )
    parser.add_argument("name", nargs="?", metavar="NAME")
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
    lacking = questions.missing(options)
    if lacking and not questions.can_ask():
        options.usage(f"missing: {', '.join(lacking)}; on a terminal, cbfs init asks for them")
    if lacking:
        questions.ask_missing(options)
    name = _made(options, account, asked_name="NAME" in lacking)
    tell_ready(name, account, options)
    return 0


def _made(options: argparse.Namespace, account: Path, *, asked_name: bool) -> str:
    """Make the account; ask for another name where that which was asked for is taken."""
    network = network_options(options)
    while True:
        try:
            return init.make(
                options.name,
                account,
                options.server,
                options.names,
                network,
                say,
                absolute(options.invite),
                unlocking(Asking(options.passphrase_fd).once),
                lambda: guard(options, options.name),
            )
        except NameTaken as error:
            if not asked_name:
                raise
            questions.complain(error)
            questions.ask_name(options)


def _status(options: argparse.Namespace) -> int:
    place = options.mountpoint
    if not is_in_a_mount(place):
        raise no_mount(place, None)
    try:
        text = (place / "status").read_text(encoding="utf-8")
    except OSError as error:
        raise no_mount(place, error) from error
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
