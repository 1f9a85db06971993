"""Lines that invite somebody, and what lies at the server for them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import (
    ENVELOPE_SIZE,
    INVITE_LINE_MAX,
    INVITE_SIZE,
    LINE_SALT_SIZE,
    LINE_SECRET_SIZE,
    MARK_SIZE,
)
from cbfs_common.onion import onion_host
from cbfs_common.primitives import KEY_SIZE, dh_public, kdf, open_sealed, seal
from cbfs_common.profile import Address
from cbfs_common.wire.lines import (
    PREFIX,
    InviteLine,
    InviteRecord,
    LineArrival,
    decode_arrival,
    decode_record,
    is_line,
    line_to,
    parse_line,
)
from tests.support.names_naive import make_policy

ONION = Address(b"k" * KEY_SIZE, onion_host(b"o" * KEY_SIZE), 1984)
PLAIN = Address(b"k" * KEY_SIZE, "127.0.0.1", 40_000)
SECRET = bytes(range(LINE_SECRET_SIZE))
SALT = b"s" * LINE_SALT_SIZE
POLICY = make_policy(PLAIN).encode()
RECORD = InviteRecord(SALT, 2**40, POLICY, name="bob", inviter="alice", identity=b"i" * KEY_SIZE)

hosts = st.sampled_from(
    ["127.0.0.1", "::1", "a", "mail.example.org", "a" * 33, onion_host(b"o" * 32)]
)


@given(
    st.binary(min_size=32, max_size=32),
    hosts,
    st.integers(1, 65_535),
    st.binary(min_size=20, max_size=20),
)
def test_a_line_is_read_as_it_was_written(key: bytes, host: str, port: int, secret: bytes) -> None:
    line = InviteLine(Address(key, host, port), secret)
    text = line.text()
    assert len(text) <= INVITE_LINE_MAX
    assert parse_line(text) == line
    assert parse_line(f" {text.upper()}\n") == line
    assert is_line(text)


def test_a_server_whose_name_is_too_long_for_a_line_is_told() -> None:
    for length in (34, 200):
        with pytest.raises(DecodeError, match="too long"):
            InviteLine(replace(PLAIN, host="a" * length), SECRET).text()


@pytest.mark.parametrize("address", [ONION, PLAIN])
def test_a_line_that_is_mistyped_anywhere_is_told_at_once(address: Address) -> None:
    text = InviteLine(address, SECRET).text()
    for at in range(len(PREFIX), len(text)):
        other = "a" if text[at] != "a" else "b"
        for wrong in (text[:at] + other + text[at + 1 :], text[:at] + text[at + 1 :], text[:at]):
            with pytest.raises(DecodeError) as caught:
                parse_line(wrong)
            assert text[20:40] not in caught.value.in_full


@given(
    st.one_of(st.text(), st.text().map(PREFIX.__add__), st.text("abc234567").map(PREFIX.__add__))
)
def test_any_text_is_a_line_or_an_error_with_a_hint(text: str) -> None:
    with pytest.raises(CbfsError) as caught:
        parse_line(text)
    assert caught.value.hint


CONTACT = replace(RECORD, name="", contact=True)


@pytest.mark.parametrize(
    "value", [RECORD, replace(RECORD, name="", inviter="", identity=b""), CONTACT]
)
def test_a_record_is_read_by_who_has_the_line_and_by_nobody_else(value: InviteRecord) -> None:
    line = line_to(ONION, value)
    envelope = line.sealed(value)
    assert len(envelope) == ENVELOPE_SIZE
    assert line.open_record(envelope) == value
    assert line.open_arrival(envelope) is None
    assert InviteLine(ONION, SECRET).open_record(envelope) is None
    assert InviteLine(replace(ONION, key=b"K" * 32), line.secret).open_record(envelope) is None
    arrival = LineArrival("bob", b"j" * KEY_SIZE)
    assert line.open_arrival(line.sealed(arrival)) == arrival
    assert line.open_record(line.sealed(arrival)) is None
    other = replace(arrival, policy=POLICY)
    assert line.open_arrival(line.sealed(other)) == other


def test_nobody_who_has_a_line_can_put_another_record_there() -> None:
    """They have all keys, and so the line has a hash of the one that it was made for."""
    line = line_to(ONION, RECORD)
    for other in (
        replace(RECORD, identity=b"e" * KEY_SIZE),
        replace(RECORD, inviter="eve", identity=b"e" * KEY_SIZE),
        replace(RECORD, salt=b"S" * LINE_SALT_SIZE),
        replace(RECORD, expires=RECORD.expires + 1),
    ):
        with pytest.raises(DecodeError, match="not what it was made for"):
            line.open_record(line.sealed(other))
    assert line_to(ONION, RECORD) == line
    assert line.secret == kdf(b"", b"cbfs1 line hash", RECORD.encode(), LINE_SECRET_SIZE)


def test_keys_follow_from_the_line_as_the_specification_says() -> None:
    line = InviteLine(ONION, SECRET)
    assert line.drop == dh_public(kdf(SECRET, b"cbfs1 line drop", ONION.key, 32))
    assert line.mark(b"u" * 32) == kdf(SECRET, b"cbfs1 line mark", b"u" * 32, MARK_SIZE)
    key = kdf(SECRET, b"cbfs1 line come", ONION.key, 32)
    envelope = line.sealed(LineArrival("bob", b"j" * KEY_SIZE))
    plain = open_sealed(key, envelope[:12], envelope[12:])
    assert envelope[:12] == kdf(SECRET, b"cbfs1 line once", b"cbfs1 line come" + plain, 12)
    assert plain[2 : 2 + int.from_bytes(plain[:2], "big")].startswith(b"\x94\x01\xa3bob")


def test_two_who_answer_by_one_line_seal_nothing_under_one_nonce() -> None:
    """A server has them both do so: what lies there would else show where the two differ."""
    line = InviteLine(ONION, SECRET)
    one, other = (line.sealed(LineArrival(name, b"j" * KEY_SIZE)) for name in ("bob", "eve"))
    assert line.sealed(LineArrival("bob", b"j" * KEY_SIZE)) == one
    assert one[:12] != other[:12]
    equal = sum(a == b for a, b in zip(one, other, strict=True))
    assert equal < len(one) // 64  # 1 in 256 by chance


def test_an_envelope_of_a_line_with_another_nonce_is_none_of_ours() -> None:
    line, nonce = InviteLine(ONION, SECRET), b"n" * 12
    key = kdf(SECRET, b"cbfs1 line come", ONION.key, 32)
    mine = line.sealed(LineArrival("bob", b"j" * KEY_SIZE))
    padded = open_sealed(key, mine[:12], mine[12:])
    with pytest.raises(DecodeError):
        line.open_arrival(nonce + seal(key, nonce, padded))


def test_a_policy_that_is_too_long_for_a_line_is_told() -> None:
    with pytest.raises(DecodeError, match="too long"):
        InviteLine(ONION, SECRET).sealed(replace(RECORD, policy="#" * 20_000))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_an_error(data: bytes) -> None:
    for decode in (decode_record, decode_arrival):
        with pytest.raises(CbfsError):
            decode(data)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(RECORD, policy="no policy"),
        replace(RECORD, token="no token"),
        replace(RECORD, invite="no invite"),
        replace(RECORD, name="Not A Name"),
        replace(RECORD, inviter="Not A Name"),
        replace(RECORD, inviter=""),
        replace(RECORD, identity=b""),
        replace(RECORD, expires=-1),
        replace(RECORD, salt=b"s"),
        replace(RECORD, contact=True),
        replace(CONTACT, inviter="", identity=b""),
        replace(CONTACT, token="x"),
        replace(CONTACT, grant=bytes(INVITE_SIZE)),
        replace(RECORD, grant=b"g"),
        replace(CONTACT, invite="x"),
    ],
)
def test_a_record_with_anything_wrong_in_it_is_none(wrong: InviteRecord) -> None:
    with pytest.raises(CbfsError):
        decode_record(wrong.encode())


def test_a_record_has_one_encoding() -> None:
    data = RECORD.encode()
    assert decode_record(data) == RECORD
    for other in (data + b"\0", data[:-1], b"\x9b\x02" + data[2:]):
        with pytest.raises(DecodeError):
            decode_record(other)
