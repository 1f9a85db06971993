"""The note clock: when a note leaves, and to whom, whatever was received.

Everything that a client owes others because of what has come (receipts, what is missing, what was
offered, what is to be sent again) waits for a tick, or goes with what the user writes. Ticks come
at exponentially distributed times, as many a day for few contacts as for many, and each is one
envelope to one contact, be anything owed to them or not.

To whom is drawn from what the user has done alone: of those who take part in a conversation in
which the user has written within NOTE_RECENT, each alike; one time in NOTE_OTHERS, of all whom the
user has written to or accepted at any time, so that who only reads acknowledges, too. Whoever has
only written to the user, or was brought into a conversation by others, is not among them: whose
envelopes come, in which order or not at all, changes nothing. What is owed to them waits until
the user writes to them, or accepts them.
"""

from collections.abc import Awaitable, Callable

import trio

from cbfs.contacts.contact import Standing
from cbfs.context import Context, TaskStarter
from cbfs.messages.conversations import last_written
from cbfs.network.pacing import Slots
from cbfs_common.limits import NOTE_CLOCK, NOTE_OTHERS, NOTE_RECENT
from cbfs_common.primitives import Random, below

TURNS = 3
"""With a pace, ticks are at least so many turns apart in the mean: the others are for messages."""


class NoteClock:
    """The one of an account at work. ``random`` is for nothing else; ``send`` sends one envelope
    to a contact, and raises nothing."""

    def __init__(
        self,
        context: Context,
        random: Random,
        send: Callable[[str], Awaitable[None]],
        tasks: TaskStarter,
    ) -> None:
        self._context = context
        self._random = random
        self._send = send
        self._tasks = tasks

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            mean = self._mean()
            slots = Slots(self._random, mean, trio.current_time())
            while self._mean() == mean:
                with trio.move_on_at(slots.next):
                    await self._context.configuration.wait_changed()
                    continue
                for _ in range(slots.due(trio.current_time())):
                    self._tick()

    def _mean(self) -> float:
        """Seconds between ticks."""
        return max(NOTE_CLOCK, TURNS * self._context.pace)

    def _tick(self) -> None:
        name = self._draw()
        if name is not None:
            self._tasks.start_soon(self._send, name)

    def _draw(self) -> str | None:
        contacts = self._context.contacts.all()
        known = [c.name for c in contacts if c.standing is Standing.KNOWN and not c.blocked]
        written = self._written_to()
        recent = [name for name in known if name in written]
        others = below(self._random, NOTE_OTHERS) == 0
        among = known if others or not recent else recent
        return among[below(self._random, len(among))] if among else None

    def _written_to(self) -> set[str]:
        """Who takes part where the user has written lately."""
        context = self._context
        since = context.clock() - NOTE_RECENT * 1_000
        written: set[str] = set()
        with context.store.read() as reader:
            for conversation in context.conversations.values():
                if last_written(reader, conversation.id) >= since:
                    written |= set(conversation.participants)
        return written
