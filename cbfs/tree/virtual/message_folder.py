"""A message that is a folder, as it stands in its conversation: files and folders that can be read
and removed, and nothing else.

What is in it is a table at the beginning of the message's content
(``cbfs_common.messages.folder``), which is read when somebody looks. Names come from somebody else:
they are escaped, and two never collide.
"""

import errno
import stat
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from cbfs.interface import Backend
from cbfs.messages.content import gone_entries, read_table, remove_entry, u32, u64
from cbfs.messages.file_names import free_name, shown_file_name
from cbfs.messages.history import get_message
from cbfs.messages.listings import Entry, ends_of, entry_of, is_folder, received_of
from cbfs.messages.model import Message
from cbfs.storage.store import Writer
from cbfs.tree.inodes import Inodes
from cbfs.tree.nodes import FIRST_MESSAGE, FolderFile, MessageFile, Node
from cbfs.tree.rules import Area, TreeError
from cbfs.tree.virtual.virtual_directory import Provided, inode_for
from cbfs_common.messages.folder import TOP, FolderTable

OPEN_MAX = 8
"""Folders whose tables are remembered."""


@dataclass(frozen=True, slots=True)
class _Contents:
    """What is in a message: ``shown`` are, for each parent (see ``folder.Entry``), the indexes of
    its entries by the names that they are shown under; those of ``gone`` have been removed."""

    message: Message
    table: FolderTable
    shown: dict[int, dict[str, int]]
    gone: set[int]

    def below(self, parent: int) -> Iterator[tuple[str, int]]:
        """(name, index) of what is in a folder, in order."""
        return ((n, i) for n, i in self.shown.get(parent, {}).items() if i not in self.gone)


class MessageFolder(Provided):
    """A message that is a folder (``parent`` is TOP), or a folder in it. ``name`` is as in
    ``Message``, ``message`` the conversation and the serial."""

    __slots__ = ("ends", "message", "name", "parent")

    def __init__(
        self, inode: int, shelf: "Shelf", conversation: bytes, entry: Entry, parent: int
    ) -> None:
        serial, date, name, *_ = entry
        key = conversation, serial
        super().__init__(inode, Area.CONVERSATION, _Inside(shelf, key, parent, date))
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


class Shelf:
    """The nodes of messages, for one mount."""

    def __init__(self, backend: Backend, inodes: Inodes) -> None:
        self._backend = backend
        self._inodes = inodes
        self._open: OrderedDict[tuple[bytes, int], _Contents] = OrderedDict()

    def node(self, message: Message) -> MessageFile | MessageFolder:
        """That of a message: the one that the kernel knows, or a fresh one."""
        inode = FIRST_MESSAGE + message.serial
        known = self._inodes.get(inode)
        if isinstance(known, MessageFile | MessageFolder):
            return known
        return self.listed(message.conversation, entry_of(message))

    def listed(self, conversation: bytes, entry: Entry) -> MessageFile | MessageFolder:
        """A fresh one."""
        if is_folder(entry):
            inode = FIRST_MESSAGE + entry[0]
            return MessageFolder(inode, self, conversation, entry, TOP)
        return MessageFile(conversation, entry)

    def entry(self, contents: _Contents, at: int) -> FolderFile | MessageFolder:
        """The node of an entry, by its index."""
        message = contents.message
        inode = inode_for(b"folder", message.conversation, u64(message.serial), u32(at))
        known = self._inodes.get(inode)
        if isinstance(known, FolderFile | MessageFolder):
            return known
        size = contents.table.entries[at].size
        if size is None:
            return MessageFolder(inode, self, message.conversation, entry_of(message), at + 1)
        return FolderFile(message, inode, contents.table.starts[at], size)

    def contents(self, key: tuple[bytes, int]) -> _Contents | None:
        """What is in a message, None when it is gone; the last few are remembered."""
        found = self._open.pop(key, None) or self._load(key)
        if found is not None:
            self._open[key] = found
            if len(self._open) > OPEN_MAX:
                self._open.popitem(last=False)
        return found

    async def remove(self, contents: _Contents, at: int) -> None:
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

    def _load(self, key: tuple[bytes, int]) -> _Contents | None:
        with self._backend.store.read() as reader:
            message = get_message(reader, *key)
            if message is None:
                return None
            table = read_table(reader, message.content)
            gone = gone_entries(reader, message)
        shown: dict[int, dict[str, int]] = {}
        for at, entry in enumerate(table.entries):
            there = shown.setdefault(entry.parent, {})
            there[free_name(shown_file_name(entry.name), there.__contains__)] = at
        return _Contents(message, table, shown, gone)


class _Inside:
    """``Provider`` of one folder."""

    def __init__(self, shelf: Shelf, key: tuple[bytes, int], parent: int, date: int) -> None:
        self._shelf = shelf
        self._key = key
        self._parent = parent
        self.date = date

    def find(self, name: str) -> Node | None:
        """See ``Provider``."""
        contents = self._shelf.contents(self._key)
        if contents is None:
            return None
        at = contents.shown.get(self._parent, {}).get(name)
        return None if at is None or at in contents.gone else self._shelf.entry(contents, at)

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """See ``Provider``. The place behind an entry is its index + 1."""
        contents = self._shelf.contents(self._key)
        for name, at in contents.below(self._parent) if contents else ():
            if at >= start and contents:
                yield at + 1, name, self._shelf.entry(contents, at)

    async def remove(self, name: str, node: Node) -> None:
        """See ``Provider``. A folder must be empty."""
        contents = self._shelf.contents(self._key)
        at = contents.shown.get(self._parent, {}).get(name) if contents else None
        if contents is None or at is None or at in contents.gone:
            raise TreeError(errno.ENOENT)
        if any(contents.below(at + 1)):
            raise TreeError(errno.ENOTEMPTY)
        if isinstance(node, FolderFile):
            node.removed = True
        await self._shelf.remove(contents, at)

    def modified(self) -> int:
        """See ``Provider``."""
        return self.date * 1_000_000

    def stamp(self) -> int:
        """See ``Provider``."""
        return 0

    def folders(self) -> int | None:
        """See ``Provider``."""
        contents = self._shelf.contents(self._key)
        if contents is None or self._parent - 1 in contents.gone:
            return None
        sizes = (contents.table.entries[at].size for _name, at in contents.below(self._parent))
        return sum(size is None for size in sizes)
