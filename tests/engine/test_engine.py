"""Two engines in one process, with a real server and a real directory, without mounts."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, opened_store
from cbfs.engine.engine import Engine
from cbfs.engine.groups import Unsaid
from cbfs.engine.running import running
from cbfs.interface import Outgoing
from cbfs.messages.content import read_content
from cbfs.messages.conversations import add_conversation
from cbfs.messages.model import Content, Conversation, Delivery, Message
from cbfs.network.options import NetworkOptions
from cbfs.problems import Refused
from cbfs.receiving.compositions import note_begun
from cbfs.storage.encoding import u32, u64
from cbfs.storage.store import StoreError, Table, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.messages.conversation import continued_id
from tests.support.world import WAIT, World

CHUNK = 65_536
NO_TOR = NetworkOptions(no_tor=True)


class Recorder:
    """A View that remembers."""

    def __init__(self) -> None:
        self.conversations: list[Conversation] = []
        self.arrived: list[Message] = []
        self.changed: list[Message] = []
        self.ended: list[Message] = []
        self.renamed: list[Message] = []
        self.conversations_changed: list[Conversation] = []
        self.moved: list[tuple[Conversation, Conversation]] = []
        self.unknown: set[str] = set()
        self.news = trio.Condition()
        self._nursery: trio.Nursery | None = None

    def conversation_added(self, conversation: Conversation) -> None:
        self.conversations.append(conversation)

    def message_added(self, message: Message) -> None:
        self.arrived.append(message)

    def message_changed(self, message: Message) -> None:
        self.changed.append(message)

    def conversation_moved(self, old: Conversation, new: Conversation) -> None:
        pass

    def directories_changed(self) -> None:
        pass

    def conversation_changed(self, conversation: Conversation) -> None:
        self.conversations_changed.append(conversation)

    def conversation_goes_on(self, old: Conversation, new: Conversation) -> None:
        self.moved.append((old, new))

    def messages_renamed(self, messages: Iterable[Message]) -> None:
        self.renamed += messages

    def message_ended(self, message: Message) -> None:
        self.ended.append(message)

    def contact_changed(self, name: str) -> None:
        pass

    def line_refused(self, error: CbfsError) -> None:
        pass

    def unknown_names(self, names: frozenset[str]) -> None:
        self.unknown |= names

    def retry(self) -> None:
        pass

    def status_changed(self) -> None:
        pass


def account(here: World, name: str) -> Path:
    return here.account(name).account


async def until(look: object, what: str) -> None:
    """Until ``look()`` is true."""
    assert callable(look)
    with trio.fail_after(WAIT):
        while not look():
            await trio.sleep(0.01)


async def send(engine: Engine, to: tuple[str, ...], data: bytes, *, name: str = "f") -> Message:
    """As the mount does it."""

    def store(writer: Writer) -> int:
        content = writer.random_number()
        for index in range(0, len(data), CHUNK):
            key = u64(content) + u32(index // CHUNK)
            writer.put(Table.CONTENT, key, data[index : index + CHUNK])
        return content

    content = await engine.store.commit(store)
    known = [c for c in engine.conversations() if set(c.participants) == {engine.name, *to}]
    return await engine.send(
        Outgoing(
            known[0].id if known else None,
            to,
            "",
            name,
            Content(content, len(data), CHUNK),
            lambda writer, conversation: None,
        )
    )


def read(engine: Engine, message: Message) -> bytes:
    with engine.store.read() as reader:
        return read_content(reader, message.content, 0, message.content.size)


@asynccontextmanager
async def two(here: World, a: str, b: str) -> AsyncIterator[tuple[Engine, Engine]]:
    async with (
        running(account(here, a), NO_TOR) as first,
        running(account(here, b), NO_TOR) as second,
    ):
        yield first, second


def test_there_and_back_and_a_large_file(here: World) -> None:
    async def main() -> None:
        async with two(here, "alice", "bob") as (alice, bob):
            views = Recorder(), Recorder()
            alice.attach(views[0])
            bob.attach(views[1])
            sent = await send(alice, ("bob",), b"hello", name="note.txt")
            assert sent.name.endswith("-alice-note.txt")
            await until(lambda: views[1].arrived, "hello at bob")
            got = views[1].arrived[0]
            assert (got.sender, got.id, read(bob, got)) == ("alice", sent.id, b"hello")
            await until(lambda: views[0].changed, "the state at alice")
            assert views[0].changed[0].recipients == (("bob", Delivery.SENT),)
            await send(bob, ("alice",), b"hi back")
            await until(lambda: views[0].arrived, "the answer")
            large = bytes(range(256)) * 1_000
            await send(alice, ("bob",), large)
            await until(lambda: len(views[1].arrived) == 2, "the large file")
            assert read(bob, views[1].arrived[1]) == large
            assert len(bob.conversations()) == 1
            for _ in range(50):
                await send(alice, ("bob",), b"many")
            await until(lambda: len(views[1].arrived) == 52, "the many")
            await until(lambda: not alice.report().queue, "alice's queue to be empty")

    trio.run(main)


def test_unknown_and_impossible_recipients(here: World) -> None:
    async def main() -> None:
        async with running(account(here, "erin"), NO_TOR) as erin:
            view = Recorder()
            erin.attach(view)
            erin.prepare(["nobody-there"])
            await until(lambda: view.unknown, "the unknown name")
            assert view.unknown == {"nobody-there"}
            for names in (("nobody-there",), ("No Name",), ()):
                with pytest.raises(Refused):
                    await send(erin, names, b"x")
            assert not erin.conversations()
            assert not erin.report().queue

    trio.run(main)


def test_nothing_is_sent_by_which_somebody_would_be_added(here: World) -> None:
    """dave says of a group that it goes on from what olga and paul have between them."""
    people = ("dave", "olga", "paul")

    async def main() -> None:
        async with two(here, "olga", "paul") as (olga, _paul):
            began = (await send(olga, ("paul",), b"between us")).conversation

            def claim(writer: Writer) -> Conversation:
                key = continued_id(began, olga._context.contacts.directories.people(people), "")
                made = add_conversation(writer, key, "dave", people, "", 0, began)
                note_begun(writer, made)
                return made

            olga.conversation_started(await olga.store.commit(claim))
            with pytest.raises(Unsaid, match="would add dave to"):
                await send(olga, ("paul", "dave"), b"hello dave")
            await send(olga, ("paul",), b"us two")

    trio.run(main)


def test_a_deleted_message_is_not_delivered_and_its_content_goes(here: World) -> None:
    async def main() -> None:
        accounts = account(here, "frank"), account(here, "gina")
        async with running(accounts[1], NO_TOR) as gina, running(accounts[0], NO_TOR) as frank:
            view = Recorder()
            frank.attach(view)
            here.server.end()
            message = await send(gina, ("frank",), b"soon deleted")
            await gina.delete(message)
            assert gina.messages(message.conversation) == ()
            assert not gina.report().queue
            with gina.store.read() as reader:
                assert reader.count(Table.CONTENT) == 0
            here.server.start()
            await send(gina, ("frank",), b"kept")
            await until(lambda: view.arrived, "the message")
            assert [read(frank, arrived) for arrived in view.arrived] == [b"kept"]

    trio.run(main)


def test_state_survives_an_end_between_all_steps(here: World) -> None:
    async def main() -> None:
        accounts = account(here, "henry"), account(here, "irene")
        names = ("irene", "henry")
        for turn in range(6):
            me, other = turn % 2, 1 - turn % 2
            async with running(accounts[me], NO_TOR) as sender:
                await send(sender, (names[me],), b"turn %d" % turn)
                await until(lambda s=sender: not s.report().queue, "delivery")
            async with running(accounts[other], NO_TOR) as receiver:
                folder = None

                def arrived(engine: Engine = receiver, turn: int = turn) -> bool:
                    found = engine.conversations()
                    return bool(found) and len(engine.messages(found[0].id)) == turn + 1

                await until(arrived, "arrival")
                folder = receiver.conversations()[0]
                assert read(receiver, receiver.messages(folder.id)[-1]) == b"turn %d" % turn

    trio.run(main)


def test_damaged_record_is_named_and_gives_no_data(here: World) -> None:
    place = account(here, "judy")
    with opened_store(place, SYSTEM_RANDOM) as store:
        store.write(lambda writer: writer.put(Table.META, b"probe", b"value"))
        with store.read() as reader:
            at = reader.place(Table.META, b"probe")
        with store._env.begin(write=True) as txn:
            sealed = bytearray(txn.get(at) or b"")
            sealed[-1] ^= 1
            txn.put(at, bytes(sealed))
        with store.read() as reader, pytest.raises(StoreError):
            reader.get(Table.META, b"probe")
