"""What the home server may delete is told to it several at a time, and not much later."""

from collections.abc import Iterable
from typing import cast

import pytest
import trio

from cbfs.network.link import Link, LinkClosed
from cbfs.receiving.deletions import MOST, PUT_OFF, Deletions
from cbfs.sending.cover_traffic import CoverTraffic
from cbfs_common.limits import PUSH_WINDOW
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import Delete, decode_request, encode
from tests.engine.test_server_link import Scripted, play


class Cover:
    """What it was told."""

    def __init__(self) -> None:
        self.gone: list[bytes] = []

    async def forget(self, ids: Iterable[bytes]) -> None:
        self.gone += ids


def ids(first: int, count: int) -> tuple[bytes, ...]:
    return tuple(number.to_bytes(16, "big") for number in range(first, first + count))


class Server(Scripted):
    """It deletes, and remembers what and when."""

    def __init__(self, answers: int = 1_000) -> None:
        super().__init__()
        self.deleted: list[tuple[float, tuple[bytes, ...]]] = []
        self._answers = answers

    async def serve(self) -> None:
        while True:
            frame = await self.next_request()
            asked = decode_request(frame.payload)
            assert isinstance(asked, Delete)
            self.deleted.append((trio.current_time(), asked.ids))
            if len(self.deleted) > self._answers:
                await self.stream.aclose()
                return
            await self.send(frame.id, encode(Done()))


def deletions() -> tuple[Deletions, Cover]:
    cover = Cover()
    return Deletions(cast(CoverTraffic, cover)), cover


async def until_told(cover: Cover, count: int) -> None:
    while len(cover.gone) < count:
        await trio.sleep(0.05)


def test_few_wait_for_more_and_not_longer_than_is_said() -> None:
    server, (waiting, cover) = Server(), deletions()

    async def use(link: Link) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting.run, link)
            for first in (0, 10):
                began = trio.current_time()
                for number in range(3):
                    waiting.add(ids(first + number, 1))
                    await trio.sleep(PUT_OFF / 4)
                await until_told(cover, 3 if first == 0 else 6)
                assert server.deleted[-1] == (began + PUT_OFF, ids(first, 3))
            nursery.cancel_scope.cancel()

    play(server, server.serve, use)
    assert len(server.deleted) == 2


def test_many_wait_for_nothing() -> None:
    """The server pushes no more than a window ahead of what is deleted."""
    assert MOST < PUSH_WINDOW
    server, (waiting, cover) = Server(), deletions()

    async def use(link: Link) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting.run, link)
            began = trio.current_time()
            waiting.add(ids(0, MOST))
            await until_told(cover, MOST)
            assert server.deleted == [(began, ids(0, MOST))]
            nursery.cancel_scope.cancel()

    play(server, server.serve, use)


def test_what_no_server_has_answered_is_told_again() -> None:
    first, (waiting, cover) = Server(answers=0), deletions()
    waiting.add(ids(0, 3))
    with pytest.raises(LinkClosed):
        play(first, first.serve, waiting.finish)
    assert not cover.gone
    waiting.add(ids(3, 1))
    second = Server()
    play(second, second.serve, waiting.finish)
    assert [told for _when, told in second.deleted] == [ids(0, 4)]
    assert tuple(cover.gone) == ids(0, 4)
