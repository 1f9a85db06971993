"""Large files between clients without a network: every place at which a connection can break, lying
servers, lost blobs; everybody is loaded anew from their store after each step."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from cbfs.account.bounds import QUOTA_MIN
from cbfs.account.settings import Settings, encode
from cbfs.engine.expiry import leave
from cbfs.messages.model import Delivery, Message
from cbfs.messages.queues import blobs, delivery_queue, note_queue
from cbfs.messages.queues.blobs import BlobStage
from cbfs.messages.queues.note_queue import NoteKind
from cbfs.receiving.fetching import CHUNKS_AT_ONCE, ROOM_LEFT
from cbfs.sending.uploads import SURELY_GONE
from cbfs.storage.store import Meta, Table
from cbfs_common.limits import BLOB_ABOVE, BLOB_CHUNK, BLOB_FANOUT, BLOB_RENEWALS
from cbfs_common.messages.blobs import decode_reference, shape_of
from cbfs_common.messages.folder import TOP, FolderEntry, encode_table
from cbfs_common.wire.blobs import GetChunk, MakeBlob, PutChunk, RemoveBlob
from cbfs_common.wire.requests import Code
from tests.support.blob_world import DAYS, BlobServer, BlobWorld, make_world
from tests.support.healing_world import Client

DATA = Random(1).randbytes(BLOB_ABOVE + 5 * BLOB_CHUNK + 77)
SHAPE = shape_of(len(DATA))
DAY = 86_400_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[BlobWorld]:
    made = make_world(tmp_path, "alice", "bob")
    yield made
    made.close()


@pytest.fixture
def alice(world: BlobWorld) -> Client:
    return world.clients["alice"]


@pytest.fixture
def bob(world: BlobWorld) -> Client:
    return world.clients["bob"]


@pytest.fixture
def server(world: BlobWorld) -> BlobServer:
    """That of alice."""
    return world.servers["alice"]


def sent(world: BlobWorld, data: bytes = DATA, *, folder: bool = False) -> Message:
    """A file of alice's that is at her server, and of which bob knows."""
    alice, bob = world.clients["alice"], world.clients["bob"]
    message = world.save(alice, ("bob",), data, folder=folder)
    world.upload(alice)
    world.deliver(alice, bob)
    return message


def arrived(world: BlobWorld, message: Message) -> Message:
    found = world.got(world.clients["bob"], message)
    assert found is not None
    return found


def problems(client: Client) -> str:
    return "\n".join(client.context.problems.lines())


def acknowledge(world: BlobWorld, message: Message) -> None:
    """What bob has to tell reaches alice."""
    world.deliver(world.clients["bob"], world.clients["alice"])


def move(world: BlobWorld) -> None:
    """Alice goes to bob's server."""
    alice, bob = world.clients["alice"], world.clients["bob"]
    alice.account = replace(alice.account, server=bob.account.server)
    world.servers["alice"] = world.servers["bob"]


def state_at(world: BlobWorld, client: Client, message: Message) -> BlobStage | None:
    blob = world.blob_of(client, message)
    return None if blob is None else blob.state


def to_bob(world: BlobWorld, message: Message) -> Delivery:
    own = world.got(world.clients["alice"], message)
    assert own is not None
    return dict(own.recipients)["bob"]


def test_one_upload_and_a_receipt_when_all_of_it_is_there(
    world: BlobWorld, alice: Client, bob: Client, server: BlobServer
) -> None:
    message = world.save(alice, ("bob",), DATA)
    world.deliver(alice, bob)
    assert world.got(bob, message) is None, "nothing is told before it can be fetched"
    assert [each.id for each in world.upload(alice)] == [message.id]
    assert world.upload(alice) == []
    world.deliver(alice, bob)
    assert to_bob(world, message) is Delivery.SENT
    acknowledge(world, message)
    assert to_bob(world, message) is Delivery.SENT, "the reference is not the file"
    found = arrived(world, message)
    assert (found.content.size, found.file_name) == (len(DATA), "film")
    told = world.fetch(bob)
    assert [each.id for each in told.changed] == [message.id]
    assert world.content(bob, found) == DATA
    acknowledge(world, message)
    assert to_bob(world, message) is Delivery.RECEIVED
    assert max(server.asked[GetChunk, n] for n in range(SHAPE.chunks)) == 1
    assert sum(n for (kind, _), n in server.asked.items() if kind is PutChunk) == SHAPE.chunks


