"""The spool of an account directory: messages that wait, sealed, until the account is mounted.

    spool/key       the public key that they are sealed to: X25519 32 | ML-KEM-768 1184
    spool/lock      held, shared, by whoever puts one there; by a mount that begins, alone
    spool/ID.mail   a message: X25519 public 32 | ML-KEM ciphertext 1088 | sealed

Whoever puts one there needs no passphrase, and cannot read what else is there: the secret half is
in the store. The key of a message is KDF(X25519 secret | ML-KEM secret, "cbfs1 spool", all of the
above | the public key | ID, 32), and the nonce is zero, as each key seals once. ID is 16 random
bytes, in hexadecimal: a copy under another name cannot be opened. A file is there whole, and on the
disk, or not at all.

After each time that a mount has taken what waits, the key is another one, and the store forgets the
one before: what is left on the disk of a message that was taken cannot be read any more.
"""

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbfs.account.place import SPOOL, SPOOLED, UNREADABLE
from cbfs_common.errors import CryptoError, DecodeError
from cbfs_common.primitives import (
    KEM_CIPHERTEXT_SIZE,
    KEM_PUBLIC_SIZE,
    KEM_SEED_SIZE,
    KEY_SIZE,
    NONCE_SIZE,
    KemKey,
    Random,
    dh,
    dh_public,
    kdf,
    kem_public,
    open_sealed,
    seal,
)
from cbfs_host.files import make_directory, sync_directory, write_file, written

ID_SIZE: Final = 16
WAITING_MAX: Final = 10_000
"""Messages that may wait."""

WAITING_BYTES_MAX: Final = 1 << 30
"""Bytes that may wait, and that drafts are made of when a mount begins: in a letter to many people
apart, so many times what is in it. What is more is taken by the next mount."""

SPOOLED_MAX: Final = 100 * 1024 * 1024
"""Bytes of a file: a message of 64 MiB, and what else is in a letter."""

LOCK_MAX: Final = 10.0
"""Seconds for which the lock is waited for."""

_LOCK_PAUSE = 0.02
_LABEL = b"cbfs1 spool"
_NONCE = bytes(NONCE_SIZE)
_PUBLIC_SIZE = KEY_SIZE + KEM_PUBLIC_SIZE
_HEAD_SIZE = KEY_SIZE + KEM_CIPHERTEXT_SIZE


@dataclass(frozen=True, slots=True)
class SpoolKey:
    """The secret half: X25519 (32), and the seed of ML-KEM-768 (64)."""

    secret: bytes
    seed: bytes

    @property
    def public(self) -> bytes:
        """The public half (1216)."""
        return dh_public(self.secret) + kem_public(self.seed)

    def open(self, identity: bytes, data: bytes) -> bytes:
        """What is in a file with this id (16). Raises CryptoError."""
        head, sealed = data[:_HEAD_SIZE], data[_HEAD_SIZE:]
        if len(head) != _HEAD_SIZE:
            raise CryptoError("cannot be opened")
        shared = dh(self.secret, head[:KEY_SIZE])
        shared += KemKey(self.seed).decapsulate(head[KEY_SIZE:])
        return open_sealed(_key(shared, head, self.public, identity), _NONCE, sealed)


def make_key(random: Random) -> SpoolKey:
    """A new key."""
    return SpoolKey(random.token(KEY_SIZE), random.token(KEM_SEED_SIZE))


def encode_keys(keys: tuple[SpoolKey, ...]) -> bytes:
    """Keys as a record, the newest first."""
    return b"".join(key.secret + key.seed for key in keys)


def decode_keys(data: bytes) -> tuple[SpoolKey, ...]:
    """The keys of a record. Raises DecodeError."""
    size = KEY_SIZE + KEM_SEED_SIZE
    if len(data) % size:
        raise DecodeError("not the keys of a spool")
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return tuple(SpoolKey(part[:KEY_SIZE], part[KEY_SIZE:]) for part in parts)


def sealed_to(public: bytes, identity: bytes, plain: bytes, random: Random) -> bytes:
    """A file with this id (16), for whoever has the secret half. Raises CryptoError for what is no
    public key."""
    if len(public) != _PUBLIC_SIZE:
        raise CryptoError("key agreement failed")
    ours = random.token(KEY_SIZE)
    shared = dh(ours, public[:KEY_SIZE])
    secret, ciphertext = random.encapsulate(public[KEY_SIZE:])
    head = dh_public(ours) + ciphertext
    return head + seal(_key(shared + secret, head, public, identity), _NONCE, plain)


