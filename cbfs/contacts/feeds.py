"""Keeping up with each name directory that is followed, by requests that are the same for
everybody.

Each is polled by itself, at times of its own and over connections of its own: one that lies, or
does not answer, harms nobody of another. What is wrong is told by the directory's namespace.
"""

from collections.abc import Awaitable, Callable

import trio

from cbfs.contacts.contacts import Contacts
from cbfs.names.followed import FollowedDirectories
from cbfs.names.lookups import Lookups, Polled
from cbfs.problems import Backoff, Problems, Retries
from cbfs.storage.faults import contained
from cbfs_common.errors import CbfsError
from cbfs_common.primitives import Random, exponential

POLL = 600.0
"""Mean seconds between polls of one directory, which come at exponentially distributed times."""


class Feeds:
    """Polls the directories that an account follows. ``own_changed`` is given what has changed in
    one's own; ``polled`` is called when a poll has ended, however."""

    def __init__(
        self,
        contacts: Contacts,
        followed: FollowedDirectories,
        problems: Problems,
        retries: Retries,
        random: Random,
        own_changed: Callable[[Polled], Awaitable[None]],
        polled: Callable[[], None],
    ) -> None:
        self._contacts = contacts
        self._followed = followed
        self._problems = problems
        self._retries = retries
        self._random = random
        self._own_changed = own_changed
        self._polled = polled

    async def run(self) -> None:
        """Poll each directory for as long as it is followed, until cancelled."""
        scopes: dict[bytes, trio.CancelScope] = {}
        async with trio.open_nursery() as nursery:
            while True:
                change = self._followed.next_change()
                wanted = {each.policy.directory: each for each in self._followed.all()}
                for directory in scopes.keys() - wanted.keys():
                    scopes.pop(directory).cancel()
                for directory in wanted.keys() - scopes.keys():
                    scopes[directory] = trio.CancelScope()
                    nursery.start_soon(self._follow, wanted[directory], scopes[directory])
                await change.wait()

    async def _follow(self, lookups: Lookups, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self._poll_for_ever(lookups)
        finally:
            self._problems.clear(self._topic("feed", lookups))
            self._problems.clear(self._topic("degraded", lookups))
            self._retries.forget(self._topic("feed", lookups))

    async def _poll_for_ever(self, lookups: Lookups) -> None:
        backoff, topic = Backoff(self._random), self._topic("feed", lookups)
        while True:
            try:
                with contained():
                    await self.poll(lookups)
                self._problems.clear(topic)
                if lookups is self._followed.own:
                    self._retries.worked(topic)
                backoff.reset()
                wait = exponential(self._random, POLL)
            except CbfsError as error:
                self._problems.set(topic, f"{lookups.title} was not followed: {error.in_full}")
                wait = min(backoff.next(), exponential(self._random, POLL))
            self._polled()
            await trio.sleep(wait)

    async def poll(self, lookups: Lookups) -> None:
        """Ask one directory what has changed, and doubt its people of whom something has. Raises
        DirectoryDown or DirectoryLies."""

        async def mark(polled: Polled) -> None:
            await self._contacts.doubt(lookups.policy.directory, polled.changed)

        polled, topic = await lookups.poll(mark), self._topic("degraded", lookups)
        if polled.degraded:
            self._problems.set(
                topic,
                f"too few of the verifiers of {lookups.title} sign: known contacts can be written"
                " to, and nothing new is learnt (wait; its operators can tell for how long)",
            )
            return
        self._problems.clear(topic)
        if lookups is self._followed.own:
            await self._own_changed(polled)

    def _topic(self, what: str, lookups: Lookups) -> str:
        """Under which problems of a directory are told, each directory's apart."""
        own = lookups is self._followed.own
        return what if own else f"{what} {lookups.policy.namespace}"
