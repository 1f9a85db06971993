"""Requests and replies: what is encoded is decoded, and any bytes give a value or DecodeError."""

import os
import re
from pathlib import Path
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs_common.errors import DecodeError
from cbfs_common.limits import (
    BLOB_CHUNKS_MAX,
    BLOB_DAYS_MAX,
    BLOB_SEALED_CHUNK,
    ENVELOPE_SIZE,
    GRANT_INDEX_MAX,
    GRANTED_TOKEN_SIZE,
    IDS_MAX,
    MARK_SIZE,
    PREKEY_RECORD_SIZE,
    UPLOAD_MAX,
)
from cbfs_common.primitives import KEM_PUBLIC_SIZE
from cbfs_common.wire import requests
from cbfs_common.wire.blobs import (
    BlobChunk,
    BlobState,
    GetChunk,
    MakeBlob,
    PutChunk,
    RemoveBlob,
    StatBlob,
)
from cbfs_common.wire.fields import Done, UnknownRequest
from cbfs_common.wire.requests import (
    AnyReply,
    AnyRequest,
    Arrived,
    AskInvite,
    Code,
    CountPrekeys,
    CreateAccount,
    Delete,
    DeleteAccount,
    Deliver,
    EnvelopeIds,
    ErrorReply,
    Fetch,
    GetLimits,
    GetTerms,
    Granted,
    LastMark,
    List,
    NewcomerTerms,
    PrekeyCount,
    PrekeyRecord,
    ServerLimits,
    ServerVersion,
    Stored,
    Subscribe,
    SwapMark,
    TakePrekey,
    TellVersion,
    UploadPrekeys,
    decode_push,
    decode_reply,
    decode_request,
    encode,
    envelope_id,
)
from cbfs_common.wire.transport import PAYLOAD_MAX
from tests.support.vectors import vectors

USER, ID, ENVELOPE = os.urandom(32), os.urandom(16), os.urandom(ENVELOPE_SIZE)
SPECIFICATION = Path(requests.__file__).parents[2] / "protocol" / "server.rst"
KEM = bytes(KEM_PUBLIC_SIZE)
MARK = os.urandom(MARK_SIZE)
CHUNK = os.urandom(BLOB_SEALED_CHUNK)
RECORD = bytes(16) + b"\x01" + bytes(PREKEY_RECORD_SIZE - 17)
LAST = bytes(15) + b"\x01\x02" + bytes(PREKEY_RECORD_SIZE - 17)
RECORDS = tuple(bytes([i]) + RECORD[1:] for i in range(UPLOAD_MAX))
REQUESTS = (
    CreateAccount(),
    CreateAccount(bytes(56)),
    CreateAccount(b"", ID, 2**64 - 1),
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
    SwapMark(b"", MARK),
    SwapMark(MARK, MARK[::-1]),
    GetTerms(),
    TellVersion(255),
    MakeBlob(USER, BLOB_CHUNKS_MAX, BLOB_DAYS_MAX),
    PutChunk(USER, 262_656, CHUNK),
    StatBlob(USER),
    GetChunk(USER, 0),
    RemoveBlob(USER),
    AskInvite(bytes(56), 0),
    AskInvite(bytes(56), GRANT_INDEX_MAX - 1),
)
REPLIES = (
    Done(),
    *(ErrorReply(code) for code in Code),
    PrekeyCount(100, 2**64 - 1),
    PrekeyRecord(RECORD, KEM),
    EnvelopeIds((ID,) * IDS_MAX, True),
    Stored(ENVELOPE),
    ServerLimits(1, 2, 3),
    LastMark(b""),
    LastMark(MARK),
    NewcomerTerms(False, ID, 64),
    ServerVersion(255),
    BlobState(0, 21),
    BlobChunk(CHUNK),
    Granted(bytes(56), bytes(56), bytes(56), b""),
    Granted(bytes(56), bytes(56), bytes(56), bytes(GRANTED_TOKEN_SIZE)),
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
        [1],
        [1, b"", b"", None],
        [1, None, b"", 0],
        [1, bytes(55), b"", 0],
        [1, b"", bytes(17), 0],
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
        [12, MARK],
        [12, MARK, b""],
        [12, None, MARK],
        [20, 0],
        [20, 256],
        [20, True],
        [12, MARK[1:], MARK],
    ],
)
def test_what_is_off_is_refused(items: Any) -> None:
    with pytest.raises(DecodeError):
        decode_request(msgpack.packb(items))


def test_a_request_of_a_later_version_is_told_from_nonsense() -> None:
    later: list[list[object]] = [[21], [63, b"x", 1], [21, [[]]]]
    for items in later:
        with pytest.raises(UnknownRequest):
            decode_request(msgpack.packb(items))
    nonsense: list[list[object]] = [[64], [0], [11, 1], [128], ["21"]]
    for data in (*map(msgpack.packb, nonsense), b"\x91\x15\0"):
        with pytest.raises(DecodeError) as refused:
            decode_request(data)
        assert type(refused.value) is DecodeError


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
    st.sampled_from([encode(r) for r in REQUESTS if not isinstance(r, Deliver | PutChunk)]),
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


def test_each_has_a_vector() -> None:
    kinds = {"request": get_args(AnyRequest), "reply": get_args(AnyReply), "push": (Arrived,)}
    for kind, classes in kinds.items():
        told = {case.gives["what"] for case in vectors("server")[kind] if case.gives}
        assert told == {each.__name__ for each in classes}
    replies = [case.gives for case in vectors("server")["reply"] if case.gives]
    codes = {each["fields"][0] for each in replies if each["what"] == "ErrorReply"}
    assert codes == {int(code) for code in Code}
