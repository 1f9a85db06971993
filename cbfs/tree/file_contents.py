"""The bytes of files, and the records of what programs have made: in memory and in the store.

Whatever programs save under outbox/, tmp/ and ui_info/ is a record in ``Table.NODES`` and its
content in ``Table.CONTENT``. Names are on the disk when mkdir, rename and unlink return; content
is when a close or fsync returns. A crash before that leaves the file as it was last stored.

A file is never in memory whole: what has changed since it was stored is kept in blocks
(``cbfs.tree.write_buffer``), and beyond MEMORY_MAX spilled to the store, sealed as all is there.
"""

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import trio

from cbfs.interface import Backend
from cbfs.messages.content import read_content
from cbfs.messages.model import Content
from cbfs.storage.encoding import u32, u64
from cbfs.storage.faults import Tasks
from cbfs.storage.store import DamagedRecord, Meta, Reader, StoreError, Table, Writer
from cbfs.tree.nodes import (
    Failure,
    File,
    Folder,
    FolderFile,
    MessageFile,
    Node,
    Text,
    content_in,
    encode_record,
    record_maker,
    walk,
)
from cbfs.tree.rules import DECIDED, METADATA, Area, TreeError
from cbfs.tree.times import Times
from cbfs.tree.unsent import check_changeable, drafts_in, node_changed, settle, state_of
from cbfs.tree.virtual.mail.mails import MailFile
from cbfs.tree.virtual.metadata_file import is_place
from cbfs.tree.write_buffer import BLOCK, COPIED_AT_ONCE, Layer, count_blocks
from cbfs_common.limits import BLOB_ABOVE

ROOT_FILE_MAX = 1 << 20
"""Bytes of a file in the root: config.toml, or an editor's swap file for it."""

READ_PATIENCE = 10.0
"""Seconds that a read waits for what is still arriving; then it is EAGAIN. The kernel cannot take a
read back, so that a program that is killed ends only then."""

_log = logging.getLogger(__name__)

MEMORY_MAX = 4 << 20
"""Changed bytes of one file in memory from which on they are spilled to the store. A writer goes
on meanwhile, and waits for that when there are twice as many."""


