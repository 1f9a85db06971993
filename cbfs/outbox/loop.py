"""The loop over the outbox: what is finished in it is sent, what is not is told of, in ``status``
and in error files."""

import time
from collections.abc import Callable
from functools import partial

import trio

from cbfs.outbox.outbox import Outbox
from cbfs.outbox.rule import Hold
from cbfs.outbox.submission import DraftSubmission
from cbfs.problems import Refused
from cbfs.storage.faults import contained, harmless
from cbfs.tree.nodes import File, Folder, SymbolicLink
from cbfs.tree.rules import METADATA, QUIET, is_lock
from cbfs.tree.texts import error_text, in_one_line
from cbfs.tree.unsent import drafts_in, state_of
from cbfs_common.errors import CbfsError

ASK_AGAIN = 60.0
"""Seconds for which nobody has a name that nobody had. After that it is asked for again when
something new is saved for it, and only then: what was saved before goes with it."""

REST = 4
"""How many times as long as a look at the outbox took there is none after it: with thousands of
drafts, of each of which programs and neighbours say whether it is finished, saving one more must
not wait for all."""

FAULT_PAUSE = 60.0
"""Seconds until what a fault of this program was met at is looked at again."""

_ALWAYS = frozenset((METADATA,))

_LINK = Hold("it is a link", None, "put what it leads to in its place, or rm it")


class OutboxLoop:
    """The one task that looks at what is in ``outbox``: what is finished goes to ``submission``.

    ``held`` is what is not sent, by its path in outbox/, and why."""

    def __init__(self, outbox: Outbox, submission: DraftSubmission) -> None:
        self._outbox = outbox
        self._tree = outbox.tree
        self._submission = submission
        self._failed = outbox.events.failed
        self._unknown: dict[str, float] = {}
        self.held: dict[str, str] = {}

    def unknown_names(self, names: frozenset[str]) -> None:
        """Nobody has these names, as the directory says with proof."""
        self._unknown |= dict.fromkeys(names, time.monotonic())
        self._outbox.changed()

    def retry(self) -> None:
        """Try again at once what waits for the name directory, or for a later try."""
        self._submission.retry()
        self._outbox.changed()

    async def run(self) -> None:
        """Look at the drafts whenever something has changed, until cancelled. One of which a fault
        comes stays, and is looked at again; so is what else is looked at."""
        while True:
            change = self._outbox.next_change()
            began, again = time.perf_counter(), FAULT_PAUSE
            with harmless(self._failed):
                again = self._look()
            await trio.sleep(REST * (time.perf_counter() - began))
            with trio.move_on_after(again):
                await change.wait()

    def _look(self) -> float:
        """Send what is finished. Gives the seconds until something may be."""
        held: dict[str, str] = {}
        looks: list[Callable[[], float | None]] = [
            self._tree.config.look,
            self._tree.metadata.look,
            self._outbox.errors.drop_stale,
        ]
        for name, folder in list(self._tree.outbox.entries.items()):
            if isinstance(folder, Folder) and not _is_idle(folder):
                looks.append(partial(self._look_into, name, folder, held))
        again = 3600.0
        for look in looks:
            pause: float | None = FAULT_PAUSE
            with harmless(self._failed):
                pause = look()
            again = min(again, pause or 3600.0)
        if held != self.held:
            self.held = held
            self._outbox.events.status_changed()
        return again

    def _look_into(self, folder_name: str, folder: Folder, held: dict[str, str]) -> float:
        """Send what is finished in one folder, and tell in ``held`` of what is not. Gives the
        seconds until more may be."""
        again = 3600.0
        problem = self._check_folder(folder_name, folder)
        ready: list[tuple[str, File | Folder]] = []
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
                    elif (
                        hold is not None
                        and name not in _ALWAYS
                        and self._outbox.is_news(draft, hold)
                    ):
                        held[path] = hold.in_full
            except CbfsError as error:
                held[path] = error.in_full
                again = min(again, FAULT_PAUSE)
                self._failed()
        with harmless(self._failed):
            again = min(again, self._hold_links(folder_name, folder, held))
        self._submission.start(folder, ready)
        return again

    def _look_at(
        self, folder: Folder, name: str, node: File | Folder, problem: Refused | None
    ) -> Hold | None:
        """Why a draft is not sent now; None when it is, unless its folder has a problem."""
        hold = self._outbox.verdict(folder, name, node)
        if hold is None and problem is not None:
            self._outbox.errors.fail(folder, name, node, problem)
        elif hold is None:
            hold = self._submission.put_off(state_of(node))
        return hold

    def _hold(self, folder: Folder, name: str, node: File | Folder, hold: Hold) -> float:
        """Tell of what stays in an error file, when it is time to. Gives the seconds until the
        verdict may be another."""
        draft = state_of(node)
        if hold.hint and hold.tell <= 0:
            if draft.given_up != draft.version:
                self._outbox.errors.fail(folder, name, node, Refused(hold.why, hold.hint))
        elif draft.error and draft.given_up != draft.version:
            self._outbox.errors.clear(folder, name, node)  # it has changed since
        left = QUIET + draft.changed - time.monotonic()
        times = (hold.again or 0, hold.tell if hold.hint else 0, left)
        return min((seconds for seconds in times if seconds > 0), default=3600.0)

    def _hold_links(self, folder_name: str, folder: Folder, held: dict[str, str]) -> float:
        """Tell of links, which are no messages. Gives the seconds until there is more to tell."""
        again = 3600.0
        for name, node in list(folder.entries.items()):
            if not isinstance(node, SymbolicLink) or is_lock(name):
                continue
            left = QUIET - (time.time_ns() - node.changed_ns) / 1e9
            if left > 0:
                again = min(again, left)
                continue
            held[f"{folder_name}/{name}"] = _LINK.in_full
            self._outbox.errors.show_once(
                folder, name, node, error_text(Refused(_LINK.why), _LINK.hint)
            )
        return again

    def _check_folder(self, name: str, folder: Folder) -> Refused | None:
        """What is wrong with the folder itself, told in an error file beside it."""
        if folder.conversation is not None:
            return None
        problem: Refused | None = None
        people: tuple[str, ...] = ()
        try:
            people, _subject = self._outbox.recipients(name, folder)
            unknown = self._unknown_of(people, folder)
            if unknown:
                listed = ", ".join(map(self._tree.backend.people.label, unknown))
                problem = Refused(
                    f"nobody is called {listed}", "rename the folder or mend its metadata.toml"
                )
            elif people:
                self._tree.backend.prepare(people)
        except Refused as error:
            inside = folder.entries.values()
            if any(isinstance(file, File) and file.writers for file in inside):
                return None  # it is just being written
            problem = error
        self._outbox.errors.addressed(folder, people)
        self._outbox.errors.show(
            self._tree.outbox, name, folder, error_text(problem, problem.hint) if problem else ""
        )
        return problem

    def _unknown_of(self, people: tuple[str, ...], folder: Folder) -> list[str]:
        """Who of them is nobody, as far as is known."""
        before = time.monotonic() - ASK_AGAIN
        old = {name for name in people if self._unknown.get(name, before) < before}
        if old and any(not self._outbox.verdict(folder, *each) for each in drafts_in(folder)):
            for name in old:
                del self._unknown[name]
            self._outbox.errors.again(folder)
        return sorted(self._unknown.keys() & set(people))


def _is_idle(folder: Folder) -> bool:
    """A conversation to which nobody is writing, as nearly all are, however many there are."""
    return folder.conversation is not None and folder.entries.keys() <= _ALWAYS
