"""``contacts/`` and ``requests/`` of a mount: a folder for each person, and what
the user decides there.

In the folder of a contact are:

profile.toml   keys and home server, since when, how they are known
fingerprint    what to compare with this person
verified       says that it was compared: made by ``cp fingerprint verified``, undone by ``rm``
CHANGED        what happened, when the name has a new owner; ``cp CHANGED accepted`` accepts it
warning        there when the name looks like another's, or the directory was found out
blocked        ``touch blocked``: what they send is dropped, and nothing is sent; undone by ``rm``
muted          ``touch muted``: what they send is not shown as unread; undone by ``rm``

A decision on keys is a copy of what was read, so that nothing is decided that changed in between:
other content is refused with EINVAL when it is closed.

What a program writes into contacts/NEW is a line that somebody has given the user. What is none is
refused with EINVAL when it is closed, and nothing has changed. Else it is in the store, and there
is a folder of that person as soon as servers have answered; or ``NEW.error`` says why not.

A stranger who has written has a folder in requests/ until the user decides, with profile.toml and
fingerprint, and:

message        what they wrote first, in a form that is safe to show, and what can be done
warning        there when the name looks like a contact's

``mv requests/NAME contacts/`` accepts; ``rmdir requests/NAME`` declines, and so does ``rm -r``;
``touch requests/NAME/blocked`` blocks. Until then nothing of them is anywhere else.
"""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cbfs.contacts.contact import Contact, Mark, Standing
from cbfs.interface import Backend
from cbfs.problems import NotAName, Refused, Taken
from cbfs.tree.nodes import File, Folder, Node, Text
from cbfs.tree.rules import (
    NEW_CONTACT,
    NEW_CONTACT_ERROR,
    PERSON,
    VERIFIED,
    Area,
    TreeError,
)
from cbfs.tree.texts import (
    changed_text,
    contact_text,
    error_text,
    mark_text,
    request_text,
    warning_text,
)
from cbfs.tree.virtual.virtual_directory import inode_for
from cbfs.tree.watchers import Watchers
from cbfs_common.errors import CbfsError
from cbfs_common.limits import INVITE_LINE_MAX

ANSWER_MAX = 4_096
"""Bytes of a decision."""

LINE_TEXT_MAX = 4 * INVITE_LINE_MAX
"""Bytes of what is read: a line, and what may be around it."""

_MARKS = {mark.value: mark for mark in Mark}


