"""A conversation as one growing text, so that ``tail -f`` is a chat window.

Messages stand in the order that is the same at everybody (``cbfs.messages.order``). One that comes
late is put where it belongs; who has the text open since before that gets it at the end, so that
for them it grows at its end only. How long each message's entry is is kept in its record: the size
of the whole is known without reading it.
"""

import unicodedata
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from cbfs.messages.lifetimes import words
from cbfs.messages.model import Message
from cbfs.messages.order import Absence

TEXT_MAX = 65_536
"""Bytes of a message, from its beginning, that its entry shows."""

_INDENT = "    "


Absences = Sequence[tuple[str, Absence]]
"""For each message that is not here and that one names: who has written it, empty for the sender
themself, and why."""


UNCONFIRMED = "unconfirmed"
"""Stands beside a message of which nothing proves yet that its sender has written it."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What the entry of a message says beside it: to whom it was not sent, who were ``left_out``;
    what is ``absent``; and whom its sender has ``added``. People as they are shown."""

    left_out: Sequence[str] = ()
    absent: Absences = ()
    added: Sequence[str] = ()


NOTHING_BESIDE = Beside()


def entry(message: Message, head: bytes, beside: Beside = NOTHING_BESIDE) -> bytes:
    """``[2026-11-24 14:46] alice: See you at ten.``, further lines indented; a file by its name
    and size; ``[2026-11-24 14:46, kept 7d]`` when it ends, ``[2026-11-24 14:46, unconfirmed]`` when
    it may be somebody else's; a line more says to whom it was not sent, or that its sender has
    left by it, and lines before it what is absent and who was added. ``head`` is the beginning of
    its content, TEXT_MAX bytes at most."""
    return _said(message, _text(message, head), beside)


def folder_entry(message: Message, files: int, size: int, beside: Beside = NOTHING_BESIDE) -> bytes:
    """``[2026-11-24 14:46] alice: photos (3 files, 4096 bytes)``: the entry of a message that is a
    folder, with how many ``files`` it has and the bytes of all."""
    many = "1 file" if files == 1 else f"{files} files"
    return _said(message, f"{message.name} ({many}, {size} bytes)", beside)


def _said(message: Message, text: str, beside: Beside) -> bytes:
    moment = datetime.fromtimestamp(message.date / 1000, UTC)
    first, *rest = text.split("\n")
    kept = f", kept {words(message.lifetime.seconds)}" if message.lifetime.seconds else ""
    doubt = f", {UNCONFIRMED}" if message.doubts else ""
    who = message.label or message.sender
    before = [_missed(who, *each) for each in beside.absent]
    before += [f"{who} has added {', '.join(beside.added)}"] if beside.added else []
    lines = [f"[{moment:%Y-%m-%d %H:%M}] ({what})" for what in before]
    lines.append(f"[{moment:%Y-%m-%d %H:%M}{kept}{doubt}] {who}: {first}")
    lines += [_INDENT + line if line else "" for line in rest]
    if beside.left_out:
        lines.append(f"{_INDENT}(not sent to {', '.join(beside.left_out)}: blocked)")
    if message.leaving:
        lines.append(f"{_INDENT}(nothing more is sent to {who})")
    return "\n".join(lines).encode() + b"\n"


def _missed(who: str, author: str, why: Absence) -> str:
    """A line in the place of a message that is not here."""
    if why is Absence.TAKEN_BACK:
        other = f"{who} answers a message that {author} has taken back"
        return other if author else f"{who} has taken back a message"
    what = f"answers a message of {author}'s" if author else "has written something before this"
    if why is Absence.IN_VAIN:
        return f"{who} {what} that never came: ask them"
    return f"{who} {what} that has not come"


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
    name = message.name.partition("Z-")[2].removeprefix(message.label or message.sender)
    return "." in name and not name.endswith((".txt", ".md"))


@dataclass(frozen=True, slots=True)
class Extent:
    """What the store knows of a transcript: its size in bytes, and how often something of what was
    there has changed, as messages were taken out or moved."""

    size: int
    changes: int


class Line(NamedTuple):
    """The entry of a message: how many bytes it has, and where it stands."""

    serial: int
    size: int
    place: int
    tie: int


