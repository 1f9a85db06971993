"""What programs do to the tree: what each change means, what may be moved where and over what, and
how a change of names is undone when the disk does not take it.
"""

import errno
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from cbfs.messages.file_names import ERROR_SUFFIX
from cbfs.storage.store import StoreError, Writer
from cbfs.tree.nodes import (
    MODES,
    File,
    Folder,
    FolderFile,
    MessageFile,
    Node,
    SymbolicLink,
    Text,
    new_seed,
)
from cbfs.tree.processes import Process
from cbfs.tree.rules import (
    CONFIG,
    DECIDED,
    PERSON,
    RULES,
    Area,
    TreeError,
    backup_of,
    check,
    file_rule,
    folder_rule,
    is_backup,
    is_lock,
    lock_names,
    mkdir_rule,
    name_fault,
)
from cbfs.tree.tree import Tree
from cbfs.tree.unsent import (
    changed_in,
    check_changeable,
    drafts_in,
    node_changed,
    put_into,
    settle,
)
from cbfs.tree.virtual.conversation_folder import MessageFolder
from cbfs.tree.virtual.mail.mails import MailFile
from cbfs.tree.virtual.metadata_file import MetadataText, is_place, refuse_link
from cbfs.tree.virtual.people_folders import ContactFolders
from cbfs.tree.virtual.quarantine_folder import UnreadFile
from cbfs.tree.virtual.virtual_directory import VirtualDirectory
from cbfs_common.messages.folder import TOP

MTIME_MAX = (1 << 63) - 1
"""Nanoseconds since 1970 of the latest modification time, in the year 2262. What is later is cut to
that, as other file systems do; what is earlier than as long before 1970, likewise."""


