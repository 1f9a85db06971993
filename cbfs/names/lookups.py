"""Questions to the name directory: look-ups, heads and the change feed, each answer checked.

Every call makes a connection of its own, with a fresh key and a circuit of its own, and asks for
nothing but a name, so that the directory cannot tell which names the same person asks for. The
heads that look-ups show are kept, and the log is followed through all of them: by the next poll,
or before another look-up when there are HEADS_SEEN_MAX. So a log that is forked for look-ups shows
one poll later.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby

import trio

from cbfs.network.dial import Dialer, DialError
from cbfs.network.link import Link, open_link
from cbfs_common.errors import CbfsError, DecodeError, TransportError
from cbfs_common.limits import COSIGNATURE_AHEAD_MAX, FEED_TILE, FOLLOW_MAX, HEADS_SEEN_MAX
from cbfs_common.names.changes import HistoryLink as Step
from cbfs_common.names.checks import (
    Absent,
    DirectoryState,
    Found,
    Newest,
    Policy,
    Shown,
    check_extends,
    check_feed,
    check_leads_to,
    check_lookup,
    check_newest,
    decode_state,
    followed,
    is_current,
    new_state,
)
from cbfs_common.names.entry import Entry, decode_entry
from cbfs_common.names.faults import DirectoryLies, Fault
from cbfs_common.names.feed import FeedRound, Followed, Position, decode_tile, tile_of
from cbfs_common.names.operations import OperationRefused
from cbfs_common.names.wire import (
    AskChanges,
    AskConsistency,
    AskHead,
    AskHistory,
    ChangesAre,
    ConsistencyIs,
    HeadIs,
    LookedUp,
    Lookup,
    RefusedReply,
    Reply,
    Request,
    Steps,
    decode_reply,
    encode_request,
)
from cbfs_common.person import check_name
from cbfs_common.primitives import Random

HISTORY_PAGES_MAX = 256
"""Requests for a known contact's operations, before giving up."""

TILE_PARTS_MAX = 40
"""Parts of one tile: more than 64 rounds of 1,024 changes take."""

TILES_KEPT_MAX = 64
"""Whole tiles kept in memory."""

LOOKUPS_AT_ONCE = 8
"""Connections for look-ups side by side."""

BUNDLE_ROUNDS_MAX = 8 * FOLLOW_MAX
"""Rounds for which a bundle is compared with the change feed: of a day and a half, when rounds are
made as fast as they may be. Bundles are made anew each day."""

TRIES = 3
"""Look-ups side by side before one is made alone, so that no other can come between."""

ISOLATION_SIZE = 16

AGREES_WITHIN = 3_600.0
"""Seconds by which a clock may differ from one that the directory agreed with: the machine may have
slept meanwhile."""


class DirectoryDown(CbfsError):
    """The directory cannot be reached, or broke off. Trying again later is right."""


@dataclass(frozen=True, slots=True)
class Polled:
    """What a poll brought: index prefixes (8 bytes) that ``changed`` since the last one, each with
    the last round that did it.
    ``degraded``: only the policy's weaker quorum has signed, and nothing was learnt."""

    changed: Mapping[bytes, int] = field(default_factory=dict)
    degraded: bool = False


