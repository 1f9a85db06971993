"""Names of files in mail/, and what is kept of them: what was encoded comes back, and nothing else
is read."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs.messages.marks.mail_notes import (
    NOTHING,
    UID_MAX,
    Noted,
    decode_notes,
    encode_notes,
)
from cbfs.tree.virtual.mail.names import MailName, name_in_mail, read_mail_name
from cbfs_common.errors import DecodeError

FLAGS = st.sets(st.sampled_from(string.ascii_letters)).map(lambda found: "".join(sorted(found)))
KEPT = FLAGS.map(lambda flags: flags.replace("S", "").replace("T", ""))
NOTED = st.builds(Noted, KEPT, st.integers(0, UID_MAX), st.booleans())
NAMES = st.builds(
    MailName,
    st.integers(0, 999_999_999_999),
    st.integers(1, (1 << 38) - 1),
    st.integers(0, UID_MAX),
    FLAGS,
    st.booleans(),
).filter(lambda name: not (name.is_new and name.has("S")))


@given(NAMES)
def test_a_name_comes_back(name: MailName) -> None:
    assert read_mail_name(name.encode(), is_new=name.is_new) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.M1.cbfs:",
        "1.M1.cbfs:2",
        "1.M1.cbfs:2,SF",
        "1.M1.cbfs:2,SS",
        "1.M1.cbfs:2,-",
        "1.M1.cbfs:2,é",
        "1.M1.cbfs:1,S",
        "1.M1.cbfs:2,S\n",
        "01.M1.cbfs",
        "1.M01.cbfs",
        "1.M0.cbfs",
        "-1.M1.cbfs",
        "1.M1.cbfs,U=0",
        "1.M1.cbfs,U=01",
        f"1.M1.cbfs,U={UID_MAX + 1}",
        "1.M1.cbfs,S=12",
        f"1.M{1 << 38}.cbfs",
        "1.M1.other",
        "1.M\u0661.cbfs",
    ],
)
def test_other_names_say_nothing(text: str) -> None:
    assert read_mail_name(text, is_new=False) is None
    assert read_mail_name(text, is_new=True) is None


def test_some_names_are_of_new_or_of_cur_alone() -> None:
    for text, new, cur in (
        ("1.M1.cbfs", True, False),
        ("1.M1.cbfs:2,", False, True),
        ("1.M1.cbfs:2,F", True, True),
        ("1.M1.cbfs:2,S", False, True),
    ):
        assert (read_mail_name(text, is_new=True) is not None) is new
        assert (read_mail_name(text, is_new=False) is not None) is cur


@given(st.text(max_size=40), st.booleans())
def test_any_text_is_a_name_or_none(text: str, is_new: bool) -> None:
    found = read_mail_name(text, is_new=is_new)
    assert found is None or found.encode() == text


@pytest.mark.parametrize(
    ("noted", "unread", "name"),
    [
        (NOTHING, True, "1795445162.M12.cbfs"),
        (NOTHING, False, "1795445162.M12.cbfs:2,S"),
        (Noted("", 0, taken=True), True, "1795445162.M12.cbfs:2,"),
        (Noted("FR", 0, taken=True), True, "1795445162.M12.cbfs:2,FR"),
        (Noted("FR"), True, "1795445162.M12.cbfs:2,FR"),
        (Noted("FRa", 7), False, "1795445162.M12.cbfs,U=7:2,FRSa"),
        (Noted("", 7), True, "1795445162.M12.cbfs,U=7"),
    ],
)
def test_names_say_what_is_noted(noted: Noted, unread: bool, name: str) -> None:
    assert name_in_mail(1_795_445_162_123, 12, noted, unread=unread).encode() == name


@given(NAMES)
def test_what_is_kept_of_a_name_gives_this_name(name: MailName) -> None:
    if name.has("T"):
        return
    noted, unread = name.noted, not name.has("S")
    assert name_in_mail(name.seconds * 1_000, name.serial, noted, unread=unread) == name


@given(st.dictionaries(st.integers(0, 63), NOTED.filter(lambda noted: noted != NOTHING)))
def test_notes_come_back(notes: dict[int, Noted]) -> None:
    assert decode_notes(encode_notes(notes)) == notes


@given(st.binary(max_size=60))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    try:
        found = decode_notes(data)
    except DecodeError:
        return
    assert encode_notes(found) == data


@pytest.mark.parametrize(
    "notes",
    [
        {64: Noted("F")},
        {-1: Noted("F")},
        {1: Noted("")},
        {1: Noted("FD")},
        {1: Noted("FF")},
        {1: Noted("S")},
        {1: Noted("T")},
        {1: Noted("1")},
        {1: Noted("é")},
        {1: Noted("", UID_MAX + 1)},
        {1: Noted("", -1)},
    ],
)
def test_wrong_notes_are_refused(notes: dict[int, Noted]) -> None:
    with pytest.raises(DecodeError):
        decode_notes(encode_notes(notes))
