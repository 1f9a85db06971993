"""What stat(2) tells of what a mount shows, and for how long the kernel may answer so for us."""

import os

from pyfuse3 import EntryAttributes, InodeT, ModeT

from cbfs.mount.view import MountView
from cbfs.tree.nodes import ENDING_MODE, MESSAGE_MODE, STATUS, FolderFile, MessageFile, Node, Text
from cbfs.tree.rules import Area

CACHE_SECONDS = 1.0
"""How long the kernel may answer for us: longer gains nothing, none costs a lot."""

MESSAGE_CACHE_SECONDS = 300.0
"""How long it may for a message, which never changes; one that goes, goes through the kernel."""

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
        self._people = view.tree.people
        entry = self._message_entry = EntryAttributes()
        entry.st_blksize = 65_536
        entry.st_uid, entry.st_gid = self.uid, self.gid
        self._message_seconds = entry.attr_timeout = message_seconds

    def of(self, node: Node) -> EntryAttributes:
        """The attributes of a node. The next call may change what this one gives: pyfuse3 copies
        it."""
        if isinstance(node, MessageFile):
            return self._of_message(node)
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
        changes = shared or self._people.is_answer(node)
        entry.entry_timeout = 0 if changes else CACHE_SECONDS
        entry.attr_timeout = 0 if shared or isinstance(node, Text) else CACHE_SECONDS
        return entry

    def is_shared(self, node: Node) -> bool:
        """Whether programs of several mounts may change it now, of which a kernel knows one."""
        return bool(self._watchers.observers) and any(
            directory.area in SHARED for directory, _name in node.names
        )

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
