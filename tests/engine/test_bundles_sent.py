"""One's own bundle goes with all that is sent, so that nobody has to ask the directory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cbfs.contacts.held_session import only
from cbfs.messages.queues import delivery_queue, note_queue
from cbfs.sending import sealing
from cbfs_common.messages import body
from cbfs_common.messages.body import Note, Part
from tests.support.healing_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.begin(("alice", "bob"))
    yield made
    made.close()


def test_the_newest_bundle_is_in_every_part_and_every_note(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[Part] = []
    notes: list[Note] = []

    def encode_part(part: Part) -> bytes:
        parts.append(part)
        return body.encode_part(part)

    def encode_note(note: Note) -> bytes:
        notes.append(note)
        return body.encode_note(note)

    monkeypatch.setattr(sealing, "encode_part", encode_part)
    monkeypatch.setattr(sealing, "encode_note", encode_note)
    alice, bob = world.clients["alice"], world.clients["bob"]
    alice.write(("bob",), b"x" * 30_000)
    bundles = [b"a bundle"]
    seals = sealing.Sealing(alice.context, lambda: bundles[-1])
    session = alice.session(bob)
    with alice.store.read() as reader:
        _, jobs = delivery_queue.next_work(reader, "bob", 16)
        step = seals.parts(reader, "bob", jobs, 1, only(session))
        alice.store.write(step.write)
        step.done()
    bundles.append(b"a newer one")
    session = alice.session(bob)
    with alice.store.read() as reader:
        _, jobs = delivery_queue.next_work(reader, "bob", 16)
        seals.parts(reader, "bob", jobs, 16, only(session))
        draft = note_queue.draft(reader, "bob", world.now)
    seals.note("bob", draft, session)
    assert [part.number for part in parts] == list(range(parts[0].count))
    assert len(parts) > 2
    assert [part.bundle for part in parts] == [b"a bundle", *[b"a newer one"] * (len(parts) - 1)]
    assert [note.bundle for note in notes] == [b"a newer one"]
