"""The file with the root's key of the tree of keys, which is overwritten in place.

Two slots, each in a block of its own. Each change of the store makes a generation with a root's
key of its own. ``prepare`` writes the next one into the slot that is free, the store commits, and
``settle`` overwrites the slot of the one before. The store knows its generation, so that it is
clear after a crash which slot counts:

- a crash before the commit: the old one. The new one opens nothing, and is overwritten;
- a crash after it: the new one. The next opening overwrites the old one.

A write that was torn spoils only a slot that does not count. A slot is

    magic 16 | generation u64 | protection | salt 24 | keys, sealed 80 | check 16
    protection: kind u8 | id 16 | salt 16 | passes u32 | memory u32
    keys: the root's key 32 | the blind key 32

The keys are sealed under the **lock**, 32 bytes that a passphrase or a keyring gives. Without
protection it is all zeros, and who has the file has the keys. The blind key, from which the places
of records are derived, stays the same from generation to generation.
"""

import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from time import sleep

from cbfs_common.errors import CbfsError, CryptoError
from cbfs_common.primitives import KEY_SIZE, NONCE_SIZE, equal, kdf, open_sealed, seal
from cbfs_host.complaints import hint_of
from cbfs_host.files import write_file

FORMAT = 8
"""The format of the store beside a root file: of its tables, and of all records in them. A change
of one takes the next number, and an upgrade in ``cbfs.account.formats``."""
OLDEST = 8
"""The oldest format that is upgraded. Before it records had other fields or other places, or keys
that told what they are of."""
BROUGHT_OVER = 2
"""The one format before that of which a new store is made: see ``cbfs.earlier``. Its slots have
the root's key alone, sealed in 48 bytes."""


def magic(number: int) -> bytes:
    """What a slot begins with (16), beside a store of this format, at most 99."""
    return b"cbfs root file%2d" % number


MAGIC = magic(FORMAT)
BLOCK = 4_096
SALT_SIZE = 24
CHECK_SIZE = 16
ID_SIZE = 16
FIRST_FORMAT_SIZE = 32
"""Of the root file before there was a tree of keys: the key and nothing else."""

_LOOKS, _LOOK_AGAIN = 100, 0.001
"""How often, and after how many seconds, a file is read again in which no slot is whole."""

_MAGIC = re.compile(rb"cbfs root file([ 1-9]\d)")
_SLOT = struct.Struct(">16sQB16s16sII24s80s16s")
_SLOT_BEFORE = struct.Struct(">16sQB16s16sII24s48s16s")
_BOUND = struct.calcsize(">16sQB16s16sII")
"""Bytes at the beginning of a slot that its sealed keys are bound to."""


class ProtectionKind(IntEnum):
    """Where the lock of a root file comes from."""

    NOTHING = 0
    PASSPHRASE = 1
    KEYRING = 2


@dataclass(frozen=True, slots=True)
class Protection:
    """How the lock is found. ``id`` (16) names the account in a keyring; ``salt`` (16),
    ``passes`` and ``memory`` (KiB) are Argon2id's."""

    kind: ProtectionKind = ProtectionKind.NOTHING
    id: bytes = bytes(ID_SIZE)
    salt: bytes = bytes(16)
    passes: int = 0
    memory: int = 0


Unlock = Callable[[Protection], bytes]
"""Gives the lock (32). Raises CbfsError when it cannot."""

NO_LOCK = bytes(KEY_SIZE)


class RootError(CbfsError):
    """The root file cannot be used."""


class WrongPassphrase(RootError):
    """The lock does not open the root file."""

    def __init__(self) -> None:
        super().__init__("the passphrase is wrong", "try again; nothing can be read without it")


@dataclass(frozen=True, slots=True)
class _Slot:
    format: int
    generation: int
    protection: Protection
    salt: bytes
    sealed: bytes
    bound: bytes


