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
from dataclasses import dataclass
from itertools import islice

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

LOOKS_MAX = 8
"""Folders of days and searches whose contents are remembered."""

Search = Callable[[Reader], list[Found]]

_UP = "../conversations"
_UP_TWICE = "../../conversations"

_LOOKERS = frozenset(
    (
        *("thunar", "pcmanfm", "pcmanfm-qt", "nautilus", "nemo", "caja", "dolphin", "ranger"),
        *("tumblerd", "gvfsd", "gvfsd-metadata", "gio", "file", "xdg-mime", "kioworker"),
        *("gdk-pixbuf-thum", "ffmpegthumbnail", "evince-thumbnai", "totem-video-thu"),
        *("tracker-miner-f", "tracker-extract", "localsearch-3", "localsearch-ext"),
        *("baloo_file", "baloo_file_extr", "updatedb", "updatedb.plocat", "recollindex"),
        *("cp", "rsync", "tar", "restic", "borg", "rclone", "duplicity", "deja-dup"),
        *("grep", "egrep", "fgrep", "zgrep", "rg", "ag", "ack", "diff", "cmp", "wc", "find"),
    )
)
"""Names of programs (15 characters, as the kernel keeps them) that read files for their indexes,
thumbnails, guesses at types, searches and copies: for them nobody has read a message."""


def counts_as_reading(process: Process | None) -> bool:
    """Whether somebody has read what this program reads."""
    return process is None or process.name.casefold() not in _LOOKERS


@dataclass(frozen=True, slots=True)
class _Look:
    """What a search has found, by name in order of arrival: (conversation, name there, date)."""

    stamp: int
    serials: list[int]
    entries: dict[str, tuple[bytes, str, int]]


class Links:
    """``Provider`` of links to messages. ``search`` gives the messages in order of arrival; it is
    asked anew when something has come or gone, or when other folders have been looked at."""

    def __init__(self, views: "Views", place: str, search: Search) -> None:
        self._views = views
        self._place = place
        self._search = search

    def find(self, name: str) -> Node | None:
        """See ``Provider``."""
        look = self._views.look(self._place, self._search)
        return self._link(name, *look.entries[name]) if name in look.entries else None

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """See ``Provider``. The place behind a message is its serial + 1."""
        look = self._views.look(self._place, self._search)
        first = bisect_left(look.serials, start)
        entries = islice(look.entries.items(), first, None)
        for serial, (name, entry) in zip(look.serials[first:], entries, strict=True):
            yield serial + 1, name, self._link(name, *entry)

    async def remove(self, name: str, node: Node) -> None:
        """See ``Provider``."""
        raise TreeError(errno.EACCES)

    def modified(self) -> int:
        """See ``Provider``."""
        return self._views.changed_ns

    def _link(self, name: str, conversation: bytes, message: str, date: int) -> Link:
        return self._views.link(f"{self._place}/{name}", _UP_TWICE, conversation, message, date)


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
    """``Provider`` of unread/. In memory is which messages are new and, from when somebody first
    looks or one arrives, the names of their links; all else is in the store."""

    def __init__(self, views: "Views", new: dict[int, bytes]) -> None:
        self._views = views
        self._new = new  # the conversation of each message, by its serial
        self._hidden: set[int] = set()  # new, and watchers have not been told yet
        self._serials: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._named = False
        self._leaving: dict[str, Link] = {}  # read, and watchers have not been told yet
        self.changed_ns = time.time_ns()

    def __contains__(self, serial: int) -> bool:
        return serial in self._new

    def add(self, message: Message) -> str:
        """Take in a message, not shown yet: the name that its link will have."""
        self._need_names()
        self._new[message.serial] = message.conversation
        self._hidden.add(message.serial)
        return self._name(message)

    def show(self, serial: int) -> None:
        """It is there from now on."""
        self._hidden.discard(serial)
        self.changed_ns = time.time_ns()

    def drop(self, serial: int) -> str | None:
        """It is read: the name of its link, which stays until ``hide``; None when it has none."""
        self._need_names()
        self._new.pop(serial, None)
        self._hidden.discard(serial)
        name = self._names.pop(serial, None)
        if name is not None:
            del self._serials[name]
            self._leaving[name] = Link(_inode(name), "", time.time_ns(), recorded=False)
        return name

    def hide(self, name: str) -> None:
        """Its link is there no more."""
        self._leaving.pop(name, None)
        self.changed_ns = time.time_ns()

    def find(self, name: str) -> Node | None:
        """See ``Provider``."""
        self._need_names()
        return self._leaving.get(name) or self._link(name)

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """See ``Provider``. The place behind a message is its serial + 1."""
        self._need_names()
        for serial in sorted(serial for serial in self._names if serial >= start):
            name = self._names[serial]
            link = self._link(name)
            if link is not None:
                yield serial + 1, name, link

    async def remove(self, name: str, node: Node) -> None:
        """See ``Provider``. Whoever removes a link has read the message."""
        serial = self._serials.get(name)
        if serial is not None:
            self.drop(serial)
            self.hide(name)
            self._views.was_read(serial)

    def modified(self) -> int:
        """See ``Provider``."""
        return self.changed_ns

    def _need_names(self) -> None:
        if self._named:
            return
        self._named = True
        for serial, conversation in list(self._new.items()):
            message = self._views.message(conversation, serial)
            if message is not None:
                self._name(message)

    def _name(self, message: Message) -> str:
        name = free_name(message.name, self._serials.__contains__)
        self._serials[name] = message.serial
        self._names[message.serial] = name
        return name

    def _link(self, name: str) -> Link | None:
        serial = self._serials.get(name, 0)
        conversation = self._new.get(serial)
        if conversation is None or serial in self._hidden:
            return None
        message = self._views.message(conversation, serial)
        return self.link(name, message) if message is not None else None

    def link(self, name: str, message: Message) -> Link:
        """Of this name, to a message."""
        target = f"{_UP}/{self._views.folder_name(message.conversation)}/{message.name}"
        return Link(_inode(name), target, message.date * 1_000_000, recorded=False)


