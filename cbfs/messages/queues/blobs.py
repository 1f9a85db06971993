"""Contents that travel as blobs: the sender puts one once at their home server, the message carries
a reference to it, and each recipient fetches it. PROTOCOL.rst, Blobs.

A record stands beside the content, under its id, for as long as that is here: what is one's own
says how far it is at the server, what is somebody else's how far it has come. With the content of
one's own goes what opens it; what is left of the record is what deletes it at the server.

Commit points: ``begin`` (with the message itself: a crash leaves a draft, or a blob that is put);
``put`` with each stretch (a crash before it repeats the stretch); ``left_behind`` (with the end of
the content: a crash after it leaves a blob that is deleted at the server).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from cbfs.storage.encoding import number_of, pack, u64, unpack
from cbfs.storage.store import Reader, Table, Writer
from cbfs_common.limits import BLOB_RENEWALS


class BlobStage(Enum):
    """Where a blob is. Numbers are as in the store."""

    PUTTING = 1  # one's own, on its way to the home server
    STORED = 2  # one's own, there as a whole
    DELETED = 3  # one's own, there no more: all have it, or its time is over
    LEAVING = 4  # one's own, of which the content is gone here, and is to go there
    FETCHING = 5  # somebody else's, on its way from their server
    HERE = 6  # somebody else's, whole


@dataclass(frozen=True, slots=True)
class Blob:
    """``content``: the id of the content that it is of, ``size`` its bytes, of which ``done`` from
    the beginning on are where they are to be, in whole chunks. ``reference``: the encoded
    reference that its message carries; empty for what is not needed any more. ``conversation`` and
    ``serial``: of its message. ``since``: when it began; ``until``: when the server deletes it; in
    milliseconds since 1970, 0 when that is not known. ``renewed``: how often it was put there
    again. ``id`` (32): of one's own, what it is called at the server. ``tree``: of one's own, the
    id of the content that the chunks of its tree of hashes are, one a record."""

    content: int
    state: BlobStage
    size: int
    reference: bytes
    conversation: bytes
    serial: int
    since: int
    done: int = 0
    until: int = 0
    renewed: int = 0
    id: bytes = b""
    tree: int = 0

    @property
    def is_own(self) -> bool:
        """Whether one has sent it."""
        return self.state not in (BlobStage.FETCHING, BlobStage.HERE)

    def encode(self) -> bytes:
        """This blob as a record of ``Table.BLOBS``."""
        return pack(
            self.state.value,
            self.size,
            self.reference,
            self.conversation,
            self.serial,
            self.since,
            self.done,
            self.until,
            self.renewed,
            self.id,
            self.tree,
        )


def _decode(key: bytes, data: bytes) -> Blob:
    fields = unpack(data, int, int, bytes, bytes, int, int, int, int, int, bytes, int)
    state, *rest = fields
    return Blob(number_of(key), BlobStage(state), *rest)


def get(reader: Reader, content: int) -> Blob | None:
    """The blob that the content of this id travels as; None for all others."""
    data = reader.get(Table.BLOBS, u64(content))
    return None if data is None else _decode(u64(content), data)


def put(writer: Writer, blob: Blob) -> None:
    """Store a blob, or what has changed of it."""
    writer.put(Table.BLOBS, u64(blob.content), blob.encode())


def forget(writer: Writer, blob: Blob) -> None:
    """Nothing is to be done with it any more."""
    writer.delete(Table.BLOBS, u64(blob.content))


def every(reader: Reader, *states: BlobStage) -> Iterator[Blob]:
    """All that are in one of these states."""
    for key, data in reader.items(Table.BLOBS):
        blob = _decode(key, data)
        if blob.state in states:
            yield blob


def asked_for(writer: Writer, content: int) -> bool:
    """Somebody lacks one's own content, who may have had it. What the server has no more is put
    there again with the next tick of the clock of uploads, under the same id, as often as what
    nobody has fetched. Whether it travels as a blob."""
    blob = get(writer, content)
    if blob is not None and blob.state is BlobStage.DELETED and blob.renewed < BLOB_RENEWALS:
        count = blob.renewed + 1
        put(writer, replace(blob, state=BlobStage.PUTTING, done=0, until=0, renewed=count))
    return blob is not None


def here(reader: Reader, content: int, size: int) -> int:
    """How many bytes of a content of ``size`` are here, from its beginning on."""
    blob = get(reader, content)
    return blob.done if blob is not None and blob.state is BlobStage.FETCHING else size


def left_behind(writer: Writer, content: int) -> None:
    """The content is gone: of one's own, what is at the server is to go as well."""
    blob = get(writer, content)
    if blob is None:
        return
    if blob.tree:
        writer.delete_prefix(Table.CONTENT, u64(blob.tree))
    if blob.is_own and blob.state is not BlobStage.DELETED:
        put(writer, replace(blob, state=BlobStage.LEAVING, reference=b"", tree=0))
    else:
        forget(writer, blob)
