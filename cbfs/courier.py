"""From outbox to conversations: sends what is finished, shows what arrives.

The one task that looks at drafts (``run``), and the ``View`` that the engine talks to. What it
does to the tree goes through the mount itself (``Revealer``), so that watchers see it.
"""

import time
from collections.abc import Callable
from typing import Protocol

import trio

from cbfs.book import u64
from cbfs.model import Backend, Content, Conversation, Message, NotYet, Outgoing, Refused
from cbfs.nodes import Area, Directory, File, Link, MessageFile, Node, Sending, Text, encode_record
from cbfs.outbox import (
    ERROR_SUFFIX,
    METADATA,
    Draft,
    Hold,
    Lock,
    Processes,
    lock_names,
    verdict,
)
from cbfs.store import Table, Writer
from cbfs.texts import contact_text, error_text, read_folder_name, read_metadata, status_text
from cbfs.tree import FIRST_STORED, STATUS, Tree, files_below
from cbfs_common.errors import CbfsError

SHOWN_AFTER = 1.0
"""Seconds that a sent file stays in the outbox: programs stat what they have just saved."""

LOCK_HEAD = 64

NEVER = 86_400.0
"""Seconds until what waits for ``View.retry`` is tried all the same."""

RETRY = 5.0
"""Seconds until a file is tried again that could not be sent."""


class Revealer(Protocol):
    """Makes changes through the mounted file system, so that inotify tells of them. Each call
    returns at once; what is asked for happens in order."""

    def show(self, path: str, node: Node, enter: Callable[[], None]) -> None:
        """``enter`` puts ``node`` at ``path`` into the tree, while watchers look."""

    def make(self, path: str, enter: Callable[[], None]) -> None:
        """The same for a directory."""

    def remove(self, path: str, leave: Callable[[], None]) -> None:
        """``leave`` takes the file at ``path`` out of the tree."""

    def touch(self, inode: int) -> None:
        """The content of that inode has changed by itself; many touches count as one."""


