"""The client at work: what the mount talks to, and where all its parts are joined."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import trio

from cbfs.account.account import Former
from cbfs.account.settings import Configuration
from cbfs.contacts.look_up import PREPARE_MAX, Unknown
from cbfs.contacts.monitor import Monitor
from cbfs.context import Context, StoppableTasks, supervised
from cbfs.engine import groups
from cbfs.engine.directories import EngineDirectories
from cbfs.engine.expiry import Expiry, forget, leave
from cbfs.engine.guarded_view import GuardedView
from cbfs.engine.meeting import Meeting
from cbfs.engine.people import EnginePeople
from cbfs.engine.redating import Redating
from cbfs.engine.renewal import Renewal
from cbfs.engine.telling import Telling
from cbfs.interface import OUTLIVED, Outgoing, Report, View
from cbfs.messages import conversations, history, order
from cbfs.messages.model import Content, Conversation, Delivery, Message, Turnover
from cbfs.messages.queues import blobs, note_queue, progress
from cbfs.messages.queues.note_queue import Dues
from cbfs.names.directory import Directory
from cbfs.names.own_name import OwnName
from cbfs.network.access import Network
from cbfs.problems import NotYet, Refused
from cbfs.receiving.compositions import added_by
from cbfs.receiving.copies import Copies
from cbfs.receiving.lost_state import begun_anew
from cbfs.receiving.mailbox import Mailbox
from cbfs.receiving.receiver import Receiver
from cbfs.sending.compose import Settled, make_message
from cbfs.sending.cover_traffic import CoverTraffic
from cbfs.sending.note_clock import NoteClock
from cbfs.sending.reminders import Reminders
from cbfs.sending.sender import Sender, topic_of
from cbfs.sending.uploads import Uploads, settle_content
from cbfs.storage.faults import contained, harmless
from cbfs.storage.store import Reader, Store, Writer
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import PARTICIPANTS_MAX, SUBJECT_MAX
from cbfs_common.profile import Profile

LOOKUP_RETRY = 5.0
"""Seconds until names are tried again that the directory could not be asked for."""


class Engine:
    """One account at work. Made by ``cbfs.engine.running``."""

    def __init__(
        self,
        context: Context,
        network: Network,
        directory: Directory,
        own: OwnName,
        view: GuardedView,
        nursery: trio.Nursery,
    ) -> None:
        self._context = context
        self._network = network
        self._nursery = nursery
        self._own = own
        self._view = view
        with context.store.read() as reader:
            self._left = conversations.left_ones(reader)
        self._preparing: set[str] = set()
        self._progress = Telling(view.status_changed, nursery)
        self._reminders = Reminders(context)
        self.expiry = Expiry(context, self)
        self._tasks = StoppableTasks(nursery)
        self._copies = Copies(context, self, self._stop)
        if self.stopped:
            self._stop()
        self._sender = Sender(context, lambda: own.bundle, self, self._tasks)
        self._uploads = Uploads(context, self, self._queued)
        self._note_clock = NoteClock(context, context.random, self._sender.tick, self._tasks)
        self._meeting = Meeting(context)
        self._renewal = Renewal(context, own, view.status_changed)
        self._monitor = Monitor(
            context.contacts,
            context.look_up,
            context.followed,
            own,
            context.problems,
            context.retries,
            context.random,
            view.retry,
        )
        self._receiver = Receiver(context, self._monitor, self)
        self._admission = self._receiver.admission
        self._fetching = self._receiver.fetching
        self.directories = EngineDirectories(context, self, self._directory_changed)
        self.people = EnginePeople(context, self._admission, self, self.directories, view)
        self._redating = Redating(context, self)
        self._cover = CoverTraffic(context)
        self._mailbox = Mailbox(
            context, self._receiver, self._cover, view.status_changed, self._copies
        )
        context.contacts.changed = self._contact_changed
        self._begin()

    def _begin(self) -> None:
        """Start all tasks."""
        context, nursery, cover = self._context, self._nursery, self._cover
        if self._network.tor is not None:
            self._network.tor.back = context.retries.connected
        for former in self._former():
            mailbox = Mailbox(
                context, self._receiver, cover, self._view.status_changed, former=former
            )
            self._tasks.start_soon(supervised, context, mailbox.run)
        for task in (
            self._mailbox.run,
            self._receiver.meet_strangers,
            self._receiver.retry,
            self._receiver.confirming.run,
            self._fetching.run,
            self._uploads.run,
            self._uploads.keep_house,
            self._monitor.run,
            self._renewal.run,
            self._meeting.run,
            self.people.use_lines,
            self._note_clock.run,
            partial(self._reminders.run, self._sender),
            self._keep_time,
        ):
            self._tasks.start_soon(supervised, context, task)
        for task in (
            self._admission.follow_settings,
            self.people.renaming.run,
            partial(context.dialer.run, cover.send),
        ):
            nursery.start_soon(supervised, context, task)

    def _stop(self) -> None:
        """Another copy of the account goes on: this one connects no more."""
        self._context.dialer.direct.shut()
        self._tasks.stop()
        self._view.status_changed()

    def attach(self, view: View) -> None:
        """The mount that is told of news from now on."""
        self._view.attach(view)

    # Backend

    @property
    def name(self) -> str:
        """One's own user name."""
        return self._context.account.name

    @property
    def profile(self) -> Profile:
        """One's own profile."""
        return self._context.account.profile

    @property
    def configuration(self) -> Configuration:
        """The settings in effect."""
        return self._context.configuration

    @property
    def store(self) -> Store:
        """The account's store."""
        return self._context.store

    def conversations(self) -> tuple[Conversation, ...]:
        """All that are shown, oldest first."""
        known = self._context.conversations.values()
        return tuple(sorted((c for c in known if c.id not in self._left), key=lambda c: c.started))

    def messages(self, conversation: bytes) -> tuple[Message, ...]:
        """All of one conversation, in order."""
        with self.store.read() as reader:
            return history.load_messages(reader, conversation)

    def message(self, conversation: bytes, which: str | int) -> Message | None:
        """The one of that name or serial, None when there is none."""
        with self.store.read() as reader:
            return history.named_message(reader, conversation, which)

    def newest(self, conversation: bytes) -> Message | None:
        """The last of a conversation, None when there is none."""
        with self.store.read() as reader:
            return history.newest_message(reader, conversation)

    @property
    def alarm(self) -> str:
        """What somebody else has made of one's own name, or empty."""
        return self._own.alarm

    @property
    def lapse(self) -> str:
        """Why one's own name cannot be kept, or empty."""
        return self._renewal.shout

    @property
    def stopped(self) -> str:
        """Why this copy of the account connects no more, or empty."""
        return OUTLIVED if self._own.is_outlived else self._copies.stopped

    def report(self) -> Report:
        """The state of things, in words, for ``status``."""
        waiting, contacts = self._sender.waiting(), self.people.contacts()
        with self.store.read() as reader:
            lost = progress.lost_own(reader, self.name)
            own = {place + id_ for place, ids in lost.items() for id_ in ids}
            blocked = (c.name for c in contacts if c.blocked)
            missing = note_queue.missing(reader, blocked, own)
            in_vain = [*self._lost(reader, lost), *self._in_vain(reader, lost)]
            unreceived = note_queue.unreceived(reader, (c.name for c in contacts))
            under_way = {who: progress.sending(reader, who) for who in waiting}
            arriving = progress.arriving_lines(reader)
            putting = progress.putting_lines(reader)
            found = (*self._context.problems.lines(), *self.directories.lines())
            ending = self.expiry.lines(reader)
            unread = self.people.unread(reader)
        return Report(
            "not connected" if self.stopped else self._mailbox.connection,
            self._network.lines(),
            (*progress.counted(waiting, under_way, self.people.label), *putting),
            (*found, *self._missing(missing), *in_vain, *unread),
            sum(waiting.values()) + len(putting),
            progress.counted(unreceived, {}, self.people.label),
            arriving,
            self.people.waiting(),
            ending,
            self._renewal.line(),
            self.people.renaming.lines(),
        )

    def _missing(self, found: dict[bytes, note_queue.Missing]) -> Iterator[str]:
        for key, missing in found.items():
            known = self._context.conversations.get(key)
            place = known.folder if known else "a conversation that is not shown"
            yield progress.missing_line(missing.count, place, missing.until)

    def _lost(
        self, reader: Reader, lost: Mapping[bytes, dict[bytes, tuple[str, ...]]]
    ) -> Iterator[str]:
        """What an account has lost that was put back to what it was before."""
        context, label = self._context, self.people.label
        since, peers = begun_anew(reader)
        if silent := [name for name in peers if not context.sessions.is_proven(name)]:
            yield progress.begun_anew_line(since, silent, label)
        known = ((context.conversations.get(key), ids) for key, ids in lost.items())
        yield from (progress.lost_line(ids, c.folder, label) for c, ids in known if c)

    def _in_vain(
        self, reader: Reader, but: Mapping[bytes, dict[bytes, tuple[str, ...]]]
    ) -> list[str]:
        known = (c for c in self._context.conversations.values() if c.id not in self._left)
        counts = ((order.in_vain(reader, c.id, but.get(c.id, ())), c.folder) for c in known)
        return [progress.in_vain_line(count, folder) for count, folder in counts if count]

    def trouble(self, name: str) -> str:
        """Why what is queued for somebody is not delivered, as far as is known; else empty."""
        return self._context.problems.of(topic_of(name))

    def prepare(self, names: Iterable[str]) -> None:
        """Look up in the background whom the user will write to and who is not known. Past
        PREPARE_MAX at once nobody more is: they are when a message is sent."""
        new = [name for name in names if self._context.contacts.get(name) is None]
        new = [name for name in new if name not in self._preparing and name != self.name]
        if new and not self.stopped and len(self._preparing) + len(new) <= PREPARE_MAX:
            self._preparing.update(new)
            self._nursery.start_soon(self._look_up, new)

    async def send(self, outgoing: Outgoing) -> Message:
        """Make a file of the outbox a message, queued for every recipient; on the disk on
        return. May wait for look-ups. Raises Refused, or NotYet while the directory does not
        answer; then nothing has changed.

        One commit holds the message, its deliveries, what is sealed of them already and the file's
        end as a draft: a crash before leaves the draft, a crash after leaves a message that is
        sent."""
        if self.stopped:
            raise NotYet(self.stopped, "see the file WARNING in the mount")
        participants, subject = self._recipients(outgoing)
        with self.store.read() as reader:
            self._check_said(reader, outgoing)
        others = tuple(name for name in participants if name != self.name)
        begins, contacts = outgoing.conversation is None, self._context.contacts
        try:
            written = await self._context.look_up.written_to(others, begins=begins)
        except NotYet as error:
            self._not_found(error)
            self._nursery.start_soon(self._retry_later)
            raise
        # whom one writes to is no stranger
        await self._admission.admit(name for name in written if contacts.get(name) is not None)
        blob, digest = await settle_content(self._context, outgoing.content, alone=not others)
        settled = Settled(
            self.name,
            participants,
            subject,
            digest,
            self._context.clock(),
            self._context.random.token(16),
            self._context.random.token(16),
            contacts.directories,
            blob,
        )

        def make(writer: Writer) -> tuple[Conversation, Message]:
            self._check_said(writer, outgoing)
            known = self._context.conversations
            there = known.get(outgoing.conversation) if outgoing.conversation else None
            added = added_by(writer, there, self.name) if there else ()
            return make_message(writer, known, outgoing, settled, added)

        at_once = () if blob else written  # of a blob nothing leaves before it is put
        conversation, message = await self._sender.write(make, at_once, outgoing.committing)
        # it is a message: who is told of an error from here on would send it once more
        with harmless():
            self.conversation_started(conversation)
        if blob is None:
            self._queued(message, at_once=outgoing.at_once)
        else:
            self._uploads.wake()
        with harmless():
            self._context.problems.clear("names")
            self._view.status_changed()
        return message

    def arrived(self, content: Content) -> int:
        """How many bytes of a content are here, from its beginning on."""
        with self.store.read() as reader:
            return blobs.here(reader, content.id, content.size)

    async def more_arrived(self) -> None:
        """Wait until more of any content has come, or nothing more of it will."""
        await self._fetching.come()

    def is_under_way(self, conversation: bytes) -> bool:
        """Whether something that was sent in a conversation is just being delivered."""
        known = self._context.conversations.get(conversation)
        return known is not None and self._sender.is_delivering(known.participants)

    async def delete(self, message: Message) -> None:
        """Forget a message, and what is queued of it, which is not delivered any more; on the
        disk on return."""
        now, dues = self._context.clock(), Dues()
        for who in await self.store.commit(lambda writer: forget(writer, message, dues, now)):
            with harmless():
                self._sender.given_up(who)
        self.notes_due(dues)
        self._content_gone()
        self._view.status_changed()

    async def leave(self, conversation: bytes, *, empty: bool) -> bool:
        """Show a conversation no more until something is written in it; on the disk on return.
        With ``empty``, False and nothing has changed while there are messages in it. Nothing is
        taken in meanwhile: what comes afterwards brings it back. Without, the others are told when
        they are several, and nothing does."""
        known = self._context.conversations[conversation]
        now, dues = self._context.clock(), Dues()
        tells = not empty and groups.tells(known, self.name)
        settled = groups.settled_for_leaving(self._context, known)

        def change(writer: Writer) -> tuple[frozenset[str] | None, Message | None, Turnover]:
            missed = leave(writer, known, dues, now, empty=empty)
            if not tells:
                return missed, None, Turnover()
            return missed, *groups.say_leaving(writer, known, settled)

        async with self._context.sessions.lock:
            missed, message, changes = await self.store.commit(change)
            with self.store.read() as reader:
                if missed is None or not conversations.is_left(reader, conversation):
                    return False
            self._left.add(conversation)
        for who in missed:
            with harmless():
                self._sender.given_up(who)
        self.notes_due(dues)
        with harmless():
            self.conversations_changed(changes)
        if message is not None:
            self._queued(message)
        self._view.status_changed()
        return True

    async def go_on(self, conversation: bytes, people: Iterable[str]) -> Conversation:
        """Go on with more people (true names): gives the conversation in which; on the disk on
        return. May wait for look-ups. Raises Refused, or NotYet while the directory does not
        answer; then nothing has changed."""
        new, changes = await groups.go_on(self._context, conversation, people)
        with harmless():
            self.conversations_changed(changes)
        return self._context.conversations.get(new.id, new)

    # within

    def _queued(self, message: Message, *, at_once: bool = False) -> None:
        """One's own message is on the disk, with its deliveries."""
        waiting = [who for who, state in message.recipients if state is Delivery.QUEUED]
        with harmless():
            self._sender.queued(waiting, at_once=at_once)
        with harmless():
            self.expiry.note(message)

    def _content_gone(self) -> None:
        """A message is deleted: what is at one's own server of it is to go, too."""
        self._uploads.wake()
        self._fetching.moved()

    def _former(self) -> list[Former]:
        """The mailboxes that are looked into still: all, by a clock that is doubted."""
        former, now = self._context.account.former, self._context.clock() // 1_000
        return [each for each in former if each.until > now or not self._context.may_delete]

    async def _keep_time(self) -> None:
        """Put dates right that a clock has written which was ahead."""
        context = self._context
        if context.time is not None:
            await context.time.run(
                context.contacts.bring_back,
                partial(context.sessions.bring_back, context.store),
                self._reminders.bring_back,
                self.expiry.bring_back,
                self._redating.bring_back,
                self._cover.bring_back,
            )

    def _recipients(self, outgoing: Outgoing) -> tuple[tuple[str, ...], str]:
        """(those who take part, oneself included, and have not left, sorted; subject). Raises
        Refused."""
        if outgoing.conversation is not None:
            known = self._context.conversations[outgoing.conversation]
            return groups.present(known, self.name), known.subject
        directories = self._context.contacts.directories
        try:
            people = [directories.person(name.lower()) for name in outgoing.participants]
            names = {*directories.texts(people), self.name}
        except DecodeError as error:
            raise Refused("that is not a user name", error.hint) from error
        if not outgoing.participants:
            raise Refused("there is nobody to write to", "name the folder after somebody else")
        if len(names) > PARTICIPANTS_MAX:
            raise Refused(
                f"a conversation has at most {PARTICIPANTS_MAX} people", "name fewer of them"
            )
        if len(outgoing.subject.encode()) > SUBJECT_MAX:
            raise Refused("the subject is too long", f"at most {SUBJECT_MAX} bytes")
        return tuple(sorted(names)), outgoing.subject

    def _check_said(self, reader: Reader, outgoing: Outgoing) -> None:
        if outgoing.conversation is not None:
            known = self._context.conversations[outgoing.conversation]
            groups.check_said(reader, known, self.name, self.people.label)

    async def _look_up(self, names: list[str]) -> None:
        try:
            with contained():
                await self._context.look_up.find_all(names)
        except Unknown as error:
            self._view.unknown_names(error.names)
        except NotYet as error:
            self._not_found(error)
            self._preparing.difference_update(names)
            await self._retry_later()
        except Refused:
            pass  # it is said when something is saved for them
        except CbfsError as error:
            self._not_found(error)
        finally:
            self._preparing.difference_update(names)

    def _not_found(self, error: CbfsError) -> None:
        self._context.problems.set(
            "names", f"whom you write to could not be looked up: {error.in_full}"
        )

    async def _retry_later(self) -> None:
        await trio.sleep(LOOKUP_RETRY)
        self._view.retry()

    def _contact_changed(self, name: str) -> None:
        """Something of a contact is new, on the disk: whatever waited for that is tried again."""
        contact = self._context.contacts.get(name)
        if contact is not None and contact.blocked:
            self._sender.given_up(name)
        else:
            with self.store.read() as reader:
                # it may have waited while they were blocked
                due = note_queue.next_due(reader, name)
            if due is not None:
                self._reminders.add({name: due})
        self._sender.retry(name)
        self._receiver.look_again()
        self._fetching.news()
        self._meeting.news()
        self._view.contact_changed(name)
        self._view.retry()

    def _directory_changed(self, directory: bytes) -> None:
        """A name directory is followed, by another policy than before, or no more, on the disk:
        what waited for that is tried again."""
        context = self._context
        person = context.contacts.directories.person
        known = {contact.name for contact in context.contacts.all()}
        for name in known | self._sender.waiting().keys():
            if person(name).directory == directory:
                if name in known:
                    self._contact_changed(name)
                self._sender.retry(name)
        self.people.renaming.wake()
        self._nursery.start_soon(self._receiver.retry)
        self._receiver.look_again()
        self._meeting.news()
        self._view.directories_changed()
        self._view.retry()
        self._view.status_changed()

    # events

    def request_changed(self, name: str) -> None:
        """What waits of a stranger has changed."""
        self._view.contact_changed(name)
        self._view.status_changed()

    def conversation_started(self, conversation: Conversation) -> None:
        """A conversation is on the disk; whoever comes first with it tells the mount."""
        known = self._context.conversations.get(conversation.id)
        if known is not None and conversation.id in self._left:
            with self.store.read() as reader:
                if conversations.is_left(reader, known.id):
                    return  # of what has come nothing is whole yet
            self._left.discard(known.id)
            conversation = known
        elif known is not None:
            return
        self._context.conversations[conversation.id] = conversation
        self._meeting.news()
        self._view.conversation_added(conversation)

    def conversations_changed(self, changes: Turnover) -> None:
        """Some go on in others, or were left by somebody. Those that go on from what the user has
        left are not shown."""
        known = self._context.conversations
        before = dict(known)
        known |= changes.new
        self._left |= {
            key for key, new in changes.new.items() if key not in before and self.name in new.left
        }
        for old, new in changes.moved.items():
            self._view.conversation_goes_on(known[old], known[new])
        for key, new_one in changes.new.items():
            if key in before:
                self._view.conversation_changed(new_one)
            elif key not in changes.moved.values() and key not in self._left:
                self._view.conversation_added(new_one)
        self._meeting.news()

    def conversation_moved(self, old: Conversation, new: Conversation) -> None:
        """A conversation has another folder."""
        self._view.conversation_moved(old, new)

    def messages_renamed(self, messages: Iterable[Message]) -> None:
        """Messages have other names or dates."""
        self._view.messages_renamed(messages)

    def message_ended(self, message: Message, missed: tuple[str, ...]) -> None:
        """A message's lifetime is over: nothing of it is delivered any more."""
        for who in missed:
            with harmless():
                self._sender.given_up(who)
        self._content_gone()
        self._view.message_ended(message)

    def notes_due(self, dues: Dues) -> None:
        """Peers are to be told something: remember when."""
        self._reminders.add(dues)

    def owed_again(self, recipient: str) -> None:
        """There is something to send to this recipient once more."""
        self._sender.owe(recipient)

    def message_arrived(self, message: Message) -> None:
        """A message of somebody else is whole: it is shown, and ends when its time is over."""
        self.expiry.note(message)
        self._fetching.news()
        self._view.message_added(message)

    def message_changed(self, message: Message) -> None:
        """The states of a message's recipients have moved on, and so may when it ends."""
        self.expiry.note(message)
        self._fetching.news()
        self._view.message_changed(message)

    def progressed(self) -> None:
        """How far blobs are is another than before."""
        self._progress.soon()
