"""Two engines, a real server and a real directory: crossed starts, lost and copied state, receipts
and what is asked for again. The clocks of the protocol run faster here."""

import random
import shutil
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, opened_store
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.interface import Outgoing
from cbfs.messages.model import Content, Delivery, Message
from cbfs.messages.queues.note_queue import NoteKind, items_for
from cbfs.storage.encoding import u32, u64
from cbfs.storage.store import Table, Writer
from tests.engine.test_engine import NO_TOR, Recorder, account, read, until
from tests.support.world import World

ROUNDS = 50


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbfs.receiving.receiver.PROMPT_AFTER", 0.2)
    monkeypatch.setattr("cbfs.receiving.reassembly.ASK_FIRST", 0)
    monkeypatch.setattr("cbfs.receiving.lost_state.LOST_FIRST", 50)


async def write(engine: Engine, to: str, text: str, subject: str = "") -> Message:
    """As the mount does it for a file in a folder that is no conversation yet, or in the one."""
    data = text.encode()

    def store(writer: Writer) -> Content:
        content = Content(writer.random_number(), len(data), 65_536)
        writer.put(Table.CONTENT, u64(content.id) + u32(0), data)
        return content

    content = await engine.store.commit(store)
    known = [c for c in engine.conversations() if c.subject == subject]
    return await engine.send(
        Outgoing(
            known[0].id if known else None,
            (to,),
            subject,
            "",
            content,
            lambda writer, conversation: None,
        )
    )


def texts(engine: Engine, subject: str = "") -> list[str]:
    """What the conversation of that subject says, in the order of its names."""
    found = [c for c in engine.conversations() if c.subject == subject]
    assert len(found) <= 1
    messages = [m for c in found for m in engine.messages(c.id)]
    return [read(engine, m).decode() for m in sorted(messages, key=lambda m: m.name)]


def wipe(place: Path, *tables: Table) -> None:
    with opened_store(place, SYSTEM_RANDOM) as store:

        def change(writer: Writer) -> None:
            for table in tables:
                writer.delete_prefix(table, b"")

        store.write(change)


def states(engine: Engine) -> set[Delivery]:
    messages = [m for c in engine.conversations() for m in engine.messages(c.id)]
    return {state for m in messages for _who, state in m.recipients}


def test_both_begin_at_once(here: World) -> None:
    """Without sessions, with the same people and subject, ROUNDS times."""
    places = account(here, "alice"), account(here, "bob")
    delays = random.Random(6)

    async def one_round(subject: str) -> None:
        async with (
            running(places[0], NO_TOR) as alice,
            running(places[1], NO_TOR) as bob,
        ):

            async def begin(engine: Engine, other: str) -> None:
                await trio.sleep(delays.random() * 0.15)
                await write(engine, other, f"from {engine.name}", subject)
                await write(engine, other, f"again {engine.name}", subject)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(begin, alice, "bob")
                nursery.start_soon(begin, bob, "alice")
            wanted = sorted(
                f"{word} {name}" for word in ("from", "again") for name in ("alice", "bob")
            )
            for engine in (alice, bob):
                await until(
                    lambda e=engine: sorted(texts(e, subject)) == wanted,
                    f"all at {engine.name}: {subject}",
                )
                await until(lambda e=engine: not e.report().queue, "the queue to be empty")
            ids = {c.id for e in (alice, bob) for c in e.conversations() if c.subject == subject}
            assert len(ids) == 1

    for number in range(ROUNDS):
        trio.run(one_round, f"round {number}")
        for place in places:
            wipe(place, Table.SESSIONS)


def test_a_receipt_moves_the_state(here: World) -> None:
    places = account(here, "carol"), account(here, "dave")

    async def main() -> None:
        async with running(places[0], NO_TOR) as carol, running(places[1], NO_TOR):
            view = Recorder()
            carol.attach(view)
            await write(carol, "dave", "hello")
            received = (("dave", Delivery.RECEIVED),)
            await until(lambda: [m.recipients for m in view.changed][-1:] == [received], "receipt")
            assert states(carol) == {Delivery.RECEIVED}
            # a receipt that overtakes the server's answer is all that is told
            assert [m.recipients for m in view.changed[:-1]] in ([], [(("dave", Delivery.SENT),)])
            with carol.store.read() as reader:  # but for her turn, that proves her
                kinds = [item.kind for item in items_for(reader, "dave")]
            assert set(kinds) <= {NoteKind.TURN}

    trio.run(main)


def test_a_copy_of_an_account_begins_anew(here: World) -> None:
    """The copy is older than what was exchanged since; both sides read everything after it."""
    places = account(here, "erin"), account(here, "frank")
    copy = here.place / "frank-copy"

    async def talk(first: Path, second: Path, words: str, more: str = "") -> list[list[str]]:
        async with running(first, NO_TOR) as erin, running(second, NO_TOR) as frank:
            for engine, other in ((erin, "frank"), (frank, "erin")):
                await write(engine, other, f"{words} of {engine.name}")
            for engine, other in ((erin, "frank"), (frank, "erin")):
                await until(
                    lambda e=engine, o=other: f"{words} of {o}" in texts(e),
                    f"{words} at {engine.name}",
                )
            await until(lambda: states(erin) == {Delivery.RECEIVED}, "receipts")
            await until(lambda: not more or more in texts(frank), f"{more} at frank")
            return [texts(erin), texts(frank)]

    trio.run(talk, *places, "one")
    shutil.copytree(places[1], copy)
    trio.run(talk, *places, "two")
    said = trio.run(talk, places[0], copy, "three", "two of erin")
    assert sorted(said[0]) == sorted(
        f"{n} of {who}" for n in ("one", "two", "three") for who in ("erin", "frank")
    )
    # what frank wrote himself after the copy is not in it
    assert sorted(said[1]) == sorted(text for text in said[0] if text != "two of frank")