def test_an_upload_goes_on_at_the_chunk_wherever_it_broke(
    world: BlobWorld, alice: Client, bob: Client, server: BlobServer
) -> None:
    message = world.save(alice, ("bob",), DATA)
    for cuts in (0, 1, 2, 30, 64, 3, 1, 90):
        server.cuts = cuts
        queued = world.upload(alice)
        if queued:
            break
        assert state_at(world, alice, message) is BlobStage.PUTTING
        with alice.store.read() as reader:
            assert not delivery_queue.waiting(reader)
        assert "is not at your server" in problems(alice)
    server.cuts = None
    world.upload(alice)
    assert state_at(world, alice, message) is BlobStage.STORED
    assert [server.asked[PutChunk, n] for n in range(SHAPE.chunks)] == [1] * SHAPE.chunks
    world.deliver(alice, bob)
    world.fetch(bob)
    assert world.content(bob, arrived(world, message)) == DATA


@pytest.mark.parametrize("cuts", [0, 1, 2, 5, 63, 64, 65, 70, SHAPE.count])
def test_fetching_goes_on_at_the_chunk_wherever_it_broke(
    world: BlobWorld, alice: Client, bob: Client, server: BlobServer, cuts: int
) -> None:
    message = sent(world)
    server.cuts = cuts
    world.fetch(bob)
    blob = world.blob_of(bob, arrived(world, message))
    assert blob is not None and blob.state is BlobStage.FETCHING
    assert blob.done == max(0, cuts - 1) * BLOB_CHUNK // (4 * BLOB_CHUNK) * (4 * BLOB_CHUNK)
    assert world.content(bob, arrived(world, message))[: blob.done] == DATA[: blob.done]
    assert "is not here" in problems(bob)
    server.cuts = None
    asked = server.asked.copy()
    told = world.fetch(bob)
    assert len(told.changed) == 1
    again = server.asked - asked
    first = blob.done // BLOB_CHUNK
    data = [again[GetChunk, SHAPE.index(n)] for n in range(SHAPE.count)]
    assert data == [0] * first + [1] * (SHAPE.count - first), "what is here is not asked for"
    assert world.content(bob, arrived(world, message)) == DATA


def test_a_tree_with_nodes_between_is_followed_and_gone_on_with(
    world: BlobWorld, alice: Client, bob: Client, server: BlobServer
) -> None:
    data = Random(2).randbytes((BLOB_FANOUT + 30) * BLOB_CHUNK - 5)
    message = sent(world, data)
    for cuts in (10, 300, 200, 20):
        server.cuts = cuts
        world.fetch(bob)
    server.cuts = None
    world.fetch(bob)
    assert world.content(bob, arrived(world, message)) == data


def test_a_wrong_chunk_is_asked_for_once_more_and_does_no_harm(
    world: BlobWorld, alice: Client, bob: Client, server: BlobServer
) -> None:
    message = sent(world)
    place = SHAPE.index(40)
    server.lies[place] = 1
    world.fetch(bob)
    assert server.asked[GetChunk, place] == 2
    assert world.content(bob, arrived(world, message)) == DATA
    assert not problems(bob)