class Transcript:
    """``extent`` says how long the text is now. ``load`` gives the lines of the messages from a
    serial on, in order of arrival. ``render`` gives the entry of one, by its serial, or nothing
    when it has gone meanwhile."""

    def __init__(
        self,
        extent: Callable[[], Extent],
        load: Callable[[int], Iterable[Line]],
        render: Callable[[int], bytes],
    ) -> None:
        self._extent = extent
        self._load = load
        self._render = render
        self._known = Extent(0, 0)
        self._newest = 0
        self._serials = array("Q")
        self._places = array("Q")
        self._ties = array("Q")
        self._ends = array("Q")

    @property
    def size(self) -> int:
        """Bytes of the text as it is now."""
        return self._extent().size

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer at the end."""
        self._follow()
        return self._between(self._serials, self._ends, offset, size)

    def _between(self, serials: "array[int]", ends: "array[int]", offset: int, size: int) -> bytes:
        end = min(offset + size, ends[-1] if ends else 0)
        index = bisect_right(ends, offset)
        start = position = ends[index - 1] if index else 0
        parts = []
        while position < end:
            length = ends[index] - position
            parts.append(self._render(serials[index])[:length].ljust(length, b"\n"))
            position = ends[index]
            index += 1
        return b"".join(parts)[offset - start : max(end, offset) - start]

    def _follow(self) -> None:
        """Where each entry is, as of now: what has come is put in, after a change all is read."""
        now = self._extent()
        if now == self._known:
            return
        if now.changes != self._known.changes:
            self._newest = 0
            self._serials, self._places = array("Q"), array("Q")
            self._ties, self._ends = array("Q"), array("Q")
        self._known = now
        lines = sorted(self._load(self._newest + 1), key=_order)
        if lines:
            self._newest = max(self._newest, *(line.serial for line in lines))
            self._enter(lines)

    def _enter(self, lines: list[Line]) -> None:
        """Put these in, all in one go: however many come late, what is behind them moves once."""
        index = bisect_right(self._places, lines[0].place)
        while index and (self._places[index - 1], self._ties[index - 1]) > _order(lines[0]):
            index -= 1
        end = start = self._ends[index - 1] if index else 0
        behind = []
        for serial, place, tie, after in zip(
            self._serials[index:],
            self._places[index:],
            self._ties[index:],
            self._ends[index:],
            strict=True,
        ):
            behind.append(Line(serial, after - start, place, tie))
            start = after
        for kept in (self._serials, self._places, self._ties, self._ends):
            del kept[index:]
        for line in sorted([*behind, *lines], key=_order):
            end += line.size
            self._serials.append(line.serial)
            self._places.append(line.place)
            self._ties.append(line.tie)
            self._ends.append(end)


def _order(line: Line) -> tuple[int, int]:
    return line.place, line.tie


class Reading:
    """A transcript as somebody reads it who has opened it: what came since stands at the end."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._known: Extent | None = None
        self._newest = 0
        self._serials = array("Q")
        self._ends = array("Q")

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer at the end."""
        self._follow()
        return self._transcript._between(self._serials, self._ends, offset, size)

    def _follow(self) -> None:
        whole = self._transcript
        now = whole._extent()
        if self._known is None or now.changes != self._known.changes:
            whole._follow()
            self._serials, self._ends = whole._serials[:], whole._ends[:]
            self._newest, self._known = whole._newest, whole._known
        elif now != self._known:
            self._known = now
            end = self._ends[-1] if self._ends else 0
            for line in whole._load(self._newest + 1):
                end += line.size
                self._serials.append(line.serial)
                self._ends.append(end)
                self._newest = line.serial


# Text that somebody else wrote
#
# as lines that are safe to show and look as they were meant. What could rewrite what stands on a
# terminal is shown as U+FFFD; what only helps to set text (the joiners of Persian, Hindi and of
# emoji) stays, and what is not seen anyway goes. Lines end where any program ends them: Unix,
# Windows or an old Mac wrote the text.

_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Categories of Unicode that are not shown."""

_JOINERS = frozenset("\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}")
_UNSEEN = frozenset("\u00ad\u061c\u200b\u200e\u200f\u2060\ufeff")
"""Soft hyphen, marks of direction, spaces and joints without width, byte order mark."""

_EMOJI = range(0x1F000, 0x1FB00)
"""Blocks that get new characters each year, which this Python may not know yet."""

_NOT_SHOWN = "\N{REPLACEMENT CHARACTER}"


def shown_lines(text: str) -> list[str]:
    """The lines of a text, at least one; empty lines at the end do not count."""
    lines = [shown_line(line.expandtabs()) for line in text.splitlines()]
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    return lines or [""]


def shown_line(line: str) -> str:
    """One line, without what could rewrite what stands on a terminal."""
    return line if line.isprintable() else "".join(map(_shown, line))


def _shown(character: str) -> str:
    if character in _UNSEEN:
        return ""
    if character in _JOINERS or ord(character) in _EMOJI:
        return character
    return _NOT_SHOWN if unicodedata.category(character) in _HIDDEN else character


def escaped(toml: str) -> str:
    """A document of TOML that means the same, and in whose texts nothing can rewrite what stands on
    a terminal, or is not seen."""
    plain = toml.isascii() and "\t" not in toml  # other control characters TOML has escaped
    return toml if plain else "".join(map(_escaped, toml))


def _escaped(character: str) -> str:
    if character == "\n" or _shown(character) == character:
        return character
    return f"\\U{ord(character):08X}"