class Courier:
    """One for a mount."""

    def __init__(
        self,
        backend: Backend,
        processes: Processes,
        grace: float,
        file_size_max: int,
        nursery: trio.Nursery,
    ) -> None:
        self._nursery = nursery
        self._backend = backend
        self._processes = processes
        self._grace = grace
        self._wake = trio.Event()
        self._held: dict[str, str] = {}
        self._errors: set[tuple[Directory, str]] = set()
        self._unknown: set[str] = set()
        self._waiting = False
        self._later: dict[File, tuple[float, str]] = {}
        self._busy: set[Directory] = set()
        self._status_ns = time.time_ns()
        self.revealer: Revealer | None = None
        self.tree = Tree(backend, file_size_max, self._changed)
        for contact in backend.contacts():
            self._show_contact(contact.name)

    def status(self) -> bytes:
        """The file ``status``."""
        held = [(path, why) for path, why in sorted(self._held.items())]
        return status_text(self._backend.name, self._backend.report(), held).encode()

    # View

    def conversation_added(self, conversation: Conversation) -> None:
        """See ``View``."""
        tree = self.tree
        folder, drafts = tree.make_folders(conversation)
        name = conversation.folder
        self._make(f"conversations/{name}", lambda: tree.conversations.add(name, folder))
        self._make(f"outbox/{name}", lambda: tree.outbox.add(name, drafts))
        for person in conversation.participants:
            self._show_contact(person)

    def message_added(self, message: Message) -> None:
        """See ``View``."""
        folder, _drafts = self.tree.folders(message.conversation)
        conversation = self.tree.conversation(message.conversation)
        node = self.tree.message_file(message)

        def enter() -> None:
            # a folder that is read from the store later has it then
            if folder.loaded and message.name not in folder.entries:
                folder.add(message.name, node)
            folder.mtime_ns = time.time_ns()

        path = f"conversations/{conversation.folder}/{message.name}"
        if self.revealer:
            self.revealer.show(path, node, enter)
        else:
            enter()

    def message_changed(self, message: Message) -> None:
        """See ``View``."""
        folder, _drafts = self.tree.folders(message.conversation)
        if folder.loaded:
            node = folder.entries.get(message.name)
            if isinstance(node, MessageFile):
                node.message = message
        self.status_changed()

    def unknown_names(self, names: frozenset[str]) -> None:
        """See ``View``."""
        self._unknown |= names
        self._changed()

    def retry(self) -> None:
        """See ``View``."""
        self._waiting = False
        self._later.clear()
        self._changed()

    def status_changed(self) -> None:
        """See ``View``."""
        self._status_ns = time.time_ns()
        if self.revealer:
            self.revealer.touch(STATUS)

    @property
    def status_ns(self) -> int:
        """When ``status`` last changed."""
        return self._status_ns

    # the task

    def _changed(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Look at the drafts whenever something has changed, until cancelled."""
        while True:
            self._wake = trio.Event()
            again = self._look()
            with trio.move_on_after(again):
                await self._wake.wait()

    def _look(self) -> float:
        """Send what is finished. Gives the seconds until something may be."""
        again = 3600.0
        held: dict[str, str] = {}
        for folder_name, folder in list(self.tree.outbox.entries.items()):
            if not isinstance(folder, Directory):
                continue
            problem = self._check_folder(folder_name, folder)
            ready = []
            for name, file in files_below(folder):
                if file.version == file.sent:
                    continue  # it only waits to be taken out
                hold = self._verdict(folder, name, file)
                path = f"{folder_name}/{name}"
                if hold is None and problem is not None:
                    self._fail(folder, name, file, problem)
                elif hold is None:
                    hold = self._put_off(file)
                    ready += [] if hold else [(name, file)]
                if file.error:
                    held[path] = file.error.splitlines()[0]
                elif hold is not None and hold.again is not None:
                    held[path] = hold.why
                if hold is not None:
                    again = min(again, hold.again or again)
            if ready and folder not in self._busy:
                self._busy.add(folder)
                self._nursery.start_soon(self._send_all, folder, ready)
        self._drop_stale_errors()
        if held != self._held:
            self._held = held
            self.status_changed()
        return again

    def _put_off(self, file: File) -> Hold | None:
        """Why a finished file has to wait for its next try."""
        until, why = self._later.get(file, (0.0, ""))
        left = until - time.monotonic()
        if left > 0:
            return Hold(why, left)
        return Hold("it waits for the name directory", RETRY) if self._waiting else None

    async def _send_all(self, folder: Directory, ready: list[tuple[str, File]]) -> None:
        """The finished files of one folder, in order; no other folder waits for them."""
        claimed = {folder}
        try:
            for name, file in ready:
                place = folder.alias or folder
                if not self._put_off(file) and self._verdict(place, name, file) is None:
                    await self._send(self._folder_name(place), place, name, file)
                if folder.alias is not None:
                    claimed.add(folder.alias)
                    self._busy.add(folder.alias)
        finally:
            self._busy -= claimed
            self._changed()

    def _verdict(self, folder: Directory, name: str, file: File) -> Hold | None:
        wall = time.time()
        fresh = file.version not in (file.sent, file.given_up)
        draft = Draft(
            name,
            file.size,
            fresh,
            file.writers,
            file.author,
            file.changed,
            file.mtime_ns / 1e9,
        )
        return verdict(
            draft, self._locks(folder, name), time.monotonic(), wall, self._grace, self._processes
        )

    def _locks(self, folder: Directory, name: str) -> list[Lock]:
        locks = []
        for lock_name in lock_names(name):
            node = folder.entries.get(lock_name)
            if isinstance(node, File):
                locks.append(Lock(lock_name, node.author, self.tree.read(node, 0, LOCK_HEAD)))
            elif isinstance(node, Link):
                locks.append(Lock(lock_name, node.author, node.target.encode()))
        return locks

    def _recipients(self, name: str, folder: Directory) -> tuple[tuple[str, ...], str]:
        """(participants, subject) of a folder that is no conversation yet. Raises Refused."""
        metadata = folder.entries.get(METADATA)
        if isinstance(metadata, File) and metadata.size:
            return read_metadata(self.tree.read(metadata, 0, metadata.size))
        return read_folder_name(name)

    def _check_folder(self, name: str, folder: Directory) -> Refused | None:
        """What is wrong with the folder itself, told in an error file beside it."""
        if folder.conversation is not None:
            return None
        problem = None
        try:
            people, _subject = self._recipients(name, folder)
            unknown = self._unknown.intersection(people)
            if unknown:
                listed = ", ".join(sorted(unknown))
                problem = Refused(
                    f"nobody is called {listed}", "rename the folder or mend its metadata.toml"
                )
            elif people:
                self._backend.prepare(people)
        except Refused as error:
            if any(file.writers for _name, file in files_below(folder)):
                return None  # it is just being written
            problem = error
        self._error_file(
            self.tree.outbox, name, error_text(problem, problem.hint) if problem else ""
        )
        return problem

    async def _send(self, folder_name: str, folder: Directory, name: str, file: File) -> None:
        message = None
        try:
            await self.tree.save(file)
            content, version = file.content, file.version
            if content is None or file.stored != version or folder.entries.get(name) is not file:
                return
            outgoing = self._outgoing(folder_name, folder, name, file, content)
            sending = Sending(trio.CancelScope(), trio.Event())
            file.lent = True  # from here on neither rm nor a write may take the content away
            file.sending = sending
            try:
                with sending.scope:
                    message = await self._backend.send(outgoing)
            finally:
                file.sending = None
                sending.done.set()
                if message is None:
                    file.lent = False
        except Refused as error:
            self._fail(folder, name, file, error)
        except CbfsError as error:
            self._waiting = isinstance(error, NotYet)
            pause = NEVER if self._waiting else RETRY
            self._later[file] = (time.monotonic() + pause, str(error))
        if message is None:
            return
        file.sent, file.error = version, ""
        self._later.pop(file, None)
        self._error_file(folder, name, "")
        if folder.conversation is None:
            self._bind(folder_name, folder, message.conversation)
        self.message_added(message)
        self._nursery.start_soon(self._retire, file, version)

    def _outgoing(
        self, folder_name: str, folder: Directory, name: str, file: File, content: Content
    ) -> Outgoing:
        """Raises Refused."""
        people: tuple[str, ...] = ()
        subject = ""
        if folder.conversation is None:
            people, subject = self._recipients(folder_name, folder)
        others = [
            node
            for node in folder.entries.values()
            if isinstance(node, File | Link) and node != file
        ]
        return Outgoing(
            folder.conversation,
            people,
            subject,
            name if "." in name.strip(".") else "",
            content,
            lambda writer, conversation: _consume(writer, file, conversation, folder, others),
        )

    def _bind(self, name: str, folder: Directory, conversation: bytes) -> None:
        """The folder that a conversation began in takes its place under the proper name; the
        user's name for it becomes a link until unmount."""
        tree = self.tree
        _folder, drafts = tree.folders(conversation)
        for entry in list(folder.entries):
            node = folder.remove(entry)
            if entry not in drafts.entries:
                drafts.add(entry, node)
        proper = tree.conversation(conversation).folder
        if tree.outbox.entries.get(name) is folder:
            tree.outbox.remove(name)
            link = Link(tree.new_inode(), proper, time.time_ns(), recorded=False)
            tree.outbox.add(name, link)
        folder.conversation = conversation
        folder.alias = drafts

    async def _retire(self, file: File, version: int) -> None:
        """Take a sent file out of the outbox, unless it has been changed since."""
        await trio.sleep(SHOWN_AFTER)
        if file.version != version:
            return
        if file.writers:
            self._nursery.start_soon(self._retire, file, version)
            return
        for directory, name in list(file.names):
            if directory.area is Area.DRAFTS:
                self._take_out(file, version, directory, name)

    def _take_out(self, file: File, version: int, directory: Directory, name: str) -> None:
        def leave() -> None:
            if directory.entries.get(name) is file and file.version == version:
                directory.remove(name)

        path = f"outbox/{self._folder_name(directory)}/{name}"
        if self.revealer:
            self.revealer.remove(path, leave)
        else:
            leave()

    def _fail(self, folder: Directory, name: str, file: File, problem: Refused) -> None:
        file.error = error_text(problem, problem.hint)
        file.given_up = file.version
        self._error_file(folder, name, file.error)

    def _error_file(self, folder: Directory, name: str, text: str) -> None:
        """Show, change or take away ``NAME.error``."""
        error_name = name + ERROR_SUFFIX
        there = folder.entries.get(error_name)
        if not text:
            if isinstance(there, Text):
                folder.remove(error_name)
            return
        data = text.encode()
        if there is None:
            node = Text(self.tree.new_inode(), lambda: data, time.time_ns())
            folder.add(error_name, node)
            self._errors.add((folder, error_name))
        elif isinstance(there, Text) and there.render() != data:
            there.render = lambda: data
            there.mtime_ns = time.time_ns()

    def _drop_stale_errors(self) -> None:
        """Take away the error files of what is not there any more."""
        for folder, error_name in list(self._errors):
            there = folder.entries.get(error_name)
            if not isinstance(there, Text):
                self._errors.discard((folder, error_name))
            elif error_name.removesuffix(ERROR_SUFFIX) not in folder.entries:
                folder.remove(error_name)
                self._errors.discard((folder, error_name))

    def _show_contact(self, name: str) -> None:
        contact = next((c for c in self._backend.contacts() if c.name == name), None)
        file_name = f"{name}.toml"
        if contact and file_name not in self.tree.contacts.entries:
            data = contact_text(contact).encode()
            node = Text(self.tree.new_inode(), lambda: data, contact.since * 1_000_000)
            self.tree.contacts.add(file_name, node)

    def _folder_name(self, folder: Directory) -> str:
        return next((name for _directory, name in folder.names), "")

    def _make(self, path: str, enter: Callable[[], None]) -> None:
        if self.revealer:
            self.revealer.make(path, enter)
        else:
            enter()


def _consume(
    writer: Writer,
    file: File,
    conversation: Conversation,
    folder: Directory,
    others: list[File | Link],
) -> None:
    """In the transaction that makes the message: the draft is no draft any more, and the others
    in a folder that has no conversation yet belong to the one that has begun."""
    writer.delete(Table.NODES, u64(file.inode))
    if folder.conversation is not None:
        return
    writer.delete(Table.NODES, u64(folder.inode))
    parent = conversation.outbox_inode + FIRST_STORED
    for node in others:
        writer.put(Table.NODES, u64(node.inode), encode_record(node, (folder.key, parent)))
