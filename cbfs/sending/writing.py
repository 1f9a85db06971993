"""The transaction that makes a message: with it goes what can be sealed of the message already.

So a message of which nothing keeps the delivery from beginning is one commit, with its envelopes
and the ratchets' new states. A crash before it leaves the draft, one after it a message whose
envelopes are sent as they are. To everybody else it is sealed when their turn comes, by
``cbfs.sending.sender``: as little as can be is sealed to keys that may be old when it leaves.
"""

from collections.abc import Callable, Sequence

from cbfs.contacts.held_session import Chosen
from cbfs.context import Context
from cbfs.messages.model import Conversation, Message
from cbfs.messages.queues import delivery_queue
from cbfs.sending.sealing import Sealing, Step, begins
from cbfs.storage.faults import contained, harmless
from cbfs.storage.store import Writer
from cbfs_common.errors import CbfsError

SEALED_MAX = 16
"""Envelopes that are sealed in the transaction of their message."""

Make = Callable[[Writer], tuple[Conversation, Message]]


class MessageWriting:
    """Commits messages. ``waits`` says of a recipient that the delivery cannot begin at once."""

    def __init__(self, context: Context, sealing: Sealing, waits: Callable[[str], bool]) -> None:
        self._context = context
        self._sealing = sealing
        self._waits = waits

    async def commit(
        self, make: Make, recipients: Sequence[str], committing: Callable[[], None]
    ) -> tuple[Conversation, Message, list[Step]]:
        """Make a message for these in a transaction, which is on the disk on return. Also gives
        what was sealed of it. What others commit after ``committing`` was called is behind it.
        Raises what ``make`` raises, or StoreError."""
        store, lock = self._context.store, self._context.sessions.lock
        if lock.locked() or not self._ready(recipients):  # nobody waits here for what arrives
            committing()
            return (*await store.commit(make), [])
        async with lock:
            ready = self._ready(recipients)

            def change(writer: Writer) -> tuple[Conversation, Message, list[Step]]:
                conversation, message = make(writer)
                steps = (self._seal(writer, message, *each, len(ready)) for each in ready.items())
                return conversation, message, [step for step in steps if step]

            committing()
            conversation, message, steps = await store.commit(change)
            for step in steps:
                with harmless():  # it is on the disk: it counts
                    step.done()
        return conversation, message, steps

    def _ready(self, recipients: Sequence[str]) -> dict[str, Chosen]:
        """To whom of these something can be sealed now, on which sessions. Where one has to begin,
        a prekey is taken first."""
        found = {}
        for name in recipients if len(recipients) <= SEALED_MAX else ():
            contact = self._context.look_up.known(name)
            if contact is not None and not self._waits(name):
                chosen = self._sealing.chosen(contact)
                if not begins(chosen):
                    found[name] = chosen
        return found

    def _seal(
        self, writer: Writer, message: Message, name: str, chosen: Chosen, shares: int
    ) -> Step | None:
        """Seal for one recipient. What cannot be is no reason to make no message: it stays for the
        sender, which tells of it."""
        job = delivery_queue.job_of(writer, message, name)
        try:
            with contained():
                if job is None:
                    return None
                step = self._sealing.parts(writer, name, [job], SEALED_MAX // shares, chosen)
        except CbfsError:
            return None
        step.write(writer)
        return step
