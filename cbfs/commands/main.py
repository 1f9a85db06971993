"""The program ``cbfs``: what a shell user needs besides ls, cat, cp, mv and rm."""

import argparse
import difflib
import os
import re
import sys
from dataclasses import dataclass
from typing import Final, NoReturn

from cbfs.commands.process import memory
from cbfs.commands.process.entry import PROGRAM, interrupted
from cbfs_common.errors import CbfsError
from cbfs_host.complaints import complain
from cbfs_host.entry import add_version, read_in

_EXAMPLES = """examples:
  cbfs init
  cbfs init cbfs-line:...
  cbfs init alice --server cbfs://KEY@HOST:PORT --names policy
  mount.cbfs ~/chat
  mkdir ~/chat/outbox/bob && echo hello > ~/chat/outbox/bob/hi
  cbfs verify ~/chat bob
  cbfs status ~/chat
  cbfs export ~/chat ~/chat.export
  cbfs init --restore ~/chat.export
"""


_NO_COMMAND: Final = re.compile(r"argument COMMAND: invalid choice: '(.*)' \(")
"""What argparse says of a command that there is not."""

SENDMAIL: Final = "sendmail"
"""The command that programs also find under this name alone, by a link to ``cbfs``."""


class Parser(argparse.ArgumentParser):
    """The parser of ``cbfs``: it says which option, or which command, may have been meant by one
    that does not exist."""

    def error(self, message: str) -> NoReturn:
        """End with the message and usage on stderr, and exit code 2."""
        message = self._with_command(message)
        wrong, _, words = message.partition("unrecognized arguments: ")
        if not wrong and words:
            message += "".join(f"; did you mean {each}?" for each in self._meant(words)[:1])
        super().error(message)

    def _with_command(self, message: str) -> str:
        """The message of argparse about a command that there is not, in which all are listed, in
        shorter words; any other one as it is."""
        found = _NO_COMMAND.match(message)
        if found is None:
            return message
        known = [name for action in self._actions if isinstance(action, argparse._SubParsersAction)
                 for name in action.choices]  # fmt: skip
        meant = difflib.get_close_matches(found[1].lower(), known, 1)
        if meant:
            return f"there is no command {found[1]!r}; did you mean {meant[0]}?"
        return f"there is no command {found[1]!r}; {self.prog} --help lists them"

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


@dataclass(frozen=True, slots=True)
class Command:
    """A command of ``cbfs``: a function of a module adds what it takes to its parser. The module is
    read in when the command line has its name: it may bring the whole client with it, for which
    neither ``cbfs status`` nor ``cbfs --help`` is to wait."""

    module: str
    function: str
    help: str


COMMANDS: Final = {
    "init": Command(
        "cbfs.commands.home.beginning",
        "add_init",
        "make an account and register its name; asks for what is not given",
    ),
    "host": Command(
        "cbfs.commands.home.host",
        "add_host",
        "run a message server and a name directory for friends, on this machine",
    ),
    "invite": Command(
        "cbfs.commands.home.invite",
        "add_invite",
        "make a line by which somebody gets an account",
    ),
    "verify": Command(
        "cbfs.commands.verify",
        "add_verify",
        "compare a contact's fingerprint by voice, and say that it is the same",
    ),
    "name": Command("cbfs.commands.owner.name", "add_name", "look after your own name"),
    "passphrase": Command(
        "cbfs.commands.account",
        "add_passphrase",
        "set, change or remove the passphrase of an account",
    ),
    "export": Command(
        "cbfs.commands.account",
        "add_export",
        "write account and history into a file, encrypted under a passphrase; or history for other"
        " programs: --mbox, --html, --jsonl",
    ),
    "move": Command(
        "cbfs.commands.home.moving.program",
        "add_move",
        "move an account to another computer, by one line between the two",
    ),
    "claim": Command(
        "cbfs.commands.home.claim",
        "add_claim",
        "of two copies of an account, go on with this one",
    ),
    "sign-up": Command(
        "cbfs.commands.home.sign_up",
        "add_sign_up",
        "make your account at the home server anew, when it has ended there",
    ),
    "sendmail": Command(
        "cbfs.commands.sendmail.program",
        "add_sendmail",
        "take a message from a mail program, as sendmail does, and send it to people by name",
    ),
    "serve": Command(
        "cbfs.commands.mount.serve",
        "add_serve",
        "serve an account to mount.cbfs ssh://HOST on another machine, over standard input",
    ),
    "send": Command(
        "cbfs.commands.sendmail.send",
        "add_send",
        "send files, and wait until the servers have them",
    ),
    "status": Command("cbfs.commands.reading.status", "add_status", "say how a mount is doing"),
    "messages": Command(
        "cbfs.commands.reading.messages",
        "add_messages",
        "print messages, or with --json one object on a line for each",
    ),
    "complete": Command(
        "cbfs.commands.reading.complete",
        "add_complete",
        "for shells: print names of contacts or conversations that begin so",
    ),
    "onion-key": Command(
        "cbfs.commands.home.onion_key",
        "add_onion_key",
        "make the key by which a private server admits this account",
    ),
    "setup": Command(
        "cbfs.commands.machine.setup",
        "add_setup",
        "after pipx or pip: put manual pages, completions, units and mount -t cbfs in place",
    ),
    "demo": Command(
        "cbfs.commands.machine.demo",
        "add_demo",
        "two users on this machine, from nothing to a reply",
    ),
}
"""The commands, in the order in which they are shown."""


def main() -> int:
    """Run the command that the command line names; the exit code."""
    memory.protect()
    words = sys.argv[1:]
    if os.path.basename(sys.argv[0]) == SENDMAIL:  # noqa: PTH119 - a link of that name
        words = [SENDMAIL, *words]
    if words[:1] == [SENDMAIL]:  # whose options are no words of argparse's
        return int(read_in(COMMANDS[SENDMAIL].module, interrupted).main(words[1:]))
    try:
        options = command_line(words).parse_args(words)
        return int(options.run(options))
    except CbfsError as error:
        complain(PROGRAM, str(error), error.hint)
        return 1


def command_line(words: list[str]) -> argparse.ArgumentParser:
    """The parser for a command line of these words."""
    parser: argparse.ArgumentParser = Parser(
        prog="cbfs",
        description="Private messaging as a file system.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_version(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        below = commands.add_parser(name, help=command.help)
        if name in words:
            add = getattr(read_in(command.module, interrupted), command.function)
            add(below)
    return parser


if __name__ == "__main__":
    sys.exit(main())
