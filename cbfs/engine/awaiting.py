"""Those whom the user has invited by a line become contacts when they come.

Looked for is at random times, which follow from nothing that somebody else does: a server learns
from them when a line was made, and that lines which are looked at together are of one person
(THREATS.rst, I6). Each look has a connection of its own.
"""

from dataclasses import replace
from functools import partial
from typing import Final

import trio

from cbfs.account.awaited import Awaited, await_no_more, awaited
from cbfs.contacts.contact import How
from cbfs.context import Context
from cbfs.network.drop import DROP, come, forget
from cbfs.network.link import open_link
from cbfs.receiving.message_requests import Admission
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import LINE_DAYS
from cbfs_common.names.checks import Found
from cbfs_common.person import Person
from cbfs_common.primitives import exponential
from cbfs_common.profile import decode_profile
from cbfs_common.wire.lines import LineArrival

DAY: Final = 86_400
READ_PERIOD: Final = 2.0
"""Seconds between two looks into the store for who is awaited."""

LOOK_FIRST: Final = 5.0
LOOK_LAST: Final = 600.0
LOOK_SLOWER: Final = 16.0
"""Seconds between two looks on average: at first, and at most. They grow with the time since the
newest line was made, by a second in LOOK_SLOWER."""


class Awaiting:
    """Waits for those whom the user of an account at work has invited. ``admission`` lets them in,
    if they have written before they were seen to come."""

    def __init__(self, context: Context, admission: Admission) -> None:
        self._context = context
        self._admission = admission

    async def run(self) -> None:
        """Look for those who are awaited, until cancelled."""
        context, newest, left = self._context, 0, 0.0
        while True:
            await trio.sleep(min(READ_PERIOD, left) if newest else READ_PERIOD)
            left -= READ_PERIOD
            with context.store.read() as reader:
                waiting = awaited(reader)
            last = max((one.until for one in waiting), default=0)
            if last != newest:
                newest, left = last, self._pause(last)
            elif waiting and left <= 0:
                for one in waiting:
                    await self._look(one)
                left = self._pause(last)

    def _pause(self, newest: int) -> float:
        """Seconds to the next look, when the newest line counts until then."""
        age = max(0.0, self._context.clock() / 1_000 - (newest - LINE_DAYS * DAY))
        return exponential(self._context.random, min(LOOK_FIRST + age / LOOK_SLOWER, LOOK_LAST))

    async def _look(self, one: Awaited) -> None:
        """Look once. A server that does not answer, or has nothing there, is asked again later,
        until the line is too old."""
        context, line = self._context, one.line
        if context.clock() // 1_000 > one.until:
            await self._end(one)
            return
        isolation = DROP + context.random.token(16)
        try:
            async with open_link(
                context.dialer, line.address, line.key, isolation, context.random
            ) as link:
                answer = await come(link, line)
                if answer is None:
                    return
                await self._meet(answer)
                await self._end(one)
                await forget(link)
        except DecodeError:
            await self._end(one)
        except CbfsError:
            return

    async def _meet(self, answer: LineArrival) -> None:
        """Let who has come be a contact, if the directory has the keys for them that they have told
        of. Raises what look-ups raise."""
        context, name = self._context, answer.name
        lookups = context.followed.own
        found = await lookups.lookup(name)
        if isinstance(found, Found):
            person = Person(lookups.policy.directory, name)
            if decode_profile(found.entry.profile).identity(person) == answer.identity:
                known = context.contacts.get(name)
                if known is None or known.entry.profile == found.entry.profile:
                    contact = await context.contacts.learn(name, found.entry, How.LINE)
                    by_line = replace(contact, how=How.LINE)
                    await context.contacts.decide([by_line], lambda writer: None)
                    await self._admission.admit([name])
                return
        context.problems.set(
            "line",
            f"{name}, whom you have invited, has come, but the name directory has other keys for"
            f" {name} (ask them what they are called, and write to nobody of that name until then)",
        )

    async def _end(self, one: Awaited) -> None:
        await self._context.store.commit(partial(await_no_more, one=one))
