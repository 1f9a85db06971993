"""How much there may be of blobs, and for how long, as every store has it."""

from pathlib import Path
from typing import Any

import pytest
import trio

from cbfs_common.limits import BLOB_CHUNK, BLOB_LEAST
from cbfs_common.wire.blobs import BlobChunk, BlobState
from cbfs_common.wire.requests import Code
from cbfs_server.limits import BLOBS_LEAVE, BLOBS_MAX, CHUNK_COST, EXPIRY_BATCH, Limits
from cbfs_server.lmdb_store import store as store_module
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    EndBlob,
    ForgetBlobs,
    ForgetOld,
    MakeAccount,
    NoteVisit,
    ReadChunk,
    SweptBlobs,
    Ticket,
)
from tests.server.conformance.backends import Backend, OnLmdb, look_up, together
from tests.server.conformance.test_blob_store import CHUNKS, OTHER, blob, chunk, erase, on
from tests.server.conformance.test_mailboxes import ALICE, BOB, DAY, front, mail
from tests.server.test_server_store import play


def test_the_quota_counts_what_is_reserved_and_a_removal_gives_it_back(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        large = blob(data=8 * BLOB_LEAST)
        assert await store.commit(large) == REFUSED[Code.BLOB_TOO_LARGE]
        for id in b"abcd":
            assert await store.commit(blob(bytes([id]) * 32)) == BlobState(0, 5)
        assert await store.commit(blob()) == REFUSED[Code.BLOB_QUOTA]
        assert await store.commit(blob(user=BOB)) == BlobState(0, 5)
        await store.commit(EndBlob(ALICE, b"a" * 32))
        assert await store.commit(blob(OTHER)) == BlobState(0, 5)

    on(backend, script)


def test_an_account_has_only_so_many(backend: Backend) -> None:
    limits = Limits(disk_free=0, blob_quota=2 * BLOBS_MAX * BLOB_LEAST * BLOB_CHUNK)

    async def script() -> None:
        async with front(backend, limits) as store:
            ids = [number.to_bytes(32, "big") for number in range(BLOBS_MAX)]
            made = await together(*((store, blob(id)) for id in ids))
            assert made == [BlobState(0, 5)] * BLOBS_MAX
            assert await store.commit(blob()) == REFUSED[Code.TOO_MANY]
            await store.commit(EndBlob(ALICE, ids[0]))
            assert await store.commit(blob()) == BlobState(0, 5)

    play(script)


def test_it_is_kept_for_as_long_as_the_server_keeps_them(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        assert await store.commit(blob(days=60_000)) == BlobState(0, 21)

    on(backend, script)


def test_those_that_were_kept_for_their_days_go_and_no_others(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        days = {bytes([number]) * 32: number for number in range(1, 4)}
        for id, kept in days.items():
            await store.commit(blob(id, days=kept))
            await store.commit(chunk(0, id))
        for today in range(DAY, DAY + 6):
            swept = await store.commit(ForgetBlobs(b"", today))
            over = sum(DAY + kept == today - 1 for kept in days.values())
            assert swept == SweptBlobs(None, over)
            for id, kept in days.items():
                found = await look_up(store, ReadChunk(id, 0))
                assert isinstance(found, BlobChunk) == (today <= DAY + kept)
        assert await erase(store) == 1

    on(backend, script)


def test_many_that_are_old_go_in_batches(backend: Backend) -> None:
    limits = Limits(disk_free=0)

    async def script() -> None:
        async with front(backend, limits) as store:
            ids = [number.to_bytes(32, "big") for number in range(EXPIRY_BATCH + 1)]
            await together(*((store, blob(id)) for id in ids))
            swept = await store.commit(ForgetBlobs(b"", DAY + 9))
            assert swept.blobs == EXPIRY_BATCH
            assert swept.rest is not None
            assert await store.commit(ForgetBlobs(swept.rest, DAY + 9)) == SweptBlobs(None, 1)

    play(script)


def test_blobs_leave_room_to_mail(backend: Backend) -> None:
    """Whatever two accounts put: mail is taken when they are refused."""
    most = 64 << 20
    owners = (ALICE, BOB)

    async def fill(store: MailboxStore, number: int) -> object:
        id, user = bytes([number]) * 32, owners[number % 2]
        made = await store.commit(blob(id, user))
        if not isinstance(made, BlobState):
            return made
        for index in range(CHUNKS):
            put = await store.commit(chunk(index, id, user))
            if put != DONE:
                return put
        return DONE

    async def script() -> None:
        async with front(backend, Limits(disk_free=0, store_max=most)) as store:
            for number in range(most // CHUNK_COST // CHUNKS + 1):
                said = await fill(store, number)
                if said != DONE:
                    break
            assert said == REFUSED[Code.FULL]
            assert 0 < number * CHUNKS * CHUNK_COST <= most // BLOBS_LEAVE
            assert await store.commit(mail(1)) == DONE
            assert await store.commit(blob(b"z" * 32)) == REFUSED[Code.FULL]

    play(script)


def test_an_account_with_many_ends_in_batches(tmp_path: Path) -> None:
    """What one transaction of LMDB writes has to fit into the reserve of a store that is full."""
    limits = Limits(disk_free=0)

    async def script() -> None:
        async with front(OnLmdb(tmp_path), limits) as store:
            ids = [number.to_bytes(32, "big") for number in range(EXPIRY_BATCH + 5)]
            await together(*((store, blob(id)) for id in ids))
            await store.commit(chunk(0, ids[-1]))
            await store.commit(NoteVisit(BOB, DAY + 400, True))
            asked = ForgetOld(b"", DAY + 400, 60, 180)
            swept = await store.commit(asked)
            assert (swept.rest, swept.expired.ended) == (ALICE, [])
            assert store.figures().blobs == 5
            assert await store.commit(blob(ids[0])) == BlobState(0, 5), "its owner may come yet"
            swept = await store.commit(asked)
            assert (swept.rest, swept.expired.ended) == (None, [ALICE])
            assert store.figures().blobs == 0
            assert await erase(store) == 1
            assert store.figures().chunks == 0
            assert await store.commit(MakeAccount(ALICE, DAY, Ticket(invite=b"i" * 16))) == DONE
            made = await together(*((store, blob(id)) for id in ids))
            assert made == [BlobState(0, 5)] * len(ids)

    play(script)


def test_a_transaction_has_only_so_many_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what comes behind them need not wait for the disk to take all of them."""
    monkeypatch.setattr(store_module, "GROUP_CHUNKS", 4)
    monkeypatch.setattr(store_module, "GROUP_TIME", 60.0)
    groups = list[int]()

    async def script() -> None:
        async with OnLmdb(tmp_path).opened() as store:
            assert isinstance(store, LmdbStore)
            transact = store._transact

            def counted(group: list[Any], more: Any) -> None:
                transact(group, more)
                groups.append(len(group))

            monkeypatch.setattr(store, "_transact", counted)
            await store.commit(MakeAccount(ALICE, DAY))
            await store.commit(blob())
            groups.clear()
            waiting = [(store, chunk(index)) for index in range(20)]
            done = trio.Event()
            for _, asked in waiting[:-1]:
                store.submit(asked, lambda _: None, "one client")
            store.submit(waiting[-1][1], lambda _: done.set(), "one client")
            await done.wait()

    play(script)
    assert sum(groups) == 20
    assert max(groups) <= 4
