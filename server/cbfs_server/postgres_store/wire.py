"""One connection to the database, in libpq's pipeline mode, on the trio thread: statements that are
sent together take one round trip.

Nobody else uses it meanwhile. A connection that says nothing for DATABASE_SILENCE seconds while it
is waited for is lost, like one that breaks: a machine that was stopped closes nothing.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import psycopg
import trio
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import abc

from cbfs_server.limits import CONNECT_TIMEOUT, DATABASE_SILENCE
from cbfs_server.postgres_store.statements import (
    COMMIT,
    ONE_BLOB,
    ONE_USER,
    WHOLE_STORE,
    Call,
    Rows,
    call,
    int_of,
)

SETTINGS: Final = (
    "-c search_path=cbfs -c plan_cache_mode=force_generic_plan -c jit=off"
    " -c default_transaction_isolation=read\\ committed -c synchronous_commit=on"
    " -c idle_in_transaction_session_timeout=15s -c client_connection_check_interval=2s"
    " -c statement_timeout=0"
)
"""No timeout of statements: it would end the wait for a standby as if it were over. Who waits for a
lock, and whose client is gone, ends."""

_AGAIN: Final = {"40001", "40P01", "23505"}
"""Serialization failure, deadlock, and a row that another transaction has added meanwhile."""

_LOST_CLASSES: Final = ("08", "57P", "25006")
"""The connection; an end by the operator, or for a crash; a server that only reads, by now."""

_STUCK: Final = b"""SELECT count(*) FROM pg_stat_activity WHERE usename = current_user
AND wait_event = 'SyncRep' AND query_start < clock_timestamp() - interval '4 seconds'"""

_TIMELINE: Final = b"""SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))
::bit(32)::bigint"""

_BINARY: Final = 1

_log = logging.getLogger(__name__)


class ConnectionLost(Exception):
    """The database is not there, or no more. What was committed last may be done or not."""


class StatementFailed(Exception):
    """The database refuses a statement: nothing of its transaction was done. ``again``: because of
    another one, and so it may succeed the next time."""

    def __init__(self, state: str, text: str) -> None:
        super().__init__(f"{text} ({state})")
        self.again = state in _AGAIN


class Fence:
    """The newest timeline of the database that any connection has seen. A server of an older one
    was primary before another took its place, and does not know it yet."""

    def __init__(self) -> None:
        self.timeline = 0


class Wire:
    """A connection; see ``connected``."""

    def __init__(self, connection: "psycopg.Connection[object]", fence: Fence) -> None:
        self._connection = connection
        self._pg: abc.PGconn = connection.pgconn
        self._fence = fence
        self._warned = False
        self.timeline = 0
        self.pid = self._pg.backend_pid
        self._pg.nonblocking = 1
        self._pg.notice_handler = self._noticed
        self._pg.enter_pipeline_mode()

    def _noticed(self, _result: abc.PGresult) -> None:
        self._warned = True

    @property
    def current(self) -> bool:
        """It is as it should be, as far as is known here."""
        return self._pg.status == pq.ConnStatus.OK and self.timeline >= self._fence.timeline

    def close(self) -> None:
        """End the connection, whatever is under way. A second time does nothing."""
        self._connection.close()

    async def prepare(self) -> None:
        """Get the connection ready. Raises ConnectionLost for a server that is not the primary, as
        far as is known, or that waits for its standbys in vain."""
        with self._sending():
            for text in (_TIMELINE, _STUCK):
                self._pg.send_query_params(text, None, result_format=_BINARY)
            for known in (ONE_USER, ONE_BLOB, WHOLE_STORE):
                for statement in known.values():
                    self._pg.send_prepare(statement.name, statement.text, statement.oids)
        timeline, stuck, *_ = await self._results()
        self.timeline = int_of(timeline[0][0])
        if self.timeline < self._fence.timeline:
            raise ConnectionLost("this server was the primary before another")
        self._fence.timeline = self.timeline
        if int_of(stuck[0][0]):
            raise ConnectionLost("no standby takes what is written")

    async def ask(self, calls: Sequence[Call], silence: float | None = None) -> list[Rows]:
        """The rows of each, in one round trip. ``silence``: seconds until the first word, else
        DATABASE_SILENCE. Raises ConnectionLost; StatementFailed for the first that fails, and then
        those behind it were not made."""
        with self._sending():
            for each in calls:
                statement = each.statement
                formats = (_BINARY,) * len(each.values)
                self._pg.send_query_prepared(statement.name, each.values, formats, _BINARY)
        return await self._results(silence)

    async def commit(self, calls: Sequence[Call] = ()) -> list[Rows]:
        """The last calls of a transaction, and its end, in one round trip; the rows of each, as
        ``ask`` gives them. On return it is on the disks of the primary and of as many standbys as
        the operator wants: that may have waited for others' locks first, and takes twice as long to
        be given up. Raises what ``ask`` raises: after a StatementFailed it is not ended, as
        nothing behind what fails is done; and ConnectionLost also when none of that is known."""
        found = await self.ask([*calls, call(COMMIT)], 2 * DATABASE_SILENCE)
        if self._warned:  # the wait for the standbys was broken off
            self.close()
            raise ConnectionLost("a commit was not waited for")
        return found[:-1]

    async def _results(self, silence: float | None = None) -> list[Rows]:
        found: list[Rows] = []
        failed: StatementFailed | None = None
        warned = self._warned = False
        deadline = trio.current_time() + (silence or DATABASE_SILENCE)
        patience = trio.CancelScope(deadline=deadline)
        try:
            self._pg.pipeline_sync()
            with patience:
                await self._flush(patience)
                while True:
                    while self._pg.is_busy():
                        await self._hear(patience)
                    result = self._pg.get_result()
                    if result is None:  # the end of those of one statement
                        self._check_open()
                        continue
                    status = result.status
                    if status == pq.ExecStatus.PIPELINE_SYNC:
                        break
                    # what is warned of comes before the result of the statement that it is of
                    warned, self._warned = self._warned, False
                    if status == pq.ExecStatus.TUPLES_OK:
                        found.append(_rows(result))
                    elif status == pq.ExecStatus.COMMAND_OK:
                        if result.command_status == b"ROLLBACK":
                            failed = failed or StatementFailed("25P02", "rolled back")
                        found.append(())
                    elif status != pq.ExecStatus.PIPELINE_ABORTED and failed is None:
                        failed = self._failed(result)
            if patience.cancelled_caught:
                raise ConnectionLost(
                    f"the database has said nothing for {DATABASE_SILENCE:.0f} seconds"
                )
        except psycopg.Error as error:
            raise self._lost(error) from error
        except BaseException:
            self.close()
            raise
        if failed is not None:
            raise failed
        self._warned = warned
        return found

    async def _flush(self, patience: trio.CancelScope) -> None:
        while self._pg.flush():
            async with trio.open_nursery() as nursery:
                for wait in (trio.lowlevel.wait_writable, trio.lowlevel.wait_readable):
                    nursery.start_soon(_first, wait, self._pg.socket, nursery.cancel_scope)
            self._pg.consume_input()
            patience.deadline = trio.current_time() + DATABASE_SILENCE

    async def _hear(self, patience: trio.CancelScope) -> None:
        await trio.lowlevel.wait_readable(self._pg.socket)
        self._pg.consume_input()
        patience.deadline = trio.current_time() + DATABASE_SILENCE

    def _check_open(self) -> None:
        if self._pg.status != pq.ConnStatus.OK:
            raise ConnectionLost("the connection to the database has ended")

    async def heard(self) -> list[tuple[int, str]]:
        """Wait for notifications; who has sent each (a process of the database), and what it says.
        Raises ConnectionLost."""
        try:
            while True:
                found = []
                while (said := self._pg.notifies()) is not None:
                    found.append((said.be_pid, said.extra.decode()))
                if found:
                    return found
                await trio.lowlevel.wait_readable(self._pg.socket)
                self._pg.consume_input()
        except psycopg.Error as error:
            raise self._lost(error) from error

    async def listen(self) -> None:
        """Hear notifications from now on. Raises ConnectionLost."""
        with self._sending():
            self._pg.send_query_params(b"LISTEN cbfs", None)
        await self._results()

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Raises ConnectionLost for what libpq cannot send."""
        try:
            yield
        except psycopg.Error as error:
            raise self._lost(error) from error

    def _failed(self, result: abc.PGresult) -> StatementFailed:
        """Raises ConnectionLost when it is not the statement's fault."""
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        text = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"?").decode()
        if not state or state.startswith(_LOST_CLASSES):
            raise ConnectionLost(text)
        return StatementFailed(state, text)

    def _lost(self, error: psycopg.Error) -> ConnectionLost:
        self.close()
        return ConnectionLost(reason(error))


