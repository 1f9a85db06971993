"""The bytes of files, and the records of what programs have made: in memory and in the store.

Whatever programs save under outbox/, tmp/ and ui_info/ is a record in ``Table.NODES`` and its
content in ``Table.CONTENT``. Names are on the disk when mkdir, rename and unlink return; content
is when a close or fsync returns. A crash before that leaves the file as it was last stored.
"""

import errno
import stat
import time
from collections.abc import Callable

from cbfs.areas import RULES, Area, TreeError
from cbfs.book import read_content, u32, u64
from cbfs.model import Backend, Content
from cbfs.nodes import (
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
from cbfs.store import Table, Writer

ROOT_FILE_MAX = 1 << 20
"""Bytes of a file in the root: config.toml, or an editor's swap file for it."""


class Contents:
    """``changed`` is called when something in the outbox may have become ready to be sent."""

    def __init__(self, backend: Backend, changed: Callable[[], None]) -> None:
        self.backend = backend
        self.changed = changed

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
        if offset + len(data) > self._limit(file):
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
        if size > self._limit(file):
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
            isinstance(node, Directory)
            and not RULES[node.area].files
            and node.area is not Area.ROOT
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
            if file.stored == version or not file.names or _is_decision(file):
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
        if file.stored == file.version and file.names and not file.writers:
            file.data = None
        self.changed()

    # within

    def _limit(self, file: File) -> int:
        """Bytes that a file may have. Settings are no message: a limit must not hinder changing
        it."""
        if any(directory.area is Area.ROOT for directory, _name in file.names):
            return ROOT_FILE_MAX
        return self.backend.configuration.current.file_size_max

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


def _is_decision(file: File) -> bool:
    """What is written in the folder of a contact is done, not stored."""
    return any(directory.area is Area.CONTACT for directory, _name in file.names)


def _content(node: Node) -> Content | None:
    if isinstance(node, File):
        return node.content
    if isinstance(node, MessageFile):
        return node.content
    raise TreeError(errno.EISDIR)
