"""What the home server may delete, told to it several at a time.

What has come is in the store, and who asks for it again gets what is then known for a copy: so
nobody waits for the server to delete it, and a server that deletes several at once writes to its
disk once. Should the connection end before, the next one begins with it. Only memory knows of it:
after a crash, or an unmount within that second, the server pushes it once more.
"""

import trio

from cbfs.network.link import Link, request
from cbfs.sending.cover_traffic import CoverTraffic
from cbfs_common.limits import PUSH_WINDOW
from cbfs_common.wire.requests import Delete

PUT_OFF = 1.0
"""Seconds for which a deletion is put off, at most."""

MOST = PUSH_WINDOW // 2
"""Envelopes that are deleted at once: the server pushes no more than PUSH_WINDOW ahead."""


class Deletions:
    """Of one mailbox. ``cover`` forgets what were dummies."""

    def __init__(self, cover: CoverTraffic) -> None:
        self._cover = cover
        self._ids: list[bytes] = []
        self._some, self._many = trio.Event(), trio.Event()

    def add(self, ids: tuple[bytes, ...]) -> None:
        """These are in the store."""
        self._ids += ids
        self._some.set()
        if len(self._ids) >= MOST:
            self._many.set()

    async def run(self, link: Link) -> None:
        """Have the server delete what is added, until cancelled. Raises CbfsError."""
        while True:
            await self._some.wait()
            with trio.move_on_after(PUT_OFF):
                await self._many.wait()
            await self.finish(link)

    async def finish(self, link: Link) -> None:
        """Have it delete what was added so far. Raises CbfsError: then it is told again."""
        while self._ids:
            ids = tuple(self._ids[:MOST])
            await request(link, Delete(ids))
            del self._ids[: len(ids)]
            await self._cover.forget(ids)
        self._some, self._many = trio.Event(), trio.Event()
