"""A message to several people goes to one of them at once, and to each of the others later."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from cbfs.context import Context
from cbfs.network.link import LinkClosed
from cbfs.problems import MOST, SOON, Retries
from cbfs.sending.sender import Sender
from cbfs.sending.stagger import STAGGER_MOST, Stagger
from tests.support.talking import seeded

MEAN = 60.0
PEOPLE = [f"member-{number}" for number in range(12)]


class Setting:
    """``stagger`` of config.toml."""

    def __init__(self, mean: float) -> None:
        self.mean = mean
        self._changed = trio.Event()

    @property
    def current(self) -> Any:
        return SimpleNamespace(stagger=self.mean)

    async def wait_changed(self) -> None:
        await self._changed.wait()

    def change(self, mean: float) -> None:
        self.mean = mean
        self._changed.set()
        self._changed = trio.Event()


class Town:
    """Whom a stagger lets go, and when."""

    def __init__(self, nursery: trio.Nursery, mean: float, source: object) -> None:
        self.setting = Setting(mean)
        context = SimpleNamespace(configuration=self.setting, random=source)
        self.freed: dict[str, float] = {}
        self.stagger = Stagger(cast(Context, context), nursery, self.note)

    def note(self, name: str) -> None:
        assert name not in self.stagger
        self.freed[name] = trio.current_time()

    def free(self) -> set[str]:
        return {name for name in PEOPLE if name not in self.stagger}


def in_town(
    body: Callable[[Town], Awaitable[None]],
    seed: object = 1,
    mean: float = MEAN,
    source: object = None,
) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await body(Town(nursery, mean, source or seeded(str(seed))))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_one_at_once_and_the_others_at_exponential_times() -> None:
    waits, firsts = list[float](), set[str]()

    async def body(town: Town) -> None:
        begun = trio.current_time()
        town.stagger.hold(PEOPLE)
        (first,) = town.free()
        firsts.add(first)
        await trio.sleep(STAGGER_MOST * MEAN + 1)
        assert town.freed.keys() == set(PEOPLE) - {first}
        waits.extend(at - begun for at in town.freed.values())

    for seed in range(100):
        in_town(body, seed)
    assert firsts == set(PEOPLE)
    assert 0 < min(waits) < max(waits) <= STAGGER_MOST * MEAN
    assert 0.9 * MEAN < sum(waits) / len(waits) < 1.1 * MEAN
    assert 0.6 < sum(wait < MEAN for wait in waits) / len(waits) < 0.66  # 1 - 1/e


class Longest:
    """Draws the first of some, and the longest times."""

    def token(self, size: int) -> bytes:
        return bytes(size)


def test_nobody_waits_longer_than_so_often_the_mean() -> None:
    """However long what is drawn is; and no longer when more is written meanwhile."""

    async def body(town: Town) -> None:
        town.stagger.hold(PEOPLE)
        await trio.sleep(STAGGER_MOST * MEAN / 2)
        town.stagger.hold(PEOPLE)
        await trio.sleep(STAGGER_MOST * MEAN / 2 - 1)
        assert not town.freed
        await trio.sleep(2)
        assert town.freed.keys() == set(PEOPLE[1:])

    in_town(body, source=Longest())


def test_what_is_written_to_one_goes_at_once_and_what_waited_for_them_too() -> None:
    async def body(town: Town) -> None:
        town.stagger.hold(PEOPLE)
        for name in PEOPLE:
            town.stagger.hold([name])
            assert name not in town.stagger
        await trio.sleep(STAGGER_MOST * MEAN + 1)
        assert not town.freed  # whoever wrote to them has woken them already

    in_town(body)


def test_without_it_nobody_waits_and_when_it_is_taken_back_nobody_any_more() -> None:
    async def body(town: Town) -> None:
        town.stagger.hold(PEOPLE)
        assert town.free() == set(PEOPLE)
        town.setting.change(MEAN)
        town.stagger.hold(PEOPLE)
        assert len(town.free()) == 1
        town.setting.change(2 * MEAN)
        await trio.testing.wait_all_tasks_blocked()
        assert len(town.free()) == 1
        town.setting.change(0.0)
        await trio.testing.wait_all_tasks_blocked()
        assert town.free() == set(PEOPLE)
        assert len(town.freed) == len(PEOPLE) - 1

    in_town(body, mean=0.0)


# the sender


class Post:
    """What a sender needs of a context in which nobody can be reached: whom it tries, and when."""

    def __init__(self, mean: float, prompt: bool) -> None:
        self.tried: list[tuple[str, float]] = []
        self.jobs: dict[str, int] = {}
        contacts = SimpleNamespace(get=lambda _name: None, label=str)
        problems = SimpleNamespace(set=lambda *_: None, clear=lambda *_: None)
        retries = SimpleNamespace(
            due=lambda _topic: 0.0, take=lambda: 0.0, failed=lambda *_: 1.0, worked=lambda *_: None
        )
        self.context = cast(Context, SimpleNamespace(
            contacts=contacts, problems=problems, retries=retries, look_up=self, pace=0.0,
            is_prompt=prompt, random=seeded("post"), configuration=Setting(mean), store=self,
        ))  # fmt: skip

    def read(self) -> Any:
        return _Nothing()

    async def ready(self, name: str) -> Any:
        self.tried.append((name, trio.current_time()))
        await trio.sleep_forever()


class _Nothing:
    def __enter__(self) -> "_Nothing":
        return self

    def __exit__(self, *_error: object) -> None:
        pass


@asynccontextmanager
async def sending(monkeypatch: pytest.MonkeyPatch, post: Post) -> AsyncIterator[Sender]:
    monkeypatch.setattr("cbfs.messages.queues.delivery_queue.waiting", lambda *_a, **_k: post.jobs)
    async with trio.open_nursery() as nursery:
        sender = Sender(post.context, bytes, cast(Any, None), nursery)
        monkeypatch.setattr(sender, "_count", lambda name: post.jobs.update({name: 1}))
        sender._jobs = post.jobs
        yield sender
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("mean", [0.0, MEAN])
@pytest.mark.parametrize("at_once", [False, True])
def test_the_sender_tries_them_when_they_are_let_go(
    monkeypatch: pytest.MonkeyPatch, mean: float, at_once: bool, prompt: bool
) -> None:
    post = Post(mean, prompt)

    async def main() -> None:
        async with sending(monkeypatch, post) as sender:
            sender.queued(PEOPLE, at_once=at_once)
            for name in PEOPLE:
                sender._wake(name)  # as when something of a contact is new
            await trio.testing.wait_all_tasks_blocked()
            assert len(post.tried) == (len(PEOPLE) if at_once or not mean else 1)
            await trio.sleep(STAGGER_MOST * MEAN + 1)
            assert sorted(name for name, _at in post.tried) == sorted(PEOPLE)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_what_waits_when_a_mount_begins_goes_apart_too(monkeypatch: pytest.MonkeyPatch) -> None:
    post = Post(MEAN, prompt=False)
    post.jobs = dict.fromkeys(PEOPLE, 1)

    async def main() -> None:
        async with sending(monkeypatch, post):
            await trio.testing.wait_all_tasks_blocked()
            assert len(post.tried) == 1
            await trio.sleep(STAGGER_MOST * MEAN + 1)
            assert sorted(name for name, _at in post.tried) == sorted(PEOPLE)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_delivery_that_is_under_way_passes_over_who_is_held_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a prompt client's notes, which are at somebody's server at this moment."""
    post = Post(MEAN, prompt=True)

    async def main() -> None:
        async with sending(monkeypatch, post) as sender:
            sender.queued(PEOPLE)
            held = [name for name in PEOPLE if name in sender._stagger]
            for name in held:
                contact = cast(Any, SimpleNamespace(name=name))
                assert await sender._next(contact, 16) == []  # the store was not asked

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


