"""Sending: a finished file becomes a message, and leaves the outbox a second later."""

import time
from collections.abc import Callable

import trio

from cbfs.areas import Area
from cbfs.book import u64
from cbfs.drafts import Drafts
from cbfs.error_files import ErrorFiles
from cbfs.model import Backend, Content, Conversation, Message, NotYet, Outgoing, Refused
from cbfs.nodes import Directory, File, Link, Sending, encode_record
from cbfs.outbox import Hold
from cbfs.showing import Showing
from cbfs.store import Table, Writer
from cbfs.tree import FIRST_STORED, Tree
from cbfs_common.errors import CbfsError

SHOWN_AFTER = 1.0
"""Seconds that a sent file stays in the outbox: programs stat what they have just saved."""

NEVER = 86_400.0
"""Seconds until what waits for ``View.retry`` is tried all the same."""

RETRY = 5.0
"""Seconds until a file is tried again that could not be sent."""


class Dispatch:
    """One for a mount. ``arrived`` shows a message, ``changed`` lets the outbox be looked at."""

    def __init__(
        self,
        tree: Tree,
        backend: Backend,
        drafts: Drafts,
        errors: ErrorFiles,
        showing: Showing,
        nursery: trio.Nursery,
        arrived: Callable[[Message], None],
        changed: Callable[[], None],
    ) -> None:
        self._tree = tree
        self._backend = backend
        self._drafts = drafts
        self._errors = errors
        self._showing = showing
        self._nursery = nursery
        self._arrived = arrived
        self._changed = changed
        self._waiting = False
        self._later: dict[File, tuple[float, str]] = {}
        self._busy: set[Directory] = set()
        self._begun: set[Directory] = set()

    def retry(self) -> None:
        """See ``View``."""
        self._waiting = False
        self._later.clear()

    def start(self, folder: Directory, ready: list[tuple[str, File]]) -> None:
        """Send these files of one folder, unless it is at it already."""
        if ready and folder not in self._busy:
            self._busy.add(folder)
            self._nursery.start_soon(self._send_all, folder, ready)

    def put_off(self, file: File) -> Hold | None:
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
                if not self.put_off(file) and self._drafts.verdict(place, name, file) is None:
                    await self._send(_name_of(place), place, name, file)
                if folder.alias is not None:
                    claimed.add(folder.alias)
                    self._busy.add(folder.alias)
        finally:
            self._busy -= claimed
            self._changed()

    async def _send(self, folder_name: str, folder: Directory, name: str, file: File) -> None:
        message = None
        try:
            await self._tree.save(file)
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
            self._errors.fail(folder, name, file, error)
        except CbfsError as error:
            self._waiting = isinstance(error, NotYet)
            pause = NEVER if self._waiting else RETRY
            self._later[file] = (time.monotonic() + pause, str(error))
        if message is None:
            return
        file.sent, file.error = version, ""
        self._later.pop(file, None)
        self._errors.show(folder, name, "")
        if folder.conversation is None:
            self._bind(folder, message.conversation)
        self._arrived(message)
        self._nursery.start_soon(self._retire, file, version)

    def _outgoing(
        self, folder_name: str, folder: Directory, name: str, file: File, content: Content
    ) -> Outgoing:
        """Raises Refused."""
        people: tuple[str, ...] = ()
        subject = ""
        if folder.conversation is None:
            people, subject = self._drafts.recipients(folder_name, folder)
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

    def _bind(self, folder: Directory, conversation: bytes) -> None:
        """What is in the folder that a conversation began in is in the one of the proper name
        from now on; the user's name becomes a link to it, once that is there."""
        _folder, drafts = self._tree.folders(conversation)
        for entry in list(folder.entries):
            node = folder.remove(entry)
            if entry not in drafts.entries:
                drafts.add(entry, node)
        folder.conversation = conversation
        folder.alias = drafts
        self._begun.add(folder)
        if drafts.names:
            self.shown(drafts)

    def shown(self, drafts: Directory) -> None:
        """The folder of a conversation is in the outbox now: the user's name for it becomes a
        link until unmount. A link before would lead nowhere."""
        for folder in [folder for folder in self._begun if folder.alias is drafts]:
            self._begun.remove(folder)
            proper, outbox = _name_of(drafts), self._tree.outbox
            for name in [name for place, name in folder.names if place is outbox]:
                outbox.remove(name)
                link = Link(self._tree.new_inode(), proper, time.time_ns(), recorded=False)
                outbox.add(name, link)
        self._changed()

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

        path = f"outbox/{_name_of(directory)}/{name}"
        self._showing.remove(path, leave)


def _name_of(folder: Directory) -> str:
    return next((name for _directory, name in folder.names), "")


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
