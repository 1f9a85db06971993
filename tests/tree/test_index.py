"""The index of messages, held to a list that is looked through from one end to the other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unicodedata import normalize
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cbfs.messages import search_index
from cbfs.messages.model import Content, Message
from cbfs.messages.search_index import WORD_MAX, asked_words, words_of
from cbfs.storage.store import Store, Table
from tests.support import found
from tests.support.stores import open_store

DAY = 86_400_000
CONVERSATIONS = {b"a" * 16: "2026-11-01-alice-bob", b"c" * 16: "2026-11-02-alice-carol Lunch"}


def message(serial: int, conversation: bytes, sender: str, date: int) -> Message:
    name = f"2026-11-24T00.00.00.{serial:03}Z-{sender}"
    content = Content(serial, 10, 10)
    return Message(b"", conversation, serial, sender, date, date, name, serial, content, ())


@contextmanager
def opened() -> Iterator[Store]:
    with TemporaryDirectory() as place:
        store = open_store(Path(place))
        try:
            yield store
        finally:
            store.close()


def find(store: Store, query: str) -> list[int]:
    with store.read() as reader:
        return [one.serial for one in found.find(reader, query, CONVERSATIONS.__getitem__)]


WORDS = ("lunch", "Straße", "42", "snow")


class Machine(RuleBasedStateMachine):
    """Messages come, are read and go."""

    @initialize(together=st.sampled_from((0, 70, search_index.TOGETHER_MAX)))
    def start(self, together: int) -> None:
        self.patch = patch("cbfs.messages.search_index.TOGETHER_MAX", together)
        self.patch.start()
        self.context = opened()
        self.store = self.context.__enter__()
        self.messages: dict[int, tuple[Message, str, bool]] = {}
        self.next = 1

    def teardown(self) -> None:
        self.context.__exit__(None, None, None)
        self.patch.stop()

    @rule(
        texts=st.lists(st.lists(st.sampled_from(WORDS)).map(" ".join), max_size=40),
        conversation=st.sampled_from(sorted(CONVERSATIONS)),
        sender=st.sampled_from(("alice", "bob")),
        day=st.integers(20_000, 20_002),
        unread=st.booleans(),
    )
    def come(
        self, texts: list[str], conversation: bytes, sender: str, day: int, unread: bool
    ) -> None:
        for text in texts:
            new = message(self.next, conversation, sender, day * DAY + 5)
            self.store.write(
                partial(search_index.add, message=new, text=text.encode(), unread=unread)
            )
            self.messages[self.next] = new, text, unread
            self.next += 1

    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        if self.messages:
            serial = data.draw(st.sampled_from(sorted(self.messages)))
            gone, _text, _unread = self.messages.pop(serial)
            self.store.write(lambda w: search_index.remove(w, gone))

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        if self.messages:
            serial = data.draw(st.sampled_from(sorted(self.messages)))
            one, text, _unread = self.messages[serial]
            self.messages[serial] = one, text, False
            self.store.write(lambda w: search_index.set_read(w, [serial]))

    @invariant()
    def the_same_is_found(self) -> None:
        if not hasattr(self, "messages"):
            return
        all_ = self.messages
        for word in WORDS:
            expected = [s for s, (_m, text, _u) in all_.items() if word in text.split()]
            assert find(self.store, word.upper()) == expected
        expected = [
            s
            for s, (m, text, _u) in all_.items()
            if {"lunch", "snow"} <= set(text.split()) and m.sender == "bob"
        ]
        assert find(self.store, "snow from:bob lunch") == expected
        expected = [
            s
            for s, (m, _t, _u) in all_.items()
            if "Lunch" in CONVERSATIONS[m.conversation] and m.date // DAY == 20_001
        ]
        day = search_index.day_name(20_001)
        assert find(self.store, f"in:lunch after:{day} before:{day}") == expected
        with self.store.read() as reader:
            indexed = found.indexed(reader)
            assert indexed == [(s, m.date // DAY, u) for s, (m, _text, u) in all_.items()]
            for serial, (one, _text, _unread) in all_.items():
                assert search_index.conversation_of(reader, serial) == one.conversation
            assert search_index.conversation_of(reader, self.next) is None


Machine.TestCase.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
TestIndex = Machine.TestCase


def test_a_full_segment_is_one_record() -> None:
    with opened() as store:
        for serial in range(1, 2 * search_index.SEGMENT + 1):
            new = message(serial, b"a" * 16, "alice", 5)
            store.write(partial(search_index.add, message=new, text=b"hello", unread=False))
        with store.read() as reader:
            assert reader.count(Table.TERMS) == 3  # two that are full, and the newest
        assert len(find(store, "hello")) == 2 * search_index.SEGMENT


def test_no_words_make_a_record_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has sent as many different words as count, in each message of a segment."""
    monkeypatch.setattr("cbfs.messages.search_index.WORDS_MAX", 2_048)
    place, texts = next(iter(CONVERSATIONS)), []
    with opened() as store:
        for serial in range(search_index.SEGMENT, 2 * search_index.SEGMENT + 1):
            new = message(serial, place, "mallory", DAY)
            texts.append(" ".join(f"{serial}w{n}" for n in range(search_index.WORDS_MAX)))
            store.write(
                partial(search_index.add, message=new, text=texts[-1].encode(), unread=True)
            )
        with store.read() as reader:
            sizes = [len(data) for _key, data in reader.items(Table.TERMS)]
        assert max(sizes) <= 8 * (search_index.WORDS_MAX + 9)
        for serial in (search_index.SEGMENT, search_index.SEGMENT + 7):
            assert find(store, f"{serial}w0 {serial}w2047 from:mallory") == [serial]
        gone = message(search_index.SEGMENT + 7, place, "mallory", DAY)
        store.write(lambda writer: search_index.remove(writer, gone))
        assert not find(store, f"{search_index.SEGMENT + 7}w0")
        assert len(find(store, "from:mallory")) == search_index.SEGMENT


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"one two", ["one", "two"]),
        (b"\0one", []),
        (b"\xff one", []),
        ("x" * (search_index.TEXT_MAX - 2) + "é", ["x" * WORD_MAX]),
    ],
)
def test_only_text_has_words(text: bytes | str, words: list[str]) -> None:
    data = text.encode() if isinstance(text, str) else text
    with opened() as store:
        new = message(1, b"a" * 16, "bob", 5)
        store.write(
            partial(search_index.add, message=new, text=data[: search_index.TEXT_MAX], unread=True)
        )
        for word in words:
            assert find(store, word) == [1]
        assert bool(words) == bool(find(store, "one") or words == ["x" * WORD_MAX])


