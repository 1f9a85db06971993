"""Message-IDs and addresses of messages as mail: what was encoded comes back, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs.messages.mail_ids import (
    DOMAIN,
    MailId,
    mail_address,
    parse_mail_address,
    parse_mail_id,
)
from cbfs_common.errors import DecodeError

IDS = st.builds(MailId, *[st.binary(min_size=16, max_size=16)] * 2)
RIGHT = "<" + "0a" * 16 + "." + "ff" * 16 + "@cbfs.invalid>"


@given(IDS)
def test_a_message_id_comes_back(mail_id: MailId) -> None:
    text = mail_id.encode()
    assert text.isascii()
    assert len(text) < 100
    assert parse_mail_id(text) == mail_id


def test_a_message_id_names_message_and_conversation() -> None:
    assert parse_mail_id(RIGHT) == MailId(b"\x0a" * 16, b"\xff" * 16)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        RIGHT[1:-1],
        f" {RIGHT}",
        f"{RIGHT}\n",
        RIGHT + RIGHT,
        RIGHT.upper(),
        RIGHT.replace("0a", "0A", 1),
        RIGHT.replace("0a", "a", 1),
        RIGHT.replace("0a", "0a0a", 1),
        RIGHT.replace(".", "", 1),
        RIGHT.replace("invalid", "example"),
        RIGHT.replace("cbfs.", "cbfs-"),
        "<1.2@cbfs.invalid>",
    ],
)
def test_what_is_no_message_id_is_refused(wrong: str) -> None:
    with pytest.raises(DecodeError):
        parse_mail_id(wrong)


@given(st.text(max_size=90))
def test_any_text_is_a_message_id_or_refused(text: str) -> None:
    try:
        found = parse_mail_id(text)
    except DecodeError:
        return
    assert found.encode() == text


@pytest.mark.parametrize(
    ("shown", "address"),
    [
        ("bob", "bob@cbfs.invalid"),
        ("bob-2_x", "bob-2_x@cbfs.invalid"),
        ("bob@example.org", "bob@example.org.cbfs.invalid"),
        ("bob@_" + "a" * 26, "bob@_" + "a" * 26 + ".cbfs.invalid"),
    ],
)
def test_people_have_addresses(shown: str, address: str) -> None:
    assert mail_address(shown) == address
    assert parse_mail_address(address) == shown
    assert parse_mail_address(address.replace(DOMAIN, DOMAIN.title())) == shown


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "bob",
        "bob@",
        "bob@example.org",
        "@cbfs.invalid",
        "bob@.cbfs.invalid",
        "bob@cbfs.invalid\n",
        "bob @cbfs.invalid",
        "bob@cbfs.invalid.example.org",
        "bob@xcbfs.invalid",
        "bob@a@cbfs.invalid",
        "bob <bob@cbfs.invalid>",
    ],
)
def test_other_addresses_are_refused_with_a_hint(wrong: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_mail_address(wrong)
    assert caught.value.hint == "write to NAME@cbfs.invalid"
