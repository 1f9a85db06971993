"""Links to messages, found when somebody looks: what search/, by-date/ and unread/ are made of.

There may be a million messages, and finding some takes seconds: it is done in a thread, a little in
each transaction, so that nobody else waits; the newest are found first, and as many as were asked
for. A folder shows no more than LINKS_MOST of them.
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

import trio

from cbfs.messages import search_index
from cbfs.messages.file_names import free_name
from cbfs.messages.history import get_message
from cbfs.messages.model import Message
from cbfs.messages.search_index import SEGMENT, Query, SearchHit
from cbfs.storage.faults import harmless
from cbfs.storage.store import Reader, Series, Store
from cbfs.tree.nodes import Node, Text
from cbfs.tree.virtual.virtual_directory import PAGE, inode_for

LINKS_MOST = 10_000
"""Links that a folder has, those to the newest messages: more nobody reads, and a search says
better what is meant."""

STEP = 64
"""Segments of the index that are read in one transaction: it takes a few milliseconds."""

MORE = "MORE"
"""The text in a folder that does not show all links, which says so."""

_MORE_TEXT = f"""\
There are more messages than are shown here: only the newest {LINKS_MOST:,} are. A search finds the
others, by more words or by days: ls 'search/lunch before:2026-11-24'
"""

_LAST = 1 << 61
"""No serial is greater. The place of a link is by how much its message's serial is less: so the
newest are first, and places keep their meaning when others come."""

_UNREAD = 1 << 31
_threads = trio.CapacityLimiter(1)
"""One thread has the processor, of all that look for something."""

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """What ``work`` returns, in a thread. Nothing else is looked for meanwhile."""
    return await trio.to_thread.run_sync(work, limiter=_threads)


class Overview:
    """Of each message, by its serial, the day that it is found on and whether it is unread: four
    bytes of each, read from the store when they are first needed. What has come, gone or been read
    before that counts all the same."""

    def __init__(self, store: Store, failed: Callable[[], None] = lambda: None) -> None:
        """``failed`` is told of faults of those who hear: none harms who has read it."""
        self._store = store
        self._failed = failed
        self._values = array("I")  # the day + 1, and _UNREAD; 0 where no message is
        self._changes: dict[int, list[Callable[[int], int]]] = {}
        self._counts: dict[int, int] = {}
        self._loading = trio.Lock()
        self.is_loaded = False
        self.heard: list[Callable[[int], None]] = []
        """Called with the serial of each message that somebody has read."""

    async def load(self) -> None:
        """Return when all of it is known."""
        if self.is_loaded:
            return
        async with self._loading:
            if self.is_loaded:
                return
            values, counts = array("I"), dict[int, int]()
            segment: int | None = 0
            while segment is not None:
                segment = await in_thread(lambda first=segment: self._load(first, values, counts))  # type: ignore[misc]
            self._values, self._counts, self.is_loaded = values, counts, True
            changes, self._changes = self._changes, {}
            for serial, made in changes.items():
                for change in made:
                    self._change(serial, change)

    def _load(self, first: int, values: "array[int]", counts: dict[int, int]) -> int | None:
        """Add what is known of STEP segments. Gives the next one, None behind the last."""
        with self._store.read() as reader:
            behind = search_index.segments(reader)
            last = min(first + STEP, behind)
            values.extend([0] * (last * SEGMENT - len(values)))
            for segment in range(first, last):
                for number, _conversation, day, new in search_index.entries(reader, segment):
                    values[segment * SEGMENT + number] = day + 1 | new * _UNREAD
                    counts[day] = counts.get(day, 0) + 1
        return last if last < behind else None

    def added(self, message: Message, *, unread: bool) -> None:
        """A message is there."""
        value = search_index.day_of(message.date) + 1 | unread * _UNREAD
        self._change(message.serial, lambda _old: value)

    def removed(self, serial: int) -> None:
        """The message of that serial was deleted."""
        self._change(serial, lambda _old: 0)

    def read(self, serial: int) -> None:
        """The message of that serial was read."""
        self._change(serial, lambda old: old & ~_UNREAD)
        for hear in self.heard:
            with harmless(self._failed):
                hear(serial)

    def read_again(self, serial: int) -> None:
        """The message of that serial is to be read once more."""
        self._change(serial, lambda old: old and old | _UNREAD)

    def dated(self, message: Message) -> None:
        """A message may be found on another day than before."""
        day = search_index.day_of(message.date)
        self._change(message.serial, lambda old: old and (day + 1 | old & _UNREAD))

    def is_unread(self, serial: int) -> bool:
        """Whether nobody has read the message of that serial."""
        if self.is_loaded:
            return serial < len(self._values) and self._values[serial] & _UNREAD > 0
        segment, number = divmod(serial, SEGMENT)
        with self._store.read() as reader:
            known = search_index.entries(reader, segment)
        value = sum(day + 1 | new * _UNREAD for n, _c, day, new in known if n == number)
        for change in self._changes.get(serial, ()):
            value = change(value)
        return value & _UNREAD > 0

    def unread_from(self, start: int) -> Iterator[int]:
        """The serials of the messages that nobody has read, from one on, in order, when they are
        known."""
        values = self._values
        return (serial for serial in range(start, len(values)) if values[serial] & _UNREAD)

    def days(self) -> list[int]:
        """Numbers of the days that have messages, the earliest first, when they are known."""
        return sorted(self._counts)

    def has(self, day: int) -> bool:
        """Whether a day has messages, when that is known."""
        return day in self._counts

    def on_day(self, day: int) -> "Scan":
        """The messages of that day."""
        return Scan(self, lambda value: value & ~_UNREAD == day + 1)

    def unread(self) -> "Scan":
        """The messages that nobody has read."""
        return Scan(self, lambda value: value & _UNREAD > 0)

    def serials(self, below: int, above: int, is_right: Callable[[int], bool]) -> Iterator[int]:
        """Serials between two of which what is known is right, the last first. In any thread."""
        values = self._values
        found = range(min(below, len(values)) - 1, above, -1)
        return (serial for serial in found if is_right(values[serial]))

    def _change(self, serial: int, change: Callable[[int], int]) -> None:
        if not self.is_loaded:
            self._changes.setdefault(serial, []).append(change)
            return
        if serial >= len(self._values):
            self._values.extend([0] * (serial + SEGMENT - len(self._values)))
        for value, more in ((self._values[serial], -1), (change(self._values[serial]), 1)):
            self._values[serial] = value
            day = (value & ~_UNREAD) - 1
            if value:
                self._counts[day] = self._counts.get(day, 0) + more
            if value and not self._counts[day]:
                del self._counts[day]


class LinkSource(Protocol):
    """What a folder of links shows."""

    async def begin(self) -> None:
        """Be ready to be asked."""

    def find(self, reader: Reader, below: int, above: int) -> tuple[list[SearchHit], int]:
        """Some of what is right between two serials, the newest first; and below which serial to
        go on. In a thread, for some milliseconds."""


class Scan:
    """A ``LinkSource`` by what ``overview`` knows of each message."""

    def __init__(self, overview: Overview, is_right: Callable[[int], bool]) -> None:
        self._overview = overview
        self._is_right = is_right

    async def begin(self) -> None:
        """All must be known."""
        await self._overview.load()

    def find(self, reader: Reader, below: int, above: int) -> tuple[list[SearchHit], int]:
        """PAGE of them."""
        found = list(islice(self._overview.serials(below, above, self._is_right), PAGE))
        places: dict[int, dict[int, bytes]] = {}
        for segment in {serial // SEGMENT for serial in found}:
            known = search_index.entries(reader, segment)
            places[segment] = {number: conversation for number, conversation, *_ in known}
        hits = [
            SearchHit(places[serial // SEGMENT][serial % SEGMENT], serial)
            for serial in found
            if serial % SEGMENT in places[serial // SEGMENT]
        ]
        return hits, found[-1] if len(found) == PAGE else above + 1


class LinkSearch:
    """A ``LinkSource`` by a query. ``folder_name``: that of a conversation's folder."""

    def __init__(self, query: Query, folder_name: Callable[[bytes], str]) -> None:
        self._query = query
        self._folder_name = folder_name

    async def begin(self) -> None:
        """The store has all."""

    def find(self, reader: Reader, below: int, above: int) -> tuple[list[SearchHit], int]:
        """Those of some segments."""
        last = (below - 1) // SEGMENT
        hits: list[SearchHit] = []
        for segment in range(last, max(last - STEP, -1), -1):
            if len(hits) >= PAGE or segment * SEGMENT + SEGMENT <= above:
                break
            below = segment * SEGMENT
            found = search_index.find(reader, self._query, self._folder_name, segment)
            hits += [hit for hit in reversed(found) if hit.serial > above]
        return hits, max(below, above + 1)


