"""Keeping house: what time it is, how much disk is free, and what is too old to be kept."""

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from cbfs_host.calendar import DAY, Calendar, running
from cbfs_host.lmdb_environment import StoreError
from cbfs_server.limits import (
    EXPIRY_PERIOD,
    FREE_MIN,
    HOUSEKEEPING_PERIOD,
    MARK_PERIOD,
    RETENTION_DAYS,
)
from cbfs_server.push import Pusher
from cbfs_server.service import Expired, Service, expire
from cbfs_server.store import MailboxStore, MailboxWriter

_log = logging.getLogger(__name__)


class Housekeeping:
    """What a server does of itself with one ``store``, on the disk of ``data``. Raises
    StoreError."""

    def __init__(
        self,
        store: MailboxStore,
        data: Path,
        clock: Callable[[], float] = time.time,
        running: Callable[[], float] = running,
    ) -> None:
        """``clock``: seconds since 1970; ``running``: of a clock that is never set."""
        self.services: list[Service] = []
        self._store = store
        self._full = False
        self._data = data
        self._clock = clock
        self._running = running
        with store.read() as reader:
            mark = reader.mark()
        self._calendar = Calendar(mark, clock(), running())
        self._next_mark = self._next_expiry = running()
        self._take_time()

    def service(self, pusher: Pusher, mailbox: int, accounts: int) -> Service:
        """A service that goes by the time of this housekeeping, and takes nothing in while the disk
        is full."""
        made = Service(self._store, pusher, self.now, mailbox, accounts, self.lived)
        self.services.append(made)
        return made

    def now(self) -> float:
        """Seconds since 1970, as far as the clock is believed."""
        self._take_time()
        return self._calendar.now

    def lived(self) -> float:
        """Seconds by which mail grows old."""
        self._take_time()
        return self._calendar.lived

    async def keep(self) -> None:
        """Look at clock, disk and mailboxes every HOUSEKEEPING_PERIOD, until cancelled."""
        while True:
            await self.look()
            await trio.sleep(HOUSEKEEPING_PERIOD)

    async def look(self) -> None:
        """Look at the clock and the disk, and once in a while at all mailboxes."""
        self._take_time()
        usage = await trio.to_thread.run_sync(os.statvfs, self._data)
        full = usage.f_bavail * usage.f_frsize < FREE_MIN
        if full != self._full:
            self._full = full
            _log.warning("the disk is full: nothing is taken in" if full else "disk space again")
        for service in self.services:
            service.full = full
        if self._running() >= self._next_mark:
            self._next_mark = self._running() + MARK_PERIOD
            await self._note()
        if self._running() >= self._next_expiry:
            self._next_expiry = self._running() + EXPIRY_PERIOD
            await self._expire()

    def _take_time(self) -> None:
        said = self._calendar.look(self._clock(), self._running())
        if said:
            _log.warning("%s", said)

    async def _note(self) -> None:
        mark = self._calendar.mark(self._clock())
        try:
            await self._store.commit(lambda writer: writer.put_mark(mark))
        except StoreError as error:
            _log.error("the time is not noted: %s", error.in_full)

    async def _expire(self) -> None:
        start: bytes | None = b""
        today, envelopes, accounts = int(self.lived()) // DAY, 0, 0
        try:
            while start is not None:
                start, counted = await self._store.commit(partial(_forget, start, today))
                envelopes, accounts = envelopes + counted.envelopes, accounts + counted.accounts
        except StoreError as error:
            _log.error("old envelopes stay: %s", error.in_full)
        if envelopes:
            _log.warning(
                "forgot %d envelopes of %d accounts, which nobody has fetched for %d days",
                envelopes,
                accounts,
                RETENTION_DAYS,
            )


def _forget(start: bytes, today: int, writer: MailboxWriter) -> tuple[bytes | None, Expired]:
    """A batch, and what it was: counted anew when the change is made a second time."""
    counted = Expired()
    return expire(writer, start, today, counted), counted
