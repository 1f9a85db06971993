"""Cover traffic: dummy envelopes to oneself, sent when it is one's turn and nothing is to be
said.

A dummy is noise, as every envelope is to whoever has not its key; it goes to one's own mailbox by
the same request, over the same kind of connection, as a delivery. It is known again by its hash,
``Table.COVER``, which is on the disk before it is sent and goes when the server has deleted it.
A crash in between leaves a hash that nobody needs, which is forgotten when no server can have the
dummy any more.

One that did not get there is sent again at a later turn, as it was: a message would be, and a home
server that refuses all that comes for a while would see by it which of that was none.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress

from cbfs.context import Context
from cbfs.network.link import open_link, request
from cbfs.storage.encoding import number_of, u64
from cbfs.storage.faults import contained
from cbfs.storage.store import Table, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.wire.requests import Deliver, envelope_id

_log = logging.getLogger(__name__)

KEPT = 90 * 86_400_000
"""Milliseconds until a dummy that has not come back is forgotten: longer than servers keep it."""


class CoverTraffic:
    """The dummy envelopes of an account: made, sent, known again when they come, and forgotten."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ready: list[bytes] = []
        with context.store.read() as reader:
            self._out = {key: number_of(value) for key, value in reader.items(Table.COVER)}

    def is_dummy(self, envelope: bytes) -> bool:
        """Whether this was made here, and is nothing."""
        return bool(self._out) and envelope_id(envelope) in self._out

    async def forget(self, ids: Iterable[bytes]) -> None:
        """The server has deleted these envelopes."""
        old = self._context.clock() - KEPT
        gone = self._out.keys() & set(ids)
        gone |= {key for key, made in self._out.items() if made < old}
        if not gone:
            return

        def change(writer: Writer) -> None:
            for key in gone:
                writer.delete(Table.COVER, key)

        await self._context.store.commit(change)
        for key in gone:
            self._out.pop(key, None)
        self._ready = [envelope for envelope in self._ready if self.is_dummy(envelope)]

    async def bring_back(self, now: int) -> None:
        """What a wrong clock says was sent later than ``now`` (milliseconds) was sent then."""
        late = [key for key, made in self._out.items() if made > now]

        def change(writer: Writer) -> None:
            for key in late:
                writer.put(Table.COVER, key, u64(now))

        if late:
            await self._context.store.commit(change)
            self._out.update(dict.fromkeys(late, now))

    async def send(self) -> None:
        """Send a dummy, now. One that is not known to be at the server is sent again the next time.
        Else another is made ready, so that a dummy's turn begins as promptly as any."""
        with suppress(CbfsError), contained():  # the polls tell that the server does not answer
            await self._send()
        try:
            with contained():
                if not self._ready:
                    self._ready.append(await self._make())
        except CbfsError as error:
            _log.error("%s", error.in_full)

    async def _send(self) -> None:
        context = self._context
        envelope = self._ready.pop(0) if self._ready else await self._make()
        server = context.account.server
        isolation = b"deliver:" + context.random.token(16)
        is_there = False
        try:
            async with open_link(
                context.dialer.in_turn, server, None, isolation, context.random
            ) as link:
                await request(link, Deliver(context.account.profile.user_id, envelope))
                is_there = True
        finally:
            if not is_there and self.is_dummy(envelope):  # it may have come back meanwhile
                self._ready.append(envelope)

    async def _make(self) -> bytes:
        envelope = self._context.random.token(ENVELOPE_SIZE)
        key, now = envelope_id(envelope), self._context.clock()
        value = u64(now)
        await self._context.store.commit(lambda writer: writer.put(Table.COVER, key, value))
        self._out[key] = now
        return envelope