class RootFile:
    """The root file at ``path``. One process at a time may change it. ``token(n)`` gives n
    random bytes."""

    def __init__(
        self,
        path: Path,
        unlock: Unlock,
        token: Callable[[int], bytes],
        *,
        read_only: bool = False,
        upgrades: bool = False,
    ) -> None:
        """``upgrades``: one of an earlier format that is upgraded is not refused. Raises RootError
        when it cannot be opened."""
        self._path = path
        self._oldest = OLDEST if upgrades else FORMAT
        self._format = FORMAT
        self._unlock = unlock
        self._token = token
        self._protection = Protection()
        self._lock = NO_LOCK
        self._blind_key = b""
        try:
            flags = os.O_RDONLY if read_only else os.O_RDWR
            self._descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise RootError(
                f"cannot open {path}: {error.strerror}",
                hint_of(error, "is it yours, and the disk writable?"),
            ) from error

    def close(self) -> None:
        """Close the root file."""
        os.close(self._descriptor)

    def open(self, generation: int) -> bytes:
        """The root's key (32) of the store's generation. Raises RootError, and what the unlocking
        raises."""
        slots = self._slots()
        slot = next((slot for slot in slots if slot.generation == generation), None)
        if slot is None:
            raise RootError(
                f"{self._path} does not belong to the store beside it",
                "put both back from the same copy, or restore an export: cbfs init --restore FILE",
            )
        self._format = slot.format
        self._protection = slot.protection
        self._lock = self._unlock(slot.protection)
        key, nonce = _secret(self._lock, slot.salt)
        try:
            keys = open_sealed(key, nonce, slot.sealed, slot.bound)
        except CryptoError as error:
            if slot.protection.kind is ProtectionKind.PASSPHRASE:
                raise WrongPassphrase from error
            raise RootError(f"the key of {self._path} does not open it") from error
        self._blind_key = keys[KEY_SIZE:]
        return keys[:KEY_SIZE]

    @property
    def format(self) -> int:
        """The format of the store, as the slot says that was opened. What ``prepare`` writes is of
        the newest one."""
        return self._format

    @property
    def blind_key(self) -> bytes:
        """The blind key (32), empty before anything was opened."""
        return self._blind_key

    def holds(self, generation: int) -> bool:
        """Whether one of the two slots is of this generation."""
        return any(slot.generation == generation for slot in self._slots())

    @property
    def protection(self) -> Protection:
        """How the root's key is protected that was opened, or is written next."""
        return self._protection

    @property
    def lock(self) -> bytes:
        """The lock (32) under which the root's key is."""
        return self._lock

    def protect(self, protection: Protection, lock: bytes) -> None:
        """What ``prepare`` writes from now on is sealed under this lock (32)."""
        self._protection, self._lock = protection, lock

    def prepare(self, generation: int, key: bytes) -> None:
        """Write the next root's key beside the one that counts; on the disk on return. Raises
        OSError."""
        keys = key + self._blind_key
        data = _encode(generation, keys, self._protection, self._lock, self._token)
        self._put(generation % 2, data)

    def settle(self, generation: int) -> None:
        """Overwrite the slot that is not of this generation; on the disk on return. Raises
        OSError."""
        self._put((generation + 1) % 2, bytes(_SLOT.size))

    def settled(self, generation: int) -> bool:
        """Whether nothing but this generation's key is in the file."""
        size, place = _SLOT.size, (generation + 1) % 2 * BLOCK
        return os.pread(self._descriptor, size, place) == bytes(size)

    def _put(self, number: int, data: bytes) -> None:
        os.pwrite(self._descriptor, data, number * BLOCK)
        os.fdatasync(self._descriptor)

    def _slots(self) -> list[_Slot]:
        for _ in range(_LOOKS):
            try:
                data = os.pread(self._descriptor, 2 * BLOCK, 0)
            except OSError as error:
                raise RootError(f"cannot read {self._path}: {error.strerror}") from error
            self._check_format(data)
            slots = [_decode(data[start : start + _SLOT.size]) for start in (0, BLOCK)]
            if found := [slot for slot in slots if slot is not None]:
                return found
            # The kernel copies one page after the other: a program that writes meanwhile may have
            # filled the first one, and then emptied the second, between the two.
            sleep(_LOOK_AGAIN)
        raise RootError(f"{self._path} is damaged", "restore an export: cbfs init --restore FILE")

    def _check_format(self, data: bytes) -> None:
        """Raises RootError when a slot is of a format that is not opened here."""
        numbers = format_numbers(data)
        if numbers and max(numbers) > FORMAT:
            raise RootError(
                f"{self._path} is of a later cbfs: its store has format {max(numbers)}, and this"
                f" one knows those up to {FORMAT}",
                "use the cbfs that it was used with last, or a newer one",
            )
        unknown = {number for number in numbers if number < OLDEST} - {BROUGHT_OVER}
        if len(data) == FIRST_FORMAT_SIZE or unknown:
            raise RootError(
                f"{self._path} is of an earlier cbfs, whose stores this one cannot read",
                "make a new account",
            )
        if numbers and min(numbers) < self._oldest:
            raise RootError(
                f"{self._path} is of an earlier cbfs: its store has format {min(numbers)}, and this"
                f" one works with {FORMAT}",
                "mount the account: that upgrades it",
            )


