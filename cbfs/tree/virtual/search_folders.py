"""Folders that show the same messages another way: by-date/ and search/; for unread/ see
``cbfs.tree.virtual.unread_folder``.

Their files are links to the messages under conversations/. What days and searches hold is looked
up in the index (``cbfs.messages.search_index``) when somebody looks, and what has come since when
somebody looks again (``cbfs.tree.virtual.message_links``).
"""

import errno
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator

from cbfs.interface import Backend
from cbfs.messages import search_index
from cbfs.messages.model import Conversation, Message
from cbfs.tree.nodes import BY_DATE, FIRST_FOUND, SEARCH, Folder, MessageLink, Node
from cbfs.tree.rules import Area, TreeError
from cbfs.tree.virtual.message_links import FoundLink, LinkSearch, LinkSource, Look, Overview, Scan
from cbfs.tree.virtual.unread_folder import Unread
from cbfs.tree.virtual.virtual_directory import SearchedDirectory, VirtualDirectory, inode_for
from cbfs_common.errors import DecodeError

SEARCHES_MAX = 64
"""Searches whose folders are remembered."""

LOOKS_MAX = 4
"""Folders of days and searches whose contents are remembered, at most some 5 MiB each."""

_UP_TWICE = "../../conversations"


class _Fixed:
    """What the providers here have in common: nothing can be removed, and all change together."""

    def __init__(self, search_folders: "SearchFolders") -> None:
        self._search_folders = search_folders

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
        """Always 0: there are only links, or searches, none of which is listed."""
        return 0


class MessageLinks(_Fixed):
    """``SearchedProvider`` of links to the messages of ``source``, in the folder ``place``."""

    def __init__(self, search_folders: "SearchFolders", place: str, source: LinkSource) -> None:
        super().__init__(search_folders)
        self._place = place
        self._source = source

    async def look_for(self, name: str) -> None:
        """Return when ``find`` knows of that name."""
        await self._search_folders.look(self._place, self._source, lambda look: look.look_for(name))

    async def look_from(self, start: int) -> None:
        """Return when ``page`` knows of some links from a place on, or that there are none."""
        await self._search_folders.look(
            self._place, self._source, lambda look: look.look_from(start)
        )

    def find(self, name: str) -> Node | None:
        """The link of that name; None when nothing that was found is called so."""
        look = self._search_folders.looked(self._place)
        return look.find(name) if look else None

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """Links from place ``start`` on, the newest message first."""
        look = self._search_folders.looked(self._place)
        return look.page(start) if look else iter(())


class Days(_Fixed):
    """``SearchedProvider`` of by-date/: a folder for each day that has messages."""

    def __init__(self, search_folders: "SearchFolders", overview: Overview) -> None:
        super().__init__(search_folders)
        self._overview = overview
        self._made: dict[int, VirtualDirectory] = {}

    async def look_for(self, name: str) -> None:
        """Return when it is known which days there are."""
        await self._overview.load()

    async def look_from(self, start: int) -> None:
        """Return when it is known which days there are."""
        await self._overview.load()

    def find(self, name: str) -> Node | None:
        """The folder of that day, as ``2026-11-23``; None when no message is of that day."""
        day = search_index.day_number(name)
        return None if day is None or not self._overview.has(day) else self._folder(day)

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """Folders of days from place ``start`` on, the earliest first. The place behind a day is
        its number + 1."""
        days = self._overview.days()
        for day in days[bisect_left(days, start) :]:
            yield day + 1, search_index.day_name(day), self._folder(day)

    def folders(self) -> int:
        """How many days there are that have messages, -1 while nobody knows."""
        return len(self._overview.days()) if self._overview.is_loaded else -1

    def _folder(self, day: int) -> VirtualDirectory:
        made = self._made.get(day)
        if made is None:
            source = self._overview.on_day(day)
            made = self._made[day] = self._search_folders.folder(_place_of(day), source)
        return made


class Searches(_Fixed):
    """``Provider`` of search/: any name that says something is a folder in it; none is listed."""

    def __init__(self, search_folders: "SearchFolders") -> None:
        super().__init__(search_folders)
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

    def _make(self, text: str) -> VirtualDirectory | None:
        if text.startswith("."):  # file managers look for such names everywhere
            return None
        folders = self._search_folders
        try:
            query = search_index.parse_query(text, folders.called)
        except search_index.BadQuery:
            return None
        return folders.folder(f"search/{text}", LinkSearch(query, folders.folder_name))