class Changes:
    """What programs do to ``tree``. It keeps nothing of its own: there may be several of one tree.
    Without ``adds`` nobody can be added to a conversation.

    Names, times and modes are on the disk when a change returns, the bytes of a file when it is
    closed. All raise TreeError for what is refused, and then nothing has changed; and StoreError
    for what the disk does not take: what has then happened is undone."""

    def __init__(self, tree: Tree, *, adds: bool = True) -> None:
        self._tree = tree
        self._adds = adds
        self._contents = tree.contents

    async def ready(self, directory: Folder) -> Folder:
        """Take back what is being sent of a folder before something is made in it. Gives the folder
        to make it in: where a conversation has begun meanwhile, what was there has moved on."""
        if directory.area is Area.FOLDER_DRAFT:
            await settle(directory)
        return _now(directory)

    def create(self, directory: Folder, name: str, mode: int, author: Process | None) -> File:
        """Make a new empty file, after ``ready``. It is stored when it is closed."""
        self._check_new(directory, name)
        check(file_rule(directory.area, name))
        file = File(self._tree.new_inode(), mode, time.time_ns(), None)
        file.author = author
        file.touch(author)
        self._enter(directory, name, file)
        return file

    async def take_back(self, file: File) -> None:
        """What was made with ``create`` could not become what it was to be: it was never there,
        whatever the disk takes."""
        for directory, name in list(file.names):
            self._leave(directory, name, None)
            if is_place(directory, name):
                self._tree.metadata.went(directory)
        with suppress(StoreError):  # if it was never stored, it is not there after a crash either
            await self._contents.save_records([file])

    def to_write(self, node: Node) -> File:
        """The file that is opened for writing. Raises TreeError(EACCES) for what is none."""
        node = self._tree.directories.opened(self._tree.metadata.opened(node))
        if not isinstance(node, File):
            raise TreeError(errno.EACCES)
        return node

    async def mkdir(
        self, directory: Folder, name: str, mode: int = 0o700, maker: Process | None = None
    ) -> Folder:
        """Make a folder: in outbox/ a conversation that is to be."""
        directory = await self.ready(directory)
        self._check_new(directory, name)
        check(mkdir_rule(directory.area, name))
        mode |= directory.mode & stat.S_ISGID
        inside = RULES[directory.area].inside
        made = Folder(self._tree.new_inode(), inside, time.time_ns(), mode=mode)
        made.recorded, made.seed = True, new_seed()
        put_into(made, directory)
        if made.folder_draft is not None:
            made.folder_draft.maker = maker
        self._enter(directory, name, made)
        with or_else(lambda: put_back(directory, name, made, None)):
            await self._contents.save_records([made])
        self._contents.changed()
        return made

    async def symlink(
        self, directory: Folder, name: str, target: str, author: Process | None
    ) -> SymbolicLink:
        """Make a symbolic link, as editors use for locks."""
        directory = await self.ready(directory)
        self._check_new(directory, name)
        check(file_rule(directory.area, name))
        if directory.area in DECIDED or (directory is self._tree.root and name == CONFIG):
            raise TreeError(errno.EACCES)  # what it leads to would not be looked at
        refuse_link(directory, name)
        link = SymbolicLink(self._tree.new_inode(), target, time.time_ns(), recorded=True)
        link.author = author
        self._enter(directory, name, link)
        with or_else(lambda: put_back(directory, name, link, None)):
            await self._contents.save_records([link])
        return link

    async def link(self, node: Node, directory: Folder, name: str) -> None:
        """Give a file or a symbolic link one more name."""
        self._check_new(directory, name)
        if file_rule(directory.area, name):
            raise TreeError(errno.EPERM)
        if isinstance(node, MessageFile | MailFile):
            raise TreeError(errno.EXDEV)
        if not node.names:
            raise TreeError(errno.ESTALE)  # it was removed: its content may be gone
        if not isinstance(node, File) and not (isinstance(node, SymbolicLink) and node.recorded):
            raise TreeError(errno.EPERM)
        if directory.area is Area.DIRECTORIES:
            raise TreeError(errno.EPERM)  # under which name would it count?
        if any(there.area is not directory.area for there, _name in node.names):
            raise TreeError(errno.EXDEV)
        refuse_link(directory, name)
        await settle(node)
        directory = await self.ready(directory)
        self._check_new(directory, name)
        check(file_rule(directory.area, name))
        self._enter(directory, name, node)
        with or_else(lambda: put_back(directory, name, node, None)):
            if isinstance(node, File):
                await self._contents.save(node, whole=False)
            await self._contents.save_records([node])
        await self._tree.config.settle()

    async def unlink(self, directory: Folder, name: str, by: Process | None = None) -> Node:
        """Remove a file, a link or a message; gives what it was."""
        tree = self._tree
        node = tree.lookup(directory, name)
        if isinstance(node, Folder):
            raise TreeError(errno.EISDIR)
        if isinstance(directory, VirtualDirectory):
            with self._removing(node):
                await directory.provider.remove(name, node)
            directory.touch()
            if isinstance(node, MessageFile) and not isinstance(node, FolderFile):
                tree.search_folders.removed(node.serial)
            tree.show_quarantine()
            return node
        if directory is tree.directories.root and not isinstance(node, File):
            await tree.directories.remove(name, node)
            return node
        if isinstance(node, Text):
            if is_place(directory, name):  # as who removes the folder does; else it comes back
                directory.remove(name)
                tree.metadata.went(directory)
                self._contents.changed()
                return node
            told = {Area.DRAFTS, Area.OUTBOX, Area.ROOT, Area.CONTACTS}
            if directory.area in told and name.endswith(ERROR_SUFFIX):
                directory.remove(name)
                return node
            if directory.area in PERSON:
                await self._people(directory).take_back(directory, name)
                return node
            raise TreeError(errno.EACCES)
        await settle(node)
        directory = _now(directory)
        if tree.lookup(directory, name) is not node:
            raise TreeError(errno.ENOENT)
        check_changeable(node)
        self._leave(directory, name, by)
        if is_place(directory, name):
            tree.metadata.went(directory)
        with or_else(lambda: put_back(directory, name, None, node)):
            await self._contents.save_records([node], directory)
        self._contents.changed()
        return node

    async def take_out(
        self, drafts: Sequence[tuple[Folder, str, File]], beside: Callable[[Writer], None]
    ) -> None:
        """Remove files, each from the folder where it has that name, after ``settle``; on the disk
        in one commit with ``beside``."""
        for directory, name, _file in drafts:
            self._leave(directory, name, None)

        def back() -> None:
            for directory, name, file in drafts:
                put_back(directory, name, None, file)

        with or_else(back):
            files, folders = [each[2] for each in drafts], [each[0] for each in drafts]
            await self._contents.save_records([*files], *folders, also=beside)
        self._contents.changed()

    async def rmdir(self, directory: Folder, name: str) -> Node:
        """Remove an empty folder that was made here, a conversation's, or a message request's;
        gives what it was."""
        tree = self._tree
        node = tree.lookup(directory, name)
        if not isinstance(node, Folder):
            raise TreeError(errno.ENOTDIR)
        if directory is tree.requests.root:
            await tree.requests.decline(name)
            return node
        if isinstance(node, MessageFolder) and isinstance(directory, VirtualDirectory):
            with self._removing(node):
                await directory.provider.remove(name, node)
            directory.touch()
            if node.parent == TOP:
                tree.search_folders.removed(node.message[1])
            return node
        if node.conversation is not None and directory in {tree.conversations, tree.outbox}:
            await tree.leave_conversation(node.conversation, directory)
            return node
        await settle(node)
        directory = _now(directory)
        if not node.recorded:
            raise TreeError(errno.EACCES)
        if any(not _is_stale(each) for each in _now(node).entries.values()):
            raise TreeError(errno.ENOTEMPTY)
        if tree.lookup(directory, name) is not node:
            raise TreeError(errno.ENOENT)
        self._leave(directory, name, None)
        with or_else(lambda: put_back(directory, name, None, node)):
            await self._contents.save_records([node], directory)
        self._contents.changed()
        return node

    async def rename(
        self,
        source: Folder,
        name: str,
        target: Folder,
        new: str,
        *,
        replace: bool,
        by: Process | None = None,
    ) -> Node | None:
        """Move an entry; gives what it has replaced."""
        tree = self._tree
        mail = tree.lookup(source, name)
        if isinstance(mail, MailFile) and isinstance(target, VirtualDirectory):
            await tree.mail.rename(source, mail, target, new)
            return None
        await settle(mail, target.entries.get(new))
        target, source = await self.ready(target), _now(source)
        node = tree.lookup(source, name)
        old = target.entries.get(new)
        if old is node:
            return None
        if source is tree.requests.root and isinstance(node, Folder):
            await tree.requests.accept(name, target, new, replace=replace)
            return old
        if source is tree.contacts and isinstance(node, Folder):
            await tree.people.rename(name, target, new)
            return None
        if source is target is tree.directories.root:
            await tree.directories.rename(name, new, replace=replace)
            return old
        check_rename(node, source, target, new, replace=replace)
        self._check_content(node, target, new)
        node = tree.metadata.opened(node)
        if old is not None:
            self._leave(target, new, by)
        self._leave(source, name, by)
        self._enter(target, new, node)
        if isinstance(node, Folder):
            put_into(node, target)
        self._contents.renamed(node)
        if isinstance(node, File):
            _changed_place(node, source, target, by)

        def back() -> None:
            put_back(target, new, node, old)
            put_back(source, name, None, node)
            if isinstance(node, Folder):
                put_into(node, source)

        with or_else(back):
            if isinstance(node, File):
                await self._contents.save(node, whole=False)
            await self._contents.save_records([*filter(None, (node, old))], source, target)
        await tree.config.settle()
        if is_place(source, name):
            tree.metadata.went(source)
        await self._settle_metadata(node)
        self._contents.changed()
        return old

    def _check_content(self, node: Node, target: Folder, new: str) -> None:
        """Raises TreeError(EPERM) where what gets this name there cannot be what is read there."""
        if not isinstance(node, File):
            return
        if target is self._tree.root and new == CONFIG:
            self._tree.config.check(node, errno.EPERM)
        if is_place(target, new):
            self._tree.metadata.check(node, target, errno.EPERM)

    async def check_close(self, file: File) -> None:
        """A handle that could write is about to be closed. Raises TreeError(EINVAL) for wrong
        settings, for a policy that cannot be followed, for a decision on a contact that does not
        fit, and for what is no line."""
        for people in self._tree.deciders:
            if people.is_answer(file):
                await people.decide(file)
        if self._tree.directories.is_policy(file):
            await self._tree.directories.decide(file)
        if self._tree.config.is_config(file):
            self._tree.config.check(file, errno.EINVAL)
        await self._tree.metadata.apply(file, adds=self._adds)

    async def close(self, file: File) -> None:
        """The last writer is gone: what it wrote counts."""
        for people in self._tree.deciders:
            if people.is_answer(file):
                people.drop(file)
        if self._tree.directories.is_policy(file):
            self._tree.directories.drop(file)
        await self._settle_metadata(file)
        await self._contents.save(file)
        self._contents.closed(file)
        if self._tree.config.is_config(file):
            await self._tree.config.settle()
            self._contents.changed()

    async def describe(
        self, node: Node, mode: int | None, mtime_ns: int | None, by: Process | None = None
    ) -> None:
        """Change permissions, or the modification time (nanoseconds since 1970). Raises
        TreeError(EPERM) for what is not the user's."""
        if isinstance(node, MetadataText) and node.editable:
            return  # editors set them once more when they have saved
        if not isinstance(node, File | SymbolicLink) and not (
            isinstance(node, Folder) and not RULES[node.area].files and node.area is not Area.ROOT
        ):
            raise TreeError(errno.EPERM)
        await settle(node)
        check_changeable(node)
        if mode is not None:
            node.mode = stat.S_IFMT(node.mode) | mode & MODES
        if mtime_ns is not None:
            node.mtime_ns = min(max(mtime_ns, -MTIME_MAX), MTIME_MAX)
        node.renew()
        if isinstance(node, File):
            node.touch(by)
        node_changed(node)
        self._contents.changed()
        if node.stored >= 0 if isinstance(node, File) else node.recorded:
            await self._contents.save_records([node])
        elif isinstance(node, Folder):
            await self._contents.save_records([], node)

    def _removing(self, node: Node) -> AbstractContextManager[None]:
        """While a message is removed, mail/ hears of it."""
        if isinstance(node, MessageFile) and not isinstance(node, FolderFile):
            return self._tree.mail.removing(node.conversation, node.serial)
        if isinstance(node, MessageFolder) and node.parent == TOP:
            return self._tree.mail.removing(*node.message)
        return nullcontext()

    def _people(self, folder: Folder) -> ContactFolders:
        return self._tree.people if folder.area is Area.CONTACT else self._tree.requests

    async def _settle_metadata(self, node: Node) -> None:
        """It may be a conversation's metadata.toml: then it is done, and is no file any more."""
        if isinstance(node, File) and self._tree.metadata.place_of(node) is not None:
            await self._tree.metadata.settle(node, adds=self._adds)
            if not node.names:
                await self._contents.save_records([node])

    def _check_new(self, directory: Folder, name: str) -> None:
        _check_name(name)
        if name in directory.entries:
            raise TreeError(errno.EEXIST)
        _check_there(directory)

    def _enter(self, directory: Folder, name: str, node: Node) -> None:
        if isinstance(node, File) and backup_of(name):
            beside = directory.entries if directory.area is Area.DRAFTS else ()
            node.spare = is_backup(name, beside, directory.left, time.monotonic())
        directory.add(name, node)
        changed_in(directory)

    def _leave(self, directory: Folder, name: str, by: Process | None) -> None:
        directory.remove(name)
        changed_in(directory)
        if directory.area is Area.DRAFTS and is_lock(name):
            for other, draft in drafts_in(directory):
                if isinstance(draft, File) and name in lock_names(other):
                    draft.touch(by)  # its editor may be about to save again