async def connected(address: str, fence: Fence) -> Wire:
    """A connection to the server of the ``address`` (a URL of libpq's, maybe of several servers)
    that takes writes. Raises ConnectionLost: also while this process has no file or thread left for
    one."""
    connect = partial(psycopg.Connection.connect, in_full(address), autocommit=True)
    try:
        connection = await trio.to_thread.run_sync(connect)
    except (psycopg.Error, OSError, RuntimeError) as error:
        raise ConnectionLost(reason(error)) from error
    wire = Wire(connection, fence)
    try:
        await wire.prepare()
    except (ConnectionLost, StatementFailed) as error:
        wire.close()
        raise ConnectionLost(str(error)) from error
    return wire


def reason(error: Exception) -> str:
    """What libpq or the system says, in one line."""
    return " ".join(str(error).split()) or "the connection has ended"


def in_full(address: str, timeout: int = CONNECT_TIMEOUT) -> str:
    """The address with all that connections need, as far as it does not say otherwise itself."""
    said = conninfo_to_dict(address)
    wanted = {
        "application_name": "cbfs-server",
        "connect_timeout": str(timeout),
        "target_session_attrs": "read-write",
        "tcp_user_timeout": str(int(DATABASE_SILENCE * 1_000)),
    }
    missing = {name: value for name, value in wanted.items() if name not in said}
    options = f"{said.get('options', '')} {SETTINGS}".strip()
    return make_conninfo(address, **(missing | {"options": options}))


async def _first(wait: Callable[[int], Awaitable[None]], fd: int, scope: trio.CancelScope) -> None:
    await wait(fd)
    scope.cancel()


def _rows(result: abc.PGresult) -> Rows:
    columns = range(result.nfields)
    return [
        tuple([result.get_value(row, column) for column in columns])
        for row in range(result.ntuples)
    ]
