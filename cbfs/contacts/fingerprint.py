"""What two people compare by voice to know that they have each other's keys.
PROTOCOL.rst, Comparing keys.

Each identity gives a half of its own, so that finding a key pair for a given half takes 2^99 tries
and finding two that fit each other gains nothing; both halves in one order make a fingerprint that
is the same on both sides. Words and digits say the same.
"""

import re
from dataclasses import dataclass

from cbfs.contacts.words import WORD_BITS, words_of
from cbfs_common.primitives import KEY_SIZE, kdf

HALF_WORDS = 9
HALF_GROUPS = 6
GROUP_DIGITS = 5
GROUP_BYTES = 5
_LINE = 6


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What two people compare: 18 words, or 12 groups of 5 digits."""

    words: tuple[str, ...]
    digits: tuple[str, ...]

    def text(self, one: str, other: str) -> str:
        """The text of the file ``fingerprint`` of a contact."""
        first, second = sorted((one, other))
        return (
            f"{first} and {second} see the same here when nobody is between them.\n"
            "Read it to each other, words or digits; then copy this file to verified.\n\n"
            + _lines("words", self.words)
            + _lines("digits", self.digits)
        )

    def is_in(self, text: str) -> bool:
        """Whether a text holds all its words, or all its digits, in order and together."""
        plain = " ".join(re.findall(r"[a-z]+|[0-9]+", text.lower()))
        return any(
            f" {' '.join(parts)} " in f" {plain} " for parts in (self.words, self.digits)
        ) or "".join(self.digits) in plain.split(" ")


def _lines(label: str, parts: tuple[str, ...]) -> str:
    rows = [" ".join(parts[i : i + _LINE]) for i in range(0, len(parts), _LINE)]
    return f"{label}\n" + "".join(f"  {row}\n" for row in rows)


def fingerprint(one: bytes, other: bytes) -> Fingerprint:
    """Of two people's identities (32 bytes each, ``Profile.identity``), in any order."""
    halves = sorted(kdf(b"", b"cbfs1 compare", identity, KEY_SIZE) for identity in (one, other))
    return Fingerprint(
        tuple(word for half in halves for word in _words(half)),
        tuple(group for half in halves for group in _groups(half)),
    )


def _words(half: bytes) -> tuple[str, ...]:
    bits = int.from_bytes(half, "big") >> (8 * len(half) - WORD_BITS * HALF_WORDS)
    return words_of(bits, HALF_WORDS)


def _groups(half: bytes) -> list[str]:
    parts = (half[GROUP_BYTES * i : GROUP_BYTES * (i + 1)] for i in range(HALF_GROUPS))
    return [f"{int.from_bytes(part, 'big') % 10**GROUP_DIGITS:0{GROUP_DIGITS}}" for part in parts]
