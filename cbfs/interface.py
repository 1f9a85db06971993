"""All that the mount and the engine say to each other: plain values and narrow faces.

The engine (keys, sessions, queue, servers) is a ``Backend``: ``History`` (what there is),
``People`` (who they are) and ``Submission`` (what is sent). The mount (tree, sending rule, FUSE)
is a ``View``, which is told of news; where nobody looks there is a ``NullView``. All calls happen
on the trio thread. Calls without ``async`` answer from memory or LMDB reads and never wait. Times
are milliseconds since 1970, UTC.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from cbfs.account.settings import Configuration
from cbfs.contacts.contact import Contact, Mark
from cbfs.contacts.fingerprint import Fingerprint
from cbfs.messages.model import Content, Conversation, Message
from cbfs.storage.store import Store, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.names.policy import Policy
from cbfs_common.profile import Profile


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A finished file of the outbox, or a ``folder`` as one content. Either ``conversation`` is
    the id of one that exists, or it is None and ``participants`` (oneself alone for a note to
    oneself) and ``subject`` start a new one, whose messages are kept for ``lifetime`` seconds when
    that is not 0.

    ``consume(writer, conversation)`` takes the file out of the outbox's records; it runs inside
    the transaction that makes it a message, so that a crash leaves the one or the other.

    ``seed``: random, of this draft until it is sent. The message's id is made from it, so that a
    backup of the account that has the draft still does not send another message.

    ``at_once``: somebody waits for it, so that it goes to no recipient later than to others.
    ``leaving``: the user leaves the conversation with it. ``committing()`` is called when its
    transaction is asked for: what is sent from then on is behind it, and may share its commit."""

    conversation: bytes | None
    participants: tuple[str, ...]
    subject: str
    file_name: str
    content: Content
    consume: Callable[[Writer, Conversation], None]
    folder: bool = False
    lifetime: int = 0
    seed: bytes = b""
    at_once: bool = False
    leaving: bool = False
    committing: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Report:
    """What ``status`` tells, in words: ``connection`` a line; ``network`` how servers are
    reached, first Tor's state; ``queue`` a line for each recipient that something waits for;
    ``problems`` a line each; ``unreceived`` a line for each recipient at whose server there is
    something that no receipt has come for; ``arriving`` a line for each file that has come in
    part; ``requests`` the names of strangers whose requests wait; ``ending`` a line for each
    conversation in which messages end; ``name`` what there is to say of one's own, or empty;
    ``renaming`` a line for each person whose messages get other names."""

    connection: str
    network: tuple[str, ...]
    queue: tuple[str, ...]
    problems: tuple[str, ...]
    envelopes_waiting: int
    unreceived: tuple[str, ...] = ()
    arriving: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    ending: tuple[str, ...] = ()
    name: str = ""
    renaming: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MessageRequest:
    """A stranger's, which waits for the user. ``since`` in milliseconds since 1970. Of the first
    message: its conversation's ``participants`` and ``subject``, the ``file_name`` as it may be
    shown, its ``size`` and the beginning of its content, ``head``, as far as it has come, and
    whether it is a ``folder``; the rest is as they wrote it. ``messages``: how many there are in
    all."""

    name: str
    since: int
    participants: tuple[str, ...]
    subject: str
    file_name: str
    size: int
    head: bytes
    folder: bool
    messages: int


