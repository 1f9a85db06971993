"""A store that was closed in order is opened without a look at all its pages, which comes
afterwards; any other is looked through before."""

import shutil
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, no_lock
from cbfs.storage.as_closed import NOTE
from cbfs.storage.lmdb_pages import Pages
from cbfs.storage.root_key import RootFile
from cbfs.storage.store import Store, StoreError, Table, Writer
from tests.support.stores import open_store

PAGE = 4_096


def put(writer: Writer) -> None:
    for number in range(200):
        writer.put(Table.META, b"key %d" % number, bytes(100))


def believing(place: Path) -> Store:
    """As a mount opens it."""
    root_file = RootFile(place / "root.key", no_lock, SYSTEM_RANDOM.token)
    try:
        return Store(place / "store", root_file, SYSTEM_RANDOM, believes=True)
    except BaseException:
        root_file.close()
        raise


@pytest.fixture
def place(tmp_path: Path) -> Path:
    store = open_store(tmp_path)
    store.write(put)
    store.close()
    return tmp_path


def data_of(place: Path) -> Path:
    return place / "store" / "data.mdb"


def test_what_was_closed_in_order_is_believed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    check = Pages.check

    def counting(pages: Pages, transaction: int) -> bool:
        looks.append(transaction)
        return check(pages, transaction)

    monkeypatch.setattr(Pages, "check", counting)
    store = believing(place)
    assert not store.is_looked_through
    assert not looks
    store.write(put)
    store.close()
    believing(place).close()
    assert not looks
    open_store(place).close()  # who does not believe looks
    assert len(looks) == 1


def test_what_was_not_closed_is_looked_through(place: Path) -> None:
    """Even when nothing was written: who is killed has closed nothing."""
    store = believing(place)
    assert not (place / "store" / NOTE).exists()
    copy = place.parent / f"{place.name}-copy"
    shutil.copytree(place, copy)  # as it is when the program is killed now
    store.close()
    assert (place / "store" / NOTE).exists()
    killed = believing(copy)
    assert killed.is_looked_through
    killed.close()
    again = believing(copy)
    assert not again.is_looked_through
    again.close()


def test_a_file_that_was_put_back_is_looked_through(place: Path) -> None:
    shutil.copy2(data_of(place), place / "copy")
    (place / "copy").replace(data_of(place))
    store = believing(place)
    assert store.is_looked_through
    store.close()


def spoil(place: Path) -> None:
    """As a disk does, of which nobody is told: the times stay."""
    data = bytearray(data_of(place).read_bytes())
    for at in range(2 * PAGE, len(data), PAGE):
        data[at : at + 8] = b"\xff" * 8
    data_of(place).write_bytes(data)


def test_a_file_that_somebody_has_changed_is_not_opened(place: Path) -> None:
    spoil(place)
    with pytest.raises(StoreError, match="damaged"):
        believing(place)


@pytest.mark.slow
def test_damage_is_found_afterwards_and_refused_the_next_time(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = believing(place)
    assert trio.run(store.look_through) == ""
    monkeypatch.setattr("cbfs.storage.as_closed._now", lambda _path: b"the same")
    store.close()
    store = believing(place)  # LMDB asks for no page that is spoiled below
    spoil(place)
    assert trio.run(store.look_through)
    store.close()
    with pytest.raises(StoreError, match="damaged"):
        believing(place)


@pytest.mark.slow
def test_a_look_that_has_failed_is_done_again(
    place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = believing(place)
    with monkeypatch.context() as patch:
        patch.setattr("cbfs.storage.as_closed.look_through.__name__", "nothing.of.that.name")
        with pytest.raises(StoreError, match="could not be looked through: status 1"):
            trio.run(store.look_through)
    store.close()
    store = believing(place)
    assert store.is_looked_through
    store.close()
    store = believing(place)
    assert not store.is_looked_through
    evil = tmp_path_factory.mktemp("evil")
    (evil / "lmdb.py").write_text("import sys\nprint('damaged, says a stranger')\nsys.exit(3)\n")
    monkeypatch.chdir(evil)
    assert trio.run(store.look_through) == ""
    store.close()
    store = believing(place)
    assert not store.is_looked_through
    store.close()
