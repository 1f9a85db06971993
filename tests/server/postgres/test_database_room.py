"""How much a server in PostgreSQL takes in, when its operator has said how much there may be: no
account takes the room of all others, and what is deleted is room again."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from cbfs_common.wire.requests import Code
from cbfs_host.settings import Current
from cbfs_server.limits import ENVELOPE_COST, PREKEYS_MAX, SHARE, Limits
from cbfs_server.postgres_store import hints
from cbfs_server.postgres_store.store import PostgresStore
from cbfs_server.store.operations import DONE, REFUSED, EndAccount, MakeAccount, RemoveEnvelopes
from cbfs_server.store.room import Room
from tests.server.conformance.test_mailboxes import DAY, mail, upload
from tests.server.test_server_store import play
from tests.support.postgres import PostgresServer
from tests.support.serving import record

KEY = b"k" * 32
ALL = 64
"""Envelopes that there is room for."""

USERS = [bytes([number]) * 32 for number in range(40)]
FULL, MAILBOX_FULL = REFUSED[Code.FULL], REFUSED[Code.MAILBOX_FULL]


@pytest.fixture(autouse=True)
def _cheap_prekeys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so small a store, accounts that have none would take all room."""
    monkeypatch.setattr("cbfs_server.postgres_store.store.PREKEY_COST", 1)
    monkeypatch.setattr("cbfs_server.postgres_store.changes.PREKEY_COST", ENVELOPE_COST)


def on(address: str, script: Callable[[PostgresStore], Awaitable[None]], **limits: int) -> None:
    async def life() -> None:
        most = ALL * ENVELOPE_COST + len(USERS) * PREKEYS_MAX
        store = PostgresStore(address, KEY, Current(Limits(store_max=most, **limits)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            await script(store)
            nursery.cancel_scope.cancel()

    play(life)


async def fill(store: PostgresStore, user: bytes) -> tuple[int, object]:
    """Deliver until that is refused; how often it was not, and what was said then."""
    for number in range(ALL + 1):
        said = await store.commit(mail(number, user))
        if said != DONE:
            return number, said
    raise AssertionError("there is no end to it")


def test_who_takes_all_that_there_is_leaves_some_to_everybody(
    postgres_server: PostgresServer,
) -> None:
    async def script(store: PostgresStore) -> None:
        for user in USERS:
            assert await store.commit(MakeAccount(user, DAY)) == DONE
        taken = []
        for user in USERS:
            count, said = await fill(store, user)
            taken.append(count)
            assert said == FULL or (count and said == MAILBOX_FULL)
            assert await store.commit(mail(0, user)) == (DONE if count else FULL)  # as it is there
        assert max(taken) <= ALL // SHARE
        assert sum(taken) <= ALL
        assert len(taken) - taken.count(0) > 2 * SHARE
        assert store.figures().free is not None

    on(postgres_server.database(), script)


def test_what_is_deleted_is_room_again(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database does not become smaller by it."""
    monkeypatch.setattr(hints, "SIZES_PERIOD", 0.0)
    monkeypatch.setattr(hints, "POLL_PERIOD", 0.02)

    async def script(store: PostgresStore) -> None:
        for user in USERS:
            assert await store.commit(MakeAccount(user, DAY)) == DONE
        counts = [(await fill(store, user))[0] for user in USERS]
        ids = tuple(mail(number).id for number in range(counts[0]))
        assert await store.commit(mail(ALL, USERS[0])) in (FULL, MAILBOX_FULL)
        assert await store.commit(RemoveEnvelopes(USERS[0], ids)) == DONE
        for user in USERS[1:30]:
            assert await store.commit(EndAccount(user)) is not None
        while await store.commit(mail(ALL, USERS[0])) != DONE:
            await trio.sleep(0.02)

    on(postgres_server.database(), script)


def test_when_little_is_left_nobody_new_comes_and_no_prekeys(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(store: PostgresStore) -> None:
        first, second, third = USERS[:3]
        for user in first, second:
            assert await store.commit(MakeAccount(user, DAY)) == DONE
        assert await store.commit(upload(record(), user=first)) == DONE
        with monkeypatch.context() as patch:  # as if others had taken it
            share = lambda self, cost: self.all // cost if self.left >= cost else 0  # noqa: E731
            patch.setattr(Room, "share", share)
            count, said = await fill(store, second)
        assert (count, said) == (ALL, FULL)
        assert await store.commit(MakeAccount(third, DAY)) == FULL
        assert await store.commit(upload(record(), user=first)) == FULL
        assert await store.commit(EndAccount(second)) == count

    on(postgres_server.database(), script)
