"""The inodes that the kernel knows: each once for every time that it was told of it.

What the kernel forgets is dropped, so that memory grows with what is in use and not with what
is in the store. An open file keeps its inode.
"""

from cbfs.nodes import Node


class Inodes:
    """``root`` is never dropped."""

    def __init__(self, root: Node) -> None:
        self._root = root.inode
        self._nodes: dict[int, Node] = {root.inode: root}
        self._lookups: dict[int, int] = {}

    def get(self, inode: int) -> Node | None:
        """The node, None when the kernel does not know it."""
        return self._nodes.get(inode)

    def count(self, node: Node) -> None:
        """The kernel is told of a node once more."""
        self._nodes[node.inode] = node
        self._lookups[node.inode] = self._lookups.get(node.inode, 0) + 1

    def forget(self, inode: int, count: int) -> None:
        """The kernel takes ``count`` times back."""
        left = self._lookups.get(inode, 0) - count
        if left > 0:
            self._lookups[inode] = left
        elif inode != self._root:
            self._lookups.pop(inode, None)
            self._nodes.pop(inode, None)
