"""The queue of deliveries, as records of the store.

A job is one message to one recipient: record ``key_part(recipient) | sequence``. Its parts are
sealed a few at a time; a sealed envelope that is not delivered yet is the record
``key_part(recipient) | sequence | part``, so that a retry sends the same bytes.

Commit points: ``add_jobs`` (with the message itself: a crash leaves a draft, or a message that
will be sent); ``save_sealed`` (with the ratchet's state, and with the message itself where that can
be: a crash leaves a part unsealed, or an envelope that is sent again byte for byte); ``finish``
(which comes later than the delivery, see ``cbfs.sending.finishing``: a crash before it repeats the
delivery, which servers and peers both recognise). What was delivered meanwhile, by the keys of its
envelopes, is ``but`` where it makes a difference.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace

from cbfs.messages import lifetimes, listings
from cbfs.messages.content import drop_content, share_content
from cbfs.messages.conversations import get_conversation, note_met
from cbfs.messages.history import (
    get_message,
    put_changed,
    put_message,
    replaced_as_parent,
)
from cbfs.messages.model import Content, Conversation, Delivery, Message, ParentRef
from cbfs.messages.order import parents_of
from cbfs.messages.queues import blobs
from cbfs.messages.queues.note_queue import Dues, NoteKind, enqueue
from cbfs.storage.encoding import pack, u32, u64, unpack
from cbfs.storage.store import Meta, Reader, Series, StoreError, Table, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.limits import OFFER_AFTER
from cbfs_common.messages.body import part_capacity
from cbfs_common.messages.conversation import Lifetime
from cbfs_common.person import DIRECTORY_SIZE, Directories

_JOB_KEY = 24
_NONE: frozenset[bytes] = frozenset()
_ANYWHERE = Directories(bytes(DIRECTORY_SIZE))
"""Whichever directory is one's own, what people are called in a message is as long."""


@dataclass(frozen=True, slots=True)
class Job:
    """The delivery of one message to one recipient: ``sealed`` of ``count`` parts have been sealed,
    each but the last with ``part_size`` bytes of the content; ``digest`` (32) is that of the
    whole. ``again``: it was delivered before, and is missing at the recipient; or it is a copy,
    that goes ``on`` another session beside the first (the session's id, else empty). ``leaving`` is
    as in the message. ``begun``: the session on which the parts that are sealed were, empty while
    none is."""

    key: bytes
    recipient: str
    conversation: bytes
    serial: int
    message: bytes
    salt: bytes
    date: int
    parents: tuple[ParentRef, ...]
    file_name: str
    content: Content
    digest: bytes
    part_size: int
    count: int
    sealed: int
    folder: bool
    lifetime: Lifetime
    again: bool = False
    on: bytes = b""
    leaving: bool = False
    begun: bytes = b""

    def encode(self) -> bytes:
        """This job as a record of ``Table.QUEUE``."""
        content = self.content
        return pack(
            self.recipient,
            self.conversation,
            self.serial,
            self.message,
            self.salt,
            self.date,
            list(self.parents),
            self.file_name,
            [content.id, content.size, content.chunk],
            self.digest,
            self.part_size,
            self.count,
            self.sealed,
            self.folder,
            self.lifetime.seconds,
            self.lifetime.change,
            self.again,
            self.on,
            self.leaving,
            self.begun,
        )


def _decode(key: bytes, data: bytes) -> Job:
    numbers = (bytes, int, int, int, bool, int, int, bool, bytes, bool, bytes)
    fields = unpack(data, str, bytes, int, bytes, bytes, int, list, str, list, *numbers)
    recipient, conversation, serial, message, salt, date, parents, file_name = fields[:8]
    content, digest, part_size, count, sealed, folder, seconds, change = fields[8:16]
    again, on, leaving, begun = fields[16:]
    return Job(
        key,
        recipient,
        conversation,
        serial,
        message,
        salt,
        date,
        parents_of(parents),
        file_name,
        Content(*content),
        digest,
        part_size,
        count,
        sealed,
        folder,
        Lifetime(seconds, change),
        again,
        on,
        leaving,
        begun,
    )


