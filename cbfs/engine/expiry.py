"""Messages whose time is over: deleted here by this side's own clock, whether anybody looks or not.

What has ended while nobody had the account mounted goes first of all. Each batch is one
transaction, which also erases the keys: a crash before it leaves the messages to the next start,
and after it nothing. The view is told when that is on the disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heapify, heappop, heappush

import trio

from cbfs.context import Context, Events
from cbfs.messages import conversations, history, lifetimes
from cbfs.messages.file_names import moment
from cbfs.messages.lifetimes import SLOT, End
from cbfs.messages.model import Conversation, Delivery, Message
from cbfs.messages.queues import delivery_queue, note_queue
from cbfs.messages.queues.incomplete import drop_incomplete
from cbfs.messages.queues.note_queue import Dues
from cbfs.receiving import message_requests
from cbfs.storage.faults import ProgramFault, contained, unharmed
from cbfs.storage.store import Reader, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.messages.conversation import end_of

BATCH = 64
"""Messages that are deleted in one transaction."""

REREAD_MAX = 1_000
"""Messages that end in one hour up to which that hour is read anew each time."""

LOOK_AGAIN = 60.0
"""Seconds until the clock is looked at again: it may be set, and the machine may sleep."""

ENDING_SHOWN_MAX = 16
"""Conversations that ``status`` lists in which messages end."""


def forget(writer: Writer, message: Message, dues: Dues, now: int) -> tuple[str, ...]:
    """Delete a message, and what is queued of it. To these it was not delivered, and now never
    is. A crash before the commit leaves all of it, after it none. ``now`` in milliseconds."""
    known = history.get_message(writer, message.conversation, message.serial)
    if known is None:
        return ()
    history.remove_message(writer, known)
    ref = known.conversation + known.id
    for recipient, _state in known.recipients:
        note_queue.dequeue(writer, recipient, note_queue.NoteKind.OFFER, ref)
    return delivery_queue.give_up(writer, known, dues, now)


def leave(
    writer: Writer, conversation: Conversation, dues: Dues, now: int, *, empty: bool
) -> frozenset[str] | None:
    """Show a conversation no more until something is written in it: nothing of it is delivered or
    asked for. To these something was queued; with ``empty`` None, and nothing has changed, while
    there are messages in it. A crash before the commit leaves all as it was."""
    if empty and history.newest_message(writer, conversation.id) is not None:
        return None
    conversations.leave(writer, conversation.id)
    note_queue.dequeue_wants(writer, conversation)
    return frozenset(delivery_queue.cancel_all(writer, conversation, dues, now))


@dataclass(frozen=True, slots=True)
class Ended:
    """A message that was deleted. ``missed``: to these it was not delivered, and now never is."""

    message: Message
    missed: tuple[str, ...]


@dataclass(slots=True)
class Deleted:
    """What one transaction has deleted: messages, and something of these ``strangers``'; and what
    is due to be told by that."""

    messages: list[Ended] = field(default_factory=list)
    strangers: set[str] = field(default_factory=set)
    dues: Dues = field(default_factory=dict)


def end(writer: Writer, ends: list[End], now: int) -> Deleted:
    """Delete what these are about, all that is queued of it included. ``now`` in milliseconds."""
    deleted = Deleted()
    for one in ends:
        place, request = one.message, one.request
        if place is not None:
            message = history.get_message(writer, *place)
            if message is not None and message.ends == one.when:
                missed = forget(writer, message, deleted.dues, now)
                deleted.messages.append(Ended(message, missed))
            continue
        lifetimes.take_out(writer, one)
        if request is None:
            drop_incomplete(writer, one.parts)
        elif name := message_requests.end(writer, request):
            deleted.strangers.add(name)
    return deleted


def bring_back(writer: Writer, now: int) -> None:
    """What a wrong clock has let end far ahead ends no later than if it had come at ``now``."""
    lifetimes.bring_back(writer, now)
    for place in lifetimes.messages_after(writer, now):
        message = history.get_message(writer, *place)
        if message is None:
            continue
        waits = any(state is Delivery.QUEUED for _who, state in message.recipients)
        latest = end_of(message.lifetime, now, waits=waits)
        if message.ends > latest:
            lifetimes.unschedule(writer, message)
            message = replace(message, ends=latest)
            history.put_message(writer, message)
            lifetimes.schedule(writer, message)


class Timetable:
    """What ends next: in memory is the first hour in which something does."""

    def __init__(self) -> None:
        self._slot: int | None = None
        self._heap: list[End] = []
        self._passed_over: set[End] = set()

    def note(self, end: End) -> bool:
        """Something more ends, and is on the disk. True when it is the next."""
        slot = end.when // SLOT
        if slot == self._slot:
            heappush(self._heap, end)
            return self._heap[0] is end
        if self._slot is None or slot < self._slot:
            self._slot = None
            return True
        return False

    def next(self, reader: Reader) -> End | None:
        """The first that ends; those that have gone meanwhile are passed over."""
        while True:
            if self._slot is None and not self._load(reader):
                return None
            while self._heap:
                if lifetimes.is_known(reader, self._heap[0]):
                    return self._heap[0]
                heappop(self._heap)
            self._slot = None

    def due(self, reader: Reader, now: int, most: int) -> list[End]:
        """At most so many that have ended at ``now``, of one hour: to be deleted before the next
        call. What could not be comes again by ``reread``."""
        found: list[End] = []
        if self.next(reader) is not None:
            while self._heap and self._heap[0].when <= now and len(found) < most:
                first = heappop(self._heap)
                if not found or found[-1] != first:  # it may have been noted twice
                    found.append(first)
        return found

    def pass_over(self, end: End) -> None:
        """This one cannot be deleted by this program."""
        self._passed_over.add(end)

    def reread(self) -> None:
        """The store is to be asked anew."""
        self._slot = None

    def refresh(self) -> None:
        """Let the store be asked anew if that costs little: what arrives in part, and what
        strangers send, nobody notes."""
        if len(self._heap) <= REREAD_MAX:
            self._slot = None

    def _load(self, reader: Reader) -> bool:
        for slot in lifetimes.slots(reader):
            self._heap = [e for e in lifetimes.in_slot(reader, slot) if e not in self._passed_over]
            heapify(self._heap)
            if self._heap:
                self._slot = slot
                return True
        return False


class Expiry:
    """Deletes messages when their time is over; ``events`` hears of each, and of strangers whose
    requests are shorter or gone."""

    def __init__(self, context: Context, events: Events) -> None:
        self._context = context
        self._events = events
        self._timetable = Timetable()
        self._news = trio.Event()

    def note(self, message: Message) -> None:
        """A message is new, or ends at another time; it is on the disk."""
        if message.ends:
            with self._context.store.read() as reader:
                its_end = lifetimes.end_of_message(reader, message)
            if self._timetable.note(its_end):
                self._news.set()

    async def bring_back(self, now: int) -> None:
        """Undo what a wrong clock has done to when messages end."""
        await self._context.store.commit(partial(bring_back, now=now))
        self._timetable.reread()
        self._news.set()

    def lines(self, reader: Reader) -> tuple[str, ...]:
        """For ``status``: where messages end, and when the next does."""
        counts = lifetimes.counts(reader)
        first = self._timetable.next(reader) if counts else None
        return ending_lines(counts, self._context.conversations, first.when if first else 0)

    async def begin(self) -> None:
        """Delete all that has ended before. To be called before ``run``."""
        with unharmed():
            await self._delete()

    async def run(self) -> None:
        """Delete each message when its time is over, until cancelled."""
        while True:
            self._news = trio.Event()
            self._timetable.refresh()
            wait = self._left() if await self._delete() else LOOK_AGAIN
            with trio.move_on_after(wait):
                await self._news.wait()

    def _left(self) -> float:
        """Seconds until something ends, or until that is asked again."""
        with self._context.store.read() as reader:
            first = self._timetable.next(reader)
        left = (first.when - self._context.clock()) / 1_000 if first else LOOK_AGAIN
        return min(max(left, 0.0), LOOK_AGAIN)

    async def _delete(self) -> bool:
        """All that has ended by now. False when the store takes no change."""
        context = self._context
        while context.may_delete:
            with context.store.read() as reader:
                ends = self._timetable.due(reader, context.clock(), BATCH)
            if not ends:
                return True
            try:
                await self._delete_these(ends)
            except CbfsError as error:
                context.problems.set(
                    "ending", f"what has ended could not be deleted: {error.in_full}"
                )
                self._timetable.reread()
                return False
            context.problems.clear("ending")
        return False

    async def _delete_these(self, ends: list[End]) -> None:
        """One transaction; each by itself when there is a fault, which is passed over."""
        try:
            with contained():
                now = self._context.clock()
                deleted = await self._context.store.commit(partial(end, ends=ends, now=now))
        except ProgramFault:
            if len(ends) == 1:
                self._timetable.pass_over(ends[0])
                return
            for one in ends:
                await self._delete_these([one])
        else:
            with unharmed():
                self._tell(deleted)

    def _tell(self, deleted: Deleted) -> None:
        self._events.notes_due(deleted.dues)
        for name in sorted(deleted.strangers):
            self._events.request_changed(name)
        for one in deleted.messages:
            for who in one.missed:
                self._context.problems.set(
                    f"ended {who}",
                    f"a message to {self._context.contacts.label(who)} was not delivered before its"
                    " lifetime was over (write it again, for longer, if it matters still)",
                )
            self._events.message_ended(one.message, one.missed)
        self._context.problems.tell()


def ending_lines(
    counts: Mapping[bytes, int], conversations: Mapping[bytes, Conversation], first: int
) -> tuple[str, ...]:
    """``counts``: how many messages end, by conversation. ``first``: when the next does."""
    lines = sorted(
        f"{count} message{'s' if count > 1 else ''} in {conversations[key].folder}"
        for key, count in counts.items()
        if key in conversations
    )
    more = len(lines) - ENDING_SHOWN_MAX
    lines = lines[:ENDING_SHOWN_MAX] + ([f"and in {more} more"] if more > 0 else [])
    return (*lines, f"the next at {moment(first):%F %T} UTC") if lines and first else tuple(lines)
