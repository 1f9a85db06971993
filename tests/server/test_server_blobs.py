"""Large files at a server, over real sockets: put by their owner, fetched by nobody in particular,
over kills, suspensions and changes of limits."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest
import trio

from cbfs.network.link import Link, ServerRefused, request, request_in_order
from cbfs_common.limits import BLOB_CHUNK, BLOB_LEAST, BLOB_SEALED_CHUNK
from cbfs_common.messages.blobs import (
    BlobKeys,
    TreeMaker,
    blob_keys,
    check_data,
    check_top,
    shape_of,
)
from cbfs_common.wire.blobs import (
    BlobChunk,
    BlobState,
    GetChunk,
    MakeBlob,
    PutChunk,
    RemoveBlob,
    StatBlob,
)
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import Code, DeleteAccount, encode
from cbfs_host.lmdb_environment import with_check
from cbfs_host.store_format import META
from cbfs_server import housekeeping as housekeeping_module
from cbfs_server.housekeeping import Housekeeping
from cbfs_server.lmdb_store.blobs import BlobWriter
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.store.operations import AddBlob, AddChunk, MakeAccount
from cbfs_server.store.room import Room
from tests.server.conformance.backends import OnLmdb
from tests.server.conformance.test_mailboxes import ALICE
from tests.server.test_admin import admin, status
from tests.server.test_live_limits import limits
from tests.server.test_server import play, refusal
from tests.server.test_server_clock import DAY, Machine
from tests.server.test_server_store import Caller
from tests.support.serving import (
    STORES,
    RawClient,
    RunningServer,
    link_to,
    new_account,
    running_server,
    store_options,
)

CONTENT = os.urandom(3 * BLOB_CHUNK + 5)
SHAPE = shape_of(len(CONTENT))


@pytest.fixture(scope="module", params=STORES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    with running_server(
        tmp_path_factory.mktemp("server") / "data", *store_options(request)
    ) as running:
        yield running


def sealed(keys: BlobKeys) -> tuple[list[bytes], bytes]:
    """All chunks of the content's blob, and its digest."""
    parts = [CONTENT[at : at + BLOB_CHUNK] for at in range(0, len(CONTENT), BLOB_CHUNK)]
    maker = TreeMaker(SHAPE)
    for part in parts:
        maker.add(part)
    end = maker.end()
    plain = [end.top, *parts, *[b""] * (SHAPE.data - len(parts))]
    return [keys.seal(index, each) for index, each in enumerate(plain)], end.digest


async def put(home: Link, keys: BlobKeys, chunks: list[bytes], start: int = 0) -> None:
    asked = [PutChunk(keys.id, start + n, each) for n, each in enumerate(chunks[start:])]
    assert await request_in_order(home, asked) == [Done()] * len(asked)


def test_what_is_put_once_is_fetched_and_checked_by_anybody(server: RunningServer) -> None:
    async def script() -> None:
        secret, _ = await new_account(server)
        keys = blob_keys(os.urandom(32))
        chunks, digest = sealed(keys)
        async with link_to(server, secret) as home:
            made = await request(home, MakeBlob(keys.id, SHAPE.data, 21))
            assert made == BlobState(0, 21)
            await put(home, keys, chunks)
            state = BlobState(SHAPE.chunks, 21)
            assert await request(home, StatBlob(keys.id)) == state
        for _ in range(3):  # each over a connection and a key of its own
            async with link_to(server) as link:
                got = await request_in_order(
                    link, [GetChunk(keys.capability, index) for index in range(5)]
                )
                plain = [
                    keys.open(index, each.chunk)
                    for index, each in enumerate(got)
                    if isinstance(each, BlobChunk)
                ]
                check_top(SHAPE, digest, plain[0])
                found = [check_data(SHAPE, plain[0], n, each) for n, each in enumerate(plain[1:])]
                assert b"".join(found) == CONTENT
                assert await refusal(link, GetChunk(keys.id, 0)) is Code.UNKNOWN_BLOB
                assert await refusal(link, StatBlob(keys.id)) is Code.NO_ACCOUNT
                assert await refusal(link, RemoveBlob(keys.id)) is Code.NO_ACCOUNT
        async with link_to(server, secret) as home:
            assert await request(home, RemoveBlob(keys.id)) == Done()
            assert await refusal(home, StatBlob(keys.id)) is Code.UNKNOWN_BLOB
            assert await refusal(home, GetChunk(keys.capability, 0)) is Code.UNKNOWN_BLOB

    play(script)


