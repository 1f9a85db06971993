"""What a peer may send who has a session and wants to do harm: nothing crashes, nothing grows
without bound, nobody is shown as the sender of what they did not write."""

import pkgutil
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgpack
import pytest

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.messages.history import load_messages
from cbfs.messages.model import Delivery, Message, parents_said
from cbfs.messages.queues import note_queue
from cbfs.messages.queues.note_queue import NoteKind
from cbfs.messages.queues.quarantine import Why
from cbfs.storage.store import Table, Writer
from cbfs_common.limits import (
    ASKS_MAX,
    BODY_MAX,
    BUNDLE_MAX,
    DATE_MAX,
    FILE_SIZE_MAX,
    INCOMPLETE_MAX,
    MESSAGE_LIFETIME_MAX,
    NOTE_IDS_MAX,
    PARENTS_MAX,
    SKIP_MAX,
    WANTED_MAX,
)
from cbfs_common.messages.body import (
    Note,
    Parent,
    Part,
    Refs,
    decode_body,
    encode_note,
    encode_part,
)
from cbfs_common.messages.folder import TOP, FolderEntry, encode_table
from cbfs_common.person import Person
from tests.support.healing_world import Client, World
from tests.support.parts import HERE, sole_part, talk_id, who

PEOPLE = ("alice", "mallory")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.begin(("alice", "bob", "mallory"))
    yield made
    made.close()


def part(text: bytes = b"hello", people: tuple[str, ...] = PEOPLE, subject: str = "") -> Part:
    return sole_part(text, people, subject=subject)


class Mallory:
    """Seals any body for alice."""

    def __init__(self, world: World) -> None:
        self.client, self.alice = world.clients["mallory"], world.clients["alice"]
        self._session = self.client.session(self.alice)

    def seal(self, body: bytes) -> bytes:
        batch = self.client.context.sessions.batch()
        envelope = batch.seal(self._session, "alice", body, 1)
        batch.done()
        self._session = self.client.context.sessions.get("alice", self._session.id) or self._session
        return envelope

    def send(self, *bodies: bytes) -> None:
        self.alice.receive([self.seal(body) for body in bodies])


def messages(client: Client) -> list[Message]:
    with client.store.read() as reader:
        return [m for key in client.context.conversations for m in load_messages(reader, key)]


def count(client: Client, table: Table) -> int:
    with client.store.read() as reader:
        return len(list(reader.keys(table)))


def test_a_message_of_a_participant_is_shown(world: World) -> None:
    Mallory(world).send(encode_part(part()))
    assert [m.sender for m in messages(world.clients["alice"])] == ["mallory"]


