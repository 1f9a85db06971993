"""A conversation as one growing text, so that ``tail -f`` is a chat window.

Messages stand in order of arrival, which makes the text grow at its end only. How long each
message's entry is is kept in its record: the size of the whole is known without reading it.
"""

import unicodedata
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from cbfs.model import Message

TEXT_MAX = 65_536
"""Bytes of a message, from its beginning, that its entry shows."""

_INDENT = "    "
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Characters that are not shown: they could rewrite what stands on a terminal."""

_NOT_SHOWN = "\N{REPLACEMENT CHARACTER}"


def entry(message: Message, head: bytes) -> bytes:
    """``[2026-11-24 14:46] alice: See you at ten.``, further lines indented; a file by its name
    and size. ``head`` is the beginning of its content, TEXT_MAX bytes at most."""
    moment = datetime.fromtimestamp(message.date / 1000, UTC)
    text = _text(message, head)
    first, *rest = text.split("\n")
    lines = [f"[{moment:%Y-%m-%d %H:%M}] {message.sender}: {first}"]
    lines += [_INDENT + line if line else "" for line in rest]
    return "\n".join(lines).encode() + b"\n"


def _text(message: Message, head: bytes) -> str:
    cut = message.content.size > len(head)
    try:
        text = head.decode() if b"\0" not in head else None
    except UnicodeDecodeError as error:
        inside = not cut or error.start < len(head) - 3
        text = None if inside else head[: error.start].decode()
    if text is None or _is_file(message):
        return f"{message.name} ({message.content.size} bytes)"
    shown = "".join(_shown(character) for character in text.rstrip("\n").expandtabs())
    return f"{shown}\n... {message.name} has all of it" if cut else shown


def _is_file(message: Message) -> bool:
    """It was sent under a file name with an extension, and not one of a plain text."""
    name = message.name.partition("Z-")[2]
    return "." in name and not name.endswith((".txt", ".md"))


def _shown(character: str) -> str:
    if character == "\n" or unicodedata.category(character) not in _HIDDEN:
        return character
    return _NOT_SHOWN


class Transcript:
    """``load`` gives the messages of the conversation in order of arrival; it is called when the
    text is first looked at. ``render`` gives the entry of one, by its serial, or nothing when it
    has gone meanwhile."""

    def __init__(
        self, load: Callable[[], Iterable[Message]], render: Callable[[int], bytes]
    ) -> None:
        self._load = load
        self._render = render
        self._loaded = False
        self._serials = array("Q")
        self._ends = array("Q")

    @property
    def size(self) -> int:
        """In bytes."""
        self._need()
        return self._ends[-1] if self._ends else 0

    def add(self, message: Message) -> None:
        """One has arrived, or was sent."""
        if self._loaded:
            self._serials.append(message.serial)
            self._ends.append(self.size + message.entry_size)

    def remove(self) -> None:
        """One was deleted: count anew at the next look."""
        self._loaded = False

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer at the end."""
        self._need()
        end = min(offset + size, self.size)
        index = bisect_right(self._ends, offset)
        start = self._ends[index - 1] if index else 0
        parts = []
        position = start
        while position < end:
            length = self._ends[index] - position
            parts.append(self._render(self._serials[index])[:length].ljust(length, b"\n"))
            position = self._ends[index]
            index += 1
        return b"".join(parts)[offset - start : max(end, offset) - start]

    def _need(self) -> None:
        if self._loaded:
            return
        self._serials, self._ends = array("Q"), array("Q")
        end = 0
        for message in self._load():
            end += message.entry_size
            self._serials.append(message.serial)
            self._ends.append(end)
        self._loaded = True