def test_when_one_is_refused_those_behind_it_are_and_it_goes_on_from_what_is_there(
    server: RunningServer,
) -> None:
    async def script() -> None:
        secret, _ = await new_account(server)
        keys = blob_keys(os.urandom(32))
        chunks, _ = sealed(keys)
        async with link_to(server, secret) as home:
            await request(home, MakeBlob(keys.id, SHAPE.data, 21))
            asked = [PutChunk(keys.id, index, chunks[index]) for index in (0, 1, 3, 4, 5)]
            replies = await request_in_order(home, asked)
            assert replies[:2] == [Done()] * 2
            codes = [each.code for each in replies[2:] if isinstance(each, ServerRefused)]
            assert codes == [Code.NO_CHUNK] * 3
            assert (await request(home, StatBlob(keys.id))).put == 2
            await put(home, keys, chunks, 2)
            wrong = PutChunk(keys.id, 0, os.urandom(BLOB_SEALED_CHUNK))
            assert await refusal(home, wrong) is Code.BLOB_DIFFERS

    play(script)


def test_a_kill_in_the_middle_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    keys = blob_keys(os.urandom(32))
    chunks, _ = sealed(keys)
    secrets, acknowledged = list[bytes](), [0]

    async def half() -> None:
        secret, _ = await new_account(running)
        secrets.append(secret)
        async with link_to(running, secret) as home:
            await request(home, MakeBlob(keys.id, SHAPE.data, 21))
        client = RawClient(running, secret)
        client.shake_hands()
        for index in range(40):
            asked = encode(PutChunk(keys.id, index, chunks[index]))
            client.socket.sendall(client.transport.send(index + 1, asked))
        while acknowledged[0] < 7:
            acknowledged[0] += len(client.receive())
        running.kill()
        client.socket.close()

    async def rest() -> None:
        async with link_to(running, secrets[0]) as home:
            there = (await request(home, StatBlob(keys.id))).put
            assert acknowledged[0] <= there <= 40
            await put(home, keys, chunks, there)
        async with link_to(running) as link:
            for index in (0, there - 1, there, SHAPE.chunks - 1):
                got = await request(link, GetChunk(keys.capability, index))
                assert got.chunk == chunks[index]

    data = tmp_path / "data"
    with running_server(data) as running:
        play(half)
    with running_server(data) as running:
        play(rest)
        assert admin("cbfs_server", data, "check").returncode == 0


def test_what_an_operator_has_set_counts_and_nothing_is_served_of_who_is_suspended(
    tmp_path: Path,
) -> None:
    """No blob of somebody who is suspended is given out: not even that it is there is told."""

    async def script() -> None:
        secret, user = await new_account(running)
        keys = blob_keys(os.urandom(32))
        async with link_to(running, secret) as home:
            too_large = MakeBlob(os.urandom(32), 4 * BLOB_LEAST, 1)
            assert await refusal(home, too_large) is Code.BLOB_TOO_LARGE
            assert await request(home, MakeBlob(keys.id, BLOB_LEAST, 99)) == BlobState(0, 3)
            await put(home, keys, sealed(keys)[0][:2])
            another = MakeBlob(os.urandom(32), 2 * BLOB_LEAST, 1)
            assert await refusal(home, another) is Code.BLOB_QUOTA
            words = await trio.to_thread.run_sync(
                limits, "cbfs_server", running.data, "blob-quota", "8M"
            )
            assert words["blob-quota"] == "8,388,608"
            assert await request(home, another) == BlobState(0, 1)
        async with link_to(running) as link:
            assert (await request(link, GetChunk(keys.capability, 0))).chunk
            await trio.to_thread.run_sync(admin, "cbfs_server", running.data, "suspend", user.hex())
            gone = GetChunk(keys.capability, 0)
            assert await refusal(link, gone) is Code.UNKNOWN_BLOB
            await trio.to_thread.run_sync(admin, "cbfs_server", running.data, "resume", user.hex())
            assert (await request(link, GetChunk(keys.capability, 0))).chunk
        figures = status(running.data)
        assert (figures["blobs"], figures["blob_bytes"]) == (2, 2 * BLOB_SEALED_CHUNK)

    with running_server(tmp_path / "data", "--blob-quota", "2M", "--blob-days", "3") as running:
        play(script)


