"""Blobs: the content of a large file or folder in sealed chunks, which a server keeps beside the
envelopes, and a tree of hashes by which each chunk is checked by itself. PROTOCOL.rst, Blobs.

    blob        top of the tree | its nodes, if there are any | data, with zeros behind the content

All of it follows from the content and a secret. Whoever has a reference can fetch, open and check
it; a server has neither the secret nor the size.
"""

from dataclasses import dataclass

from cbfs_common.errors import CryptoError, DecodeError, LimitError
from cbfs_common.limits import (
    BLOB_CHUNK,
    BLOB_FANOUT,
    BLOB_LEAST,
    BLOB_SIZE_MAX,
    BLOB_STEP,
    PROFILE_MAX,
)
from cbfs_common.primitives import KEY_SIZE, NONCE_SIZE, equal, kdf, open_sealed, seal
from cbfs_common.profile import Address

SECRET_SIZE = 32
DIGEST_SIZE = 32

_SIZE_SIZE = 8
_NO_HASH = bytes(DIGEST_SIZE)
_NO_CHUNK = bytes(BLOB_CHUNK)
_DIGEST = slice(SECRET_SIZE, SECRET_SIZE + DIGEST_SIZE)
_SIZE = slice(_DIGEST.stop, _DIGEST.stop + _SIZE_SIZE)
_KEY = slice(_SIZE.stop, _SIZE.stop + KEY_SIZE)
_PORT = slice(_KEY.stop, _KEY.stop + 2)


