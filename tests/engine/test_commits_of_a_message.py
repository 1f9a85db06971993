"""What a message is on the disk, from its one commit until it is at the recipient's server."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import cbfs.receiving.mailbox
import cbfs.sending.sender
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.interface import Outgoing
from cbfs.messages.history import load_messages
from cbfs.messages.model import Content
from cbfs.messages.queues import delivery_queue
from tests.engine.test_engine import NO_TOR, Recorder, account, read, send, until
from tests.support.fake_backend import put_content
from tests.support.killing import Kill, KillingEnv, Record, every_point
from tests.support.world import World


def texts(engine: Engine) -> list[bytes]:
    (conversation,) = engine.conversations()
    with engine.store.read() as reader:
        messages = load_messages(reader, conversation.id)
    return [read(engine, message) for message in messages]


def queued(engine: Engine) -> dict[str, int]:
    with engine.store.read() as reader:
        return delivery_queue.waiting(reader)


async def meet(first: Engine, second: Engine) -> None:
    """A message each way: from then on their session goes on."""
    views = Recorder(), Recorder()
    for engine, view in zip((first, second), views, strict=True):
        engine.attach(view)
    await send(first, (second.name,), b"hello")
    await until(lambda: views[1].arrived, "the first message")
    await send(second, (first.name,), b"hello yourself")
    await until(lambda: views[0].arrived, "the answer")
    await until(lambda: not (queued(first) or queued(second)), "all to be finished")


def test_a_message_is_sealed_in_its_own_commit(here: World) -> None:
    async def main() -> None:
        places = account(here, "adam"), account(here, "berta")
        async with running(places[0], NO_TOR) as adam, running(places[1], NO_TOR) as berta:
            await meet(adam, berta)
            message = await send(adam, ("berta",), b"sealed at once")
            with adam.store.read() as reader:  # before anything else can have come about
                job = delivery_queue.job_of(reader, message, "berta")
            assert job is not None
            assert (job.sealed, job.count) == (1, 1)
            await until(lambda: b"sealed at once" in texts(berta), "it to arrive")
            second = await send(adam, ("berta",), b"sealed at once, too")
            assert second.serial > message.serial
            await until(lambda: b"sealed at once, too" in texts(berta), "that as well")
            await until(lambda: not queued(adam), "it to be finished")

    trio.run(main)


def test_what_has_to_wait_is_not_sealed_before_its_turn(here: World) -> None:
    """Nothing at a pace, and nothing behind what waits already: keys may be others by then."""

    async def main() -> None:
        places = account(here, "conrad"), account(here, "dora")
        async with running(places[0], NO_TOR) as conrad, running(places[1], NO_TOR) as dora:
            await meet(conrad, dora)
            here.server.end()
            sealed = []
            for number in range(3):
                message = await send(conrad, ("dora",), b"waits %d" % number)
                with conrad.store.read() as reader:
                    job = delivery_queue.job_of(reader, message, "dora")
                assert job is not None
                sealed.append(job.sealed)
            assert sealed == [1, 0, 0]
            here.server.start()
            await until(lambda: len(texts(dora)) == 5, "all of it to arrive, in order")
            assert texts(dora)[2:] == [b"waits 0", b"waits 1", b"waits 2"]

    trio.run(main)


async def send_together(
    engine: Engine, to: str, texts: list[bytes], sent: Callable[[bytes], None]
) -> None:
    """As the mount sends what was finished in one folder at about the same time: the contents are
    on the disk already."""
    contents = await engine.store.commit(lambda w: [put_content(w, text) for text in texts])
    (conversation,) = engine.conversations()

    async def one(text: bytes, content: Content, behind: trio.Event) -> None:
        await engine.send(
            Outgoing(
                conversation.id,
                (to,),
                "",
                "f",
                content,
                lambda writer, conversation: None,
                committing=behind.set,
            )
        )
        sent(text)

    async with trio.open_nursery() as nursery:
        for text, content in zip(texts, contents, strict=True):
            behind = trio.Event()
            nursery.start_soon(one, text, content, behind)
            await behind.wait()


def commits(engine: Engine) -> int:
    return int(engine.store._env.info()["last_txnid"])


def test_messages_that_are_ready_together_are_few_commits_at_both_ends(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And in the order in which they were ready."""
    monkeypatch.setattr(cbfs.receiving.mailbox, "GATHER", 0.5)
    many = [b"one of many %d" % number for number in range(30)]

    async def main() -> None:
        places = account(here, "gustav"), account(here, "helene")
        async with running(places[0], NO_TOR) as gustav, running(places[1], NO_TOR) as helene:
            await meet(gustav, helene)
            before = [commits(engine) for engine in (gustav, helene)]
            told: list[bytes] = []
            await send_together(gustav, "helene", many, told.append)
            await until(lambda: len(texts(helene)) == 2 + len(many), "all of them to arrive")
            await until(lambda: not queued(gustav), "all of them to be finished")
            assert texts(helene)[2:] == texts(gustav)[2:] == many
            assert sorted(told) == sorted(many)
            assert commits(gustav) - before[0] < len(many)
            assert commits(helene) - before[1] < len(many) / 3

    trio.run(main)


