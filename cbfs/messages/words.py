"""Words of a text as a search compares them: without case, accents, width and vowel points.

Scripts that are written without spaces (Chinese, Japanese, Thai, ...) have no words that a program
without a dictionary could tell, and Korean writes particles and endings on them: there each
character and each pair of neighbours is found, and a run of characters is looked for by its pairs.
"""

import re
import unicodedata
from collections.abc import Iterator

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
