"""What is to become of an envelope that has arrived: one step, without a network.

``apply`` is the only place in which one changes the account. It is a function of the account, as it
stands when the entry is applied, and of the entry (``cbfs.receiving.entries``): it reads no clock,
draws nothing at random and asks no directory. What it reads is the store, as its transaction shows
it, and what of it stands in memory (``AccountState``); what it changes goes through the
transaction; what is to be done outside comes back. So the same entries in the same order come to
the same, in however many transactions, and wherever the program ends and begins anew between two of
them.

``AccountState.done``, when the transaction is on the disk, makes it count in memory. A crash before
the commit leaves everything as it was, and the envelopes on the server; after it, the server sends
again what is then known for a copy.
"""

from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass, replace

from cbfs.contacts.contact import Contact, Standing
from cbfs.contacts.former_keys import is_given_up
from cbfs.contacts.held_session import Accepted, Damaged, Opened
from cbfs.context import Context
from cbfs.messages.marks import doubts
from cbfs.messages.model import Conversation
from cbfs.messages.queues.delivery_queue import begin_again
from cbfs.messages.queues.note_queue import hasten
from cbfs.messages.queues.quarantine import Keeping, QuarantinedEnvelope, Why
from cbfs.names.followed import UnknownDirectory
from cbfs.receiving import message_requests
from cbfs.receiving.entries import Course, LeftUnread, LogEntry, Outputs, effects_as_outputs
from cbfs.receiving.notes import Effects, Told, owe_turn, seal_anew, take_refs
from cbfs.receiving.reassembly import Arrivals, Reception, drop_part, says_more, store_part
from cbfs.storage.encoding import u64
from cbfs.storage.faults import ProgramFault, contained, unharmed
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
from cbfs_common.names.policy import Policy
from cbfs_common.person import Person
from cbfs_common.profile import Profile, decode_profile
from cbfs_common.session.session import Duplicate, Peer, Session, Stage


class AccountState:
    """An account, as one transaction shows it and changes it. Hold ``context.sessions.lock`` from
    before the transaction until after ``done``. ``reception`` says who receives."""

    def __init__(self, writer: Writer, context: Context, reception: Reception) -> None:
        self.writer = writer
        self.reception = reception
        self.steps = context.sessions.batch()
        self.contacts = context.contacts.batch()
        self.quarantine = Keeping(writer)
        self.policy_for = context.followed.policy_for
        self.begun: dict[bytes, Conversation] = {}
        """Conversations that are other than in memory."""
        self.known = ChainMap(self.begun, context.conversations)

    def done(self) -> None:
        """The transaction is on the disk."""
        self.steps.done()
        self.contacts.done()


def apply(state: AccountState, entry: LogEntry) -> Outputs:
    """Apply an entry: the state is another one then, in place. Whatever the envelope holds, it goes
    one way: it is taken in, kept or dropped. Raises StoreError, and whatever a fault of this
    program raises; then the transaction must not be committed."""
    token = entry.token()
    state.steps.draw_from(token)
    with state.writer.drawing(token):
        return _Applying(state, entry).outputs()


@dataclass(frozen=True, slots=True)
class _Read:
    """A body that was opened, its bytes, and what its step has brought about."""

    sender: Contact
    body: Body
    data: bytes
    step: Accepted
    session: Session


