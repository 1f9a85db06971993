"""The record of what ``cbfs setup`` has put somewhere, by which it takes away that and nothing
else.

A line of text for each: ``file DIGEST PATH``, ``link DIGEST PATH`` with the digest of the target's
path, ``folder PATH``. The first line has the number of the format. What is to be put somewhere is
in it before it is there: whatever is interrupted, nothing is there that is not in the record.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from cbfs_common.errors import CbfsError
from cbfs_host.files import make_directory, write_file

_FIRST: Final = "cbfs setup 1"
_LINE: Final = re.compile(r"(?:(file|link) ([0-9a-f]{64})|(folder)) (/[^\n]*)")

RECORD_MAX: Final = 1 << 20
"""Bytes of a record: some hundred paths."""


class RecordError(CbfsError):
    """The record cannot be read, so that nothing may be taken away by it."""


class PlacedKind(StrEnum):
    """What was put somewhere."""

    FILE = "file"
    LINK = "link"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True, order=True)
class Placed:
    """Something at a path. ``digest`` is the SHA-256 of a file's content or of a link's target, in
    hexadecimal, and empty for a folder."""

    path: Path
    kind: PlacedKind
    digest: str = ""

    @classmethod
    def file(cls, path: Path, data: bytes) -> Self:
        """A file with this content."""
        return cls(path, PlacedKind.FILE, hashlib.sha256(data).hexdigest())

    @classmethod
    def link(cls, path: Path, target: Path) -> Self:
        """A symbolic link to ``target``."""
        return cls(path, PlacedKind.LINK, hashlib.sha256(os.fsencode(target)).hexdigest())

    def is_there(self) -> bool:
        """Whether it is there as it was put there. Raises OSError."""
        return self == found(self.path)


def found(path: Path) -> Placed | None:
    """What is at a path now, as a folder if it is neither a file nor a link; None when there is
    nothing. Raises OSError."""
    if path.is_symlink():
        return Placed.link(path, path.readlink())
    if path.is_file():
        return Placed.file(path, path.read_bytes())
    return Placed(path, PlacedKind.FOLDER) if path.exists() else None


def read_record(path: Path) -> frozenset[Placed]:
    """What a record says; nothing when there is none. Raises RecordError, OSError."""
    try:
        with path.open("rb") as file:
            text = os.fsdecode(file.read(RECORD_MAX + 1))
    except FileNotFoundError:
        return frozenset()
    first, *lines = text.split("\n")
    if first != _FIRST or lines[-1:] != [""] or len(text) > RECORD_MAX:
        raise RecordError(
            f"{path} is no record of this version of cbfs setup",
            "use the version that wrote it, or remove it and what it lists by hand",
        )
    return frozenset(_placed(path, line) for line in lines[:-1])


def _placed(record: Path, line: str) -> Placed:
    match = _LINE.fullmatch(line)
    if match is None:
        raise RecordError(f"{record} is damaged", "remove it, and what it lists, by hand")
    return Placed(Path(match[4]), PlacedKind(match[1] or match[3]), match[2] or "")


def write_record(path: Path, placed: Iterable[Placed]) -> None:
    """Replace a record, or remove it when nothing is left that it could say. Raises OSError."""
    lines = [" ".join(filter(None, (each.kind, each.digest, str(each.path))))
             for each in sorted(placed)]  # fmt: skip
    if lines:
        make_directory(path.parent)
        write_file(path, os.fsencode("\n".join((_FIRST, *lines, ""))))
    else:
        path.unlink(missing_ok=True)
