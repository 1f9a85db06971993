"""What is looked for: words, people, days and what is unread, as records of the store.

Messages are numbered through all conversations (``Message.serial``). Sixty-four of them are a
segment, which has two records: in ``Table.INDEX`` one entry for each message that is there, and in
``Table.TERMS`` the hashes of their words, each with a bit for each message. Words of the newest
segment are kept message by message, and put together when it is full: a new message costs two
small records, and a search looks at one record in sixty-four messages. Those of a segment with very
many words stay as they are: one record would take seconds to make, and to change with each removal.

Everything that changes the index belongs into the transaction that changes the messages: a crash
leaves both or neither. Record keys are numbers that tell nothing; everything else is sealed.
"""

import hashlib
import re
import struct
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from cbfs.messages.model import Message
from cbfs.storage.encoding import number_of, u32
from cbfs.storage.store import Meta, Reader, Table, Writer
from cbfs_common.errors import CbfsError

SEGMENT = 64
"""Messages of a segment: one bit each in a word's entry."""

TEXT_MAX = 65_536
"""Bytes of a message, from its beginning, whose words are found."""

WORDS_MAX = 16_384
"""Different words of a message that are found."""

TOGETHER_MAX = 65_536
"""Words of the messages of a segment, counted in each, that are put together."""

QUERY_MAX = 128
"""Words of a search, or pairs of characters."""

_HASH = 8
_TERM = struct.Struct(">8sQ")
_ENTRY = struct.Struct(">B16sIB")  # number in its segment, conversation, day, whether unread
_NO_MESSAGE = bytes(_TERM.size - _HASH)
_BITS = [
    (bytes(b & ~(1 << bit) for b in range(256)), bytes(b >> bit & 1 for b in range(256)))
    for bit in range(8)
]
"""For each bit of a byte: what it is without it, and whether it has it."""

_EPOCH = date(1970, 1, 1)
_DAY_MAX = (date.max - _EPOCH).days
_DAY_MS = 86_400_000


# Words
#
# as a search compares them: without case, accents, width and vowel points. Scripts that are written
# without spaces (Chinese, Japanese, Thai, ...) have no words that a program without a dictionary
# could tell, and Korean writes particles and endings on them: there each character and each pair of
# neighbours is found, and a run of characters is looked for by its pairs.

WORD_MAX = 64
"""Characters of a word that count."""

_BLOCKS = (
    *(range(0x300, 0x1E00), range(0x20D0, 0x2100), range(0x3099, 0x309B)),
    *(range(0xA800, 0xAC00), range(0xFE20, 0xFE30)),
)
_MARKS = [
    chr(code)
    for block in _BLOCKS
    for code in block
    if unicodedata.category(chr(code)) in {"Mn", "Mc"}
]
_ACCENT = re.compile(f"[{''.join(c for c in _MARKS if unicodedata.combining(c) > 9)}]")
"""By their combining class: points and accents of letters. Signs without a class are vowels,
classes 7 to 9 (nukta, kana voicing, virama) make other letters."""

_CROSSED = str.maketrans(
    {
        "ł": "l",
        "ø": "o",
        "đ": "d",
        "ħ": "h",
        "ŧ": "t",
        "\N{LATIN SMALL LETTER DOTLESS I}": "i",
        "æ": "ae",
        "œ": "oe",
    }
)
"""Letters that Unicode does not take apart, and that people type without what crosses them."""

_WORD = re.compile(rf"[\w{''.join(_MARKS)}]+")
"""Signs of vowels and the like belong to their word; ``\\w`` has them not."""

_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Tibetan, Burmese, Khmer
    "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7fb"  # Korean
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # Japanese
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
_RUN = re.compile(f"([{_UNSPACED}]+)|[^{_UNSPACED}]+")


def words_of(text: str) -> list[str]:
    """The different words by which a text is found, in order."""
    return list(dict.fromkeys(_found(text, alone=True)))


def asked_words(text: str) -> list[str]:
    """The different words that a text must have which is looked for so."""
    return list(dict.fromkeys(_found(text, alone=False)))