def _key(shared: bytes, head: bytes, public: bytes, identity: bytes) -> bytes:
    return kdf(shared, _LABEL, head + public + identity, KEY_SIZE)


class Spool:
    """The spool of the account directory ``account``. Methods raise OSError."""

    def __init__(self, account: Path) -> None:
        self.path = account / SPOOL
        self._lock = -1

    def acquire(self, *, alone: bool, limit: float = LOCK_MAX) -> bool:
        """Take the lock, until ``release``: nobody takes what waits meanwhile, and with ``alone``
        nobody adds to it either. Waits for those who do, which is for a moment; False when that
        takes more than ``limit`` (seconds)."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._lock = os.open(self.path / "lock", flags, 0o600)
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        end = time.monotonic() + limit
        while True:
            try:
                fcntl.flock(self._lock, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    self.release()
                    return False
                time.sleep(_LOCK_PAUSE)
            else:
                return True

    def release(self) -> None:
        """Give the lock back, if it is taken."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def prepare(self) -> None:
        """Make it, if it is not there."""
        make_directory(self.path)

    def public(self) -> bytes:
        """The public key; empty where there is none yet."""
        try:
            return _content(self.path / "key", _PUBLIC_SIZE + 1)
        except FileNotFoundError:
            return b""

    def publish(self, public: bytes) -> None:
        """Let messages be sealed to this key from now on; on the disk on return."""
        write_file(self.path / "key", public)

    def add(self, plain: bytes, random: Random) -> None:
        """Let a message wait; it is on the disk on return. Raises CryptoError as well."""
        identity = random.token(ID_SIZE)
        data = sealed_to(self.public(), identity, plain, random)
        try:
            with written(self._file(identity)) as file:
                file.write(data)
        except OSError:
            with suppress(OSError):  # whoever sends it again must not have sent it twice
                self._file(identity).unlink(missing_ok=True)
            raise

    def waiting(self) -> list[bytes]:
        """The ids of what waits, the oldest first. What is no file does not."""
        found: list[tuple[int, bytes]] = []
        for path in self.path.iterdir():
            identity = _identity(path)
            told = _told(path) if identity else None
            if told is not None:
                found.append((told.st_mtime_ns, identity))
        return [identity for _when, identity in sorted(found)]

    def size(self) -> int:
        """How many bytes wait, as they are on the disk."""
        told = (_told(path) for path in self.path.iterdir() if _identity(path))
        return sum(each.st_size for each in told if each is not None)

    def read(self, identity: bytes) -> bytes:
        """What is in the file with this id: it is not waited for, and no link is followed."""
        data = _content(self._file(identity), SPOOLED_MAX + 1)
        if len(data) > SPOOLED_MAX:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return data

    def drop(self, identities: list[bytes]) -> None:
        """Remove these, and what was left by whoever was interrupted; on the disk on return, also
        what was removed before."""
        gone = [self._file(identity) for identity in identities]
        gone += [path for path in self.path.glob(f"*{SPOOLED}.new") if _told(path) is not None]
        for path in gone:
            if _told(path) is not None:
                path.unlink(missing_ok=True)
        if gone:
            sync_directory(self.path)

    def set_aside(self, identity: bytes) -> Path:
        """Let one wait no more that cannot be read. Gives where it is."""
        path = self._file(identity)
        return path.rename(path.with_suffix(UNREADABLE))

    def _file(self, identity: bytes) -> Path:
        return self.path / f"{identity.hex()}{SPOOLED}"


def _told(path: Path) -> os.stat_result | None:
    """What the system tells of a file; None for what is none."""
    with suppress(OSError):
        told = path.lstat()
        return told if stat.S_ISREG(told.st_mode) else None
    return None


def _content(path: Path, most: int) -> bytes:
    """The first bytes of a file, at most so many."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 - a descriptor
        told = os.fstat(file.fileno())
        if not stat.S_ISREG(told.st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return file.read(min(most, told.st_size))


def _identity(path: Path) -> bytes:
    """The id in the name of a message's file, empty for what is none."""
    try:
        identity = bytes.fromhex(path.stem) if path.suffix == SPOOLED else b""
    except ValueError:
        return b""
    return identity if len(identity) == ID_SIZE and path.stem == identity.hex() else b""
