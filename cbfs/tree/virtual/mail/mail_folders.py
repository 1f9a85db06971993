"""mail/: a Maildir of all messages, and in it one of each conversation, as Maildir++ has them.

What a mail program does there by a name is done to the message: a name with S says that it is read,
one without that it is not, one with T, or none, deletes it. Other flags are kept. Nothing is made
there: what is written to people is a file in outbox/.

What is done here is told to the other folders that show the same message, and what is done there
is seen here, by watchers too.
"""

import errno
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import trio

from cbfs.interface import Backend
from cbfs.messages import search_index
from cbfs.messages.file_names import free_name
from cbfs.messages.history import get_message
from cbfs.messages.listings import listed, received_of
from cbfs.messages.marks import mail_notes
from cbfs.messages.marks.mail_notes import NOTHING, Noted, Notes
from cbfs.messages.marks.mail_pages import Row
from cbfs.messages.model import Conversation, Message
from cbfs.messages.search_index import SEGMENT
from cbfs.storage.faults import Tasks, harmless
from cbfs.storage.store import Reader, Writer
from cbfs.tree.inodes import Inodes
from cbfs.tree.nodes import FIRST_MAIL, MADE, MAIL, MAIL_CUR, MAIL_NEW, MAIL_TMP, Folder, Node
from cbfs.tree.rules import MAIL_OF_CONVERSATION, Area, TreeError
from cbfs.tree.virtual.conversation_folder import MessageNodes, Unseen
from cbfs.tree.virtual.mail.boxes import Box, Mailed, Scope
from cbfs.tree.virtual.mail.maildir import Maildir
from cbfs.tree.virtual.mail.mails import MailFile, Mails
from cbfs.tree.virtual.mail.names import (
    DELETED,
    READ,
    MailName,
    name_in_mail,
    read_mail_name,
    text_in_mail,
)
from cbfs.tree.virtual.mail.pages import MailPages
from cbfs.tree.virtual.mail.said import Sayings
from cbfs.tree.virtual.message_links import Overview
from cbfs.tree.virtual.unread_folder import Unread
from cbfs.tree.virtual.virtual_directory import PAGE, VirtualDirectory
from cbfs.tree.watchers import Watchers

SEGMENTS_MAX = 1_024
"""Segments whose notes are remembered."""

MAILDIR_NAME_MAX = 200
"""Bytes of the name of a Maildir: notmuch has it in a term of its index, behind up to 22 others,
and ends where a term has more than 245."""


