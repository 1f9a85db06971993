"""Exports of what is not finished; whole accounts are compared after every module
(``tests.support.exported``), in whatever state its tests have left them."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cbfs.account.account import SYSTEM_RANDOM, load_account
from cbfs.commands.export import GROUP, NotAnExport, restore_export, write_export
from cbfs.commands.init import Wish, check_begun
from cbfs.messages.content import read_content
from cbfs.messages.conversations import load_conversations
from cbfs.messages.history import load_messages, named_message
from cbfs.messages.queues.incomplete import Incomplete, all_incomplete, decode_incomplete
from cbfs.receiving.lost_state import make_listings
from cbfs.storage.encoding import u32, u64
from cbfs.storage.records import Table, Writer
from cbfs.storage.store import Meta, Store
from cbfs_common.errors import DecodeError
from cbfs_common.messages.conversation import FOREVER
from tests.engine.test_lifetime import said, take
from tests.support.exported import as_exported, opened, records_of

NOW = 1_800_000_000_000
TEXT = b"0123456789"


def moved(old: Path, new: Path) -> None:
    """An export of one store, restored in another."""
    file = old.parent / "export"
    with opened(old) as store:
        for key in (Meta.ACCOUNT, Meta.OWN):
            store.write(lambda writer, key=key: writer.put(Table.META, key, b"x"))  # type: ignore[misc]
        count = write_export(store, file, b"secret", SYSTEM_RANDOM)
        assert count.damaged == 0
    with opened(new) as store:
        restore_export(store, file, b"secret")


def texts(store: Store) -> list[bytes]:
    with store.read() as reader:
        return [
            read_content(reader, message.content, 0, message.content.size)
            for conversation in load_conversations(reader)
            for message in load_messages(reader, conversation)
        ]


def test_a_file_that_is_arriving_is_in_an_export_and_the_rest_of_it_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs.commands.export.MEMORY", 8)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    with opened(tmp_path / "old") as store:
        take(store, said(b"before the", 0, 1, FOREVER), NOW)
        for number in (0, 2):
            take(store, said(TEXT, number, 3, FOREVER), NOW)
    moved(tmp_path / "old", tmp_path / "new")
    with opened(tmp_path / "new") as store:
        make_listings(store)
        with store.read() as reader:
            (message,) = all_incomplete(reader)
        assert (message.sender, message.seen) == ("bob", b"\1\0\1")
        take(store, said(TEXT, 1, 3, FOREVER), NOW)
        assert sorted(texts(store)) == sorted([TEXT * 3, b"before the"])
        with store.read() as reader:
            assert not list(all_incomplete(reader))


def test_a_record_of_what_is_arriving_is_read_by_the_one_who_wrote_it() -> None:
    message = Incomplete(7, b"\1\0", bytes(32), bytes(16), "bob", "big.bin", 20)
    assert decode_incomplete(message.encode()) == message
    for data in (b"", b"\x90", message.encode()[:-1], message.encode() + b"\0"):
        with pytest.raises(DecodeError):
            decode_incomplete(data)
    assert decode_incomplete(replace(message, size=0).encode()).size == 0


def test_names_of_files_are_made_again_whatever_of_them_is_lost(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    with opened(tmp_path / "old") as store:
        take(store, said(b"hello", 0, 1, FOREVER), NOW)
        store.write(lambda writer: writer.delete_prefix(Table.FILE_NAMES, b""))
    moved(tmp_path / "old", tmp_path / "new")
    with opened(tmp_path / "new") as store:
        make_listings(store)
        with store.read() as reader:
            (conversation,) = load_conversations(reader)
            (message,) = load_messages(reader, conversation)
            assert named_message(reader, conversation, message.name) == message


def finished(place: Path, name: bytes, count: int) -> Path:
    """An export of an account with so many records."""
    place.mkdir()
    with opened(place) as store:

        def change(writer: Writer) -> None:
            for key in (Meta.ACCOUNT, Meta.OWN, Meta.MET + name):
                writer.put(Table.META, key, name)
            for number in range(count):
                writer.put(Table.CONTENT, u64(number) + u32(0), name * 100)

        store.write(change)
        write_export(store, place / "export", b"secret", SYSTEM_RANDOM)
    return place / "export"


def cut_short(store: Store, file: Path) -> None:
    """Restore what is left of an export whose end is lost."""
    os.truncate(file, file.stat().st_size - 100)
    with pytest.raises(NotAnExport, match="cut short"):
        restore_export(store, file, b"secret")
    assert load_account(store) is None


def test_nothing_of_an_export_that_was_cut_short_is_in_the_account_that_is_restored_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs.commands.export.MEMORY", 8)
    first, second = finished(tmp_path / "a", b"a", 2_000), finished(tmp_path / "b", b"b", 3)
    (tmp_path / "new").mkdir()
    with opened(tmp_path / "new") as store:
        cut_short(store, first)
        assert len(records_of(store)) >= GROUP
        restore_export(store, second, b"secret")
    with opened(tmp_path / "new") as store, opened(tmp_path / "b") as whole:
        assert records_of(store) == as_exported(records_of(whole))


def test_nothing_of_an_export_that_was_cut_short_is_in_the_account_that_is_made_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs.commands.export.MEMORY", 8)
    file = finished(tmp_path / "a", b"a", 2_000)
    (tmp_path / "new").mkdir()
    with opened(tmp_path / "new") as store:
        cut_short(store, file)
        assert len(records_of(store)) >= GROUP
        check_begun(store, tmp_path / "new", Wish("alice", None, ""))
        assert records_of(store) == {}
