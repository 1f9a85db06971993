"""What a mount on another machine knows of its hub's files. No FUSE, and nothing is asked here."""

import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import trio

from cbfs.mount.remote.spool import WaitingFile
from cbfs.mount.remote.wire import Stat
from cbfs.tree.rules import is_scratch
from cbfs_common.errors import DecodeError

ROOT_NUMBER = 1

NODES_MAX = 2_000_000
"""Files and folders that are known at a time, whatever a hub tells."""

NAMES_BYTES_MAX = 128 << 20
"""Bytes of their names, and of the names that one listing has."""

FRESH = 1.0
"""Seconds for which that counts which the hub does not tell the end of."""


@dataclass(slots=True, eq=False)
class RemoteContent:
    """What is known of the bytes of a file: kept in the cache as the file ``file``, ``size`` bytes
    of which the hub said that they are of this ``version``."""

    file: int
    version: tuple[int, int, int, int]
    size: int
    at: float = 0.0
    last: int = -1
    """The window that was read last."""
    fetching: dict[int, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class RemoteNode:
    """One file or folder. ``number`` is that of its inode here; ``at`` is when the hub told
    ``stat``, by the monotonic clock, on link number ``generation``. ``stale``: the hub has told
    that it is another one now. ``outgoing``: what waits to be handed over; ``local``: the hub does
    not know it yet."""

    number: int
    above: "RemoteNode | None"
    name: bytes
    stat: Stat
    at: float = 0.0
    generation: int = 0
    stale: bool = False
    entries: dict[bytes, "RemoteNode"] = field(default_factory=dict)
    listed: float = -1.0
    """When all entries were told, -1 for never, and on which link."""
    listed_on: int = 0
    during: dict[bytes, bool] | None = None
    """What has come (True) and gone since the listing that is under way has begun."""
    lookups: int = 0
    content: RemoteContent | None = None
    attributes: dict[str, str] | None = None
    attributes_at: float = 0.0
    target: bytes | None = None
    outgoing: WaitingFile | None = None
    before: bytes = b""
    """The ids of what the hub may have of it, where nobody knows under which name: what is saved is
    to be in the place of that."""
    local: bool = False
    trouble: str = ""
    """Why it was not taken."""
    writing: bytearray | None = None
    dirty: bool = False
    failed: int = 0
    """Why something is missing of what was to be written: an errno, or 0."""
    timed: int = 0
    """The time that a program has set since it was written last (nanoseconds), else 0."""
    writers: int = 0
    opened: int = 0
    leaving: bool = False
    """It goes, and is found until those who watch have seen it."""
    gone: bool = False
    unlinked: bool = False
    """It was removed here: what is still written into it is meant for nobody."""
    seen: bool = False
    changing: trio.Lock | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.stat.mode)

    @property
    def ids(self) -> bytes:
        """Those of what the hub has of a draft, in a row: what is saved in its place says so, and
        takes the place of nothing else."""
        return self.before or (b"" if self.is_folder else self.stat.conversation)

    @property
    def lock(self) -> trio.Lock:
        """Held by who stores, renames, removes or describes it: one after the other."""
        if self.changing is None:
            self.changing = trio.Lock()
        return self.changing


def path_of(node: RemoteNode) -> bytes:
    """Its path from the root on."""
    parts: list[bytes] = []
    here = node
    while here.above is not None:
        parts.append(here.name)
        here = here.above
    return b"/".join(reversed(parts))


