"""Directories whose entries come from elsewhere: looked up and listed when somebody looks.

Nothing of them is kept in memory but what the kernel knows (``cbfs.inodes``), however many
entries there are. To add one, write a ``Provider`` and enter a ``Provided`` of it into the tree:
``tree.root.add("unread", Provided(inode, Area.FIXED, provider))``. A provider gives the same
node, or at least the same inode number, for the same thing each time: ``Inodes.get`` has those
that are in use, ``inode_for`` makes a number of an id.
"""

import stat
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Protocol

from cbfs.areas import Area
from cbfs.nodes import Directory, Node

PAGE = 256
"""Entries that a listing holds at once."""

_MADE = 1 << 62
"""Inode numbers from here on come from ``inode_for``."""


Listed = tuple[int, str, Node]
"""An entry of a directory: the place behind it, its name, what it is."""


class Provider(Protocol):
    """What is in a directory. Called by handlers: must answer from memory and LMDB reads."""

    def find(self, name: str) -> Node | None:
        """The entry of that name."""

    def page(self, start: int) -> Iterator[Listed]:
        """Entries from place ``start`` on, 0 being the first: (the place behind it, name, node).
        A place keeps its meaning when others are added and removed."""

    async def remove(self, name: str, node: Node) -> None:
        """Somebody removes a file. Raises TreeError where that is not allowed."""

    def modified(self) -> int:
        """When an entry was last added, in nanoseconds."""


class Provided(Directory):
    """A directory of a provider's. ``touch`` it when an entry came or went."""

    __slots__ = ("_modified", "provider", "version")

    def __init__(
        self, inode: int, area: Area, provider: Provider, *, conversation: bytes | None = None
    ) -> None:
        super().__init__(inode, area, 0, conversation=conversation)
        self.mode = stat.S_IFDIR | 0o700
        self.provider = provider
        self.version = 0
        self._modified = 0

    @property
    def entries(self) -> Mapping[str, Node]:
        """All of them, read anew at each use."""
        return _Entries(self.provider)

    @property
    def modified_ns(self) -> int:
        """When an entry was last added or removed."""
        if not self._modified:
            self._modified = self.provider.modified()
        return self._modified

    def touch(self, now_ns: int) -> None:
        """Something in it has changed."""
        self.version += 1
        self._modified = now_ns


class _Entries(Mapping[str, Node]):
    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def __getitem__(self, name: str) -> Node:
        node = self._provider.find(name)
        if node is None:
            raise KeyError(name)
        return node

    def __iter__(self) -> Iterator[str]:
        return (name for _place, name, _node in self._provider.page(0))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Listing:
    """One reading of a directory, in pieces as the kernel asks for them. What is added or removed
    meanwhile may be seen or not; all else is seen once."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._page: list[Listed] = []
        self._version = 0

    @property
    def directory(self) -> Directory:
        """That which is read."""
        return self._directory

    def after(self, start: int) -> Iterator[Listed]:
        """Entries from place ``start`` on; the caller may stop anywhere."""
        page = self._page
        index = bisect_right(page, start, key=_place)
        if self._stale() or start == 0 or index in {0, len(page)}:
            # where a page begins or ends only the directory can tell what is there now
            page, index = self._fill(start), 0
        while page:
            yield from islice(page, index, None)
            page, index = self._fill(page[-1][0]), 0

    def _stale(self) -> bool:
        directory = self._directory
        return isinstance(directory, Provided) and directory.version != self._version

    def _fill(self, start: int) -> list[Listed]:
        directory = self._directory
        if isinstance(directory, Provided):
            self._version = directory.version
            self._page = list(islice(directory.provider.page(start), PAGE))
            return self._page
        if start == 0 or not self._page:
            # the places are those in a copy of the entries, made when reading begins
            items = enumerate(directory.entries.items(), 1)
            self._page = [(place, name, node) for place, (name, node) in items]
        return self._page[start:]


def _place(entry: Listed) -> int:
    return entry[0]


def inode_for(*parts: bytes) -> int:
    """An inode number of something that has an id and no number."""
    digest = blake2b(b"".join(len(p).to_bytes(4, "big") + p for p in parts), digest_size=8)
    return _MADE | int.from_bytes(digest.digest(), "big") >> 3
