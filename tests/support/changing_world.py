"""Clients without a network who go on with more people, and leave: as those of healing_world, which
do what the engine does for its user."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import cast

import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.engine import groups
from cbfs.engine.expiry import leave
from cbfs.interface import Outgoing
from cbfs.messages import history
from cbfs.messages.content import read_content
from cbfs.messages.conversations import is_left
from cbfs.messages.model import Content, Conversation, Message, Turnover
from cbfs.messages.transcript import Line
from cbfs.receiving.compositions import added_by
from cbfs.sending.compose import Settled, make_message
from cbfs.storage.encoding import u32, u64
from cbfs.storage.store import Table, Writer
from cbfs_common.messages.body import Part, encode_part
from cbfs_common.messages.conversation import continued_id
from tests.support.healing_world import Client, World
from tests.support.parts import HERE, sole_part, talk_id

HOUR = 3_600_000
DAY = 24 * HOUR


class Member(Client):
    """One person's client and home server."""

    @property
    def all(self) -> list[Conversation]:
        """All conversations that are shown, oldest first."""
        with self.store.read() as reader:
            found = [c for c in self.context.conversations.values() if not is_left(reader, c.id)]
        return sorted(found, key=lambda each: (each.inode, each.id))

    @property
    def open(self) -> list[Conversation]:
        """Those in which something can be written."""
        return [one for one in self.all if not one.next]

    def with_(self, *people: str) -> Conversation:
        """The one conversation of just these people and oneself."""
        everybody = tuple(sorted({*people, self.name}))
        (found,) = [c for c in self.context.conversations.values() if c.participants == everybody]
        return found

    def say(self, text: str, where: Conversation | None = None) -> Message:
        """Write in a conversation, by default in the only one. Raises Refused."""
        if where is None:
            (where,) = self.open
        with self.store.read() as reader:
            groups.check_said(reader, where, self.name, str)
        present = groups.present(where, self.name)
        return self._send(where.id, present, where.subject, text)

    def begin(self, people: tuple[str, ...], text: str, subject: str = "") -> Message:
        """Save a file in a folder for these people, as mkdir makes it."""
        return self._send(None, tuple(sorted({*people, self.name})), subject, text)

    def _send(
        self, where: bytes | None, present: tuple[str, ...], subject: str, text: str
    ) -> Message:
        data = text.encode()

        def store(writer: Writer) -> Content:
            content = Content(writer.random_number(), len(data), len(data))
            writer.put(Table.CONTENT, u64(content.id) + u32(0), data)
            return content

        others = tuple(name for name in present if name != self.name)
        content = self.store.write(store)
        outgoing = Outgoing(where, others, subject, "", content, lambda _w, _c: None)
        settled = Settled(
            self.name,
            present,
            subject,
            blake2b(data, digest_size=32).digest(),
            self.world.now,
            SYSTEM_RANDOM.token(16),
            SYSTEM_RANDOM.token(16),
            self.context.contacts.directories,
        )
        known = self.context.conversations

        def make(writer: Writer) -> tuple[Conversation, Message]:
            there = known.get(where) if where else None
            added = added_by(writer, there, self.name) if there else ()
            return make_message(writer, known, outgoing, settled, added)

        conversation, message = self.store.write(make)
        known.setdefault(conversation.id, conversation)
        return message

    def add(self, *people: str, where: Conversation | None = None) -> Conversation:
        """Go on with more people. Raises Refused."""
        if where is None:
            (where,) = self.open
        new, changes = trio.run(partial(groups.go_on, self.context, where.id, people))
        self._take(changes)
        return self.context.conversations[new.id]

    def leave(self, where: Conversation | None = None) -> None:
        """rmdir outbox/C."""
        if where is None:
            (where,) = self.open
        one, now = where, self.world.now
        settled = groups.settled_for_leaving(self.context, one)

        def change(writer: Writer) -> Turnover:
            leave(writer, one, {}, now, empty=False)
            if not groups.tells(one, self.name):
                return Turnover()
            return groups.say_leaving(writer, one, settled)[1]

        self._take(self.store.write(change))

    def _take(self, changes: Turnover) -> None:
        known = self.context.conversations
        known |= changes.new

    def texts(self, where: Conversation) -> list[str]:
        """What was written in a conversation, in order of arrival."""
        with self.store.read() as reader:
            messages = history.load_messages(reader, where.id)
            contents = [read_content(reader, m.content, 0, m.content.size) for m in messages]
        return [f"{m.sender}: {data.decode()}" for m, data in zip(messages, contents, strict=True)]

    def transcript(self, where: Conversation) -> list[str]:
        """In lines, without dates."""
        with self.store.read() as reader:
            lines: list[Line] = sorted(
                history.transcript_entries(reader, where.id, 0),
                key=lambda line: (line.place, line.tie),
            )
            entries = [history.transcript_entry(reader, where.id, line.serial) for line in lines]
        return [
            line.partition("] ")[2] or line.strip()
            for line in b"".join(entries).decode().splitlines()
        ]

    def inbox(self) -> list[bytes]:
        """What lies at its home server, taken out."""
        mail, self.mail = self.mail, []
        return mail

    def forge(self, to: "Member", part: Part) -> None:
        """A message of one's own making, whatever it says."""
        batch = self.context.sessions.batch()
        session = self.session(to)
        to.mail.append(batch.seal(session, to.name, encode_part(part), 1))
        batch.done()


class Town(World):
    """Some people, and one clock."""

    def of(self, name: str) -> Member:
        return cast(Member, self.clients[name])

    def send(self, *names: str) -> None:
        """Deliver what these have written."""
        for name in names:
            self.now += 1_000
            self.of(name).pump(fails=False)

    def receive(self, *names: str) -> None:
        for name in names:
            member = self.of(name)
            member.receive(member.inbox())

    def exchange(self, rounds: int = 3) -> None:
        """Everybody sends and hears all that there is to."""
        for _ in range(rounds):
            self.send(*self.clients)
            self.receive(*self.clients)
            self.now += HOUR


@contextmanager
def town(place: Path, *names: str) -> Iterator[Town]:
    """All of them, who know each other."""
    made = Town(place)
    for name in names:
        made.clients[name] = Member(made, name, place)
    for client in made.clients.values():
        client.load()
        client.renew_prekeys()
    yield made
    made.close()


NAMES = ("alice", "bob", "carol", "dave", "erin", "frank")
THREE = ("alice", "bob", "carol")
ROOT = talk_id(THREE)


def going_on(people: tuple[str, ...], text: str, root: bytes = ROOT, **changes: object) -> Part:
    """What somebody makes who goes on with these people."""
    persons = HERE.people(people)
    made = replace(
        sole_part(text.encode(), people),
        conversation=continued_id(root, persons, ""),
        root=root,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # fields by name


def people_of(member: Member) -> list[tuple[str, ...]]:
    """To whom what this one writes may go: of each conversation in which something can be
    written."""
    return [one.present for one in member.open]


def end_of(member: Member, one: Conversation) -> bytes:
    """The id of the conversation in which this one goes on."""
    known = member.context.conversations
    while one.next:
        one = known[one.next]
    return one.id
