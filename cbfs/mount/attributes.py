"""What stat(2) tells of what a mount shows, and for how long the kernel may answer so for us."""

import os

from pyfuse3 import EntryAttributes, InodeT, ModeT

from cbfs.mount.view import MountView
from cbfs.tree.nodes import (
    ENDING_MODE,
    FIXED_FOLDERS,
    MESSAGE_MODE,
    STATUS,
    File,
    Folder,
    FolderFile,
    MessageFile,
    Node,
    Text,
)
from cbfs.tree.rules import METADATA, Area, TreeError
from cbfs.tree.virtual.mail.mails import MailFile

CACHE_SECONDS = 1.0
"""How long the kernel may answer for us: longer gains nothing, none costs a lot."""

MESSAGE_CACHE_SECONDS = 300.0
"""How long it may for a message in the account's mount: it never changes, and one that goes, goes
through the kernel."""

FOLDER_CACHE_SECONDS = 300.0
"""How long it may for the name of a folder that comes, goes and moves through the kernel only:
those that are always there, and those of conversations. They are in nearly every path."""

DRAFT_CACHE_SECONDS = 10.0
"""How long it may for the name of a file in the folder of a conversation under outbox/: longer than
it takes until it has been sent and leaves, so that it is not looked up for that."""

SHARED = frozenset((Area.DRAFTS, Area.FOLDER_DRAFT, Area.SCRATCH))
"""Where programs of several mounts may write, while a conversation is mounted alone as well. A
kernel does not know what another one has changed, so that none may answer for us there."""


class Attributes:
    """Makes the attributes of what one mount shows. Everything belongs to the user ``uid`` and the
    group ``gid``, those of the daemon."""

    def __init__(self, view: MountView, message_seconds: float = MESSAGE_CACHE_SECONDS) -> None:
        """``message_seconds``: for how long the kernel may answer for us of a message."""
        self.uid, self.gid = os.getuid(), os.getgid()
        self._status = view.status
        self._watchers = view.watchers
        self._deciders = view.tree.deciders
        self._directories = view.tree.directories
        entry = self._message_entry = EntryAttributes()
        entry.st_blksize = 65_536
        entry.st_uid, entry.st_gid = self.uid, self.gid
        mail = self._mail_entry = EntryAttributes()
        mail.st_blksize = 65_536
        mail.st_mode, mail.st_nlink = ModeT(MESSAGE_MODE), 1
        mail.st_uid, mail.st_gid = self.uid, self.gid
        mail.entry_timeout = MESSAGE_CACHE_SECONDS
        self._message_seconds = entry.attr_timeout = message_seconds

    def of(self, node: Node, *, elsewhere: bool = False) -> EntryAttributes:
        """The attributes of a node. The next call may change what this one gives: pyfuse3 copies
        it. ``elsewhere``: it is looked up in a folder whose place another has taken, where the
        kernel is not told of what goes."""
        if isinstance(node, MailFile):
            return self._of_mail(node, node.size)
        entry = self._of_message(node) if isinstance(node, MessageFile) else self._of_other(node)
        if elsewhere:
            entry.entry_timeout = min(entry.entry_timeout, CACHE_SECONDS)
        return entry

    def found(self, node: Node, *, elsewhere: bool = False) -> EntryAttributes:
        """As ``of``, of what was found by its name: that is a mail whose message is gone, until
        watchers have seen it go."""
        if isinstance(node, MailFile):
            return self._of_mail(node, _size_if_there(node))
        return self.of(node, elsewhere=elsewhere)

    def listed(self, node: Node) -> EntryAttributes:
        """As ``of``, in a listing: of a mail whose size is not known, the kernel asks when somebody
        wants to know it."""
        if isinstance(node, MailFile):
            return self._of_mail(node, node.known_size)
        return self.of(node)

    def _of_other(self, node: Node) -> EntryAttributes:
        entry = EntryAttributes()
        mtime_ns = self._status.changed_ns if node.inode == STATUS else node.modified_ns
        entry.st_ino = InodeT(node.inode)
        entry.st_mode = ModeT(node.mode)
        entry.st_nlink = node.links
        entry.st_uid, entry.st_gid = self.uid, self.gid
        entry.st_size = node.size
        entry.st_blksize = 65_536
        entry.st_blocks = (entry.st_size + 511) // 512
        entry.st_mtime_ns, entry.st_atime_ns = mtime_ns, node.ends * 1_000_000 or mtime_ns
        entry.st_ctime_ns = mtime_ns if node.inode == STATUS else node.status_ns
        # a decision is gone, or a text of the daemon's, when it is closed
        shared = self.is_shared(node)
        answers = any(each.is_answer(node) for each in self._deciders)
        decides = answers or self._directories.decides(node)
        changes = shared or decides
        entry.entry_timeout = 0 if changes else self._entry_seconds(node)
        entry.attr_timeout = 0 if shared or isinstance(node, Text) else CACHE_SECONDS
        return entry

    def _entry_seconds(self, node: Node) -> float:
        """For how long the kernel may find a node by its name: longer where all changes of that
        go through the kernel."""
        if isinstance(node, Folder):
            conversation = node.conversation is not None and node.alias is None
            fixed = conversation or node.inode in FIXED_FOLDERS
            return FOLDER_CACHE_SECONDS if fixed else CACHE_SECONDS
        if isinstance(node, File) and len(node.names) == 1:
            ((directory, name),) = node.names
            if directory.conversation is not None and name != METADATA:
                return DRAFT_CACHE_SECONDS
        return CACHE_SECONDS

    def is_shared(self, node: Node) -> bool:
        """Whether programs of several mounts may change it now, of which a kernel knows one."""
        return bool(self._watchers.observers) and any(
            directory.area in SHARED for directory, _name in node.names
        )

    def _of_mail(self, node: MailFile, size: int | None) -> EntryAttributes:
        """Of a mail, likewise; the kernel is told when it has another size."""
        entry = self._mail_entry
        entry.st_ino = node.inode  # InodeT() would be felt here
        entry.st_size = size or 0
        entry.st_blocks = (entry.st_size + 511) // 512
        entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = node.mtime_ns
        entry.attr_timeout = 0 if size is None else MESSAGE_CACHE_SECONDS
        return entry

    def _of_message(self, node: MessageFile) -> EntryAttributes:
        """Of a message, in one object for all, as there are many: it is copied on the way out."""
        entry = self._message_entry
        entry.st_ino = node.inode  # InodeT() would be felt here
        entry.st_nlink = node.links
        entry.st_size = size = node.size
        entry.st_blocks = (size + 511) // 512
        entry.st_mtime_ns, entry.st_ctime_ns = node.mtime_ns, node.changed_ns
        entry.st_mode = ENDING_MODE if node.ends else MESSAGE_MODE
        entry.st_atime_ns = node.ends * 1_000_000 or node.mtime_ns
        # what is in a folder may go by way of another mount, which tells this one of its own only
        whole = not isinstance(node, FolderFile)
        entry.entry_timeout = self._message_seconds if whole else CACHE_SECONDS
        return entry


def _size_if_there(node: MailFile) -> int | None:
    try:
        return node.size
    except TreeError:
        return None  # its message is gone
