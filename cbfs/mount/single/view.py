"""What a mount with ``-o only=CONVERSATION`` shows of an account. No FUSE in here.

A program that is given one conversation must not learn of others. It sees its two folders, which
are those of the tree itself, under numbers that say nothing: inode numbers of the tree count the
messages of all conversations.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b

from cbfs.messages.model import Conversation
from cbfs.tree.changes import Changes
from cbfs.tree.inodes import Inodes
from cbfs.tree.nodes import ROOT, File, Folder, Node, walk
from cbfs.tree.rules import Area, TreeError
from cbfs.tree.tree import Tree
from cbfs.tree.virtual.virtual_directory import VirtualDirectory
from cbfs_common.errors import CbfsError


class Fixed:
    """``Provider`` of entries that stay."""

    def __init__(self, entries: Mapping[str, Node], modified: Callable[[], int]) -> None:
        self._entries = entries
        self._modified = modified

    def find(self, name: str) -> Node | None:
        """The entry of that name; None when there is none."""
        return self._entries.get(name)

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """The entries after place ``start``: (place, name, node) of each."""
        for place, (name, node) in enumerate(self._entries.items(), 1):
            if place > start:
                yield place, name, node

    async def remove(self, name: str, node: Node) -> None:
        """Never called: there are folders only."""

    def modified(self) -> int:
        """When the folder last changed, in nanoseconds since 1970."""
        return self._modified()

    def stamp(self) -> int:
        """Always the same: the entries stay."""
        return 0

    def folders(self) -> int:
        """How many of the entries are folders: all."""
        return len(self._entries)


def conversation_called(tree: Tree, name: str) -> Conversation:
    """The one whose folder has this name, or whose id (hex) it is. Raises CbfsError."""
    for conversation in tree.backend.conversations():
        if name in {conversation.folder, conversation.id.hex()} and tree.knows(conversation.id):
            return conversation
    raise CbfsError(
        f"there is no conversation {name}",
        "name a folder of conversations/, or the id in its metadata.toml",
    )


async def make_tmp(tree: Tree) -> Folder:
    """A folder in tmp/ for the mount of one conversation, which nobody else removes or moves."""
    number = 1
    while f"only-{number}" in tree.tmp.entries:
        number += 1
    tmp = await Changes(tree).mkdir(tree.tmp, f"only-{number}")
    tmp.recorded = False  # as what the daemon makes
    return tmp


async def drop_tmp(tree: Tree, tmp: Folder) -> None:
    """Remove it, with what is in it. What somebody else has put there meanwhile stays."""
    tmp.recorded = True
    below = [(here, name) for here, name, _node in walk(tmp)]
    for here, name in (*tmp.names, *below)[::-1]:
        with suppress(TreeError):
            if isinstance(here.entries.get(name), Folder):
                await Changes(tree).rmdir(here, name)
            else:
                await Changes(tree).unlink(here, name)


class SingleView:
    """One conversation as a root with ``conversations/NAME`` and ``outbox/NAME``, so that what
    works on a whole mount works on it, and a ``tmp`` of its own."""

    def __init__(self, tree: Tree, conversation: Conversation, tmp: Folder) -> None:
        """``tmp``: made by ``make_tmp``."""
        self.tmp = tmp
        name = conversation.folder
        self.folder, self.drafts = tree.folders(conversation.id)
        self._name = name
        self._called = {"conversations": name, "outbox": name}  # in the tree, by now

        def holding(entries: Mapping[str, Node]) -> VirtualDirectory:
            fixed = Fixed(entries, lambda: conversation.started * 1_000_000)
            return VirtualDirectory(tree.new_inode(), Area.FIXED, fixed)

        conversations, outbox = holding({name: self.folder}), holding({name: self.drafts})
        self.root = holding({"conversations": conversations, "outbox": outbox, "tmp": tmp})
        self._above = {self.folder: conversations, self.drafts: outbox}
        self._above |= dict.fromkeys((conversations, outbox, tmp), self.root)
        self._hidden: set[tuple[Folder, str]] = set()
        self._leaving: dict[tuple[Folder, str], Node] = {}

    def above(self, directory: Folder, outside: Node) -> Node:
        """What ``..`` leads to here, where it is ``outside`` in the tree."""
        return self._above.get(directory, outside)

    def shows(self, node: Node) -> bool:
        """Whether a file or a folder that somebody holds, of those that programs make, is here:
        what was under outbox/ may have gone to another conversation with that folder. One without
        a name is whose it was."""
        made = isinstance(node, File) or (isinstance(node, Folder) and node.recorded)
        if not made or not node.names:
            return True
        return any(self._is_below(directory) for directory, _name in node.names)

    def _is_below(self, directory: Folder) -> bool:
        here = directory
        while here not in (self.drafts, self.tmp):
            if here.above is here:
                return False
            here = here.above
        return True

    def place(self, path: str) -> tuple[Folder, str] | None:
        """The folder and the name that a path of the tree leads to, when it is shown here."""
        above, _, rest = path.partition("/")
        folder, slash, name = rest.partition("/")
        if not slash or self._called.get(above) != folder:
            return None
        return self.folder if above == "conversations" else self.drafts, name

    def path(self, path: str) -> str:
        """The path here of what is at ``path`` of the tree: the folders keep the names that they
        had when it was mounted."""
        above, _, rest = path.partition("/")
        return f"{above}/{self._name}/{rest.partition('/')[2]}"

    def outside(self, directory: Folder, name: str) -> str | None:
        """The path of the tree of what is in one of the two folders."""
        for above, there in (("conversations", self.folder), ("outbox", self.drafts)):
            if there is directory:
                return f"{above}/{self._called[above]}/{name}"
        return None

    def moves(self, path: str, new: str) -> None:
        """A folder of the tree gets another name. That under outbox/ may be another conversation's
        by now: then it is not shown here any more."""
        above, _, folder = path.partition("/")
        if self._called.get(above) == folder:
            self._called[above] = new if above != "outbox" or self.drafts.names else ""

    def hide(self, place: tuple[Folder, str]) -> None:
        """It is there, and not shown before ``show``: watchers are told first."""
        self._hidden.add(place)

    def show(self, place: tuple[Folder, str]) -> None:
        """Show it from now on."""
        self._hidden.discard(place)

    def leave(self, place: tuple[Folder, str], node: Node) -> None:
        """It goes, and can be found until ``gone``: watchers are told first."""
        self._leaving[place] = node

    def gone(self, place: tuple[Folder, str]) -> None:
        """It is there no more."""
        self._leaving.pop(place, None)

    def is_hidden(self, directory: Folder, name: str) -> bool:
        """Whether it is there and not shown yet."""
        return (directory, name) in self._hidden

    def leaving(self, directory: Folder, name: str) -> Node | None:
        """What is about to go."""
        return self._leaving.get((directory, name))


class SingleInodes(Inodes):
    """The inodes that the kernel knows by the mount of one conversation, under numbers of its own.
    They are known to the tree as well, so that there is one node of each thing. ``close`` it at the
    end."""

    def __init__(self, tree: Tree, root: Folder, key: bytes) -> None:
        """``key``: random, 32 bytes."""
        super().__init__(root)
        self._known = tree.inodes
        self._root = root
        self._key = key
        self._shown: dict[int, Node] = {ROOT: root}
        self._counts: dict[int, int] = {}

    def number(self, node: Node) -> int:
        """Its number here: the same each time."""
        return ROOT if node is self._root else self.number_of(node.inode)

    def number_of(self, inode: int) -> int:
        """The number here of what has that inode in the tree, but for the root."""
        data = inode.to_bytes(8, "big")
        digest = blake2b(data, digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "big") >> 1 | 1 << 62

    def get(self, inode: int) -> Node | None:
        """The node with this number of here; None when the kernel does not know it."""
        return self._shown.get(inode)

    def count(self, *nodes: Node) -> None:
        """The kernel has got to know each of these once more."""
        for node in nodes:
            number = self.number(node)
            if number != ROOT:
                self._known.count(node)
                self._shown[number] = node
                self._counts[number] = self._counts.get(number, 0) + 1

    def opened(self, node: Node) -> None:
        """Somebody has it open once more."""
        self._known.opened(node)

    def is_open(self, node: Node) -> bool:
        """Whether somebody has a message open, in whatever mount."""
        return self._known.is_open(node)

    def closed(self, node: Node) -> None:
        """Somebody has it open no more."""
        self._known.closed(node)

    def forget(self, inode: int, count: int) -> None:
        """The kernel has forgotten ``count`` look-ups of the node with this number of here."""
        node, known = self._shown.get(inode), self._counts.get(inode, 0)
        if node is None or not known or count < 1:
            return
        self._known.forget(node.inode, min(count, known))
        if count < known:
            self._counts[inode] = known - count
        else:
            del self._counts[inode], self._shown[inode]

    def close(self) -> None:
        """The kernel knows nothing any more."""
        for number, count in list(self._counts.items()):
            self.forget(number, count)

    def __contains__(self, inode: int) -> bool:
        return inode in self._shown

    def __len__(self) -> int:
        return len(self._shown)
