"""A database that goes silent, breaks, or has no standby: nothing is told to be done that is not,
and all that was asked is done once more."""

import os
import resource
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import trio

from cbfs_common.wire.requests import EnvelopeIds
from cbfs_server.postgres_store.store import PostgresStore
from cbfs_server.postgres_store.wire import ConnectionLost, Fence, Wire, connected
from cbfs_server.store.operations import DONE, EndAccount, ListIds, MakeAccount
from tests.server.conformance.backends import look_up
from tests.server.conformance.test_mailboxes import ALICE, BOB, DAY, mail
from tests.server.test_server_store import play
from tests.support.postgres import PostgresServer, running_postgres

KEY = b"k" * 32
USERS = [bytes([number]) * 32 for number in range(16)]


def on(address: str, script: Callable[[PostgresStore], Awaitable[None]]) -> None:
    async def life() -> None:
        store = PostgresStore(address, KEY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            for user in ALICE, BOB:
                assert await store.commit(MakeAccount(user, DAY)) == DONE
            await script(store)
            nursery.cancel_scope.cancel()

    play(life)


def end_others(server: PostgresServer) -> int:
    """Break all connections."""
    return len(
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND application_name = 'cbfs-server'"
        )
    )


def test_connections_that_break_are_made_anew(postgres_server: PostgresServer) -> None:
    async def script(store: PostgresStore) -> None:
        for number in range(20):
            assert await store.commit(mail(number)) == DONE
            assert await store.commit(mail(number, BOB)) == DONE
            if number % 5 == 0:
                assert end_others(postgres_server)
        ids = tuple(mail(number).id for number in range(20))
        for user in ALICE, BOB:
            assert await look_up(store, ListIds(user, b"")) == EnvelopeIds(ids, False)

    on(postgres_server.database(), script)


