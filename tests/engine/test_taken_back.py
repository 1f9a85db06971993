"""Messages that are removed before they were delivered are not delivered."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from cbfs.engine.engine import Engine
from cbfs.engine.expiry import forget, leave
from cbfs.engine.running import running
from cbfs.messages import conversations, history
from cbfs.messages.model import Conversation, Delivery, Message, Origin
from cbfs.messages.queues import delivery_queue, note_queue
from cbfs.messages.queues.note_queue import Dues, NoteKind, missing
from cbfs.storage.store import Series, Store, Table, Writer
from cbfs_common.messages.conversation import FOREVER
from tests.engine.test_engine import NO_TOR, Recorder, account, read, send, until
from tests.engine.test_lifetime import said as a_part
from tests.engine.test_lifetime import take
from tests.engine.test_order import said
from tests.support.exported import opened
from tests.support.fake_backend import put_content
from tests.support.healing_world import World as Clients
from tests.support.killing import Kill, KillingEnv, every_point
from tests.support.stores import open_store
from tests.support.world import World

TALK = bytes([7]) * 16
START = 1_800_000_000_000


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("back"), stack)


def test_what_is_removed_while_it_waits_never_arrives(here: World) -> None:
    """Nobody misses it, status follows, and what was written after it comes in its order."""
    accounts = account(here, "alice"), account(here, "bob")

    async def main() -> None:
        async with running(accounts[0], NO_TOR) as alice, running(accounts[1], NO_TOR) as bob:
            await send(alice, ("bob",), b"0")
            await until(lambda: bob.conversations() and len(said(bob)) == 1, "the first")
            here.server.end()
            sent = [await send(alice, ("bob",), b"%d" % n) for n in range(1, 7)]
            for gone in (sent[1], sent[2], sent[5]):
                await alice.delete(gone)
            assert alice.report().queue == ("3 messages to bob",)
            await send(alice, ("bob",), b"7")
            here.server.start()
            await until(lambda: not alice.report().queue, "the queue to be empty")
            await until(lambda: said(bob) == [b"0", b"1", b"4", b"5", b"7"], "the others")
            assert said(alice) == said(bob)
            await until(lambda: not absent(bob), "it to be said that the others were taken back")
            (conversation,) = bob.conversations()
            (after,) = (m for m in bob.messages(conversation.id) if read(bob, m) == b"4")
            with bob.store.read() as reader:
                shown = history.transcript_text(reader, after)
            assert b"(alice has taken back a message)" in shown

            def forgotten() -> bool:
                with alice.store.read() as reader:
                    jobs = list(reader.keys(Table.META, b"job "))
                    return not (reader.count(Table.QUEUE) or jobs)

            await until(forgotten, "nothing to be left of it")

    trio.run(main)


def test_a_conversation_that_was_left_is_resumed_by_either_side(here: World) -> None:
    accounts = account(here, "carol"), account(here, "dave")

    async def main() -> None:
        async with running(accounts[0], NO_TOR) as carol, running(accounts[1], NO_TOR) as dave:
            view = Recorder()
            carol.attach(view)
            await send(carol, ("dave",), b"one")
            await until(lambda: dave.conversations() and len(said(dave)) == 1, "the first")
            (key,) = [c.id for c in carol.conversations()]
            here.server.end()
            queued = await send(carol, ("dave",), b"never")
            assert not await carol.leave(key, empty=True)
            assert await carol.leave(key, empty=False)
            assert carol.conversations() == ()
            assert not carol.report().queue
            here.server.start()
            await send(dave, ("carol",), b"two")
            await until(lambda: len(view.conversations) == 2, "it to come back")
            now = carol.message(key, queued.serial)
            assert now is not None
            assert now.recipients == (("dave", Delivery.CANCELLED),)
            await carol.leave(key, empty=False)
            await send(carol, ("dave",), b"three")  # into a new folder for the same people
            assert [c.id for c in carol.conversations()] == [key]
            await until(lambda: said(dave) == [b"one", b"two", b"three"], "the third")
            with dave.store.read() as reader:
                assert not missing(reader)

    trio.run(main)


def absent(engine: Engine) -> int:
    """What is asked for."""
    with engine.store.read() as reader:
        return len(missing(reader))


def begin(store: Store) -> Conversation:
    people = ("alice", "bob", "carol")
    return store.write(
        lambda w: conversations.add_conversation(w, TALK, "alice", people, "", START)
    )


def write(writer: Writer, conversation: Conversation, number: int) -> Message:
    """One's own message, queued for both."""
    arrival = history.Arrival(
        bytes([number]) * 32, "alice", START + number, history.parents_for(writer, TALK, "alice"),
        "", writer.next_number(Series.INODE), put_content(writer, b"%d" % number),
        ("bob", "carol"), origin=Origin(bytes([number]) * 16, START + number, bytes(32)),
    )  # fmt: skip
    message = history.add_message(writer, TALK, arrival, START + number)
    delivery_queue.add_jobs(writer, message, delivery_queue.job_for(message, conversation))
    return message


