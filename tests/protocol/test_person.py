"""People of several directories, as bytes and as texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs_common.errors import DecodeError
from cbfs_common.messages.conversation import (
    carried_on,
    continued_id,
    conversation_id,
    fits,
    random_conversation_id,
)
from cbfs_common.person import (
    Directories,
    Person,
    check_name,
    check_namespace,
    directory_id,
    directory_text,
    read_directory_text,
)

HERE, THERE, ELSEWHERE = (directory_id(bytes([n]) * 32) for n in range(3))
KNOWN = Directories(HERE)

NAMES = st.sampled_from(("bob", "alice", "b0b", "x-y_z"))
PEOPLE = st.builds(
    Person, st.sampled_from((HERE, THERE, ELSEWHERE)) | st.binary(min_size=16, max_size=16), NAMES
)


@given(PEOPLE)
def test_a_text_has_one_person_and_a_person_one_text(person: Person) -> None:
    text = KNOWN.text(person)
    assert KNOWN.person(text) == person
    assert ("@" in text) == (person.directory != HERE)
    assert Directories(person.directory).text(person) == person.name


@given(st.sets(PEOPLE, min_size=2, max_size=5))
def test_people_are_in_the_order_of_the_wire_and_texts_in_that_of_texts(
    people: set[Person],
) -> None:
    texts = KNOWN.texts(people)
    assert list(texts) == sorted(texts)
    assert KNOWN.people(texts) == tuple(sorted(people, key=lambda p: (p.directory, p.name)))


def test_namesakes_are_never_the_same_bytes() -> None:
    encoded = {Person(where, "bob").encode() for where in (HERE, THERE, ELSEWHERE)}
    assert len(encoded) == 3
    assert Person(HERE, "bob").encode() == HERE + b"\x03bob"


def test_namesakes_have_conversations_of_their_own() -> None:
    ids = {
        conversation_id(tuple(sorted((Person(HERE, "alice"), Person(where, "bob")))), "", 0)
        for where in (HERE, THERE, ELSEWHERE)
    }
    assert len(ids) == 3
    there = tuple(sorted((Person(HERE, "alice"), Person(THERE, "bob"))))
    assert sum(fits(id_, there, "") for id_ in ids) == 1


def test_who_goes_on_has_an_id_that_nobody_else_can_have() -> None:
    """Nor can it be that of a conversation which somebody begins, nor is it one's own root."""
    alice, bob, carol = (Person(HERE, name) for name in ("alice", "bob", "carol"))
    began = conversation_id((alice, bob), "", 0)
    ids = [
        continued_id(root, people, subject)
        for root in (began, conversation_id((alice, bob), "", 1))
        for people in ((alice, bob), (alice, carol), (alice, bob, carol))
        for subject in ("", "lunch")
    ]
    assert len({*ids, began}) == len(ids) + 1
    for id_ in ids:
        assert id_[0] & 0x80
        assert not fits(id_, (alice, bob, carol), "")
    assert fits(ids[4], (alice, bob, carol), "", began)
    assert sum(fits(id_, (alice, bob, carol), "", began) for id_ in ids) == 1
    assert not fits(began, (alice, bob), "", began)


def test_people_of_another_directory_carry_on_under_one_id_however_often_they_move() -> None:
    """All that is not theirs any more is; what nobody has derived stays as it is."""
    people = [tuple(Person(where, name) for name in ("alice", "bob")) for where in (HERE, THERE)]
    began = conversation_id(people[0], "", 0)
    assert carried_on(began, people[0], "") == (began, b"")
    moved = carried_on(began, people[1], "")
    assert moved == (continued_id(began, people[1], ""), began)
    assert carried_on(moved[0], people[1], "", moved[1]) == moved
    back = carried_on(moved[0], people[0], "", moved[1])
    assert back == (continued_id(began, people[0], ""), began)
    drawn = random_conversation_id(b"\xff" * 16)
    assert carried_on(drawn, people[1], "") == (drawn, b"")


@pytest.mark.parametrize(
    "text",
    [
        "bob@",
        "@" + directory_text(THERE),
        f"bob@{directory_text(THERE)}@{directory_text(THERE)}",
        f"bob@{directory_text(HERE)}",
        f"bob@{directory_text(THERE).upper()}",
        f"bob@{directory_text(THERE)[1:]}",
        f"bob@{directory_text(THERE)}a",
        f"bob@{directory_text(THERE)}\n",
        "bob@example.org",
        "Bob",
    ],
)
def test_what_names_nobody_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        KNOWN.person(text)


def test_a_directory_has_one_text() -> None:
    last = [directory_text(THERE)[:-1] + letter for letter in "abcdefghijklmnopqrstuvwxyz234567"]
    taken = []
    for text in last:
        try:
            taken.append(read_directory_text(text))
        except DecodeError:
            continue
    assert len(taken) == len(set(taken)) == 8  # 3 bits of the last letter count


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
def test_no_name_holds_what_parts_it_from_a_directory(text: str) -> None:
    try:
        check_name(text)
    except DecodeError:
        return
    assert "@" not in text
    assert "." not in text
