"""``NAME.error``: what is wrong with what cannot be sent, and what to do, beside it."""

import time

from cbfs.model import ContactRefused, Refused
from cbfs.nodes import Directory, File, Parcel, Text, drafts_in, state_of
from cbfs.outbox import ERROR_SUFFIX
from cbfs.texts import error_text
from cbfs.tree import Tree


class ErrorFiles:
    """Those of one mount."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._there: set[tuple[Directory, str]] = set()
        self._people: dict[Directory, tuple[str, ...]] = {}
        self._of_contacts: set[tuple[Directory, str, File | Parcel]] = set()

    def fail(self, folder: Directory, name: str, draft: File | Parcel, problem: Refused) -> None:
        """A file or folder cannot be sent as it is now."""
        draft.error = error_text(problem, problem.hint)
        draft.given_up = draft.version
        if isinstance(problem, ContactRefused):
            self._of_contacts.add((folder, name, draft))
        self.show(folder, name, draft.error)

    def contact_changed(self) -> None:
        """What was refused for the state of a contact is not given up any more."""
        waiting, self._of_contacts = self._of_contacts, set()
        for folder, name, draft in waiting:
            there = folder.entries.get(name)
            state = there.parcel if isinstance(there, Directory) else there
            if state is draft and draft.given_up == draft.version:
                draft.given_up, draft.error = -1, ""
                self.show(folder, name, "")

    def addressed(self, folder: Directory, people: tuple[str, ...]) -> None:
        """For whom a folder is, that is no conversation yet. When it is for others than before,
        what could not be sent is tried again."""
        before = self._people.get(folder)
        self._people[folder] = people
        if before not in {None, people}:
            self.again(folder)

    def again(self, folder: Directory) -> None:
        """Try again what could not be sent of a folder."""
        for name, node in drafts_in(folder):
            draft = state_of(node)
            if draft.error:
                draft.given_up, draft.error = -1, ""
                self.show(folder, name, "")

    def show(self, folder: Directory, name: str, text: str) -> None:
        """Show, change or take away ``NAME.error``."""
        error_name = name + ERROR_SUFFIX
        there = folder.entries.get(error_name)
        if not text:
            if isinstance(there, Text):
                folder.remove(error_name)
            return
        data = text.encode()
        if there is None:
            node = Text(self._tree.new_inode(), lambda: data, time.time_ns())
            folder.add(error_name, node)
            self._there.add((folder, error_name))
        elif isinstance(there, Text) and there.render() != data:
            there.render = lambda: data
            there.mtime_ns = time.time_ns()

    def drop_stale(self) -> None:
        """Take away the error files of what is not there any more."""
        self._people = {f: people for f, people in self._people.items() if f.names}
        for folder, error_name in list(self._there):
            there = folder.entries.get(error_name)
            if not isinstance(there, Text):
                self._there.discard((folder, error_name))
            elif error_name.removesuffix(ERROR_SUFFIX) not in folder.entries:
                folder.remove(error_name)
                self._there.discard((folder, error_name))
