"""All that a session brings about that somebody else may have begun, as its peer is proven in
another one: everything that it can say is said on it, and what changes in the store, record by
record, is what PROTOCOL.rst says (Sessions, What a doubted session does), and nothing else."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.contacts.contact import Standing
from cbfs.contacts.held_session import decode_held
from cbfs.messages.queues import incomplete, note_queue
from cbfs.messages.queues.note_queue import NoteKind
from cbfs.storage.records import KEY_PART_SIZE
from cbfs.storage.store import Meta, Table
from cbfs_common.messages.body import Note, Parent, Part, Refs, encode_note, encode_part
from cbfs_common.messages.conversation import Lifetime
from cbfs_common.session.states import Stage
from tests.engine.test_redirection import thief_of
from tests.support import healing_world
from tests.support.changing_world import going_on
from tests.support.healing_world import Client, World, contact_of
from tests.support.parts import sole_part, talk_id, who

TWO, THREE = ("alice", "bob"), ("alice", "bob", "carol")
SECTION = (
    (Path(__file__).parents[2] / "common" / "protocol" / "sessions.rst")
    .read_text()
    .partition("What a doubted session does\n")[2]
    .partition("\nWhat is sent on\n")[0]
)

BEGINS = "the session itself is there"
PREKEY = "its one-time prekey is gone, or its start remembered"
CROWDS = "make room as are more than IN_MAX"
TURN = "a turn is owed on it"
SHOWN = "messages are shown"
TWO_ALONE = "others of the two alone, which begin"
NEXT = "written next names them as parents"
PARTS = "parts of messages that are not whole are kept"
QUESTIONS = "names that is not there is asked for"
SHARE = "counts in a share of its own"
RECEIPT = "for a message that is shown a receipt is told"
EFFECTS = {
    BEGINS: {"+session in", "~session in"},
    PREKEY: {"-prekey", "+meta START"},
    CROWDS: {"-session in", "~meta START"},
    TURN: {"+note TURN", "-note TURN", "~note TURN"},  # due anew
    SHOWN: {
        *("+MESSAGES", "+MESSAGE_IDS", "+LISTINGS", "~LISTINGS", "+FILE_NAMES", "~FILE_NAMES"),
        *("+CONTENT", "+HELD", "+TERMS", "~INDEX", "+meta TRANSCRIPT", "~meta TRANSCRIPT"),
        *("+meta ENDING", "~meta ENDING", "~meta COUNTER", "+DOUBTED", "~DOUBTED"),
    },
    TWO_ALONE: {"+CONVERSATIONS", "+meta FOLDER"},
    NEXT: {"+meta HEADS", "~meta HEADS"},
    PARTS: {"+PARTS", "+ENDS", "+meta ENDS", "~meta ENDS"},
    QUESTIONS: {"+note WANT", "+meta BEFORE"},
    SHARE: {"+meta ARRIVING", "~meta ARRIVING", "+meta BROUGHT", "~meta BROUGHT"},
    RECEIPT: {"+note RECEIPT"},
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """alice and bob are proven to each other; one message of each is on its way, and carol is in a
    conversation with them."""
    made = World(tmp_path)
    made.begin(THREE)
    clients = list(made.clients.values())
    alice, bob = clients[:2]
    for people, writer in ((("bob",), alice), (("bob", "carol"), alice), (("alice",), bob)):
        writer.load()
        writer.write(people, b"hello")
        for _ in range(3):
            for client in clients:
                client.load()
                client.pump(fails=False)
            for client in clients:
                mail, client.mail = client.mail, []
                client.load()
                client.receive(mail)
            made.now += 60_000
    alice.load()
    alice.write(("bob",), b"on its way")
    bob.load()
    bob.write(("alice",), b"without a receipt")
    for client in (alice, bob):
        client.pump(fails=False)
    alice.mail.clear()
    bob.mail.clear()
    bob.load()
    assert {h.session.stage for h in bob.context.sessions._held.values()} == {Stage.CONFIRMED}
    yield made
    made.close()


Records = dict[tuple[Table, bytes], bytes]


def records(client: Client) -> Records:
    with client.store.read() as reader:
        return {(t, key): value or b"" for t in Table for key, value in reader.records(t)}


def name_of(table: Table, key: bytes, value: bytes) -> str:
    if table is Table.META:
        return "meta " + max((m for m in Meta if key.startswith(m)), key=len).name
    if table is Table.NOTE_ITEMS:
        return "note " + NoteKind(key[KEY_PART_SIZE : KEY_PART_SIZE + 1]).name
    if table is Table.SESSIONS:
        return f"session {decode_held(value).session.stage.value}"
    return {Table.PREKEYS: "prekey"}.get(table, table.name)


def changes(before: Records, after: Records) -> set[str]:
    there = {"+" + name_of(*at, after[at]) for at in after.keys() - before.keys()}
    gone = {"-" + name_of(*at, before[at]) for at in before.keys() - after.keys()}
    both = before.keys() & after.keys()
    other = {"~" + name_of(*at, after[at]) for at in both if before[at] != after[at]}
    return there | gone | other


def refs(alice: Client, bob: Client) -> list[bytes]:
    """Messages of both in what they have, and one that there is not."""
    found = [
        key + id_
        for client in (alice, bob)
        for key, ids in client.transcripts().items()
        for id_ in ids
    ]
    return [*dict.fromkeys(found), talk_id(TWO) + SYSTEM_RANDOM.token(16)]


def notes(named: list[bytes]) -> Iterator[bytes]:
    for field in ("received", "wanted", "offered", "taken_back"):
        for ref in named:
            yield encode_note(Note(Refs(**{field: (ref,)}), b"a bundle"))


PLACES: list[tuple[tuple[str, ...], str]] = [
    (TWO, ""),
    (THREE, ""),
    (TWO, "new"),
    (THREE, "new"),
    (("alice", "bob", "mallory"), ""),
    (("bob", "carol"), ""),
]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "leaving": {"leaving": True},
    "first of three": {"count": 3, "chunk": b"x"},
    "a shorter lifetime": {"lifetime": Lifetime(10, 1)},
    "a lifetime from far ahead": {"lifetime": Lifetime(10, 2_000)},
    "a bad folder": {"folder": True, "file_name": "folder"},
    "with a name and a bundle": {"file_name": "name", "bundle": b"a bundle"},
    "a made up parent": {"parents": (Parent(who("bob"), bytes(32)),)},
}


def parts(named: list[bytes]) -> Iterator[Part]:
    for (people, subject), kind in product(PLACES, KINDS):
        text = b"xxx" if kind == "first of three" else b"x"
        yield replace(sole_part(text, people, subject=subject), **KINDS[kind])
    yield replace(sole_part(b"x", TWO), note=Refs(*(tuple(named[:3]) for _ in range(4))))
    yield going_on(("alice", "bob", "mallory"), "mallory is here", talk_id(TWO))


def bodies(alice: Client, bob: Client) -> list[bytes]:
    named = refs(alice, bob)
    return [*notes(named), *map(encode_part, parts(named))]


def of_more_than_two(client: Client) -> dict[bytes, object]:
    conversations = client.context.conversations.values()
    return {each.id: each for each in conversations if len(each.participants) > 2}


@pytest.mark.parametrize("standing", [Standing.KNOWN, Standing.LISTED])
@pytest.mark.parametrize("how", ["starts", "goes on"])
def test_all_that_a_doubted_session_does(
    world: World, how: str, standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = world.clients["alice"], world.clients["bob"]
    offered: list[str] = []
    monkeypatch.setattr(
        healing_world._NoMonitor, "offer", lambda _self, name, _bundle: offered.append(name)
    )
    contact = replace(contact_of(alice), standing=standing)
    bob.know([contact])
    found: set[str] = set()
    thief, proven, groups = thief_of(bob, alice), bob.session(alice).id, of_more_than_two(bob)
    for body in bodies(alice, bob):
        if how == "starts":
            bob.look_after_prekeys()
            thief = thief_of(bob, alice)
        before = records(bob)
        bob.receive([thief.seal(body)])
        found |= changes(before, records(bob))
        bob.load()
        bob.know([contact])
        assert bob.session(alice).id == proven
    assert not offered, "what is said of alice's keys is not looked at"
    assert of_more_than_two(bob) == groups
    assert found <= set().union(*EFFECTS.values())
    if standing is Standing.KNOWN and how == "starts":
        unseen = [words for words, effects in EFFECTS.items() if not effects & found]
        assert not unseen


def test_the_document_has_it_all() -> None:
    said = " ".join(SECTION.split())
    assert [words for words in EFFECTS if words not in said] == []


def prove(world: World) -> None:
    """All that is owed is told, and heard, a few times."""
    for _ in range(3):
        for client in world.clients.values():
            client.load()
            client.pump(fails=False)
        for client in world.clients.values():
            mail, client.mail = client.mail, []
            client.load()
            client.receive(mail)
        world.now += 60_000


def begun(text: bytes) -> Part:
    """The first part of three."""
    return replace(sole_part(text * 3, TWO), count=3, chunk=text)


def arriving(client: Client) -> list[tuple[bytes, str]]:
    with client.store.read() as reader:
        return sorted((each.digest, each.share) for each in incomplete.all_incomplete(reader))


def sealed(client: Client, other: Client, body: bytes) -> bytes:
    client.load()
    batch = client.context.sessions.batch()
    envelope = batch.seal(client.session(other), other.name, body, client.world.now)
    client.store.write(batch.write)
    batch.done()
    return envelope


def test_parts_take_no_place_of_those_of_the_peer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs.messages.queues.incomplete.INCOMPLETE_MAX", 4)
    alice, bob = world.clients["alice"], world.clients["bob"]
    bob.receive([sealed(alice, bob, encode_part(part := begun(b"a")))])
    thief = thief_of(bob, alice)
    bob.receive([thief.seal(encode_part(begun(b"%d" % number))) for number in range(6)])
    there = arriving(bob)
    assert (part.digest, "alice") in there
    assert [share for _digest, share in there].count("alice?") == 4


def test_what_was_begun_where_the_peer_was_doubted_is_theirs_when_more_comes_where_they_are_proven(
    world: World,
) -> None:
    """alice has lost everything, and sends the second part when she is proven."""
    alice, bob = world.clients["alice"], world.clients["bob"]
    alice.load()
    alice.restore(alice.export())
    part = begun(b"a")
    bob.receive([sealed(alice, bob, encode_part(part))])
    bob.load()
    assert arriving(bob) == [(part.digest, "alice?")]
    prove(world)
    bob.load()
    bob.receive([sealed(alice, bob, encode_part(replace(part, number=1)))])
    assert arriving(bob) == [(part.digest, "alice")]
    bob.receive([sealed(alice, bob, encode_part(replace(part, number=2)))])
    assert arriving(bob) == []
    assert b"aaa" in [text for *_, text in bob.shown()]
    kept = {each for each in records(bob) if each[1].startswith(Meta.ARRIVING)}
    assert not kept


def test_made_up_parents_keep_nobody_from_what_the_peer_has_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs.messages.queues.note_queue.WANTED_MAX", 40)
    alice, bob = world.clients["alice"], world.clients["bob"]
    thief = thief_of(bob, alice)
    for text in range(6):
        parents = tuple(Parent(who("bob"), SYSTEM_RANDOM.token(32)) for _ in range(16))
        made_up = replace(sole_part(b"%d" % text, TWO), parents=parents)
        bob.receive([thief.seal(encode_part(made_up))])
        bob.receive([thief.seal(encode_part(replace(going_on(THREE, "x", talk_id(TWO)))))])
    with bob.store.read() as reader:
        assert len(list(note_queue.items_for(reader, "alice", NoteKind.WANT))) == 40
    parent = Parent(who("alice"), SYSTEM_RANDOM.token(32))
    bob.receive([sealed(alice, bob, encode_part(replace(sole_part(b"x", TWO), parents=(parent,))))])
    with bob.store.read() as reader:
        wanted = [item.ref for item in note_queue.items_for(reader, "alice", NoteKind.WANT)]
    assert talk_id(TWO) + parent.id in wanted
