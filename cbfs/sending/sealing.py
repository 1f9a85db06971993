"""Sealing for one recipient, without a network: parts of messages, and notes. What waits to be told
to a recipient goes in the last part of a message, in the room that is left: nobody sees that, and
it takes no envelope.

Each gives a step for one transaction, which holds the ratchet's new state and the envelopes: a
crash before it leaves a part unsealed, after it an envelope that is sent again byte for byte. A
note's envelope is not kept: should it not be delivered, the note is made anew from its queue.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cbfs.contacts.contact import Contact
from cbfs.contacts.held_session import Chosen
from cbfs.contacts.sessions import Batch
from cbfs.context import Context
from cbfs.messages.content import read_content
from cbfs.messages.conversations import get_conversation
from cbfs.messages.model import Message, parents_said
from cbfs.messages.queues import blobs, delivery_queue
from cbfs.messages.queues.delivery_queue import Envelope, Job
from cbfs.messages.queues.note_queue import NoteDraft, NoteItem, for_part, refs_of, settle
from cbfs.storage.store import Reader, StoreError, Writer
from cbfs_common.messages.body import Part, encode_note, encode_part, room_for_refs
from cbfs_common.session.session import Session


@dataclass(frozen=True, slots=True)
class Step:
    """What was sealed and is not on the disk yet. Call ``write`` in one transaction, and ``done``
    after it: only then do the sessions have their new states."""

    batch: Batch
    now: int
    sealed: list[tuple[Job, list[bytes], bytes]] = field(default_factory=list)
    """Of each job some parts, and the id of their session."""
    told: list[NoteItem] = field(default_factory=list)
    """What goes with the parts, and counts as told."""
    copied: list[tuple[Job, bytes]] = field(default_factory=list)
    """Jobs of which a copy is to go on another session, and its id."""
    dropped: list[Job] = field(default_factory=list)
    """Copies whose session is gone."""
    changed: list[Message] = field(default_factory=list)
    """After ``write``: of these there is something else to show, as what they answer was asked for
    the last time."""

    def write(self, writer: Writer) -> list[Envelope]:
        """Store the sessions' new states and the envelopes. Gives the envelopes to deliver."""
        self.batch.write(writer)
        self.changed[:] = settle(writer, self.told, self.now)
        envelopes = [
            envelope
            for job, parts, session in self.sealed
            for envelope in delivery_queue.save_sealed(writer, job, parts, session)
        ]
        for job, session in self.copied:
            delivery_queue.copy_on(writer, job, session)
        for job in self.dropped:
            delivery_queue.drop_copy(writer, job)
        return envelopes

    def done(self) -> None:
        """The transaction is on the disk."""
        self.batch.done()


def begins(chosen: Chosen, *, again: bool = False) -> bool:
    """Whether a session begins. Where nothing has come back, only with what the user writes: one
    that begins by itself, or with what is sent ``again``, would tell of silence."""
    return chosen.first is None or (chosen.silent and not again)


class Sealing:
    """Seals for others. ``bundle`` is one's own name proof."""

    def __init__(self, context: Context, bundle: Callable[[], bytes]) -> None:
        self._context = context
        self._bundle = bundle

    def chosen(self, contact: Contact) -> Chosen:
        """The sessions with a contact that are sent on, by the keys of now."""
        context, name = self._context, contact.name
        identity = context.contacts.identity(name, contact.profile)
        return context.sessions.chosen(name, context.clock(), identity)

    def parts(
        self, reader: Reader, recipient: str, jobs: list[Job], most: int, chosen: Chosen
    ) -> Step:
        """Seal up to ``most`` parts of these jobs on the sessions that were chosen, and copies on
        theirs. Hold the lock of the sessions."""
        batch = self._context.sessions.batch()
        now = self._context.clock()
        step, untold = Step(batch, now), for_part(reader, recipient, now, turns=not chosen.owed)
        for job in jobs:
            session = self._session(recipient, job, chosen)
            if session is None:
                step.dropped.append(job)
                continue
            count = min(most, job.count - job.sealed)
            most -= count
            # what is told on another session may reach nobody
            telling = untold if chosen.note and session.id == chosen.note.id else []
            bodies = [
                encode_part(
                    self._noted(self._part(reader, job, job.sealed + i), telling, step.told)
                )
                for i in range(count)
            ]
            parts = [batch.seal(session, recipient, body, now) for body in bodies]
            step.sealed.append((job, parts, session.id))
            if chosen.second is not None and not job.again and not job.sealed:
                step.copied.append((job, chosen.second.id))
        return step

    def _session(self, recipient: str, job: Job, chosen: Chosen) -> Session | None:
        """Where the next parts of a job go. All of one go on the same: parts on two sessions may be
        whole on neither. What is sent again goes where it was asked for: nothing else goes beside
        it, and on the one heard last it may reach nobody."""
        if job.on:
            return self._context.sessions.get(recipient, job.on)
        among = (chosen.first, chosen.second, chosen.note, *chosen.owed)
        begun = (session for session in among if session and session.id == job.begun)
        return next(begun, chosen.note if job.again else chosen.first)

    def note(self, recipient: str, draft: NoteDraft, session: Session) -> tuple[Step, bytes]:
        """Seal a note: (step, envelope). Hold the lock of the sessions."""
        batch = self._context.sessions.batch()
        body = encode_note(draft.note(self._bundle()))
        now = self._context.clock()
        envelope = batch.seal(session, recipient, body, now)
        return Step(batch, now), envelope

    def _noted(self, part: Part, untold: list[NoteItem], told: list[NoteItem]) -> Part:
        """The part with as much of ``untold`` as there is room for, which moves to ``told``; only
        the last of a message has any."""
        if not untold or part.number < part.count - 1:
            return part
        room = room_for_refs(part)
        carried = untold[:room]
        del untold[:room]
        told += carried
        return replace(part, note=refs_of(carried))

    def _part(self, reader: Reader, job: Job, number: int) -> Part:
        # one that has just begun may be on the disk before the engine has noted it
        conversation = get_conversation(reader, job.conversation)
        if conversation is None:
            raise StoreError("the queue names no conversation", "see the log")
        directories = self._context.contacts.directories
        blob = blobs.get(reader, job.content.id)
        chunk = (
            read_content(reader, job.content, number * job.part_size, job.part_size)
            if blob is None
            else blob.reference
        )
        return Part(
            salt=job.salt,
            conversation=job.conversation,
            parents=parents_said(directories, job.parents),
            participants=directories.people(conversation.participants),
            subject=conversation.subject,
            date=job.date,
            file_name=job.file_name,
            number=number,
            count=job.count,
            size=job.content.size,
            digest=job.digest,
            chunk=chunk,
            # in every one, so that a peer need never ask the directory for this name
            bundle=self._bundle(),
            folder=job.folder,
            lifetime=job.lifetime,
            root=conversation.root,
            leaving=job.leaving,
            blob=blob is not None,
        )
