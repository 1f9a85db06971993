"""What protects an account's root key: a passphrase, the desktop's keyring, or nothing.

A passphrase becomes a key by Argon2id; salt and costs are kept beside what the key seals, so that
they can be raised. Passphrases are read from a terminal or a file descriptor, never from
arguments or the environment, which other programs can see.
"""

import getpass
import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

import keyring
import keyring.errors
from nacl import exceptions as nacl
from nacl import pwhash

from cbfs.storage.root_key import ID_SIZE, NO_LOCK, Protection, ProtectionKind, Unlock
from cbfs_common.errors import CbfsError
from cbfs_common.primitives import KEY_SIZE, Random

PASSES = 3
MEMORY = 256 * 1_024
"""KiB. With these, RFC 9106's second choice but for the memory, a guess costs most of a second."""

PASSES_MAX = 16
MEMORY_MAX = 1_024 * 1_024
"""What is accepted from a file: more would only be there to exhaust who opens it."""

SALT_SIZE = 16
PASSPHRASE_MAX = 1_024
"""Bytes."""

_SERVICE = "cbfs"


@dataclass(frozen=True, slots=True)
class Guard:
    """A protection of an account with the lock (32 bytes) that it gives."""

    protection: Protection = field(default_factory=Protection)
    lock: bytes = field(default=NO_LOCK, repr=False)


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
    try:
        # getpass would fall back to standard input, and show what is typed
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError as error:
        raise CbfsError(
            "there is no terminal to ask for the passphrase",
            "give it on a file descriptor: -o passphrase_fd=3, or --passphrase-fd 3",
        ) from error
    try:
        return _checked(getpass.getpass(f"cbfs: {prompt}").encode(errors="surrogateescape"))
    except EOFError as error:
        raise CbfsError("no passphrase was given") from error


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


def stretch(passphrase: bytes, salt: bytes, passes: int, memory: int) -> bytes:
    """A key (32 bytes) by Argon2id; ``memory`` in KiB. Raises CbfsError for costs that are out of
    bounds, or more than this machine has."""
    if not 1 <= passes <= PASSES_MAX or not 8 <= memory <= MEMORY_MAX:
        raise CbfsError("the file asks for too much work", "is it one that cbfs wrote?")
    try:
        return pwhash.argon2id.kdf(
            KEY_SIZE, passphrase, salt, opslimit=passes, memlimit=memory * 1_024
        )
    except (nacl.CryptoError, MemoryError) as error:
        raise CbfsError(
            f"it takes {memory // 1_024} MiB of memory to check a passphrase"
        ) from error


def by_passphrase(passphrase: bytes, random: Random) -> Guard:
    """A new protection by a passphrase."""
    salt = random.token(SALT_SIZE)
    protection = Protection(ProtectionKind.PASSPHRASE, salt=salt, passes=PASSES, memory=MEMORY)
    return Guard(protection, stretch(passphrase, salt, PASSES, MEMORY))


def by_keyring(name: str, random: Random) -> Guard:
    """A new protection by the desktop's keyring, in which its lock is on return. ``name`` tells
    people whose it is. Raises CbfsError."""
    protection = Protection(ProtectionKind.KEYRING, id=random.token(ID_SIZE))
    lock = random.token(KEY_SIZE)
    try:
        keyring.set_password(_SERVICE, protection.id.hex(), lock.hex())
    except keyring.errors.KeyringError as error:
        raise CbfsError(
            "the desktop's keyring cannot be used", "is it running, and unlocked?"
        ) from error
    return Guard(protection, lock)


def forget(protection: Protection) -> None:
    """Take the lock of a protection that is no longer used out of the keyring."""
    if protection.kind is ProtectionKind.KEYRING:
        try:
            keyring.delete_password(_SERVICE, protection.id.hex())
        except keyring.errors.KeyringError:
            return  # it opens nothing any more


def unlocking(passphrase: Callable[[], bytes]) -> Unlock:
    """What unlocks any protection, with the passphrase when it asks for one; each only once."""
    known: dict[Protection, bytes] = {}

    def unlock(protection: Protection) -> bytes:
        if protection not in known:
            known[protection] = _lock(protection, passphrase)
        return known[protection]

    return unlock


def _lock(protection: Protection, passphrase: Callable[[], bytes]) -> bytes:
    if protection.kind is ProtectionKind.PASSPHRASE:
        return stretch(passphrase(), protection.salt, protection.passes, protection.memory)
    if protection.kind is ProtectionKind.KEYRING:
        return _from_keyring(protection)
    return NO_LOCK


def _from_keyring(protection: Protection) -> bytes:
    try:
        found = keyring.get_password(_SERVICE, protection.id.hex())
    except keyring.errors.KeyringError as error:
        raise CbfsError(
            "the desktop's keyring cannot be used", "is it running, and unlocked?"
        ) from error
    try:
        lock = bytes.fromhex(found or "")
    except ValueError:
        lock = b""
    if len(lock) != KEY_SIZE:
        raise CbfsError(
            "the desktop's keyring does not have the key of this account",
            "use the keyring that it was put into, or restore an export: cbfs init --restore FILE",
        )
    return lock
