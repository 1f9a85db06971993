"""Notes that arrive: what clients tell each other without anybody writing. PROTOCOL.rst, Message,
Kind 2.

What a peer may bring about with one is bounded: it moves the states of messages that were sent to
it, and has messages that were written to it sent again. The notes that leave are made in
``cbfs.messages.queues.note_queue``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cbfs.contacts.contact import Contact, Standing
from cbfs.messages import order
from cbfs.messages.conversations import get_conversation
from cbfs.messages.history import (
    ancestors_by,
    explain_absence,
    find_message,
    has_message,
    is_taken_back,
    own_before,
    put_message,
)
from cbfs.messages.model import Delivery, Message
from cbfs.messages.order import Absence
from cbfs.messages.queues import blobs
from cbfs.messages.queues.blobs import BlobStage
from cbfs.messages.queues.delivery_queue import (
    begin_again,
    is_put,
    moved_on,
    pending,
    send_again,
)
from cbfs.messages.queues.incomplete import share_of
from cbfs.messages.queues.note_queue import (
    NOTHING,
    Dues,
    NoteKind,
    arrived,
    dequeue,
    enqueue,
    items_for,
)
from cbfs.receiving.reassembly import Arrivals, Reception, acknowledge
from cbfs.storage.store import Reader, Writer
from cbfs_common.limits import ASK_SPREAD, NOTE_IDS_MAX
from cbfs_common.messages.body import Refs

_WRITTEN_TO = frozenset((Delivery.QUEUED, Delivery.SENT, Delivery.RECEIVED))


@dataclass(slots=True)
class Told:
    """What notes have brought about: messages in a new state, whom there is something to send to
    again, and what is due to be told now."""

    dues: Dues
    messages: list[Message] = field(default_factory=list)
    again: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Effects:
    """What a batch of envelopes, or a decision about strangers, has brought about: to be told when
    it is on the disk."""

    arrivals: Arrivals
    told: Told
    requests: set[str] = field(default_factory=set)
    """Strangers of whom more or less is kept now for the user's decision."""


def seal_anew(writer: Writer, told: Told, reception: Reception, peer: str) -> None:
    """The peer has given up its sessions, and lives another life now: what is queued for it is
    sealed anew, and all that it has not acknowledged is sent again."""
    begin_again(writer, peer)
    told.again.add(peer)  # their number is the same, but there is something to do
    wanted = [debt.ref for debt in items_for(writer, peer, NoteKind.OFFER)]
    _send_again(writer, told, reception.me, peer, wanted, reception.now)


def owe_turn(writer: Writer, dues: Dues, reception: Reception, peer: str) -> None:
    """The peer is owed an envelope, whatever is in it."""
    enqueue(writer, dues, peer, NoteKind.TURN, NOTHING, reception.now + reception.delay)


def take_refs(
    writer: Writer,
    told: Told,
    reception: Reception,
    contact: Contact,
    refs: Refs,
    *,
    unconfirmed: bool = False,
) -> None:
    """Do what a note asks for, be it in a message or by itself. Who is only met in conversations
    of others is asked for nothing beyond those. ``unconfirmed``: somebody else may have said it."""
    me, now, sender = reception.me, reception.now, contact.name
    known = contact.standing is Standing.KNOWN
    for ref in refs.received:
        _received(writer, told, me, sender, ref)
    for ref in refs.offered:
        if _is_arriving(writer, sender, ref):
            continue  # there is a receipt when it is here
        if has_message(writer, ref[:16], sender, ref[16:]):
            acknowledge(writer, told.dues, reception, sender, ref)
        elif known or get_conversation(writer, ref[:16]) is not None:
            due = now + reception.delay // ASK_SPREAD
            share = share_of(sender, unconfirmed=unconfirmed)
            enqueue(writer, told.dues, sender, NoteKind.WANT, ref, due, share)
    for ref in refs.taken_back:
        _taken_back(writer, told, sender, ref)
    if refs.wanted:
        _send_again(writer, told, me, sender, refs.wanted, now)


def _own(reader: Reader, me: str, peer: str, ref: bytes) -> Message | None:
    """A message of one's own that was written to ``peer``, who was not left out."""
    message = find_message(reader, ref[:16], me, ref[16:])
    if message is None:
        return None
    return message if dict(message.recipients).get(peer) in _WRITTEN_TO else None


