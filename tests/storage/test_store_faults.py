"""The client's store on a disk that flips bits, cuts files short, is full or read-only: our
errors, no wrong data, and what is intact comes out."""

import errno
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM, salvaging
from cbfs.commands.export import read_export, write_export
from cbfs.messages.conversations import add_conversation
from cbfs.messages.history import Arrival, add_message
from cbfs.mount.quota import errno_of
from cbfs.storage.key_tree import FANOUT, node_name
from cbfs.storage.lmdb_pages import Pages
from cbfs.storage.root_key import NO_LOCK, Protection, make_root_file
from cbfs.storage.store import CannotWrite, Meta, Store, StoreError, Table, Writer
from cbfs.storage.tables import table_at
from cbfs_common.errors import CbfsError
from tests.support.disk import PAGE, small_disk, use_up
from tests.support.fake_backend import put_content
from tests.support.stores import open_store
from tests.support.world import WAIT, run

SEED = 20_261_124
GROWTH = 100
ROUNDS = 120
RECORDS = 700
Said = dict[tuple[Table, bytes], set[bytes]]
"""All values that a record ever had."""


def value(key: bytes, version: int) -> bytes:
    """Of any size up to several pages."""
    made = random.Random(key + bytes([version]))
    return made.randbytes(made.choice((5, 60, 300, 1_500, 3_000, 9_000)))


def fill(place: Path, *, records: int = RECORDS) -> Said:
    """A store with some history: records come, change and go."""
    said: Said = {(Table.META, Meta.ACCOUNT): {b"x"}, (Table.META, Meta.OWN): {b"y"}}
    store = open_store(place)
    rolls = random.Random(SEED)
    tables = [Table.HELD, Table.PEERS, Table.INDEX, Table.TERMS]

    def change(writer: Writer, numbers: range) -> None:
        for number in numbers:
            table, key = tables[number % 4], number.to_bytes(12, "big")
            said[table, key] = {value(key, 0)}
            writer.put(table, key, value(key, 0))
            old = rolls.randrange(number + 1)
            table, key = tables[old % 4], old.to_bytes(12, "big")
            if number % 3 == 0:
                writer.delete(table, key)
            elif number % 3 == 1:
                said[table, key].add(value(key, 1))
                writer.put(table, key, value(key, 1))

    for key, word in ((Meta.ACCOUNT, b"x"), (Meta.OWN, b"y")):
        store.write(lambda w, key=key, word=word: w.put(Table.META, key, word))  # type: ignore[misc]
    for first in range(0, records, 35):
        store.write(lambda w, first=first: change(w, range(first, min(first + 35, records))))  # type: ignore[misc]
    store.close()
    return said


def contents(store: Store) -> dict[tuple[Table, bytes], bytes]:
    with store.read() as reader:
        return {(t, k): v for t in Table for k, v in reader.items(t)}