class FileContents:
    """The bytes of all files of one tree, and the records of what programs have made in it.

    ``changed`` is called when something in the outbox may have become ready to be sent; in
    ``tasks`` is what goes on while programs write."""

    def __init__(self, backend: Backend, changed: Callable[[], None], tasks: Tasks) -> None:
        self._backend = backend
        self.changed = changed
        self._tasks = tasks

    def read(self, node: Node, offset: int, size: int) -> bytes:
        """``size`` bytes of a file from ``offset`` on, fewer at its end. Raises TreeError(EISDIR)
        for what has no bytes, and TreeError(ESTALE) for a message that was removed: it is erased at
        once, whoever has it open."""
        if isinstance(node, Text | MailFile):
            return node.read(offset, size)
        if isinstance(node, MessageFile) and node.removed:
            raise TreeError(errno.ESTALE)
        content = _content(node)
        if offset >= node.size:
            return b""  # so programs look for the end: without a transaction
        if isinstance(node, MessageFile) and self.is_arriving(node) and content is not None:
            size = min(size, self._backend.arrived(content) - _start(node) - offset)
            if size <= 0:
                raise TreeError(errno.EAGAIN)
        if isinstance(node, FolderFile):
            if self._backend.message(node.conversation, node.serial) is None:
                raise TreeError(errno.ESTALE)  # it has ended as a whole
            size = max(0, min(size, node.length - offset))
            offset += node.start
        with self._backend.store.read() as reader:
            if isinstance(node, File) and (node.draft or node.storing):
                return _read_layers(reader, node, offset, size)
            return b"" if content is None else read_content(reader, content, offset, size)

    def is_arriving(self, node: Node) -> bool:
        """Whether it is somebody's file that has not come as a whole."""
        if not isinstance(node, MessageFile) or node.removed:
            return False
        content = node.content
        # of what is smaller nothing need be asked
        return content.size > BLOB_ABOVE and self._backend.arrived(content) < content.size

    async def come(self, node: Node, offset: int) -> None:
        """Wait until the byte at ``offset`` of a file is here, if it is one that is still arriving,
        for READ_PATIENCE seconds at most. Nothing is asked for by that: it comes by itself."""
        with trio.move_on_after(READ_PATIENCE):
            while self.is_arriving(node) and isinstance(node, MessageFile):
                if self._backend.arrived(node.content) > _start(node) + offset:
                    return
                await self._backend.more_arrived()

    async def write(self, file: File, offset: int, data: bytes) -> int:
        """Write ``data`` at ``offset``; gives how many bytes that are. Raises TreeError(EFBIG)
        beyond the limit for one message, and StoreError when the disk is full."""
        with self.failing(file):
            if offset + len(data) > self._limit(file):
                raise TreeError(errno.EFBIG)
            await settle(file)
            check_changeable(file)
            layer = _layer(file)
            layer.write(offset, data, lambda index: self._beneath(file, index))
            self._touched(file)
            if layer.held > MEMORY_MAX and not file.lock.locked():
                self._tasks.start_soon(self._spill_meanwhile, file)
            if layer.held > 2 * MEMORY_MAX:
                await self._make_room(file, layer)
        if offset <= file.anew:
            file.anew = max(file.anew, offset + len(data))
            if file.anew >= file.size:
                _mend(file)
        return len(data)

    async def truncate(self, file: File, size: int) -> None:
        """Cut a file to ``size`` bytes, or fill it with zeros up to there. Raises
        TreeError(EFBIG)."""
        with self.failing(file):
            if size > self._limit(file):
                raise TreeError(errno.EFBIG)
            await settle(file)
            check_changeable(file)
            _layer(file).truncate(size, lambda index: self._beneath(file, index))
            self._touched(file)
        if not size:
            _mend(file)

    @contextmanager
    def failing(self, file: File) -> Iterator[None]:
        """A program is told when this fails: what it wanted in the file may be missing then."""
        try:
            yield
        except TreeError as error:
            if error.errno != errno.EACCES:  # which says that it cannot be changed at all
                self.fail(file, Failure.WRITE)
            raise
        except Exception:
            self.fail(file, Failure.WRITE)
            raise

    def fail(self, file: File, failure: Failure) -> None:
        """Something may be missing of what was to be in the file: it is no message until it is
        empty, or somebody has opened it and written it anew from its start."""
        if file.failure is Failure.NONE:
            file.failure = failure
        file.anew = -1
        file.version += 1
        file.changed = time.monotonic()
        node_changed(file)
        self.changed()

    def hold(self, drafts: Folder) -> None:
        """Others have added people to whom all that is finished in this folder would go as well:
        none of it is sent before the user renames it or saves it anew. On the disk soon."""
        held: list[Node] = []
        for name, draft in drafts_in(drafts):
            if name == METADATA or state_of(draft).sending is not None:
                continue
            nodes = [draft] if isinstance(draft, File) else [node for *_, node in walk(draft)]
            for file in nodes:
                if isinstance(file, File) and file.size and not (file.writers or file.is_sent):
                    self.fail(file, Failure.MORE)
                    held.append(file)
        self._tasks.start_soon(self.save_all, held)

    def renamed(self, node: Node) -> None:
        """The user has seen where it is now."""
        files = [each for *_, each in walk(node)] if isinstance(node, Folder) else [node]
        for file in files:
            if isinstance(file, File) and file.failure is Failure.MORE:
                _mend(file)
                file.version += 1

    def is_setting(self, file: File) -> bool:
        """Whether it is about settings, or a decision on somebody, and no content: a limit that the
        user has set must not hinder changing it."""
        return _is_decision(file) or any(
            directory.area in {Area.ROOT, Area.REQUEST} for directory, _name in file.names
        )

    def opened(self, file: File) -> None:
        """Somebody has opened it to write."""
        if file.failure is not Failure.NONE:
            file.anew = max(file.anew, 0)

    async def save(self, file: File, *, whole: bool = True, handed: tuple[bytes, ...] = ()) -> None:
        """Put the content and the record of a file on the disk, when they are not there. A crash
        before the last commit of it leaves the version before, one after it this one. ``whole``:
        who has written says that this is all; if not, and a program has it open, the next mount
        takes it for what was cut off. ``handed``: the ids under which another machine has handed it
        over, or would have; they are known with the content, or neither is there. Raises
        StoreError."""
        async with file.lock:
            version = file.version
            if whole:
                file.unfinished = False
            if not file.names or _is_decision(file):
                return
            if file.stored == version and not handed:
                if file.noted and not file.unfinished:
                    await self.save_records([file])
                    file.noted = False
                return
            layer, unfinished = _layer(file), file.unfinished
            file.draft, file.storing = None, layer
            try:
                content = await self._store(file, layer, handed)
            except BaseException:
                if file.draft is None:
                    file.draft = layer
                else:
                    file.draft.take_back(layer)
                file.storing = None
                raise
            file.content, file.storing = content, None
            file.lent = False
            file.stored, file.noted = version, unfinished
            if not file.names:  # removed meanwhile
                await self.save_records([file])

    async def save_all(self, nodes: list[Node]) -> None:
        """Save those that are files. One that cannot be stored is logged: the others may be."""
        for node in nodes:
            if isinstance(node, File):
                try:
                    await self.save(node, whole=False)
                except StoreError as error:
                    _log.error("%s", error.in_full)

    async def save_records(
        self,
        nodes: list[Node],
        *places: Folder,
        also: Callable[[Writer], None] = lambda _writer: None,
    ) -> None:
        """Store the records as they are now; one without a name goes, with its content. With them
        go the times of the folders that they are in, and of ``places``, which have changed, too: a
        name and the time of its folder must not be without each other after a crash. So does
        ``also``.

        A file's content stays the one that its record names when the transaction comes to it: a new
        one may be on its way there, of which ``file.content`` does not know yet, and the content of
        a file that was sent belongs to a message, and its record is gone."""
        beside = _beside(nodes, places)
        files: list[tuple[int, Callable[[Content | None], bytes]]] = []
        records: list[tuple[int, bytes, tuple[int, ...]]] = []
        for node in nodes:
            if isinstance(node, File) and node.is_sent:
                continue
            if isinstance(node, File) and (node.names or node.handles):
                # those who have it open go on; without a name it is gone after a crash
                files.append((node.inode, record_maker(node)))
                continue
            record = encode_record(node) if node.names else b""
            records.append((node.inode, record, own_contents(node)))

        def change(writer: Writer) -> None:
            for inode, make in files:
                kept = content_in(writer.get(Table.NODES, u64(inode)))
                writer.put(Table.NODES, u64(inode), make(kept))
            for inode, record, contents in records:
                if record:
                    writer.put(Table.NODES, u64(inode), record)
                    continue
                writer.delete(Table.NODES, u64(inode))
                for content in contents:
                    writer.delete_prefix(Table.CONTENT, u64(content))
                    writer.delete(Table.META, Meta.SCRATCH + u64(content))
            beside(writer)
            also(writer)

        await self._backend.store.commit(change)

    def flushed(self, file: File, *, killed: bool) -> None:
        """A handle that could write is about to be closed; ``killed``: since a signal has ended the
        program that opened it. Before its content is saved."""
        if killed and file.unfinished:
            self.fail(file, Failure.KILLED)

    def cut_off(self, file: File) -> None:
        """The mount has ended under a handle that could write."""
        if file.unfinished:
            self.fail(file, Failure.UNMOUNT)

    def closed(self, file: File) -> None:
        """The last writer is gone."""
        file.unfinished = False
        self.changed()

    async def forget(self, files: list[File]) -> None:
        """Take out what the store has of files without a name."""
        await self.save_records(list(files))

    async def released(self, file: File) -> None:
        """The last handle is gone: a file without a name goes with it."""
        if not file.names:
            await self.save_records([file])

    # within

    def _limit(self, file: File) -> int:
        """Bytes that a file may have. Settings are no message: a limit must not hinder changing
        it."""
        if any(directory.area is Area.ROOT for directory, _name in file.names):
            return ROOT_FILE_MAX
        return self._backend.configuration.current.largest

    def _beneath(self, file: File, index: int) -> bytes:
        with self._backend.store.read() as reader:
            return _read_block(reader, file, index, memory=False)

    async def _spill_meanwhile(self, file: File) -> None:
        """What cannot be spilled stays in memory; who writes on is told."""
        with suppress(StoreError):
            await self._spill(file)

    async def _make_room(self, file: File, layer: Layer) -> None:
        """Wait for the spill that is under way, and spill here when that has failed. Raises
        StoreError."""
        async with file.lock:
            pass
        if file.draft is layer and layer.held > 2 * MEMORY_MAX:
            await self._spill(file)

    async def _spill(self, file: File) -> None:
        """Put what has changed into the store, where nothing refers to it until it is saved."""
        async with file.lock:
            layer = file.draft
            # one that nobody can reach any more has been taken out of the store already
            reachable = file.names or file.handles
            if reachable and layer is not None and layer.held > MEMORY_MAX:
                await self._put(
                    layer, {i: bytes(block) for i, block in layer.memory.items()}, changed=True
                )

    async def _put(self, layer: Layer, blocks: dict[int, bytes], *, changed: bool) -> None:
        """Spill these blocks, which are in memory when they are ``changed`` ones. What is written
        meanwhile stays there."""
        layer.touched.clear()

        def change(writer: Writer) -> int:
            spill = layer.spill or writer.random_number()
            if not layer.spill:
                writer.put(Table.META, Meta.SCRATCH + u64(spill), b"")
            for index, block in blocks.items():
                writer.put(Table.CONTENT, u64(spill) + u32(index), block)
            return spill

        layer.spill = await self._backend.store.commit(change)
        layer.written.update(blocks)
        for index in blocks.keys() - layer.touched:
            if not changed or index in layer.memory:  # else it was cut off meanwhile
                layer.spilled.add(index)
                layer.memory.pop(index, None)

    async def _store(self, file: File, layer: Layer, handed: tuple[bytes, ...]) -> Content:
        """Few changes go over the stored content, in one transaction; many, and those of what
        belongs to a message, make a new one of what is spilled and the rest of the old."""
        old = None if file.lent else file.content
        over = old if not layer.spill else None
        if over is None and file.content is not None:
            await self._copy(file, layer)
        record, beside, seed = record_maker(file), _beside([file]), file.seed

        def change(writer: Writer) -> Content:
            number = over.id if over else layer.spill or writer.random_number()
            key = u64(number)
            if over:
                first = key + u32(count_blocks(layer.cut))
                stale = list(writer.keys(Table.CONTENT, key, first))
            else:
                stale = [key + u32(index) for index in layer.written - layer.spilled]
                writer.delete(Table.META, Meta.SCRATCH + key)
            for each in stale:
                writer.delete(Table.CONTENT, each)
            for index, block in layer.memory.items():
                writer.put(Table.CONTENT, key + u32(index), bytes(block))
            if old is not None and over is None:
                writer.delete_prefix(Table.CONTENT, u64(old.id))
            content = Content(number, layer.size, BLOCK)
            writer.put(Table.NODES, u64(file.inode), record(content))
            for each in handed:
                writer.put(Table.META, Meta.HANDED + each, u64(int(time.time())) + seed)
            beside(writer)
            return content

        is_new = file.content is None and not layer.spill
        return await self._backend.store.commit(change, only_adds=is_new)

    async def _copy(self, file: File, layer: Layer) -> None:
        """Spill what has not changed, a few blocks at a time."""
        same = [
            index
            for index in range(count_blocks(layer.cut))
            if index not in layer.memory and index not in layer.spilled
        ]
        for start in range(0, len(same), COPIED_AT_ONCE):
            with self._backend.store.read() as reader:
                some = {
                    index: _stored_block(reader, file, index, layer.beneath_block(index))
                    for index in same[start : start + COPIED_AT_ONCE]
                }
            await self._put(layer, some, changed=False)

    def _touched(self, file: File) -> None:
        file.version += 1
        file.unfinished = file.writers > 0
        file.touch(file.author)
        file.renew()
        file.mtime_ns = time.time_ns()  # not later: a date to come holds a message
        node_changed(file)
        self.changed()


