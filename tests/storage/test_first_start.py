"""The first start of each program: killed at every step of it, and what it makes is on the disk.

What a power loss leaves is in ``tests/power``; here is what it rests on: everything that is made
or renamed is followed by an fsync of its directory, and a store has its place only when it is
whole."""

import errno
import multiprocessing
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest

from cbfs.account.account import SYSTEM_RANDOM, opened_store, reading_store
from cbfs.account.passphrase import Guard
from cbfs.commands.export import write_export
from cbfs.commands.home.onion_key import admission
from cbfs.commands.owner.kept_apart import KeyKind, read_seed, write_secret, write_seed
from cbfs.storage.root_key import MAGIC
from cbfs.storage.store import Meta, Table
from cbfs_common.errors import CbfsError
from cbfs_common.names.config import Terms
from cbfs_common.onion import make_service_key
from cbfs_common.profile import Address
from cbfs_host.complaints import StoreError
from cbfs_host.files import opened_data, written_beside_others
from cbfs_host.onion import load_key as load_onion_key
from cbfs_host.settings import Current
from cbfs_names.commands import main as names_cli
from cbfs_names.commands.settings import parse
from cbfs_names.limits import DirectoryLimits
from cbfs_names.state.keys import load_keys
from cbfs_names.state.store import StateStore as NamesStore
from cbfs_server import cli as server_cli
from cbfs_server.lmdb_store.store import LmdbStore as ServerStore
from tests.support.children import exit_code
from tests.support.killing import Kill, Record, every_point

STEPS = ("mkdir", "rename", "replace", "fsync", "fdatasync", "unlink")


def account(place: Path) -> str:
    """What an account is known by: a secret of its own."""
    with opened_store(place / "data" / "account", SYSTEM_RANDOM, create=Guard) as store:
        return store._blind_key.hex()


def server(place: Path) -> str:
    with opened_data(place / "data" / "server", "cbfs-server"):
        key = server_cli.load_key(place / "data" / "server" / "key", SYSTEM_RANDOM)
        ServerStore(place / "data" / "server" / "store").close()
    return key.encoded.hex()


def names(place: Path) -> str:
    with opened_data(place / "data" / "names", "cbfs-names") as directory:
        keys = load_keys(directory, SYSTEM_RANDOM)
        config = keys.config(Terms())
        NamesStore(directory / "store", config.encode()).close()
    return f"{keys.server.hex()} {config.log.public.hex()}"


STARTS: dict[str, Callable[[Path], str]] = {"account": account, "server": server, "names": names}
STORES = {
    "account": "account/store",
    "server": "server/store",
    "names": "names/store",
}


def start(place: Path, number: int, kind: str) -> int:
    """Start for the first time, with points around all that changes a directory or syncs it."""
    kill = Kill(number)
    for name in STEPS:
        setattr(os, name, kill.around(getattr(os, name)))
    lmdb.__dict__["open"] = kill.around(lmdb.open)
    Record(place / "record").write(*STARTS[kind](place).split())
    return 0


def tables(store: Path) -> int:
    env = lmdb.open(str(store), max_dbs=20, readonly=True, lock=False)
    try:
        with env.begin() as txn:
            return int(txn.stat()["entries"])
    finally:
        env.close()


@pytest.mark.parametrize("kind", STARTS)
def test_a_first_start_that_is_killed_at_any_step_is_followed_by_a_good_one(
    memory: Path, kind: str
) -> None:
    whole = memory / "whole"
    whole.mkdir()
    assert exit_code(start, whole, 0, kind) == 0
    count = tables(whole / "data" / STORES[kind])
    for place in every_point(partial(start, kind=kind), memory):
        store = place / "data" / STORES[kind]
        if store.exists():
            assert tables(store) == count, "a store that is in its place is whole"
        assert exit_code(start, place, 0, kind) == 0
        assert exit_code(start, place, 0, kind) == 0
        told = Record(place / "record").lines()
        assert all(each == told[0] for each in told), "what was told stays true"
        assert not list(place.rglob("*.new")), "nothing is left lying about"