def sending_together(place: Path, directory: Path, number: int) -> int:
    """Send some messages in one commit, and be killed at that point."""
    told, kill = Record(directory / "told"), Kill(number)
    words = [b"message %d of %d" % (of, number) for of in range(3)]

    async def main() -> None:
        async with running(place, NO_TOR) as engine:
            engine.store._env = KillingEnv(engine.store._env, kill)
            await send_together(engine, "irmgard", words, lambda text: told.write(text.decode()))
            await until(lambda: not queued(engine), "them to be finished")

    trio.run(main)
    return 0


@pytest.mark.slow
def test_a_kill_at_any_point_of_messages_of_one_commit_loses_none_and_doubles_none(
    here: World, tmp_path: Path
) -> None:
    places = account(here, "julius"), account(here, "irmgard")

    async def begin() -> None:
        async with running(places[0], NO_TOR) as julius, running(places[1], NO_TOR) as irmgard:
            await meet(julius, irmgard)

    async def after(words: list[bytes], told: list[bytes]) -> int:
        """How many of them were made."""
        async with running(places[0], NO_TOR) as julius, running(places[1], NO_TOR) as irmgard:
            await until(lambda: not queued(julius), "nothing to wait")
            made = [text for text in texts(julius) if text in words]
            assert set(told) <= set(made)
            assert made == words[: len(made)], "in their order"
            await send(julius, ("irmgard",), b"behind " + words[0])
            await until(lambda: b"behind " + words[0] in texts(irmgard), "what is behind them")
            assert [text for text in texts(irmgard) if text in words] == made
            return len(made)

    trio.run(begin)
    seen = []
    work = partial(sending_together, places[0])
    for number, directory in enumerate(every_point(work, tmp_path, 2)):
        words = [b"message %d of %d" % (of, 2 * number + 1) for of in range(3)]
        told = [" ".join(line).encode() for line in Record(directory / "told").lines()]
        seen.append(trio.run(partial(after, words, told)))
    assert (seen[0], seen[-1]) == (0, 3)


def sending(place: Path, directory: Path, number: int) -> int:
    """Send a message, and be killed at that point; what was told is in the record."""
    told, kill = Record(directory / "told"), Kill(number)
    asked = vars(cbfs.sending.sender)["request_in_order"]

    async def request_in_order(*arguments: Any) -> Any:
        kill.point()
        replies = await asked(*arguments)
        kill.point()
        return replies

    vars(cbfs.sending.sender)["request_in_order"] = request_in_order

    async def main() -> None:
        async with running(place, NO_TOR) as engine:
            engine.store._env = KillingEnv(engine.store._env, kill)
            await send(engine, ("frieda",), b"message %d" % number)
            told.write("told")
            await until(lambda: not queued(engine), "it to be finished")

    trio.run(main)
    return 0


@pytest.mark.slow
def test_a_kill_at_any_point_of_a_message_loses_nothing_and_doubles_nothing(
    here: World, tmp_path: Path
) -> None:
    """Before and after the commit of the message and its envelope, the delivery, and the commit by
    which the queue forgets it."""
    places = account(here, "erwin"), account(here, "frieda")

    async def begin() -> None:
        async with running(places[0], NO_TOR) as erwin, running(places[1], NO_TOR) as frieda:
            await meet(erwin, frieda)

    async def after(text: bytes, *, told: bool) -> bool:
        """Whether the message is one."""
        async with running(places[0], NO_TOR) as erwin, running(places[1], NO_TOR) as frieda:
            await until(lambda: not queued(erwin), "nothing to wait")
            made = text in texts(erwin)
            assert made or not told
            await until(lambda: (text in texts(frieda)) == made, "it to arrive")
            await send(erwin, ("frieda",), b"behind " + text)  # what is doubled comes before it
            await until(lambda: b"behind " + text in texts(frieda), "what is behind it")
            assert texts(frieda).count(text) == made
            return made

    trio.run(begin)
    seen = []
    for number, directory in enumerate(every_point(partial(sending, places[0]), tmp_path), 1):
        told = bool(Record(directory / "told").lines())
        seen.append(trio.run(partial(after, b"message %d" % number, told=told)))
    assert not seen[0], "killed before its commit it is none"
    assert seen[-1], "killed before the queue forgets it, it is there"
