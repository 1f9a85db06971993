"""The outbox of a mount: for whom its folders are, whether what is in them is finished, and the
names that its folders get.

``cbfs.outbox.loop`` looks at it, ``cbfs.outbox.submission`` makes messages of what is finished.
"""

import logging
import math
import time
from dataclasses import replace
from typing import Protocol

import trio

from cbfs.messages.file_names import free_name
from cbfs.messages.model import Message
from cbfs.outbox.error_files import ErrorFiles
from cbfs.outbox.rule import (
    Draft,
    Hold,
    Lock,
    Writers,
    folder_verdict,
    is_live,
    original_of,
    verdict,
)
from cbfs.storage.faults import Tasks
from cbfs.storage.store import StoreError
from cbfs.tree.nodes import File, Folder, FolderDraft, Node, SymbolicLink, walk
from cbfs.tree.rules import METADATA, QUIET, is_lock, lock_names
from cbfs.tree.texts import read_folder_name
from cbfs.tree.tree import Tree
from cbfs.tree.unsent import state_of
from cbfs.tree.virtual.metadata_file import read_new
from cbfs.tree.watchers import Watchers

_log = logging.getLogger(__name__)

LOCK_HEAD = 64
"""Bytes of a lock or swap file that are looked at."""

OWN_BEFORE, OWN_BEHIND = 10**8, 60 * 10**9
"""Nanoseconds by which a time of change is before or behind a modification time that the same clock
has written: who saves a file may name it, and set its mode, a little later."""


class OutboxEvents(Protocol):
    """What an outbox tells its mount, after the change. Must not block."""

    def message_added(self, message: Message) -> None:
        """A draft has become this message: show it."""

    def status_changed(self) -> None:
        """Other things are held than before."""

    def failed(self) -> None:
        """A fault of this program was met, and is logged."""


