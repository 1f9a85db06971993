"""The connection to the home server: what has arrived is pushed on it, prekeys are kept up."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from cbfs.account import settings
from cbfs.account.account import Former
from cbfs.context import Context
from cbfs.network.dial import HOME
from cbfs.network.link import Link, open_link, request
from cbfs.network.slots import Slots
from cbfs.problems import in_words
from cbfs.receiving.polling import Polling
from cbfs.receiving.prekeys import top_up
from cbfs.receiving.receiver import Receiver
from cbfs.sending.cover_traffic import Dummies
from cbfs.storage.faults import contained
from cbfs_common.errors import CbfsError
from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.random_times import exponential
from cbfs_common.wire.requests import CreateAccount, Delete, GetLimits, Subscribe, decode_push

BATCH = 32
"""Envelopes opened in one commit."""

PREKEY_CHECK = 3_600.0
"""Seconds between looks at how many prekeys are left, while nobody new writes."""

STABLE = 30.0
"""Seconds that a connection lasts of a server that is well: one that takes connections and breaks
them is asked ever more seldom."""

ALIVE_CHECK = 240.0
"""Mean seconds between two looks at whether the server still answers."""


@dataclass(slots=True)
class Connection:
    """How the connection to the home server is, in words."""

    text: str = "not connected yet"


class Home:
    """Keeps the connection, takes what is pushed, keeps up the prekeys."""

    def __init__(
        self,
        context: Context,
        receiver: Receiver,
        dummies: Dummies,
        changed: Callable[[], None],
        former: Former | None = None,
    ) -> None:
        """``former``: an earlier mailbox, that others may still write to; it gives no more
        prekeys away than it has."""
        self._context = context
        self._former = former
        self._dummies = dummies
        self._polling = Polling(context, receiver, dummies, former)
        self._receiver = receiver
        self._changed = changed
        self._prekeys_used = trio.Event()
        self.connection = Connection()
        self._since = math.inf

    async def run(self) -> None:
        """Stay connected, or poll at the pace of the settings, until cancelled."""
        while True:
            pace = self._context.pace
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._poll_for_ever if pace else self._stay_connected)
                while self._context.pace == pace:
                    await self._context.configuration.wait_changed()
                nursery.cancel_scope.cancel()

    async def _poll_for_ever(self) -> None:
        server, pace = (self._former or self._context.account).server, self._context.pace
        self._say(f"asks {server.place} at random times ({settings.words(pace)})")
        topic = f"poll {server.place}"
        slots = Slots(self._context.random, pace, trio.current_time())
        while True:
            await trio.sleep_until(slots.next)
            slots.due(trio.current_time())
            try:
                with contained():
                    await self._polling.poll()
                self._context.problems.clear(topic)
            except CbfsError as error:
                self._context.problems.set(
                    topic, f"{server.place} was not reached: {error.in_full}"
                )

    async def _stay_connected(self) -> None:
        """Connect, and again when it ends: as soon as anything can be reached again, too."""
        retries = self._context.retries
        server = (self._former or self._context.account).server
        key = f"home {server.host}:{server.port}"
        while True:
            try:
                with contained():
                    await self._session()
            except CbfsError as error:
                if trio.current_time() > self._since + STABLE:
                    retries.forget(key)
                self._since = math.inf
                wait = retries.failed(key)
                again = f"tried again within {in_words(wait)}"
                self._say(f"not connected to {server.place}: {error.in_full}; {again}")
                await retries.wait(key)

    def _say(self, text: str) -> None:
        if text != self.connection.text:
            self.connection.text = text
            self._changed()

    async def _session(self) -> None:
        context = self._context
        account = self._former or context.account
        purpose = HOME + (context.random.token(16) if self._former else b"")
        async with open_link(
            context.dialer.direct, account.server, account.transport, purpose, context.random
        ) as link:
            await request(link, Subscribe())
            limits = await request(link, GetLimits())
            self._since = trio.current_time()
            context.retries.alive()
            self._say(
                f"connected to {account.server.place}, which keeps for you"
                f" {limits.mailbox * ENVELOPE_SIZE >> 20:,} MiB, {limits.retention // 86_400} days"
            )
            errors: list[CbfsError] = []
            async with trio.open_nursery() as nursery:

                async def until_error(work: Callable[[Link], Awaitable[None]]) -> None:
                    try:
                        await work(link)
                    except CbfsError as error:
                        errors.append(error)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(until_error, self._receive)
                if self._former is None:
                    nursery.start_soon(until_error, self._keep_prekeys)
                nursery.start_soon(until_error, self._see_alive)
            if errors:
                raise errors[0]

    async def _receive(self, link: Link) -> None:
        """Take what is pushed, a batch at a time, and let the server delete it."""
        async for payload in link.pushes:
            payloads = [payload]
            while len(payloads) < BATCH:
                try:
                    payloads.append(link.pushes.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            arrived = [decode_push(data) for data in payloads]
            before = len(self._context.sessions.pairs)
            envelopes = [item.envelope for item in arrived]
            await self._receiver.take([e for e in envelopes if not self._dummies.is_dummy(e)])
            ids = tuple(item.id for item in arrived)
            await request(link, Delete(ids))
            await self._dummies.forget(ids)
            if len(self._context.sessions.pairs) < before:
                self._prekeys_used.set()
        raise await link.wait_closed()

    async def _see_alive(self, link: Link) -> None:
        """Ask something now and then: a server that is gone without a word, or whose network is,
        sends nothing, and nothing is just what comes when nobody writes."""
        while True:
            await trio.sleep(exponential(self._context.random, ALIVE_CHECK))
            await request(link, GetLimits())

    async def _keep_prekeys(self, link: Link) -> None:
        while True:
            await top_up(link, self._context)
            context = self._context
            if context.may_delete:
                await context.sessions.tidy(context.store, context.clock() // 1000)
            self._prekeys_used = trio.Event()
            with trio.move_on_after(PREKEY_CHECK):
                await self._prekeys_used.wait()


async def sign_up(link: Link) -> None:
    """Make the account at the home server; again is no error."""
    await request(link, CreateAccount())
