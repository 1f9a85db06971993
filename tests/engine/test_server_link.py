"""The client's link against servers that do what servers must not."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import memory_stream_pair

from cbfs.network.link import CALL_TIMEOUT, HANDSHAKE_TIMEOUT, Link, LinkClosed, open_link, request
from cbfs_common.errors import CbfsError, DecodeError, LimitError, TransportError
from cbfs_common.limits import PUSH_WINDOW
from cbfs_common.profile import Address
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import CountPrekeys, encode
from cbfs_common.wire.transport import (
    PAYLOAD_MAX,
    PUSH,
    Established,
    Frame,
    ServerConnection,
    ServerSecret,
)
from tests.support.impostor import shown_as
from tests.support.serving import RANDOM

SECRET = ServerSecret(bytes(range(96)))
ADDRESS = Address(SECRET.key, "localhost", 1)


class Scripted:
    """A server of which a test says what it does. It is its own dialer."""

    def __init__(self, secret: ServerSecret = SECRET) -> None:
        self._client, self.stream = memory_stream_pair()
        self.transport = ServerConnection(secret, RANDOM)
        self._requests: list[Frame] = []

    async def dial(self, host: str, port: int, isolation: bytes) -> trio.abc.Stream:
        assert isolation == b"apart"
        return self._client

    async def shake_hands(self) -> None:
        while True:
            for event in self.transport.receive(await self.stream.receive_some()):
                if isinstance(event, Established):
                    return
                raise AssertionError(event)
            await self.stream.send_all(self.transport.data_to_send())

    async def next_request(self) -> Frame:
        while not self._requests:
            for event in self.transport.receive(await self.stream.receive_some()):
                assert isinstance(event, Frame)
                self._requests.append(event)
        return self._requests.pop(0)

    async def send(self, id: int, payload: bytes) -> None:
        await self.stream.send_all(self.transport.send(id, payload))


Side = Callable[[Link], Awaitable[None]]


def play(server: Scripted, serve: Callable[[], Awaitable[None]], use: Side) -> None:
    """The handshake, and then both sides beside each other."""

    async def serving() -> None:
        await server.shake_hands()
        await serve()

    async def main() -> None:
        failure: CbfsError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serving)
            try:
                async with open_link(server, ADDRESS, None, b"apart", RANDOM) as link:
                    await use(link)
            except CbfsError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


def test_replies_find_their_callers_in_any_order() -> None:
    server = Scripted()

    async def serve() -> None:
        asked = [await server.next_request() for _ in range(5)]
        await server.send(PUSH, b"pushed")
        for message in reversed(asked):
            await server.send(message.id, b"to " + message.payload)

    async def use(link: Link) -> None:
        async def ask(number: int) -> None:
            assert await link.call(b"%d" % number) == b"to %d" % number

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(ask, number)
        assert await link.pushes.receive() == b"pushed"

    play(server, serve, use)


def test_all_that_wait_are_told_when_the_server_closes() -> None:
    server = Scripted()

    async def serve() -> None:
        for _ in range(3):
            await server.next_request()
        await server.stream.aclose()

    async def use(link: Link) -> None:
        async def ask() -> None:
            with pytest.raises(LinkClosed) as caught:
                await link.call(b"x")
            assert caught.value.hint

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        assert [push async for push in link.pushes] == []
        with pytest.raises(LinkClosed):
            await link.call(b"x")

    play(server, serve, use)


def test_a_server_that_does_not_answer_is_given_up() -> None:
    server = Scripted()

    async def use(link: Link) -> None:
        start = trio.current_time()
        with pytest.raises(LinkClosed, match="does not answer"):
            await link.call(b"x")
        assert trio.current_time() - start == CALL_TIMEOUT
        with pytest.raises(LinkClosed):
            await link.call(b"x")

    play(server, trio.sleep_forever, use)


def test_a_cancelled_call_leaves_the_link_usable() -> None:
    server = Scripted()

    async def serve() -> None:
        first, second = await server.next_request(), await server.next_request()
        await server.send(first.id, b"late")
        await server.send(second.id, b"reply")

    async def use(link: Link) -> None:
        with trio.move_on_after(1):
            await link.call(b"given up")
        assert await link.call(b"x") == b"reply"

    play(server, serve, use)


def test_an_oversize_call_is_refused_and_leaves_the_link_usable() -> None:
    server = Scripted()

    async def serve() -> None:
        await server.send((await server.next_request()).id, b"reply")

    async def use(link: Link) -> None:
        with pytest.raises(LimitError):
            await link.call(bytes(PAYLOAD_MAX + 1))
        assert await link.call(b"x") == b"reply"

    play(server, serve, use)


@pytest.mark.parametrize("frames", [[(77, b"")], [(PUSH, b"x")] * (PUSH_WINDOW + 1)])
def test_a_server_that_breaks_the_protocol_is_left(frames: list[tuple[int, bytes]]) -> None:
    server = Scripted()

    async def serve() -> None:
        for frame in frames:
            await server.send(*frame)

    async def use(link: Link) -> None:
        with pytest.raises(LinkClosed, match=r"pushes more|not asked"):
            raise await link.wait_closed()

    play(server, serve, use)


def test_a_garbage_frame_ends_the_link() -> None:
    server = Scripted()

    async def serve() -> None:
        await server.stream.send_all(bytes(20_000))

    async def use(link: Link) -> None:
        with pytest.raises(LinkClosed, match="cannot be opened"):
            await link.call(b"x")

    play(server, serve, use)


def test_a_reply_that_does_not_fit_is_an_error() -> None:
    server = Scripted()

    async def serve() -> None:
        await server.send((await server.next_request()).id, encode(Done()))

    async def use(link: Link) -> None:
        with pytest.raises(DecodeError):
            await request(link, CountPrekeys())

    play(server, serve, use)


def test_errors_of_the_block_come_out_as_they_are() -> None:
    async def use(link: Link) -> None:
        raise LimitError("mine")

    with pytest.raises(LimitError, match="mine"):
        play(Scripted(), trio.sleep_forever, use)


def test_a_server_with_another_key_is_named() -> None:
    async def use(link: Link) -> None:
        raise AssertionError("the link must not open")

    with pytest.raises(TransportError, match="another key") as caught:
        play(Scripted(ServerSecret(bytes(96))), trio.sleep_forever, use)
    assert caught.value.hint


def test_who_has_only_the_x25519_key_of_a_server_reads_nothing_that_it_is_asked() -> None:
    """He shows keys that are right, and cannot go on: the client's proof does not open to him."""
    server = Scripted(shown_as(ServerSecret(SECRET.x + bytes(64)), SECRET.public))
    heard: list[TransportError] = []

    async def use(link: Link) -> None:
        await link.call(b"asked")

    async def shake_hands() -> None:
        try:
            await Scripted.shake_hands(server)
        except TransportError as error:
            heard.append(error)
            await server.stream.aclose()

    server.shake_hands = shake_hands  # type: ignore[method-assign]
    with pytest.raises(LinkClosed):
        play(server, trio.sleep_forever, use)
    assert len(heard) == 1


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n" * 99])
def test_what_is_no_cbfs_server_is_named(answer: bytes | None) -> None:
    async def main() -> float:
        server = Scripted()
        if answer is not None:
            await server.stream.send_all(answer)
            await server.stream.send_eof()
        start = trio.current_time()
        with pytest.raises(TransportError):
            async with open_link(server, ADDRESS, None, b"apart", RANDOM):
                raise AssertionError("the link must not open")
        return trio.current_time() - start

    waited = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))
    assert waited == (HANDSHAKE_TIMEOUT if answer is None else 0)
