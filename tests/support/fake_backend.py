"""A backend of the mount without a network: real records in a real store, sent to nobody.

As a program it mounts itself in the foreground: ``python -m tests.support.fake_backend DIR
MOUNTPOINT [-o OPTIONS]``. Lines on its standard input are orders: ``arrive SENDER TEXT`` brings a
message, ``reregister`` gives the name of the one contact to somebody else, ``alarm TEXT`` warns,
``lapse TEXT`` of a name that cannot be kept, ``stopped TEXT`` of a copy that has stopped, ``end``
lets the time of all messages that end be over.
"""

import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Self

import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.settings import Configuration
from cbfs.contacts.contact import Contact, How, Mark
from cbfs.contacts.fingerprint import Fingerprint, fingerprint
from cbfs.contacts.look_up import Blocked
from cbfs.contacts.user_names import typed_name
from cbfs.engine import redating
from cbfs.engine.expiry import Timetable, end
from cbfs.interface import MessageRequest, Outgoing, Report, View
from cbfs.messages import conversations, history, lifetimes
from cbfs.messages.content import read_content
from cbfs.messages.history import Arrival
from cbfs.messages.model import Content, Conversation, Message, Turnover
from cbfs.messages.queues import blobs
from cbfs.mount.single import operations as single_operations
from cbfs.names.followed import PolicyRefused
from cbfs.network.options import NetworkOptions
from cbfs.outbox.folder_messages import drop, pack
from cbfs.problems import NotYet, Refused, Taken
from cbfs.receiving.compositions import Compositions
from cbfs.sending.compose import Settled, make_message
from cbfs.storage.encoding import u32, u64
from cbfs.storage.root_key import Unlock
from cbfs.storage.store import Series, Store, Table, Writer
from cbfs.tree.nodes import Folder
from cbfs.tree.tree import Tree
from cbfs_common.names.entry import Entry, Keys, Status
from cbfs_common.names.policy import Policy
from cbfs_common.person import Person
from cbfs_common.profile import Address, Profile
from tests.support.parts import HERE, talk_id
from tests.support.stores import open_store

NAME = "alice"
USER, SIGNING, AUTH, KEM = (bytes([number]) * 32 for number in range(1, 5))
PROFILE = Profile(USER, SIGNING, AUTH, KEM, Address(bytes(32), "host", 1))
BOB = Entry(
    "bob", 1, 1, Status.ACTIVE, 2**40, 1, bytes(32),
    Keys(1, (bytes(32),)), Keys(0, ()), PROFILE.encode(),
)  # fmt: skip
NOBODY = "nobody"
"""The one name that is not registered."""


def put_content(writer: Writer, data: bytes) -> Content:
    """A content as the engine stores what it receives: in chunks of its own size."""
    content = Content(writer.random_number(), len(data), 10_000)
    for index, start in enumerate(range(0, len(data), content.chunk)):
        chunk = data[start : start + content.chunk]
        writer.put(Table.CONTENT, u64(content.id) + u32(index), chunk)
    return content


class FakeDirectories:
    """None is followed, and none can be."""

    def policies(self) -> tuple[Policy, ...]:
        return ()

    async def follow(self, data: bytes) -> None:
        raise PolicyRefused("it is not a policy")

    async def leave(self, directory: bytes) -> None:
        raise AssertionError("nothing is followed")