def folded(text: str) -> str:
    """Without case, width and accents: NFKD, casefold, no accents, NFKC."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return unicodedata.normalize("NFKC", _ACCENT.sub("", plain).translate(_CROSSED))


def _found(text: str, *, alone: bool) -> Iterator[str]:
    for word in _WORD.findall(folded(text)):
        if word.isascii():
            yield word[:WORD_MAX]
            continue
        for match in _RUN.finditer(word):
            run, unspaced = match[0], match[1]
            if not unspaced:
                yield run[:WORD_MAX]
                continue
            if alone or len(run) == 1:
                yield from run
            yield from (run[i : i + 2] for i in range(len(run) - 1))


# Searches


class BadQuery(CbfsError):
    """A search that means nothing, or has too many words."""


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A message that was found: its conversation and serial, the key of its record."""

    conversation: bytes
    serial: int


@dataclass(frozen=True, slots=True)
class Query:
    """All must hold. ``terms`` are hashes of 8 bytes; ``places`` are parts of the names of
    conversations; ``after`` and ``before`` are days since 1970, both included."""

    terms: tuple[bytes, ...]
    places: tuple[str, ...]
    after: int
    before: int


def parse_query(text: str, called: Callable[[str], str] = str) -> Query:
    """``lunch from:alice in:bob after:2026-11-01 before:2026-12-01``; ``called`` gives the true
    name of whom a name means. Raises BadQuery."""
    terms: list[bytes] = []
    places: list[str] = []
    after, before = 0, _DAY_MAX
    for part in text.split():
        key, colon, value = part.partition(":")
        if not colon or key not in {"from", "in", "after", "before"}:
            terms += map(_hash, asked_words(part))
        elif not value:
            raise BadQuery(f"{key}: says nothing", f"write {key}:SOMETHING")
        elif key == "from":
            terms.append(_sender(called(value)))
        elif key == "in":
            places.append(folded(value))
        elif key == "after":
            after = max(after, _day(value))
        else:
            before = min(before, _day(value))
    if len(terms) + len(places) > QUERY_MAX:
        raise BadQuery("too many words", f"at most {QUERY_MAX}")
    if not terms and not places and after == 0 and before == _DAY_MAX:
        raise BadQuery("nothing to look for", "name a word, from:NAME, in:NAME or after:DAY")
    return Query(tuple(dict.fromkeys(terms)), tuple(places), after, before)


def day_name(day: int) -> str:
    """``2026-11-24`` of a day, a number of days since 1970."""
    return (_EPOCH + timedelta(days=day)).isoformat()


def day_number(name: str) -> int | None:
    """The number of days since 1970 of ``2026-11-24``; None for what is no day."""
    try:
        found = (date.fromisoformat(name) - _EPOCH).days
    except ValueError:
        return None
    return found if found >= 0 and day_name(found) == name else None


