"""Folders that show the same messages another way: by-date/ and search/; for unread/ see
``cbfs.tree.virtual.unread_folder``.

Their files are links to the messages under conversations/. What days and searches hold is looked
up in the index (``cbfs.messages.search_index``) when somebody looks and something has come or gone
since.
"""

import errno
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from cbfs.interface import Backend
from cbfs.messages import search_index
from cbfs.messages.file_names import free_name
from cbfs.messages.history import get_message
from cbfs.messages.model import Message
from cbfs.messages.search_index import SearchHit
from cbfs.storage.store import Reader
from cbfs.tree.nodes import BY_DATE, SEARCH, Folder, Node, SymbolicLink
from cbfs.tree.rules import Area, TreeError
from cbfs.tree.virtual.unread_folder import Unread
from cbfs.tree.virtual.virtual_directory import VirtualDirectory, inode_for
from cbfs_common.errors import DecodeError

SEARCHES_MAX = 64
"""Searches whose folders are remembered."""

LOOKS_MAX = 8
"""Folders of days and searches whose contents are remembered."""

Search = Callable[[Reader], list[SearchHit]]

_UP_TWICE = "../../conversations"


@dataclass(frozen=True, slots=True)
class _Look:
    """What a search has found, by name in order of arrival: (conversation, name there, date)."""

    stamp: int
    serials: list[int]
    entries: dict[str, tuple[bytes, str, int]]


class MessageLinks:
    """``Provider`` of links to messages. ``search`` gives the messages in order of arrival; it is
    asked anew when something has come or gone, or when other folders have been looked at."""

    def __init__(self, search_folders: "SearchFolders", place: str, search: Search) -> None:
        self._search_folders = search_folders
        self._place = place
        self._search = search

    def find(self, name: str) -> Node | None:
        """The link of that name; None when nothing that was found is called so."""
        look = self._search_folders.look(self._place, self._search)
        return self._link(name, *look.entries[name]) if name in look.entries else None

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """Links from place ``start`` on, in order of arrival. The place behind a message is its
        serial + 1."""
        look = self._search_folders.look(self._place, self._search)
        first = bisect_left(look.serials, start)
        entries = islice(look.entries.items(), first, None)
        for serial, (name, entry) in zip(look.serials[first:], entries, strict=True):
            yield serial + 1, name, self._link(name, *entry)

    async def remove(self, name: str, node: Node) -> None:
        """Nothing can be removed here. Raises TreeError(EACCES)."""
        raise TreeError(errno.EACCES)

    def modified(self) -> int:
        """When a message last came, went or got another name, in nanoseconds; else when the mount
        began."""
        return self._search_folders.changed_ns

    def stamp(self) -> int:
        """How often messages have come, gone or got other names in this mount."""
        return self._search_folders.stamp

    def folders(self) -> int:
        """Always 0: there are only links."""
        return 0

    def _link(self, name: str, conversation: bytes, message: str, date: int) -> SymbolicLink:
        return self._search_folders.link(
            f"{self._place}/{name}", _UP_TWICE, conversation, message, date
        )


class Days:
    """``Provider`` of by-date/: a folder for each day that has messages."""

    def __init__(self, search_folders: "SearchFolders") -> None:
        self._search_folders = search_folders
        self._stamp = -1
        self._days: list[int] = []
        self._folders: dict[int, VirtualDirectory] = {}

    def find(self, name: str) -> Node | None:
        """The folder of that day, as ``2026-11-23``; None when no message is of that day."""
        self._look()
        day = search_index.day_number(name)
        return None if day is None else self._folders.get(day)

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """Folders of days from place ``start`` on, the earliest first. The place behind a day is
        its number + 1."""
        self._look()
        for day in self._days[bisect_left(self._days, start) :]:
            yield day + 1, search_index.day_name(day), self._folders[day]

    async def remove(self, name: str, node: Node) -> None:
        """Nothing can be removed here. Raises TreeError(EACCES)."""
        raise TreeError(errno.EACCES)

    def modified(self) -> int:
        """When a message last came, went or got another name, in nanoseconds; else when the mount
        began."""
        return self._search_folders.changed_ns

    def stamp(self) -> int:
        """How often messages have come, gone or got other names in this mount."""
        return self._search_folders.stamp

    def folders(self) -> int:
        """How many days there are that have messages."""
        self._look()
        return len(self._days)

    def _look(self) -> None:
        if self._stamp == self._search_folders.stamp:
            return
        self._stamp = self._search_folders.stamp
        self._days = self._search_folders.days()
        self._folders = {day: self._folders.get(day) or self._make(day) for day in self._days}

    def _make(self, day: int) -> VirtualDirectory:
        place = f"by-date/{search_index.day_name(day)}"
        return self._search_folders.folder(place, lambda reader: search_index.on_day(reader, day))