@dataclass
class FakeBackend:
    """``Backend`` in memory and store. ``gate``: what a send waits for before its commit."""

    store: Store
    name: str = NAME
    profile: Profile = PROFILE
    sent: list[tuple[Message, bytes]] = field(default_factory=list)
    prepared: set[str] = field(default_factory=set)
    under_way: set[bytes] = field(default_factory=set)
    down: bool = False
    gate: Callable[[], object] | None = None
    view: View | None = None
    bob: Contact = field(default_factory=lambda: Contact(BOB, 1_795_445_162_123))

    def __post_init__(self) -> None:
        self.configuration = Configuration(self.store)

    def attach(self, view: View) -> None:
        self.view = view

    def conversations(self) -> tuple[Conversation, ...]:
        with self.store.read() as reader:
            known, left = conversations.load_conversations(reader), conversations.left_ones(reader)
        return tuple(
            sorted((c for c in known.values() if c.id not in left), key=lambda c: c.started)
        )

    def messages(self, conversation: bytes) -> tuple[Message, ...]:
        with self.store.read() as reader:
            return history.load_messages(reader, conversation)

    def message(self, conversation: bytes, which: str | int) -> Message | None:
        with self.store.read() as reader:
            return history.named_message(reader, conversation, which)

    def newest(self, conversation: bytes) -> Message | None:
        with self.store.read() as reader:
            return history.newest_message(reader, conversation)

    def arrived(self, content: Content) -> int:
        with self.store.read() as reader:
            return blobs.here(reader, content.id, content.size)

    async def more_arrived(self) -> None:
        await trio.sleep(0.01)

    alarm: str = ""
    lapse: str = ""
    stopped: str = ""

    @property
    def people(self) -> Self:
        return self

    def contacts(self) -> tuple[Contact, ...]:
        return (self.bob,)

    def contact(self, name: str) -> Contact | None:
        return self.bob if name == "bob" else None

    def compare(self, name: str) -> Fingerprint:
        profile = self.bob.offered_profile or self.bob.profile
        me, them = Person(bytes(16), self.name), Person(bytes(16), name)
        return fingerprint(self.profile.identity(me), profile.identity(them))

    async def verify(self, name: str, text: str) -> bool:
        if not self.compare(name).is_in(text):
            return False
        await self.accept(name)
        self.change_bob(verified=2)
        return True

    async def unverify(self, name: str) -> None:
        self.change_bob(verified=0)

    async def accept(self, name: str) -> None:
        if self.bob.offered:
            self.change_bob(entry=self.bob.offered, offered=None, how=How.USER)

    async def mark(self, name: str, mark: Mark, *, on: bool) -> None:
        self.change_bob(**{mark.value: int(on)})

    def request(self, name: str) -> MessageRequest | None:
        return None

    def label(self, name: str) -> str:
        return name

    def shown(self, name: str) -> str:
        return name

    @property
    def directories(self) -> "FakeDirectories":
        return FakeDirectories()

    def called(self, text: str) -> str:
        return typed_name(text)

    async def rename(self, name: str, petname: str) -> None:
        raise Taken(petname)

    async def add(self, line: str) -> None:
        raise Refused("this is no line", "there are none here")

    async def admit(self, name: str) -> None:
        """Nobody asks."""

    async def decline(self, name: str) -> None:
        """Nobody asks."""

    async def await_invited(self) -> None:
        """Nobody is invited."""

    def change_bob(self, **changes: object) -> None:
        """Something of the one contact is new."""
        self.bob = replace(self.bob, **changes)  # type: ignore[arg-type]  # fields by name
        if self.view:
            self.view.contact_changed("bob")

    def reregister(self) -> None:
        """Somebody else takes the name bob."""
        old = self.bob.entry
        profile = replace(PROFILE, auth=SYSTEM_RANDOM.token(32)).encode()
        taken = replace(old, incarnation=old.incarnation + 1, profile=profile)
        self.change_bob(offered=taken, stopped=1_795_445_163_000)

    def report(self) -> Report:
        return Report("connected to nothing", (), (), (), 0)

    def trouble(self, name: str) -> str:
        return ""

    def prepare(self, names: Iterable[str]) -> None:
        self.prepared |= set(names)
        if NOBODY in self.prepared and self.view:
            self.view.unknown_names(frozenset([NOBODY]))

    async def send(self, outgoing: Outgoing) -> Message:
        if self.bob.blocked and "bob" in outgoing.participants:
            raise Blocked(["bob"])
        if NOBODY in outgoing.participants:
            raise Refused(f"nobody is called {NOBODY}", "mend the name")
        if self.down:
            raise NotYet("the name directory does not answer")
        if self.gate is not None:
            waiting = self.gate()
            if isinstance(waiting, trio.Event):
                await waiting.wait()
        now, fresh = time.time_ns() // 1_000_000, SYSTEM_RANDOM.token(16)
        people = tuple(sorted({*outgoing.participants, self.name}))

        before = {conversation.id: conversation for conversation in self.conversations()}
        if outgoing.conversation is not None:
            known = before[outgoing.conversation]
            people, outgoing = known.participants, replace(outgoing, subject=known.subject)
        content = outgoing.content
        with self.store.read() as reader:
            data = read_content(reader, content, 0, content.size)
        settled = Settled(
            self.name,
            people,
            outgoing.subject,
            blake2b(data, digest_size=32).digest(),
            now,
            fresh,
            SYSTEM_RANDOM.token(16),
            HERE,
        )
        outgoing.committing()
        conversation, message = await self.store.commit(
            lambda writer: make_message(writer, before, outgoing, settled)
        )
        self.sent.append((message, data))
        self.sent.sort(key=lambda sent: sent[0].serial)  # of one commit, any comes first
        if conversation.id not in before and self.view:
            self.view.conversation_added(conversation)
        return message

    def is_under_way(self, conversation: bytes) -> bool:
        return conversation in self.under_way

    async def delete(self, message: Message) -> None:
        await self.store.commit(lambda writer: history.remove_message(writer, message))

    async def leave(self, conversation: bytes, *, empty: bool) -> bool:
        if empty and self.newest(conversation) is not None:
            return False
        await self.store.commit(lambda writer: conversations.leave(writer, conversation))
        return True

    async def go_on(self, conversation: bytes, people: Iterable[str]) -> Conversation:
        if NOBODY in people:
            raise Refused(f"{NOBODY} is not registered", "check the spelling")

        def change(writer: Writer) -> tuple[Conversation, Turnover]:
            before = conversations.get_conversation(writer, conversation)
            assert before is not None
            compositions = Compositions(writer, HERE, NAME, before.began)
            return compositions.go_on(conversation, tuple(people)), compositions.changes

        new, changes = await self.store.commit(change)
        if self.view:
            for old, after in changes.moved.items():
                self.view.conversation_goes_on(changes.new[old], changes.new[after])
            for each in changes.new.values():
                self.view.conversation_changed(each)
        return new

    async def arrive_folder(self, sender: str, tree: Tree, top: Folder) -> Message:
        """A folder with what is in one of tmp/ comes in."""
        content = await pack(tree, top)
        with self.store.read() as reader:
            data = read_content(reader, content, 0, content.size)
        await drop(tree, content)
        (name,) = (name for _directory, name in top.names)
        return await self.arrive(sender, data, name, folder=True)

    async def end(self) -> None:
        """The time of all messages that end is over."""
        timetable = Timetable()
        while True:
            with self.store.read() as reader:
                ends = timetable.due(reader, 2**62, 1_000)
            if not ends:
                return
            done = await self.store.commit(partial(end, ends=ends, now=2**62))
            for ended in done.messages:
                if self.view:
                    self.view.message_ended(ended.message)

    async def redate(self, now: int) -> None:
        """The clock was ahead of ``now`` (milliseconds)."""
        moved = await self.store.commit(partial(redating.redate_conversations, now=now))
        with self.store.read() as reader:
            talks = conversations.load_conversations(reader)
            late = [one for key in talks for one in redating.late_messages(reader, key, now)]
        messages = await self.store.commit(partial(redating.redate, batch=late, now=now))
        if self.view:
            for old, new in moved:
                self.view.conversation_moved(old, new)
            self.view.messages_renamed(messages)

    async def arrive(
        self, sender: str, data: bytes, file_name: str = "", *, folder: bool = False
    ) -> Message:
        """A message comes in, in the one conversation with that sender."""
        now = time.time_ns() // 1_000_000
        with self.store.read() as reader:
            every, left = conversations.load_conversations(reader), conversations.left_ones(reader)
        with_sender = (c for c in every.values() if set(c.participants) == {NAME, sender})
        # the one without a subject, where others have begun more of them
        known = min(with_sender, key=lambda c: (c.subject, c.started), default=None)
        people = tuple(sorted((NAME, sender)))

        def change(writer: Writer) -> tuple[Conversation, Message]:
            if known is not None:
                conversations.come_back(writer, known.id)
            conversation = known or conversations.add_conversation(
                writer, talk_id(people), sender, people, "", now
            )
            arrival = _arrival(writer, sender, now, file_name, put_content(writer, data), ())
            muted = sender == "bob" and self.bob.muted > 0
            arrival = replace(arrival, muted=muted, folder=folder)
            kept = lifetimes.setting(writer, conversation.id).lifetime
            muted = sender == "bob" and self.bob.muted > 0
            arrival = replace(arrival, muted=muted, lifetime=kept)
            return conversation, history.add_message(writer, conversation.id, arrival, now)

        conversation, message = await self.store.commit(change)
        if self.view:
            if known is None or known.id in left:
                self.view.conversation_added(conversation)
            self.view.message_added(message)
        return message


