"""Text that somebody else wrote, as lines that are safe to show and look as they were meant.

What could rewrite what stands on a terminal is shown as U+FFFD; what only helps to set text (the
joiners of Persian, Hindi and of emoji) stays, and what is not seen anyway goes. Lines end where any
program ends them: Unix, Windows or an old Mac wrote the text.
"""

import unicodedata

_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Categories of Unicode that are not shown."""

_JOINERS = frozenset("\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}")
_UNSEEN = frozenset("\u00ad\u061c\u200b\u200e\u200f\u2060\ufeff")
"""Soft hyphen, marks of direction, spaces and joints without width, byte order mark."""

_EMOJI = range(0x1F000, 0x1FB00)
"""Blocks that get new characters each year, which this Python may not know yet."""

_NOT_SHOWN = "\N{REPLACEMENT CHARACTER}"


def shown_lines(text: str) -> list[str]:
    """At least one; empty lines at the end do not count."""
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