class Lookups:
    """Questions to one name directory, and what is known of it by their answers."""

    def __init__(
        self,
        dialer: Dialer,
        policy: Policy,
        load: Callable[[], bytes | None],
        save: Callable[[bytes], Awaitable[None]],
        clock: Callable[[], float],
        random: Random,
        title: str = "the name directory",
    ) -> None:
        """``policy`` says whose signatures count. ``load`` gives what ``save`` was last given,
        which must then be on the disk. ``clock`` gives seconds since 1970. ``title``: what users
        are told that it is. Raises DecodeError when what was stored is damaged."""
        self.dialer = dialer
        self.policy = policy
        self.title = title
        self._save = save
        self.clock = clock
        self.random = random
        self._alone = trio.Lock()  # held, on a connection, while the state may change
        self._limiter = trio.CapacityLimiter(LOOKUPS_AT_ONCE)
        self.clock_ahead: int | None = None
        """By how many seconds this computer's clock is ahead of the directory's: 0 when it is
        right, None before a quorum's time was seen."""
        self._agreed: tuple[float, float] | None = None
        self._tiles: dict[int, tuple[FeedRound, ...]] = {}
        stored = load()
        self._state = new_state(policy) if stored is None else decode_state(stored)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator["Turn"]:
        """A connection on which nobody else changes meanwhile what is known of the directory.
        Raises DirectoryDown when it cannot be reached or breaks off."""
        async with self._connected() as link, self._alone:
            yield Turn(self, link)

    async def lookup(
        self, name: str, known: Entry | None = None, *, lapsed: bool = False
    ) -> Found | Absent:
        """What the directory has for a name, checked against the contact's ``known`` entry.
        ``lapsed``: for its owner, one that is over is found all the same. Raises DirectoryDown,
        DirectoryLies, NameExpired, NameChanged, or DecodeError for what is no name.
        """
        check_name(name)
        async with self._limiter:
            for _ in range(TRIES):
                await self._make_room()
                base = self._state
                async with self._connected() as link:
                    reply, steps = await self._answer(link, name, known)
                async with self._alone:
                    after, found = self._check(base, reply, steps, name, known, lapsed)
                    merged = self._state.with_head(after.newest, after.time)
                    if merged is not None and len(merged.seen) <= HEADS_SEEN_MAX:
                        await self._keep(merged)
                        return found
            async with self.turn() as turn:
                return await turn.lookup(name, known, lapsed=lapsed)

    async def poll(self, mark: Callable[[Polled], Awaitable[None]]) -> Polled:
        """Ask for the newest head and what has changed since the last poll, however long ago that
        was: in stretches of FOLLOW_MAX rounds, so that nothing has to be asked for by name because
        others were busy. ``mark`` is told of each before that is forgotten; a crash in between
        tells it again. The last one is returned, with what changed in all. Raises DirectoryDown or
        DirectoryLies, also when the log does not lead through what look-ups have shown."""
        async with self.turn() as turn:
            newest = await self._newest(turn.link)
            if newest.degraded:
                return Polled(degraded=True)
            changed: dict[bytes, int] = {}
            if newest.head.size - self._state.feed.size > FOLLOW_MAX:
                await self._keep(await self._followed(turn.link, newest))
            while newest.head.size - self._state.feed.size > FOLLOW_MAX:
                stretch = await self._stretch(turn.link, self._state.feed, newest.head)
                await mark(Polled(stretch.changes))
                await self._keep(replace(self._state, feed=stretch.position))
                changed |= stretch.changes
            rounds = await self._rounds(turn.link, self._state.feed.size, newest.head.size)
            state, last = check_feed(self._state, newest, rounds)
            await mark(Polled(last))
            await self._keep(state)
            return Polled({**changed, **last})

    async def _stretch(self, link: Link, start: Position, end: Position) -> Followed:
        """What has changed from a position to the next multiple of FOLLOW_MAX, from which a proof
        leads to ``end``."""
        old = (start.size // FOLLOW_MAX + 1) * FOLLOW_MAX
        rounds, proof = await self._rounds(link, start.size, old), await self._proof(link, old, end)
        return check_extends(start, rounds, proof, old, end)

    async def _make_room(self) -> None:
        """Follow the log when no more heads can be kept of which that is still to be done."""
        if len(self._state.seen) >= HEADS_SEEN_MAX:
            async with self.turn() as turn:
                await turn.make_room()

    async def _newest(self, link: Link) -> Newest:
        reply = await self._ask(link, AskHead())
        if not isinstance(reply, HeadIs):
            raise unexpected(reply)
        with self._comparing_clocks():
            return check_newest(self.policy, self._state, reply, int(self.clock()))

    async def _followed(self, link: Link, newest: Newest) -> DirectoryState:
        """The state when the log has been followed to ``newest`` through every head that was seen;
        the changes on the way are not known then. What is asked for says where the client was last,
        and of the heads seen since nothing but in which stretches of FOLLOW_MAX rounds there are
        any."""
        if newest.degraded:
            raise DirectoryLies(Fault.QUORUM)
        state, end = self._state, newest.head
        positions = (state.head, *state.seen)
        if end.size - state.head.size <= FOLLOW_MAX:
            rounds = await self._rounds(link, state.head.size, end.size)
            for position in positions:
                check_leads_to(position, rounds, end)
        else:
            for stretch, there in groupby(positions, lambda each: each.size // FOLLOW_MAX):
                start = max(stretch * FOLLOW_MAX, state.head.size)
                await self._lead_to(link, start, tuple(there), end)
        return followed(state, newest)

    async def _lead_to(
        self, link: Link, start: int, positions: tuple[Position, ...], end: Position
    ) -> None:
        """Check that the log goes on to ``end`` from positions that are past ``start`` and before
        the next multiple of FOLLOW_MAX: by its rounds, and behind that multiple by a proof."""
        old = min((start // FOLLOW_MAX + 1) * FOLLOW_MAX, end.size)
        rounds, proof = await self._rounds(link, start, old), await self._proof(link, old, end)
        for position in positions:
            check_extends(position, rounds, proof, old, end)

    async def _proof(self, link: Link, old: int, end: Position) -> tuple[bytes, ...]:
        """That the log goes on from ``old`` rounds, a multiple of FOLLOW_MAX, to ``end``."""
        if old >= end.size:
            return ()
        reply = await self._ask(link, AskConsistency(old, end.size))
        if not isinstance(reply, ConsistencyIs):
            raise unexpected(reply)
        return reply.proof

    async def is_current(self, shown: Shown) -> bool | None:
        """Whether what a bundle shows is still so at the last poll; None when the change feed
        cannot say: the bundle is newer than the last poll, or too old. Raises DirectoryDown or
        DirectoryLies."""
        state, start = self._state, shown.head.size
        if not 0 <= state.feed.size - start <= BUNDLE_ROUNDS_MAX:
            return None
        if start == state.feed.size:
            return is_current(self.policy, state, shown, ())
        async with self._connected() as link:
            rounds = await self._rounds(link, start, state.feed.size)
        return is_current(self.policy, state, shown, rounds)

    def is_ahead(self, shown: Shown) -> bool:
        """Whether a bundle is newer than the last poll."""
        return shown.head.size > self._state.feed.size

    async def _rounds(self, link: Link, start: int, end: int) -> tuple[FeedRound, ...]:
        found: list[FeedRound] = []
        if start < end:
            for tile in range(tile_of(start), tile_of(end - 1) + 1):
                found += self._tiles.get(tile) or await self._tile(link, tile)
        return tuple(found)

    async def _tile(self, link: Link, tile: int) -> tuple[FeedRound, ...]:
        data = bytearray()
        for part in range(TILE_PARTS_MAX):
            reply = await self._ask(link, AskChanges(tile, part))
            if not isinstance(reply, ChangesAre):
                raise unexpected(reply)
            data += reply.data
            if not reply.more:
                break
        else:
            raise DirectoryLies(Fault.FEED)
        try:
            rounds = decode_tile(tile, bytes(data))
        except DecodeError as error:
            raise DirectoryLies(Fault.FEED) from error
        if len(rounds) == FEED_TILE:
            if len(self._tiles) >= TILES_KEPT_MAX:
                self._tiles.clear()
            self._tiles[tile] = rounds
        return rounds

    async def _answer(
        self, link: Link, name: str, known: Entry | None
    ) -> tuple[LookedUp, tuple[Step, ...]]:
        reply = await self._ask(link, Lookup(name))
        if not isinstance(reply, LookedUp):
            raise unexpected(reply)
        return reply, await self._steps(link, reply, name, known)

    def _check(
        self,
        base: DirectoryState,
        reply: LookedUp,
        steps: tuple[Step, ...],
        name: str,
        known: Entry | None,
        lapsed: bool,
    ) -> tuple[DirectoryState, Found | Absent]:
        with self._comparing_clocks():
            return check_lookup(
                self.policy,
                base,
                reply.evidence,
                steps,
                name,
                known,
                int(self.clock()),
                lapsed=lapsed,
            )

    @contextmanager
    def _comparing_clocks(self) -> Iterator[None]:
        """Learn from an answer that is checked in the block how far off this computer's clock is: a
        quorum signs with the time."""
        try:
            yield
        except DirectoryLies as error:
            if error.ahead:
                self.clock_ahead = error.ahead
            raise
        self.clock_ahead = 0
        self._agreed = self.clock(), trio.current_time()

    def agrees(self, now: float) -> bool:
        """Whether this computer's clock, which says ``now`` (seconds since 1970), has gone on as it
        should, give or take AGREES_WITHIN seconds, since the directory last agreed with it. False
        when the directory never did, or does not."""
        if self.clock_ahead != 0 or self._agreed is None:
            return False
        then, at = self._agreed
        return abs(now - then - (trio.current_time() - at)) < AGREES_WITHIN

    async def _steps(
        self, link: Link, reply: LookedUp, name: str, known: Entry | None
    ) -> tuple[Step, ...]:
        """The newest operations on a name; all since ``known`` when the reply does not reach back
        so far."""
        if known is None or not reply.evidence.entry:
            return reply.links
        try:
            entry = decode_entry(reply.evidence.entry)
        except DecodeError:
            return reply.links  # the checks will say so
        behind = entry.version - known.version
        if entry.incarnation != known.incarnation or behind <= len(reply.links):
            return reply.links
        found: list[Step] = []
        for _ in range(HISTORY_PAGES_MAX):
            page = await self._ask(
                link, AskHistory(name, known.incarnation, known.version + len(found))
            )
            if not isinstance(page, Steps):
                raise unexpected(page)
            found += page.links
            if not page.links or len(found) >= behind:
                break
        return tuple(found[:behind])

    async def _keep(self, state: DirectoryState) -> None:
        """Save a state, then work with it. A crash before the save leaves the older head, against
        which the next one is checked just as well."""
        floor = self._state.time
        if floor > int(self.clock()) + COSIGNATURE_AHEAD_MAX:
            floor = 0  # it was kept while this computer's clock was wrong
        state = replace(state, time=max(state.time, floor))
        if state != self._state:
            await self._save(state.encode())
            self._state = state

    async def _ask(self, link: Link, request: Request) -> Reply:
        payload = await link.call(encode_request(request))
        try:
            return decode_reply(payload)
        except DecodeError as error:
            raise DirectoryLies(Fault.MALFORMED) from error

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Link]:
        isolation = b"names:" + self.random.token(ISOLATION_SIZE)
        try:
            async with open_link(
                self.dialer, self.policy.server, None, isolation, self.random
            ) as link:
                yield link
        except (DialError, TransportError) as error:
            raise DirectoryDown(
                f"{self.title} does not answer: {error}",
                error.hint or "cbfs tries again by itself",
            ) from error


class Turn:
    """One connection, with the state of ``Lookups`` standing still for others meanwhile."""

    def __init__(self, lookups: Lookups, link: Link) -> None:
        self._lookups = lookups
        self.link = link

    @property
    def size(self) -> int:
        """Rounds in the directory's log, by the newest head that was checked."""
        return self._lookups._state.size

    async def lookup(
        self, name: str, known: Entry | None, *, lapsed: bool = False
    ) -> Found | Absent:
        """What the directory has for a name, checked against the ``known`` entry. ``lapsed``: one
        that is over is found all the same. Raises DirectoryLies, NameExpired or NameChanged."""
        lookups = self._lookups
        await self.make_room()
        reply, steps = await lookups._answer(self.link, name, known)
        after, found = lookups._check(lookups._state, reply, steps, name, known, lapsed)
        await lookups._keep(after)
        return found

    async def make_room(self) -> None:
        """Follow the log when no more heads can be kept of which that is still to be done. Raises
        DirectoryLies."""
        lookups = self._lookups
        if len(lookups._state.seen) >= HEADS_SEEN_MAX:
            newest = await lookups._newest(self.link)
            await lookups._keep(await lookups._followed(self.link, newest))

    async def ask(self, request: Request) -> Reply:
        """Send one request; its reply. Raises DirectoryLies for what is no reply."""
        return await self._lookups._ask(self.link, request)


def unexpected(reply: Reply) -> CbfsError:
    """The error for a reply of the wrong kind: a refusal in its words, or that the server lies."""
    if isinstance(reply, RefusedReply):
        return OperationRefused(reply.refusal)
    return DirectoryLies(Fault.MALFORMED)
