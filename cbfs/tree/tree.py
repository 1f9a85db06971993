"""The tree that the mount shows: what is where, and what each change means. No FUSE in here.

What may be done where is in ``cbfs.tree.rules``, the bytes of files are in
``cbfs.tree.file_contents``.
"""

import errno
import stat
import time
from collections.abc import Callable

from cbfs.interface import Backend
from cbfs.messages.content import u64
from cbfs.messages.file_names import ERROR_SUFFIX
from cbfs.messages.model import Conversation, Message
from cbfs.storage.faults import Tasks
from cbfs.storage.store import Series, Store, Table, Writer
from cbfs.tree.changes import check_rename, or_else, put_back
from cbfs.tree.file_contents import Contents, check_changeable
from cbfs.tree.nodes import (
    CONTACTS,
    CONVERSATIONS,
    FIRST_OWN,
    FIRST_STORED,
    MADE,
    OUTBOX,
    QUARANTINE,
    REQUESTS,
    ROOT,
    TMP,
    UI_INFO,
    Directory,
    File,
    FolderFile,
    Inodes,
    Link,
    MessageFile,
    Node,
    Text,
    new_seed,
)
from cbfs.tree.processes import Process
from cbfs.tree.rules import (
    CONFIG,
    METADATA,
    PERSON,
    RULES,
    Area,
    TreeError,
    backup_of,
    check,
    file_rule,
    is_backup,
    lock_names,
)
from cbfs.tree.times import keep_times, shown
from cbfs.tree.unsent import changed_in, drafts_in, put_into, settle, state_of
from cbfs.tree.virtual.config_file import ConfigFile
from cbfs.tree.virtual.conversation_folder import Folder, MessageFolder, Shelf, Unseen
from cbfs.tree.virtual.metadata_file import MetadataFiles, is_place, refuse_link
from cbfs.tree.virtual.people_folders import People, Requests
from cbfs.tree.virtual.quarantine_folder import Quarantine
from cbfs.tree.virtual.virtual_directory import Provided, inode_for
from cbfs_common.limits import FILE_NAME_MAX
from cbfs_common.messages.folder import TOP


