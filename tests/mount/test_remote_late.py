"""What arrives late at the hub, of a link that a mount on another machine has given up: it is not
carried out when the mount has another one. And what is being copied is not taken away."""

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.mount.remote import session as session_module
from cbfs.mount.remote.session import HubSession
from cbfs.mount.remote.wire import ID_SIZE, VERSION, read_hub_answer, read_hub_request
from cbfs.mount.single.wire import Answer, Frames, FrameSender, SingleRequest, frame
from cbfs.tree.nodes import File
from cbfs_common.errors import DecodeError
from tests.mount.test_remote_hub import FIRST, Hub, hub
from tests.support.world import WAIT

LAPTOP, OTHER = b"l" * ID_SIZE, b"o" * ID_SIZE
NOTE = b"outbox/bob/note"


class Link:
    """One link of a mount, as ssh has it: what is asked while it is ``late`` comes when it is not
    any more."""

    def __init__(self, hub: Hub) -> None:
        self._ours, theirs = trio.testing.memory_stream_pair()
        self._theirs = theirs
        self._hub = hub
        self._frames = Frames()
        self._waiting = bytearray()
        self._number = 2
        self.late = False
        self.ended = trio.Event()

    async def run(self) -> None:
        """Until the hub ends it, or it ends itself."""
        view, place, uploads = self._hub.mount.view, self._hub._place, self._hub.uploads
        session = HubSession(FrameSender(self._theirs), view, place, SYSTEM_RANDOM, uploads)
        try:
            await session.run(SingleRequest(1, "hub", [""]), self._theirs, Frames())
        except* trio.BrokenResourceError:
            pass
        self.ended.set()
        await self._theirs.aclose()

    async def send(self, word: str, *arguments: object) -> int:
        self._number += 1
        data = frame(self._number, word, list(arguments))
        if self.late:
            self._waiting += data
        else:
            await self._ours.send_all(data)
        return self._number

    async def arrive(self) -> None:
        """What was late is there."""
        try:
            await self._ours.send_all(bytes(self._waiting))
        except trio.BrokenResourceError:
            return
        await trio.testing.wait_all_tasks_blocked(0.01)

    async def answer(self, number: int) -> Answer:
        with trio.fail_after(WAIT):
            while True:
                for each in self._frames.add(await self._ours.receive_some()):
                    answer = read_hub_answer(each)
                    if answer.number == number:
                        return answer

    async def ask(self, word: str, *arguments: object) -> Any:
        answer = await self.answer(await self.send(word, *arguments))
        assert not answer.errno, errno.errorcode[answer.errno]
        return answer.result

    async def hand_over(self, identity: bytes, content: bytes) -> None:
        await self.send("part", identity, 0, content)
        await self.send("put", identity, NOTE, 0o600, 0, len(content), b"", False, b"")

    async def has(self) -> None:
        """Returns when the hub has answered all that is asked until now."""
        await self.ask("ping")

    async def close(self) -> None:
        await self._ours.aclose()


@asynccontextmanager
async def links(hub: Hub, *mounts: bytes) -> AsyncIterator[list[Link]]:
    """Links of these mounts, each made when those before it were."""
    made = [Link(hub) for _ in mounts]
    async with trio.open_nursery() as nursery:
        for link, mount in zip(made, mounts, strict=True):
            nursery.start_soon(link.run)
            assert (await link.ask("hello", VERSION, mount))[0] == VERSION
        yield made
        for link in made:
            await link.close()


def test_what_an_earlier_link_of_the_same_mount_still_has_on_its_way_is_not_done(
    tmp_path: Path,
) -> None:
    async def body(hub: Hub) -> None:
        async with links(hub, LAPTOP) as [first]:
            first.late = True
            await first.hand_over(FIRST, b"text")
            await first.send("unlink", NOTE)
            async with links(hub, LAPTOP) as [second]:
                await second.hand_over(FIRST, b"text")
                await second.has()
                await second.ask("upload", FIRST)
                await second.send("taken", [FIRST])
                await second.has()
                assert not hub.notes()
                await first.arrive()
                await second.has()
                assert hub.drafts() == {"note": b"text"}
            assert first.ended.is_set()

    hub(tmp_path, body)


def test_the_next_link_waits_until_what_the_earlier_one_has_begun_is_over(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        contents = hub.mount.tree.contents
        save, begun, goes = contents.save, trio.Event(), trio.Event()

        async def slow(file: File, **words: Any) -> None:
            begun.set()
            await goes.wait()
            await save(file, **words)

        contents.save = slow  # type: ignore[method-assign]
        async with links(hub, LAPTOP) as [first], trio.open_nursery() as nursery:
            await first.hand_over(FIRST, b"text")
            await begun.wait()
            second = Link(hub)
            nursery.start_soon(second.run)
            hello = await second.send("hello", VERSION, LAPTOP)
            async with trio.open_nursery() as asking:

                @asking.start_soon
                async def _ask() -> None:
                    assert (await second.answer(hello)).result[0] == VERSION
                    assert hub.notes() == [FIRST]
                    answered.append(True)

                answered: list[bool] = []
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert not answered
                goes.set()
            assert await second.ask("upload", FIRST) is None
            await second.close()
        contents.save = save  # type: ignore[method-assign]
        assert hub.drafts() == {"note": b"text"}

    hub(tmp_path, body)


def test_a_link_before_which_something_goes_on_for_too_long_is_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again."""
    monkeypatch.setattr(session_module, "OVER_MAX", 0.01)

    async def body(hub: Hub) -> None:
        contents = hub.mount.tree.contents
        save, begun, goes = contents.save, trio.Event(), trio.Event()

        async def slow(file: File, **words: Any) -> None:
            begun.set()
            await goes.wait()
            await save(file, **words)

        contents.save = slow  # type: ignore[method-assign]
        async with links(hub, LAPTOP) as [first], trio.open_nursery() as nursery:
            await first.hand_over(FIRST, b"text")
            await begun.wait()
            second = Link(hub)
            nursery.start_soon(second.run)
            await second.send("hello", VERSION, LAPTOP)
            await second.ended.wait()
            goes.set()
            await first.ended.wait()
        contents.save = save  # type: ignore[method-assign]
        assert not hub.uploads.of(b"").links
        async with links(hub, LAPTOP) as [third]:
            assert await third.ask("upload", FIRST) is None

    hub(tmp_path, body)


def test_links_of_other_mounts_live_on(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        async with links(hub, LAPTOP, OTHER) as [first, second]:
            await first.hand_over(FIRST, b"text")
            await first.has()
            await second.has()
        assert hub.uploads.of(FIRST) is not hub.uploads.of(b"")  # nor those who see other things
        assert not hub.uploads.of(b"").links

    hub(tmp_path, body)


@pytest.mark.parametrize("mount", [b"", b"x", b"x" * (ID_SIZE + 1), 3, None, "x" * ID_SIZE])
def test_a_mount_says_which_one_it_is(mount: Any) -> None:
    with pytest.raises(DecodeError):
        read_hub_request(frame(1, "hello", [VERSION, mount])[4:])
    with pytest.raises(DecodeError):
        read_hub_request(frame(1, "hello", [VERSION])[4:])
