"""``NAME.error``: what is wrong with what cannot be sent, and what to do, beside it.

A name that leaves no room for the ending is cut, and one that is taken gets a number: every error
file can be removed, and none is in the place of a file of the user's.
"""

import time
from collections.abc import Callable

from cbfs.messages.file_names import error_file_name
from cbfs.problems import ContactRefused, Refused
from cbfs.tree.nodes import File, Folder, FolderDraft, SymbolicLink, Text
from cbfs.tree.texts import error_text
from cbfs.tree.tree import Tree
from cbfs.tree.unsent import drafts_in, state_of

LINGER = 1.0
"""Seconds after the last removal in a folder until error files go there by themselves: who removes
all that is in it has listed them, and would be told of an error."""

Subject = File | Folder | SymbolicLink
"""What an error file may be about."""


class _ErrorText(Text):
    """One error file, of what is called ``about`` beside it."""

    __slots__ = ("about",)

    def __init__(self, inode: int, about: str, render: Callable[[], bytes]) -> None:
        super().__init__(inode, render, time.time_ns())
        self.about = about


class ErrorFiles:
    """The error files of one mount."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._there: dict[Subject, _ErrorText] = {}
        self._people: dict[Folder, tuple[str, ...]] = {}
        self._of_links: set[tuple[Folder, str, SymbolicLink]] = set()
        self._of_contacts: set[tuple[Folder, str, File | FolderDraft]] = set()

    def fail(self, folder: Folder, name: str, node: File | Folder, problem: Refused) -> None:
        """A file or folder cannot be sent as it is now."""
        draft = state_of(node)
        draft.error = error_text(problem, problem.hint)
        draft.given_up = draft.version
        if isinstance(problem, ContactRefused):
            self._of_contacts.add((folder, name, draft))
        self.show(folder, name, node, draft.error)

    def contact_changed(self) -> None:
        """What was refused for the state of a contact is not given up any more."""
        waiting, self._of_contacts = self._of_contacts, set()
        for folder, name, draft in waiting:
            there = folder.entries.get(name)
            if not isinstance(there, File | Folder):
                continue
            state = there.folder_draft if isinstance(there, Folder) else there
            if state is draft and draft.given_up == draft.version:
                self.clear(folder, name, there)

    def addressed(self, folder: Folder, people: tuple[str, ...]) -> None:
        """For whom a folder is, that is no conversation yet. When it is for others than before,
        what could not be sent is tried again."""
        before = self._people.get(folder)
        self._people[folder] = people
        if before not in {None, people}:
            self.again(folder)

    def again(self, folder: Folder) -> None:
        """Try again what could not be sent of a folder."""
        for name, node in drafts_in(folder):
            if state_of(node).error:
                self.clear(folder, name, node)

    def clear(self, folder: Folder, name: str, node: File | Folder) -> None:
        """Nothing is wrong with it as far as is known."""
        draft = state_of(node)
        draft.given_up, draft.error = -1, ""
        self.show(folder, name, node, "")

    def show(self, folder: Folder, name: str, node: Subject, text: str) -> None:
        """Show, change or take away the error file of what has this name in ``folder``."""
        there = self._there.get(node)
        if there is not None and not (text and (folder, there.about) == (_place(there), name)):
            self._take_away(node, there)
            there = None
        if not text:
            return
        data = text.encode()
        if there is None:
            there = _ErrorText(self._tree.new_inode(), name, lambda: data)
            folder.add(error_file_name(name, folder.entries.__contains__), there)
            self._there[node] = there
        elif there.render() != data:
            there.render = lambda: data
            there.mtime_ns = time.time_ns()

    def show_once(self, folder: Folder, name: str, node: SymbolicLink, text: str) -> None:
        """Show the error file of a link, unless somebody has removed it."""
        if (folder, name, node) not in self._of_links:
            self._of_links.add((folder, name, node))
            self.show(folder, name, node, text)

    def drop_stale(self) -> float:
        """Take away the error files of what is not there any more. Gives the seconds until more of
        them may go."""
        again = 3600.0
        self._people = {f: people for f, people in self._people.items() if f.names}
        self._of_links = {
            each for each in self._of_links if each[0].entries.get(each[1]) is each[2]
        }
        for node, there in list(self._there.items()):
            folder = _place(there)
            if folder is not None and folder.entries.get(there.about) is node:
                continue
            lingers = _lingers(folder) if folder and there.about not in folder.entries else 0.0
            if lingers > 0:
                again = min(again, lingers)
            else:
                self._take_away(node, there)
        return again

    def _take_away(self, node: Subject, there: _ErrorText) -> None:
        del self._there[node]
        for folder, name in list(there.names):
            folder.remove(name)


def _lingers(folder: Folder) -> float:
    """For how many seconds error files of what was removed stay in a folder."""
    last = next(reversed(folder.left.values()), 0.0)
    return last + LINGER - time.monotonic()


def _place(there: _ErrorText) -> Folder | None:
    """The folder that it is in; None when somebody has removed it."""
    return next((folder for folder, _name in there.names), None)
