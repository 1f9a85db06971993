"""How blobs are changed and read: with which statements, and what follows from their rows."""

from collections.abc import Sequence
from typing import Final

from cbfs_common.messages.blobs import tree_chunks
from cbfs_common.wire.blobs import BlobChunk
from cbfs_common.wire.requests import AnyReply, Code
from cbfs_server.limits import CHUNK_COST, Limits
from cbfs_server.postgres_store import statements as s
from cbfs_server.postgres_store.bounds import Ask, Bounds
from cbfs_server.postgres_store.statements import Call, Row, Rows, call
from cbfs_server.store.blobs import BlobRecord, Holding, made, refusal
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    AddBlob,
    AddChunk,
    AskBlob,
    EndBlob,
    ReadChunk,
)

_ANY: Final = 2**63 - 1


def _blob(row: Row) -> BlobRecord | None:
    user, data, put, day, days, _ = row
    if user is None:
        return None
    return BlobRecord(user, s.int_of(data), s.int_of(put), s.int_of(day), s.int_of(days))


async def add_blob(asked: AddBlob, ask: Ask, bounds: Bounds) -> AnyReply:
    """Look at what there is, and decide then."""
    user = asked.user
    account, ((claimed,),), (known,), (held,) = await ask(
        [
            *(call(s.ACCOUNT, user), call(s.CLAIM, asked.id)),
            *(call(s.BLOB, asked.id), call(s.HOLDING, user)),
        ]
    )
    if not account:
        return REFUSED[Code.NO_ACCOUNT]
    holding, limits = Holding(*map(s.int_of, held)), bounds.limits
    others = s.bool_of(known[-1]) or not s.bool_of(claimed)
    reply = refusal(asked, _blob(known), others, holding, limits, bounds.room)
    if reply is not None:
        return reply
    blob = made(asked, limits)
    chunks = blob.data + tree_chunks(blob.data)
    await ask([call(s.ADD_BLOB, asked.id, user, blob.data, chunks, blob.day, blob.days)])
    return blob.state


def add_chunk(asked: AddChunk, bounds: Bounds) -> Sequence[Call]:
    """One round trip."""
    return (
        call(s.ADD_CHUNK, asked.id, asked.user, asked.index, asked.chunk, _most_chunks(bounds)),
    )


def _most_chunks(bounds: Bounds) -> int:
    """How many an account may have."""
    if bounds.room is None:
        return _ANY
    return bounds.room.share(CHUNK_COST) if bounds.room.takes_blobs(0) else 0


def chunk_added(asked: AddChunk, found: Sequence[Rows], _bounds: Bounds) -> AnyReply:
    """What has become of it."""
    ((put, chunks, added, same, account),) = found[0]
    if put is None:
        return REFUSED[Code.UNKNOWN_BLOB if s.bool_of(account) else Code.NO_ACCOUNT]
    if s.bool_of(added) or (same is not None and s.bool_of(same)):
        return DONE
    if asked.index < s.int_of(put):
        return REFUSED[Code.BLOB_DIFFERS]
    if asked.index > s.int_of(put) or asked.index >= s.int_of(chunks):
        return REFUSED[Code.NO_CHUNK]
    return REFUSED[Code.FULL]


def end_blob(asked: EndBlob, _bounds: Bounds) -> Sequence[Call]:
    """One round trip."""
    return call(s.ACCOUNT, asked.user), call(s.END_BLOB, asked.id, asked.user)


def blob_ended(_asked: EndBlob, found: Sequence[Rows], _bounds: Bounds) -> AnyReply:
    """What has become of it."""
    return DONE if found[0] else REFUSED[Code.NO_ACCOUNT]


def ask_blob(asked: AskBlob, _limits: Limits) -> Sequence[Call]:
    """One round trip."""
    return call(s.ACCOUNT, asked.user), call(s.BLOB, asked.id)


def blob_found(asked: AskBlob, found: Sequence[Rows]) -> AnyReply:
    """What is there of it."""
    if not found[0]:
        return REFUSED[Code.NO_ACCOUNT]
    blob = _blob(found[1][0])
    if blob is None or blob.user != asked.user:
        return REFUSED[Code.UNKNOWN_BLOB]
    return blob.state


def read_chunk(asked: ReadChunk, _limits: Limits) -> Sequence[Call]:
    """One round trip."""
    return (call(s.READ_CHUNK, asked.id, asked.index),)


def chunk_found(asked: ReadChunk, found: Sequence[Rows]) -> AnyReply:
    """The chunk, if it is there."""
    if not found[0] or s.bytes_of(found[0][0][0]) in asked.barred:
        return REFUSED[Code.UNKNOWN_BLOB]
    chunk = found[0][0][1]
    return REFUSED[Code.NO_CHUNK] if chunk is None else BlobChunk(chunk)
