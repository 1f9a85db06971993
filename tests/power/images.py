"""What a disk holds after its power was cut: a journal of writes and flushes, and images of it.

A write is durable when a flush of its disk came after it. Of those that are not, a disk may have
taken all, none, some in any order, or pieces (``Mode``). Positions count the events of all disks,
so that one moment is the same for each.
"""

import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Self

BLOCK = 4_096
SECTOR = 512
"""Bytes that a disk writes whole or not at all."""

_RECORD = struct.Struct(">cBQI")
WRITE, FLUSH = b"W", b"F"


class Mode(StrEnum):
    """What the disk has taken of what no flush has asked for."""

    NONE = "none"
    ALL = "all"
    SOME = "some"
    TORN = "torn"


@dataclass(frozen=True, slots=True)
class Cut:
    """The power fails when ``position`` events have been; ``seed`` makes the choice of ``mode``."""

    position: int
    mode: Mode
    seed: int = 0


class JournalFile:
    """To write one down; ``position`` is in memory that others can read, see ``Position``."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._position = Position(path.with_suffix(".position"), create=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, disk: int, offset: int, data: bytes) -> None:
        self._file.write(_RECORD.pack(WRITE, disk, offset, len(data)) + data)
        self._count()

    def flush(self, disk: int) -> None:
        self._file.write(_RECORD.pack(FLUSH, disk, 0, 0))
        self._count()

    def _count(self) -> None:
        self._file.flush()
        self._position.add()


class Position:
    """How many events there have been, in a file that several processes map."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if create:
            path.write_bytes(bytes(8))
        descriptor = os.open(path, os.O_RDWR)
        try:
            self._map = mmap.mmap(descriptor, 8)
        finally:
            os.close(descriptor)

    def add(self) -> None:
        self._map[:8] = (self.now() + 1).to_bytes(8, "big")

    def now(self) -> int:
        """What was asked to be flushed and has been is before it."""
        return int.from_bytes(self._map[:8], "big")


@dataclass(frozen=True, slots=True)
class Write:
    position: int
    offset: int
    data: bytes


class Disk:
    """One of the disks of a journal. ``base`` is what it held at first."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self.writes: list[Write] = []
        self.flushes: list[int] = []

    @cached_property
    def _first(self) -> tuple[int, list[tuple[int, bytes]]]:
        """(size, the blocks that are not zero)"""
        data = self._base.read_bytes()
        blocks = ((at, data[at : at + BLOCK]) for at in range(0, len(data), BLOCK))
        return len(data), [(at, block) for at, block in blocks if block.strip(b"\0")]

    def durable(self, position: int) -> int:
        """The position of the last flush before."""
        found = bisect_left(self.flushes, position)
        return self.flushes[found - 1] if found else -1

    def pending(self, position: int) -> int:
        """How many writes before have not been flushed."""
        first = bisect_left(self.writes, self.durable(position), key=_position)
        return bisect_left(self.writes, position, key=_position) - first

    def taken(self, cut: Cut, *, flushing: bool = True) -> Iterator[tuple[int, bytes]]:
        """(offset, data) of all that the disk has taken. One that is not ``flushing`` lies: it
        says that it has flushed, and has taken nothing."""
        last = self.durable(cut.position) if flushing else -1
        random = Random(f"{cut.seed} {self._base}")
        for write in self.writes:
            if write.position >= cut.position:
                return
            if write.position < last or cut.mode is Mode.ALL:
                yield write.offset, write.data
            elif cut.mode is not Mode.NONE and random.random() < 0.5:
                yield from _torn(write, random) if cut.mode is Mode.TORN else _whole(write)

    def make(self, cut: Cut, path: Path, *, flushing: bool = True) -> None:
        """The image after the cut."""
        size, blocks = self._first
        with path.open("wb") as file:
            file.truncate(size)
            for offset, data in (*blocks, *self.taken(cut, flushing=flushing)):
                os.pwrite(file.fileno(), data, offset)

    def blocks(self, cut: Cut) -> dict[int, bytes]:
        """The same in memory, by offset."""
        found = dict(self._first[1])
        for offset, data in self.taken(cut):
            first = offset // BLOCK * BLOCK
            for at in range(first, offset + len(data), BLOCK):
                old = found.get(at, bytes(BLOCK))
                start, end = max(offset, at), min(offset + len(data), at + BLOCK)
                piece = data[start - offset : end - offset]
                found[at] = old[: start - at] + piece + old[end - at :]
        return found


def _position(write: Write) -> int:
    return write.position


def _whole(write: Write) -> Iterator[tuple[int, bytes]]:
    yield write.offset, write.data


def _torn(write: Write, random: Random) -> Iterator[tuple[int, bytes]]:
    for at in range(0, len(write.data), SECTOR):
        if random.random() < 0.5:
            yield write.offset + at, write.data[at : at + SECTOR]


class Journal:
    """All disks of a recording, by name in the order of their numbers."""

    def __init__(self, path: Path, base: Path, names: tuple[str, ...]) -> None:
        self.disks = {name: Disk(base) for name in names}
        disks = list(self.disks.values())
        data, at, position = path.read_bytes(), 0, 0
        while at + _RECORD.size <= len(data):
            kind, number, offset, length = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            if kind == FLUSH:
                disks[number].flushes.append(position)
            else:
                disks[number].writes.append(Write(position, offset, data[at : at + length]))
            at += length
            position += 1
        self.end = position

    def crowded(self, count: int, start: int = 0) -> list[int]:
        """The positions behind ``start`` at which the most was pending, just before a flush."""
        flushes = sorted(
            (disk.pending(at), at)
            for disk in self.disks.values()
            for at in disk.flushes
            if at > start
        )
        return [at for _, at in flushes[-count:]]
