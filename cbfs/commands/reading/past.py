"""The history of an account as it is read from its store, a message at a time, in one snapshot:
what is in memory is one message and some places, however many there are.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from cbfs.messages import listings, search_index
from cbfs.messages.content import gone_entries, read_content, read_table
from cbfs.messages.conversations import label, left_ones, load_conversations, shown_name
from cbfs.messages.file_names import shown_file_name
from cbfs.messages.history import get_message
from cbfs.messages.model import Content, Conversation, Message
from cbfs.messages.queues import blobs
from cbfs.storage.records import DamagedRecord, Reader
from cbfs_common.errors import DecodeError
from cbfs_common.messages.folder import TOP

AT_ONCE = 8_192
"""Places of messages of a conversation that are put in order at once."""

TEXT_MAX = 65_536
"""Bytes of a message that may be a text; what is longer is a file."""

STRETCH = 1 << 20
"""Bytes of a content that are read at once."""

_PEOPLE = 4_096
"""People of whom is remembered what they are called."""

_FIRST = (-(1 << 63), 0, 0)


@dataclass(frozen=True, slots=True)
class PastFile:
    """A file of a message: its name, with the folders above it in a message that is a folder, as it
    may be shown (empty where its sender gave none), and where it is in the content."""

    name: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class PastMessage:
    """A message and where it is. ``text`` is what it says when it is a text; then it has no
    ``files``, nor when it is not ``whole``: a large file that has not all come."""

    message: Message
    place: Conversation
    text: str | None
    files: tuple[PastFile, ...]
    unread: bool
    whole: bool


@dataclass(frozen=True, slots=True)
class Amount:
    """How many messages there are, and the bytes of their contents."""

    messages: int
    size: int


class Past:
    """What one transaction shows of an account's history, without conversations that were left, and
    without messages whose time is over ``now`` (milliseconds since 1970), which the next mount
    deletes. ``damaged`` counts messages that could not be read."""

    def __init__(self, reader: Reader, now: int) -> None:
        self.reader = reader
        self._now = now
        self.damaged = 0
        self.label = lru_cache(_PEOPLE)(lambda name: label(reader, name))
        self.shown = lru_cache(_PEOPLE)(lambda name: shown_name(reader, name))
        self._unread = lru_cache(1)(self._unread_of)

    def conversations(self) -> list[Conversation]:
        """Those that a mount shows, in the order in which they began."""
        left = left_ones(self.reader)
        found = [each for key, each in load_conversations(self.reader).items() if key not in left]
        return sorted(found, key=lambda each: (each.started, each.folder))

    def amount(self, places: list[Conversation]) -> Amount:
        """How much there is in these."""
        messages = size = 0
        for place in places:
            for entry in self._listed(place.id, 0):
                messages += 1
                size += listings.content_of(entry).size
        return Amount(messages, size)

    def messages(
        self, place: Conversation, *, since: int = 0, only_unread: bool = False
    ) -> Iterator[PastMessage]:
        """The messages of a conversation in the order of its transcript, those of a date from
        ``since`` on (milliseconds since 1970). What is damaged is counted and left out."""
        for serial in self._in_order(place.id, since):
            try:
                if only_unread and not self.is_unread(serial):
                    continue
                message = get_message(self.reader, place.id, serial)
                if message is not None:
                    yield self._told(message, place)
            except (DamagedRecord, DecodeError):
                self.damaged += 1

    def is_unread(self, serial: int) -> bool:
        """Whether the message with this serial has not been read."""
        segment, number = divmod(serial, search_index.SEGMENT)
        return number in self._unread(segment)

    def stretches(self, message: Message, file: PastFile) -> Iterator[bytes]:
        """The bytes of a file, stretch by stretch. Raises DamagedRecord."""
        for at in range(0, file.size, STRETCH):
            size = min(STRETCH, file.size - at)
            yield read_content(self.reader, message.content, file.start + at, size)

    def _unread_of(self, segment: int) -> frozenset[int]:
        found = search_index.entries(self.reader, segment)
        return frozenset(number for number, _place, _day, unread in found if unread)

    def _in_order(self, conversation: bytes, since: int) -> Iterator[int]:
        """Serials by place. The next ones are picked out of all again and again, so that what is in
        memory does not grow with them."""
        last = _FIRST
        while True:
            places = (
                (entry[1] + entry[10], entry[11], entry[0])
                for entry in self._listed(conversation, since)
            )
            found = heapq.nsmallest(AT_ONCE, (each for each in places if each > last))
            yield from (serial for _place, _tie, serial in found)
            if len(found) < AT_ONCE:
                return
            last = found[-1]

    def _listed(self, conversation: bytes, since: int) -> Iterator[listings.Entry]:
        for entry in listings.every(self.reader, conversation):
            if entry[1] >= since and not 0 < listings.ends_of(entry) <= self._now:
                yield entry

    def _told(self, message: Message, place: Conversation) -> PastMessage:
        content = message.content
        try:
            unread = self.is_unread(message.serial)
        except DamagedRecord:  # it says that of 64 messages, each of which may be whole
            unread = False
        if blobs.here(self.reader, content.id, content.size) < content.size:
            return PastMessage(message, place, None, (), unread, whole=False)
        text = None if message.folder else self._text(message)
        files = self._files(message) if text is None else ()
        return PastMessage(message, place, text, files, unread, whole=True)

    def _text(self, message: Message) -> str | None:
        """What a message says that is no file: none was named, or a text, and it is UTF-8."""
        if message.content.size > TEXT_MAX or not _may_be_text(message.file_name):
            return None
        data = read_content(self.reader, message.content, 0, message.content.size)
        try:
            return data.decode() if b"\0" not in data else None
        except UnicodeDecodeError:
            return None

    def _files(self, message: Message) -> tuple[PastFile, ...]:
        if not message.folder:
            name = shown_file_name(message.file_name) if message.file_name else ""
            return (PastFile(name, 0, message.content.size),)
        return tuple(self._below(message, message.content))

    def _below(self, message: Message, content: Content) -> Iterator[PastFile]:
        """The files of a message that is a folder, but for those that were removed."""
        table, gone = read_table(self.reader, content), gone_entries(self.reader, message)
        above = {TOP: ""}
        for index, entry in enumerate(table.entries):
            if entry.parent not in above or index in gone:
                continue
            name = above[entry.parent] + shown_file_name(entry.name)
            if entry.size is None:
                above[index + 1] = f"{name}/"
            else:
                yield PastFile(name, table.starts[index], entry.size)


def _may_be_text(file_name: str) -> bool:
    """As in a transcript: a name without an extension, or with that of a plain text."""
    name = shown_file_name(file_name) if file_name else ""
    return "." not in name or name.endswith((".txt", ".md"))
