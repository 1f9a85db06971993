"""Connections that are made anew when they are lost."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from cbfs_server.limits import GIVE_UP
from cbfs_server.postgres_store.wire import ConnectionLost, Fence, Wire, connected

PAUSE: Final = 0.25
"""Seconds between two tries to connect."""

_log = logging.getLogger(__name__)


class Database:
    """Where it is, and whether it is there: told in the log once each time that it changes."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.fence = Fence()
        self._lost_since: float | None = None
        self._reason = ""

    def lost(self, error: ConnectionLost) -> None:
        """A connection was lost, or could not be made."""
        if self._lost_since is None:
            self._lost_since = trio.current_time()
            _log.warning("the database is not there: %s", error)

    def there(self) -> None:
        """A transaction was made."""
        if self._lost_since is not None:
            away = trio.current_time() - self._lost_since
            self._lost_since = None
            _log.warning("the database is there again, after %.0f seconds", away)

    @property
    def away(self) -> bool:
        """It was not there for so long that nobody waits for it any more."""
        since = self._lost_since
        return since is not None and trio.current_time() - since > GIVE_UP


class DatabaseLine:
    """One connection, when there is one."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._wire: Wire | None = None

    async def wire(self) -> Wire:
        """The connection, made when there is none that is as it should be. Raises
        ConnectionLost."""
        if self._wire is not None and not self._wire.current:
            self.drop()
        if self._wire is None:
            self._wire = await connected(self.database.address, self.database.fence)
        return self._wire

    def drop(self) -> None:
        """End the connection."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    async def lost(self, error: ConnectionLost) -> None:
        """Note that the connection is lost, and wait a little."""
        self.drop()
        self.database.lost(error)
        await trio.sleep(PAUSE)


@asynccontextmanager
async def using(line: DatabaseLine) -> AsyncIterator[None]:
    """End the connection at last."""
    try:
        yield
    finally:
        line.drop()
