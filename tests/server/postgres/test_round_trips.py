"""Most changes take one round trip to the database, with the end of their transaction in it; and
what fails in it ends nothing."""

from collections.abc import Sequence

import psycopg
import pytest
import trio

from cbfs_common.wire.blobs import BlobState
from cbfs_common.wire.requests import Code, EnvelopeIds
from cbfs_server.limits import Limits
from cbfs_server.postgres_store import statements as s
from cbfs_server.postgres_store.blob_changes import add_blob
from cbfs_server.postgres_store.bounds import Bounds
from cbfs_server.postgres_store.statements import Call, Rows, call
from cbfs_server.postgres_store.store import PostgresStore
from cbfs_server.postgres_store.wire import Fence, StatementFailed, Wire, connected
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    AskBlob,
    EndAccount,
    GivePrekey,
    ListIds,
    RemoveEnvelopes,
)
from tests.server.conformance.backends import look_up
from tests.server.conformance.test_blob_store import BLOB, OTHER, blob
from tests.server.conformance.test_mailboxes import ALICE, BOB, NOW, mail
from tests.server.postgres.test_lost_connections import on
from tests.support.postgres import PATIENCE, PostgresServer


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a database may be silent for long: given up for that, it is asked twice."""
    monkeypatch.setattr("cbfs_server.postgres_store.wire.DATABASE_SILENCE", PATIENCE)


def test_a_change_is_one_round_trip(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips: list[set[bytes]] = []
    ask = Wire.ask

    async def noted(wire: Wire, calls: Sequence[Call], silence: float | None = None) -> list[Rows]:
        trips.append({each.statement.name for each in calls})
        return await ask(wire, calls, silence)

    def of(statement: s.Statement) -> list[set[bytes]]:
        return [trip for trip in trips if statement.name in trip]

    async def script(store: PostgresStore) -> None:
        monkeypatch.setattr(Wire, "ask", noted)
        done: list[object] = []
        for number in range(20):
            store.submit(mail(number), done.append)
        while len(done) < 20:
            await trio.sleep(0.01)
        assert done == [DONE] * 20
        added = of(s.ADD_ENVELOPE)
        assert added
        assert all({s.BEGIN.name, s.LOCK.name, s.COMMIT.name} <= trip for trip in added)
        assert len(of(s.COMMIT)) == len(added)
        trips.clear()
        await store.commit(GivePrekey(ALICE, NOW))
        await store.commit(RemoveEnvelopes(ALICE, (mail(0).id,)))
        assert len(of(s.BEGIN)) == len(of(s.COMMIT)) == 2
        trips.clear()
        assert await store.commit(EndAccount(BOB)) == 0  # which looks first
        assert of(s.BEGIN) != of(s.COMMIT)

    on(postgres_server.database(), script)


def test_nothing_is_done_of_a_transaction_of_which_a_part_fails(
    postgres_server: PostgresServer,
) -> None:
    address = postgres_server.database()

    async def script(store: PostgresStore) -> None:
        wire = await connected(address, Fence())
        try:
            one = mail(1)
            with pytest.raises(StatementFailed):
                await wire.commit(
                    [
                        call(s.BEGIN),
                        call(s.LOCK, ALICE),
                        call(s.ADD_ENVELOPE, ALICE, one.id, one.envelope, one.day, 100),
                        call(s.NOTIFY, b"x" * 9_000),  # more than one may say
                    ]
                )
            with pytest.raises(StatementFailed, match="rolled back"):
                await wire.ask([call(s.ROLLBACK)])
            assert await look_up(store, ListIds(ALICE, b"")) == EnvelopeIds((), False)
            rows = await wire.commit(
                [
                    call(s.BEGIN),
                    call(s.LOCK, ALICE),
                    call(s.ADD_ENVELOPE, ALICE, one.id, one.envelope, one.day, 100),
                ]
            )
            assert len(rows) == 3
            assert await look_up(store, ListIds(ALICE, b"")) == EnvelopeIds((one.id,), False)
        finally:
            wire.close()

    on(address, script)


def test_nobody_waits_for_others_who_make_a_blob_of_the_same_id(
    postgres_server: PostgresServer,
) -> None:
    """Who made two could wait for who made them in the other order: until the database finds that
    out, a second later, no account of their lanes could do anything."""
    address, bounds = postgres_server.database(), Bounds(Limits())

    async def script(store: PostgresStore) -> None:
        wire = await connected(address, Fence())
        try:
            assert await store.commit(blob(OTHER)) == BlobState(0, 5)
            await wire.ask([call(s.BEGIN), call(s.LOCK, BOB)])
            assert await add_blob(blob(user=BOB), wire.ask, bounds) == BlobState(0, 5)
            differs = REFUSED[Code.BLOB_DIFFERS]
            assert await add_blob(blob(OTHER, BOB), wire.ask, bounds) == differs
            assert await store.commit(blob()) == differs
            assert await store.commit(blob(OTHER)) == BlobState(0, 5)
            await wire.commit()
            assert await store.commit(blob()) == differs
            assert await look_up(store, AskBlob(BOB, BLOB)) == BlobState(0, 5)
        finally:
            wire.close()

    on(address, script)


def test_what_the_database_warns_of_is_not_that_it_has_not_waited(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what it says with the end of a transaction is. Near the end of its numbers it warns at
    each first statement that writes; all of it counted as lost, and was made again and again."""
    address = postgres_server.database()

    async def script(store: PostgresStore) -> None:
        with psycopg.connect(address, autocommit=True) as admin:
            admin.execute(
                "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " RAISE WARNING 'must be vacuumed'; RETURN NEW; END $$"
            )
            admin.execute(
                "CREATE TRIGGER warns BEFORE INSERT ON cbfs.mail FOR EACH ROW"
                " EXECUTE FUNCTION warn()"
            )
        asked = list[bytes]()
        commit = Wire.commit

        async def noted(wire: Wire, calls: Sequence[Call] = ()) -> list[Rows]:
            asked.extend(each.statement.name for each in calls)
            return await commit(wire, calls)

        monkeypatch.setattr(Wire, "commit", noted)
        assert await store.commit(mail(1)) == DONE
        assert asked.count(s.ADD_ENVELOPE.name) == 1
        assert await look_up(store, ListIds(ALICE, b"")) == EnvelopeIds((mail(1).id,), False)

    on(address, script)
