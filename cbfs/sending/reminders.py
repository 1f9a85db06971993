"""When the next note to whom is due."""

from collections.abc import Callable

import trio

from cbfs.context import Context
from cbfs.messages.queues.note_queue import Dues, bring_back, load_dues
from cbfs.storage.faults import unharmed

LOOK_AGAIN = 3_600.0
"""Seconds until the clock is looked at again, which may have been set meanwhile."""


class Reminders:
    """Remembers when something that is owed to a peer is due first."""

    def __init__(self, context: Context) -> None:
        self._clock = context.clock
        self._store = context.store
        self._news = trio.Event()
        with context.store.read() as reader:
            self._dues = load_dues(reader)

    def add(self, dues: Dues) -> None:
        """More is owed, and is on the disk."""
        for peer, due in dues.items():
            self._dues[peer] = min(due, self._dues.get(peer, due))
        self._news.set()

    async def bring_back(self, now: int) -> None:
        """What a wrong clock has put far ahead is due as if it had come about at ``now``
        (milliseconds)."""
        self._dues = await self._store.commit(lambda writer: bring_back(writer, now))
        self._news.set()

    async def run(self, remind: Callable[[str], None]) -> None:
        """Call ``remind`` with a peer when something is due, once: whoever settles it adds what
        is due next. Until cancelled."""
        while True:
            self._news = trio.Event()
            now = self._clock()
            for peer in [peer for peer, due in self._dues.items() if due <= now]:
                del self._dues[peer]
                with unharmed():
                    remind(peer)
            wait = (min(self._dues.values(), default=now + 2**40) - now) / 1_000
            with trio.move_on_after(min(wait, LOOK_AGAIN)):
                await self._news.wait()
