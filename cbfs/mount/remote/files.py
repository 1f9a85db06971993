"""What the hub does for a mount on another machine, on the tree, by paths. No FUSE mount is needed
for it, and none is asked."""

import errno
import math
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import trio

from cbfs.messages.file_names import free_name
from cbfs.mount.attributes import Attributes
from cbfs.mount.quota import BLOCK_SIZE, Quota
from cbfs.mount.remote.wire import ID_SIZE, PART, Stat, ids_in, link_target, parts_of
from cbfs.mount.single.view import SingleView
from cbfs.mount.view import MountView
from cbfs.storage.encoding import u64
from cbfs.storage.faults import harmless
from cbfs.storage.store import Meta, StoreError, Table, Writer
from cbfs.tree.changes import MTIME_MAX, Changes
from cbfs.tree.nodes import (
    MODES,
    Failure,
    File,
    Folder,
    MessageFile,
    Node,
    SymbolicLink,
    Text,
    walk,
)
from cbfs.tree.rules import METADATA, Area, TreeError, name_fault
from cbfs.tree.unsent import is_sent, sending_of, settle
from cbfs.tree.virtual.conversation_folder import OpenTranscript
from cbfs.tree.virtual.mail.mails import MailFile, OpenMail
from cbfs.tree.virtual.virtual_directory import DOTS, Listing, SearchedDirectory
from cbfs.tree.xattrs import xattrs
from cbfs_common.limits import FILE_SIZE_MAX

UPLOADS_MAX = 8
"""Files that are being handed over by those who see the same of the account: of more, the one goes
of which nothing has come for longest."""

UPLOAD_KEPT = 3_600.0
"""Seconds for which what has come of a file is kept for the next link."""

NOTED_FOR = 400 * 24 * 3_600
"""Seconds for which it is remembered that a file was handed over, if who did it never says that it
has been told so."""

SWEPT_EVERY = 24 * 3_600.0
"""Seconds after which notes of long ago are looked for again: there may be many."""

_WITHDRAWN = bytes(16)  # no seed of a draft

LISTED_AT_ONCE = 512
"""Entries after which others get a turn: those of one frame."""

_Draft = tuple[Folder, str, File]
_MESSAGES = frozenset((Area.DRAFTS, Area.FOLDER_DRAFT))
"""Where files are messages, or parts of one."""


@dataclass(slots=True)
class _Upload:
    """What has come of a file, and when the last of it did."""

    file: File
    used: float


@dataclass(slots=True, eq=False)
class Running:
    """A link: ``scope`` ends it, and it is ``over`` when nothing goes on that was asked on it."""

    scope: trio.CancelScope
    over: trio.Event


