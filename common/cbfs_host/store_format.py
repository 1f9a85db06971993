"""What the store of a server says of itself, in its table ``meta``: the version of its format, and
which file it lies in.

A store in another file than it says is a copy: a backup that was put back, or what was brought to
another machine. What has changed since it was made is not known to it. A backup that a server has
made says so by itself, as its bytes may be put into the file of the store that it replaces. A
snapshot of a whole disk that is put back says nothing, and cannot be told.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cbfs_common.errors import DecodeError
from cbfs_host.complaints import StoreError
from cbfs_host.file_identity import decode_identity, identity_of
from cbfs_host.lmdb_environment import DATA, with_check, without_check

META: Final = b"meta"
_VERSION: Final = b"version"
_FILE: Final = b"file"
_COPY: Final = b"copy"
"""Table and keys, and what a backup has in the place of its file's identity."""

_VERSION_SIZE: Final = 4


@dataclass(frozen=True, slots=True)
class StoreFormat:
    """The format of a ``program``'s store. ``newest``: its version; ``upgrades``, by the version
    before: what brings a store to the next one, within a transaction of LMDB, by the handles of its
    tables. ``damaged``: the hint for a record that is damaged."""

    program: str
    newest: int
    upgrades: Mapping[int, Callable[[Any, Mapping[bytes, Any]], None]]
    damaged: str

    def begin(self, txn: Any, meta: Any) -> None:
        """Note the version in a new store, whose table ``meta`` this is."""
        self._put(txn, meta, _VERSION, self.newest.to_bytes(_VERSION_SIZE, "big"))

    def check(self, txn: Any, meta: Any) -> int:
        """The version of a store, 0 for one of before there were any. Raises StoreError for one
        that is newer than this program."""
        noted = self._get(txn, meta, _VERSION)
        found = 0 if noted is None else int.from_bytes(noted, "big")
        if found > self.newest:
            raise StoreError(
                f"the store has format {found}, and this version of {self.program} knows those up"
                f" to {self.newest}",
                f"start it with the {self.program} that it was used with last, or a newer one",
            )
        return found

    def bring_up(self, txn: Any, tables: Mapping[bytes, Any]) -> None:
        """Bring a store to the newest version, in this transaction. Raises StoreError, and what the
        upgrades raise."""
        found = self.check(txn, tables[META])
        for version in range(found, self.newest):
            self.upgrades[version](txn, tables)
        if found != self.newest:
            self.begin(txn, tables[META])

    def is_copy(self, txn: Any, meta: Any, path: Path) -> bool:
        """Whether the store in the directory ``path`` lies in another file than it says. One that
        says nothing is none. Raises OSError, StoreError."""
        noted = self._get(txn, meta, _FILE)
        if noted is None or noted == _COPY:
            return noted is not None
        try:
            return not decode_identity(noted).may_be(identity_of(path / DATA))
        except DecodeError as error:
            raise StoreError("a record of the store is damaged", self.damaged) from error

    def settle(self, txn: Any, meta: Any, file: Path) -> None:
        """Note that the store lies in this file, if it does not say so. Raises OSError."""
        identity = identity_of(file).encode()
        if self._get(txn, meta, _FILE) != identity:
            self._put(txn, meta, _FILE, identity)

    def _get(self, txn: Any, meta: Any, key: bytes) -> bytes | None:
        data = txn.get(key, db=meta)
        return None if data is None else without_check(META, key, data, self.damaged)

    def _put(self, txn: Any, meta: Any, key: bytes, value: bytes) -> None:
        txn.put(key, with_check(META, key, value), db=meta)


def mark_copy(txn: Any, meta: Any) -> None:
    """Note in a backup that it is one."""
    txn.put(_FILE, with_check(META, _FILE, _COPY), db=meta)
