"""The table of a folder: what goes in comes out, any bytes are one or refused, limits hold."""

from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs_common.errors import CbfsError, DecodeError, LimitError
from cbfs_common.limits import (
    BLOB_SIZE_MAX,
    FOLDER_DEPTH_MAX,
    FOLDER_ENTRIES_MAX,
    FOLDER_TABLE_MAX,
)
from cbfs_common.messages.folder import (
    HEAD_SIZE,
    TOP,
    FolderEntry,
    FolderTable,
    decode_table,
    encode_table,
    table_end,
)
from tests.protocol.test_message import VALUES

NAMES = st.text(min_size=1, max_size=20).filter(
    lambda name: name not in {".", ".."} and "/" not in name and "\0" not in name
)


@st.composite
def folders(draw: st.DrawFn) -> list[FolderEntry]:
    """Any entries that may be sent."""
    entries = [FolderEntry(TOP, draw(NAMES), draw(st.integers(0, 10**7)))]
    depths = [0, -1]
    for _ in range(draw(st.integers(0, 12))):
        parent = draw(st.sampled_from([i for i, depth in enumerate(depths) if depth >= 0]))
        name = draw(NAMES)
        size = draw(st.none() | st.integers(0, 10**7))
        if any((e.parent, e.name) == (parent, name) for e in entries) or depths[parent] > 9:
            continue
        entries.append(FolderEntry(parent, name, size))
        depths.append(depths[parent] + 1 if size is None else -1)
    return entries


def sized(entries: list[FolderEntry], head: bytes) -> int:
    return len(head) + sum(entry.size or 0 for entry in entries)


@settings(max_examples=80, deadline=None)
@given(folders())
def test_what_goes_in_comes_out(entries: list[FolderEntry]) -> None:
    head = encode_table(entries)
    assert table_end(head[:HEAD_SIZE]) == len(head)
    table = decode_table(head, sized(entries, head))
    assert table.entries == tuple(entries)
    place = len(head)
    for entry, start in zip(table.entries, table.starts, strict=True):
        assert start == place
        place += entry.size or 0


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_are_a_table_or_refused(data: bytes, size: int) -> None:
    for head in (data, len(data).to_bytes(HEAD_SIZE, "big") + data):
        with pytest.raises(DecodeError):
            decode_table(head, size)


@settings(max_examples=200, deadline=None)
@given(folders(), st.data(), st.integers(0, 2), VALUES)
def test_any_value_in_any_place_is_a_table_or_refused(
    entries: list[FolderEntry], data: st.DataObject, at: int, value: object
) -> None:
    rows = [[entry.parent, entry.name, entry.size] for entry in entries]
    rows[data.draw(st.integers(0, len(rows) - 1))][at] = value  # type: ignore[call-overload]
    packed = msgpack.packb(rows)
    head = len(packed).to_bytes(HEAD_SIZE, "big") + packed
    sizes = [row[2] for row in rows if type(row[2]) is int]
    try:
        table = decode_table(head, len(head) + sum(sizes))
    except DecodeError:
        return
    assert encode_table(table.entries) == head


FILE = FolderEntry(TOP, "a", 3)


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [FolderEntry(TOP, "a", None)],
        [FILE, FILE],
        [FILE, replace(FILE, size=None)],
        [FILE, FolderEntry(1, "b", 1)],
        [FILE, FolderEntry(2, "b", 1)],
        [FILE, FolderEntry(-1, "b", 1)],
        [FILE, FolderEntry(True, "b", 1)],
        *(
            [FILE, FolderEntry(TOP, name, 1)]
            for name in ("", ".", "..", "a/b", "/", "a\0", "\ud800")
        ),
        [FILE, FolderEntry(TOP, "é" * 128, 1)],
        [FILE, FolderEntry(TOP, "b", -1)],
        [FILE, FolderEntry(TOP, "b", BLOB_SIZE_MAX + 1)],
    ],
)
def test_what_is_no_folder_is_refused_on_both_sides(entries: list[FolderEntry]) -> None:
    with pytest.raises(DecodeError):
        encode_table(entries)
    rows = [(entry.parent, entry.name, entry.size) for entry in entries]
    packed = msgpack.packb(rows, unicode_errors="surrogatepass")
    head = len(packed).to_bytes(HEAD_SIZE, "big") + packed
    with pytest.raises(DecodeError):
        decode_table(head, sized(entries, head))


def nested(depth: int) -> list[FolderEntry]:
    """A file that is so many folders deep, the sent one included."""
    return [*(FolderEntry(i, "d", None) for i in range(depth - 1)), FolderEntry(depth - 1, "f", 1)]


def test_limits_are_told_to_the_sender_and_held_by_the_receiver() -> None:
    many = [FolderEntry(TOP, f"{i}", 1) for i in range(FOLDER_ENTRIES_MAX + 1)]
    long = [FolderEntry(TOP, f"{i:05}{'n' * 250}", 1) for i in range(FOLDER_ENTRIES_MAX)]
    for entries in (nested(FOLDER_DEPTH_MAX + 1), many, [*long, *long]):
        with pytest.raises(LimitError):
            encode_table(entries)
    for entries in (nested(FOLDER_DEPTH_MAX), many[:-1]):
        head = encode_table(entries)
        assert isinstance(decode_table(head, sized(entries, head)), FolderTable)
    for entries in (nested(FOLDER_DEPTH_MAX + 1), many):
        packed = msgpack.packb([(e.parent, e.name, e.size) for e in entries])
        head = len(packed).to_bytes(HEAD_SIZE, "big") + packed
        with pytest.raises(DecodeError):
            decode_table(head, sized(entries, head))
    with pytest.raises(DecodeError):
        table_end((FOLDER_TABLE_MAX + 1).to_bytes(HEAD_SIZE, "big"))


def test_a_content_of_another_size_is_refused() -> None:
    head = encode_table([FILE])
    for size in (0, len(head), len(head) + 2, len(head) + 4):
        with pytest.raises(CbfsError):
            decode_table(head, size)
