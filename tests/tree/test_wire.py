"""The connection between a window and its daemon: what goes when, and in which order. No mount."""

import socket

import pytest
import trio
import trio.testing

from cbfs.mount.single.process import Daemon
from cbfs.mount.single.wire import Answer, FrameSender, frame

WAIT = 60.0
"""Seconds that anything may take on a busy machine."""


async def _received(theirs: trio.SocketStream, size: int) -> bytes:
    data = b""
    with trio.fail_after(WAIT):
        while len(data) < size:
            data += await theirs.receive_some()
    return data


def test_what_nobody_waits_for_goes_with_the_next() -> None:
    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        wire = FrameSender(ours)
        wire.hold(b"one ")
        wire.hold(b"two ")
        assert wire.holds
        await wire.send(b"three")
        assert not wire.holds
        assert await theirs.receive_some() == b"one two three"
        wire.hold(b"four")
        await wire.push()
        assert await theirs.receive_some() == b"four"
        await wire.push()  # nothing is held
        wire.close()

    trio.run(main)


def test_what_the_connection_does_not_take_at_once_goes_in_its_order() -> None:
    """Frames of several tasks, larger than what a socket holds, and small ones behind them."""

    async def main() -> None:
        ours, theirs = (
            trio.SocketStream(s) for s in map(trio.socket.from_stdlib_socket, socket.socketpair())
        )
        wire = FrameSender(ours)
        frames = [bytes([number]) * (1 << 20 if number % 2 else 10) for number in range(8)]
        async with trio.open_nursery() as nursery:
            for frame in frames:
                nursery.start_soon(wire.send, frame)
                await trio.testing.wait_all_tasks_blocked()
            wire.hold(b"last")
            nursery.start_soon(wire.push)
            whole = b"".join(frames) + b"last"
            assert await _received(theirs, len(whole)) == whole
        wire.close()
        await theirs.aclose()
        await ours.aclose()

    trio.run(main)


@pytest.mark.parametrize("outdated", [False, True])
def test_an_answer_that_is_outdated_when_it_is_given_out_says_so(*, outdated: bool) -> None:
    """Both come at once, and who has asked has its turn later: the kernel must not be given then
    what it was told to forget."""

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        daemon = Daemon(ours)  # type: ignore[arg-type]
        frames = [frame(1, 0, b"content"), frame(0, 0, [5, b""])]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.run)

            async def ask() -> None:
                assert await daemon.answer("open", 5, 0, 1) == Answer(1, 0, b"content")
                assert daemon.is_outdated is outdated
                await theirs.aclose()

            nursery.start_soon(ask)
            await theirs.receive_some()
            await theirs.send_all(b"".join(frames if outdated else reversed(frames)))
        assert await daemon.outdated.receive() == [5, b""]

    trio.run(main)
