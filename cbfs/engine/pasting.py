"""Who has made a line that the user has pasted becomes a contact, and is told.

What is done for a line is in the store at each step, so that it goes on after a crash, and when a
server does not answer for long: first its record, as soon as the line is used for this account;
then that who has made it is a contact. From there on nothing can be refused, and they are told
however late it is. Each line has connections and times of its own, by its own age.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from cbfs.account.pasted import Pasted, decode_pasted, done, keep, paste, pasted
from cbfs.context import Context
from cbfs.engine.awaiting import DAY, pause
from cbfs.engine.by_line import ByLine, Oneself
from cbfs.names.lookups import DirectoryDown
from cbfs.network.dial import DialError
from cbfs.network.drop import answer, at_drop, check_unused, claim, look
from cbfs.network.link import ServerRefused
from cbfs.problems import NotYet, Refused
from cbfs.storage.store import Meta, StoreError, Table, Writer
from cbfs_common.errors import CbfsError, DecodeError, TransportError
from cbfs_common.limits import LINE_DAYS
from cbfs_common.names.policy import parse_policy
from cbfs_common.wire.lines import InviteLine, InviteRecord, LineArrival, parse_line
from cbfs_common.wire.requests import Code

TRY_TIMEOUT: Final = 180.0
"""Seconds that one try takes at most."""


async def paste_line(context: Context, text: str) -> None:
    """Work on this line from now on; on the disk on return. Nobody is asked for that. Raises
    Refused for what is no line, or one that the user has made."""
    try:
        line = parse_line(text)
    except DecodeError as error:
        raise Refused(str(error), error.hint) from error

    def change(writer: Writer) -> None:
        if writer.get(Table.META, Meta.AWAITED + line.drop) is not None:
            raise Oneself
        paste(writer, Pasted(line, context.clock() // 1_000))

    try:
        await context.store.commit(change)
    except (StoreError, Refused):
        raise
    except CbfsError as error:
        raise Refused(str(error), error.hint) from error


class Pasting:
    """Works on the lines that the user of an account at work has pasted, whose makers ``people``
    makes contacts. ``refused`` is told why one adds nobody."""

    def __init__(
        self, context: Context, people: ByLine, refused: Callable[[CbfsError], None]
    ) -> None:
        self._context = context
        self._people = people
        self._refused = refused

    async def run(self, next_one: Callable[[], Awaitable[None]]) -> None:
        """Work on all that are there, and on more as ``next_one`` says that there are, until
        cancelled."""
        watched: set[bytes] = set()
        async with trio.open_nursery() as nursery:
            while True:
                with self._context.store.read() as reader:
                    found = {one.line.drop for one in pasted(reader)}
                for drop in found - watched:
                    watched.add(drop)
                    nursery.start_soon(self._work, drop, watched)
                await next_one()

    async def _work(self, drop: bytes, watched: set[bytes]) -> None:
        """Until nothing is left to do for a line."""
        context = self._context
        while one := self._now(drop):
            await self._try(one)
            if one := self._now(drop):
                age = max(0.0, context.clock() / 1_000 - one.since)
                await trio.sleep(pause(context.random, age))
        watched.discard(drop)

    def _now(self, drop: bytes) -> Pasted | None:
        """How far a line is; None when nothing is left to do."""
        with self._context.store.read() as reader:
            data = reader.get(Table.META, Meta.PASTED + drop)
        return decode_pasted(data) if data is not None else None

    async def _try(self, one: Pasted) -> None:
        """Go on as far as servers answer, and say what is wrong."""
        try:
            with trio.fail_after(TRY_TIMEOUT):
                await self._go_on(one)
        except StoreError:
            raise
        except (DialError, TransportError, DirectoryDown, NotYet, ServerRefused) as error:
            await self._waits(one.line, error)
        except trio.TooSlowError:
            why = NotYet("a server does not answer", "cbfs tries again by itself")
            await self._waits(one.line, why)
        except CbfsError as error:
            await self._end(one, error)
        else:
            await self._end(one)

    async def _waits(self, line: InviteLine, why: CbfsError) -> None:
        """It cannot go on now. What is not used is not tried for longer than it is good."""
        context, one = self._context, self._now(line.drop)
        if one is None:
            return
        if one.record is None and context.clock() / 1_000 > one.since + LINE_DAYS * DAY:
            await self._end(one, CbfsError(str(why), "ask who has given you the line for another"))
            return
        what = "who has made it is not told yet" if one.met else "nobody was added yet"
        context.problems.set(
            _topic(one), f"a line that you have pasted is tried again: {what}: {why.in_full}"
        )

    async def _end(self, one: Pasted, why: CbfsError | None = None) -> None:
        """Nothing is left to do, or nothing can be done, as ``why`` says."""
        await self._context.store.commit(partial(done, one=one))
        self._context.problems.clear(_topic(one))
        if why is not None:
            self._refused(why)

    async def _go_on(self, one: Pasted) -> None:
        """Do what is left to do."""
        context, line, found = self._context, one.line, None
        record = one.record or await self._looked(line)
        arrival = self._arrival(record)
        line.sealed(arrival)  # before the line is used for what could not be told
        if not one.met:
            policy = parse_policy(record.policy)
            found = await self._people.find(policy, record.inviter, record.identity)
        async with at_drop(context.dialer, line, context.random) as link:
            if one.record is None:
                await claim(link, line, context.account.user_id)
                one = await self._kept(replace(one, record=record))
            if found is not None:
                await self._people.keep(found)
                await self._kept(replace(one, met=True))
            try:
                await answer(link, line, arrival)
            except ServerRefused as error:
                if error.code is not Code.UNKNOWN_USER:  # else nobody looks there any more
                    raise

    async def _looked(self, line: InviteLine) -> InviteRecord:
        """What a line leads to that nobody uses."""
        context, user = self._context, self._context.account.user_id
        async with at_drop(context.dialer, line, context.random) as link:
            drop = await look(link, line, context.clock() / 1_000, user)
        if not drop.record.contact:
            raise Refused(
                "this line makes an account, and is not for somebody who has one",
                "ask for one that is, and say: cbfs invite --contact",
            )
        check_unused(line, drop, user)
        return drop.record

    async def _kept(self, one: Pasted) -> Pasted:
        await self._context.store.commit(partial(keep, one=one))
        return one

    def _arrival(self, record: InviteRecord) -> LineArrival:
        """What is told to who has made the line."""
        account, own = self._context.account, self._context.followed.own.policy
        theirs = parse_policy(record.policy).directory
        other = "" if theirs == own.directory else own.encode()
        return LineArrival(account.name, account.profile.identity(account.person), other)


def _topic(one: Pasted) -> str:
    return f"pasted {one.line.drop.hex()}"