WRONG = {
    "without the sender": part(people=("alice", "bob")),
    "without the receiver": part(people=("bob", "mallory")),
    "under the id of others": replace(part(), conversation=talk_id(("alice", "bob"))),
    "under the id of another subject": replace(part(), subject="lunch"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_participants_are_refused(name: str, world: World) -> None:
    Mallory(world).send(encode_part(WRONG[name]))
    alice = world.clients["alice"]
    assert not alice.context.conversations
    assert "dropped" in " ".join(alice.context.problems.lines())


def test_a_conversation_does_not_change_its_participants(world: World) -> None:
    mallory, first = Mallory(world), part()
    mallory.send(encode_part(first))
    other = part(people=("alice", "bob", "mallory"))
    mallory.send(encode_part(replace(other, conversation=first.conversation)))
    assert len(messages(world.clients["alice"])) == 1


def test_nobody_writes_in_the_name_of_another(world: World) -> None:
    """In a conversation of three, what mallory sends is mallory's, whatever it repeats."""
    alice, bob = world.clients["alice"], world.clients["bob"]
    written = bob.write(("alice", "mallory"), b"of bob")
    bob.pump(fails=False)
    alice.receive(alice.mail)
    people = ("alice", "bob", "mallory")
    (of_bob,) = messages(alice)
    bob.load()
    sent = replace(
        part(b"of bob", people),
        salt=_salt_of(bob, of_bob),
        conversation=of_bob.conversation,
        date=world.now,
    )
    assert sent.hash(who("bob")) == of_bob.hash
    forged = replace(sent, chunk=b"forged", digest=blake2b(b"forged", digest_size=32).digest())
    Mallory(world).send(encode_part(sent), encode_part(forged))
    shown = [(m.sender, m.id) for m in messages(alice)]
    assert shown == [
        ("bob", written.id),
        ("mallory", sent.hash(who("mallory"))[:16]),
        ("mallory", forged.hash(who("mallory"))[:16]),
    ]
    assert [text for sender, _, _, text in alice.shown() if sender == "bob"] == [b"of bob"]


def _salt_of(client: Client, message: Message) -> bytes:
    """Of one that this client has written: all whom it was sent to know it."""
    (own,) = (m for m in messages(client) if m.hash == message.hash)
    assert own.origin is not None
    return own.origin.salt


BAD_NAMES = (
    "../../x",
    "a/b",
    "..",
    ".hidden",
    "-rf",
    "a\x00b",
    "a\nb",
    "\u202egpj.exe",
    "CON\u2028x",
)


@pytest.mark.parametrize("bad", BAD_NAMES)
def test_bad_names_become_harmless(bad: str, world: World) -> None:
    evil = part(b"x", subject=bad[:200])
    Mallory(world).send(encode_part(replace(evil, file_name=f"{bad}.txt")))
    alice = world.clients["alice"]
    (conversation,) = alice.context.conversations.values()
    (message,) = messages(alice)
    for shown in (conversation.folder, message.name):
        assert "/" not in shown
        assert shown not in (".", "..")
        assert not shown.startswith((".", "-"))
        assert not any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") for c in shown)


def test_nobody_dates_what_others_have_written(world: World) -> None:
    """mallory has bob's message before alice has it, and names it in one that is dated 1970."""
    mallory, alice, bob = Mallory(world), world.clients["alice"], world.clients["bob"]
    written = bob.write(("alice", "mallory"), b"of bob")
    bob.pump(fails=False)
    bob.load()
    (parent,) = (message.as_parent for message in messages(bob))
    answer = part(b"answer", ("alice", "bob", "mallory"))
    mallory.send(encode_part(replace(answer, date=0, parents=parents_said(HERE, [parent]))))
    alice.receive(alice.mail)
    assert {m.sender: m.date for m in messages(alice)} == {"mallory": 0, "bob": world.now}
    (order,) = alice.transcripts().values()
    assert order[0] == written.id
    assert len(order) == 2


def test_a_future_date_is_shown_as_the_time_of_receipt(world: World) -> None:
    Mallory(world).send(encode_part(replace(part(), date=DATE_MAX)))
    (message,) = messages(world.clients["alice"])
    assert message.date <= world.now


def refs(number: int) -> tuple[bytes, ...]:
    return tuple(SYSTEM_RANDOM.token(32) for _ in range(number))


def _said(people: Iterable[Person]) -> list[bytes]:
    """People as a body has them."""
    return [person.directory + person.name.encode() for person in people]


def raw(**fields: object) -> bytes:
    """A body that ``encode_part`` would not make."""
    good = part()
    names = tuple(Part.__dataclass_fields__)
    plain = names[: names.index("bundle") + 1]
    people = _said(good.participants)
    values = [fields.get(n, people if n == "participants" else getattr(good, n)) for n in plain]
    kept = fields.get("lifetime", 0), fields.get("change", 0)
    note = fields.get("note", ((),) * 4)
    data: bytes = msgpack.packb((1, 1, *values, *kept, note, b""))
    return data


def test_what_is_not_changed_is_a_message() -> None:
    assert isinstance(decode_body(raw()), Part)


REFUSED = {
    "oversize": raw(size=FILE_SIZE_MAX + 1),
    "too many parts": raw(count=10**6, size=10**6, chunk=b"x"),
    "a negative date": raw(date=-1),
    "a date after the last": raw(date=DATE_MAX + 1),
    "a text that is none": raw(file_name=b"bytes"),
    "a lifetime past the limit": raw(lifetime=MESSAGE_LIFETIME_MAX + 1, change=1),
    "a lifetime that nobody set": raw(lifetime=MESSAGE_LIFETIME_MAX, change=0),
    "participants twice": raw(participants=_said(map(who, ("alice", "alice", "mallory")))),
    "parents twice": raw(parents=(bytes(33), bytes(33))),
    "a parent of two authors": raw(parents=(bytes(33), b"\1" + bytes(32))),
    "a parent of nobody": raw(parents=(b"\2" + bytes(32),)),
    "a parent without an author": raw(parents=(bytes(32),)),
    "a chunk of another size": raw(size=9),
    "a note of three lists": raw(note=((), (), ())),
    "a note that is none": raw(note=b""),
    "a note of a list that is none": raw(note=((), b"", (), ())),
    "a note with what is no message": raw(note=((bytes(31),), (), (), ())),
    "a note with lists in it": raw(note=(((),), (), (), ())),
    "a note with one twice": raw(note=((), (bytes(32), bytes(32)), (), ())),
    "a note with one too many": raw(note=((), (), refs(NOTE_IDS_MAX + 1), ())),
    "nothing": b"",
    "noise": bytes(range(256)) * 8,
    "a deep array": b"\x91" * BODY_MAX,
    "a map that claims to be large": b"\xdf\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_message_is_kept_and_not_shown(name: str, world: World) -> None:
    Mallory(world).send(REFUSED[name])
    alice = world.clients["alice"]
    assert not messages(alice)
    assert count(alice, Table.QUARANTINE) == 1


@pytest.mark.parametrize("first", [True, False], ids=["that begins a session", "of one"])
def test_a_message_of_a_later_version_is_read_when_the_program_is_newer(
    first: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mallory, alice = Mallory(world), world.clients["alice"]
    if not first:
        mallory.send(encode_part(part(b"before")))
    later = part(b"of version 2")
    _version, *fields = msgpack.unpackb(encode_part(later))
    mallory.send(msgpack.packb([2, *fields]), encode_part(part(b"after")))
    shown = 1 + (not first)
    assert len(messages(alice)) == shown, "what came before and after it is read"
    with alice.store.read() as reader:
        ((_key, data),) = reader.items(Table.QUARANTINE)
    assert data[:1] == Why.VERSION.value
    for _ in range(2):  # no newer program yet
        alice.load()
        alice.retry()
        assert len(messages(alice)) == shown
        assert count(alice, Table.QUARANTINE) == 1
    monkeypatch.setattr("cbfs_common.messages.body.BODY_VERSION", 2)
    alice.load()
    alice.retry()
    assert later.hash(who("mallory")) in {m.hash for m in messages(alice)}
    assert len(messages(alice)) == shown + 1
    assert count(alice, Table.QUARANTINE) == 0


def test_endless_parts_are_forgotten(world: World) -> None:
    mallory, alice = Mallory(world), world.clients["alice"]
    for _ in range(INCOMPLETE_MAX + 20):
        evil = replace(part(b"x" * 100), count=5, size=500, number=1)
        mallory.send(encode_part(evil))
    assert count(alice, Table.PARTS) == INCOMPLETE_MAX
    assert count(alice, Table.CONTENT) == INCOMPLETE_MAX
    # and what is whole still arrives
    mallory.send(encode_part(part()))
    assert len(messages(alice)) == 1


UNEQUAL = [{"number": 1, "chunk": b"b" * 50}, {"number": 2, "chunk": b"c" * 10}]
OF_TWO = [{"number": 1, "count": 2, "chunk": b"a" * 65}]


@pytest.mark.parametrize(("others", "kept"), [(UNEQUAL, 0), (OF_TWO, 1)])
def test_parts_that_do_not_fit_together_are_no_message(
    world: World, others: list[dict[str, Any]], kept: int
) -> None:
    """All of a message that is whole by its count are dropped, else the one that does not fit."""
    whole = blake2b(b"a" * 60 + b"b" * 60 + b"c" * 10, digest_size=32).digest()
    first = replace(part(b"a" * 60), count=3, size=130, digest=whole)
    parts = [first, *(replace(first, **each) for each in others)]
    assert len({each.hash(who("mallory")) for each in parts}) == 1
    Mallory(world).send(*(encode_part(each) for each in parts[::-1]))
    alice = world.clients["alice"]
    assert not messages(alice)
    assert count(alice, Table.CONTENT) == kept
    assert "fit together" in " ".join(alice.context.problems.lines())


HEAD = encode_table([FolderEntry(TOP, "a", 5), FolderEntry(TOP, "b", None), FolderEntry(2, "c", 3)])
NO_FOLDERS = {
    "nothing": b"",
    "no table": b"hello",
    "a table longer than all": (1 << 19).to_bytes(4, "big") + b"hello",
    "a byte too few": HEAD + b"1234567",
    "a byte too many": HEAD + b"123456789",
    "a way out": HEAD.replace(b"\xa1c", b"\xa1/") + b"12345678",
}


def folder_of(content: bytes) -> Part:
    return replace(part(content), file_name="photos", folder=True)


def test_a_folder_whose_table_is_none_never_appears(world: World) -> None:
    mallory, alice = Mallory(world), world.clients["alice"]
    mallory.send(*(encode_part(folder_of(content)) for content in NO_FOLDERS.values()))
    assert not messages(alice)
    assert not count(alice, Table.CONTENT)
    assert not count(alice, Table.PARTS)
    mallory.send(encode_part(folder_of(HEAD + b"12345678")))
    (shown,) = messages(alice)
    assert shown.folder
    assert shown.name.endswith("Z-mallory-photos")


def test_parts_of_which_some_say_folder_are_of_two_messages(world: World) -> None:
    """Whatever they say, nothing that is no folder is shown as one."""
    mallory, alice = Mallory(world), world.clients["alice"]
    content = b"0123456789"
    whole = replace(part(content), file_name="x.txt")
    parts = [
        replace(whole, number=n, count=2, chunk=content[5 * n : 5 * n + 5], folder=bool(n))
        for n in range(2)
    ]
    mallory.send(*map(encode_part, parts))
    assert not messages(alice)
    again = SYSTEM_RANDOM.token(16)
    mallory.send(*(encode_part(replace(each, salt=again)) for each in reversed(parts)))
    assert not messages(alice)
    mallory.send(encode_part(replace(parts[0], folder=True)))
    assert not messages(alice), "its content is no folder"
    mallory.send(encode_part(replace(parts[1], folder=False)))
    (shown,) = messages(alice)
    assert not shown.folder


def test_a_message_is_taken_once(world: World) -> None:
    """Also when its sender was restored from a backup, and sends the draft once more."""
    first = part(b"first")
    again = replace(first, date=first.date + 1, parents=(Parent(who("alice"), bytes(32)),))
    Mallory(world).send(*map(encode_part, (first, first, again)))
    assert [text for *_, text in world.clients["alice"].shown()] == [b"first"]


BUNDLES = {
    "none": b"",
    "noise": bytes(range(256)) * 4,
    "a map that claims to be large": b"\xdf\xff\xff\xff\xff",
    "of the wrong types": msgpack.packb([1, "2", [3], None]),
    "as large as can be": bytes(BUNDLE_MAX),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_a_stranger_whose_bundle_is_none_stops_nobody(name: str, world: World) -> None:
    """It is kept, once, and what came with it and after it is shown."""
    alice, bob = world.clients["alice"], world.clients["bob"]
    alice.strangers = {"mallory"}
    alice.load()
    bob.write(("alice",), b"of bob")
    bob.pump(fails=False)
    mallory = Mallory(world)
    evil = mallory.seal(encode_part(replace(part(), bundle=BUNDLES[name])))
    alice.receive([evil, *alice.mail])
    assert [text for *_, text in alice.shown()] == [b"of bob"]
    assert count(alice, Table.QUARANTINE) == 1
    assert not any("directory" in line for line in alice.context.problems.lines())


FAULTS = (KeyError("secret"), RecursionError(), MemoryError(), UnicodeError("secret"))
PLACES = ("decode_body", "known_sender", "store_part", "message_requests.is_free")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_fault_of_our_own_costs_one_envelope(
    place: str,
    fault: Exception,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In opening it or in storing it: the others of its batch are shown, it is kept, and is shown
    when the program is mended."""
    mallory, alice, bob = Mallory(world), world.clients["alice"], world.clients["bob"]
    bob.write(("alice",), b"of bob")
    bob.pump(fails=False)
    fatal = part(b"fatal")
    owner, _, name = f"cbfs.receiving.incoming.{place}".rpartition(".")
    real = pkgutil.resolve_name(f"{owner}.{name}")

    def broken(*arguments: object, **named: object) -> object:
        if "fatal" in repr(arguments):
            raise fault
        return real(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(f"{owner}.{name}", broken)
        fatal_one = mallory.seal(encode_part(fatal))
        after = mallory.seal(encode_part(part(b"after")))
        for _ in range(2):  # a server that did not hear that it was taken
            alice.receive([fatal_one, *alice.mail, after])
        assert sorted(text for *_, text in alice.shown()) == [b"after", b"of bob"]
        with alice.store.read() as reader:
            assert [data[:1] for _key, data in reader.items(Table.QUARANTINE)] == [Why.FAULT.value]
        assert any("fault" in line for line in alice.context.problems.lines())
        assert type(fault).__name__ in caplog.text
        assert "incoming.py" in caplog.text
        assert "secret" not in caplog.text
    alice.load()
    alice.retry()
    assert b"fatal" in [text for *_, text in alice.shown()]
    assert count(alice, Table.QUARANTINE) == 0


def test_skipped_numbers_up_to_the_limit_and_past_it(world: World) -> None:
    mallory, alice = Mallory(world), world.clients["alice"]
    sealed = [mallory.seal(encode_part(part(b"%d" % n))) for n in range(SKIP_MAX + 3)]
    alice.receive([sealed[0]])
    life = alice.context.sessions.lives("mallory").own
    alice.receive([sealed[-1]])  # one too far
    assert len(messages(alice)) == 1
    with alice.store.read() as reader:
        kept = [data[:1] for _key, data in reader.items(Table.QUARANTINE)]
        assert kept == [Why.FAR.value]
    # a server can drop as many: nothing is given up for it
    assert alice.context.sessions.lives("mallory").own == life
    assert alice.context.sessions.is_heard("mallory")
    alice.receive([sealed[-2]])  # just near enough; the other is tried again then
    assert len(messages(alice)) == 3
    assert count(alice, Table.QUARANTINE) == 0


def test_notes_bring_about_little(world: World) -> None:
    """Wanted, offered and received: what was never there, or belongs to others."""
    mallory, alice, bob = Mallory(world), world.clients["alice"], world.clients["bob"]
    written = alice.write(("bob",), b"for bob")
    alice.load()
    (message,) = messages(alice)
    ref = message.conversation + written.id
    for _ in range(WANTED_MAX // NOTE_IDS_MAX + 2):
        mallory.send(
            encode_note(Note(Refs(offered=refs(NOTE_IDS_MAX)), b"")),
            encode_note(Note(Refs(taken_back=refs(NOTE_IDS_MAX)), b"")),
            encode_note(Note(Refs((ref,), (ref, *refs(200)), (), (ref,)), b"")),
        )
    (message,) = messages(alice)
    assert message.recipients == (("bob", Delivery.QUEUED),)
    with alice.store.read() as reader:
        assert len(list(note_queue.items_for(reader, "mallory", NoteKind.WANT))) == WANTED_MAX
        assert not list(note_queue.items_for(reader, "mallory", NoteKind.OFFER))
    alice.pump(fails=False)
    bob.receive(bob.mail)
    assert len(messages(bob)) == 1


def made_up() -> Parent:
    return Parent(who("mallory"), SYSTEM_RANDOM.token(32))


def test_made_up_parents_are_asked_for_within_limits(world: World) -> None:
    mallory, alice = Mallory(world), world.clients["alice"]
    for _ in range(WANTED_MAX // PARENTS_MAX + 10):
        parents = tuple(made_up() for _ in range(PARENTS_MAX))
        mallory.send(encode_part(replace(part(), parents=parents)))
    with alice.store.read() as reader:
        assert len(list(note_queue.items_for(reader, "mallory", NoteKind.WANT))) == WANTED_MAX


SOME_WANTED = 512
"""A limit that is reached soon."""


def test_made_up_parents_keep_nobody_from_what_is_missing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mallory, in a group, names more of them than are asked for, of everybody. Messages of bob's
    that were lost come all the same."""
    monkeypatch.setattr("cbfs.messages.queues.note_queue.WANTED_MAX", SOME_WANTED)
    mallory, alice, bob = Mallory(world), world.clients["alice"], world.clients["bob"]
    people = ("alice", "bob", "mallory")
    for _ in range(SOME_WANTED // (2 * PARENTS_MAX) + 2):
        parents = tuple(made_up() for _ in range(PARENTS_MAX))
        mallory.send(encode_part(replace(part(people=people), parents=parents)))
    assert _wanted(alice) == SOME_WANTED
    for lost, found in ((b"1", b"2"), (b"3", b"4")):
        bob.write(("alice",), lost)
        bob.load()  # it knows the conversation
        bob.pump(fails=False)
        bob.mail.clear()
        alice.mail.clear()
        bob.write(("alice",), found)
        bob.pump(fails=False)
        alice.receive(alice.mail)
        world.now += 60_000
        for _ in range(SOME_WANTED // NOTE_IDS_MAX):  # a note has no more of what is due
            alice.pump(fails=False)
        bob.receive(bob.mail)
        bob.pump(fails=False)
        alice.receive(alice.mail)
    assert {text for who, _, _, text in alice.shown() if who == "bob"} == {b"1", b"2", b"3", b"4"}
    assert _wanted(alice) == SOME_WANTED


def _wanted(client: Client) -> int:
    with client.store.read() as reader:
        peers = client.world.clients
        return sum(
            1 for peer in peers for _debt in note_queue.items_for(reader, peer, NoteKind.WANT)
        )


def test_questions_are_counted_by_who_has_brought_them_about(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever becomes of them, there is room for as many new ones."""
    assert (
        max(NoteKind, key=lambda kind: kind.value) is NoteKind.WANT
    )  # ``only_missed`` builds on it
    monkeypatch.setattr("cbfs.messages.queues.note_queue.WANTED_MAX", SOME_WANTED)
    alice = world.clients["alice"]

    def owe(writer: Writer, ref: bytes) -> None:
        note_queue.enqueue(writer, {}, "bob", NoteKind.WANT, ref, 1, "mallory")

    def fill(writer: Writer) -> None:
        for ref in refs(SOME_WANTED + 5):
            owe(writer, ref)
        owe(writer, bytes(32))

    for _ in range(2):
        alice.store.write(fill)
        with alice.store.read() as reader:
            debts = list(note_queue.items_for(reader, "bob", NoteKind.WANT))
        assert len(debts) == SOME_WANTED

        def end(writer: Writer, wanted: list[note_queue.NoteItem] = debts) -> None:
            for debt in wanted[:100]:
                assert note_queue.dequeue(writer, "bob", NoteKind.WANT, debt.ref)
                assert not note_queue.dequeue(writer, "bob", NoteKind.WANT, debt.ref)
            for _ in range(ASKS_MAX):
                note_queue.settle(writer, list(note_queue.items_for(writer, "bob"))[:100], 1)
            note_queue.count_anew(writer)

        alice.store.write(end)
        with alice.store.read() as reader:
            left = list(note_queue.items_for(reader, "bob", NoteKind.WANT))
        assert len(left) == SOME_WANTED - 200
        alice.store.write(lambda writer: writer.delete_prefix(Table.NOTE_ITEMS, b""))
        alice.store.write(note_queue.count_anew)


def test_noise_from_anybody_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbfs.messages.queues.quarantine.QUARANTINE_MAX", 20)
    alice = world.clients["alice"]
    for _ in range(5):
        alice.receive([SYSTEM_RANDOM.token(16_384) for _ in range(8)])
    assert count(alice, Table.QUARANTINE) == 20
    Mallory(world).send(encode_part(part()))
    assert len(messages(alice)) == 1
