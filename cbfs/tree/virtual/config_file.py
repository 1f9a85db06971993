"""``config.toml`` in the root of the mount: what a program saves there becomes the settings.

However an editor saves, what counts is the file that has the name when nobody has it open for
writing. An empty one says nothing yet: editors make one before they write. When a wrong one is
closed, it stays to be mended (EINVAL); one is not renamed onto the name (EPERM, since of EINVAL mv
says that a folder is moved into itself). The old settings stay in effect, and
``config.toml.error`` says why. One that was removed or moved away changes nothing and comes back.
"""

import time
from collections.abc import Callable

import trio

from cbfs.account.settings import CONFIG_MAX, Settings, SettingsError, commented, decode
from cbfs.interface import Backend
from cbfs.storage.store import StoreError
from cbfs.tree.nodes import File, Folder, Node, Text
from cbfs.tree.rules import CONFIG, CONFIG_ERROR, TreeError

BACK_AFTER = 5.0
"""Seconds until a config.toml that was taken away comes back: editors that move it away to save
a new one take less."""


class SettingsFile:
    """One for a tree; ``read`` and ``new_inode`` are the tree's."""

    def __init__(
        self,
        root: Folder,
        backend: Backend,
        read: Callable[[Node, int, int], bytes],
        new_inode: Callable[[], int],
    ) -> None:
        self._root = root
        self._backend = backend
        self._read = read
        self._new_inode = new_inode
        self._lock = trio.Lock()
        self._seen: tuple[int, int] | None = None
        self._missing_since: float | None = None
        self.problem = ""

    def is_config(self, node: Node) -> bool:
        """Whether this is the file."""
        return isinstance(node, File) and self._root.entries.get(CONFIG) is node

    def check(self, file: File, number: int) -> None:
        """It is about to be closed as config.toml, or to be renamed to it. Raises
        TreeError(number) when what it says is wrong; the error file then says why."""
        try:
            self._decode(file)
        except SettingsError as error:
            self._tell(error)
            raise TreeError(number) from error

    async def settle(self) -> None:
        """Put in effect what the file says, when it is closed and has changed."""
        async with self._lock:
            file = self._root.entries.get(CONFIG)
            if not isinstance(file, File) or file.writers:
                return
            seen = file.inode, file.version
            if seen == self._seen:
                return
            self._seen = seen
            try:
                settings = self._decode(file)
            except SettingsError as error:
                self._tell(error)
                return
            if settings is not None:
                self._tell(None)
                try:
                    await self._backend.configuration.change(settings)
                except StoreError:
                    self._seen = None  # look at it again
                    raise

    def look(self) -> float | None:
        """Bring the file back when it has been away for so long. Gives the seconds until that
        has to be looked at again, None when it is there."""
        if CONFIG in self._root.entries:
            self._missing_since = None
            return None
        now = time.monotonic()
        if self._missing_since is None:
            self._missing_since = now
        left = self._missing_since + BACK_AFTER - now
        if left > 0:
            return left
        self.bring_back()
        return None

    def bring_back(self) -> None:
        """Enter a file that says what is in effect, when there is none."""
        self._missing_since = None
        if CONFIG in self._root.entries:
            return
        file = File(self._new_inode(), 0o600, time.time_ns(), None)
        file.fill(commented(self._backend.configuration.current))
        self._seen = file.inode, file.version
        self._root.add(CONFIG, file)
        self._tell(None)

    def _decode(self, file: File) -> Settings | None:
        """None for an empty file."""
        if not file.size:
            return None
        return decode(self._read(file, 0, CONFIG_MAX + 1))

    def _tell(self, error: SettingsError | None) -> None:
        self.problem = (
            "" if error is None else f"the settings were not changed: {error}; see {CONFIG_ERROR}"
        )
        there = self._root.entries.get(CONFIG_ERROR)
        if error is None:
            if there is not None:
                self._root.remove(CONFIG_ERROR)
            return
        self.problem = f"the settings were not changed: {error}; see {CONFIG_ERROR}"
        hint = f"What to do: {error.hint}.\n" if error.hint else ""
        data = f"The settings were not changed: {error}.\n{hint}".encode()
        if isinstance(there, Text):
            there.render = lambda: data
            there.mtime_ns = time.time_ns()
        else:
            self._root.add(CONFIG_ERROR, Text(self._new_inode(), lambda: data, time.time_ns()))