class Handed:
    """What is being handed over by the links that see the same of the account: what has come of a
    file stays for the next link to go on. ``lock`` is held while one becomes a draft, so that one
    that is handed over once more, by a new link, finds what became of it; ``deciding`` while
    settings or a decision are looked at. ``links``: those that there are, by the id of their
    mount. ``swept``: when notes of long ago were looked for, by trio's clock."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.deciding = trio.Lock()
        self.swept = -math.inf
        self.uploads: dict[bytes, _Upload] = {}
        self.links: dict[bytes, list[Running]] = {}


class HandedParts:
    """What is being handed over, by all links."""

    def __init__(self) -> None:
        self._by_view: dict[bytes, Handed] = {}

    def of(self, conversation: bytes) -> Handed:
        """That of the links that see this conversation only, or all: nobody has a hand in that of
        others."""
        return self._by_view.setdefault(conversation, Handed())


class HubFiles:
    """The files of one link. ``single``: the one conversation that is shown, None for all.
    ``inode_of`` gives the number under which the other side knows a node's inode."""

    def __init__(
        self,
        view: MountView,
        account: Path,
        handed: Handed,
        single: SingleView | None,
        inode_of: Callable[[int], int],
    ) -> None:
        self._view = view
        self._tree = view.tree
        self._single = single
        self._inode_of = inode_of
        self._handed = handed
        self._root = single.root if single else view.tree.root
        self._changes = Changes(view.tree, adds=single is None)
        self._contents = view.tree.contents
        self._attributes = Attributes(view)
        self._quota = Quota(account, view.tree.backend)
        self._uploads = handed.uploads

    # what is there

    async def node(self, path: bytes) -> Node:
        """What is at a path. Raises TreeError, OSError."""
        here: Node = self._root
        for part in parts_of(path):
            directory = _folder(here)
            name = _text(part)
            if isinstance(directory, SearchedDirectory):
                await directory.look_for(name)
            here = self._tree.lookup(directory, name)
        if self._single is not None and not self._single.shows(here):
            raise TreeError(errno.ESTALE)  # its conversation goes on with others
        return here

    async def _place(self, path: bytes) -> tuple[Folder, str]:
        above, _, name = path.rpartition(b"/")
        if not parts_of(path):
            raise TreeError(errno.EBUSY)
        return _folder(await self.node(above)), _text(name)

    def stat(self, node: Node) -> Stat:
        """What is told of a node."""
        entry = self._attributes.found(node)
        return self._stat(node, entry)

    def _stat(self, node: Node, entry: Any) -> Stat:
        conversation = b""
        if isinstance(node, Folder) and node.area is Area.DRAFTS:
            conversation = node.conversation or b""
        elif isinstance(node, File) and any(above.area in _MESSAGES for above, _ in node.names):
            conversation = draft_id(node)
        return Stat(
            self._inode_of(node.inode),
            entry.st_mode,
            entry.st_nlink,
            entry.st_size,
            entry.st_atime_ns,
            entry.st_mtime_ns,
            entry.st_ctime_ns,
            isinstance(node, MessageFile),
            conversation,
        )

    async def listing(self, path: bytes) -> AsyncIterator[list[tuple[bytes, Stat]]]:
        """The entries of a folder with their stats, LISTED_AT_ONCE at most in each piece."""
        listing = Listing(_folder(await self.node(path)))
        start, more, attributes = 0, True, self._attributes.listed
        while more:
            more = False
            await listing.look_from(start)
            found: list[tuple[bytes, Stat]] = []
            for place, name, listed in listing.some_after(start):
                start, more = place, True
                if name not in DOTS:
                    node = self._known(listed)
                    found.append((name.encode(), self._stat(node, attributes(node))))
                if len(found) == LISTED_AT_ONCE:
                    break
            yield found
            await trio.lowlevel.checkpoint()

    def _known(self, node: Node) -> Node:
        return self._tree.inodes.known(node.inode) or node if node.remade else node

    async def content(
        self, path: bytes, offset: int, size: int
    ) -> AsyncIterator[tuple[Stat, bytes]]:
        """Pieces of a file, each with the stat of what is read."""
        node = await self.node(path)
        if isinstance(node, Folder):
            raise TreeError(errno.EISDIR)
        if offset < 0 or size < 0:
            raise TreeError(errno.EINVAL)
        told = self.stat(node)
        if isinstance(node, Text | MailFile):
            node = node.opened()
        end, arriving = offset + size, False
        while offset < end:
            piece = min(PART, end - offset)
            if isinstance(node, OpenTranscript) or (isinstance(node, OpenMail) and node.packs):
                data = await node.read_apart(offset, piece)
            else:
                if arriving := self._contents.is_arriving(node):
                    await self._contents.come(node, offset)
                data = self._contents.read(node, offset, piece)
                await trio.lowlevel.checkpoint()
            yield told, data
            offset += len(data)
            if len(data) < piece and (not arriving or not data):
                return

    async def seen(self, path: bytes) -> None:
        """Somebody there has read it to its end."""
        unread = self._view.search_folders.unread
        node = await self.node(path)
        if self._single is None and unread.is_new(node):
            unread.read_up_to(node, node.size)

    async def target(self, path: bytes) -> bytes:
        """Where a symbolic link leads."""
        node = await self.node(path)
        if not isinstance(node, SymbolicLink):
            raise TreeError(errno.EINVAL)
        return node.target.encode()

    async def attributes(self, path: bytes) -> dict[str, str]:
        """The extended attributes of what is at a path."""
        return xattrs(await self.node(path), self._tree.backend)

    def space(self) -> list[int]:
        """Block size, blocks, and free blocks."""
        space = self._quota.space()
        if self._single:  # how much there is changes with every message of the account
            room = space.free * BLOCK_SIZE >= self._tree.backend.configuration.current.largest
            blocks = FILE_SIZE_MAX // BLOCK_SIZE
            return [BLOCK_SIZE, blocks, blocks if room else 0]
        return [BLOCK_SIZE, space.total, space.free]

    # what programs there change

    async def mkdir(self, path: bytes, mode: int) -> Stat:
        """Make a folder."""
        directory, name = await self._place(path)
        return self.stat(await self._changes.mkdir(directory, name, mode & 0o7777))

    async def symlink(self, path: bytes, target: bytes) -> Stat:
        """Make a symbolic link."""
        directory, name = await self._place(path)
        return self.stat(await self._changes.symlink(directory, name, link_target(target), None))

    async def rmdir(self, path: bytes) -> None:
        """Remove a folder."""
        directory, name = await self._place(path)
        await self._changes.rmdir(directory, name)

    async def unlink(self, path: bytes) -> None:
        """Remove a file, a link or a message."""
        directory, name = await self._place(path)
        node = await self._changes.unlink(directory, name)
        if isinstance(node, MessageFile):
            self._view.watchers.touch(node.inode)
            self._view.watchers.outdate(directory.inode, name)

    async def rename(self, path: bytes, new: bytes, replace: bool) -> None:
        """Move an entry."""
        source, name = await self._place(path)
        target, called = await self._place(new)
        node = source.entries.get(name)
        await self._changes.rename(source, name, target, called, replace=replace)
        for folder, left in ((source, name), (target, called)):
            self._view.watchers.outdate(folder.inode, left)  # our own kernel knows nothing of it
        if node is not None:
            self._view.watchers.touch(node.inode)

    async def describe(self, path: bytes, mode: int | None, modified: int | None) -> Stat:
        """Change permissions or the time."""
        node = await self.node(path)
        await self._changes.describe(node, mode, modified)
        return self.stat(node)

    # files that are handed over

    async def part(self, identity: bytes, offset: int, data: bytes) -> int:
        """A piece of a file that is to be handed over. Gives how many bytes of it are here."""
        if offset < 0:
            raise TreeError(errno.EINVAL)
        upload = self._uploads.get(identity)
        if upload is None:
            if self.is_handed(identity):  # it comes late: all of it is there
                return offset + len(data)
            await self._sweep()
            if len(self._uploads) >= UPLOADS_MAX:
                await self._drop(min(self._uploads, key=lambda each: self._uploads[each].used))
            file = File(self._tree.new_inode(), 0o600, time.time_ns(), None)
            file.handles = 1  # so that what is too much for memory goes to the store, sealed
            upload = self._uploads[identity] = _Upload(file, 0.0)
        upload.used = trio.current_time()
        if offset > upload.file.size:  # what came before is not here any more
            raise TreeError(errno.EAGAIN)
        self._quota.check(len(data), setting=False)
        await self._contents.write(upload.file, offset, data)
        return upload.file.size

    async def upload(self, identity: bytes) -> int | None:
        """How many bytes of a file are here; None where it was made a draft."""
        async with self._handed.lock:  # an earlier link may be about to
            if self.is_handed(identity):
                return None
            upload = self._uploads.get(identity)
            return upload.file.size if upload else 0

    async def withdraw(self, identities: bytes) -> bytes:
        """Remove the drafts that files have become, by the ids under which they were handed over;
        one that comes later under such an id is refused, with ECANCELED. Gives the ids of those
        that had gone before: they were sent, or removed here."""
        async with self._handed.lock:
            with trio.CancelScope(shield=True):
                noted = {identity: self._noted(identity) for identity in ids_in(identities)}
                seeds = {seed for seed in noted.values() if seed and seed != _WITHDRAWN}
                drafts = await self._settled(seeds)
                # nothing happens from here on to the commit: each is where it was found
                lost = seeds - drafts.keys()
                gone = [each for each, seed in noted.items() if seed in lost]
                fresh = [each for each in noted if noted[each] != _WITHDRAWN and each not in gone]

                def note(writer: Writer) -> None:
                    when = u64(int(time.time()))
                    for identity in fresh:
                        writer.put(Table.META, Meta.HANDED + identity, when + _WITHDRAWN)

                if fresh:
                    await self._changes.take_out(list(drafts.values()), note)
                for directory, name, _file in drafts.values():
                    self._view.watchers.outdate(directory.inode, name)
                for identity in noted:
                    await self._drop(identity)
        return b"".join(gone)

    async def _settled(self, seeds: set[bytes]) -> dict[bytes, _Draft]:
        """The drafts with these seeds that are none but drafts: not sent, nor just being sent."""
        while True:
            found: dict[bytes, _Draft] = {}
            drafts = self._single.drafts if self._single else self._tree.outbox
            for folder, name, node in walk(drafts) if seeds else ():
                if isinstance(node, File) and node.seed in seeds:
                    found.setdefault(node.seed, (folder, name, node))
            files = [file for _folder, _name, file in found.values()]
            if not any(map(sending_of, files)):
                return {seed: each for seed, each in found.items() if not is_sent(each[2])}
            await settle(*files)

    async def put(
        self,
        identity: bytes,
        path: bytes,
        mode: int,
        modified: int,
        size: int,
        conversation: bytes,
        replace: bool,
        before: bytes,
    ) -> list[Any]:
        """Make a file of the parts with this id, whole and on the disk on return: once, however
        often it is asked for. In the place of the draft that one of the ids in ``before`` is of, or
        has become; without such ids, in the place of what has that name if it may ``replace`` it;
        else under a name that is free.
        Gives its name and its stat, or none where it was there before. Without a folder of that
        name one is made in the outbox; without the conversation it is ESTALE."""
        async with AsyncExitStack() as alone:
            await alone.enter_async_context(self._handed.lock)
            upload: _Upload | None = None
            try:
                if self.is_handed(identity):
                    return []
                upload = await self._whole(identity, size)
                with trio.CancelScope(shield=True):
                    directory, name = await self._target(path, conversation)
                    directory = await self._changes.ready(directory)
                    if before:
                        earlier = self._earlier(directory, before)
                        name, replace = earlier or name, earlier is not None
                    if _is_looked_at(directory, name):  # a server may be asked: others go on
                        await alone.aclose()
                        await alone.enter_async_context(self._handed.deciding)
                    ids, told = (identity, *ids_in(before)), (mode, modified)
                    file = upload.file if upload else None
                    return await self._made(directory, name, ids, told, file, replace)
            except (OSError, TreeError, StoreError):
                if not self.is_handed(identity):
                    raise
            finally:
                if upload is not None:  # with what has come late
                    await self._drop(identity)
                await self._released(upload)
            return []

    async def _whole(self, identity: bytes, size: int) -> _Upload | None:
        """Take out what has come of a file that has ``size`` bytes: nobody drops it, or writes in
        it, while it is copied. Raises TreeError(EAGAIN) where a part is not here: what is here can
        be gone on with."""
        upload = self._uploads.get(identity)
        there = upload.file.size if upload else 0
        if there > size:
            await self._drop(identity)
        if there != size:
            raise TreeError(errno.EAGAIN)
        return self._uploads.pop(identity, None)

    async def _target(self, path: bytes, conversation: bytes) -> tuple[Folder, str]:
        """Where it is to be: in the folder of that conversation, whatever that is called by now."""
        above, _, name = path.rpartition(b"/")
        if conversation:  # nobody but those whom its writer saw
            own = self._single is None or self._single.drafts.conversation == conversation
            if not own or not self._tree.knows(conversation):
                raise TreeError(errno.ESTALE)
            drafts = self._tree.folders(conversation)[1]
            if not drafts.names:
                raise TreeError(errno.ESTALE)
            return drafts, _text(name)
        parts = parts_of(above)
        try:
            node = await self.node(above)
        except TreeError as error:
            if error.errno != errno.ENOENT or len(parts) != 2 or parts[0] != b"outbox":
                raise
            outbox = _folder(await self.node(parts[0]))
            return await self._changes.mkdir(outbox, _text(parts[1])), _text(name)
        if isinstance(node, SymbolicLink):  # outbox/bob leads to the conversation
            node = await self.node(b"outbox/" + node.target.encode())
        return _folder(node), _text(name)

    def _earlier(self, directory: Folder, before: bytes) -> str | None:
        """The name here of the draft of one of these ids, or of what was handed over under it,
        while it is a draft. Inodes are used again after a restart; seeds are not."""
        drafts = {node.seed: n for n, node in directory.entries.items() if isinstance(node, File)}
        own = {_id_of(seed): seed for seed in drafts}
        with self._tree.backend.store.read() as reader:
            for identity in ids_in(before):
                noted = reader.get(Table.META, Meta.HANDED + identity) or b""
                seed = own.get(identity, noted[8:])
                if seed in drafts:
                    return drafts[seed]
        return None

    async def _made(
        self,
        directory: Folder,
        name: str,
        ids: tuple[bytes, ...],
        told: tuple[int, int],
        upload: File | None,
        replace: bool,
    ) -> list[Any]:
        there = directory.entries.get(name)
        if isinstance(there, File) and not replace:
            name, there = free_name(name, directory.entries.__contains__), None
        if there is None:
            file = self._changes.create(directory, name, told[0] & 0o7777, None)
        else:
            file = self._changes.to_write(there)
        # what may be refused below is no message, and nobody hands it over again
        handed = () if _is_looked_at(directory, name) else ids
        self._contents.opened(file)
        file.handles += 1
        file.writers += 1
        try:
            self._quota.check(upload.size if upload else 0, setting=self._contents.is_setting(file))
            await self._fill(file, upload, told)
            await self._contents.save(file, handed=handed)
            if _is_looked_at(directory, name):
                await self._changes.check_close(file)
        except BaseException as error:
            file.handles -= 1
            file.writers -= 1
            if self.is_handed(ids[0]):  # as a whole, whatever has failed then
                self._contents.closed(file)
            elif there is None:
                await self._changes.take_back(file)
            elif not isinstance(
                error, TreeError
            ):  # neither what it was is sent, nor a part of this
                self._contents.fail(file, Failure.WRITE)
            raise
        file.handles -= 1
        file.writers -= 1
        made = self.stat(file)
        if _is_looked_at(directory, name):
            await self._changes.close(file)
        else:
            with harmless(self._view.failed):  # it is there, whatever becomes of the rest
                await self._changes.close(file)
        for folder, called in file.names:
            self._view.watchers.outdate(folder.inode, called)
        return [name.encode(), made]

    async def _fill(self, file: File, upload: File | None, told: tuple[int, int]) -> None:
        await self._contents.truncate(file, 0)
        for at in range(0, upload.size if upload else 0, PART):
            if upload is not None:
                await self._contents.write(file, at, self._contents.read(upload, at, PART))
        mode, modified = told
        file.mode = stat.S_IFREG | mode & MODES
        if modified:  # a time to come holds it: it is on the disk with it, or not at all
            file.mtime_ns = min(max(modified, -MTIME_MAX), MTIME_MAX)

    def is_handed(self, identity: bytes) -> bool:
        """Whether what has this id was made a draft. Raises TreeError(ECANCELED) where it is to
        become none."""
        seed = self._noted(identity)
        if seed == _WITHDRAWN:
            raise TreeError(errno.ECANCELED)
        return seed is not None

    def _noted(self, identity: bytes) -> bytes | None:
        """The seed of the draft that has come of what has this id; None for none yet."""
        with self._tree.backend.store.read() as reader:
            noted = reader.get(Table.META, Meta.HANDED + identity)
        return None if noted is None else noted[8:]

    async def taken(self, identities: list[bytes]) -> None:
        """These will not be handed over again; nor will what was a long time ago."""
        keys = [Meta.HANDED + each for each in identities if self._noted(each) is not None]
        if trio.current_time() >= self._handed.swept + SWEPT_EVERY:
            self._handed.swept = trio.current_time()
            keys += self._old_notes()

        def change(writer: Writer) -> None:
            for key in keys:
                writer.delete(Table.META, key)

        if keys:
            await self._tree.backend.store.commit(change)

    def _old_notes(self) -> list[bytes]:
        oldest = int(time.time()) - NOTED_FOR
        with self._tree.backend.store.read() as reader:
            notes = reader.items(Table.META, Meta.HANDED)
            return [key for key, when in notes if int.from_bytes(when[:8], "big") < oldest]

    async def _drop(self, identity: bytes) -> None:
        await self._released(self._uploads.pop(identity, None))

    async def _released(self, upload: _Upload | None) -> None:
        if upload is not None:
            upload.file.handles = 0
            with trio.CancelScope(shield=True), suppress(StoreError):
                await self._contents.released(upload.file)

    async def close(self) -> None:
        """The link has ended: what has come is kept for the next one, for a while."""
        await self._sweep()

    async def _sweep(self) -> None:
        oldest = trio.current_time() - UPLOAD_KEPT
        for identity in [each for each, one in self._uploads.items() if one.used < oldest]:
            await self._drop(identity)


def _is_looked_at(directory: Folder, name: str) -> bool:
    """Whether what is saved there may be refused for what it says: settings and decisions."""
    return directory.area not in _MESSAGES or name == METADATA


def draft_id(file: File) -> bytes:
    """What tells a draft from all others, for ever, and says nothing else of it."""
    return _id_of(file.seed)


def _id_of(seed: bytes) -> bytes:
    return blake2b(seed, digest_size=ID_SIZE, person=b"cbfs1 draft id").digest()


def _folder(node: Node) -> Folder:
    if not isinstance(node, Folder):
        raise TreeError(errno.ENOTDIR)
    return node.alias or node


def _text(name: bytes) -> str:
    """A name that the other side has said."""
    if number := name_fault(name):
        raise TreeError(number)
    return name.decode()
