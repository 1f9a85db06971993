"""The mailbox at the home server: what has arrived is pushed on a connection that stays, or fetched
by polls at random moments, by the pace of the settings; prekeys are kept up."""

import math
from collections.abc import Awaitable, Callable

import trio

from cbfs.account import settings
from cbfs.account.account import Former
from cbfs.contacts.former_keys import given_up
from cbfs.context import Context
from cbfs.network.dial import HOME
from cbfs.network.link import Link, ServerRefused, open_link, request, request_in_order
from cbfs.network.pacing import Slots
from cbfs.problems import in_words
from cbfs.receiving.copies import Copies
from cbfs.receiving.deletions import Deletions
from cbfs.receiving.prekeys import PrekeyBatch, make_batch, plan, top_up
from cbfs.receiving.receiver import Receiver
from cbfs.receiving.signing_up import Again
from cbfs.sending.cover_traffic import CoverTraffic
from cbfs.storage.faults import contained
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import ENVELOPE_SIZE, SPOKEN_VERSION
from cbfs_common.primitives import exponential
from cbfs_common.wire.fields import Reply, Request
from cbfs_common.wire.requests import (
    ID_SIZE,
    AnyRequest,
    Code,
    CountPrekeys,
    CreateAccount,
    Delete,
    EnvelopeIds,
    ErrorReply,
    Fetch,
    GetLimits,
    LastMark,
    List,
    PrekeyCount,
    ServerLimits,
    ServerVersion,
    Stored,
    Subscribe,
    SwapMark,
    TellVersion,
    decode_push,
)

BATCH = 32
"""Envelopes opened in one commit."""

GATHER = 0.01
"""Seconds for which what has come, while a batch was opened, waits for what comes next: where
envelopes come so fast, each would be a commit of its own."""

PREKEY_CHECK = 3_600.0
"""Seconds between two marks, and between looks at how many prekeys are left: not when some were
used, which would say of an envelope that it could be read, and was somebody's first."""

TIDY_AFTER = 60.0
"""Seconds of a connection before secrets that are too old are deleted: something may have come to
those of prekeys while the client was away, and waits in the mailbox."""

STABLE = 30.0
"""Seconds that a connection lasts of a server that is well: one that takes connections and breaks
them is asked ever more seldom."""

ALIVE_CHECK = 240.0
"""Mean seconds between two looks at whether the server still answers."""

UNTOLD_VERSION = 1
"""Of a server from before versions were told."""

_TELLS_NONE = frozenset((Code.BAD_REQUEST, Code.LATER_VERSION))

POLL_FETCHES = 4
"""Envelopes that one poll can bring: more than cover traffic and messages come at the same pace."""


