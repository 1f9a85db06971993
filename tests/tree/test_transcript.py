"""A conversation as one text: what an entry shows, and reading from anywhere in it."""

import sys
import unicodedata
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs.messages.model import Content, Message
from cbfs.messages.transcript import TEXT_MAX, Extent, Line, Reading, Transcript, entry

DATE = 1_795_500_000_000  # 2026-11-24, 06:00


def message(size: int, name: str = "bob") -> Message:
    name = f"2026-11-24T06.00.00.000Z-{name}"
    content = Content(1, size, 100)
    return Message(
        b"",
        b"",
        1,
        "bob",
        DATE,
        DATE,
        name,
        1,
        content,
        (),
    )


def shown(data: bytes, name: str = "bob") -> str:
    text = entry(message(len(data), name), data[:TEXT_MAX]).decode()
    start, end = "[2026-11-24 06:00] bob: ", "\n"
    assert text.startswith(start)
    assert text.endswith(end)
    return text[len(start) : -len(end)]


def test_lines_are_indented() -> None:
    assert shown(b"one\n\ntwo\n") == "one\n\n    two"


def test_nothing_reaches_a_terminal_that_could_rewrite_it() -> None:
    text = shown("a\x1b[2J\r\x07\u202eb\u200b\x9b".encode())
    assert text == "a\ufffd[2J\n    \ufffd\ufffdb\ufffd"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one\r\n\r\ntwo\r\n", "one\n\n    two"),
        ("one\rtwo\r", "one\n    two"),
        ("\ufeffone\u2028two\x85three\x0cfour", "one\n    two\n    three\n    four"),
        ("family \U0001f468\u200d\U0001f469\u200d\U0001f467", None),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", None),
        ("\U0001fae9", None),  # of a newer Unicode than Python 3.11 has
        ("so\u00adft", "soft"),
        ("\u05d0\u200f!", "\u05d0!"),
        ("\u202egnp.exe", "\ufffdgnp.exe"),
        ("\r", ""),
    ],
)
def test_text_of_other_systems_looks_as_it_was_meant(text: str, lines: str | None) -> None:
    assert shown(text.encode()) == (text if lines is None else lines)


@given(st.text())
def test_no_text_gets_out_of_its_entry(text: str) -> None:
    for data in (text.encode(), text.replace(" ", "\r\n").encode()):
        entry_lines = shown(data).split("\n")
        assert all(not line or line.startswith("    ") for line in entry_lines[1:])
        bad = {"Cc", "Cs", "Zl", "Zp", "Co"}
        assert not bad & {unicodedata.category(c) for line in entry_lines for c in line}


def test_what_is_no_text_is_told() -> None:
    for data, name in ((b"\x89PNG", "bob-a.png"), (b"a\0b", "bob"), (b"text", "bob-x.csv")):
        assert shown(data, name).endswith(f"Z-{name} ({len(data)} bytes)")
    assert shown(b"text", "bob-note.txt") == "text"


def test_a_long_text_is_cut_between_characters() -> None:
    text = shown(b"x" + "é".encode() * TEXT_MAX)
    assert text.startswith("xé")
    assert text.endswith("é\n    ... 2026-11-24T06.00.00.000Z-bob has all of it")


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.integers(0, 4))),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(1, 4),
)
def test_any_part_can_be_read(
    entries: list[tuple[bytes, int]], offset: int, size: int, every: int
) -> None:
    """Now and then, in the order of places; who has opened it before gets what comes at the end."""
    there: list[int] = []
    changes = known = 0

    def extent() -> Extent:
        return Extent(sum(len(entries[i][0]) for i in there), changes)

    def load(start: int) -> list[Line]:
        return [Line(i, len(entries[i][0]), entries[i][1], -i % 3) for i in there if i >= start]

    def whole(serials: list[int]) -> bytes:
        return b"".join(entries[i][0] for i in serials)

    entries = [(b"", 0), *entries]  # serials begin at 1
    text = Transcript(extent, load, lambda serial: entries[serial][0])
    opened, seen = Reading(text), list[int]()
    for serial in range(1, len(entries)):
        there.append(serial)
        seen.append(serial)
        if serial % 5 == 2:
            there.remove(serial - 1)
            changes += 1
        expected = sorted(there, key=lambda i: (entries[i][1], -i % 3, i))
        assert text.size == len(whole(expected))
        if serial % every and serial > 1:
            continue
        assert text.read(offset, size) == whole(expected)[offset : offset + size]
        if serial == 1 or changes > known:
            seen, known = list(expected), changes
        assert opened.read(offset, size) == whole(seen)[offset : offset + size]


def test_very_many_that_come_late_are_put_in_at_once() -> None:
    """Somebody has dated them before all that are there: the work is as many steps as there are
    messages, and not as many times more."""
    lines = [Line(n, 10, 1_000 + n, 0) for n in range(1, 2_001)]
    text = Transcript(
        lambda: Extent(10 * len(lines), 0),
        lambda start: [line for line in lines if line.serial >= start],
        lambda serial: b"%9d\n" % serial,
    )
    text.read(0, 1)
    lines += [Line(n, 10, n % 7, 0) for n in range(2_001, 2_501)]
    steps = 0

    def count(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal steps
        steps += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        first = text.read(0, 10)
    finally:
        sys.settrace(before)
    assert first == b"%9d\n" % 2_002  # of place 0, the first to come
    assert steps < 40 * len(lines)
