"""The bytes of a mail as pieces, whose sizes are known before anything is read: only what is asked
for is read and encoded. Pure.

A ``Source`` gives bytes of the content of a message: (offset, size) -> bytes.
"""

import base64
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, Protocol

Source = Callable[[int, int], bytes]

LINE = 57
"""Bytes in a line of base64, which has 76 characters and its end."""

_LINE_TEXT = 77
_READ_AT_ONCE = 1 << 20


class Piece(Protocol):
    """Some bytes of a mail."""

    @property
    def size(self) -> int:
        """In bytes."""

    def read(self, source: Source, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer at the end."""


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes that are known."""

    data: bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.data)

    def read(self, _source: Source, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer at the end."""
        return self.data[offset : offset + size]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes of the content, from ``start`` on."""

    start: int
    size: int

    def read(self, source: Source, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer at the end."""
        size = min(size, self.size - offset)
        return source(self.start + offset, size) if size > 0 else b""


@dataclass(frozen=True, slots=True)
class Computed:
    """Bytes of which only the size is known before somebody reads them."""

    size: int
    make: Callable[[Source], bytes]

    def read(self, source: Source, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer at the end."""
        return self.make(source)[offset : offset + size]


class Joined:
    """Pieces one after the other."""

    __slots__ = ("_pieces", "_starts", "size")

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = tuple(pieces)
        *starts, self.size = accumulate((piece.size for piece in self._pieces), initial=0)
        self._starts = starts

    def read(self, source: Source, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer at the end."""
        found: list[bytes] = []
        end = min(offset + size, self.size)
        at = max(0, bisect_right(self._starts, offset) - 1)
        while offset < end:
            within = offset - self._starts[at]
            data = self._pieces[at].read(source, within, end - offset)
            found.append(data)
            offset += len(data)
            at += 1
        return b"".join(found)


@dataclass(frozen=True, slots=True)
class Base64:
    """A piece in base64, in lines of 76 characters, each with its end."""

    inner: Piece

    @property
    def size(self) -> int:
        """In bytes."""
        characters = -(-self.inner.size // 3) * 4
        return characters + -(-self.inner.size // LINE)

    def read(self, source: Source, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer at the end."""
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        first, behind = offset // _LINE_TEXT, -(-(offset + size) // _LINE_TEXT)
        raw = self.inner.read(source, first * LINE, (behind - first) * LINE)
        start = offset - first * _LINE_TEXT
        return base64.encodebytes(raw)[start : start + size]


# Archives


class Packed(NamedTuple):
    """A file in an archive: its path there, and where it is in the content."""

    path: str
    start: int
    size: int


_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION, _UNIX = 20, 3 << 8
_IS_UTF8, _STORED = 0x800, 0
_TIME, _DAY = 0, 1 << 5 | 1  # the first day of 1980: archives have no earlier one
_MODE = 0o100600 << 16


class _Sums:
    """The CRC-32 of each file, computed once, when somebody reads as far."""

    def __init__(self, files: Sequence[Packed]) -> None:
        self._files = files
        self._known: dict[int, int] = {}

    def of(self, source: Source, number: int) -> int:
        """That of a file."""
        if number not in self._known:
            _path, start, size = self._files[number]
            crc = 0
            for offset in range(0, size, _READ_AT_ONCE):
                part = source(start + offset, min(_READ_AT_ONCE, size - offset))
                crc = zlib.crc32(part, crc)
            self._known[number] = crc
        return self._known[number]


def zip_of(files: Sequence[Packed]) -> Piece:
    """A zip archive of these files, which are not compressed: so its size is known at once. The
    same files give the same bytes."""
    sums = _Sums(files)
    pieces: list[Piece] = []
    central: list[Piece] = []
    offset = 0
    for number, (path, start, size) in enumerate(files):
        name = path.encode()

        def local(
            source: Source, number: int = number, size: int = size, name: bytes = name
        ) -> bytes:
            shared = _IS_UTF8, _STORED, _TIME, _DAY, sums.of(source, number), size, size
            return _LOCAL.pack(b"PK\3\4", _VERSION, *shared, len(name), 0) + name

        def entry(
            source: Source,
            number: int = number,
            size: int = size,
            name: bytes = name,
            offset: int = offset,
        ) -> bytes:
            shared = _IS_UTF8, _STORED, _TIME, _DAY, sums.of(source, number), size, size
            head = _CENTRAL.pack(
                b"PK\1\2", _UNIX | _VERSION, _VERSION, *shared, len(name), 0, 0, 0, 0, _MODE, offset
            )
            return head + name

        pieces += [Computed(_LOCAL.size + len(name), local), Stretch(start, size)]
        central.append(Computed(_CENTRAL.size + len(name), entry))
        offset += _LOCAL.size + len(name) + size
    length, count = sum(piece.size for piece in central), len(files)
    end = _END.pack(b"PK\5\6", 0, 0, count, count, length, offset, 0)
    return Joined((*pieces, *central, Literal(end)))
