"""What is to become of envelopes that have arrived: one step, without a network.

``IncomingBatch.take`` opens an envelope on the newest state of its session, tentatively.
``write`` belongs into one transaction: it stores the ratchets' new states, the prekeys that were
used up, and all that the envelopes say. ``done``, when that is on the disk, makes the states count.
A crash before the commit leaves everything as it was, and the envelopes on the server; after it,
the server sends again what is then known for a copy.
"""

from dataclasses import dataclass

from cbfs.contacts.contact import Contact, Standing
from cbfs.contacts.former_keys import is_given_up
from cbfs.contacts.sessions import Accepted, Damaged, Opened
from cbfs.context import Context
from cbfs.messages.marks import doubts
from cbfs.messages.queues.delivery_queue import begin_again
from cbfs.messages.queues.note_queue import hasten
from cbfs.messages.queues.quarantine import QuarantinedEnvelope, Why, keep, keep_all
from cbfs.names.followed import UnknownDirectory
from cbfs.receiving import message_requests
from cbfs.receiving.notes import Effects, Told, owe_turn, seal_anew, take_refs
from cbfs.receiving.reassembly import Arrivals, Reception, drop_part, says_more, store_part
from cbfs.storage.encoding import u64
from cbfs.storage.faults import ProgramFault, contained
from cbfs.storage.store import Series, StoreError, Table, Writer
from cbfs_common.errors import CbfsError, CryptoError, DecodeError, LimitError
from cbfs_common.limits import QUARANTINE_MAX
from cbfs_common.messages.body import (
    MESSAGE_ID_SIZE,
    Body,
    Part,
    Refs,
    UnknownKind,
    decode_body,
)
from cbfs_common.names.checks import Shown, open_bundle
from cbfs_common.names.entry import Entry
from cbfs_common.person import Person
from cbfs_common.profile import Profile, decode_profile
from cbfs_common.session.session import Duplicate, Peer, Session, Stage


@dataclass(frozen=True, slots=True)
class Incoming:
    """An envelope, and the record that it was kept in until now: (table, key)."""

    envelope: bytes
    kept: tuple[Table, bytes] | None = None


@dataclass(frozen=True, slots=True)
class _Read:
    """A body that was opened, its bytes, and what its step has brought about."""

    sender: Contact
    body: Body
    data: bytes
    step: Accepted
    session: Session


