"""new/ and cur/ of one Maildir: which messages are there, under which names."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import trio

from cbfs.tree.inodes import Inodes
from cbfs.tree.nodes import Node
from cbfs.tree.rules import Area
from cbfs.tree.virtual.mail.mails import MailFile
from cbfs.tree.virtual.mail.names import MailName, read_mail_name
from cbfs.tree.virtual.virtual_directory import SearchedDirectory
from cbfs.tree.watchers import Watchers

Scope = bytes | None
"""The conversation that a Maildir has the messages of; None for that of all."""


class Mailed(NamedTuple):
    """A message in mail/: where it is, and what it is called there."""

    conversation: bytes
    serial: int
    name: MailName
    node: MailFile


class MailSource(Protocol):
    """What the boxes ask about messages."""

    async def load(self) -> None:
        """Return when it is known which messages are unread."""

    def named(self, name: MailName, scope: Scope) -> MailFile | None:
        """The message that has this name now."""

    def found(
        self, scope: Scope, start: int, *, is_new: bool
    ) -> Iterator[tuple[int, str, MailFile] | None]:
        """(serial, name, node) of the messages in new/, or in cur/, in order of serials, from one
        on; and None where some have been looked at."""

    def path(self, scope: Scope) -> str:
        """Where the Maildir is in the mount; empty when it is nowhere."""

    async def delete(self, box: "Box", node: MailFile) -> None:
        """Somebody removes a message in a box."""

    def began(self) -> int:
        """When the mount began, in nanoseconds since 1970."""


class Box:
    """``SearchedProvider`` of new/ or of cur/ in the Maildir of ``scope``. What changes it is told
    by ``comes`` and ``goes``, and by ``directory.touch``."""

    def __init__(
        self,
        source: MailSource,
        inodes: Inodes,
        watchers: Watchers,
        inode: int,
        scope: Scope,
        *,
        is_new: bool,
    ) -> None:
        self._source = source
        self._inodes = inodes
        self._watchers = watchers
        self.scope = scope
        self.is_new = is_new
        self._hidden: set[str] = set()  # there, and watchers have not been told yet
        self._leaving: dict[str, Node] = {}  # gone, and watchers have not been told yet
        self._ahead: tuple[tuple[int, int], int, int | None] = (-1, -1), 0, None
        self.directory = SearchedDirectory(inode, Area.CONVERSATION, self)

    @property
    def may_be_watched(self) -> bool:
        """Whether the kernel knows it: else nobody need be told."""
        return self.directory.inode in self._inodes

    def comes(self, name: str, node: Node) -> None:
        """A message has this name here from now on."""
        path = self._source.path(self.scope)
        if not (path and self.may_be_watched):
            self.directory.touch()
            return
        self._hidden.add(name)

        def enter() -> None:
            self._hidden.discard(name)
            self.directory.touch()

        self._watchers.show(f"{path}/{self._called}/{name}", node, enter)

    def goes(self, name: str, node: Node) -> None:
        """A message has this name here no more."""
        path = self._source.path(self.scope)
        if not (path and self.may_be_watched):
            self.directory.touch()
            return
        self._leaving[name] = node

        def leave() -> None:
            self._leaving.pop(name, None)
            self.directory.touch()

        self._watchers.remove(f"{path}/{self._called}/{name}", leave)

    # SearchedProvider

    async def look_for(self, name: str) -> None:
        """Nothing is looked for: a name says where its message is."""

    async def look_from(self, start: int) -> None:
        """Return when it is known which message is the next one from a place on: all may have to
        be looked at, and others go on meanwhile."""
        await self._source.load()
        version = self.directory.version
        for found in self._entries(start):
            if found is not None:
                self._ahead = version, start, found[0] - 1
                return
            await trio.lowlevel.checkpoint()
        self._ahead = version, start, None

    def find(self, name: str) -> Node | None:
        """The message of that name; None for a name of before, or one that is not shown yet."""
        if name in self._leaving:
            return self._leaving[name]
        found = read_mail_name(name, is_new=self.is_new)
        if found is None or name in self._hidden:
            return None
        return self._source.named(found, self.scope)

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """Messages from place ``start`` on, in order of serials."""
        version, at, first = self._ahead
        if (version, at) == (self.directory.version, start):
            if first is None:
                return
            start = first
        yield from (found for found in self._entries(start) if found is not None)

    def _entries(self, start: int) -> Iterator[tuple[int, str, Node] | None]:
        """The place behind a message is its serial + 1."""
        hidden = self._hidden
        for found in self._source.found(self.scope, start, is_new=self.is_new):
            if found is None:
                yield None
            elif found[1] not in hidden:
                yield found[0] + 1, found[1], found[2]

    async def remove(self, name: str, node: Node) -> None:
        """Delete a message. On the disk on return. Raises TreeError(ENOENT) for what is gone."""
        if isinstance(node, MailFile):
            await self._source.delete(self, node)
        self._leaving.pop(name, None)

    def modified(self) -> int:
        """When the mount began, in nanoseconds since 1970."""
        return self._source.began()

    def stamp(self) -> int:
        """Always 0: ``VirtualDirectory.touch`` tells of all that goes."""
        return 0

    def folders(self) -> int:
        """Always 0: there are only mails."""
        return 0

    @property
    def _called(self) -> str:
        return "new" if self.is_new else "cur"