def _now(directory: Folder) -> Folder:
    """The folder that is there in the place of ``directory`` after a wait: a conversation may have
    begun in it meanwhile, and all that was in it is in that of the conversation."""
    return directory.alias or directory


def _is_stale(node: Node) -> bool:
    """Whether a folder that was made here can go while only such things are in it: the error files
    of what was in it before."""
    return isinstance(node, Text) and any(name.endswith(ERROR_SUFFIX) for _d, name in node.names)


def check_rename(node: Node, source: Folder, target: Folder, new: str, *, replace: bool) -> None:
    """Raises TreeError when ``node`` may not be moved from ``source`` to ``new`` in ``target``."""
    _check_there(target)
    old = target.entries.get(new)
    if old is not None and not replace:
        raise TreeError(errno.EEXIST)
    if isinstance(node, Folder):
        _check_folder(node, target, new, old)
    else:
        copied = isinstance(node, MessageFile | UnreadFile | MailFile)
        if copied and not file_rule(target.area, new):
            raise TreeError(errno.EXDEV)  # mv then copies, and removes it
        check(RULES[source.area].files or file_rule(target.area, new))
        if DECIDED & {source.area, target.area}:
            raise TreeError(errno.EXDEV)  # a decision is written: mv then copies
        _check_texts(node, target, new, old)
        if isinstance(old, Folder):
            raise TreeError(errno.EISDIR)
    _check_name(new)