@dataclass(frozen=True, slots=True)
class Envelope:
    """A sealed part on its way: its record key and the bytes."""

    key: bytes
    data: bytes


def add_jobs(writer: Writer, message: Message, job: Job) -> None:
    """One job for each recipient of a message to whom it is to be sent."""
    for recipient, state in message.recipients:
        if state is Delivery.QUEUED:
            _add(writer, job, recipient)


def unsealed(key: bytes, data: bytes) -> tuple[Content, bytes] | None:
    """The content of a job, and its record as it is when nothing of it has been sealed; None for
    an envelope."""
    if len(key) > _JOB_KEY:
        return None
    job = replace(_decode(key, data), sealed=0, begun=b"")
    return job.content, job.encode()


def waiting(reader: Reader, *, again: bool = False) -> dict[str, int]:
    """How many messages wait for each recipient, by true name: that were written and not delivered
    yet, or that are to be sent ``again``."""
    counts: dict[str, int] = {}
    for key in reader.keys(Table.QUEUE):
        if len(key) == _JOB_KEY:
            job = _decode(key, reader.get(Table.QUEUE, key) or b"")
            if job.again is again:
                counts[job.recipient] = counts.get(job.recipient, 0) + 1
    return counts


def jobs_for(
    reader: Reader, recipient: str, known: Mapping[bytes, bool], but: Set[bytes] = _NONE
) -> dict[bytes, bool]:
    """The jobs for one recipient by their keys, in the order of sending: of each, which stays so,
    whether it is sent again. ``known`` has those that were read before, and are not once more."""
    ending = {key[:_JOB_KEY] for key in but}
    found: dict[bytes, bool] = {}
    for key in reader.keys(Table.QUEUE, reader.key_part(recipient.encode())):
        if len(key) != _JOB_KEY:
            continue
        if key in known and key not in ending:
            found[key] = known[key]
            continue
        job = _decode(key, reader.get(Table.QUEUE, key) or b"")
        if not _is_done(reader, job, but):
            found[key] = job.again
    return found


def first_job(
    reader: Reader, recipient: str, *, again: bool = False, but: Set[bytes] = _NONE
) -> Job | None:
    """The job for one recipient whose turn it is: of a message that is sent for the first time,
    or ``again``."""
    jobs = (job for job in _jobs(reader, recipient) if job.again is again)
    return next((job for job in jobs if not _is_done(reader, job, but)), None)


def _is_done(reader: Reader, job: Job, delivered: Set[bytes]) -> bool:
    """Whether nothing is left of a job when these are."""
    if not delivered or job.sealed < job.count:
        return False
    keys = reader.keys(Table.QUEUE, job.key)
    return all(key in delivered for key in keys if len(key) > _JOB_KEY)


def job_of(reader: Reader, message: Message, recipient: str) -> Job | None:
    """The delivery of a message to one recipient, None when nothing is left of it."""
    return _job_at(reader, _index(reader, recipient, message.conversation, message.id))


def _copy_of(reader: Reader, message: Message, recipient: str) -> Job | None:
    return _job_at(reader, _index(reader, recipient, message.conversation, message.id, copy=True))


def _job_at(reader: Reader, index: bytes) -> Job | None:
    key = reader.get(Table.META, index)
    data = reader.get(Table.QUEUE, key) if key else None
    return _decode(key, data) if key and data else None


def _index(
    reader: Reader, recipient: str, conversation: bytes, message: bytes, *, copy: bool = False
) -> bytes:
    """Where the key of a job is to be found."""
    which = (b"copy",) if copy else ()
    return Meta.JOB + reader.key_part(recipient.encode(), conversation, message, *which)


def _index_of(reader: Reader, job: Job) -> bytes:
    return _index(reader, job.recipient, job.conversation, job.message, copy=bool(job.on))


def parts_delivered(reader: Reader, job: Job) -> int:
    """How many parts of a job are at the recipient's server."""
    waiting = sum(len(key) > _JOB_KEY for key in reader.keys(Table.QUEUE, job.key))
    return job.sealed - waiting


