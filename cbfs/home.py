"""The connection to the home server: what has arrived is pushed on it, prekeys are kept up."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from cbfs.account import Former
from cbfs.context import Backoff, Context
from cbfs.dial import HOME
from cbfs.link import Link, open_link, request
from cbfs.receiver import Receiver
from cbfs.store import Table, Writer
from cbfs_common.chance import exponential
from cbfs_common.errors import CbfsError
from cbfs_common.limits import LAST_RESORT_RENEWAL, PREKEY_LIFETIME, PREKEYS_ONE_TIME
from cbfs_common.prekey import PrekeyKind, make_prekey
from cbfs_common.requests import (
    CountPrekeys,
    CreateAccount,
    Delete,
    GetLimits,
    Subscribe,
    UploadPrekeys,
    decode_push,
)

BATCH = 32
"""Envelopes opened in one commit."""

UPLOAD = 10
"""Prekeys in one request."""

LAST_RESORT = PrekeyKind.LAST_RESORT

REFILL = 25
"""Prekeys are made anew when so many are missing."""

PREKEY_CHECK = 3_600.0
"""Seconds between looks at how many prekeys are left, while nobody new writes."""

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
        changed: Callable[[], None],
        former: Former | None = None,
    ) -> None:
        """``former``: an earlier mailbox, that others may still write to; it gives no more
        prekeys away than it has."""
        self._context = context
        self._former = former
        self._receiver = receiver
        self._changed = changed
        self._prekeys_used = trio.Event()
        self.connection = Connection()

    async def run(self) -> None:
        """Connect, and again when it ends, until cancelled."""
        backoff = Backoff(self._context.random)
        server = (self._former or self._context.account).server
        while True:
            try:
                await self._session(backoff)
            except CbfsError as error:
                wait = backoff.next()
                hint = f" ({error.hint})" if error.hint else ""
                self._say(f"not connected to {server.host}:{server.port}: {error}{hint}")
                await trio.sleep(wait)

    def _say(self, text: str) -> None:
        if text != self.connection.text:
            self.connection.text = text
            self._changed()

    async def _session(self, backoff: Backoff) -> None:
        context = self._context
        account = self._former or context.account
        purpose = HOME + (context.random.token(16) if self._former else b"")
        async with open_link(
            context.dialer, account.server, account.transport, purpose, context.random
        ) as link:
            await request(link, Subscribe())
            backoff.reset()
            self._say(f"connected to {account.server.host}:{account.server.port}")
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
            await self._receiver.take([item.envelope for item in arrived])
            await request(link, Delete(tuple(item.id for item in arrived)))
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
            await context.sessions.tidy(context.store, context.clock() // 1000)
            self._prekeys_used = trio.Event()
            with trio.move_on_after(PREKEY_CHECK):
                await self._prekeys_used.wait()


async def top_up(link: Link, context: Context) -> None:
    """Upload one-time prekeys when some are missing, a last-resort prekey when it is old, and all
    anew when the server has some whose secrets are not here.

    The secrets are on the disk before the server has the public halves: a crash in between
    leaves secrets that nobody uses, never a prekey that cannot be answered."""
    now = context.clock() // 1000
    count = await request(link, CountPrekeys())
    pairs = context.sessions.pairs.values()
    one_time = sum(p.kind is PrekeyKind.ONE_TIME and p.expires > now for p in pairs)
    known = any(p.expires == count.last_resort_expires for p in pairs if p.kind is LAST_RESORT)
    missing = PREKEYS_ONE_TIME - count.one_time
    batches: list[list[PrekeyKind]] = []
    if count.one_time > one_time or (count.last_resort_expires and not known):
        # of some that it gives away the secrets are not here: they were lost, or it lies
        await _upload(link, context, [LAST_RESORT], now, replace=True)
        missing = PREKEYS_ONE_TIME
    elif count.last_resort_expires < now + PREKEY_LIFETIME - LAST_RESORT_RENEWAL:
        batches.append([LAST_RESORT])
    if missing >= REFILL:
        batches += [
            [PrekeyKind.ONE_TIME] * min(UPLOAD, missing - start)
            for start in range(0, missing, UPLOAD)
        ]
    failures: list[CbfsError] = []

    async def upload(kinds: list[PrekeyKind]) -> None:
        try:
            await _upload(link, context, kinds, now)
        except CbfsError as error:
            failures.append(error)

    # all at once: over Tor each would cost a round trip of its own
    async with trio.open_nursery() as nursery:
        for kinds in batches:
            nursery.start_soon(upload, kinds)
    if failures:
        raise failures[0]


async def _upload(
    link: Link, context: Context, kinds: list[PrekeyKind], now: int, *, replace: bool = False
) -> None:
    pairs = [make_prekey(context.random, kind, now + PREKEY_LIFETIME) for kind in kinds]

    def change(writer: Writer) -> None:
        for pair in pairs:
            writer.put(Table.PREKEYS, pair.id, pair.encode())

    await context.store.commit(change)
    context.sessions.add_pairs(pairs)
    records = tuple(pair.public(context.account.signing) for pair in pairs)
    await request(link, UploadPrekeys(records, replace))


async def sign_up(link: Link) -> None:
    """Make the account at the home server; again is no error."""
    await request(link, CreateAccount())
