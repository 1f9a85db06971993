"""When the notes of a prompt client are due."""

from collections.abc import Callable
from functools import partial

import trio

from cbfs.context import Context
from cbfs.messages.queues import note_queue
from cbfs.messages.queues.note_queue import Dues
from cbfs.sending.sender import Sender
from cbfs.storage.faults import harmless

LOOK_AGAIN = 3_600.0
"""Seconds until the clock is looked at again, which may have been set meanwhile."""


class Reminders:
    """When the next note of a prompt client is due to whom: in memory is the first for each peer.
    What a client is to tell whose reactions are steady waits on the disk."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store = context.store
        self._news = trio.Event()
        self._dues: Dues = {}

    def add(self, dues: Dues) -> None:
        """More waits in the queue of notes, on the disk."""
        if not self._context.is_prompt:
            return
        for peer, due in dues.items():
            self._dues[peer] = min(due, self._dues.get(peer, due))
        self._news.set()

    async def bring_back(self, now: int) -> None:
        """What a wrong clock has put far ahead is due as if it had come about at ``now``
        (milliseconds)."""
        self.add(await self._store.commit(lambda writer: note_queue.bring_back(writer, now)))

    async def run(self, sender: Sender) -> None:
        """While the reactions are prompt, have ``sender`` told of what is due, until cancelled."""
        context = self._context
        while True:
            while not context.is_prompt:
                await context.configuration.wait_changed()
            with self._store.read() as reader:
                self._dues = note_queue.load_dues(reader)
            sender.owe_all()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._remind_for_ever, sender.note_due)
                while context.is_prompt:
                    await context.configuration.wait_changed()
                nursery.cancel_scope.cancel()

    async def _remind_for_ever(self, remind: Callable[[str], None]) -> None:
        """Call ``remind`` with a peer when something is due, once: whoever settles it adds what
        is due next. Where it fails, again after LOOK_AGAIN."""
        while True:
            self._news = trio.Event()
            now = self._context.clock()
            for peer in [peer for peer, due in self._dues.items() if due <= now]:
                del self._dues[peer]
                with harmless(partial(self.add, {peer: now + int(LOOK_AGAIN * 1_000)})):
                    remind(peer)
            wait = (min(self._dues.values(), default=now + 2**40) - now) / 1_000
            with trio.move_on_after(min(wait, LOOK_AGAIN)):
                await self._news.wait()
