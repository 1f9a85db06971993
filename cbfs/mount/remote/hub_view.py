"""What a mount on another machine knows of its hub, kept as new as the hub tells: it is asked for
what nobody knows yet, and what it says by itself is shown to those who watch."""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, cast

from cbfs.mount.notifier import Notifier
from cbfs.mount.remote.cache import SealedCache
from cbfs.mount.remote.contents import RemoteContents, made_told, stat_told
from cbfs.mount.remote.link import AwayError, HubLink
from cbfs.mount.remote.nodes import (
    FRESH,
    NAMES_BYTES_MAX,
    RemoteNode,
    RemoteTree,
    is_here,
    path_of,
)
from cbfs.mount.remote.spool import WaitingFile
from cbfs.mount.remote.wire import (
    APPEARS,
    GOES,
    ID_SIZE,
    MOVES,
    OUTDATED,
    PATH_MAX,
    STALE,
    Stat,
    decode_stat,
    is_name,
    stays_inside,
)
from cbfs.storage.faults import Tasks
from cbfs.tree.nodes import Node
from cbfs_common.errors import DecodeError
from cbfs_common.primitives import Random

SEEN_MAX: Final = 1_000
"""Messages of which it is to be told that they were read, while the hub is away."""

LISTED_MAX: Final = 1_000_000
"""Entries of one folder."""

ATTRIBUTES_MAX: Final = 65_536
"""Bytes of the extended attributes of one file: as many as Linux has for their names."""

KEPT_BYTES_MAX: Final = 16 << 20
"""Bytes of extended attributes, and of where links lead, that are kept for when the hub is away."""

SHOWN_MAX: Final = 50_000
"""Changes that wait to be shown to those who watch. A hub that tells more is not listened to: all
is looked at anew when it is back."""

_GONE = frozenset((errno.ENOENT, errno.ESTALE, errno.ENOTDIR))
_WHOLE = (1 << 62) - 1
_ENTRY = 256  # bytes that keeping something takes at least


