"""This computer's clock, as far as it may be believed, and the dates that it has written.

A clock that jumps ahead by more than JUMP_MAX is doubted, until the name directory, whose quorum
signs with the time, has been found to agree with it, or it has stood so for a day. While it is
doubted, or the directory has said that it is ahead, nothing is deleted because of its age.

A clock that was ahead has written dates of a time to come. When it has gone back, and the directory
agrees with it as it is now, each of these is put at what it could be now: else notes would be due
in years, and secrets be kept for as long. The largest time that was believed and the largest that
the clock ever said are kept in the store; the latter tells that the clock was ahead. A crash before
the last of the transactions leaves it there, and all of them are done again.
"""

import time
from collections.abc import Awaitable, Callable

import trio

from cbfs.names.lookups import Lookups
from cbfs.storage.encoding import pack, unpack
from cbfs.storage.store import Meta, Store, Table

JUMP_MAX = 8 * 86_400_000
"""Milliseconds by which a clock may be ahead of the last time that was known: an absence of a week
is usual. What is deleted by its age is kept for longer, or has its own limit."""

BACK_MIN = 3_600_000
"""Milliseconds that a clock must have gone back by for dates to be looked at."""

BELIEVED_AFTER = 86_400.0
"""Seconds after which a clock is believed that the directory does not contradict."""

LOOK = 60.0
"""Seconds between two looks."""

NOTED_EVERY = 3_600_000
"""Milliseconds of which the store learns at once."""


class OwnTime:
    """How far the clock of this computer may be believed, for one ``store``. ``clock``:
    milliseconds since 1970. ``running``: seconds of a clock that is never set."""

    def __init__(
        self,
        store: Store,
        lookups: Lookups,
        clock: Callable[[], int],
        running: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._store = store
        self._lookups = lookups
        self._clock = clock
        self._running = running
        self._at = running()
        self._doubted: float | None = None
        with store.read() as reader:
            data = reader.get(Table.META, Meta.CLOCK)
        self._seen = self._highest = clock()
        if data is not None:
            self._seen, self._highest = _decode(data)
        self._noted = 0

    @property
    def may_delete(self) -> bool:
        """Whether something may be deleted because it is too old by the clock."""
        self._look()
        return self._doubted is None and (self._lookups.clock_ahead or 0) <= 0

    @property
    def is_right(self) -> bool:
        """Whether the directory agrees with the clock, and the clock has not jumped since."""
        self._look()
        return self._doubted is None and self._lookups.agrees(self._clock() / 1_000)

    def _look(self) -> None:
        now, at = self._clock(), self._running()
        self._highest = max(self._highest, now)
        self._seen += int(max(at - self._at, 0) * 1_000)
        self._at = at
        if now <= self._seen + JUMP_MAX:
            self._doubted = None
            self._seen = max(self._seen, now)
        elif self._lookups.agrees(now / 1_000):
            self._doubted, self._seen = None, now
        elif self._doubted is None:
            self._doubted = at
        elif at - self._doubted >= BELIEVED_AFTER and not self._lookups.clock_ahead:
            self._doubted, self._seen = None, now

    async def run(self, *mends: Callable[[int], Awaitable[None]]) -> None:
        """Keep the time in the store; when the clock was ahead and is right, let ``mends`` put
        dates at what they could be at a time (milliseconds). Until cancelled."""
        while True:
            right, now = self.is_right, self._clock()
            if right and self._highest > now + BACK_MIN:
                for mend in mends:
                    await mend(now)
                self._seen = self._highest = now
                await self._note()
            elif self._highest - self._noted >= NOTED_EVERY:
                await self._note()
            await trio.sleep(LOOK)

    async def _note(self) -> None:
        data = _encode(self._seen, self._highest)
        self._noted = self._highest
        await self._store.commit(lambda writer: writer.put(Table.META, Meta.CLOCK, data))


def _encode(seen: int, highest: int) -> bytes:
    """The record of ``Meta.CLOCK``, in milliseconds since 1970."""
    return pack(seen, highest)


def _decode(data: bytes) -> tuple[int, int]:
    seen, highest = unpack(data, int, int)
    return seen, highest
