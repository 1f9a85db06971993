"""The sender: delivery to those that something waits for, so many at once and no more
(``cbfs.sending.agenda``), one envelope at a tick of the note clock, and what a prompt client's
notes tell when they are due.

An envelope leaves because the user has written, or because the note clock has ticked
(PROTOCOL.rst, When something leaves): neither the time nor to whom depends on what was received.
So what is to be sent again goes at a tick, or behind a message of the user's that takes several
envelopes, as nobody knows of how many it is; never behind one of a single envelope.

Each delivery session has a connection of its own with a fresh key, so that the recipient's
server learns neither who sends nor that two deliveries come from the same sender; so has each
prekey that is taken. Sealing and the ratchet's new state are one commit, delivery follows, and
only then the queue forgets (``cbfs.messages.queues.delivery_queue``, ``cbfs.sending.finishing``).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial

import trio

from cbfs.contacts.contact import Contact
from cbfs.contacts.held_session import only
from cbfs.contacts.look_up import Unknown
from cbfs.context import Context, Events, TaskStarter, supervised
from cbfs.messages.model import Conversation, Message
from cbfs.messages.queues import delivery_queue, note_queue
from cbfs.messages.queues.delivery_queue import Envelope, Job
from cbfs.messages.queues.note_queue import NoteDraft
from cbfs.network.dial import REUSE_TIME, DialError
from cbfs.network.link import Link, ServerRefused, open_link, request, request_in_order
from cbfs.problems import Cause, NotYet, in_words
from cbfs.sending.agenda import Agenda
from cbfs.sending.finishing import Finishing
from cbfs.sending.handing_over import hand_over, refusal_in_words
from cbfs.sending.sealing import Sealing, Step, begins
from cbfs.sending.stagger import Stagger
from cbfs.sending.writing import Make, MessageWriting
from cbfs.storage.faults import contained, harmless
from cbfs.storage.store import Reader
from cbfs_common.errors import CbfsError, CryptoError, DecodeError, TransportError
from cbfs_common.names.checks import NameExpired
from cbfs_common.session.prekey import decode_prekey
from cbfs_common.session.session import Peer, Session
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import Deliver, TakePrekey

WINDOW = 16
WINDOW_MAX = 64
"""Envelopes under way to one recipient at once: at first; and at most, which is what a server takes
from one connection."""

BRISK = 2.0
"""Seconds for one window after which the next is twice as large: each costs a round trip, over Tor
half a second. Where one takes longer, they are small, as what was under way when the connection
ends goes again."""

LINGER = 5.0
"""Seconds that a delivery session stays open for more to send, if nobody waits for its place."""

SLOW = 30.0
"""Seconds for one window after which a server counts as slow: what goes to it takes no place of
those that are kept for others, and makes room when somebody waits."""


class WrongPrekey(CbfsError):
    """A server has given a prekey that its owner did not sign or that has expired, or a static
    KEM key that is not theirs."""

    def __init__(self) -> None:
        super().__init__(
            "the server gave a wrong prekey", "it may be lying, or their client be away long"
        )


def topic_of(recipient: str) -> str:
    """Of what is wrong with deliveries to one, and of their tries."""
    return f"to {recipient}"


class Sender:
    """Sends what is queued: messages, and notes that are due. ``bundle`` gives one's own name
    proof; ``events`` hears of messages whose state has moved on, and of what is due next."""

    def __init__(
        self,
        context: Context,
        bundle: Callable[[], bytes],
        events: Events,
        tasks: TaskStarter,
    ) -> None:
        self._context = context
        self._sealing = Sealing(context, bundle)
        self._writing = MessageWriting(context, self._sealing, self._waits_for)
        self._events = events
        self._tasks = tasks
        self._retries = context.retries
        self._agenda = Agenda(lambda who: self._retries.due(topic_of(who)), self._retries.take)
        self._stagger = Stagger(context, tasks, self._wake)
        self._finishing = Finishing(context, events, tasks)
        self._known: dict[str, dict[bytes, bool]] = {}
        self._wakes: dict[str, trio.Event] = {}
        self._lingering: set[str] = set()
        self._slow: set[str] = set()
        self._notes: set[str] = set()
        self._again: set[str] = set()
        self._ticks: set[str] = set()
        self._at_once: set[str] = set()
        self._told: set[str] = set()
        self._rounds: Counter[str] = Counter()
        self._writes: Counter[str] = Counter()
        self._news = trio.Event()
        self._retries.sooner_than_said = self._look_again
        self._retries.all_sooner = self._apart
        with context.store.read() as reader:
            self._jobs = delivery_queue.waiting(reader)
        self._stagger.hold(list(self._jobs))
        for recipient in self._jobs:
            self._wake(recipient)
        tasks.start_soon(supervised, context, self._run)

    async def write(
        self, make: Make, recipients: Sequence[str], committing: Callable[[], None]
    ) -> tuple[Conversation, Message]:
        """Make a message for these in one commit, with what can be sealed of it at once. Then call
        ``queued``. What is written after ``committing`` was called is behind it. Raises what
        ``make`` raises, or StoreError."""
        self._writes.update(recipients)
        try:
            written = await self._writing.commit(make, recipients, committing)
            for recipient in recipients:  # before anybody writes to them with nothing ahead
                with harmless():
                    self._count(recipient)
        finally:
            self._writes.subtract(recipients)
        conversation, message, steps = written
        for step in steps:
            with harmless():
                self._sealed(step)
        return conversation, message

    def queued(self, recipients: Sequence[str], *, at_once: bool = False) -> None:
        """The user has written something to these people, which is in the queue, on the disk. It
        goes to some of them later than to others, where that is set, but not ``at_once``, when a
        program may wait until the store knows that it is there."""
        if at_once:
            self._stagger.let_go(recipients)
            self._at_once.update(recipients)
        else:
            self._stagger.hold(recipients)
        for recipient in recipients:
            with harmless():
                self._count(recipient)
                self._wake(recipient)

    def owe(self, recipient: str) -> None:
        """There is something to send to this recipient again: a prompt client does so at once."""
        if self._context.is_prompt:
            self._again.add(recipient)
            self._wake(recipient)

    def owe_all(self) -> None:
        """The reactions are prompt from now on: so is all that was to be sent again before."""
        with self._context.store.read() as reader:
            again = delivery_queue.waiting(reader, again=True)
        for recipient in again:
            self.owe(recipient)

    async def tick(self, recipient: str) -> None:
        """One envelope to this contact: a note, empty if nothing is to be told, or a part of what
        is to be sent again. What goes wrong waits for another tick: to try again would tell
        servers that it is a note, and of whom. Raises nothing."""
        if recipient in self._ticks:  # the one before waits for a turn of the pace still
            return
        self._ticks.add(recipient)
        try:
            with suppress(CbfsError), contained():
                await self._send_one(await self._context.look_up.ready(recipient))
        finally:
            self._ticks.discard(recipient)

    def note_due(self, recipient: str) -> None:
        """A note of a prompt client to this recipient is due. It stays in the queue for whom the
        user has blocked, and so does what is wanted from somebody who was only named in a
        conversation, until they are met: whoever names people and parents would bring about that
        they are looked up, and known as if one had written to them."""
        contact = self._context.contacts.get(recipient)
        if contact is not None and contact.blocked:
            return
        if contact is None:
            with self._context.store.read() as reader:
                if note_queue.only_missed(reader, recipient):
                    return
        self._notes.add(recipient)
        self._wake(recipient)

    def given_up(self, recipient: str) -> None:
        """Something that waited for this recipient is not to be delivered any more."""
        self._count(recipient)
        if recipient not in self._jobs:
            self._context.problems.clear(topic_of(recipient))
            if not self._has_work(recipient):
                self._agenda.drop(recipient)

    def retry(self, recipient: str) -> None:
        """Something of this contact is new: what waits to be tried again is tried now."""
        self._retries.sooner(topic_of(recipient))
        self._wake(recipient)

    def is_delivering(self, recipients: Iterable[str]) -> bool:
        """Whether something that was written to one of these is just being delivered, or tried."""
        return any(who in self._jobs and who in self._wakes for who in recipients)

    def waiting(self) -> dict[str, int]:
        """Messages by recipient that are not at the server yet."""
        return dict(self._jobs)

    def _waits_for(self, recipient: str) -> bool:
        """Whether what is written to this recipient now has to wait for anything."""
        context = self._context
        later = context.pace or context.configuration.current.stagger or recipient in self._stagger
        # what is sealed leaves before what is not: nothing may be sealed that is behind another
        return bool(later) or recipient in self._jobs or self._writes[recipient] > 1

    def _wake(self, recipient: str) -> None:
        if recipient in self._wakes:
            self._wakes[recipient].set()
        elif self._has_work(recipient):
            urgent = recipient in self._jobs and recipient not in self._slow
            # a note for somebody who is not known makes the directory be asked
            counts = self._context.contacts.get(recipient) is None
            now = trio.current_time()
            self._agenda.want(recipient, now, urgent=urgent, counts=counts)
            self._news.set()

    def _has_work(self, recipient: str) -> bool:
        contact = self._context.contacts.get(recipient)
        if contact is not None and contact.blocked:
            return False
        prompt = self._context.is_prompt
        if recipient in self._jobs and recipient not in self._stagger:
            return True
        return prompt and recipient in self._notes | self._again

    def _apart(self) -> None:
        """All that were not reached are tried soon: not all of them together."""
        self._stagger.hold(list(self._jobs))

    def _look_again(self) -> None:
        self._agenda.look_again()
        self._news.set()

    async def _run(self) -> None:
        """Begin with those whose turn it is, until cancelled."""
        while True:
            self._news = trio.Event()
            now = trio.current_time()
            while (recipient := self._agenda.next(now, len(self._wakes))) is not None:
                if self._has_work(recipient):
                    self._wakes[recipient] = trio.Event()
                    self._tasks.start_soon(self._serve, recipient)
            if self._agenda.is_crowded(len(self._wakes)):
                for recipient in self._lingering:
                    self._wakes[recipient].set()
            with trio.move_on_after(self._agenda.wait(now, len(self._wakes))):
                await self._news.wait()

    async def _serve(self, recipient: str) -> None:
        """One delivery session."""
        try:
            with harmless():
                await self._try(recipient)
        finally:
            del self._wakes[recipient]
        with harmless():
            self._wake(recipient)
        self._news.set()

    async def _try(self, recipient: str) -> None:
        try:
            with contained():
                await self._deliver_all(recipient)
                self._works(recipient)
        except CbfsError as error:
            wait = self._retries.failed(topic_of(recipient), self._cause(error))
            if recipient in self._jobs:  # nobody waits for a note
                again = f"tried again within {in_words(wait)}"
                who = self._context.contacts.label(recipient)
                self._context.problems.set(topic_of(recipient), f"{who}: {error.in_full}; {again}")

    def _works(self, recipient: str) -> None:
        if self._context.is_prompt:
            self._retries.worked(topic_of(recipient))
        else:  # or a home server that keeps its user out sees them come when this was delivered
            self._retries.forget(topic_of(recipient))
        self._context.problems.clear(topic_of(recipient))

    async def _deliver_all(self, recipient: str) -> None:
        """One delivery session: all that waits, and what comes while it lingers."""
        context = self._context
        contact = await context.look_up.ready(recipient)
        if context.pace:
            await self._deliver_one(contact)
            return
        async with self._link(contact) as link:
            with trio.move_on_after(REUSE_TIME):
                # to the keys and the server of now: a change ends the delivery session
                while context.contacts.get(recipient) == contact and not context.pace:
                    began, window, many = trio.current_time(), WINDOW, False
                    while not context.pace and (
                        sent := await self._deliver_some(link, contact, window, behind_many=many)
                    ):
                        many = many or sent > 1
                        self._works(recipient)
                        took = trio.current_time() - began
                        if self._gives_way(recipient, took):
                            return
                        window = min(2 * window, WINDOW_MAX) if took <= BRISK else WINDOW
                        began = trio.current_time()
                    if recipient in self._notes:
                        await self._deliver_note(link, contact)
                    self._wakes[recipient] = trio.Event()
                    if not self._has_work(recipient) and not await self._more_to_send(recipient):
                        return

    def _cause(self, error: CbfsError) -> Cause:
        if isinstance(error, Unknown | NameExpired):
            return Cause.GONE
        if isinstance(error, TransportError | DialError | NotYet):
            # or a home server that lets its user in again sees at whose mailbox they try at once
            return Cause.NETWORK if self._context.is_prompt else Cause.AWAY
        return Cause.REFUSED

    def _gives_way(self, recipient: str, took: float) -> bool:
        """Whether somebody else is to have the place, after a window that took so long."""
        if took <= SLOW:
            self._slow.discard(recipient)
            return False
        self._slow.add(recipient)
        return self._agenda.is_crowded(len(self._wakes))

    async def _more_to_send(self, recipient: str) -> bool:
        """Wait for that, if nobody else waits for the place."""
        if self._agenda.is_crowded(len(self._wakes)):
            return False
        self._lingering.add(recipient)
        with trio.move_on_after(LINGER):
            await self._wakes[recipient].wait()
        self._lingering.discard(recipient)
        return self._has_work(recipient)

    def _link(self, contact: Contact) -> AbstractAsyncContextManager[Link]:
        """A connection of its own, with a fresh key, to the server of a contact."""
        context = self._context
        isolation = b"deliver:" + context.random.token(16)
        return open_link(context.dialer, contact.profile.server, None, isolation, context.random)

    async def _deliver_one(self, contact: Contact) -> None:
        """One envelope over one connection, whose turn it waits for. All that takes time is done
        before and after it, so that it looks like any other."""
        envelopes = await self._next(contact, 1)
        if not envelopes and self._context.is_prompt:
            envelopes = await self._next(contact, 1, again=True)
        if envelopes:
            await self._deliver_alone(contact, envelopes[0])
            return
        self._count(contact.name)
        if contact.name in self._notes:
            await self._deliver_note(None, contact)

    async def _deliver_alone(self, contact: Contact, envelope: Envelope) -> None:
        async with self._link(contact) as link:  # its turn may come late
            if self._waits(contact.name, envelope):
                await hand_over(link, contact, envelope.data)
                await self._finish(contact.name, [envelope.key])

    async def _send_one(self, contact: Contact) -> None:
        """What is sent at a tick. Where turns are owed besides, every other time one of them is;
        else a note takes turns with what is to be sent again, but for a last part, which has a note
        in it."""
        name, again = contact.name, None
        owed = self._sealing.chosen(contact).owed
        self._rounds[name] += 1
        if owed and self._rounds[name] % 2:
            await self._tell_owed(None, contact, owed[self._rounds[name] // 2 % len(owed)].id)
            return
        if name not in self._wakes:
            with self._context.store.read() as reader:
                but = self._finishing.of(name)
                again = delivery_queue.first_job(reader, name, again=True, but=but)
        if again is not None and (name in self._told or again.count == 1):
            self._told.discard(name)
            if envelopes := await self._next(contact, 1, again=True):
                await self._deliver_alone(contact, envelopes[0])
                return
        self._told.add(name)
        with self._context.store.read() as reader:
            draft = note_queue.draft(reader, name, self._context.clock())
        await self._tell(None, contact, draft)

    async def _deliver_some(
        self, link: Link, contact: Contact, window: int, *, behind_many: bool
    ) -> int:
        """One window of envelopes: how many. 0 when there was nothing to do. ``behind_many``: there
        were several in one before it, so that more may follow which are sent again."""
        envelopes = await self._next(contact, window)
        if not envelopes and (behind_many or self._context.is_prompt):
            envelopes = await self._next(contact, window, again=True)
        if not envelopes:
            self._count(contact.name)
            return 0
        asked = [Deliver(contact.profile.user_id, envelope.data) for envelope in envelopes]
        replies = await request_in_order(
            link, asked, lambda index: self._waits(contact.name, envelopes[index])
        )
        told = list(zip(envelopes, replies, strict=True))
        delivered = [envelope.key for envelope, reply in told if isinstance(reply, Done)]
        if delivered:
            await self._finish(contact.name, delivered)
        for _envelope, reply in told:
            if isinstance(reply, CbfsError):
                raise refusal_in_words(reply)
        return len(envelopes)

    def _waits(self, recipient: str, envelope: Envelope) -> bool:
        """Whether it is still to be delivered, when it is about to leave: its message may have been
        removed, or it was sealed anew, or has been delivered by another way."""
        if envelope.key in self._finishing.of(recipient):
            return False
        with self._context.store.read() as reader:
            return delivery_queue.is_waiting(reader, envelope)

    async def _finish(self, recipient: str, delivered: list[bytes]) -> None:
        at_once = recipient in self._at_once
        await self._finishing.finish(recipient, delivered, at_once=at_once)
        self._count(recipient)

    def _count(self, recipient: str) -> None:
        but = self._finishing.of(recipient)
        with self._context.store.read() as reader:
            known = self._known.get(recipient, {})
            known = delivery_queue.jobs_for(reader, recipient, known, but)
        self._known[recipient] = known
        again = sum(known.values())
        if again < len(known):
            self._jobs[recipient] = len(known) - again
        else:
            self._jobs.pop(recipient, None)
            self._at_once.discard(recipient)
        if not again:
            self._again.discard(recipient)
        if not known:
            del self._known[recipient]

    async def _next(self, contact: Contact, window: int, *, again: bool = False) -> list[Envelope]:
        """The next window of what the user has written, or of what is sent ``again``, sealed as far
        as it was not; in one commit with the ratchet's state, and with what is told beside it."""
        context, name = self._context, contact.name
        if name in self._stagger and not again:
            return []
        fresh: Session | None = None
        with context.store.read() as reader:
            envelopes, jobs = self._next_work(reader, name, window, again=again)
        if not jobs:
            return envelopes
        if begins(self._sealing.chosen(contact), again=again):
            fresh = await self._new_session(contact)
        async with context.sessions.lock:
            while self._is_known(contact):
                chosen = self._sealing.chosen(contact)
                new = begins(chosen, again=again)
                if new and (fresh is None or context.sessions.is_stale(fresh, name)):
                    return envelopes
                chosen = only(fresh) if fresh is not None and new else chosen
                with context.store.read() as reader:
                    envelopes, jobs = self._next_work(reader, name, window, again=again)
                    most = window - len(envelopes)
                    if not jobs:
                        return envelopes
                    step = self._sealing.parts(reader, name, jobs, most, chosen)
                try:
                    envelopes += await context.store.commit(step.write)
                except delivery_queue.JobChanged:  # it was removed just now, or what it follows
                    continue
                step.done()
                self._sealed(step)
                return envelopes
        return []

    def _sealed(self, step: Step) -> None:
        """It is on the disk: what else has come about by it."""
        for job, _session in step.copied:
            self.owe(job.recipient)
        for message in step.changed:
            self._events.message_changed(message)

    def _next_work(
        self, reader: Reader, name: str, window: int, *, again: bool
    ) -> tuple[list[Envelope], list[Job]]:
        but = self._finishing.of(name)
        return delivery_queue.next_work(reader, name, window, again=again, but=but)

    def _is_known(self, contact: Contact) -> bool:
        """Whether it is still, by these keys: while a prekey was taken it may have been forgotten,
        and what is answered in a session with nobody known could not be read."""
        now = self._context.contacts.get(contact.name)
        return now is not None and now.profile.keys == contact.profile.keys

    async def _deliver_note(self, link: Link | None, contact: Contact) -> None:
        """Tell what is due, promptly."""
        with self._context.store.read() as reader:
            now, name = self._context.clock(), contact.name
            due = note_queue.is_due(reader, name, now)
            draft = note_queue.draft(reader, name, now)
        if due:
            if draft.owes:
                for session in self._sealing.chosen(contact).owed:
                    await self._tell_owed(link, contact, session.id)
            await self._tell(link, contact, draft)
        self._notes.discard(name)
        with self._context.store.read() as reader:
            following = note_queue.next_due(reader, name)
        if following is not None:
            self._events.notes_due({name: following})

    async def _tell(self, link: Link | None, contact: Contact, draft: NoteDraft) -> None:
        """Send a note, over a connection of its own where there is no ``link``. Only when it is at
        the server does it count as told."""
        context, name = self._context, contact.name
        store, sessions = context.store, context.sessions
        fresh: Session | None = None
        if self._sealing.chosen(contact).note is None:
            fresh = await self._new_session(contact)
        async with sessions.lock:
            session = self._sealing.chosen(contact).note or fresh
            if session is None or not self._is_known(contact) or sessions.is_stale(session, name):
                return
            envelope = await self._seal_note(name, draft, session)
        await self._hand_over_by(link, contact, envelope)
        settle = partial(note_queue.settle, told=draft.items, now=context.clock())
        for message in await store.commit(settle):
            self._events.message_changed(message)

    async def _tell_owed(self, link: Link | None, contact: Contact, session: bytes) -> None:
        """Send the same note on a session on which a turn is owed. It does not count as told: the
        session may be nobody's."""
        context, name = self._context, contact.name
        with context.store.read() as reader:
            draft = note_queue.draft(reader, name, context.clock())
        async with context.sessions.lock:
            held = context.sessions.get(name, session)
            if held is None or not self._is_known(contact):
                return
            envelope = await self._seal_note(name, draft, held)
        await self._hand_over_by(link, contact, envelope)

    async def _seal_note(self, name: str, draft: NoteDraft, session: Session) -> bytes:
        step, envelope = self._sealing.note(name, draft, session)
        await self._context.store.commit(step.write)
        step.done()
        return envelope

    async def _hand_over_by(self, link: Link | None, contact: Contact, envelope: bytes) -> None:
        if link is not None:
            await hand_over(link, contact, envelope)
            return
        async with self._link(contact) as own:
            await hand_over(own, contact, envelope)

    async def _new_session(self, contact: Contact) -> Session:
        """Take a prekey, over a connection of its own, and start."""
        context = self._context
        profile, name = contact.profile, contact.name
        peer = Peer(context.contacts.identity(name, profile), profile.auth, profile.kem)
        isolation = b"prekey:" + context.random.token(16)
        async with open_link(
            context.dialer, contact.profile.server, None, isolation, context.random
        ) as link:
            try:
                taken = await request(link, TakePrekey(contact.profile.user_id))
            except ServerRefused as error:
                raise refusal_in_words(error) from error
        try:
            prekey = decode_prekey(taken.record)
            prekey.verify(contact.profile.signing, context.clock() // 1000)
            return context.sessions.start(name, peer, prekey, taken.kem)
        except (CryptoError, DecodeError) as error:
            raise WrongPrekey from error
