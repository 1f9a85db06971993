"""What the mount of an account shows of the engine's news, and the parts that it is made of.

``MountView`` is what the engine calls when something has changed on the disk. What it does to the
tree goes through the mount itself (``cbfs.tree.watchers``), so that programs that watch see it. No
FUSE in here.
"""

import time
from collections.abc import Iterable

import trio

from cbfs.interface import Backend
from cbfs.messages.model import Conversation, Delivery, Message
from cbfs.mount.status_file import StatusFile
from cbfs.outbox.loop import OutboxLoop
from cbfs.outbox.outbox import Outbox
from cbfs.outbox.submission import DraftSubmission
from cbfs.outbox.sync_send import SyncSend
from cbfs.storage.faults import Tasks, harmless
from cbfs.tree.nodes import Folder, Node, SymbolicLink
from cbfs.tree.processes import Processes
from cbfs.tree.tree import Tree
from cbfs.tree.watchers import Watchers


class MountView:
    """What one mount shows: its tree, its outbox and its status, and the engine's news in them.

    ``grace`` (seconds) is in the place of that of the settings, if given; ``sync_send`` is the
    limit (seconds) of ``cbfs.outbox.sync_send``, 0 without it. Tasks run in ``nursery``. No method
    of the engine's ``View`` blocks or raises."""

    def __init__(
        self,
        backend: Backend,
        processes: Processes,
        grace: float | None,
        nursery: trio.Nursery,
        sync_send: float = 0,
    ) -> None:
        self._backend = backend
        self._tasks = Tasks(nursery, self.failed)
        self.watchers = Watchers(self.failed)
        self.tree = Tree(backend, self._changed, self._left, self.watchers, self._tasks)
        self.outbox = Outbox(self.tree, self.watchers, self._tasks, self, processes, grace)
        self.loop = OutboxLoop(self.outbox, DraftSubmission(self.outbox))
        self.sync_send = SyncSend(self.outbox, sync_send)
        self.search_folders = self.tree.search_folders
        self.status = StatusFile(self.tree, self.watchers, self.loop)

    async def run(self) -> None:
        """Send what is finished in the outbox, and store what is read, until cancelled."""
        self._tasks.start_soon(self.search_folders.unread.run, self.failed)
        await self.loop.run()

    def failed(self) -> None:
        """A fault of this program was met, and is logged: ``status`` says so until unmount."""
        self.status.failed()

    def _changed(self) -> None:
        self.outbox.changed()

    # View

    def conversation_added(self, conversation: Conversation) -> None:
        """Show the two folders of a conversation, under conversations/ and outbox/."""
        tree = self.tree
        folder, drafts = tree.make_folders(conversation)
        name = conversation.folder
        self.watchers.make(f"conversations/{name}", lambda: tree.conversations.add(name, folder))
        self.watchers.make(f"outbox/{name}", lambda: self.outbox.enter(name, drafts))

    def _left(self, conversation: Conversation, place: Folder) -> None:
        """A program has left a conversation, by removing its folder in ``place``: the other goes,
        and the link under the name that the user gave."""
        self.search_folders.left(conversation.id)
        tree, name = self.tree, conversation.folder
        for above, folder in (("conversations", tree.conversations), ("outbox", tree.outbox)):
            node = folder.entries.get(name)

            def leave(folder: Folder = folder, node: Node | None = node) -> None:
                if node is not None and folder.entries.get(name) is node:
                    folder.remove(name)
                    folder.mtime_ns = time.time_ns()

            if folder is place:
                leave()
            elif node is not None:
                self.watchers.remove_folder(f"{above}/{name}", leave)
        for called, link in list(tree.outbox.entries.items()):
            if isinstance(link, SymbolicLink) and not link.recorded and link.target == name:
                self._take_out(called, link)
        self.status_changed()

    def _take_out(self, called: str, link: SymbolicLink) -> None:
        outbox = self.tree.outbox

        def leave() -> None:
            if outbox.entries.get(called) is link:
                outbox.remove(called)

        self.watchers.remove(f"outbox/{called}", leave)

    def conversation_moved(self, old: Conversation, new: Conversation) -> None:
        """Give the two folders of a conversation, ``old`` before, the name that it has as
        ``new``."""
        tree = self.tree
        if not tree.knows(new.id):
            return
        tree.renamed(new)
        for place, folder in (("conversations", tree.conversations), ("outbox", tree.outbox)):

            def change(folder: Folder = folder) -> None:
                moved = folder.remove(old.folder)
                self.outbox.make_room(folder, new.folder)
                folder.add(new.folder, moved)
                self.outbox.moved(old.folder, new.folder)

            self.watchers.move(f"{place}/{old.folder}", new.folder, change)
        self.search_folders.moved()

    def messages_renamed(self, messages: Iterable[Message]) -> None:
        """Show these messages under their new names, in the folders where they are."""
        for message in messages:
            before = self.tree.message_renamed(message)
            if self.tree.knows(message.conversation):
                folder = self.tree.folders(message.conversation)[0]
                folder.touch()
                if before:
                    self.watchers.outdate(folder.inode, before)
        self.search_folders.moved(messages)

    def contact_changed(self, name: str) -> None:
        """Show what is new of a contact, or of a message request, in contacts/ and requests/; what
        was refused for the state of a contact is tried again."""
        self.tree.people.show(name, self.watchers)
        self.tree.requests.show(name, self.watchers)
        self.outbox.errors.contact_changed()
        self.outbox.changed()

    def message_added(self, message: Message) -> None:
        """Show a message that has arrived, or was sent. Nobody tells of it again: what a fault
        keeps from being shown to watchers is there all the same."""
        shown = False
        with harmless(self.failed):
            self._add(message)
            shown = True
        if not shown:
            self.tree.unseen.announce(message.serial)
            self.tree.unseen.reveal(message.serial)
        with harmless(self.failed):
            self.search_folders.added(message)

    def _add(self, message: Message) -> None:
        if not self.tree.knows(message.conversation):  # a fault has kept it from being shown
            for conversation in self._backend.conversations():
                if conversation.id == message.conversation:
                    self.conversation_added(conversation)
        folder, _ = self.tree.folders(message.conversation)
        conversation = self.tree.conversation(message.conversation)
        node = self.tree.message_node(message)

        self.tree.unseen.announce(message.serial)

        def enter() -> None:
            self.tree.unseen.reveal(message.serial)
            folder.touch()

        path = f"conversations/{conversation.folder}/{message.name}"
        self.watchers.show(path, node, enter)

    def message_changed(self, message: Message) -> None:
        """Show that a message's recipients, or the end of its lifetime, are in a new state; its
        name and content stay."""
        node = self.tree.message_node(message)
        if node.ends != message.ends:
            node.ends_anew(message)
            self.tree.folders(message.conversation)[0].touch()
            self.watchers.touch(node.inode)
        left_out = any(state is Delivery.LEFT_OUT for _who, state in message.recipients)
        if left_out or message.missing:  # the transcript says so
            self.tree.folders(message.conversation)[0].touch()
        self.sync_send.changed()
        self.status_changed()

    def message_ended(self, message: Message) -> None:
        """Take a message out whose lifetime is over, so that watchers see it go."""
        if not self.tree.knows(message.conversation):
            return
        path, node, leave = self.tree.message_ended(message)
        if message.folder:
            self.watchers.remove_folder(path, leave)
        else:
            self.watchers.remove(path, leave)
        self.watchers.touch(node.inode)
        self.search_folders.removed(message.serial)

    def unknown_names(self, names: frozenset[str]) -> None:
        """Tell in error files that nobody has these names, as the directory says with proof."""
        self.loop.unknown_names(names)

    def retry(self) -> None:
        """Try again what waits for the name directory, or for a later try."""
        self.loop.retry()

    def status_changed(self) -> None:
        """Let ``status`` be read anew: the engine's report, or what the outbox holds, is another
        one."""
        self.status.changed()
