"""The command line of sendmail, as far as it concerns who hands over a message, and the exit codes
of sysexits.h. Pure.

What is about how mail is carried elsewhere (who it is from, notifications, encodings of the way) is
read and has no effect; what asks for another program than one that takes a message is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cbfs_common.errors import CbfsError

USAGE_TEXT: Final = """usage: cbfs sendmail [--account DIR] [-t] [-i] [OPTIONS] [RECIPIENT...]

Takes a message (RFC 5322) from standard input and sends it to people by name, as sendmail does by
address: NAME, NAME@cbfs.invalid, or what you call a contact.

  --account DIR  where the account is kept (default: ~/.local/share/cbfs)
  -t             recipients stand in To, Cc and Bcc as well
  -i, -oi        a line with a dot alone does not end the message
  -v             say what has become of it

Other options of sendmail that have to do with a message are accepted, and have no effect.
"""


class Exit(IntEnum):
    """Those of sysexits.h that are used."""

    OK = 0
    USAGE = 64
    DATAERR = 65
    NOINPUT = 66
    NOUSER = 67
    UNAVAILABLE = 69
    TEMPFAIL = 75
    CONFIG = 78


class NotSent(CbfsError):
    """A message that is not sent, or not to all; then it says to whom. ``code``: the exit code that
    says why."""

    def __init__(self, code: Exit, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.code = code


@dataclass(frozen=True, slots=True)
class SendmailOptions:
    """``from_headers``: recipients stand in the message as well. ``dot_ends``: a line that is a dot
    alone ends it. ``account``: its directory as given, empty for the default one."""

    recipients: tuple[str, ...] = ()
    from_headers: bool = False
    dot_ends: bool = True
    verbose: bool = False
    account: str = ""
    help: bool = False


_ALONE: Final = frozenset("GUmnsx")
"""Letters of options without a value that have no effect."""

_VALUED: Final = frozenset("ABCDFLMNORVXfhopr")
"""Letters of options with a value, behind the letter or as the next word."""

_ATTACHED: Final = frozenset("bdeq")
"""Letters of options whose value, if they have one, stands behind the letter."""

_MODES: Final = {
    "s": "SMTP on standard input is not spoken here",
    "d": "this is no mail server",
    "D": "this is no mail server",
    "p": "there is no queue to show here",
    "i": "there are no aliases to read in",
    "t": "there are no addresses to rewrite",
    "v": "names are looked up when something is sent to them",
    "h": "there is no status of hosts",
    "H": "there is no status of hosts",
}


def parse(words: Sequence[str]) -> SendmailOptions:
    """What a command line says. Raises NotSent."""
    left = list(words)
    letters = {"t": False, "i": False, "v": False}
    account = ""
    while left and left[0].startswith("-") and left[0] != "-":
        word = left.pop(0)
        if word == "--":
            break
        if word == "--help":
            return SendmailOptions(help=True)
        name, equals, value = word.partition("=")
        if name == "--account":
            if not equals and not left:
                raise _usage("--account takes a directory")
            account = value if equals else left.pop(0)
        elif word.startswith("--"):
            raise _usage(f"unknown option: {word}")
        else:
            _short(word[1:], left, letters)
    return SendmailOptions(tuple(left), letters["t"], not letters["i"], letters["v"], account)


def _short(word: str, left: list[str], letters: dict[str, bool]) -> None:
    """Read one word of letters, behind its dash; takes the value of the last from ``left``."""
    at = 0
    while at < len(word):
        letter, rest = word[at], word[at + 1 :]
        at += 1
        if letter in letters:
            letters[letter] = True
        elif letter in _VALUED:
            if not rest and not left:
                raise _usage(f"-{letter} takes a value")
            _valued(letter, rest or left.pop(0), letters)
            return
        elif letter in _ATTACHED:
            _attached(letter, rest)
            return
        elif letter not in _ALONE:
            raise _usage(f"unknown option: -{letter}")


def _valued(letter: str, value: str, letters: dict[str, bool]) -> None:
    """Options of the old kind are one letter; those of the new kind, a name."""
    if letter == "o" and value[:1] in letters:
        letters[value[:1]] = True
    elif letter == "O" and value.replace(" ", "").lower() in {"ignoredots", "ignoredots=true"}:
        letters["i"] = True


def _attached(letter: str, value: str) -> None:
    if letter == "b" and value != "m":
        why = _MODES.get(value, f"unknown mode: -b{value}")
        raise _usage(why, "give the message on standard input, and whom it is for")
    if letter == "q":
        raise _usage(
            "there is no queue to run here", "what waits is sent when the account is mounted"
        )


def _usage(message: str, hint: str = "see: cbfs sendmail --help") -> NotSent:
    return NotSent(Exit.USAGE, message, hint)
