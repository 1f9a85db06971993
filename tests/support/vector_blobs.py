"""Vectors of blobs as the programs' code reads them."""

from hashlib import blake2b
from typing import Any

from cbfs_common.limits import BLOB_CHUNK
from cbfs_common.messages.blobs import TreeMaker, blob_keys, decode_reference, shape_of
from cbfs_common.primitives import kdf
from tests.support.vectors import Readers

Given = dict[str, Any]


def shape(size: int) -> Given:
    found = shape_of(size)
    return {"count": found.count, "data": found.data, "tree": found.tree}


def content(number: int, length: int) -> bytes:
    return (kdf(b"", b"cbfs1 blob test", number.to_bytes(8, "big"), 64) * 256)[:length]


def blob(secret: bytes, size: int) -> Given:
    where, keys = shape_of(size), blob_keys(secret)
    maker = TreeMaker(where)
    data = [content(number, where.length(number)) for number in range(where.data)]
    nodes = [node for chunk in data[: where.count] if (node := maker.add(chunk)) is not None]
    end = maker.end()
    sealed = blake2b(digest_size=32)
    for index, chunk in enumerate((end.top, *nodes, *end.nodes, *data)):
        made = keys.seal(index, chunk)
        assert keys.open(index, made) == chunk.ljust(BLOB_CHUNK, b"\0")
        sealed.update(made)
    return {
        "key": keys.key,
        "capability": keys.capability,
        "id": keys.id,
        "digest": end.digest,
        "sealed": sealed.digest(),
    }


def reference(encoded: bytes) -> Given:
    found = decode_reference(encoded)
    assert found.encode() == encoded
    server = found.server
    return {
        "secret": found.secret,
        "digest": found.digest,
        "size": found.size,
        "server_key": server.key,
        "host": server.host,
        "port": server.port,
    }


READERS: Readers = {
    ("blobs", "shape"): shape,
    ("blobs", "blob"): blob,
    ("blobs", "reference"): reference,
}
