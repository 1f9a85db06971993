"""The tree that the mount shows: what is where, and what each change means. No FUSE in here.

Whatever programs save under outbox/, tmp/ and ui_info/ is a record in ``Table.NODES`` and its
content in ``Table.CONTENT``. Names are on the disk when mkdir, rename and unlink return; content
is when a close or fsync returns. A crash before that leaves the file as it was last stored.
"""

import errno
import stat
import time
from collections.abc import Callable, Iterator

from cbfs.book import read_content, u32, u64
from cbfs.model import Backend, Content, Conversation, Message
from cbfs.nodes import (
    WRITABLE,
    Area,
    Directory,
    File,
    Link,
    MessageFile,
    Node,
    Text,
    blocks,
    encode_record,
    record_maker,
    settle,
)
from cbfs.outbox import Process
from cbfs.store import Table, Writer
from cbfs.texts import metadata_text
from cbfs_common.limits import FILE_NAME_MAX

ROOT = 1
CONVERSATIONS, OUTBOX, CONTACTS, UI_INFO, TMP = range(2, 7)
STATUS, README, PROFILE = range(7, 10)
"""Inodes that are always there."""

FIRST_STORED = 1_000
"""What ``Writer.next_number`` counts begins here ..."""

FIRST_OWN = 1 << 32
"""... and what the mount counts by itself here."""


