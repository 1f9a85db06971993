"""When notes leave and to whom, and what goes with messages that the user writes."""

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from cbfs.contacts.contact import Standing
from cbfs.contacts.held_session import only
from cbfs.context import Context
from cbfs.messages import history
from cbfs.messages.model import Delivery
from cbfs.messages.queues import delivery_queue, note_queue
from cbfs.messages.queues.note_queue import NOTHING, NoteItem, NoteKind, enqueue
from cbfs.sending.note_clock import NoteClock
from cbfs.sending.sealing import Sealing
from cbfs.storage.store import Writer
from cbfs_common.limits import BODY_MAX, NOTE_CLOCK, NOTE_IDS_MAX, NOTE_RECENT
from cbfs_common.messages.body import Part, encode_part, part_capacity, room_for_refs
from tests.support.healing_world import START, Client, World
from tests.support.parts import HERE
from tests.support.talking import seeded

DAY = 86_400.0
MONTH = NOTE_RECENT * 1_000


# the clock


class People:
    """A context's contacts, conversations and settings, which change as a test says."""

    def __init__(self) -> None:
        self.people: list[Any] = []
        self.wrote: dict[str, int] = {}
        self.now = START
        self.pace = 0.0
        self.configuration = SimpleNamespace(wait_changed=trio.sleep_forever)

    def add(
        self, name: str, *, wrote: int = 0, standing: Standing = Standing.KNOWN, **more: int
    ) -> None:
        """Somebody to whom the user has written at ``wrote``."""
        self.people.append(SimpleNamespace(name=name, standing=standing, blocked=0, **more))
        self.wrote[name] = wrote

    @property
    def contacts(self) -> Any:
        return SimpleNamespace(all=lambda: tuple(self.people))

    @property
    def conversations(self) -> dict[bytes, Any]:
        return {
            name.encode(): SimpleNamespace(id=name.encode(), participants=("alice", name))
            for name in self.wrote
        }

    def clock(self) -> int:
        return self.now

    @property
    def store(self) -> Any:
        return SimpleNamespace(read=lambda: _Nothing(self))


class _Nothing:
    """A reader of when one has written."""

    def __init__(self, people: People) -> None:
        self._people = people

    def __enter__(self) -> "_Nothing":
        return self

    def __exit__(self, *_arguments: object) -> None:
        pass

    def get(self, _table: object, key: bytes) -> bytes | None:
        wrote = self._people.wrote[key.removeprefix(b"wrote ").decode()]
        return wrote.to_bytes(8, "big") if wrote else None


def ticks(people: People, days: float, seed: str = "clock") -> list[tuple[float, str]]:
    """(when, to whom) for so long."""
    sent: list[tuple[float, str]] = []

    async def go() -> None:
        async def send(name: str) -> None:
            sent.append((trio.current_time(), name))

        async with trio.open_nursery() as nursery:
            clock = NoteClock(cast(Context, people), seeded(seed), send, nursery)
            nursery.start_soon(clock.run)
            await trio.sleep(days * DAY)
            nursery.cancel_scope.cancel()

    trio.run(go, clock=trio.testing.MockClock(autojump_threshold=0))
    return sent


@pytest.mark.parametrize("count", [1, 3, 200])
def test_as_many_notes_for_few_as_for_many(count: int) -> None:
    people = People()
    for number in range(count):
        people.add(f"peer-{number:03}", wrote=START - 1)
    sent = ticks(people, 10)
    expected = 10 * DAY / NOTE_CLOCK
    assert abs(len(sent) - expected) < 5 * expected**0.5
    counts = Counter(name for _at, name in sent)
    assert len(counts) == count
    share = len(sent) / count
    assert all(abs(n - share) < 6 * share**0.5 for n in counts.values())


def test_the_times_are_the_same_whoever_is_known() -> None:
    few, many = People(), People()
    for number in range(90):
        many.add(f"peer-{number:03}", wrote=START - 1)
    few.add("bob", wrote=START - 1)
    assert [at for at, _name in ticks(few, 3)] == [at for at, _name in ticks(many, 3)]


def test_only_what_the_user_has_done_counts() -> None:
    people = People()
    people.add("written", wrote=START - MONTH + 1)
    people.add("once", wrote=START - MONTH - 1)
    people.add("accepted")
    people.add("listed", standing=Standing.LISTED)
    people.add("stranger", standing=Standing.STRANGER)
    people.add("blocked", wrote=START - 1)
    people.people[-1].blocked = 1
    counts = Counter(name for _at, name in ticks(people, 10))
    assert counts.keys() == {"written", "once", "accepted"}
    # three in four to those written to lately, and all get the same share of the rest
    assert 8 < counts["written"] / counts["once"] < 13
    assert 0.7 < counts["once"] / counts["accepted"] < 1.4


def test_who_has_written_to_nobody_for_long_acknowledges_all_the_same() -> None:
    people = People()
    people.add("once", wrote=1)
    people.add("accepted")
    counts = Counter(name for _at, name in ticks(people, 10))
    assert set(counts) == {"once", "accepted"}
    assert sum(counts.values()) > 2_500


def test_nobody_is_told_anything_while_nobody_is_known() -> None:
    people = People()
    people.add("stranger", standing=Standing.STRANGER)
    assert not ticks(people, 10)


