"""quarantine/: the envelopes that could not be read, each a file; it is there when they are.

They can be read (to be sent to somebody who can tell what they are) and removed.
"""

import errno
import time
from collections.abc import Iterator

from cbfs.interface import Backend
from cbfs.messages.queues.quarantine import Why, envelope_at, numbered, reason_at
from cbfs.storage.encoding import number_of, u64
from cbfs.storage.store import Table, Writer
from cbfs.tree.nodes import Folder, Node, Text
from cbfs.tree.rules import TreeError
from cbfs.tree.virtual.virtual_directory import VirtualDirectory, inode_for
from cbfs_common.limits import ENVELOPE_SIZE

NAME = "quarantine"

_REASONS = {
    Why.NOISE: "nothing that is known opens it: anybody may have made it up, or changed it on its"
    " way, or it is for an earlier state of this account",
    Why.FAR: "too many messages before it are missing; it is read when they have come",
    Why.DAMAGED: "its session has come apart, as one of its two sides was lost or copied; its"
    " sender is told, and sends again what is missing",
    Why.LATER: "it is from somebody whom the directory does not confirm, or was kept by a later"
    " version of cbfs",
    Why.VERSION: "it is of a later version of the protocol; it is read when a mount begins with a"
    " cbfs that knows that",
    Why.ELSEWHERE: "its sender says to be of a name directory that you do not follow; it is read"
    " when you have added its policy in directories/",
    Why.FAULT: "a fault of this program, which its log describes; please report it",
}
_SUFFIX = ".envelope"


class UnreadFile(Text):
    """One envelope. ``reason`` in words."""

    __slots__ = ("reason",)

    def __init__(self, key: bytes, why: Why, backend: Backend) -> None:
        def render() -> bytes:
            with backend.store.read() as reader:
                return envelope_at(reader, key) or b""

        super().__init__(inode_for(b"quarantine", key), render, 0)
        self.reason = _REASONS[why]

    @property
    def size(self) -> int:
        """In bytes."""
        return ENVELOPE_SIZE


class QuarantineFolder:
    """``Provider`` of quarantine/: the envelopes that could not be read."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._since = time.time_ns()

    @property
    def count(self) -> int:
        """How many there are."""
        with self._backend.store.read() as reader:
            return reader.count(Table.QUARANTINE)

    def find(self, name: str) -> Node | None:
        """The envelope of that name, as ``00000012.envelope``; None when there is none."""
        number = _number(name)
        with self._backend.store.read() as reader:
            key = numbered(reader, number) if number else None
            why = reason_at(reader, key) if key else None
        return UnreadFile(key, why, self._backend) if key and why else None

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """Envelopes from place ``start`` on, the oldest first. The place behind one is its number +
        1."""
        with self._backend.store.read() as reader:
            keys = list(reader.keys(Table.QUARANTINE, start=u64(start)))
        for key in keys:
            with self._backend.store.read() as reader:
                why = reason_at(reader, key)
            if why:
                number = number_of(key[:8])
                yield number + 1, f"{number:08d}{_SUFFIX}", UnreadFile(key, why, self._backend)

    async def remove(self, name: str, _node: Node) -> None:
        """Drop an envelope. On the disk on return. Raises TreeError(ENOENT) for what is gone."""
        number = _number(name)

        def change(writer: Writer) -> bool:
            key = numbered(writer, number)
            return key is not None and writer.delete(Table.QUARANTINE, key)

        if not number or not await self._backend.store.commit(change):
            raise TreeError(errno.ENOENT)

    def modified(self) -> int:
        """When the mount began, in nanoseconds since 1970."""
        return self._since

    def stamp(self) -> int:
        """Always 0: ``VirtualDirectory.touch`` tells of all that goes."""
        return 0

    def folders(self) -> int:
        """Always 0: envelopes are files."""
        return 0

    def appear(self, root: Folder, folder: VirtualDirectory) -> None:
        """Show the folder when there is something in it, and only then."""
        if self.count and NAME not in root.entries:
            root.add(NAME, folder)
        elif not self.count and NAME in root.entries:
            root.remove(NAME)


def _number(name: str) -> int:
    digits = name.removesuffix(_SUFFIX)
    if not name.endswith(_SUFFIX) or not digits.isdecimal() or len(digits) != 8:
        return 0
    return int(digits)
