"""Files that the owner of a name keeps apart from the account: the owner key, a recovery key, a
certificate that freezes the name.

A key is in its file as 24 words, so that it can be kept on paper as well. Words are read from such
a file or asked for at a terminal, never taken from arguments, which other programs can see.
"""

import base64
import binascii
import errno
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.passphrase_source import ask_hidden
from cbfs.contacts.words import SEED_WORDS, read_seed_words, seed_words, words_in
from cbfs.mount.mount_table import mount_above
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.names.entry import Keys
from cbfs_common.names.operations import OPERATION_MAX, OperationKind, decode_operation
from cbfs_common.primitives import KEY_SIZE, sign_public
from cbfs_host.complaints import hint_of
from cbfs_host.files import write_beside_others

FREEZE_HEAD = "cbfs certificate: freezes the name, so that nobody with its keys can use them"
SEED_FILE_MAX = 1_024
_IN_A_LINE = 6


class KeyKind(Enum):
    """What a key that is kept apart is for."""

    OWNER = "owner key"
    RECOVERY = "recovery key"


def _head(kind: KeyKind, name: str) -> str:
    return f"cbfs {kind.value} of {name}: keep it apart from the account, and secret"


def check_apart(path: Path, account: Path) -> None:
    """Raises CbfsError for a file that would be in the account's directory, whose copies would have
    it, or in a mount, where it would be sent or shown."""
    place = path.absolute().parent.resolve() / path.name
    if place.is_relative_to(account.absolute().resolve()):
        raise CbfsError(
            f"{path} is in the account's own directory, whose copies would have it as well",
            "name a file somewhere else, best on another disk",
        )
    if mount_above(place) is not None:
        raise CbfsError(f"{path} is in a mount", "name a file on another disk")


def check_seed_file(path: Path, kind: KeyKind, name: str, account: Path) -> None:
    """Raises CbfsError when ``write_seed`` could not be used with this file, as far as that shows
    before anything is done."""
    check_apart(path, account)
    if os.path.lexists(path):
        read_seed(path, kind, name)
    elif not path.absolute().parent.is_dir():
        raise CbfsError(
            f"there is no directory {path.absolute().parent}", "make it, or name another"
        )


def tell_kept(path: Path, name: str) -> None:
    """Say what to do with an owner key that is in a file now."""
    print(f"The key that owns {name} is in {path}, and not in the account: it takes that file to")
    print("change keys or server, to cancel a recovery, or to give the name up. Put it elsewhere,")
    print(
        f"or write its {SEED_WORDS} words on paper and delete it. Only a recovery key replaces it."
    )


def write_seed(path: Path, kind: KeyKind, name: str) -> bytes:
    """Make a new seed (32 bytes) in a new file (0600), which is on the disk on return; or the one
    in the file that an earlier try has left. Raises CbfsError."""
    if os.path.lexists(path):
        return read_seed(path, kind, name)
    seed = SYSTEM_RANDOM.token(KEY_SIZE)
    words = seed_words(seed)
    lines = [" ".join(words[i : i + _IN_A_LINE]) for i in range(0, SEED_WORDS, _IN_A_LINE)]
    write_secret(path, "\n".join([_head(kind, name), *lines, ""]))
    return read_seed(path, kind, name)  # as it will be read


def read_seed(path: Path, kind: KeyKind, name: str) -> bytes:
    """The seed in a file that ``write_seed`` made for this name. Raises CbfsError."""
    try:
        with path.open(encoding="ascii") as file:
            head, _, text = file.read(SEED_FILE_MAX).partition("\n")
        if head != _head(kind, name):
            raise DecodeError(f"it is not the {kind.value} of {name}")
        return read_seed_words(text)
    except OSError as error:
        raise CbfsError(
            f"cannot read {path}: {(error.strerror or '').lower()}", "is it the right file?"
        ) from error
    except (UnicodeDecodeError, DecodeError) as error:
        raise CbfsError(
            f"{path} holds no {kind.value} of {name}", "is it the right file?"
        ) from error


@dataclass(frozen=True, slots=True)
class OwnerKey:
    """Where the owner key of a name is that is not in its account: in the file ``path``, or, when
    that is None, on paper."""

    path: Path | None = None

    def seed(self, name: str) -> bytes:
        """The seed (32). Asks for its words when there is no file. Raises CbfsError."""
        if self.path is not None:
            return read_seed(self.path, KeyKind.OWNER, name)
        return _asked(name)


def check_owner(seed: bytes, name: str, *owners: Keys) -> None:
    """Raises CbfsError unless a seed (32) is that of one of the owners of a name."""
    if not any(sign_public(seed) in each.keys for each in owners):
        raise CbfsError(f"this is not the owner key that {name} has now", "is there a newer one?")


def _asked(name: str) -> bytes:
    lacking = CbfsError(
        f"this takes the owner key of {name}, which is not in the account",
        "give its file: --owner-key FILE; or run this on a terminal, which asks for its words",
    )
    prompt = f"the {SEED_WORDS} words of the owner key of {name}: "
    words: list[str] = []
    while len(words) < SEED_WORDS:  # line by line, as they stand on paper; an empty one ends
        more = words_in(ask_hidden(prompt, lacking))
        if not more:
            break
        words += more
        prompt = f"the other {SEED_WORDS - len(words)}: "
    return read_seed_words(" ".join(words))


def write_certificate(path: Path, operation: bytes) -> None:
    """Write a signed FREEZE into a new file. Raises CbfsError."""
    write_secret(path, f"{FREEZE_HEAD}\n{base64.b64encode(operation).decode()}\n")


def read_certificate(path: Path) -> bytes:
    """The signed FREEZE in a file that ``write_certificate`` made. Raises CbfsError."""
    try:
        with path.open(encoding="ascii") as file:
            head, _, text = file.read(4 * OPERATION_MAX).partition("\n")
        operation = base64.b64decode(text.strip(), validate=True)
        if head != FREEZE_HEAD or decode_operation(operation).kind is not OperationKind.FREEZE:
            raise DecodeError("not a certificate")
    except (OSError, UnicodeDecodeError, binascii.Error, DecodeError) as error:
        raise CbfsError(
            f"{path} is not a certificate that freezes a name", "is it the right file?"
        ) from error
    return operation


def write_secret(path: Path, text: str) -> None:
    """Write a new file that only its owner can read; it is on the disk on return. Raises
    CbfsError."""
    try:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        write_beside_others(path, text.encode("ascii"))
    except OSError as error:
        raise CbfsError(
            f"cannot write {path}: {(error.strerror or '').lower()}",
            hint_of(error, "name a new file"),
        ) from error
