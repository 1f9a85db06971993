"""Backups of live stores, what becomes of one that is put back, and stores written anew."""

import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
import trio

from cbfs.network.link import Link, request
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.requests import (
    CountPrekeys,
    Delete,
    Deliver,
    PrekeyCount,
    PrekeyRecord,
    TakePrekey,
    UploadPrekeys,
    envelope_id,
)
from cbfs_host.complaints import StoreError
from cbfs_server.lmdb_store import mailboxes
from cbfs_server.lmdb_store.mailboxes import MailboxWriter
from cbfs_server.lmdb_store.store import LmdbStore
from tests.server.test_admin import admin, command, status
from tests.server.test_server_processes import PROGRAMS, failure, running, said_in_words
from tests.support.serving import (
    FOREVER,
    KEM,
    TIMEOUT,
    RunningServer,
    envelope,
    link_to,
    listed,
    new_account,
    record,
    running_server,
)

ONE_TIME, LAST_RESORT = PrekeyKind.ONE_TIME, PrekeyKind.LAST_RESORT
LAST = record(LAST_RESORT)


def backed_up(program: str, data: Path, file: Path) -> None:
    done = admin(program, data, "backup", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not file.with_name(f"{file.name}.part").exists()


def put_back(file: Path, keys: Path, data: Path) -> Path:
    """A new data directory with the keys of the old one and the store of a backup."""
    data.mkdir(mode=0o700)
    for key in (*keys.glob("key"), *keys.glob("*.key"), *keys.glob("policy")):
        shutil.copy(key, data)
    (data / "store").mkdir(mode=0o700)
    shutil.copy(file, data / "store" / "data.mdb")
    return data


async def upload(home: Link, count: int) -> None:
    records = (*(record() for _ in range(count)), LAST)
    await request(home, UploadPrekeys(records, KEM, replace=False))


async def taken(link: Link, user: bytes) -> bytes:
    found = await request(link, TakePrekey(user))
    assert isinstance(found, PrekeyRecord)
    return found.record


async def kinds(server: RunningServer, user: bytes, count: int = 3) -> set[int]:
    """Of what kinds the next prekeys are that leave an account."""
    async with link_to(server) as link:
        return {(await taken(link, user))[16] for _ in range(count)}


def with_account(data: Path) -> tuple[bytes, bytes]:
    """(secret, user id) of an account with prekeys and an envelope, at a server that has ended."""

    async def go() -> tuple[bytes, bytes]:
        secret, user = await new_account(server)
        async with link_to(server, secret) as home:
            await upload(home, 10)
            await request(home, Deliver(user, envelope()))
        return secret, user

    with running_server(data) as server:
        return trio.run(go)


def copied_over(data: Path, file: Path) -> Path:
    """The bytes of a backup in the file that the store has had all along."""
    with (data / "store" / "data.mdb").open("r+b") as store:
        store.truncate(0)
        store.write(file.read_bytes())
    return data


@pytest.mark.parametrize("way", ["elsewhere", "the same file", "copied by hand"])
def test_a_restored_server_gives_out_last_resort_prekeys_until_the_owner_comes(
    way: str, tmp_path: Path
) -> None:
    data, file = tmp_path / "data", tmp_path / "backup"
    secret, user = with_account(data)
    with running_server(data) as server:
        backed_up("cbfs_server", data, file)
        assert trio.run(kinds, server, user) == {ONE_TIME}
    match way:
        case "elsewhere":
            restored = put_back(file, data, tmp_path / "other")
        case "the same file":
            restored = copied_over(data, file)
        case _:
            restored = tmp_path / "other"
            shutil.copytree(data, restored, ignore=shutil.ignore_patterns("socket"))

    async def owner_comes() -> None:
        async with link_to(server, secret) as home:
            assert await request(home, CountPrekeys()) == PrekeyCount(0, FOREVER)
            assert len(await listed(home)) == 1
            await upload(home, 10)
        assert await kinds(server, user) == {ONE_TIME}

    for _ in range(2):  # and it is remembered
        with running_server(restored) as server:
            assert trio.run(kinds, server, user) == {LAST_RESORT}
            assert server.terminate() == 0
            assert ("the store is a copy" in server.log) == (_ == 0)
            Path(f"{restored}.log").unlink()
    with running_server(restored) as server:
        trio.run(owner_comes)
    with running_server(restored) as server:
        assert trio.run(kinds, server, user) == {ONE_TIME}
        assert server.terminate() == 0
        assert "the store is a copy" not in server.log


def test_a_store_that_is_moved_or_used_on_is_no_copy(tmp_path: Path) -> None:
    data, moved = tmp_path / "data", tmp_path / "moved"
    _, user = with_account(data)
    data.rename(moved)
    with running_server(moved) as server:
        assert admin("cbfs_server", moved, "compact").returncode == 0
        assert trio.run(kinds, server, user) == {ONE_TIME}
    with running_server(moved) as server:
        assert trio.run(kinds, server, user) == {ONE_TIME}
        assert server.terminate() == 0
        assert "the store is a copy" not in server.log
    with running_server(moved, "--restored") as server:  # the operator's word
        assert trio.run(kinds, server, user) == {LAST_RESORT}


def test_the_word_that_a_store_is_an_old_copy_holds_until_its_prekeys_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the start that it was given for is cut off between two transactions."""
    monkeypatch.setattr(mailboxes, "FORGET_BATCH", 2)
    user, forget, calls = bytes(32), MailboxWriter.forget_one_time, count()

    def fill(writer: MailboxWriter) -> None:
        for _ in range(6):
            writer.put_prekey(user, record())

    async def begin() -> None:
        store = LmdbStore(tmp_path / "store")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            await store.applied(fill)
            nursery.cancel_scope.cancel()
        store.close()

    def cut_off(writer: MailboxWriter, start: bytes) -> tuple[bytes | None, int]:
        if next(calls):
            raise StoreError("the power fails")
        return forget(writer, start)

    trio.run(begin)
    with monkeypatch.context() as patch:
        patch.setattr(MailboxWriter, "forget_one_time", cut_off)
        with pytest.raises(StoreError, match="power"):
            LmdbStore(tmp_path / "store", restored=True)
    store = LmdbStore(tmp_path / "store")
    with store.read() as reader:
        assert not list(reader.prekeys(user, ONE_TIME))
    store.close()


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_backup_replaces_no_file(program: str, tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "backup"
    file.write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with running(program, data):
        for place in file, tmp_path / "link", tmp_path:
            done = admin(program, data, "backup", str(place))
            assert (done.returncode, len(done.stderr.splitlines())) == (1, 2)
        done = admin(program, data, "backup", str(tmp_path / "no" / "such" / "folder"))
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 2)
        assert file.read_text() == "precious"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "data", "link"]


def test_a_backup_that_is_killed_leaves_nothing_in_its_place(tmp_path: Path) -> None:
    """The command, or the server, at any time."""
    data, file = tmp_path / "data", tmp_path / "backup"
    _, user = with_account(data)
    for after in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
        for whom in "command", "server":
            with running_server(data) as server:
                started = time.monotonic()
                asking = subprocess.Popen(command("cbfs_server", data, "backup", str(file)))
                while time.monotonic() < started + after and asking.poll() is None:
                    time.sleep(0.001)
                victim = asking.pid if whom == "command" else server.process.pid
                with suppress(ProcessLookupError):  # it was done before
                    os.kill(victim, signal.SIGKILL)
                asking.wait(TIMEOUT)
            if file.exists():
                restored = put_back(file, data, tmp_path / "other")
                with running_server(restored) as server:
                    assert status(restored)["envelopes"] == 1
                    assert trio.run(kinds, server, user) == {LAST_RESORT}
                shutil.rmtree(restored)
                file.unlink()
    with running_server(data) as server:
        assert trio.run(kinds, server, user) == {ONE_TIME}
        backed_up("cbfs_server", data, file)


async def under_load(
    server: RunningServer, secret: bytes, user: bytes, work: Callable[[], Awaitable[None]]
) -> None:
    """Deliveries and deletions beside ``work``; all that was acknowledged is there at the end."""
    delivered: list[bytes] = []
    deleted: set[bytes] = set()

    async def deliver(*, task_status: trio.TaskStatus[None]) -> None:
        async with link_to(server) as link:
            while True:
                sent = envelope()
                await request(link, Deliver(user, sent))
                delivered.append(envelope_id(sent))
                if len(delivered) == 50:
                    task_status.started()

    async def delete() -> None:
        async with link_to(server, secret) as home:
            while True:
                await trio.lowlevel.checkpoint()
                ids = tuple(id_ for id_ in delivered[:-20] if id_ not in deleted)[:32]
                deleted.update(ids)
                if ids:
                    await request(home, Delete(ids))

    async with trio.open_nursery() as nursery:
        await nursery.start(deliver)
        nursery.start_soon(delete)
        before = len(delivered)
        await work()
        while len(delivered) < before + 50:
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    async with link_to(server, secret) as home:
        left = await listed(home)
        known = set(delivered) - deleted
        assert known <= set(left)
        assert len(left) == len(set(left)) <= len(known) + 33  # what was under way


async def asked(data: Path, *words: str) -> None:
    done = await trio.to_thread.run_sync(admin, "cbfs_server", data, *words)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_store_is_copied_and_written_anew_under_load(tmp_path: Path) -> None:
    data = tmp_path / "data"

    async def go() -> None:
        secret, user = await new_account(server)

        async def work() -> None:
            for number in range(3):
                await asked(data, "backup", str(tmp_path / f"backup{number}"))
                await asked(data, "check")
                await asked(data, "compact")

        await under_load(server, secret, user, work)

    with running_server(data) as server:
        trio.run(go)
        assert admin("cbfs_server", data, "check").returncode == 0
    for number in range(3):
        restored = put_back(tmp_path / f"backup{number}", data, tmp_path / f"other{number}")
        with running_server(restored):
            assert admin("cbfs_server", restored, "check").returncode == 0


def test_compacting_gives_the_disk_back_what_was_deleted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    file = data / "store" / "data.mdb"

    async def fill() -> None:
        secret, user = await new_account(server)
        async with link_to(server, secret) as home:
            sent = [envelope() for _ in range(400)]
            for each in sent:
                await request(home, Deliver(user, each))
            await request(home, Delete(tuple(map(envelope_id, sent[:200]))))
            await request(home, Delete(tuple(map(envelope_id, sent[200:399]))))

    with running_server(data) as server:
        trio.run(fill)
        before = last_page(file)
        assert before > 400 * 16_384
        assert admin("cbfs_server", data, "compact").returncode == 0
        assert status(data)["envelopes"] == 1
        assert last_page(file) < before // 10
        server.kill()
    with running_server(data) as server:
        assert status(data)["envelopes"] == 1
        assert "copy" not in server.log


def last_page(file: Path) -> int:
    """Bytes of the file that LMDB has ever used, without what is allocated ahead."""
    import lmdb

    with lmdb.open(str(file), subdir=False, readonly=True, lock=False, max_dbs=32) as env:
        return (int(env.info()["last_pgno"]) + 1) * int(env.stat()["psize"])


def test_damage_is_found_by_a_check(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with_account(data)
    file = data / "store" / "data.mdb"
    held = bytearray(file.read_bytes())
    with running_server(data):
        found = admin("cbfs_server", data, "check")
        assert (found.returncode, found.stdout.splitlines()[0]) == (0, "sound: yes")
    for found_at in re.finditer(re.escape(LAST), bytes(held)):  # also in pages of before
        held[found_at.start() + 600] ^= 1
    file.write_bytes(held)
    with running_server(data):
        found = admin("cbfs_server", data, "check")
        assert (found.returncode, found.stdout.splitlines()[0]) == (1, "sound: no")
        assert "damaged: 1" in found.stdout.splitlines()


def test_a_restored_directory_signs_no_second_history(tmp_path: Path) -> None:
    """Nobody else knows what one in a single process has signed."""
    data, file = tmp_path / "data", tmp_path / "backup"
    with running("cbfs_names", data) as (process, _):
        backed_up("cbfs_names", data, file)
        process.terminate()
        assert process.wait(TIMEOUT) == 0
    for restored in (
        put_back(file, data, tmp_path / "other"),
        Path(shutil.copytree(data, tmp_path / "copied")),
        copied_over(data, file),
    ):
        for _ in range(2):
            code, said = failure("cbfs_names", restored)
            assert (code, said_in_words(said)) == (1, True)
            assert "the store is a copy" in said[0]
        with running("cbfs_names", restored, "--store-is-current") as (process, url):
            assert url
            process.kill()
        with running("cbfs_names", restored) as (_, url):  # it is the store now
            assert url