class History(Protocol):
    """The account's conversations and messages, and what is kept with them."""

    @property
    def name(self) -> str:
        """One's own user name."""

    @property
    def profile(self) -> Profile:
        """One's own profile."""

    @property
    def configuration(self) -> Configuration:
        """The settings in effect."""

    @property
    def store(self) -> Store:
        """The account's store. The mount uses Table.NODES and Table.CONTENT."""

    def conversations(self) -> tuple[Conversation, ...]:
        """All, oldest first."""

    def messages(self, conversation: bytes) -> tuple[Message, ...]:
        """All of one conversation, in order."""

    def message(self, conversation: bytes, which: str | int) -> Message | None:
        """The one of that name or serial."""

    def newest(self, conversation: bytes) -> Message | None:
        """The last one."""

    def arrived(self, content: Content) -> int:
        """How many bytes of a content are here, from its beginning on: all, unless it is still
        fetched."""

    async def more_arrived(self) -> None:
        """Wait until more of any content that is fetched has come, or nothing more of it will."""

    async def delete(self, message: Message) -> None:
        """Forget a message: content, record, and what is queued of it, which is not delivered any
        more. On the disk on return."""

    async def leave(self, conversation: bytes, *, empty: bool) -> bool:
        """Show a conversation no more until something is written in it, by whomever; what is queued
        in it is not delivered any more. On the disk on return. With ``empty`` only when no message
        is left in it: else False, and nothing has changed. Without, the others are told when they
        are several: then it does not come back."""

    async def go_on(self, conversation: bytes, people: Iterable[str]) -> Conversation:
        """Go on with more people (true names): gives the conversation in which, which ``View`` is
        told of. On the disk on return. May wait for a name look-up. Raises Refused, or NotYet while
        the directory does not answer; then nothing has changed."""


class People(Protocol):
    """Contacts and strangers: who they are, and what the user decides about them."""

    def contacts(self) -> tuple[Contact, ...]:
        """All, by name."""

    def contact(self, name: str) -> Contact | None:
        """One of them."""

    def label(self, name: str) -> str:
        """What somebody is shown as: the petname that the user gave them, else their name."""

    def shown(self, name: str) -> str:
        """A true name as people see it: ``bob``, or ``bob@example.org`` of another name
        directory."""

    def called(self, text: str) -> str:
        """The true name of whom the user means. Raises DecodeError for what is no name."""

    def compare(self, name: str) -> Fingerprint:
        """What to compare with a contact, of the keys that the user is asked about."""

    async def verify(self, name: str, text: str) -> bool:
        """The user has compared the fingerprint in ``text``; also accepts keys that are offered.
        False, and nothing has changed, when it is not the one of now. On the disk on return."""

    async def unverify(self, name: str) -> None:
        """The user takes that back."""

    async def accept(self, name: str) -> None:
        """The user says that a name's new owner is the person they mean."""

    async def mark(self, name: str, mark: Mark, *, on: bool) -> None:
        """The user blocks or mutes a contact, or undoes that. On the disk on return."""

    async def rename(self, name: str, petname: str) -> None:
        """The user calls a contact so. On the disk on return. Raises NotAName or Taken."""

    async def add(self, line: str) -> None:
        """The user has pasted a line that somebody has given them: that is a contact soon, or
        ``View.line_refused`` is told why not. On the disk on return. Raises Refused for what is no
        line."""

    def request(self, name: str) -> MessageRequest | None:
        """What somebody asks who is a stranger, None when no request of theirs waits."""

    async def admit(self, name: str) -> None:
        """The user accepts this person: what has waited is shown. On the disk on return."""

    async def decline(self, name: str) -> None:
        """The user declines a request: what has waited is forgotten, and they are not heard for a
        while. On the disk on return."""


class NameDirectories(Protocol):
    """The name directories that are followed."""

    def policies(self) -> tuple[Policy, ...]:
        """By which policies: one's own directory's first, the others by namespace."""

    async def follow(self, data: bytes) -> None:
        """Follow the directory of this policy file, or one that is followed by this policy instead.
        On the disk on return. Raises PolicyRefused; then nothing has changed."""

    async def leave(self, directory: bytes) -> None:
        """Follow this directory (16) no more, which is not one's own. On the disk on return."""