def format_numbers(data: bytes) -> set[int]:
    """The formats that the slots of a root file say, whatever else is in them."""
    found = (_MAGIC.match(data, start) for start in (0, BLOCK))
    return {int(each[1]) for each in found if each is not None}


def protections(path: Path) -> list[Protection]:
    """How the root file there is protected; two different ones after a crash in a change of it,
    none when it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(2 * BLOCK)
    except OSError:
        return []
    layout = _SLOT_BEFORE if BROUGHT_OVER in format_numbers(data) else _SLOT
    slots = (_decode(data[start : start + layout.size], layout) for start in (0, BLOCK))
    return [slot.protection for slot in slots if slot is not None]


def make_root_file(
    path: Path, protection: Protection, lock: bytes, token: Callable[[int], bytes]
) -> None:
    """A new root file for a store in which nothing is. A crash leaves none, or a whole one. Raises
    OSError."""
    data = _encode(0, token(2 * KEY_SIZE), protection, lock, token)
    write_file(path, data + bytes(2 * BLOCK - len(data)))


def _encode(
    generation: int,
    keys: bytes,
    protection: Protection,
    lock: bytes,
    token: Callable[[int], bytes],
) -> bytes:
    salt = token(SALT_SIZE)
    fields = (
        *(magic(FORMAT), generation, protection.kind, protection.id),
        *(protection.salt, protection.passes, protection.memory),
    )
    bound = _SLOT.pack(*fields, b"", b"", b"")[:_BOUND]
    sealed = seal(*_secret(lock, salt), keys, bound)
    data = _SLOT.pack(*fields, salt, sealed, b"")[:-CHECK_SIZE]
    return data + _check(data)


def _decode(data: bytes, layout: struct.Struct = _SLOT) -> _Slot | None:
    """None for what is no slot: empty, torn, or damaged."""
    if len(data) != layout.size or not equal(data[-CHECK_SIZE:], _check(data[:-CHECK_SIZE])):
        return None
    _, generation, kind, id_, salt, passes, memory, key_salt, sealed, _ = layout.unpack(data)
    said = _MAGIC.match(data)
    if said is None or kind not in list(ProtectionKind):
        return None
    protection = Protection(ProtectionKind(kind), id_, salt, passes, memory)
    return _Slot(int(said[1]), generation, protection, key_salt, sealed, data[:_BOUND])


def _secret(lock: bytes, salt: bytes) -> tuple[bytes, bytes]:
    """(key, nonce) that seal one slot."""
    secret = kdf(lock, b"cbfs1 rootfile", salt, KEY_SIZE + NONCE_SIZE)
    return secret[:KEY_SIZE], secret[KEY_SIZE:]


def _check(data: bytes) -> bytes:
    return kdf(b"", b"cbfs1 rootcheck", data, CHECK_SIZE)
