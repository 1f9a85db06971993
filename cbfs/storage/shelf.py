"""Where the records of one table are, in memory: a map in order of their keys that never changes.

What looks like a change gives another map, which shares nearly all with the one before. So every
transaction has the map of its own moment, nothing is locked, and what failed has changed nothing.

It is a B+ tree whose nodes are copied on the way to what changes, so that a change costs the
same few hundred references in a table of a million records as in one of ten thousand. Of a
transaction that changes many, the nodes that it has copied already are changed in place.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

NODE_MAX = 128
"""Keys of one node, which are copied by a change in it or below; one with more is cut in two."""


class Spot(NamedTuple):
    """Where a record is: ``place`` (16), its key in LMDB. ``secret`` (32): what the places of
    records that belong to it are derived from, empty where none do."""

    place: bytes
    secret: bytes = b""


class Leaf:
    """Keys in order, never none, and what is at them. ``owner``: who may change it."""

    __slots__ = ("keys", "owner", "spots")

    def __init__(self, keys: list[bytes], spots: list[Spot], owner: object = None) -> None:
        self.keys = keys
        self.spots = spots
        self.owner = owner

    def copied(self, owner: object) -> "Leaf":
        """One of that owner's, with the same in it."""
        return Leaf(self.keys.copy(), self.spots.copy(), owner)

    def cut(self) -> "Leaf":
        """Takes the greater half out, and gives it."""
        half = len(self.keys) // 2
        right = Leaf(self.keys[half:], self.spots[half:], self.owner)
        del self.keys[half:], self.spots[half:]
        return right


class Branch:
    """Nodes in order, never none, and the first key of each. ``owner``: who may change it."""

    __slots__ = ("below", "keys", "owner")

    def __init__(self, keys: list[bytes], below: "list[Node]", owner: object = None) -> None:
        self.keys = keys
        self.below = below
        self.owner = owner

    def copied(self, owner: object) -> "Branch":
        """One of that owner's, with the same in it."""
        return Branch(self.keys.copy(), self.below.copy(), owner)

    def cut(self) -> "Branch":
        """Takes the greater half out, and gives it."""
        half = len(self.keys) // 2
        right = Branch(self.keys[half:], self.below[half:], self.owner)
        del self.keys[half:], self.below[half:]
        return right

    def at(self, key: bytes) -> int:
        """Which node ``key`` is in, or would be."""
        return (bisect_right(self.keys, key) or 1) - 1


Node = Leaf | Branch
Each = TypeVar("Each")


class Shelf:
    """A map. ``root``: the tree, None when it is empty. ``damaged``: how many records cannot be
    read, so that nobody knows what their keys were."""

    __slots__ = ("_size", "damaged", "root")

    def __init__(self, root: Node | None = None, size: int = 0, damaged: int = 0) -> None:
        self.root = root
        self._size = size
        self.damaged = damaged

    def get(self, key: bytes) -> Spot | None:
        """Where the record with this key is; None for one that is not known."""
        leaf = _leaf_of(self.root, key)
        if leaf is None:
            return None
        at = bisect_left(leaf.keys, key)
        return leaf.spots[at] if at < len(leaf.keys) and leaf.keys[at] == key else None

    def keys(self, prefix: bytes = b"", start: bytes | None = None) -> Iterator[bytes]:
        """Keys with ``prefix`` in order, from ``start`` on, of the map as it is now."""
        return _keys(self.root, prefix, prefix if start is None else max(start, prefix))

    def last_up_to(self, key: bytes) -> bytes | None:
        """The greatest key that is not above ``key``."""
        leaf = _leaf_of(self.root, key)
        if leaf is None or leaf.keys[0] > key:
            return None
        return leaf.keys[bisect_right(leaf.keys, key) - 1]

    def change(self) -> "ChangingShelf":
        """One to be changed, which is like this one so far. This one stays as it is."""
        return ChangingShelf(self.root, self._size, self.damaged)

    def __len__(self) -> int:
        return self._size