class FoundLink(NamedTuple):
    """A message that was found: the name of its link, where it is, its name there, its date in
    milliseconds since 1970."""

    link: str
    conversation: bytes
    name: str
    date: int


@dataclass(frozen=True, slots=True)
class _Step:
    hits: list[tuple[int, bytes, str, int]]
    below: int
    newest: int


class Look:
    """What was found so far by ``source``, from the newest message on. ``make`` gives the link to a
    message, by its serial; None for one that is not shown. ``place`` is the folder's path. What has
    come since is looked for when ``stamp`` gives another number than before."""

    def __init__(
        self,
        store: Store,
        source: LinkSource,
        make: Callable[[int, FoundLink], Node | None],
        place: str,
        stamp: Callable[[], int] = lambda: 0,
    ) -> None:
        self._store = store
        self._source = source
        self._make = make
        self._stamp = stamp
        self._seen = -1
        self._conversations: dict[bytes, bytes] = {}  # one object of each
        self._text = Text(inode_for(b"more", place.encode()), _MORE_TEXT.encode, 0)
        self._serials: dict[str, int] = {}
        self._found: dict[int, FoundLink] = {}
        self._order: list[int] = []  # their places
        self._below = 0  # nothing was looked at yet below this serial ...
        self._newest = -1  # ... nor above this one
        self._gone: set[int] = set()  # while something is looked for
        self._has_more = False
        self._busy = trio.Lock()

    async def look_for(self, name: str) -> None:
        """Return when ``find`` knows of that name."""
        if name[:1].isdigit() or name == MORE:  # as the names of all links begin
            await self._go_on(lambda: name in self._serials)

    async def look_from(self, start: int) -> None:
        """Return when ``page`` knows of links from a place on, or that there are none."""
        # not all that is known is shown: a reader takes a page of nothing for the end
        await self._go_on(lambda: next(self.page(start), None) is not None)

    @property
    def is_busy(self) -> bool:
        """Whether something is looked for: it is to hear of what goes meanwhile."""
        return self._busy.locked()

    def find(self, name: str) -> Node | None:
        """The link of that name, as far as it is known."""
        serial = self._serials.get(name)
        if serial is None:
            return self._text if name == MORE and self._has_more else None
        return self._make(serial, self._found[serial])

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """Links from place ``start`` on that are known, the newest message first."""
        for place in islice(self._order, bisect_left(self._order, start), None):
            found = self._found[_LAST - place]
            node = self._make(_LAST - place, found)
            if node is not None:
                yield place + 1, found.link, node
        if self._has_more and not self._may_go_on and start <= _LAST + 1:  # at the end of all
            yield _LAST + 2, MORE, self._text

    def known(self, serial: int) -> FoundLink | None:
        """What is known of that message."""
        return self._found.get(serial)

    def of(self, conversation: bytes) -> list[int]:
        """The serials of the messages of a conversation that are known."""
        return [s for s, found in self._found.items() if found.conversation == conversation]

    def put(self, serial: int, conversation: bytes, name: str, date: int) -> str:
        """One more is to be shown: the name of its link."""
        known = self._found.get(serial)
        if known is not None:
            return known.link
        link = free_name(name, self._serials.__contains__)
        place = self._conversations.setdefault(conversation, conversation)
        self._found[serial] = FoundLink(link, place, link if link == name else name, date)
        self._serials[link] = serial
        insort(self._order, _LAST - serial)
        if len(self._order) > LINKS_MOST:
            oldest = _LAST - self._order[-1]
            self.drop(oldest)
            self._below, self._has_more = max(self._below, oldest + 1), True
        return link

    def drop(self, serial: int) -> None:
        """That message is not to be shown any more."""
        if self.is_busy:
            self._gone.add(serial)
        found = self._found.pop(serial, None)
        if found is None:
            self._has_more = False  # it may have been that: what is below is looked for again
            return
        del self._serials[found.link]
        del self._order[bisect_left(self._order, _LAST - serial)]

    async def _go_on(self, is_enough: Callable[[], bool]) -> None:
        if self._seen == self._stamp() and (is_enough() or not self._may_go_on):
            return
        async with self._busy:
            await self._source.begin()
            stamp = self._stamp()
            if self._seen != stamp:
                await self._look_at_news()
                self._seen = stamp
            while self._may_go_on and not is_enough():
                self._take(await in_thread(lambda: self._step(self._below, -1)))
            self._has_more = self._has_more and self._below > 0

    @property
    def _may_go_on(self) -> bool:
        return self._below > 0 and not (self._has_more and len(self._order) >= LINKS_MOST)

    async def _look_at_news(self) -> None:
        """What has come since, if anything was looked at before."""
        above, below, newest = self._newest, _LAST, self._newest
        if above < 0:
            step = await in_thread(lambda: self._step(_LAST, -1))
            self._newest = step.newest
            self._take(step)
            return
        while below > above + 1:
            step = await in_thread(lambda below=below: self._step(below, above))  # type: ignore[misc]
            newest, below = max(newest, step.newest), step.below
            self._put_all(step)
        self._newest = newest

    def _step(self, below: int, above: int) -> _Step:
        with self._store.read() as reader:
            newest = reader.number(Series.MESSAGE)
            hits, below = self._source.find(reader, min(below, newest + 1), above)
            found = []
            for hit in hits:
                message = get_message(reader, hit.conversation, hit.serial)
                if message is not None:
                    found.append((hit.serial, hit.conversation, message.name, message.date))
        return _Step(found, below, newest)

    def _take(self, step: _Step) -> None:
        """Go on below what was found."""
        self._below = step.below
        self._put_all(step)

    def _put_all(self, step: _Step) -> None:
        for hit in step.hits:
            if hit[0] not in self._gone:
                self.put(*hit)
        self._gone.clear()