class Searches:
    """``Provider`` of search/: any name that says something is a folder in it; none is listed."""

    def __init__(self, search_folders: "SearchFolders") -> None:
        self._search_folders = search_folders
        self._recent: OrderedDict[str, VirtualDirectory] = OrderedDict()

    def find(self, name: str) -> Node | None:
        """The folder of what this text finds; None for a text that does not say what to look
        for."""
        made = self._recent.pop(name, None) or self._make(name)
        if made is None:
            return None
        self._recent[name] = made
        if len(self._recent) > SEARCHES_MAX:
            self._recent.popitem(last=False)
        return made

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """Nothing: a search is there when somebody looks it up."""
        return iter(())

    async def remove(self, name: str, node: Node) -> None:
        """Nothing can be removed here. Raises TreeError(EACCES)."""
        raise TreeError(errno.EACCES)

    def modified(self) -> int:
        """When a message last came, went or got another name, in nanoseconds; else when the mount
        began."""
        return self._search_folders.changed_ns

    def stamp(self) -> int:
        """How often messages have come, gone or got other names in this mount."""
        return self._search_folders.stamp

    def folders(self) -> int:
        """Always 0: no search is listed."""
        return 0

    def _make(self, text: str) -> VirtualDirectory | None:
        if text.startswith("."):  # file managers look for such names everywhere
            return None
        try:
            query = search_index.parse_query(text, self._search_folders.called)
        except search_index.BadQuery:
            return None
        return self._search_folders.folder(
            f"search/{text}",
            lambda reader: search_index.find(reader, query, self._search_folders.folder_name),
        )


class SearchFolders:
    """The folders by-date/ and search/ of one mount, which it enters into ``root``, beside
    ``unread``. ``folder_name`` says what the folder of a conversation is called: empty for one that
    is not shown. ``stamp`` changes with each message that comes, goes or gets another name."""

    def __init__(
        self, root: Folder, backend: Backend, folder_name: Callable[[bytes], str], unread: Unread
    ) -> None:
        self._people = backend.people
        self._store = backend.store
        self.folder_name = folder_name
        self.stamp = 0
        self.changed_ns = time.time_ns()
        self._looks: OrderedDict[str, _Look] = OrderedDict()
        self.unread = unread
        root.add("by-date", VirtualDirectory(BY_DATE, Area.FIXED, Days(self)))
        root.add("search", VirtualDirectory(SEARCH, Area.FIXED, Searches(self)))

    # what comes and goes

    def added(self, message: Message) -> None:
        """A message is in its folder now."""
        self._changed()
        self.unread.added(message)

    def removed(self, serial: int) -> None:
        """The message of that serial was deleted."""
        self._changed()
        self.unread.removed(serial)

    def left(self, conversation: bytes) -> None:
        """The folders of a conversation are shown no more."""
        self._changed()
        self.unread.left(conversation)

    def _changed(self) -> None:
        self.stamp += 1
        self.changed_ns = max(time.time_ns(), self.changed_ns + 1)

    def moved(self, messages: Iterable[Message] = ()) -> None:
        """These messages, or folders of conversations, have other names."""
        self.unread.renamed(messages)
        self._changed()

    # what the folders ask

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
                if message is not None and self.folder_name(one.conversation):
                    name = free_name(message.name, look.entries.__contains__)
                    look.entries[name] = (message.conversation, message.name, message.date)
                    look.serials.append(message.serial)
        return look

    def called(self, text: str) -> str:
        """The true name of whom a search means; what is no name finds nothing."""
        try:
            return self._people.called(text)
        except DecodeError:
            return text

    def days(self) -> list[int]:
        """Numbers of the days that have messages, the earliest first."""
        with self._store.read() as reader:
            return list(search_index.days(reader))

    def folder(self, place: str, search: Search) -> VirtualDirectory:
        """A folder of links to what is found."""
        inode = inode_for(b"view", place.encode())
        return VirtualDirectory(inode, Area.FIXED, MessageLinks(self, place, search))

    def link(
        self, place: str, up: str, conversation: bytes, message: str, date: int
    ) -> SymbolicLink:
        """A link to a message, of the same inode each time."""
        target = f"{up}/{self.folder_name(conversation)}/{message}"
        inode = inode_for(b"view", place.encode())
        return SymbolicLink(inode, target, date * 1_000_000, recorded=False)