def test_with_a_pace_two_turns_in_three_are_left_for_messages() -> None:
    people = People()
    people.pace = 3_600.0
    people.add("bob", wrote=START - 1)
    assert abs(len(ticks(people, 50)) - 400) < 100


# notes in messages


@pytest.fixture
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        made = World(Path(place))
        made.begin(("alice", "bob"))
        yield made
        made.close()


def queue(client: Client, kind: NoteKind, count: int) -> list[bytes]:
    refs = [random.Random(number).randbytes(32) for number in range(count)]

    def change(writer: Writer) -> None:
        for ref in refs:
            enqueue(writer, {}, "bob", kind, ref, client.world.now, "bob")

    client.store.write(change)
    return refs


def queued(client: Client) -> list[NoteItem]:
    with client.store.read() as reader:
        return list(note_queue.items_for(reader, "bob"))


def sealed(client: Client, most: int = 99) -> list[Part]:
    """The parts that wait for bob, which are sealed."""
    bodies: list[Part] = []
    sealing = Sealing(client.context, lambda: b"")
    whole = sealing._noted

    def noted(part: Part, untold: list[NoteItem], told: list[NoteItem]) -> Part:
        part = whole(part, untold, told)
        bodies.append(part)
        return part

    sealing._noted = noted  # type: ignore[method-assign]
    bob = client.world.clients["bob"]
    chosen = client.chosen(bob)
    if chosen.first is None:
        chosen = only(client.session(bob))
    with client.store.read() as reader:
        _envelopes, jobs = delivery_queue.next_work(reader, "bob", most)
        step = sealing.parts(reader, "bob", jobs, most, chosen)
    client.store.write(step.write)
    step.done()
    return bodies


def test_what_is_owed_goes_with_a_message_and_takes_no_envelope(world: World) -> None:
    alice = world.clients["alice"]
    received, wanted = queue(alice, NoteKind.RECEIPT, 3), queue(alice, NoteKind.WANT, 2)
    alice.write(("bob",), b"x" * 24_000)
    parts = sealed(alice)
    assert [len(part.note) for part in parts] == [0, 0, 5]
    assert set(parts[-1].note.received) == set(received)
    assert set(parts[-1].note.wanted) == set(wanted)
    # told: receipts are settled, and what is missing is asked for again in its time
    assert [(item.kind, item.tries) for item in queued(alice)] == [(NoteKind.WANT, 1)] * 2
    alice.write(("bob",), b"more")
    assert [len(part.note) for part in sealed(alice)] == [0]


def test_no_more_goes_with_a_message_than_there_is_room_for(world: World) -> None:
    alice = world.clients["alice"]
    queue(alice, NoteKind.RECEIPT, NOTE_IDS_MAX)
    size = part_capacity(HERE.people(("alice", "bob")), "", "")
    alice.write(("bob",), bytes(size))
    alice.write(("bob",), b"short")
    full, short = sealed(alice)
    assert len(encode_part(full)) <= BODY_MAX
    assert len(full.note) == room_for_refs(full) < NOTE_IDS_MAX
    assert len(short.note) == NOTE_IDS_MAX - len(full.note)
    assert not queued(alice)


def test_a_chat_acknowledges_itself(world: World) -> None:
    """An answer is the receipt: no note is sent, and nothing is owed but for the last."""
    alice, bob = world.clients["alice"], world.clients["bob"]
    for number in range(4):
        for one, other in ((alice, bob), (bob, alice)):
            one.load()
            one.write((other.name,), b"%d" % number)
            one._deliver(other, again=False, fails=False)
            assert len(other.mail) == 1
            mail, other.mail = other.mail, []
            other.load()
            other.receive(mail)
    with alice.store.read() as reader:
        assert [item.kind for item in note_queue.items_for(reader, "bob")] == [NoteKind.RECEIPT]
    assert states(alice) == [Delivery.RECEIVED] * 4
    assert states(bob) == [Delivery.RECEIVED] * 3 + [Delivery.SENT]


def states(client: Client) -> list[Delivery]:
    with client.store.read() as reader:
        return [
            state
            for key in client.context.conversations
            for message in sorted(history.load_messages(reader, key), key=lambda m: m.date)
            if message.sender == client.name
            for _who, state in message.recipients
        ]


@pytest.mark.parametrize("kind", [NoteKind.TURN, NoteKind.NAME])
@pytest.mark.parametrize("later", [-1_000, 0, 1_000])
def test_what_is_owed_anew_while_a_note_leaves_is_told_after_it(
    world: World, kind: NoteKind, later: int
) -> None:
    """A copy was noticed just when a turn was told in a session that it gave up: nobody heard of
    it, until the clock ticked for them."""
    alice = world.clients["alice"]

    def owe(writer: Writer) -> None:
        enqueue(writer, {}, "bob", kind, NOTHING, world.now + later)

    alice.store.write(lambda writer: enqueue(writer, {}, "bob", kind, NOTHING, world.now))
    world.now += 1
    with alice.store.read() as reader:
        leaving = note_queue.draft(reader, "bob", world.now)
    assert leaving.items
    alice.store.write(owe)
    alice.store.write(lambda writer: note_queue.settle(writer, leaving.items, world.now))
    (owed,) = queued(alice)
    assert owed.due <= world.now + max(later, 0), "and not later than it was before"