class Tree(Contents):
    """``changed`` is called when something in the outbox may have become ready to be sent."""

    def __init__(self, backend: Backend, changed: Callable[[], None], tasks: Tasks) -> None:
        super().__init__(backend, changed, tasks)
        self.removed: Callable[[int], None] = lambda _serial: None
        """Told of each message that a program has removed, by its serial."""
        self.left: Callable[[Conversation, Directory], None] = lambda _conversation, _place: None
        """Told of each conversation that a program has left, by removing its folder there."""
        self._next = _last_inode(backend.store)
        with backend.store.read() as reader:
            self.unseen = Unseen(reader.number(Series.MESSAGE))
        now = time.time_ns()
        self.root = Directory(ROOT, Area.ROOT, now)
        self.config = ConfigFile(self.root, backend, self.read, self.new_inode)
        self.conversations = Directory(CONVERSATIONS, Area.FIXED, now)
        self.outbox = Directory(OUTBOX, Area.OUTBOX, now)
        self.tmp = Directory(TMP, Area.SCRATCH, now)
        self.ui_info = Directory(UI_INFO, Area.KEPT, now)
        self.contacts = Directory(CONTACTS, Area.FIXED, now)
        requests = Directory(REQUESTS, Area.REQUESTS, now)
        for name, node in (
            ("conversations", self.conversations),
            ("outbox", self.outbox),
            ("contacts", self.contacts),
            ("requests", requests),
            ("tmp", self.tmp),
            ("ui_info", self.ui_info),
        ):
            self.root.add(name, node)
        self._quarantine = Quarantine(backend)
        self._unread = Provided(QUARANTINE, Area.CONVERSATION, self._quarantine)
        self._unread_count = 0
        self.show_quarantine()
        self.people = People(self.contacts, backend, self.read)
        self.requests = Requests(requests, self.people, backend, self.read)
        self.inodes = Inodes(self.root)
        self._shelf = Shelf(backend, self.inodes)
        self.metadata = MetadataFiles(
            backend, self.read, self.new_inode, self.inodes, self.conversation
        )
        self._folders: dict[bytes, tuple[Provided, Directory]] = {}
        self._known: dict[bytes, Conversation] = {}
        self._gone: dict[bytes, tuple[Provided, Directory]] = {}
        for conversation in backend.conversations():
            folder, drafts = self.make_folders(conversation)
            self.conversations.enter(conversation.folder, folder)
            self.outbox.enter(conversation.folder, drafts)

    def new_inode(self) -> int:
        """A fresh one."""
        self._next += 1
        return self._next

    def drafts(self) -> list[Directory]:
        """The folders under outbox/ of all conversations."""
        return [drafts for _folder, drafts in self._folders.values()]

    # what the engine brings

    def show_quarantine(self) -> None:
        """Envelopes that cannot be read may have come or gone."""
        count = self._quarantine.count
        if count != self._unread_count:
            self._unread_count = count
            self._unread.touch()
            self._quarantine.appear(self.root, self._unread)

    def make_folders(self, conversation: Conversation) -> tuple[Provided, Directory]:
        """The two folders of a conversation, not yet entered anywhere; of one that comes back,
        those of before."""
        key = conversation.id
        if key in self._gone:
            folder, drafts = self._folders[key] = self._gone.pop(key)
            self._known[key] = conversation
            self._open_again(folder, drafts)
            return folder, drafts
        started = conversation.started * 1_000_000
        folder = Provided(
            conversation.inode + FIRST_STORED,
            Area.CONVERSATION,
            Folder(
                self.backend,
                conversation,
                self.metadata.text(conversation, editable=False),
                inode_for(b"transcript", key),
                self.unseen,
                self.inodes,
                self._shelf,
            ),
            conversation=key,
        )
        drafts = Directory(
            conversation.outbox_inode + FIRST_STORED, Area.DRAFTS, started, conversation=key
        )
        drafts.enter(METADATA, self.metadata.text(conversation, editable=True))
        if isinstance(folder.provider, Folder):
            folder.provider.shown = folder
        self._folders[key] = folder, drafts
        self._known[key] = conversation
        return folder, drafts

    def _open_again(self, folder: Provided, drafts: Directory) -> None:
        drafts.area = Area.DRAFTS
        if isinstance(folder.provider, Folder):
            folder.provider.comes_back()
        if METADATA not in drafts.entries:
            self.metadata.went(drafts)

    def keep_times(self) -> Callable[[Writer], None]:
        """At the end: the change that keeps when things have changed (see ``cbfs.tree.times``)."""
        of_texts = keep_times(shown(self.root))
        folders = [folder.provider for folder, _drafts in self._folders.values()]

        def change(writer: Writer) -> None:
            of_texts(writer)
            for folder in folders:
                if isinstance(folder, Folder):
                    folder.keep(writer)

        return change

    def folders(self, conversation: bytes) -> tuple[Provided, Directory]:
        """(under conversations/, under outbox/) of one that is known."""
        return self._folders[conversation]

    def conversation(self, key: bytes) -> Conversation:
        """One that is known, by its id."""
        return self._known[key]

    def renamed(self, conversation: Conversation) -> None:
        """One that is known has another folder."""
        self._known[conversation.id] = conversation

    def knows(self, key: bytes) -> bool:
        """Whether there is a conversation of this id."""
        return key in self._known

    def message_node(self, message: Message) -> MessageFile | MessageFolder:
        """That of a message: the one in use, or a fresh one."""
        return self._shelf.node(message)

    def message_renamed(self, message: Message) -> str:
        """It has another name or date in the store. The name that the kernel knows it by, if it
        does and that is another."""
        self._shelf.forget(message)
        node = self._shelf.node(message)
        name = node.name
        node.named_anew(message)
        return name if name != message.name else ""

    def message_ended(self, message: Message) -> tuple[str, Node, Callable[[], None]]:
        """It is not in the store any more: (its path, its node, what takes it out of its folder,
        in which it can be looked up until then)."""
        folder, _drafts = self._folders[message.conversation]
        node = self.message_node(message)
        if isinstance(node, MessageFile):
            node.removed = True
        self._shelf.forget(message)
        shown = folder.provider
        if isinstance(shown, Folder):
            shown.leaving[message.name] = node

        def leave() -> None:
            if isinstance(shown, Folder):
                shown.leaving.pop(message.name, None)
            self.unseen.reveal(message.serial)
            folder.touch()

        name = self._known[message.conversation].folder
        return f"conversations/{name}/{message.name}", node, leave

    # what programs do

    async def ready(self, directory: Directory) -> Directory:
        """Before something is made in a folder: take back what is being sent of it."""
        if directory.area is Area.PARCEL:
            await settle(directory)
        return directory

    def lookup(self, directory: Directory, name: str) -> Node:
        """Raises TreeError(ENOENT), or ENAMETOOLONG: the kernel lets longer names through."""
        node = directory.entries.get(name)
        if node is None:
            long = len(name.encode()) > FILE_NAME_MAX
            raise TreeError(errno.ENAMETOOLONG if long else errno.ENOENT)
        return node

    def create(self, directory: Directory, name: str, mode: int, author: Process | None) -> File:
        """A new empty file, after ``ready``. It is stored when it is closed."""
        self._check_new(directory, name)
        check(file_rule(directory.area, name))
        file = File(self.new_inode(), mode, time.time_ns(), None)
        file.author = author
        file.changed = time.monotonic()
        self._enter(directory, name, file)
        return file

    def to_write(self, node: Node) -> File:
        """The file that is opened for writing. Raises TreeError(EACCES) for what is none."""
        node = self.metadata.opened(node)
        if not isinstance(node, File):
            raise TreeError(errno.EACCES)
        return node

    async def mkdir(self, directory: Directory, name: str, mode: int = 0o700) -> Directory:
        """A new folder: in outbox/ a conversation that is to be."""
        self._check_new(await self.ready(directory), name)
        rules = RULES[directory.area]
        check(rules.mkdir or rules.folders)
        mode |= directory.mode & stat.S_ISGID
        made = Directory(self.new_inode(), rules.inside, time.time_ns(), mode=mode)
        made.recorded, made.seed = True, new_seed()
        self._enter(directory, name, made)
        with or_else(lambda: put_back(directory, name, made, None)):
            await self._save([made])
        self.changed()
        return made

    async def symlink(
        self, directory: Directory, name: str, target: str, author: Process | None
    ) -> Link:
        """A symbolic link, as editors use for locks."""
        self._check_new(await self.ready(directory), name)
        check(file_rule(directory.area, name))
        if directory is self.root and name == CONFIG:
            raise TreeError(errno.EACCES)  # what it leads to would not be looked at
        refuse_link(directory, name)
        link = Link(self.new_inode(), target, time.time_ns(), recorded=True)
        link.author = author
        self._enter(directory, name, link)
        with or_else(lambda: put_back(directory, name, link, None)):
            await self._save([link])
        return link

    async def link(self, node: Node, directory: Directory, name: str) -> None:
        """One more name for a file or a symbolic link."""
        self._check_new(directory, name)
        if file_rule(directory.area, name):
            raise TreeError(errno.EPERM)
        if isinstance(node, MessageFile):
            raise TreeError(errno.EXDEV)
        if not node.names:
            raise TreeError(errno.ESTALE)  # it was removed: its content may be gone
        if not isinstance(node, File) and not (isinstance(node, Link) and node.recorded):
            raise TreeError(errno.EPERM)
        if any(there.area is not directory.area for there, _name in node.names):
            raise TreeError(errno.EXDEV)
        refuse_link(directory, name)
        await settle(node)
        self._check_new(await self.ready(directory), name)
        check(file_rule(directory.area, name))
        self._enter(directory, name, node)
        with or_else(lambda: put_back(directory, name, node, None)):
            if isinstance(node, File):
                await self.save(node, whole=False)
            await self._save([node])
        await self.config.settle()

    async def unlink(self, directory: Directory, name: str) -> Node:
        """Remove a file, a link or a message."""
        node = self.lookup(directory, name)
        if isinstance(node, Directory):
            raise TreeError(errno.EISDIR)
        if isinstance(directory, Provided):
            await directory.provider.remove(name, node)
            directory.touch()
            if isinstance(node, MessageFile) and not isinstance(node, FolderFile):
                self.removed(node.serial)
            self.show_quarantine()
            return node
        if isinstance(node, Text):
            if is_place(directory, name):  # as who removes the folder does; else it comes back
                directory.remove(name)
                self.metadata.went(directory)
                self.changed()
                return node
            if directory.area in {Area.DRAFTS, Area.OUTBOX, Area.ROOT} and name.endswith(".error"):
                directory.remove(name)
                return node
            if directory.area in PERSON:
                await self._people(directory).take_back(directory, name)
                return node
            raise TreeError(errno.EACCES)
        await settle(node)
        if self.lookup(directory, name) is not node:
            raise TreeError(errno.ENOENT)
        check_changeable(node)
        self._leave(directory, name)
        if is_place(directory, name):
            self.metadata.went(directory)
        with or_else(lambda: put_back(directory, name, None, node)):
            await self._save([node], directory)
        self.changed()
        return node

    async def rmdir(self, directory: Directory, name: str) -> Node:
        """Remove an empty folder that was made here."""
        node = self.lookup(directory, name)
        if not isinstance(node, Directory):
            raise TreeError(errno.ENOTDIR)
        if directory is self.requests.root:
            await self.requests.decline(name)
            return node
        if isinstance(node, MessageFolder) and isinstance(directory, Provided):
            await directory.provider.remove(name, node)
            directory.touch()
            if node.parent == TOP:
                self.removed(node.message[1])
            return node
        if node.conversation is not None and directory in {self.conversations, self.outbox}:
            await self._leave_conversation(node.conversation, directory)
            return node
        await settle(node)
        if not node.recorded:
            raise TreeError(errno.EACCES)
        if any(not _is_stale(each) for each in node.entries.values()):
            raise TreeError(errno.ENOTEMPTY)
        if self.lookup(directory, name) is not node:
            raise TreeError(errno.ENOENT)
        self._leave(directory, name)
        with or_else(lambda: put_back(directory, name, None, node)):
            await self._save([node], directory)
        self.changed()
        return node

    async def rename(
        self, source: Directory, name: str, target: Directory, new: str, *, replace: bool
    ) -> Node | None:
        """Move an entry; gives what it replaced."""
        await settle(self.lookup(source, name), target.entries.get(new))
        await self.ready(target)
        node = self.lookup(source, name)
        old = target.entries.get(new)
        if old is node:
            return None
        if source is self.requests.root and isinstance(node, Directory):
            await self.requests.accept(name, target, new, replace=replace)
            return old
        if source is self.contacts and isinstance(node, Directory):
            await self.people.rename(name, target, new)
            return None
        check_rename(node, source, target, new, replace=replace)
        if target is self.root and new == CONFIG and isinstance(node, File):
            self.config.check(node, errno.EPERM)
        if is_place(target, new) and isinstance(node, File):
            self.metadata.check(node, target, errno.EPERM)
        node = self.metadata.opened(node)
        if old is not None:
            self._leave(target, new)
        self._leave(source, name)
        self._enter(target, new, node)
        if isinstance(node, Directory):
            put_into(node, target)
        if isinstance(node, File):
            node.changed = time.monotonic()
            node.given_up = -1
            if node.is_sent and target.area is not Area.DRAFTS:
                node.version += 1  # what is kept elsewhere is a copy of the message

        def back() -> None:
            put_back(target, new, node, old)
            put_back(source, name, None, node)
            if isinstance(node, Directory):
                put_into(node, source)

        with or_else(back):
            if isinstance(node, File):
                await self.save(node, whole=False)
            await self._save([node] if old is None else [node, old], source, target)
        await self.config.settle()
        if is_place(source, name):
            self.metadata.went(source)
        await self._settle_metadata(node)
        self.changed()
        return old

    async def check_close(self, file: File) -> None:
        """A handle that could write is about to be closed. Raises TreeError(EINVAL) for wrong
        settings, and for a decision on a contact that does not fit."""
        for people in (self.people, self.requests):
            if people.is_answer(file):
                await people.decide(file)
        if self.config.is_config(file):
            self.config.check(file, errno.EINVAL)
        await self.metadata.apply(file)

    async def close(self, file: File) -> None:
        """The last writer is gone: what it wrote counts."""
        for people in (self.people, self.requests):
            if people.is_answer(file):
                people.drop(file)
        await self._settle_metadata(file)
        await self.save(file)
        self.closed(file)
        if self.config.is_config(file):
            await self.config.settle()
            self.changed()

    # within

    async def _leave_conversation(self, key: bytes, place: Directory) -> None:
        """A program removes one of its folders: both go. Raises TreeError(ENOTEMPTY) while there is
        a draft in the one, or, where it is removed under conversations/, a message in the other."""
        if key not in self._folders:
            raise TreeError(errno.ENOENT)
        folder, drafts = self._folders[key]
        if any(map(_is_kept, drafts.entries.values())):
            raise TreeError(errno.ENOTEMPTY)
        drafts.area = Area.FIXED  # nothing may be put there meanwhile
        left = False
        try:
            left = await self.backend.leave(key, empty=place is self.conversations)
        finally:
            if not left:
                drafts.area = Area.DRAFTS
        if not left:
            raise TreeError(errno.ENOTEMPTY)
        for name in list(drafts.entries):
            drafts.remove(name)
        self.metadata.left(drafts)
        conversation = self._known.pop(key)
        self._gone[key] = self._folders.pop(key)
        self.left(conversation, place)
        folder.touch()

    def _people(self, folder: Directory) -> People:
        return self.people if folder.area is Area.CONTACT else self.requests

    async def _settle_metadata(self, node: Node) -> None:
        """It may be a conversation's metadata.toml: then it is done, and is no file any more."""
        if isinstance(node, File) and self.metadata.place_of(node) is not None:
            await self.metadata.settle(node)
            if not node.names:
                await self._save([node])

    def _check_new(self, directory: Directory, name: str) -> None:
        if len(name.encode()) > FILE_NAME_MAX:
            raise TreeError(errno.ENAMETOOLONG)
        if name in directory.entries:
            raise TreeError(errno.EEXIST)

    def _enter(self, directory: Directory, name: str, node: Node) -> None:
        if isinstance(node, File) and backup_of(name):
            beside = directory.entries if directory.area is Area.DRAFTS else ()
            node.spare = is_backup(name, beside, directory.left, time.monotonic())
        directory.add(name, node)
        changed_in(directory)

    def _leave(self, directory: Directory, name: str) -> None:
        directory.remove(name)
        changed_in(directory)
        if directory.area is Area.DRAFTS:
            for other, draft in drafts_in(directory):
                if name in lock_names(other):  # its editor may be about to save again
                    state_of(draft).changed = time.monotonic()


def _is_stale(node: Node) -> bool:
    """Whether a folder that was made here can go while only such things are in it: the error files
    of what was in it before."""
    return isinstance(node, Text) and any(name.endswith(ERROR_SUFFIX) for _d, name in node.names)


def _is_kept(node: Node) -> bool:
    """Whether the folder of a conversation cannot go while this is in it: what users have put
    there, and is no message yet."""
    return not isinstance(node, Text) and not (
        isinstance(node, File) and node.is_sent and not node.writers
    )


def _last_inode(store: Store) -> int:
    """Inodes up to this one are in use, or were when what is in the store was made."""
    with store.read() as reader:
        key = reader.key_up_to(Table.NODES, u64(MADE - 1), b"")
    return max(FIRST_OWN, int.from_bytes(key or b"", "big"))
