"""MessagePack that is longer than it needs to be: what an honest sender never makes."""

from collections.abc import Iterator
from typing import Any

import msgpack


def wider(item: Any) -> list[bytes]:
    """The head and contents of one value in all its longer forms; of a list the head alone."""
    right = msgpack.packb([] if isinstance(item, list) else item)
    found: list[bytes] = []
    if isinstance(item, list):
        found = [bytes([code]) + len(item).to_bytes(n, "big") for code, n in ((0xDC, 2), (0xDD, 4))]
        right = msgpack.Packer().pack_array_header(len(item))
    elif isinstance(item, bytes | str):
        data = item.encode() if isinstance(item, str) else item
        codes = (0xD9, 0xDA, 0xDB) if isinstance(item, str) else (0xC4, 0xC5, 0xC6)
        found = [
            bytes([code]) + len(data).to_bytes(n, "big") + data
            for code, n in zip(codes, (1, 2, 4), strict=True)
            if len(data) < 256**n
        ]
    elif isinstance(item, int) and not isinstance(item, bool):
        for n in (1, 2, 4, 8):
            if 0 <= item < 256**n:
                found.append(bytes([0xCC + n.bit_length() - 1]) + item.to_bytes(n, "big"))
            if -(256**n) // 2 <= item < 256**n // 2:
                signed = item.to_bytes(n, "big", signed=True)
                found.append(bytes([0xD0 + n.bit_length() - 1]) + signed)
    return [form for form in found if form != right]


def wasteful(value: Any) -> Iterator[bytes]:
    """Encodings of ``value`` in which one item, at any depth, has a longer form."""
    packer = msgpack.Packer()

    def forms(item: Any) -> Iterator[bytes]:
        yield from (
            head + b"".join(map(packer.pack, item)) if isinstance(item, list) else head
            for head in wider(item)
        )
        if isinstance(item, list):
            head = packer.pack_array_header(len(item))
            packed = [packer.pack(inner) for inner in item]
            for place, inner in enumerate(item):
                for form in forms(inner):
                    yield head + b"".join([*packed[:place], form, *packed[place + 1 :]])

    yield from forms(value)
