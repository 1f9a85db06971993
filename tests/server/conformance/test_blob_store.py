"""Blobs as every store has them: in order, once, for their owner alone to change, within quota and
room, and gone at once."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from cbfs_common.limits import BLOB_CHUNK, BLOB_LEAST, BLOB_SEALED_CHUNK
from cbfs_common.messages.blobs import tree_chunks
from cbfs_common.wire.blobs import BlobChunk, BlobState
from cbfs_common.wire.requests import Code
from cbfs_server.limits import ERASE_BATCH, Limits
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    AddBlob,
    AddChunk,
    AskBlob,
    EndAccount,
    EndBlob,
    EraseChunks,
    ReadChunk,
)
from tests.server.conformance.backends import DEFAULT, Backend, look_up, together
from tests.server.conformance.test_mailboxes import ALICE, BOB, CAROL, DAY, front
from tests.server.test_server_store import play

BLOB, OTHER = b"1" * 32, b"2" * 32
CHUNKS = BLOB_LEAST + tree_chunks(BLOB_LEAST)
SMALL = Limits(disk_free=0, blob_quota=4 * BLOB_LEAST * BLOB_CHUNK, blob_days=21)
"""Of four of the smallest."""


def blob(id: bytes = BLOB, user: bytes = ALICE, data: int = BLOB_LEAST, days: int = 5) -> AddBlob:
    return AddBlob(user, id, data, days, DAY)


def chunk(index: int, id: bytes = BLOB, user: bytes = ALICE, filled: bytes = b"") -> AddChunk:
    filled = filled or bytes([index % 251, id[0]])
    return AddChunk(user, id, index, (filled * BLOB_SEALED_CHUNK)[:BLOB_SEALED_CHUNK])


def on(backend: Backend, script: Callable[[MailboxStore], Awaitable[None]]) -> None:
    async def life() -> None:
        async with front(backend, SMALL) as store:
            await script(store)

    play(life)


async def erase(store: MailboxStore) -> int:
    """Erase all that is to be; in how many batches."""
    batches = 0
    while await store.commit(EraseChunks()):
        batches += 1
    return batches


def test_a_blob_is_put_in_order_and_read_by_everybody_who_knows_its_id(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        assert await store.commit(blob()) == BlobState(0, 5)
        assert await look_up(store, ReadChunk(BLOB, 0)) == REFUSED[Code.NO_CHUNK]
        for index in range(CHUNKS):
            assert await store.commit(chunk(index)) == DONE
            assert await look_up(store, AskBlob(ALICE, BLOB)) == BlobState(index + 1, 5)
            found = await look_up(store, ReadChunk(BLOB, index))
            assert found == BlobChunk(chunk(index).chunk)
        assert await store.commit(chunk(CHUNKS)) == REFUSED[Code.NO_CHUNK]
        assert await look_up(store, ReadChunk(BLOB, CHUNKS)) == REFUSED[Code.NO_CHUNK]
        assert await look_up(store, ReadChunk(OTHER, 0)) == REFUSED[Code.UNKNOWN_BLOB]

    on(backend, script)


def test_what_has_no_chunks_leaves_nothing_to_erase(backend: Backend) -> None:
    """Whoever makes blobs and removes them, again and again, makes no work."""

    async def script(store: MailboxStore) -> None:
        for _ in range(2):
            assert await store.commit(blob()) == BlobState(0, 5)
            assert await store.commit(EndBlob(ALICE, BLOB)) == DONE
            assert await erase(store) == 0
        assert await store.commit(blob()) == BlobState(0, 5)
        await store.commit(EndAccount(ALICE))
        assert await erase(store) == 0

    on(backend, script)


def test_what_is_asked_again_changes_nothing_and_what_differs_is_refused(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        for _ in range(2):
            assert await store.commit(blob()) == BlobState(0, 5)
        assert await store.commit(blob(days=9)) == BlobState(0, 5)
        assert await store.commit(blob(data=2 * BLOB_LEAST)) == REFUSED[Code.BLOB_DIFFERS]
        assert await store.commit(chunk(1)) == REFUSED[Code.NO_CHUNK]
        for _ in range(2):
            assert await store.commit(chunk(0)) == DONE
        assert await store.commit(chunk(0, filled=b"x")) == REFUSED[Code.BLOB_DIFFERS]
        assert await store.commit(chunk(1)) == DONE
        assert await store.commit(chunk(0)) == DONE
        assert await store.commit(blob()) == BlobState(2, 5)
        assert await look_up(store, ReadChunk(BLOB, 0)) == BlobChunk(chunk(0).chunk)

    on(backend, script)


def test_what_is_put_at_once_is_put_in_its_order(backend: Backend) -> None:
    """As a client that does not wait for each answer does."""

    async def script(store: MailboxStore) -> None:
        await store.commit(blob())
        results: list[Any] = []
        done = trio.Event()

        def told(result: Any) -> None:
            results.append(result)
            if len(results) == CHUNKS:
                done.set()

        for index in range(CHUNKS):
            store.submit(chunk(index), told, "a client")
        await done.wait()
        assert results == [DONE] * CHUNKS
        assert await look_up(store, AskBlob(ALICE, BLOB)) == BlobState(CHUNKS, 5)

    on(backend, script)


def test_a_blob_is_its_owners(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        await store.commit(blob())
        await store.commit(chunk(0))
        assert await store.commit(blob(user=BOB)) == REFUSED[Code.BLOB_DIFFERS]
        assert await store.commit(chunk(1, user=BOB)) == REFUSED[Code.UNKNOWN_BLOB]
        assert await store.commit(EndBlob(BOB, BLOB)) == DONE
        assert await look_up(store, AskBlob(BOB, BLOB)) == REFUSED[Code.UNKNOWN_BLOB]
        assert await look_up(store, AskBlob(ALICE, BLOB)) == BlobState(1, 5)
        for asked in blob(OTHER, CAROL), chunk(0, user=CAROL), EndBlob(CAROL, BLOB):
            assert await store.commit(asked) == REFUSED[Code.NO_ACCOUNT]
        assert await look_up(store, AskBlob(CAROL, BLOB)) == REFUSED[Code.NO_ACCOUNT]
        barred = ReadChunk(BLOB, 0, frozenset((ALICE,)))
        assert await look_up(store, barred) == REFUSED[Code.UNKNOWN_BLOB]
        barred = ReadChunk(BLOB, 0, frozenset((BOB,)))
        assert await look_up(store, barred) == BlobChunk(chunk(0).chunk)

    on(backend, script)


def test_what_is_removed_is_gone_at_once_and_erased_in_batches(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        data = 4 * BLOB_LEAST
        await store.commit(blob(data=data))
        count = data + tree_chunks(data)
        await together(*((store, chunk(0)) for _ in range(3)))
        for index in range(1, count):
            await store.commit(chunk(index))
        assert await store.commit(EndBlob(ALICE, BLOB)) == DONE
        for asked in ReadChunk(BLOB, 0), AskBlob(ALICE, BLOB):
            assert await look_up(store, asked) == REFUSED[Code.UNKNOWN_BLOB]
        assert await store.commit(chunk(count - 1)) == REFUSED[Code.UNKNOWN_BLOB]
        assert await store.commit(EndBlob(ALICE, BLOB)) == DONE
        assert await store.commit(blob()) == REFUSED[Code.BLOB_DIFFERS]
        assert await erase(store) == count // ERASE_BATCH + 1
        assert await store.commit(blob()) == BlobState(0, 5)
        assert await look_up(store, ReadChunk(BLOB, 0)) == REFUSED[Code.NO_CHUNK]

    on(backend, script)


def test_many_of_few_chunks_are_erased_at_once(backend: Backend) -> None:
    """Else whoever makes and removes blobs is faster than what erases them, for ever."""
    ids = [bytes([number]) * 32 for number in range(ERASE_BATCH // 4)]

    async def script(store: MailboxStore) -> None:
        for id in ids:
            assert await store.commit(blob(id)) == BlobState(0, 5)
            await together(*((store, chunk(0, id)) for _ in range(2)))
            await store.commit(chunk(1, id))
            await store.commit(EndBlob(ALICE, id))
        assert await erase(store) == 1
        for id in ids:
            assert await store.commit(blob(id)) == BlobState(0, 5)
            assert await look_up(store, ReadChunk(id, 0)) == REFUSED[Code.NO_CHUNK]
            await store.commit(EndBlob(ALICE, id))

    on(backend, script)


def test_an_account_that_ends_takes_its_blobs_along(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        for asked in blob(), chunk(0), blob(OTHER), blob(b"3" * 32, BOB), chunk(0, b"3" * 32, BOB):
            await store.commit(asked)
        assert await store.commit(EndAccount(ALICE)) == 0
        for id in BLOB, OTHER:
            assert await look_up(store, ReadChunk(id, 0)) == REFUSED[Code.UNKNOWN_BLOB]
        assert await erase(store) == 1  # of the other there are no chunks
        assert await look_up(store, AskBlob(BOB, b"3" * 32)) == BlobState(1, 5)
        found = await look_up(store, ReadChunk(b"3" * 32, 0))
        assert isinstance(found, BlobChunk)

    on(backend, script)


@asynccontextmanager
async def two(backend: Backend) -> AsyncIterator[tuple[MailboxStore, MailboxStore]]:
    async with front(backend, DEFAULT) as one, backend.opened(DEFAULT) as other:
        yield one, other


def test_two_who_put_one_blob_at_once_leave_one(backend: Backend) -> None:
    """Each chunk once, whoever was first; so does one that was begun anew meanwhile."""

    async def script() -> None:
        async with two(backend) as (one, other):
            made = await together((one, blob()), (other, blob()))
            assert made == [BlobState(0, 5)] * 2
            for index in range(8):
                both = await together((one, chunk(index)), (other, chunk(index)))
                assert both == [DONE, DONE]
            assert await look_up(other, AskBlob(ALICE, BLOB)) == BlobState(8, 5)

    play(script)


def test_of_two_owners_of_one_id_one_has_it(backend: Backend) -> None:
    async def script() -> None:
        async with two(backend) as (one, other):
            for _ in range(5):
                id = os.urandom(32)
                made = await together((one, blob(id)), (other, blob(id, BOB)))
                assert sorted(map(str, made)) == sorted(
                    map(str, (BlobState(0, 5), REFUSED[Code.BLOB_DIFFERS]))
                )

    play(script)


def test_blobs_are_counted(backend: Backend) -> None:
    async def script(store: MailboxStore) -> None:
        for asked in blob(), chunk(0), chunk(1), blob(OTHER, BOB):
            await store.commit(asked)

    async def life() -> None:
        async with front(backend, SMALL) as store:
            await script(store)
        async with backend.opened(SMALL) as store:
            figures = store.figures()
            assert (figures.blobs, figures.chunks) == (2, 2)

    play(life)
