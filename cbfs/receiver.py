"""Receipt: from the home server's pushes to messages in the store.

Envelopes are taken in batches (``cbfs.intake``), each in one commit; only then are they deleted on
the server. An envelope from somebody new waits in ``Table.INBOX`` until the directory has confirmed
the sender's name; one that cannot be read is kept in ``Table.QUARANTINE`` and tried again.
"""

from collections.abc import Callable

import trio

from cbfs import strangers
from cbfs.admission import Admission
from cbfs.arrivals import Receiving
from cbfs.contact import Standing
from cbfs.context import Backoff, Context
from cbfs.faults import contained, unharmed
from cbfs.intake import Incoming, Intake, Outcome, claimed_sender, is_of, set_aside
from cbfs.model import Conversation, Message, NotYet
from cbfs.owed import Dues
from cbfs.peers import Lapsed, Stopped, Unknown
from cbfs.quarantine import Unread, Why, envelope_at, far_sessions, keep, newest, waiting_for
from cbfs.sessions import Damaged
from cbfs.settings import Strangers
from cbfs.store import StoreError, Table, Writer
from cbfs.watch import Watch
from cbfs_common.errors import CbfsError, CryptoError, DecodeError
from cbfs_common.limits import RECEIPT_DELAY
from cbfs_common.message import Body, Part, decode_body
from cbfs_common.names_client import DirectoryLies, NameChanged, NameExpired
from cbfs_common.session import Duplicate


class _Unheard(CbfsError):
    """From a stranger, when so many wait that no more are heard."""

    def __init__(self) -> None:
        super().__init__("too many strangers wait")


_FAULT = "an envelope is kept that could not be handled: a fault of this program, in its log"

_NOT_CONFIRMED = (
    Unknown,
    Lapsed,
    CryptoError,
    DecodeError,
    DirectoryLies,
    NameChanged,
    NameExpired,
)
"""What says that a sender is not who they claim to be, or that nobody can say."""

RETRY_BATCH = 16
"""Kept envelopes that are tried again in one commit."""