class _Applying:
    """One entry that is being applied."""

    def __init__(self, state: AccountState, entry: LogEntry) -> None:
        self._state = state
        self._entry = entry
        self._steps = state.steps
        self._reception = replace(state.reception, now=entry.now, delay=entry.delay)
        self._arrivals = Arrivals(state.known)
        self._told = Told(self._arrivals.dues)
        self._requests: set[str] = set()
        self._read: _Read | None = None
        self._dropped: tuple[str, Part] | None = None
        self._is_gone = entry.course is Course.UNHEARD
        self._given_up = ""
        """With whom all sessions were given up."""
        self._is_stranger = False
        """The directory has to confirm first who has sent it."""
        self._unread: QuarantinedEnvelope | None = None
        self._elsewhere = b""
        self._bundle: tuple[tuple[str, bytes], ...] = ()
        self._advanced: tuple[bytes, ...] = ()
        self._proven = False

    def outputs(self) -> Outputs:
        """Apply it."""
        state, entry = self._state, self._entry
        asks, new = self._is_new(Table.INBOX), entry.kept is None
        who = entry.confirmed
        if who is not None and state.contacts.get(who.name) is None:
            state.contacts.put(state.writer, who)
        if entry.course in {Course.OPEN, Course.ALONE}:
            self._open()
        elif entry.course is not Course.UNHEARD:
            why = Why.FAULT if entry.course is Course.FAULT else Why.LATER
            self._unread = QuarantinedEnvelope(entry.envelope, why)
        self._write(state.writer)
        unread = self._unread
        return replace(
            effects_as_outputs(Effects(self._arrivals, self._told, self._requests)),
            bundles=self._bundle,
            unread=() if unread is None else (LeftUnread(unread.why, unread.session, new),),
            asks=self._is_stranger and asks,
            elsewhere=self._elsewhere,
            advanced=self._advanced,
            proven=self._proven,
        )

    def _is_new(self, table: Table) -> bool:
        """Whether the envelope was not in this table until now."""
        kept = self._entry.kept
        return kept is None or kept[0] is not table

    def _open(self) -> None:
        envelope = self._entry.envelope
        try:
            with contained():
                self._examine()
        except Duplicate:
            self._is_gone = True
        except Damaged as error:
            # that it is far ahead a server can bring about, by what it drops
            if not error.far and self._steps.diverged(error.session):
                self._given_up = error.peer
            why = Why.FAR if error.far else Why.DAMAGED
            self._unread = QuarantinedEnvelope(envelope, why, error.session)
        except UnknownKind:
            self._unread = QuarantinedEnvelope(envelope, Why.LATER)
        except (CryptoError, DecodeError, LimitError):
            self._unread = QuarantinedEnvelope(envelope, Why.NOISE)
        except StoreError:
            raise
        except UnknownDirectory as error:
            self._elsewhere = error.directory
            self._unread = QuarantinedEnvelope(envelope, Why.ELSEWHERE)
        except ProgramFault:
            self._unread = QuarantinedEnvelope(envelope, Why.FAULT)
        except CbfsError:  # who sent it is not shown to be who they say
            self._unread = QuarantinedEnvelope(envelope, Why.LATER)

    def _examine(self) -> None:
        """Open it and find out whose it is. Raises CbfsError; then nothing has changed: whatever
        may fail comes before the step of the session counts."""
        state, now = self._state, self._entry.now
        opened = self._steps.open(self._entry.envelope, now // 1000)
        body = decode_body(opened.body)
        contact = known_sender(state, opened, body, now)
        if contact is None:
            self._is_stranger = True
            return
        step = self._steps.accept(opened, contact.name, now)
        self._is_gone = True
        self._advanced = (opened.session.id,)
        self._proven = step.proves
        if contact.blocked:
            if isinstance(body, Part):
                self._dropped = contact.name, body
            return  # the ratchet has turned, and that is all
        if not step.unconfirmed:
            self._bundle = ((contact.name, body.bundle),)
        self._read = _Read(contact, body, opened.body, step, opened.session)

    def _is_heard(self, name: str) -> bool:
        """Whether this person may know that something of theirs has come."""
        contact = self._state.contacts.get(name)
        return contact is not None and not contact.blocked and not _is_strange(contact)

    def _write(self, writer: Writer) -> None:
        """Into the transaction."""
        state, arrivals, reception = self._state, self._arrivals, self._reception
        self._steps.write_step(writer)
        for session in self._advanced if self._proven else ():
            doubts.proven(writer, session)
        if self._read is not None:
            self._take_in(writer, self._read)
        if self._entry.course is Course.OPEN:
            self._requests |= message_requests.release_begun(writer, arrivals, reception)
        if self._dropped is not None:
            drop_part(writer, state.known, reception, *self._dropped)
        if self._read is not None:
            self._follow(writer, self._read.sender.name, self._read.step)
        if peer := self._given_up:
            begin_again(writer, peer)  # nothing leaves that was sealed in them
            self._told.again.add(peer)
            if self._is_heard(peer):
                owe_turn(writer, arrivals.dues, reception, peer)
        self._keep(writer)
        state.begun.update(arrivals.conversations | arrivals.changes.new)
        introduced: list[Contact] = []
        with unharmed():
            conversations = arrivals.conversations.values()
            introduced = message_requests.introduced(conversations, state.contacts.get)
        for contact in introduced:
            state.contacts.put(writer, contact)

    def _take_in(self, writer: Writer, read: _Read) -> None:
        arrivals, reception, sender, body = self._arrivals, self._reception, read.sender, read.body
        if not isinstance(body, Part):
            self._take_refs(writer, read, body.refs)
            return
        if read.step.unconfirmed and says_more(writer, sender.name, body):
            self._ask_again(writer, sender, body)  # somebody else may have said it
            return
        known = arrivals.known.get(body.conversation)
        if message_requests.is_free(writer, reception, known, sender, body):
            doubted = () if read.session.stage is Stage.CONFIRMED else (read.session.id,)
            store_part(writer, arrivals, reception, sender.name, body, doubted)
            self._take_refs(writer, read, body.note)
        # else it has no receipt, and comes again from who has written it
        elif not read.step.unconfirmed and message_requests.hold(
            writer, sender, read.data, reception.now, read.session.id
        ):
            self._requests.add(sender.name)

    def _ask_again(self, writer: Writer, sender: Contact, part: Part) -> None:
        """Ask who is said to have written it where they are proven, as if they had offered it."""
        people = self._reception.directories
        ref = part.conversation + part.hash(people.person(sender.name))[:MESSAGE_ID_SIZE]
        if not _is_strange(sender):
            offered = Refs(offered=(ref,))
            take_refs(writer, self._told, self._reception, sender, offered, unconfirmed=True)

    def _take_refs(self, writer: Writer, read: _Read, refs: Refs) -> None:
        """But for what somebody else may have said, of whom the peer would not hear: all of it is
        said again."""
        if not (_is_strange(read.sender) or read.step.unconfirmed):
            take_refs(writer, self._told, self._reception, read.sender, refs)

    def _follow(self, writer: Writer, peer: str, step: Accepted) -> None:
        """What comes of a step of the session itself, when all that was said is known."""
        reception, dues = self._reception, self._arrivals.dues
        if not self._is_heard(peer):
            return
        if step.owes:
            owe_turn(writer, dues, reception, peer)
        if step.first:
            due = reception.now + reception.delay  # as all that is answered
            hasten(writer, dues, peer, due)
        if step.anew:
            seal_anew(writer, self._told, reception, peer)

    def _keep(self, writer: Writer) -> None:
        """Move the envelope to where it belongs now."""
        kept, unread = self._entry.kept, self._unread
        place = Table.INBOX if self._is_stranger else Table.QUARANTINE
        if not self._is_gone and not self._is_new(place):
            return
        if kept is not None and kept[0] is Table.QUARANTINE:
            self._state.quarantine.take_out(kept[1])
        elif kept is not None:
            writer.delete(*kept)
        if self._is_stranger:
            unread = self._wait(writer)
        if unread is not None:
            self._state.quarantine.keep(unread)

    def _wait(self, writer: Writer) -> QuarantinedEnvelope | None:
        """Have it wait until the directory has confirmed who has sent it; when too many do, it is
        kept with all else that cannot be read."""
        envelope = self._entry.envelope
        once = writer.key_part(envelope)
        waiting = {key[8:] for key in writer.keys(Table.INBOX)}
        if once in waiting:
            return None
        if len(waiting) >= QUARANTINE_MAX:
            return QuarantinedEnvelope(envelope, Why.LATER)
        number = writer.next_number(Series.INBOX)
        writer.put(Table.INBOX, u64(number) + once, envelope)
        return None


def _is_strange(contact: Contact) -> bool:
    return contact.standing is Standing.STRANGER


def known_sender(state: AccountState, opened: Opened, body: Body, now: int) -> Contact | None:
    """Who wrote it, None for somebody whom the directory has to confirm first. Raises CryptoError
    when the session's keys are not those of the name that is claimed, and BundleRefused for a
    first message without a proof of it. ``now`` in milliseconds."""
    contacts = state.contacts
    if opened.peer and (known := contacts.get(opened.peer)) is not None:
        if is_given_up(contacts, state.steps, opened.peer, opened.session, now):
            raise CryptoError("it is under keys that its sender has given up")
        return known
    peer = opened.session.peer
    known = contacts.of_identity(peer.identity)
    if known is not None and (peer.auth_public, peer.kem) == (
        known.profile.auth,
        known.profile.kem,
    ):
        return known  # the directory has said so before
    shown = claimed_sender(state.policy_for, peer, body)
    known = contacts.get(contacts.directories.text(shown.person))
    return known if known is not None and is_of(peer, shown.person, known.profile) else None


def claimed_sender(
    policy_for: Callable[[bytes], Policy], peer: Peer, body: Body, known: Entry | None = None
) -> Shown:
    """Whom a first message claims to be from, as the directory's signed bundle says it, which is
    checked by the policy that ``policy_for`` gives for it and against the entry that is ``known``.
    Raises CryptoError, UnknownDirectory and what ``open_bundle`` raises."""
    shown = open_bundle(policy_for(body.bundle), body.bundle, known)
    if not is_of(peer, shown.person, decode_profile(shown.entry.profile)):
        raise CryptoError("the sender is not who the bundle says")
    return shown


def is_of(peer: Peer, person: Person, profile: Profile) -> bool:
    """Whether the other side of a session has the keys of this person's profile."""
    claimed = peer.identity, peer.auth_public, peer.kem
    return claimed == (profile.identity(person), profile.auth, profile.kem)
