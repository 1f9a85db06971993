"""Clients without a network, for the machine of test_groups_machine: as those of healing_world,
with contacts in their stores, whom they block, call otherwise, and whose names freeze or have new
owners. What the model says of a message is what must be so."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import trio

from cbfs.contacts.contact import Contact, Mark
from cbfs.engine.people import Renaming
from cbfs.messages import history, petnames
from cbfs.messages.model import Conversation, Delivery, Message
from cbfs.messages.queues import delivery_queue, note_queue
from cbfs.storage.store import Table
from cbfs_common.errors import CbfsError
from cbfs_common.names.entry import Status
from tests.support.healing_world import Client, Quiet, World, Written

UNKNOWN = "zoe"
"""Takes part in a conversation, and no directory answers who that is."""


class GroupClient(Client):
    """One person's client and home server."""

    def know(self, contacts: list[Contact]) -> None:
        """What has been decided about them since stays."""
        peers = self.context.contacts
        missing = [contact for contact in contacts if peers.get(contact.name) is None]
        if missing:
            trio.run(peers.decide, missing, lambda _writer: None)

    def contact(self, name: str) -> Contact:
        return self.context.contacts.named(name)

    def put(self, contact: Contact) -> None:
        """This is known of somebody now."""
        trio.run(self.context.contacts.decide, [contact], lambda _writer: None)

    def freeze(self, name: str, *, on: bool) -> None:
        contact = self.contact(name)
        status = Status.FROZEN if on else Status.ACTIVE
        self.put(replace(contact, entry=replace(contact.entry, status=status)))

    def reregister(self, name: str) -> None:
        contact = self.contact(name)
        self.put(replace(contact, offered=replace(contact.entry, incarnation=9), stopped=1))

    def doubt(self, name: str) -> None:
        self.put(replace(self.contact(name), doubted=1))

    def settle(self, name: str) -> None:
        """The user accepts who they are, and the directory says how they are now."""
        trio.run(self.context.contacts.accept, name)
        self.freeze(name, on=False)
        self.put(replace(self.contact(name), doubted=0))

    def mark(self, name: str, *, on: bool) -> None:
        work = self._receiver().admission.mark
        trio.run(partial(work, name, Mark.BLOCKED, on=on))

    def call(self, name: str, petname: str) -> None:
        """Call somebody so, and give all messages the names of now."""
        renaming = Renaming(self.context, Quiet(self.context))
        trio.run(renaming.rename, name, petname)
        while True:
            with self.store.read() as reader:
                names = petnames.pending(reader)
            if not names:
                return
            self.store.write(partial(petnames.relabel, name=names[0]))

    def check(self, people: tuple[str, ...], *, begins: bool) -> None:
        """As the engine asks before it makes a message. Raises what it raises."""
        trio.run(partial(self.context.look_up.written_to, people, begins=begins))

    def reaches(self, name: str) -> bool:
        """Whether the sender would deliver to them."""
        try:
            trio.run(self.context.look_up.ready, name)
        except CbfsError:
            return False
        return True

    def pump(self, *, fails: bool) -> None:
        """Seal and deliver what waits and what is due, as far as the sender does."""
        now = self.world.now
        with self.store.read() as reader:
            waiting = {
                peer
                for again in (False, True)
                for peer in delivery_queue.waiting(reader, again=again)
            }
            due = {peer for peer, at in note_queue.load_dues(reader).items() if at <= now}
        for peer in sorted(waiting | due):
            if peer in self.world.clients and self.reaches(peer):
                other = self.world.clients[peer]
                for again in (False, True):
                    while self.queued_for(peer, again=again):
                        self._deliver(other, again=again, fails=fails)
                if peer in due:
                    self._tell(other, fails=fails)

    def queued_for(self, name: str, *, again: bool = False) -> bool:
        with self.store.read() as reader:
            return delivery_queue.first_job(reader, name, again=again) is not None

    def own(self) -> list[tuple[Conversation, Message]]:
        """All that this one has written."""
        with self.store.read() as reader:
            return [
                (conversation, message)
                for key, conversation in self.context.conversations.items()
                for message in history.load_messages(reader, key)
                if message.sender == self.name
            ]

    def transcript(self, message: Message) -> str:
        """Its entry, which is as long as is known of it."""
        with self.store.read() as reader:
            entry = history.transcript_entry(reader, message.conversation, message.serial)
        assert len(entry) == message.entry_size
        return entry.decode()

    def check_transcripts(self) -> None:
        with self.store.read() as reader:
            for key in self.context.conversations:
                sizes = [m.entry_size for m in history.load_messages(reader, key)]
                assert history.transcript_extent(reader, key).size == sum(sizes)

    def count(self, *tables: Table) -> int:
        """Records about oneself in these, which are about others."""
        with self.store.read() as reader:
            mine = reader.key_part(self.name.encode())
            return sum(1 for table in tables for _key in reader.keys(table, mine))


@dataclass
class Told:
    """A message of the model: how far it must be for each recipient. ``excused``: these may have
    dropped it, as they had blocked its sender when it came."""

    written: Written
    states: dict[str, Delivery]
    excused: set[str] = field(default_factory=set)


def begin(place: Path, names: tuple[str, ...]) -> World:
    """All of them, who know each other."""
    world = World(place)
    for name in names:
        world.clients[name] = GroupClient(world, name, place)
    for client in world.clients.values():
        client.load()
        client.renew_prekeys()
    return world
