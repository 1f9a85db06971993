"""The file of a server's store: opened, brought to the newest version of its format, copied, and
written anew."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb

from cbfs_host.complaints import StoreError, hint_of, reason_of
from cbfs_host.files import sync_directory
from cbfs_host.lmdb_environment import (
    DATA,
    build_environment,
    open_checked,
    open_file,
    unopened,
    without_check,
)
from cbfs_host.store_format import META, StoreFormat, mark_copy

FRESH: Final = "compacted.mdb"
"""What a store that is written anew is called until it is whole."""

CHECK_BATCH: Final = 256
"""Records that are checked in one go: as long as one takes, pages that become free are not used
again."""

TABLES_MAX: Final = 32
"""Tables of any store."""

_CHECK_DISK: Final = "check the disk"

Tables = dict[bytes, Any]
"""Handles of LMDB, by the names of the tables."""


class StoreFile:
    """The LMDB environment ``env`` in the directory ``path``, with its ``tables``. ``is_copy``: it
    lies in another file than it says, so that it may have gone on elsewhere since."""

    def __init__(
        self,
        path: Path,
        names: tuple[bytes, ...],
        form: StoreFormat,
        begin: Callable[[Any, Tables], None] | None,
    ) -> None:
        """``names`` of its tables, META among them. A new store is there whole or not at all:
        ``begin`` puts into it what it begins with, in a transaction; None takes one that is there.
        An older one is brought to the newest version in one transaction. Raises StoreError."""
        self.path = path
        self._names = names
        self._form = form
        try:
            if begin is not None and not path.exists():
                build_environment(path, TABLES_MAX, lambda env: self._begin(env, begin))
            self.env = open_checked(path, TABLES_MAX, form.damaged)
        except (lmdb.Error, OSError) as error:
            raise unopened(path, error, form.damaged) from error
        try:
            self._take_over()
        except (lmdb.Error, OSError) as error:
            self.env.close()
            raise unopened(path, error, form.damaged) from error
        except StoreError:
            self.env.close()
            raise

    def _begin(self, env: Any, begin: Callable[[Any, Tables], None]) -> None:
        tables = self._opened(env)
        with env.begin(write=True) as txn:
            self._form.begin(txn, tables[META])
            begin(txn, tables)

    def _opened(self, env: Any) -> Tables:
        return {name: env.open_db(name) for name in self._names}

    def _take_over(self) -> None:
        meta = self.env.open_db(META)
        with self.env.begin() as txn:
            self._form.check(txn, meta)
        self.tables = self._opened(self.env)
        with self.env.begin(write=True) as txn:
            self._form.bring_up(txn, self.tables)
            self.is_copy = self._form.is_copy(txn, meta, self.path)

    def close(self) -> None:
        """Close the file."""
        self.env.close()

    def call_copy(self) -> None:
        """Note that the store is a copy, on the word of somebody who knows: until it is settled,
        every start finds it to be one. Raises StoreError."""
        try:
            with self.env.begin(write=True) as txn:
                mark_copy(txn, self.tables[META])
        except (lmdb.Error, OSError) as error:
            raise unopened(self.path, error, self._form.damaged) from error
        self.is_copy = True

    def settle(self) -> None:
        """Note that the store lies here; it is a copy no more. Raises StoreError."""
        try:
            with self.env.begin(write=True) as txn:
                self._form.settle(txn, self.tables[META], self.path / DATA)
        except (lmdb.Error, OSError) as error:
            raise unopened(self.path, error, self._form.damaged) from error
        self.is_copy = False

    def copy_into(self, descriptor: int) -> None:
        """Put the store, as it is at the beginning, into an empty file, without its free pages; on
        the disk on return. Blocks; all goes on beside it. Raises StoreError."""
        try:
            self.env.copyfd(descriptor, compact=True)
            os.fsync(descriptor)
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"the store cannot be copied: {reason_of(error)}", hint_of(error, _CHECK_DISK)
            ) from error

    def check_records(self, rest: Callable[[], None]) -> tuple[int, int]:
        """Read all records, some at a time: how many there are, and how many are damaged. ``rest``
        is called again and again. Blocks. Raises StoreError for what cannot be read at all."""
        records = damaged = 0
        try:
            for name, table in self.tables.items():
                key: bytes | None = b""
                while key is not None:
                    key, some, wrong = self._check_some(name, table, key, rest)
                    records, damaged = records + some, damaged + wrong
        except lmdb.Error as error:
            raise StoreError(
                f"the store cannot be read: {reason_of(error)}", self._form.damaged
            ) from error
        return records, damaged

    def _check_some(
        self, name: bytes, table: Any, start: bytes, rest: Callable[[], None]
    ) -> tuple[bytes | None, int, int]:
        """Where to go on, None at the end; how many it were, and how many are damaged."""
        count = damaged = 0
        with self.env.begin() as txn, txn.cursor(db=table) as cursor:
            found = cursor.set_range(start) if start else cursor.first()
            while found and count < CHECK_BATCH:
                rest()
                try:
                    key, data = cursor.item()
                    without_check(name, key, data, self._form.damaged)
                except StoreError:
                    damaged += 1
                count, found = count + 1, cursor.next()
            return (bytes(cursor.key()) if found else None), count, damaged

    def write_anew(self, size: int) -> Path:
        """The store without its free pages, in a file beside it that may take its place: on the
        disk, and saying that it lies there, unless the store is a copy. Nothing may change the
        store from now on. ``size``: bytes that it will have, with what is to be left to others. A
        crash leaves a file that the next one removes. Raises StoreError."""
        fresh = self.path / FRESH
        try:
            fresh.unlink(missing_ok=True)
            disk = os.statvfs(self.path)
            free = disk.f_bavail * disk.f_frsize
            if free < size:
                raise StoreError(
                    f"the disk has {free >> 20} MiB, and the copy takes {size >> 20}", "make room"
                )
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(fresh, flags, 0o600)
            try:
                self.copy_into(descriptor)
            finally:
                os.close(descriptor)
            with _in_file(fresh) as (txn, meta):
                if self.is_copy:  # and stays one, whichever file it is in
                    mark_copy(txn, meta)
                else:
                    self._form.settle(txn, meta, fresh)
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"the store cannot be written anew: {reason_of(error)}", hint_of(error, _CHECK_DISK)
            ) from error
        return fresh

    def change(self, fresh: Path) -> None:
        """Let what ``write_anew`` has made be the store, and open that. Nobody may use ``env`` and
        ``tables`` of before any more. A crash leaves one or the other. Raises StoreError; then
        there are none."""
        try:
            fresh.replace(self.path / DATA)
            sync_directory(self.path)
            self.env.close()
            self.env = open_checked(self.path, TABLES_MAX, self._form.damaged)
            self.tables = self._opened(self.env)
        except (lmdb.Error, OSError) as error:
            raise unopened(self.path, error, self._form.damaged) from error


def mark_backup(path: Path) -> None:
    """Have a copy of a store say that it is one, wherever it will lie; on the disk on return.
    Raises StoreError."""
    try:
        with _in_file(path) as (txn, meta):
            mark_copy(txn, meta)
    except (lmdb.Error, OSError) as error:
        raise StoreError(
            f"the copy {path} cannot be written: {reason_of(error)}", hint_of(error, _CHECK_DISK)
        ) from error


@contextmanager
def _in_file(path: Path) -> Iterator[tuple[Any, Any]]:
    """A transaction in a file that nobody else has open, and its table META."""
    env = open_file(path, TABLES_MAX)
    try:
        meta = env.open_db(META, create=False)
        with env.begin(write=True) as txn:
            yield txn, meta
    finally:
        env.close()
