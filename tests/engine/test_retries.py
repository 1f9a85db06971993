"""The one schedule of an account's tries: however much cannot be reached, it is little work."""

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast
from unittest.mock import Mock

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cbfs.account.settings import Settings
from cbfs.contacts.contact import Contact
from cbfs.contacts.look_up import Unknown
from cbfs.context import Context, Events
from cbfs.network.link import LinkClosed
from cbfs.problems import (
    BURST,
    GONE_FIRST,
    GONE_MOST,
    LONGEST,
    MOST,
    PER_MINUTE,
    SOON,
    Cause,
    Retries,
    Schedule,
    in_words,
)
from cbfs.sending.agenda import AT_ONCE, RESERVED, Agenda
from cbfs.sending.sender import Sender
from cbfs_common.errors import CbfsError
from cbfs_common.primitives import Random, kem_encapsulate

DAY = 86_400.0
MANY = 10_000
HOURS = 1


def seeded(seed: int) -> Random:
    return Random(random.Random(seed).randbytes, kem_encapsulate)


def test_waits_grow_to_their_caps() -> None:
    for cause, first, most in (
        (Cause.NETWORK, 0.5, MOST),
        (Cause.REFUSED, 0.5, LONGEST),
        (Cause.GONE, GONE_FIRST, GONE_MOST),
    ):
        schedule, now, waits = Schedule(seeded(1)), 0.0, []
        for _ in range(400):
            waits.append(schedule.failed("bob", now, cause))
            now += waits[-1]
        assert first / 2 <= waits[0] <= first
        assert most / 2 <= waits[-1] <= most


@given(st.integers(0, 99), st.lists(st.floats(0, 9_000), max_size=400))
def test_so_many_turns_a_minute_and_no_more(seed: int, pauses: list[float]) -> None:
    schedule, now, taken = Schedule(seeded(seed)), 0.0, list[float]()
    for pause in pauses:
        now += pause / 1_000
        wait = schedule.take(now)
        if not wait:
            taken.append(now)
        else:
            assert schedule.take(now + wait + 1e-6) == 0
            taken.append(now + wait)
            now += wait
    for start in range(len(taken)):
        within = sum(taken[start] <= at <= taken[start] + 60 for at in taken)
        assert within <= BURST + PER_MINUTE + 2


def test_what_had_no_network_is_due_soon_when_something_works() -> None:
    """And what stays unreachable is not tried at each message to somebody else."""
    schedule = Schedule(seeded(2))
    now = 0.0
    while now < 180:
        now = max(now, schedule.due("home"))
        schedule.failed("home", now, Cause.NETWORK)
    schedule.failed("refused", now, Cause.REFUSED)
    before = schedule.due("refused")
    assert schedule.worked("bob", now)
    assert schedule.due("home") <= now + SOON + 1
    assert schedule.due("refused") == before
    assert not schedule.worked("bob", now)
    tries = 0
    for second in range(3_600):  # bob can be reached all the time, home never
        at = now + second
        if schedule.due("home") <= at:
            tries += 1
            schedule.failed("home", at, Cause.NETWORK)
        schedule.worked("bob", at)
    assert tries < 40


def test_what_is_away_is_due_sooner_when_the_network_says_that_it_is_back() -> None:
    """And not when some server is reached, which may be who looks at what is tried then."""
    schedule = Schedule(seeded(5))
    for _ in range(12):
        schedule.failed("to bob", 1_000.0, Cause.AWAY)
        schedule.failed("home", 1_000.0, Cause.NETWORK)
    due = schedule.due("to bob")
    assert schedule.worked("home", 1_010.0)
    assert schedule.due("to bob") == due > 1_100
    schedule.connected(1_020.0)
    assert schedule.due("to bob") <= 1_025


class Net:
    """What a sender needs of a context, where nobody can be reached; counts who is asked for."""

    def __init__(self, failure: Callable[[str], CbfsError]) -> None:
        self.failure = failure
        self.asked: list[tuple[float, str]] = []
        self.tasks = 0

    def get(self, _name: str) -> Contact | None:
        return None

    def label(self, name: str) -> str:
        return name

    async def ready(self, name: str) -> Contact:
        self.asked.append((trio.current_time(), name))
        self.tasks = max(self.tasks, len(trio.lowlevel.current_task().parent_nursery.child_tasks))  # type: ignore[union-attr]
        await trio.sleep(0.2)
        raise self.failure(name)


