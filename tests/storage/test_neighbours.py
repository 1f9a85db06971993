"""What is written together lies together, so that a commit writes few pages."""

import random
from pathlib import Path

import pytest

from cbfs.storage.encoding import u64
from cbfs.storage.key_tree import LEVELS, node_index, node_level, node_name
from cbfs.storage.lmdb_pages import node, offsets
from cbfs.storage.store import Store, Table, Writer
from cbfs.storage.tables import GROUP_MAX, PLACE_SIZE, WHOLE, derived_place, table_at
from tests.support.disk import PAGE
from tests.support.stores import open_store

OFTEN = [(Table.META, b"heads"), (Table.SESSIONS, b"s" * 16), (Table.PEERS, b"p" * 16)]
RECORDS = 3_000


def leaves(place: Path) -> dict[bytes, int]:
    """The pages of the newest versions of records."""
    found = {}
    with (place / "store" / "data.mdb").open("rb") as file:
        for number, page in enumerate(iter(lambda: file.read(PAGE), b"")):
            for offset in offsets(page) if number > 1 and page[10] == 2 else ():
                entry = node(0, page, offset)
                if entry is not None:
                    found[entry[0]] = number
    return found


def write_often(store: Store, value: bytes) -> None:
    def change(writer: Writer) -> None:
        for table, key in OFTEN:
            writer.put(table, key, value)

    store.write(change)


def fill(writer: Writer, first: int) -> None:
    for number in range(first, first + 50):
        writer.put(Table.META, b"of conversation %d" % number, bytes(40))


def test_what_is_written_last_is_in_two_leaves_at_most_however_much_there_is(
    tmp_path: Path,
) -> None:
    store = open_store(tmp_path)
    dice = random.Random(1)
    for first in range(0, RECORDS, 50):
        store.write(lambda writer, first=first: fill(writer, first))  # type: ignore[misc]
        if dice.random() < 0.3:
            write_often(store, b"%d" % first)
    for number in range(3):
        write_often(store, b"%d" % number)
        with store.read() as reader:
            places = [reader.place(table, key) for table, key in OFTEN]
        pages = leaves(tmp_path)
        assert len({pages[place] for place in places if place}) <= 2
        assert len({place[:5] for place in places if place}) <= 2
    with store.read() as reader:
        assert reader.count(Table.META) == RECORDS + 1
        assert [reader.get(table, key) for table, key in OFTEN] == [b"2"] * 3
    store.close()


def test_a_place_is_another_one_each_time_and_the_last_one_is_empty(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    seen = set()
    for number in range(2 * GROUP_MAX):
        store.write(lambda writer, n=number: writer.put(Table.META, b"key", u64(n)))  # type: ignore[misc]
        with store.read() as reader:
            seen.add(reader.place(Table.META, b"key"))
        with store._env.begin() as txn:
            assert len([key for key, _data in txn.cursor() if table_at(key)]) == 1
    assert len(seen) == 2 * GROUP_MAX
    store.close()


@pytest.mark.parametrize("table", Table)
def test_a_place_tells_its_table(tmp_path: Path, table: Table) -> None:
    store = open_store(tmp_path)
    if table not in WHOLE:
        place = derived_place(b"secret", table, b"key")
    else:
        store.write(lambda writer: writer.put(table, b"key", b""))
        with store.read() as reader:
            place = reader.place(table, b"key") or b""
        store.write(lambda writer: writer.delete(table, b"key"))
    assert (len(place), table_at(place)) == (PLACE_SIZE, table)
    store.close()


@pytest.mark.parametrize("bit", range(16))
def test_a_record_that_does_not_know_its_table_may_be_of_any(tmp_path: Path, bit: int) -> None:
    """A bit of it has flipped, and what is looked for may be that."""
    store = open_store(tmp_path)
    store.write(lambda writer: writer.put(Table.META, b"key", b"value"))
    with store._env.begin(write=True) as txn:
        (place,) = (key for key, _data in txn.cursor() if table_at(key))
        changed = bytearray(place)
        changed[5 + bit // 8] ^= 1 << bit % 8
        txn.put(bytes(changed), txn.pop(place))
    store.close()
    again = open_store(tmp_path)
    with again.read() as reader:
        for table in WHOLE - {Table.QUARANTINE}:
            assert reader._shelf(table).damaged == 1
    again.close()


def test_nodes_come_behind_all_that_are_below_them() -> None:
    names = [node_name(level, index) for level in range(3) for index in range(33)]
    for name in names:
        level, index = node_level(name), node_index(name)
        assert name == node_name(level or 0, index)
        assert level is not None
        assert name < node_name(level + 1, index >> 5)
        below = node_name(level - 1, index * 32) if level else b""
        assert below < name
    newest = [node_name(level, 0) for level in range(LEVELS)]
    assert newest == sorted(newest)
