"""Blobs once more, straight from the text of protocol/blobs.rst: each kind of case of their
vectors. Nothing of cbfs_common."""

from hashlib import blake2b
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.support.naive_layouts import Bytes, need
from tests.support.naive_messages import check_host, kdf
from tests.support.vectors import Readers

Given = dict[str, Any]
CHUNK, FANOUT = 16_384, 512


def shape(size: int) -> Given:
    count = (size + CHUNK - 1) // CHUNK
    data = 64
    while data < count:
        data += data if data < 4_096 else 4_096
    nodes = (data + FANOUT - 1) // FANOUT
    return {"count": count, "data": data, "tree": 1 if nodes == 1 else 1 + nodes}


def _chunk(number: int) -> bytes:
    return kdf(b"", "cbfs1 blob test", number.to_bytes(8, "big"), 64) * 256


def _hashes(label: str, chunks: list[bytes]) -> list[bytes]:
    return [kdf(b"", label, chunk, 32) if any(chunk) else bytes(32) for chunk in chunks]


def _nodes(hashes: list[bytes]) -> list[bytes]:
    rows = [hashes[start : start + FANOUT] for start in range(0, len(hashes), FANOUT)]
    return [b"".join(row).ljust(CHUNK, b"\0") for row in rows]


def blob(secret: bytes, size: int) -> Given:
    told = shape(size)
    data = [_chunk(number) for number in range(told["count"])]
    data[-1] = data[-1][: size - (len(data) - 1) * CHUNK].ljust(CHUNK, b"\0")
    data += [bytes(CHUNK)] * (told["data"] - len(data))
    nodes = _nodes(_hashes("cbfs1 blob leaf", data))
    tree = nodes if told["tree"] == 1 else _nodes(_hashes("cbfs1 blob node", nodes)) + nodes
    key = kdf(secret, "cbfs1 blob key", b"", 32)
    capability = kdf(secret, "cbfs1 blob cap", b"", 32)
    sealed = [
        ChaCha20Poly1305(key).encrypt(index.to_bytes(12, "big"), chunk, None)
        for index, chunk in enumerate(tree + data)
    ]
    return {
        "key": key,
        "capability": capability,
        "id": kdf(b"", "cbfs1 blob id", capability, 32),
        "digest": kdf(b"", "cbfs1 blob root", size.to_bytes(8, "big") + tree[0], 32),
        "sealed": blake2b(b"".join(sealed), digest_size=32).digest(),
    }


def reference(encoded: bytes) -> Given:
    need(len(encoded) <= 1_024)
    fields = Bytes(encoded)
    told: Given = {"secret": fields.take(32), "digest": fields.take(32), "size": fields.u(8)}
    need(1 <= told["size"] <= 4 * 2**30)
    told["server_key"] = fields.take(32)
    told["port"] = fields.u(2)
    need(told["port"] > 0 and fields.rest.isascii())
    told["host"] = fields.rest.decode()
    check_host(told["host"])
    return told


READERS: Readers = {
    ("blobs", "shape"): shape,
    ("blobs", "blob"): blob,
    ("blobs", "reference"): reference,
}
