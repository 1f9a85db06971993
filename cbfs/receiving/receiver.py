"""The receiver: from the home server's pushes to messages in the store.

Envelopes are made entries (``cbfs.receiving.entries``), which say when each came and what is drawn
at random for it, and applied one by one (``cbfs.receiving.incoming``), a batch of them in one
commit; only then are they deleted on the server. An envelope from somebody new waits in
``Table.INBOX`` until the directory has confirmed the sender's name; one that cannot be read is kept
in ``Table.QUARANTINE`` and tried again.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

import trio

from cbfs.account.settings import Strangers
from cbfs.contacts.contact import Contact, Standing
from cbfs.contacts.held_session import Damaged
from cbfs.contacts.look_up import Lapsed, Stopped, Unknown
from cbfs.contacts.monitor import Monitor
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
from cbfs.receiving.entries import (
    SEED_SIZE,
    Course,
    LogEntry,
    Outputs,
    effects_as_outputs,
    together,
)
from cbfs.receiving.fetching import Fetching
from cbfs.receiving.incoming import AccountState, apply, claimed_sender, is_of
from cbfs.receiving.message_requests import Admission
from cbfs.receiving.notes import Effects
from cbfs.receiving.reassembly import Reception
from cbfs.storage.faults import ProgramFault, contained, unharmed
from cbfs.storage.store import StoreError, Table, Writer
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
        self.admission = Admission(context, self._reception, self._tell_effects)
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
        await self._take(self._entries((envelope, None) for envelope in envelopes))

    def _entries(self, found: Iterable[tuple[bytes, tuple[Table, bytes] | None]]) -> list[LogEntry]:
        """Of envelopes that are taken at once, each with the record that it was kept in until now.
        The receipts for them are due at once as well."""
        context = self._context
        now, delay, token = context.clock(), self._delay(), context.random.token
        return [LogEntry(data, now, token(SEED_SIZE), delay, kept) for data, kept in found]

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

    def _kept(self, keys: list[bytes]) -> list[LogEntry]:
        with self._context.store.read() as reader:
            found = [(key, envelope_at(reader, key)) for key in keys]
        return self._entries((data, (Table.QUARANTINE, key)) for key, data in found if data)

    async def _take(self, entries: list[LogEntry]) -> None:
        while entries:
            try:
                with contained():
                    outputs = await self._commit(entries)
            except StoreError:
                raise
            except CbfsError:
                await self._take_one_by_one(entries)
                return
            self._follow_up(outputs)
            far = [unread.session for unread in outputs.unread if unread.why is Why.FAR]
            if not (self._far or far):
                return
            with self._context.store.read() as reader:
                near = self._far & {which_session(reader, id_) for id_ in outputs.advanced}
                self._far |= {which_session(reader, id_) for id_ in far}
                if not near:
                    return
                entries = self._kept(waiting_for(reader, near)[: 4 * RETRY_BATCH])

    async def _take_one_by_one(self, entries: list[LogEntry]) -> None:
        """A fault, in one of them at least: that one is set aside, and the others are taken."""
        if len(entries) > 1:
            for entry in entries:
                await self._take([entry])
            return
        alone = replace(entries[0], course=Course.ALONE)
        with suppress(ProgramFault), contained():  # is it in what strangers have sent before?
            self._follow_up(await self._commit([alone]))
            return
        await self._settle(entries[0], Course.FAULT)

    async def _settle(self, entry: LogEntry, course: Course) -> None:
        """An envelope that is not to be opened goes this way."""
        self._follow_up(await self._commit([replace(entry, course=course)]))

    def _follow_up(self, outputs: Outputs) -> None:
        """A batch is on the disk: all who are to know hear of it."""
        self._tell(outputs)
        if outputs.proven:
            self.confirming.wake()
        for sender, bundle in outputs.bundles:
            self._monitor.offer(sender, bundle)
        problems = self._context.problems
        if any(unread.why is Why.FAULT for unread in outputs.unread):
            problems.set("fault", _FAULT)
        if outputs.elsewhere:
            problems.set(
                "elsewhere",
                "somebody has written who says to be of a name directory that you do not follow,"
                f" {directory_text(outputs.elsewhere)} (anybody can send such a thing; it is kept"
                " in quarantine/: if you expect it, get the directory's policy file from them:"
                " cp POLICY directories/)",
            )
        if any(unread.new for unread in outputs.unread):
            problems.tell()  # how many there are is in the status
        if outputs.asks:
            self._strangers.set()

    async def _commit(self, entries: Sequence[LogEntry]) -> Outputs:
        """Apply these, in one transaction."""
        context, reception = self._context, self._reception()

        def change(writer: Writer) -> tuple[AccountState, list[Outputs]]:
            state = AccountState(writer, context, reception)
            return state, [apply(state, entry) for entry in entries]

        async with context.sessions.lock:
            state, outputs = await context.store.commit(change)
            with unharmed():  # it is on the disk: all who are to know hear of it
                state.done()
        return together(outputs)

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

    def _tell_effects(self, effects: Effects) -> None:
        self._tell(effects_as_outputs(effects))

    def _tell(self, outputs: Outputs) -> None:
        """Each by itself: it is on the disk, and nobody hears of it again."""
        problems = self._context.problems
        with unharmed():
            self._events.conversations_changed(outputs.turnover)
        for conversation in outputs.conversations:
            with unharmed():
                self._events.conversation_started(conversation)
        for name in outputs.requests:
            with unharmed():
                self._events.request_changed(name)
        for message in outputs.arrived:
            with unharmed():
                self._events.message_arrived(message)
        for message in outputs.changed:
            with unharmed():
                self._events.message_changed(message)
        for peer in outputs.again:
            with unharmed():
                self._events.owed_again(peer)
        with unharmed():
            if outputs.parts:
                problems.tell()  # how far they are is in the status
            if outputs.dues:
                self._events.notes_due(dict(outputs.dues))
            if outputs.refused:
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
        (entry,) = self._entries([(envelope, (Table.INBOX, key))])
        try:
            with contained():
                confirmed = await self._meet(envelope)
        except _Unheard:
            await self._settle(entry, Course.UNHEARD)
        except Stopped:
            pass  # it waits for the user's word on the new owner of the name
        except ProgramFault:
            await self._take([entry])  # who sent it may be known all the same
            with store.read() as reader:
                waits = reader.get(Table.INBOX, key) is not None
            if waits:
                await self._settle(entry, Course.FAULT)
        except _NOT_CONFIRMED:
            await self._settle(entry, Course.UNCONFIRMED)
        else:
            (entry,) = self._entries([(envelope, (Table.INBOX, key))])  # that took a while
            await self._take([replace(entry, confirmed=confirmed)])

    async def _meet(self, envelope: bytes) -> Contact | None:
        """Let the directory confirm who the sender is; None where nobody is to be asked for. Raises
        NotYet while it does not answer, what the checks raise when it says otherwise, and _Unheard
        for one stranger too many."""
        context = self._context
        async with context.sessions.lock:
            try:
                opened = context.sessions.batch().open(envelope, context.clock() // 1000)
            except (Duplicate, Damaged):
                return None
        if opened.peer:
            return None
        peer, body = opened.session.peer, decode_body(opened.body)
        directories, policy_for = context.contacts.directories, context.followed.policy_for
        name = directories.text(claimed_sender(policy_for, peer, body).person)
        known = context.contacts.get(name)
        try:
            shown = claimed_sender(policy_for, peer, body, known.followed if known else None)
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
        return contact

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
