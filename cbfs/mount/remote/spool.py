"""Where a mount on another machine keeps what was saved in outbox/ until the hub has it.

    $XDG_STATE_HOME/cbfs/hubs/HUB/ACCOUNT/key       32 random bytes
    $XDG_STATE_HOME/cbfs/hubs/HUB/ACCOUNT/lock      held by the mount
    $XDG_STATE_HOME/cbfs/hubs/HUB/ACCOUNT/ID.out    a file: salt 32 | sealed array of path, mode,
                                                    mtime, conversation, replaces, before, whole,
                                                    content

HUB is a digest of the address, ACCOUNT is what the hub calls the account, in hex: what waits for
one account is handed over to no other that is at the same address later. What cannot be opened, as
its key is lost, gets ".unreadable" behind its name, and is kept. The key of a file is
KDF(key, "cbfs1 outgoing", ID | salt, 32), and the nonce is zero, as each salt seals once. The key
lies beside what it seals, so that what waits is still there after a restart: who has the disk of
this machine, unencrypted, reads what waits, and nothing else. A file is there whole, and on the
disk, or not at all.
"""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import msgpack

from cbfs.mount.remote.wire import ID_SIZE, is_ids, parts_of
from cbfs_common.errors import CbfsError, CryptoError, DecodeError
from cbfs_common.limits import FILE_SIZE_MAX
from cbfs_common.primitives import KEY_SIZE, NONCE_SIZE, Random, kdf, open_sealed, seal
from cbfs_host.files import make_directory, sync_directory, write_file, written

WAITING_MAX: Final = 10_000
"""Files that may wait."""

WAITING_BYTES_MAX: Final = 1 << 30
"""Bytes that they may have in all."""

_log = logging.getLogger(__name__)
_SUFFIX = ".out"
_UNREADABLE = ".unreadable"
_LABEL = b"cbfs1 outgoing"
_NONCE = bytes(NONCE_SIZE)
_FILE_MAX = FILE_SIZE_MAX + 65_536


@dataclass(frozen=True, slots=True)
class WaitingFile:
    """A file that waits. ``path``: where it is to be; ``conversation``: the id of that whose folder
    this was, or empty; ``replaces``: it may take the place of one of this name. ``modified``: its
    time, if a program has set it, else 0. ``before``: the ids, in a row, that those had which it is
    in the place of, the newest first. ``whole``: it was closed, and not only flushed by who goes on
    to write."""

    identity: bytes
    path: bytes
    mode: int
    modified: int
    conversation: bytes
    replaces: bool
    size: int
    before: bytes = b""
    whole: bool = True


def state_directory() -> Path:
    """$XDG_STATE_HOME/cbfs/hubs, or ~/.local/state/cbfs/hubs. Raises CbfsError."""
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".local" / "state"
        except RuntimeError as error:
            raise CbfsError("your home directory is not known", "set HOME") from error
    return base / "cbfs" / "hubs"


