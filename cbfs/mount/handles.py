"""The open files of a mount, by the number that the kernel gives back with each request. Pure."""

from dataclasses import dataclass

from cbfs.tree.nodes import File, Node
from cbfs.tree.processes import Process


@dataclass(frozen=True, slots=True)
class Handle:
    """One open file. ``writes``: it may be written to. ``new``: reading it to the end makes the
    message read. ``thread`` has opened it, ``author`` is its process when it writes. ``appends``:
    by O_APPEND."""

    node: Node
    writes: bool
    new: bool
    thread: int = 0
    author: Process | None = None
    appends: bool = False


class Handles:
    """Counts in each ``File`` how many have it open, and how many of them write."""

    def __init__(self) -> None:
        self._open: dict[int, Handle] = {}
        self._last = 0

    def number(self) -> int:
        """A fresh number."""
        self._last += 1
        return self._last

    def open(
        self,
        node: Node,
        thread: int,
        *,
        writes: bool,
        new: bool,
        author: Process | None = None,
        appends: bool = False,
    ) -> int:
        """A handle on a file: its number."""
        number = self.number()
        self._open[number] = Handle(node, writes, new, thread, author, appends)
        if isinstance(node, File):
            node.handles += 1
            node.writers += writes
        return number

    def __getitem__(self, number: int) -> Handle:
        return self._open[number]

    def close(self, number: int) -> Handle:
        """The handle of that number, which is no more."""
        handle = self._open.pop(number)
        if isinstance(handle.node, File):
            handle.node.handles -= 1
            handle.node.writers -= handle.writes
        return handle

    def numbers(self) -> list[int]:
        """Those that are open."""
        return list(self._open)

    def nodes(self) -> list[Node]:
        """What is open, once for each handle."""
        return [handle.node for handle in self._open.values()]
