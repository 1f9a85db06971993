"""The folder unread/: links to the messages that nobody has read, the newest of them.

It is kept as messages come and are read, so that watchers see it change. Which they are is looked
for when somebody looks (``cbfs.tree.virtual.message_links``). What was read is kept, and leaves the
folder, a little later and many at once.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator

import trio

from cbfs.interface import Backend
from cbfs.messages import search_index
from cbfs.messages.model import Message
from cbfs.storage.faults import contained, harmless
from cbfs.tree.inodes import Inodes
from cbfs.tree.nodes import FIRST_UNREAD, UNREAD, Folder, MessageFile, MessageLink, Node
from cbfs.tree.rules import Area
from cbfs.tree.virtual.message_links import FoundLink, Look, Overview
from cbfs.tree.virtual.virtual_directory import SearchedDirectory
from cbfs.tree.watchers import Watchers
from cbfs_common.errors import CbfsError

LAG, LAG_MAX = 0.2, 5.0
"""Seconds without a message being read until those that were leave unread/, and the most."""


class Unread:
    """``SearchedProvider`` of unread/, which it enters into ``root``. ``folder_name`` says what the
    folder of a conversation is called: empty for one that is not shown. ``overview`` knows what is
    unread, and is told by others of what comes and goes."""

    def __init__(
        self,
        root: Folder,
        backend: Backend,
        inodes: Inodes,
        folder_name: Callable[[bytes], str],
        watchers: Watchers,
        overview: Overview,
    ) -> None:
        self._people = backend.people
        self._store = backend.store
        self._inodes = inodes
        self._folder_name = folder_name
        self._watchers = watchers
        self._overview = overview
        self._look = self._new_look()
        self._hidden: set[int] = set()  # new, and watchers have not been told yet
        self._leaving: dict[str, MessageLink] = {}  # read, and watchers have not been told yet
        self._left: list[str] = []  # those of them that nobody is about to tell watchers of
        self._read: list[int] = []  # not kept yet
        self._news = trio.Event()
        self._since = time.time_ns()
        self._folder = SearchedDirectory(UNREAD, Area.FIXED, self)
        root.add("unread", self._folder)

    # what comes and goes

    def counts(self, message: Message) -> bool:
        """Whether a message that has come is to be read: it is from somebody else, and they are not
        muted."""
        sender = self._people.contact(message.sender)
        return not message.recipients and not (sender is not None and sender.muted)

    def added(self, message: Message) -> None:
        """A message is in its folder now that is to be read."""
        serial = message.serial
        known = self._look.known(serial)
        place = serial, message.conversation, message.name, message.date
        if known is not None or not self._may_be_watched():
            self._look.put(*place)
            self._touch()
            return
        self._hidden.add(serial)
        name = self._look.put(*place)
        found = self._look.known(serial)

        def enter() -> None:
            self._hidden.discard(serial)
            self._touch()

        if found is not None:
            self._watchers.show(f"unread/{name}", self._make(serial, found), enter)

    def removed(self, serial: int) -> None:
        """The message of that serial was deleted: its link goes."""
        if self._look.known(serial) is not None or self._overview.is_unread(serial):
            self._leave(serial)

    def left(self, conversation: bytes) -> None:
        """Its folders are shown no more: what is unread there leaves, and is read by nobody."""
        for serial in self._look.of(conversation):
            self._leave(serial)

    def is_new(self, node: Node) -> bool:
        """Whether it is a message that was not read."""
        return isinstance(node, MessageFile) and self._overview.is_unread(node.serial)

    def read_up_to(self, node: Node, end: int) -> None:
        """Somebody has read so many bytes of it: when that is all, it is not new any more."""
        if isinstance(node, MessageFile) and end >= node.size and self.is_new(node):
            self._leave(node.serial)
            self._was_read(node.serial)

    def set_read(self, message: Message, *, read: bool) -> None:
        """A program has said that a message was read, or is to be read once more; it is in the
        store."""
        serial = message.serial
        self._read = [each for each in self._read if each != serial]
        if read:
            self._leave(serial)
            self._overview.read(serial)
            return
        self._overview.read_again(serial)
        for name, link in list(self._leaving.items()):
            if link.inode == FIRST_UNREAD + serial:  # it has not gone yet
                del self._leaving[name]
                self._look.put(serial, message.conversation, message.name, message.date)
        if self._look.known(serial) is None:
            self.added(message)
        self._touch()

    async def run(self, failed: Callable[[], None]) -> None:
        """Keep what has been read, and take its links out, until cancelled. Not at once: who
        reads many messages should not wait for that, and one commit does for all. ``failed`` is
        told of what does not go well; that is done with what is read next."""
        while True:
            await self._news.wait()
            with trio.move_on_after(LAG_MAX):
                while self._news.is_set():
                    self._news = trio.Event()
                    await trio.sleep(LAG)
            with harmless(failed):
                await self.flush()

    async def flush(self) -> None:
        """Keep what has been read. A crash before shows it as unread once more."""
        left, self._left = [name for name in self._left if name in self._leaving], []
        for name in left:
            self._watchers.remove(f"unread/{name}", lambda name=name: self._hide(name))  # type: ignore[misc]
        serials, self._read = self._read, []
        if not serials:
            return
        try:
            with contained():
                await self._store.commit(lambda writer: search_index.set_read(writer, serials))
        except CbfsError:
            self._read += serials  # with what is read next
            raise

    # SearchedProvider

    async def look_for(self, name: str) -> None:
        """Return when ``find`` knows of that name."""
        if name not in self._leaving:
            await self._ask(lambda look: look.look_for(name))

    async def look_from(self, start: int) -> None:
        """Return when ``page`` knows of some links from a place on, or that there are none."""
        await self._ask(lambda look: look.look_from(start))

    def find(self, name: str) -> Node | None:
        """The link of that name, to a message that is new or was read just now; None when there is
        none."""
        return self._leaving.get(name) or self._look.find(name)

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """Links from place ``start`` on, the newest message first."""
        return self._look.page(start)

    async def remove(self, name: str, node: Node) -> None:
        """Remove a link: its message counts as read."""
        if isinstance(node, MessageLink) and name not in self._leaving:
            serial = node.inode - FIRST_UNREAD
            self._forget(serial)
            self._was_read(serial)
        self._hide(name)

    def modified(self) -> int:
        """When the mount began, in nanoseconds since 1970."""
        return self._since

    def stamp(self) -> int:
        """Always 0: ``VirtualDirectory.touch`` tells of all that goes."""
        return 0

    def folders(self) -> int:
        """Always 0: there are only links."""
        return 0

    # within

    def _new_look(self) -> Look:
        return Look(self._store, self._overview.unread(), self._shown, "unread")

    async def _ask(self, ask: Callable[[Look], Awaitable[None]]) -> None:
        look = None
        while look is not self._look:  # it begins anew when names are others
            look = self._look
            await ask(look)

    def _may_be_watched(self) -> bool:
        """Nobody watches a folder that the kernel does not know: then nothing need be shown."""
        return UNREAD in self._inodes

    def _was_read(self, serial: int) -> None:
        self._read.append(serial)
        self._news.set()
        self._overview.read(serial)

    def _leave(self, serial: int) -> None:
        """Its link stays until watchers have been told, if there can be any."""
        found = self._look.known(serial)
        if found is not None and (self._may_be_watched() or serial in self._hidden):
            self._leaving[found.link] = self._make(serial, found)
            self._left.append(found.link)
            self._news.set()
        self._forget(serial)

    def _forget(self, serial: int) -> None:
        self._hidden.discard(serial)
        self._look.drop(serial)
        self._touch()

    def _hide(self, name: str) -> None:
        self._leaving.pop(name, None)
        self._touch()

    def _touch(self) -> None:
        self._folder.touch()

    def renamed(self, messages: Iterable[Message]) -> None:
        """These have other names, or folders have: so have their links, which are no news to
        watchers."""
        self._look = self._new_look()
        self._touch()

    def _shown(self, serial: int, found: FoundLink) -> MessageLink | None:
        is_shown = serial not in self._hidden and self._folder_name(found.conversation)
        return self._make(serial, found) if is_shown else None

    def _make(self, serial: int, found: FoundLink) -> MessageLink:
        return self.link(serial, found.conversation, found.name, found.date)

    def link(self, serial: int, conversation: bytes, message: str, date: int) -> MessageLink:
        """The link to a message."""
        target = f"../conversations/{self._folder_name(conversation)}/{message}"
        return MessageLink(FIRST_UNREAD + serial, target, date)
