"""The folder unread/: links to the messages that nobody has read.

It is kept as messages come and are read, so that watchers see it change. In memory is which
messages are new and, from when somebody first looks, what is listed of them; all else is in the
store. What was read is kept, and leaves the folder, a little later and many at once.
"""

import time
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import trio

from cbfs.interface import Backend
from cbfs.messages import search_index
from cbfs.messages.file_names import free_name
from cbfs.messages.listings import Entry, entry_of, every
from cbfs.messages.model import Message
from cbfs.storage.faults import contained, harmless
from cbfs.tree.nodes import UNREAD, Folder, Inodes, MessageFile, Node, SymbolicLink
from cbfs.tree.rules import Area
from cbfs.tree.virtual.virtual_directory import VirtualDirectory, inode_for
from cbfs.tree.watchers import Watchers
from cbfs_common.errors import CbfsError

LAG, LAG_MAX = 0.2, 5.0
"""Seconds without a message being read until those that were leave unread/, and the most."""

_LOOKERS = frozenset(
    (
        *("thunar", "pcmanfm", "pcmanfm-qt", "nautilus", "nemo", "caja", "dolphin", "ranger"),
        *("tumblerd", "gvfsd", "gvfsd-metadata", "gio", "file", "xdg-mime", "kioworker"),
        *("gdk-pixbuf-thum", "ffmpegthumbnail", "evince-thumbnai", "totem-video-thu"),
        *("tracker-miner-f", "tracker-extract", "localsearch-3", "localsearch-ext"),
        *("baloo_file", "baloo_file_extr", "updatedb", "updatedb.plocat", "recollindex"),
        *("cp", "rsync", "tar", "restic", "borg", "rclone", "duplicity", "deja-dup"),
        *("grep", "egrep", "fgrep", "zgrep", "rg", "ag", "ack", "diff", "cmp", "wc", "find"),
    )
)
"""Names of programs (15 characters, as the kernel keeps them) that read files for their indexes,
thumbnails, guesses at types, searches and copies: for them nobody has read a message."""


def counts_as_reading(program: str | None) -> bool:
    """Whether somebody has read what a program of this name reads."""
    return program is None or program.casefold() not in _LOOKERS


