"""A folder under conversations/: its messages, read from the store when somebody looks.

A message is in the store before watchers are told of it (see ``cbfs.mount.notifier``), and is shown
only when they are: ``Unseen`` knows which those are.
"""

import errno
import time
from collections.abc import Callable, Iterator

from cbfs.interface import Backend
from cbfs.messages.history import (
    newest_message,
    transcript_entries,
    transcript_entry,
    transcript_extent,
)
from cbfs.messages.listings import Entry, folders, listed
from cbfs.messages.model import Conversation
from cbfs.messages.transcript import Extent, Line, Reading, Transcript
from cbfs.storage.encoding import pack
from cbfs.storage.store import Reader, Writer
from cbfs.tree.inodes import Inodes
from cbfs.tree.nodes import FIRST_MESSAGE, MessageFile, Node, Text
from cbfs.tree.rules import TreeError
from cbfs.tree.times import Times, read_times
from cbfs.tree.virtual.message_folder import MessageFolder, Shelf
from cbfs.tree.virtual.virtual_directory import PAGE, Provided

METADATA = "metadata.toml"
TRANSCRIPT = "transcript"

_METADATA_PLACE, _TRANSCRIPT_PLACE = (1 << 62) + 1, (1 << 62) + 2
"""Behind all messages, so that who removes a folder comes to them when those are gone. The place
behind a message is its serial + 1, and serials begin at 1."""


class Unseen:
    """Messages by serial that are in the store and not shown yet. Serials up to ``newest`` were
    there when the mount began."""

    def __init__(self, newest: int) -> None:
        self._newest = newest
        self._serials: set[int] = set()

    def announce(self, serial: int) -> None:
        """This one will be shown; so will those before it that are not announced yet."""
        self._serials.update(range(self._newest + 1, serial + 1))
        self._newest = max(self._newest, serial)

    def reveal(self, serial: int) -> None:
        """Show this one from now on."""
        self._serials.discard(serial)

    def shown(self, entries: list[Entry]) -> list[Entry]:
        """Those, in order of serials, that are not in here."""
        if not self._serials and (not entries or entries[-1][0] <= self._newest):
            return entries
        return [entry for entry in entries if entry[0] not in self]

    def __contains__(self, serial: int) -> bool:
        return serial > self._newest or serial in self._serials


class TranscriptFile(Text):
    """The conversation as one text; ``modified`` says when it last grew."""

    __slots__ = ("_modified", "_text")

    def __init__(
        self, inode: int, backend: Backend, conversation: bytes, modified: Callable[[], int]
    ) -> None:
        super().__init__(inode, lambda: self.read(0, self.size), 0)
        store = backend.store

        def extent() -> Extent:
            with store.read() as reader:
                return transcript_extent(reader, conversation)

        def load(start: int) -> list[Line]:
            with store.read() as reader:
                return transcript_entries(reader, conversation, start)

        def render(serial: int) -> bytes:
            with store.read() as reader:
                return transcript_entry(reader, conversation, serial)

        self._text = Transcript(extent, load, render)
        self._modified = modified

    @property
    def size(self) -> int:
        """In bytes."""
        return self._text.size

    @property
    def modified_ns(self) -> int:
        """When the last message came."""
        return self._modified()

    def read(self, offset: int, size: int) -> bytes:
        """See ``Text``."""
        return self._text.read(offset, size)

    def opened(self) -> Text:
        """See ``Text``: what is open grows at its end only."""
        return OpenTranscript(self, Reading(self._text))


class OpenTranscript(Text):
    """A transcript as one handle reads it."""

    __slots__ = ("_file", "_reading")

    def __init__(self, file: TranscriptFile, reading: Reading) -> None:
        super().__init__(file.inode, file.render, 0)
        self._file = file
        self._reading = reading

    @property
    def size(self) -> int:
        """In bytes."""
        return self._file.size

    @property
    def modified_ns(self) -> int:
        """When the last message came."""
        return self._file.modified_ns

    def read(self, offset: int, size: int) -> bytes:
        """See ``Text``."""
        return self._reading.read(offset, size)