def _start(node: MessageFile) -> int:
    """Where its bytes begin in the content that they are in."""
    return node.start if isinstance(node, FolderFile) else 0


def _mend(file: File) -> None:
    """It is what somebody has written from the start on."""
    file.failure, file.anew = Failure.NONE, -1


def _beside(nodes: list[Node], places: tuple[Folder, ...] = ()) -> Callable[[Writer], None]:
    """Stores the times of the folders below ui_info/ that these are in."""
    folders = {directory for node in nodes for directory, _name in node.names} | {*places}
    kept = [folder for folder in folders if folder.area is Area.KEPT]
    records = [(each.inode, encode_record(each)) for each in kept if each.recorded and each.names]
    times = [
        (each.inode, Times(each.mtime_ns, each.changed_ns)) for each in kept if not each.recorded
    ]

    def change(writer: Writer) -> None:
        for inode, record in records:
            writer.put(Table.NODES, u64(inode), record)
        for inode, fresh in times:
            fresh.put(writer, inode)

    return change


def _is_decision(file: File) -> bool:
    """What is written in the folder of a person or of policies, or about a conversation, is done,
    not stored."""
    return any(
        directory.area in DECIDED or is_place(directory, name) for directory, name in file.names
    )


def _content(node: Node) -> Content | None:
    if isinstance(node, File):
        return node.content
    if isinstance(node, MessageFile):
        return node.content
    raise TreeError(errno.EISDIR)