def test_who_has_it_keeps_it_and_who_has_not_does_not_miss_it(tmp_path: Path) -> None:
    """Of three in a row the second is at carol's server, and sealed for bob, as is the third."""
    store = open_store(tmp_path)
    conversation = begin(store)

    def change(writer: Writer) -> tuple[str, ...]:
        first, second, third = (write(writer, conversation, n) for n in (1, 2, 3))
        job = delivery_queue.job_of(writer, second, "carol")
        assert job is not None
        (envelope,) = delivery_queue.save_sealed(writer, job, [b"sealed"])
        delivery_queue.finish(writer, [envelope.key], {}, START)
        for message in (second, third):
            job = delivery_queue.job_of(writer, message, "bob")
            assert job is not None
            delivery_queue.save_sealed(writer, job, [b"sealed"])
        dues: Dues = {}
        missed = forget(writer, second, dues, START)
        assert dues == {"bob": START}
        for_bob = delivery_queue.pending(writer, "bob")
        assert [(j.message, j.parents, j.sealed) for j in for_bob] == [
            (first.id, (), 0),
            (third.id, (second.as_parent,), 1),
        ]
        for_carol = delivery_queue.pending(writer, "carol")
        assert [j.parents for j in for_carol] == [(), (second.as_parent,)]
        envelopes, _jobs = delivery_queue.next_work(writer, "bob", 9)
        assert len(envelopes) == 1, "what names it is not sealed anew"
        assert forget(writer, third, dues, START) == ("bob", "carol")
        # nothing names the third
        told = [d.ref[16:] for d in note_queue.items_for(writer, "bob", NoteKind.TAKEN_BACK)]
        assert told == [second.id]
        assert not list(note_queue.items_for(writer, "carol", NoteKind.TAKEN_BACK))
        assert history.parents_for(writer, TALK, "alice") == (first.as_parent,)
        return missed

    assert store.write(change) == ("bob",)
    store.close()


def test_removing_very_many_is_no_work_for_each_other(tmp_path: Path) -> None:
    """Each is found by itself, however many wait: what is read grows with their number."""
    store = open_store(tmp_path)
    conversation = begin(store)
    messages = store.write(lambda w: [write(w, conversation, n % 256) for n in range(3)])
    with store.read() as reader:
        opened = []
        get = reader.get
        reader.items = lambda *a, **k: pytest.fail("all that waits was read")  # type: ignore[method-assign]
        reader.get = lambda *a: opened.append(a) or get(*a)  # type: ignore[method-assign,func-returns-value]
        assert delivery_queue.job_of(reader, messages[2], "carol") is not None
        assert len(opened) == 2
    store.close()


def _remove_all(place: Path, number: int) -> int:
    """Take back the second of three, then leave; killed at the n-th point."""
    store = open_store(place)
    conversation = begin(store)
    messages = store.write(lambda w: [write(w, conversation, n) for n in (1, 2, 3)])
    store._env = KillingEnv(store._env, Kill(number))
    store.write(lambda writer: forget(writer, messages[1], {}, START))
    store.write(lambda writer: leave(writer, conversation, {}, START, empty=False))
    return 0


def test_a_crash_leaves_all_of_a_removal_or_nothing(tmp_path: Path) -> None:
    seen = set()
    for place in every_point(_remove_all, tmp_path):
        store = open_store(place)
        with store.read() as reader:
            there = {m.id[0] for m in history.load_messages(reader, TALK)}
            waiting = [
                j.message[0]
                for who in ("bob", "carol")
                for j in delivery_queue.pending(reader, who)
            ]
            indexed = len(list(reader.keys(Table.META, b"job ")))
            left = conversations.is_left(reader, TALK)
        assert len(waiting) == indexed
        assert sorted(waiting) == ([] if left else sorted([*there, *there]))
        seen.add((len(there), left))
        store.close()
    assert seen == {(3, False), (2, False), (2, True)}


def test_nothing_is_asked_for_of_a_conversation_that_was_left(tmp_path: Path) -> None:
    """What is missing in others is."""
    with opened(tmp_path) as store:
        take(store, a_part(b"hello", 0, 1, FOREVER), 1)

        def change(writer: Writer) -> None:
            (conversation,) = conversations.load_conversations(writer).values()
            for place in (conversation.id, bytes(16)):
                note_queue.enqueue(
                    writer, {}, "bob", note_queue.NoteKind.WANT, place + bytes(16), 1
                )
            leave(writer, conversation, {}, 1, empty=False)

        store.write(change)
        with store.read() as reader:
            left = [
                debt.ref for debt in note_queue.items_for(reader, "bob", note_queue.NoteKind.WANT)
            ]
        assert left == [bytes(32)]


def test_what_was_removed_is_offered_no_more(tmp_path: Path) -> None:
    """Delivered, without a receipt: nothing tells its recipient of it again, nor that it was."""
    clients = Clients(tmp_path)
    clients.begin(("alice", "bob", "carol"))
    alice = clients.clients["alice"]
    kept, gone = (alice.write(("bob", "carol"), text) for text in (b"kept", b"removed"))
    alice.pump(fails=False)
    alice.load()

    def offered() -> set[tuple[str, bytes]]:
        with alice.store.read() as reader:
            return {
                (who, debt.ref[16:])
                for who in ("bob", "carol")
                for debt in note_queue.items_for(reader, who, note_queue.NoteKind.OFFER)
            }

    everybody = {(who, written.id) for who in ("bob", "carol") for written in (kept, gone)}
    assert offered() == everybody
    alice.remove(gone)
    assert offered() == {("bob", kept.id), ("carol", kept.id)}
    alice.remove(kept)
    assert not offered()
    with alice.store.read() as reader:
        assert not note_queue.load_dues(reader)
    clients.close()
