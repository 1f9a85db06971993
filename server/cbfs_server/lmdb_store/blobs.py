"""What the message server keeps of blobs in LMDB, and views of a transaction that read and change
it. Mail has nothing of it: no record of mail says anything of blobs.

    blobs       blob id 32                  owner 32 | data u32 | put u32 | day u32 | days u16
    owned       owner 32 | blob id 32       nothing
    holdings    owner 32                    blobs u32 | data u32 | put u32, of all of the owner's
    chunks      blob id 32 | index u32      the sealed chunk
    erasing     blob id 32                  nothing: chunks of it may be left

A blob that is forgotten leaves all but the last two at once: nobody is given anything of it. Its
chunks are erased some at a time, as that of 4 GiB at once would have everybody wait.
"""

import struct
from collections.abc import Callable
from itertools import islice
from typing import TypeVar

from cbfs_host.complaints import StoreError
from cbfs_server.limits import CHUNK_COST
from cbfs_server.lmdb_store.tables import TableReader, TableWriter
from cbfs_server.store.blobs import BlobRecord, Holding

T = TypeVar("T")

_BLOB = struct.Struct(">32sIIIH")
_HOLDING = struct.Struct(">III")
_INDEX = struct.Struct(">I")
_USER_SIZE = 32
_NO_HOLDING = Holding()


class BlobReader(TableReader):
    """A consistent view of all blobs. Ids have 32 bytes. Every method raises StoreError for what is
    damaged."""

    def blob(self, id: bytes) -> BlobRecord | None:
        """What is kept of a blob, or None."""
        found = self._get(self._tables.blobs, id)
        return None if found is None else BlobRecord(*_BLOB.unpack(found))

    def blobs(self) -> int:
        """How many there are."""
        return self._entries(self._tables.blobs)

    def chunks(self) -> int:
        """How many chunks there are, also of blobs that are forgotten."""
        return self._entries(self._tables.chunks)

    def ids(self, start: bytes, most: int) -> list[bytes]:
        """Up to ``most`` ids from ``start`` on, in their order."""
        return [id for id, _ in islice(self._items(self._tables.blobs, b"", start), most)]

    def chunk(self, id: bytes, index: int) -> bytes | None:
        """A chunk, or None."""
        return self._get(self._tables.chunks, id + _INDEX.pack(index))

    def owned(self, user: bytes, most: int | None = None) -> list[bytes]:
        """The ids of all blobs of an account, or of ``most`` of them."""
        found = islice(self._items(self._tables.owned, user, user), most)
        return [key[_USER_SIZE:] for key, _ in found]

    def holding(self, user: bytes) -> Holding:
        """What all blobs of an account are together."""
        found = self._get(self._tables.holdings, user)
        return _NO_HOLDING if found is None else Holding(*_HOLDING.unpack(found))

    def is_erased(self, id: bytes) -> bool:
        """Whether chunks of a forgotten blob of this id are left."""
        return self._get(self._tables.erasing, id) is not None


class BlobWriter(TableWriter, BlobReader):
    """A transaction that can also change them."""

    def _put_holding(self, user: bytes, held: Holding) -> None:
        if held.blobs:
            value = _HOLDING.pack(held.blobs, held.data, held.put)
            self._put(self._tables.holdings, user, value)
        else:
            self._txn.delete(user, db=self._tables.holdings.db)

    def _put_blob(self, id: bytes, blob: BlobRecord) -> None:
        value = _BLOB.pack(blob.user, blob.data, blob.put, blob.day, blob.days)
        self._put(self._tables.blobs, id, value)

    def add_blob(self, id: bytes, blob: BlobRecord, held: Holding) -> None:
        """Reserve a blob. ``held``: what its owner has."""
        self._put_blob(id, blob)
        self._put(self._tables.owned, blob.user + id, b"")
        self._put_holding(blob.user, Holding(held.blobs + 1, held.data + blob.data, held.put))

    def add_chunk(self, id: bytes, blob: BlobRecord, held: Holding, chunk: bytes) -> None:
        """Append a chunk to a ``blob`` as it is now. ``held``: what its owner has."""
        self.room.left -= CHUNK_COST
        self._put(self._tables.chunks, id + _INDEX.pack(blob.put), chunk)
        more = BlobRecord(blob.user, blob.data, blob.put + 1, blob.day, blob.days)
        self._put_blob(id, more)
        self._put_holding(blob.user, Holding(held.blobs, held.data, held.put + 1))

    def forget(self, id: bytes, blob: BlobRecord) -> None:
        """Forget a ``blob`` as it is now; its chunks are to be erased."""
        held = self.holding(blob.user)
        self._drop(id, blob.user)
        self._put_holding(blob.user, held.without(blob))

    def _drop(self, id: bytes, user: bytes) -> None:
        self._txn.delete(id, db=self._tables.blobs.db)
        self._txn.delete(user + id, db=self._tables.owned.db)
        self._note_erasing(id)

    def forget_some(self, user: bytes, most: int) -> int:
        """Forget up to ``most`` blobs of an account, whatever their records say; how many. When it
        is less, nothing is left of them."""
        ids, held = self.owned(user, most), self._if_whole(self.holding, user) or _NO_HOLDING
        for id in ids:
            blob = self._if_whole(self.blob, id)
            self._drop(id, user)
            held = held if blob is None else held.without(blob)
        self._put_holding(user, held if len(ids) == most else _NO_HOLDING)
        return len(ids)

    def _if_whole(self, read: Callable[[bytes], T | None], key: bytes) -> T | None:
        try:
            return read(key)
        except StoreError:
            return None

    def _note_erasing(self, id: bytes) -> None:
        """Without a chunk there is nothing to erase: whoever makes blobs and removes them, again
        and again, makes no work."""
        with self._txn.cursor(db=self._tables.chunks.db) as cursor:
            if cursor.set_range(id) and cursor.key().startswith(id):
                self._put(self._tables.erasing, id, b"")

    def erase(self, most: int) -> bool:
        """Erase up to ``most`` chunks of blobs that were forgotten, where each blob counts like one
        as well. Whether there were any; then there may be more."""
        ids = [id for id, _ in islice(self._items(self._tables.erasing, b"", b""), most)]
        left = most
        for id in ids:
            left -= self._erase(id, left)
            if left > 0:
                self._txn.delete(id, db=self._tables.erasing.db)
                left -= 1
            if left <= 0:
                break
        return bool(ids)

    def _erase(self, id: bytes, most: int) -> int:
        gone = 0
        with self._txn.cursor(db=self._tables.chunks.db) as cursor:
            found = cursor.set_range(id)
            while found and gone < most and cursor.key().startswith(id):
                found, gone = cursor.delete(), gone + 1
        return gone
