"""A store of format 2, to be read: its root file, its tree of keys, and its records.

A slot of the root file is

    magic 16 | generation u64 | protection | salt 24 | root's key, sealed 48 | check 16
    protection: kind u8 | id 16 | salt 16 | passes u32 | memory u32

Each table is one of LMDB's, with record keys as they are; a record is

    slot u64 | check 8 | sealed value

and the nodes of the tree of keys are in a table of their own, under level u8 | index u64, with the
state: generation u64 | next slot u64.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import lmdb

from cbfs.storage.lmdb_pages import Pages, PagesDamaged
from cbfs.storage.root_key import (
    BLOCK,
    Protection,
    ProtectionKind,
    RootError,
    Unlock,
    WrongPassphrase,
)
from cbfs_common.errors import CryptoError
from cbfs_common.primitives import KEY_SIZE, NONCE_SIZE, equal, kdf, open_sealed
from cbfs_host.complaints import StoreError
from cbfs_host.lmdb_environment import DATA, open_environment

MAGIC: Final = b"cbfs root file 2"

TABLES: Final = (
    *(b"content", b"meta", b"peers", b"conversations", b"messages"),
    *(b"requests", b"index", b"nodes"),
)
"""Those whose records are brought over, in this order."""

_TABLES_MAX: Final = 21
_NODES: Final = b"key tree"

_SLOT = struct.Struct(">16sQB16s16sII24s48s16s")
_BOUND = struct.calcsize(">16sQB16s16sII")
_CHECK_SIZE = 16
_RECORD = struct.Struct(">Q8s")
_STATE = struct.Struct(">QQ")
_STATE_KEY = b"state"
_NAME = struct.Struct(">BQ")
_BITMAP = struct.Struct(">I")
_BITS, _LEVELS = 5, 7
_FANOUT = 1 << _BITS
_TOP = _LEVELS - 1
_NONCE = bytes(NONCE_SIZE)
_NODES_KEPT = 4_096

Children = tuple[bytes | None, ...]

_HINT = "it is left as it is: use the cbfs that it was used with last, or restore an export"


class OldStore:
    """The store of an account directory, which its lock keeps others out of, as it was left."""

    def __init__(self, directory: Path, unlock: Unlock) -> None:
        """Raises StoreError, RootError, and what the unlocking raises."""
        path = directory / "store"
        try:
            self._env = open_environment(path, _TABLES_MAX, read_only=True)
        except (lmdb.Error, OSError) as error:
            raise _damaged(path) from error
        try:
            _check_pages(self._env, path)
            self._txn = self._env.begin()
            self._nodes = self._env.open_db(_NODES, txn=self._txn, create=False)
            generation, self._bound = self._state()
            found = _open_root(directory / "root.key", generation, unlock)
        except lmdb.Error as error:
            self._env.close()
            raise _damaged(path) from error
        except BaseException:
            self._env.close()
            raise
        self._path = path
        self._root, self.protection, self.lock = found
        self._opened: dict[bytes, Children] = {}

    def close(self) -> None:
        """Close its files."""
        self._txn.abort()
        self._env.close()

    def records(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """(table, key, value) of each record that is brought over, by ``TABLES`` and in the order
        of their keys. Raises StoreError for one that is damaged."""
        try:
            for table in TABLES:
                yield from self._records(table)
        except (lmdb.Error, CryptoError, struct.error) as error:
            raise _damaged(self._path) from error

    def _records(self, table: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
        db = self._env.open_db(table, txn=self._txn, create=False)
        with self._txn.cursor(db=db) as cursor:
            for key, data in cursor:
                place = bytes([len(table)]) + table + key
                slot, check = _RECORD.unpack_from(data)
                if check != kdf(b"", b"cbfs1 slot", slot.to_bytes(8, "big") + place, 8):
                    raise CryptoError("not the slot of a record")
                yield table, key, open_sealed(self._key(slot), _NONCE, data[_RECORD.size :], place)

    def _state(self) -> tuple[int, int]:
        data = self._txn.get(_STATE_KEY, db=self._nodes)
        if data is None or len(data) != _STATE.size:
            raise lmdb.Error("no state")
        return _STATE.unpack(data)

    def _key(self, slot: int) -> bytes:
        key = self._children(0, slot >> _BITS)[slot % _FANOUT]
        if key is None:
            raise CryptoError("a record without a key")
        return key

    def _children(self, level: int, index: int) -> Children:
        name = _NAME.pack(level, index)
        known = self._opened.get(name)
        if known is not None:
            return known
        if level == _TOP:
            key: bytes | None = None if index else self._root
        else:
            key = self._children(level + 1, index >> _BITS)[index % _FANOUT]
        if key is None:
            raise CryptoError("a node without a key")
        bound = name + self._bound.to_bytes(8, "big") if level == _TOP else name
        sealed = self._txn.get(name, db=self._nodes) or b""
        children = _read_node(open_sealed(key, _NONCE, sealed, bound))
        if len(self._opened) >= _NODES_KEPT:
            self._opened.clear()
        self._opened[name] = children
        return children


def _read_node(plain: bytes) -> Children:
    (bitmap,) = _BITMAP.unpack_from(plain)
    keys = plain[_BITMAP.size :]
    if len(keys) != bitmap.bit_count() * KEY_SIZE:
        raise CryptoError("not a node")
    left = iter(range(0, len(keys), KEY_SIZE))
    return tuple(
        keys[(at := next(left)) : at + KEY_SIZE] if bitmap >> place & 1 else None
        for place in range(_FANOUT)
    )


def _check_pages(env: Any, path: Path) -> None:
    """Raises StoreError for a damaged file, lmdb.Error."""
    descriptor = os.open(path / DATA, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with env.begin() as txn:
            if not Pages(descriptor).check(txn.id(), named=True):
                raise lmdb.Error("not the newest transaction")
    except PagesDamaged as error:
        raise _damaged(path) from error
    finally:
        os.close(descriptor)


def _damaged(path: Path) -> StoreError:
    return StoreError(f"the store in {path}, of an earlier cbfs, is damaged", _HINT)


def _open_root(path: Path, generation: int, unlock: Unlock) -> tuple[bytes, Protection, bytes]:
    """(the root's key of the store's generation, how it is protected, the lock). Raises
    RootError, and what the unlocking raises."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RootError(f"cannot read {path}: {error.strerror}", "is it yours?") from error
    for start in (0, BLOCK):
        slot = data[start : start + _SLOT.size]
        found = _read_slot(slot)
        if found is None or found[0] != generation:
            continue
        _generation, protection, salt, sealed = found
        lock = unlock(protection)
        secret = kdf(lock, b"cbfs1 rootfile", salt, KEY_SIZE + NONCE_SIZE)
        try:
            key = open_sealed(secret[:KEY_SIZE], secret[KEY_SIZE:], sealed, slot[:_BOUND])
        except CryptoError as error:
            if protection.kind is ProtectionKind.PASSPHRASE:
                raise WrongPassphrase from error
            raise RootError(f"the key of {path} does not open it", _HINT) from error
        return key, protection, lock
    raise RootError(
        f"{path} does not belong to the store beside it",
        "put both back from the same copy, or restore an export: cbfs init --restore FILE",
    )


def _read_slot(data: bytes) -> tuple[int, Protection, bytes, bytes] | None:
    """(generation, protection, salt, sealed key); None for what is no slot: empty, torn, or
    damaged."""
    check = kdf(b"", b"cbfs1 rootcheck", data[:-_CHECK_SIZE], _CHECK_SIZE)
    if len(data) != _SLOT.size or not equal(data[-_CHECK_SIZE:], check):
        return None
    magic, generation, kind, id_, salt, passes, memory, key_salt, sealed, _ = _SLOT.unpack(data)
    if magic != MAGIC or kind not in list(ProtectionKind):
        return None
    protection = Protection(ProtectionKind(kind), id_, salt, passes, memory)
    return generation, protection, key_salt, sealed
