"""A folder in the outbox as one message: how it is packed, and what becomes of its files then.

What is in it is copied into one content, which nothing refers to until the message does; a crash
before leaves the folder as it was, and the copy to the next mount, which drops it. The transaction
that makes the message takes the folder out of the records: a crash after it leaves the message. The
files' own contents go when the folder leaves the outbox, a second later, or at the next mount.
"""

from collections.abc import Callable
from dataclasses import dataclass

import trio

from cbfs.messages.model import Content
from cbfs.problems import Refused
from cbfs.storage.encoding import u32, u64
from cbfs.storage.store import Meta, Table, Writer
from cbfs.tree.file_contents import own_contents
from cbfs.tree.nodes import File, Folder, Node, encode_record, walk
from cbfs.tree.rules import Area
from cbfs.tree.tree import Tree
from cbfs.tree.write_buffer import BLOCK, COPIED_AT_ONCE
from cbfs_common.errors import DecodeError, LimitError
from cbfs_common.limits import FOLDER_ENTRIES_MAX
from cbfs_common.messages.folder import TOP, FolderEntry, encode_table


@dataclass(frozen=True, slots=True)
class _Plan:
    """The beginning of the content, and the files that follow it."""

    head: bytes
    files: list[File]
    size: int


def _plan(top: Folder, most: int) -> _Plan:
    """Raises Refused for what cannot be sent, as it is a link, too many, too deep or too large."""
    entries: list[FolderEntry] = []
    files: list[File] = []
    parents = {top: TOP}
    for directory, name, node in walk(top):
        if len(entries) >= FOLDER_ENTRIES_MAX:
            raise Refused("there is too much in the folder", f"at most {FOLDER_ENTRIES_MAX} files")
        if isinstance(node, File):
            entries.append(FolderEntry(parents[directory], name, node.size))
            files.append(node)
        elif isinstance(node, Folder):
            entries.append(FolderEntry(parents[directory], name, None))
            parents[node] = len(entries)
        else:
            raise Refused(f"{name} is a link", "put what it leads to in its place")
    try:
        head = encode_table(entries)
    except (LimitError, DecodeError) as error:
        raise Refused(str(error), error.hint) from error
    size = len(head) + sum(file.size for file in files)
    if size > most:
        raise Refused("the folder is too large", f"at most {most:,} bytes in all")
    return _Plan(head, files, size)


async def pack(tree: Tree, top: Folder) -> Content:
    """One content of all that is in a folder. Raises Refused. When it is cancelled, what was copied
    is dropped at the next mount."""
    plan = _plan(top, tree.backend.configuration.current.largest)
    for file in plan.files:
        await tree.contents.save(file)
    number, index, buffer = await tree.backend.store.commit(_begin), 0, bytearray(plan.head)
    for file in plan.files:
        for offset in range(0, file.size, BLOCK):
            buffer += tree.contents.read(file, offset, BLOCK)
            if len(buffer) >= COPIED_AT_ONCE * BLOCK:
                whole = len(buffer) // BLOCK * BLOCK
                await tree.backend.store.commit(_putting(number, index, bytes(buffer[:whole])))
                del buffer[:whole]
                index += whole // BLOCK
        await trio.lowlevel.checkpoint()  # there may be thousands
    await tree.backend.store.commit(_putting(number, index, bytes(buffer)))
    return Content(number, plan.size, BLOCK)


def _begin(writer: Writer) -> int:
    number = writer.random_number()
    writer.put(Table.META, Meta.SCRATCH + u64(number), b"")
    return number


def _putting(number: int, index: int, data: bytes) -> Callable[[Writer], None]:
    """Store these blocks, the first of which is number ``index``."""

    def change(writer: Writer) -> None:
        for at, start in enumerate(range(0, len(data), BLOCK), index):
            writer.put(Table.CONTENT, u64(number) + u32(at), data[start : start + BLOCK])

    return change


async def drop(tree: Tree, content: Content) -> None:
    """It has become no message."""

    def change(writer: Writer) -> None:
        writer.delete(Table.META, Meta.SCRATCH + u64(content.id))
        writer.delete_prefix(Table.CONTENT, u64(content.id))

    await tree.backend.store.commit(change)


def taking_out(top: Folder, content: Content) -> Callable[[Writer], None]:
    """For the transaction that makes the message of ``content``: a folder and what is in it are no
    drafts any more. A file that has a name elsewhere stays there."""
    folders, files = _below(top)
    keys = frozenset(folder.key for folder in folders)
    inodes = [folder.inode for folder in folders]
    contents: list[int] = []
    kept: list[tuple[int, bytes]] = []
    for file in files:
        if _is_elsewhere(file, keys):
            kept.append((file.inode, encode_record(file, without=keys)))
        else:
            inodes.append(file.inode)
            contents += own_contents(file)

    def change(writer: Writer) -> None:
        writer.delete(Table.META, Meta.SCRATCH + u64(content.id))
        for inode in inodes:
            writer.delete(Table.NODES, u64(inode))
        for inode, record in kept:
            writer.put(Table.NODES, u64(inode), record)
        for number in contents:
            writer.put(Table.META, Meta.SCRATCH + u64(number), b"")

    return change


def seal(top: Folder) -> None:
    """The folder is sent: nothing in it can change any more."""
    folders, files = _below(top)
    keys = frozenset(folder.key for folder in folders)
    for folder in folders:
        folder.area, folder.recorded = Area.FIXED, False
    for file in files:
        if _is_elsewhere(file, keys):
            _take_names(file, keys)
    if top.folder_draft is not None:
        top.folder_draft.sent = top.folder_draft.version


async def clear(tree: Tree, top: Folder) -> None:
    """The folder is out of the outbox: what nobody has open goes."""
    folders, files = _below(top)
    keys = frozenset(folder.key for folder in folders)
    for node in (*folders, *files):
        _take_names(node, keys)
    await tree.contents.forget([file for file in files if not file.handles])


def _below(top: Folder) -> tuple[list[Folder], list[File]]:
    """(the folder and those in it, their files)."""
    nodes = [node for _directory, _name, node in walk(top)]
    folders = [node for node in nodes if isinstance(node, Folder)]
    return [top, *folders], list(dict.fromkeys(node for node in nodes if isinstance(node, File)))


def _is_elsewhere(file: File, keys: frozenset[int]) -> bool:
    return any(directory.key not in keys for directory, _name in file.names)


def _take_names(node: Node, keys: frozenset[int]) -> None:
    for directory, name in list(node.names):
        if directory.key in keys:
            directory.remove(name)