def drop_scratch(writer: Writer) -> None:
    """What was spilled and never saved, by a mount that ended before."""
    for key in list(writer.keys(Table.META, Meta.SCRATCH)):
        writer.delete_prefix(Table.CONTENT, key.removeprefix(Meta.SCRATCH))
        writer.delete(Table.META, key)


def own_contents(node: Node) -> tuple[int, ...]:
    """Ids of what is in the store of a file and of no message."""
    if not isinstance(node, File):
        return ()
    own = [node.content.id] if node.content and not node.lent else []
    return (*own, *(layer.spill for layer in (node.draft, node.storing) if layer and layer.spill))


def _layer(file: File) -> Layer:
    if file.draft is None:
        file.draft = Layer(file.size, file.size)
    return file.draft


def _read_layers(reader: Reader, file: File, offset: int, size: int) -> bytes:
    end = min(offset + size, file.size)
    parts = []
    for index in range(offset // BLOCK, count_blocks(end)):
        block = _read_block(reader, file, index, memory=True)
        wanted = min(BLOCK, end - index * BLOCK)
        parts.append(block[:wanted] + bytes(max(0, wanted - len(block))))
    start = offset % BLOCK
    return b"".join(parts)[start : start + end - offset] if offset < end else b""


def _read_block(reader: Reader, file: File, index: int, *, memory: bool) -> bytes:
    """A block as it is now, without zeros at its end that nobody wrote; with ``memory`` False
    as it is beneath what the draft has in memory."""
    most = BLOCK
    for layer in (file.draft, file.storing):
        if layer is None:
            continue
        if index in layer.memory and (memory or layer is not file.draft):
            return bytes(layer.memory[index][:most])
        if index in layer.spilled:
            data = reader.get(Table.CONTENT, u64(layer.spill) + u32(index))
            if data is None:
                raise DamagedRecord  # zeros in its place would be sent
            return data[:most]
        most = min(most, layer.beneath_block(index))
    return _stored_block(reader, file, index, most)


def _stored_block(reader: Reader, file: File, index: int, most: int) -> bytes:
    return b"" if file.content is None else read_content(reader, file.content, index * BLOCK, most)
