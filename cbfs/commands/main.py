"""The program ``cbfs``: what a shell user needs besides ls, cat, cp, mv and rm."""

import argparse
import sys
from pathlib import Path

from cbfs.commands import demo
from cbfs.commands.account import add_export, add_passphrase
from cbfs.commands.init import add_init
from cbfs.commands.mountpoints import is_in_a_mount, no_mount
from cbfs.commands.name import add_name, add_verify
from cbfs.commands.onion_key import add_onion_key
from cbfs.commands.options import Parser
from cbfs.commands.process import memory
from cbfs.commands.process.entry import PROGRAM
from cbfs_common.errors import CbfsError
from cbfs_host.complaints import complain

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
    """Run the command that the command line names; the exit code."""
    memory.protect()
    try:
        options = _parser().parse_args()
        return int(options.run(options))
    except CbfsError as error:
        complain(PROGRAM, str(error), error.hint)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="cbfs",
        description="Private messaging as a file system.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_init(commands)
    add_verify(commands)
    add_name(commands)
    add_passphrase(commands)
    add_export(commands)

    status = commands.add_parser("status", help="say how a mount is doing")
    status.add_argument("mountpoint", type=Path, metavar="MOUNTPOINT")
    status.set_defaults(run=_status)

    add_onion_key(commands)

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