class Receiver:
    """Opens and stores what arrives. It tells of conversations that messages came into, of messages
    that are new or in a new state, of what is owed to peers, whom to send to again, and of whom
    something waits for the user's decision."""

    def __init__(
        self,
        context: Context,
        watch: Watch,
        *,
        started: Callable[[Conversation], None],
        arrived: Callable[[Message], None],
        changed: Callable[[Message], None],
        owed: Callable[[Dues], None],
        again: Callable[[str], None],
        asking: Callable[[str], None],
    ) -> None:
        self._context = context
        self.admission = Admission(context, self._receiving, self._tell)
        self._watch = watch
        self._started = started
        self._arrived = arrived
        self._changed = changed
        self._owed = owed
        self._again = again
        self._asking = asking
        self._strangers = trio.Event()
        with context.store.read() as reader:
            self._far = far_sessions(reader)

    async def take(self, envelopes: list[bytes]) -> None:
        """Bring these into the store. On return the server may delete them."""
        await self._take([Incoming(envelope) for envelope in envelopes])

    async def retry(self) -> None:
        """Try once more what could not be read: this program may be newer, or a name confirmed."""
        with self._context.store.read() as reader:
            keys = newest(reader)
        try:
            with contained():
                for start in range(0, len(keys), RETRY_BATCH):
                    await self._take(self._kept(keys[start : start + RETRY_BATCH]))
        except CbfsError as error:
            self._context.problems.set(
                "retry", f"what could not be read was not tried again: {error} ({error.hint})"
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
                    intake, outcome = await self._commit(incoming)
            except StoreError:
                raise
            except CbfsError:
                await self._take_one_by_one(incoming)
                return
            await self._follow_up(intake, outcome)
            near = self._far & intake.advanced
            self._far |= {u.session for _item, u in intake.unread if u.why is Why.FAR}
            if not near:
                return
            with self._context.store.read() as reader:
                incoming = self._kept(waiting_for(reader, near)[: 4 * RETRY_BATCH])

    async def _take_one_by_one(self, incoming: list[Incoming]) -> None:
        """A fault, in one of them at least: that one is set aside, and the others are taken."""
        if len(incoming) > 1:
            for item in incoming:
                await self._take([item])
            return
        await self._context.store.commit(lambda writer: set_aside(writer, incoming[0]))
        self._context.problems.set("fault", _FAULT)

    async def _follow_up(self, intake: Intake, outcome: Outcome) -> None:
        """A batch is on the disk: all who are to know hear of it."""
        self._tell(outcome)
        with unharmed():
            await self.admission.introduce(outcome.arrivals.conversations.values())
        for sender, bundle in intake.bundles:
            self._watch.offer(sender, bundle)
        problems = self._context.problems
        if any(unread.why is Why.FAULT for _item, unread in intake.unread):
            problems.set("fault", _FAULT)
        if any(item.kept is None for item, _unread in intake.unread):
            problems.set("quarantine", "envelopes arrived that cannot be read; they are kept")
        if any(item.kept is None for item in intake.strangers):
            self._strangers.set()

    async def _commit(self, incoming: list[Incoming]) -> tuple[Intake, Outcome]:
        context = self._context
        receiving = self._receiving()
        async with context.sessions.lock:
            intake = Intake(context, incoming, receiving)
            outcome = await context.store.commit(intake.write)
            intake.done()
        return intake, outcome

    def _receiving(self) -> Receiving:
        context = self._context
        return Receiving(
            context.account.name,
            context.clock(),
            self._delay(),
            context.configuration.current.receipts,
            frozenset(contact.name for contact in context.peers.all() if contact.muted),
        )

    def _delay(self) -> int:
        """Milliseconds, at random, from a half to one and a half of RECEIPT_DELAY."""
        share = int.from_bytes(self._context.random.token(2), "big") / 65_536
        return int(RECEIPT_DELAY * 1_000 * (0.5 + share))

    def _tell(self, outcome: Outcome) -> None:
        """Each by itself: it is on the disk, and nobody hears of it again."""
        arrivals, told, problems = outcome.arrivals, outcome.told, self._context.problems
        for conversation in arrivals.conversations.values():
            with unharmed():
                self._started(conversation)
        for name in outcome.asking:
            with unharmed():
                self._asking(name)
        for message in arrivals.messages:
            with unharmed():
                self._arrived(message)
        for message in told.messages:
            with unharmed():
                self._changed(message)
        for peer in told.again:
            with unharmed():
                self._again(peer)
        with unharmed():
            if arrivals.parts:
                problems.tell()  # how far they are is in the status
            if arrivals.dues:
                self._owed(arrivals.dues)
            if arrivals.refused:
                problems.set(
                    "refused", "messages were refused: their senders are not in the conversation"
                )

    async def meet_strangers(self) -> None:
        """Confirm the names of new senders with the directory, for as long as the mount lives."""
        backoff = Backoff(self._context.random)
        while True:
            self._strangers = trio.Event()
            try:
                left = await self._meet_all()
                self._context.problems.clear("strangers")
            except CbfsError as error:
                self._context.problems.set(
                    "strangers",
                    f"somebody new has written, and cannot be confirmed: {error.in_full}",
                )
                left = True
            if left:
                await trio.sleep(backoff.next())
                continue
            backoff.reset()
            await self._strangers.wait()

    async def _meet_all(self) -> bool:
        """True when something is left to be tried again."""
        with self._context.store.read() as reader:
            waiting = list(reader.items(Table.INBOX))
        for key, envelope in waiting:
            try:
                await self._meet(envelope)
            except NotYet:
                return True
            except _Unheard:
                await self._context.store.commit(
                    lambda writer, key=key: writer.delete(Table.INBOX, key)  # type: ignore[misc]
                )
                continue
            except Stopped:
                continue  # it waits for the user's word on the new owner of the name
            except (
                Unknown,
                Lapsed,
                CryptoError,
                DecodeError,
                DirectoryLies,
                NameChanged,
                NameExpired,
            ):
                await self._give_up(key, envelope)
                continue
            await self._take([Incoming(envelope, (Table.INBOX, key))])
        return False

    async def _give_up(self, key: bytes, envelope: bytes) -> None:
        def change(writer: Writer) -> None:
            writer.delete(Table.INBOX, key)
            keep(writer, Unread(envelope, Why.LATER))

        await self._context.store.commit(change)

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
        name = claimed_sender(context, peer, body).entry.name
        known = context.peers.get(name)
        try:
            shown = claimed_sender(context, peer, body, known.entry if known else None)
        except NameChanged as error:
            await context.peers.offer(error.entry)
            raise Stopped(name) from error
        standing = self._standing(body)
        if known is None and standing is Standing.STRANGER:
            with context.store.read() as reader:
                if strangers.is_full(reader):
                    raise _Unheard
            await self.admission.forget()
        contact = await self._watch.confirm(shown, standing)
        if contact.offered is not None:
            raise Stopped(name)
        if not is_of(peer, contact.entry):
            raise CryptoError("the sender is not who the directory says")

    def _standing(self, body: Body) -> Standing:
        """Of somebody who is met by this message."""
        context = self._context
        if context.configuration.current.strangers is Strangers.ACCEPT:
            return Standing.KNOWN
        known = context.conversations.get(body.conversation) if isinstance(body, Part) else None
        if known is not None and isinstance(body, Part) and known.participants == body.participants:
            return Standing.LISTED
        return Standing.STRANGER