class Unread:
    """``Provider`` of unread/, which it enters into ``root``. ``folder_name`` says what the folder
    of a conversation is called: empty for one that is not shown."""

    def __init__(
        self,
        root: Folder,
        backend: Backend,
        inodes: Inodes,
        folder_name: Callable[[bytes], str],
        watchers: Watchers,
    ) -> None:
        self._people = backend.people
        self._store = backend.store
        self._inodes = inodes
        self._folder_name = folder_name
        self._watchers = watchers
        self._new = self._load()  # the conversation of each message, by its serial
        self._hidden: set[int] = set()  # new, and watchers have not been told yet
        self._serials: dict[str, int] = {}
        self._links: dict[int, tuple[str, Entry]] = {}  # the name here, by serial
        self._order: list[int] = []  # their serials
        self._named = False
        self._leaving: dict[str, SymbolicLink] = {}  # read, and watchers have not been told yet
        self._left: list[str] = []  # those of them that nobody is about to tell watchers of
        self._read: list[int] = []  # not kept yet
        self._news = trio.Event()
        self._since = time.time_ns()
        self._folder = VirtualDirectory(UNREAD, Area.FIXED, self)
        root.add("unread", self._folder)

    # what comes and goes

    def added(self, message: Message) -> None:
        """A message is in its folder now: when it is from somebody else, and they are not muted, it
        is new."""
        if message.recipients or message.serial in self._new:
            return  # our own, or it came between the start of the engine and that of the mount
        sender = self._people.contact(message.sender)
        if sender is not None and sender.muted:
            return
        if not self._may_be_watched():
            self._new[message.serial] = message.conversation
            if self._named:
                self._name(entry_of(message))
            self._touch()
            return
        self._need_names()
        self._new[message.serial] = message.conversation
        self._hidden.add(message.serial)
        name = self._name(entry_of(message))
        link = self._link(message.serial)

        def enter() -> None:
            self._hidden.discard(message.serial)
            self._touch()

        self._watchers.show(f"unread/{name}", link, enter)

    def removed(self, serial: int) -> None:
        """The message of that serial was deleted: its link goes."""
        if serial in self._new:
            self._leave(serial)

    def left(self, conversation: bytes) -> None:
        """Its folders are shown no more: what is unread there leaves, and is read by nobody."""
        for serial in [serial for serial, key in self._new.items() if key == conversation]:
            self._leave(serial)

    def is_new(self, node: Node) -> bool:
        """Whether it is a message in here."""
        return isinstance(node, MessageFile) and node.serial in self._new

    def read_up_to(self, node: Node, end: int) -> None:
        """Somebody has read so many bytes of it: when that is all, it is not new any more."""
        if isinstance(node, MessageFile) and end >= node.size and node.serial in self._new:
            self._leave(node.serial)
            self._was_read(node.serial)

    async def run(self, failed: Callable[[], None]) -> None:
        """Keep what has been read, and take its links out, until cancelled. Not at once: who
        reads many messages should not wait for that, and one commit does for all. ``failed`` is
        told of what does not go well; that is done with what is read next."""
        while True:
            await self._news.wait()
            with trio.move_on_after(LAG_MAX):
                while self._news.is_set():
                    self._news = trio.Event()
                    await trio.sleep(LAG)
            with harmless(failed):
                await self.flush()

    async def flush(self) -> None:
        """Keep what has been read. A crash before shows it as unread once more."""
        left, self._left = [name for name in self._left if name in self._leaving], []
        for name in left:
            self._watchers.remove(f"unread/{name}", lambda name=name: self._hide(name))  # type: ignore[misc]
        serials, self._read = self._read, []
        if not serials:
            return
        try:
            with contained():
                await self._store.commit(lambda writer: search_index.set_read(writer, serials))
        except CbfsError:
            self._read += serials  # with what is read next
            raise

    # Provider

    def find(self, name: str) -> Node | None:
        """The link of that name, to a message that is new or was read just now; None when there is
        none."""
        self._need_names()
        return self._leaving.get(name) or self._find(name)

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """Links from place ``start`` on, in order of arrival. The place behind a message is its
        serial + 1."""
        self._need_names()
        for serial in islice(self._order, bisect_left(self._order, start), None):
            if serial not in self._hidden:
                yield serial + 1, self._links[serial][0], self._link(serial)

    async def remove(self, name: str, node: Node) -> None:
        """Remove a link: its message counts as read."""
        serial = self._serials.get(name)
        if serial is not None:
            self._forget(serial)
            self._was_read(serial)
        self._hide(name)

    def modified(self) -> int:
        """When the mount began, in nanoseconds since 1970."""
        return self._since

    def stamp(self) -> int:
        """Always 0: ``VirtualDirectory.touch`` tells of all that goes."""
        return 0

    def folders(self) -> int:
        """Always 0: there are only links."""
        return 0

    # within

    def _load(self) -> dict[int, bytes]:
        known: dict[bytes, bytes] = {}  # one object for each conversation
        with self._store.read() as reader:
            return {
                one.serial: known.setdefault(one.conversation, one.conversation)
                for one in search_index.unread(reader)
            }

    def _may_be_watched(self) -> bool:
        """Nobody watches a folder that the kernel does not know: then nothing need be shown."""
        return UNREAD in self._inodes

    def _was_read(self, serial: int) -> None:
        self._read.append(serial)
        self._news.set()

    def _leave(self, serial: int) -> None:
        """Its link stays until watchers have been told, if there can be any."""
        if not self._may_be_watched() and serial not in self._hidden:
            self._forget(serial)
            return
        self._need_names()
        if serial in self._links:
            name = self._links[serial][0]
            self._leaving[name] = self._link(serial)
            self._left.append(name)
            self._news.set()
        self._forget(serial)

    def _forget(self, serial: int) -> None:
        self._new.pop(serial, None)
        self._hidden.discard(serial)
        linked = self._links.pop(serial, None)
        if linked is not None:
            del self._serials[linked[0]]
            del self._order[bisect_left(self._order, serial)]
        self._touch()

    def _hide(self, name: str) -> None:
        self._leaving.pop(name, None)
        self._touch()

    def _touch(self) -> None:
        self._folder.touch()

    def _need_names(self) -> None:
        if self._named:
            return
        self._named = True
        firsts: dict[bytes, int] = {}
        for serial, conversation in self._new.items():  # in order of serials
            firsts.setdefault(conversation, serial)
        entries: list[Entry] = []
        with self._store.read() as reader:
            for conversation, first in firsts.items():
                if self._folder_name(conversation):
                    entries += (e for e in every(reader, conversation, first) if e[0] in self._new)
        for entry in sorted(entries):
            self._name(entry)

    def _name(self, entry: Entry) -> str:
        serial, _date, wanted, *_ = entry
        name = free_name(wanted, lambda name: name in self._serials or name in self._leaving)
        self._serials[name] = serial
        self._links[serial] = name, entry
        insort(self._order, serial)
        return name

    def renamed(self, messages: Iterable[Message]) -> None:
        """These have other names: so have their links, which are no news to watchers."""
        for message in messages:
            linked = self._links.get(message.serial)
            if linked is not None:
                del self._serials[linked[0]]
                del self._order[bisect_left(self._order, message.serial)]
                self._name(entry_of(message))
        self._touch()

    def _find(self, name: str) -> SymbolicLink | None:
        serial = self._serials.get(name)
        return None if serial is None or serial in self._hidden else self._link(serial)

    def _link(self, serial: int) -> SymbolicLink:
        name, (_serial, date, message, *_) = self._links[serial]
        folder = self._folder_name(self._new[serial])
        target = f"../conversations/{folder}/{message}"
        return SymbolicLink(_inode(name), target, date * 1_000_000, recorded=False)


def _inode(name: str) -> int:
    return inode_for(b"unread", name.encode())
