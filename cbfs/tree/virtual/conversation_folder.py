"""A folder under conversations/: its messages, and the files of those that are folders, read from
the store when somebody looks.

A message is in the store before watchers are told of it (see ``cbfs.mount.notifier``), and is shown
only when they are: ``Unseen`` knows which those are.

What is in a message that is a folder can be read and removed, and nothing else. It stands in a
table at the beginning of the message's content (``cbfs_common.messages.folder``). Names come from
somebody else: they are escaped, and two never collide.
"""

import errno
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cbfs.interface import Backend
from cbfs.messages.content import gone_entries, read_table, remove_entry
from cbfs.messages.file_names import free_name, shown_file_name
from cbfs.messages.history import (
    get_message,
    newest_message,
    transcript_entries,
    transcript_entry,
    transcript_extent,
)
from cbfs.messages.listings import Entry, ends_of, entry_of, folders, is_folder, listed, received_of
from cbfs.messages.model import Conversation, Message
from cbfs.messages.queues import blobs
from cbfs.messages.transcript import Extent, Line, Reading, Transcript
from cbfs.storage.encoding import pack, u32, u64
from cbfs.storage.store import Reader, Writer
from cbfs.tree.inodes import Inodes
from cbfs.tree.nodes import FIRST_MESSAGE, FIRST_STORED, FolderFile, MessageFile, Node, Text
from cbfs.tree.rules import METADATA, Area, TreeError
from cbfs.tree.times import Times, read_times
from cbfs.tree.virtual.message_links import in_thread
from cbfs.tree.virtual.virtual_directory import PAGE, VirtualDirectory, inode_for
from cbfs_common.messages.folder import TOP, FolderTable

TRANSCRIPT = "transcript"

_METADATA_PLACE, _TRANSCRIPT_PLACE = (1 << 62) + 1, (1 << 62) + 2
"""Behind all messages, so that who removes a folder comes to them when those are gone. The place
behind a message is its serial + 1, and serials begin at 1."""

OPEN_MAX = 8
"""Folders whose tables are remembered."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a message: ``shown`` are, for each parent (see ``folder.Entry``), the indexes of
    its entries by the names that they are shown under; those of ``gone`` have been removed."""

    message: Message
    table: FolderTable
    shown: dict[int, dict[str, int]]
    gone: set[int]

    def below(self, parent: int) -> Iterator[tuple[str, int]]:
        """(name, index) of what is in a folder, in order."""
        return ((n, i) for n, i in self.shown.get(parent, {}).items() if i not in self.gone)


class MessageFolder(VirtualDirectory):
    """A message that is a folder (``parent`` is TOP), or a folder in it. ``name`` is as in
    ``Message``, ``message`` the conversation and the serial."""

    __slots__ = ("ends", "message", "name", "parent")

    def __init__(
        self, inode: int, nodes: "MessageNodes", conversation: bytes, entry: Entry, parent: int
    ) -> None:
        serial, date, name, *_ = entry
        key = conversation, serial
        super().__init__(inode, Area.CONVERSATION, _Inside(nodes, key, parent, date))
        self.message = key
        self.name = name
        self.parent = parent
        self.ends = ends_of(entry)
        self.mode |= stat.S_ISVTX if self.ends else 0
        self.changed_ns = received_of(entry) * 1_000_000

    def ends_anew(self, message: Message) -> None:
        """It ends at another time than before."""
        self.ends = message.ends

    def named_anew(self, message: Message) -> None:
        """It has another name, and may have another date."""
        self.name = message.name
        self.changed_ns = message.received * 1_000_000
        if isinstance(self.provider, _Inside):
            self.provider.date = message.date