class ChangingShelf(Shelf):
    """The map of one transaction."""

    __slots__ = ("_owner",)

    def __init__(self, root: Node | None, size: int, damaged: int) -> None:
        super().__init__(root, size, damaged)
        self._owner = object()

    def put(self, key: bytes, spot: Spot) -> None:
        """Enter one more key, or another spot for it."""
        owner = self._owner
        node = self._owned_root()
        if node is None:
            self.root, self._size = Leaf([key], [spot], owner), 1
            return
        path: list[tuple[Branch, int]] = []
        while isinstance(node, Branch):
            node = self._down(node, key, path)
        at = bisect_left(node.keys, key)
        if at < len(node.keys) and node.keys[at] == key:
            node.spots[at] = spot
            return
        node.keys.insert(at, key)
        node.spots.insert(at, spot)
        self._size += 1
        if not at:
            _first_key_changed(path)
        if len(node.keys) > NODE_MAX:
            self._cut(node, path)

    def remove(self, key: bytes) -> None:
        """Have one key less, if it is there."""
        path: list[tuple[Branch, int]] = []
        node = None if self.get(key) is None else self._owned_root()
        while isinstance(node, Branch):
            node = self._down(node, key, path)
        if node is None:
            return
        at = bisect_left(node.keys, key)
        del node.keys[at], node.spots[at]
        self._size -= 1
        if node.keys:
            if not at:
                _first_key_changed(path)
            return
        while path:  # a node with nothing in it goes
            branch, number = path.pop()
            del branch.keys[number], branch.below[number]
            if branch.keys:
                if not number:
                    _first_key_changed(path)
                return
        self.root = None

    def keys(self, prefix: bytes = b"", start: bytes | None = None) -> Iterator[bytes]:
        """Keys with ``prefix`` in order, from ``start`` on, of the map as it is now, whatever
        changes meanwhile."""
        self._owner = object()
        return super().keys(prefix, start)

    def settled(self) -> Shelf:
        """The map as it is now, which never changes."""
        self._owner = object()
        return Shelf(self.root, self._size, self.damaged)

    def _owned_root(self) -> Node | None:
        root = self.root
        if root is not None and root.owner is not self._owner:
            root = self.root = root.copied(self._owner)
        return root

    def _down(self, branch: Branch, key: bytes, path: list[tuple[Branch, int]]) -> Node:
        """The node below in which the key is, or would be, which may be changed; ``path`` grows by
        the step."""
        number = branch.at(key)
        node = branch.below[number]
        if node.owner is not self._owner:
            node = branch.below[number] = node.copied(self._owner)
        path.append((branch, number))
        return node

    def _cut(self, node: Node, path: list[tuple[Branch, int]]) -> None:
        """A node has too many keys, and the nodes above it may then have."""
        while len(node.keys) > NODE_MAX:
            right = node.cut()
            if not path:
                nodes: list[Node] = [node, right]
                self.root = Branch([node.keys[0], right.keys[0]], nodes, self._owner)
                return
            branch, number = path.pop()
            branch.keys.insert(number + 1, right.keys[0])
            branch.below.insert(number + 1, right)
            node = branch


def make_shelf(entries: Iterable[tuple[bytes, Spot]], damaged: int = 0) -> Shelf:
    """The map of these keys, all different, in any order."""
    found = sorted(entries, key=lambda entry: entry[0])
    nodes: list[Node] = [
        Leaf([key for key, _spot in row], [spot for _key, spot in row]) for row in _rows(found)
    ]
    while len(nodes) > 1:
        nodes = [Branch([node.keys[0] for node in row], row) for row in _rows(nodes)]
    return Shelf(nodes[0] if nodes else None, len(found), damaged)


def _rows(many: list[Each]) -> Iterator[list[Each]]:
    """Of half a node each, so that there is room in it."""
    size = NODE_MAX // 2
    return (many[at : at + size] for at in range(0, len(many), size))


def _leaf_of(node: Node | None, key: bytes) -> Leaf | None:
    while isinstance(node, Branch):
        node = node.below[node.at(key)]
    return node


def _keys(root: Node | None, prefix: bytes, low: bytes) -> Iterator[bytes]:
    behind = _behind(prefix)
    for leaf in _leaves(root, low):
        keys = leaf.keys
        if behind and keys[-1] >= behind:
            yield from keys[bisect_left(keys, low) : bisect_left(keys, behind)]
            return
        yield from keys[bisect_left(keys, low) :]


def _leaves(node: Node | None, low: bytes) -> Iterator[Leaf]:
    """From that of ``low`` on."""
    if isinstance(node, Branch):
        for each in node.below[node.at(low) :]:
            yield from _leaves(each, low)
    elif node is not None:
        yield node


def _first_key_changed(path: list[tuple[Branch, int]]) -> None:
    """The first key of the node that this path leads to is another one."""
    for branch, number in reversed(path):
        branch.keys[number] = branch.below[number].keys[0]
        if number:
            return


def _behind(prefix: bytes) -> bytes:
    """The first key behind all that begin so; empty when none is."""
    rest = prefix.rstrip(b"\xff")
    return rest[:-1] + bytes([rest[-1] + 1]) if rest else b""
