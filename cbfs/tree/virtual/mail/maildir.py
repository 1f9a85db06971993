"""The Maildir of one conversation, in mail/."""

import errno
from collections.abc import Iterator
from functools import cached_property
from typing import Protocol

from cbfs.tree.nodes import Folder, Node
from cbfs.tree.rules import Area, TreeError
from cbfs.tree.virtual.mail.boxes import Box, Scope
from cbfs.tree.virtual.virtual_directory import VirtualDirectory, inode_for

_FOLDERS = 3
"""In a Maildir."""


class Boxes(Protocol):
    """What makes new/ and cur/."""

    def box(self, inode: int, scope: Scope, *, is_new: bool) -> Box:
        """new/ or cur/ of a Maildir."""

    def began(self) -> int:
        """When the mount began, in nanoseconds since 1970."""


class Maildir:
    """``Provider`` of the Maildir of one conversation: new/, cur/ and tmp/, which are made when
    somebody looks. ``boxes`` are the first two, none before."""

    def __init__(self, folders: Boxes, conversation: bytes) -> None:
        self._folders = folders
        self._key = b"mail", conversation
        self.directory = VirtualDirectory(inode_for(*self._key), Area.FIXED, self)
        self.boxes: tuple[Box, ...] = ()

    @cached_property
    def _entries(self) -> dict[str, Folder]:
        folders, key, conversation = self._folders, self._key, self._key[1]
        tmp = Folder(inode_for(*key, b"tmp"), Area.FIXED, folders.began())
        tmp.names.add((self.directory, "tmp"))
        new = folders.box(inode_for(*key, b"new"), conversation, is_new=True)
        cur = folders.box(inode_for(*key, b"cur"), conversation, is_new=False)
        self.boxes = new, cur
        return {"new": new.directory, "cur": cur.directory, "tmp": tmp}

    def find(self, name: str) -> Node | None:
        """One of the three."""
        return self._entries.get(name)

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """The three of them."""
        for place, (name, node) in enumerate(self._entries.items(), 1):
            if place > start:
                if isinstance(node, VirtualDirectory):
                    node.found_in(self.directory)
                yield place, name, node

    async def remove(self, name: str, node: Node) -> None:
        """Nothing can be removed here. Raises TreeError(EACCES)."""
        raise TreeError(errno.EACCES)

    def modified(self) -> int:
        """When the mount began, in nanoseconds since 1970."""
        return self._folders.began()

    def stamp(self) -> int:
        """Always 0: nothing comes or goes."""
        return 0

    def folders(self) -> int:
        """Always 3."""
        return _FOLDERS
