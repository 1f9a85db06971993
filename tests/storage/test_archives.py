"""History that outlives this program: mails, pages and lines, made of an account's store."""

import json
import mailbox
import os
import re
import stat
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from cbfs.commands.reading import html, mbox, past
from cbfs.commands.reading.archive import OpenedPast, write_html, write_jsonl, write_mbox
from cbfs.commands.reading.past import Past
from cbfs.commands.reading.places import new_file, new_folder, save, saved_name
from cbfs.commands.reading.record import FIELDS, FILE_FIELDS, RECIPIENT_FIELDS
from cbfs.messages import content, history, search_index
from cbfs.messages.model import Message
from cbfs.storage.records import DamagedRecord
from cbfs.storage.store import Store
from cbfs_common.errors import CbfsError
from tests.support.past import NOW, Talk, petname
from tests.support.stores import open_store

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "account").mkdir()
    made = open_store(tmp_path / "account")
    yield made
    made.close()


@contextmanager
def known(store: Store, now: int = NOW) -> Iterator[OpenedPast]:
    with store.read() as reader:
        yield OpenedPast("alice", Past(reader, now))


def mails(path: Path) -> list[EmailMessage]:
    box = mailbox.mbox(path)
    parser = BytesParser(policy=policy.default)
    found = [parser.parsebytes(box.get_bytes(key)) for key in box.keys()]  # noqa: SIM118
    box.close()
    assert all(isinstance(each, EmailMessage) for each in found)
    return found


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def private(path: Path) -> None:
    """Nobody else can read it, nor anything in it."""
    for each in (path, *path.rglob("*")):
        mode = stat.S_IMODE(each.stat().st_mode)
        assert mode == (0o700 if each.is_dir() else 0o600), each