def _check_name(name: str) -> None:
    number = name_fault(name.encode(errors="surrogateescape"))
    if number:
        raise TreeError(number)


def _check_there(directory: Folder) -> None:
    """A kernel sees to that for what it has removed itself, as in ``_check_outside``: nobody would
    find what is put into a folder that is gone. Of one that was sent, the rules say it, and that of
    a conversation may only not be shown yet."""
    if directory.recorded and not directory.names and directory.area is not Area.FIXED:
        raise TreeError(errno.ENOENT)


def _check_folder(node: Folder, target: Folder, new: str, old: Node | None) -> None:
    rule = folder_rule(target.area, new)
    if isinstance(node, MessageFolder) and not rule:
        raise TreeError(errno.EXDEV)
    if not node.recorded:
        raise TreeError(errno.EACCES)
    check(rule)
    _check_outside(node, target)
    if old is not None and not isinstance(old, Folder):
        raise TreeError(errno.ENOTDIR)
    if isinstance(old, Folder) and (old.entries or not old.recorded):
        raise TreeError(errno.ENOTEMPTY)


def _check_outside(node: Folder, target: Folder) -> None:
    """A kernel sees to that for what it has moved itself, and may not know what the kernel of
    another mount does at this moment."""
    here = target
    while here is not node:
        if here.above is here:
            return
        here = here.above
    raise TreeError(errno.EINVAL)


