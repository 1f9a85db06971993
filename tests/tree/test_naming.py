"""Names of folders and messages: what is shown, and what can never be."""

import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from cbfs.messages.file_names import folder_name, message_name, shown_file_name

MOMENT = 1_795_445_162_123  # 2026-11-23T14:46:02.123Z

people = st.from_regex(r"[a-z0-9]{3,32}", fullmatch=True)
any_text = st.text(st.characters(), max_size=300) | st.text("a.b-/ \u202e\ud800é😀", max_size=300)


def free(_: str) -> bool:
    return False


def check_name(name: str) -> None:
    raw = name.encode()  # raises on a surrogate
    assert 1 <= len(raw) <= 255
    assert not set(name) & set('/\\:*?"<>|\0\n')
    assert name[0] not in ".- "
    assert name[-1] not in " ."
    assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in name)


def test_the_names_of_the_design() -> None:
    assert folder_name(MOMENT, "alice", ("bob", "carol"), "lunch", free) == (
        "2026-11-23-alice-bob-carol lunch"
    )
    assert folder_name(MOMENT, "alice", ("bob",), "", free) == "2026-11-23-alice-bob"
    assert message_name(MOMENT, "alice", "", free) == "2026-11-23T14.46.02.123Z-alice"
    assert message_name(MOMENT, "alice", "hi", free) == "2026-11-23T14.46.02.123Z-alice"
    assert message_name(MOMENT, "alice", "photo.jpg", free) == (
        "2026-11-23T14.46.02.123Z-alice-photo.jpg"
    )


def test_a_taken_name_is_numbered() -> None:
    shown: set[str] = set()
    for _ in range(40):
        shown.add(message_name(MOMENT, "alice", "a.jpg", shown.__contains__))
    assert len(shown) == 40
    assert "2026-11-23T14.46.02.123Z-alice-a (2).jpg" in shown
    first = folder_name(MOMENT, "alice", ("bob",), "x", free)
    assert folder_name(MOMENT, "alice", ("bob",), "x", {first}.__contains__) == f"{first} (2)"


def test_many_of_one_date_cost_few_lookups() -> None:
    base = message_name(MOMENT, "alice", "", free)
    shown = {base} | {f"{base} ({n})" for n in range(2, 10_001)}
    asked = 0

    def taken(name: str) -> bool:
        nonlocal asked
        asked += 1
        return name in shown

    assert message_name(MOMENT, "alice", "", taken) == f"{base} (10001)"
    assert asked < 40


def test_refused_characters() -> None:
    assert shown_file_name("../../etc/passwd") == "_._.._etc_passwd"
    assert shown_file_name("-rf") == "_rf"
    assert shown_file_name(".bashrc") == "_bashrc"
    assert shown_file_name("photo\u202egpj.exe") == "photo_gpj.exe"
    assert shown_file_name("a\nb") == "a_b"
    assert shown_file_name("") == "_"
    assert shown_file_name("...") == "_"
    assert shown_file_name("C:\\x?.txt") == "C__x_.txt"


def test_a_long_name_keeps_its_extension() -> None:
    assert shown_file_name("é" * 300 + ".jpeg").endswith("é.jpeg")
    assert message_name(MOMENT, "alice", "x" * 400 + ".tar", free).endswith("x.tar")
    many = [f"person{n:02}{'x' * 24}" for n in range(49)]
    assert "-and-46-more lunch" in folder_name(MOMENT, "alice", many, "lunch", free)


@given(any_text)
@example("a" * 240 + ". " + "b" * 100)
@example("\u0344" * 250)
def test_any_text_gives_a_name_once_and_for_all(text: str) -> None:
    shown = shown_file_name(text)
    check_name(shown)
    assert shown_file_name(shown) == shown


@given(st.integers(-(2**63), 2**64), people, any_text, st.integers(1, 5))
def test_message_names_are_valid_and_free(date: int, who: str, file_name: str, count: int) -> None:
    shown: set[str] = set()
    for _ in range(count):
        name = message_name(date, who, file_name, shown.__contains__)
        check_name(name)
        assert name not in shown
        shown.add(name)


@given(st.integers(-(2**63), 2**64), st.lists(people, min_size=1, max_size=50), any_text)
def test_folder_names_are_valid_and_free(date: int, who: list[str], subject: str) -> None:
    name = folder_name(date, who[0], who[1:], subject, free)
    check_name(name)
    other = folder_name(date, who[0], who[1:], subject, {name}.__contains__)
    check_name(other)
    assert other != name