@pytest.mark.parametrize(
    "place", [0, SHAPE.index(0), SHAPE.index(41), SHAPE.index(SHAPE.count - 1)]
)
def test_a_server_that_goes_on_lying_is_told_to_the_user_and_to_nobody_else(
    world: BlobWorld, alice: Client, bob: Client, server: BlobServer, place: int
) -> None:
    message = sent(world)
    server.lies[place] = 2
    with bob.store.read() as reader:
        before = note_queue.load_dues(reader)
    world.fetch(bob)
    assert "their server gives something else than they have sent" in problems(bob)
    assert server.asked[GetChunk, place] == 2
    with bob.store.read() as reader:
        assert note_queue.load_dues(reader) == before, "nothing is to be said to anybody by that"
    blob = world.blob_of(bob, arrived(world, message))
    assert blob is not None and blob.state is BlobStage.FETCHING
    assert world.content(bob, arrived(world, message))[: blob.done] == DATA[: blob.done]
    world.fetch(bob)
    assert world.content(bob, arrived(world, message)) == DATA
    assert not problems(bob)


def test_a_message_that_is_removed_goes_from_the_server_and_leaves_no_key(
    world: BlobWorld, alice: Client, bob: Client, server: BlobServer
) -> None:
    message = sent(world)
    blob = world.blob_of(alice, message)
    assert blob is not None and server.whole() == [blob.id]
    world.remove(alice, message)
    left = world.blob_of(alice, message)
    assert left is not None
    assert (left.state, left.reference, left.tree) == (BlobStage.LEAVING, b"", 0)
    secret = decode_reference(blob.reference).secret
    with alice.store.read() as reader:
        for table in Table:
            assert all(secret not in value for _key, value in reader.items(table))
        assert not list(reader.items(Table.CONTENT))
    server.cuts = 0
    world.upload(alice)
    assert state_at(world, alice, message) is BlobStage.LEAVING, "it is tried again"
    server.cuts = None
    world.upload(alice)
    assert not server.chunks
    assert world.blob_of(alice, message) is None


def test_what_is_removed_while_it_is_put_goes_no_further(
    world: BlobWorld, alice: Client, bob: Client, server: BlobServer
) -> None:
    message = world.save(alice, ("bob",), DATA)
    server.cuts = 50
    world.upload(alice)
    server.cuts = None
    world.remove(alice, message)
    assert world.upload(alice) == []
    assert not server.chunks
    world.deliver(alice, bob)
    assert world.got(bob, message) is None


def test_a_receipt_shows_at_the_server_with_the_next_tick_at_the_earliest(
    world: BlobWorld, alice: Client, bob: Client, server: BlobServer
) -> None:
    message = sent(world)
    world.tidy(alice)
    assert server.whole(), "somebody lacks it still"
    world.fetch(bob)
    acknowledge(world, message)
    before = list(world.dialled)
    world.upload(alice)
    assert server.whole() and world.dialled == before, "what has come from bob is not to be seen"
    world.tidy(alice)
    assert not server.chunks
    assert state_at(world, alice, message) is BlobStage.DELETED
    assert world.content(alice, message) == DATA
    world.remove(alice, message)
    assert world.blob_of(alice, message) is None


def test_what_somebody_lacks_when_its_time_is_over_is_put_there_again(
    world: BlobWorld, alice: Client, bob: Client, server: BlobServer
) -> None:
    message = sent(world)
    for number in range(1, BLOB_RENEWALS + 1):
        world.now += DAYS * DAY + 1
        world.tidy(alice)  # it may still be there, and would be kept no longer
        assert state_at(world, alice, message) is BlobStage.STORED
        world.now += SURELY_GONE
        server.chunks.clear()
        world.tidy(alice)
        world.upload(alice)
        blob = world.blob_of(alice, message)
        assert blob is not None and (blob.state, blob.renewed) == (BlobStage.STORED, number)
    with alice.store.read() as reader:
        assert not delivery_queue.waiting(reader), "its message is not sent by that"
    world.fetch(bob)
    assert world.content(bob, arrived(world, message)) == DATA
    world.now += DAYS * DAY + 1 + SURELY_GONE
    world.tidy(alice)
    assert state_at(world, alice, message) is BlobStage.DELETED, "and not for ever"


