"""Blobs: every chunk comes back and is known for what it is, wherever it is looked at, and nothing
else passes for it."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs_common.errors import CryptoError, DecodeError, LimitError
from cbfs_common.limits import (
    BLOB_CHUNK,
    BLOB_CHUNKS_MAX,
    BLOB_FANOUT,
    BLOB_LEAST,
    BLOB_SEALED_CHUNK,
    BLOB_SIZE_MAX,
    BLOB_STEP,
)
from cbfs_common.messages.blobs import (
    BlobReference,
    Shape,
    TreeEnd,
    TreeMaker,
    blob_id,
    blob_keys,
    check_data,
    check_node,
    check_top,
    data_chunks,
    decode_reference,
    shape_of,
    tree_chunks,
)
from cbfs_common.profile import Address
from cbfs_common.wire.blobs import GetChunk, PutChunk
from cbfs_common.wire.requests import encode
from cbfs_common.wire.transport import PAYLOAD_MAX

SECRET = os.urandom(32)
MIB = 1 << 20
BESIDE = st.integers(-2, 2)
SIZES = st.one_of(
    st.integers(1, BLOB_SIZE_MAX),
    st.builds(lambda n, off: max(1, n * BLOB_CHUNK + off), st.integers(0, 9_000), BESIDE),
    st.builds(
        lambda n, off: min(n * BLOB_STEP * BLOB_CHUNK + off, BLOB_SIZE_MAX),
        st.integers(1, 64),
        BESIDE,
    ),
)


def chunk_of(shape: Shape, number: int) -> bytes:
    return (number.to_bytes(8, "big") * (BLOB_CHUNK // 8))[: shape.length(number)]


@cache
def tree(size: int) -> tuple[Shape, tuple[bytes, ...], TreeEnd]:
    """A shape, all nodes, and the end of the tree of a content."""
    shape = shape_of(size)
    maker = TreeMaker(shape)
    nodes = [maker.add(chunk_of(shape, number)) for number in range(shape.count)]
    end = maker.end()
    return shape, (*(node for node in nodes if node is not None), *end.nodes), end


@given(SIZES)
@settings(max_examples=300, deadline=None)
def test_a_blob_has_one_of_few_sizes_and_all_chunks_have_their_place(size: int) -> None:
    shape = shape_of(size)
    assert 0 < shape.count <= shape.data <= BLOB_CHUNKS_MAX
    assert data_chunks(shape.data) == shape.data
    if shape.data <= BLOB_STEP:
        assert shape.data == 1 << (shape.data.bit_length() - 1) >= BLOB_LEAST
        assert shape.count * 2 > shape.data or shape.data == BLOB_LEAST
    else:
        assert shape.data % BLOB_STEP == 0
        assert shape.data - shape.count < BLOB_STEP
    assert shape.tree == tree_chunks(shape.data)
    assert shape.nodes * BLOB_FANOUT >= shape.data or not shape.nodes
    assert shape.chunks == shape.tree + shape.data
    assert sum(shape.length(n) for n in (0, shape.count - 1, shape.count)) <= 2 * BLOB_CHUNK
    assert (shape.count - 1) * BLOB_CHUNK + shape.length(shape.count - 1) == size
    assert shape.length(shape.count) == 0
    for number in (0, shape.count - 1, shape.data - 1):
        assert shape.node(number) < shape.tree <= shape.index(number) < shape.chunks


@pytest.mark.parametrize("size", [0, -1, BLOB_SIZE_MAX + 1])
def test_what_is_too_large_or_nothing_has_no_blob(size: int) -> None:
    with pytest.raises(LimitError):
        shape_of(size)


def test_there_are_70_sizes() -> None:
    assert len({data_chunks(n) for n in range(1, BLOB_CHUNKS_MAX + 1)}) == 70


@pytest.mark.parametrize(
    "size", [1, BLOB_CHUNK, MIB, MIB + 1, 8 * MIB, 8 * MIB + 1, 12 * MIB + 5, 16 * MIB]
)
def test_each_chunk_can_be_checked_by_itself(size: int) -> None:
    shape, nodes, end = tree(size)
    assert len(nodes) == shape.nodes
    check_top(shape, end.digest, end.top)
    for number, node in enumerate(nodes):
        if any(node):
            check_node(end.top, number, node)
    for number in {0, 1, shape.count // 2, shape.count - 1} & set(range(shape.count)):
        chunk = chunk_of(shape, number)
        node = (end.top, *nodes)[shape.node(number)]
        assert check_data(shape, node, number, chunk.ljust(BLOB_CHUNK, b"\0")) == chunk


@given(
    st.sampled_from([5, BLOB_CHUNK * 3, MIB + 1, 9 * MIB]),
    st.integers(0, 2**32),
    st.integers(0, BLOB_CHUNK - 1),
    st.integers(1, 255),
)
@settings(max_examples=100, deadline=None)
def test_nothing_else_passes(size: int, which: int, place: int, change: int) -> None:
    """A changed byte, another place, or another size."""
    shape, nodes, end = tree(size)
    number = which % shape.count
    chunk = chunk_of(shape, number).ljust(BLOB_CHUNK, b"\0")
    node = (end.top, *nodes)[shape.node(number)]

    def changed(data: bytes) -> bytes:
        return data[:place] + bytes([data[place] ^ change]) + data[place + 1 :]

    def refused(check: Callable[..., object], *given: object) -> None:
        with pytest.raises(CryptoError):
            check(*given)

    short = end.digest.ljust(BLOB_CHUNK, b"\0")
    refused(check_top, shape, end.digest, changed(end.top))
    refused(check_top, shape_of(size + 1), end.digest, end.top)
    refused(check_top, shape, changed(short), end.top)
    refused(check_node, end.top, number // BLOB_FANOUT, changed(node))
    refused(check_data, shape, node, number, changed(chunk))
    refused(check_data, shape, node, (number + 1) % shape.data, chunk)
    refused(check_data, shape, node, number, chunk[:-1])


def test_an_empty_node_and_a_chunk_behind_the_content_pass_for_nothing() -> None:
    shape, nodes, end = tree(17 * MIB)
    assert not any(nodes[-1])
    with pytest.raises(CryptoError):
        check_node(end.top, len(nodes) - 1, nodes[-1])
    with pytest.raises(CryptoError):
        check_data(shape, nodes[-1], shape.data - 1, bytes(BLOB_CHUNK))


def test_what_is_behind_the_content_must_be_zeros() -> None:
    """Its sender could hide something there, which other clients would show."""
    shape = shape_of(BLOB_CHUNK + 5)
    maker = TreeMaker(shape)
    last = b"x" * BLOB_CHUNK
    maker.add(last)
    maker.add(last)
    top = maker.end().top
    with pytest.raises(CryptoError):
        check_data(shape, top, 1, last)


def test_a_part_of_a_group_can_forge_no_chunk() -> None:
    """Who has the secret seals what they like; it opens, and is not the content."""
    shape, _, end = tree(MIB)
    keys = blob_keys(SECRET)
    forged = keys.open(shape.index(3), keys.seal(shape.index(3), b"forged"))
    with pytest.raises(CryptoError):
        check_data(shape, end.top, 3, forged)


def test_a_sealed_chunk_is_one_frame_and_opens_at_its_place_alone() -> None:
    keys, chunk = blob_keys(SECRET), os.urandom(BLOB_CHUNK)
    sealed = keys.seal(7, chunk)
    assert len(sealed) == BLOB_SEALED_CHUNK
    assert keys.open(7, sealed) == chunk
    assert sealed == keys.seal(7, chunk)
    last = BLOB_CHUNKS_MAX + tree_chunks(BLOB_CHUNKS_MAX) - 1
    assert len(encode(PutChunk(keys.id, last, sealed))) <= PAYLOAD_MAX
    assert len(encode(GetChunk(keys.capability, last))) <= PAYLOAD_MAX
    for index, data in ((8, sealed), (7, sealed[:-1]), (7, sealed[1:] + b"\0"), (7, b"")):
        with pytest.raises(CryptoError):
            keys.open(index, data)
    with pytest.raises(CryptoError):
        blob_keys(os.urandom(32)).open(7, sealed)


def test_zeros_behind_the_content_are_noise_when_they_are_sealed() -> None:
    keys = blob_keys(SECRET)
    one, other = keys.seal(100, b""), keys.seal(101, b"")
    assert one != other
    assert max(map(one.count, range(256))) < 200


def test_what_follows_from_a_secret_is_apart() -> None:
    keys = blob_keys(SECRET)
    assert len({SECRET, keys.key, keys.capability, keys.id}) == 4
    assert keys.id == blob_id(keys.capability)


# References

REFERENCE = BlobReference(Address(bytes(32), "example.org", 1984), SECRET, 5, os.urandom(32))


@given(st.integers(1, BLOB_SIZE_MAX), st.sampled_from(["a", "fe80::1", "x" * 40 + ".onion"]))
@settings(max_examples=50, deadline=None)
def test_references_come_back(size: int, host: str) -> None:
    reference = replace(REFERENCE, size=size, server=Address(bytes(32), host, 1))
    assert decode_reference(reference.encode()) == reference


@given(st.one_of(st.binary(max_size=300), st.binary(min_size=100, max_size=120)))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_reference_or_refused(data: bytes) -> None:
    try:
        found = decode_reference(data)
    except DecodeError:
        return
    assert found.encode() == data


@given(st.integers(0, 116), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_a_changed_reference_is_another_one_or_refused(place: int, byte: int) -> None:
    data = bytearray(REFERENCE.encode())
    data[place % len(data)] = byte
    try:
        found = decode_reference(bytes(data))
    except DecodeError:
        return
    assert found.encode() == data
