"""Delivery: a task for each recipient that something waits for.

Each delivery session has a connection of its own with a fresh key, so that the recipient's
server learns neither who sends nor that two deliveries come from the same sender; so has each
prekey that is taken. Sealing and the ratchet's new state are one commit, delivery follows, and
only then the queue forgets (see ``cbfs.deliveries``).
"""

from collections.abc import Callable

import trio

from cbfs import deliveries
from cbfs.book import read_content
from cbfs.context import Backoff, Context
from cbfs.deliveries import Envelope, Job
from cbfs.link import Link, ServerRefused, open_link, request
from cbfs.model import Contact, Message
from cbfs.store import Writer
from cbfs_common.errors import CbfsError, CryptoError, DecodeError
from cbfs_common.message import Part, encode_part
from cbfs_common.prekey import decode_prekey
from cbfs_common.requests import Code, Deliver, TakePrekey
from cbfs_common.session import Peer, Session

WINDOW = 16
"""Envelopes under way to one recipient at once."""

LINGER = 5.0
"""Seconds that a delivery session stays open for more to send."""

SESSION_LIFETIME = 600.0
"""Seconds after which a delivery session is replaced by one over a fresh circuit."""

TASKS_MAX = 32
"""Delivery sessions open at once."""


class Sender:
    """Sends what is queued. ``sent`` is told of messages whose state has moved on."""

    def __init__(
        self,
        context: Context,
        bundle: Callable[[], bytes],
        sent: Callable[[Message], None],
        nursery: trio.Nursery,
    ) -> None:
        self._context = context
        self._bundle = bundle
        self._sent = sent
        self._nursery = nursery
        self._wakes: dict[str, trio.Event] = {}
        self._limiter = trio.CapacityLimiter(TASKS_MAX)
        with context.store.read() as reader:
            self._jobs = deliveries.waiting(reader)
        for recipient in self._jobs:
            self._start(recipient)

    def queued(self, recipient: str) -> None:
        """A job for this recipient is on the disk."""
        self._jobs[recipient] = self._jobs.get(recipient, 0) + 1
        if recipient in self._wakes:
            self._wakes[recipient].set()
        else:
            self._start(recipient)

    def waiting(self) -> dict[str, int]:
        """Messages by recipient that are not at the server yet."""
        return dict(self._jobs)

    def _start(self, recipient: str) -> None:
        self._wakes[recipient] = trio.Event()
        self._nursery.start_soon(self._serve, recipient)

    async def _serve(self, recipient: str) -> None:
        """Until nothing is left for this recipient."""
        backoff = Backoff(self._context.random)
        topic = f"to {recipient}"
        while recipient in self._jobs:
            try:
                async with self._limiter:
                    await self._deliver_all(recipient, backoff)
                self._context.problems.clear(topic)
            except CbfsError as error:
                wait = backoff.next()
                hint = f" ({error.hint})" if error.hint else ""
                self._context.problems.set(
                    topic, f"{recipient}: {error}{hint}; tried again within {wait:.0f} s"
                )
                await trio.sleep(wait)
        del self._wakes[recipient]

    async def _deliver_all(self, recipient: str, backoff: Backoff) -> None:
        """One delivery session: all that waits, and what comes while it lingers."""
        context = self._context
        contact = await context.peers.find(recipient)
        isolation = b"deliver:" + context.random.token(16)
        async with open_link(
            context.dialer, contact.profile.server, None, isolation, context.random
        ) as link:
            with trio.move_on_after(SESSION_LIFETIME):
                while True:
                    while await self._deliver_some(link, contact):
                        backoff.reset()
                        context.problems.clear(f"to {recipient}")
                    self._wakes[recipient] = trio.Event()
                    if recipient in self._jobs:
                        continue
                    with trio.move_on_after(LINGER) as lingering:
                        await self._wakes[recipient].wait()
                    if lingering.cancelled_caught:
                        return

    async def _deliver_some(self, link: Link, contact: Contact) -> bool:
        """One window of envelopes. False when there was nothing to do."""
        store = self._context.store
        with store.read() as reader:
            envelopes, jobs = deliveries.next_work(reader, contact.name, WINDOW)
        if jobs:
            envelopes += await self._seal(contact, jobs, WINDOW - len(envelopes))
        if not envelopes:
            return False
        delivered: list[bytes] = []
        failures: list[CbfsError] = []

        async def deliver(envelope: Envelope) -> None:
            try:
                await request(link, Deliver(contact.profile.user_id, envelope.data))
                delivered.append(envelope.key)
            except CbfsError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for envelope in envelopes:
                nursery.start_soon(deliver, envelope)
        if delivered:
            await self._finish(contact.name, delivered)
        if failures:
            raise _in_words(failures[0])
        return True

    async def _finish(self, recipient: str, delivered: list[bytes]) -> None:
        store = self._context.store
        messages = await store.commit(lambda writer: deliveries.finish(writer, delivered))
        with store.read() as reader:
            left = deliveries.waiting_for(reader, recipient)
        if left:
            self._jobs[recipient] = left
        else:
            self._jobs.pop(recipient, None)
        for message in messages:
            self._sent(message)
        self._context.problems.tell()

    async def _seal(self, contact: Contact, jobs: list[Job], most: int) -> list[Envelope]:
        """Seal up to ``most`` parts of these jobs, in one commit with the ratchet's state."""
        context = self._context
        peer = Peer(contact.profile.identity(contact.name), contact.profile.auth)
        fresh = None
        if context.sessions.choose(contact.name) is None:
            fresh = await self._new_session(contact, peer)
        async with context.sessions.lock:
            session = context.sessions.choose(contact.name) or fresh
            if session is None:
                return []
            batch = context.sessions.batch()
            sealed: list[tuple[Job, list[bytes]]] = []
            for job in jobs:
                count = min(most, job.count - job.sealed)
                most -= count
                parts = [self._part(job, job.sealed + i, session) for i in range(count)]
                sealed.append((job, [batch.seal(session, contact.name, p) for p in parts]))

            def change(writer: Writer) -> list[Envelope]:
                batch.write(writer)
                return [
                    e for job, data in sealed for e in deliveries.save_sealed(writer, job, data)
                ]

            envelopes = await context.store.commit(change)
            batch.done()
            return envelopes

    def _part(self, job: Job, number: int, session: Session) -> bytes:
        conversation = self._context.conversations[job.conversation]
        with self._context.store.read() as reader:
            chunk = read_content(reader, job.content, number * job.part_size, job.part_size)
        return encode_part(
            Part(
                id=job.message,
                conversation=job.conversation,
                parents=job.parents,
                participants=conversation.participants,
                subject=conversation.subject,
                date=job.date,
                file_name=job.file_name,
                number=number,
                count=job.count,
                size=job.content.size,
                digest=job.digest,
                chunk=chunk,
                # until the peer has answered, every envelope may be the first that arrives
                bundle=b"" if session.confirmed else self._bundle(),
            )
        )

    async def _new_session(self, contact: Contact, peer: Peer) -> Session:
        """Take a prekey, over a connection of its own, and start."""
        context = self._context
        isolation = b"prekey:" + context.random.token(16)
        async with open_link(
            context.dialer, contact.profile.server, None, isolation, context.random
        ) as link:
            try:
                taken = await request(link, TakePrekey(contact.profile.user_id))
            except ServerRefused as error:
                raise _in_words(error) from error
        try:
            prekey = decode_prekey(taken.record)
            prekey.verify(contact.profile.signing, context.clock() // 1000)
            return context.sessions.start(peer, prekey)
        except (CryptoError, DecodeError) as error:
            raise CbfsError(
                "the server gave a wrong prekey", "it may be lying, or their client be away long"
            ) from error


_REFUSALS = {
    Code.UNKNOWN_USER: "their server does not know them",
    Code.MAILBOX_FULL: "their mailbox is full",
    Code.NO_PREKEY: "they have no prekey left",
}


def _in_words(error: CbfsError) -> CbfsError:
    """A refusal by the server, said of the recipient."""
    if isinstance(error, ServerRefused) and error.code in _REFUSALS:
        return CbfsError(_REFUSALS[error.code])
    return error
