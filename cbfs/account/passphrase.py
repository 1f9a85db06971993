"""What protects an account's root key: a passphrase, the desktop's keyring, or nothing.

A passphrase becomes a key by Argon2id; salt and costs are kept beside what the key seals, so that
they can be raised.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nacl import exceptions as nacl
from nacl import pwhash

from cbfs.account.place import AFTER
from cbfs.storage.root_key import (
    ID_SIZE,
    NO_LOCK,
    Protection,
    ProtectionKind,
    Unlock,
    protections,
)
from cbfs_common.errors import CbfsError
from cbfs_common.primitives import KEY_SIZE, Random

PASSES = 3
MEMORY = 256 * 1_024
"""KiB. With these, RFC 9106's second choice but for the memory, a guess costs most of a second."""

PASSES_MAX = 16
MEMORY_MAX = 1_024 * 1_024
"""What is accepted from a file: more would only be there to exhaust who opens it."""

SALT_SIZE = 16


@dataclass(frozen=True, slots=True)
class Guard:
    """A protection of an account with the lock (32 bytes) that it gives."""

    protection: Protection = field(default_factory=Protection)
    lock: bytes = field(default=NO_LOCK, repr=False)


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


def asks_for_passphrase(directory: Path) -> bool:
    """Whether it takes a passphrase to open the account there. False when nobody can tell."""
    roots = directory / "root.key", directory / AFTER / "root.key"  # the one to come in a move
    found = (each for root in roots for each in protections(root))
    return any(each.kind is ProtectionKind.PASSPHRASE for each in found)


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
    from cbfs.account import desktop_keyring  # noqa: PLC0415 - as its docstring says

    desktop_keyring.put(protection.id, lock)
    return Guard(protection, lock)


def forget(protection: Protection) -> None:
    """Take the lock of a protection that is no longer used out of the keyring."""
    if protection.kind is ProtectionKind.KEYRING:
        from cbfs.account import desktop_keyring  # noqa: PLC0415 - as its docstring says

        desktop_keyring.forget(protection.id)


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
        from cbfs.account import desktop_keyring  # noqa: PLC0415 - as its docstring says

        return desktop_keyring.get(protection.id)
    return NO_LOCK
