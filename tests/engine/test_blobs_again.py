"""What becomes of blobs when the account moves, when they are asked for again, and when they are
not wanted any more: as in ``test_blobs_machine``."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cbfs.messages.model import Delivery, Message
from cbfs.messages.queues import blobs, delivery_queue
from cbfs.messages.queues.blobs import BlobStage
from cbfs.messages.queues.note_queue import Dues
from cbfs.receiving.fetching import CHUNKS_AT_ONCE, PAUSE, TOLD_MAX, Fetching
from cbfs.receiving.notes import Told, take_refs
from cbfs.receiving.reassembly import Reception
from cbfs_common.limits import BLOB_CHUNK, BLOB_RENEWALS
from cbfs_common.messages.body import Refs
from cbfs_common.wire.blobs import GetChunk, MakeBlob
from tests.engine.test_blobs_machine import (
    DATA,
    SHAPE,
    acknowledge,
    arrived,
    move,
    problems,
    sent,
    state_at,
    to_bob,
)
from tests.support.blob_world import BlobServer, BlobWorld, make_world
from tests.support.healing_world import Quiet


@pytest.fixture
def world(tmp_path: Path) -> Iterator[BlobWorld]:
    made = make_world(tmp_path, "alice", "bob")
    yield made
    made.close()


def want(world: BlobWorld, message: Message) -> None:
    """Bob says to alice that he lacks it."""
    alice = world.clients["alice"]
    alice.load()
    refs, told = Refs(wanted=(message.conversation + message.id,)), Told(Dues())
    contact = alice.context.contacts.named("bob")
    reception = Reception("alice", world.now, 0, True, alice.context.contacts.directories)
    alice.store.write(lambda writer: take_refs(writer, told, reception, contact, refs))


def test_who_lacks_it_when_the_account_moves_gets_it_from_the_new_server(world: BlobWorld) -> None:
    """Under a fresh secret; it is the same message, and goes on at the chunk."""
    alice = world.clients["alice"]
    bob = world.clients["bob"]
    server = world.servers["alice"]
    message = sent(world)
    server.cuts = 30
    world.fetch(bob)
    server.cuts = None
    server.chunks.clear()
    world.fetch(bob)
    assert "no longer at their server" in problems(bob)
    blob = world.blob_of(alice, message)
    move(world)
    world.fetch(bob)
    assert "not at their server" in problems(bob)
    world.upload(alice)
    assert world.blob_of(alice, message) == blob, "it has a clock of its own"
    world.tidy(alice)
    assert [m.serial for m in world.upload(alice)] == [message.serial]
    anew = world.blob_of(alice, message)
    assert anew is not None
    assert blob is not None
    assert anew.id != blob.id
    world.deliver(alice, bob)
    elsewhere = world.servers["bob"]
    world.fetch(bob)
    assert elsewhere.asked[GetChunk, SHAPE.index(0)] == 0, "it goes on at the chunk"
    assert world.content(bob, arrived(world, message)) == DATA
    assert len(list(bob.shown())) == 1
    acknowledge(world, message)
    assert to_bob(world, message) is Delivery.RECEIVED


def test_what_waits_for_a_recipient_when_the_account_moves_says_where_it_is_then(
    world: BlobWorld,
) -> None:
    alice = world.clients["alice"]
    bob = world.clients["bob"]
    message = world.save(alice, ("bob",), DATA)
    world.upload(alice)
    move(world)
    world.tidy(alice)
    world.upload(alice)
    with alice.store.read() as reader:
        assert delivery_queue.waiting(reader) == {"bob": 1}
    world.deliver(alice, bob)
    world.fetch(bob)
    assert world.content(bob, arrived(world, message)) == DATA


def test_what_is_asked_for_again_is_put_again(world: BlobWorld) -> None:
    """By whoever had it, and has it no more; when it was taken away, as all had it."""
    alice = world.clients["alice"]
    bob = world.clients["bob"]
    server = world.servers["alice"]
    message = sent(world)
    lacking = world.blob_of(bob, arrived(world, message))
    assert lacking is not None
    for number in range(1, BLOB_RENEWALS + 2):
        world.fetch(bob)
        acknowledge(world, message)
        world.tidy(alice)
        assert not server.chunks
        assert state_at(world, alice, message) is BlobStage.DELETED
        bob.store.write(lambda writer: blobs.put(writer, lacking))  # as in a copy of before
        want(world, message)
        if number > BLOB_RENEWALS:
            break
        assert to_bob(world, message) is Delivery.SENT
        world.upload(alice)
        world.tidy(alice)
        assert server.whole(), "it waits for bob"
        world.deliver(alice, bob)
        world.fetch(bob)
        assert world.content(bob, arrived(world, message)) == DATA
    world.upload(alice)
    assert not server.chunks, "not for ever"


def test_what_is_removed_right_before_it_is_made_leaves_nothing_reserved(
    world: BlobWorld,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The removal has a connection of its own, which may be there first."""
    alice = world.clients["alice"]
    server = world.servers["alice"]
    message = world.save(alice, ("bob",), DATA)
    blob = world.blob_of(alice, message)
    assert blob is not None
    answer = BlobServer._answer

    def late(self: BlobServer, request: Any) -> Any:
        if isinstance(request, MakeBlob):
            world.remove(alice, message)
            alice.store.write(lambda writer: blobs.forget(writer, blob))
        return answer(self, request)

    monkeypatch.setattr(BlobServer, "_answer", late)
    world.upload(alice)
    assert server.asked[MakeBlob, 0] == 1
    assert not server.chunks


def test_who_is_blocked_fills_the_disk_no_further(
    world: BlobWorld,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bob = world.clients["bob"]
    message = sent(world)
    answer = BlobServer._answer

    def blocked(self: BlobServer, request: Any) -> Any:
        if isinstance(request, GetChunk) and request.index == SHAPE.index(0):
            bob.know([replace(bob.context.contacts.named("alice"), blocked=True)])
        return answer(self, request)

    monkeypatch.setattr(BlobServer, "_answer", blocked)
    world.fetch(bob)
    blob = world.blob_of(bob, arrived(world, message))
    assert blob is not None
    assert blob.state is BlobStage.FETCHING
    assert 0 < blob.done <= CHUNKS_AT_ONCE * BLOB_CHUNK < len(DATA)


def test_many_files_that_are_nowhere_make_few_connections_and_lines(world: BlobWorld) -> None:
    alice, bob = world.clients["alice"], world.clients["bob"]
    for number in range(3 * TOLD_MAX):
        world.save(alice, ("bob",), DATA + bytes([number]))
    world.upload(alice)
    world.deliver(alice, bob)
    world.servers["alice"].chunks.clear()
    world.dialled.clear()
    bob.load()
    fetching = Fetching(bob.context, partial(pytest.fail, "nothing comes"), Quiet(bob.context))

    async def minutes() -> None:
        with trio.move_on_after(12 * PAUSE - 1):
            await fetching.run()

    with world.linked():
        trio.run(minutes, clock=MockClock(autojump_threshold=0))
    assert len(world.dialled) == 12, "and each of another file"
    assert max(world.servers["alice"].asked.values()) >= 12
    assert problems(bob).count("no longer at their server") == TOLD_MAX
