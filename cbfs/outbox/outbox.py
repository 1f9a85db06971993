"""What the outbox's folders and files say of themselves: for whom they are, and whether a file is
finished."""

import math
import time
from dataclasses import replace

from cbfs.outbox.rule import Draft, Hold, Lock, folder_verdict, is_live, original_of, verdict
from cbfs.tree.nodes import Directory, File, Link, Node, Parcel, state_of, walk
from cbfs.tree.processes import Processes
from cbfs.tree.rules import METADATA, QUIET, is_lock, lock_names
from cbfs.tree.texts import read_folder_name
from cbfs.tree.tree import Tree
from cbfs.tree.virtual.metadata import read_new

LOCK_HEAD = 64
"""Bytes of a lock or swap file that are looked at."""

OWN_BEFORE, OWN_BEHIND = 10**8, 60 * 10**9
"""Nanoseconds by which a time of change is before or behind a modification time that the same clock
has written: who saves a file may name it, and set its mode, a little later."""


class Drafts:
    """One for a mount. ``grace`` (seconds) is in the place of that of the settings, if given."""

    def __init__(self, tree: Tree, processes: Processes, grace: float | None) -> None:
        self._tree = tree
        self._processes = processes
        self.grace = grace

    def verdict(self, folder: Directory, name: str, node: File | Directory) -> Hold | None:
        """None when the file or folder is a finished message."""
        now, wall, processes = time.monotonic(), time.time(), self._processes
        grace = self._tree.backend.configuration.current.grace if self.grace is None else self.grace
        if isinstance(node, File):
            locks = self._locks(folder, name)
            original = original_of(name, folder.entries, folder.left, now, spare=node.spare)
            draft = replace(_draft(name, node), original=original)
            if is_lock(name):
                lock = Lock(name, node.author, self._tree.read(node, 0, LOCK_HEAD))
                draft = replace(draft, held=is_live(lock, processes))
            return verdict(draft, locks, now, wall, grace, processes)
        state = state_of(node)
        fresh = state.version not in (state.sent, state.given_up)
        inside = [(d, n, f) for d, n, f in walk(node) if isinstance(f, File)]
        until = _held_until(node)
        draft = Draft(name, len(inside), fresh, 0, None, state.changed, until)
        return folder_verdict(
            draft,
            ((_draft(n, file), self._locks(d, n)) for d, n, file in inside),
            now,
            wall,
            grace,
            processes,
        )

    def is_news(self, draft: File | Parcel, hold: Hold) -> bool:
        """Whether ``status`` tells of this: of what will be sent by itself, and of what rests."""
        rests = draft.changed + QUIET <= time.monotonic()
        return rests if hold.again is None or hold.hint else True

    def recipients(self, name: str, folder: Directory) -> tuple[tuple[str, ...], str]:
        """(participants, subject) of a folder that is no conversation yet. Raises Refused."""
        return self.begun(name, folder)[:2]

    def begun(self, name: str, folder: Directory) -> tuple[tuple[str, ...], str, int]:
        """(participants, subject, seconds that messages are kept or 0) of such a folder. Raises
        Refused."""
        metadata, called = folder.entries.get(METADATA), self._tree.backend.people.called
        if isinstance(metadata, File) and metadata.size:
            return read_new(self._tree.read(metadata, 0, metadata.size), called)
        return (*read_folder_name(name, called), 0)

    def _locks(self, folder: Directory, name: str) -> list[Lock]:
        locks = []
        for lock_name in lock_names(name):
            node = folder.entries.get(lock_name)
            if isinstance(node, File):
                locks.append(Lock(lock_name, node.author, self._tree.read(node, 0, LOCK_HEAD)))
            elif isinstance(node, Link):
                locks.append(Lock(lock_name, node.author, node.target.encode()))
        return locks


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
    return Draft(name, file.size, fresh, writers, file.author, changed, until, file.failure)
