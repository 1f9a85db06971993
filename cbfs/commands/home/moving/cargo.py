"""What of an account directory goes to another computer.

The cargo is a manifest and then the files that it names, one behind the other. Along go the root
file and the store, with all messages, sessions, contacts and settings; what waits in the spool, and
whom one has invited; the keys for private servers; and one's own server. What belongs to the
computer stays: logs, locks, sockets, and what Tor has noted of its network.

A manifest is, for each file, ``length u16 | name | size u64``.
"""

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbfs.account.leaving import Leaving, LeavingStage, write_leaving
from cbfs.account.place import LINES, SPOOL
from cbfs.commands.home.moving.messages import CARGO_MAX, MANIFEST_MAX, MoveOffer, Unintelligible
from cbfs.storage import root_key
from cbfs.storage.store import Store
from cbfs_common.errors import CbfsError
from cbfs_common.wire.transport import PAYLOAD_MAX
from cbfs_host.files import sync_directory
from cbfs_host.lmdb_environment import DATA

ROOT: Final = "root.key"
STORE: Final = f"store/{DATA}"
NEEDED: Final = frozenset((ROOT, STORE))

SERVER: Final = "server"
_ONION_KEYS = "tor/onion_auth"
_STAYS = frozenset(("lock", "lock.mdb", "log", "closed"))
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_DEEPEST = 4
_LENGTH = struct.Struct(">H")
_SIZE = struct.Struct(">Q")


@dataclass(frozen=True, slots=True, order=True)
class CargoFile:
    """A file of an account: its ``name`` as a path in the directory, and its ``size``."""

    name: str
    size: int


def is_carried(name: str) -> bool:
    """Whether a file of this name is one that goes along: nothing else is ever written."""
    parts = name.split("/")
    if not all(map(_PART.fullmatch, parts)) or parts[-1] in _STAYS or parts[-1].endswith(".new"):
        return False
    folder = "/".join(parts[:-1])
    if parts[0] == SERVER:
        return 2 <= len(parts) <= _DEEPEST
    return name in NEEDED or folder in (SPOOL, LINES, _ONION_KEYS)


def files_of(account: Path) -> tuple[CargoFile, ...]:
    """The files of an account directory that go along; what waits in its spool in the order in
    which it does. Raises OSError."""
    found = [account / name for name in NEEDED]
    for folder in (SPOOL, LINES, _ONION_KEYS, SERVER):
        found += (account / folder).rglob("*")
    files = []
    for path in found:
        name = path.relative_to(account).as_posix()
        if is_carried(name) and path.is_file() and not path.is_symlink():
            told = path.stat()
            when = told.st_mtime_ns if path.parent == account / SPOOL else 0
            files.append((when, CargoFile(name, told.st_size)))
    return tuple(each for _when, each in sorted(files))


def encode_manifest(files: tuple[CargoFile, ...]) -> bytes:
    """The manifest of these files. Raises CbfsError when there are too many of them."""
    parts = (
        _LENGTH.pack(len(each.name)) + each.name.encode("ascii") + _SIZE.pack(each.size)
        for each in files
    )
    data = b"".join(parts)
    if len(data) > MANIFEST_MAX:
        raise CbfsError(
            "there are too many files in the account directory",
            "mount the account once, so that what waits in its spool is taken",
        )
    return data


def decode_manifest(data: bytes) -> tuple[CargoFile, ...]:
    """Undo ``encode_manifest``. Raises Unintelligible for what is none of an account: files that do
    not go along, that are named twice, or that lie in one another."""
    files = tuple(_files(data))
    names = {each.name for each in files}
    folders = {str(above) for name in names for above in Path(name).parents}
    if len(names) != len(files) or not names >= NEEDED or names & folders:
        raise Unintelligible
    return files


def _files(data: bytes) -> Iterator[CargoFile]:
    at = 0
    try:
        while at < len(data):
            (length,) = _LENGTH.unpack_from(data, at)
            start = at + _LENGTH.size
            name = data[start : start + length].decode("ascii")
            (size,) = _SIZE.unpack_from(data, start + length)
            at = start + length + _SIZE.size
            if not is_carried(name) or size > CARGO_MAX:
                raise Unintelligible
            yield CargoFile(name, size)
    except (struct.error, UnicodeDecodeError) as error:
        raise Unintelligible from error


class AccountDeparture:
    """What the old side of a move has. ``store`` is that of the account directory ``account``,
    open, and not written by anybody else; ``leaving`` is what it has noted of the move."""

    def __init__(self, account: Path, store: Store, leaving: Leaving) -> None:
        """Raises OSError, CbfsError."""
        self.account = account
        self._store = store
        self._leaving = leaving
        self._files = files_of(account)
        self._manifest = encode_manifest(self._files)
        size = len(self._manifest) + sum(each.size for each in self._files)
        self.offer = MoveOffer(root_key.FORMAT, len(self._manifest), size, leaving.check)

    @property
    def token(self) -> bytes:
        """What brings the copy to life (32)."""
        return self._leaving.token

    @property
    def gone(self) -> tuple[bytes, bytes] | None:
        """To which copy the account has moved, and the digest of it."""
        if self._leaving.stage is LeavingStage.OFFERED:
            return None
        return self._leaving.copy, self._leaving.content

    def pieces(self) -> Iterator[bytes]:
        """All bytes of the cargo, in pieces of 1 to PAYLOAD_MAX. Raises OSError, CbfsError."""
        for start in range(0, len(self._manifest), PAYLOAD_MAX):
            yield self._manifest[start : start + PAYLOAD_MAX]
        for each in self._files:
            yield from _content(self.account / each.name, each.size)

    def note_moved(self, copy: bytes, digest: bytes) -> None:
        """The account has moved to this copy: nothing waits here any more, and nothing is mounted.
        The spool is closed first, as nobody would take what is left in it after a crash between the
        two; if the account stays after all, its next mount opens it again. Raises StoreError,
        OSError."""
        self.close_spool()
        self._note(self._leaving.moved(copy, digest))

    def note_lives(self) -> None:
        """That copy goes on. Raises StoreError."""
        self._note(self._leaving.lives())

    def close_spool(self) -> None:
        """Let no message of a program wait here any more, as nobody would take it. Raises
        OSError."""
        if (self.account / SPOOL).exists():
            (self.account / SPOOL / "key").unlink(missing_ok=True)
            sync_directory(self.account / SPOOL)

    def _note(self, leaving: Leaving) -> None:
        self._store.write(lambda writer: write_leaving(writer, leaving))
        self._leaving = leaving


def _content(path: Path, size: int) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        left = size
        while left:
            data = file.read(min(PAYLOAD_MAX, left))
            if not data:
                raise CbfsError(f"{path} has changed meanwhile", "run cbfs move again")
            left -= len(data)
            yield data
