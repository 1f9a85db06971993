"""The order of messages: as they were written, and the same at everybody."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.messages import conversations, history, order
from cbfs.messages.history import Arrival
from cbfs.messages.model import ParentRef
from cbfs.messages.transcript import Extent, Line, Reading, Transcript
from cbfs.storage.store import Series, Store, Writer
from tests.engine.test_engine import NO_TOR, Recorder, account, read, send, until
from tests.support.fake_backend import put_content
from tests.support.stores import open_store
from tests.support.world import World

TALK = bytes([7]) * 16
NAMES = ("alice", "bob", "carol")
START = 1_800_000_000_000


@dataclass(frozen=True)
class Written:
    """A message of a conversation, as it comes over the network."""

    id: bytes
    sender: str
    date: int
    parents: tuple[bytes, ...]


@st.composite
def talks(draw: st.DrawFn) -> list[Written]:
    """Messages with parents among those before them; clocks stand still, are wrong and go back."""
    written: list[Written] = []
    for number in range(draw(st.integers(1, 12))):
        some = (
            st.lists(st.sampled_from(written), max_size=3, unique=True) if written else st.just([])
        )
        parents = tuple(sorted(parent.id for parent in draw(some)))
        date = START + draw(st.integers(-3, 3)) * draw(st.sampled_from([0, 1, 86_400_000]))
        sender = draw(st.sampled_from(NAMES))
        id_ = bytes([draw(st.integers(0, 2)), number]) * 8
        written.append(Written(id_, sender, date, parents))
    return written


def lines(store: Store, talk: bytes = TALK) -> list[bytes]:
    """The ids of the messages as a transcript has them."""
    with store.read() as reader:
        known = {m.serial: m.id for m in history.load_messages(reader, talk)}
        found: list[Line] = history.transcript_entries(reader, talk, 0)
    return [known[line.serial] for line in sorted(found, key=lambda line: (line.place, line.tie))]


def come(store: Store, written: Written, now: int, *more: Written, talk: bytes = TALK) -> None:
    def change(writer: Writer) -> None:
        for number, one in enumerate((written, *more)):
            parents = tuple(ParentRef(one.sender, 2 * parent) for parent in one.parents)
            arrival = Arrival(
                2 * one.id, one.sender, one.date, parents, "",
                writer.next_number(Series.INODE), put_content(writer, one.id.hex().encode()), (),
            )  # fmt: skip
            history.add_message(writer, talk, arrival, now + number)

    store.write(change)


def begin(store: Store, talk: bytes = TALK) -> None:
    store.write(
        lambda writer: conversations.add_conversation(writer, talk, "alice", NAMES, "", START)
    )


@pytest.fixture(scope="module")
def shelf() -> Iterator[Store]:
    """One store for all examples."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        store = open_store(Path(place))
        yield store
        store.close()


@given(st.data(), talks())
@settings(max_examples=60, deadline=None)
def test_in_whatever_order_messages_come_the_transcript_is_the_same(
    shelf: Store, data: st.DataObject, written: list[Written]
) -> None:
    """At three with other clocks, who read when the half has come."""
    shown: list[list[bytes]] = []
    for clock in (START - 86_400_000, START, START + 999):
        talk = os.urandom(16)
        begin(shelf, talk)
        coming = data.draw(st.permutations(written)) if shown else written
        text, half = transcript(shelf, talk), len(coming) // 2
        for some in (coming[:half], coming[half:]):
            if some:
                come(shelf, some[0], clock, *some[1:], talk=talk)
            text.read(0, 1 << 20)
        shown.append(lines(shelf, talk))
        places = {id_: number for number, id_ in enumerate(shown[-1])}
        for each in written:
            assert all(places[parent] < places[each.id] for parent in each.parents)
        assert text.read(0, 1 << 20) == transcript(shelf, talk).read(0, 1 << 20)
    assert shown[1:] == shown[:1] * 2


def transcript(store: Store, talk: bytes = TALK) -> Transcript:
    """The one text, as the mount has it."""

    def extent() -> Extent:
        with store.read() as reader:
            return history.transcript_extent(reader, talk)

    def load(start: int) -> list[Line]:
        with store.read() as reader:
            return history.transcript_entries(reader, talk, start)

    def render(serial: int) -> bytes:
        with store.read() as reader:
            return history.transcript_entry(reader, talk, serial)

    return Transcript(extent, load, render)


