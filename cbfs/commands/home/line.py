"""A line on a terminal: how it is shown, with a QR code, and how it is read."""

import sys
from typing import Final

import segno

from cbfs.commands.options import say
from cbfs_common.errors import CbfsError
from cbfs_common.limits import INVITE_LINE_MAX

_QUIET_ZONE: Final = 2
"""Modules around a QR code on a terminal."""


def print_line(text: str) -> None:
    """Print a line; on a terminal also its QR code."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    if sys.stdout.isatty():
        segno.make_qr(text.upper(), error="l").terminal(border=_QUIET_ZONE, compact=True)


def show_line(text: str, explained: str) -> None:
    """Print a line; on a terminal also its QR code, and what it is good for."""
    print_line(text)
    if sys.stdout.isatty():
        say(explained)


def read_line(question: str) -> str:
    """The first line of standard input, before which a terminal is asked for it. Nothing behind it
    is read: answers to other questions may follow. Raises CbfsError."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        print(question)
    try:
        return sys.stdin.readline(INVITE_LINE_MAX + len("\r\n"))
    except UnicodeDecodeError as error:
        raise CbfsError("what came on standard input is no line", "give it as UTF-8") from error
