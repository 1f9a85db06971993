"""A front-end that is killed at each step while blobs are made, put, forgotten and erased: what was
acknowledged is there, no chunk is missing before another one, and nothing of what is gone comes
back."""

from functools import partial
from itertools import count
from pathlib import Path

import pytest
import trio

from cbfs_common.wire.blobs import BlobChunk, BlobState
from cbfs_common.wire.requests import Code
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    AskBlob,
    EndBlob,
    EraseChunks,
    ForgetBlobs,
    MakeAccount,
    ReadChunk,
    Ticket,
)
from tests.server.conformance.backends import Backend, Fresh, look_up
from tests.server.conformance.test_blob_store import BLOB, OTHER, blob, chunk
from tests.server.conformance.test_mailboxes import ALICE, DAY
from tests.server.test_server_store import play
from tests.support.children import exit_code
from tests.support.killing import Record
from tests.support.serving import STORES

pytestmark = pytest.mark.parametrize("fresh", STORES, indirect=True)

OLD = b"3" * 32
PUT = 5
ALL = BLOB, OTHER, OLD
LATER = DAY + 3
"""When OLD was kept for long enough, and the others were not."""


async def put(store: MailboxStore, record: Record) -> None:
    """All three, from where they are."""
    invite = Ticket(invite=b"i" * 16)
    assert await store.commit(MakeAccount(ALICE, DAY, invite)) == DONE
    for id in ALL:
        made = await store.commit(blob(id, days=1 if id == OLD else 9))
        assert isinstance(made, BlobState)
        acknowledged = sum(words == ["put", id.hex()] for words in record.lines())
        assert acknowledged <= made.put <= PUT
        for index in range(made.put):
            assert await look_up(store, ReadChunk(id, index)) == BlobChunk(chunk(index, id).chunk)
        assert await look_up(store, ReadChunk(id, made.put)) == REFUSED[Code.NO_CHUNK]
        async with trio.open_nursery() as nursery:
            for index in range(made.put, PUT):
                done = trio.Event()
                store.submit(chunk(index, id), partial(_told, record, id, done), "one client")
                nursery.start_soon(done.wait)


def _told(record: Record, id: bytes, done: trio.Event, result: object) -> None:
    assert result == DONE
    record.write("put", id.hex())
    done.set()


async def live(backend: Backend, place: Path) -> None:
    record = Record(place / "record")
    async with backend.opened() as store:
        gone = [words[1] for words in record.lines() if words[0] == "gone"]
        for name in gone:
            found = await look_up(store, ReadChunk(bytes.fromhex(name), 0))
            assert not isinstance(found, BlobChunk)
        if ["all"] not in record.lines():
            await put(store, record)
            record.write("all")
        assert await store.commit(EndBlob(ALICE, OTHER)) == DONE
        record.write("gone", OTHER.hex())
        await store.commit(ForgetBlobs(b"", LATER))
        record.write("gone", OLD.hex())
        while await store.commit(EraseChunks()):
            pass
        for id in OTHER, OLD:
            assert await look_up(store, AskBlob(ALICE, id)) == REFUSED[Code.UNKNOWN_BLOB]
        assert await look_up(store, AskBlob(ALICE, BLOB)) == BlobState(PUT, 9)
        for index in range(PUT):
            found = await look_up(store, ReadChunk(BLOB, index))
            assert found == BlobChunk(chunk(index).chunk)
        assert await store.commit(blob(OLD, days=1)) == BlobState(0, 1)
        assert await look_up(store, ReadChunk(OLD, 0)) == REFUSED[Code.NO_CHUNK]


def lived(backend: Backend, place: Path, number: int) -> int:
    """0 is for no kill."""
    if number:
        backend.kill_at(number)
    play(partial(live, backend, place))
    return 0


def test_a_kill_at_any_step_loses_no_chunk_and_brings_none_back(
    fresh: Fresh, tmp_path: Path
) -> None:
    for number in count(1):
        place = tmp_path / str(number)
        place.mkdir()
        with fresh() as backend:
            code = exit_code(lived, backend, place, number)
            if code == 0:
                assert number > 8, "there are too few steps"
                return
            assert code < 0, f"step {number}: it has failed"
            assert exit_code(lived, backend, place, 0) == 0
