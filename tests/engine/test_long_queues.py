"""What is written to somebody who has not answered for long costs no more than the first of it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cbfs.engine.running import running
from cbfs.messages.queues import delivery_queue
from cbfs.storage.records import Reader
from tests.engine.test_engine import NO_TOR, account, send
from tests.support import world as programs
from tests.support.healing_world import World

SOME, MORE = 8, 40


@pytest.fixture
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        made = World(Path(place))
        made.begin(("alice", "bob"))
        yield made
        made.close()


def test_a_message_opens_as_many_records_however_many_have_no_receipt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is to be offered again some day, and a message carries what is due."""
    opened = 0
    open_record = Reader._open

    def counting(reader: Reader, *place: object) -> object:
        nonlocal opened
        opened += 1
        return open_record(reader, *place)  # type: ignore[arg-type]

    monkeypatch.setattr(Reader, "_open", counting)
    alice = world.clients["alice"]
    counts: list[int] = []
    for number in range(MORE):
        alice.load()
        before = opened
        alice.write(("bob",), b"message %d" % number)
        alice.pump(fails=False)
        counts.append(opened - before)
        world.now += 1_000
    assert counts[-1] <= counts[SOME] + 2  # another listing, another leaf of the index


def test_a_save_opens_as_many_jobs_however_many_wait(
    here: programs.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a server is down thousands may wait; whoever saves one more waits for none of them.
    (What the note clock sends looks through them.)"""
    monkeypatch.setattr("cbfs.sending.note_clock.NOTE_CLOCK", 10**9)
    opened = 0
    decode = delivery_queue._decode

    def counting(key: bytes, data: bytes) -> delivery_queue.Job:
        nonlocal opened
        opened += 1
        return decode(key, data)

    monkeypatch.setattr(delivery_queue, "_decode", counting)
    alice, _bob = account(here, "alice"), account(here, "bob")
    counts: list[int] = []

    async def main() -> None:
        async with running(alice, NO_TOR) as engine:
            await send(engine, ("bob",), b"whom the directory knows")
            here.server.end()
            for number in range(MORE):
                before = opened
                await send(engine, ("bob",), b"message %d" % number)
                counts.append(opened - before)

    trio.run(main)
    assert max(counts[SOME:]) <= SOME