@dataclass(slots=True, eq=False)
class WaitingNode:
    """A file that waits, and where it is shown. ``sent``: it was on the link under this id, so that
    anything else gets another one; ``unknown``: and nobody knows yet what the hub has done.
    ``earlier``: nor of an earlier try, or of what it is in the place of. ``refused``: why, and when
    by trio's clock."""

    item: WaitingFile
    node: RemoteNode
    sent: bool = False
    unknown: bool = False
    earlier: bool = False
    refused: tuple[int, float] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it, or what it is in the place of, may be at the hub or not, and the next try
        tells."""
        return self.unknown or (self.earlier and self.refused is None and self.item.whole)

    @property
    def stays_here(self) -> bool:
        """Whether it is not handed over: it is no message, or somebody is writing in it."""
        is_no_message = is_scratch(os.fsdecode(self.node.name)) or not self.item.whole
        return bool(self.node.writers) or is_no_message


class RemoteTree:
    """All that is known."""

    def __init__(self, root: Stat) -> None:
        self._last = ROOT_NUMBER
        self._names = 0
        self.root = RemoteNode(ROOT_NUMBER, None, b"", root)
        self.numbers: dict[int, RemoteNode] = {ROOT_NUMBER: self.root}
        self.inodes: dict[int, RemoteNode] = {}

    def find(self, path: bytes) -> RemoteNode | None:
        """What is known to be at a path that leads through folders. Raises DecodeError for one
        through a symbolic link: who does something at such a path does it elsewhere."""
        here = self.root
        for name in path.split(b"/") if path else ():
            if not _is_passable(here):
                return None
            found = here.entries.get(name)
            if found is None:
                return None
            here = found
        return here

    def find_folder(self, path: bytes) -> RemoteNode | None:
        """The folder that is known to be at a path. Raises DecodeError as ``find``."""
        found = self.find(path)
        return found if found is not None and _is_passable(found) else None

    def enter(self, above: RemoteNode, name: bytes, told: Stat, generation: int) -> RemoteNode:
        """The hub has told of this entry."""
        node = above.entries.get(name)
        if node is not None and (node.outgoing is not None or node.writers):
            return node  # what is here is newer
        if node is None or not _is_same(node.stat, told):
            if node is not None:
                if node.entries and is_here(node):
                    return node
                self.remove(node)
            node = self._made(name, told)
            self.place(node, above)
        self.update(node, told, generation)
        return node

    def update(self, node: RemoteNode, told: Stat, generation: int) -> None:
        """The hub has told this of a node. What is a folder stays one, whatever it says."""
        kind = stat.S_IFMT(node.stat.mode)
        if kind != stat.S_IFMT(told.mode):
            told = told._replace(mode=kind | stat.S_IMODE(told.mode))
        if node.is_folder and node.stat.conversation not in {b"", told.conversation}:
            told = told._replace(conversation=node.stat.conversation)  # another one is another node
        if node.stat.version != told.version:
            node.attributes = node.target = None
        if self.inodes.get(node.stat.inode) is node:
            del self.inodes[node.stat.inode]
        node.stat, node.at, node.generation = told, time.monotonic(), generation
        node.stale = node.local = False
        self.inodes[told.inode] = node

    def staged(self, above: RemoteNode, name: bytes, told: Stat) -> RemoteNode:
        """What is about to be shown there; ``place`` it then."""
        node = self._made(name, told)
        node.above = above
        return node

    def detached(self, name: bytes, told: Stat) -> RemoteNode:
        """What has no place to be shown at."""
        return self._made(name, told)

    def place(self, node: RemoteNode, above: RemoteNode) -> None:
        """It is in a folder now, under its name, which is free there."""
        node.above = above
        above.entries[node.name] = node
        if above.during is not None:
            above.during[node.name] = True

    def make(self, above: RemoteNode, name: bytes, told: Stat) -> RemoteNode:
        """Something is made here of which the hub does not know yet."""
        node = self._made(name, told)
        self.place(node, above)
        node.local = True
        return node

    def _made(self, name: bytes, told: Stat) -> RemoteNode:
        if len(self.numbers) >= NODES_MAX or self._names + len(name) > NAMES_BYTES_MAX:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        self._last += 1
        self._names += len(name)
        node = RemoteNode(self._last, None, name, told)
        self.numbers[node.number] = node
        return node

    def remove(self, node: RemoteNode) -> None:
        """It is there no more. Who has it open still finds it."""
        above = node.above
        if above is not None and above.entries.get(node.name) is node:
            del above.entries[node.name]
            if above.during is not None:
                above.during[node.name] = False
        for each in _all_below(node):
            each.gone = True
            if self.inodes.get(each.stat.inode) is each:
                del self.inodes[each.stat.inode]
            if not each.lookups and not each.opened:
                self.ended(each)

    def move(self, node: RemoteNode, above: RemoteNode, name: bytes) -> None:
        """It is somewhere else now, in the place of what was there."""
        there = above.entries.get(name)
        if there is not None and there is not node:
            self.remove(there)
        before = node.above
        if before is not None and before.entries.get(node.name) is node:
            del before.entries[node.name]
            if before.during is not None:
                before.during[node.name] = False
        self._names += len(name) - len(node.name)
        node.above, node.name = above, name
        above.entries[name] = node
        if above.during is not None:
            above.during[name] = True

    def forget(self, number: int, count: int) -> None:
        """The kernel takes ``count`` look-ups back."""
        node = self.numbers.get(number)
        if node is None or node is self.root:
            return
        node.lookups = max(0, node.lookups - count)
        if not node.lookups and node.gone and not node.opened:
            self.ended(node)

    def ended(self, node: RemoteNode) -> None:
        """Nobody can ask for it any more."""
        if self.numbers.pop(node.number, None) is not None:
            self._names -= len(node.name)

    def told(self, node: RemoteNode) -> bool:
        """Whether the hub tells what comes and goes in a folder: conversations/, and those in it,
        with what is in the messages there that are folders."""
        here = node
        while here.above is not None and here.above is not self.root:
            here = here.above
        return here.name == b"conversations" and here.above is self.root

    def in_outbox(self, folder: RemoteNode) -> bool:
        """Whether files in it are messages."""
        above = folder.above
        return above is not None and self.is_outbox(above)

    def is_outbox(self, folder: RemoteNode) -> bool:
        """Whether it is outbox/ itself."""
        return folder.above is self.root and folder.name == b"outbox"


def _is_same(known: Stat, told: Stat) -> bool:
    """Whether the one is the other, as it is now. A hub that has begun anew has other inodes."""
    if stat.S_IFMT(known.mode) != stat.S_IFMT(told.mode) or known.fixed != told.fixed:
        return False
    if known.conversation not in {b"", told.conversation}:  # a new one may begin in a folder
        return False
    return not told.fixed or (known.size, known.modified) == (told.size, told.modified)


def is_here(node: RemoteNode) -> bool:
    """Whether more is known here than at the hub of a file, or of anything in a folder."""
    return any(
        each.local or each.outgoing is not None or each.writers > 0 for each in _all_below(node)
    )


def _is_passable(node: RemoteNode) -> bool:
    if stat.S_ISLNK(node.stat.mode) and not node.stale:
        raise DecodeError("news through a symbolic link")
    return node.is_folder


def _all_below(node: RemoteNode) -> Iterator[RemoteNode]:
    yield node
    for each in list(node.entries.values()):
        yield from _all_below(each)


def local_stat(mode: int, size: int = 0) -> Stat:
    """Of what is made here."""
    now = time.time_ns()
    return Stat(0, mode, 2 if stat.S_ISDIR(mode) else 1, size, now, now, now, False, b"")


class Claim:
    """While a node is somebody's."""

    def __init__(self, claims: dict[RemoteNode, trio.Event], node: RemoteNode, over: Any) -> None:
        self._claims = claims
        self._node = node
        self._over = over

    def __enter__(self) -> None:
        self._claims[self._node] = trio.Event()

    def __exit__(self, *_error: object) -> None:
        self._claims.pop(self._node).set()
        self._over()