def _inode(name: str) -> int:
    return inode_for(b"unread", name.encode())


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
        self._looks: OrderedDict[str, _Look] = OrderedDict()
        self._unread = Unread(self, self._load_new())
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
        sender = self._tree.backend.contact(message.sender)
        if sender is not None and sender.muted:
            return
        name = self._unread.add(message)
        link = self._unread.link(name, message)

        def enter() -> None:
            self._unread.show(message.serial)
            self._folder.touch(time.time_ns())

        self._showing.show(f"unread/{name}", link, enter)

    def removed(self, serial: int) -> None:
        """It was deleted."""
        self._changed()
        self._no_longer_new(serial)

    def read_up_to(self, node: Node, end: int) -> None:
        """Somebody has read so many bytes of it: when that is all, it is not new any more."""
        if isinstance(node, MessageFile) and end >= node.size and self._no_longer_new(node.serial):
            self.was_read(node.serial)

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

    def was_read(self, serial: int) -> None:
        """Keep that, at the next ``flush``."""
        self._read.append(serial)
        self._tree.changed()

    def _no_longer_new(self, serial: int) -> bool:
        name = self._unread.drop(serial) if serial in self._unread else None
        if name is None:
            return False

        def leave() -> None:
            self._unread.hide(name)
            self._folder.touch(time.time_ns())

        self._showing.remove(f"unread/{name}", leave)
        return True

    # what the folders ask

    def message(self, conversation: bytes, serial: int) -> Message | None:
        """One of a conversation that is shown."""
        if not self._tree.knows(conversation):
            return None
        with self._store.read() as reader:
            return get_message(reader, conversation, serial)

    def look(self, place: str, search: Search) -> _Look:
        """What is found now; the last few are remembered."""
        look = self._looks.pop(place, None)
        if look is None or look.stamp != self.stamp:
            look = self._search(search)
        self._looks[place] = look
        if len(self._looks) > LOOKS_MAX:
            self._looks.popitem(last=False)
        return look

    def _search(self, search: Search) -> _Look:
        look = _Look(self.stamp, [], {})
        with self._store.read() as reader:
            for one in search(reader):
                message = get_message(reader, one.conversation, one.serial)
                if message is not None and self._tree.knows(one.conversation):
                    name = free_name(message.name, look.entries.__contains__)
                    look.entries[name] = (message.conversation, message.name, message.date)
                    look.serials.append(message.serial)
        return look

    def _load_new(self) -> dict[int, bytes]:
        known: dict[bytes, bytes] = {}  # one object for each conversation
        with self._store.read() as reader:
            return {
                one.serial: known.setdefault(one.conversation, one.conversation)
                for one in index.unread(reader)
            }

    def days(self) -> list[int]:
        """Those that have messages."""
        with self._store.read() as reader:
            return list(index.days(reader))

    def folder(self, place: str, search: Search) -> Provided:
        """A folder of links to what is found."""
        inode = inode_for(b"view", place.encode())
        return Provided(inode, Area.FIXED, Links(self, place, search))

    def folder_name(self, conversation: bytes) -> str:
        """What a conversation's folder is called; nothing for one that is not shown."""
        return (
            self._tree.conversation(conversation).folder if self._tree.knows(conversation) else ""
        )

    def link(self, place: str, up: str, conversation: bytes, message: str, date: int) -> Link:
        """A link to a message, of the same inode each time."""
        target = f"{up}/{self.folder_name(conversation)}/{message}"
        inode = inode_for(b"view", place.encode())
        return Link(inode, target, date * 1_000_000, recorded=False)
