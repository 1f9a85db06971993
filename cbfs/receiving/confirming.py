"""Messages that were doubted are known to be their senders' (``cbfs.messages.marks.doubts``).

That is so when the session is proven that one has come on, and when it comes again on one that is,
or when its sender names it there as a parent: the hash by which it is named is of all that it says.

Of a session there may be very many: they lose their marks in small transactions, each of which a
crash leaves done or not done; what is left is known by a record, so that it goes on after a
restart.
"""

from dataclasses import replace
from functools import partial

import trio

from cbfs.contacts.held_session import decode_held
from cbfs.context import Context, Events
from cbfs.messages import history
from cbfs.messages.marks import doubts
from cbfs.messages.model import Message
from cbfs.storage.faults import unharmed
from cbfs.storage.store import Reader, Table, Writer
from cbfs_common.session.session import Stage

BATCH = 256
"""Messages that lose their marks in one transaction."""

DOUBTS_MAX = 8
"""Sessions of which is remembered that a message has come on them: more than can be in."""


def still_doubted(reader: Reader, sessions: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Those doubts, or none when a peer is proven in one of these sessions by now."""
    for session in sessions:
        data = reader.get(Table.SESSIONS, session)
        if data is not None and decode_held(data).session.stage is Stage.CONFIRMED:
            return ()
    return sessions


def both_doubted(before: tuple[bytes, ...], more: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The doubts of what has come twice, or in two parts: none when either has none."""
    if not (before and more):
        return ()
    return tuple(dict.fromkeys((*before, *more)))[-DOUBTS_MAX:]


def came_again(
    writer: Writer, confirmed: list[Message], ref: bytes, hash_: bytes, more: tuple[bytes, ...]
) -> None:
    """A message (its conversation and id, and its hash) that is here has come once more, with the
    doubts ``more``. Adds it to ``confirmed`` when it has none any more."""
    message = _doubted(writer, ref, hash_)
    if message is None:
        return
    left = both_doubted(message.doubts, more)
    if left == message.doubts:
        return
    doubts.forget(writer, message)
    message = replace(message, doubts=left)
    doubts.note(writer, message)
    if left:
        history.put_message(writer, message)
    else:
        confirmed.append(history.put_changed(writer, message))
        named_by_sender(writer, confirmed, message)


def _doubted(reader: Reader, ref: bytes, hash_: bytes) -> Message | None:
    """The message of this hash if it is doubted, and not one of which that is a copy."""
    known = history.known_message(reader, ref[:16], ref[16:])
    message = history.get_message(reader, ref[:16], known.serial) if known else None
    return message if message is not None and message.doubts and message.hash == hash_ else None


def named_by_sender(writer: Writer, confirmed: list[Message], message: Message) -> None:
    """Of a message it is known who has written it: so it is of what that names as its sender's own,
    and so on, BATCH steps at most. Adds what was doubted to ``confirmed``."""
    place, left = message.conversation, [message]
    for _ in range(BATCH):
        if not left:
            return
        one = left.pop()
        for parent in one.parents:
            before = None
            if parent.author == message.sender:
                before = _doubted(writer, place + parent.id, parent.hash)
            if before is not None and before.sender == message.sender:
                confirmed.append(_confirm(writer, before))
                left.append(before)


def _confirm(writer: Writer, message: Message) -> Message:
    doubts.forget(writer, message)
    return history.put_changed(writer, replace(message, doubts=()))


def confirm_some(writer: Writer, session: bytes) -> list[Message]:
    """Take the marks from BATCH messages that have come on a session which is proven. Gives them as
    they are then; ``doubts.pending`` says whether there are more."""
    confirmed: list[Message] = []
    found = doubts.marked(writer, session, BATCH)
    for which in found:
        message = history.get_message(writer, *which)
        if message is not None and message.doubts:
            message = _confirm(writer, message)
            confirmed.append(message)
            named_by_sender(writer, confirmed, message)
    if len(found) < BATCH:
        doubts.settled(writer, session)
    return confirmed


class Confirming:
    """Takes marks from messages of an account at work; ``events`` hears of each."""

    def __init__(self, context: Context, events: Events) -> None:
        self._context = context
        self._events = events
        self._wake = trio.Event()

    def wake(self) -> None:
        """A session was proven, on the disk."""
        self._wake.set()

    async def run(self) -> None:
        """Take marks until cancelled, also those that were left when a mount ended. Raises
        StoreError."""
        while True:
            self._wake = trio.Event()
            while await self.step():
                pass
            await self._wake.wait()

    async def step(self) -> bool:
        """One transaction for each session that was proven. False when there is nothing to do."""
        with self._context.store.read() as reader:
            sessions = doubts.pending(reader)
        for session in sessions:
            messages = await self._context.store.commit(partial(confirm_some, session=session))
            for message in messages:
                with unharmed():
                    self._events.message_changed(message)
        return bool(sessions)
