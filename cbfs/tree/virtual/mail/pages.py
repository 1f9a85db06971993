"""What a listing of mail/ tells of messages, in memory: of the last segments that somebody has
looked at, and what is to be stored of that."""

from collections import OrderedDict
from collections.abc import Callable

from cbfs.messages.history import get_message
from cbfs.messages.marks.mail_pages import Page, Row, add_to_page, page_of
from cbfs.messages.search_index import SEGMENT, entries
from cbfs.storage.faults import Tasks
from cbfs.storage.store import Reader, Store, Writer

PAGES_MAX = 512
"""Segments that are remembered: some ten kilobytes each."""

FLUSH_AT = 64
"""Segments of which something new is known that is then stored, in one transaction."""


class MailPages:
    """Rows of messages by their serials. What is stored of them is stored by ``tasks``; a crash
    before that leaves it to be found anew."""

    def __init__(self, store: Store, tasks: Tasks) -> None:
        self._store = store
        self._tasks = tasks
        self._known: OrderedDict[int, Page] = OrderedDict()
        self._news: dict[int, Page] = {}
        self._storing = False

    def of(self, reader: Reader, segment: int) -> Page:
        """All messages of a segment that are in the store."""
        page = self._known.get(segment)
        if page is not None:
            return page
        known, found = page_of(reader, segment), Page()
        for number, conversation, _day, _new in entries(reader, segment):
            row = known.get(number)
            if row is None:
                message = get_message(reader, conversation, segment * SEGMENT + number)
                if message is None:
                    continue
                row = Row(conversation, message.received)
                self._note(segment, number, row)
            found[number] = row
        found |= {n: row for n, row in self._news.get(segment, {}).items() if n in found}
        self._known[segment] = found
        if len(self._known) > PAGES_MAX:
            self._known.popitem(last=False)
        return found

    def row(self, serial: int) -> Row | None:
        """That of a message, as far as it is remembered."""
        page = self._known.get(serial // SEGMENT)
        return page.get(serial % SEGMENT) if page else None

    def sized(self, serial: int, size: int, stamp: bytes) -> None:
        """The mail of a message is so long."""
        row = self.row(serial)
        if row is not None and (row.size, row.stamp) != (size, stamp):
            segment, number = divmod(serial, SEGMENT)
            row = self._known[segment][number] = row._replace(size=size, stamp=stamp)
            self._note(segment, number, row)

    def added(self, serial: int, row: Row) -> None:
        """A message has come."""
        page = self._known.get(serial // SEGMENT)
        if page is not None:
            page[serial % SEGMENT] = row

    def forget(self, serial: int) -> None:
        """A message is gone, or is another than before."""
        segment, number = divmod(serial, SEGMENT)
        for pages in (self._known, self._news):
            if segment in pages:
                pages[segment].pop(number, None)

    def forget_all(self) -> None:
        """Messages may have come at other times than before."""
        self._known.clear()
        self._news.clear()

    def _note(self, segment: int, number: int, row: Row) -> None:
        self._news.setdefault(segment, {})[number] = row
        if len(self._news) > FLUSH_AT and not self._storing:
            self._storing = True
            self._tasks.start_soon(self._flush)

    async def _flush(self) -> None:
        try:
            while len(self._news) > FLUSH_AT:
                await self._store.commit(self.keep())
        finally:
            self._storing = False

    def keep(self) -> Callable[[Writer], None]:
        """The change that stores what is new, which is not new any more."""
        news, self._news = self._news, {}

        def change(writer: Writer) -> None:
            for segment, rows in news.items():
                add_to_page(writer, segment, rows)

        return change
