"""Sending: a finished file or folder becomes a message, and leaves the outbox a second later."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import trio

from cbfs.interface import Outgoing
from cbfs.messages.model import Content, Conversation, Message
from cbfs.outbox.folder_messages import clear, drop, pack, seal, taking_out
from cbfs.outbox.outbox import Outbox, name_of
from cbfs.outbox.rule import Hold
from cbfs.problems import NotYet, Refused
from cbfs.storage.encoding import u64
from cbfs.storage.faults import ProgramFault, contained, harmless
from cbfs.storage.store import StoreError, Table, Writer
from cbfs.tree.nodes import FIRST_STORED, File, Folder, FolderDraft, PendingSubmission, new_seed
from cbfs.tree.restore import take_along
from cbfs.tree.rules import Area
from cbfs.tree.unsent import state_of
from cbfs_common.errors import CbfsError

SHOWN_AFTER = 1.0
"""Seconds that a sent file stays in the outbox: programs stat what they have just saved."""

NEVER = 86_400.0
"""Seconds until what waits for ``View.retry`` is tried all the same."""

_log = logging.getLogger(__name__)

Unsent = File | Folder
"""What may become a message."""

RETRY = 5.0
"""Seconds until a file is tried again that could not be sent."""

GATHER, GATHERINGS = 0.05, 5
"""Seconds for which what is finished waits for what is finished next, where the message before is
on its way still, and how often while it is: all of them are one commit then. None of them could
leave before that has arrived; where messages come so fast, a commit for each takes longer."""

TOGETHER_MAX = 32
"""Messages of one commit at most, as other changes wait meanwhile."""


class DraftSubmission:
    """Makes messages of what is finished in ``outbox``, and takes it out then. ``at_once``: some
    program may wait until it is delivered."""

    def __init__(self, outbox: Outbox, *, at_once: bool = False) -> None:
        self._outbox = outbox
        self._at_once = at_once
        self._tree = outbox.tree
        self._waiting = False
        self._later: dict[File | FolderDraft, tuple[float, str]] = {}
        self._busy: set[Folder] = set()
        self._gathered: set[Folder] = set()

    def retry(self) -> None:
        """Let what waits for the name directory, or for a later try, be tried again."""
        self._waiting = False
        self._later.clear()

    def start(self, folder: Folder, ready: list[tuple[str, Unsent]]) -> None:
        """Send these of one folder in the order in which they were finished, unless it is at it
        already; and without what is being sent of the folder in which it was a moment ago."""
        ready = [each for each in ready if state_of(each[1]).sending is None]
        if folder in self._busy:
            return
        gathered = folder in self._gathered
        self._gathered.discard(folder)
        if not ready:
            return
        self._busy.add(folder)
        if not gathered and self._is_behind_another(folder):
            self._outbox.tasks.start_soon(self._gather, folder)
            return
        finished = sorted(ready, key=lambda each: state_of(each[1]).changed)
        self._outbox.tasks.start_soon(self._send_all, folder, finished[:TOGETHER_MAX])

    def _is_behind_another(self, folder: Folder) -> bool:
        known = folder.conversation
        return known is not None and not self._at_once and self._tree.backend.is_under_way(known)

    async def _gather(self, folder: Folder) -> None:
        """Let more of one folder be finished, and look at it again."""
        for _ in range(GATHERINGS):
            await trio.sleep(GATHER)
            if not self._is_behind_another(folder):
                break
        self._gathered.add(folder)
        self._busy.discard(folder)
        self._outbox.changed()

    def put_off(self, draft: File | FolderDraft) -> Hold | None:
        """Why what is finished has to wait for its next try."""
        until, why = self._later.get(draft, (0.0, ""))
        left = until - time.monotonic()
        if left > 0:
            return Hold(why, left)
        return Hold("it waits for the name directory", RETRY) if self._waiting else None

    async def _send_all(self, folder: Folder, ready: list[tuple[str, Unsent]]) -> None:
        """What is finished in one folder, in order; no other folder waits for it. In a conversation
        each is begun when the commit of the one before is asked for, and may be in the same."""
        claimed, stop = {folder}, trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                for name, node in ready:
                    place, behind = folder.alias or folder, trio.Event()
                    if place.conversation is None:
                        await self._send_in_turn(place, name, node, behind, stop)
                    else:
                        nursery.start_soon(self._send_in_turn, place, name, node, behind, stop)
                        await behind.wait()
                    if folder.alias is not None and folder.alias not in claimed:
                        if folder.alias in self._busy:  # who is at it sends the rest as well
                            break
                        claimed.add(folder.alias)  # at once: it is in the outbox, and ready there
                        self._busy.add(folder.alias)
                    if stop.is_set():
                        break
        finally:
            self._busy -= claimed
            self._outbox.changed()

    async def _send_in_turn(
        self, place: Folder, name: str, node: Unsent, behind: trio.Event, stop: trio.Event
    ) -> None:
        """``behind`` is set when the next may begin, ``stop`` when none is to."""
        committing = behind.set if place.conversation is not None else _nothing
        try:
            with contained():
                if (
                    _is_in(place, name, node)
                    and state_of(node).sending is None
                    and self._is_ready(place, name, node)
                    and not await self._send(place, name, node, committing)
                ):
                    stop.set()
        except CbfsError as error:
            self._try_later(node, error)
        finally:
            behind.set()

    def _is_ready(self, place: Folder, name: str, node: Unsent) -> bool:
        return not self.put_off(state_of(node)) and self._outbox.verdict(place, name, node) is None

    async def _send(
        self, folder: Folder, name: str, node: Unsent, committing: Callable[[], None]
    ) -> bool:
        """False when it was taken back: who did so may be moving the folder with all in it."""
        draft, message, taken_back = state_of(node), None, False
        try:
            with contained():
                if isinstance(node, File):
                    await self._tree.contents.save(node)
                version = draft.version
                if (
                    _is_in(folder, name, node)
                    and draft.sending is None
                    and (not isinstance(node, File) or node.stored == version)
                ):
                    message = await self._hand_over(folder, name, node, committing)
                    taken_back = message is None
        except Refused as error:
            self._outbox.errors.fail(folder, name, node, error)
        except CbfsError as error:
            self._try_later(node, error)
        if message is not None:
            self._sent(folder, name, node, version, message)
        return not taken_back

    def _try_later(self, node: Unsent, error: CbfsError) -> None:
        self._waiting = isinstance(error, NotYet)
        pause = NEVER if self._waiting else RETRY
        self._later[state_of(node)] = (time.monotonic() + pause, error.in_full)
        if isinstance(error, ProgramFault):
            self._outbox.events.failed()

    def _sent(
        self, folder: Folder, name: str, node: Unsent, version: int, message: Message
    ) -> None:
        """It is a message, and never one once more: what follows is done step by step, whatever
        comes of one."""
        draft = state_of(node)
        draft.sent, draft.error = version, ""
        node.seed = new_seed()  # another version is another message
        self._later.pop(draft, None)
        steps: list[Callable[[], None]] = []
        if isinstance(node, Folder):
            steps.append(partial(seal, node))
        steps.append(partial(self._outbox.errors.show, folder, name, node, ""))
        if folder.conversation is None:
            steps.append(partial(self._outbox.bind, folder, message.conversation))
        steps.append(partial(self._outbox.events.message_added, message))
        for step in steps:
            with harmless(self._outbox.events.failed):
                step()
        if isinstance(node, File):
            node.message = message
            self._outbox.tasks.start_soon(self._retire, node, version)
        else:
            self._outbox.tasks.start_soon(self._retire_folder, node)

    async def _hand_over(
        self, folder: Folder, name: str, node: Unsent, committing: Callable[[], None]
    ) -> Message | None:
        """None when it was taken back meanwhile. Raises what ``Backend.send`` raises."""
        draft, message, content = state_of(node), None, None
        sending = draft.sending = PendingSubmission(trio.CancelScope(), trio.Event())
        if isinstance(node, File):
            node.lent = True  # from here on neither rm nor a write may take the content away
        try:
            with sending.scope:
                content = node.content if isinstance(node, File) else await pack(self._tree, node)
                if content is not None:
                    outgoing = self._outgoing(folder, name, node, content)
                    outgoing = replace(outgoing, committing=committing)
                    message = await self._tree.backend.send(outgoing)
        finally:
            draft.sending = None
            sending.done.set()
            if message is None and isinstance(node, File):
                node.lent = False
            elif message is None and content is not None:
                self._outbox.tasks.start_soon(self._drop, content)
        return message

    async def _drop(self, content: Content) -> None:
        try:
            await drop(self._tree, content)
        except StoreError as error:
            _log.error("%s", error.in_full)  # the next mount drops it

    def _outgoing(self, folder: Folder, name: str, node: Unsent, content: Content) -> Outgoing:
        """For whom it is, the names of now say. Raises Refused."""
        people: tuple[str, ...] = ()
        subject, lifetime = "", 0
        if folder.conversation is None:
            people, subject, lifetime = self._outbox.begun(name_of(folder), folder)
        take_out = _taking_out(node) if isinstance(node, File) else taking_out(node, content)

        def consume(writer: Writer, conversation: Conversation) -> None:
            take_out(writer)
            if folder.conversation is None:
                take_along(writer, folder.key, conversation.outbox_inode + FIRST_STORED)

        return Outgoing(
            folder.conversation,
            people,
            subject,
            name if isinstance(node, Folder) or "." in name.strip(".") else "",
            content,
            consume,
            folder=isinstance(node, Folder),
            lifetime=lifetime,
            seed=node.seed,
            at_once=self._at_once,
        )

    async def _retire(self, file: File, version: int) -> None:
        """Take a sent file out of the outbox, unless it has been changed since."""
        await trio.sleep(SHOWN_AFTER)
        if file.version != version:
            return
        if file.writers:
            self._outbox.tasks.start_soon(self._retire, file, version)
            return
        for directory, name in list(file.names):
            if directory.area is Area.DRAFTS:
                self._take_out(file, version, directory, name)

    async def _retire_folder(self, top: Folder) -> None:
        """Take a sent folder out of the outbox."""
        await trio.sleep(SHOWN_AFTER)
        for directory, name in list(top.names):
            self._take_out_folder(top, directory, name)

    def _take_out_folder(self, top: Folder, directory: Folder, name: str) -> None:
        def leave() -> None:
            if directory.entries.get(name) is top:
                directory.remove(name)
                self._outbox.changed()
                self._outbox.tasks.start_soon(self._clear, top)

        self._outbox.watchers.remove_folder(f"outbox/{name_of(directory)}/{name}", leave)

    async def _clear(self, top: Folder) -> None:
        try:
            await clear(self._tree, top)
        except StoreError as error:
            _log.error("%s", error.in_full)  # the next mount drops it

    def _take_out(self, file: File, version: int, directory: Folder, name: str) -> None:
        def leave() -> None:
            if directory.entries.get(name) is file and file.version == version:
                directory.remove(name)
                self._outbox.changed()  # its backup may be left

        path = f"outbox/{name_of(directory)}/{name}"
        self._outbox.watchers.remove(path, leave)


def _nothing() -> None:
    """What begins a conversation is there before anything else is sent in it."""


def _is_in(folder: Folder, name: str, node: Unsent) -> bool:
    """Whether it is there still, and the folder in the outbox."""
    return folder.area is Area.DRAFTS and folder.entries.get(name) is node


def _taking_out(file: File) -> Callable[[Writer], None]:
    """For the transaction that makes the message: the draft is no draft any more."""

    def change(writer: Writer) -> None:
        writer.delete(Table.NODES, u64(file.inode))

    return change
