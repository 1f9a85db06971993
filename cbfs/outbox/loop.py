"""From outbox to conversations: sends what is finished, shows what arrives.

The one task that looks at drafts (``run``), and the ``View`` that the engine talks to. What it
does to the tree goes through the mount itself (``Revealer``), so that watchers see it.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import trio

from cbfs.interface import Backend
from cbfs.messages.model import Conversation, Delivery, Message
from cbfs.outbox.error_files import ErrorFiles
from cbfs.outbox.outbox import Drafts
from cbfs.outbox.rule import Hold
from cbfs.outbox.submission import Dispatch
from cbfs.outbox.sync_send import SyncSend
from cbfs.problems import Refused
from cbfs.storage.faults import Tasks, contained, harmless
from cbfs.tree.nodes import Directory, File, Link, Node, Text, drafts_in, state_of
from cbfs.tree.processes import Processes
from cbfs.tree.rules import METADATA, QUIET, is_lock
from cbfs.tree.texts import error_text, in_one_line, own_warning_text, status_text
from cbfs.tree.tree import STATUS, Tree
from cbfs.tree.virtual.search_folders import Views
from cbfs.tree.watchers import Showing
from cbfs_common.errors import CbfsError

WARNING = "WARNING"
"""The file in the root that is there when somebody has changed one's own name, or it cannot be
kept."""

ASK_AGAIN = 60.0
"""Seconds for which nobody has a name that nobody had. After that it is asked for again when
something new is saved for it, and only then: what was saved before goes with it."""

REST = 4
"""How many times as long as a look at the outbox took there is none after it: with thousands of
drafts, of each of which programs and neighbours say whether it is finished, saving one more must
not wait for all."""

FAULT_PAUSE = 60.0
"""Seconds until what a fault of this program was met at is looked at again."""

_FAULT = "a part of cbfs failed, and goes on: a fault of this program, in its log"

_ALWAYS = frozenset((METADATA,))

_LINK = Hold("it is a link", None, "put what it leads to in its place, or rm it")


class Courier:
    """One for a mount. ``grace`` (seconds) is in the place of that of the settings, if given;
    ``sync_send`` is the limit (seconds) of ``cbfs.outbox.sync_send``, 0 without it."""

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
        self._fault = ""
        self._wake = trio.Event()
        self._held: dict[str, str] = {}
        self._unknown: dict[str, float] = {}
        self._status_ns = time.time_ns()
        self._warned = False
        self._warned_of = b""
        self.showing = Showing(self.failed)
        self.tree = Tree(backend, self._changed, self._tasks)
        self.drafts = Drafts(self.tree, processes, grace)
        self._sync_send = SyncSend(backend, self.drafts, sync_send) if sync_send else None
        self.views = Views(self.tree, self.showing)
        self.tree.left = self._left
        self._errors = ErrorFiles(self.tree)
        self._dispatch = Dispatch(
            self.tree,
            backend,
            self.drafts,
            self._errors,
            self.showing,
            self._tasks,
            self.message_added,
            self._changed,
            self.failed,
        )
        self._warn()

    def status(self) -> bytes:
        """The file ``status``."""
        held = [(path, why) for path, why in sorted(self._held.items())]
        report = self._backend.report()
        if self._backend.alarm:
            shouted = f"YOUR NAME IS NOT SAFE: {self._backend.alarm}; see the file {WARNING}"
            report = replace(report, problems=(shouted, *report.problems))
        if self._backend.lapse:
            shouted = f"YOUR NAME CANNOT BE KEPT: {self._backend.lapse}; see the file {WARNING}"
            report = replace(report, problems=(shouted, *report.problems))
        if self.tree.config.problem:
            report = replace(report, problems=(*report.problems, self.tree.config.problem))
        if self._fault:
            report = replace(report, problems=(*report.problems, self._fault))
        return status_text(self._backend.name, report, held).encode()

    # View

    def conversation_added(self, conversation: Conversation) -> None:
        """See ``View``."""
        tree = self.tree
        folder, drafts = tree.make_folders(conversation)
        name = conversation.folder
        self.showing.make(f"conversations/{name}", lambda: tree.conversations.add(name, folder))

        def enter() -> None:
            self._dispatch.make_room(tree.outbox, name)
            tree.outbox.add(name, drafts)
            self._dispatch.shown(drafts)

        self.showing.make(f"outbox/{name}", enter)

    def _left(self, conversation: Conversation, place: Directory) -> None:
        """A program has left a conversation, by removing its folder in ``place``: the other goes,
        and the link under the name that the user gave."""
        self.views.left(conversation.id)
        tree, name = self.tree, conversation.folder
        for above, folder in (("conversations", tree.conversations), ("outbox", tree.outbox)):
            node = folder.entries.get(name)

            def leave(folder: Directory = folder, node: Node | None = node) -> None:
                if node is not None and folder.entries.get(name) is node:
                    folder.remove(name)
                    folder.mtime_ns = time.time_ns()

            if folder is place:
                leave()
            elif node is not None:
                self.showing.remove_folder(f"{above}/{name}", leave)
        for called, link in list(tree.outbox.entries.items()):
            if isinstance(link, Link) and not link.recorded and link.target == name:
                self._take_out(called, link)
        self.status_changed()

    def _take_out(self, called: str, link: Link) -> None:
        outbox = self.tree.outbox

        def leave() -> None:
            if outbox.entries.get(called) is link:
                outbox.remove(called)

        self.showing.remove(f"outbox/{called}", leave)

    def conversation_moved(self, old: Conversation, new: Conversation) -> None:
        """See ``View``."""
        tree = self.tree
        if not tree.knows(new.id):
            return
        tree.renamed(new)
        for place, folder in (("conversations", tree.conversations), ("outbox", tree.outbox)):

            def change(folder: Directory = folder) -> None:
                moved = folder.remove(old.folder)
                self._dispatch.make_room(folder, new.folder)
                folder.add(new.folder, moved)
                self._dispatch.moved(old.folder, new.folder)

            self.showing.move(f"{place}/{old.folder}", new.folder, change)
        self.views.moved()

    def messages_renamed(self, messages: Iterable[Message]) -> None:
        """See ``View``."""
        for message in messages:
            before = self.tree.message_renamed(message)
            if self.tree.knows(message.conversation):
                folder = self.tree.folders(message.conversation)[0]
                folder.touch()
                if before:
                    self.showing.outdate(folder.inode, before)
        self.views.moved(messages)

    def contact_changed(self, name: str) -> None:
        """See ``View``."""
        self.tree.people.show(name, self.showing)
        self.tree.requests.show(name, self.showing)
        self._errors.contact_changed()
        self._changed()

    def message_added(self, message: Message) -> None:
        """See ``View``. Nobody tells of it again: what a fault keeps from being shown to watchers
        is there all the same."""
        shown = False
        with harmless(self.failed):
            self._add(message)
            shown = True
        if not shown:
            self.tree.unseen.announce(message.serial)
            self.tree.unseen.reveal(message.serial)
        with harmless(self.failed):
            self.views.added(message)

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
        self.showing.show(path, node, enter)

    @property
    def fsync_finishes(self) -> bool:
        """Whether fsync says that a file is all that is to be in it."""
        return self._sync_send is not None

    async def synced(self, node: Node, thread: int) -> None:
        """A program, by ``thread``, wants what it has written into ``node`` to be safe, and it is
        on the disk. Raises TreeError."""
        if self._sync_send is not None:
            self._changed()
            await self._sync_send.wait(node, thread)

    def message_changed(self, message: Message) -> None:
        """See ``View``."""
        node = self.tree.message_node(message)
        if node.ends != message.ends:
            node.ends_anew(message)
            self.tree.folders(message.conversation)[0].touch()
            self.showing.touch(node.inode)
        if any(state is Delivery.LEFT_OUT for _who, state in message.recipients):
            # the transcript says so
            self.tree.folders(message.conversation)[0].touch()
        if self._sync_send is not None:
            self._sync_send.changed()
        self.status_changed()

    def message_ended(self, message: Message) -> None:
        """See ``View``."""
        if not self.tree.knows(message.conversation):
            return
        path, node, leave = self.tree.message_ended(message)
        if message.folder:
            self.showing.remove_folder(path, leave)
        else:
            self.showing.remove(path, leave)
        self.showing.touch(node.inode)
        self.views.removed(message.serial)

    def unknown_names(self, names: frozenset[str]) -> None:
        """See ``View``."""
        self._unknown |= dict.fromkeys(names, time.monotonic())
        self._changed()

    def retry(self) -> None:
        """See ``View``."""
        self._dispatch.retry()
        self._changed()

    def status_changed(self) -> None:
        """See ``View``."""
        self._status_ns = time.time_ns()
        self.tree.show_quarantine()
        self.showing.touch(STATUS)
        self._warn()

    def _warn(self) -> None:
        """Show WARNING in the root when somebody has changed one's own name, or it cannot be kept,
        and only then."""
        root, alarm = self.tree.root, self._warning()
        there = root.entries.get(WARNING)
        if isinstance(there, Text) and alarm and alarm != self._warned_of:
            self._warned_of = alarm
            there.mtime_ns = time.time_ns()
            self.showing.touch(there.inode)
        if alarm and there is None and not self._warned:
            self._warned, self._warned_of = True, alarm
            node = Text(self.tree.new_inode(), self._warning, time.time_ns())
            self.showing.show(WARNING, node, lambda: root.add(WARNING, node))
        elif not alarm and there is not None and self._warned:
            self._warned = False
            self.showing.remove(WARNING, self._calm)

    def _calm(self) -> None:
        if WARNING in self.tree.root.entries:
            self.tree.root.remove(WARNING)

    def _warning(self) -> bytes:
        return own_warning_text(self._backend.alarm, self._backend.lapse).encode()

    @property
    def status_ns(self) -> int:
        """When ``status`` last changed."""
        return self._status_ns

    # the task

    def _changed(self) -> None:
        self._wake.set()

    def failed(self) -> None:
        """A fault of this program was met, and is logged: ``status`` says so until unmount."""
        if not self._fault:
            self._fault = _FAULT
            with harmless():
                self.status_changed()

    async def run(self) -> None:
        """Look at the drafts whenever something has changed, until cancelled. One of which a fault
        comes stays, and is looked at again; so is what else is looked at."""
        self._tasks.start_soon(self.views.unread.run, self.failed)
        while True:
            self._wake = trio.Event()
            began, again = time.perf_counter(), FAULT_PAUSE
            with harmless(self.failed):
                again = self._look()
            await trio.sleep(REST * (time.perf_counter() - began))
            with trio.move_on_after(again):
                await self._wake.wait()

    def _look(self) -> float:
        """Send what is finished. Gives the seconds until something may be."""
        held: dict[str, str] = {}
        looks: list[Callable[[], float | None]] = [
            self.tree.config.look,
            self.tree.metadata.look,
            self._errors.drop_stale,
        ]
        for name, folder in list(self.tree.outbox.entries.items()):
            if isinstance(folder, Directory) and not _is_idle(folder):
                looks.append(partial(self._look_into, name, folder, held))
        again = 3600.0
        for look in looks:
            pause: float | None = FAULT_PAUSE
            with harmless(self.failed):
                pause = look()
            again = min(again, pause or 3600.0)
        if held != self._held:
            self._held = held
            self.status_changed()
        return again

    def _look_into(self, folder_name: str, folder: Directory, held: dict[str, str]) -> float:
        """Send what is finished in one folder, and tell in ``held`` of what is not. Gives the
        seconds until more may be."""
        again = 3600.0
        problem = self._check_folder(folder_name, folder)
        ready: list[tuple[str, File | Directory]] = []
        for name, node in drafts_in(folder):
            draft = state_of(node)
            if draft.version == draft.sent:
                continue  # it only waits to be taken out
            path = f"{folder_name}/{name}"
            try:
                with contained():
                    hold = self._look_at(folder, name, node, problem)
                    if hold is not None:
                        again = min(again, self._hold(folder, name, node, hold))
                    elif problem is None:
                        ready.append((name, node))
                    draft.hold = hold.why if hold is not None else ""
                    if draft.error:
                        held[path] = in_one_line(draft.error)
                    elif hold is not None and self.drafts.is_news(draft, hold):
                        held[path] = hold.in_full
            except CbfsError as error:
                held[path] = error.in_full
                again = min(again, FAULT_PAUSE)
                self.failed()
        with harmless(self.failed):
            again = min(again, self._hold_links(folder_name, folder, held))
        self._dispatch.start(folder, ready)
        return again

    def _look_at(
        self, folder: Directory, name: str, node: File | Directory, problem: Refused | None
    ) -> Hold | None:
        """Why a draft is not sent now; None when it is, unless its folder has a problem."""
        hold = self.drafts.verdict(folder, name, node)
        if hold is None and problem is not None:
            self._errors.fail(folder, name, node, problem)
        elif hold is None:
            hold = self._dispatch.put_off(state_of(node))
        return hold

    def _hold(self, folder: Directory, name: str, node: File | Directory, hold: Hold) -> float:
        """Tell of what stays in an error file, when it is time to. Gives the seconds until the
        verdict may be another."""
        draft = state_of(node)
        if hold.hint and hold.tell <= 0:
            if draft.given_up != draft.version:
                self._errors.fail(folder, name, node, Refused(hold.why, hold.hint))
        elif draft.error and draft.given_up != draft.version:
            self._errors.clear(folder, name, node)  # it has changed since
        left = QUIET + draft.changed - time.monotonic()
        times = (hold.again or 0, hold.tell if hold.hint else 0, left)
        return min((seconds for seconds in times if seconds > 0), default=3600.0)

    def _hold_links(self, folder_name: str, folder: Directory, held: dict[str, str]) -> float:
        """Tell of links, which are no messages. Gives the seconds until there is more to tell."""
        again = 3600.0
        for name, node in list(folder.entries.items()):
            if not isinstance(node, Link) or is_lock(name):
                continue
            left = QUIET - (time.time_ns() - node.changed_ns) / 1e9
            if left > 0:
                again = min(again, left)
                continue
            held[f"{folder_name}/{name}"] = _LINK.in_full
            self._errors.show_once(folder, name, node, error_text(Refused(_LINK.why), _LINK.hint))
        return again

    def _check_folder(self, name: str, folder: Directory) -> Refused | None:
        """What is wrong with the folder itself, told in an error file beside it."""
        if folder.conversation is not None:
            return None
        problem: Refused | None = None
        people: tuple[str, ...] = ()
        try:
            people, _subject = self.drafts.recipients(name, folder)
            unknown = self._unknown_of(people, folder)
            if unknown:
                listed = ", ".join(unknown)
                problem = Refused(
                    f"nobody is called {listed}", "rename the folder or mend its metadata.toml"
                )
            elif people:
                self._backend.prepare(people)
        except Refused as error:
            inside = folder.entries.values()
            if any(isinstance(file, File) and file.writers for file in inside):
                return None  # it is just being written
            problem = error
        self._errors.addressed(folder, people)
        self._errors.show(
            self.tree.outbox, name, folder, error_text(problem, problem.hint) if problem else ""
        )
        return problem

    def _unknown_of(self, people: tuple[str, ...], folder: Directory) -> list[str]:
        """Who of them is nobody, as far as is known."""
        before = time.monotonic() - ASK_AGAIN
        old = {name for name in people if self._unknown.get(name, before) < before}
        if old and any(not self.drafts.verdict(folder, *each) for each in drafts_in(folder)):
            for name in old:
                del self._unknown[name]
            self._errors.again(folder)
        return sorted(self._unknown.keys() & set(people))


def _is_idle(folder: Directory) -> bool:
    """A conversation to which nobody is writing, as nearly all are, however many there are."""
    return folder.conversation is not None and folder.entries.keys() <= _ALWAYS