class OutgoingSpool:
    """The files that wait for one account at the hub with this address (``url``, and the
    conversation if it is for one only). Methods raise OSError."""

    def __init__(self, url: str, only: str, random: Random, place: Path | None = None) -> None:
        name = blake2b(f"{url}\0{only}".encode(errors="surrogateescape"), digest_size=16)
        self._place = (place or state_directory()) / name.hexdigest()
        self.path = self._place
        self._random = random
        self._key = b""
        self._lock = -1
        self._bytes = 0

    def open(self, account: bytes) -> list[WaitingFile]:
        """Take that of this account for this process, until ``close``; what waits, the oldest
        first. Raises CbfsError where another mount has it."""
        self._place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = self._place / account.hex()
        for folder in (self._place, self.path):
            if not folder.is_dir():
                make_directory(folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._lock = os.open(self.path / "lock", flags, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise CbfsError(
                "this machine has mounted it already", "unmount the other one first"
            ) from error
        with suppress(FileNotFoundError):
            self._key = self._key_file.read_bytes()
        is_key = len(self._key) == KEY_SIZE
        for path in () if is_key else self.path.glob(f"*{_SUFFIX}"):
            _put_aside(path)  # before there is another key, under which it would be damaged
        found = list(self._waiting())
        if not is_key:
            if self._key:
                _put_aside(self._key_file)
            self._key = self._random.token(KEY_SIZE)
            write_file(self._key_file, self._key)
        self._bytes = sum(each.size for each in found)
        if unreadable := self.unreadable():
            _log.error("%d files that wait for the hub cannot be opened any more", unreadable)
        return found

    def close(self) -> None:
        """Let others have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def unreadable(self) -> int:
        """How many files have waited that cannot be opened any more, since the key or a part of
        them was lost. They are kept until somebody removes them."""
        return sum(1 for _ in self.path.glob(f"*{_SUFFIX}{_UNREADABLE}"))

    def others(self) -> list[tuple[Path, int]]:
        """Where files wait for other accounts that were at this address, and how many."""
        found = ((each, _count(each)) for each in self._place.iterdir() if each != self.path)
        return sorted((each, count) for each, count in found if count)

    def new_id(self) -> bytes:
        """An id for a file that is to wait."""
        return self._random.token(ID_SIZE)

    def save(self, item: WaitingFile, content: bytes, before: int) -> None:
        """Let a file wait, in the place of that with its id, which had so many bytes; it is on the
        disk on return. Raises OSError(EDQUOT) where too much waits."""
        more = len(content) - before
        if self._bytes + more > WAITING_BYTES_MAX or _count(self.path) >= WAITING_MAX:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        if not self._key_file.exists():  # else nobody could open this after a restart
            write_file(self._key_file, self._key)
        told = [item.path, item.mode, item.modified, item.conversation, item.replaces]
        plain: bytes = msgpack.packb([*told, item.before, item.whole, content])
        salt = self._random.token(KEY_SIZE)
        key = kdf(self._key, _LABEL, item.identity + salt, KEY_SIZE)
        with written(self._file(item.identity)) as file:
            file.write(salt + seal(key, _NONCE, plain))
        self._bytes += more

    def read(self, identity: bytes) -> tuple[WaitingFile, bytes]:
        """A file that waits, and its content. Raises CryptoError, DecodeError."""
        with self._file(identity).open("rb") as file:
            data = file.read(_FILE_MAX + 1)
        salt, sealed = data[:KEY_SIZE], data[KEY_SIZE:]
        key = kdf(self._key, _LABEL, identity + salt, KEY_SIZE)
        return _decoded(identity, open_sealed(key, _NONCE, sealed))

    def drop(self, item: WaitingFile) -> None:
        """It waits no more; on the disk on return. Where that fails, it may be gone all the same,
        and may be dropped once more."""
        with suppress(FileNotFoundError):
            self._file(item.identity).unlink()
            self._bytes -= item.size
        sync_directory(self.path)

    def _waiting(self) -> Iterator[WaitingFile]:
        for path in self.path.glob("*.new"):  # of whoever was interrupted
            path.unlink(missing_ok=True)
        waiting = self.path.glob(f"*{_SUFFIX}")
        for path in sorted(waiting, key=lambda each: each.lstat().st_mtime_ns):
            try:
                identity = bytes.fromhex(path.stem)
                if len(identity) == ID_SIZE:
                    yield self.read(identity)[0]
            except (ValueError, CryptoError, DecodeError):
                _put_aside(path)

    @property
    def _key_file(self) -> Path:
        return self.path / "key"

    def _file(self, identity: bytes) -> Path:
        return self.path / f"{identity.hex()}{_SUFFIX}"


def _put_aside(path: Path) -> None:
    """It is no key, or no file that waits, and is kept for who knows more. Nothing else is lost by
    that: one of its name from before has another one."""
    number, aside = 0, path.with_name(path.name + _UNREADABLE)
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.stem}-{number}{path.suffix}{_UNREADABLE}")
    path.rename(aside)


def _count(place: Path) -> int:
    return sum(1 for _ in place.glob(f"*{_SUFFIX}"))


def _decoded(identity: bytes, plain: bytes) -> tuple[WaitingFile, bytes]:
    try:
        value: Any = msgpack.unpackb(plain)
    except (ValueError, msgpack.UnpackException) as error:
        raise DecodeError("no file that waits") from error
    match value:
        case [
            bytes(path),
            int(mode),
            int(modified),
            bytes(conversation),
            bool(replaces),
            bytes(before),
            bool(whole),
            bytes(content),
        ] if parts_of(path) and is_ids(before):
            told = path, mode, modified, conversation, replaces, len(content), before, whole
            return WaitingFile(identity, *told), content
    raise DecodeError("no file that waits")