def day_of(milliseconds: int) -> int:
    """The day, UTC, on which a message of this date is found, as a number of days since 1970."""
    return min(max(milliseconds // _DAY_MS, 0), _DAY_MAX)


# Changes


def add(writer: Writer, message: Message, text: bytes, *, unread: bool) -> None:
    """Index a message by the words of ``text``, the beginning of its content, TEXT_MAX bytes at
    most."""
    segment, number = divmod(message.serial, SEGMENT)
    key = _key(segment)
    entry = _ENTRY.pack(number, message.conversation, day_of(message.date), unread)
    known = writer.get(Table.INDEX, key)
    if known is None and segment >= segments(writer):
        writer.put(Table.META, Meta.SEGMENTS, u32(segment + 1))
    writer.put(Table.INDEX, key, (known or b"") + entry)
    add_words(writer, message, text)
    if number == 0 and segment:
        put_together(writer, segment - 1)


def add_words(writer: Writer, message: Message, text: bytes) -> None:
    """Have a message found by the words of ``text``, as ``add`` does. Of it is known already that
    it is there, and whether it is unread."""
    segment, number = divmod(message.serial, SEGMENT)
    data = b"".join(_terms(message, text))
    writer.put(Table.TERMS, _key(segment) + bytes([number]), data)


def remove(writer: Writer, message: Message) -> None:
    """Forget the words of a message and that it was there."""
    segment, number = divmod(message.serial, SEGMENT)
    key = _key(segment)
    known = writer.get(Table.INDEX, key) or b""
    starts = range(0, len(known), _ENTRY.size)
    left = (known[at : at + _ENTRY.size] for at in starts if known[at] != number)
    _put_record(writer, Table.INDEX, key, b"".join(left))
    if writer.delete(Table.TERMS, key + bytes([number])):
        return
    together = writer.get(Table.TERMS, key)
    if together is not None:
        _put_record(writer, Table.TERMS, key, _without(together, number))


def redate(writer: Writer, message: Message, date_ms: int) -> None:
    """A message is found on the day of ``date_ms`` from now on."""
    day = day_of(date_ms)
    if day == day_of(message.date):
        return
    segment, number = divmod(message.serial, SEGMENT)
    known = entries(writer, segment)
    found = [(n, c, day if n == number else d, u) for n, c, d, u in known]
    _put_entries(writer, _key(segment), found)


def set_read(writer: Writer, serials: Iterable[int], *, read: bool = True) -> None:
    """The messages with these serials have been read; or are to be read again."""
    segments: dict[int, set[int]] = {}
    for serial in serials:
        segments.setdefault(serial // SEGMENT, set()).add(serial % SEGMENT)
    for segment, those in segments.items():
        known = entries(writer, segment)
        left = [(n, c, d, not read if n in those else u) for n, c, d, u in known]
        _put_entries(writer, _key(segment), left)


def put_together(writer: Writer, segment: int) -> None:
    """Make one record of the words of a segment that will get no more messages."""
    key = _key(segment)
    bits: dict[bytes, int] = {}
    singles: list[tuple[bytes, bytes]] = []
    room = TOGETHER_MAX * _HASH
    for single, terms in _singles(writer, segment):
        room -= len(terms)
        if room < 0:
            return
        singles.append((single, terms))
    for single, terms in singles:
        bit = 1 << single[-1]
        for start in range(0, len(terms), _HASH):
            term = terms[start : start + _HASH]
            bits[term] = bits.get(term, 0) | bit
        writer.delete(Table.TERMS, single)
    data = b"".join(_TERM.pack(term, those) for term, those in sorted(bits.items()))
    _put_record(writer, Table.TERMS, key, data)


def _without(together: bytes, number: int) -> bytes:
    """The words of a segment without those of one of its messages. There may be 65,536, and this is
    done for each message that is removed: so no word is looked at that it does not have."""
    data = bytearray(together)
    column = slice(_TERM.size - 1 - number // 8, None, _TERM.size)
    before = data[column]
    clear, tell = _BITS[number % 8]
    data[column] = before.translate(clear)
    has_it = before.translate(tell)
    left, done = [], 0
    at = has_it.find(1)
    while at >= 0:
        start = at * _TERM.size
        if data[start + _HASH : start + _TERM.size] == _NO_MESSAGE:
            left.append(data[done:start])
            done = start + _TERM.size
        at = has_it.find(1, at + 1)
    return b"".join((*left, data[done:]))


def _put_entries(writer: Writer, key: bytes, found: list[tuple[int, bytes, int, bool]]) -> None:
    _put_record(writer, Table.INDEX, key, b"".join(_ENTRY.pack(*entry) for entry in found))


def _put_record(writer: Writer, table: Table, key: bytes, data: bytes) -> None:
    """Nothing is no record."""
    if data:
        writer.put(table, key, data)
    else:
        writer.delete(table, key)


# Questions


def segments(reader: Reader) -> int:
    """All segments have numbers below this."""
    return number_of(reader.get(Table.META, Meta.SEGMENTS))


def entries(reader: Reader, segment: int) -> list[tuple[int, bytes, int, bool]]:
    """The messages of a segment that are there, in order of arrival: of each its number in it,
    conversation, day, and whether it has not been read."""
    return _entries(reader.get(Table.INDEX, _key(segment)))


def conversation_of(reader: Reader, serial: int) -> bytes | None:
    """The conversation of the message with this serial; None when it was deleted."""
    segment, number = divmod(serial, SEGMENT)
    there = (found[1] for found in entries(reader, segment) if found[0] == number)
    return next(there, None)


def find(
    reader: Reader, query: Query, folder: Callable[[bytes], str], segment: int
) -> list[SearchHit]:
    """Messages of a segment that a query means, in order of arrival. ``folder`` gives the name of
    a conversation's folder."""
    right: dict[bytes, bool] = {}

    def placed(conversation: bytes) -> bool:
        if conversation not in right:
            name = folded(folder(conversation))
            right[conversation] = all(place in name for place in query.places)
        return right[conversation]

    bits = _match(reader, segment, query.terms) if query.terms else (1 << SEGMENT) - 1
    if not bits:
        return []
    return [
        SearchHit(conversation, segment * SEGMENT + number)
        for number, conversation, day, _new in entries(reader, segment)
        if bits >> number & 1 and query.after <= day <= query.before and placed(conversation)
    ]


def _singles(reader: Reader, segment: int) -> Iterator[tuple[bytes, bytes]]:
    """(key, terms) of the messages of a segment whose words are not put together."""
    key = _key(segment)
    for number, *_ in entries(reader, segment):
        terms = reader.get(Table.TERMS, key + bytes([number]))
        if terms is not None:
            yield key + bytes([number]), terms


def _match(reader: Reader, segment: int, terms: tuple[bytes, ...]) -> int:
    """The bits of the messages of a segment that have all terms."""
    together = reader.get(Table.TERMS, _key(segment))
    if together is not None:
        bits = (1 << SEGMENT) - 1
        for term in terms:
            bits &= _bits(together, term)
            if not bits:
                return 0
        return bits
    bits = 0
    for single, data in _singles(reader, segment):
        if all(_is_in(data, term) for term in terms):
            bits |= 1 << single[-1]
    return bits


def _is_in(single: bytes, term: bytes) -> bool:
    """Whether a message has this word."""
    at = single.find(term)
    while at % _HASH and at >= 0:
        at = single.find(term, at + 1)
    return at >= 0


def _bits(together: bytes, term: bytes) -> int:
    """Binary search for one term among sorted ones."""
    low, high = 0, len(together) // _TERM.size
    while low < high:
        middle = (low + high) // 2
        start = middle * _TERM.size
        there = together[start : start + _HASH]
        if there == term:
            return int.from_bytes(together[start + _HASH : start + _TERM.size], "big")
        if there < term:
            low = middle + 1
        else:
            high = middle
    return 0


def _entries(data: bytes | None) -> list[tuple[int, bytes, int, bool]]:
    return [(n, c, d, bool(u)) for n, c, d, u in _ENTRY.iter_unpack(data or b"")]


def _terms(message: Message, text: bytes) -> list[bytes]:
    found = words_of(_as_text(text))[:WORDS_MAX] + words_of(message.name.partition("Z-")[2])
    return list(dict.fromkeys([_sender(message.sender), *map(_hash, found)]))


def _as_text(data: bytes) -> str:
    """Nothing for what is no text; a character that the end cuts does not count."""
    if b"\0" in data:
        return ""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        cut = len(data) == TEXT_MAX and error.start > len(data) - 4
        return data[: error.start].decode() if cut else ""


def _sender(name: str) -> bytes:
    return _hash("\0" + name.casefold())  # no word has a NUL in it


def _hash(term: str) -> bytes:
    return hashlib.blake2b(term.encode(), digest_size=_HASH).digest()


def _key(segment: int) -> bytes:
    return u32(segment)


def _day(text: str) -> int:
    day = day_number(text)
    if day is None:
        raise BadQuery(f"{text} is no day", "write it as 2026-11-24")
    return day
