"""``requests/`` of a mount: a folder for each stranger who has written, until the user decides.

profile.toml   as in contacts/: who they are, and how that was checked
fingerprint    as in contacts/
message        what they wrote first, in a form that is safe to show, and what can be done
warning        there when the name looks like a contact's

``mv requests/NAME contacts/`` accepts; ``rmdir requests/NAME`` declines, and so does ``rm -r``;
``touch requests/NAME/blocked`` blocks. Until then nothing of them is anywhere else.
"""

import errno
from collections.abc import Callable

from cbfs.contacts.contact import Contact
from cbfs.interface import Backend
from cbfs.tree.nodes import Directory, Node
from cbfs.tree.rules import PERSON, Area, TreeError
from cbfs.tree.virtual.people_folders import People
from cbfs.tree.virtual.request_text import request_text


class Requests(People):
    """One for a tree, beside its ``contacts``."""

    _place = "requests"
    _area = Area.REQUEST

    def __init__(
        self,
        root: Directory,
        contacts: People,
        backend: Backend,
        read: Callable[[Node, int, int], bytes],
    ) -> None:
        self._contacts = contacts
        super().__init__(root, backend, read)

    async def accept(self, shown: str, target: Directory, new: str, *, replace: bool) -> None:
        """``mv requests/NAME contacts/``: the folder becomes that of a contact, who is called as
        the folder is. Raises TreeError when it is moved elsewhere, or means somebody else."""
        name = self._name(shown)
        if target.area in PERSON:
            raise TreeError(errno.EEXIST)
        if target is not self._contacts.root:
            raise TreeError(errno.EACCES)
        there = target.entries.get(new)  # of somebody met in a conversation there is one already
        if there is not None and not (replace and self._contacts.is_of(there, name)):
            raise TreeError(errno.EEXIST)
        with self.moving(name), self._contacts.moving(name):
            await self._contacts.call(name, new)
            folder = self._let_go(name)
            try:
                await self._backend.people.admit(name)
            except BaseException:
                self._hold(name, folder)
                raise
        self.root.remove(shown)
        if there is not None:
            target.remove(new)
        self._contacts.adopt(name, folder)

    def _name(self, shown: str) -> str:
        return self._names[self.root.entries[shown].inode]

    async def decline(self, shown: str) -> None:
        """``rmdir requests/NAME``."""
        name = self._name(shown)
        folder = self._let_go(name)
        try:
            with self.moving(name):
                await self._backend.people.decline(name)
        except BaseException:
            self._hold(name, folder)
            raise
        self.root.remove(shown)

    def _belongs(self, contact: Contact) -> bool:
        return not contact.blocked and self._backend.people.request(contact.name) is not None

    def _take_text(self, folder: Directory, name: str) -> None:
        """``rm -r`` and file managers remove what is in a folder before the folder: what the daemon
        wrote is taken out, and comes back when the folder stays."""
        folder.remove(name)

    def _texts(self, contact: Contact) -> dict[str, bytes]:
        request = self._backend.people.request(contact.name)
        texts = super()._texts(contact)
        if request is not None:
            texts["message"] = request_text(
                request, self._backend.name, self._backend.people.label
            ).encode()
        return texts