def next_work(
    reader: Reader, recipient: str, most: int, *, again: bool = False, but: Set[bytes] = _NONE
) -> tuple[list[Envelope], list[Job]]:
    """At most ``most`` envelopes that are sealed and not delivered, and as many jobs as it takes
    to seal up to ``most`` in all; both in the order of sending. ``again``: of what is sent again,
    else of all else."""
    envelopes: list[Envelope] = []
    jobs: list[Job] = []
    room, counts = most, False
    for key, data in reader.items(Table.QUEUE, prefix=reader.key_part(recipient.encode())):
        if room <= 0:
            break
        if len(key) > _JOB_KEY:
            if counts and key not in but:
                envelopes.append(Envelope(key, data))
                room -= 1
            continue
        job = _decode(key, data)
        counts = job.again is again
        if counts and job.sealed < job.count:
            jobs.append(job)
            room -= job.count - job.sealed
    return envelopes[:most], jobs


def is_waiting(reader: Reader, envelope: Envelope) -> bool:
    """Whether just this is to be delivered, and not delivered yet."""
    return reader.get(Table.QUEUE, envelope.key) == envelope.data


class JobChanged(CbfsError):
    """A job has changed while it was being sealed, or is gone."""

    def __init__(self) -> None:
        super().__init__("a message has changed while it was being sealed")


def save_sealed(
    writer: Writer, job: Job, parts: list[bytes], session: bytes = b""
) -> list[Envelope]:
    """The next parts of a job are sealed, on the ``session`` of this id. Raises JobChanged."""
    data = writer.get(Table.QUEUE, job.key)
    if data is None or _decode(job.key, data) != job:
        raise JobChanged
    envelopes = [
        Envelope(job.key + u32(job.sealed + index), data) for index, data in enumerate(parts)
    ]
    for envelope in envelopes:
        writer.put(Table.QUEUE, envelope.key, envelope.data)
    stepped = replace(job, sealed=job.sealed + len(parts), begun=session)
    writer.put(Table.QUEUE, job.key, stepped.encode())
    return envelopes


def job_for(message: Message, conversation: Conversation, *, blob: bool = False) -> Job:
    """The delivery of one's own message; whom to and under which key, ``add_jobs`` and
    ``send_again`` say. That of a ``blob`` is the reference to it, one part. Raises StoreError for
    one of somebody else."""
    origin = message.origin
    if origin is None:
        raise StoreError("a message of somebody else is to be sent", "see the log")
    people = _ANYWHERE.people(conversation.participants)
    part_size = part_capacity(people, conversation.subject, message.file_name)
    return Job(
        key=b"",
        recipient="",
        conversation=message.conversation,
        serial=message.serial,
        message=message.id,
        salt=origin.salt,
        date=origin.date,
        parents=message.parents,
        file_name=message.file_name,
        content=message.content,
        digest=origin.digest,
        part_size=part_size,
        count=1 if blob else math.ceil(message.content.size / part_size),
        sealed=0,
        folder=message.folder,
        lifetime=message.lifetime,
        leaving=message.leaving,
    )


def _add(writer: Writer, job: Job, recipient: str) -> None:
    key = writer.key_part(recipient.encode()) + u64(writer.next_number(Series.QUEUE))
    _put(writer, replace(job, key=key, recipient=recipient))
    share_content(writer, job.content.id)


def _put(writer: Writer, job: Job) -> None:
    writer.put(Table.QUEUE, job.key, job.encode())
    writer.put(Table.META, _index_of(writer, job), job.key)


def _drop(writer: Writer, job: Job) -> None:
    """It is done, or given up: forget it with what is sealed of it."""
    writer.delete_prefix(Table.QUEUE, job.key)
    writer.delete(Table.META, _index_of(writer, job))
    drop_content(writer, job.content.id)


def pending(reader: Reader, recipient: str) -> list[Job]:
    """All jobs for one recipient, in the order of sending."""
    return list(_jobs(reader, recipient))


def _jobs(reader: Reader, recipient: str) -> Iterator[Job]:
    for key in reader.keys(Table.QUEUE, reader.key_part(recipient.encode())):
        if len(key) == _JOB_KEY:
            yield _decode(key, reader.get(Table.QUEUE, key) or b"")


