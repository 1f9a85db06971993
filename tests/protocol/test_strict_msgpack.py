"""MessagePack has one encoding for each value, and no other is read, whoever has sent it."""

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs_common.errors import DecodeError
from cbfs_common.messages import body, folder
from cbfs_common.names import wire as names_wire
from cbfs_common.strict_msgpack import unpack
from cbfs_common.wire import requests
from cbfs_names.wire import peer_messages
from tests.support.vectors import vectors
from tests.support.wasteful import wasteful

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=300)
    | st.text(max_size=100),
    lambda inner: st.lists(inner, max_size=20),
    max_leaves=20,
)


def refused(data: bytes) -> bool:
    try:
        unpack(data, "wrong", 100)
    except DecodeError as error:
        assert str(error) == "wrong"
        return True
    return False


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_each_value_has_one_encoding(value: Any) -> None:
    assert unpack(msgpack.packb(value), "wrong", 100) == value
    for data in wasteful(value):
        assert msgpack.unpackb(data) == value, "it is right but for its length"
        assert refused(data)


@given(st.binary(max_size=100))
@settings(max_examples=1_000, deadline=None)
def test_any_bytes_give_a_value_of_which_they_are_the_encoding_or_an_error(data: bytes) -> None:
    try:
        value = unpack(data, "wrong", 100)
    except DecodeError:
        return
    assert msgpack.packb(value) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x01",  # something behind it
        b"\x80",
        b"\x81\xa1a\x01",
        b"\xca\0\0\0\0",
        msgpack.packb(1.5),
        msgpack.packb([1, [1.5]]),
        msgpack.packb(float("nan")),
        b"\xc7\0\x05",  # extensions, empty and not
        b"\xd4\x05x",
        b"\xd6\xff\0\0\0\0",  # a time
        b"\xc1",
        b"\xa1\xff",  # no UTF-8
        b"\xa3\xed\xa0\x80",  # half a surrogate
        b"\x92\x01",
        b"\xc6\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 600 + b"\x01",
        b"\x91" * 100_000,
        msgpack.packb([0] * 101),
    ],
)
def test_what_the_protocol_does_not_have_is_refused(data: bytes) -> None:
    assert refused(data)


EXAMPLES: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "request": (requests.decode_request, requests.encode(requests.List(bytes(16)))),
    "reply": (requests.decode_reply, requests.encode(requests.PrekeyCount(100, 7))),
    "push": (requests.decode_push, requests.encode(requests.Arrived(bytes(16), bytes(16_384)))),
    "directory request": (
        names_wire.decode_request,
        names_wire.encode_request(names_wire.AskTerms(5)),
    ),
    "message between verifiers": (
        peer_messages.decode,
        peer_messages.encode(peer_messages.Acknowledged()),
    ),
}


def test_bodies_and_tables_are_refused_as_well() -> None:
    right = vectors("message")["part"][0].given["body"]
    body.decode_body(right)
    head, size = vectors("folder")["folder"][0].given.values()
    folder.decode_table(head, size)
    for form in wasteful(msgpack.unpackb(right)):
        with pytest.raises(DecodeError):
            body.decode_body(form)
    for form in wasteful(msgpack.unpackb(head[4:])):
        longer = len(form).to_bytes(4, "big") + form
        with pytest.raises(DecodeError):
            folder.decode_table(longer, size + len(longer) - len(head))


@pytest.mark.parametrize("what", EXAMPLES)
def test_every_decoder_refuses_what_is_longer_than_it_needs_to_be(what: str) -> None:
    decode, data = EXAMPLES[what]
    decode(data)
    forms = list(wasteful(msgpack.unpackb(data)))
    assert forms
    for form in forms:
        with pytest.raises(DecodeError):
            decode(form)
