"""What a program says on standard error when something has gone wrong: a line ``error:``, and one
``hint:`` with what helps against it.

Imports little, as it is needed before all else is there. An error of the disk is known by its text
alone: LMDB's own classes belong to the stores.
"""

import os
from typing import Final

from cbfs_common.errors import CbfsError

STDERR: Final = 2

CHECK_DATA: Final = "check the disk and the data directory"
"""The hint of a server for errors of the system that it knows nothing better about."""


class HostError(CbfsError):
    """What was asked for cannot be done on this machine, or not by this user."""


class StoreError(CbfsError):
    """The store cannot be opened, read or written, or is not the one that belongs here."""


def complain(program: str, text: str, hint: str = "") -> None:
    """Say what is wrong in one line, and what to do about it in another."""
    more = f"{program}: hint: {printable(hint)}\n" if hint else ""
    say(f"{program}: error: {printable(text)}\n{more}")


def printable(text: str) -> str:
    """``text`` in one line, and nothing that a terminal would obey."""
    return "".join(
        c if c.isprintable() or "\udc80" <= c <= "\udcff" else ascii(c)[1:-1] for c in text
    )


def say(text: str) -> None:
    """Put ``text`` on standard error, past all buffers."""
    try:
        os.write(STDERR, text.encode("utf-8", "backslashreplace"))
    except OSError:
        return  # nobody is there to be told


def reason_of(error: Exception) -> str:
    """What went wrong, without the path that LMDB puts in front."""
    return _text(error).rpartition(": ")[2]


def hint_of(error: Exception, otherwise: str) -> str:
    """What may help against an error of the system or of LMDB; ``otherwise`` when it is none of
    those that are known."""
    text = _text(error)
    if "Too many open files" in text:
        return "too few file descriptors: raise the limit (ulimit -n)"
    if "File too large" in text:
        return "files may not grow so large: raise the limit (ulimit -f)"
    if "MDB_MAP_FULL" in text or "Cannot allocate memory" in text:
        return "its address space is used up: raise the limit (ulimit -v)"
    if "No space" in text or "quota exceeded" in text:
        return "the disk is full: make room"
    if "Read-only" in text:
        return "the disk is read-only"
    if "ermission" in text or "not permitted" in text:
        return "check the files' owner"
    return otherwise


def _text(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
