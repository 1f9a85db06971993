"""What the user decides about strangers: ``cbfs.receiving.message_requests`` has what waits.

Whoever the user writes to is accepted by that. Each decision is one transaction, and made while
nothing is taken in: what comes afterwards is under the new decision.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import trio

from cbfs.account.settings import Strangers
from cbfs.contacts.contact import Contact, Mark, Standing
from cbfs.context import Context
from cbfs.messages.model import Conversation, Message
from cbfs.messages.queues import delivery_queue
from cbfs.problems import Backoff
from cbfs.receiving import message_requests
from cbfs.receiving.incoming import Outcome
from cbfs.receiving.notes import Told
from cbfs.receiving.reassembly import Arrivals, Receiving
from cbfs.storage.store import StoreError, Writer


class Admission:
    """One for an account at work. ``receiving`` says who receives and when, ``tell`` is told of
    what was let in."""

    def __init__(
        self, context: Context, receiving: Callable[[], Receiving], tell: Callable[[Outcome], None]
    ) -> None:
        self._context = context
        self._receiving = receiving
        self._tell = tell

    async def admit(self, names: Iterable[str]) -> None:
        """Accept these people, as far as they are strangers: what of them has waited is taken in,
        in the transaction that makes them known."""
        context, peers = self._context, self._context.peers
        async with context.sessions.lock:
            known = (peers.named(name) for name in names)
            contacts = [
                replace(contact, standing=Standing.KNOWN, declined=0)
                for contact in known
                if contact.standing is not Standing.KNOWN
            ]
            if not contacts:
                return
            receiving = self._receiving()

            def change(writer: Writer) -> Outcome:
                arrivals = Arrivals(dict(context.conversations))
                for contact in contacts:
                    message_requests.release(writer, arrivals, receiving, contact.name)
                others = message_requests.release_begun(writer, arrivals, receiving)
                return Outcome(arrivals, Told(arrivals.dues), others)

            outcome = await peers.decide(contacts, change)
        self._tell(outcome)
        await self.introduce(outcome.arrivals.conversations.values())

    async def decline(self, name: str) -> None:
        """Forget what this stranger has sent, and what comes for a while."""
        await self._refuse(name, declined=self._context.clock())

    async def mark(self, name: str, mark: Mark, *, on: bool) -> None:
        """The user blocks or mutes somebody, or undoes that. Who is blocked is kept among the
        contacts, where it can be undone, and what waited for them is not sent any more."""
        peers, now = self._context.peers, self._context.clock()
        if bool(peers.named(name).marked(mark)) == on:
            return
        if mark is Mark.BLOCKED and on:
            left = await self._refuse(name, blocked=now)
            self._tell(Outcome(Arrivals({}), Told({}, left), set()))
            return
        async with self._context.sessions.lock:
            contact = peers.named(name).with_mark(mark, now if on else 0)
            await peers.decide([contact], lambda writer: None)

    async def _refuse(self, name: str, *, blocked: int = 0, declined: int = 0) -> list[Message]:
        """What a stranger has sent is forgotten. Gives the messages of one's own that thereby are
        not sent any more."""
        context, now = self._context, self._context.clock()
        async with context.sessions.lock:
            contact = context.peers.named(name)
            if declined:
                contact = replace(contact, declined=declined)
            if blocked:
                known = contact.standing is Standing.KNOWN
                standing = Standing.KNOWN if known else Standing.LISTED
                contact = replace(contact, blocked=blocked, standing=standing)

            def change(writer: Writer) -> list[Message]:
                message_requests.drop(writer, name)
                return delivery_queue.leave_out(writer, name, now) if blocked else []

            return await context.peers.decide([contact], change)

    async def introduce(self, conversations: Iterable[Conversation]) -> None:
        """Somebody known has begun these: who takes part is a stranger no more, but still to be
        accepted where they write alone. A crash before leaves it to their next message."""
        peers = self._context.peers
        names = {name for conversation in conversations for name in conversation.participants}
        met = [contact for name in sorted(names) if (contact := peers.get(name)) is not None]
        strange = [contact for contact in met if contact.standing is Standing.STRANGER]
        if strange:
            await peers.decide(
                [replace(contact, standing=Standing.LISTED) for contact in strange],
                lambda writer: None,
            )

    async def forget(self) -> None:
        """Keep no more than STRANGERS_MAX strangers, of whom nothing waits. One that is forgotten
        is met anew when something of theirs can be read again."""
        context = self._context
        idle = self._idle()
        gone = [
            contact.name for contact in idle[: max(0, len(idle) - message_requests.STRANGERS_MAX)]
        ]
        if gone:
            async with context.sessions.lock:
                await context.peers.forget(
                    gone, lambda writer: context.sessions.forget(writer, gone)
                )
                context.sessions.forgotten(gone)

    def _idle(self) -> list[Contact]:
        found = [c for c in self._context.peers.all() if c.standing is Standing.STRANGER]
        if len(found) <= message_requests.STRANGERS_MAX:
            return []
        with self._context.store.read() as reader:
            idle = [
                contact for contact in found if not message_requests.waits(reader, contact.name)
            ]
        return sorted(idle, key=lambda contact: contact.since)

    async def follow_settings(self) -> None:
        """When the settings accept everybody, so are those who wait. Until cancelled."""
        configuration = self._context.configuration
        backoff = Backoff(self._context.random)
        while True:
            try:
                if configuration.current.strangers is Strangers.ACCEPT:
                    await self.admit(
                        contact.name
                        for contact in self._context.peers.all()
                        if not contact.blocked and not contact.declined
                    )
            except StoreError as error:
                self._context.problems.set(
                    "admission", f"requests were not accepted: {error.in_full}"
                )
                await trio.sleep(backoff.next())
                continue
            self._context.problems.clear("admission")
            await configuration.wait_changed()