class Down:
    """A network that is down: who is tried is not reached until it is ``back``."""

    def __init__(self) -> None:
        self.back = False
        self.tried: list[tuple[str, float]] = []

    async def ready(self, name: str) -> Any:
        if not self.back:
            raise LinkClosed("no network")
        self.tried.append((name, trio.current_time()))
        await trio.sleep_forever()


@pytest.mark.parametrize("prompt", [False, True])
def test_what_a_network_that_is_back_lets_go_goes_apart_too(
    monkeypatch: pytest.MonkeyPatch, prompt: bool
) -> None:
    """All that were not reached are tried soon then: a server of several of them would see them
    get it within seconds."""
    post, down = Post(MEAN, prompt), Down()
    retries = Retries(seeded("down"))
    post.context = cast(Context, SimpleNamespace(
        **{**vars(post.context), "retries": retries, "look_up": down}
    ))  # fmt: skip

    async def main() -> None:
        async with sending(monkeypatch, post) as sender:
            sender.queued(PEOPLE)
            await trio.sleep(3_600)
            assert not down.tried
            down.back, back = True, trio.current_time()
            retries.connected()
            await trio.sleep(2 * SOON)
            assert len(down.tried) <= len(PEOPLE) / 2
            await trio.sleep(STAGGER_MOST * MEAN + MOST)
            assert sorted(name for name, _at in down.tried) == sorted(PEOPLE)
            waits = [at - back for _name, at in down.tried]
            assert sum(waits) / len(waits) > MEAN / 2

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
