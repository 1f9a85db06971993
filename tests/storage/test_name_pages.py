"""Names of files in the store, of which a conversation may have any number in one minute."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbfs.messages import name_pages
from cbfs.messages.conversations import add_conversation
from cbfs.messages.history import Arrival, add_message, named_message, remove_message
from cbfs.messages.model import Message
from cbfs.storage.encoding import pack
from cbfs.storage.store import Store, Table, Writer
from cbfs_common.errors import DecodeError
from tests.support.fake_backend import put_content
from tests.support.stores import open_store

TALK = b"c" * 16
PEOPLE = ("alice", "bob")
NOW = 1_800_000_000_000
FLOOD = 400
RECORD_MAX = 40_000
"""Bytes: of some two pages of the longest names."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = open_store(tmp_path)
    made.write(lambda writer: add_conversation(writer, TALK, "alice", PEOPLE, "", 1))
    yield made
    made.close()


def flood(writer: Writer) -> list[Message]:
    """Of one date, under the longest of names, which are all the same but for a number."""
    content = put_content(writer, b"x")
    arrivals = (
        Arrival(number.to_bytes(32, "big"), "bob", NOW, (), "n" * 200 + ".pdf", 9, content, ())
        for number in range(FLOOD)
    )
    return [add_message(writer, TALK, arrival, NOW) for arrival in arrivals]


def test_who_sends_many_messages_of_one_date_makes_no_large_record(store: Store) -> None:
    messages = store.write(flood)
    with store.read() as reader:
        sizes = [len(value) for _key, value in reader.items(Table.FILE_NAMES)]
        assert max(sizes) < RECORD_MAX
        assert all(named_message(reader, TALK, m.name) == m for m in messages)
        assert named_message(reader, TALK, messages[0].name[:-4]) is None

    def remove(writer: Writer) -> None:
        for message in messages:
            remove_message(writer, message)

    store.write(remove)
    with store.read() as reader:
        assert reader.count(Table.FILE_NAMES) == 0


def test_names_come_and_go_and_each_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_pages, "PAGE_MAX", 4)
    dice, there = random.Random(1), dict[str, int]()
    names = [f"2027-01-15T08.{number % 2:02}.{number}" for number in range(150)]

    def change(writer: Writer, *, coming: float) -> None:
        for serial in range(300):
            name = dice.choice(names)
            if dice.random() < coming:
                there[name] = serial
                name_pages.name_file(writer, TALK, name, serial)
            else:
                there.pop(name, None)
                name_pages.free_file_name(writer, TALK, name)

    for coming in (0.9, 0.5, 0.1, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0):
        store.write(lambda writer, coming=coming: change(writer, coming=coming))  # type: ignore[misc]
        with store.read() as reader:
            found = {name: name_pages.serial_of(reader, TALK, name) for name in names}
            kept = reader.count(Table.FILE_NAMES)
        assert {name: serial for name, serial in found.items() if serial is not None} == there
        assert kept == 0 if not there else kept > 0


def test_in_which_page_a_name_is_cannot_be_foretold(store: Store, tmp_path: Path) -> None:
    """Or whoever sends many messages could have all of their names in one."""
    (tmp_path / "other").mkdir()
    other = open_store(tmp_path / "other")
    other.write(lambda writer: add_conversation(writer, TALK, "alice", PEOPLE, "", 1))
    pages = []
    for each in (store, other):
        each.write(flood)
        with each.read() as reader:
            records = dict(reader.items(Table.FILE_NAMES))
        pages.append({key: len(value) for key, value in records.items()})
    other.close()
    assert len(pages[0]) > FLOOD // name_pages.PAGE_MAX
    assert pages[0] != pages[1]


def test_a_page_is_read_by_who_wrote_it() -> None:
    names = {"2026-11-23T14.46.02.123Z-alice": 1, "2026-11-23T14.46.02.123Z-alice (2)": 1 << 40}
    page = name_pages._Page(names, b"saltsalt", 3, 99)
    data = page.encode()
    assert name_pages._decode(data) == page
    wrong: tuple[object, ...] = (
        [],
        {b"name": 1},
        {1: 1},
        {"name": "number"},
        {"name": True},
        {"name": [1]},
    )
    for entries in wrong:
        with pytest.raises(DecodeError):
            name_pages._decode(pack(b"", 1, 0, entries))
    for bad in (b"", b"\x90", data[:-1], data + b"\0"):
        with pytest.raises(DecodeError):
            name_pages._decode(bad)