class HubView:
    """``tree`` as the hub behind ``link`` tells it; contents are kept in ``cache``. ``outdate`` is
    told what the kernel must forget: (inode, name), or without a name what it knows of an inode."""

    def __init__(
        self,
        tree: RemoteTree,
        link: HubLink,
        cache: SealedCache,
        tasks: Tasks,
        random: Random,
        outdate: Callable[[int, bytes], None],
        failed: Callable[[], None],
    ) -> None:
        self.tree = tree
        self.link = link
        self.notifier = Notifier(failed)
        self.contents = RemoteContents(link, cache, tasks)
        self._outdate = outdate
        self._random = random
        self._seen: list[bytes] = []
        self._space: list[int] = [4_096, 0, 0]
        self._kept: dict[RemoteNode, int] = {}
        self._kept_bytes = 0

    # what is asked

    def is_fresh(self, node: RemoteNode) -> bool:
        """Whether what is known of a node need not be asked for."""
        if not self.link.is_up or node.local or node.outgoing is not None or node.writers:
            return True
        if node.leaving:
            return True
        if node.stale or node.generation != self.link.generation:
            return False
        above = node.above
        if (node.stat.fixed or node.is_folder) and above is not None and self.tree.told(above):
            return True
        return time.monotonic() - node.at < FRESH

    async def refreshed(self, node: RemoteNode) -> RemoteNode:
        """What is at the place of a node now. Raises OSError."""
        if node.gone:
            raise OSError(errno.ESTALE, "")
        if self.is_fresh(node):
            return node
        above = node.above
        if above is None:
            generation = self.link.generation
            try:
                self.tree.update(node, stat_told(await self.link.ask("stat", b"")), generation)
            except AwayError:
                return node
            return node
        return await self.look_up(above, node.name)

    async def look_up(self, folder: RemoteNode, name: bytes) -> RemoteNode:
        """The entry of that name. Raises OSError: ENOENT, or that nobody can tell."""
        known = folder.entries.get(name)
        if known is not None and self.is_fresh(known):
            return known
        if known is None and (folder.local or self._is_listed(folder)):
            raise OSError(errno.ENOENT, "")
        generation = self.link.generation
        try:
            told = stat_told(await self.link.ask("stat", below(folder, name)))
        except AwayError:
            if known is not None and folder.entries.get(name) is known:
                return known
            if self.tree.in_outbox(folder) or folder is self._outbox or folder.listed >= 0:
                raise OSError(errno.ENOENT, "") from None  # as far as is known here
            raise
        except OSError as error:
            known = folder.entries.get(name)
            if error.errno not in _GONE or known is None:
                raise
            if is_here(known):  # what was saved in it is to be found
                return known
            self.drop(known)
            raise
        if folder.gone:
            raise OSError(errno.ESTALE, "")
        known = folder.entries.get(name)
        node = self.tree.enter(folder, name, told, generation)
        if known is not None and known is not node:
            self.contents.forget(known)
        return node

    @property
    def _outbox(self) -> RemoteNode | None:
        return self.tree.root.entries.get(b"outbox")

    def _is_listed(self, folder: RemoteNode) -> bool:
        if folder.listed < 0 or folder.listed_on != self.link.generation or not self.link.is_up:
            return False
        return self.tree.told(folder) or time.monotonic() - folder.listed < FRESH

    async def listing(self, folder: RemoteNode) -> list[RemoteNode]:
        """What is in a folder. Raises OSError."""
        if not folder.local and not self._is_listed(folder):
            try:
                await self.list_anew(folder)
            except AwayError:
                if folder.listed < 0 and not folder.entries and folder is not self._outbox:
                    raise
            except OSError as error:
                if error.errno not in _GONE or not is_here(folder):
                    raise
        return list(folder.entries.values())

    async def list_anew(self, folder: RemoteNode) -> None:
        """Ask for all that is in a folder. Raises OSError."""
        generation, began = self.link.generation, time.monotonic()
        mine = folder.during = folder.during if folder.during is not None else {}
        try:
            told = await self._told(folder)
        finally:
            if folder.during is mine:
                folder.during = None
        if folder.gone:
            raise OSError(errno.ESTALE, "")
        enter = self.tree.enter
        for name, each in told.items():
            if mine.get(name, True):
                enter(folder, name, each, generation)
        for name, node in list(folder.entries.items()):
            if name not in told and not mine.get(name, False) and not is_here(node):
                self.drop(node)
        folder.listed, folder.listed_on = began, generation

    async def _told(self, folder: RemoteNode) -> dict[bytes, Stat]:
        """What the hub says that is in a folder. Raises OSError: EIO for more than there can be."""
        told: dict[bytes, Stat] = {}
        count = size = 0
        with self.link.pieces("list", path_of(folder)) as pages:
            async for page in pages:
                for name, fields in _entries(page):
                    told[name] = stat_told(fields)
                    count += 1
                    size += len(name)
                if count > LISTED_MAX or size > NAMES_BYTES_MAX:
                    raise OSError(errno.EIO, "")
        return told

    async def read_link(self, node: RemoteNode) -> bytes:
        """Where a symbolic link leads. Raises OSError."""
        if node.target is None or not self.is_fresh(node):
            try:
                target = await self.link.ask("readlink", path_of(node))
            except AwayError:
                if node.target is None:
                    raise
            else:
                is_path = isinstance(target, bytes) and len(target) <= PATH_MAX
                node.target = target if is_path else b""
                self._keep(node, len(node.target or b""))
        # each time: it may be elsewhere by now
        if not stays_inside(path_of(node), node.target or b""):
            raise OSError(errno.EIO, "")
        return node.target or b""

    async def attributes(self, node: RemoteNode) -> dict[str, str]:
        """The extended attributes of a node. Raises OSError."""
        now = time.monotonic()
        if node.outgoing is not None or node.local:
            held = {"user.cbfs.state": "waits on this machine until the hub has it"}
            return held | ({"user.cbfs.error": node.trouble} if node.trouble else {})
        if node.attributes is None or now - node.attributes_at >= FRESH:
            try:
                found = await self.link.ask("xattrs", path_of(node))
            except AwayError:
                if node.attributes is None:
                    raise
                return node.attributes
            match found:
                case dict() if (size := _size_of(found)) <= ATTRIBUTES_MAX:
                    node.attributes, node.attributes_at = found, now
                    self._keep(node, size)
                case _:
                    raise OSError(errno.EIO, "")
        return node.attributes

    def _keep(self, node: RemoteNode, size: int) -> None:
        """So many bytes of what a node has beside its stat are kept: what was told first goes."""
        size += _ENTRY
        self._kept_bytes += size - self._kept.pop(node, 0)
        self._kept[node] = size
        while self._kept_bytes > KEPT_BYTES_MAX:
            other, less = next(iter(self._kept.items()))
            del self._kept[other]
            self._kept_bytes -= less
            other.attributes = other.target = None

    async def space(self) -> list[int]:
        """Block size, blocks, free blocks: as they were told last, while it is away."""
        try:
            match await self.link.ask("statfs"):
                case [int(size), int(blocks), int(free)] if 0 < size <= 1 << 20:
                    self._space = [size, max(0, min(blocks, _WHOLE)), max(0, min(free, _WHOLE))]
        except AwayError:
            pass
        return self._space

    async def seen(self, node: RemoteNode) -> None:
        """Somebody has read a message to its end: the hub is told, now or when it is back."""
        self._seen.append(path_of(node))
        del self._seen[:-SEEN_MAX]
        await self.tell_seen()

    async def tell_seen(self) -> None:
        """Tell the hub what was read."""
        while self._seen:
            path = self._seen.pop(0)  # others may be telling as well
            try:
                await self.link.tell("seen", path)
            except AwayError:
                self._seen.insert(0, path)
                return

    async def put(self, node: RemoteNode, content: bytes) -> Stat | None:
        """Give the hub a file that is no message, as a whole. Gives the stat, if there is one.
        Raises OSError."""
        identity, mode = self._random.token(ID_SIZE), stat.S_IMODE(node.stat.mode)
        item = WaitingFile(identity, path_of(node), mode, node.timed, b"", True, len(content))
        _name, told = made_told(await self.link.hand_over(item, content))
        with suppress(AwayError):  # it has it, and forgets the note by itself
            await self.link.tell("taken", [identity])
        return told

    def drop(self, node: RemoteNode) -> None:
        """The hub has it no more: no kernel and no cache keeps it."""
        above = node.above
        self.contents.forget(node)
        self.tree.remove(node)
        if above is not None:
            self._outdate(above.number, node.name)
        self._outdate(node.number, b"")

    # what the hub says by itself

    def linked(self) -> None:
        """There is a new link: the hub may have begun anew, with other inodes."""
        self.tree.inodes.clear()
        self.tree.inodes[self.tree.root.stat.inode] = self.tree.root

    def news(self, told: list[Any]) -> None:
        """One piece of news. Raises DecodeError."""
        word, *rest = told
        if self.notifier.waiting > SHOWN_MAX:
            raise DecodeError("more news than can be shown")
        if word == APPEARS:
            self._appears(rest[0], decode_stat(rest[1]))
        elif word == GOES:
            self._goes(rest[0])
        elif word == MOVES:
            self._moves(*rest)
        elif word == STALE:
            node = self.tree.inodes.get(rest[0])
            if node is not None:
                self._is_stale(node)
        elif word == OUTDATED:
            folder = self.tree.inodes.get(rest[0])
            if folder is not None:
                self._outdated(folder, rest[1])

    def _appears(self, path: bytes, told: Stat) -> None:
        above, _, name = path.rpartition(b"/")
        folder = self.tree.find_folder(above)
        if folder is None:
            return
        self._texts_stale(folder)
        if folder.during is not None:
            folder.during[name] = True
        self.show(folder, name, told)

    def show(self, folder: RemoteNode, name: bytes, told: Stat) -> None:
        """Let watchers see what has come into a folder."""
        generation = self.link.generation

        def enter() -> None:
            if not folder.gone and folder.is_folder and name not in folder.entries:
                self.tree.enter(folder, name, told, generation)
            elif name in folder.entries:
                folder.entries[name].stale = True

        there = folder.entries.get(name)
        if there is not None and not there.leaving:
            enter()
            return
        path = os.fsdecode(below(folder, name))
        if stat.S_ISDIR(told.mode):
            self.notifier.make(path, enter)
            return
        staged = self.tree.staged(folder, name, told)

        def enter_staged() -> None:
            if not folder.gone and name not in folder.entries:
                self.tree.place(staged, folder)
                self.tree.update(staged, told, generation)

        self.notifier.show(path, cast(Node, staged), enter_staged)

    def _goes(self, path: bytes) -> None:
        node = self.tree.find(path)
        if node is None:
            above, _, name = path.rpartition(b"/")
            folder = self.tree.find_folder(above)
            if folder is not None and folder.during is not None:
                folder.during[name] = False
            return
        if node.above is not None:
            self._texts_stale(node.above)
        if is_here(node):
            node.stale = True
        else:
            self.hide(node)

    def hide(self, node: RemoteNode) -> None:
        """Let watchers see that something goes."""
        self.contents.forget(node)
        node.leaving = True
        if node.above is not None and node.above.during is not None:
            node.above.during[node.name] = False

        def leave() -> None:
            node.leaving = False
            if is_here(node):  # somebody has saved something in it meanwhile
                node.stale = True
                return
            self.tree.remove(node)
            self._outdate(node.number, b"")

        path = os.fsdecode(path_of(node))
        if node.is_folder:
            self.notifier.remove_folder(path, leave)
        else:
            self.notifier.remove(path, leave)

    def _moves(self, path: bytes, new: bytes) -> None:
        node = self.tree.find(path)
        above = node.above if node is not None else None
        if node is None or above is None:
            return

        def change() -> None:
            there = above.entries.get(new)
            if there is not None and there is not node and is_here(there):
                node.stale = there.stale = True
                above.listed = -1.0
            elif not node.gone and node.above is above:
                self.tree.move(node, above, new)
                node.listed = above.listed = -1.0  # news meanwhile was of other paths

        self.notifier.move(os.fsdecode(path), os.fsdecode(new), change)

    def _is_stale(self, node: RemoteNode) -> None:
        node.stale = True
        node.attributes = None
        if node.stat.fixed:
            self.contents.forget(node)
        self._outdate(node.number, b"")

    def _outdated(self, folder: RemoteNode, name: bytes) -> None:
        folder.listed = -1.0
        node = folder.entries.get(name)
        if node is not None:
            node.stale = True
            self._outdate(folder.number, name)

    def _texts_stale(self, folder: RemoteNode) -> None:
        """What the hub writes about what is in a folder, it writes anew."""
        folder.stale = True
        for name in (b"transcript", b"metadata.toml"):
            text = folder.entries.get(name)
            if text is not None:
                text.stale = True

    async def catch_up(self) -> None:
        """There is a link again: show what has come and gone meanwhile in what is told. Raises
        OSError."""
        above = self.tree.root.entries.get(b"conversations")
        if above is None or not above.is_folder:
            return
        before = {folder: folder.stat.modified for folder in above.entries.values()}
        await self._catch_up_in(above)
        for folder, modified in before.items():
            looked_at = folder.listed >= 0 or folder.stat.modified != modified
            if looked_at and folder.is_folder and not folder.gone:
                await self._catch_up_in(folder)

    async def _catch_up_in(self, folder: RemoteNode) -> None:
        """In one folder. Where nobody knows what was in it before, that is shown which has come
        since the last link."""
        known, was_listed = set(folder.entries), folder.listed >= 0
        fresh = await self._list_quietly(folder)
        if fresh is None:
            return
        for name in known - set(fresh):
            node = folder.entries.get(name)
            if node is not None and not is_here(node):
                self.hide(node)
        for name, told in fresh.items():
            if name in folder.entries:
                self.tree.enter(folder, name, told, self.link.generation)
            elif was_listed or told.changed > self.link.since:
                self.show(folder, name, told)

    async def _list_quietly(self, folder: RemoteNode) -> dict[bytes, Stat] | None:
        """What is in a folder now; None where it is not there any more."""
        mine: dict[bytes, bool] = {}
        folder.during = mine
        generation, began = self.link.generation, time.monotonic()
        try:
            found = await self._told(folder)
        except AwayError:
            raise
        except OSError:
            return None
        finally:
            folder.during = None
        for name, there in mine.items():
            if not there:
                found.pop(name, None)
        if folder.listed >= 0:
            folder.listed, folder.listed_on = began, generation
        return found


def _size_of(attributes: dict[Any, Any]) -> int:
    """Bytes of extended attributes; more than there may be for what are none."""
    if not all(type(k) is type(v) is str for k, v in attributes.items()):
        return ATTRIBUTES_MAX + 1
    return sum(len(os.fsencode(k)) + len(os.fsencode(v)) for k, v in attributes.items())


def below(folder: RemoteNode, name: bytes) -> bytes:
    """The path of what has this name in a folder."""
    above = path_of(folder)
    return above + b"/" + name if above else name


def _entries(page: list[Any]) -> Iterator[tuple[bytes, list[Any]]]:
    match page:
        case [list(entries)]:
            for each in entries:
                match each:
                    case [bytes(name), list(fields)] if is_name(name):
                        yield name, fields
                    case _:
                        raise OSError(errno.EIO, "")
        case _:
            raise OSError(errno.EIO, "")