class Watched:
    """What is made and renamed, and what is synced after it; paths as they are at the end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, top: Path) -> None:
        self.top = top
        self.pending: set[Path] = set()
        """Directories whose entries have changed since they were last synced."""
        self.unsynced: set[Path] = set()
        """Files that have been made since they were last synced."""
        for name in ("mkdir", "rename", "replace", "open", "fsync", "fdatasync"):
            monkeypatch.setattr(os, name, partial(getattr(self, name), getattr(os, name)))
        opened = lmdb.open
        monkeypatch.setattr(lmdb, "open", lambda path, **more: self.lmdb(opened, path, **more))

    def made(self, path: Path) -> None:
        if path.is_relative_to(self.top):
            self.pending.add(path.parent)

    def mkdir(self, original: Callable[..., None], path: Any, *rest: Any, **more: Any) -> None:
        original(path, *rest, **more)
        self.made(Path(path))

    def rename(self, original: Callable[..., None], source: Any, target: Any) -> None:
        there, here = Path(target), Path(source)
        original(source, target)
        assert here not in self.unsynced, f"{here} was renamed before it was synced"
        assert here not in self.pending, f"{here} was renamed before it was synced"
        self.made(there)

    replace = rename

    def open(self, original: Callable[..., int], path: Any, flags: int, *rest: Any) -> int:
        new = flags & os.O_CREAT and not Path(path).exists()
        descriptor = original(path, flags, *rest)
        name = Path(path).name
        if new and name not in {"lock", "lock.mdb", "log"}:
            self.made(Path(path))
            self.unsynced.add(Path(path))
        return descriptor

    def lmdb(self, original: Callable[..., Any], path: bytes, **more: Any) -> Any:
        file = Path(os.fsdecode(path)) / "data.mdb"
        if not file.exists():
            self.made(file)
        return original(path, **more)

    def fsync(self, original: Callable[[int], None], descriptor: int) -> None:
        original(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self.pending.discard(path)
        self.unsynced.discard(path)

    fdatasync = fsync


def show(place: Path) -> None:
    """A name directory's files for clients, and evidence."""
    with opened_data(place / "data" / "names", "cbfs-names") as directory:
        keys = load_keys(directory, SYSTEM_RANDOM)
        options = parse(["--data", str(directory)])[2]
        limits = Current(DirectoryLimits())
        started = names_cli._starter(options, directory, keys, SYSTEM_RANDOM, limits)
        address = Address(keys.server, "127.0.0.1", 7701)
        names_cli._show(directory, address, started, started.config)


def owned(place: Path) -> None:
    """What ``cbfs name`` makes."""
    write_seed(place / "seed", KeyKind.RECOVERY, "alice")
    write_secret(place / "certificate", "text")


def exported(place: Path) -> None:
    with opened_store(place / "account", SYSTEM_RANDOM, create=Guard) as store:
        for key in (Meta.ACCOUNT, Meta.OWN):
            store.write(lambda writer, key=key: writer.put(Table.META, key, b"x"))  # type: ignore[misc]
        write_export(store, place / "export", b"passphrase", SYSTEM_RANDOM)


def admitted(place: Path) -> None:
    with opened_store(place / "account", SYSTEM_RANDOM, create=Guard):
        admission(place / "account", make_service_key(os.urandom).host, SYSTEM_RANDOM)


def onion_of_server(place: Path) -> None:
    load_onion_key(place / "onion_key", os.urandom)


MAKERS: dict[str, Callable[[Path], object]] = {
    **STARTS,
    **{each.__name__: each for each in (show, owned, exported, admitted, onion_of_server)},
}


@contextmanager
def watching(place: Path) -> Iterator[Watched]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Watched(monkeypatch, place)


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_made_is_on_the_disk_with_its_directory(tmp_path: Path, kind: str) -> None:
    with watching(tmp_path) as watched:
        MAKERS[kind](tmp_path)
    assert not watched.pending
    assert not watched.unsynced


@pytest.mark.parametrize("kind", ["server", "names"])
@pytest.mark.parametrize("how", ["empty", "missing"])
def test_a_server_never_begins_anew_where_something_was(
    tmp_path: Path, kind: str, how: str
) -> None:
    STARTS[kind](tmp_path)
    file = tmp_path / "data" / STORES[kind] / "data.mdb"
    file.write_bytes(b"")
    if how == "missing":
        file.unlink()
    with pytest.raises(StoreError, match=how) as raised:
        STARTS[kind](tmp_path)
    assert raised.value.hint


