"""Three clients without a network, for the machine of test_healing_machine: the real stores,
sessions and records, and servers that are lists. After every step a client is loaded anew from its
store. Prekeys are kept up by the program's own ``top_up``."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar, cast
from unittest.mock import patch

import trio

from cbfs.account.account import SYSTEM_RANDOM, Account, make_account, no_lock
from cbfs.account.settings import Configuration
from cbfs.contacts.contact import Contact
from cbfs.contacts.held_session import Chosen, only
from cbfs.contacts.monitor import Monitor
from cbfs.context import Context, make_context, make_directory
from cbfs.engine.expiry import forget
from cbfs.interface import Outgoing
from cbfs.messages import history
from cbfs.messages.content import read_content
from cbfs.messages.model import Content, Conversation, Turnover
from cbfs.messages.queues import delivery_queue, note_queue
from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import Link, Replies
from cbfs.network.pacing import PacedDialer
from cbfs.problems import Problems
from cbfs.receiving.lost_state import notice_loss
from cbfs.receiving.prekeys import top_up
from cbfs.receiving.receiver import Receiver
from cbfs.sending.compose import Settled, make_message
from cbfs.sending.sealing import Sealing
from cbfs.storage.encoding import u32, u64
from cbfs.storage.group_commit import Pending
from cbfs.storage.root_key import NO_LOCK, Protection, RootFile, make_root_file
from cbfs.storage.store import Store, Table, Writer
from cbfs_common.names.entry import Entry, Keys, Status
from cbfs_common.primitives import dh_public
from cbfs_common.profile import Address
from cbfs_common.session.prekey import PrekeyKind, decode_prekey
from cbfs_common.session.session import Peer, Session
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import (
    AnyReply,
    CountPrekeys,
    PrekeyCount,
    UploadPrekeys,
    decode_request,
    encode,
)
from tests.support.names_naive import make_policy

T = TypeVar("T")
START = 1_800_000_000_000
ONE_TIME, SECRETS_MAX = 4, 48
"""Limits of prekeys, lower than they are so that they are reached."""

CHUNK = 65_536
NOT_EXPORTED = frozenset((Table.SESSIONS, Table.PREKEYS))


class DirectStore(Store):
    """Commits at once, on the calling thread."""

    async def commit(self, change: Callable[[Writer], T], *, only_adds: bool = False) -> T:
        return self.write(change)

    def ride(self, change: Callable[[Writer], T]) -> Pending[Writer, T]:
        pending = Pending(change)
        pending.result = self.write(change)
        pending.done.set()
        return pending


@dataclass
class Written:
    """A message of the model. ``lost``: its writer was restored to a time before it; ``removed``:
    its writer has removed it."""

    id: bytes
    sender: str
    participants: tuple[str, ...]
    text: bytes
    lost: bool = False
    removed: bool = False


Records = dict[Table, list[tuple[bytes, bytes]]]


@dataclass
class Shelf:
    """The prekeys that a home server has. It is a liar with ``says``: that is how many it says it
    has, and it throws none away, and gives everybody the first one."""

    one_time: list[bytes] = field(default_factory=list)
    last_resort: bytes = b""
    says: int | None = None
    replaced: set[bytes] = field(default_factory=set)
    """Those that it was told to throw away: only a liar has them still."""

    def take(self, now: int) -> bytes:
        """For somebody who begins a session. Nobody gives out what has expired at ``now``."""
        self.one_time = [r for r in self.one_time if decode_prekey(r).expires > now]
        if self.says is not None and self.one_time:
            return self.one_time[0]
        return self.one_time.pop(0) if self.one_time else self.last_resort

    async def call(self, payload: bytes) -> bytes:
        """As a link of the owner."""
        return encode(self._answer(payload))

    async def call_in_order(self, payloads: Iterable[Callable[[], bytes | None]]) -> Replies:
        """As a link of the owner."""
        return [await self.call(data) for each in payloads if (data := each()) is not None]

    def _answer(self, payload: bytes) -> AnyReply:
        request = decode_request(payload)
        if isinstance(request, CountPrekeys):
            expires = decode_prekey(self.last_resort).expires if self.last_resort else 0
            if self.says is not None:
                return PrekeyCount(self.says, expires if self.says else 0)
            return PrekeyCount(len(self.one_time), expires)
        assert isinstance(request, UploadPrekeys)
        if request.replace:
            self.replaced.update(self.one_time)
        if request.replace and self.says is None:
            self.one_time.clear()
        for record in request.records:
            if decode_prekey(record).kind is PrekeyKind.LAST_RESORT:
                self.last_resort = record
            else:
                self.one_time.append(record)
        return Done()


class Client:
    """One person's client and home server."""

    def __init__(self, world: "World", name: str, place: Path) -> None:
        self.world = world
        self.name = name
        server = Address(dh_public(SYSTEM_RANDOM.token(32)), "127.0.0.1", 1)
        policy = make_policy(server).encode()
        self.account: Account = make_account(name, server, policy, SYSTEM_RANDOM)
        (place / name).mkdir()
        make_root_file(place / name / "root", Protection(), NO_LOCK, SYSTEM_RANDOM.token)
        root = RootFile(place / name / "root", no_lock, SYSTEM_RANDOM.token)
        self.store = DirectStore(place / name / "store", root, SYSTEM_RANDOM)
        self.mail: list[bytes] = []
        self.shelf = Shelf()
        self.used: set[bytes] = set()
        """Prekeys whose secrets are used up, or were forgotten with all others by a restore."""
        self.strangers: set[str] = set()
        """Of whom nothing is known here."""
        self.context: Context

    def load(self) -> None:
        """As after a restart."""
        dialer = LoopbackDialer()
        directory = make_directory(self.store, self.account, dialer)
        configuration = Configuration(self.store)
        paced = PacedDialer(dialer, configuration, SYSTEM_RANDOM)
        context = make_context(
            self.store, self.account, configuration, directory, paced, Problems(_nothing)
        )
        self.context = replace(context, clock=lambda: self.world.now)
        others = (other for other in self.world.clients.values() if other is not self)
        self.know([contact_of(other) for other in others if other.name not in self.strangers])

    def know(self, contacts: list[Contact]) -> None:
        """These are people it knows."""
        for contact in contacts:
            self.context.contacts._remember(contact)

    def renew_prekeys(self) -> None:
        """All new: those that were there before are forgotten by an honest server."""
        if self.shelf.says is None:
            self.shelf = Shelf()
        self.look_after_prekeys()

    def look_after_prekeys(self) -> None:
        """As a client does that is connected to its home server."""
        limits = patch.multiple(
            "cbfs.receiving.prekeys",
            PREKEYS_ONE_TIME=ONE_TIME,
            REFILL=1,
            ROOM=SECRETS_MAX // 2,
        )
        most = patch("cbfs.contacts.prekey_secrets.PREKEY_SECRETS_MAX", SECRETS_MAX)
        with limits, most:
            trio.run(top_up, cast(Link, self.shelf), self.context)

    def write(self, people: tuple[str, ...], text: bytes) -> Written:
        """Save a file for these people, in the one conversation that they have."""
        everybody = tuple(sorted({*people, self.name}))

        def store(writer: Writer) -> Content:
            content = Content(writer.random_number(), len(text), CHUNK)
            for index, start in enumerate(range(0, len(text), CHUNK)):
                key = u64(content.id) + u32(index)
                writer.put(Table.CONTENT, key, text[start : start + CHUNK])
            return content

        known = [c for c in self.context.conversations.values() if c.participants == everybody]
        content = self.store.write(store)
        outgoing = Outgoing(
            known[0].id if known else None, people, "", "", content, lambda _w, _c: None
        )
        settled = Settled(
            self.name,
            everybody,
            "",
            blake2b(text, digest_size=32).digest(),
            self.world.now,
            SYSTEM_RANDOM.token(16),
            SYSTEM_RANDOM.token(16),
            self.context.contacts.directories,
        )
        conversations = self.context.conversations
        _conversation, message = self.store.write(
            lambda writer: make_message(writer, conversations, outgoing, settled)
        )
        return Written(message.id, self.name, everybody, text)

    def pump(self, *, fails: bool) -> None:
        """Seal and deliver what waits and what is due, to everybody. ``fails``: the servers have
        it, and this client does not hear of that."""
        with self.store.read() as reader:
            waiting = {
                (peer, again)
                for again in (False, True)
                for peer in delivery_queue.waiting(reader, again=again)
            }
            dues = note_queue.load_dues(reader)
        due = {peer for peer, at in dues.items() if at <= self.world.now}
        for peer, again in sorted(waiting):
            self._deliver(self.world.clients[peer], again=again, fails=fails)
        for peer in sorted(due):
            self._tell(self.world.clients[peer], fails=fails)

    def chosen(self, other: "Client") -> Chosen:
        """The sessions with another that are sent on."""
        return self.context.sessions.chosen(other.name, self.world.now)

    def session(self, other: "Client") -> Session:
        """The one that notes are told on, begun if there is none."""
        return self.chosen(other).note or self._begin(other)

    def _begin(self, other: "Client") -> Session:
        prekey = decode_prekey(other.shelf.take(self.world.now // 1_000))
        prekey.verify(other.account.profile.signing, self.world.now // 1_000)
        profile = other.account.profile
        peer = Peer(profile.identity(other.account.person), profile.auth, profile.kem)
        return self.context.sessions.start(other.name, peer, prekey, other.account.kem_public)

    def _deliver(self, other: "Client", *, again: bool, fails: bool) -> None:
        chosen = self.chosen(other)
        if chosen.first is None or (chosen.silent and not again):
            chosen = only(self._begin(other))
        with self.store.read() as reader:
            envelopes, jobs = delivery_queue.next_work(reader, other.name, 16, again=again)
            sealing, most = Sealing(self.context, lambda: b""), 16 - len(envelopes)
            step = sealing.parts(reader, other.name, jobs, most, chosen)
        envelopes += self.store.write(step.write)
        step.done()
        other.mail += [envelope.data for envelope in envelopes]
        with self.store.read() as reader:
            for job in delivery_queue.pending(reader, other.name):
                if any(envelope.key.startswith(job.key) for envelope in envelopes):
                    self.world.left.add((other.name, job.message))
        if not fails:
            keys, now = [envelope.key for envelope in envelopes], self.world.now
            self.store.write(lambda writer: delivery_queue.finish(writer, keys, {}, now))

    def _tell(self, other: "Client", *, fails: bool) -> None:
        now = self.world.now
        with self.store.read() as reader:
            draft = note_queue.draft(reader, other.name, now)
        if draft.owes:
            for session in self.chosen(other).owed:
                self._send_note(other, session, draft)
        self._send_note(other, self.session(other), draft)
        if not fails:
            self.store.write(lambda writer: note_queue.settle(writer, draft.items, now))

    def _send_note(self, other: "Client", session: Session, draft: note_queue.NoteDraft) -> None:
        step, envelope = Sealing(self.context, lambda: b"").note(other.name, draft, session)
        self.store.write(step.write)
        step.done()
        other.mail.append(envelope)

    def tick(self, other: "Client") -> None:
        """The note clock has ticked for another as often as there are turns owed, and once more."""
        now = self.world.now
        with self.store.read() as reader:
            draft = note_queue.draft(reader, other.name, now)
        for session in self.chosen(other).owed:
            self._send_note(other, session, draft)
        self._send_note(other, self.session(other), draft)
        self.store.write(lambda writer: note_queue.settle(writer, draft.items, now))

    def receive(self, envelopes: list[bytes]) -> None:
        before = set(self.context.sessions.prekeys.pairs)
        trio.run(self._receiver().take, envelopes)
        self.used |= before - self.context.sessions.prekeys.pairs.keys()

    @property
    def forgotten(self) -> set[bytes]:
        """Prekeys that its server may still give out, and whose secrets are not here."""
        given = {
            decode_prekey(record).id
            for record in self.shelf.one_time
            if record not in self.shelf.replaced
        }
        return given - self.used - self.context.sessions.prekeys.pairs.keys()

    def retry(self) -> None:
        """As a mount begins: what could not be read is tried once more."""
        trio.run(self._receiver().retry)

    def _receiver(self) -> Receiver:
        return Receiver(self.context, cast(Monitor, _NoMonitor()), Quiet(self.context))

    def export(self) -> Records:
        with self.store.read() as reader:
            return {t: list(reader.items(t)) for t in Table if t not in NOT_EXPORTED}

    def restore(self, records: Records) -> None:
        """Into an empty store."""

        def change(writer: Writer) -> None:
            for table in Table:
                writer.delete_prefix(table, b"")
                for key, value in records.get(table, ()):
                    writer.put(table, key, value)

        self.used |= self.context.sessions.prekeys.pairs.keys()
        self.store.write(change)
        notice_loss(self.store, self.name, self.world.now, SYSTEM_RANDOM)
        self.load()
        self.renew_prekeys()

    def remove(self, written: Written) -> None:
        """Its writer removes it, if it is there: to whom nothing of it has left none arrives."""
        with self.store.read() as reader:
            found = [
                message
                for key in self.context.conversations
                for message in history.load_messages(reader, key)
                if message.id == written.id
            ]
        for message in found:
            written.removed = True
            self.store.write(partial(forget, message=message, dues={}, now=self.world.now))
            for who, _state in message.recipients:
                if (who, message.id) not in self.world.left:
                    self.world.never.add((who, message.id))

    def transcripts(self) -> dict[bytes, list[bytes]]:
        """The ids of all messages in the order of the transcripts, by conversation."""
        with self.store.read() as reader:
            return {
                key: [
                    message.id
                    for message in sorted(
                        history.load_messages(reader, key), key=lambda m: (m.place, m.id)
                    )
                ]
                for key in self.context.conversations
            }

    def shown(self) -> Iterator[tuple[str, bytes, tuple[bytes, ...], bytes]]:
        """(name, id, parents, text) of all messages, in the order of their names."""
        with self.store.read() as reader:
            for key in self.context.conversations:
                for message in sorted(history.load_messages(reader, key), key=lambda m: m.name):
                    text = read_content(reader, message.content, 0, message.content.size)
                    parents = tuple(parent.id for parent in message.parents)
                    yield message.sender, message.id, parents, text


class _NoMonitor:
    """Everybody is known, and nobody's keys change."""

    def offer(self, _sender: str, _bundle: bytes) -> None:
        pass


class Quiet:
    """Hears of everything, and remembers conversations only."""

    def __init__(self, context: Context) -> None:
        self._conversations = context.conversations
        self.conversation_moved = self.message_arrived = self.message_changed = _nothing
        self.messages_renamed = self.message_ended = self.request_changed = _nothing
        self.notes_due = self.owed_again = self.progressed = _nothing

    def conversations_changed(self, changes: Turnover) -> None:
        self._conversations |= changes.new

    def conversation_started(self, conversation: Conversation) -> None:
        self._conversations[conversation.id] = conversation


def _nothing(*_arguments: object) -> None:
    pass


def contact_of(client: Client) -> Contact:
    """What others know of one."""
    return Contact(_entry(client), START)


def _entry(client: Client) -> Entry:
    owners, profile = Keys(1, (bytes(32),)), client.account.profile.encode()
    return Entry(client.name, 1, 1, Status.ACTIVE, 0, 0, bytes(32), owners, Keys(0, ()), profile)


@dataclass
class World:
    """All three, and one clock (milliseconds)."""

    place: Path
    now: int = START
    clients: dict[str, Client] = field(default_factory=dict)
    left: set[tuple[str, bytes]] = field(default_factory=set)
    """(to whom, which message): something of it was at a server."""
    never: set[tuple[str, bytes]] = field(default_factory=set)
    """The same of what must not arrive: it was removed before it left."""

    def begin(self, names: tuple[str, ...]) -> None:
        for name in names:
            self.clients[name] = Client(self, name, self.place)
        for client in self.clients.values():
            client.load()
            client.renew_prekeys()

    def close(self) -> None:
        for client in self.clients.values():
            client.store.close()