class MessageNodes:
    """The nodes of messages, and of what is in those that are folders, for one mount."""

    def __init__(self, backend: Backend, inodes: Inodes) -> None:
        self._backend = backend
        self._inodes = inodes
        self._open: OrderedDict[tuple[bytes, int], Contents] = OrderedDict()

    def node(self, message: Message) -> MessageFile | MessageFolder:
        """That of a message: the one that the kernel knows, or a fresh one."""
        inode = FIRST_MESSAGE + message.serial
        known = self._inodes.known(inode)
        if isinstance(known, MessageFile | MessageFolder):
            return known
        return self.listed(message.conversation, entry_of(message))

    def again(self, message: Message) -> MessageFile | None:
        """A fresh one of a message that the kernel has known for long; None when it is a folder,
        which is known as long as it is."""
        return None if message.folder else MessageFile(message.conversation, entry_of(message))

    def listed(self, conversation: bytes, entry: Entry) -> MessageFile | MessageFolder:
        """A fresh one."""
        if is_folder(entry):
            inode = FIRST_MESSAGE + entry[0]
            return MessageFolder(inode, self, conversation, entry, TOP)
        return MessageFile(conversation, entry)

    def entry(self, contents: Contents, at: int) -> FolderFile | MessageFolder:
        """The node of an entry, by its index."""
        message = contents.message
        inode = inode_for(b"folder", message.conversation, u64(message.serial), u32(at))
        known = self._inodes.known(inode)
        if isinstance(known, FolderFile | MessageFolder):
            return known
        size = contents.table.entries[at].size
        if size is None:
            return MessageFolder(inode, self, message.conversation, entry_of(message), at + 1)
        return FolderFile(message, inode, contents.table.starts[at], size)

    def contents(self, key: tuple[bytes, int]) -> Contents | None:
        """What is in a message, None when it is gone; the last few are remembered."""
        found = self._open.pop(key, None) or self._load(key)
        if found is not None:
            self._open[key] = found
            if len(self._open) > OPEN_MAX:
                self._open.popitem(last=False)
        return found

    async def remove(self, contents: Contents, at: int) -> None:
        """Take an entry out. On the disk on return; a crash before leaves it."""
        message, table = contents.message, contents.table
        start, size = table.starts[at], table.entries[at].size or 0

        def change(writer: Writer) -> None:
            remove_entry(writer, message, at, start, size)

        await self._backend.store.commit(change)
        contents.gone.add(at)

    async def remove_all(self, node: MessageFolder) -> None:
        """Forget a message that nothing is left in. Raises TreeError(ENOTEMPTY)."""
        contents = self.contents(node.message)
        if contents is None:
            raise TreeError(errno.ENOENT)
        if any(contents.below(TOP)):
            raise TreeError(errno.ENOTEMPTY)
        await self._backend.delete(contents.message)
        self._open.pop(node.message, None)

    def forget(self, message: Message) -> None:
        """It is not in the store any more, or is other than before."""
        self._open.pop((message.conversation, message.serial), None)

    def _load(self, key: tuple[bytes, int]) -> Contents | None:
        with self._backend.store.read() as reader:
            message = get_message(reader, *key)
            if message is None:
                return None
            content = message.content
            whole = blobs.here(reader, content.id, content.size) == content.size
            table = read_table(reader, content) if whole else FolderTable((), ())
            gone = gone_entries(reader, message)
        shown: dict[int, dict[str, int]] = {}
        for at, entry in enumerate(table.entries):
            there = shown.setdefault(entry.parent, {})
            there[free_name(shown_file_name(entry.name), there.__contains__)] = at
        return Contents(message, table, shown, gone)


class _Inside:
    """``Provider`` of one folder in a message, or of the message itself."""

    def __init__(self, nodes: MessageNodes, key: tuple[bytes, int], parent: int, date: int) -> None:
        self._nodes = nodes
        self._key = key
        self._parent = parent
        self.date = date

    def find(self, name: str) -> Node | None:
        """The file or folder of that name in this folder of a message; None for what is not there,
        or was removed."""
        contents = self._nodes.contents(self._key)
        if contents is None:
            return None
        at = contents.shown.get(self._parent, {}).get(name)
        return None if at is None or at in contents.gone else self._nodes.entry(contents, at)

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """Files and folders from place ``start`` on, as the message lists them. The place behind an
        entry is its index + 1."""
        contents = self._nodes.contents(self._key)
        for name, at in contents.below(self._parent) if contents else ():
            if at >= start and contents:
                yield at + 1, name, self._nodes.entry(contents, at)

    async def remove(self, name: str, node: Node) -> None:
        """Take a file or an empty folder out of the message. On the disk on return; a crash before
        leaves it. Raises TreeError(ENOENT) for what is gone, TreeError(ENOTEMPTY) for a folder with
        something in it."""
        contents = self._nodes.contents(self._key)
        at = contents.shown.get(self._parent, {}).get(name) if contents else None
        if contents is None or at is None or at in contents.gone:
            raise TreeError(errno.ENOENT)
        if any(contents.below(at + 1)):
            raise TreeError(errno.ENOTEMPTY)
        if isinstance(node, FolderFile):
            node.removed = True
        await self._nodes.remove(contents, at)

    def modified(self) -> int:
        """The date of the message, in nanoseconds since 1970."""
        return self.date * 1_000_000

    def stamp(self) -> int:
        """Always 0: ``VirtualDirectory.touch`` tells of all that goes."""
        return 0

    def folders(self) -> int | None:
        """How many folders are in this one; None when it was removed."""
        contents = self._nodes.contents(self._key)
        if contents is None or self._parent - 1 in contents.gone:
            return None
        sizes = (contents.table.entries[at].size for _name, at in contents.below(self._parent))
        return sum(size is None for size in sizes)


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
        """``size`` bytes of the text as it is now from ``offset`` on, fewer at its end."""
        return self._text.read(offset, size)

    def opened(self) -> Text:
        """The text as one handle reads it: what is open grows at its end only."""
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
        """``size`` bytes from ``offset`` on, fewer at the end, of the text as it was when it was
        opened, with what has come since behind it."""
        return self._reading.read(offset, size)

    async def read_apart(self, offset: int, size: int) -> bytes:
        """What ``read`` gives, by a thread: where each message stands is found first, of however
        many."""
        return await in_thread(lambda: self.read(offset, size))


