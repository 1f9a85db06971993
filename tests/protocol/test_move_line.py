"""Lines by which an account moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import INVITE_LINE_MAX, LINE_SECRET_SIZE
from cbfs_common.onion import PORT
from cbfs_common.primitives import kdf, sign_public
from cbfs_common.wire.move_line import PREFIX, MoveLine, parse_move_line
from cbfs_common.wire.transport import ServerSecret

SECRET = bytes(range(LINE_SECRET_SIZE))
BY_TOR, PLAIN = MoveLine(SECRET), MoveLine(SECRET, "127.0.0.1", 40_000)

secrets = st.binary(min_size=LINE_SECRET_SIZE, max_size=LINE_SECRET_SIZE)
hosts = st.sampled_from(["127.0.0.1", "::1", "localhost"])


@given(secrets, st.none() | st.tuples(hosts, st.integers(1, 65_535)))
def test_a_line_of_a_move_is_read_as_it_was_written(
    secret: bytes, place: tuple[str, int] | None
) -> None:
    line = MoveLine(secret, *(place or ()))
    text = line.text()
    assert len(text) <= INVITE_LINE_MAX
    assert parse_move_line(text) == line
    assert parse_move_line(f" {text.upper()}\n") == line


@pytest.mark.parametrize("line", [BY_TOR, PLAIN])
def test_a_line_of_a_move_that_is_mistyped_anywhere_is_told_at_once(line: MoveLine) -> None:
    text = line.text()
    for at in range(len(PREFIX), len(text)):
        other = "a" if text[at] != "a" else "b"
        for wrong in (text[:at] + other + text[at + 1 :], text[:at] + text[at + 1 :], text[:at]):
            with pytest.raises(DecodeError) as caught:
                parse_move_line(wrong)
            assert text[20:40] not in caught.value.in_full


@given(
    st.one_of(st.text(), st.text().map(PREFIX.__add__), st.text("abc234567").map(PREFIX.__add__))
)
def test_any_text_is_a_line_of_a_move_or_an_error_with_a_hint(text: str) -> None:
    with pytest.raises(CbfsError) as caught:
        parse_move_line(text)
    assert caught.value.hint


@pytest.mark.parametrize("line", [BY_TOR, PLAIN])
def test_all_keys_of_a_move_follow_from_its_line(line: MoveLine) -> None:
    old = ServerSecret(
        kdf(SECRET, b"cbfs1 move old", b"", 32) + kdf(SECRET, b"cbfs1 move kem", b"", 64)
    )
    assert line.old.public == old.public
    assert line.new == kdf(SECRET, b"cbfs1 move new", b"", 32)
    assert line.service.seed == kdf(SECRET, b"cbfs1 move onion", b"", 32)
    assert line.address.key == old.key


def test_the_place_of_a_move_is_an_onion_service_of_the_line_or_on_this_machine() -> None:
    assert BY_TOR.address.host == BY_TOR.service.host
    assert BY_TOR.address.port == PORT
    assert len(sign_public(BY_TOR.service.seed)) == 32
    assert PLAIN.address.place == "127.0.0.1:40000"


def test_an_address_that_is_too_long_for_a_line_is_told() -> None:
    with pytest.raises(DecodeError, match="too long"):
        MoveLine(SECRET, "a" * 80, 1).text()
