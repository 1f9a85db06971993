"""Three machines, and the loss of the one that takes the writes: nothing that was acknowledged is
lost, and it goes on."""

import pytest
import trio

from cbfs_common.wire.requests import PrekeyRecord
from cbfs_server.postgres_store.store import PostgresStore
from cbfs_server.store.operations import DONE, GivePrekey, MakeAccount, NextMail
from tests.server.conformance.backends import look_up
from tests.server.conformance.test_mailboxes import DAY, NOW, mail, upload
from tests.server.test_server_store import play
from tests.support.postgres_cluster import Cluster, running_cluster
from tests.support.serving import record

KEY = b"k" * 32
USERS = [bytes([number * 16]) * 32 for number in range(8)]
BEFORE, AFTER = 50, 20


@pytest.mark.slow
def test_the_primary_is_lost_and_nothing_that_was_acknowledged() -> None:
    with running_cluster(memory=True) as cluster:
        play(lambda: lose_the_primary(cluster))


async def lose_the_primary(cluster: Cluster) -> None:
    one, other = (PostgresStore(cluster.address, KEY) for _ in range(2))
    acknowledged: dict[bytes, list[int]] = {user: [] for user in USERS}
    given: list[bytes] = []
    enough, on = trio.Event(), trio.Event()

    async def deliver(user: bytes) -> None:
        number = 0
        while not on.is_set():
            if await (one, other)[number % 2].commit(mail(number, user)) == DONE:
                acknowledged[user].append(number)
            number += 1
            if number == BEFORE:
                enough.set()

    async def take() -> None:
        while not on.is_set():
            found = await other.commit(GivePrekey(USERS[0], NOW))
            if isinstance(found, PrekeyRecord):
                given.append(found.record)
            await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        for store in one, other:
            nursery.start_soon(store.run)
        for user in USERS:
            assert await one.commit(MakeAccount(user, DAY)) == DONE
        assert await one.commit(upload(*(record() for _ in range(100)), user=USERS[0])) == DONE
        async with trio.open_nursery() as callers:
            for user in USERS:
                callers.start_soon(deliver, user)
            callers.start_soon(take)
            await enough.wait()
            lost = cluster.primary()
            lost.kill()
            before = sum(map(len, acknowledged.values()))
            while sum(map(len, acknowledged.values())) < before + AFTER:
                await trio.sleep(0.05)
            on.set()
        for user, numbers in acknowledged.items():
            found = tuple(await look_up(one, NextMail(user, 0, 100_000)))
            stored = {each.id: each.envelope for each in found}
            assert len(stored) == len(found)
            for number in numbers:
                assert stored[mail(number, user).id] == mail(number, user).envelope
        assert len(given) == len(set(given))
        nursery.cancel_scope.cancel()
