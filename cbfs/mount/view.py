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
from cbfs.outbox.programs import Programs
from cbfs.outbox.submission import DraftSubmission
from cbfs.outbox.sync_send import SyncSend
from cbfs.storage.faults import Tasks, harmless
from cbfs.tree.nodes import Folder, Node, SymbolicLink
from cbfs.tree.processes import Processes
from cbfs.tree.tree import Tree
from cbfs.tree.watchers import Watchers
from cbfs_common.errors import CbfsError


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
        self.tree = Tree(
            backend, self._changed, self._left, self.watchers, self._tasks, self._message_ended
        )
        self.programs = Programs(processes, self._tasks, self._changed)
        self.outbox = Outbox(self.tree, self.watchers, self._tasks, self, self.programs, grace)
        self.loop = OutboxLoop(self.outbox, DraftSubmission(self.outbox, at_once=sync_send > 0))
        self.sync_send = SyncSend(self.outbox, sync_send)
        self.search_folders = self.tree.search_folders
        self.status = StatusFile(self.tree, self.watchers, self.loop)

    async def run(self) -> None:
        """Send what is finished in the outbox, and store what is read, until cancelled."""
        self._tasks.start_soon(self.search_folders.unread.run, self.failed)
        self._tasks.start_soon(self.tree.overview.load)
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
        self.search_folders.shown(conversation)
        folder, drafts = tree.make_folders(conversation)
        name = conversation.folder
        self.watchers.make(f"conversations/{name}", lambda: tree.conversations.add(name, folder))
        if conversation.outbox_inode:
            self.watchers.make(f"outbox/{name}", lambda: self.outbox.enter(name, drafts))
        tree.mail.appears(conversation)

    def _left(self, conversation: Conversation, place: Folder) -> None:
        """A program has left a conversation, by removing its folder in ``place``: the other goes,
        and the link under the name that the user gave."""
        self.search_folders.left(conversation.id)
        tree, name = self.tree, conversation.folder
        for above, folder in (("conversations", tree.conversations), ("outbox", tree.outbox)):
            node = folder.entries.get(name)
            if not isinstance(node, Folder) or node.conversation != conversation.id:
                continue  # it goes on in another one, which has the folder under outbox/

            def leave(folder: Folder = folder, node: Node = node) -> None:
                if folder.entries.get(name) is node:
                    folder.remove(name)
                    folder.mtime_ns = time.time_ns()

            if folder is place:
                leave()
            else:
                self.watchers.remove_folder(f"{above}/{name}", leave)
        tree.mail.leaves(conversation)
        self._drop_links(name)
        self.status_changed()

    def _drop_links(self, name: str) -> None:
        """The user's names for the folder of this name under outbox/ lead there no more."""
        for called, link in list(self.tree.outbox.entries.items()):
            if isinstance(link, SymbolicLink) and not link.recorded and link.target == name:
                self._take_out(called, link)

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
        places = [("conversations", tree.conversations)]
        if new.outbox_inode:  # else it goes on in another one, which has the folder
            places.append(("outbox", tree.outbox))
        for place, folder in places:

            def change(folder: Folder = folder) -> None:
                moved = folder.remove(old.folder)
                self.outbox.make_room(folder, new.folder)
                folder.add(new.folder, moved)
                self.outbox.moved(old.folder, new.folder)

            self.watchers.move(f"{place}/{old.folder}", new.folder, change)
        tree.mail.moves(new)
        self.search_folders.moved()

    def conversation_changed(self, conversation: Conversation) -> None:
        """Somebody has left a conversation, or it goes on in another one: its texts say so."""
        if self.tree.knows(conversation.id):
            for inode in self.tree.changed(conversation):
                self.watchers.touch(inode)

    def conversation_goes_on(self, old: Conversation, new: Conversation) -> None:
        """Show a new conversation, whose folder under outbox/ is that of ``old``; links of the
        user's to that go, as their names say who was meant by them."""
        tree = self.tree
        if not tree.knows(old.id):
            self.conversation_added(new)
            return
        self._drop_links(old.folder)
        folder = tree.goes_on(old, new)
        self.watchers.make(
            f"conversations/{new.folder}", lambda: tree.conversations.add(new.folder, folder)
        )

        def change() -> None:
            tree.outbox.remove(old.folder)
            self.outbox.enter(new.folder, tree.folders(new.id)[1])

        self.watchers.move(f"outbox/{old.folder}", new.folder, change)
        tree.mail.appears(new)
        self.status_changed()

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
        self.tree.mail.renamed(messages)

    def contact_changed(self, name: str) -> None:
        """Show what is new of a contact, or of a message request, in contacts/ and requests/; what
        was refused for the state of a contact is tried again."""
        self.tree.mail.people_changed()
        self.tree.people.show(name, self.watchers)
        self.tree.requests.show(name, self.watchers)
        self.outbox.errors.contact_changed()
        self.outbox.changed()

    def line_refused(self, error: CbfsError) -> None:
        """Show why a line that the user has pasted adds nobody."""
        self.tree.new_contact.refused(error, self.watchers)

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
        with harmless(self.failed):
            self.tree.mail.added(message)

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
            self.tree.mail.revealed(message)

        path = f"conversations/{conversation.folder}/{message.name}"
        self.watchers.show(path, node, enter)

    def message_changed(self, message: Message) -> None:
        """Show that a message's recipients, or the end of its lifetime, are in a new state; its
        name and content stay."""
        self.tree.mail.changed(message)
        self.tree.message_changed(message)
        node = self.tree.message_node(message)
        if node.ends != message.ends:
            node.ends_anew(message)
            self.tree.folders(message.conversation)[0].touch()
            self.watchers.touch(node.inode)
        left_out = any(state is Delivery.LEFT_OUT for _who, state in message.recipients)
        if left_out or message.missing or not message.recipients:  # the transcript says so
            self.tree.folders(message.conversation)[0].touch()
        self.sync_send.changed()
        self.status_changed()

    def message_ended(self, message: Message) -> None:
        """Take a message out whose lifetime is over, so that watchers see it go."""
        if self.tree.knows(message.conversation):
            with harmless(self.failed):
                self.tree.mail.ending(message)
            self._message_ended(message)

    def _message_ended(self, message: Message) -> None:
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

    def directories_changed(self) -> None:
        """Show by which policies name directories are followed; what could not be sent as somebody
        was of another one is tried again."""
        self.tree.mail.people_changed()
        self.tree.directories.show(self.watchers)
        self.outbox.errors.contact_changed()
        self.outbox.changed()

    def retry(self) -> None:
        """Try again what waits for the name directory, or for a later try."""
        self.loop.retry()

    def status_changed(self) -> None:
        """Let ``status`` be read anew: the engine's report, or what the outbox holds, is another
        one."""
        self.status.changed()