def send_again(writer: Writer, message: Message, recipient: str) -> None:
    """One more delivery of a message that was sent, to one of its recipients who misses it."""
    conversation = get_conversation(writer, message.conversation)
    if conversation is not None:
        blob = blobs.get(writer, message.content.id) is not None
        _add(writer, replace(job_for(message, conversation, blob=blob), again=True), recipient)


def copy_on(writer: Writer, job: Job, session: bytes) -> None:
    """One more delivery of what is sealed for the first time just now: on that session."""
    _add(writer, replace(job, sealed=0, again=True, on=session), job.recipient)


def drop_copy(writer: Writer, job: Job) -> None:
    """The session that a copy was to go on is gone."""
    if writer.get(Table.QUEUE, job.key) is not None:
        _drop(writer, job)


def begin_again(writer: Writer, recipient: str) -> None:
    """Forget what is sealed for this recipient, who cannot read it, and seal it anew. The jobs
    get new keys: what is just being delivered must not be taken for what is sealed from now on."""
    for job in pending(writer, recipient):
        if job.on:
            _drop(writer, job)
            continue
        writer.delete_prefix(Table.QUEUE, job.key)
        key = job.key[:-8] + u64(writer.next_number(Series.QUEUE))
        _put(writer, replace(job, key=key, sealed=0, begun=b""))


def begin_all_again(writer: Writer) -> None:
    """Do so for all that waits: nobody can read any of what is sealed."""
    for recipient in {**waiting(writer), **waiting(writer, again=True)}:
        begin_again(writer, recipient)


def add_blob(writer: Writer, message: Message, blocked: Callable[[str], bool], now: int) -> Message:
    """The blob of a message is at the server: one job for each recipient who has not said that they
    have it, but for whom the user has blocked since. Who was sent it before, when it lay at another
    server or under another key, is told where it is now. Gives the message as it is then. ``now``
    in milliseconds."""
    conversation = get_conversation(writer, message.conversation)
    if conversation is None:
        return message
    left = message
    for recipient, state in message.recipients:
        if state is Delivery.QUEUED and blocked(recipient):
            left = moved_on(left, recipient, Delivery.LEFT_OUT)
    if left != message:
        left = put_changed(writer, lifetimes.delivered(writer, left, now))
    job = job_for(left, conversation, blob=True)
    for recipient, state in left.recipients:
        again = state is Delivery.SENT
        before = _copy_of(writer, left, recipient) if again else job_of(writer, left, recipient)
        if before is not None:  # what is sealed of it says where the blob was
            _drop(writer, before)
        if state is Delivery.QUEUED or (again and not blocked(recipient)):
            _add(writer, replace(job, again=again), recipient)
    return left


def is_put(reader: Reader, message: Message) -> bool:
    """Whether nothing of a message of one's own is still on its way to one's own server."""
    blob = blobs.get(reader, message.content.id)
    return blob is None or blob.state is not blobs.BlobStage.PUTTING or blob.renewed > 0


def leave_out(writer: Writer, recipient: str, now: int) -> list[Message]:
    """The user has blocked this recipient: nothing of what waits for them is sent any more. Gives
    the messages that thereby have another state. ``now`` in milliseconds."""
    changed = []
    for job in pending(writer, recipient):
        _drop(writer, job)
        message = get_message(writer, job.conversation, job.serial)
        if message is None or dict(message.recipients).get(recipient) is not Delivery.QUEUED:
            continue
        left = moved_on(message, recipient, Delivery.LEFT_OUT)
        left = lifetimes.delivered(writer, left, now)
        changed.append(put_changed(writer, left))
    return changed


def give_up(writer: Writer, message: Message, dues: Dues, now: int) -> tuple[str, ...]:
    """Forget what is queued and sealed of a message. To these it has not been delivered: they are
    told that it was taken back when something of one's own names it already. ``now`` in
    milliseconds."""
    missed: list[str] = []
    for recipient, state in message.recipients:
        for job in job_of(writer, message, recipient), _copy_of(writer, message, recipient):
            if job is not None:
                _drop(writer, job)
        if state is Delivery.QUEUED:
            missed.append(recipient)
    if missed:
        _take_back(writer, message, missed, dues, now)
    return tuple(missed)