@pytest.mark.parametrize("how", ["empty", "missing", "no store"])
def test_an_account_begins_anew_only_where_nothing_can_have_been(tmp_path: Path, how: str) -> None:
    """Its root file knows: at the beginning it has one generation, the first."""
    data = tmp_path / "data" / "account"
    with opened_store(data, SYSTEM_RANDOM, create=Guard) as opened:
        opened.write(lambda writer: writer.put(Table.META, Meta.SETTINGS, b""))
    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr("cbfs.account.account.Store", interrupted)
        account(tmp_path / "other")
    fresh = tmp_path / "other" / "data" / "account"
    assert (fresh / "root.key").read_bytes().startswith(MAGIC)
    for place in (data, fresh):
        store = place / "store"
        store.mkdir(exist_ok=True)
        for path in store.iterdir():
            path.unlink()
        if how == "empty":
            (store / "data.mdb").touch()
        elif how == "no store":
            store.rmdir()
    account(tmp_path / "other")
    with pytest.raises(StoreError, match="empty") as raised:
        account(tmp_path)
    assert raised.value.hint
    assert not list((data / "store").glob("*")) or how == "empty", "nothing was made there"


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_recovery_key_that_is_there_is_whole(memory: Path) -> None:
    """Cut off in the middle of its writing, the command can be given again."""
    for place in every_point(seed, memory):
        assert not (place / "seed").exists() or read_seed(place / "seed", KeyKind.RECOVERY, "alice")
        assert write_seed(place / "seed", KeyKind.RECOVERY, "alice")
    with pytest.raises(CbfsError):
        write_secret(memory / "kill1" / "seed", "another")


@pytest.mark.parametrize("there", ["seed.new", ".seed.new", "seed~", "seed.part", "seed.tmp"])
def test_a_new_secret_takes_no_file_of_its_user_with_it(tmp_path: Path, there: str) -> None:
    """Which may be the owner key of before, that is still the one that counts."""
    (tmp_path / there).write_text("the only copy")
    write_seed(tmp_path / "seed", KeyKind.OWNER, "alice")
    assert {path.name for path in tmp_path.iterdir()} == {there, "seed"}
    assert (tmp_path / there).read_text() == "the only copy"


@pytest.mark.parametrize("old", ["", "as it was"])
@pytest.mark.parametrize("how", ["killed", "cut off"])
def test_nothing_is_left_of_a_file_among_others_that_was_not_finished(
    tmp_path: Path, old: str, how: str
) -> None:
    """Nor seen of it before it is whole: what would be left is a part of a secret."""
    path = tmp_path / "export"
    if old:
        path.write_text(old)
    before = list(tmp_path.iterdir())

    def write() -> None:
        with written_beside_others(path) as file:
            file.write(b"a part of a secret")
            file.flush()
            assert list(tmp_path.iterdir()) == before
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt

    if how == "killed":
        child = multiprocessing.get_context("fork").Process(target=write)
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    else:
        with pytest.raises(KeyboardInterrupt):
            write()
    assert list(tmp_path.iterdir()) == before
    assert not old or path.read_text() == old
    with written_beside_others(path) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["export"]


def test_a_file_among_others_where_all_files_have_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on vfat: then it has one that nobody else uses."""

    path, real = tmp_path / "export", os.open
    path.with_name("export.new").write_text("the user's")

    def opened(where: Path, flags: int, *more: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(where, flags, *more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", opened)
        with written_beside_others(path) as file:
            file.write(b"whole")
            assert any(each.name.endswith(".part") for each in tmp_path.iterdir())
    assert {each.name for each in tmp_path.iterdir()} == {"export", "export.new"}
    assert path.read_bytes() == b"whole"


def test_a_full_disk_is_said_of_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **_more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cbfs.commands.owner.kept_apart.write_beside_others", full)
    with pytest.raises(CbfsError, match="no space left") as raised:
        write_seed(tmp_path / "seed", KeyKind.OWNER, "alice")
    assert "make room" in raised.value.hint
    assert not list(tmp_path.iterdir())


def test_a_secret_may_have_any_name_that_a_file_may_have(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    assert write_seed(path, KeyKind.OWNER, "alice") == read_seed(path, KeyKind.OWNER, "alice")


def seed(place: Path, number: int) -> int:
    kill = Kill(number)
    for name in STEPS:
        setattr(os, name, kill.around(getattr(os, name)))
    write_seed(place / "seed", KeyKind.RECOVERY, "alice")
    return 0


@pytest.mark.parametrize("create", [None, Guard])
def test_a_store_without_its_root_file_is_told_and_gets_no_other_one(
    tmp_path: Path, create: Callable[[], Guard] | None
) -> None:
    with opened_store(tmp_path, SYSTEM_RANDOM, create=Guard) as opened:
        opened.write(lambda writer: writer.put(Table.META, Meta.SETTINGS, b""))
    (tmp_path / "root.key").unlink()
    with (
        pytest.raises(CbfsError, match="no root file") as raised,
        opened_store(tmp_path, SYSTEM_RANDOM, create=create),
    ):
        pass
    assert "restore" in raised.value.hint
    with (
        pytest.raises(CbfsError, match="no root file"),
        reading_store(tmp_path, SYSTEM_RANDOM),
    ):
        pass
    assert not (tmp_path / "root.key").exists()
