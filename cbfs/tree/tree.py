"""The tree that the mount shows: what is where, and what the engine brings into it. No FUSE.

What programs do to it is in ``cbfs.tree.changes``, the bytes of files are in
``cbfs.tree.file_contents``; what may be done where is in ``cbfs.tree.rules``.
"""

import errno
import time
from collections.abc import Callable

from cbfs.interface import Backend
from cbfs.messages.history import get_message
from cbfs.messages.model import Conversation, Message
from cbfs.messages.search_index import conversation_of
from cbfs.storage.encoding import number_of, u64
from cbfs.storage.faults import Tasks
from cbfs.storage.store import Series, Store, Table, Writer
from cbfs.tree.file_contents import FileContents
from cbfs.tree.inodes import Inodes
from cbfs.tree.nodes import (
    CONTACTS,
    CONVERSATIONS,
    DIRECTORIES,
    FIRST_FOUND,
    FIRST_MAIL,
    FIRST_MESSAGE,
    FIRST_OWN,
    FIRST_STORED,
    FIRST_UNREAD,
    MADE,
    OUTBOX,
    QUARANTINE,
    REQUESTS,
    ROOT,
    TMP,
    UI_INFO,
    File,
    Folder,
    MessageFile,
    Node,
    Text,
)
from cbfs.tree.rules import (
    METADATA,
    Area,
    TreeError,
)
from cbfs.tree.times import keep_times, shown
from cbfs.tree.virtual.config_file import SettingsFile
from cbfs.tree.virtual.conversation_folder import (
    ConversationFolder,
    MessageFolder,
    MessageNodes,
    Unseen,
)
from cbfs.tree.virtual.directories_folder import DirectoriesFolder
from cbfs.tree.virtual.mail.mail_folders import MailFolders
from cbfs.tree.virtual.message_links import Overview
from cbfs.tree.virtual.metadata_file import MetadataFiles, MetadataText
from cbfs.tree.virtual.people_folders import ContactFolders, NewContact, RequestFolders
from cbfs.tree.virtual.quarantine_folder import QuarantineFolder
from cbfs.tree.virtual.search_folders import SearchFolders
from cbfs.tree.virtual.unread_folder import Unread
from cbfs.tree.virtual.virtual_directory import VirtualDirectory
from cbfs.tree.watchers import Watchers
from cbfs_common.limits import FILE_NAME_MAX


