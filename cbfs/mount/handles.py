"""What the kernel has of the files of a mount: those that are open, and the messages whose content
it was given."""

import os
from dataclasses import dataclass

from cbfs.tree.nodes import File, FolderFile, MessageFile, Node
from cbfs.tree.processes import Process

GIVEN_MAX = 16_384
"""Bytes of a message that the kernel is given with its opening, at most: nearly all are smaller,
and for who opens it and reads nothing it is little work."""

GIVEN_KEPT = 16_384
"""So many messages are remembered as given."""

_WANTED = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK}
"""What an opening takes; else both."""


def wanted(flags: int) -> int:
    """What access an opening with these flags asks for. Who only reads and lets the file be cut off
    changes it as well."""
    access = _WANTED.get(flags & os.O_ACCMODE, os.R_OK | os.W_OK)
    return access | os.W_OK if flags & os.O_TRUNC else access


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
    """The open files of a mount, by the number that the kernel gives back with each request. Counts
    in each ``File`` how many have it open, and how many of them write."""

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

    def enter(self, number: int, node: MessageFile) -> None:
        """A handle by which a message is read, under a number that is none of ours."""
        self._open[number] = Handle(node, writes=False, new=False)

    def __getitem__(self, number: int) -> Handle:
        return self._open[number]

    def __contains__(self, number: int) -> bool:
        return number in self._open

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


class GivenMessages:
    """The messages, by inode, whose content the kernel of a mount was given with their opening, so
    that it need not ask: what reading a message costs is requests. It is not given what it was
    given before, and asks for what it has thrown away."""

    def __init__(self) -> None:
        self._inodes: set[int] = set()

    def take(self, node: Node, *, is_open: bool) -> bool:
        """Whether to give it the content of a node that is being opened, and was given it from now
        on. Not of one that somebody ``is_open`` elsewhere: the kernel may be asking for a page of
        it, which it has locked until it is answered, and would wait for that very page."""
        if (
            not isinstance(node, MessageFile)
            or isinstance(node, FolderFile)
            or is_open
            or node.removed
            or not 0 < node.size <= GIVEN_MAX
            or node.inode in self._inodes
        ):
            return False
        if len(self._inodes) >= GIVEN_KEPT:
            self._inodes.clear()
        self._inodes.add(node.inode)
        return True

    def forget(self, inode: int) -> None:
        """The kernel has thrown it away."""
        self._inodes.discard(inode)