class MailFolders:
    """mail/ of one mount, which it enters into ``above``. ``conversation`` gives a conversation
    that is shown, by its id, and raises KeyError for others; ``shown`` gives all of them. ``ended``
    is told of a message that was deleted here."""

    def __init__(
        self,
        above: Folder,
        backend: Backend,
        inodes: Inodes,
        nodes: MessageNodes,
        unseen: Unseen,
        unread: Unread,
        overview: Overview,
        watchers: Watchers,
        tasks: Tasks,
        shown: dict[bytes, Conversation],
        ended: Callable[[Message], None],
    ) -> None:
        self._backend = backend
        self._store = backend.store
        self._inodes = inodes
        self._unseen = unseen
        self._unread = unread
        self._overview = overview
        self._watchers = watchers
        self._tasks = tasks
        self._shown = shown
        self._ended = ended
        self._since = time.time_ns()
        self._notes: OrderedDict[int, Notes] = OrderedDict()
        self._called: dict[bytes, str] = {}
        self._taken: set[str] = set()  # the names in it
        self._maildirs: dict[bytes, Maildir] = {}
        self._own: set[int] = set()  # a mail program has just said that these are read
        self.pages = MailPages(backend.store, tasks)
        self.sayings = Sayings(backend.store, tasks)
        self.mails = Mails(backend, nodes, shown.__getitem__, self.pages)
        self.root = Folder(MAIL, Area.MAIL, self._since)
        self._boxes = (
            self.box(MAIL_NEW, None, is_new=True),
            self.box(MAIL_CUR, None, is_new=False),
        )
        tmp = Folder(MAIL_TMP, Area.FIXED, self._since)
        for name, node in zip(
            ("new", "cur", "tmp"), (*(box.directory for box in self._boxes), tmp), strict=True
        ):
            self.root.enter(name, node)
        above.add("mail", self.root)
        overview.heard.append(self._was_read)
        for conversation in shown.values():
            self.root.enter(*self._maildir(conversation))

    def box(self, inode: int, scope: Scope, *, is_new: bool) -> Box:
        """new/ or cur/ of a Maildir."""
        return Box(self, self._inodes, self._watchers, inode, scope, is_new=is_new)

    def keep(self) -> Callable[[Writer], None]:
        """The change, for the end of a mount, that stores what is in memory only."""
        pages, sayings = self.pages.keep(), self.sayings.keep()

        def change(writer: Writer) -> None:
            pages(writer)
            sayings(writer)

        return change

    # conversations that come and go

    def appears(self, conversation: Conversation) -> None:
        """A conversation is shown from now on: so is its Maildir."""
        self._touch(conversation.id)
        if conversation.id in self._called:
            return
        name, node = self._maildir(conversation)

        def enter() -> None:
            self.root.add(name, node)

        if MAIL in self._inodes:
            self._watchers.make(f"mail/{name}", enter)
        else:
            enter()

    def leaves(self, conversation: Conversation) -> None:
        """A conversation is shown no more: nor are its mails, under names that the kernel may
        know."""
        self.mails.forget_all()
        self._touch(conversation.id)
        boxes = [box for box in self._boxes_of(conversation.id) if box.may_be_watched]
        name = self._called.pop(conversation.id, "")
        self._taken.discard(name)
        maildir = self._maildirs.pop(conversation.id, None)
        with harmless(self._watchers.failed):
            self._outdate(conversation.id, boxes)
        if not name or maildir is None:
            return
        directory = maildir.directory

        def leave() -> None:
            if self.root.entries.get(name) is directory:  # it may have come back meanwhile
                self.root.remove(name)

        if MAIL in self._inodes:
            self._watchers.remove_folder(f"mail/{name}", leave)
        else:
            leave()

    def _outdate(self, conversation: bytes, boxes: Sequence[Box]) -> None:
        for serial in self._known_of(conversation):
            self._watchers.touch(FIRST_MAIL + serial)
            if not boxes:
                continue
            with self._store.read() as reader:
                message = get_message(reader, conversation, serial)
                if message is None:
                    continue
                name = self._mailed(reader, conversation, serial, message.received).name
            for box in boxes:
                if box.is_new is name.is_new:
                    self._watchers.outdate(box.directory.inode, name.encode())

    def _known_of(self, conversation: bytes) -> list[int]:
        """The serials of its mails that the kernel was told of last."""
        return [
            node.serial
            for node in self._inodes.remembered()
            if isinstance(node, MailFile) and node.conversation == conversation
        ]

    def moves(self, conversation: Conversation) -> None:
        """A conversation's folder has another name: so has its Maildir."""
        self.mails.forget_all()
        before = self._called.pop(conversation.id, "")
        if not before:
            return
        self._taken.discard(before)
        name = self._name_for(conversation)

        def change() -> None:
            if before in self.root.entries:
                self.root.add(name, self.root.remove(before))

        if MAIL in self._inodes:
            self._watchers.move(f"mail/{before}", name, change)
        else:
            change()

    def _maildir(self, conversation: Conversation) -> tuple[str, Folder]:
        made = self._maildirs[conversation.id] = Maildir(self, conversation.id)
        return self._name_for(conversation), made.directory

    def _name_for(self, conversation: Conversation) -> str:
        name = MAIL_OF_CONVERSATION + conversation.folder
        name = name.encode()[:MAILDIR_NAME_MAX].decode(errors="ignore")
        name = self._called[conversation.id] = free_name(name, self._taken.__contains__)
        self._taken.add(name)
        return name

    # messages that come, go and are read

    def added(self, message: Message) -> None:
        """A message has come, and is about to be shown in its conversation's folder."""
        self.pages.added(message.serial, Row(message.conversation, message.received))
        if message.conversation in self._shown:
            name = self._name(message.serial, message.received, NOTHING)
            node = self._node(message.conversation, message.serial, message.received)
            after = Mailed(message.conversation, message.serial, name, node)
            self._tell(message.conversation, None, after)

    def revealed(self, message: Message) -> None:
        """A message is shown in its conversation's folder now."""
        self._tell(message.conversation, None, None)

    @contextmanager
    def removing(self, conversation: bytes, serial: int, *told: Box) -> Iterator[None]:
        """A message is about to be deleted, which is told when that has gone well, but in the boxes
        that know it."""
        before = None
        with harmless(self._watchers.failed):  # a fault of mail/ keeps nobody from deleting
            before = self.find(conversation, serial)
        yield
        with harmless(self._watchers.failed):
            self.removed(conversation, serial, before, *told)

    def ending(self, message: Message) -> None:
        """A message was deleted by itself."""
        name = self._name(message.serial, message.received, self._noted_before(message.serial))
        node = self._node(message.conversation, message.serial, message.received)
        mailed = Mailed(message.conversation, message.serial, name, node)
        self.removed(message.conversation, message.serial, mailed)

    def removed(self, conversation: bytes, serial: int, before: Mailed | None, *told: Box) -> None:
        """A message was deleted."""
        segment, number = divmod(serial, SEGMENT)
        if segment in self._notes:
            self._notes[segment].pop(number, None)
        self.pages.forget(serial)
        self.sayings.forget(serial)
        self._stale(serial)
        self._tell(conversation, before, None, *told)

    def changed(self, message: Message) -> None:
        """Something of a message is other than before."""
        self._stale(message.serial)

    def people_changed(self) -> None:
        """Somebody may be called something else: that changes mails, and no names of them. What the
        kernel has been told of those is forgotten, meanwhile."""
        for conversation in self.mails.people_changed():
            self._tasks.start_soon(self._outdate_mails, conversation)

    async def _outdate_mails(self, conversation: bytes) -> None:
        start = 0
        while MAIL in self._inodes:
            with self._store.read() as reader:
                found = listed(reader, conversation, start, PAGE)
            for entry in found:
                self._watchers.touch(FIRST_MAIL + entry[0])
            if len(found) < PAGE:
                return
            start = found[-1][0] + 1
            await trio.lowlevel.checkpoint()

    def _stale(self, serial: int) -> None:
        """The mail of a message is another than before, or none: no kernel is to have that."""
        self.mails.forget(serial)
        if MAIL in self._inodes:  # it knows what is above one that it knows
            self._watchers.touch(FIRST_MAIL + serial)

    def renamed(self, messages: Iterable[Message]) -> None:
        """Messages may have other dates, and names of that."""
        self.mails.forget_all()
        self.pages.forget_all()
        for message in messages:
            self._stale(message.serial)
            self._touch(message.conversation)

    def forgotten(self, inode: int) -> None:
        """The kernel has forgotten an inode, which may be that of a mail."""
        if FIRST_MAIL <= inode < MADE:
            self.mails.forgotten(inode - FIRST_MAIL)

    def again(self, message: Message) -> Node:
        """The node of a message that the kernel has known for long."""
        return MailFile(self.mails, message.conversation, message.serial, message.received)

    def _was_read(self, serial: int) -> None:
        if serial in self._own:
            return
        self.sayings.was_read(serial)
        if not self._may_be_watched:
            self._touch()
            return
        with self._store.read() as reader:
            conversation = search_index.conversation_of(reader, serial)
        after = self.find(conversation, serial) if conversation else None
        if after is not None:
            noted = self._noted_before(serial)
            name = name_in_mail(after.node.received, serial, noted, unread=True)
            before = after._replace(name=name)
            self._tell(after.conversation, before, after)

    def _tell(
        self, conversation: bytes, before: Mailed | None, after: Mailed | None, *told: Box
    ) -> None:
        """A message has another name in mail/ than before, or is there or not."""
        for box in self._boxes_of(conversation):
            box.directory.touch()
            if box in told:
                continue
            if before is not None and before.name.is_new is box.is_new:
                box.goes(before.name.encode(), before.node)
            if after is not None and after.name.is_new is box.is_new:
                box.comes(after.name.encode(), after.node)

    def _boxes_of(self, conversation: bytes) -> tuple[Box, ...]:
        own = self._maildirs.get(conversation)
        return (*self._boxes, *(own.boxes if own else ()))

    def _touch(self, conversation: bytes | None = None) -> None:
        """The messages of one conversation, or of any, are others or have other names."""
        for box in self._boxes_of(conversation) if conversation else self._all_boxes():
            box.directory.touch()

    @property
    def _may_be_watched(self) -> bool:
        """Whether the kernel knows any box: it knows what is above one that it knows."""
        return MAIL in self._inodes and any(box.may_be_watched for box in self._all_boxes())

    def _all_boxes(self) -> Iterator[Box]:
        yield from self._boxes
        for maildir in self._maildirs.values():
            yield from maildir.boxes

    # what mail programs do

    async def delete(self, box: Box, node: MailFile) -> None:
        """Delete a message. On the disk on return. Raises TreeError(ENOENT) for what is gone."""
        message = self._backend.message(node.conversation, node.serial)
        if message is None:
            raise TreeError(errno.ENOENT)
        with self.removing(message.conversation, message.serial, box):
            await self._backend.delete(message)
            if message.conversation in self._shown:  # it may have been left meanwhile
                self._ended(message)

    async def rename(self, source: Folder, node: MailFile, target: Folder, new: str) -> None:
        """A mail program gives a message another name in the same Maildir, which says what has
        become of it. On the disk on return where that deletes it, else soon after that: a crash
        before leaves the name of before. Raises
        TreeError(EPERM) for what is not a name of this message there, TreeError(EXDEV) where it
        could be copied, TreeError(EACCES) for any other place."""
        from_, to = self._box_of(source), self._box_of(target)
        before = self.find(node.conversation, node.serial)
        if from_ is None or to is None or from_.scope != to.scope or before is None:
            raise TreeError(errno.EPERM)
        said, was = read_mail_name(new, is_new=to.is_new), before.name
        if said is None or (said.serial, said.seconds) != (was.serial, was.seconds):
            raise TreeError(errno.EPERM)
        after: MailName | None = None
        if said.has(DELETED):
            await self.delete(from_, node)
        else:
            after = self._set(before, said, from_, to)
        if after != said:
            self._watchers.outdate(to.directory.inode, new)
        from_.directory.touch()
        to.directory.touch()

    def _set(self, before: Mailed, said: MailName, *told: Box) -> MailName:
        """Gives the name that it has then."""
        serial, noted, read = before.serial, said.noted, said.has(READ)
        was_read = not self._overview.is_unread(serial)
        if read is not was_read or noted != before.name.noted:
            self.sayings.say(serial, noted, None if read is was_read else read)
        segment, number = divmod(serial, SEGMENT)
        if segment in self._notes:
            self._notes[segment][number] = noted
        message = None
        if read is not was_read:
            message = self._backend.message(before.conversation, serial)
        if message is not None:
            self._own.add(serial)
            try:
                self._unread.set_read(message, read=read)
            finally:
                self._own.discard(serial)
        after = before._replace(name=self._name(serial, before.node.received, noted))
        self._tell(before.conversation, before, after, *told)
        return after.name

    def _box_of(self, folder: Folder) -> Box | None:
        provider = folder.provider if isinstance(folder, VirtualDirectory) else None
        return provider if isinstance(provider, Box) else None

    # MailSource

    async def load(self) -> None:
        """Return when it is known which messages are unread."""
        await self._overview.load()

    def find(self, conversation: bytes, serial: int) -> Mailed | None:
        """A message that is shown; None when it is not."""
        row = self.pages.row(serial)
        if row is not None and row.conversation == conversation:
            return self._listed(serial, row)
        if conversation not in self._shown or serial in self._unseen:
            return None
        with self._store.read() as reader:
            message = get_message(reader, conversation, serial)
            if message is None:
                return None
            return self._mailed(reader, conversation, serial, message.received)

    def _listed(self, serial: int, row: Row) -> Mailed | None:
        """As ``find``, of a message that a listing knows: it is there as long as it does."""
        if row.conversation not in self._shown or serial in self._unseen:
            return None
        with self._store.read() as reader:
            return self._mailed(reader, row.conversation, serial, row.received)

    def named(self, name: MailName, scope: Scope) -> MailFile | None:
        """The message that has this name now."""
        row = self.pages.row(name.serial)
        if row is not None:
            found = self._listed(name.serial, row)
            right = found is not None and scope in {None, row.conversation}
            return found.node if found is not None and right and found.name == name else None
        with self._store.read() as reader:
            conversation = search_index.conversation_of(reader, name.serial)
        if conversation is None or scope not in {None, conversation}:
            return None
        found = self.find(conversation, name.serial)
        return found.node if found is not None and found.name == name else None

    def found(
        self, scope: Scope, start: int, *, is_new: bool
    ) -> Iterator[tuple[int, str, MailFile] | None]:
        """(serial, name, node) of the messages in new/, or in cur/, in order of serials, from one
        on; and None where some have been looked at."""
        if scope is not None:
            yield from self._found_in(scope, start, is_new=is_new)
            return
        shown, unseen, overview = self._shown, self._unseen, self._overview
        for segment in self._segments(start, is_new=is_new):
            yield None
            with self._store.read() as reader:
                page, notes = self.pages.of(reader, segment), self._notes_of(reader, segment)
            first = segment * SEGMENT
            for number, row in sorted(page.items()):
                serial = first + number
                if serial < start or row.conversation not in shown or serial in unseen:
                    continue
                unread, noted = overview.is_unread(serial), notes.get(number, NOTHING)
                if (unread and not noted.taken) is is_new:
                    name = text_in_mail(row.received, serial, noted, unread=unread)
                    yield serial, name, self._node(row.conversation, serial, row.received)

    def _segments(self, start: int, *, is_new: bool) -> Iterator[int]:
        """Those that may have messages in new/, or in cur/, from a serial on."""
        if not is_new:
            with self._store.read() as reader:
                behind = search_index.segments(reader)
            yield from range(start // SEGMENT, behind)
            return
        segment = -1
        for serial in self._overview.unread_from(start):
            if serial // SEGMENT != segment:
                segment = serial // SEGMENT
                yield segment

    def _found_in(
        self, conversation: bytes, start: int, *, is_new: bool
    ) -> Iterator[tuple[int, str, MailFile] | None]:
        """As ``found``, of one conversation, which says itself which those are."""
        while conversation in self._shown:
            shown = []
            with self._store.read() as reader:
                found = listed(reader, conversation, start, PAGE)
                for entry in self._unseen.shown(found):
                    serial, received = entry[0], received_of(entry)
                    unread, noted = self._overview.is_unread(serial), self._noted(reader, serial)
                    if (unread and not noted.taken) is is_new:
                        name = text_in_mail(received, serial, noted, unread=unread)
                        shown.append((serial, name, self._node(conversation, serial, received)))
            yield from shown
            if len(found) < PAGE:
                return
            yield None
            start = found[-1][0] + 1

    def path(self, scope: Scope) -> str:
        """Where the Maildir is in the mount; empty when it is nowhere."""
        if scope is None:
            return "mail"
        return f"mail/{self._called[scope]}" if scope in self._called else ""

    def began(self) -> int:
        """When the mount began, in nanoseconds since 1970."""
        return self._since

    # within

    def _mailed(self, reader: Reader, conversation: bytes, serial: int, received: int) -> Mailed:
        name = self._name(serial, received, self._noted(reader, serial))
        return Mailed(conversation, serial, name, self._node(conversation, serial, received))

    def _name(self, serial: int, received: int, noted: Noted) -> MailName:
        return name_in_mail(received, serial, noted, unread=self._overview.is_unread(serial))

    def _node(self, conversation: bytes, serial: int, received: int) -> MailFile:
        known = self._inodes.known(FIRST_MAIL + serial)
        if isinstance(known, MailFile):
            return known
        return MailFile(self.mails, conversation, serial, received)

    def _noted(self, reader: Reader, serial: int) -> Noted:
        segment, number = divmod(serial, SEGMENT)
        return self._notes_of(reader, segment).get(number, NOTHING)

    def _notes_of(self, reader: Reader, segment: int) -> Notes:
        notes = self._notes.get(segment)
        if notes is None:
            notes = mail_notes.notes_of(reader, segment) | self.sayings.notes(segment)
            self._notes[segment] = notes
            if len(self._notes) > SEGMENTS_MAX:
                self._notes.popitem(last=False)
        return notes

    def _noted_before(self, serial: int) -> Noted:
        """What is noted of a message that may be gone from the store, as far as it is
        remembered."""
        segment, number = divmod(serial, SEGMENT)
        known = self.sayings.noted(serial) or self._notes.get(segment, {}).get(number)
        return known or NOTHING