class IncomingBatch:
    """One batch. Hold ``context.sessions.lock`` from the first call until after ``done``."""

    def __init__(self, context: Context, reception: Reception) -> None:
        self._context = context
        self._reception = reception
        self._steps = context.sessions.batch()
        self._read: list[_Read] = []
        self._dropped: list[tuple[str, Part]] = []
        self._gone: list[Incoming] = []
        self._given_up: set[str] = set()
        """With whom all sessions were given up."""
        self.strangers: list[Incoming] = []
        """From people whom the directory has to confirm first."""
        self.unread: list[tuple[Incoming, QuarantinedEnvelope]] = []
        self.elsewhere = b""
        """A directory that is not followed, of which the sender of one says to be."""
        self.bundles: list[tuple[str, bytes]] = []
        """What senders who are known say of themselves."""
        self.advanced: set[bytes] = set()
        """The sessions that something was opened on."""
        self.proven: set[bytes] = set()
        """Those of them in which their peers are proven by it."""

    def take(self, item: Incoming) -> None:
        """Open one more. Whatever it holds, it goes one way: it is taken in, kept or dropped."""
        envelope = item.envelope
        try:
            with contained():
                self._examine(item)
        except Duplicate:
            self._gone.append(item)
        except Damaged as error:
            # that it is far ahead a server can bring about, by what it drops
            if not error.far and self._steps.diverged(error.session):
                self._given_up.add(error.peer)
            why = Why.FAR if error.far else Why.DAMAGED
            self.unread.append((item, QuarantinedEnvelope(envelope, why, error.session)))
        except (CryptoError, DecodeError, LimitError):
            self.unread.append((item, QuarantinedEnvelope(envelope, Why.NOISE)))
        except StoreError:
            raise
        except UnknownDirectory as error:
            self.elsewhere = error.directory
            self.unread.append((item, QuarantinedEnvelope(envelope, Why.ELSEWHERE)))
        except ProgramFault:
            self.unread.append((item, QuarantinedEnvelope(envelope, Why.FAULT)))
        except CbfsError:  # who sent it is not shown to be who they say
            self.unread.append((item, QuarantinedEnvelope(envelope, Why.LATER)))

    def _examine(self, item: Incoming) -> None:
        """Open it and find out whose it is. Raises CbfsError; then nothing has changed: whatever
        may fail comes before the step of the session counts."""
        now = self._reception.now
        opened = self._steps.open(item.envelope, now // 1000)
        try:
            body = decode_body(opened.body)
        except UnknownKind:
            later = QuarantinedEnvelope(item.envelope, Why.VERSION, opened.session.id)
            self.unread.append((item, later))
            return
        sender = known_sender(self._context, opened, body)
        if sender is None:
            self.strangers.append(item)
            return
        contact = self._context.contacts.named(sender)
        blocked = contact.blocked
        step = self._steps.accept(opened, sender, now)
        self._gone.append(item)
        self.advanced.add(opened.session.id)
        if step.proves:
            self.proven.add(opened.session.id)
        if blocked:
            if isinstance(body, Part):
                self._dropped.append((sender, body))
            return  # the ratchet has turned, and that is all
        if not step.unconfirmed:
            self.bundles.append((sender, body.bundle))
        self._read.append(_Read(contact, body, opened.body, step, opened.session))

    def _is_heard(self, name: str) -> bool:
        """Whether this person may know that something of theirs has come."""
        contact = self._context.contacts.get(name)
        return contact is not None and not contact.blocked and not _is_strange(contact)

    def write(self, writer: Writer, *, releasing: bool = True) -> Effects:
        """Into the transaction. ``releasing``: with what strangers have sent in conversations that
        begin by it."""
        context, reception = self._context, self._reception
        self._steps.write(writer)
        arrivals = Arrivals(context.conversations)
        told = Told(arrivals.dues)
        requests: set[str] = set()
        for session in self.proven:
            doubts.proven(writer, session)
        for read in self._read:
            sender, body = read.sender, read.body
            if isinstance(body, Part):
                if read.step.unconfirmed and says_more(writer, sender.name, body):
                    self._ask_again(writer, told, sender, body)  # somebody else may have said it
                    continue
                known = arrivals.known.get(body.conversation)
                if message_requests.is_free(writer, reception, known, sender, body):
                    doubted = self._doubts(read.session)
                    store_part(writer, arrivals, reception, sender.name, body, doubted)
                    self._take_refs(writer, told, read, body.note)
                # else it has no receipt, and comes again from who has written it
                elif not read.step.unconfirmed and message_requests.hold(
                    writer, sender, read.data, reception.now, read.session.id
                ):
                    requests.add(sender.name)
            else:
                self._take_refs(writer, told, read, body.refs)
        if releasing:
            requests |= message_requests.release_begun(writer, arrivals, reception)
        for blocked, part in self._dropped:
            drop_part(writer, context.conversations, reception, blocked, part)
        for read in self._read:
            self._follow(writer, told, read.sender.name, read.step)
        for peer in self._given_up:
            begin_again(writer, peer)  # nothing leaves that was sealed in them
            told.again.add(peer)
            if self._is_heard(peer):
                owe_turn(writer, told.dues, reception, peer)
        self._keep(writer)
        return Effects(arrivals, told, requests)

    def _doubts(self, session: Session) -> tuple[bytes, ...]:
        """Those of what has come on a session: it may be proven later in the same batch."""
        proven = session.stage is Stage.CONFIRMED or session.id in self.proven
        return () if proven else (session.id,)

    def _ask_again(self, writer: Writer, told: Told, sender: Contact, part: Part) -> None:
        """Ask who is said to have written it where they are proven, as if they had offered it."""
        people = self._reception.directories
        ref = part.conversation + part.hash(people.person(sender.name))[:MESSAGE_ID_SIZE]
        if not _is_strange(sender):
            offered = Refs(offered=(ref,))
            take_refs(writer, told, self._reception, sender, offered, unconfirmed=True)

    def _take_refs(self, writer: Writer, told: Told, read: _Read, refs: Refs) -> None:
        """But for what somebody else may have said, of whom the peer would not hear: all of it is
        said again."""
        if not (_is_strange(read.sender) or read.step.unconfirmed):
            take_refs(writer, told, self._reception, read.sender, refs)

    def _follow(self, writer: Writer, told: Told, peer: str, step: Accepted) -> None:
        """What comes of a step of the session itself, when all that was said is known."""
        reception = self._reception
        if not self._is_heard(peer):
            return
        if step.owes:
            owe_turn(writer, told.dues, reception, peer)
        if step.first:
            due = reception.now + reception.delay  # as all that is answered
            hasten(writer, told.dues, peer, due)
        if step.anew:
            seal_anew(writer, told, reception, peer)

    def _keep(self, writer: Writer) -> None:
        """Move each envelope to where it belongs now."""
        for item in self._gone:
            if item.kept is not None:
                writer.delete(*item.kept)
        moved: list[QuarantinedEnvelope] = []
        waiting = {key[8:] for key in writer.keys(Table.INBOX)} if self.strangers else set()
        for item in self.strangers:
            if item.kept is None or item.kept[0] is not Table.INBOX:
                if item.kept is not None:
                    writer.delete(*item.kept)
                once = writer.key_part(item.envelope)
                if once not in waiting and len(waiting) < QUARANTINE_MAX:
                    waiting.add(once)
                    number = writer.next_number(Series.INBOX)
                    writer.put(Table.INBOX, u64(number) + once, item.envelope)
                elif once not in waiting:
                    moved.append(QuarantinedEnvelope(item.envelope, Why.LATER))
        for item, unread in self.unread:
            if item.kept is None or item.kept[0] is not Table.QUARANTINE:
                if item.kept is not None:
                    writer.delete(*item.kept)
                moved.append(unread)
        keep_all(writer, moved)

    def done(self) -> None:
        """The transaction is on the disk."""
        self._steps.done()


def set_aside(writer: Writer, item: Incoming, why: Why) -> None:
    """Keep an envelope in the quarantine, of which nothing else is known."""
    if item.kept is None or item.kept[0] is not Table.QUARANTINE:
        if item.kept is not None:
            writer.delete(*item.kept)
        keep(writer, QuarantinedEnvelope(item.envelope, why))


def _is_strange(contact: Contact) -> bool:
    return contact.standing is Standing.STRANGER


def known_sender(context: Context, opened: Opened, body: Body) -> str | None:
    """Who wrote it, None for somebody whom the directory has to confirm first. Raises CryptoError
    when the session's keys are not those of the name that is claimed, and BundleRefused for a
    first message without a proof of it."""
    if opened.peer and context.contacts.get(opened.peer) is not None:
        contacts, sessions, now = context.contacts, context.sessions, context.clock()
        if is_given_up(contacts, sessions, opened.peer, opened.session, now):
            raise CryptoError("it is under keys that its sender has given up")
        return opened.peer
    peer = opened.session.peer
    known = context.contacts.of_identity(peer.identity)
    if known is not None and (peer.auth_public, peer.kem) == (
        known.profile.auth,
        known.profile.kem,
    ):
        return known.name  # the directory has said so before
    shown = claimed_sender(context, peer, body)
    known = context.contacts.get(context.contacts.directories.text(shown.person))
    if known is None or not is_of(peer, shown.person, known.profile):
        return None
    return known.name


def claimed_sender(context: Context, peer: Peer, body: Body, known: Entry | None = None) -> Shown:
    """Whom a first message claims to be from, as the directory's signed bundle says it; checked
    against the entry that is ``known``. Raises CryptoError, UnknownDirectory and what
    ``open_bundle`` raises."""
    shown = open_bundle(context.followed.policy_for(body.bundle), body.bundle, known)
    if not is_of(peer, shown.person, decode_profile(shown.entry.profile)):
        raise CryptoError("the sender is not who the bundle says")
    return shown


def is_of(peer: Peer, person: Person, profile: Profile) -> bool:
    """Whether the other side of a session has the keys of this person's profile."""
    claimed = peer.identity, peer.auth_public, peer.kem
    return claimed == (profile.identity(person), profile.auth, profile.kem)
