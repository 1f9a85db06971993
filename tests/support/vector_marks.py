"""Vectors of marks as the programs' code reads them."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.claim import (
    CopyMark,
    CopyStanding,
    CopyState,
    Finding,
    Marker,
    open_mark,
    seal_mark,
)
from cbfs_common.primitives import dh_public
from cbfs_common.wire.requests import (
    AnyReply,
    AnyRequest,
    CreateAccount,
    LastMark,
    SwapMark,
    decode_reply,
    encode,
)
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.push import Pusher
from cbfs_server.service import Service
from tests.support.talking import scripted
from tests.support.vectors import Readers

Given = dict[str, Any]
NOW = 1_800_000_000_000


def made(transport: bytes, salt: bytes, counter: int, instance: bytes) -> Given:
    return {"mark": seal_mark(CopyMark(counter, instance), transport, scripted([salt]))}


def read(transport: bytes, mark: bytes) -> Given:
    found = open_mark(mark, transport)
    return {"counter": found.counter, "instance": found.instance}


class _Asking:
    """A client whose key is proved, of a server without sockets."""

    def __init__(self, service: Service) -> None:
        self.key = dh_public(bytes(range(32)))
        self._service = service
        self._replies: list[AnyReply] = []
        self._came = trio.Event()

    def send(self, _id: int, payload: bytes) -> None:
        self._replies.append(decode_reply(payload))
        self._came.set()

    async def ask(self, asked: AnyRequest) -> AnyReply:
        self._came = trio.Event()
        self._service.handle(self, 1, encode(asked))  # type: ignore[arg-type]
        await self._came.wait()
        return self._replies.pop()


def swap(there: bytes, seen: bytes, new: bytes) -> Given:
    """By the server's store, on a disk."""
    told: list[bytes] = []

    async def main(store: LmdbStore) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            client = _Asking(Service(store, Pusher(store), lambda: NOW / 1_000))
            await client.ask(CreateAccount())
            if there:
                await client.ask(SwapMark(b"", there))
            reply = await client.ask(SwapMark(seen, new))
            assert isinstance(reply, LastMark)
            told.append(reply.mark)
            with store.read() as reader:
                told.append(reader.mark_of(client.key) or b"")
            nursery.cancel_scope.cancel()

    with TemporaryDirectory() as place:
        store = LmdbStore(Path(place) / "store")
        try:
            trio.run(main, store)
        finally:
            store.close()
    return dict(zip(("told", "after"), told, strict=True))


STATES = {
    "at work": CopyState.GOES_ON,
    "restored": CopyState.TAKES_OVER,
    "claimed": CopyState.CLAIMED,
}


def found(transport: bytes, put: bytes, state: str, since: int | None, found: bytes) -> Given:
    own = open_mark(put, transport)
    begun = 0 if since is None else NOW - since * 1_000
    marker = Marker(transport, SYSTEM_RANDOM)
    standing = CopyStanding(own.counter, own.instance, put, begun, STATES[state])
    after, finding = marker.judge(standing, found, NOW)
    if after.state is CopyState.STOPPED:
        assert finding is Finding.TWO
        return {"does": "stops", "counter": marker.claimed(after, NOW).counter}
    assert open_mark(after.put, transport) == CopyMark(after.counter, after.instance)
    if finding is Finding.COPY:
        does = "begins anew"
    else:
        does = "nothing" if after == standing else "goes on"
    assert (after.instance == own.instance) is (does == "nothing")
    return {"does": does, "counter": after.counter}


READERS: Readers = {
    ("marks", "made"): made,
    ("marks", "mark"): read,
    ("marks", "swap"): swap,
    ("marks", "found"): found,
}
