"""A folder as the content of one message: its table, then its files. PROTOCOL.rst, Kind 3."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import msgpack

from cbfs_common.errors import DecodeError, LimitError
from cbfs_common.limits import (
    BLOB_SIZE_MAX,
    FILE_NAME_MAX,
    FOLDER_DEPTH_MAX,
    FOLDER_ENTRIES_MAX,
    FOLDER_TABLE_MAX,
)
from cbfs_common.strict_msgpack import unpack

HEAD_SIZE = 4
"""Bytes before the table: its size."""

TOP = 0
"""The parent of what is in the folder itself; the entry with index i is the parent i + 1."""


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """What is in a folder. ``parent`` is TOP, or 1 + the index of an earlier entry that is a
    folder. ``size`` in bytes; None for a folder."""

    parent: int
    name: str
    size: int | None


@dataclass(frozen=True, slots=True)
class FolderTable:
    """The entries of a folder, and where in its content each file begins (a folder: where the
    next file does)."""

    entries: tuple[FolderEntry, ...]
    starts: tuple[int, ...]

    @property
    def files(self) -> int:
        """How many of the entries are files."""
        return sum(entry.size is not None for entry in self.entries)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size or 0 for entry in self.entries)


def encode_table(entries: Sequence[FolderEntry]) -> bytes:
    """What the content of a folder begins with; the files follow, in the order of their entries.
    Raises LimitError for too many entries, too deep or too long a table, and DecodeError for one
    that ``decode_table`` would not take for another reason."""
    if len(entries) > FOLDER_ENTRIES_MAX:
        raise LimitError("there is too much in the folder", f"at most {FOLDER_ENTRIES_MAX} files")
    _check(entries)
    packed: bytes = msgpack.packb([(e.parent, e.name, e.size) for e in entries])
    if len(packed) > FOLDER_TABLE_MAX:
        raise LimitError("the names in the folder are too long", "shorten them")
    return len(packed).to_bytes(HEAD_SIZE, "big") + packed


def table_end(head: bytes) -> int:
    """Where the table ends, by the first HEAD_SIZE bytes of a content. Raises DecodeError."""
    size = int.from_bytes(head, "big")
    if len(head) != HEAD_SIZE or size > FOLDER_TABLE_MAX:
        raise DecodeError("not a folder")
    return HEAD_SIZE + size


def decode_table(data: bytes, size: int) -> FolderTable:
    """The table of a content of ``size`` bytes that begins with ``data``, which ends where
    ``table_end`` says. Raises DecodeError."""
    if table_end(data[:HEAD_SIZE]) != len(data):
        raise DecodeError("not a folder")
    rows = unpack(data[HEAD_SIZE:], "not a folder", FOLDER_ENTRIES_MAX)
    if not isinstance(rows, list) or any(
        not isinstance(row, list) or len(row) != 3 for row in rows
    ):
        raise DecodeError("not a folder")
    entries = tuple(FolderEntry(*row) for row in rows)
    try:
        _check(entries)
    except LimitError as error:
        raise DecodeError("not a folder") from error
    starts = tuple(accumulate((entry.size or 0 for entry in entries), initial=len(data)))
    if starts[-1] != size:
        raise DecodeError("not a folder")
    return FolderTable(entries, starts[:-1])


def _check(entries: Sequence[FolderEntry]) -> None:
    depths = [0]  # of each parent; -1 for a file
    names: set[tuple[int, str]] = set()
    for entry in entries:
        if not (type(entry.parent) is int and 0 <= entry.parent < len(depths)):
            raise DecodeError("not a folder")
        depth = depths[entry.parent]
        if depth < 0 or not _is_name(entry.name) or (entry.parent, entry.name) in names:
            raise DecodeError("not a folder")
        if depth >= FOLDER_DEPTH_MAX:
            raise LimitError("the folder is too deep", f"at most {FOLDER_DEPTH_MAX} folders deep")
        if entry.size is not None and not (
            type(entry.size) is int and 0 <= entry.size <= BLOB_SIZE_MAX
        ):
            raise DecodeError("not a folder")
        names.add((entry.parent, entry.name))
        depths.append(depth + 1 if entry.size is None else -1)
    if not any(entry.size is not None for entry in entries):
        raise DecodeError("there is no file in the folder")


def _is_name(name: object) -> bool:
    if not isinstance(name, str) or name in {"", ".", ".."} or "/" in name or "\0" in name:
        return False
    try:
        return len(name.encode()) <= FILE_NAME_MAX
    except UnicodeEncodeError:  # a lone surrogate
        return False
