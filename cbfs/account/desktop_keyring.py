"""The desktop's keyring: the one file that knows the library for it.

Read in only where an account is protected by it: the library brings sixty modules with it (parsers
of mail, HTTP and archives), which no other account needs.
"""

import keyring
import keyring.errors

from cbfs_common.errors import CbfsError
from cbfs_common.primitives import KEY_SIZE

_SERVICE = "cbfs"


def put(name: bytes, lock: bytes) -> None:
    """Put a lock (32 bytes) into the keyring under a name; it is there on return. Raises
    CbfsError."""
    try:
        keyring.set_password(_SERVICE, name.hex(), lock.hex())
    except keyring.errors.KeyringError as error:
        raise _unusable() from error


def get(name: bytes) -> bytes:
    """The lock (32 bytes) that the keyring has under a name. Raises CbfsError."""
    try:
        found = keyring.get_password(_SERVICE, name.hex())
    except keyring.errors.KeyringError as error:
        raise _unusable() from error
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


def forget(name: bytes) -> None:
    """Take what is under a name out of the keyring, if that can be done."""
    try:
        keyring.delete_password(_SERVICE, name.hex())
    except keyring.errors.KeyringError:
        return  # it opens nothing any more


def _unusable() -> CbfsError:
    return CbfsError("the desktop's keyring cannot be used", "is it running, and unlocked?")