def _take_back(
    writer: Writer, message: Message, missed: Iterable[str], dues: Dues, now: int
) -> None:
    if replaced_as_parent(writer, message):
        for recipient in missed:
            ref = message.conversation + message.id
            enqueue(writer, dues, recipient, NoteKind.TAKEN_BACK, ref, now)


def cancel_all(writer: Writer, conversation: Conversation, dues: Dues, now: int) -> set[str]:
    """Forget what is queued in a conversation; its messages stay, and are parents of nothing that
    is written later. To these people something was queued. ``now`` in milliseconds."""
    cancelled: dict[int, list[str]] = {}
    for blob in list(blobs.every(writer, blobs.BlobStage.PUTTING)):
        if blob.conversation == conversation.id and not blob.renewed:
            _cancel_blob(writer, blob, cancelled, now)
    for recipient in conversation.participants:
        for job in pending(writer, recipient):
            if job.conversation != conversation.id:
                continue
            _drop(writer, job)
            cancelled.setdefault(job.serial, []).append(recipient)
            message = get_message(writer, job.conversation, job.serial)
            if message is not None and dict(message.recipients)[recipient] is Delivery.QUEUED:
                left = moved_on(message, recipient, Delivery.CANCELLED)
                put_changed(writer, lifetimes.delivered(writer, left, now))
    for serial, people in sorted(cancelled.items(), reverse=True):
        message = get_message(writer, conversation.id, serial)
        if message is not None:
            states = dict(message.recipients)
            missed = [who for who in people if states[who] is Delivery.CANCELLED]
            if missed:
                _take_back(writer, message, missed, dues, now)
    return {who for people in cancelled.values() for who in people}


def _cancel_blob(
    writer: Writer, blob: blobs.Blob, cancelled: dict[int, list[str]], now: int
) -> None:
    """It is put at the server no further, and goes to nobody. What is there of it goes when it is
    looked at what is needed."""
    blobs.put(writer, replace(blob, state=blobs.BlobStage.STORED))
    message = get_message(writer, blob.conversation, blob.serial)
    if message is not None:
        for recipient, state in message.recipients:
            if state is Delivery.QUEUED:
                cancelled.setdefault(blob.serial, []).append(recipient)
                message = moved_on(message, recipient, Delivery.CANCELLED)
        put_changed(writer, lifetimes.delivered(writer, message, now))


def finish(writer: Writer, delivered: list[bytes], dues: Dues, now: int) -> list[Message]:
    """These envelopes (their keys) are at the server. Gives the messages that thereby are at
    their recipient's server in full, in their new state; until a receipt comes they are to be
    offered again. ``now`` in milliseconds."""
    changed: dict[bytes, Message] = {}
    for key in delivered:
        writer.delete(Table.QUEUE, key)
    for job_key in dict.fromkeys(key[:_JOB_KEY] for key in delivered):
        data = writer.get(Table.QUEUE, job_key)
        if data is None:
            continue
        job = _decode(job_key, data)
        if job.sealed < job.count or any(
            len(key) > _JOB_KEY for key in writer.keys(Table.QUEUE, prefix=job_key)
        ):
            continue
        _drop(writer, job)
        note_met(writer, job.recipient)
        message = get_message(writer, job.conversation, job.serial)
        if message is not None and not job.on:
            state = dict(message.recipients).get(job.recipient)
            now_sent = message
            if state is Delivery.QUEUED:
                now_sent = moved_on(message, job.recipient, Delivery.SENT)
            now_sent = lifetimes.delivered(writer, now_sent, now)
            if now_sent != message:
                put_message(writer, now_sent)
                if now_sent.ends != message.ends:
                    listings.change(writer, now_sent)
                changed[message.id] = now_sent
            if state is not Delivery.RECEIVED:
                ref, due = message.conversation + message.id, now + OFFER_AFTER * 1_000
                enqueue(writer, dues, job.recipient, NoteKind.OFFER, ref, due)
    return list(changed.values())


def moved_on(message: Message, recipient: str, to: Delivery) -> Message:
    """The message with another state for one recipient."""
    recipients = tuple(
        (who, to if who == recipient else state) for who, state in message.recipients
    )
    return replace(message, recipients=recipients)
