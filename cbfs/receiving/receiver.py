"""The receiver: from the home server's pushes to messages in the store.

Envelopes are taken in batches (``cbfs.receiving.incoming``), each in one commit; only then are they
deleted on the server. An envelope from somebody new waits in ``Table.INBOX`` until the directory
has confirmed the sender's name; one that cannot be read is kept in ``Table.QUARANTINE`` and tried
again.
"""

from bisect import bisect_right
from contextlib import suppress
from functools import partial

import trio

from cbfs.account.settings import Strangers
from cbfs.contacts.contact import Standing
from cbfs.contacts.look_up import Lapsed, Stopped, Unknown
from cbfs.contacts.monitor import Monitor
from cbfs.contacts.sessions import Damaged
from cbfs.context import Context, Events
from cbfs.messages.queues.quarantine import (
    Why,
    envelope_at,
    far_sessions,
    newest,
    waiting_for,
    which_session,
)
from cbfs.names.followed import UnknownDirectory
from cbfs.problems import Backoff
from cbfs.receiving import message_requests
from cbfs.receiving.confirming import Confirming
from cbfs.receiving.fetching import Fetching
from cbfs.receiving.incoming import Incoming, IncomingBatch, claimed_sender, is_of, set_aside
from cbfs.receiving.message_requests import Admission
from cbfs.receiving.notes import Effects
from cbfs.receiving.reassembly import Reception
from cbfs.storage.faults import ProgramFault, contained, unharmed
from cbfs.storage.store import StoreError, Table
from cbfs_common.errors import CbfsError, CryptoError, DecodeError, LimitError
from cbfs_common.limits import PROMPT_AFTER
from cbfs_common.messages.body import Body, Part, decode_body
from cbfs_common.names.checks import DirectoryLies, NameChanged, NameExpired
from cbfs_common.person import directory_text
from cbfs_common.session.session import Duplicate


class _Unheard(CbfsError):
    """From a stranger, when so many wait that no more are heard."""

    def __init__(self) -> None:
        super().__init__("too many strangers wait")


_FAULT = (
    "an envelope that arrived could not be handled: a fault of this program, which its log"
    " describes (please report it; the envelope is kept in quarantine/)"
)

_NOT_CONFIRMED = (
    UnknownDirectory,
    Unknown,
    Lapsed,
    CryptoError,
    DecodeError,
    LimitError,
    DirectoryLies,
    NameChanged,
    NameExpired,
)
"""What says that a sender is not who they claim to be, or that nobody can say."""

IN_VAIN_MAX = 4
"""New senders one after the other that the directory says nothing of, before it is given time."""

RETRY_BATCH = 16
"""Kept envelopes that are tried again in one commit."""


