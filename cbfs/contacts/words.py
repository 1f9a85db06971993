"""Numbers as English words, to be read aloud or written on paper: the list of BIP 39, whose words
differ in their first four letters.

A seed of 32 bytes is 24 words, as BIP 39 has it: 11 bits each, the last of which are the first
byte of the seed's SHA-256, so that a slip of the pen does not make another seed.
"""

import re
from functools import cache
from hashlib import sha256
from importlib.resources import files

from cbfs_common.errors import DecodeError
from cbfs_common.primitives import KEY_SIZE, equal

WORD_BITS = 11
SEED_WORDS = 24
_WORD = re.compile("[^\\W\\d_]+")

TELLING = 4
"""Letters of a word that tell it from all others."""


@cache
def word_list() -> tuple[str, ...]:
    """The 2,048 words of BIP 39."""
    return tuple(files("cbfs.contacts").joinpath("words.txt").read_text("ascii").split())


def words_of(number: int, count: int) -> tuple[str, ...]:
    """The lowest 11 * ``count`` bits of a number, most significant first."""
    mask = (1 << WORD_BITS) - 1
    return tuple(word_list()[number >> WORD_BITS * i & mask] for i in reversed(range(count)))


def seed_words(seed: bytes) -> tuple[str, ...]:
    """The 24 words of a seed (32 bytes)."""
    return words_of(int.from_bytes(seed + _check(seed), "big"), SEED_WORDS)


def words_in(text: str) -> list[str]:
    """What a text has of words."""
    return _WORD.findall(text.casefold())


def read_seed_words(text: str) -> bytes:
    """The seed (32 bytes) of 24 words, in any case, of which four letters are enough, with whatever
    is between them, as commas or numbers. Raises DecodeError, whose text says which word is wrong
    and has nothing of them."""
    given = words_in(text)
    if len(given) != SEED_WORDS:
        raise DecodeError(f"these are {len(given)} words, not {SEED_WORDS}", "type all of them")
    number = 0
    for place, word in enumerate(given, 1):
        found = _numbers().get(word)
        if found is None:
            raise DecodeError(f"word {place} is not one of the list", "compare it")
        number = number << WORD_BITS | found
    data = number.to_bytes(KEY_SIZE + 1, "big")
    seed = data[:KEY_SIZE]
    if not equal(data[KEY_SIZE:], _check(seed)):
        raise DecodeError("the words do not fit together", "compare each, and their order")
    return seed


def _check(seed: bytes) -> bytes:
    return sha256(seed).digest()[:1]


@cache
def _numbers() -> dict[str, int]:
    listed = word_list()
    short = {word[:TELLING]: number for number, word in enumerate(listed)}
    return short | {word: number for number, word in enumerate(listed)}
