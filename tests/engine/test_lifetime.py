"""Lifetimes: which one counts, when a message ends by whose clock, and that it then goes, whatever
happens in between. A store, and a clock that the test sets."""

import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cbfs.contacts.contact import Contact
from cbfs.contacts.user_names import typed_name
from cbfs.engine.expiry import Timetable, end, forget
from cbfs.messages import conversations, history, lifetimes
from cbfs.messages.history import Arrival
from cbfs.messages.lifetimes import SLOT, Setting, parse, words
from cbfs.messages.model import Content, Conversation, Delivery, Message, Origin
from cbfs.messages.queues import delivery_queue
from cbfs.problems import Refused
from cbfs.receiving import message_requests
from cbfs.receiving.reassembly import Arrivals, Reception, store_part
from cbfs.storage.encoding import u32, u64
from cbfs.storage.store import Reader, Series, Store, Table, Writer
from cbfs.tree.virtual.metadata_file import Edit, read_changed, read_new, text_of
from cbfs_common.limits import (
    DATE_MAX,
    LIFETIME_CHANGE_MAX,
    LIFETIME_CHANGES_AHEAD,
    LIFETIME_WAIT,
    MESSAGE_LIFETIME_MAX,
    MESSAGE_LIFETIME_MIN,
)
from cbfs_common.messages.body import Part, encode_part
from cbfs_common.messages.conversation import (
    FOREVER,
    Lifetime,
    agreed,
    changed,
    end_of,
    is_lifetime,
)
from tests.support.fake_backend import BOB
from tests.support.parts import HERE, talk_id
from tests.support.stores import open_store

SECONDS = st.just(0) | st.integers(MESSAGE_LIFETIME_MIN, MESSAGE_LIFETIME_MAX)
LIFETIMES = st.builds(Lifetime, SECONDS, st.integers(1, 50)) | st.just(FOREVER)
START = 1_795_445_162_123
DAY = 86_400


# What counts


@given(LIFETIMES, LIFETIMES, LIFETIMES)
def test_all_who_have_the_same_messages_agree(a: Lifetime, b: Lifetime, c: Lifetime) -> None:
    assert agreed(a, b) == agreed(b, a)
    assert agreed(agreed(a, b), c) == agreed(a, agreed(b, c))
    assert agreed(a, a) == a
    assert agreed(a, b) in (a, b)
    assert agreed(a, FOREVER) == a


@given(LIFETIMES, SECONDS)
def test_a_change_counts_over_what_was_known(known: Lifetime, seconds: int) -> None:
    new = changed(known, seconds)
    assert new.seconds == seconds
    assert agreed(known, new) == new
    assert is_lifetime(new.seconds, new.change)


def test_of_two_changes_at_once_the_shorter_counts() -> None:
    known = Lifetime(0, 4)
    assert agreed(changed(known, 7 * DAY), changed(known, DAY)) == Lifetime(DAY, 5)
    assert agreed(changed(Lifetime(DAY, 4), 0), changed(Lifetime(DAY, 4), 60)) == Lifetime(60, 5)


def test_nobody_uses_up_the_numbers() -> None:
    far = Lifetime(10, LIFETIME_CHANGES_AHEAD + 1)
    assert agreed(FOREVER, far) == FOREVER
    assert agreed(FOREVER, replace(far, change=far.change - 1)) != FOREVER
    last = Lifetime(DAY, LIFETIME_CHANGE_MAX)
    assert is_lifetime(changed(last, 60).seconds, changed(last, 60).change)


@given(LIFETIMES, st.integers(0, 2**70), st.booleans())
def test_nothing_overflows(lifetime: Lifetime, now: int, waits: bool) -> None:
    ends = end_of(lifetime, now, waits=waits)
    assert 0 <= ends <= DATE_MAX
    assert bool(ends) == bool(lifetime.seconds)


@given(SECONDS)
def test_a_lifetime_is_read_as_it_is_written(seconds: int) -> None:
    assert parse(words(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10), ("30m", 1_800), ("12 h", 43_200), ("7d", 7 * DAY), ("", 0)]
)
def test_lifetimes(text: str, seconds: int) -> None:
    assert parse(text) == seconds


@pytest.mark.parametrize(
    "value",
    [7, True, None, "7", "d", "-7d", "7.5d", "9s", "367d", "53w", "99999999w", "7D", "\u0667d", []],
)
def test_what_is_no_lifetime(value: object) -> None:
    with pytest.raises(ValueError, match="like"):
        parse(value)


# metadata.toml