def test_what_is_put_there_again_keeps_the_id_that_recipients_know(
    world: BlobWorld, alice: Client, bob: Client, server: BlobServer
) -> None:
    message = sent(world)
    before = world.blob_of(alice, message)
    world.now += DAYS * DAY + 1 + SURELY_GONE
    server.chunks.clear()
    world.tidy(alice)
    server.refuses = Code.BLOB_DIFFERS  # what is left of it is being erased
    world.upload(alice)
    server.refuses = None
    world.upload(alice)
    blob = world.blob_of(alice, message)
    assert before is not None
    assert blob is not None
    assert (blob.id, blob.state) == (before.id, BlobStage.STORED)
    world.fetch(bob)
    assert world.content(bob, arrived(world, message)) == DATA


def test_no_other_server_is_dialled_than_that_of_the_sender(
    world: BlobWorld, alice: Client, bob: Client
) -> None:
    message = sent(world)
    found = arrived(world, message)
    blob = world.blob_of(bob, found)
    assert blob is not None
    reference = decode_reference(blob.reference)
    for other in (
        replace(reference.server, host="192.0.2.1"),
        replace(reference.server, port=22),
        bob.account.server,
    ):
        moved = replace(blob, reference=replace(reference, server=other).encode())
        bob.store.write(lambda writer, moved=moved: blobs.put(writer, moved))  # type: ignore[misc]
        world.dialled.clear()
        world.fetch(bob)
        assert not world.dialled
        assert "not at their server" in problems(bob)


