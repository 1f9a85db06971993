"""A client whose clock was ahead: nothing is deleted by it, and its dates are put right with it."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.contacts.prekey_secrets import is_ahead
from cbfs.context import milliseconds
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.messages.queues import note_queue
from cbfs.names.own_time import BELIEVED_AFTER, JUMP_MAX, OwnTime
from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import open_link, request
from cbfs.storage.store import Store
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.requests import CountPrekeys
from tests.engine.test_engine import NO_TOR, Recorder, send, until
from tests.engine.test_healing import texts
from tests.engine.test_lifetime_engine import set_lifetime
from tests.engine.test_names_wrong_clock import DAY, Clock
from tests.support.stores import open_store
from tests.support.world import WAIT, World, make_easy

YEARS = 3_650 * DAY


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("t"), stack)


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """By how many seconds the clock of the engines is wrong."""
    made = [0]
    monkeypatch.setattr("cbfs.context.time", Clock(made))
    monkeypatch.setattr("cbfs.names.own_time.LOOK", 0.05)
    monkeypatch.setattr("cbfs.contacts.feeds.POLL", 0.2)
    monkeypatch.setattr("cbfs.receiving.mailbox.PREKEY_CHECK", 0.2)
    monkeypatch.setattr("cbfs.engine.expiry.LOOK_AGAIN", 0.05)
    monkeypatch.setattr("cbfs.receiving.receiver.PROMPT_AFTER", 0.2)
    return made


def test_dates_of_a_clock_that_was_ten_years_ahead_are_put_right(
    here: World, off: list[int]
) -> None:
    alice_account, bobby_account = here.account("alice").account, here.account("bobby").account
    for account in alice_account, bobby_account:
        make_easy(account)

    async def go() -> None:
        async with (
            running(alice_account, NO_TOR) as alice,
            running(bobby_account, NO_TOR) as bobby,
        ):
            for engine in alice, bobby:
                engine.attach(Recorder())
            await send(alice, ("bobby",), b"right")
            await until(lambda: "right" in texts(bobby), "the first message")
            await set_lifetime(alice, 3_600)
            await send(alice, ("bobby",), b"an hour")
            await until(lambda: "an hour" in texts(bobby), "the second one")

            off[0] = YEARS
            await until(lambda: is_named(alice), "the clock in status")
            await send(bobby, ("alice",), b"in ten years")
            await until(lambda: "in ten years" in texts(alice), "the third")
            await until(lambda: ahead(alice), "a prekey that is dated in ten years")
            await trio.sleep(0.5)  # many times as long as anything looks at the clock
            assert "an hour" in texts(alice)
            assert ends_late(alice)

            off[0] = 0
            await until(lambda: latest_due(alice) < milliseconds() + 2 * DAY * 1_000, "the debts")
            await until(lambda: not ends_late(alice), "what ends")
            await until(lambda: bool(alice._context.sessions.prekeys.ahead), "the secrets")
            with trio.fail_after(WAIT):
                while await gives_out_wrong_ones(alice):
                    await trio.sleep(0.05)
            assert not is_named(alice)
            assert all(contact.since <= milliseconds() for contact in alice.people.contacts())
            await send(bobby, ("alice",), b"right again")
            await until(lambda: "right again" in texts(alice), "the last")
            assert "an hour" in texts(alice)

    trio.run(go)


def is_named(engine: Engine) -> bool:
    said = "this computer's clock is 10 years ahead of the name directory's"
    return any(said in line for line in engine.report().problems)


def ahead(engine: Engine) -> int:
    """How many prekeys are dated too far ahead."""
    now = int(engine._context.clock() // 1_000) - YEARS
    kept = engine._context.sessions.prekeys.pairs.values()
    return sum(is_ahead(pair.kind, pair.expires, now) for pair in kept)


def latest_due(engine: Engine) -> int:
    with engine.store.read() as reader:
        return max((debt.due for debt in note_queue.items_for(reader, "bobby")), default=0)


def ends_late(engine: Engine) -> bool:
    (talk,) = engine.conversations()
    late = (time.time() + 8 * DAY) * 1_000
    return any(message.ends > late for message in engine.messages(talk.id))


async def gives_out_wrong_ones(engine: Engine) -> bool:
    """Whether the home server has a prekey for the last resort of a clock that is ahead."""
    account = engine._context.account
    async with open_link(
        LoopbackDialer(), account.server, account.transport, b"", SYSTEM_RANDOM
    ) as link:
        count = await request(link, CountPrekeys())
    return is_ahead(PrekeyKind.LAST_RESORT, count.last_resort_expires, milliseconds() // 1_000)


class Agreeing:
    """A directory whose time the test sets."""

    clock_ahead: int | None = None

    def agrees(self, now: float) -> bool:
        return self.clock_ahead == 0


def test_when_a_clock_is_believed(here: World) -> None:
    account = here.account("carol").account

    async def go() -> None:
        async with running(account, NO_TOR) as engine:
            check(engine.store)

    def check(store: Store) -> None:
        now, at, directory = [10**12], [0.0], Agreeing()
        made = OwnTime(store, directory, lambda: now[0], lambda: at[0])  # type: ignore[arg-type]
        made._seen = made._highest = 10**12
        assert made.may_delete
        assert not made.is_right  # nobody has said so
        now[0] += JUMP_MAX
        assert made.may_delete
        now[0] += 2 * JUMP_MAX
        assert not made.may_delete
        at[0] += BELIEVED_AFTER - 1
        assert not made.may_delete
        directory.clock_ahead = 7
        at[0] += 2
        assert not made.may_delete
        directory.clock_ahead = 0
        assert made.may_delete
        assert made.is_right
        directory.clock_ahead = None
        now[0] += 2 * JUMP_MAX
        assert not made.may_delete
        at[0] += BELIEVED_AFTER
        assert made.may_delete
        now[0] = 0  # 1970: nothing is too old
        assert made.may_delete

    trio.run(go)


def test_a_clock_that_the_directory_contradicts_is_never_believed(tmp_path: Path) -> None:
    """Be it ahead by little, or for long; and its time is not remembered as one that has been."""
    store = open_store(tmp_path)
    now, at, directory = [10**12], [0.0], Agreeing()
    made = OwnTime(store, directory, lambda: now[0], lambda: at[0])  # type: ignore[arg-type]
    directory.clock_ahead = 3_600
    assert not made.may_delete
    directory.clock_ahead = None
    assert made.may_delete
    now[0] += 3 * JUMP_MAX
    assert not made.may_delete
    directory.clock_ahead = 3 * JUMP_MAX // 1_000
    at[0] += BELIEVED_AFTER + 1
    assert not made.may_delete
    now[0] -= 3 * JUMP_MAX
    directory.clock_ahead = 0
    assert made.may_delete
    directory.clock_ahead = None
    now[0] += 3 * JUMP_MAX
    assert not made.may_delete
    store.close()
