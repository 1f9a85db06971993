"""Envelopes that were changed on their way: their recipient's client keeps them, and no more."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, Account, load_account, opened_store
from cbfs.context import milliseconds
from cbfs.engine.running import running
from cbfs.messages.queues import note_queue
from cbfs.messages.queues.quarantine import Why, reason_at
from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import Link, open_link, request
from cbfs.storage.store import Table, Writer
from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.messages.body import encode_part
from cbfs_common.wire.requests import Delete, Deliver, Fetch, List
from tests.engine.test_engine import NO_TOR, Recorder, account, read, send, until
from tests.engine.test_hostile_peers import Mallory, messages, part
from tests.support.healing_world import DirectStore, World
from tests.support.world import World as Town

T = TypeVar("T")
NOISE = 32


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.begin(("alice", "bob", "mallory"))
    yield made
    made.close()


@pytest.mark.parametrize("at", [0, 15, 16, 2_000, 3_000, 16_383])
def test_who_garbles_an_envelope_learns_nothing(at: int, world: World) -> None:
    """It is kept as noise, no note is owed to anybody, and the sender's own one still opens. (A
    server that had both mailboxes saw by the answer whose envelope it had changed.)"""
    mallory, alice = Mallory(world), world.clients["alice"]
    mallory.send(encode_part(part(b"first")))
    for number in (1, 2):  # in turn 0, and in a turn of its own
        envelope = mallory.seal(encode_part(part(b"%d" % number)))
        with alice.store.read() as reader:
            before = [list(reader.items(table)) for table in (Table.NOTE_ITEMS, Table.SESSIONS)]
        alice.receive([envelope[:at] + bytes([envelope[at] ^ 1]) + envelope[at + 1 :]])
        with alice.store.read() as reader:
            after = [list(reader.items(table)) for table in (Table.NOTE_ITEMS, Table.SESSIONS)]
            assert after == before
            assert reader.count(Table.QUARANTINE) == number
            assert reason_at(reader, max(reader.keys(Table.QUARANTINE))) is Why.NOISE
        alice.receive([envelope])
        assert [m.sender for m in messages(alice)].count("mallory") == 1 + number
        alice.write(("mallory",), b"answer")
        alice.pump(fails=False)
        mallory.client.receive(mallory.client.mail)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with ExitStack() as stack:
        yield Town(tmp_path_factory.mktemp("garbled"), stack)


def load(place: Path) -> Account:
    with opened_store(place, SYSTEM_RANDOM) as store:
        found = load_account(store)
    assert found is not None
    return found


@asynccontextmanager
async def mailbox(of: Account) -> AsyncIterator[Link]:
    """What a home server can do with a mailbox, by the requests of its owner."""
    dialer = LoopbackDialer()
    async with open_link(dialer, of.server, of.transport, b"test", SYSTEM_RANDOM) as link:
        yield link


def test_a_server_that_has_both_mailboxes_does_not_find_the_sender(
    here: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes the last byte of what lies in alice's mailbox and looks into bob's. Real processes
    but for the clients; all that alice's has to do now is done when it is looked, and what leaves
    at some time or other does so later."""
    monkeypatch.setattr("cbfs.sending.note_clock.NOTE_CLOCK", 10**9)
    monkeypatch.setattr("cbfs.receiving.receiver.PROMPT_AFTER", 3_600)
    hers, his = account(here, "alice"), account(here, "bob")

    async def main() -> None:
        seen = Recorder(), Recorder()
        async with (
            running(hers, NO_TOR) as alice,
            running(his, NO_TOR) as bob,
        ):
            for engine, view in zip((alice, bob), seen, strict=True):
                engine.attach(view)
            await send(bob, ("alice",), b"one")
            await until(lambda: seen[0].arrived, "bob's first message")
            await send(alice, ("bob",), b"two")
            await until(lambda: seen[1].arrived, "the answer")
        people = load(hers), load(his)
        async with mailbox(people[0]) as link:
            before = (await request(link, List(b""))).ids
        async with running(his, NO_TOR) as bob:
            await send(bob, ("alice",), b"three")
            await until(lambda: not bob.report().queue, "it to be at the server")
        async with mailbox(people[0]) as link:
            (id_,) = set((await request(link, List(b""))).ids) - set(before)
            envelope = (await request(link, Fetch(id_))).envelope
            await request(link, Delete((id_,)))
            changed = envelope[:-1] + bytes([envelope[-1] ^ 1])
            await request(link, Deliver(people[0].profile.user_id, changed))
        async with mailbox(people[1]) as link:
            theirs = (await request(link, List(b""))).ids
        async with running(hers, NO_TOR) as alice:
            view = Recorder()
            alice.attach(view)

            def done() -> bool:
                with alice.store.read() as reader:
                    dues = note_queue.load_dues(reader).values()
                    kept = reader.count(Table.QUARANTINE)
                return kept == 1 and min(dues, default=2**60) > milliseconds()

            await until(done, "it to be kept, and what is due at once to have been sent")
            async with mailbox(people[0]) as link:
                await request(link, Deliver(people[0].profile.user_id, envelope))
            await until(lambda: view.arrived, "the message itself")
            assert read(alice, view.arrived[0]) == b"three"
        async with mailbox(people[1]) as link:
            assert (await request(link, List(b""))).ids == theirs

    trio.run(main)


def test_noise_leaves_turns_to_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody can deliver it, and each envelope is tried with all sessions: programs that read in
    the mount need not wait for a whole batch of it."""
    alice, turns = world.clients["alice"], 0

    async def commit(store: DirectStore, change: Callable[[Writer], T]) -> T:
        return await trio.to_thread.run_sync(store.write, change)

    monkeypatch.setattr(DirectStore, "commit", commit)  # in a thread, as every store but these

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            await alice._receiver().take([SYSTEM_RANDOM.token(ENVELOPE_SIZE) for _ in range(NOISE)])
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert turns > NOISE // 2  # in what order two tasks begin is left to the scheduler
