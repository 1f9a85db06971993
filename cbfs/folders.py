"""A folder under conversations/: its messages, read from the store when somebody looks.

A message is in the store before watchers are told of it (see ``cbfs.reveal``), and is shown
only when they are: ``Unseen`` knows which those are.
"""

import errno
from collections.abc import Iterator

from cbfs.areas import TreeError
from cbfs.inodes import Inodes
from cbfs.model import Backend, Conversation, Message
from cbfs.nodes import FIRST_MESSAGE, MessageFile, Node, Text
from cbfs.provided import PAGE

METADATA = "metadata.toml"

_METADATA_PLACE = 1
"""Messages follow it: the place behind one is its serial + 1, and serials begin at 1."""


class Unseen:
    """Messages by serial that are in the store and not shown yet. Serials up to ``newest`` were
    there when the mount began."""

    def __init__(self, newest: int) -> None:
        self._newest = newest
        self._serials: set[int] = set()

    def announce(self, serial: int) -> None:
        """This one will be shown; so will those before it that are not announced yet."""
        self._serials.update(range(self._newest + 1, serial + 1))
        self._newest = max(self._newest, serial)

    def reveal(self, serial: int) -> None:
        """Show this one from now on."""
        self._serials.discard(serial)

    def __contains__(self, serial: int) -> bool:
        return serial > self._newest or serial in self._serials


class Folder:
    """``Provider`` of one conversation."""

    def __init__(
        self,
        backend: Backend,
        conversation: Conversation,
        metadata: Text,
        unseen: Unseen,
        inodes: Inodes,
    ) -> None:
        self._backend = backend
        self._conversation = conversation
        self._metadata = metadata
        self._unseen = unseen
        self._inodes = inodes

    def find(self, name: str) -> Node | None:
        """See ``Provider``."""
        if name == METADATA:
            return self._metadata
        message = self._backend.message(self._conversation.id, name)
        if message is None or message.serial in self._unseen:
            return None
        return message_file(self._inodes, message)

    def page(self, start: int) -> Iterator[tuple[int, str, Node]]:
        """See ``Provider``."""
        if start < _METADATA_PLACE:
            yield _METADATA_PLACE, METADATA, self._metadata
        known, unseen = self._inodes.get, self._unseen
        while True:
            listed = self._backend.listed(
                self._conversation.id,
                start,
                PAGE,
                lambda serial: (FIRST_MESSAGE + serial) in self._inodes,
            )
            for serial, message in listed:
                if serial in unseen:
                    continue
                node = known(FIRST_MESSAGE + serial) if message is None else MessageFile(message)
                if isinstance(node, MessageFile):
                    yield serial + 1, node.name, node
            if len(listed) < PAGE:
                return
            start = listed[-1][0] + 1

    async def remove(self, name: str, node: Node) -> None:
        """See ``Provider``."""
        if not isinstance(node, MessageFile):
            raise TreeError(errno.EACCES)
        message = self._backend.message(node.conversation, node.serial)
        if message is None:
            raise TreeError(errno.ENOENT)
        node.removed = True
        await self._backend.delete(message)

    def modified(self) -> int:
        """See ``Provider``."""
        newest = self._backend.newest(self._conversation.id)
        moment = newest.received if newest else self._conversation.started
        return moment * 1_000_000


def message_file(inodes: Inodes, message: Message) -> MessageFile:
    """The file of a message: that which the kernel knows, or a fresh one."""
    known = inodes.get(FIRST_MESSAGE + message.serial)
    return known if isinstance(known, MessageFile) else MessageFile(message)
