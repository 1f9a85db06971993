"""What a blob is to a store, and which ones an account may make. Pure, the same for every store."""

from dataclasses import dataclass

from cbfs_common.limits import BLOB_CHUNK
from cbfs_common.messages.blobs import tree_chunks
from cbfs_common.wire.blobs import BlobState
from cbfs_common.wire.requests import AnyReply, Code
from cbfs_server.limits import BLOBS_MAX, CHUNK_COST, Limits
from cbfs_server.store.operations import REFUSED, AddBlob
from cbfs_server.store.room import Room


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """A blob of ``user``, with room for so many ``data`` chunks, of whose chunks, with those of the
    tree, so many are ``put``. It was made on a ``day`` of the server's life, and is kept for
    ``days``."""

    user: bytes
    data: int
    put: int
    day: int
    days: int

    @property
    def chunks(self) -> int:
        """How many it has when all are put."""
        return self.data + tree_chunks(self.data)

    @property
    def state(self) -> BlobState:
        """As its owner is told."""
        return BlobState(self.put, self.days)

    def is_over(self, today: int) -> bool:
        """Whether it was kept for all its days."""
        return self.day + self.days < today


@dataclass(frozen=True, slots=True)
class Holding:
    """What an account has: so many ``blobs``, of so many ``data`` chunks together, and of whose
    chunks so many are ``put``."""

    blobs: int = 0
    data: int = 0
    put: int = 0

    def without(self, blob: BlobRecord) -> "Holding":
        """What is left of it when this blob is gone."""
        return Holding(
            max(0, self.blobs - 1), max(0, self.data - blob.data), max(0, self.put - blob.put)
        )

    def fits(self, room: Room | None, more: int) -> bool:
        """Whether there is room for so many chunks more."""
        return room is None or room.takes_blobs((self.put + more) * CHUNK_COST)


def made(asked: AddBlob, limits: Limits) -> BlobRecord:
    """The blob as it is asked for."""
    return BlobRecord(asked.user, asked.data, 0, asked.day, min(asked.days, limits.blob_days))


def refusal(
    asked: AddBlob,
    known: BlobRecord | None,
    others: bool,
    held: Holding,
    limits: Limits,
    room: Room | None,
) -> AnyReply | None:
    """What to answer without making the blob; None: it is to be made. ``known``: the blob of its
    id, if there is one; ``others``: chunks of another are being erased, or somebody else makes one
    now. ``held``: by the account. ``room`` is None where nobody has said how much there is."""
    if known is not None and (known.user, known.data) == (asked.user, asked.data):
        return known.state
    if known is not None or others:
        return REFUSED[Code.BLOB_DIFFERS]
    most = limits.blob_quota // BLOB_CHUNK
    if asked.data > most:
        return REFUSED[Code.BLOB_TOO_LARGE]
    if held.blobs >= BLOBS_MAX:
        return REFUSED[Code.TOO_MANY]
    if held.data + asked.data > most:
        return REFUSED[Code.BLOB_QUOTA]
    if not held.fits(room, asked.data + tree_chunks(asked.data)):
        return REFUSED[Code.FULL]
    return None