def _check_texts(node: Node, target: Folder, new: str, old: Node | None) -> None:
    """What the daemon writes stays, but for the metadata.toml of a conversation."""
    moved, over = isinstance(node, MetadataText), is_place(target, new)
    if (isinstance(node, Text) and not moved) or (isinstance(old, Text) and not over):
        raise TreeError(errno.EACCES)
    if over and not isinstance(node, File):
        raise TreeError(errno.EACCES)
    if isinstance(node, SymbolicLink) and target.area is Area.ROOT and new == CONFIG:
        raise TreeError(errno.EACCES)


@contextmanager
def or_else(undo: Callable[[], None]) -> Iterator[None]:
    """What the disk does not take has not happened."""
    try:
        yield
    except StoreError:
        undo()
        raise


def put_back(directory: Folder, name: str, is_: Node | None, was: Node | None) -> None:
    """Under this name there was ``was``; unless something else has come since."""
    if directory.entries.get(name) is not is_:
        return
    if is_ is not None:
        directory.remove(name)
    if was is not None:
        directory.add(name, was)


def _changed_place(node: File, source: Folder, target: Folder, by: Process | None) -> None:
    """A file has been moved or renamed: it is to be sent as it is now."""
    node.touch(by)
    node.given_up = -1
    if node.is_sent and (target is not source or target.area is not Area.DRAFTS):
        node.version += 1  # elsewhere it is a copy of the message, or one to others
