"""What blobs.json holds, from the text of Blobs in the specification; see tests.vectors.make."""

from hashlib import blake2b

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.support.protocol_naive import derive, fixed
from tests.vectors.cases import Case, File, case

CHUNK = 16_384
MIB = 2**20
SECRET, SERVER_KEY = fixed("secret", 32), fixed("server key", 32)
SHAPES = (1, CHUNK, CHUNK + 1, MIB, MIB + 1, 3 * MIB, 8 * MIB, 8 * MIB + 1, 64 * MIB, 64 * MIB + 1,
          128 * MIB, 128 * MIB + 1, 1_000_000_000, 4_096 * MIB - 1, 4_096 * MIB)  # fmt: skip


def content_of(size: int) -> bytes:
    """Chunk j is 64 bytes, again and again, that follow from j."""
    chunks = range(-(-size // CHUNK))
    return b"".join(derive(b"", "blob test", j.to_bytes(8, "big"), 64) * 256 for j in chunks)[:size]


def shape(size: int) -> tuple[int, int, int]:
    """count, data, tree"""
    count = -(-size // CHUNK)
    classes = [64 * 2**n for n in range(7)] + [4_096 * n for n in range(2, 65)]
    data = min(each for each in classes if each >= count)
    return count, data, 1 if data <= 512 else 1 + -(-data // 512)


def tree_of(content: bytes) -> list[bytes]:
    """Top and nodes."""
    count, data, tree = shape(len(content))
    chunks = [content[j * CHUNK : (j + 1) * CHUNK].ljust(CHUNK, b"\0") for j in range(count)]
    leaves = [derive(b"", "blob leaf", chunk, 32) for chunk in chunks]
    leaves += [bytes(32)] * (data - count)
    nodes = [b"".join(leaves[k : k + 512]).ljust(CHUNK, b"\0") for k in range(0, data, 512)]
    if tree == 1:
        return nodes
    hashes = [derive(b"", "blob node", n, 32) if any(n) else bytes(32) for n in nodes]
    return [b"".join(hashes).ljust(CHUNK, b"\0"), *nodes]


def blob(name: str, secret: bytes, size: int) -> Case:
    content = content_of(size)
    _, data, tree = shape(size)
    top, *nodes = tree_of(content)
    key = derive(secret, "blob key", b"", 32)
    capability = derive(secret, "blob cap", b"", 32)
    plain = b"".join((top, *nodes, content.ljust(data * CHUNK, b"\0")))
    cipher, sealed = ChaCha20Poly1305(key), blake2b(digest_size=32)
    for i in range(tree + data):
        chunk = plain[i * CHUNK : (i + 1) * CHUNK]
        sealed.update(cipher.encrypt(i.to_bytes(12, "big"), chunk, b""))
    return case(name, secret=secret, size=size, capability=capability, key=key,
                id=derive(b"", "blob id", capability, 32),
                digest=derive(b"", "blob root", size.to_bytes(8, "big") + top, 32),
                sealed=sealed.digest())  # fmt: skip


def reference(**changes: bytes) -> bytes:
    fields = {
        "secret": SECRET,
        "digest": fixed("digest", 32),
        "size": (5_000_000).to_bytes(8, "big"),
        "key": SERVER_KEY,
        "port": (1_984).to_bytes(2, "big"),
        "host": b"example.org",
    }
    return b"".join((fields | changes).values())


def references() -> list[Case]:
    good = reference()
    wrong = {
        "empty": b"",
        "no host": reference(host=b""),
        "truncated": good[:100],
        "no bytes": reference(size=bytes(8)),
        "a byte too many": reference(size=(2**32 + 1).to_bytes(8, "big")),
        "port 0": reference(port=bytes(2)),
        "a host with a slash": reference(host=b"example.org/"),
        "a host in capitals": reference(host=b"Example.org"),
        "a host not ASCII": reference(host="exämple.org".encode()),
        "too long": reference(host=b"x" * 1_000),
    }
    told = {
        "one": (5_000_000, "example.org"),
        "the smallest": (1, "localhost"),
        "the largest": (2**32, "fe80::1"),
    }
    return [
        case(name, encoded=reference(size=size.to_bytes(8, "big"), host=host.encode()),
             secret=SECRET, digest=fixed("digest", 32), size=size, server_key=SERVER_KEY,
             host=host, port=1_984)
        for name, (size, host) in told.items()
    ] + [case(name, encoded=data, error="malformed") for name, data in wrong.items()]  # fmt: skip


def make() -> File:
    return {
        "shape": [
            case(f"{size} bytes", size=size,
                 **dict(zip(("count", "data", "tree"), shape(size), strict=True)))
            for size in SHAPES
        ],
        "blob": [
            blob("of one byte", SECRET, 1),
            blob("of one chunk", SECRET, CHUNK),
            blob("another secret", fixed("another secret", 32), CHUNK),
            blob("a byte more", SECRET, CHUNK + 1),
            blob("of a full MiB", SECRET, MIB),
            blob("the largest of one node", SECRET, 8 * MIB),
            blob("of several nodes, of which one is empty", SECRET, 8 * MIB + 1),
            blob("of several nodes, some of them empty", SECRET, 17 * MIB),
        ],
        "reference": references(),
    }  # fmt: skip


FILES = {"blobs": make}
