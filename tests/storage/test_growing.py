"""Commits that only add: the root file stays as it is, and all that is promised holds."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM, no_lock
from cbfs.storage.lmdb_pages import node, offsets
from cbfs.storage.root_key import RootFile
from cbfs.storage.salvage import Remains
from cbfs.storage.store import CannotWrite, Store, Table, Writer
from tests.support.disk import PAGE, attack, final_roots, follow
from tests.support.killing import Kill, KillingEnv, every_point
from tests.support.stores import open_store


def put(key: bytes, value: bytes = b"value") -> Callable[[Writer], None]:
    return lambda writer: writer.put(Table.META, key, value)


def delete(key: bytes) -> Callable[[Writer], bool]:
    return lambda writer: writer.delete(Table.META, key)


def contents(store: Store) -> dict[bytes, bytes]:
    with store.read() as reader:
        return dict(reader.items(Table.META))


def root_file(place: Path) -> bytes:
    return (place / "root.key").read_bytes()


def test_what_only_adds_leaves_the_root_file_as_it_is(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write(put(b"first"))
    before = root_file(tmp_path)
    for key in (b"a", b"b"):
        store.write(put(key))
    assert root_file(tmp_path) == before
    store.write(put(b"a", b"another value"))
    turned = root_file(tmp_path)
    assert turned != before
    store.write(delete(b"b"))
    assert root_file(tmp_path) != turned
    expected = {b"first": b"value", b"a": b"another value"}
    assert contents(store) == expected
    store.close()
    again = open_store(tmp_path)
    assert contents(again) == expected
    again.close()


def test_the_first_commit_of_a_store_that_is_opened_turns_the_root(tmp_path: Path) -> None:
    """Pages may lie in it of a commit that never came to count."""
    for key in (b"a", b"b", b"c"):
        store = open_store(tmp_path)
        before = root_file(tmp_path)
        store.write(put(key))
        assert root_file(tmp_path) != before
        store.close()
    assert set(contents(open_store(tmp_path))) == {b"a", b"b", b"c"}


def test_after_a_commit_that_failed_the_root_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    store.write(put(b"first"))

    def failing(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("cbfs.storage.store.TxnNodes.put_state", failing)
        with pytest.raises(CannotWrite):
            store.write(put(b"lost"))
    before = root_file(tmp_path)
    store.write(put(b"second"))
    assert root_file(tmp_path) != before
    before = root_file(tmp_path)
    store.write(put(b"third"))
    assert root_file(tmp_path) == before
    assert set(contents(store)) == {b"first", b"second", b"third"}
    store.close()


def adding(directory: Path, number: int) -> int:
    store = open_store(directory)
    store.write(put(b"first"))
    store._env = KillingEnv(store._env, Kill(number))
    store.write(put(b"second"))
    store.write(put(b"third"))
    return 0


@pytest.mark.slow
def test_a_kill_leaves_all_of_it_or_nothing(tmp_path: Path) -> None:
    seen = []
    for directory in every_point(adding, tmp_path):
        store = open_store(directory)
        seen.append(len(contents(store)))
        store.write(delete(b"first"))
        store.write(put(b"fourth"))
        assert len(contents(store)) == seen[-1]
        assert store._root_file.settled(store._now.generation)
        store.close()
    assert seen == [1, 2, 2, 3]


def test_readers_see_their_time(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write(put(b"first"))
    with store.read() as reader:
        store.write(put(b"second"))
        with store.read() as after:
            store.write(put(b"third"))
            store.write(delete(b"first"))
            assert list(reader.keys(Table.META)) == [b"first"]
            assert reader.get(Table.META, b"first") == b"value"
            assert list(after.keys(Table.META)) == [b"first", b"second"]
            assert after.get(Table.META, b"second") == b"value"
    assert set(contents(store)) == {b"second", b"third"}
    assert set(store._known) == {store._now}
    store.close()


def test_who_only_reads_sees_what_was_added_meanwhile(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write(put(b"first"))
    store.write(put(b"second"))
    before = store._now.generation
    store.close()
    reading = open_store(tmp_path, read_only=True)
    assert set(contents(reading)) == {b"first", b"second"}
    assert reading._now.generation == before
    reading.close()


def test_what_was_added_and_is_gone_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = follow(monkeypatch, [tmp_path])[tmp_path]
    store = open_store(tmp_path)
    for number in range(40):
        store.write(put(b"key %d" % number, b"value %d" % number))
    before = store._now.generation
    for number in range(0, 40, 3):
        store.write(delete(b"key %d" % number))
        store.write(put(b"after %d" % number, b"more %d" % number))
    assert store._now.generation == before + 14
    store.close()
    opened = {value for _place, value in attack(disk, final_roots(disk))}
    now = {value for _table, _key, value in disk.now}
    assert opened == now
    assert {value for _table, _key, value in disk.gone()} == {
        b"value %d" % n for n in range(0, 40, 3)
    }


def test_what_is_left_of_a_damaged_store_is_that_of_its_newest_state(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for number in range(6):
        store.write(put(b"key %d" % number))
    store.close()
    _spoil_one_record(tmp_path)
    remains = Remains(
        tmp_path / "store", RootFile(tmp_path / "root.key", no_lock, SYSTEM_RANDOM.token)
    )
    found = dict(remains.records(Table.META))
    assert (len(found), remains.lost) == (5, 1)
    remains.close()


def _spoil_one_record(place: Path) -> None:
    """In all copies that there are of it but for nodes of the tree of keys."""
    path = place / "store" / "data.mdb"
    data = bytearray(path.read_bytes())
    spoilt: set[bytes] = set()
    for at in range(0, len(data), PAGE):
        page = bytes(data[at : at + PAGE])
        for offset in offsets(page) if page[10] == 2 else ():
            entry = node(0, page, offset)
            if entry is None or len(entry[0]) != 16:
                continue
            key, where, size = entry
            if not spoilt or key in spoilt:
                spoilt.add(key)
                data[at + where + size - 1] ^= 1
    assert spoilt
    path.write_bytes(bytes(data))
