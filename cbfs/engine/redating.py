"""Dates of messages and conversations that were written while this computer's clock was ahead.

When the clock is right (``cbfs.names.own_time``), what is dated later than now is dated now, in the
order of its places: with its day, its name, and the name of a conversation that began so. The
places stay as they are, since those are the same at everybody (``cbfs.messages.order``).

Messages follow in many small transactions, each of which a crash leaves done or not done: they are
looked for anew at the next start, which knows still that the clock was ahead.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import trio

from cbfs.account import account
from cbfs.context import Context, Events
from cbfs.messages import history, listings, petnames, search_index
from cbfs.messages.conversations import begun_by, load_conversations, name_folder
from cbfs.messages.marks import mail_pages
from cbfs.messages.model import Conversation, Message
from cbfs.receiving import message_requests
from cbfs.storage.faults import unharmed
from cbfs.storage.store import Reader, Writer
from cbfs_common.limits import DATE_MAX

BATCH = 256
"""Messages that are dated anew in one transaction."""


@dataclass(frozen=True, slots=True)
class Late:
    """A message whose date, or when it came, is still to come; ``date`` is what it gets."""

    conversation: bytes
    serial: int
    date: int


class Redating:
    """Dates messages and conversations of an account at work anew; ``events`` hears of those that
    it changes, and of strangers whose request says another date."""

    def __init__(self, context: Context, events: Events) -> None:
        self._context = context
        self._events = events

    async def bring_back(self, now: int) -> None:
        """No date of a message, a conversation, a request or a former address is later than it
        could be at ``now`` (milliseconds), or when this ends."""
        context = self._context
        async with context.sessions.lock:
            moved = await context.store.commit(partial(redate_conversations, now=now))
            for _old, new in moved:
                context.conversations[new.id] = new
        for old, new in moved:
            with unharmed():
                self._events.conversation_moved(old, new)
        for name in await context.store.commit(partial(_bring_back_others, now=now)):
            with unharmed():
                self._events.request_changed(name)
        while await self._redate_all():
            pass  # what has come meanwhile may be dated behind what was late

    async def _redate_all(self) -> bool:
        """False when there was nothing."""
        context = self._context
        now = context.clock()
        found = await trio.to_thread.run_sync(self._late, now)
        some = False
        for start in range(0, len(found), BATCH):
            batch = found[start : start + BATCH]
            messages = await context.store.commit(partial(redate, batch=batch, now=now))
            some |= bool(messages)
            with unharmed():
                self._events.messages_renamed(messages)
        return some

    def _late(self, now: int) -> list[Late]:
        with self._context.store.read() as reader:
            conversations = load_conversations(reader)
            return [late for key in conversations for late in late_messages(reader, key, now)]


def redate_conversations(writer: Writer, now: int) -> list[tuple[Conversation, Conversation]]:
    """Conversations that began later than ``now`` (milliseconds) begin now. Gives them before and
    after."""
    late = [c for c in load_conversations(writer).values() if c.started > now]
    late.sort(key=petnames.in_order)
    begun = [(conversation, begun_by(writer, conversation)) for conversation in late]
    return [(old, name_folder(writer, replace(old, started=now), sender)) for old, sender in begun]


def late_messages(reader: Reader, conversation: bytes, now: int) -> list[Late]:
    """The messages of one conversation that are dated later than ``now`` (milliseconds), in the
    order of their places; the dates they get are behind those of its other messages."""
    found, newest = [], 0
    for entry in listings.every(reader, conversation):
        serial, date, *_, behind, tie = entry
        if date > now:
            found.append((date + behind, tie, serial))
        else:
            newest = max(newest, date)
            if listings.received_of(entry) > now:
                found.append((date, 0, serial))
    found.sort()
    dates = range(max(newest, now - len(found)) + 1, DATE_MAX)
    return [
        Late(conversation, serial, date)
        for (_place, _tie, serial), date in zip(found, dates, strict=False)
    ]


def redate(writer: Writer, batch: Iterable[Late], now: int) -> list[Message]:
    """Date these anew. Gives those that are there still, as they are then."""
    changed = []
    for late in batch:
        message = history.get_message(writer, late.conversation, late.serial)
        if message is None:
            continue
        date = late.date if message.date > now else message.date
        search_index.redate(writer, message, date)
        came = min(message.received, now)
        if came != message.received:
            mail_pages.forget_row(writer, message.serial)
        changed.append(petnames.name_anew(writer, replace(message, date=date, received=came)))
    return changed


def _bring_back_others(writer: Writer, now: int) -> set[str]:
    account.bring_back(writer, now // 1_000)
    return message_requests.bring_back(writer, now)