def test_a_backend_that_is_killed_restarts_all_and_nothing_is_lost(
    postgres_server: PostgresServer,
) -> None:
    async def script(store: PostgresStore) -> None:
        for number in range(6):
            assert await store.commit(mail(number)) == DONE
            if number == 2:
                ((pid,), *_) = postgres_server.execute(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'cbfs-server'"
                )
                os.kill(pid, signal.SIGKILL)
        ids = tuple(mail(number).id for number in range(6))
        assert await look_up(store, ListIds(ALICE, b"")) == EnvelopeIds(ids, False)

    on(postgres_server.database(), script)


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process has as many open files as it may, until the end of the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open("/dev/null", os.O_RDONLY)]
    highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    while held[-1] < highest:
        held.append(os.open("/dev/null", os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in held:
            os.close(each)


def test_a_process_without_a_file_for_a_connection_goes_on_when_it_has_one(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket takes the place of the one that was lost, and to wait for it takes one more."""
    failed: list[ConnectionLost] = []

    async def noted(address: str, fence: Fence) -> Wire:
        try:
            return await connected(address, fence)
        except ConnectionLost as error:
            failed.append(error)
            raise

    async def script(store: PostgresStore) -> None:
        lanes = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'COMMIT'"
        assert postgres_server.execute(f"{lanes} AND application_name = 'cbfs-server' LIMIT 1")
        monkeypatch.setattr("cbfs_server.postgres_store.lines.connected", noted)
        done: list[object] = []
        with no_more_files():
            for user in ALICE, BOB:
                store.submit(mail(1, user), done.append)
            while len(failed) < 2:
                await trio.sleep(0.01)
        while len(done) < 2:
            await trio.sleep(0.01)
        assert done == [DONE, DONE]
        assert "files" in str(failed[0])

    on(postgres_server.database(), script)


def test_a_connection_that_is_gone_is_told_whatever_is_asked_of_it(
    postgres_server: PostgresServer,
) -> None:
    address = postgres_server.database()

    async def script(_store: PostgresStore) -> None:
        asks: tuple[Callable[[Wire], Awaitable[object]], ...] = (
            Wire.listen,
            Wire.prepare,
            Wire.commit,
        )
        for ask in asks:
            wire = await connected(address, Fence())
            wire.close()
            with pytest.raises(ConnectionLost):
                await ask(wire)

    on(address, script)


@pytest.mark.slow
def test_a_silent_connection_is_given_up_and_what_it_was_for_is_done_by_another(
    postgres_server: PostgresServer,
) -> None:
    async def script(store: PostgresStore) -> None:
        lane = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%COMMIT%' AND application_name"
        pids = [pid for (pid,) in postgres_server.execute(f"{lane} = 'cbfs-server'")]
        assert pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert await store.commit(mail(1)) == DONE
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        assert await look_up(store, ListIds(ALICE, b"")) == EnvelopeIds((mail(1).id,), False)

    on(postgres_server.database(), script)


@pytest.mark.slow
def test_without_a_standby_nothing_is_done_until_there_is_one() -> None:
    """However often it is tried, and whoever breaks the wait off."""
    with running_postgres() as server:

        async def script(store: PostgresStore) -> None:
            assert await store.commit(mail(0)) == DONE
            server.execute("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (nobody)'")
            server.execute("SELECT pg_reload_conf()")
            done: list[object] = []
            store.submit(mail(1), done.append)
            store.submit(mail(2, BOB), done.append)
            waiting = (
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            )
            cancelled = 0
            while cancelled < 3:
                cancelled += len(server.execute(waiting))
                await trio.sleep(0.05)
            assert not done
            server.execute("ALTER SYSTEM RESET synchronous_standby_names")
            server.execute("SELECT pg_reload_conf()")
            while len(done) < 2:
                await trio.sleep(0.05)
            assert done == [DONE, DONE]
            for user, number in (ALICE, 1), (BOB, 2):
                listed = await look_up(store, ListIds(user, b""))
                assert listed.ids[-1:] == (mail(number).id,)  # type: ignore[union-attr]
                assert listed.ids.count(mail(number).id) == 1  # type: ignore[union-attr]

        on(server.database(), script)


def test_two_servers_that_end_and_fill_the_same_accounts_wait_for_nobody(
    postgres_server: PostgresServer,
) -> None:
    """No deadlock: all locks are taken in one order."""
    address = postgres_server.database()

    async def script(one: PostgresStore) -> None:
        other = PostgresStore(address, KEY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.run)
            for user in USERS:
                assert await one.commit(MakeAccount(user, DAY)) == DONE
            done: list[object] = []
            for number in range(10):
                for place, user in enumerate(USERS):
                    store = (one, other)[(number + place) % 2]
                    store.submit(mail(number, user), done.append, number)
                    store.submit(mail(number, USERS[-1 - place]), done.append, number)
            for user in USERS[:4]:
                other.submit(EndAccount(user), done.append)
            while len(done) < 20 * len(USERS) + 4:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    on(address, script)
    name = address.partition("?")[0].rpartition("/")[2]
    found = postgres_server.execute(
        f"SELECT deadlocks FROM pg_stat_database WHERE datname='{name}'"
    )
    assert found == [(0,)]


def test_what_was_committed_before_a_break_is_there_once(postgres_server: PostgresServer) -> None:
    """Though it is done again by another connection."""
    address = postgres_server.database()

    async def script(store: PostgresStore) -> None:
        done: list[object] = []
        for number in range(40):
            store.submit(mail(number), done.append, number)
            if number % 10 == 9:
                end_others(postgres_server)
                await trio.sleep(0.02)
        while len(done) < 40:
            await trio.sleep(0.02)
        assert done == [DONE] * 40
        listed = await look_up(store, ListIds(ALICE, b""))
        assert sorted(listed.ids) == [mail(number).id for number in range(40)]  # type: ignore[union-attr]

    on(address, script)
    with psycopg.connect(address) as connection:
        found = connection.execute("SELECT stored FROM cbfs.accounts WHERE user_id = %s", (ALICE,))
        assert found.fetchone() == (40,)
