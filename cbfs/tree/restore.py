"""What programs had saved under outbox/, ui_info/ and mail/, and as config.toml, back in the tree
at the next mount.

What is in a folder of the outbox in which a conversation has begun belongs to the conversation's
own folder from then on; records of the one turn into records of the other. A record that was made
before, and comes into the store after it, still names the old folder: therefore it is remembered
until the next mount where that went.
"""

from collections.abc import Callable

from cbfs.messages.file_names import free_name
from cbfs.storage.encoding import number_of, u64
from cbfs.storage.store import Meta, Reader, Table, Writer
from cbfs.tree.file_contents import drop_scratch, own_contents
from cbfs.tree.nodes import (
    MAIL,
    OUTBOX,
    ROOT,
    UI_INFO,
    File,
    Folder,
    Node,
    decode_record,
    encode_record,
    in_another_folder,
)
from cbfs.tree.times import read_times
from cbfs.tree.tree import Tree
from cbfs.tree.unsent import put_into
from cbfs.tree.virtual.metadata_file import is_place


def restore(tree: Tree) -> Callable[[Writer], None]:
    """Enter what the store has; a name that is taken (by a conversation's folder that has come
    since) becomes another one. Gives the change that takes out what nobody can reach any more
    (tmp/ of the last mount)."""
    nodes: dict[int, tuple[Node, list[tuple[int, str]]]] = {}
    renamed: list[Node] = []
    with tree.backend.store.read() as reader:
        for record, data in reader.items(Table.NODES):
            inode = number_of(record)
            nodes[inode] = decode_record(inode, data)
        moved = load_moved(reader)
        kept = read_times(reader, UI_INFO)
    if kept is not None:
        tree.ui_info.mtime_ns, tree.ui_info.changed_ns = kept.mtime_ns, kept.changed_ns
    places: dict[int, Folder] = {ROOT: tree.root, OUTBOX: tree.outbox, UI_INFO: tree.ui_info}
    places[MAIL] = tree.mail.root
    places |= {drafts.key: drafts for drafts in tree.drafts()}
    places |= {old: places[new] for old, new in moved.items() if new in places}

    def enter(inode: int) -> None:
        node, names = nodes[inode]
        for key, name in names:
            if key in places and not is_place(places[key], name):
                free = free_name(name, places[key].entries.__contains__)
                places[key].enter(free, node)
                renamed.extend([node] if free != name or key in moved else [])

    # all folders first: a file may have names in several, and each of them counts
    folders = {i: names for i, (node, names) in nodes.items() if isinstance(node, Folder)}
    while reached := [i for i, names in folders.items() if any(k in places for k, _ in names)]:
        for inode in reached:
            del folders[inode]
            enter(inode)
            node = nodes[inode][0]
            if isinstance(node, Folder) and node.names:
                put_into(node, next(iter(node.names))[0])
                places[inode] = node
    for inode, (node, _names) in nodes.items():
        if not isinstance(node, Folder):
            enter(inode)
    left = {inode: entry for inode, entry in nodes.items() if not entry[0].names}

    def forget(writer: Writer) -> None:
        drop_scratch(writer)
        forget_moved(writer)
        for each in renamed:
            writer.put(Table.NODES, u64(each.inode), encode_record(each))
        for inode, (node, _names) in left.items():
            writer.delete(Table.NODES, u64(inode))
            if isinstance(node, File) and node.content:
                writer.delete_prefix(Table.CONTENT, u64(node.content.id))

    return forget


def empty_tmp(tree: Tree) -> Callable[[Writer], None]:
    """At the end: the change that takes out what is in tmp/. A crash before it leaves that to the
    next mount."""
    inodes: list[int] = []
    contents: list[int] = []
    folders = [tree.tmp]
    while folders:
        for node in folders.pop().entries.values():
            inodes.append(node.inode)
            if isinstance(node, Folder):
                folders.append(node)
            elif isinstance(node, File):
                contents += own_contents(node)

    def forget(writer: Writer) -> None:
        for inode in inodes:
            writer.delete(Table.NODES, u64(inode))
        for content in contents:
            writer.delete_prefix(Table.CONTENT, u64(content))
        drop_scratch(writer)

    return forget


def take_along(writer: Writer, old: int, new: int) -> None:
    """In the transaction in which the conversation begins. Contents stay as they are."""
    writer.delete(Table.NODES, u64(old))
    writer.put(Table.META, Meta.MOVED + u64(old), u64(new))
    for key, data in list(writer.items(Table.NODES)):
        record = in_another_folder(data, old, new)
        if record is not None:
            writer.put(Table.NODES, key, record)


def load_moved(reader: Reader) -> dict[int, int]:
    """Folders that have moved since the last mount began: new inode numbers by old ones."""
    return {
        number_of(key[len(Meta.MOVED) :]): number_of(new)
        for key, new in reader.items(Table.META, Meta.MOVED)
    }


def forget_moved(writer: Writer) -> None:
    """In the transaction after which no record names an old folder."""
    writer.delete_prefix(Table.META, Meta.MOVED)