def _arrival(
    writer: Writer,
    sender: str,
    now: int,
    file_name: str,
    content: Content,
    recipients: tuple[str, ...],
) -> Arrival:
    inode = writer.next_number(Series.INODE)
    return Arrival(SYSTEM_RANDOM.token(32), sender, now, (), file_name, inode, content, recipients)


async def _obey(backend: FakeBackend) -> None:
    lines = trio.lowlevel.FdStream(0)
    rest = b""
    async for data in lines:
        *orders, rest = (rest + data).split(b"\n")
        for order in orders:
            if order.startswith(b"alarm"):
                backend.alarm = order.decode()[6:]
                if backend.view:
                    backend.view.status_changed()
                continue
            if order.startswith(b"lapse"):
                backend.lapse = order.decode()[6:]
                if backend.view:
                    backend.view.status_changed()
                continue
            if order.startswith(b"stopped"):
                backend.stopped = order.decode()[8:]
                if backend.view:
                    backend.view.status_changed()
                continue
            if order.startswith(b"redate"):
                await backend.redate(int(order[7:]))
                continue
            if order == b"keep":  # names in windows, for longer than any test waits
                single_operations.MESSAGE_SECONDS = 300.0
                continue
            if order == b"end":
                await backend.end()
                continue
            if order == b"reregister":
                backend.reregister()
                continue
            _, sender, text = order.decode().split(" ", 2)
            await backend.arrive(sender, text.encode() + b"\n", "note.txt")


@asynccontextmanager
async def running(
    account: Path, _options: NetworkOptions, _unlock: Unlock
) -> AsyncIterator[FakeBackend]:
    """What ``cbfs.engine.running.running`` is for the real engine."""
    store = open_store(account)
    async with trio.open_nursery() as committer:
        await committer.start(store.run)
        async with trio.open_nursery() as nursery:
            backend = FakeBackend(store)
            nursery.start_soon(_obey, backend)
            yield backend
            nursery.cancel_scope.cancel()
        committer.cancel_scope.cancel()
    store.close()


if __name__ == "__main__":
    import cbfs.commands.mount.program
    import cbfs.commands.mount.serving

    vars(cbfs.commands.mount.serving)["running"] = running
    sys.argv += ["--foreground"]
    sys.exit(cbfs.commands.mount.program.main())
