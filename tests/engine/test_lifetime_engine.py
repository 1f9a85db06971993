"""Lifetimes between engines, over real servers, by a clock that the test sets: both sides delete,
also after having been off, and whoever takes the disk finds nothing."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import trio

from cbfs import context
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.messages import lifetimes
from cbfs.messages.model import Delivery, Message
from cbfs.storage.records import place_of as record_place
from cbfs.storage.store import Table
from cbfs_common.limits import LIFETIME_WAIT
from tests.engine.test_engine import NO_TOR, Recorder, account, send, until
from tests.engine.test_healing import texts
from tests.support.disk import Disk, attack, final_roots, follow
from tests.support.world import World

HOUR, DAY = 3_600, 86_400


@dataclass
class Clock:
    """The wall clock of all engines here; ``ahead`` in seconds."""

    ahead: int = 0


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("l"), stack)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made, real = Clock(), context.milliseconds
    monkeypatch.setattr("cbfs.context.milliseconds", lambda: real() + made.ahead * 1_000)
    monkeypatch.setattr("cbfs.engine.expiry.LOOK_AGAIN", 0.05)
    monkeypatch.setattr("cbfs.receiving.receiver.PROMPT_AFTER", 0.2)
    return made


async def set_lifetime(engine: Engine, seconds: int) -> None:
    """As metadata.toml does, in the one conversation."""
    (talk,) = engine.conversations()
    await engine.store.commit(
        lambda writer: lifetimes.choose(writer, talk.id, seconds, engine.name, talk.started)
    )


def lifetime(engine: Engine) -> tuple[int, str]:
    """(seconds, from whom)."""
    (talk,) = engine.conversations()
    with engine.store.read() as reader:
        found = lifetimes.setting(reader, talk.id)
    return found.lifetime.seconds, found.source


async def say(sender: Engine, receiver: Engine, text: str) -> Message:
    sent = await send(sender, (receiver.name,), text.encode())
    await until(lambda: text in texts(receiver), f"{text!r} at {receiver.name}")
    await until(lambda: received(sender, sent), f"the receipt of {text!r}")
    return sent


def received(engine: Engine, sent: Message) -> bool:
    found = engine.message(sent.conversation, sent.serial)
    return found is None or all(state is Delivery.RECEIVED for _who, state in found.recipients)


def test_both_sides_delete_and_both_may_change_it(here: World, clock: Clock) -> None:
    places = account(here, "both-a"), account(here, "both-b")

    async def body() -> None:
        async with running(places[0], NO_TOR) as alice, running(places[1], NO_TOR) as bob:
            views = Recorder(), Recorder()
            alice.attach(views[0])
            bob.attach(views[1])
            await say(alice, bob, "for ever")
            await set_lifetime(alice, DAY)
            await say(alice, bob, "for a day")
            assert lifetime(bob) == (DAY, "both-a")
            await say(bob, alice, "answer for a day")
            await set_lifetime(bob, HOUR)
            await say(bob, alice, "for an hour")
            assert lifetime(alice) == (HOUR, "both-b")
            assert "4 messages" not in "".join(alice.report().ending)
            assert "3 messages in" in alice.report().ending[0]
            assert alice.report().ending[-1].startswith("the next at ")
            await set_lifetime(alice, 0)
            await say(alice, bob, "for ever again")
            assert lifetime(bob) == (0, "both-a")
            clock.ahead = HOUR + 1
            for one in (alice, bob):
                await until(lambda one=one: "for an hour" not in texts(one), "the hour's to go")
                assert len(texts(one)) == 4
            clock.ahead = DAY + HOUR
            for one, view in zip((alice, bob), views, strict=True):
                await until(lambda one=one: len(texts(one)) == 2, "the day's to go")
                assert texts(one) == ["for ever", "for ever again"]
                await until(lambda view=view: len(view.ended) == 3, "the view to be told")
                assert not one.report().ending
                assert not one.report().problems

    trio.run(body)


def test_what_ended_while_the_mount_was_off_is_gone_at_its_start(here: World, clock: Clock) -> None:
    places = account(here, "off-a"), account(here, "off-b")

    async def body() -> None:
        async with running(places[0], NO_TOR) as alice, running(places[1], NO_TOR) as bob:
            await say(alice, bob, "for ever")
            await set_lifetime(alice, DAY)
            for number in range(70):  # more than one transaction takes
                await send(alice, (bob.name,), b"%d" % number)
            await until(lambda: len(texts(bob)) == 71, "all of them")
        clock.ahead = 7 * DAY
        for place in places:
            async with running(place, NO_TOR) as one:
                assert texts(one) == ["for ever"]

    trio.run(body)


def test_what_cannot_be_delivered_is_kept_longer_and_given_up_then(
    here: World, clock: Clock
) -> None:
    """Its time begins when it is delivered, and not later than LIFETIME_WAIT after it was
    written; whoever was asked to be written to is told."""
    places = account(here, "wait-a"), account(here, "wait-b")
    server = here.server

    async def body() -> None:
        async with running(places[0], NO_TOR) as alice:
            async with running(places[1], NO_TOR) as bob:
                await say(alice, bob, "hello")
            await set_lifetime(alice, HOUR)
            server.end()
            sent = await send(alice, ("wait-b",), b"late")
            clock.ahead = DAY
            assert sent.ends - sent.received == (HOUR + LIFETIME_WAIT) * 1_000
            assert texts(alice) == ["hello", "late"]
            server.start()
            async with running(places[1], NO_TOR) as bob:
                await until(lambda: "late" in texts(bob), "it to arrive a day later")
                await until(lambda: received(alice, sent), "the receipt")
                clock.ahead += HOUR + 1
                for one in (alice, bob):
                    await until(lambda one=one: texts(one) == ["hello"], "it to go")
            server.end()
            await send(alice, ("wait-b",), b"too late")
            await until(lambda: alice.report().queue, "the queue")
            clock.ahead += HOUR + LIFETIME_WAIT + 1
            await until(lambda: texts(alice) == ["hello"], "it to be given up")
            await until(lambda: not alice.report().queue, "the queue to be empty")
            assert any("was not delivered before" in line for line in alice.report().problems)
            with alice.store.read() as reader:
                assert not list(reader.keys(Table.QUEUE))
                assert len(list(reader.keys(Table.CONTENT))) == 1
            server.start()
        async with running(places[1], NO_TOR) as bob:
            await until(lambda: bob.report().connection.startswith("connected"), "bob")
            assert texts(bob) == ["hello"]

    trio.run(body)


def of(disk: Disk, table: Table) -> set[bytes]:
    return {value for where, _key, value in disk.gone() if where is table}


def test_nothing_that_has_ended_can_be_read_in_any_copy_of_the_disk(
    here: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = account(here, "disk-a"), account(here, "disk-b")
    disks = follow(monkeypatch, places)
    secrets = [b"secret number %d, for nobody else" % number for number in range(4)]

    async def body() -> None:
        async with running(places[0], NO_TOR) as alice, running(places[1], NO_TOR) as bob:
            await say(alice, bob, "hello")
            await set_lifetime(alice, DAY)
            for number, text in enumerate(secrets):
                await say(*((bob, alice) if number % 2 else (alice, bob)), text.decode())
        clock.ahead = 7 * DAY
        for place in places:
            async with running(place, NO_TOR) as one:
                assert texts(one) == ["hello"]

    trio.run(body)
    for disk in disks.values():
        assert set(secrets) <= of(disk, Table.CONTENT)
        opened = attack(disk, final_roots(disk))
        now = {(record_place(table, key), value) for table, key, value in disk.now}
        assert now <= opened, "he who cannot read what is there is no attacker"
        gone = {(record_place(table, key), value) for table, key, value in disk.gone()}
        assert not opened & gone
        lasting = b"".join(value for _place, value in opened)
        for word in secrets:
            assert word not in lasting
            assert not any(word in page for page in disk.pages)
