"""Which database a server begins with, and which it refuses."""

from collections.abc import Iterator

import pytest
import trio

from cbfs_common.wire.requests import EnvelopeIds
from cbfs_host.complaints import HostError, StoreError
from cbfs_server.postgres_store.opening import OpenedDatabase, open_database
from cbfs_server.postgres_store.store import PostgresStore
from cbfs_server.store.operations import DONE, Expired, ForgetOld, ListIds, MakeAccount, Swept
from tests.server.conformance.backends import look_up
from tests.server.conformance.test_mailboxes import ALICE, DAY, mail
from tests.server.test_server_store import play
from tests.support.postgres import PostgresServer

KEY, OTHER = b"k" * 32, b"o" * 32


def opened(address: str, key: bytes = KEY, *, tells: bool = False) -> OpenedDatabase:
    return open_database(address, key, tells=tells, restored=False)


@pytest.fixture
def address(postgres_server: PostgresServer) -> str:
    return postgres_server.database()


def test_tables_are_made_once_and_belong_to_one_key(address: str) -> None:
    for _ in range(2):
        found = opened(address)
        assert found.noted is None
        assert found.suspended == frozenset()
        assert found.figures.accounts == found.figures.envelopes == 0
        assert found.figures.used > 0
    with pytest.raises(HostError, match="another server"):
        opened(address, OTHER)
    opened(address)


def test_tables_of_a_newer_version_are_refused(
    address: str, postgres_server: PostgresServer
) -> None:
    opened(address)
    name = address.partition("?")[0].rpartition("/")[2]
    postgres_server.execute("UPDATE cbfs.server SET version = version + 1", name)
    with pytest.raises(StoreError, match="version 3"):
        opened(address)


def test_tables_of_before_there_were_blobs_get_theirs(
    address: str, postgres_server: PostgresServer
) -> None:
    opened(address)
    name = address.partition("?")[0].rpartition("/")[2]
    postgres_server.execute("DROP TABLE cbfs.blobs, cbfs.chunks, cbfs.erasing", name)
    postgres_server.execute("UPDATE cbfs.server SET version = 1", name)
    for _ in range(2):
        assert opened(address).figures.blobs == 0


@pytest.fixture
def setting(postgres_server: PostgresServer, address: str) -> Iterator[str]:
    """A database whose settings a test may change."""
    yield address.partition("?")[0].rpartition("/")[2]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log_statement", "mod"),
        ("log_min_duration_statement", "1000"),
        ("log_duration", "on"),
        ("log_transaction_sample_rate", "0.5"),
        ("log_parameter_max_length_on_error", "64"),
        ("auto_explain.log_min_duration", "0"),
    ],
)
def test_a_database_that_logs_who_asks_what_is_refused(
    name: str, value: str, address: str, setting: str, postgres_server: PostgresServer
) -> None:
    """Unless it is said."""
    postgres_server.execute(f"ALTER DATABASE {setting} SET {name} = '{value}'")
    with pytest.raises(HostError, match=name) as refused:
        opened(address)
    assert "--store-logs" in refused.value.hint
    opened(address, tells=True)


def test_a_role_that_may_make_a_schema_is_enough(
    address: str, setting: str, postgres_server: PostgresServer
) -> None:
    """It has its tables, and no other right."""
    role = f"plain_{setting}"
    postgres_server.execute(f"CREATE ROLE {role} LOGIN")
    postgres_server.execute(f"GRANT CREATE ON DATABASE {setting} TO {role}")
    plain = address.replace("//postgres@", f"//{role}@")
    assert plain != address

    async def life() -> None:
        store = PostgresStore(plain, KEY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            assert await store.commit(MakeAccount(ALICE, DAY)) == DONE
            assert await store.commit(mail(1)) == DONE
            assert await store.commit(ForgetOld(b"", DAY, 1, 1)) == Swept(None, Expired(oldest=DAY))
            listed = await look_up(store, ListIds(ALICE, b""))
            assert listed == EnvelopeIds((mail(1).id,), False)
            nursery.cancel_scope.cancel()

    play(life)
    opened(plain)


def test_a_commit_that_is_not_waited_for_is_not_had(
    address: str, setting: str, postgres_server: PostgresServer
) -> None:
    """Whatever the database says, connections wait."""
    postgres_server.execute(f"ALTER DATABASE {setting} SET synchronous_commit = 'off'")
    opened(address)


def test_a_database_that_is_not_there_is_told(address: str) -> None:
    with pytest.raises(HostError, match="cannot be opened"):
        opened(address.replace("/cbfs", "/nobody"))