class SearchFolders:
    """The folders by-date/ and search/ of one mount, which it enters into ``root``, beside
    ``unread``. ``folder_name`` says what the folder of a conversation is called: empty for one that
    is not shown. ``stamp`` changes with each message that comes, goes or gets another name."""

    def __init__(
        self,
        root: Folder,
        backend: Backend,
        folder_name: Callable[[bytes], str],
        unread: Unread,
        overview: Overview,
    ) -> None:
        self._people = backend.people
        self._store = backend.store
        self.folder_name = folder_name
        self.stamp = 0
        self.changed_ns = self._since = time.time_ns()
        self._was_left: set[bytes] = set()
        self._looks: OrderedDict[str, Look] = OrderedDict()
        self._moves = 0
        self._overview = overview
        self.unread = unread
        root.add("by-date", SearchedDirectory(BY_DATE, Area.FIXED, Days(self, overview)))
        root.add("search", VirtualDirectory(SEARCH, Area.FIXED, Searches(self)))

    # what comes and goes

    def added(self, message: Message) -> None:
        """A message is in its folder now."""
        self._changed()
        unread = self.unread.counts(message)
        self._overview.added(message, unread=unread)
        look = self._looks.get(_place_of(search_index.day_of(message.date)))
        if look is not None:
            look.put(message.serial, message.conversation, message.name, message.date)
        if unread:
            self.unread.added(message)

    def removed(self, serial: int) -> None:
        """The message of that serial was deleted."""
        self._changed()
        self.unread.removed(serial)
        self._overview.removed(serial)
        for look in self._looks.values():
            look.drop(serial)

    def left(self, conversation: bytes) -> None:
        """The folders of a conversation are shown no more."""
        self._changed()
        self._was_left.add(conversation)
        self.unread.left(conversation)

    def shown(self, conversation: Conversation) -> None:
        """The folders of a conversation are shown from now on: if it comes back, what is in it is
        found again."""
        if conversation.id in self._was_left or conversation.started * 1_000_000 < self._since:
            self._was_left.discard(conversation.id)
            self.moved()

    def moved(self, messages: Iterable[Message] = ()) -> None:
        """These messages, or folders of conversations, have other names; or a conversation is
        shown."""
        self._changed()
        self._looks.clear()
        self._moves += 1
        messages = tuple(messages)
        for message in messages:
            self._overview.dated(message)
        self.unread.renamed(messages)

    def _changed(self) -> None:
        self.stamp += 1
        self.changed_ns = max(time.time_ns(), self.changed_ns + 1)

    # what the folders ask

    async def look(
        self, place: str, source: LinkSource, ask: Callable[[Look], Awaitable[None]]
    ) -> None:
        """Ask what was found in a folder to go on; ``looked`` gives it then."""
        while True:
            look, moves = self.looked(place), self._moves
            if look is None:
                # what comes to a day is put there, what comes to a search is looked for
                stamp = (lambda: 0) if isinstance(source, Scan) else (lambda: self.stamp)
                look = Look(self._store, source, self._link, place, stamp)
                self._looks[place] = look
            await ask(look)
            if moves == self._moves:
                break  # else names are others by now
        self._looks.pop(place, None)
        at_rest = [other for other, each in self._looks.items() if not each.is_busy]
        self._looks[place] = look
        # one that is busy is told of what goes meanwhile, and goes when others have been asked
        for other in at_rest[: max(0, len(self._looks) - LOOKS_MAX)]:
            del self._looks[other]

    def looked(self, place: str) -> Look | None:
        """What was found in a folder, when that is remembered."""
        return self._looks.get(place)

    def called(self, text: str) -> str:
        """The true name of whom a search means; what is no name finds nothing."""
        try:
            return self._people.called(text)
        except DecodeError:
            return text

    def folder(self, place: str, source: LinkSource) -> VirtualDirectory:
        """A folder of links to what is found."""
        inode = inode_for(b"view", place.encode())
        return SearchedDirectory(inode, Area.FIXED, MessageLinks(self, place, source))

    def link(self, serial: int, conversation: bytes, message: str, date: int) -> MessageLink:
        """A link to a message, of the same inode each time."""
        target = f"{_UP_TWICE}/{self.folder_name(conversation)}/{message}"
        return MessageLink(FIRST_FOUND + serial, target, date)

    def _link(self, serial: int, found: FoundLink) -> Node | None:
        if not self.folder_name(found.conversation):
            return None
        return self.link(serial, found.conversation, found.name, found.date)


def _place_of(day: int) -> str:
    return f"by-date/{search_index.day_name(day)}"
