"""When what the daemon itself shows has last changed, kept from mount to mount.

What programs make has its times in its own record (``cbfs.tree.nodes``). For the rest, as contacts/
and the texts in it, there is a record of the times and a digest of what they are the times of:
names, or a text. At the next mount they hold where that is still the same; what is not has changed
when the mount begins, and never before it had changed last. A crash leaves the records of the mount
before.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from cbfs.storage.encoding import pack, u64, unpack
from cbfs.storage.store import Meta, Reader, Table, Writer
from cbfs.tree.nodes import Folder, Node, Text
from cbfs.tree.rules import Area
from cbfs.tree.virtual.virtual_directory import VirtualDirectory

_DIGEST_SIZE = 16


@dataclass(frozen=True, slots=True)
class Times:
    """META: of an inode. In nanoseconds; ``of`` is a digest, or empty where the record is written
    with each change."""

    mtime_ns: int
    changed_ns: int
    of: bytes = b""

    def put(self, writer: Writer, inode: int) -> None:
        """Keep them."""
        writer.put(Table.META, Meta.TIMES + u64(inode), self.encode())

    def encode(self) -> bytes:
        """As a record."""
        return pack(self.mtime_ns, self.changed_ns, self.of)


def read_times(reader: Reader, inode: int) -> Times | None:
    """Those that are kept of an inode."""
    data = reader.get(Table.META, Meta.TIMES + u64(inode))
    return None if data is None else _decode(data)


def settle_times(reader: Reader, nodes: Iterator[Node]) -> None:
    """At the start of a mount: give these the times that they had."""
    for node in nodes:
        kept = read_times(reader, node.inode)
        if kept is None:
            continue
        if kept.of == digest_of(node):
            node.mtime_ns, node.changed_ns = kept.mtime_ns, kept.changed_ns
        else:
            node.mtime_ns = node.changed_ns = max(time.time_ns(), kept.changed_ns + 1)


def keep_times(nodes: Iterator[Node]) -> Callable[[Writer], None]:
    """At the end: the change that keeps those of these."""
    found = [(n.inode, Times(n.mtime_ns, n.changed_ns, digest_of(n))) for n in nodes]

    def change(writer: Writer) -> None:
        for inode, times in found:
            if read_times(writer, inode) != times:
                times.put(writer, inode)

    return change


def shown(root: Folder) -> Iterator[Node]:
    """The folders and texts below the root of a mount that the daemon makes: those that are the
    same in the next one. The folders of messages are not among them (see
    ``cbfs.tree.virtual.conversation_folder``)."""
    left = [root]
    while left:
        here = left.pop()
        yield here
        for node in here.entries.values():
            if isinstance(node, Folder) and not isinstance(node, VirtualDirectory):
                if not node.recorded and node.area not in {Area.KEPT, Area.SCRATCH}:
                    left.append(node)
            elif isinstance(node, Text) and here.area not in {Area.OUTBOX, Area.DRAFTS}:
                yield node


def digest_of(node: Node) -> bytes:
    """Of what is in a folder, or of a text."""
    digest = blake2b(digest_size=_DIGEST_SIZE)
    if isinstance(node, Folder):
        for name in sorted(node.entries):
            digest.update(name.encode() + b"/")
    elif isinstance(node, Text):
        digest.update(node.render())
    return digest.digest()


def _decode(data: bytes) -> Times:
    return Times(*unpack(data, int, int, bytes))
