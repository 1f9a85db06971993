"""What is at the recipients' servers, and is still in the queue on the disk.

Nobody waits for the queue to forget an envelope: a crash before it does repeats a delivery, which
servers and peers both recognise. So that rides with the next commit of the store. Until then only
memory knows, here, of what is not to be delivered once more.
"""

from collections.abc import Awaitable, Callable, Set

import trio

from cbfs.context import Context, Events, TaskStarter
from cbfs.messages.history import get_message
from cbfs.messages.model import Message
from cbfs.messages.queues import delivery_queue
from cbfs.messages.queues.note_queue import Dues
from cbfs.problems import Backoff
from cbfs.storage.faults import contained, harmless
from cbfs.storage.store import Writer
from cbfs_common.errors import CbfsError

_NONE: frozenset[bytes] = frozenset()


class Finishing:
    """Envelopes, by their keys in the queue, that are delivered and still in it. ``events`` hears
    of messages whose state has moved on by that, and of what is due next."""

    def __init__(self, context: Context, events: Events, tasks: TaskStarter) -> None:
        self._context = context
        self._events = events
        self._tasks = tasks
        self._keys: dict[str, set[bytes]] = {}

    def of(self, recipient: str) -> Set[bytes]:
        """Those to one recipient."""
        return self._keys.get(recipient, _NONE)

    async def finish(self, recipient: str, delivered: list[bytes], *, at_once: bool) -> None:
        """These are at the recipient's server. ``at_once``: a program waits until the store says so
        as well, which is so on return. Raises StoreError then."""
        change = self._change(delivered)
        if at_once:
            self._tell(*await self._context.store.commit(change))
            return
        self._keys.setdefault(recipient, set()).update(delivered)
        pending = self._context.store.ride(change)
        self._tasks.start_soon(self._settle, recipient, delivered, pending.settled)

    def _change(self, delivered: list[bytes]) -> Callable[[Writer], tuple[list[Message], Dues]]:
        now = self._context.clock()

        def change(writer: Writer) -> tuple[list[Message], Dues]:
            dues: Dues = {}
            return delivery_queue.finish(writer, delivered, dues, now), dues

        return change

    async def _settle(
        self,
        recipient: str,
        delivered: list[bytes],
        settled: Callable[[], Awaitable[tuple[list[Message], Dues]]],
    ) -> None:
        """Wait until the store says so as well, and tell of it."""
        problems, backoff = self._context.problems, Backoff(self._context.random)
        while True:
            try:
                with contained():
                    messages, dues = await settled()
                    break
            except CbfsError as error:
                problems.set("delivered", f"what was delivered is not noted yet: {error.in_full}")
                await trio.sleep(backoff.next())
                settled = self._context.store.ride(self._change(delivered)).settled
        problems.clear("delivered")
        # empty when they were delivered twice while they rode, and another has settled before
        left = self._keys.get(recipient, set())
        left.difference_update(delivered)
        if not left:
            self._keys.pop(recipient, None)
        with harmless():
            self._tell(self._as_they_are(messages), dues)

    def _as_they_are(self, messages: list[Message]) -> list[Message]:
        """Without those that have moved on in the same commit, or since, as by a receipt: whoever
        has done that tells of it, and what was before would be told after it."""
        with self._context.store.read() as reader:
            return [m for m in messages if get_message(reader, m.conversation, m.serial) == m]

    def _tell(self, messages: list[Message], dues: Dues) -> None:
        self._events.notes_due(dues)
        for message in messages:
            self._events.message_changed(message)
        self._context.problems.tell()
