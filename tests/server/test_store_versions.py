"""Stores of earlier versions, and of later ones: what the servers of now make of them."""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import lmdb
import pytest
import trio

from cbfs.network.link import request
from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.primitives import dh_public
from cbfs_common.wire.requests import (
    CountPrekeys,
    Fetch,
    PrekeyCount,
    PrekeyRecord,
    Stored,
    TakePrekey,
    envelope_id,
)
from cbfs_host import lmdb_environment, store_file
from cbfs_host.complaints import StoreError
from cbfs_host.lmdb_environment import with_check
from cbfs_host.store_file import StoreFile
from cbfs_host.store_format import META, StoreFormat
from cbfs_names.state.store import StateStore
from cbfs_server.lmdb_store.store import LmdbStore
from tests.server.test_admin import admin, status
from tests.server.test_server_processes import PROGRAMS, failure, running, said_in_words
from tests.support.children import exit_code
from tests.support.killing import Kill, KillingEnv, every_point
from tests.support.serving import link_to, listed, running_server

STORES = Path(__file__).with_name("stores")
VERSIONS = [path.name[7:-7] for path in sorted(STORES.glob("server-*.tar.xz"))]
LOST = "(lost)"
FIXTURES = {"cbfs_server": "server", "cbfs_names": "names"}
SECRET = b"7" * 32
ENVELOPES = [bytes([number]) * ENVELOPE_SIZE for number in range(5)]


def unpacked(program: str, version: str, data: Path) -> Path:
    """The data directory that a server of that version has left."""
    with tarfile.open(STORES / f"{FIXTURES[program]}-{version}.tar.xz") as file:
        file.extractall(data, filter="data")
    data.chmod(0o700)
    (data / "store").chmod(0o700)
    return data


@pytest.mark.parametrize("version", VERSIONS)
def test_a_message_server_goes_on_with_a_store_of_an_earlier_version(
    version: str, tmp_path: Path
) -> None:
    data = unpacked("cbfs_server", version, tmp_path / "data")

    async def all_is_there() -> None:
        async with link_to(server, SECRET) as home:
            assert await listed(home) == [envelope_id(each) for each in ENVELOPES]
            for each in ENVELOPES:
                assert await request(home, Fetch(envelope_id(each))) == Stored(each)

    async def take(left: int) -> None:
        async with link_to(server, SECRET) as home:
            assert await request(home, CountPrekeys()) == PrekeyCount(left, 2**40)
            taken = await request(home, TakePrekey(dh_public(SECRET)))
            assert isinstance(taken, PrekeyRecord)

    for left in 10, 9:  # and again, when it is of the newest version
        with running_server(data) as server:
            trio.run(all_is_there)
            trio.run(take, left)
            assert status(data)["accounts"] == 2
            assert admin("cbfs_server", data, "check").returncode == 0
            assert server.terminate() == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_directory_goes_on_with_a_store_of_an_earlier_version(
    version: str, tmp_path: Path
) -> None:
    data = unpacked("cbfs_names", version, tmp_path / "data")
    before = (data / "policy").read_text().splitlines()[1:]
    for _ in range(2):
        with running("cbfs_names", data) as (process, url):
            assert url
            found = status(data)
            assert (found["names"], found["rounds"], found["role"]) == (1, 3, "directory")
            assert admin("cbfs_names", data, "check").returncode == 0
            keys = [line for line in before if "://" not in line]
            assert set(keys) <= set((data / "policy").read_text().splitlines())
            process.terminate()
            assert process.wait(60) == 0


def environment(data: Path) -> Any:
    return lmdb.open(str(data / "store"), max_dbs=32)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_store_of_a_later_version_is_refused_in_words_and_left_alone(
    program: str, tmp_path: Path
) -> None:
    data = unpacked(program, VERSIONS[-1], tmp_path / "data")
    with environment(data) as env:
        meta = env.open_db(META)
        with env.begin(write=True) as txn:
            later = (9).to_bytes(4, "big")
            txn.put(b"version", with_check(META, b"version", later), db=meta)
    before = (data / "store" / "data.mdb").read_bytes()
    status_, said = failure(program, data)
    assert (status_, said_in_words(said)) == (1, True)
    assert "the store has format 9" in said[0]
    assert (data / "store" / "data.mdb").read_bytes() == before


# Kills


def _upgrade(txn: Any, tables: Any) -> None:
    """What no version of now does: every record of a table is another one afterwards."""
    with txn.cursor(db=tables[b"data"]) as cursor:
        for key, value in list(cursor.iternext()):
            txn.put(key, value + b", upgraded", db=tables[b"data"])


FORMAT_0 = StoreFormat("test", 0, {}, "damaged")
FORMAT_1 = StoreFormat("test", 1, {0: _upgrade}, "damaged")
NAMES = META, b"data"
RECORDS = {b"%d" % number: b"value" for number in range(20)}


def _begin(txn: Any, tables: Any) -> None:
    for key, value in RECORDS.items():
        txn.put(key, value, db=tables[b"data"])


def records(file: StoreFile) -> dict[bytes, bytes]:
    with file.env.begin() as txn, txn.cursor(db=file.tables[b"data"]) as cursor:
        return dict(cursor.iternext())


def upgraded_and_killed(place: Path, number: int) -> int:
    """Make a store with the format of before, and open it with that of now."""
    kill = Kill(number)
    StoreFile(place / "store", NAMES, FORMAT_0, _begin).close()
    opened = lmdb_environment.open_environment
    lmdb_environment.__dict__["open_environment"] = lambda *place: KillingEnv(opened(*place), kill)
    store = StoreFile(place / "store", NAMES, FORMAT_1, _begin)
    store.settle()
    store.close()
    return 0


