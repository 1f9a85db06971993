"""Changes that the daemon makes by itself, made so that watchers see them."""

from collections.abc import Callable
from typing import Protocol

from cbfs.storage.faults import harmless
from cbfs.tree.nodes import Node


class Revealer(Protocol):
    """Makes changes through the mounted file system, so that inotify tells of them. Each call
    returns at once; what is asked for happens in order."""

    def show(self, path: str, node: Node, enter: Callable[[], None]) -> None:
        """``enter`` puts ``node`` at ``path`` into the tree, while watchers look."""

    def make(self, path: str, enter: Callable[[], None]) -> None:
        """``enter`` puts a directory at ``path`` into the tree, while watchers look."""

    def remove(self, path: str, leave: Callable[[], None]) -> None:
        """``leave`` takes the file at ``path`` out of the tree."""

    async def removed(self, path: str) -> None:
        """The file at ``path`` has left the tree; it is out of sight on return."""

    def remove_folder(self, path: str, leave: Callable[[], None]) -> None:
        """``leave`` takes the directory at ``path`` out of the tree, and all that is in it."""

    def move(self, path: str, new: str, change: Callable[[], None]) -> None:
        """``change`` gives what is at ``path`` the name ``new`` in the same directory."""

    def touch(self, inode: int) -> None:
        """The content of that inode has changed by itself; many touches count as one."""

    def outdate(self, folder: int, name: str) -> None:
        """Nothing has that name any more in the folder of that inode, and no watcher is told."""


class Observer(Protocol):
    """A mount of one conversation, or on another machine, whose watchers are told when a change is
    made in the tree."""

    def appears(self, path: str, node: Node) -> None:
        """``node`` has just come to ``path``."""

    def made(self, path: str) -> None:
        """A directory has just come to ``path``."""

    def disappears(self, path: str) -> None:
        """What is at ``path`` is about to go."""

    def moves(self, path: str, new: str) -> None:
        """What is at ``path`` is about to have the name ``new``."""

    def touches(self, inode: int) -> None:
        """The content of that inode has changed by itself."""

    def outdates(self, folder: int, name: str) -> None:
        """Nothing has that name any more in the folder of that inode."""


class Watchers:
    """Who is told of changes that the daemon makes by itself. Without a ``revealer`` (before the
    mount answers, and after it has ended) nobody can watch, and changes are made at once."""

    def __init__(self, failed: Callable[[], None] = lambda: None) -> None:
        """``failed`` is told of faults: none of an observer's harms the others, or the change."""
        self.revealer: Revealer | None = None
        self.observers: list[Observer] = []
        self.failed = failed

    def _tell(self, tell: Callable[[Observer], None]) -> None:
        for observer in list(self.observers):
            with harmless(self.failed):
                tell(observer)

    def show(self, path: str, node: Node, enter: Callable[[], None]) -> None:
        """Put ``node`` at ``path`` by calling ``enter``, so that watchers see it. Observers are
        told behind it."""

        def change() -> None:
            enter()
            self._tell(lambda observer: observer.appears(path, node))

        if self.revealer:
            self.revealer.show(path, node, change)
        else:
            change()

    def make(self, path: str, enter: Callable[[], None]) -> None:
        """Put a directory at ``path`` by calling ``enter``, so that watchers see it.
        Observers are told behind it."""

        def change() -> None:
            enter()
            self._tell(lambda observer: observer.made(path))

        if self.revealer:
            self.revealer.make(path, change)
        else:
            change()

    def remove(self, path: str, leave: Callable[[], None]) -> None:
        """Take the file at ``path`` out by calling ``leave``, so that watchers see it go. Observers
        are told before it."""

        def change() -> None:
            self._tell(lambda observer: observer.disappears(path))
            leave()

        if self.revealer:
            self.revealer.remove(path, change)
        else:
            change()

    def remove_folder(self, path: str, leave: Callable[[], None]) -> None:
        """Take the directory at ``path`` out, and all that is in it, by calling ``leave``, so that
        watchers see it go. Observers are told before it."""

        def change() -> None:
            self._tell(lambda observer: observer.disappears(path))
            leave()

        if self.revealer:
            self.revealer.remove_folder(path, change)
        else:
            change()

    def move(self, path: str, new: str, change: Callable[[], None]) -> None:
        """Give what is at ``path`` the name ``new`` in the same directory by calling ``change``, so
        that watchers see it. Observers are told before it."""

        def moved() -> None:
            self._tell(lambda observer: observer.moves(path, new))
            change()

        if self.revealer:
            self.revealer.move(path, new, moved)
        else:
            moved()

    def touch(self, inode: int) -> None:
        """Let watchers see that the content of that inode has changed by itself; many touches count
        as one."""
        self._tell(lambda observer: observer.touches(inode))
        if self.revealer:
            self.revealer.touch(inode)

    def outdate(self, folder: int, name: str) -> None:
        """Nothing has that name any more in the folder of that inode, and no watcher is told."""
        self.left(folder, name)
        if self.revealer:
            self.revealer.outdate(folder, name)

    def left(self, folder: int, name: str) -> None:
        """As ``outdate``, where the kernel of the account's mount knows that."""
        self._tell(lambda observer: observer.outdates(folder, name))
