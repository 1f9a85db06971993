"""Where a passphrase comes from: a terminal or a file descriptor, never arguments or the
environment, which other programs can see.

Imports little: command lines name sources, whatever becomes of what is read.
"""

import getpass
import os
import unicodedata
from dataclasses import dataclass

from cbfs_common.errors import CbfsError

PASSPHRASE_MAX = 1_024
"""Bytes."""


@dataclass(frozen=True, slots=True)
class PassphraseSource:
    """Where a passphrase comes from: a descriptor, or the terminal. ``what`` names it there."""

    descriptor: int | None = None
    what: str = "passphrase of the account"

    def once(self) -> bytes:
        """A passphrase that exists already. Raises CbfsError."""
        if self.descriptor is not None:
            return _read(self.descriptor)
        return _ask(f"{self.what}: ")

    def twice(self) -> bytes:
        """A new passphrase, which a terminal asks for twice. Raises CbfsError."""
        if self.descriptor is not None:
            return _read(self.descriptor)
        first = _ask(f"new {self.what}: ")
        if first != _ask("the same again: "):
            raise CbfsError("these were two different passphrases", "try again")
        return first


def _read(descriptor: int) -> bytes:
    data = b""
    try:
        while len(data) <= PASSPHRASE_MAX and b"\n" not in data:
            more = os.read(descriptor, PASSPHRASE_MAX + 1)
            if not more:
                break
            data += more
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else "there is no such descriptor"
        raise CbfsError(
            f"no passphrase can be read from descriptor {descriptor}: {why}",
            "open it: 3<FILE",
        ) from error
    return _checked(data.partition(b"\n")[0].removesuffix(b"\r"))


def _ask(prompt: str) -> bytes:
    lacking = CbfsError(
        "there is no terminal to ask for the passphrase",
        "give it on a file descriptor: -o passphrase_fd=3, or --passphrase-fd 3",
    )
    return _checked(ask_hidden(prompt, lacking).encode(errors="surrogateescape"))


def ask_hidden(prompt: str, lacking: CbfsError) -> str:
    """A line that is typed at the terminal, which does not show it. Raises ``lacking`` when there
    is no terminal, and CbfsError when it is closed, or what was typed is not UTF-8."""
    try:
        # getpass would fall back to standard input, and show what is typed
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError as error:
        raise lacking from error
    try:
        return getpass.getpass(f"cbfs: {prompt}")
    except EOFError as error:
        raise CbfsError("nothing was typed; nothing was done") from error
    except UnicodeDecodeError:  # without it as the cause, as it holds what was typed
        raise CbfsError(
            "what was typed is not UTF-8; nothing was done", "set the terminal to UTF-8"
        ) from None


def _checked(passphrase: bytes) -> bytes:
    """A passphrase as the same bytes however the same characters were typed. Raises CbfsError for
    an empty or too long one."""
    passphrase = composed(passphrase)
    if not passphrase:
        raise CbfsError("the passphrase is empty", "give one, of several words")
    if len(passphrase) > PASSPHRASE_MAX:
        raise CbfsError(f"the passphrase is longer than {PASSPHRASE_MAX} bytes")
    return passphrase


def composed(passphrase: bytes) -> bytes:
    """A passphrase as RFC 8265 has passwords (OpaqueString): composed (NFC), and every kind of
    space a plain one: keyboards and systems differ in both. What is no UTF-8 stays as it is."""
    try:
        text = passphrase.decode()
    except UnicodeDecodeError:
        return passphrase
    spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in text)
    return unicodedata.normalize("NFC", spaced).encode()
