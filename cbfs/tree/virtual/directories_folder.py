"""``directories/`` of a mount: the policy of each name directory that is followed, by its
namespace.

``cp POLICY directories/``, under whatever name, adds one, or takes the place of the policy of the
same directory; ``rm directories/NAMESPACE`` removes one, but one's own. What a program writes there
counts when it is closed: it is then the policy under its namespace, or is refused with EINVAL, and
``NAME.error`` says why. What has the name of a hidden, temporary or incomplete file counts when it
gets another one, and is refused with EPERM then (of EINVAL mv says that a folder is moved into
itself). Until then it is in memory, and gone when the mount ends.
"""

import errno
import time
from collections.abc import Callable

from cbfs.interface import Backend
from cbfs.messages.file_names import error_file_name
from cbfs.tree.inodes import Inodes
from cbfs.tree.nodes import File, Folder, Node, Text
from cbfs.tree.rules import TreeError, check, file_rule, taken_for
from cbfs.tree.texts import error_text
from cbfs.tree.virtual.virtual_directory import inode_for
from cbfs.tree.watchers import Watchers
from cbfs_common.errors import CbfsError
from cbfs_common.limits import POLICY_MAX
from cbfs_common.names.policy import Policy

_PLACE = "directories"


class PolicyText(Text):
    """A policy as it is gone by."""

    __slots__ = ("policy",)

    def __init__(self, policy: Policy) -> None:
        inode = inode_for(_PLACE.encode(), policy.directory)
        super().__init__(inode, lambda: self.policy.encode().encode(), time.time_ns())
        self.mode |= 0o200  # who copies another one over it may
        self.policy = policy


class DirectoriesFolder:
    """directories/ of one tree, whose are ``read``, ``new_inode`` and ``inodes``."""

    def __init__(
        self,
        root: Folder,
        backend: Backend,
        read: Callable[[Node, int, int], bytes],
        new_inode: Callable[[], int],
        inodes: Inodes,
    ) -> None:
        self.root = root
        self._backend = backend
        self._read = read
        self._new_inode = new_inode
        self._inodes = inodes
        self.show(Watchers())

    def show(self, watchers: Watchers) -> None:
        """Make the policies those that are followed, so that ``watchers`` see it."""
        wanted = {each.namespace: each for each in self._backend.directories.policies()}
        for name, node in list(self.root.entries.items()):
            if isinstance(node, PolicyText) and name not in wanted:
                self._hide(name, node, watchers)
        for name, policy in wanted.items():
            there = self.root.entries.get(name)
            if isinstance(there, PolicyText):
                if there.policy != policy:
                    there.policy, there.mtime_ns = policy, time.time_ns()
                    watchers.touch(there.inode)
            elif there is None:
                self._enter(name, PolicyText(policy), watchers)

    def is_policy(self, node: Node) -> bool:
        """Whether this is a policy in the making, which counts when it is closed."""
        return isinstance(node, File) and any(
            folder is self.root and not self._is_scratch(name) for folder, name in node.names
        )

    def decides(self, node: Node) -> bool:
        """Whether this is a policy, in the making or not: under its name there may be another
        file at any time."""
        here = isinstance(node, File) and any(folder is self.root for folder, _ in node.names)
        return isinstance(node, PolicyText) or here

    def opened(self, node: Node) -> Node:
        """In the place of a policy that somebody is about to write over: a file that says the
        same. Everything else is as it is."""
        if not isinstance(node, PolicyText) or not node.names:
            return node
        file = File(node.inode, 0o600, node.modified_ns, None)
        file.fill(node.render())
        ((_root, name),) = node.names
        self._exchange(name, file)
        return file

    async def decide(self, file: File) -> None:
        """It is about to be closed: the directory is followed, on the disk on return. An empty one
        says nothing yet. Raises TreeError(EINVAL) for what cannot be followed; the error file then
        says why."""
        if not file.size:
            return
        name = next(name for folder, name in file.names if folder is self.root)
        try:
            await self._follow(file, name, errno.EINVAL)
        finally:
            self.drop(file)

    async def rename(self, name: str, new: str, *, replace: bool) -> None:
        """A program gives what it has written here another name: unless that is one of a temporary
        file, too, the directory is followed, on the disk on return. Raises TreeError: EACCES for
        the policy of a directory that is followed, and for what may not be called so; EEXIST; EPERM
        for what cannot be followed, which keeps its name, and the error file then says why."""
        file = self.root.entries.get(name)
        if not isinstance(file, File):
            raise TreeError(errno.EACCES)
        check(file_rule(self.root.area, new))
        if new in self.root.entries and not replace:
            raise TreeError(errno.EEXIST)
        if not self._is_scratch(new):
            await self._follow(file, new, errno.EPERM)
            self.drop(file)
        elif self.root.entries.get(name) is file:
            self.root.remove(name)
            if new in self.root.entries:
                self.root.remove(new)
            self.root.add(new, file)

    def _is_scratch(self, name: str) -> bool:
        """Whether programs call so what they rename when it is whole."""
        namespaces = (each.namespace for each in self._backend.directories.policies())
        return bool(taken_for(name)) and name not in namespaces

    async def _follow(self, file: File, name: str, refused: int) -> None:
        try:
            await self._backend.directories.follow(self._read(file, 0, POLICY_MAX + 1))
        except CbfsError as error:
            self._tell(name, error)
            raise TreeError(refused) from error
        self._forget_error(name)

    def drop(self, file: File) -> None:
        """It was decided on, or says nothing: what is gone by is shown again."""
        for folder, name in list(file.names):
            if folder is self.root and folder.entries.get(name) is file:
                folder.remove(name)
        self.show(Watchers())
        for node in self.root.entries.values():
            if node.inode == file.inode:
                self._inodes.replace(node)

    async def remove(self, name: str, node: Node) -> None:
        """``rm`` of something here. Raises TreeError(EACCES) for the policy of one's own."""
        if isinstance(node, PolicyText):
            own = self._backend.directories.policies()[0]
            if node.policy.directory == own.directory:
                raise TreeError(errno.EACCES)
            await self._backend.directories.leave(node.policy.directory)
        if self.root.entries.get(name) is node:
            self.root.remove(name)

    def _enter(self, name: str, node: PolicyText, watchers: Watchers) -> None:
        def enter() -> None:
            followed = node.policy in self._backend.directories.policies()
            if followed and name not in self.root.entries:  # it may have been removed meanwhile
                self.root.add(name, node)

        watchers.show(f"{_PLACE}/{name}", node, enter)

    def _hide(self, name: str, node: Node, watchers: Watchers) -> None:
        def leave() -> None:
            if self.root.entries.get(name) is node:
                self.root.remove(name)

        watchers.remove(f"{_PLACE}/{name}", leave)

    def _exchange(self, name: str, node: Node) -> None:
        self.root.remove(name)
        self.root.add(name, node)
        self._inodes.replace(node)

    def _tell(self, name: str, error: CbfsError) -> None:
        data = error_text(error, error.hint, "This policy was not taken").encode()
        self._forget_error(name)
        node = _RefusalText(self._new_inode(), name, data)
        self.root.add(error_file_name(name, self.root.entries.__contains__), node)

    def _forget_error(self, about: str) -> None:
        for name, node in list(self.root.entries.items()):
            if isinstance(node, _RefusalText) and node.about == about:
                self.root.remove(name)


class _RefusalText(Text):
    """Why what was called ``about`` was refused."""

    __slots__ = ("about",)

    def __init__(self, inode: int, about: str, data: bytes) -> None:
        super().__init__(inode, lambda: data, time.time_ns())
        self.about = about
