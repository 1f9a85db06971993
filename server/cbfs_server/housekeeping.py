"""Keeping house: what time it is, and what is too old to be kept."""

import logging
import time
from collections.abc import Callable

import trio

from cbfs_host.calendar import DAY, Calendar, running
from cbfs_host.complaints import StoreError
from cbfs_host.meter import Meters
from cbfs_server.limits import (
    ERASE_BATCHES,
    ERASE_PAUSE,
    EXPIRY_PERIOD,
    HOUSEKEEPING_PERIOD,
    INVITE_DAYS_MAX,
    MARK_PERIOD,
    Limits,
)
from cbfs_server.newcomers import Newcomers
from cbfs_server.push import Pusher
from cbfs_server.service import Service
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import (
    EraseChunks,
    Expired,
    ForgetBlobs,
    ForgetInvites,
    ForgetOld,
    NoteTime,
)

_log = logging.getLogger(__name__)


class Housekeeping:
    """What a server does of itself with one ``store``. Raises StoreError."""

    def __init__(
        self,
        store: MailboxStore,
        clock: Callable[[], float] = time.time,
        running: Callable[[], float] = running,
    ) -> None:
        """``clock``: seconds since 1970; ``running``: of a clock that is never set."""
        self._store = store
        self._clock = clock
        self._running = running
        self._pushers: list[Pusher] = []
        self._calendar = Calendar(store.noted(), clock(), running())
        self._oldest: int | None = None
        self._next_mark = self._next_expiry = running()
        self._take_time()

    def service(
        self,
        pusher: Pusher,
        meters: Meters | None = None,
        *,
        newcomers: bool = True,
        admission: Newcomers | None = None,
    ) -> Service:
        """A service that goes by the time of this housekeeping."""
        self._pushers.append(pusher)
        return Service(
            self._store,
            pusher,
            self.now,
            self.lived,
            meters,
            newcomers=newcomers,
            admission=admission,
        )

    @property
    def oldest(self) -> int | None:
        """For how many days the oldest envelope has waited, as it was when the mailboxes were
        looked through last; None when there was none."""
        return None if self._oldest is None else max(0, int(self.lived()) // DAY - self._oldest)

    def now(self) -> float:
        """Seconds since 1970, as far as the clock is believed."""
        self._take_time()
        return self._calendar.now

    def lived(self) -> float:
        """Seconds by which mail grows old."""
        self._take_time()
        return self._calendar.lived

    async def keep(self) -> None:
        """Look at clock and mailboxes every HOUSEKEEPING_PERIOD, until cancelled."""
        while True:
            await self.look()
            await trio.sleep(HOUSEKEEPING_PERIOD)

    async def look(self) -> None:
        """Look at the clock, erase what is left of blobs that are gone, and once in a while look at
        all mailboxes."""
        self._take_time()
        if self._running() >= self._next_mark:
            self._next_mark = self._running() + MARK_PERIOD
            await self._note()
        if self._running() >= self._next_expiry:
            self._next_expiry = self._running() + EXPIRY_PERIOD
            await self._expire()
        await self._erase()

    def _take_time(self) -> None:
        said = self._calendar.look(self._clock(), self._running())
        if said:
            _log.warning("%s", said)

    async def _note(self) -> None:
        mark = self._calendar.mark(self._clock())
        try:
            await self._store.commit(NoteTime(mark))
        except StoreError as error:
            _log.error("the time is not noted: %s", error.in_full)

    async def _expire(self) -> None:
        """A batch at a time. What a crash leaves is looked at again, with the first start."""
        start: bytes | None = b""
        limits = self._store.limits.now
        today, found = int(self.lived()) // DAY, Expired()
        try:
            while start is not None:
                asked = ForgetOld(start, today, limits.retention_days, limits.inactive)
                swept = await self._store.commit(asked)
                start = swept.rest
                found.add(swept.expired)
                for user in swept.expired.ended:
                    for pusher in self._pushers:
                        pusher.forget(user)
            self._oldest = found.oldest
            start = b""
            while start is not None:
                before = today - INVITE_DAYS_MAX - 1
                start = await self._store.commit(ForgetInvites(start, before))
        except StoreError as error:
            _log.error("old envelopes stay: %s", error.in_full)
        try:
            await self._forget_blobs(today)
        except StoreError as error:
            _log.error("old blobs stay: %s", error.in_full)
        self._tell(found, limits)

    async def _forget_blobs(self, today: int) -> None:
        start: bytes | None = b""
        gone = 0
        while start is not None:
            swept = await self._store.commit(ForgetBlobs(start, today))
            start, gone = swept.rest, gone + swept.blobs
        if gone:
            _log.info("forgot %d blobs, which were kept for their days", gone)

    async def _erase(self) -> None:
        """Some chunks at a time, so that nobody waits for long, and so many in all that clock and
        mailboxes are looked at however many blobs are removed. What a crash leaves goes on."""
        try:
            for _ in range(ERASE_BATCHES):
                if not await self._store.commit(EraseChunks()):
                    return
                await trio.sleep(ERASE_PAUSE)
        except StoreError as error:
            _log.error("chunks of blobs that are gone stay: %s", error.in_full)

    def _tell(self, found: Expired, limits: Limits) -> None:
        if found.envelopes:
            _log.warning(
                "forgot %d envelopes of %d accounts, which nobody has fetched for %d days",
                found.envelopes,
                found.accounts,
                limits.retention_days,
            )
        if found.ended:
            _log.warning(
                "ended %d accounts: %d that nobody has used for %d days, %d that never fetched"
                " anything",
                len(found.ended),
                len(found.ended) - found.unused,
                limits.inactive,
                found.unused,
            )
