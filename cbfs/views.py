"""Folders that show the same messages another way: unread/, by-date/ and search/.

Their files are links to the messages under conversations/. What days and searches hold is looked
up in the index (``cbfs.index``) when somebody looks and something has come or gone since;
unread/ is kept as messages come, so that watchers see it change.
"""

import errno
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator

from cbfs import index
from cbfs.areas import Area, TreeError
from cbfs.book import get_message
from cbfs.index import Found
from cbfs.model import Message
from cbfs.naming import free_name
from cbfs.nodes import Link, MessageFile, Node
from cbfs.outbox import Process
from cbfs.provided import Provided, inode_for
from cbfs.showing import Showing
from cbfs.store import Reader, Writer
from cbfs.tree import BY_DATE, SEARCH, UNREAD, Tree

SEARCHES_MAX = 64
"""Searches whose folders are remembered."""

_UP = "../conversations"
_UP_TWICE = "../../conversations"

_LOOKERS = frozenset(
    (
        *("thunar", "pcmanfm", "pcmanfm-qt", "nautilus", "nemo", "caja", "dolphin", "ranger"),
        *("tumblerd", "gvfsd", "gvfsd-metadata", "gio", "file", "xdg-mime", "kioworker"),
        *("gdk-pixbuf-thum", "ffmpegthumbnail", "evince-thumbnai", "totem-video-thu"),
        *("tracker-miner-f", "tracker-extract", "localsearch-3", "localsearch-ext"),
        *("baloo_file", "baloo_file_extr", "updatedb", "updatedb.plocat", "recollindex"),
        *("rsync", "tar", "restic", "borg", "rclone", "duplicity", "deja-dup"),
    )
)
"""Names of programs (15 characters, as the kernel keeps them) that read files for their indexes,
thumbnails, guesses at types and copies: for them nobody has read a message."""


def counts_as_reading(process: Process | None) -> bool:
    """Whether somebody has read what this program reads."""
    return process is None or process.name.casefold() not in _LOOKERS


class Links:
    """``Provider`` of links to messages. ``search`` gives the messages in order of arrival; it is
    asked anew when ``stamp`` has changed."""

    def __init__(
        self,
        views: "Views",
        place: str,
        search: Callable[[Reader], list[Found]],
    ) -> None:
        self._views = views
        self._place = place
        self._search = search
        self._stamp = -1
        self._serials: list[int] = []
        self._links: dict[str, Link] = {}
        self._names: list[str] = []

    def find(self, name: str) -> Node | None:
        """See ``Provider``."""
        self._look()
        return self._links.get(name)

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """See ``Provider``. The place behind a message is its serial + 1."""
        self._look()
        first = bisect_left(self._serials, start)
        for serial, name in zip(self._serials[first:], self._names[first:], strict=True):
            yield serial + 1, name, self._links[name]

    async def remove(self, name: str, node: Node) -> None:
        """See ``Provider``."""
        raise TreeError(errno.EACCES)

    def modified(self) -> int:
        """See ``Provider``."""
        return self._views.changed_ns

    def _look(self) -> None:
        if self._stamp == self._views.stamp:
            return
        self._stamp = self._views.stamp
        self._links = {}
        self._serials = []
        for message in self._views.messages(self._search):
            name = free_name(message.name, self._links.__contains__)
            self._links[name] = self._views.link(self._place, _UP_TWICE, message)
            self._serials.append(message.serial)
        self._names = list(self._links)


class Days:
    """``Provider`` of by-date/: a folder for each day that has messages."""

    def __init__(self, views: "Views") -> None:
        self._views = views
        self._stamp = -1
        self._days: list[int] = []
        self._folders: dict[int, Provided] = {}

    def find(self, name: str) -> Node | None:
        """See ``Provider``."""
        self._look()
        day = index.day_number(name)
        return None if day is None else self._folders.get(day)

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """See ``Provider``. The place behind a day is its number + 1."""
        self._look()
        for day in self._days[bisect_left(self._days, start) :]:
            yield day + 1, index.day_name(day), self._folders[day]

    async def remove(self, name: str, node: Node) -> None:
        """See ``Provider``."""
        raise TreeError(errno.EACCES)

    def modified(self) -> int:
        """See ``Provider``."""
        return self._views.changed_ns

    def _look(self) -> None:
        if self._stamp == self._views.stamp:
            return
        self._stamp = self._views.stamp
        self._days = self._views.days()
        self._folders = {day: self._folders.get(day) or self._make(day) for day in self._days}

    def _make(self, day: int) -> Provided:
        place = f"by-date/{index.day_name(day)}"
        return self._views.folder(place, lambda reader: index.on_day(reader, day))


class Searches:
    """``Provider`` of search/: any name that says something is a folder in it; none is listed."""

    def __init__(self, views: "Views") -> None:
        self._views = views
        self._recent: OrderedDict[str, Provided] = OrderedDict()

    def find(self, name: str) -> Node | None:
        """See ``Provider``."""
        made = self._recent.pop(name, None) or self._make(name)
        if made is None:
            return None
        self._recent[name] = made
        if len(self._recent) > SEARCHES_MAX:
            self._recent.popitem(last=False)
        return made

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """See ``Provider``."""
        return iter(())

    async def remove(self, name: str, node: Node) -> None:
        """See ``Provider``."""
        raise TreeError(errno.EACCES)

    def modified(self) -> int:
        """See ``Provider``."""
        return self._views.changed_ns

    def _make(self, text: str) -> Provided | None:
        if text.startswith("."):  # file managers look for such names everywhere
            return None
        try:
            query = index.parse_query(text)
        except index.BadQuery:
            return None
        return self._views.folder(
            f"search/{text}", lambda reader: index.find(reader, query, self._views.folder_name)
        )


