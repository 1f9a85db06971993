"""Where silent connections wait: who speaks leaves it, and the oldest ends first."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import trio
import trio.testing

from cbfs_host.lobby import Lobby


@contextmanager
def pairs(lobby: Lobby, count: int) -> Iterator[list[socket.socket]]:
    """The far ends of so many connections in the lobby."""
    ends = []
    for _ in range(count):
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        lobby.add(near)
        ends.append(far)
    try:
        yield ends
    finally:
        for end in ends:
            end.close()


def is_ended(end: socket.socket) -> bool:
    try:
        return end.recv(1) == b""
    except BlockingIOError:
        return False


def test_who_speaks_or_goes_leaves_the_lobby_and_nobody_else() -> None:
    async def main() -> None:
        lobby = Lobby()
        with pairs(lobby, 5) as ends:
            ends[3].send(b"hello")
            (third,) = await lobby.spoke()
            assert third.recv(9) == b"hello"
            ends[1].shutdown(socket.SHUT_WR)
            (first,) = await lobby.spoke()
            assert first.recv(9) == b""
            assert len(lobby) == 3
            for sock in (third, first):
                sock.close()
            with trio.move_on_after(1) as waited:
                await lobby.spoke()
            assert waited.cancelled_caught
        lobby.clear()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


def test_the_oldest_ends_first_and_all_that_are_too_old() -> None:
    async def main() -> None:
        lobby = Lobby()
        with pairs(lobby, 3) as old:
            assert lobby.end_oldest()
            assert [is_ended(end) for end in old] == [True, False, False]
            await trio.sleep(10)
            with pairs(lobby, 2) as young:
                lobby.end_older(10)
                assert len(lobby) == 4
                await trio.sleep(1)
                lobby.end_older(10)
                assert [is_ended(end) for end in (*old, *young)] == [True] * 3 + [False] * 2
                assert lobby.end_oldest()
                assert lobby.end_oldest()
                assert not lobby.end_oldest()
        lobby.clear()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