class Reader(HTMLParser):
    """What a page has: its tags with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def targets(self) -> list[str]:
        """All that a browser would load or go to."""
        named = ("href", "src", "srcset", "data", "action", "poster", "background")
        return [unquote(a[name] or "") for _tag, a in self.tags for name in named if name in a]


# Mails


def test_each_message_is_a_mail_with_all_that_it_has(store: Store, tmp_path: Path) -> None:
    talk = Talk(store)
    talk.says("bob", "Lunch?\nFrom noon on.\n>From here.\n")
    talk.says("alice", os.urandom(200_000), "film.bin")
    talk.sends_folder("bob", "photos", {"a.png": PNG, "sea/b.txt": b"From the sea\n"})
    petname(store, "bob", "Bob B")
    with known(store) as account:
        done = write_mbox(account, tmp_path / "mbox")
    assert (done.messages, done.damaged, done.unfinished) == (3, 0, 0)
    private(tmp_path / "mbox")
    text, film, photos = mails(tmp_path / "mbox")
    assert text["From"] == "Bob B <bob@cbfs.invalid>"
    assert text["Subject"] == "Lunch?"
    raw = (tmp_path / "mbox").read_bytes()
    assert b"\n>From noon on.\n>>From here.\n" in raw
    assert raw.count(b"\nFrom ") == 2
    with known(store) as account:
        (place,) = account.past.conversations()
        told = list(account.past.messages(place))
        content = b"".join(account.past.stretches(told[1].message, told[1].files[0]))
    assert film.get_payload(decode=True) == content
    assert film.get_filename() == "film.bin"
    parts = {part.get_filename(): part.get_payload(decode=True) for part in photos.iter_parts()}
    assert set(parts) == {"a.png", "sea_b.txt"}
    assert parts["a.png"] == PNG


def test_nothing_that_somebody_wrote_begins_a_mail(store: Store, tmp_path: Path) -> None:
    """However it falls into the stretches that are written."""
    talk = Talk(store)
    body = "From me\n" * 500 + ">From me\n" * 500
    talk.says("bob", body, "x\nFrom: y")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mbox, "STRETCH", 101)
        with known(store) as account:
            write_mbox(account, tmp_path / "mbox")
    (mail,) = mails(tmp_path / "mbox")
    shown = mail.get_payload(decode=True)
    assert isinstance(shown, bytes)
    assert re.sub(rb"(?m)^>(?=>*From )", b"", shown).rstrip(b"\n") == body.encode().rstrip(b"\n")


# Pages


def test_pages_show_texts_and_pictures_and_load_nothing_else(store: Store, tmp_path: Path) -> None:
    talk = Talk(store, subject=SCRIPT)
    talk.says("bob", f"{SCRIPT}\N{RIGHT-TO-LEFT OVERRIDE}https://example.org/")
    talk.says("bob", PNG, '"><img src=x>.png')
    talk.says("bob", SCRIPT.encode(), "page.html")
    talk.says("bob", PNG, "drawing.svg")
    talk.sends_folder("alice", "holidays", {"b.xyz": b"\0", "sea/a.png": PNG})
    petname(store, "bob", SCRIPT)
    with known(store) as account:
        done = write_html(account, tmp_path / "pages")
    assert done.messages == 5
    private(tmp_path / "pages")
    folder = tmp_path / "pages" / talk.place.folder
    page = Reader(folder / "index.html")
    assert SCRIPT in page.text
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page.text
    for place in (folder / "index.html", tmp_path / "pages" / "index.html"):
        read = Reader(place)
        assert {tag for tag, _ in read.tags} <= {
            *("html", "head", "meta", "title", "style", "body", "nav", "h1", "a", "p", "article"),
            *("header", "b", "time", "img", "table", "tr", "td", "br", "em"),
        }
        policies = [a["content"] for tag, a in read.tags if tag == "meta" and "http-equiv" in a]
        assert policies == [html.POLICY]
        assert not any(name.startswith("on") for _tag, a in read.tags for name in a)
        for target in read.targets():
            assert ":" not in target
            assert (place.parent / target).is_file(), target
    pictures = [a["src"] for tag, a in page.tags if tag == "img"]
    assert len(pictures) == 3  # by what they are, not by what they are called
    names = {path.name.partition("-")[2] for path in (folder / "files").iterdir()}
    assert {"page.html.txt", "drawing.svg.txt", "0-b.xyz.bin", "1-a.png"} <= names
    assert not [name for name in names if name.endswith((".html", ".svg", ".xyz"))]


def test_a_long_conversation_has_pages_that_lead_to_each_other(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "PAGE", 3)
    monkeypatch.setattr(past, "AT_ONCE", 2)
    talk, other = Talk(store), Talk(store, ("carol",), number=2)
    for number in range(7):
        talk.says("bob", f"number {number}")
    with known(store) as account:
        write_html(account, tmp_path / "pages")
    folder = tmp_path / "pages" / talk.place.folder
    pages = [Reader(folder / name) for name in ("index.html", "2.html", "3.html")]
    assert not (folder / "4.html").exists()
    assert re.findall("number [0-9]", "".join(page.text for page in pages)) == [
        f"number {number}" for number in range(7)
    ]
    assert "2.html" in pages[0].targets()
    assert {"index.html", "3.html"} < set(pages[1].targets())
    assert (tmp_path / "pages" / other.place.folder / "index.html").is_file()


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("a.png", "7-a.png"),
        ("a.html", "7-a.html.txt"),
        ("a.HTML", "7-a.HTML.txt"),
        ("a.xhtml", "7-a.xhtml.bin"),
        ("a.svg", "7-a.svg.txt"),
        ("a.js", "7-a.js.txt"),
        ("a", "7-a.bin"),
        ("", "7.bin"),
        ("../../etc/passwd", "7-passwd.bin"),
        ("a.mhtml", "7-a.mhtml.bin"),
        ("x" * 300 + ".pdf", None),
    ],
)
def test_a_saved_file_is_nothing_that_a_browser_runs(
    store: Store, name: str, saved: str | None
) -> None:
    talk = Talk(store)
    for _ in range(6):
        talk.says("bob", "before")
    message = talk.says("bob", b"\0", "any")
    found = saved_name(message, 0, name)
    assert len(found.encode()) <= 130
    assert found.endswith(".pdf") if saved is None else found == saved


@pytest.mark.parametrize("size", [1, 32, 33, 100, 113, 119, 120, 200, 250])
@pytest.mark.parametrize("folder", [False, True])
def test_no_two_files_are_saved_under_one_name(store: Store, size: int, *, folder: bool) -> None:
    """However long what stands behind the last dot is: a peer names them."""
    talk = Talk(store)
    messages = [replace(talk.says("bob", b"\0", "any"), folder=folder) for _ in range(2)]
    name = "a." + "x" * size
    found = [saved_name(message, index, name) for message in messages for index in range(2)]
    assert len(set(found)) == (4 if folder else 2)
    for each, message in zip(found[::2], messages, strict=True):
        assert each.startswith(f"{message.serial}-")
        assert len(each.encode()) <= 130


def test_archives_have_files_whose_names_are_hardly_more_than_an_extension(
    store: Store, tmp_path: Path
) -> None:
    talk = Talk(store)
    datas = [b"\0one", b"\0two"]
    for data in datas:
        talk.says("bob", data, "a." + "x" * 200)
    with known(store) as account:
        write_jsonl(account, tmp_path / "lines")
        write_html(account, tmp_path / "pages")
    for folder in ("lines.files", "pages"):
        saved = (tmp_path / folder).rglob("*.bin")
        assert sorted(each.read_bytes() for each in saved) == datas


def test_a_file_that_is_there_is_not_removed_for_one_that_cannot_be_saved(tmp_path: Path) -> None:
    save(tmp_path / "f", [b"first"])
    with pytest.raises(FileExistsError):
        save(tmp_path / "f", [b"second"])
    assert (tmp_path / "f").read_bytes() == b"first"


# Lines


def test_a_line_has_all_that_there_is_to_say_of_a_message(store: Store, tmp_path: Path) -> None:
    talk = Talk(store, subject="plans")
    first = talk.says("bob", "Hé\x1b[2J", doubtful=True)
    talk.sends_folder("alice", "photos", {"a.png": PNG, "sea/b.txt": b"sea"})
    petname(store, "bob", "bobby")
    with known(store) as account:
        write_jsonl(account, tmp_path / "out.jsonl")
    text, folder = lines(tmp_path / "out.jsonl")
    assert tuple(text) == tuple(folder) == FIELDS
    assert (tmp_path / "out.jsonl").read_bytes().isascii()
    assert text == {
        "id": first.id.hex(),
        "conversation": talk.id.hex(),
        "folder": talk.place.folder,
        "subject": "plans",
        "participants": ["alice", "bob"],
        "from": "bobby",
        "from_name": "bob",
        "own": False,
        "date": "2025-11-23T14:46:03.123Z",
        "received": "2025-11-23T14:46:03.123Z",
        "ends": None,
        "name": first.name,
        "path": f"conversations/{talk.place.folder}/{first.name}",
        "kind": "text",
        "text": "Hé\x1b[2J",
        "size": 7,
        "file_name": "",
        "files": [],
        "whole": True,
        "parents": [],
        "recipients": [],
        "unread": True,
        "unconfirmed": True,
        "leaving": False,
        "added": [],
    }
    assert (folder["kind"], folder["own"], folder["unread"]) == ("folder", True, False)
    assert folder["recipients"] == [{"name": "bob", "state": "queued"}]
    files = folder["files"]
    assert isinstance(files, list)
    assert [tuple(file) for file in files] == [FILE_FIELDS, FILE_FIELDS]
    assert RECIPIENT_FIELDS == ("name", "state")
    assert [file["name"] for file in files] == ["a.png", "sea/b.txt"]
    assert [(tmp_path / file["saved"]).read_bytes() for file in files] == [PNG, b"sea"]
    private(tmp_path / "out.jsonl.files")
    private(tmp_path / "out.jsonl")


# What is not in them


def test_what_was_removed_ended_or_damaged_is_in_none(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(store)
    photos = talk.sends_folder("bob", "photos", {"sea/a.txt": b"KEPT", "b.txt": b"GONE"})
    talk.removes(photos, 2)
    talk.says("bob", "OVER", lifetime=60)
    damaged = talk.says("bob", "DAMAGED")
    real = history.get_message

    def get(reader: object, conversation: bytes, serial: int) -> Message | None:
        if serial == damaged.serial:
            raise DamagedRecord
        return real(reader, conversation, serial)  # type: ignore[arg-type]

    monkeypatch.setattr(past, "get_message", get)
    half = talk.says("bob", b"\0" * 1_000, "film.mkv")
    talk.half_came(half)
    talk.says("bob", "the last one")
    for write, name in ((write_mbox, "m"), (write_html, "h"), (write_jsonl, "j")):
        with known(store, NOW + 3_600_000) as account:
            done = write(account, tmp_path / name)
        assert (done.messages, done.damaged, done.unfinished) == (3, 1, 1), name
        places = [tmp_path / name, *tmp_path.glob(f"{name}.files")]
        paths = [p for place in places for p in (place, *place.rglob("*")) if p.is_file()]
        whole = b"".join(path.read_bytes() for path in paths)
        assert b"KEPT" in whole
        assert b"the last one" in whole
        assert not [word for word in (b"GONE", b"OVER", b"DAMAGED") if word in whole], name
        assert not list(tmp_path.glob(".cbfs*"))


def test_messages_are_there_where_what_says_that_they_are_read_is_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(store)
    talk.says("bob", "first")
    talk.says("bob", "second")

    def damaged(_reader: object, _segment: int) -> object:
        raise DamagedRecord

    monkeypatch.setattr(search_index, "entries", damaged)
    with known(store) as account:
        found = list(account.past.messages(talk.place))
        assert [(told.text, told.unread) for told in found] == [("first", False), ("second", False)]
        assert not list(account.past.messages(talk.place, only_unread=True))
        assert account.past.damaged == 2, "of these nobody knows"


def test_a_message_whose_content_is_damaged_leaves_nothing_of_itself(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(store)
    talk.says("bob", "before")
    bad = talk.sends_folder("bob", "bad", {"a.bin": b"A" * 70_000, "b.bin": b"B" * 70_000})
    talk.says("bob", "after")
    real = content.read_content

    def read(reader: object, content: object, offset: int, size: int) -> bytes:
        if content == bad.content and offset > 70_000:
            raise DamagedRecord
        return real(reader, content, offset, size)  # type: ignore[arg-type]

    for module in (past, mbox, html):
        monkeypatch.setattr(module, "read_content", read)
    for write, name in ((write_mbox, "m"), (write_html, "h"), (write_jsonl, "j")):
        with known(store) as account:
            done = write(account, tmp_path / name)
        assert (done.messages, done.damaged) == (2, 1), name
    assert [mail["Subject"] for mail in mails(tmp_path / "m")] == ["before", "after"]
    assert [line["text"] for line in lines(tmp_path / "j")] == ["before", "after"]
    assert not list((tmp_path / "j.files").iterdir())
    assert not list((tmp_path / "h").rglob("*.bin"))


# Where they go


def test_nothing_that_is_there_is_overwritten(store: Store, tmp_path: Path) -> None:
    Talk(store).says("bob", "hello")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    (tmp_path / "j.files").mkdir()
    (tmp_path / "j.files" / "mine").touch()
    with known(store) as account:
        for write in (write_mbox, write_html, write_jsonl):
            for name in ("file", "folder"):
                with pytest.raises(CbfsError, match="is there already"):
                    write(account, tmp_path / name)
        with pytest.raises(CbfsError, match="is there already"):
            write_jsonl(account, tmp_path / "j")
        with pytest.raises(CbfsError, match="no such file"):
            write_mbox(account, tmp_path / "none" / "x")
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "j").exists()
    assert not list(tmp_path.glob(".cbfs*"))
    (tmp_path / "empty").touch()
    (tmp_path / "hollow").mkdir()
    with known(store) as account:
        write_mbox(account, tmp_path / "empty")
        write_html(account, tmp_path / "hollow")
    assert len(mails(tmp_path / "empty")) == 1
    assert (tmp_path / "hollow" / "index.html").is_file()


def test_what_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(CbfsError, match="is there already"), new_file(tmp_path / "f") as file:
        file.write(b"x")
        (tmp_path / "f").write_text("mine")
    with pytest.raises(CbfsError, match="cannot write"), new_folder(tmp_path / "d"):
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "mine").touch()
    assert (tmp_path / "f").read_text() == "mine"
    assert not list(tmp_path.glob(".cbfs*"))


# How much memory they take


def test_memory_does_not_grow_with_the_number_of_messages(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, "AT_ONCE", 32)
    talk = Talk(store)
    peaks = []
    for count, name in ((100, "few"), (600, "many")):
        for number in range(count):
            talk.says("bob", f"number {number}")
        with known(store) as account:
            write_jsonl(account, tmp_path / f"warm-{name}")
            tracemalloc.start()
            try:
                write_jsonl(account, tmp_path / name)
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
    assert len(lines(tmp_path / "many")) == 700
    assert peaks[1] < peaks[0] * 2
