"""Directories whose entries come from elsewhere: looked up and listed when somebody looks.

Nothing of them is kept in memory but what the kernel knows (``cbfs.tree.inodes.Inodes``), however
many entries there are. To add one, write a ``Provider`` and enter a ``VirtualDirectory`` of it into
the tree: ``root.add("unread", VirtualDirectory(inode, Area.FIXED, provider))``. A provider gives
the same node, or at least the same inode number, for the same thing each time: ``Inodes.get`` has
those that are in use, ``inode_for`` makes a number of an id.
"""

import stat
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Protocol

from cbfs.tree.nodes import MADE, Folder, Node, Text
from cbfs.tree.rules import Area

PAGE = 1_024
"""Entries that a listing holds at once."""

AT_ONCE = 64
"""Folders and texts that one answer to a reader tells of: something must be read for each of them,
and nobody else is answered meanwhile."""

DOTS = (".", "..")
"""What every listing begins with, and no look-up finds."""

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
        """When an entry was last added, in nanoseconds, as far as it was not told by ``touch``."""

    def stamp(self) -> int:
        """Another one when entries have gone of which ``touch`` does not tell."""

    def folders(self) -> int | None:
        """How many of the entries are folders, -1 while nobody knows. None when it is no folder any
        more."""


class SearchedProvider(Provider, Protocol):
    """What is in a directory where finding takes long. Handlers wait for it, others go on."""

    async def look_for(self, name: str) -> None:
        """Return when ``find`` knows of that name."""

    async def look_from(self, start: int) -> None:
        """Return when ``page`` knows of some entries from a place on, or that there are none."""


class VirtualDirectory(Folder):
    """A folder whose entries ``provider`` gives. ``touch`` it when an entry came or went."""

    __slots__ = ("_above", "_modified", "_touched", "provider")

    def __init__(
        self, inode: int, area: Area, provider: Provider, *, conversation: bytes | None = None
    ) -> None:
        super().__init__(inode, area, 0, conversation=conversation)
        self.mode = stat.S_IFDIR | 0o700
        self.provider = provider
        self._touched = 0
        self._modified = 0
        self._above: Folder = self

    @property
    def links(self) -> int:
        """Two and one for each folder in it, 0 when it is no folder any more. 1 while nobody knows,
        by which programs know that."""
        folders = self.provider.folders()
        return 0 if folders is None else 2 + folders

    @property
    def above(self) -> Folder:
        """What ``..`` leads to: the folder where it was entered, or was found last."""
        return super().above if self.names else self._above

    def found_in(self, directory: Folder) -> None:
        """Whose entry it is, where that is made when somebody looks."""
        self._above = directory

    @property
    def entries(self) -> Mapping[str, Node]:
        """All of them, read anew at each use."""
        return _Entries(self.provider)

    @property
    def version(self) -> tuple[int, int]:
        """Another one when something in it has changed."""
        return self._touched, self.provider.stamp()

    @property
    def modified_ns(self) -> int:
        """When an entry was last added or removed, in nanoseconds since 1970."""
        return max(self._modified, self.provider.modified())

    @property
    def status_ns(self) -> int:
        """When anything of it or in it last changed, in nanoseconds since 1970."""
        return max(self.changed_ns, self.modified_ns)

    def renew(self) -> int:
        """Something of it changes now: the time of that, in nanoseconds since 1970, later than that
        of the change before."""
        self.touch()
        return self._modified

    @property
    def was_touched(self) -> bool:
        """Whether anything in it has changed in this mount."""
        return self._touched > 0

    def touch(self) -> None:
        """Something in it has changed."""
        self._touched += 1
        self._modified = max(time.time_ns(), self.modified_ns + 1)


class SearchedDirectory(VirtualDirectory):
    """One where finding takes long: ``look_for`` and ``look_from`` come before anything that is to
    know what is in it."""

    __slots__ = ("look_for", "look_from")

    def __init__(self, inode: int, area: Area, provider: SearchedProvider) -> None:
        super().__init__(inode, area, provider)
        self.look_for = provider.look_for
        self.look_from = provider.look_from


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
    meanwhile may be seen or not; every other name is seen once, with what it leads to at that
    moment: the kernel takes each entry for an answer to a look-up, so that one which is not there
    any more would lead programs to a file that nobody can find again."""

    def __init__(self, directory: Folder) -> None:
        self._directory = directory
        self._names: list[str] | None = None
        self._page: list[Listed] = []
        self._version = 0, 0

    @property
    def directory(self) -> Folder:
        """That which is read."""
        return self._directory

    async def look_from(self, start: int) -> None:
        """Return when ``after`` knows some of what is there from place ``start`` on. It gives what
        it knows, which is all where nothing comes."""
        directory, start = self._directory, max(0, start - len(DOTS))
        if isinstance(directory, SearchedDirectory) and not self._has(directory, start):
            await directory.look_from(start)

    def _has(self, directory: VirtualDirectory, start: int) -> bool:
        """Whether the page that was read last says what is behind a place."""
        index = bisect_right(self._page, start, key=_place)
        return directory.version == self._version and start > 0 and 0 < index < len(self._page)

    def some_after(self, start: int) -> Iterator[Listed]:
        """As ``after``, but no more than can be told without a pause; none only where none are."""
        told = 0
        for entry in self.after(start):
            yield entry
            told += isinstance(entry[2], Folder | Text)
            if told == AT_ONCE:
                return

    def after(self, start: int) -> Iterator[Listed]:
        """``.`` and ``..``, and entries, from place ``start`` on; the caller may stop anywhere, and
        must have done so before the directory can change."""
        directory = self._directory
        dots = (1, DOTS[0], directory), (2, DOTS[1], directory.above)
        yield from dots[start:]
        if start == 0:
            self._names = None  # it begins, perhaps once more
        start = max(0, start - len(DOTS))
        if isinstance(directory, VirtualDirectory):
            found = self._virtual(directory, start)
        else:
            found = self._entered(directory, start)
        for place, name, node in found:
            yield place + len(DOTS), name, node

    def _entered(self, directory: Folder, start: int) -> Iterator[Listed]:
        """The places are those in a copy of the names, made when reading begins."""
        if self._names is None:
            self._names = list(directory.entries)
        for place, name in enumerate(islice(self._names, start, None), start + 1):
            node = directory.entries.get(name)
            if node is not None:
                yield place, name, node

    def _virtual(self, directory: VirtualDirectory, start: int) -> Iterator[Listed]:
        page, index = self._page, 0
        if self._has(directory, start):
            index = bisect_right(page, start, key=_place)
        else:  # where a page begins or ends only the directory can tell what is there now
            page = self._fill(directory, start)
        while page:
            yield from islice(page, index, None)
            page, index = self._fill(directory, page[-1][0]), 0

    def _fill(self, directory: VirtualDirectory, start: int) -> list[Listed]:
        self._version = directory.version
        self._page = list(islice(directory.provider.page(start), PAGE))
        return self._page


def _place(entry: Listed) -> int:
    return entry[0]


def inode_for(*parts: bytes) -> int:
    """An inode number of something that has an id and no number."""
    digest = blake2b(b"".join(len(p).to_bytes(4, "big") + p for p in parts), digest_size=8)
    return MADE | int.from_bytes(digest.digest(), "big") >> 3
