"""What other servers of the same database have changed: told by notifications, as a hint, and
looked for each POLL_PERIOD as well.

Whoever has changed a mailbox notifies all others, after the commit and of many at once: within the
transaction, one would wait for the other.
"""

import logging
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final, Protocol

import trio

from cbfs_server.limits import DATABASE_SILENCE, NOTIFY_PAUSE, POLL_BATCH, POLL_PERIOD, SIZES_PERIOD
from cbfs_server.postgres_store import statements as s
from cbfs_server.postgres_store.lines import Database, DatabaseLine, using
from cbfs_server.postgres_store.statements import call
from cbfs_server.postgres_store.wire import ConnectionLost, StatementFailed, Wire
from cbfs_server.store.interface import StoreFigures, Subscribers

_USERS_IN_ONE: Final = 180
"""Users in one notification, which may have 7,999 bytes."""

_log = logging.getLogger(__name__)


class Shared(Protocol):
    """What a store knows of what all its servers share."""

    suspended: frozenset[bytes]
    suspensions: int
    """How often this store has changed ``suspended`` itself."""

    subscribers: Subscribers | None

    def counted(self, sizes: StoreFigures) -> None:
        """This is what there is now."""


class Hints:
    """Tells others, and hears from them."""

    def __init__(self, database: Database, shared: Shared) -> None:
        self._database = database
        self._shared = shared
        self._changed: set[bytes] = set()
        self._news = trio.Event()
        self._own = 0
        self._suspensions = -1
        self._known: dict[bytes, tuple[int, int]] = {}
        self._next_sizes = 0.0

    def changed(self, user: bytes) -> None:
        """This server has changed a mailbox."""
        self._changed.add(user)
        self._news.set()

    async def run(self) -> None:
        """Tell and hear, until cancelled."""
        async with trio.open_nursery() as nursery:
            for work in (self._tell, self._hear, self._poll):
                nursery.start_soon(self._keep, work)

    async def _keep(self, work: Callable[[Wire], Awaitable[None]]) -> None:
        line = DatabaseLine(self._database)
        async with using(line):
            while True:
                try:
                    await work(await line.wire())
                except (ConnectionLost, StatementFailed) as error:
                    line.drop()
                    if isinstance(error, StatementFailed):
                        _log.error("a hint was not given: %s", error)
                    await trio.sleep(POLL_PERIOD)

    async def _tell(self, wire: Wire) -> None:
        self._own = wire.pid
        while True:
            if not self._changed:
                self._news = trio.Event()
                await self._news.wait()
            users, self._changed = self._changed, set()
            parts = (b" ".join(map(b64encode, part)) for part in _batches(users, _USERS_IN_ONE))
            await wire.ask([call(s.NOTIFY, part) for part in parts])
            await trio.sleep(NOTIFY_PAUSE)

    async def _hear(self, wire: Wire) -> None:
        await wire.listen()
        while wire.current:
            said: list[tuple[int, str]] = []
            with trio.move_on_after(DATABASE_SILENCE):
                said = await wire.heard()
            if not said:
                await wire.ask([])  # is it there?
            for sender, text in said:
                subscribers = self._shared.subscribers
                if sender == self._own or subscribers is None:
                    continue
                for user in map(b64decode, text.split()):
                    if user in subscribers.users:
                        subscribers.changed(user)

    async def _poll(self, wire: Wire) -> None:
        while True:
            await self._look_at_mailboxes(wire)
            await self._look_at_suspensions(wire)
            if trio.current_time() >= self._next_sizes:
                ((found,),) = await wire.ask([call(s.SIZES)])
                self._shared.counted(sizes_of(found))
                self._next_sizes = trio.current_time() + SIZES_PERIOD
            await trio.sleep(POLL_PERIOD)

    async def _look_at_mailboxes(self, wire: Wire) -> None:
        subscribers = self._shared.subscribers
        if subscribers is None:
            return
        known, self._known = self._known, {}
        for users in _batches(subscribers.users, POLL_BATCH):
            (found,) = await wire.ask([call(s.POLL, users)])
            there = {s.bytes_of(user): (s.int_of(a), s.int_of(b)) for user, a, b in found}
            self._known |= there
            for user in users:
                last = known.get(user, (0, 0))
                if user not in there or there[user][0] < last[0]:  # gone, or made anew
                    subscribers.forget(user)
                elif there[user] != last:
                    subscribers.changed(user)

    async def _look_at_suspensions(self, wire: Wire) -> None:
        ((server,),) = await wire.ask([call(s.SERVER)])
        count, own = s.int_of(server[3]), self._shared.suspensions
        if count == self._suspensions:
            return
        (found,) = await wire.ask([call(s.SUSPENDED)])
        if own != self._shared.suspensions:  # this server has changed it meanwhile
            return
        suspended = frozenset(s.bytes_of(user) for (user,) in found)
        fresh, self._shared.suspended = suspended - self._shared.suspended, suspended
        self._suspensions = count
        if self._shared.subscribers is not None:
            for user in fresh:
                self._shared.subscribers.forget(user)


def sizes_of(found: s.Row) -> StoreFigures:
    """The row of SIZES as figures."""
    accounts, envelopes, blobs, chunks, used = map(s.int_of, found)
    return StoreFigures(accounts, envelopes, blobs, chunks, used, None)


def _batches(users: Iterable[bytes], most: int) -> Iterator[tuple[bytes, ...]]:
    known = tuple(users)
    return (known[start : start + most] for start in range(0, len(known), most))
