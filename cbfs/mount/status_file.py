"""The files of a mount that tell how things are: ``status``, and ``WARNING`` when it is due."""

import time
from dataclasses import replace

from cbfs.interface import OUTLIVED
from cbfs.outbox.loop import OutboxLoop
from cbfs.storage.faults import harmless
from cbfs.tree.nodes import STATUS, Text
from cbfs.tree.texts import own_warning_text, status_text
from cbfs.tree.tree import Tree
from cbfs.tree.watchers import Watchers

WARNING = "WARNING"
"""The file in the root that is there when somebody has changed one's own name, when it cannot be
kept, and when another copy of the account goes on in the place of this one."""

_FAULT = "a part of cbfs failed, and goes on: a fault of this program, in its log"


class StatusFile:
    """The files ``status`` and ``WARNING`` of one mount. ``changed_ns`` is when it last changed
    (nanoseconds since 1970)."""

    def __init__(self, tree: Tree, watchers: Watchers, loop: OutboxLoop) -> None:
        """``loop`` knows what the outbox holds. Shows WARNING at once when it is due."""
        self._tree = tree
        self._backend = tree.backend
        self._watchers = watchers
        self._loop = loop
        self._fault = ""
        self._warned = False
        self._warned_of = b""
        self.changed_ns = time.time_ns()
        self._warn()

    def render(self) -> bytes:
        """The text of ``status``: what the engine reports, what is wrong, and what is not sent."""
        held = sorted(self._loop.held.items())
        report = self._backend.report()
        if self._backend.alarm:
            shouted = f"YOUR NAME IS NOT SAFE: {self._backend.alarm}; see the file {WARNING}"
            report = replace(report, problems=(shouted, *report.problems))
        if self._backend.lapse:
            shouted = f"YOUR NAME CANNOT BE KEPT: {self._backend.lapse}; see the file {WARNING}"
            report = replace(report, problems=(shouted, *report.problems))
        if self._backend.stopped:
            what = (
                "ACCOUNT IS OUTLIVED" if self._backend.stopped == OUTLIVED else "COPY HAS STOPPED"
            )
            shouted = f"THIS {what}: {self._backend.stopped}; see the file {WARNING}"
            report = replace(report, problems=(shouted, *report.problems))
        if self._tree.config.problem:
            report = replace(report, problems=(*report.problems, self._tree.config.problem))
        if self._fault:
            report = replace(report, problems=(*report.problems, self._fault))
        return status_text(self._backend.name, report, held).encode()

    def changed(self) -> None:
        """Something that ``status``, quarantine/ or WARNING tells of is another: show it, so that
        watchers see it."""
        self.changed_ns = time.time_ns()
        self._tree.show_quarantine()
        self._watchers.touch(STATUS)
        self._warn()

    def failed(self) -> None:
        """A fault of this program was met, and is logged: ``status`` says so until unmount."""
        if not self._fault:
            self._fault = _FAULT
            with harmless():
                self.changed()

    def _warn(self) -> None:
        """Show WARNING in the root when there is a text for it, and only then."""
        root, alarm = self._tree.root, self._warning()
        there = root.entries.get(WARNING)
        if isinstance(there, Text) and alarm and alarm != self._warned_of:
            self._warned_of = alarm
            there.mtime_ns = time.time_ns()
            self._watchers.touch(there.inode)
        if alarm and there is None and not self._warned:
            self._warned, self._warned_of = True, alarm
            node = Text(self._tree.new_inode(), self._warning, time.time_ns())
            self._watchers.show(WARNING, node, lambda: root.add(WARNING, node))
        elif not alarm and there is not None and self._warned:
            self._warned = False
            self._watchers.remove(WARNING, self._calm)

    def _calm(self) -> None:
        if WARNING in self._tree.root.entries:
            self._tree.root.remove(WARNING)

    def _warning(self) -> bytes:
        backend = self._backend
        return own_warning_text(backend.alarm, backend.lapse, backend.stopped).encode()
