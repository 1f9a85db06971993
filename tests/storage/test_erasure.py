"""Nothing left: what was deleted or used up cannot be read in any copy of the disk."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.messages import search_index
from cbfs.messages.model import Message
from cbfs.storage.records import place_of as record_place
from cbfs.storage.store import Table
from cbfs_common.session.prekey import PrekeyPair
from tests.engine.test_engine import NO_TOR, Recorder, account, send, until
from tests.support.disk import Disk, attack, final_roots, follow, switch_erasure_off
from tests.support.stores import open_store
from tests.support.world import World
from tests.tree.test_index import DAY, message

TURNS = 6


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("erasure"), stack)


async def exchange(sender: Engine, receiver: Engine, text: bytes) -> tuple[Message, Message]:
    """One message, on both sides."""
    view = Recorder()
    receiver.attach(view)
    sent = await send(sender, (receiver.name,), text)
    await until(lambda: view.arrived, "the message")
    await until(lambda: not sender.report().queue, "the queue to be empty")
    return sent, view.arrived[0]


async def life(alice: Path, bob: Path) -> list[bytes]:
    """Messages both ways, deletions and restarts. Gives the texts that were deleted."""
    deleted: list[bytes] = []
    for turn in range(TURNS):
        async with running(alice, NO_TOR) as a, running(bob, NO_TOR) as b:
            for number, (sender, receiver) in enumerate(((a, b), (b, a), (b, a))):
                text = b"message word%dx%d for nobody else" % (number, turn)
                sent, got = await exchange(sender, receiver, text)
                if number < 2:
                    await sender.delete(sent)
                    await receiver.delete(got)
                    deleted.append(text)
    return deleted


def of(disk: Disk, table: Table) -> set[bytes]:
    """Values of a table that are gone."""
    return {value for where, _key, value in disk.gone() if where is table}


def terms(deleted: list[bytes]) -> set[bytes]:
    """What the index has of a word that is in no message that is left."""
    return {
        search_index._hash(word)
        for text in deleted
        for word in text.decode().split()
        if "x" in word
    }


def words(disk: Disk, deleted: list[bytes]) -> set[bytes]:
    """Bytes that must be nowhere: texts, what the index had of their words, the secrets of used
    prekeys, old roots."""
    pairs = [PrekeyPair.decode(data) for data in of(disk, Table.PREKEYS)]
    return {
        *deleted,
        *terms(deleted),
        *(p.x_secret for p in pairs),
        *(p.kem_seed for p in pairs),
        *disk.roots[:-1],
    }


@pytest.mark.parametrize("erasing", [True, False], ids=["erasing", "erasure switched off"])
def test_nothing_that_is_gone_can_be_read_in_any_copy_of_the_disk(
    here: World, monkeypatch: pytest.MonkeyPatch, erasing: bool
) -> None:
    if not erasing:
        switch_erasure_off(monkeypatch)
    names = ("alice", "bob") if erasing else ("carol", "david")
    places = [account(here, name) for name in names]
    disks = follow(monkeypatch, places)
    deleted = trio.run(life, places[0], places[1])
    used = 0
    for disk in disks.values():
        opened = attack(disk, final_roots(disk))
        gone = {(record_place(table, key), value) for table, key, value in disk.gone()}
        now = {(record_place(table, key), value) for table, key, value in disk.now}
        assert now <= opened, "he who cannot read what is there is no attacker"
        assert len(of(disk, Table.SESSIONS)) > TURNS
        assert len(of(disk, Table.MESSAGES)) >= 2 * TURNS
        assert set(deleted) <= of(disk, Table.CONTENT)
        indexed = b"".join(value for table, _key, value in disk.plain if table is Table.TERMS)
        assert all(term in indexed for term in terms(deleted)), "they were in the index once"
        used += len(of(disk, Table.PREKEYS))
        lasting = b"".join(value for _place, value in opened)
        if not erasing:
            assert gone <= opened
            assert all(term in lasting for term in terms(deleted))
            continue
        assert not opened & gone
        final = (disk.place / "root.key").read_bytes()
        for word in words(disk, deleted):
            assert word not in lasting
            assert word not in final
            assert not any(word in page for page in disk.pages)
    assert used


@pytest.mark.parametrize("erasing", [True, False], ids=["erasing", "erasure switched off"])
def test_nothing_confirms_a_word_of_a_deleted_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, erasing: bool
) -> None:
    """Messages go before and after the words of their segment are put together, one by one and all
    of a segment; names of files and senders are words as well."""
    if not erasing:
        switch_erasure_off(monkeypatch)
    disk = follow(monkeypatch, [tmp_path])[tmp_path]
    store = open_store(tmp_path)
    messages = {
        serial: message(serial, bytes(16), f"person{serial}", serial * DAY)
        for serial in range(1, 2 * search_index.SEGMENT + 20)
    }
    deleted = {
        *range(5, 9),
        40,
        *range(search_index.SEGMENT, 2 * search_index.SEGMENT),
        2 * search_index.SEGMENT + 3,
    }

    def add(serial: int) -> None:
        text = f"shared word{serial}x".encode()
        store.write(lambda writer: search_index.add(writer, messages[serial], text, unread=True))

    def delete(serial: int) -> None:
        store.write(lambda writer: search_index.remove(writer, messages[serial]))

    for serial in messages:
        add(serial)
        if serial in {8, 70, 2 * search_index.SEGMENT + 3}:
            delete(serial)
    for serial in sorted(deleted - {8, 70, 2 * search_index.SEGMENT + 3}):
        delete(serial)
    store.close()
    opened = attack(disk, final_roots(disk))
    lasting = b"".join(value for _place, value in opened)
    indexed = b"".join(value for _table, _key, value in disk.plain)
    final = (tmp_path / "root.key").read_bytes()
    for serial in messages:
        for term in (search_index._hash(f"word{serial}x"), search_index._sender(f"person{serial}")):
            assert term in indexed
            there = term in lasting or term in final or any(term in page for page in disk.pages)
            assert there == (serial not in deleted or not erasing)