def test_an_open_transcript_grows_at_its_end_only(tmp_path: Path) -> None:
    """As ``tail -f`` needs it, when a message comes that belongs before those that are there."""
    store = open_store(tmp_path)
    begin(store)
    first, late, last = (Written(bytes([n]) * 16, "bob", START + n, ()) for n in (1, 2, 3))
    come(store, first, START + 9)
    come(store, last, START + 9)
    whole = transcript(store)
    opened = Reading(whole)
    before = opened.read(0, 1 << 20)
    come(store, late, START + 9)
    assert lines(store) == [first.id, late.id, last.id]
    now = opened.read(0, 1 << 20)
    assert len(now) == whole.size
    assert now.startswith(before)
    assert opened.read(len(before), 1 << 20) == book_entry(store, 3)
    assert sorted(whole.read(0, 1 << 20)) == sorted(now)
    assert whole.read(0, 1 << 20) != now
    store.close()


def book_entry(store: Store, serial: int) -> bytes:
    with store.read() as reader:
        return history.transcript_entry(reader, TALK, serial)


def test_a_late_message_raises_a_bounded_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "REORDER_MAX", 5)
    store = open_store(tmp_path)
    begin(store)
    late = Written(bytes([99]) * 16, "bob", START + 1_000, ())
    before: tuple[bytes, ...] = (late.id,)
    for n in range(20):
        come(store, Written(bytes([n]) * 16, "bob", START + n, before), START + 2_000)
        before = (bytes([n]) * 16,)
    come(store, late, START + 2_000)
    with store.read() as reader:
        places = {m.serial: m.place for m in history.load_messages(reader, TALK)}
    assert sum(place >= START + 1_000 for place in places.values()) <= 5
    store.close()


def test_one_s_own_messages_are_in_order_whatever_the_clock_does(tmp_path: Path) -> None:
    """It stands still, and goes back by a day, while others write more than fits into the heads."""
    store = open_store(tmp_path)
    begin(store)
    own: list[bytes] = []
    for number, now in enumerate((START, START, START - 86_400_000, START + 5)):
        for other in range(20):
            id_ = bytes([100 + number]) * 8 + bytes([other]) * 8
            come(store, Written(id_, "bob", START - 10, ()), START)

        def change(writer: Writer, number: int = number, now: int = now) -> bytes:
            parents = history.parents_for(writer, TALK, "alice")
            assert len(parents) <= history.HEADS_MAX
            date = history.behind(writer, TALK, parents, now)
            arrival = Arrival(
                bytes([number]) * 32, "alice", date, parents, "",
                writer.next_number(Series.INODE), put_content(writer, b"x"), ("bob", "carol"),
            )  # fmt: skip
            return history.add_message(writer, TALK, arrival, now).id

        own.append(store.write(change))
    assert [id_ for id_ in lines(store) if id_ in own] == own
    with store.read() as reader:
        messages = [m for m in history.load_messages(reader, TALK) if m.sender == "alice"]
    assert [m.id for m in sorted(messages, key=lambda m: m.name)] == own
    store.close()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("order"), stack)


def said(engine: Engine) -> list[bytes]:
    """What the one conversation's transcript says, in its order."""
    (conversation,) = engine.conversations()
    found = sorted(engine.messages(conversation.id), key=lambda m: (m.place, m.id))
    return [read(engine, message) for message in found]


def test_what_was_written_while_the_server_was_off_comes_in_order(here: World) -> None:
    """Several times, as one time in some all is well by chance; the way itself keeps the order."""
    accounts = account(here, "alice"), account(here, "bob")

    async def main() -> None:
        async with running(accounts[0], NO_TOR) as alice, running(accounts[1], NO_TOR) as bob:
            view = Recorder()
            bob.attach(view)
            await send(alice, ("bob",), b"0")
            await until(lambda: view.arrived, "the first")
            for turn in range(4):
                here.server.end()
                for number in range(20):
                    await send(alice, ("bob",), b"%d %d" % (turn, number))
                here.server.start()
                await until(lambda turn=turn: len(view.arrived) == 20 * turn + 21, "all")
            expected = [b"0", *(b"%d %d" % (t, n) for t in range(4) for n in range(20))]
            assert [read(bob, message) for message in view.arrived] == expected
            assert said(bob) == said(alice) == expected

    trio.run(main)


def test_what_was_written_at_the_same_time_is_in_one_order(here: World) -> None:
    accounts = account(here, "carol"), account(here, "dave")

    async def main() -> None:
        async with running(accounts[0], NO_TOR) as carol, running(accounts[1], NO_TOR) as dave:
            await send(carol, ("dave",), b"first")
            await until(lambda: dave.conversations() and len(said(dave)) == 1, "the first")
            here.server.end()
            for number in range(8):
                await send(carol, ("dave",), b"carol %d" % number)
                await send(dave, ("carol",), b"dave %d" % number)
            here.server.start()
            await until(lambda: len(said(dave)) == len(said(carol)) == 17, "all")
            assert said(dave) == said(carol)

    trio.run(main)