def data_chunks(chunks: int) -> int:
    """The least size of a blob, in chunks of data, that has room for so many (1 or more): a power
    of two from BLOB_LEAST to BLOB_STEP, or a multiple of BLOB_STEP."""
    if chunks > BLOB_STEP:
        return -(-chunks // BLOB_STEP) * BLOB_STEP
    return max(BLOB_LEAST, 1 << (chunks - 1).bit_length())


def tree_chunks(data: int) -> int:
    """How many chunks come before so many of data."""
    return 1 if data <= BLOB_FANOUT else 1 + -(-data // BLOB_FANOUT)


@dataclass(frozen=True, slots=True)
class Shape:
    """Where things are in the blob of a content of ``size`` bytes. Its first ``tree`` chunks are
    the tree, and the ``data`` chunks behind them have the content, in the first ``count`` of
    them."""

    size: int
    count: int
    data: int
    tree: int

    @property
    def chunks(self) -> int:
        """Of the whole blob."""
        return self.tree + self.data

    @property
    def nodes(self) -> int:
        """Chunks between the top of the tree and the data."""
        return self.tree - 1

    def index(self, number: int) -> int:
        """Where in the blob the data chunk of this number is."""
        return self.tree + number

    def node(self, number: int) -> int:
        """Where in the blob the hash of the data chunk of this number is."""
        return 1 + number // BLOB_FANOUT if self.nodes else 0

    def length(self, number: int) -> int:
        """Bytes of the content in the data chunk of this number."""
        return max(0, min(BLOB_CHUNK, self.size - number * BLOB_CHUNK))


def shape_of(size: int) -> Shape:
    """The blob of a content of ``size`` bytes, from 1 to BLOB_SIZE_MAX. Raises LimitError."""
    if not 0 < size <= BLOB_SIZE_MAX:
        raise LimitError("too large", f"a blob has at most {BLOB_SIZE_MAX >> 30} GiB")
    count = -(-size // BLOB_CHUNK)
    data = data_chunks(count)
    return Shape(size, count, data, tree_chunks(data))


@dataclass(frozen=True, slots=True, repr=False)
class BlobKeys:
    """What follows from a secret: the ``key`` that seals the chunks, the ``capability`` to fetch
    them, and the ``id`` under which they are stored, each 32 bytes. One secret is for one
    content."""

    key: bytes
    capability: bytes
    id: bytes

    def seal(self, index: int, chunk: bytes) -> bytes:
        """The chunk at this place of the blob, padded and sealed: BLOB_SEALED_CHUNK bytes."""
        return seal(self.key, index.to_bytes(NONCE_SIZE, "big"), chunk.ljust(BLOB_CHUNK, b"\0"))

    def open(self, index: int, sealed: bytes) -> bytes:
        """The chunk (BLOB_CHUNK bytes) that is sealed at this place. Raises CryptoError."""
        chunk = open_sealed(self.key, index.to_bytes(NONCE_SIZE, "big"), sealed)
        if len(chunk) != BLOB_CHUNK:
            raise CryptoError("cannot be opened")
        return chunk


def blob_keys(secret: bytes) -> BlobKeys:
    """What follows from a secret (32), which is not to be guessed."""
    capability = kdf(secret, b"cbfs1 blob cap", b"", 32)
    return BlobKeys(kdf(secret, b"cbfs1 blob key", b"", 32), capability, blob_id(capability))


def blob_id(capability: bytes) -> bytes:
    """The id (32) of the blob that a capability (32) is for."""
    return kdf(b"", b"cbfs1 blob id", capability, 32)


# The tree


class TreeMaker:
    """Makes the tree of a content of which every chunk is added, in order. Nodes are handed out as
    they are full, so that they need not be kept here."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._hashes = bytearray()
        self._tops = bytearray()
        self._added = 0

    def add(self, chunk: bytes) -> bytes | None:
        """The next chunk of the content: BLOB_CHUNK bytes, or what is left. Gives the next node of
        the tree (BLOB_CHUNK bytes) when this was the last of its chunks."""
        self._hashes += _leaf(chunk.ljust(BLOB_CHUNK, b"\0"))
        self._added += 1
        full = len(self._hashes) == BLOB_FANOUT * DIGEST_SIZE
        return self._node() if full and self._shape.nodes else None

    def _node(self) -> bytes:
        node = bytes(self._hashes).ljust(BLOB_CHUNK, b"\0")
        self._tops += _hash(node)
        self._hashes.clear()
        return node

    def end(self) -> "TreeEnd":
        """What is left, after all chunks were added. Raises ValueError when they were not."""
        if self._added != self._shape.count:
            raise ValueError("a content of another size")
        rest = [self._node()] if self._shape.nodes and self._hashes else []
        given = -(-self._shape.count // BLOB_FANOUT)
        rest += [_NO_CHUNK] * (self._shape.nodes - given)
        top = bytes(self._tops or self._hashes).ljust(BLOB_CHUNK, b"\0")
        return TreeEnd(tuple(rest), top, _root(self._shape.size, top))


@dataclass(frozen=True, slots=True)
class TreeEnd:
    """The last ``nodes`` of a tree, its ``top`` (BLOB_CHUNK bytes each), and the ``digest`` (32) of
    the content."""

    nodes: tuple[bytes, ...]
    top: bytes
    digest: bytes


def check_top(shape: Shape, digest: bytes, top: bytes) -> None:
    """Raises CryptoError when this is not the top of the tree of the content with this digest."""
    _check(_root(shape.size, top), digest)


def check_node(top: bytes, number: int, node: bytes) -> None:
    """Raises CryptoError when this is not the node of this number, from 0, under the top."""
    _check(_hash(node), _at(top, number))


def check_data(shape: Shape, node: bytes, number: int, chunk: bytes) -> bytes:
    """What a data chunk has of the content. ``node``: the chunk at ``shape.node(number)``, which
    was checked. Raises CryptoError when it is another chunk."""
    length = shape.length(number)
    _check(_leaf(chunk), _at(node, number % BLOB_FANOUT))
    if not chunk.endswith(_NO_CHUNK[: BLOB_CHUNK - length]):
        raise CryptoError("cannot be opened")
    return chunk[:length]


def _at(hashes: bytes, number: int) -> bytes:
    return hashes[number * DIGEST_SIZE : (number + 1) * DIGEST_SIZE]


def _check(found: bytes, wanted: bytes) -> None:
    if not equal(found, wanted):
        raise CryptoError("cannot be opened")


def _leaf(chunk: bytes) -> bytes:
    return kdf(b"", b"cbfs1 blob leaf", chunk, DIGEST_SIZE)


def _hash(node: bytes) -> bytes:
    return kdf(b"", b"cbfs1 blob node", node, DIGEST_SIZE)


def _root(size: int, top: bytes) -> bytes:
    return kdf(b"", b"cbfs1 blob root", size.to_bytes(_SIZE_SIZE, "big") + top, DIGEST_SIZE)


# What a message says of a blob


@dataclass(frozen=True, slots=True, repr=False)
class BlobReference:
    """All that is needed to fetch a content and to know it for the one that was sent: its
    ``server``, the ``secret`` (32), the ``size`` (1 to BLOB_SIZE_MAX) and the ``digest`` (32)."""

    server: Address
    secret: bytes
    size: int
    digest: bytes

    def encode(self) -> bytes:
        """secret | digest | size u64 | server key | port u16 | host."""
        return b"".join(
            (
                self.secret,
                self.digest,
                self.size.to_bytes(_SIZE_SIZE, "big"),
                self.server.key,
                self.server.port.to_bytes(2, "big"),
                self.server.host.encode("ascii"),
            )
        )


def decode_reference(data: bytes) -> BlobReference:
    """Undo ``BlobReference.encode``. Raises DecodeError."""
    size = int.from_bytes(data[_SIZE], "big")
    if not _PORT.stop < len(data) <= PROFILE_MAX or not 0 < size <= BLOB_SIZE_MAX:
        raise DecodeError("not a reference to a blob")
    try:
        host = data[_PORT.stop :].decode("ascii")
    except UnicodeDecodeError as error:
        raise DecodeError("not a reference to a blob") from error
    server = Address(data[_KEY], host, int.from_bytes(data[_PORT], "big"))
    return BlobReference(server, data[:SECRET_SIZE], size, data[_DIGEST])
