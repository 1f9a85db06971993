"""Requests and replies: what is encoded is decoded, and any bytes give a value or DecodeError."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs_common.errors import DecodeError
from cbfs_common.limits import ENVELOPE_SIZE, IDS_MAX, PREKEY_RECORD_SIZE, UPLOAD_MAX
from cbfs_common.primitives import KEM_PUBLIC_SIZE
from cbfs_common.wire import requests
from cbfs_common.wire.requests import (
    AnyReply,
    AnyRequest,
    Arrived,
    Code,
    CountPrekeys,
    CreateAccount,
    Delete,
    DeleteAccount,
    Deliver,
    Done,
    EnvelopeIds,
    ErrorReply,
    Fetch,
    GetLimits,
    List,
    PrekeyCount,
    PrekeyRecord,
    ServerLimits,
    Stored,
    Subscribe,
    TakePrekey,
    UploadPrekeys,
    decode_push,
    decode_reply,
    decode_request,
    encode,
    envelope_id,
)
from cbfs_common.wire.transport import PAYLOAD_MAX
from tests.vectors.make_server_vectors import FILE, make

VECTORS: dict[str, Any] = json.loads(FILE.read_text())
DECODE: dict[str, Callable[[bytes], Any]] = {
    "request": decode_request,
    "reply": decode_reply,
    "push": decode_push,
}
USER, ID, ENVELOPE = os.urandom(32), os.urandom(16), os.urandom(ENVELOPE_SIZE)
SPECIFICATION = Path(requests.__file__).parents[2] / "protocol" / "server.rst"
KEM = bytes(KEM_PUBLIC_SIZE)
RECORD = bytes(16) + b"\x01" + bytes(PREKEY_RECORD_SIZE - 17)
LAST = bytes(15) + b"\x01\x02" + bytes(PREKEY_RECORD_SIZE - 17)
RECORDS = tuple(bytes([i]) + RECORD[1:] for i in range(UPLOAD_MAX))
REQUESTS = (
    CreateAccount(),
    DeleteAccount(),
    UploadPrekeys(RECORDS, KEM),
    UploadPrekeys((RECORD, LAST), KEM, replace=True),
    CountPrekeys(),
    TakePrekey(USER),
    Deliver(USER, ENVELOPE),
    List(),
    List(ID),
    Fetch(ID),
    Delete(()),
    Delete((ID,) * IDS_MAX),
    Subscribe(),
    GetLimits(),
)
REPLIES = (
    Done(),
    *(ErrorReply(code) for code in Code),
    PrekeyCount(100, 2**64 - 1),
    PrekeyRecord(RECORD, KEM),
    EnvelopeIds((ID,) * IDS_MAX, True),
    Stored(ENVELOPE),
    ServerLimits(1, 2, 3),
)


def test_each_is_tried_here_and_in_the_tables_of_the_specification() -> None:
    kinds = (*get_args(AnyRequest), *get_args(AnyReply), Arrived)
    assert {type(each) for each in (*REQUESTS, *REPLIES)} == {*kinds} - {Arrived}
    text = (
        SPECIFICATION.read_text().partition("\nMessage server\n===")[2].partition("\nPromises\n")[0]
    )
    rows = re.findall(r"^(\d+) +(\w+)", text, re.MULTILINE)
    expected = [(kind.KIND, kind.__name__) for kind in kinds] + [(int(c), c.name) for c in Code]
    assert sorted((int(number), name) for number, name in rows) == sorted(expected)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: type(r).__name__)
def test_requests_come_back(request_: Any) -> None:
    payload = encode(request_)
    assert len(payload) <= PAYLOAD_MAX
    assert decode_request(payload) == request_


@pytest.mark.parametrize("reply", REPLIES, ids=lambda r: type(r).__name__)
def test_replies_come_back(reply: Any) -> None:
    payload = encode(reply)
    assert len(payload) <= PAYLOAD_MAX
    assert decode_reply(payload) == reply


def test_pushes_come_back() -> None:
    payload = encode(Arrived(ID, ENVELOPE))
    assert len(payload) <= PAYLOAD_MAX
    assert decode_push(payload) == Arrived(ID, ENVELOPE)


@pytest.mark.parametrize(
    "items",
    [
        [],
        5,
        None,
        {},
        [True],
        [99],
        [1, 0],
        [3, [], KEM, False],
        [3, [RECORD], KEM, 0],
        [3, [RECORD], KEM[1:], False],
        [3, [RECORD], False],
        [3, [*RECORDS, b"x" + RECORD[1:]], KEM, False],
        [3, [RECORD, RECORD], KEM, False],
        [3, [RECORD, RECORD[:-1] + b"x"], KEM, False],  # two of one id
        [3, [RECORD, RECORD[:16] + LAST[16:]], KEM, False],
        [3, [LAST, b"x" + LAST[1:]], KEM, False],  # two last-resort ones
        [3, [bytes(PREKEY_RECORD_SIZE)], KEM, False],  # a kind that there is not
        [5],
        [5, USER[:31]],
        [5, "x" * 32],
        [6, USER, ENVELOPE[:-1]],
        [6, ENVELOPE, USER],
        [7, None],
        [7, "abc"],
        [9, [ID] * (IDS_MAX + 1)],
        [9, ID],
    ],
)
def test_what_is_off_is_refused(items: Any) -> None:
    with pytest.raises(DecodeError):
        decode_request(msgpack.packb(items))


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(DecodeError):
        decode_request(encode(GetLimits()) + b"\0")


def test_a_refusal_with_an_unknown_code_is_refused() -> None:
    for code in (0, 99, -1, 2**64 - 1):
        with pytest.raises(DecodeError):
            decode_reply(msgpack.packb([65, code]))


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_value_or_an_error(data: bytes) -> None:
    for decode in (decode_request, decode_reply, decode_push):
        try:
            value = decode(data)
        except DecodeError:
            continue
        assert decode(encode(value)) == value


@given(
    st.sampled_from([encode(r) for r in REQUESTS if not isinstance(r, Deliver)]),
    st.integers(0, 2_000),
    st.integers(0, 255),
)
@settings(max_examples=300, deadline=None)
def test_changed_requests_give_a_value_or_an_error(data: bytes, place: int, byte: int) -> None:
    changed = bytearray(data)
    changed[place % len(data)] = byte
    try:
        value = decode_request(bytes(changed))
    except DecodeError:
        return
    assert decode_request(encode(value)) == value


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(DecodeError):
        decode_request(b"\x91" * PAYLOAD_MAX)


def test_an_envelope_id_is_its_hash() -> None:
    assert envelope_id(ENVELOPE) == envelope_id(bytes(ENVELOPE))
    assert len(envelope_id(ENVELOPE)) == requests.ID_SIZE
    for case in VECTORS["ids"]:
        assert envelope_id(bytes([case["byte"]]) * ENVELOPE_SIZE).hex() == case["id"]


def test_the_vectors_are_those_of_the_script() -> None:
    assert make() == VECTORS


@pytest.mark.parametrize("kind", ["requests", "replies", "pushes"])
def test_vectors(kind: str) -> None:
    assert set(VECTORS) == {"format", "requests", "replies", "pushes", "refused", "ids"}
    decode = DECODE[{"requests": "request", "replies": "reply", "pushes": "push"}[kind]]
    for case in VECTORS[kind]:
        assert set(case) == {"name", "fields", "bytes"}
        data = bytes.fromhex(case["bytes"])
        value = decode(data)
        assert type(value).__name__ == case["name"]
        assert shown(value.fields()) == case["fields"]
        assert encode(value) == data
    names = {case["name"] for case in VECTORS[kind]}
    kinds = {"requests": get_args(AnyRequest), "replies": get_args(AnyReply), "pushes": (Arrived,)}
    assert names == {each.__name__ for each in kinds[kind]}, "each has a vector"


@pytest.mark.parametrize(
    "case", VECTORS["refused"], ids=lambda case: f"{case['as']}: {case['name']}"
)
def test_vectors_that_are_refused(case: dict[str, str]) -> None:
    assert set(case) == {"as", "name", "bytes"}
    with pytest.raises(DecodeError):
        DECODE[case["as"]](bytes.fromhex(case["bytes"]))


def shown(value: Any) -> Any:
    """As the vectors have it."""
    if isinstance(value, bytes):
        return value.hex()
    return [shown(item) for item in value] if isinstance(value, tuple) else value