def test_an_account_that_ends_takes_its_blobs_along(server: RunningServer) -> None:
    async def script() -> None:
        secret, _ = await new_account(server)
        keys = blob_keys(os.urandom(32))
        async with link_to(server, secret) as home:
            await request(home, MakeBlob(keys.id, SHAPE.data, 21))
            await put(home, keys, sealed(keys)[0][:1])
            await request(home, DeleteAccount())
            assert await refusal(home, GetChunk(keys.capability, 0)) is Code.UNKNOWN_BLOB

    play(script)


def test_housekeeping_forgets_and_erases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the days that the server has lived, whatever its clock says."""
    monkeypatch.setattr(housekeeping_module, "ERASE_PAUSE", 0.0)

    machine = Machine(tmp_path)
    id = os.urandom(32)

    async def begin(house: Housekeeping, _alice: Caller, _bob: Caller) -> None:
        today, store = int(house.lived()) // DAY, house._store
        await store.commit(MakeAccount(ALICE, today))
        await store.commit(AddBlob(ALICE, id, BLOB_LEAST, 2, today))
        for index in range(BLOB_LEAST):
            await store.commit(AddChunk(ALICE, id, index, bytes(BLOB_SEALED_CHUNK)))
        for _ in range(2):
            machine.real += DAY
            await house.look()
            assert store.figures().blobs == 1
        machine.real += DAY
        await house.look()
        figures = store.figures()
        assert (figures.blobs, figures.chunks) == (0, 0)

    machine.live(begin)


def test_a_store_of_before_there_were_blobs_gets_tables_for_them(tmp_path: Path) -> None:
    """It keeps what is in it; an older server would refuse it from then on."""

    async def before(house: Housekeeping, _alice: Caller, _bob: Caller) -> None:
        await house._store.commit(MakeAccount(ALICE, int(house.lived()) // DAY))

    async def after(house: Housekeeping, _alice: Caller, _bob: Caller) -> None:
        store = house._store
        figures = store.figures()
        assert (figures.accounts, figures.blobs) == (1, 0)
        made = await store.commit(
            AddBlob(ALICE, os.urandom(32), BLOB_LEAST, 2, int(house.lived()) // DAY)
        )
        assert made == BlobState(0, 2)

    Machine(tmp_path).live(before)
    with lmdb.open(str(tmp_path / "store"), max_dbs=32) as env:
        for name in (b"blobs", b"owned", b"holdings", b"chunks", b"erasing"):
            table = env.open_db(name)
            with env.begin(write=True) as txn:
                txn.drop(table)
        meta = env.open_db(META)
        with env.begin(write=True) as txn:
            one = (1).to_bytes(4, "big")
            txn.put(b"version", with_check(META, b"version", one), db=meta)
    Machine(tmp_path).live(after)


def test_a_check_finds_blobs_that_are_not_whole(tmp_path: Path) -> None:
    id, today = os.urandom(32), 1_000
    index = (1).to_bytes(4, "big")

    async def put(store: LmdbStore) -> None:
        await store.commit(MakeAccount(ALICE, today))
        await store.commit(AddBlob(ALICE, id, BLOB_LEAST, 2, today))
        for number in range(2):
            await store.commit(AddChunk(ALICE, id, number, bytes(BLOB_SEALED_CHUNK)))
        assert store.check(lambda: None).sound
        spoil: list[Callable[[BlobWriter], object]] = [
            lambda blobs: blobs._txn.delete(id + index, db=blobs._tables.chunks.db),
            lambda blobs: blobs._txn.delete(id, db=blobs._tables.blobs.db),
            lambda blobs: blobs._txn.delete(ALICE, db=blobs._tables.holdings.db),
        ]
        for each in spoil:
            whole = store._env.begin(write=True)
            blobs = BlobWriter(store._tables, whole, Room(0, 0))
            each(blobs)
            whole.commit()
            assert store.check(lambda: None).incomplete == 1

    async def life() -> None:
        async with OnLmdb(tmp_path).opened() as store:
            assert isinstance(store, LmdbStore)
            await put(store)

    play(life)


def test_an_operator_may_want_none(tmp_path: Path) -> None:
    async def script() -> None:
        secret, _ = await new_account(running)
        async with link_to(running, secret) as home:
            asked = MakeBlob(os.urandom(32), BLOB_LEAST, 1)
            assert await refusal(home, asked) is Code.BLOB_TOO_LARGE

    with running_server(tmp_path / "data", "--blob-quota", "0M") as running:
        play(script)
