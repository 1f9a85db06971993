"""The sender: delivery to those that something waits for, so many at once and no more
(``cbfs.sending.agenda``), one envelope at a tick of the note clock, and reminders of when a prompt
client's notes are due.

An envelope leaves because the user has written, or because the note clock has ticked
(PROTOCOL.rst, When something leaves): neither the time nor to whom depends on what was received.
So what is to be sent again goes at a tick, or behind a message of the user's that takes several
envelopes, as nobody knows of how many it is; never behind one of a single envelope.

Each delivery session has a connection of its own with a fresh key, so that the recipient's
server learns neither who sends nor that two deliveries come from the same sender; so has each
prekey that is taken. Sealing and the ratchet's new state are one commit, delivery follows, and
only then the queue forgets (``cbfs.messages.queues.delivery_queue``).
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial

import trio

from cbfs.contacts.contact import Contact
from cbfs.contacts.look_up import Unknown
from cbfs.context import Context, Events, supervised
from cbfs.messages.model import Message
from cbfs.messages.queues import delivery_queue, note_queue
from cbfs.messages.queues.delivery_queue import Envelope
from cbfs.messages.queues.note_queue import Dues, NoteDraft
from cbfs.network.dial import REUSE_TIME, DialError
from cbfs.network.link import Link, ServerRefused, open_link, request, request_in_order
from cbfs.problems import Cause, NotYet, in_words
from cbfs.sending.agenda import Agenda
from cbfs.sending.sealing import Sealing
from cbfs.storage.faults import contained, harmless
from cbfs.storage.store import Writer
from cbfs_common.errors import CbfsError, CryptoError, DecodeError, TransportError
from cbfs_common.names.checks import NameExpired
from cbfs_common.session.prekey import decode_prekey
from cbfs_common.session.session import Peer, Session
from cbfs_common.wire.requests import Code, Deliver, Done, TakePrekey

WINDOW = 16
"""Envelopes under way to one recipient at once."""

LINGER = 5.0
"""Seconds that a delivery session stays open for more to send, if nobody waits for its place."""


SLOW = 30.0
"""Seconds for one window after which a server counts as slow: what goes to it takes no place of
those that are kept for others, and makes room when somebody waits."""


LOOK_AGAIN = 3_600.0
"""Seconds until the clock is looked at again, which may have been set meanwhile."""


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
        nursery: trio.Nursery,
    ) -> None:
        self._context = context
        self._sealing = Sealing(context, bundle)
        self._events = events
        self._nursery = nursery
        self._retries = context.retries
        self._agenda = Agenda(lambda who: self._retries.due(topic_of(who)), self._retries.take)
        self._wakes: dict[str, trio.Event] = {}
        self._lingering: set[str] = set()
        self._slow: set[str] = set()
        self._notes: set[str] = set()
        self._again: set[str] = set()
        self._ticks: set[str] = set()
        self._told: set[str] = set()
        self._news = trio.Event()
        self._retries.sooner_than_said = self._look_again
        with context.store.read() as reader:
            self._jobs = delivery_queue.waiting(reader)
        for recipient in self._jobs:
            self._wake(recipient)
        nursery.start_soon(supervised, context, self._run)

    def queued(self, recipient: str) -> None:
        """There is something new in the queue for this recipient, on the disk."""
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

    def waiting(self) -> dict[str, int]:
        """Messages by recipient that are not at the server yet."""
        return dict(self._jobs)

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
        return recipient in self._jobs or (prompt and recipient in self._notes | self._again)

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
                    self._nursery.start_soon(self._serve, recipient)
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
                    began, many = trio.current_time(), False
                    while not context.pace and (
                        sent := await self._deliver_some(link, contact, behind_many=many)
                    ):
                        many = many or sent > 1
                        self._works(recipient)
                        if self._gives_way(recipient, trio.current_time() - began):
                            return
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
            if self._waits(envelope):
                await _hand_over(link, contact, envelope.data)
                await self._finish(contact.name, [envelope.key])

    async def _send_one(self, contact: Contact) -> None:
        """What is sent at a tick. A note takes turns with what is to be sent again, but for a last
        part, which has a note in it."""
        name, again = contact.name, None
        if name not in self._wakes:
            with self._context.store.read() as reader:
                again = delivery_queue.first_job(reader, name, again=True)
        if again is not None and (name in self._told or again.count == 1):
            self._told.discard(name)
            if envelopes := await self._next(contact, 1, again=True):
                await self._deliver_alone(contact, envelopes[0])
                return
        self._told.add(name)
        with self._context.store.read() as reader:
            draft = note_queue.draft(reader, name, self._context.clock())
        await self._tell(None, contact, draft)

    async def _deliver_some(self, link: Link, contact: Contact, *, behind_many: bool) -> int:
        """One window of envelopes: how many. 0 when there was nothing to do. ``behind_many``: there
        were several in one before it, so that more may follow which are sent again."""
        envelopes = await self._next(contact, WINDOW)
        if not envelopes and (behind_many or self._context.is_prompt):
            envelopes = await self._next(contact, WINDOW, again=True)
        if not envelopes:
            self._count(contact.name)
            return 0
        asked = [Deliver(contact.profile.user_id, envelope.data) for envelope in envelopes]
        replies = await request_in_order(link, asked, lambda index: self._waits(envelopes[index]))
        told = list(zip(envelopes, replies, strict=True))
        delivered = [envelope.key for envelope, reply in told if isinstance(reply, Done)]
        if delivered:
            await self._finish(contact.name, delivered)
        for _envelope, reply in told:
            if isinstance(reply, CbfsError):
                raise _in_words(reply)
        return len(envelopes)

    def _waits(self, envelope: Envelope) -> bool:
        """Whether it is still to be delivered, when it is about to leave: its message may have been
        removed, or it was sealed anew."""
        with self._context.store.read() as reader:
            return delivery_queue.is_waiting(reader, envelope)

    async def _finish(self, recipient: str, delivered: list[bytes]) -> None:
        now = self._context.clock()

        def change(writer: Writer) -> tuple[list[Message], Dues]:
            dues: Dues = {}
            return delivery_queue.finish(writer, delivered, dues, now), dues

        messages, dues = await self._context.store.commit(change)
        self._count(recipient)
        self._events.notes_due(dues)
        for message in messages:
            self._events.message_changed(message)
        self._context.problems.tell()

    def _count(self, recipient: str) -> None:
        with self._context.store.read() as reader:
            left = delivery_queue.waiting_for(reader, recipient)
            again = delivery_queue.first_job(reader, recipient, again=True)
        if left:
            self._jobs[recipient] = left
        else:
            self._jobs.pop(recipient, None)
        if again is None:
            self._again.discard(recipient)

    async def _next(self, contact: Contact, window: int, *, again: bool = False) -> list[Envelope]:
        """The next window of what the user has written, or of what is sent ``again``, sealed as far
        as it was not; in one commit with the ratchet's state, and with what is told beside it."""
        context, name = self._context, contact.name
        fresh, identity = None, context.contacts.identity(name, contact.profile)
        with context.store.read() as reader:
            envelopes, jobs = delivery_queue.next_work(reader, name, window, again=again)
        if not jobs:
            return envelopes
        session = context.sessions.choose(name, identity)
        # only with what the user writes: a session that begins by itself would tell of silence
        silent = (
            not again
            and session is not None
            and context.sessions.is_silent(session, context.clock())
        )
        if silent or session is None:
            fresh = await self._new_session(contact)
        async with context.sessions.lock:
            while self._is_known(contact):
                session = context.sessions.choose(name, identity)
                session = fresh if silent or session is None else session
                with context.store.read() as reader:
                    envelopes, jobs = delivery_queue.next_work(reader, name, window, again=again)
                    most = window - len(envelopes)
                    if not jobs or session is None:
                        return envelopes
                    step = self._sealing.parts(reader, name, jobs, most, session, prefer=silent)
                try:
                    envelopes += await context.store.commit(step.write)
                except delivery_queue.JobChanged:  # it was removed just now, or what it follows
                    continue
                step.done()
                for message in step.changed:
                    self._events.message_changed(message)
                return envelopes
        return []

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
        fresh, identity = None, context.contacts.identity(name, contact.profile)
        if draft.lost or sessions.choose(name, identity) is None:
            fresh = await self._new_session(contact)
        async with sessions.lock:
            session = fresh if draft.lost else sessions.choose(name, identity) or fresh
            if session is None or not self._is_known(contact):
                return
            step, envelope = self._sealing.note(name, draft, session)
            await store.commit(step.write)
            step.done()
        if link is not None:
            await _hand_over(link, contact, envelope)
        else:
            async with self._link(contact) as own:
                await _hand_over(own, contact, envelope)
        settle = partial(note_queue.settle, told=draft.items, now=context.clock())
        for message in await store.commit(settle):
            self._events.message_changed(message)

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
                raise _in_words(error) from error
        try:
            prekey = decode_prekey(taken.record)
            prekey.verify(contact.profile.signing, context.clock() // 1000)
            return context.sessions.start(name, peer, prekey, taken.kem)
        except (CryptoError, DecodeError) as error:
            raise WrongPrekey from error


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


async def _hand_over(link: Link, contact: Contact, envelope: bytes) -> None:
    try:
        await request(link, Deliver(contact.profile.user_id, envelope))
    except ServerRefused as error:
        raise _in_words(error) from error


_REFUSALS = {
    Code.UNKNOWN_USER: "their server does not know them",
    Code.MAILBOX_FULL: "their mailbox is full",
    Code.NO_PREKEY: "they have no prekey left, as they have not been online for long",
}


def _in_words(error: CbfsError) -> CbfsError:
    """A refusal by the server, said of the recipient."""
    if isinstance(error, ServerRefused) and error.code in _REFUSALS:
        return CbfsError(_REFUSALS[error.code])
    return error