class TreeError(Exception):
    """An operation that is refused; ``errno`` says why."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


class Tree:
    """``changed`` is called when something in the outbox may have become ready to be sent."""

    def __init__(self, backend: Backend, file_size_max: int, changed: Callable[[], None]) -> None:
        self.backend = backend
        self.changed = changed
        self._file_size_max = file_size_max
        self._next = FIRST_OWN
        now = time.time_ns()
        self.root = Directory(ROOT, Area.FIXED, now)
        self.conversations = Directory(CONVERSATIONS, Area.FIXED, now)
        self.outbox = Directory(OUTBOX, Area.OUTBOX, now)
        self.tmp = Directory(TMP, Area.SCRATCH, now)
        self.ui_info = Directory(UI_INFO, Area.KEPT, now)
        self.contacts = Directory(CONTACTS, Area.FIXED, now)
        for name, node in (
            ("conversations", self.conversations),
            ("outbox", self.outbox),
            ("contacts", self.contacts),
            ("tmp", self.tmp),
            ("ui_info", self.ui_info),
        ):
            self.root.add(name, node)
        self._folders: dict[bytes, tuple[Directory, Directory]] = {}
        self._known: dict[bytes, Conversation] = {}
        for conversation in backend.conversations():
            folder, drafts = self.make_folders(conversation)
            self.conversations.add(conversation.folder, folder)
            self.outbox.add(conversation.folder, drafts)

    def new_inode(self) -> int:
        """A fresh one."""
        self._next += 1
        return self._next

    def start_inodes_after(self, inode: int) -> None:
        """Inodes up to this one are in use."""
        self._next = inode

    def drafts(self) -> list[Directory]:
        """The folders under outbox/ of all conversations."""
        return [drafts for _folder, drafts in self._folders.values()]

    # what the engine brings

    def make_folders(self, conversation: Conversation) -> tuple[Directory, Directory]:
        """The two folders of a conversation, not yet entered anywhere."""
        key = conversation.id
        started = conversation.started * 1_000_000
        folder = Directory(
            conversation.inode + FIRST_STORED,
            Area.CONVERSATION,
            started,
            conversation=key,
            load=lambda: self._load_messages(conversation),
        )
        drafts = Directory(
            conversation.outbox_inode + FIRST_STORED, Area.DRAFTS, started, conversation=key
        )
        drafts.add("metadata.toml", self._metadata(conversation))
        self._folders[key] = folder, drafts
        self._known[key] = conversation
        return folder, drafts

    def folders(self, conversation: bytes) -> tuple[Directory, Directory]:
        """(under conversations/, under outbox/) of one that is known."""
        return self._folders[conversation]

    def conversation(self, key: bytes) -> Conversation:
        """One that is known, by its id."""
        return self._known[key]

    def _load_messages(self, conversation: Conversation) -> list[tuple[str, Node]]:
        found: list[tuple[str, Node]] = [("metadata.toml", self._metadata(conversation))]
        for message in self.backend.messages(conversation.id):
            found.append((message.name, self.message_file(message)))
        return found

    def message_file(self, message: Message) -> MessageFile:
        """The file of a message, not yet entered anywhere."""
        return MessageFile(message.inode + FIRST_STORED, message)

    def _metadata(self, conversation: Conversation) -> Text:
        data = metadata_text(conversation).encode()
        return Text(self.new_inode(), lambda: data, conversation.started * 1_000_000)

    # what programs do

    def lookup(self, directory: Directory, name: str) -> Node:
        """Raises TreeError(ENOENT)."""
        node = directory.entries.get(name)
        if node is None:
            raise TreeError(errno.ENOENT)
        return node

    def create(self, directory: Directory, name: str, mode: int, author: Process | None) -> File:
        """A new empty file. It is stored when it is closed."""
        self._check_new(directory, name)
        if directory.area not in WRITABLE:
            raise TreeError(errno.EACCES)
        file = File(self.new_inode(), mode & 0o700 | 0o600, time.time_ns(), None)
        file.author = author
        self._enter(directory, name, file)
        return file

    async def mkdir(self, directory: Directory, name: str) -> Directory:
        """A new folder: in outbox/ a conversation that is to be."""
        self._check_new(directory, name)
        if directory.area is Area.DRAFTS:
            raise TreeError(errno.EPERM)
        if directory.area not in WRITABLE and directory is not self.outbox:
            raise TreeError(errno.EACCES)
        area = Area.DRAFTS if directory is self.outbox else directory.area
        made = Directory(self.new_inode(), area, time.time_ns())
        made.recorded = True
        self._enter(directory, name, made)
        await self._save([made])
        self.changed()
        return made

    async def symlink(
        self, directory: Directory, name: str, target: str, author: Process | None
    ) -> Link:
        """A symbolic link, as editors use for locks."""
        self._check_new(directory, name)
        if directory.area not in WRITABLE:
            raise TreeError(errno.EACCES)
        link = Link(self.new_inode(), target, time.time_ns(), recorded=True)
        link.author = author
        self._enter(directory, name, link)
        await self._save([link])
        return link

    async def link(self, node: Node, directory: Directory, name: str) -> None:
        """One more name for a file."""
        self._check_new(directory, name)
        if directory.area not in WRITABLE or not isinstance(node, File):
            raise TreeError(errno.EPERM)
        if any(there.area is not directory.area for there, _name in node.names):
            raise TreeError(errno.EXDEV)
        await settle(node)
        self._check_new(directory, name)
        self._enter(directory, name, node)
        await self.save(node)
        await self._save([node])

    async def unlink(self, directory: Directory, name: str) -> Node:
        """Remove a file, a link or a message."""
        node = self.lookup(directory, name)
        if isinstance(node, Directory):
            raise TreeError(errno.EISDIR)
        if isinstance(node, MessageFile):
            await self.backend.delete(node.message)
            directory.remove(name)
            return node
        if isinstance(node, Text):
            if directory.area in {Area.DRAFTS, Area.OUTBOX} and name.endswith(".error"):
                directory.remove(name)
                return node
            raise TreeError(errno.EACCES)
        await settle(node)
        if self.lookup(directory, name) is not node:
            raise TreeError(errno.ENOENT)
        self._leave(directory, name)
        await self._save([node])
        self.changed()
        return node

    async def rmdir(self, directory: Directory, name: str) -> Node:
        """Remove an empty folder that was made here."""
        node = self.lookup(directory, name)
        if not isinstance(node, Directory):
            raise TreeError(errno.ENOTDIR)
        if not node.recorded:
            raise TreeError(errno.EACCES)
        if node.entries:
            raise TreeError(errno.ENOTEMPTY)
        self._leave(directory, name)
        await self._save([node])
        self.changed()
        return node

    async def rename(
        self, source: Directory, name: str, target: Directory, new: str, *, replace: bool
    ) -> Node | None:
        """Move an entry; gives what it replaced."""
        await settle(self.lookup(source, name), target.entries.get(new))
        node = self.lookup(source, name)
        old = target.entries.get(new)
        if old is node:
            return None
        self._check_rename(node, source, target, old, replace=replace)
        if len(new.encode()) > FILE_NAME_MAX:
            raise TreeError(errno.ENAMETOOLONG)
        if old is not None:
            self._leave(target, new)
        self._leave(source, name)
        self._enter(target, new, node)
        if isinstance(node, Directory):
            set_area(node, Area.DRAFTS if target is self.outbox else target.area)
        if isinstance(node, File):
            node.changed = time.monotonic()
            node.given_up = -1
            if node.is_sent and target.area is not Area.DRAFTS:
                self._whole(node)  # what is kept elsewhere is a copy of the message
                node.version += 1
            await self.save(node)
        await self._save([node] if old is None else [node, old])
        self.changed()
        return old

    def read(self, node: Node, offset: int, size: int) -> bytes:
        """Raises TreeError(EISDIR) for what has no bytes."""
        if isinstance(node, Text):
            return node.render()[offset : offset + size]
        if isinstance(node, File) and node.data is not None:
            return bytes(node.data[offset : offset + size])
        content = _content(node)
        if content is None:
            return b""
        with self.backend.store.read() as reader:
            return read_content(reader, content, offset, size)

    async def write(self, file: File, offset: int, data: bytes) -> int:
        """Raises TreeError(EFBIG) beyond the limit for one message."""
        if offset + len(data) > self._file_size_max:
            raise TreeError(errno.EFBIG)
        await settle(file)
        whole = self._whole(file)
        if offset > len(whole):
            whole.extend(bytes(offset - len(whole)))
        whole[offset : offset + len(data)] = data
        self._touched(file)
        return len(data)

    async def truncate(self, file: File, size: int) -> None:
        """Cut, or fill with zeros."""
        if size > self._file_size_max:
            raise TreeError(errno.EFBIG)
        await settle(file)
        whole = self._whole(file)
        if size < len(whole):
            del whole[size:]
        else:
            whole.extend(bytes(size - len(whole)))
        self._touched(file)

    async def describe(self, node: Node, mode: int | None, mtime_ns: int | None) -> None:
        """Change permissions or time; Raises TreeError for what is not the user's."""
        if not isinstance(node, File | Link) and not (
            isinstance(node, Directory) and node.area in WRITABLE
        ):
            raise TreeError(errno.EPERM)
        await settle(node)
        if mode is not None:
            node.mode = stat.S_IFMT(node.mode) | mode & 0o777
        if mtime_ns is not None:
            node.mtime_ns = mtime_ns
        node.changed_ns = time.time_ns()
        if isinstance(node, File):
            node.changed = time.monotonic()
            self.changed()
        if node.stored >= 0 if isinstance(node, File) else node.recorded:
            await self._save([node])

    async def save(self, file: File) -> None:
        """Put the content and the record of a file on the disk, when they are not there."""
        async with file.lock:
            version = file.version
            if file.stored == version or not file.names:
                return
            data, old = bytes(file.data or b""), None if file.lent else file.content
            record = record_maker(file)

            def change(writer: Writer) -> Content:
                content = Content(writer.next_number(b"content"), len(data), 65_536)
                for index, block in enumerate(blocks(data)):
                    writer.put(Table.CONTENT, u64(content.id) + u32(index), block)
                if old is not None:
                    writer.delete_prefix(Table.CONTENT, u64(old.id))
                writer.put(Table.NODES, u64(file.inode), record(content))
                return content

            file.content = await self.backend.store.commit(change)
            file.lent = False
            file.stored = version
            if file.version == version and not file.writers:
                file.data = None
            if not file.names:  # removed meanwhile
                await self._save([file])

    def closed(self, file: File) -> None:
        """The last writer is gone: what is on the disk needs no copy in memory."""
        if file.stored == file.version and file.names:
            file.data = None
        self.changed()

    # within

    def _check_new(self, directory: Directory, name: str) -> None:
        if len(name.encode()) > FILE_NAME_MAX:
            raise TreeError(errno.ENAMETOOLONG)
        if name in directory.entries:
            raise TreeError(errno.EEXIST)

    def _check_rename(
        self, node: Node, source: Directory, target: Directory, old: Node | None, *, replace: bool
    ) -> None:
        if old is not None and not replace:
            raise TreeError(errno.EEXIST)
        if isinstance(node, Directory):
            if not node.recorded:
                raise TreeError(errno.EACCES)
            if target.area is Area.DRAFTS:
                raise TreeError(errno.EPERM)
            if target is not self.outbox and target.area not in WRITABLE:
                raise TreeError(errno.EACCES)
            if old is not None and not isinstance(old, Directory):
                raise TreeError(errno.ENOTDIR)
            if isinstance(old, Directory) and (old.entries or not old.recorded):
                raise TreeError(errno.ENOTEMPTY)
            return
        if source.area not in WRITABLE or target.area not in WRITABLE:
            raise TreeError(errno.EACCES)
        if isinstance(node, Text) or isinstance(old, Text):
            raise TreeError(errno.EACCES)
        if isinstance(old, Directory):
            raise TreeError(errno.EISDIR)

    def _enter(self, directory: Directory, name: str, node: Node) -> None:
        directory.add(name, node)
        directory.mtime_ns = time.time_ns()

    def _leave(self, directory: Directory, name: str) -> None:
        node = directory.remove(name)
        directory.mtime_ns = node.changed_ns = time.time_ns()
        if isinstance(node, File) and not node.names and node.handles:
            self._whole(node)  # those who have it open go on reading

    def _whole(self, file: File) -> bytearray:
        if file.data is None:
            size = file.content.size if file.content else 0
            file.data = bytearray(self.read(file, 0, size))
        return file.data

    def _touched(self, file: File) -> None:
        file.version += 1
        file.changed = time.monotonic()
        file.mtime_ns = file.changed_ns = time.time_ns()
        self.changed()

    async def _save(self, nodes: list[Node]) -> None:
        """Store the records as they are now; one without a name goes, with its content."""
        records = []
        for node in nodes:
            content = node.content if isinstance(node, File) and not node.lent else None
            if isinstance(node, File) and node.is_sent:
                continue
            record = encode_record(node) if node.names else b""
            records.append((node.inode, record, content))

        def change(writer: Writer) -> None:
            for inode, record, content in records:
                if record:
                    writer.put(Table.NODES, u64(inode), record)
                    continue
                writer.delete(Table.NODES, u64(inode))
                if content is not None:
                    writer.delete_prefix(Table.CONTENT, u64(content.id))

        await self.backend.store.commit(change)


def _content(node: Node) -> Content | None:
    if isinstance(node, File):
        return node.content
    if isinstance(node, MessageFile):
        return node.message.content
    raise TreeError(errno.EISDIR)


def set_area(directory: Directory, area: Area) -> None:
    """What may be done in a folder and all below it."""
    directory.area = area
    for node in directory.entries.values():
        if isinstance(node, Directory):
            set_area(node, area)


def files_below(directory: Directory) -> Iterator[tuple[str, File]]:
    """The files of a folder of the outbox."""
    for name, node in list(directory.entries.items()):
        if isinstance(node, File):
            yield name, node
