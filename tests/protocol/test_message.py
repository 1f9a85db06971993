"""Bodies: what goes in comes out, any bytes are a body or refused, and parts always fit."""

from dataclasses import replace
from hashlib import blake2b
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs_common.errors import DecodeError, LimitError
from cbfs_common.limits import (
    BLOB_ABOVE,
    BLOB_SIZE_MAX,
    BODY_MAX,
    BUNDLE_MAX,
    DATE_MAX,
    FILE_SIZE_MAX,
    LIFETIME_CHANGE_MAX,
    MESSAGE_LIFETIME_MAX,
    MESSAGE_LIFETIME_MIN,
    PARENTS_MAX,
    PARTS_MAX,
)
from cbfs_common.messages.blobs import BlobReference
from cbfs_common.messages.body import (
    Parent,
    Part,
    decode_body,
    decode_part,
    encode_part,
    part_capacity,
)
from cbfs_common.messages.conversation import FOREVER, Lifetime
from cbfs_common.person import Person
from cbfs_common.profile import Address

SERVER = Address(bytes([9]) * 32, "example.org", 443)
NAMES = st.from_regex(r"[a-z0-9]{3,8}[xyz]", fullmatch=True)
PEOPLE = st.builds(Person, st.sampled_from((b"h" * 16, b"t" * 16)), NAMES)

LIFETIMES = st.builds(
    Lifetime,
    st.just(0) | st.integers(MESSAGE_LIFETIME_MIN, MESSAGE_LIFETIME_MAX),
    st.integers(1, LIFETIME_CHANGE_MAX),
)


def text(most: int) -> st.SearchStrategy[str]:
    return st.text(max_size=most // 4)


@st.composite
def parts(draw: st.DrawFn) -> Part:
    """Any part that may be sent."""
    ids = st.binary(min_size=16, max_size=16)
    leaving = draw(st.booleans())
    count = 1 if leaving else draw(st.integers(1, 9))
    blob = not leaving and count == 1 and draw(st.booleans())
    chunk = draw(st.integers(1, 900))
    last = draw(st.integers(0 if count == 1 else 1, chunk))
    number = draw(st.integers(0, count - 1))
    folder = not leaving and draw(st.booleans())
    length = last if number == count - 1 else chunk
    people = tuple(sorted(draw(st.sets(PEOPLE, min_size=2, max_size=5))))
    hashes = draw(st.sets(st.binary(min_size=32, max_size=32), max_size=PARENTS_MAX))
    size, digest = (count - 1) * chunk + last, draw(st.binary(min_size=32, max_size=32))
    share = draw(st.binary(min_size=length, max_size=length))
    if blob:
        size = draw(st.integers(BLOB_ABOVE + 1, BLOB_SIZE_MAX))
        share = BlobReference(SERVER, bytes(32), size, digest).encode()
    return Part(
        salt=draw(ids),
        conversation=draw(ids),
        parents=tuple(Parent(draw(st.sampled_from(people)), hash_) for hash_ in hashes),
        participants=people,
        subject=draw(text(200)),
        date=draw(st.integers(0, DATE_MAX)),
        file_name="" if leaving else ("f" if folder else "") + draw(text(250)),
        number=number,
        count=count,
        size=size,
        digest=digest,
        chunk=share,
        bundle=draw(st.binary(max_size=100)),
        folder=folder,
        lifetime=draw(st.just(FOREVER) | LIFETIMES),
        root=draw(st.just(b"") | ids),
        leaving=leaving,
        blob=blob,
    )


@settings(max_examples=60, deadline=None)
@given(parts())
def test_what_goes_in_comes_out(part: Part) -> None:
    assert decode_body(encode_part(part)) == decode_part(encode_part(part)) == part


@pytest.mark.parametrize(
    "change",
    [{"size": BLOB_ABOVE + 2}, {"size": BLOB_ABOVE}, {"digest": bytes(32)}, {"chunk": b"x"}],
)
def test_what_is_no_reference_to_its_own_content_is_no_message(change: dict[str, Any]) -> None:
    """What a message says of its content is in its hash, and must be what is fetched."""
    digest, size = bytes([7]) * 32, BLOB_ABOVE + 1
    good = replace(
        cut(b"small", 5, crowd(2), b"")[0],
        size=size,
        digest=digest,
        chunk=BlobReference(SERVER, bytes(32), size, digest).encode(),
        blob=True,
    )
    assert decode_part(encode_part(good)) == good
    with pytest.raises(DecodeError):
        encode_part(replace(good, **change))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_body_or_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_body(data)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(max_size=20)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=9)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(parts(), st.integers(0, 18), VALUES)
def test_any_value_in_any_field_is_a_body_or_refused(part: Part, at: int, value: object) -> None:
    fields = msgpack.unpackb(encode_part(part))
    fields[at] = value
    body = msgpack.packb(fields)
    try:
        decoded = decode_body(body)
    except DecodeError:
        return
    assert isinstance(decoded, Part)
    assert encode_part(decoded) == body


def test_a_timestamp_or_a_deep_nest_is_refused() -> None:
    for body in (b"\x92\x01\xd6\xff\0\0\0\0", b"\x91" * 5_000, b"\xdd\xff\xff\xff\xff"):
        with pytest.raises(DecodeError):
            decode_body(body)


def crowd(number: int) -> tuple[Person, ...]:
    """So many people with the longest names."""
    return tuple(Person(b"h" * 16, f"{'n' * 28}{i:04}") for i in range(number))


def cut(content: bytes, size: int, names: tuple[Person, ...], bundle: bytes) -> list[Part]:
    """The parts of a message, as a sender cuts them."""
    count = max(1, -(-len(content) // size))
    digest = blake2b(content, digest_size=32).digest()
    return [
        Part(
            salt=bytes(16),
            conversation=bytes(16),
            parents=tuple(Parent(names[-1], bytes([i] * 32)) for i in range(PARENTS_MAX)),
            participants=names,
            subject="s" * 200,
            date=DATE_MAX,
            file_name="f" * 255,
            number=number,
            count=count,
            size=len(content),
            digest=digest,
            chunk=content[number * size : (number + 1) * size],
            bundle=bundle,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("people", [2, 50])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_parts_fit_whatever_goes_with_them(people: int, more: int) -> None:
    names = crowd(people)
    size = part_capacity(names, "s" * 200, "f" * 255)
    assert size * PARTS_MAX >= FILE_SIZE_MAX
    content = bytes(3 * size + more)
    cuts = cut(content, size, names, bytes(BUNDLE_MAX))
    bodies = [encode_part(part) for part in cuts]
    assert max(map(len, bodies)) <= BODY_MAX
    assert b"".join(decode_part(body).chunk for body in bodies) == content


def test_every_size_of_parts_holds_the_largest_file() -> None:
    names = crowd(50)
    size = part_capacity(names, "s" * 200, "f" * 255)
    cuts = cut(bytes(FILE_SIZE_MAX), size, names, b"")
    for part in (cuts[0], cuts[-1]):
        assert decode_part(encode_part(part)) == part


def test_a_part_that_does_not_fit_is_refused() -> None:
    size = part_capacity(crowd(2), "", "")
    (part,) = cut(bytes(size + BUNDLE_MAX), size + BUNDLE_MAX, crowd(2), bytes(BUNDLE_MAX))
    with pytest.raises(LimitError):
        encode_part(part)


def test_a_part_that_none_would_take_is_not_made() -> None:
    (part,) = cut(b"x", 1, crowd(2)[::-1], b"")
    with pytest.raises(DecodeError):
        encode_part(part)