def _is_arriving(reader: Reader, sender: str, ref: bytes) -> bool:
    """Whether a message is here, and the content that it refers to is not."""
    message = find_message(reader, ref[:16], sender, ref[16:])
    blob = blobs.get(reader, message.content.id) if message else None
    return blob is not None and blob.state is BlobStage.FETCHING


def _received(writer: Writer, told: Told, me: str, sender: str, ref: bytes) -> None:
    dequeue(writer, sender, NoteKind.OFFER, ref)
    message = _own(writer, me, sender, ref)
    if message is not None and dict(message.recipients)[sender] is not Delivery.RECEIVED:
        message = moved_on(message, sender, Delivery.RECEIVED)
        put_message(writer, message)
        told.messages.append(message)


def _taken_back(writer: Writer, told: Told, sender: str, ref: bytes) -> None:
    """In its place stands why it is not there. Only who is said to have written it is believed, and
    as long as somebody else is said to have as well, it is asked for all the same."""
    changed = explain_absence(writer, ref[:16], sender, ref[16:], Absence.TAKEN_BACK)
    if changed and is_taken_back(writer, ref[:16], ref[16:]):
        conversation = get_conversation(writer, ref[:16])
        arrived(writer, conversation.participants if conversation else (), ref)
    told.messages += changed


def _send_again(
    writer: Writer, told: Told, me: str, sender: str, refs: Sequence[bytes], now: int
) -> None:
    """What is on its way already, or is not one's own, is not sent again; of what was deleted, or
    taken back, that is said."""
    waiting = {job.conversation + job.message for job in pending(writer, sender)}
    for ref in dict.fromkeys(refs):
        message = None if ref in waiting else _own(writer, me, sender, ref)
        if message is not None and not is_put(writer, message):
            continue  # it is sent for the first time when its blob is at the server
        if message is not None:
            dequeue(writer, sender, NoteKind.OFFER, ref)
            if blobs.asked_for(writer, message.content.id):
                # else it would be taken away at the server before it is fetched
                message = moved_on(message, sender, Delivery.SENT)
                put_message(writer, message)
                told.messages.append(message)
            send_again(writer, message, sender)
            told.again.add(sender)
            _offer_before(writer, told, me, sender, message, now)
        elif _is_taken_back(writer, me, sender, ref):
            enqueue(writer, told.dues, sender, NoteKind.TAKEN_BACK, ref, now)
        elif ref not in waiting:
            _note_lack(writer, sender, ref)
            _offer_behind(writer, told, me, sender, ref, now)


def _note_lack(writer: Writer, sender: str, ref: bytes) -> None:
    """It may have been one's own, and be lost: then ``status`` says who has asked for it."""
    conversation = get_conversation(writer, ref[:16])
    if conversation is not None and sender in conversation.participants:
        order.lacks(writer, ref[:16], ref[16:], sender)


def _is_taken_back(reader: Reader, me: str, peer: str, ref: bytes) -> bool:
    """Whether one has written this, for ``peer`` among others, and it is not to be had any more.
    Whom one has left out of it is not told that."""
    conversation = get_conversation(reader, ref[:16])
    if conversation is None or peer not in conversation.participants:
        return False
    message = find_message(reader, ref[:16], me, ref[16:])
    if message is None:
        return has_message(reader, ref[:16], me, ref[16:])
    return dict(message.recipients).get(peer) is Delivery.CANCELLED


def _offer_before(
    writer: Writer, told: Told, me: str, sender: str, message: Message, now: int
) -> None:
    """One's own is missing there: what was written before it, as far as there is no receipt for it,
    may be as well. All of it is offered at once, and not found out one by one."""
    before: Message | None = message
    for _ in range(NOTE_IDS_MAX):
        before = own_before(writer, before, me) if before else None
        if before is None or dict(before.recipients).get(sender) is not Delivery.SENT:
            return
        enqueue(writer, told.dues, sender, NoteKind.OFFER, before.conversation + before.id, now)


def _offer_behind(writer: Writer, told: Told, me: str, sender: str, ref: bytes, now: int) -> None:
    """Somebody else's message is wanted, perhaps by who wrote it and has lost it: what one wrote
    oneself before it may be missing there as well, and nobody else would show that."""
    conversation = ref[:16]
    for id_ in ancestors_by(writer, conversation, ref[16:], me, NOTE_IDS_MAX):
        if _own(writer, me, sender, conversation + id_) is not None:
            enqueue(writer, told.dues, sender, NoteKind.OFFER, conversation + id_, now)