class ContactFolders:
    """contacts/ of one tree, whose ``read`` gives the bytes of a file."""

    _place = "contacts"
    _area = Area.CONTACT

    def __init__(
        self,
        root: Folder,
        backend: Backend,
        read: Callable[[Node, int, int], bytes],
    ) -> None:
        self.root = root
        self._backend = backend
        self._read = read
        self._folders: dict[str, Folder] = {}
        self._names: dict[int, str] = {}
        self._moving: set[str] = set()
        self._called: dict[str, str] = {}
        for contact in backend.people.contacts():
            self.show(contact.name, Watchers())

    def show(self, name: str, watchers: Watchers) -> None:
        """Make the folder of a person, bring it up to date or take it out, so that ``watchers`` see
        it."""
        if name in self._moving:
            return
        contact = self._backend.people.contact(name)
        folder = self._folders.get(name)
        if contact is None or not self._belongs(contact):
            if folder is not None:
                self._take_out(name, watchers)
            return
        texts = self._texts(contact)
        self._follow(name, watchers)
        if folder is None:
            folder = Folder(self._inode(name), self._area, contact.since * 1_000_000)
            self._hold(name, folder)
            for each, data in texts.items():
                folder.add(each, self._text(name, each, data))
            made = folder
            watchers.make(self._path(name), lambda: self._enter(name, made))
            return
        for each, node in list(folder.entries.items()):
            if isinstance(node, Text) and each not in texts:
                self._hide(folder, each, node, watchers)
        for each, data in texts.items():
            self._put(folder, each, data, watchers)

    @contextmanager
    def moving(self, name: str) -> Iterator[None]:
        """While this holds, the folder of this person is just being moved or removed: it is left
        to who does that."""
        self._moving.add(name)
        try:
            yield
        finally:
            self._moving.discard(name)

    def is_of(self, node: Node, name: str) -> bool:
        """Whether this is the folder of that person."""
        return self._names.get(node.inode) == name

    def is_answer(self, node: Node) -> bool:
        """Whether this is a decision in the making."""
        return isinstance(node, File) and any(
            folder.area in PERSON and folder.inode in self._names for folder, _ in node.names
        )

    async def decide(self, file: File) -> None:
        """It is about to be closed: what it says is done and on the disk on return. An empty one
        says nothing yet, but for a mark, whose name says it all. Raises TreeError(EINVAL) for what
        does not fit."""
        for folder, name in list(file.names):
            who = self._names.get(folder.inode)
            if who is None or not (file.size or name in _MARKS):
                continue
            text = self._read(file, 0, ANSWER_MAX).decode(errors="replace")
            if name in _MARKS:
                await self._backend.people.mark(who, _MARKS[name], on=True)
                done = True
            elif name == VERIFIED:
                done = await self._backend.people.verify(who, text)
            else:
                changed = folder.entries.get("CHANGED")
                done = isinstance(changed, Text) and changed.render().decode() == text
                if done:
                    await self._backend.people.accept(who)
            if not done:
                raise TreeError(errno.EINVAL)
            self.drop(file)
            self.show(who, Watchers())

    def drop(self, file: File) -> None:
        """A decision is made, or was none: its file goes."""
        for folder, name in list(file.names):
            if folder.entries.get(name) is file:
                folder.remove(name)

    async def take_back(self, folder: Folder, name: str) -> None:
        """``rm`` of verified, blocked or muted. Raises TreeError(EACCES) for what cannot be
        removed."""
        if name != VERIFIED and name not in _MARKS:
            self._take_text(folder, name)
            return
        node, who = folder.remove(name), self._names[folder.inode]
        try:
            if name == VERIFIED:
                await self._backend.people.unverify(who)
            else:
                await self._backend.people.mark(who, _MARKS[name], on=False)
        except BaseException:
            folder.add(name, node)
            raise

    async def rename(self, shown: str, target: Folder, new: str) -> None:
        """``mv contacts/SHOWN contacts/NEW``: the user calls this person so. Raises
        TreeError(EPERM) for what cannot be a name, EINVAL when it has characters that are not
        seen, EEXIST for what means somebody else."""
        folder = self.root.entries[shown]
        name = self._names.get(folder.inode)
        if target.area in PERSON:
            raise TreeError(errno.EEXIST)  # mv takes contacts/ALICE for a folder to move into
        if target is not self.root or name is None:
            raise TreeError(errno.EACCES)
        with self.moving(name):
            await self.call(name, new)
        del self._called[name]
        self.root.remove(shown)
        self.adopt(name, self._let_go(name))

    async def call(self, name: str, new: str) -> None:
        """Let this person be called so. Raises TreeError."""
        try:
            await self._backend.people.rename(name, new)
        except NotAName as error:
            # of EINVAL mv says that a folder is moved into itself: only where nobody sees why
            raise TreeError(errno.EPERM if new.isprintable() else errno.EINVAL) from error
        except Taken as error:
            raise TreeError(errno.EEXIST) from error

    def adopt(self, name: str, folder: Folder) -> None:
        """A folder that was moved here is that of this contact from now on."""
        folder.area = self._area
        if name in self._folders:
            self._let_go(name)
        self._hold(name, folder)
        self._enter(name, folder)
        self.show(name, Watchers())

    def _belongs(self, contact: Contact) -> bool:
        """Whether this person has a folder here."""
        return contact.standing is not Standing.STRANGER

    def _path(self, name: str) -> str:
        return f"{self._place}/{self._called[name]}"

    def _follow(self, name: str, watchers: Watchers) -> None:
        """Give the folder the name that this person has now."""
        old, new = self._called.get(name), self._backend.people.label(name)
        if old is None or old == new or name not in self._folders:
            return
        self._called[name] = new

        def change() -> None:
            if old in self.root.entries:
                self.root.add(new, self.root.remove(old))

        watchers.move(f"{self._place}/{old}", new, change)

    def _enter(self, name: str, folder: Folder) -> None:
        self.root.add(self._called[name], folder)

    def _hold(self, name: str, folder: Folder) -> None:
        self._folders[name], self._names[folder.inode] = folder, name
        self._called[name] = self._backend.people.label(name)

    def _let_go(self, name: str) -> Folder:
        folder = self._folders.pop(name)
        del self._names[folder.inode]
        return folder

    def _take_out(self, name: str, watchers: Watchers) -> None:
        folder, path = self._let_go(name), self._path(name)

        def leave() -> None:
            if self.root.entries.get(self._called[name]) is folder:
                self.root.remove(self._called[name])

        watchers.remove_folder(path, leave)

    def _take_text(self, _folder: Folder, _name: str) -> None:
        raise TreeError(errno.EACCES)

    def _texts(self, contact: Contact) -> dict[str, bytes]:
        compared = self._backend.people.compare(contact.name)
        shown = self._backend.people.shown(contact.name)
        fingerprint = compared.text(self._backend.name, shown)
        texts = {"profile.toml": contact_text(contact, shown), "fingerprint": fingerprint}
        if contact.verified:
            texts[VERIFIED] = fingerprint
        for mark in Mark:
            if contact.marked(mark):
                texts[mark.value] = mark_text(contact, mark)
        if contact.offered is not None:
            texts["CHANGED"] = changed_text(contact, shown, compared)
        if warning := warning_text(contact):
            texts["warning"] = warning
        return {name: text.encode() for name, text in texts.items()}

    def _text(self, who: str, name: str, data: bytes) -> Text:
        return Text(self._inode(who, name), lambda: data, time.time_ns())

    def _inode(self, *words: str) -> int:
        """An inode number that is the same in each mount: programs that make copies go by it."""
        return inode_for(*(word.encode() for word in (self._place, *words)))

    def _put(self, folder: Folder, name: str, data: bytes, watchers: Watchers) -> None:
        there = folder.entries.get(name)
        if isinstance(there, Text):
            if there.render() != data:
                there.render = lambda: data
                there.mtime_ns = time.time_ns()
                watchers.touch(there.inode)
            return
        if there is not None:
            return  # a decision in the making
        node = self._text(self._names[folder.inode], name, data)

        def enter() -> None:
            if name not in folder.entries:
                folder.add(name, node)

        watchers.show(f"{self._path(self._names[folder.inode])}/{name}", node, enter)

    def _hide(self, folder: Folder, name: str, node: Text, watchers: Watchers) -> None:
        def leave() -> None:
            if folder.entries.get(name) is node:
                folder.remove(name)

        watchers.remove(f"{self._path(self._names[folder.inode])}/{name}", leave)