def test_nothing_is_fetched_that_there_is_no_room_for(
    world: BlobWorld, alice: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither on the disk, nor by the quota that the user has set."""
    message = sent(world)
    world.dialled.clear()
    with monkeypatch.context() as patched:
        patched.setattr(type(bob.store), "room", lambda _store: ROOM_LEFT + len(DATA) - 1)
        world.fetch(bob)
    assert "no room for it on the disk" in problems(bob)
    settings = Settings(quota=QUOTA_MIN)
    bob.store.write(lambda writer: writer.put(Table.META, Meta.SETTINGS, encode(settings)))
    with monkeypatch.context() as patched:
        patched.setattr(type(bob.store), "space", lambda _store: (QUOTA_MIN - len(DATA) + 1, 0))
        world.fetch(bob)
    assert "over the quota" in problems(bob)
    assert not world.dialled
    bob.store.write(lambda writer: writer.delete(Table.META, Meta.SETTINGS))
    world.fetch(bob)
    assert world.content(bob, arrived(world, message)) == DATA


def test_with_a_pace_each_connection_carries_so_much_and_no_more(
    world: BlobWorld, alice: Client, bob: Client
) -> None:
    slow = encode(Settings(pace=60.0))
    for client in (alice, bob):
        client.store.write(lambda writer: writer.put(Table.META, Meta.SETTINGS, slow))
    message = world.save(alice, ("bob",), DATA)
    world.upload(alice)
    assert len(world.dialled) == -(-SHAPE.chunks // CHUNKS_AT_ONCE)
    world.deliver(alice, bob)
    world.fetch(bob)
    blob = world.blob_of(bob, arrived(world, message))
    assert blob is not None and blob.done == CHUNKS_AT_ONCE * BLOB_CHUNK
    world.fetch(bob)
    assert world.content(bob, arrived(world, message)) == DATA


def folder(files: dict[str, bytes]) -> bytes:
    head = encode_table([FolderEntry(TOP, name, len(data)) for name, data in files.items()])
    return head + b"".join(files.values())


def test_a_folder_is_one_when_all_of_it_is_here(
    world: BlobWorld, alice: Client, bob: Client
) -> None:
    message = sent(world, folder({"a": DATA, "b": b"small"}), folder=True)
    assert arrived(world, message).folder
    told = world.fetch(bob)
    assert [each.id for each in told.changed] == [message.id]
    assert not told.ended


def test_a_folder_that_is_none_is_dropped_and_said_to_be(
    world: BlobWorld, alice: Client, bob: Client
) -> None:
    message = sent(world, DATA, folder=True)
    told = world.fetch(bob)
    assert [each.id for each in told.ended] == [message.id]
    assert "is no folder" in problems(bob)
    assert world.got(bob, message) is None
    with bob.store.read() as reader:
        assert not list(reader.items(Table.CONTENT))
        assert not list(reader.items(Table.BLOBS))


def test_nobody_is_told_of_what_is_on_its_way_to_the_server_however_they_ask(
    world: BlobWorld, alice: Client, bob: Client
) -> None:
    first = alice.write(("bob",), b"first")
    alice.load()
    world.deliver(alice, bob)
    message = world.save(alice, ("bob",), DATA)
    alice.write(("bob",), b"and this is behind it")
    world.deliver(alice, bob)
    ref = message.conversation + message.id
    with bob.store.read() as reader:
        wanted = [item.ref for item in note_queue.items_for(reader, "alice", NoteKind.WANT)]
    assert wanted == [ref]
    world.now += DAY
    world.deliver(bob, alice)
    with alice.store.read() as reader:
        assert not delivery_queue.waiting(reader, again=True)
    world.upload(alice)
    world.deliver(alice, bob)
    world.fetch(bob)
    assert world.content(bob, arrived(world, message)) == DATA
    assert len(bob.transcripts()[message.conversation]) == 3
    assert first.id in bob.transcripts()[message.conversation]


def test_what_is_put_for_a_conversation_that_is_left_goes_to_nobody(
    world: BlobWorld, alice: Client, bob: Client, server: BlobServer
) -> None:
    message = world.save(alice, ("bob",), DATA)
    conversation = alice.context.conversations[message.conversation]
    alice.store.write(lambda writer: leave(writer, conversation, {}, world.now, empty=False))
    assert to_bob(world, message) is Delivery.CANCELLED
    assert world.upload(alice) == []
    world.deliver(alice, bob)
    assert world.got(bob, message) is None
    assert not server.asked[MakeBlob, 0]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (Code.BLOB_TOO_LARGE, "takes nothing so large"),
        (Code.BLOB_QUOTA, "over what it keeps for you"),
        (Code.FULL, "no room left"),
        (Code.BAD_REQUEST, "takes no large files"),
    ],
)
def test_what_the_server_refuses_is_told_and_tried_again(
    world: BlobWorld, alice: Client, server: BlobServer, code: Code, words: str
) -> None:
    message = world.save(alice, ("bob",), DATA)
    server.refuses = code
    assert world.upload(alice) == []
    assert words in problems(alice)
    server.refuses = None
    assert [each.id for each in world.upload(alice)] == [message.id]
    assert not problems(alice)


def test_where_the_account_has_moved_it_is_put_at_the_new_server(
    world: BlobWorld, alice: Client, bob: Client, server: BlobServer
) -> None:
    message = world.save(alice, ("bob",), DATA)
    server.cuts = 20
    world.upload(alice)
    move(world)
    world.upload(alice)
    blob = world.blob_of(alice, message)
    assert blob is not None and blob.state is BlobStage.STORED
    assert decode_reference(blob.reference).server == bob.account.server
    assert world.servers["bob"].whole() == [blob.id]


def test_a_removal_is_asked_for_with_the_key_of_the_account_and_a_chunk_with_none(
    world: BlobWorld, alice: Client, bob: Client, server: BlobServer
) -> None:
    message = sent(world)
    world.fetch(bob)
    world.remove(alice, message)
    world.upload(alice)
    assert world.dialled == [(alice.account.server, own) for own in (True, False, True)]
    assert server.asked[RemoveBlob, 0] == 1