class Tree:
    """What is where in one mount.

    ``changed`` is called when something in the outbox may have become ready to be sent, ``left``
    of each conversation that a program has left, by removing its folder in the folder that is
    given, ``ended`` of each message that was deleted in mail/. Changes that the daemon makes by
    itself go through ``watchers``; in ``tasks`` is what goes on while programs write."""

    def __init__(
        self,
        backend: Backend,
        changed: Callable[[], None],
        left: Callable[[Conversation, Folder], None],
        watchers: Watchers,
        tasks: Tasks,
        ended: Callable[[Message], None],
    ) -> None:
        self.backend = backend
        self.contents = FileContents(backend, changed, tasks)
        self._left = left
        self._next = _last_inode(backend.store)
        with backend.store.read() as reader:
            self.unseen = Unseen(reader.number(Series.MESSAGE))
        now = time.time_ns()
        self.root = Folder(ROOT, Area.ROOT, now)
        self.config = SettingsFile(self.root, backend, self.contents.read, self.new_inode)
        self.conversations = Folder(CONVERSATIONS, Area.FIXED, now)
        self.outbox = Folder(OUTBOX, Area.OUTBOX, now)
        self.tmp = Folder(TMP, Area.SCRATCH, now)
        self.ui_info = Folder(UI_INFO, Area.KEPT, now)
        self.contacts = Folder(CONTACTS, Area.CONTACTS, now)
        requests = Folder(REQUESTS, Area.REQUESTS, now)
        directories = Folder(DIRECTORIES, Area.DIRECTORIES, now)
        for name, node in (
            ("conversations", self.conversations),
            ("outbox", self.outbox),
            ("contacts", self.contacts),
            ("requests", requests),
            ("directories", directories),
            ("tmp", self.tmp),
            ("ui_info", self.ui_info),
        ):
            self.root.add(name, node)
        self._quarantine = QuarantineFolder(backend)
        self._unread = VirtualDirectory(QUARANTINE, Area.CONVERSATION, self._quarantine)
        self._unread_count = 0
        self.show_quarantine()
        self.people = ContactFolders(self.contacts, backend, self.contents.read)
        self.requests = RequestFolders(requests, self.people, backend, self.contents.read)
        self.new_contact = NewContact(self.contacts, backend, self.contents.read, self.new_inode)
        self.inodes = Inodes(self.root, self._again)
        self.directories = DirectoriesFolder(
            directories, backend, self.contents.read, self.new_inode, self.inodes
        )
        self._nodes = MessageNodes(backend, self.inodes)
        self.metadata = MetadataFiles(
            backend, self.contents.read, self.new_inode, self.inodes, self.conversation
        )
        self._folders: dict[bytes, tuple[ConversationFolder, Folder]] = {}
        self._known: dict[bytes, Conversation] = {}
        self._gone: dict[bytes, tuple[ConversationFolder, Folder]] = {}
        for conversation in backend.conversations():
            folder, drafts = self.make_folders(conversation)
            self.conversations.enter(conversation.folder, folder)
            if conversation.outbox_inode:
                self.outbox.enter(conversation.folder, drafts)
        self.overview = Overview(backend.store, watchers.failed)
        self.search_folders, self.mail = self._other_views(watchers, tasks, ended)

    def _other_views(
        self, watchers: Watchers, tasks: Tasks, ended: Callable[[Message], None]
    ) -> tuple[SearchFolders, MailFolders]:
        """The folders that show messages once more, entered into the root."""
        root, backend, inodes, name_of = self.root, self.backend, self.inodes, self._folder_name
        unread = Unread(root, backend, inodes, name_of, watchers, self.overview)
        messages = self._nodes, self.unseen, unread, self.overview
        shown = watchers, tasks, self._known
        mail = MailFolders(root, backend, inodes, *messages, *shown, ended)
        return SearchFolders(root, backend, name_of, unread, self.overview), mail

    def new_inode(self) -> int:
        """An inode number that nothing has had."""
        self._next += 1
        return self._next

    @property
    def deciders(self) -> tuple[ContactFolders, RequestFolders, NewContact]:
        """Whose are the files that are decisions on people, and done when they are closed."""
        return self.people, self.requests, self.new_contact

    def drafts(self) -> list[Folder]:
        """The folders under outbox/ of all conversations."""
        return [drafts for _folder, drafts in self._folders.values()]

    def lookup(self, directory: Folder, name: str) -> Node:
        """The entry of that name. Raises TreeError(ENOENT), or TreeError(ENAMETOOLONG): the kernel
        lets longer names through."""
        node = directory.entries.get(name)
        if node is None:
            long = len(name.encode()) > FILE_NAME_MAX
            raise TreeError(errno.ENAMETOOLONG if long else errno.ENOENT)
        return node

    def _folder_name(self, key: bytes) -> str:
        """What the folder of a conversation is called; empty for one that is not shown."""
        known = self._known.get(key)
        return known.folder if known else ""

    def _again(self, inode: int) -> Node | None:
        """The node of a message, or of a link to one, that the kernel has known for long."""
        known = FIRST_MAIL, FIRST_FOUND, FIRST_UNREAD, FIRST_MESSAGE
        bases = (base for base in known if base <= inode)
        base = next(bases)
        with self.backend.store.read() as reader:
            conversation = conversation_of(reader, inode - base)
            message = get_message(reader, conversation, inode - base) if conversation else None
        if message is None:
            return None
        if base == FIRST_MESSAGE:
            return self._nodes.again(message)
        if base == FIRST_MAIL:
            return self.mail.again(message)
        links = self.search_folders if base == FIRST_FOUND else self.search_folders.unread
        return links.link(message.serial, message.conversation, message.name, message.date)

    # what the engine brings

    def show_quarantine(self) -> None:
        """Show quarantine/ as long as there are envelopes that could not be read: some may have
        come or gone."""
        count = self._quarantine.count
        if count != self._unread_count:
            self._unread_count = count
            self._unread.touch()
            self._quarantine.appear(self.root, self._unread)

    def make_folders(self, conversation: Conversation) -> tuple[VirtualDirectory, Folder]:
        """The two folders of a conversation, not yet entered anywhere; of one that comes back,
        those of before. Where another one has the folder under outbox/, the second is entered
        nowhere, and nothing can be put there."""
        key = conversation.id
        if key in self._gone:
            folder, drafts = self._folders[key] = self._gone.pop(key)
            self._known[key] = conversation
            self._open_again(folder, drafts)
            return folder.directory, drafts
        started = conversation.started * 1_000_000
        metadata = self.metadata.text(conversation, editable=False)
        folder = ConversationFolder(
            self.backend, conversation, metadata, self.unseen, self.inodes, self._nodes
        )
        inode = conversation.outbox_inode
        inode = inode + FIRST_STORED if inode else self.new_inode()
        drafts = Folder(inode, Area.DRAFTS, started, conversation=key)
        drafts.enter(METADATA, self.metadata.text(conversation, editable=True))
        self._folders[key] = folder, drafts
        self._known[key] = conversation
        return folder.directory, drafts

    def _open_again(self, folder: ConversationFolder, drafts: Folder) -> None:
        drafts.area = Area.DRAFTS
        folder.comes_back()
        if METADATA not in drafts.entries:
            self.metadata.went(drafts)

    def goes_on(self, old: Conversation, new: Conversation) -> VirtualDirectory:
        """A conversation that is shown goes on in a new one, to which its folder under outbox/ and
        what is in it belong from now on; what is finished of that is held when others have added
        people. Another ``Folder`` is in its place there, so that who has been given one
        conversation has not been given the other. Gives the folder of the new one
        under conversations/, not yet entered anywhere."""
        _folder, before = self._folders[old.id]
        directory, drafts = self.make_folders(new)
        drafts.mtime_ns = before.mtime_ns
        for name in list(before.entries):
            node = before.remove(name)
            if not isinstance(node, Text):
                drafts.add(name, node)
        if not self.metadata.adds_to(old.id):
            self.contents.hold(drafts)
        drafts.left |= before.left
        self.metadata.left(before)
        for place, name in list(before.names):
            place.remove(name)
            place.enter(name, drafts)
        self.inodes.replace(drafts)
        before.area = Area.FIXED
        before.inode = before.key = self.new_inode()  # a mount of one conversation may show it
        self.changed(old)
        return directory

    def changed(self, conversation: Conversation) -> list[int]:
        """A conversation that is shown is other than before, but for its folder's name. Gives the
        inodes of the texts that say so."""
        self._known[conversation.id] = conversation
        folder, drafts = self._folders[conversation.id]
        texts = [
            text
            for text in (folder.find(METADATA), drafts.entries.get(METADATA))
            if isinstance(text, MetadataText)
        ]
        for text in texts:
            text.is_of(conversation)
        return [text.inode for text in texts]

    def keep_times(self) -> Callable[[Writer], None]:
        """The change, for the end of a mount, that keeps when things have changed, as
        ``cbfs.tree.times`` says."""
        of_texts = keep_times(shown(self.root))
        folders = [folder for folder, _drafts in self._folders.values()]
        of_mail = self.mail.keep()

        def change(writer: Writer) -> None:
            of_texts(writer)
            of_mail(writer)
            for folder in folders:
                folder.keep(writer)

        return change

    def folders(self, conversation: bytes) -> tuple[VirtualDirectory, Folder]:
        """The folders of a conversation under conversations/ and under outbox/. Raises KeyError for
        one that is not shown."""
        folder, drafts = self._folders[conversation]
        return folder.directory, drafts

    def conversation(self, key: bytes) -> Conversation:
        """The conversation of that id. Raises KeyError for one that is not shown."""
        return self._known[key]

    def renamed(self, conversation: Conversation) -> None:
        """A conversation that is shown has another folder name."""
        self._known[conversation.id] = conversation

    def knows(self, key: bytes) -> bool:
        """Whether there is a conversation of this id."""
        return key in self._known

    def message_node(self, message: Message) -> MessageFile | MessageFolder:
        """The node of a message: the one that the kernel knows, or a fresh one."""
        return self._nodes.node(message)

    def message_renamed(self, message: Message) -> str:
        """A message has another name or date in the store. Gives the name that the kernel knows it
        by, if it does and that is another; else empty."""
        self._nodes.forget(message)
        node = self._nodes.node(message)
        name = node.name
        node.named_anew(message)
        return name if name != message.name else ""

    def message_changed(self, message: Message) -> None:
        """Something of a message is other than before: what is in one that is a folder may have
        come by that."""
        if message.folder:
            self._nodes.forget(message)

    def message_ended(self, message: Message) -> tuple[str, Node, Callable[[], None]]:
        """A message is not in the store any more: (its path, its node, what takes it out of its
        folder, in which it can be looked up until then)."""
        folder, _drafts = self._folders[message.conversation]
        node = self.message_node(message)
        if isinstance(node, MessageFile):
            node.removed = True
        self._nodes.forget(message)
        folder.leaving[message.name] = node

        def leave() -> None:
            folder.leaving.pop(message.name, None)
            self.unseen.reveal(message.serial)
            folder.directory.touch()

        name = self._known[message.conversation].folder
        return f"conversations/{name}/{message.name}", node, leave

    async def leave_conversation(self, key: bytes, place: Folder) -> None:
        """A program removes one of its folders: both go. Raises TreeError(ENOTEMPTY) while there is
        a draft in the one, or, where it is removed under conversations/, a message in the other;
        TreeError(ENOENT) when both are gone already."""
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
            if not left and key in self._folders:
                drafts.area = Area.DRAFTS
        if key not in self._folders:  # the other one was removed at the same time
            raise TreeError(errno.ENOENT)
        if not left:
            raise TreeError(errno.ENOTEMPTY)
        for name in list(drafts.entries):
            drafts.remove(name)
        self.metadata.left(drafts)
        conversation = self._known.pop(key)
        self._gone[key] = self._folders.pop(key)
        self._left(conversation, place)
        folder.directory.touch()


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
    return max(FIRST_OWN, number_of(key))