class RequestFolders(ContactFolders):
    """requests/ of one tree, beside its ``contacts``."""

    _place = "requests"
    _area = Area.REQUEST

    def __init__(
        self,
        root: Folder,
        contacts: ContactFolders,
        backend: Backend,
        read: Callable[[Node, int, int], bytes],
    ) -> None:
        self._contacts = contacts
        super().__init__(root, backend, read)

    async def accept(self, shown: str, target: Folder, new: str, *, replace: bool) -> None:
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
        """``rmdir requests/NAME``: what they have sent is forgotten. On the disk on return."""
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

    def _take_text(self, folder: Folder, name: str) -> None:
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


class NewContact:
    """contacts/NEW of one tree, whose are ``read`` and ``new_inode``."""

    def __init__(
        self,
        contacts: Folder,
        backend: Backend,
        read: Callable[[Node, int, int], bytes],
        new_inode: Callable[[], int],
    ) -> None:
        self._contacts = contacts
        self._backend = backend
        self._read = read
        self._new_inode = new_inode

    def is_answer(self, node: Node) -> bool:
        """Whether this is the file."""
        return isinstance(node, File) and self._contacts.entries.get(NEW_CONTACT) is node

    async def decide(self, file: File) -> None:
        """It is about to be closed: who has made the line will be a contact, and that is on the
        disk on return. An empty one says nothing yet. Raises TreeError(EINVAL) for what is no
        line."""
        if not file.size:
            return
        text = self._read(file, 0, LINE_TEXT_MAX).decode(errors="replace")
        self.drop(file)  # at once: what is written from now on has a file of its own
        try:
            await self._backend.people.add(text)
        except Refused as error:
            self._tell(error)
            raise TreeError(errno.EINVAL) from error
        self._forget_error()

    def drop(self, file: File) -> None:
        """It was decided on, or says nothing: the file goes."""
        if self._contacts.entries.get(NEW_CONTACT) is file:
            self._contacts.remove(NEW_CONTACT)

    def refused(self, error: CbfsError, watchers: Watchers) -> None:
        """A line that was taken turns out to add nobody: show why, so that ``watchers`` see it."""
        node, there = self._text(error), self._contacts.entries.get(NEW_CONTACT_ERROR)
        if isinstance(there, Text):
            there.render, there.mtime_ns = node.render, node.mtime_ns
            watchers.touch(there.inode)
            return

        def enter() -> None:
            self._forget_error()
            self._contacts.add(NEW_CONTACT_ERROR, node)

        watchers.show(f"contacts/{NEW_CONTACT_ERROR}", node, enter)

    def _tell(self, error: Refused) -> None:
        self._forget_error()
        self._contacts.add(NEW_CONTACT_ERROR, self._text(error))

    def _text(self, error: CbfsError) -> Text:
        data = error_text(error, error.hint, "Nobody was added").encode()
        return Text(self._new_inode(), lambda: data, time.time_ns())

    def _forget_error(self) -> None:
        if NEW_CONTACT_ERROR in self._contacts.entries:
            self._contacts.remove(NEW_CONTACT_ERROR)
