"""What is listed of messages: pages in step with the messages, and made again where they lack."""

from dataclasses import replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.messages import conversations, history, listings
from cbfs.messages.history import Arrival
from cbfs.messages.listings import PAGE_SIZE, entry_of, listed
from cbfs.messages.model import Message
from cbfs.receiving.lost_state import begun_anew, make_listings, notice_loss
from cbfs.storage.store import Meta, Store, Table, Writer
from tests.bench.at_size import STARTED, make_account
from tests.support.counted import counting
from tests.support.fake_backend import NAME, put_content
from tests.support.stores import open_store
from tests.tree.test_index import message, opened

CONVERSATIONS = bytes([1]) * 16, bytes([2]) * 16


class Pages(RuleBasedStateMachine):
    """Messages come to two conversations, many at once, and go; a listing has those that are
    there, in order, from anywhere on."""

    @initialize()
    def begin(self) -> None:
        self.context = opened()
        self.store = self.context.__enter__()
        self.there: dict[bytes, list[Message]] = {key: [] for key in CONVERSATIONS}
        self.serial = 0
        for key in CONVERSATIONS:
            self.store.write(lambda writer, key=key: writer.put(Table.CONVERSATIONS, key, b""))  # type: ignore[misc]

    def teardown(self) -> None:
        self.context.__exit__(None, None, None)

    @rule(
        key=st.sampled_from(CONVERSATIONS),
        count=st.integers(1, 70),
        name=st.text("abcä", min_size=1, max_size=120),
    )
    def come(self, key: bytes, count: int, name: str) -> None:
        fresh = []
        for _ in range(count):
            self.serial += 1
            made = message(self.serial, key, "bob", self.serial)
            fresh.append(replace(made, name=f"{self.serial}Z-{name}"))

        def change(writer: Writer) -> None:
            for one in fresh:
                listings.add(writer, one)

        self.store.write(change)
        self.there[key] += fresh

    @rule(key=st.sampled_from(CONVERSATIONS), data=st.data())
    def go(self, key: bytes, data: st.DataObject) -> None:
        there = self.there[key]
        if not there:
            return
        gone = data.draw(st.lists(st.sampled_from(there), unique_by=id, max_size=40))

        def change(writer: Writer) -> None:
            for one in gone:
                listings.remove(writer, one)
                listings.remove(writer, one)  # a second time is nothing

        self.store.write(change)
        serials = {one.serial for one in gone}
        self.there[key] = [one for one in there if one.serial not in serials]

    @rule(key=st.sampled_from(CONVERSATIONS), data=st.data())
    def be_renamed(self, key: bytes, data: st.DataObject) -> None:
        there = self.there[key]
        if not there:
            return
        at = data.draw(st.integers(0, len(there) - 1))
        there[at] = replace(there[at], name=f"renamed {data.draw(st.integers(0, 9))}")
        self.store.write(lambda writer: listings.change(writer, there[at]))

    @rule(key=st.sampled_from(CONVERSATIONS), start=st.integers(0, 300), most=st.integers(1, 90))
    def look(self, key: bytes, start: int, most: int) -> None:
        expected = [entry_of(one) for one in self.there[key] if one.serial >= start]
        with self.store.read() as reader:
            assert listed(reader, key, start, most) == expected[:most]
            assert list(listings.every(reader, key, start)) == expected

    @invariant()
    def pages_are_small(self) -> None:
        with self.store.read() as reader:
            for _key, page in reader.items(Table.LISTINGS):
                assert 0 < len(page) <= PAGE_SIZE


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=30, stateful_step_count=12, deadline=None)


def pages(store: Store) -> list[tuple[bytes, bytes]]:
    with store.read() as reader:
        return sorted(reader.items(Table.LISTINGS))


def test_pages_that_lack_are_made_at_the_start(tmp_path: Path) -> None:
    """As in a store of an earlier version, or one that was restored."""
    make_account(tmp_path, conversations=3, messages=400)
    store = open_store(tmp_path)
    there = pages(store)
    assert len(there) >= 3 * 2
    store.write(lambda writer: writer.delete_prefix(Table.LISTINGS, b""))
    make_listings(store)
    assert pages(store) == there
    store.write(lambda writer: writer.delete_prefix(Table.LISTINGS, b""))
    make_listings(store)  # only once
    assert pages(store) == []
    store.write(lambda writer: writer.delete(Table.META, Meta.LISTED))
    make_listings(store)
    assert pages(store) == there
    store.close()


def test_with_whom_messages_were_exchanged_is_known_without_reading_them(tmp_path: Path) -> None:
    """At the first mount of an account that was restored; and made again where it lacks."""
    make_account(tmp_path, conversations=3, messages=400)
    store = open_store(tmp_path)
    senders = {f"person{number:06}" for number in range(3)}
    with store.read() as reader:
        there = conversations.met(reader)
    assert there == senders
    with counting() as read:
        notice_loss(store, NAME, STARTED, SYSTEM_RANDOM)
    assert read[Table.MESSAGES] == 0
    with store.read() as reader:
        assert begun_anew(reader) == (STARTED, tuple(sorted(senders)))
    store.write(lambda writer: writer.delete_prefix(Table.META, Meta.MET))
    store.write(lambda writer: writer.delete(Table.META, Meta.LISTED))
    make_listings(store)
    with store.read() as reader:
        assert conversations.met(reader) == senders
    store.close()


def test_a_page_begins_with_its_first_message_even_when_that_goes(tmp_path: Path) -> None:
    make_account(tmp_path, conversations=1, messages=70)
    store = open_store(tmp_path)
    with store.read() as reader:
        (key,) = conversations.load_conversations(reader)
        messages = history.load_messages(reader, key)
    (first, _), (second, _) = pages(store)
    boundary = int.from_bytes(second[16:], "big")

    def change(writer: Writer) -> None:
        for one in messages:
            if one.serial in {1, boundary}:
                history.remove_message(writer, one)

    store.write(change)
    left = [entry_of(one) for one in messages if one.serial not in {1, boundary}]
    with store.read() as reader:
        assert listed(reader, key, 0, 200) == left
        assert listed(reader, key, boundary, 200) == [e for e in left if e[0] > boundary]
    assert [page for page, _data in pages(store)] == [first, second]

    def come(writer: Writer) -> None:
        arrival = Arrival(
            SYSTEM_RANDOM.token(32), "bob", STARTED, (), "", 0, put_content(writer, b"x"), ()
        )
        history.add_message(writer, key, arrival, STARTED)

    store.write(come)
    with store.read() as reader:
        assert len(listed(reader, key, 0, 200)) == len(left) + 1
    store.close()