def test_a_kill_while_a_store_is_upgraded_leaves_the_old_or_the_new(memory: Path) -> None:
    """An upgrade that is made twice, or in part, is found by what it puts behind each record."""
    killed = 0
    for place in every_point(upgraded_and_killed, memory):
        store = StoreFile(place / "store", NAMES, FORMAT_1, None)
        assert records(store) == {key: value + b", upgraded" for key, value in RECORDS.items()}
        assert not store.is_copy
        store.close()
        killed += 1
    assert killed >= 4


def compacted_and_killed(place: Path, number: int) -> int:
    """Write a store anew, with a point before and after each thing that reaches the disk."""
    kill = Kill(number)
    store = StoreFile(place / "store", NAMES, FORMAT_1, _begin)
    store.settle()
    for module, name in (os, "fsync"), (store_file, "sync_directory"):
        vars(module)[name] = kill.around(vars(module)[name])
    replace = Path.replace
    Path.replace = kill.around(replace)  # type: ignore[method-assign]
    store.change(store.write_anew(0))
    assert records(store) == RECORDS
    store.close()
    return 0


def test_a_kill_while_a_store_is_written_anew_leaves_the_old_or_the_new(memory: Path) -> None:
    killed = 0
    for place in every_point(compacted_and_killed, memory):
        store = StoreFile(place / "store", NAMES, FORMAT_1, None)
        assert records(store) == RECORDS
        assert not store.is_copy, "it would forget what it has given out"
        store.change(store.write_anew(0))
        assert records(store) == RECORDS
        store.close()
        killed += 1
    assert killed >= 6


def opened_and_killed(place: Path, number: int) -> int:
    """Open what an earlier version has left."""
    kill = Kill(number)
    if not (place / "server").exists():
        unpacked("cbfs_server", VERSIONS[0], place / "server")
        unpacked("cbfs_names", VERSIONS[0], place / "names")
    opened = lmdb_environment.open_environment
    lmdb_environment.__dict__["open_environment"] = lambda *place: KillingEnv(opened(*place), kill)
    LmdbStore(place / "server" / "store").close()
    names = StateStore(place / "names" / "store", None)
    assert not names.is_copy
    names.settle()
    names.close()
    return 0


def test_a_kill_while_stores_of_before_are_opened_loses_nothing(memory: Path) -> None:
    for place in every_point(opened_and_killed, memory):
        assert exit_code(opened_and_killed, place, 0) == 0
        store = LmdbStore(place / "server" / "store")
        with store.read() as reader:
            assert (reader.accounts(), reader.envelopes()) == (2, 5)
        store.close()


def test_a_store_whose_upgrade_fails_is_as_it_was(tmp_path: Path) -> None:
    def fails(txn: Any, tables: Any) -> None:
        _upgrade(txn, tables)
        raise StoreError("a record of the store is damaged", "check the disk")

    StoreFile(tmp_path / "store", NAMES, FORMAT_0, _begin).close()
    with pytest.raises(StoreError):
        StoreFile(tmp_path / "store", NAMES, StoreFormat("test", 1, {0: fails}, ""), None)
    store = StoreFile(tmp_path / "store", NAMES, FORMAT_0, None)
    assert records(store) == RECORDS
    store.close()


def test_every_store_of_before_has_its_maker(tmp_path: Path) -> None:
    """The commit that a row of the list names is there, in a clone that has the history; that of
    the first was never landed."""
    readme = (STORES / "README.rst").read_text()
    rows = [line.split()[:2] for line in readme.splitlines() if line[:1].isdigit()]
    assert [number for number, _ in rows] == VERSIONS
    assert {number for number, commit in rows if commit == LOST} <= {"0"}
    for commit in (commit for _, commit in rows if commit != LOST):
        found = subprocess.run(
            ["git", "rev-parse", "--is-shallow-repository"],
            cwd=STORES,
            capture_output=True,
            text=True,
            check=False,
        )
        if found.stdout.strip() == "false":
            subprocess.run(["git", "cat-file", "-e", commit], cwd=STORES, check=True)


def test_a_copy_that_is_written_anew_is_a_copy_still(tmp_path: Path) -> None:
    store = StoreFile(tmp_path / "store", NAMES, FORMAT_1, _begin)
    store.settle()
    store.close()
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    for _ in range(2):
        store = StoreFile(tmp_path / "copy", NAMES, FORMAT_1, None)
        assert store.is_copy
        store.change(store.write_anew(0))
        store.close()
    store = StoreFile(tmp_path / "copy", NAMES, FORMAT_1, None)
    store.settle()
    store.change(store.write_anew(0))
    store.close()
    store = StoreFile(tmp_path / "copy", NAMES, FORMAT_1, None)
    assert not store.is_copy
    store.close()


def test_the_store_of_a_directory_is_written_anew_when_it_does_not_run(tmp_path: Path) -> None:
    data = unpacked("cbfs_names", VERSIONS[-1], tmp_path / "data")
    with running("cbfs_names", data) as (process, _):
        assert admin("cbfs_names", data, "compact").returncode == 1
        process.terminate()
        process.wait(60)
    for _ in range(2):
        assert admin("cbfs_names", data, "compact").returncode == 0
        with running("cbfs_names", data) as (process, url):
            assert url
            assert admin("cbfs_names", data, "check").returncode == 0
            process.terminate()
            process.wait(60)
    assert admin("cbfs_names", tmp_path / "nowhere", "compact").returncode == 1
    assert not (tmp_path / "nowhere").exists()
