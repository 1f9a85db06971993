"""A group of fifty: real clients with a store each, a real server and a real directory."""

from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from cbfs.commands.init import make
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.messages.model import Delivery, Message
from cbfs_common.limits import PARTICIPANTS_MAX
from tests.engine.test_engine import NO_TOR, Recorder, read, send
from tests.support.world import World, make_easy

NAMES = tuple(f"member{number:02}" for number in range(PARTICIPANTS_MAX))
FIRST, *OTHERS = NAMES
AWAY, SPEAKERS = 3, 3
WELCOME = b"welcome, all of you"

AT_ONCE = 8
"""Accounts that are made at once."""

FINISH = 600.0
"""Seconds in which all must have come, on whatever machine."""


async def make_all(world: World) -> None:
    """An account for each but the first, as cbfs init makes them."""
    policy, limiter = world.place / "names" / "policy", trio.CapacityLimiter(AT_ONCE)

    def one(name: str) -> None:
        make(name, world.place / name, world.server.url, policy, NO_TOR, lambda _text: None)
        make_easy(world.place / name)

    async with trio.open_nursery() as nursery:
        for name in OTHERS:
            nursery.start_soon(partial(trio.to_thread.run_sync, one, name, limiter=limiter))


def begin(mountpoint: Path) -> None:
    """A folder's name is too short for so many: they stand in its metadata.toml."""
    group = mountpoint / "tmp" / "group"
    group.mkdir()
    people = ", ".join(f'"{name}"' for name in OTHERS)
    (group / "metadata.toml").write_text(f'participants = [{people}]\nsubject = "all of us"\n')
    (group / "hello").write_bytes(WELCOME)
    group.rename(mountpoint / "outbox" / "group")


async def eventually(look: Callable[[], object]) -> None:
    with trio.fail_after(FINISH):
        while not look():
            await trio.sleep(0.05)


def has(view: Recorder, count: int) -> bool:
    return len(view.arrived) >= count


def got(engine: Engine, view: Recorder) -> list[tuple[str, bytes]]:
    """(sender, text) of all that has arrived."""
    return sorted((message.sender, read(engine, message)) for message in view.arrived)


async def all_have(
    engines: dict[str, Engine], views: dict[str, Recorder], said: dict[str, bytes]
) -> None:
    """Until everybody has what the others have said; each of it once."""
    for name, engine in engines.items():
        expected = sorted((who, text) for who, text in said.items() if who != name)
        view = views[name]
        await eventually(partial(has, view, len(expected)))
        assert got(engine, view) == expected, name
        (conversation,) = engine.conversations()
        assert (conversation.participants, conversation.subject) == (NAMES, "all of us")
        assert len(engine.messages(conversation.id)) == len(said)


def delivered(engine: Engine, message: Message) -> bool:
    found = engine.message(message.conversation, message.serial)
    return found is not None and all(state is not Delivery.QUEUED for _, state in found.recipients)


@pytest.mark.timeout(1_200)
@pytest.mark.mount
def test_everybody_of_fifty_gets_each_message_once(tmp_path: Path) -> None:
    """One begins, on a mount; others answer, who have never written to each other; some are away
    when it is said, and get it when they are back."""

    async def main(world: World) -> None:
        user = await trio.to_thread.run_sync(world.user, FIRST)
        await make_all(world)
        said = {FIRST: WELCOME}
        async with AsyncExitStack() as stack:
            engines: dict[str, Engine] = {}
            views: dict[str, Recorder] = {}

            async def come(name: str) -> None:
                engine = await stack.enter_async_context(running(world.place / name, NO_TOR))
                engines[name], views[name] = engine, Recorder()
                engine.attach(views[name])

            for name in OTHERS[:-AWAY]:
                await come(name)
            await trio.to_thread.run_sync(begin, user.mountpoint)
            sent: dict[str, Message] = {}
            for name in OTHERS[:SPEAKERS]:
                await eventually(partial(has, views[name], 1))
                said[name] = f"hello, {name} here".encode()
                others = tuple(person for person in NAMES if person != name)
                sent[name] = await send(engines[name], others, said[name])
            for name in OTHERS[-AWAY:]:
                await come(name)
            await all_have(engines, views, said)
            for name, message in sent.items():
                await eventually(partial(delivered, engines[name], message))

        def texts() -> list[bytes]:
            return sorted(path.read_bytes() for path in user.messages())

        def look() -> bool:
            return len(texts()) >= len(said)

        with trio.fail_after(FINISH):
            while not await trio.to_thread.run_sync(look):
                await trio.sleep(0.1)
        assert await trio.to_thread.run_sync(texts) == sorted(said.values())
        (folder,) = (user.mountpoint / "conversations").iterdir()
        assert folder.name.endswith("-more all of us")

    with ExitStack() as stack:
        trio.run(main, World(tmp_path, stack))
