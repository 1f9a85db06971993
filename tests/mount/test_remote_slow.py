"""A mount on another machine over a link that is slow, or dies: on a clock that nobody waits for.
A large file arrives, holds up nobody who asks for something else, and goes on after a cut."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.mount.lifecycle import LINGER
from cbfs.mount.remote.link import ASK_MAX, MOST_WAIT, PING, AwayError, HubLink
from cbfs.mount.remote.spool import WaitingFile
from cbfs.mount.remote.wire import ID_SIZE, VERSION, read_hub_request
from cbfs.mount.single.wire import Frames, SingleRequest, frame

RATE = 100 * 1024
"""Bytes in a second that go up."""

HELD = 2 << 20
"""Bytes that ssh and the kernel hold."""

STEP = 4_096
FILE = bytes(range(256)) * (80 << 10)  # 20 MiB
FIRST, SECOND = (bytes([number]) * ID_SIZE for number in (1, 2))


class Hub:
    """It has what comes, link after link."""

    def __init__(self) -> None:
        self.links = 0
        self.mounts: list[bytes] = []
        """Which mount each link has said that it is of."""
        self.came = 0
        """Bytes of parts."""
        self.uploads: dict[bytes, bytearray] = {}
        self.made: list[bytes] = []
        self.asked: list[str] = []
        self.refuses: dict[str, int] = {}

    def answer(self, request: SingleRequest) -> Any:
        """What the request gives, or why not."""
        arguments = request.arguments
        self.asked.append(request.word)
        if request.word in self.refuses:
            return OSError(self.refuses[request.word], "")
        if request.word == "hello":
            self.mounts.append(arguments[1])
            return [VERSION, 0, bytes(ID_SIZE)]
        if request.word == "part":
            identity, offset, data = arguments
            self.came += len(data)
            there = self.uploads.setdefault(identity, bytearray())
            assert offset <= len(there)
            there[offset : offset + len(data)] = data
            return len(there)
        if request.word == "upload":
            return len(self.uploads.get(arguments[0], b""))
        if request.word == "put":
            self.made.append(bytes(self.uploads.pop(arguments[0])))
            return [b"film", []]
        return 0


class Line(trio.abc.SendStream):
    """In the place of ssh: what goes up takes its time, and at most HELD of it is on its way."""

    def __init__(self, hub: Hub, rate: int) -> None:
        hub.links += 1
        self._hub = hub
        self._rate = rate
        self._frames = Frames()
        self._in, self._way = trio.open_memory_channel[bytes](HELD // STEP)
        self._answers, self.stdout = trio.testing.memory_stream_one_way_pair()
        self.stdin, self.stderr = self, None
        self.dies_at = len(FILE) * 9
        """Bytes of parts after which nothing passes any more."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for at in range(0, len(data), STEP):
            await self._in.send(bytes(data[at : at + STEP]))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self._in.close()

    async def pump(self) -> None:
        """Until cancelled, bring what has come to the hub."""
        await self._answers.send_all(frame(1, 0, None))
        async for piece in self._way:
            if self._hub.came >= self.dies_at:
                await trio.sleep_forever()
            await trio.sleep(len(piece) / self._rate)
            for each in self._frames.add(piece):
                request = read_hub_request(each)
                result = self._hub.answer(request)
                if isinstance(result, OSError):
                    await self._answers.send_all(frame(request.number, result.errno, None))
                elif request.number:
                    await self._answers.send_all(frame(request.number, 0, result))

    def kill(self) -> None:
        """As of a process."""
        self._answers.close()

    async def wait(self) -> int:
        """As of a process."""
        return 0


class World:
    """A hub, and the link to it."""

    def __init__(self, nursery: trio.Nursery, rate: int) -> None:
        self.hub = Hub()
        self.lines: list[Line] = []
        self.link = HubLink(("ssh",), SYSTEM_RANDOM)
        self._nursery = nursery
        self._rate = rate
        self._change = trio.Event()

    async def open(self, *_arguments: object, **_words: object) -> Line:
        """A process of ssh."""
        self.lines.append(Line(self.hub, self._rate))
        self._nursery.start_soon(self.lines[-1].pump)
        return self.lines[-1]

    async def begin(self) -> None:
        """Returns when there is a link."""
        await self._nursery.start(self.link.run, lambda _news: None, self._changed, self._back)

    def _changed(self) -> None:
        self._change.set()
        self._change = trio.Event()

    async def _back(self) -> None:
        pass

    async def another(self) -> None:
        """Returns when there is another link."""
        before = self.link.generation
        while self.link.generation == before:
            await self._change.wait()


def world(
    monkeypatch: pytest.MonkeyPatch, body: Callable[[World], Awaitable[None]], rate: int = RATE
) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            made = World(nursery, rate)
            monkeypatch.setattr(trio.lowlevel, "open_process", made.open)
            await made.begin()
            await body(made)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def item(identity: bytes, content: bytes) -> WaitingFile:
    return WaitingFile(identity, b"outbox/bob/film", 0o600, 0, b"", False, len(content))


@pytest.mark.parametrize("rate", [RATE // 10, RATE, 100 * RATE])
def test_a_large_file_arrives_and_nobody_waits_for_all_of_it(
    rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(made: World) -> None:
        between: list[int] = []
        content = FILE if rate >= RATE else FILE[: 2 << 20]

        async def ask() -> None:
            while True:
                before = made.hub.came
                await made.link.ask("stat", b"")
                between.append(made.hub.came - before)
                await trio.sleep(1.0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await made.link.hand_over(item(FIRST, content), content)
            nursery.cancel_scope.cancel()
        assert made.hub.made == [content]
        assert made.hub.links == 1
        assert made.hub.came == len(content)
        # what is asked comes before all but what is on its way, which takes some two seconds
        assert between
        assert max(between) <= max(4 * rate, 64 * 1024)

    world(monkeypatch, body, rate)


def test_a_small_file_goes_beside_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(made: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.link.hand_over, item(FIRST, FILE), FILE)
            await trio.sleep(20)
            await made.link.hand_over(item(SECOND, b"note"), b"note")
            assert made.hub.made == [b"note"]
        assert made.hub.made == [b"note", FILE]

    world(monkeypatch, body)


def test_a_link_that_dies_under_a_large_file_is_found_out_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body(made: World) -> None:
        half = made.lines[0].dies_at = len(FILE) // 2
        with pytest.raises(AwayError):
            await made.link.hand_over(item(FIRST, FILE), FILE)
        await made.another()
        came = made.hub.came
        assert half <= came < half + HELD
        await made.link.hand_over(item(FIRST, FILE), FILE, again=True)
        assert made.hub.made == [FILE]
        assert made.hub.came == len(FILE)  # each byte once

    world(monkeypatch, body)


def test_a_link_on_which_nothing_comes_ends_whatever_goes_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In some seconds that nobody waits for."""

    async def body(made: World) -> None:
        made.lines[0].dies_at = 0
        began = trio.current_time()

        async def ask() -> None:
            while True:
                with pytest.raises(AwayError):
                    await made.link.ask("stat", b"")
                await trio.sleep(1.0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await made.another()
            nursery.cancel_scope.cancel()
        assert made.hub.links == 2
        assert made.hub.mounts[0] == made.hub.mounts[1]  # so that the hub ends the first one
        assert trio.current_time() - began <= PING + 2 * ASK_MAX

    world(monkeypatch, body)


def test_a_hub_without_a_mount_waits_for_a_link_that_is_tried_again() -> None:
    assert LINGER > 2 * MOST_WAIT