class Unread:
    """``Provider`` of unread/: in memory, in order of arrival."""

    def __init__(self, dismiss: Callable[[int], None]) -> None:
        self._dismiss = dismiss
        self._shown: dict[str, tuple[int, Link]] = {}
        self._names: dict[int, str] = {}
        self.changed_ns = time.time_ns()

    def __contains__(self, serial: int) -> bool:
        return serial in self._names

    def name(self, message: Message) -> str:
        """Take in a message: the name that its link will have."""
        taken = set(self._names.values()) if message.name in self._shown else ()
        name = free_name(message.name, taken.__contains__)
        self._names[message.serial] = name
        return name

    def show(self, name: str, serial: int, link: Link) -> None:
        """It is there from now on, when it was not read meanwhile."""
        if self._names.get(serial) == name:
            self._shown[name] = serial, link
            self.changed_ns = time.time_ns()

    def drop(self, serial: int) -> str | None:
        """It is read: the name of its link, which stays until ``hide``."""
        return self._names.pop(serial, None)

    def hide(self, name: str) -> None:
        """Its link is there no more."""
        self._shown.pop(name, None)
        self.changed_ns = time.time_ns()

    def find(self, name: str) -> Node | None:
        """See ``Provider``."""
        return self._shown[name][1] if name in self._shown else None

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """See ``Provider``. The place behind a message is its serial + 1."""
        for name, (serial, link) in list(self._shown.items()):
            if serial >= start:
                yield serial + 1, name, link

    async def remove(self, name: str, node: Node) -> None:
        """See ``Provider``. Whoever removes a link has read the message."""
        serial, _link = self._shown[name]
        self.drop(serial)
        self.hide(name)
        self._dismiss(serial)

    def modified(self) -> int:
        """See ``Provider``."""
        return self.changed_ns


class Views:
    """One for a mount. Enters its folders into the tree's root. ``stamp`` changes with each
    message that comes or goes."""

    def __init__(self, tree: Tree, showing: Showing) -> None:
        self._tree = tree
        self._store = tree.backend.store
        self._showing = showing
        self._read: list[int] = []
        self.stamp = 0
        self.changed_ns = time.time_ns()
        self._unread = Unread(self._was_read)
        for message in self.messages(index.unread):
            name = self._unread.name(message)
            self._unread.show(name, message.serial, self.link("unread", _UP, message))
        self._folder = Provided(UNREAD, Area.FIXED, self._unread)
        tree.root.add("unread", self._folder)
        tree.root.add("by-date", Provided(BY_DATE, Area.FIXED, Days(self)))
        tree.root.add("search", Provided(SEARCH, Area.FIXED, Searches(self)))
        tree.removed = self.removed

    # what comes and goes

    def added(self, message: Message) -> None:
        """It is in its folder."""
        self._changed()
        if message.recipients or message.serial in self._unread:
            return  # our own, or it came between the start of the engine and that of the mount
        link, name = self.link("unread", _UP, message), self._unread.name(message)

        def enter() -> None:
            self._unread.show(name, message.serial, link)
            self._folder.touch(time.time_ns())

        self._showing.show(f"unread/{name}", link, enter)

    def removed(self, serial: int) -> None:
        """It was deleted."""
        self._changed()
        self._no_longer_new(serial)

    def read_up_to(self, node: Node, end: int) -> None:
        """Somebody has read so many bytes of it: when that is all, it is not new any more."""
        if isinstance(node, MessageFile) and end >= node.size and self._no_longer_new(node.serial):
            self._was_read(node.serial)

    def is_new(self, node: Node) -> bool:
        """Whether it is a message in unread/."""
        return isinstance(node, MessageFile) and node.serial in self._unread

    async def flush(self) -> None:
        """Keep what has been read. A crash before shows it as unread once more."""
        serials, self._read = self._read, []

        def change(writer: Writer) -> None:
            for serial in serials:
                index.set_read(writer, serial)

        if serials:
            await self._store.commit(change)

    def _changed(self) -> None:
        self.stamp += 1
        self.changed_ns = time.time_ns()

    def _was_read(self, serial: int) -> None:
        self._read.append(serial)
        self._tree.changed()

    def _no_longer_new(self, serial: int) -> bool:
        name = self._unread.drop(serial)
        if name is None:
            return False

        def leave() -> None:
            self._unread.hide(name)
            self._folder.touch(time.time_ns())

        self._showing.remove(f"unread/{name}", leave)
        return True

    # what the folders ask

    def messages(self, search: Callable[[Reader], list[Found]]) -> list[Message]:
        """Those that are found, of conversations that are shown."""
        with self._store.read() as reader:
            found = (
                get_message(reader, one.conversation, one.serial)
                for one in search(reader)
                if self._tree.knows(one.conversation)
            )
            return [message for message in found if message is not None]

    def days(self) -> list[int]:
        """Those that have messages."""
        with self._store.read() as reader:
            return list(index.days(reader))

    def folder(self, place: str, search: Callable[[Reader], list[Found]]) -> Provided:
        """A folder of links to what is found."""
        inode = inode_for(b"view", place.encode())
        return Provided(inode, Area.FIXED, Links(self, place, search))

    def folder_name(self, conversation: bytes) -> str:
        """What a conversation's folder is called; nothing for one that is not shown."""
        return (
            self._tree.conversation(conversation).folder if self._tree.knows(conversation) else ""
        )

    def link(self, place: str, up: str, message: Message) -> Link:
        """The link in a folder, always of the same inode."""
        target = f"{up}/{self.folder_name(message.conversation)}/{message.name}"
        inode = inode_for(
            b"link", place.encode(), message.conversation, str(message.serial).encode()
        )
        return Link(inode, target, message.date * 1_000_000, recorded=False)
