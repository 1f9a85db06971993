"""A conversation as one growing text, so that ``tail -f`` is a chat window.

Messages stand in order of arrival, which makes the text grow at its end only. How long each
message's entry is is kept in its record: the size of the whole is known without reading it.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cbfs.lifetimes import words
from cbfs.model import Message
from cbfs.plain_text import shown_lines

TEXT_MAX = 65_536
"""Bytes of a message, from its beginning, that its entry shows."""

_INDENT = "    "


def entry(message: Message, head: bytes, left_out: Sequence[str] = ()) -> bytes:
    """``[2026-11-24 14:46] alice: See you at ten.``, further lines indented; a file by its name
    and size; ``[2026-11-24 14:46, kept 7d]`` when it ends; a line more names who was
    ``left_out``. ``head`` is the beginning of its content, TEXT_MAX bytes at most."""
    return _said(message, _text(message, head), left_out)


def folder_entry(message: Message, files: int, size: int, left_out: Sequence[str] = ()) -> bytes:
    """The same for a folder: its name, how many ``files`` it has and their bytes."""
    many = "1 file" if files == 1 else f"{files} files"
    return _said(message, f"{message.name} ({many}, {size} bytes)", left_out)


def _said(message: Message, text: str, left_out: Sequence[str]) -> bytes:
    moment = datetime.fromtimestamp(message.date / 1000, UTC)
    first, *rest = text.split("\n")
    kept = f", kept {words(message.lifetime.seconds)}" if message.lifetime.seconds else ""
    lines = [f"[{moment:%Y-%m-%d %H:%M}{kept}] {message.label or message.sender}: {first}"]
    lines += [_INDENT + line if line else "" for line in rest]
    if left_out:
        lines.append(f"{_INDENT}(not sent to {', '.join(left_out)}: blocked)")
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
    shown = "\n".join(shown_lines(text))
    return f"{shown}\n... {message.name} has all of it" if cut else shown


def _is_file(message: Message) -> bool:
    """It was sent under a file name with an extension, and not one of a plain text."""
    name = message.name.partition("Z-")[2]
    return "." in name and not name.endswith((".txt", ".md"))


@dataclass(frozen=True, slots=True)
class Extent:
    """What the store knows of a transcript: its size in bytes, and how many messages have been
    taken out of it."""

    size: int
    removed: int


class Transcript:
    """``extent`` says how long the text is now. ``load`` gives (serial, bytes of its entry) of the
    messages from a serial on, in order. ``render`` gives the entry of one, by its serial, or
    nothing when it has gone meanwhile."""

    def __init__(
        self,
        extent: Callable[[], Extent],
        load: Callable[[int], Iterable[tuple[int, int]]],
        render: Callable[[int], bytes],
    ) -> None:
        self._extent = extent
        self._load = load
        self._render = render
        self._known = Extent(0, 0)
        self._serials = array("Q")
        self._ends = array("Q")

    @property
    def size(self) -> int:
        """In bytes."""
        return self._extent().size

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer at the end."""
        self._follow()
        end = min(offset + size, self._ends[-1] if self._ends else 0)
        index = bisect_right(self._ends, offset)
        start = position = self._ends[index - 1] if index else 0
        parts = []
        while position < end:
            length = self._ends[index] - position
            parts.append(self._render(self._serials[index])[:length].ljust(length, b"\n"))
            position = self._ends[index]
            index += 1
        return b"".join(parts)[offset - start : max(end, offset) - start]

    def _follow(self) -> None:
        """Where each entry is, as of now: what has come is added, after a removal all is read."""
        now = self._extent()
        if now == self._known:
            return
        if now.removed != self._known.removed:
            self._serials, self._ends = array("Q"), array("Q")
        self._known = now
        end = self._ends[-1] if self._ends else 0
        for serial, length in self._load(self._serials[-1] + 1 if self._serials else 0):
            end += length
            self._serials.append(serial)
            self._ends.append(end)