class Problems:
    """Forgets all."""

    def set(self, _topic: str, _text: str) -> None:
        pass

    def clear(self, _topic: str) -> None:
        pass


class NoStore:
    """There is nothing in it."""

    def read(self) -> object:
        return pytest.importorskip("contextlib").nullcontext(self)

    def keys(self, *_arguments: object) -> Iterator[bytes]:
        return iter(())

    def key_part(self, *_parts: bytes) -> bytes:
        return bytes(16)


@asynccontextmanager
async def sending(net: Net) -> AsyncIterator[Sender]:
    async with trio.open_nursery() as nursery:

        class Parts:
            contacts = look_up = net
            problems, store, pace, is_prompt = Problems(), NoStore(), 0.0, True
            random, retries = seeded(3), Retries(seeded(4))
            configuration = SimpleNamespace(current=Settings())

        yield Sender(cast(Context, Parts()), bytes, cast(Events, Mock()), nursery)
        nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gone", "network"])
def test_ten_thousand_who_cannot_be_reached(kind: str) -> None:
    """As after a restore: each is owed a note. A bounded number of tasks and of requests; whoever
    a user writes to comes at once; what is gone is asked for once in days."""
    failures: dict[str, Callable[[str], CbfsError]] = {
        "gone": lambda name: Unknown([name]),
        "network": lambda _name: LinkClosed("the server closed the connection"),
    }
    net = Net(failures[kind])

    async def main() -> None:
        async with sending(net) as sender:
            for number in range(MANY):
                sender.note_due(f"peer-{number}")
            await trio.sleep(60)
            sender._jobs["friend"] = 1
            begun = trio.current_time()
            sender._wake("friend")
            await trio.sleep(1)
            assert next(at for at, name in net.asked if name == "friend") - begun < 1
            await trio.sleep(HOURS * 3_600)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert net.tasks <= AT_ONCE + 2
    minutes = HOURS * 60 + 1
    assert len(net.asked) <= minutes * PER_MINUTE + BURST + 99
    if kind == "gone":
        asked = [name for _at, name in net.asked if name != "friend"]
        assert len(asked) == len(set(asked)) == MANY
    times = [at for at, _name in net.asked]
    assert max(sum(t <= at < t + 60 for at in times) for t in range(0, 3_600, 600)) <= (
        PER_MINUTE + BURST + 20
    )


@given(st.data())
def test_nobody_is_forgotten_or_served_twice(data: st.DataObject) -> None:
    """Whatever is wanted and dropped, in whatever order things are due."""
    due: dict[str, float] = {}
    agenda = Agenda(lambda key: due.get(key, 0.0), lambda: 0.0)
    wanted: set[str] = set()
    served: list[str] = []
    now = 0.0
    for _ in range(data.draw(st.integers(1, 30))):
        key = data.draw(st.sampled_from("abcdef"))
        match data.draw(st.sampled_from(["want", "drop", "fail", "sooner", "wait", "next"])):
            case "want":
                agenda.want(
                    key, now, urgent=data.draw(st.booleans()), counts=data.draw(st.booleans())
                )
                wanted.add(key)
            case "drop":
                agenda.drop(key)
                wanted.discard(key)
            case "fail" if key not in wanted:
                due[key] = now + data.draw(st.integers(1, 9))
            case "sooner":
                due.pop(key, None)
                agenda.look_again()
            case "wait":
                now += data.draw(st.integers(1, 9))
            case "next":
                found = agenda.next(now, 0)
                if found is not None:
                    assert found in wanted
                    assert due.get(found, 0.0) <= now
                    wanted.discard(found)
                    served.append(found)
        assert len(agenda) == len(wanted)
    now += 99
    while (found := agenda.next(now, 0)) is not None:
        wanted.remove(found)
    assert not wanted


def test_places_are_kept_for_what_users_wait_for() -> None:
    agenda = Agenda(lambda _key: 0.0, lambda: 0.0)
    for number in range(100):
        agenda.want(f"note {number}", 0, urgent=False, counts=False)
    running = 0
    while agenda.next(0, running) is not None:
        running += 1
    assert running == AT_ONCE - RESERVED
    assert agenda.is_crowded(running)
    agenda.want("message", 0, urgent=True, counts=True)
    assert agenda.next(0, running) == "message"


def test_words() -> None:
    waits = (0.5, 40, 119, 121, 7_300, 86_400, 7 * 86_400)
    assert [in_words(wait) for wait in waits] == [
        "0 s", "40 s", "119 s", "3 min", "3 h", "24 h", "7 d",
    ]  # fmt: skip
