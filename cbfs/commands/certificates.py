"""Files that the owner of a name keeps apart from the account: recovery keys, and certificates that
freeze the name. Each is text with a head line; 0600."""

import base64
import binascii
import errno
import os
from pathlib import Path

from cbfs.account.account import SYSTEM_RANDOM
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.names.operations import OPERATION_MAX, OperationKind, decode_operation
from cbfs_common.primitives import KEY_SIZE
from cbfs_host.files import write_file

SEED_HEAD = "cbfs recovery key: keep it apart from the account, and secret"
FREEZE_HEAD = "cbfs certificate: freezes the name, so that nobody with its keys can use them"


def write_certificate(path: Path, operation: bytes) -> None:
    """A new file with a signed FREEZE. Raises CbfsError."""
    write_secret(path, f"{FREEZE_HEAD}\n{base64.b64encode(operation).decode()}\n")


def read_certificate(path: Path) -> bytes:
    """The signed FREEZE in such a file. Raises CbfsError."""
    try:
        with path.open(encoding="ascii") as file:
            head, _, text = file.read(4 * OPERATION_MAX).partition("\n")
        operation = base64.b64decode(text.strip(), validate=True)
        if head != FREEZE_HEAD or decode_operation(operation).kind is not OperationKind.FREEZE:
            raise DecodeError("not a certificate")
    except (OSError, UnicodeDecodeError, binascii.Error, DecodeError) as error:
        raise CbfsError(
            f"{path} is no certificate to freeze a name", "is it the right file?"
        ) from (error)
    return operation


def write_seed(path: Path) -> bytes:
    """A new seed (32) in a new file (0600), on the disk on return; the one that is there when the
    command was cut off. Raises CbfsError."""
    if path.exists():
        return read_seed(path)
    seed = SYSTEM_RANDOM.token(KEY_SIZE)
    write_secret(path, f"{SEED_HEAD}\n{seed.hex()}\n")
    return seed


def read_seed(path: Path) -> bytes:
    """The seed in a file that ``write_seed`` made. Raises CbfsError."""
    try:
        head, _, text = path.read_text(encoding="ascii").partition("\n")
        seed = bytes.fromhex(text.strip())
    except (OSError, ValueError) as error:
        raise CbfsError(f"cannot read a recovery key from {path}", "is it the right file?") from (
            error
        )
    if head != SEED_HEAD or len(seed) != KEY_SIZE:
        raise CbfsError(f"{path} holds no recovery key", "is it the right file?")
    return seed


def write_secret(path: Path, text: str) -> None:
    """A new file that only its owner can read, on the disk on return. Raises CbfsError."""
    try:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        write_file(path, text.encode("ascii"))
    except OSError as error:
        raise CbfsError(
            f"cannot write {path}: {(error.strerror or '').lower()}",
            "name a new file",
        ) from error
