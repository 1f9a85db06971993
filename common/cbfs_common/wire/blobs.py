"""Requests about blobs, large files in sealed chunks, and their replies. PROTOCOL.rst, Blobs.

They are encoded and decoded with all others, in ``requests``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from cbfs_common.errors import DecodeError
from cbfs_common.limits import (
    BLOB_CHUNKS_MAX,
    BLOB_DAYS_MAX,
    BLOB_SEALED_CHUNK,
)
from cbfs_common.messages.blobs import data_chunks, tree_chunks
from cbfs_common.primitives import KEY_SIZE
from cbfs_common.wire.fields import WRONG, Done, Reply, Request, bytes_of, count_of

_PUT_MAX = BLOB_CHUNKS_MAX + tree_chunks(BLOB_CHUNKS_MAX)


@dataclass(frozen=True, slots=True)
class BlobState(Reply):
    """So many chunks of the blob are there, from the first on: ``put``. It is kept for so many
    ``days`` from that on which it was made."""

    KIND: ClassVar[int] = 73
    put: int
    days: int

    def fields(self) -> tuple[Any, ...]:
        """put u32, days u16."""
        return (self.put, self.days)


@dataclass(frozen=True, slots=True)
class BlobChunk(Reply):
    """A sealed chunk (BLOB_SEALED_CHUNK bytes)."""

    KIND: ClassVar[int] = 74
    chunk: bytes

    def fields(self) -> tuple[Any, ...]:
        """chunk."""
        return (self.chunk,)


@dataclass(frozen=True, slots=True)
class MakeBlob(Request[BlobState]):
    """Room for a blob of the client, with this ``id`` (32), for so many ``chunks`` of data, which
    is a size that blobs have, and to be kept for ``days``, or as many as the server keeps them.
    The same also when it is there."""

    KIND: ClassVar[int] = 14
    REPLY: ClassVar[type[Reply]] = BlobState
    id: bytes
    chunks: int
    days: int

    def fields(self) -> tuple[Any, ...]:
        """id, chunks u32, days u16."""
        return (self.id, self.chunks, self.days)


@dataclass(frozen=True, slots=True)
class PutChunk(Request[Done]):
    """The next ``chunk`` (BLOB_SEALED_CHUNK bytes) of a blob of the client, or one that is there
    and has the same bytes; ``index`` counts from 0."""

    KIND: ClassVar[int] = 15
    id: bytes
    index: int
    chunk: bytes

    def fields(self) -> tuple[Any, ...]:
        """id, index u32, chunk."""
        return (self.id, self.index, self.chunk)


@dataclass(frozen=True, slots=True)
class StatBlob(Request[BlobState]):
    """Asks how much of a blob of the client is there."""

    KIND: ClassVar[int] = 16
    REPLY: ClassVar[type[Reply]] = BlobState
    id: bytes

    def fields(self) -> tuple[Any, ...]:
        """id."""
        return (self.id,)


@dataclass(frozen=True, slots=True)
class GetChunk(Request[BlobChunk]):
    """A chunk of anybody's blob, for who knows its ``capability`` (32)."""

    KIND: ClassVar[int] = 17
    REPLY: ClassVar[type[Reply]] = BlobChunk
    capability: bytes
    index: int

    def fields(self) -> tuple[Any, ...]:
        """capability, index u32."""
        return (self.capability, self.index)


@dataclass(frozen=True, slots=True)
class RemoveBlob(Request[Done]):
    """Forget a blob of the client, if it is there."""

    KIND: ClassVar[int] = 18
    id: bytes

    def fields(self) -> tuple[Any, ...]:
        """id."""
        return (self.id,)


BlobRequest = MakeBlob | PutChunk | StatBlob | GetChunk | RemoveBlob
BlobReply = BlobState | BlobChunk


def _chunks(value: Any) -> int:
    chunks = count_of(value)
    if not 0 < chunks <= BLOB_CHUNKS_MAX or data_chunks(chunks) != chunks:
        raise DecodeError(WRONG)
    return chunks


def _up_to(value: Any, most: int) -> int:
    if count_of(value) > most:
        raise DecodeError(WRONG)
    return int(value)


def _days(value: Any) -> int:
    days = _up_to(value, BLOB_DAYS_MAX)
    if not days:
        raise DecodeError(WRONG)
    return days


def _id(value: Any) -> bytes:
    return bytes_of(value, KEY_SIZE)


REQUESTS: dict[int, tuple[int, Callable[..., BlobRequest]]] = {
    MakeBlob.KIND: (3, lambda id, chunks, days: MakeBlob(_id(id), _chunks(chunks), _days(days))),
    PutChunk.KIND: (
        3,
        lambda id, index, chunk: PutChunk(
            _id(id), _up_to(index, _PUT_MAX - 1), bytes_of(chunk, BLOB_SEALED_CHUNK)
        ),
    ),
    StatBlob.KIND: (1, lambda id: StatBlob(_id(id))),
    GetChunk.KIND: (
        2,
        lambda capability, index: GetChunk(_id(capability), _up_to(index, _PUT_MAX - 1)),
    ),
    RemoveBlob.KIND: (1, lambda id: RemoveBlob(_id(id))),
}
"""Of each kind, how many fields it has, and what makes it of them; so of replies."""

REPLIES: dict[int, tuple[int, Callable[..., BlobReply]]] = {
    BlobState.KIND: (
        2,
        lambda put, days: BlobState(_up_to(put, _PUT_MAX), _up_to(days, BLOB_DAYS_MAX)),
    ),
    BlobChunk.KIND: (1, lambda chunk: BlobChunk(bytes_of(chunk, BLOB_SEALED_CHUNK))),
}
