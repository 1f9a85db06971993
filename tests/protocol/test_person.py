"""People of several directories, as bytes and as texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs_common.errors import DecodeError
from cbfs_common.person import (
    Directories,
    Person,
    UnknownDirectory,
    check_name,
    check_namespace,
    directory_id,
)

HERE, THERE, ELSEWHERE = (directory_id(bytes([n]) * 32) for n in range(3))


def directories() -> Directories:
    made = Directories(HERE, "a.example")
    made.follow(THERE, "b.example")
    return made


def test_ones_own_directory_s_names_are_plain_and_others_are_qualified() -> None:
    known = directories()
    for text, person in (
        ("bob", Person(HERE, "bob")),
        ("bob@b.example", Person(THERE, "bob")),
    ):
        assert known.text(person) == text
        assert known.person(text) == person
    assert known.person("bob@a.example") == Person(HERE, "bob")
    with pytest.raises(UnknownDirectory):
        known.text(Person(ELSEWHERE, "bob"))


def test_namesakes_are_never_the_same_bytes() -> None:
    encoded = {Person(where, "bob").encode() for where in (HERE, THERE, ELSEWHERE)}
    assert len(encoded) == 3
    assert Person(HERE, "bob").encode() == HERE + b"\x03bob"


@pytest.mark.parametrize(
    "text",
    ["bob@", "@b.example", "bob@b.example@b.example", "bob@c.example", "Bob", "bob@B.example"],
)
def test_what_names_nobody_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        directories().person(text)


def test_a_namespace_that_another_directory_has_is_refused() -> None:
    known = directories()
    known.follow(THERE, "b.example")
    with pytest.raises(ValueError, match="one namespace"):
        known.follow(ELSEWHERE, "b.example")
    with pytest.raises(ValueError, match="one namespace"):
        known.follow(ELSEWHERE, "a.example")
    assert known.person("bob@b.example") == Person(THERE, "bob")


@given(st.text(alphabet="ab0.-_@/A", max_size=70))
def test_namespaces_can_stand_in_file_names(text: str) -> None:
    try:
        check_namespace(text)
    except DecodeError:
        return
    assert 1 <= len(text) <= 64
    assert set(text) <= set("ab0.-")
    assert "" not in text.replace("-", ".").split(".")


@given(st.text(alphabet="ab0.-_@/A", max_size=40))
def test_no_name_holds_what_parts_it_from_a_namespace(text: str) -> None:
    try:
        check_name(text)
    except DecodeError:
        return
    assert "@" not in text
    assert "." not in text
