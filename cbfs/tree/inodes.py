"""The inodes that the kernel knows: each once for every time that it was told of it.

What the kernel forgets is dropped, so that memory grows with what is in use and not with what
is in the store. An open file keeps its inode.
"""

from cbfs.tree.nodes import Node


class Inodes:
    """``root`` is never dropped."""

    def __init__(self, root: Node) -> None:
        self._nodes: dict[int, Node] = {root.inode: root}
        root.lookups = 1

    def get(self, inode: int) -> Node | None:
        """The node, None when the kernel does not know it."""
        return self._nodes.get(inode)

    def count(self, *nodes: Node) -> None:
        """The kernel is told of each of these once more. A fresh node of an inode that it knows
        takes the place of the one before: the kernel counts inodes, not our objects."""
        for node in nodes:
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
        return inode in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)
