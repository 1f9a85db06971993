"""``NAME.error``: what is wrong with what cannot be sent, and what to do, beside it."""

import time

from cbfs.model import ContactRefused, Refused
from cbfs.nodes import Directory, File, Text
from cbfs.outbox import ERROR_SUFFIX
from cbfs.texts import error_text
from cbfs.tree import Tree


class ErrorFiles:
    """Those of one mount."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._there: set[tuple[Directory, str]] = set()
        self._of_contacts: set[tuple[Directory, str, File]] = set()

    def fail(self, folder: Directory, name: str, file: File, problem: Refused) -> None:
        """A file cannot be sent as it is now."""
        file.error = error_text(problem, problem.hint)
        file.given_up = file.version
        if isinstance(problem, ContactRefused):
            self._of_contacts.add((folder, name, file))
        self.show(folder, name, file.error)

    def contact_changed(self) -> None:
        """What was refused for the state of a contact is not given up any more."""
        waiting, self._of_contacts = self._of_contacts, set()
        for folder, name, file in waiting:
            if folder.entries.get(name) is file and file.given_up == file.version:
                file.given_up, file.error = -1, ""
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
        for folder, error_name in list(self._there):
            there = folder.entries.get(error_name)
            if not isinstance(there, Text):
                self._there.discard((folder, error_name))
            elif error_name.removesuffix(ERROR_SUFFIX) not in folder.entries:
                folder.remove(error_name)
                self._there.discard((folder, error_name))