class Receiver:
    """Opens and stores what arrives. ``monitor`` confirms who new senders are, and is offered what
    those who are known say of themselves; ``events`` hears of all that has come about."""

    def __init__(
        self,
        context: Context,
        monitor: Monitor,
        events: Events,
    ) -> None:
        self._context = context
        self.admission = Admission(context, self._reception, self._tell)
        self.fetching = Fetching(context, self._reception, events)
        self.confirming = Confirming(context, events)
        self._monitor = monitor
        self._events = events
        self._strangers = trio.Event()
        self._tried = b""
        with context.store.read() as reader:
            self._far = far_sessions(reader)

    async def take(self, envelopes: list[bytes]) -> None:
        """Bring these into the store. On return the server may delete them."""
        await self._take([Incoming(envelope) for envelope in envelopes])

    async def retry(self) -> None:
        """Try once more what could not be read: this program may be newer, or a name confirmed."""
        self._context.problems.clear("elsewhere")
        with self._context.store.read() as reader:
            keys = newest(reader)
        try:
            with contained():
                for start in range(0, len(keys), RETRY_BATCH):
                    await self._take(self._kept(keys[start : start + RETRY_BATCH]))
        except CbfsError as error:
            self._context.problems.set(
                "retry", f"what could not be read was not tried again: {error.in_full}"
            )

    def look_again(self) -> None:
        """Something of a contact is new: whoever waits for that is looked at again."""
        self._strangers.set()

    def _kept(self, keys: list[bytes]) -> list[Incoming]:
        with self._context.store.read() as reader:
            found = [(key, envelope_at(reader, key)) for key in keys]
        return [Incoming(data, (Table.QUARANTINE, key)) for key, data in found if data]

    async def _take(self, incoming: list[Incoming]) -> None:
        while incoming:
            try:
                with contained():
                    batch, effects = await self._commit(incoming)
            except StoreError:
                raise
            except CbfsError:
                await self._take_one_by_one(incoming)
                return
            await self._follow_up(batch, effects)
            if not (self._far or any(unread.why is Why.FAR for _item, unread in batch.unread)):
                return
            with self._context.store.read() as reader:
                near = self._far & {which_session(reader, id_) for id_ in batch.advanced}
                far = (unread for _item, unread in batch.unread if unread.why is Why.FAR)
                self._far |= {which_session(reader, unread.session) for unread in far}
                if not near:
                    return
                incoming = self._kept(waiting_for(reader, near)[: 4 * RETRY_BATCH])

    async def _take_one_by_one(self, incoming: list[Incoming]) -> None:
        """A fault, in one of them at least: that one is set aside, and the others are taken."""
        if len(incoming) > 1:
            for item in incoming:
                await self._take([item])
            return
        with suppress(ProgramFault), contained():  # is it in what strangers have sent before?
            await self._follow_up(*await self._commit(incoming, releasing=False))
            return
        await self._keep_faulty(incoming[0])

    async def _keep_faulty(self, item: Incoming) -> None:
        """A fault was met by this envelope: it is kept in quarantine, and that is told."""
        await self._context.store.commit(lambda writer: set_aside(writer, item, Why.FAULT))
        self._context.problems.set("fault", _FAULT)

    async def _follow_up(self, batch: IncomingBatch, effects: Effects) -> None:
        """A batch is on the disk: all who are to know hear of it."""
        self._tell(effects)
        with unharmed():
            await self.admission.introduce(effects.arrivals.conversations.values())
        if batch.proven:
            self.confirming.wake()
        for sender, bundle in batch.bundles:
            self._monitor.offer(sender, bundle)
        problems = self._context.problems
        if any(unread.why is Why.FAULT for _item, unread in batch.unread):
            problems.set("fault", _FAULT)
        if batch.elsewhere:
            problems.set(
                "elsewhere",
                "somebody has written who says to be of a name directory that you do not follow,"
                f" {directory_text(batch.elsewhere)} (anybody can send such a thing; it is kept in"
                " quarantine/: if you expect it, get the directory's policy file from them:"
                " cp POLICY directories/)",
            )
        if any(item.kept is None for item, _unread in batch.unread):
            problems.tell()  # how many there are is in the status
        if any(i.kept is None or i.kept[0] is not Table.INBOX for i in batch.strangers):
            self._strangers.set()

    async def _commit(
        self, incoming: list[Incoming], *, releasing: bool = True
    ) -> tuple[IncomingBatch, Effects]:
        context = self._context
        reception = self._reception()
        async with context.sessions.lock:
            batch = IncomingBatch(context, reception)
            for number, item in enumerate(incoming):
                if number:
                    await trio.lowlevel.checkpoint()  # what is noise is tried with every session
                batch.take(item)
            change = partial(batch.write, releasing=releasing)
            effects = await context.store.commit(change)
            with unharmed():  # it is on the disk: all who are to know hear of it
                batch.done()
        return batch, effects

    def _reception(self) -> Reception:
        context = self._context
        return Reception(
            context.account.name,
            context.clock(),
            self._delay(),
            context.configuration.current.receipts,
            context.contacts.directories,
            frozenset(contact.name for contact in context.contacts.all() if contact.muted),
        )

    def _delay(self) -> int:
        """Milliseconds, at random, from a half to one and a half of PROMPT_AFTER; 0 where all that
        is owed waits for the note clock."""
        if not self._context.is_prompt:
            return 0
        share = int.from_bytes(self._context.random.token(2), "big") / 65_536
        return int(PROMPT_AFTER * 1_000 * (0.5 + share))

    def _tell(self, effects: Effects) -> None:
        """Each by itself: it is on the disk, and nobody hears of it again."""
        arrivals, told, problems = effects.arrivals, effects.told, self._context.problems
        with unharmed():
            self._events.conversations_changed(arrivals.changes)
        for conversation in arrivals.conversations.values():
            with unharmed():
                self._events.conversation_started(conversation)
        for name in effects.requests:
            with unharmed():
                self._events.request_changed(name)
        for message in arrivals.messages:
            with unharmed():
                self._events.message_arrived(message)
        for message in (*arrivals.confirmed, *told.messages):
            with unharmed():
                self._events.message_changed(message)
        for peer in told.again:
            with unharmed():
                self._events.owed_again(peer)
        with unharmed():
            if arrivals.parts:
                problems.tell()  # how far they are is in the status
            if arrivals.dues:
                self._events.notes_due(arrivals.dues)
            if arrivals.refused:
                problems.set(
                    "refused",
                    "messages were dropped: their senders do not take part in the conversations"
                    " that they are written into, or have sent parts that do not fit together"
                    " (there is nothing to do: nobody sees them)",
                )

    async def meet_strangers(self) -> None:
        """Confirm the names of new senders with the directory, for as long as the mount lives."""
        backoff = Backoff(self._context.random)
        while True:
            self._strangers = trio.Event()
            try:
                with contained():
                    await self._meet_all()
            except CbfsError as error:
                self._context.problems.set(
                    "strangers",
                    f"somebody new has written, and cannot be confirmed: {error.in_full}",
                )
                await trio.sleep(backoff.next())
                continue
            self._context.problems.clear("strangers")
            backoff.reset()
            await self._strangers.wait()

    async def _meet_all(self) -> None:
        """Raises the last error when some are left to be tried again: the next time begins with
        those whose turn did not come."""
        left: CbfsError | None = None
        in_vain = 0
        for key in self._waiting():
            try:
                await self._meet_one(key)
                in_vain = 0
            except StoreError:
                raise
            except CbfsError as error:
                left, in_vain, self._tried = error, in_vain + 1, key
                if in_vain == IN_VAIN_MAX:
                    break
        if left is not None:
            raise left

    def _waiting(self) -> list[bytes]:
        """The records of those who wait, from the one after the last that was tried."""
        with self._context.store.read() as reader:
            keys = list(reader.keys(Table.INBOX))
        behind = bisect_right(keys, self._tried)
        return keys[behind:] + keys[:behind]

    async def _meet_one(self, key: bytes) -> None:
        """Raises CbfsError when it is to be tried again."""
        store = self._context.store
        with store.read() as reader:
            envelope = reader.get(Table.INBOX, key)
        if envelope is None:
            return
        item = Incoming(envelope, (Table.INBOX, key))
        try:
            with contained():
                await self._meet(envelope)
        except _Unheard:
            await store.commit(lambda writer: writer.delete(Table.INBOX, key))
        except Stopped:
            pass  # it waits for the user's word on the new owner of the name
        except ProgramFault:
            await self._take([item])  # who sent it may be known all the same
            with store.read() as reader:
                waits = reader.get(Table.INBOX, key) is not None
            if waits:
                await self._keep_faulty(item)
        except _NOT_CONFIRMED:
            await store.commit(lambda writer: set_aside(writer, item, Why.LATER))
        else:
            await self._take([item])

    async def _meet(self, envelope: bytes) -> None:
        """Let the directory confirm who the sender is. Raises NotYet while it does not answer,
        what the checks raise when it says otherwise, and _Unheard for one stranger too many."""
        context = self._context
        async with context.sessions.lock:
            try:
                opened = context.sessions.batch().open(envelope, context.clock() // 1000)
            except (Duplicate, Damaged):
                return
        if opened.peer:
            return
        peer, body = opened.session.peer, decode_body(opened.body)
        directories = context.contacts.directories
        name = directories.text(claimed_sender(context, peer, body).person)
        known = context.contacts.get(name)
        try:
            shown = claimed_sender(context, peer, body, known.followed if known else None)
        except NameChanged as error:
            await context.contacts.offer(name, error.entry)
            raise Stopped(context.contacts.label(name)) from error
        standing = self._standing(name, body)
        if known is None and standing is Standing.STRANGER:
            with context.store.read() as reader:
                if message_requests.is_full(reader):
                    raise _Unheard
            await self.admission.forget()
        contact = await self._monitor.confirm(shown, standing)
        if contact.offered is not None:
            raise Stopped(context.contacts.label(name))
        if not is_of(peer, shown.person, contact.profile):
            raise CryptoError("the sender is not who the directory says")

    def _standing(self, name: str, body: Body) -> Standing:
        """Of somebody who is met by this message."""
        context = self._context
        if context.configuration.current.strangers is Strangers.ACCEPT:
            return Standing.KNOWN
        if isinstance(body, Part):
            known = context.conversations.get(body.conversation)
            with context.store.read() as reader:
                if message_requests.is_here(
                    reader, context.contacts.directories, known, name, body
                ):
                    return Standing.LISTED
        return Standing.STRANGER
