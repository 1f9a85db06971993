"""A store in a database of the tests' own PostgreSQL. Any number of front-ends may be open, as of
as many servers."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import psycopg
import pytest
import trio

from cbfs_host.settings import Current
from cbfs_server.limits import Limits
from cbfs_server.postgres_store import hints, wire
from cbfs_server.postgres_store.statements import Call, Rows
from cbfs_server.postgres_store.store import PostgresStore
from cbfs_server.postgres_store.wire import Wire
from cbfs_server.store.interface import MailboxStore
from tests.server.conformance.backends import DEFAULT, Backend
from tests.support.killing import Kill
from tests.support.postgres import PATIENCE, PostgresServer, wait_until

KEY = b"k" * 32

POLL = 0.05
"""Seconds between looks at what others have changed, so that no test waits for long."""


@dataclass
class OnPostgres:
    """In a database."""

    address: str

    @asynccontextmanager
    async def opened(self, limits: Limits = DEFAULT) -> AsyncIterator[MailboxStore]:
        store = PostgresStore(self.address, KEY, Current(limits))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.run)
                yield store
                nursery.cancel_scope.cancel()
        finally:
            store.close()

    def wait_closed(self) -> None:
        """The database takes a while to notice, and only one front-end may search at a time."""
        held = "SELECT FROM pg_locks JOIN pg_database d ON database = d.oid"
        held += " WHERE locktype = 'advisory' AND datname = current_database()"
        with psycopg.connect(self.address, autocommit=True) as connection:
            wait_until(lambda: connection.execute(held).fetchone() is None)

    def kill_at(self, number: int) -> None:
        """Before the trip of each commit, and when it was sent and is not known to be made."""
        kill, commit, flush = Kill(number), Wire.commit, Wire._flush
        committing = set[Wire]()

        async def killing_commit(wire: Wire, calls: Sequence[Call] = ()) -> list[Rows]:
            kill.point()
            committing.add(wire)
            return await commit(wire, calls)

        async def killing_flush(wire: Wire, patience: trio.CancelScope) -> None:
            await flush(wire, patience)
            if wire in committing:
                committing.remove(wire)
                kill.point()

        for name, killing in ("commit", killing_commit), ("_flush", killing_flush):
            setattr(Wire, name, killing)


@contextmanager
def on_postgres(server: PostgresServer) -> Iterator[Backend]:
    """A new database. On a machine that is busy it may be silent for long, and is not given up for
    that: what was done twice then would not be what a test expects."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "DATABASE_SILENCE", PATIENCE)
        patch.setattr(hints, "POLL_PERIOD", POLL)
        yield OnPostgres(server.database())