@pytest.mark.parametrize(
    "text", ["", "   ", "!!!", "from:", "after:yesterday", "before:2026-13-01"]
)
def test_a_search_that_means_nothing_says_so(text: str) -> None:
    with pytest.raises(search_index.BadQuery) as caught:
        search_index.parse_query(text)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["2026-11-24", "1970-01-01", "9999-12-31"])
def test_days_have_one_name(name: str) -> None:
    number = search_index.day_number(name)
    assert number is not None
    assert search_index.day_name(number) == name
    for other in (f" {name}", name.replace("-", ""), f"{name}T00", os.devnull):
        assert search_index.day_number(other) is None


@pytest.mark.parametrize(
    ("text", "there", "not_there"),
    [
        ("Café à Paris", ["cafe", "CAFÉ", "cafe\u0301", "a paris"], ["caf"]),
        ("Żółw Ångström señor Ελλάδα", ["żołw", "angstrom", "senor", "ελλαδα"], ["zol"]),
        ("Łódź Ørsted Æther đặng", ["lodz", "ŁÓDŹ", "orsted", "aether", "dang"], ["lod"]),
        ("İstanbul ISTANBUL \u0131s\u0131", ["isi"], ["is"]),
        ("İstanbul ISTANBUL", ["istanbul", "İSTANBUL"], ["stanbul"]),
        ("明天下午三点在图书馆见", ["图书馆", "下午", "见", "明天 图书"], ["书图", "馆图", "点三"]),
        ("会議は東京タワーで3時から", ["東京", "タワー", "会議", "3"], ["京東", "議会", "4"]),
        ("ﾃｽﾄ がぎ", ["テスト", "がぎ", "が"], ["か"]),
        ("見積書v2を送ります", ["見積書", "V2", "送り", "見積書v2"], ["v3"]),
        ("พบกันที่สถานี", ["สถานี", "พบกัน"], ["ขบวน"]),
        ("हिन्दी में", ["हिन्दी"], ["हन"]),
        ("שָׁלוֹם مُحَمَّد", ["שלום", "محمد"], ["של"]),  # with points, and asked for without
        ("한국어 메시지", ["한국어", "메시지", "국어", "어"], ["어국", "지메"]),
        ("학교에서 만났고 KBS에서뉴스를", ["학교", "만났", "뉴스", "kbs", "학교에서"], ["학생"]),
        ("Ｆｕｌｌ ｗｉｄｔｈ", ["full", "WIDTH"], ["wid"]),  # noqa: RUF001
    ],
)
def test_words_are_found_in_every_script(text: str, there: list[str], not_there: list[str]) -> None:
    with opened() as store:
        for serial in range(1, search_index.SEGMENT + 3):  # in a full segment, and in the newest
            new = message(serial, b"a" * 16, "bob", 5)
            store.write(partial(search_index.add, message=new, text=text.encode(), unread=False))
        every = list(range(1, search_index.SEGMENT + 3))
        for query in there:
            assert find(store, query) == every, query
            assert find(store, normalize("NFD", query)) == every, query
        for query in not_there:
            assert find(store, query) == [], query


@given(st.text(), st.text(), st.text())
def test_what_a_text_has_is_found_by_all_that_it_is_asked_for(
    before: str, text: str, after: str
) -> None:
    """Among spaces any text is found by itself, however it is composed, and in either case."""
    words = set(words_of(f"{before} {text} {after}"))
    assert set(asked_words(text)) <= words
    assert set(asked_words(normalize("NFD", text))) <= words


@pytest.mark.parametrize("query", ["in:CAFÉ", "in:cafe\u0301", "in:cafe"])
def test_a_place_is_found_however_it_is_typed(query: str) -> None:
    with opened() as store:
        new = message(1, b"a" * 16, "bob", 5)
        store.write(partial(search_index.add, message=new, text=b"x", unread=False))
        with store.read() as reader:
            folder = lambda conversation: "2026-11-01-alice-bob Café"  # noqa: E731
            assert len(found.find(reader, query, folder)) == 1