def damage(path: Path, dice: random.Random) -> None:
    """As disks do it: bits, a stretch of zeros, a page in the wrong place, a cut."""
    data = bytearray(path.read_bytes())
    kind = dice.randrange(5)
    page = dice.randrange(len(data) // PAGE) * PAGE
    if kind == 0:
        for _ in range(dice.randint(1, 40)):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    elif kind == 1:  # where LMDB keeps its own: the beginnings of pages
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data) // PAGE) * PAGE + dice.randrange(200)
            data[at] ^= 1 << dice.randrange(8)
    elif kind == 2:
        data[page : page + PAGE] = bytes(PAGE)
    elif kind == 3:
        other = dice.randrange(len(data) // PAGE) * PAGE
        data[page : page + PAGE] = data[other : other + PAGE]
    else:
        del data[dice.randrange(len(data)) :]
    path.write_bytes(data)


def read_everything(place: Path, said: Said) -> str:
    """Open, read and write the store, then salvage it. What was wrong, or nothing."""
    try:
        store = open_store(place)
        try:
            for table in Table:
                with store.read() as reader:
                    for key, data in reader.items(table):
                        if data not in said.get((table, key), ()):
                            return f"wrong data in {table}"
            for number in range(30):
                key = number.to_bytes(12, "big")
                store.write(lambda w, key=key: w.put(Table.PEERS, key, value(key, 0)))  # type: ignore[misc]
                store.write(lambda w, key=key: w.delete(Table.PEERS, key))  # type: ignore[misc]
        finally:
            store.close()
    except CbfsError:
        pass
    try:
        with salvaging(place, SYSTEM_RANDOM) as source, source.salvage() as salvage:
            for table in Table:
                for key, kept in salvage.records(table):
                    if kept is not None and kept not in said.get((table, key), ()):
                        return f"wrong data of {table} is salvaged"
    except CbfsError:
        pass
    return ""


def rounds(place: Path) -> None:
    """Damage copies of one store and read them: in a process of its own, which may end. Prints
    each seed before its round, and what was wrong."""
    whole, copy = place / "whole", place / "damaged"
    whole.mkdir()
    said = fill(whole)
    for seed in range(SEED, SEED + ROUNDS):
        shutil.copytree(whole, copy)
        damage(copy / "store" / "data.mdb", random.Random(seed))
        print(f"seed {seed}: ", end="", flush=True)
        print(read_everything(copy, said), flush=True)
        shutil.rmtree(copy)


def test_any_damage_gives_what_was_written_or_our_errors(tmp_path: Path) -> None:
    script = "import pathlib, sys; from tests.storage.test_store_faults import rounds"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; rounds(pathlib.Path(sys.argv[1]))", tmp_path],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=8 * WAIT,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1:]}: {done.returncode} {done.stderr}"
    assert not [line for line in lines if not line.endswith(": ")]
    assert len(lines) == ROUNDS


def test_the_pages_of_a_sound_store_are_sound(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    descriptor = os.open(tmp_path / "store" / "data.mdb", os.O_RDONLY)
    pages, dice = Pages(descriptor), random.Random(SEED)
    tables = [Table.SESSIONS, Table.PEERS, Table.TERMS]
    known: dict[tuple[Table, bytes], bytes] = {}

    def change(writer: Writer) -> None:
        for _ in range(dice.choice((1, 10, 150))):
            table, key = dice.choice(tables[:3]), dice.randbytes(dice.choice((1, 1, 2)))
            if dice.random() < 0.3:
                writer.delete(table, key)
                known.pop((table, key), None)
            else:
                known[table, key] = dice.randbytes(dice.choice((0, 40, 700, 2_100, 4_100, 20_000)))
                writer.put(table, key, known[table, key])

    try:
        for _ in range(120):
            store.write(change)
            with store._env.begin() as txn:
                assert pages.check(txn.id())
        for table in tables:
            store.write(lambda writer, table=table: writer.delete_prefix(table, b""))  # type: ignore[misc]
            with store._env.begin() as txn:
                assert pages.check(txn.id())
            known = {(t, k): v for (t, k), v in known.items() if t is not table}
            found = contents(store)
            assert {(t, k): v for (t, k), v in found.items() if t is not Table.META} == known
    finally:
        os.close(descriptor)
        store.close()


@pytest.fixture
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbfs.commands.export.MEMORY", 64)


def exported(place: Path) -> dict[tuple[Table, bytes], bytes]:
    """What an export of it has."""
    with salvaging(place, SYSTEM_RANDOM) as source:
        write_export(source, place / "export", b"secret", SYSTEM_RANDOM)
    return {(t, key): data for t, key, data in read_export(place / "export", b"secret")}


@pytest.mark.usefixtures("_cheap")
@pytest.mark.parametrize("what", ["first pages", "records", "free pages", "leaf", "first keys"])
def test_a_damaged_store_is_not_opened_and_what_is_intact_is_exported(
    tmp_path: Path, what: str
) -> None:
    fill(tmp_path)
    store = open_store(tmp_path)
    for key, word in ((Meta.ACCOUNT, b"x"), (Meta.OWN, b"y")):  # which are not the oldest then
        store.write(lambda w, key=key, word=word: w.put(Table.META, key, word))  # type: ignore[misc]
    whole = contents(store)
    with store._env.begin() as txn, txn.cursor() as cursor:
        peers = [d for place, d in cursor if table_at(place) is Table.PEERS and len(d) < 999]
        keys = txn.get(node_name(0, 0))  # of the oldest records that are left
    store.close()
    file = tmp_path / "store" / "data.mdb"
    data = bytearray(file.read_bytes())
    with file.open("rb") as opened:
        newest = Pages(opened.fileno()).metas()[0]
    pages = range(0, len(data), PAGE)
    for at in {
        "records": [newest.records.root * PAGE + 10],
        "free pages": [newest.free.root * PAGE + 12],
        "first pages": [17],
        "leaf": [page + 12 for page in pages if peers[-1] in data[page : page + PAGE]],
        "first keys": [17, *(found.start() for found in re.finditer(re.escape(keys), data))],
    }[what]:
        data[at] ^= 8
    file.write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged|opened") as raised:
        open_store(tmp_path)
    assert "cbfs export" in raised.value.hint
    found = exported(tmp_path)
    assert found.items() <= whole.items()
    assert len(found) >= len(whole) - {"leaf": 40, "first keys": FANOUT}.get(what, 0)


def test_a_record_that_does_not_say_what_it_is_of_counts_as_lost(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write(lambda writer: writer.put(Table.PEERS, b"somebody", b"value"))
    with store._env.begin(write=True) as txn:
        (place,) = [place for place, _ in txn.cursor() if table_at(place) is Table.PEERS]
        spoiled = place[:6] + bytes([place[6] ^ 1]) + place[7:]
        txn.put(spoiled, txn.get(place))
        txn.delete(place)
    with store.read() as reader:
        assert list(reader.records(Table.PEERS)) == []
        assert (spoiled, None) in list(reader.records(Table.META))
    store.close()


@pytest.mark.usefixtures("_cheap")
def test_of_what_is_lost_no_content_is_exported_with_zeros_in_its_place(tmp_path: Path) -> None:
    """A page with one of the records of a message's content is gone."""
    _message, kept = put_message(tmp_path, b"l" * 9_000), put_message(tmp_path, b"k" * 9_000)
    file = tmp_path / "store" / "data.mdb"
    with salvaging(tmp_path, SYSTEM_RANDOM) as source, source.salvage() as salvage:
        assert len(list(salvage.records(Table.MESSAGES))) == 2
    data = bytearray(file.read_bytes())
    data[17] ^= 8  # so that its pages are looked at one by one
    for at in range(2 * PAGE, len(data), PAGE):
        if data[at + 10] == 4:  # the first of a value that has pages of its own
            data[at + 100] ^= 1
            break
    file.write_bytes(data)
    found = exported(tmp_path)
    assert [key for table, key in found if table is Table.MESSAGES] == [kept]


def put_message(place: Path, text: bytes) -> bytes:
    """Its record's key."""
    store = open_store(place)

    def change(writer: Writer) -> bytes:
        for key in (Meta.ACCOUNT, Meta.OWN):
            writer.put(Table.META, key, b"x")
        content = put_content(writer, text)
        conversation = bytes(16)
        if not writer.get(Table.CONVERSATIONS, conversation):
            add_conversation(writer, conversation, "alice", ("alice", "bob"), "", 1)
        arrival = Arrival(SYSTEM_RANDOM.token(32), "alice", 1, (), "", 9, content, ("bob",))
        message = add_message(writer, conversation, arrival, 1)
        return conversation + message.serial.to_bytes(8, "big")

    try:
        return store.write(change)
    finally:
        store.close()


def test_a_store_that_is_cut_off_or_whose_root_is_another_s_says_so(tmp_path: Path) -> None:
    fill(tmp_path)
    file = tmp_path / "store" / "data.mdb"
    data = file.read_bytes()
    for size in (8_192, PAGE + 10, 1):
        file.write_bytes(data[:size])
        with pytest.raises(CbfsError) as raised:
            open_store(tmp_path)
        assert raised.value.hint
        with pytest.raises(CbfsError) as raised, salvaging(tmp_path, SYSTEM_RANDOM):
            pass
        assert "restore an export" in raised.value.hint


# no room


def test_the_map_grows_by_itself_under_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs_host.lmdb_environment.MAP_SIZE", 256 << 10)
    store = open_store(tmp_path)
    stop = threading.Event()
    wrong: list[object] = []

    def look() -> None:
        while not stop.is_set():
            try:
                with store.read() as reader:
                    wrong.extend(k for k, v in reader.items(Table.PEERS) if v != value(k, 0) * 8)
            except CbfsError as error:
                wrong.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(GROWTH):
            key = number.to_bytes(12, "big")
            store.write(lambda writer, key=key: writer.put(Table.PEERS, key, value(key, 0) * 8))  # type: ignore[misc]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert store._env.info()["map_size"] > 1 << 20
    assert len(contents(store)) == GROWTH
    store.close()
    again = open_store(tmp_path)
    assert len(contents(again)) == GROWTH
    again.close()


def test_a_map_that_cannot_grow_is_told_and_leaves_the_store_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs_host.lmdb_environment.MAP_SIZE", 256 << 10)
    monkeypatch.setattr("cbfs.storage.store.GROW_WAIT", 0)
    store = open_store(tmp_path)
    with store.read(), pytest.raises(CannotWrite) as raised:
        store.write(lambda writer: writer.put(Table.PEERS, b"a", bytes(1 << 20)))
    assert "ulimit -v" in raised.value.hint
    assert not contents(store)
    store.write(lambda writer: writer.put(Table.PEERS, b"a", bytes(1 << 20)))
    assert len(contents(store)) == 1
    store.close()


def test_a_full_disk_leaves_the_store_as_it_was_and_it_goes_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        place = disk / "account"
        place.mkdir()
        store = open_store(place)
        store.write(lambda writer: writer.put(Table.PEERS, b"a", b"before"))
        other = use_up(disk)
        before = contents(store)
        for _ in range(3):
            with pytest.raises(CannotWrite, match="cannot be written") as raised:
                store.write(lambda writer: writer.put(Table.PEERS, b"a", bytes(100_000)))
            assert errno_of(raised.value) == errno.ENOSPC
            assert contents(store) == before
        store.close()
        store = open_store(place)  # for which no room is needed
        assert contents(store) == before
        other.unlink()
        store.write(lambda writer: writer.put(Table.PEERS, b"a", bytes(100_000)))
        assert contents(store)[Table.PEERS, b"a"] == bytes(100_000)
        store.close()


@pytest.mark.parametrize("left", range(1, 8))
def test_a_disk_that_takes_a_part_of_a_change_is_full(tmp_path: Path, left: int) -> None:
    """LMDB says then that it could not be read or written."""
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        place = disk / "account"
        place.mkdir()
        store = open_store(place)
        store.write(lambda writer: writer.put(Table.PEERS, b"a", b"before"))
        other = use_up(disk)
        os.truncate(other, max(0, other.stat().st_size - left * PAGE))
        before = contents(store)
        with pytest.raises(CannotWrite, match="cannot be written") as raised:
            store.write(lambda writer: writer.put(Table.PEERS, b"a", bytes(100_000)))
        assert errno_of(raised.value) == errno.ENOSPC
        assert contents(store) == before
        store.close()


def test_no_store_is_begun_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        place = disk / "account"
        place.mkdir()
        make_root_file(place / "root.key", Protection(), NO_LOCK, SYSTEM_RANDOM.token)
        use_up(disk)
        with pytest.raises(StoreError, match="no space left") as raised:
            open_store(place)
        assert raised.value.hint


@pytest.mark.usefixtures("_cheap")
def test_a_disk_that_is_read_only_is_told_and_can_be_exported(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8 << 20) as disk:
        place = disk / "account"
        place.mkdir()
        fill(place, records=50)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for name, words in (("mount.cbfs", (place, tmp_path)), ("cbfs", ("passphrase", place))):
            done = run(name, *words, *(["--remove"] if name == "cbfs" else ["--no-tor"]))
            assert done.returncode == 1
            assert "read-only" in done.stderr.lower()
            assert "cbfs: hint: " in done.stderr
            assert "Traceback" not in done.stderr
        with salvaging(place, SYSTEM_RANDOM) as source:
            count = write_export(source, tmp_path / "export", b"secret", SYSTEM_RANDOM)
        assert not count.damaged


def test_a_root_file_that_cannot_be_written_is_told_and_changes_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write(lambda writer: writer.put(Table.PEERS, b"a", b"before"))
    put = store._root_file._put

    def fail(number: int, data: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    store._root_file._put = fail  # type: ignore[method-assign]
    with pytest.raises(CannotWrite) as raised:
        store.write(lambda writer: writer.put(Table.PEERS, b"a", b"after"))
    assert raised.value.hint == "the disk is read-only"
    assert errno_of(raised.value) == errno.EROFS
    store._root_file._put = put  # type: ignore[method-assign]
    store.write(lambda writer: writer.put(Table.PEERS, b"b", b"after"))
    assert contents(store)[Table.PEERS, b"a"] == b"before"
    store.close()
