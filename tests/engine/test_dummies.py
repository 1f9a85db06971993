"""Dummies at a home server that does not take them the first time."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio

from cbfs.context import Context
from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import open_link, request
from cbfs.sending.cover_traffic import CoverTraffic
from cbfs.storage.store import Store, Table
from cbfs_common.primitives import dh_public
from cbfs_common.profile import Address
from cbfs_common.wire.requests import CreateAccount, Delete, List
from tests.support.serving import RANDOM, RunningServer, running_server
from tests.support.stores import open_store


class Cut(trio.abc.Stream):
    """A connection that breaks when the reply to what was asked comes."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._asked = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._asked += 1
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        if self._asked > 2:  # hello, proof, and the request
            raise trio.BrokenResourceError
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


class Moody(LoopbackDialer):
    """Connections that break as long as ``cuts``."""

    cuts = False

    async def dial(self, host: str, port: int, isolation: bytes) -> trio.abc.Stream:
        stream = await super().dial(host, port, isolation)
        return Cut(stream) if self.cuts else stream


class Home:
    """An account with its dummies, and a real server."""

    def __init__(self, store: Store, address: Address, secret: bytes) -> None:
        self.store = store
        self.address = address
        self.secret = secret
        self.dialer = Moody()
        profile = SimpleNamespace(user_id=dh_public(secret))
        self._context = SimpleNamespace(
            store=store, random=RANDOM, clock=lambda: 1_800_000_000_000,
            account=SimpleNamespace(server=address, profile=profile),
            dialer=SimpleNamespace(in_turn=self.dialer),
        )  # fmt: skip
        self.cover = CoverTraffic(cast(Context, self._context))

    def made(self) -> set[bytes]:
        with self.store.read() as reader:
            return {key for key, _value in reader.items(Table.COVER)}

    async def mailbox(self) -> list[bytes]:
        async with open_link(LoopbackDialer(), self.address, self.secret, b"home", RANDOM) as link:
            return list((await request(link, List(b""))).ids)

    async def make_account(self) -> None:
        async with open_link(LoopbackDialer(), self.address, self.secret, b"home", RANDOM) as link:
            await request(link, CreateAccount())

    async def delete(self, ids: list[bytes]) -> None:
        async with open_link(LoopbackDialer(), self.address, self.secret, b"home", RANDOM) as link:
            await request(link, Delete(tuple(ids)))
        await self.cover.forget(ids)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("dummies") / "server") as running:
        yield running


def at_home(
    place: Path, server: RunningServer, secret: bytes, body: Callable[[Home], Awaitable[None]]
) -> None:
    store = open_store(place)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            await body(Home(store, server.address, secret))
            nursery.cancel_scope.cancel()

    try:
        trio.run(main)
    finally:
        store.close()


def test_one_that_is_refused_comes_again_as_mail_does(
    tmp_path: Path, server: RunningServer
) -> None:
    """Else the home server refuses everything once: what never comes again was a dummy."""

    async def body(home: Home) -> None:
        for _ in range(3):
            await home.cover.send()  # the server knows no such account
        (refused,) = home.made()
        await home.make_account()
        await home.cover.send()
        assert await home.mailbox() == [refused]
        await home.cover.send()
        assert len(await home.mailbox()) == 2

    at_home(tmp_path, server, bytes(range(32)), body)


def test_one_whose_reply_is_lost_comes_again_unless_it_has_come_back(
    tmp_path: Path, server: RunningServer
) -> None:
    """As it would be something unreadable when it came once more."""

    async def body(home: Home) -> None:
        await home.make_account()
        home.dialer.cuts = True
        await home.cover.send()
        first = await home.mailbox()
        assert set(first) == home.made()
        await home.cover.send()
        assert await home.mailbox() == first
        await home.delete(first)
        assert not home.made()
        home.dialer.cuts = False
        await home.cover.send()
        (second,) = await home.mailbox()
        assert second not in first
        assert second in home.made()

    at_home(tmp_path, server, bytes(range(1, 33)), body)