class Mailbox:
    """One of the account's: keeps the connection or polls, takes in what has come, keeps up the
    prekeys. ``changed`` is told when ``connection`` reads otherwise."""

    def __init__(
        self,
        context: Context,
        receiver: Receiver,
        cover: CoverTraffic,
        changed: Callable[[], None],
        copies: Copies | None = None,
        former: Former | None = None,
    ) -> None:
        """``copies`` puts the account's mark there. ``former``: an earlier mailbox, that others may
        still write to; it gives no more prekeys away than it has, and has no mark."""
        self._context = context
        self._former = former
        self._cover = cover
        self._deletions = Deletions(cover)
        self._copies = copies
        self._again = Again(context, self._say)
        self._polling = Polling(context, receiver, cover, copies, former, self._again)
        self._receiver = receiver
        self._changed = changed
        self.connection = "not connected yet"
        """How the connection to the server is, in words."""
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
        if text != self.connection:
            self.connection = text
            self._changed()

    async def _session(self) -> None:
        context = self._context
        account = self._former or context.account
        purpose = HOME + (context.random.token(16) if self._former else b"")
        async with open_link(
            context.dialer.direct, account.server, account.transport, purpose, context.random
        ) as link:
            await self._arrive(link)
            limits, version = await _settle(link)
            self._since = trio.current_time()
            context.retries.alive()
            self._say(
                f"connected to {account.server.place}, which keeps for you"
                f" {limits.mailbox * ENVELOPE_SIZE >> 20:,} MiB, {limits.retention // 86_400} days"
                f"{_version_words(version)}"
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
                nursery.start_soon(until_error, self._deletions.run)
                if self._former is None:
                    nursery.start_soon(until_error, self._keep_prekeys)
                    nursery.start_soon(until_error, self._tidy)
                nursery.start_soon(until_error, self._see_alive)
            if errors:
                raise errors[0]

    async def _arrive(self, link: Link) -> None:
        """Begin to receive, from an account that is made anew if it has ended; an earlier one stays
        as it is."""
        try:
            await self._mark(link)
            await self._deletions.finish(link)  # or it is pushed once more
            await request(link, Subscribe())
        except ServerRefused as error:
            if self._former is not None:
                raise
            await self._again.make(link, error)
            await self._mark(link)
            await request(link, Subscribe())

    async def _receive(self, link: Link) -> None:
        """Take what is pushed, a batch at a time; then the server may delete it."""
        payloads: list[bytes] = []
        while True:
            if payloads:  # they came while those before were opened, and more may come
                await trio.sleep(GATHER)
            else:
                try:
                    payloads.append(await link.pushes.receive())
                except trio.EndOfChannel:
                    break
            _collect(link, payloads)
            arrived = [decode_push(data) for data in payloads]
            envelopes = [item.envelope for item in arrived]
            await self._receiver.take([e for e in envelopes if not self._cover.is_dummy(e)])
            self._deletions.add(tuple(item.id for item in arrived))
            payloads = []
            _collect(link, payloads)
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
            await trio.sleep(PREKEY_CHECK)
            await self._mark(link)

    async def _mark(self, link: Link) -> None:
        """Before anything that a copy must not do: take in what has come, and make prekeys."""
        if self._copies is not None:
            await self._copies.swap(link)

    async def _tidy(self, _link: Link) -> None:
        context = self._context
        await trio.sleep(TIDY_AFTER)
        while True:
            if context.may_delete:
                await tidy(context)
            await trio.sleep(PREKEY_CHECK)


async def _settle(link: Link) -> tuple[ServerLimits, int]:
    """What the server keeps, and the highest version of the protocol that it reads, which it tells
    for that of this program. Raises what ``request`` raises."""
    asked: list[Request[Reply]] = [TellVersion(SPOKEN_VERSION), GetLimits()]
    told, limits = await request_in_order(link, asked)
    if isinstance(told, ServerRefused) and told.code in _TELLS_NONE:
        told = ServerVersion(UNTOLD_VERSION)
    for reply in told, limits:
        if isinstance(reply, CbfsError):
            raise reply
    if not (isinstance(told, ServerVersion) and isinstance(limits, ServerLimits)):
        raise DecodeError("the server's reply does not fit the request")
    return limits, told.version


def _version_words(version: int) -> str:
    """Of a server that reads up to this version of the protocol; empty for one of this version."""
    if version == SPOKEN_VERSION:
        return ""
    later = version > SPOKEN_VERSION
    hint = "a newer cbfs is there" if later else "who runs it may upgrade it"
    return (
        f"; it reads version {version} of the protocol, and this cbfs version {SPOKEN_VERSION}"
        f" ({hint}; what both have goes on)"
    )


def _collect(link: Link, payloads: list[bytes]) -> None:
    """What has been pushed so far as well, as much as one commit takes."""
    while len(payloads) < BATCH:
        try:
            payloads.append(link.pushes.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return


async def tidy(context: Context) -> None:
    """Forget sessions, keys and secrets that are too old, or were given up."""
    sessions, store, now = context.sessions, context.store, context.clock()
    await sessions.tidy(store, now // 1_000)
    await sessions.forget_given_up(store, given_up(context.contacts, sessions, now))


class Polling:
    """Polls of one mailbox, in place of staying connected to its server.

    Each poll is the same exchange whatever there is: four requests and POLL_FETCHES fetches, of
    one frame each, of which those for which nothing waits ask for an envelope that is not there.
    What was fetched is worked on when the connection has ended, and deleted by the next poll."""

    def __init__(
        self,
        context: Context,
        receiver: Receiver,
        cover: CoverTraffic,
        copies: Copies | None,
        former: Former | None,
        again: Again,
    ) -> None:
        """``former``: the mailbox is an earlier one, which gets no prekeys. Without ``copies`` it
        gets no mark either. ``again`` makes an account anew that has ended."""
        self._again = again
        self._context = context
        self._former = former
        self._receiver = receiver
        self._cover = cover
        self._copies = copies
        self._taken: tuple[bytes, ...] = ()
        self._batches: list[PrekeyBatch] = []
        self._gone = 0  # polls in a row that have found no account

    async def poll(self) -> None:
        """One exchange, and what it brings into the store. Raises CbfsError."""
        context = self._context
        account = self._former or context.account
        spare: AnyRequest = CountPrekeys()
        if self._gone and self._former is None:
            spare = CreateAccount()
        elif self._batches:
            spare = await make_batch(context, self._batches[0])
        taken = self._taken
        mark = await self._copies.ask() if self._copies else CountPrekeys()
        async with open_link(
            context.dialer.direct,
            account.server,
            account.transport,
            HOME + context.random.token(16),
            context.random,
        ) as link:
            try:
                replies = await _ask_all(link, [mark, Delete(taken), spare, List(b"")])
            except ServerRefused as error:
                if self._former is not None:
                    raise
                await self._note_gone(link, error)
                return
            found = replies[3].ids if isinstance(replies[3], EnvelopeIds) else ()
            ids = [id_ for id_ in found if id_ not in taken][:POLL_FETCHES]
            noise = [context.random.token(ID_SIZE) for _ in range(POLL_FETCHES - len(ids))]
            fetched = await _ask_all(link, [Fetch(id_) for id_ in (*ids, *noise)])
        self._taken = ()
        await self._cover.forget(taken)
        begins_anew = await self._hear(mark, replies[0])
        if self._copies is not None and self._copies.stopped:
            return  # the copy that goes on takes in what was fetched
        if begins_anew:
            self._batches = []  # the secrets of those before them are gone: all are made anew
        elif self._gone:
            self._again.tell()
        else:
            self._note_prekeys(replies[2])
        self._gone = 0
        envelopes = [reply.envelope for reply in fetched if isinstance(reply, Stored)]
        real = [data for data in envelopes if not self._cover.is_dummy(data)]
        if real:
            await self._receiver.take(real)
        self._taken = tuple(ids)
        if context.may_delete:
            await tidy(context)

    async def _note_gone(self, link: Link, error: ServerRefused) -> None:
        """There is no account: the next poll asks for one in the place of another request. The one
        after it finds whether that was enough; where a newcomer has to work, there are more
        requests. Raises ``error`` when it is of something else."""
        if error.code is not Code.NO_ACCOUNT:
            raise error
        self._batches = []
        self._gone += 1
        if self._gone > 2:
            await self._again.make(link, error)
            self._gone = 0

    async def _hear(self, asked: AnyRequest, reply: Reply) -> bool:
        """What the mark at the server says. True when all sessions and prekeys were given up."""
        if self._copies is None or not (
            isinstance(asked, SwapMark) and isinstance(reply, LastMark)
        ):
            return False
        return await self._copies.heard(asked, reply.mark)

    def _note_prekeys(self, reply: Reply) -> None:
        if isinstance(reply, PrekeyCount) and self._former is None:
            self._batches = plan(self._context, reply)
        elif self._batches:
            del self._batches[0]


async def _ask_all(link: Link, requests: list[AnyRequest]) -> list[Reply]:
    """All at once, as over Tor each would cost a round trip of its own. An envelope that is not
    there is no error here."""
    replies: list[Reply] = []
    for reply in await request_in_order(link, requests):
        if isinstance(reply, ServerRefused) and reply.code is Code.UNKNOWN_ENVELOPE:
            replies.append(ErrorReply(reply.code))
        elif isinstance(reply, CbfsError):
            raise reply
        elif reply is not None:
            replies.append(reply)
    return replies