TALK = Conversation(bytes(16), ("alice", "bob"), "lunch", START, "folder", 1, 2)
SET = Setting(Lifetime(7 * DAY, 3), "bob", START)


@pytest.mark.parametrize("setting", [Setting(), SET])
def test_what_is_shown_changes_nothing_when_it_is_saved(setting: Setting) -> None:
    text = text_of(TALK, setting, str, editable=True)
    edit = read_changed(text.encode(), TALK, setting)
    assert edit == Edit(setting.lifetime.seconds if setting.source else None, ())
    assert read_new(text.encode())[1] == "lunch"


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x9b\u202e\u2028\x85")))
@example("\t")
def test_a_subject_is_shown_without_what_it_could_do(subject: str) -> None:
    """It was somebody else who wrote it; it can be read back as it was."""
    talk = replace(TALK, subject=subject)
    text = text_of(talk, SET, str, editable=True)
    assert not {c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Co")} - {"\n"}
    assert not set(text) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\ufeff")
    assert read_new(text.encode())[1] == subject
    assert read_changed(text.encode(), talk, SET) == Edit(SET.lifetime.seconds, ())


def test_a_lifetime_is_set_by_one_line() -> None:
    text = text_of(TALK, Setting(), str, editable=True)
    for data in ('lifetime = "7d"', text + 'lifetime = "7d"\n'):
        assert read_changed(data.encode(), TALK, Setting()) == Edit(7 * DAY, ())
    assert read_changed(b'lifetime = ""', TALK, SET) == Edit(0, ())
    assert read_new(b'participants = ["bob"]\nlifetime = "1h"') == (("bob",), "", 3_600)


def test_people_are_added_by_their_names() -> None:
    """In any order, once each, by what they are called; oneself may be left out."""
    talk = replace(TALK, participants=("alice", "bob", "carol"), left=("carol",))

    def called(text: str) -> str:
        return {"bobby": "bob", "eve": "erin"}.get(text, text)

    def label(name: str) -> str:
        return "@bob" if name == "bob" else name

    for names, more in (
        (["alice", "@bob"], ()),
        (["@bob"], ()),
        (["bobby", "dave", "Dave"], ("dave", "Dave")),
        (["eve", "@bob", "alice", "dave", "dave"], ("erin", "dave")),
    ):
        text = tomli_w.dumps({"participants": names}).encode()
        assert read_changed(text, talk, SET, label, called, "alice") == Edit(None, more)
    for names, why in (
        (["alice", "dave"], "bob cannot be taken out"),
        (["@bob", "carol"], "carol has left"),
        (["@bob", "a b"], "not a user name"),
    ):
        text = tomli_w.dumps({"participants": names}).encode()
        with pytest.raises(Refused, match=why):
            read_changed(text, talk, SET, label, typed_name, "alice")


@pytest.mark.parametrize(
    "text",
    [
        "participants = 3",
        "participants = [3]",
        "participants = []",
        'left = ["bob"]',
        'continues = "00"',
        'lifetime = "soon"',
        "lifetime = 7",
        'lifetme = "7d"',
        'participants = ["alice", "carol"]',
        'subject = "dinner"',
        "lifetime = ",
        "\0",
        "x = 1\n" * 20_000,
    ],
)
def test_what_may_not_be_said(text: str) -> None:
    with pytest.raises(Refused):
        read_changed(text.encode(), TALK, SET)


# Messages that end


@dataclass
class Kept:
    """What the machine knows of a message."""

    message: Message
    lifetime: Lifetime
    there: int
    waits: bool
    recipients: set[str] = field(default_factory=set)

    @property
    def ends(self) -> int:
        return end_of(self.lifetime, self.there, waits=self.waits)


class Ends(RuleBasedStateMachine):
    """One's own messages and others', files that arrive in part, deletions, deliveries, clocks that
    jump, and restarts. What is there is what has time left, and nothing of the rest."""

    talks = (bytes(16), bytes([1] * 16))

    def __init__(self) -> None:
        super().__init__()
        self._place = tempfile.TemporaryDirectory(prefix="cbfs-ends-")
        self.store = open_store(Path(self._place.name))
        self.now = START
        self.timetable = Timetable()
        self.kept: dict[int, Kept] = {}
        self.deleted: set[int] = set()  # by the user: what is queued of them is still delivered

    def teardown(self) -> None:
        self.store.close()
        self._place.cleanup()

    def change(self, change: Callable[[Writer], Any]) -> Any:
        return self.store.write(change)

    def read(self, look: Callable[[Reader], Any]) -> Any:
        with self.store.read() as reader:
            return look(reader)

    @initialize()
    def begin(self) -> None:
        people = ("alice", "bob", "carol")

        def change(writer: Writer) -> None:
            for key in self.talks:
                conversations.add_conversation(writer, key, "bob", people, "", START)

        self.change(change)

    @rule(
        talk=st.sampled_from(talks),
        seconds=st.just(0) | st.sampled_from([10, 60, 3_600, DAY, MESSAGE_LIFETIME_MAX]),
        own=st.booleans(),
        date=st.integers(0, DATE_MAX),
    )
    def add(self, talk: bytes, seconds: int, own: bool, date: int) -> None:
        """Whatever date the other side gives it."""
        lifetime = Lifetime(seconds, 1) if seconds else FOREVER

        def change(writer: Writer) -> Message:
            content = Content(writer.random_number(), 4, 65_536)
            writer.put(Table.CONTENT, u64(content.id) + u32(0), b"text")
            number = writer.next_number(Series.QUEUE)
            people = ("bob", "carol") if own else ()
            sender = "alice" if own else "bob"
            arrival = Arrival(
                number.to_bytes(32, "little"), sender, date, (), "", 1, content, people,
                lifetime=lifetime, origin=Origin(number.to_bytes(16, "big"), date, bytes(32)),
            )  # fmt: skip
            message = history.add_message(writer, talk, arrival, self.now)
            known = conversations.get_conversation(writer, talk)
            assert known is not None
            if own:
                delivery_queue.add_jobs(writer, message, delivery_queue.job_for(message, known))
            return message

        message = self.change(change)
        self.kept[message.serial] = Kept(message, lifetime, self.now, own, set(message_to(message)))
        self.note(message)

    def note(self, message: Message) -> None:
        if message.ends:
            self.timetable.note(self.read(lambda r: lifetimes.end_of_message(r, message)))

    @rule(data=st.data(), who=st.sampled_from(["bob", "carol"]))
    def deliver(self, data: st.DataObject, who: str) -> None:
        """The first that waits for one recipient is at the server."""
        job = self.read(lambda r: delivery_queue.first_job(r, who))
        if job is None:
            return

        def change(writer: Writer) -> list[Message]:
            (envelope,) = delivery_queue.save_sealed(writer, job, [b"sealed"])
            return delivery_queue.finish(writer, [envelope.key], {}, self.now)

        moved = self.change(change)
        kept = self.kept.get(job.serial)
        if kept is None:
            return
        kept.recipients.discard(who)
        if not kept.recipients:
            kept.there, kept.waits = min(self.now, kept.there + LIFETIME_WAIT * 1_000), False
        (message,) = moved
        kept.message = message
        self.note(message)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if self.kept:
            serial = data.draw(st.sampled_from(sorted(self.kept)))
            message = self.kept.pop(serial).message
            self.deleted.add(serial)
            self.change(lambda writer: forget(writer, message, {}, self.now))

    @rule(seconds=st.sampled_from([1, 9, 60, 3_600, 8 * DAY, -DAY]))
    def wait(self, seconds: int) -> None:
        """The clock goes on, or is set back."""
        self.now += seconds * 1_000

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = open_store(Path(self._place.name))
        self.timetable = Timetable()

    @rule()
    def crash_in_a_deletion(self) -> None:
        """The transaction fails: what was due comes again."""
        self.read(lambda reader: self.timetable.due(reader, self.now, 3))
        self.timetable.reread()

    @invariant()
    def nothing_is_there_whose_time_is_over(self) -> None:
        while due := self.read(lambda reader: self.timetable.due(reader, self.now, 2)):
            assert len(set(due)) == len(due)
            for ended in self.change(partial(end, ends=due, now=self.now)).messages:
                kept = self.kept.pop(ended.message.serial)
                assert kept.ends <= self.now
                assert set(ended.missed) == kept.recipients
        left = {serial: kept.ends for serial, kept in self.kept.items()}
        assert all(ends == 0 or ends > self.now for ends in left.values())
        assert left == self.read(self.there)
        self.read(self.no_rest)

    def there(self, reader: Reader) -> dict[int, int]:
        return {
            m.serial: m.ends for talk in self.talks for m in history.load_messages(reader, talk)
        }

    def no_rest(self, reader: Reader) -> None:
        """Records are of what is there, and all of it."""
        ending = [kept.message for kept in self.kept.values() if kept.ends]
        keys = {lifetimes.end_of_message(reader, message).key for message in ending}
        assert set(reader.keys(Table.ENDS)) == keys
        assert lifetimes.slots(reader) == sorted({m.ends // SLOT for m in ending})
        talks = [message.conversation for message in ending]
        assert lifetimes.counts(reader) == {talk: talks.count(talk) for talk in set(talks)}
        jobs = [job for who in ("bob", "carol") for job in delivery_queue.pending(reader, who)]
        queued = {job.serial for job in jobs}
        assert queued - self.deleted == {s for s, kept in self.kept.items() if kept.recipients}
        contents = {int.from_bytes(key[:8], "big") for key in reader.keys(Table.CONTENT)}
        assert len(contents) == len(self.kept) + len(queued & self.deleted)
        if ending:
            assert self.timetable.next(reader) == min(
                lifetimes.end_of_message(reader, message) for message in ending
            )
        else:
            assert self.timetable.next(reader) is None


def message_to(message: Message) -> list[str]:
    return [who for who, state in message.recipients if state is Delivery.QUEUED]


TestEnds = Ends.TestCase
TestEnds.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


# What others send


def said(text: bytes, number: int, count: int, lifetime: Lifetime) -> Part:
    """A part, of ten bytes, of what bob sends."""
    whole = text * count
    people = ("alice", "bob")
    return Part(
        salt=blake2b(text, digest_size=16).digest(),
        conversation=talk_id(people),
        parents=(),
        participants=HERE.people(people),
        subject="",
        date=DATE_MAX,
        file_name="",
        number=number,
        count=count,
        size=len(whole),
        digest=blake2b(whole, digest_size=32).digest(),
        chunk=text,
        bundle=b"",
        lifetime=lifetime,
    )


def take(store: Store, part: Part, now: int) -> None:
    receiving = Reception("alice", now, 0, receipts=False, directories=HERE)
    store.write(lambda writer: store_part(writer, Arrivals({}), receiving, "bob", part))


def end_all(store: Store, now: int) -> None:
    timetable = Timetable()
    while True:
        with store.read() as reader:
            due = timetable.due(reader, now, 100)
        if not due:
            return
        store.write(partial(end, ends=due, now=now))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = open_store(tmp_path)
    yield made
    made.close()


def test_what_has_come_in_part_goes_as_well(store: Store) -> None:
    for text in (b"0123456789", b"9876543210"):
        take(store, said(text, 0, 2, Lifetime(60, 1)), START)
    end_all(store, START + 59_000)
    take(store, said(b"9876543210", 1, 2, Lifetime(60, 1)), START + 59_000)
    with store.read() as reader:
        assert reader.count(Table.PARTS) == 1
        assert reader.count(Table.MESSAGES) == 1
    end_all(store, START + 60_000)
    with store.read() as reader:
        assert reader.count(Table.PARTS) == 0
        assert len(list(reader.keys(Table.CONTENT))) == 2
        (message,) = history.load_messages(reader, said(b"", 0, 1, FOREVER).conversation)
        assert message.ends == START + 119_000
    end_all(store, START + 119_000)
    with store.read() as reader:
        assert not [k for t in (Table.CONTENT, Table.MESSAGES, Table.ENDS) for k in reader.keys(t)]
        assert not lifetimes.slots(reader)


def test_what_waits_in_a_request_goes_as_well(store: Store) -> None:
    contact = Contact(BOB, START)
    for text, lifetime in ((b"soon", Lifetime(60, 1)), (b"later", FOREVER), (b"now", FOREVER)):
        body = encode_part(said(text, 0, 1, lifetime))
        hold = partial(message_requests.hold, contact=contact, body=body, now=START, session=b"")
        assert store.write(hold)
    with store.read() as reader:
        found = message_requests.request(reader, HERE, "bob")
        assert found is not None
        assert (found.head, found.messages) == (b"soon", 3)
    end_all(store, START + 60_000)
    with store.read() as reader:
        found = message_requests.request(reader, HERE, "bob")
        assert found is not None
        assert (found.head, found.messages) == (b"later", 2)
        assert not list(reader.keys(Table.ENDS))


def test_a_message_that_is_far_ahead_changes_nothing_but_itself(store: Store) -> None:
    key = said(b"", 0, 1, FOREVER).conversation
    take(store, said(b"one", 0, 1, Lifetime(DAY, 2)), START)
    take(store, said(b"two", 0, 1, Lifetime(60, LIFETIME_CHANGE_MAX)), START)
    take(store, said(b"three", 0, 1, Lifetime(60, 1)), START)
    with store.read() as reader:
        assert lifetimes.setting(reader, key) == Setting(Lifetime(DAY, 2), "bob", START)
        kept = [message.ends - START for message in history.load_messages(reader, key)]
    assert kept == [DAY * 1_000, 60_000, 60_000]