class Submission(Protocol):
    """What is sent, and how it fares."""

    def prepare(self, names: Iterable[str]) -> None:
        """These people will be written to: look up, in the background, who is not known. A name
        that is not registered comes back through ``View.unknown_names``."""

    async def send(self, outgoing: Outgoing) -> Message:
        """Make the file a message and queue it for every recipient, in one transaction that is on
        the disk on return. May wait for a name look-up. Raises Refused (unknown name, bad
        participants, no account) or NotYet; then nothing has changed. ``View`` is told of a
        new conversation, not of the message."""

    def is_under_way(self, conversation: bytes) -> bool:
        """Whether something that was sent in a conversation is just being delivered."""

    def trouble(self, name: str) -> str:
        """Why what is queued for somebody is not delivered, as far as that is known, else empty."""

    def report(self) -> Report:
        """The state of things, for ``status``."""

    @property
    def alarm(self) -> str:
        """What somebody else has made of one's own name, or empty."""

    @property
    def lapse(self) -> str:
        """Why one's own name cannot be kept, or empty."""

    @property
    def stopped(self) -> str:
        """Why this copy of the account connects no more, or empty."""


OUTLIVED: Final = (
    "an earlier cbfs made this account, and no server or name directory of now knows it: it"
    " neither sends nor fetches anything"
)
"""Why an account is ``stopped`` that was brought over from long ago."""


class Backend(History, Submission, Protocol):
    """All that the mount asks of the engine."""

    @property
    def people(self) -> People:
        """Contacts and strangers."""

    @property
    def directories(self) -> NameDirectories:
        """The name directories."""


class View(Protocol):
    """What the engine tells the mount, after the change is on the disk. Must not block."""

    def conversation_added(self, conversation: Conversation) -> None:
        """Show its folders."""

    def message_added(self, message: Message) -> None:
        """A message has arrived: show it, so that watchers see it."""

    def message_changed(self, message: Message) -> None:
        """Recipients' states have moved on; same name, same content."""

    def conversation_moved(self, old: Conversation, new: Conversation) -> None:
        """A conversation's folder has another name."""

    def conversation_changed(self, conversation: Conversation) -> None:
        """Somebody has left it, or it goes on in another one."""

    def conversation_goes_on(self, old: Conversation, new: Conversation) -> None:
        """Show ``new``, whose folder under outbox/ is what that of ``old`` was: what is in it goes
        to the people of ``new``."""

    def messages_renamed(self, messages: Iterable[Message]) -> None:
        """These have other names, in the same folders."""

    def message_ended(self, message: Message) -> None:
        """Its lifetime is over, and it is deleted: let watchers see it go."""

    def contact_changed(self, name: str) -> None:
        """There is a new contact, or something of one, or of their request, is new."""

    def line_refused(self, error: CbfsError) -> None:
        """A line that the user has pasted adds nobody, and ``error`` says why."""

    def unknown_names(self, names: frozenset[str]) -> None:
        """The directory says, with proof, that nobody has these names."""

    def directories_changed(self) -> None:
        """Other name directories are followed, or one by another policy."""

    def retry(self) -> None:
        """What ended in NotYet may be tried again."""

    def status_changed(self) -> None:
        """``Backend.report`` gives something new."""


class NullView:
    """Where nobody looks: hears of everything, and shows nothing."""

    def conversation_added(self, conversation: Conversation) -> None:
        """Nothing is shown."""

    def message_added(self, message: Message) -> None:
        """Nothing is shown."""

    def message_changed(self, message: Message) -> None:
        """Nothing is shown."""

    def conversation_moved(self, old: Conversation, new: Conversation) -> None:
        """Nothing is shown."""

    def conversation_changed(self, conversation: Conversation) -> None:
        """Nothing is shown."""

    def conversation_goes_on(self, old: Conversation, new: Conversation) -> None:
        """Nothing is shown."""

    def messages_renamed(self, messages: Iterable[Message]) -> None:
        """Nothing is shown."""

    def message_ended(self, message: Message) -> None:
        """Nothing is shown."""

    def contact_changed(self, name: str) -> None:
        """Nothing is shown."""

    def line_refused(self, error: CbfsError) -> None:
        """Nothing is shown."""

    def unknown_names(self, names: frozenset[str]) -> None:
        """Nothing is shown."""

    def directories_changed(self) -> None:
        """Nothing is shown."""

    def retry(self) -> None:
        """Nothing is shown."""

    def status_changed(self) -> None:
        """Nothing is shown."""
