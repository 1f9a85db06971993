"""The inodes that the kernel knows, and the nodes of them that are in memory."""

from collections.abc import Callable

from cbfs.tree.nodes import FIRST_MESSAGE, MADE, Node

REMEMBERED = 8_192
"""Messages, and links to them, whose nodes are kept when the kernel was told of them: so many, and
as many from before them."""


def _not_there(_inode: int) -> Node | None:
    """Nothing can be made once more."""
    return None


class Inodes:
    """The inodes that the kernel knows: each once for every time that it was told of it.

    What the kernel forgets is dropped, so that memory grows with what is in use and not with what
    is in the store. Messages and links to them it may know by the million: they are not counted,
    the last REMEMBERED are kept, and others are made once more by ``remake``, from the store. An
    open file keeps its inode. ``root`` is never dropped."""

    def __init__(self, root: Node, remake: Callable[[int], Node | None] = _not_there) -> None:
        self._nodes: dict[int, Node] = {root.inode: root}
        self._remake = remake
        self._recent: dict[int, Node] = {}
        self._before: dict[int, Node] = {}  # those that were recent when there were too many
        self._open: dict[int, tuple[Node, int]] = {}
        root.lookups = 1

    def get(self, inode: int) -> Node | None:
        """The node, None when the kernel does not know it, or it is gone."""
        node = self.known(inode)
        if node is None and FIRST_MESSAGE <= inode < MADE:
            node = self._remake(inode)
            if node is not None:
                self.count(node)
        return node

    def known(self, inode: int) -> Node | None:
        """The node if it is in memory."""
        node = self._nodes.get(inode) or self._recent.get(inode) or self._before.get(inode)
        return node or self._open.get(inode, (None,))[0]

    def remembered(self) -> list[Node]:
        """The messages, and links to them, that the kernel was told of last."""
        return [*self._recent.values(), *self._before.values()]

    def opened(self, node: Node) -> None:
        """Somebody has it open once more: it stays."""
        if node.remade:
            self._open[node.inode] = node, self._open.get(node.inode, (node, 0))[1] + 1

    def is_open(self, node: Node) -> bool:
        """Whether somebody has a message open, or a link to one."""
        return node.inode in self._open

    def closed(self, node: Node) -> None:
        """Somebody has it open no more."""
        if node.remade:
            opened, count = self._open.pop(node.inode, (node, 1))
            if count > 1:
                self._open[node.inode] = opened, count - 1

    def count(self, *nodes: Node) -> None:
        """The kernel is told of each of these once more. A fresh node of an inode that it knows
        takes the place of the one before: the kernel counts inodes, not our objects."""
        for node in nodes:
            if node.remade:
                self._recent[node.inode] = node
                if len(self._recent) >= REMEMBERED:
                    self._recent, self._before = {}, self._recent
                continue
            known = self._nodes.get(node.inode)
            if known is not node:
                self._nodes[node.inode] = node
                node.lookups = known.lookups if known else 0
            node.lookups += 1

    def replace(self, node: Node) -> None:
        """The kernel is to find this node where another one had its inode."""
        old = self._nodes.get(node.inode)
        if old is not None:
            node.lookups = old.lookups
            self._nodes[node.inode] = node

    def forget(self, inode: int, count: int) -> None:
        """The kernel takes ``count`` times back."""
        node = self._nodes.get(inode)
        if node is None:
            return
        node.lookups = max(0, node.lookups - count)
        if not node.lookups:
            del self._nodes[inode]

    def __contains__(self, inode: int) -> bool:
        return self.known(inode) is not None

    def __len__(self) -> int:
        return len(self._nodes)