class Outbox:
    """The outbox of one mount: its folders, its drafts and their error files, and what its loop and
    the sending of drafts share.

    ``grace`` (seconds) is in the place of that of the settings, if given. Changes that the daemon
    makes by itself go through ``watchers``; ``tasks`` outlive faults."""

    def __init__(
        self,
        tree: Tree,
        watchers: Watchers,
        tasks: Tasks,
        events: OutboxEvents,
        processes: Writers,
        grace: float | None,
    ) -> None:
        self.tree = tree
        self.watchers = watchers
        self.tasks = tasks
        self.events = events
        self.errors = ErrorFiles(tree)
        self.grace = grace
        self._processes = processes
        self._wake = trio.Event()
        self._begun: set[Folder] = set()

    # changes

    def changed(self) -> None:
        """Something may have become ready to be sent."""
        self._wake.set()

    def next_change(self) -> trio.Event:
        """Is set by the first change from now on."""
        self._wake = trio.Event()
        return self._wake

    # drafts

    def verdict(self, folder: Folder, name: str, node: File | Folder) -> Hold | None:
        """None when the file or folder is a finished message."""
        now, wall, processes = time.monotonic(), time.time(), self._processes
        grace = self.tree.backend.configuration.current.grace if self.grace is None else self.grace
        if isinstance(node, File):
            locks = self._locks(folder, name)
            original = original_of(name, folder.entries, folder.left, now, spare=node.spare)
            draft = replace(_draft(name, node), original=original)
            if is_lock(name):
                lock = Lock(name, node.author, self.tree.contents.read(node, 0, LOCK_HEAD))
                draft = replace(draft, held=is_live(lock, processes))
            return verdict(draft, locks, now, wall, grace, processes)
        state = state_of(node)
        fresh = state.version not in (state.sent, state.given_up)
        inside = [(d, n, f) for d, n, f in walk(node) if isinstance(f, File)]
        until = _held_until(node)
        draft = Draft(name, len(inside), fresh, 0, None, state.changed, until)
        if node.folder_draft is not None and node.folder_draft.maker is not None:
            draft = replace(draft, held=processes.is_alive(node.folder_draft.maker))
        return folder_verdict(
            draft,
            ((_draft(n, file), self._locks(d, n)) for d, n, file in inside),
            now,
            wall,
            grace,
            processes,
        )

    def is_news(self, draft: File | FolderDraft, hold: Hold) -> bool:
        """Whether ``status`` tells of this: of what will be sent by itself, and of what rests."""
        rests = draft.changed + QUIET <= time.monotonic()
        return rests if hold.again is None or hold.hint else True

    def recipients(self, name: str, folder: Folder) -> tuple[tuple[str, ...], str]:
        """(participants, subject) of a folder that is no conversation yet. Raises Refused."""
        return self.begun(name, folder)[:2]

    def begun(self, name: str, folder: Folder) -> tuple[tuple[str, ...], str, int]:
        """(participants, subject, seconds that messages are kept or 0) of such a folder. Raises
        Refused."""
        metadata, called = folder.entries.get(METADATA), self.tree.backend.people.called
        if isinstance(metadata, File) and metadata.size:
            return read_new(self.tree.contents.read(metadata, 0, metadata.size), called)
        return (*read_folder_name(name, called), 0)

    def _locks(self, folder: Folder, name: str) -> list[Lock]:
        locks = []
        for lock_name in lock_names(name):
            node = folder.entries.get(lock_name)
            if isinstance(node, File):
                locks.append(
                    Lock(lock_name, node.author, self.tree.contents.read(node, 0, LOCK_HEAD))
                )
            elif isinstance(node, SymbolicLink):
                locks.append(Lock(lock_name, node.author, node.target.encode()))
        return locks

    # its folders

    def enter(self, name: str, drafts: Folder) -> None:
        """Put the folder of a conversation there, under ``name``."""
        self.make_room(self.tree.outbox, name)
        self.tree.outbox.add(name, drafts)
        self._shown(drafts)

    def bind(self, folder: Folder, conversation: bytes) -> None:
        """Make ``folder``, in which a conversation began, the one of that conversation: what is in
        it is in the one of the proper name from now on; the user's name becomes a link to that,
        once it is there."""
        _folder, drafts = self.tree.folders(conversation)
        for entry in list(folder.entries):
            node = folder.remove(entry)
            if entry not in drafts.entries:
                drafts.add(entry, node)
            elif entry != METADATA:  # somebody else has begun the conversation, and this was there
                drafts.add(free_name(entry, drafts.entries.__contains__), node)
                self._renamed(node)
        drafts.left |= folder.left
        folder.conversation = conversation
        folder.alias = drafts
        self._begun.add(folder)
        if drafts.names:
            self._shown(drafts)

    def _shown(self, drafts: Folder) -> None:
        """The folder of a conversation is in the outbox now: the user's name for it becomes a
        link until unmount. A link before would lead nowhere."""
        for folder in [folder for folder in self._begun if folder.alias is drafts]:
            self._begun.remove(folder)
            proper, outbox = name_of(drafts), self.tree.outbox
            for name in [name for place, name in folder.names if place is outbox]:
                outbox.remove(name)
                link = SymbolicLink(self.tree.new_inode(), proper, time.time_ns(), recorded=False)
                outbox.add(name, link)
        self.changed()

    def moved(self, old: str, new: str) -> None:
        """The folder of a conversation has another name: links that lead to it lead there."""
        for node in self.tree.outbox.entries.values():
            if isinstance(node, SymbolicLink) and node.target == old:
                node.target = new
                node.mtime_ns = node.changed_ns = time.time_ns()
                self.watchers.touch(node.inode)

    def make_room(self, folder: Folder, name: str) -> None:
        """A conversation's folder is to come there: what has its name gets another one."""
        if name in folder.entries:
            free = free_name(name, folder.entries.__contains__)
            node = folder.remove(name)
            folder.add(free, node)
            self._renamed(node)

    def _renamed(self, node: Node) -> None:
        """Store the name that the daemon has given to something of the user's."""
        self.tasks.start_soon(self._store_name, node)

    async def _store_name(self, node: Node) -> None:
        try:
            await self.tree.contents.save_records([node])
        except StoreError as error:
            _log.error("%s", error.in_full)  # the next mount chooses a name as well


def name_of(folder: Folder) -> str:
    """What a folder is called, by one of its names; empty when it has none."""
    return next((name for _directory, name in folder.names), "")


def _held_until(node: Node) -> float:
    """The date that holds it, in seconds: its modification time, unless this computer's clock wrote
    that with a change, and was ahead then. A date to come that somebody has given is later than
    when they gave it."""
    by_the_clock = -OWN_BEFORE <= node.changed_ns - node.mtime_ns <= OWN_BEHIND
    return 0.0 if by_the_clock else node.mtime_ns / 1e9


def _draft(name: str, file: File) -> Draft:
    fresh = file.version not in (file.sent, file.given_up)
    writers, changed = file.writers, file.changed
    if file.asked == file.version:  # fsync has said that it is finished
        writers, changed = 0, -math.inf
    until = _held_until(file)
    return Draft(
        name,
        file.size,
        fresh,
        writers,
        file.author,
        changed,
        until,
        file.failure,
        touched=file.touched,
    )
