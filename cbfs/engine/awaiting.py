"""Those to whom the user has given a line become contacts when they come.

Each line is looked at by itself, on a connection and a circuit of its own, at random times which
follow from its age and from nothing else: not from what others do, and not from other lines. What a
server still learns of that is in THREATS.rst, I6.
"""

from functools import partial
from typing import Final

import trio

from cbfs.account.awaited import Awaited, await_no_more, awaited
from cbfs.context import Context
from cbfs.engine.by_line import ByLine, Oneself, OtherKeys
from cbfs.names.followed import PolicyRefused
from cbfs.network.drop import LineSpent, at_drop, come, forget
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import LINE_DAYS, LINE_FINISH_DAYS
from cbfs_common.names.policy import parse_policy
from cbfs_common.primitives import Random, exponential
from cbfs_common.wire.lines import LineArrival

DAY: Final = 86_400
READ_PERIOD: Final = 2.0
"""Seconds between two looks into the store for who is awaited."""

LOOK_FIRST: Final = 5.0
LOOK_LAST: Final = 600.0
LOOK_SLOWER: Final = 16.0
"""Seconds between two looks at a line on average: at first, and at most. They grow with its age, by
a second in LOOK_SLOWER."""


def pause(random: Random, age: float) -> float:
    """Seconds to the next look at a line that is so many seconds old."""
    return exponential(random, min(LOOK_FIRST + age / LOOK_SLOWER, LOOK_LAST))


class Awaiting:
    """Waits for those to whom the user of an account at work has given lines, whom ``people``
    makes contacts."""

    def __init__(self, context: Context, people: ByLine) -> None:
        self._context = context
        self._people = people
        self._watched: set[bytes] = set()

    async def run(self) -> None:
        """Look for those who are awaited, until cancelled."""
        self._watched = set()
        async with trio.open_nursery() as nursery:
            while True:
                with self._context.store.read() as reader:
                    waiting = awaited(reader)
                for one in waiting:
                    if one.line.drop not in self._watched:
                        self._watched.add(one.line.drop)
                        nursery.start_soon(self._watch, one)
                await trio.sleep(READ_PERIOD)

    async def _watch(self, one: Awaited) -> None:
        """Until they have come, or the line is too old."""
        over = False
        while not over:
            await trio.sleep(self._pause(one))
            over = await self._look(one)
        await self._context.store.commit(partial(await_no_more, one=one))
        self._watched.discard(one.line.drop)

    def _pause(self, one: Awaited) -> float:
        """Seconds to the next look at a line."""
        age = max(0.0, self._context.clock() / 1_000 - (one.until - LINE_DAYS * DAY))
        return pause(self._context.random, age)

    async def _look(self, one: Awaited) -> bool:
        """Look once; whether that was the last time. A server that does not answer, or has nothing
        there, is asked again later. When the line is too old, this is the last look at who has
        come, as they may have done so while this client did not run; nobody is to use the invites
        that lie there after that, and a server that does not answer is asked until they count no
        more."""
        context, line = self._context, one.line
        past = context.clock() // 1_000 - one.until
        try:
            async with at_drop(context.dialer, line, context.random) as link:
                found = await come(link, line)
                if found is not None:
                    await self._meet(found)
                elif past <= 0:
                    return False
                await forget(link)
        except DecodeError:
            return True
        except LineSpent:
            return past > 0
        except CbfsError:
            return past > LINE_FINISH_DAYS * DAY  # those of an account count from its next week on
        return True

    async def _meet(self, come: LineArrival) -> None:
        """Let who has come be a contact, if their directory has the keys for them that they have
        told of. Raises what look-ups raise."""
        context = self._context
        policy = parse_policy(come.policy) if come.policy else None
        try:
            await self._people.keep(await self._people.find(policy, come.name, come.identity))
        except (OtherKeys, Oneself) as error:
            context.problems.set(
                "line", f"{come.name}, to whom you have given a line, has come, but {error.in_full}"
            )
        except PolicyRefused as error:
            context.problems.set(
                "line",
                f"{come.name}, to whom you have given a line, has come, and is no contact, as their"
                f" name directory cannot be followed: {error.in_full}",
            )
