"""A copy that polls: what was planned before the mark of another copy was found is not done."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.claim import INSTANCE_SIZE, CopyMark, open_mark, seal_mark
from cbfs.receiving.copies import Copies
from cbfs.receiving.mailbox import Polling
from cbfs.receiving.receiver import Receiver
from cbfs.receiving.signing_up import Again
from cbfs.sending.cover_traffic import CoverTraffic
from cbfs_common.session.prekey import decode_prekey
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import (
    AnyReply,
    Code,
    Delete,
    EnvelopeIds,
    ErrorReply,
    Fetch,
    LastMark,
    List,
    SwapMark,
    decode_request,
)
from tests.support.healing_world import Quiet, Shelf, World


class Home(Shelf):
    """A home server without mail, as a link of its owner."""

    mark = b""

    def _answer(self, payload: bytes) -> AnyReply:
        request = decode_request(payload)
        if isinstance(request, SwapMark):
            found = self.mark
            if found == request.seen:
                self.mark = request.new
            return LastMark(found)
        if isinstance(request, List):
            return EnvelopeIds((), more=False)
        if isinstance(request, Fetch):
            return ErrorReply(Code.UNKNOWN_ENVELOPE)
        return Done() if isinstance(request, Delete) else super()._answer(payload)


class NoDummies:
    """Nothing of what comes is one's own."""

    async def forget(self, _ids: object) -> None:
        pass


def test_prekeys_are_replaced_as_soon_as_their_secrets_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, home = World(tmp_path), Home()
    world.begin(("alice",))
    alice = world.clients["alice"]
    transport = alice.account.transport

    @asynccontextmanager
    async def opened(*_arguments: object) -> AsyncIterator[Home]:
        yield home

    monkeypatch.setattr("cbfs.receiving.mailbox.open_link", opened)

    copies = Copies(alice.context, Quiet(alice.context), lambda: None)
    cover, receiver = cast(CoverTraffic, NoDummies()), cast(Receiver, None)
    again = Again(alice.context, lambda _: None)
    polling = Polling(alice.context, receiver, cover, copies, None, again)

    async def body() -> None:
        for _ in range(4):
            await polling.poll()
        assert home.one_time, "some are there, and more are to come"
        assert not unknown()
        counter = open_mark(home.mark, transport).counter
        other = CopyMark(counter + 9, SYSTEM_RANDOM.token(INSTANCE_SIZE))
        home.mark = seal_mark(other, transport, SYSTEM_RANDOM)
        await polling.poll()
        assert not copies.stopped
        assert unknown(), "it has begun anew"
        for _ in range(2):  # they are counted, and replaced
            await polling.poll()
        assert not unknown()

    def unknown() -> list[bytes]:
        """Prekeys that are given away, and cannot be answered."""
        given = [decode_prekey(record).id for record in (*home.one_time, home.last_resort)]
        return [id_ for id_ in given if id_ not in alice.context.sessions.prekeys.pairs]

    trio.run(body)
    world.close()