class Folder:
    """``Provider`` of one conversation. ``transcript`` is the inode of that."""

    def __init__(
        self,
        backend: Backend,
        conversation: Conversation,
        metadata: Text,
        transcript: int,
        unseen: Unseen,
        inodes: Inodes,
        shelf: Shelf,
    ) -> None:
        self._backend = backend
        self._conversation = conversation
        text = TranscriptFile(transcript, backend, conversation.id, self._changed)
        self._fixed: dict[str, Text] = {METADATA: metadata, TRANSCRIPT: text}
        self._hidden: set[str] = set()
        self._since = 0
        self.shown: Provided | None = None
        """Whose provider it is."""
        self._unseen = unseen
        self._inodes = inodes
        self._shelf = shelf
        self.leaving: dict[str, Node] = {}
        """Messages that have ended, until watchers are told."""

    def find(self, name: str) -> Node | None:
        """See ``Provider``."""
        if name in self._fixed:
            return None if self._is_hidden(name) else self._fixed[name]
        message = self._backend.message(self._conversation.id, name)
        if message is None:
            return self.leaving.get(name)
        if message.serial in self._unseen:
            return None
        return self._shelf.node(message)

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """See ``Provider``."""
        if start < _METADATA_PLACE:
            yield from self._messages(start)
        for place, name in ((_METADATA_PLACE, METADATA), (_TRANSCRIPT_PLACE, TRANSCRIPT)):
            if start < place and not self._is_hidden(name):
                yield place, name, self._fixed[name]

    def _messages(self, start: int) -> Iterator[tuple[int, str, Node]]:
        serial_from, key = start, self._conversation.id
        known, unseen, listed_node = self._inodes.get, self._unseen, self._shelf.listed
        while True:
            with self._backend.store.read() as reader:
                found = listed(reader, key, serial_from, PAGE)
            yield from [
                (entry[0] + 1, entry[2], known(FIRST_MESSAGE + entry[0]) or listed_node(key, entry))
                for entry in unseen.shown(found)
            ]
            if len(found) < PAGE:
                return
            serial_from = found[-1][0] + 1

    def _is_hidden(self, name: str) -> bool:
        """It was removed, and nothing has come since."""
        if name in self._hidden and not self.is_empty():
            self._hidden.clear()
        return name in self._hidden

    def is_empty(self) -> bool:
        """Whether there is no message."""
        return self._backend.newest(self._conversation.id) is None

    def comes_back(self) -> None:
        """It was left, and something is written in it: all that belongs here is here."""
        self._hidden.clear()

    def _changed(self) -> int:
        return self.shown.modified_ns if self.shown else self.modified()

    def _kept(self, default: int) -> int:
        """The time that it had at the end of the mount before (see ``cbfs.tree.times``)."""
        if self.shown is None:
            return default
        with self._backend.store.read() as reader:
            kept = read_times(reader, self.shown.inode)
            if kept is None:
                return default
            same = kept.of == self._digest(reader)
        return kept.mtime_ns if same else max(time.time_ns(), kept.mtime_ns + 1)

    def keep(self, writer: Writer) -> None:
        """At the end: keep when it last changed."""
        if self.shown is not None and self.shown.was_touched:
            now = self.shown.modified_ns
            Times(now, now, self._digest(writer)).put(writer, self.shown.inode)

    def _digest(self, reader: Reader) -> bytes:
        """Another one when messages have come, gone or other names."""
        extent = transcript_extent(reader, self._conversation.id)
        newest = newest_message(reader, self._conversation.id)
        return pack(extent.size, extent.changes, newest.serial if newest else 0)

    async def remove(self, name: str, node: Node) -> None:
        """See ``Provider``. The text and the metadata go with the last message, and come with the
        next."""
        if isinstance(node, MessageFolder):
            await self._shelf.remove_all(node)
            return
        if name in self._fixed and self.is_empty():
            self._hidden.add(name)
            return
        if not isinstance(node, MessageFile):
            raise TreeError(errno.EACCES)
        message = self._backend.message(node.conversation, node.serial)
        if message is None:
            raise TreeError(errno.ENOENT)
        node.removed = True
        try:
            await self._backend.delete(message)
        except BaseException:
            node.removed = False
            raise

    def modified(self) -> int:
        """See ``Provider``."""
        if not self._since:
            newest = self._backend.newest(self._conversation.id)
            moment = newest.received if newest else self._conversation.started
            self._since = self._kept(moment * 1_000_000)
        return self._since

    def stamp(self) -> int:
        """See ``Provider``."""
        return 0

    def folders(self) -> int:
        """See ``Provider``."""
        with self._backend.store.read() as reader:
            return folders(reader, self._conversation.id)