class ConversationFolder:
    """``Provider`` of ``directory``, a folder under conversations/: the messages of one
    conversation, with ``metadata`` and a transcript."""

    def __init__(
        self,
        backend: Backend,
        conversation: Conversation,
        metadata: Text,
        unseen: Unseen,
        inodes: Inodes,
        nodes: MessageNodes,
    ) -> None:
        self._backend = backend
        self._conversation = conversation
        self.directory = VirtualDirectory(
            conversation.inode + FIRST_STORED,
            Area.CONVERSATION,
            self,
            conversation=conversation.id,
        )
        text = TranscriptFile(
            inode_for(b"transcript", conversation.id), backend, conversation.id, self._changed
        )
        self._fixed: dict[str, Text] = {METADATA: metadata, TRANSCRIPT: text}
        self._hidden: set[str] = set()
        self._since = 0
        self._unseen = unseen
        self._inodes = inodes
        self._nodes = nodes
        self.leaving: dict[str, Node] = {}
        """Messages that have ended, until watchers are told."""

    def find(self, name: str) -> Node | None:
        """The message of that name, metadata.toml or the transcript; None for what is not there, or
        is not shown yet."""
        if name in self._fixed:
            return None if self._is_hidden(name) else self._fixed[name]
        message = self._backend.message(self._conversation.id, name)
        if message is None:
            return self.leaving.get(name)
        if message.serial in self._unseen:
            return None
        return self._nodes.node(message)

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """Messages from place ``start`` on, in order of serials, then metadata.toml and the
        transcript, as far as they are shown. Not more than PAGE are in memory at once."""
        if start < _METADATA_PLACE:
            yield from self._messages(start)
        for place, name in ((_METADATA_PLACE, METADATA), (_TRANSCRIPT_PLACE, TRANSCRIPT)):
            if start < place and not self._is_hidden(name):
                yield place, name, self._fixed[name]

    def _messages(self, start: int) -> Iterator[tuple[int, str, Node]]:
        serial_from, key = start, self._conversation.id
        known, unseen, listed_node = self._inodes.known, self._unseen, self._nodes.listed
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
        return self.directory.modified_ns

    def _kept(self, default: int) -> int:
        """The time that it had at the end of the mount before (see ``cbfs.tree.times``)."""
        with self._backend.store.read() as reader:
            kept = read_times(reader, self.directory.inode)
            if kept is None:
                return default
            same = kept.of == self._digest(reader)
        return kept.mtime_ns if same else max(time.time_ns(), kept.mtime_ns + 1)

    def keep(self, writer: Writer) -> None:
        """At the end: keep when it last changed."""
        if self.directory.was_touched:
            now = self.directory.modified_ns
            Times(now, now, self._digest(writer)).put(writer, self.directory.inode)

    def _digest(self, reader: Reader) -> bytes:
        """Another one when messages have come, gone or other names."""
        extent = transcript_extent(reader, self._conversation.id)
        newest = newest_message(reader, self._conversation.id)
        return pack(extent.size, extent.changes, newest.serial if newest else 0)

    async def remove(self, name: str, node: Node) -> None:
        """Delete a message; one that is a folder only when nothing is left in it. On the disk on
        return. metadata.toml and the transcript go with the last message, and come with the next.
        Raises TreeError(EACCES) for these as long as there is a message, TreeError(ENOENT) for what
        is gone."""
        if isinstance(node, MessageFolder):
            await self._nodes.remove_all(node)
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
        """When the newest message came, in nanoseconds since 1970, or the conversation began; or
        what the mount before has kept, when nothing has changed since."""
        if not self._since:
            newest = self._backend.newest(self._conversation.id)
            moment = newest.received if newest else self._conversation.started
            self._since = self._kept(moment * 1_000_000)
        return self._since

    def stamp(self) -> int:
        """Always 0: ``VirtualDirectory.touch`` tells of all that goes."""
        return 0

    def folders(self) -> int:
        """How many of the messages are folders."""
        with self._backend.store.read() as reader:
            return folders(reader, self._conversation.id)
