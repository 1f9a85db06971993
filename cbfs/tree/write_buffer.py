"""The part of a file's content that has changed since it was stored, in blocks. Pure.

Beneath a ``Layer`` is what was there when it began: the stored content, or a layer that is just
being stored. Blocks that take too much memory are spilled to the store, under a content id of
their own; a layer knows which.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

BLOCK = 65_536
"""Bytes of a content record that the mount writes."""

COPIED_AT_ONCE = 16
"""Blocks that are put into the store in one transaction."""


def count_blocks(size: int) -> int:
    """How many blocks so many bytes take."""
    return -(-size // BLOCK)


@dataclass(slots=True)
class Layer:
    """``size``: of the whole file. Of what is beneath, bytes before ``cut`` still count.
    ``memory``: changed blocks, each as long as it has been written; ``spilled``: those that are
    in the store instead, under ``spill`` (all that were ever written there: ``written``).
    ``touched``: blocks written since a spill or a save of them began."""

    size: int
    cut: int
    memory: dict[int, bytearray] = field(default_factory=dict)
    spilled: set[int] = field(default_factory=set)
    written: set[int] = field(default_factory=set)
    touched: set[int] = field(default_factory=set)
    spill: int = 0

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return sum(map(len, self.memory.values()))

    def write(self, offset: int, data: bytes, beneath: Callable[[int], bytes]) -> None:
        """``beneath(index)`` gives a block as it is without ``memory``."""
        done = 0
        while done < len(data):
            index, start = divmod(offset + done, BLOCK)
            part = data[done : done + BLOCK - start]
            block = self.memory.get(index)
            if block is None:
                block = bytearray() if len(part) == BLOCK else bytearray(beneath(index))
                self.memory[index] = block
            if len(block) < start:
                block.extend(bytes(start - len(block)))
            block[start : start + len(part)] = part
            self.touched.add(index)
            done += len(part)
        self.size = max(self.size, offset + len(data))

    def truncate(self, size: int, beneath: Callable[[int], bytes]) -> None:
        """Cut, or fill with zeros."""
        if size < self.size:
            index, rest = divmod(size, BLOCK)
            if rest and index not in self.memory:
                self.memory[index] = bytearray(beneath(index))
            if rest:
                del self.memory[index][rest:]
                self.touched.add(index)
            first = count_blocks(size)
            self.memory = {i: block for i, block in self.memory.items() if i < first}
            self.spilled = {i for i in self.spilled if i < first}
            self.cut = min(self.cut, size)
        self.size = size

    def beneath_block(self, index: int) -> int:
        """How many bytes of a block what is beneath may give: the rest are zeros."""
        return max(0, min(self.cut - index * BLOCK, BLOCK))

    def take_back(self, failed: "Layer") -> None:
        """``failed``, which was beneath, could not be stored: what it had is changed still."""
        for index, block in failed.memory.items():
            if index not in self.memory and self.beneath_block(index):
                self.memory[index] = block[: self.beneath_block(index)]
        left = {i for i in failed.spilled if i not in self.memory and self.beneath_block(i)}
        self.spill, self.written, self.spilled = failed.spill, failed.written, left
        self.cut = min(self.cut, failed.cut)
