"""User names as people type them, and names that look like others.

The directory knows ASCII only. What somebody types is mapped first by PRECIS UsernameCaseMapped
(RFC 8265): width and case. What it cannot be mapped to is refused, never guessed.
"""

from collections.abc import Iterable

from precis_i18n import get_profile

from cbfs_common.errors import DecodeError
from cbfs_common.limits import NAME_MAX
from cbfs_common.person import check_name, check_namespace, read_directory_text

_PROFILE = get_profile("UsernameCaseMapped")
_ALIKE = (("rn", "m"), ("vv", "w"), ("cl", "d"), ("nn", "m"))
_LETTERS = str.maketrans("01i5829", "ollszzg", "-_")
"""Names are of a-z, 0-9, - and _: what is read as something else, in common fonts."""

CLOSE_LENGTH = 5
"""From this length on, names one letter apart count as alike."""


def typed_name(text: str) -> str:
    """The user name that somebody means by what they typed. Raises DecodeError when nobody can have
    it."""
    try:
        if len(text) > NAME_MAX:
            raise DecodeError("not a user name", f"names have at most {NAME_MAX} characters")
        mapped = str(_PROFILE.enforce(text))
    except UnicodeEncodeError as error:
        raise DecodeError(
            "not a user name", "names are of a-z and 0-9, with single - or _ inside"
        ) from error
    return check_name(mapped)


def typed_person(text: str) -> str:
    """What somebody is shown as whom a user means: a user name, with the namespace of another
    directory, or a directory that is not followed, behind an ``@``. Raises DecodeError."""
    name, at, place = text.partition("@")
    if not at:
        return typed_name(name)
    if place.startswith("_"):
        read_directory_text(place)
    else:
        place = check_namespace(place.lower() if place.isascii() else place)
    return f"{typed_name(name)}@{place}"


def look_alike(name: str, others: Iterable[str]) -> str | None:
    """The first of the others that this name can be mistaken for."""
    shape = _shape(name)
    for other in others:
        if other != name and (_shape(other) == shape or _one_apart(name, other)):
            return other
    return None


def _shape(name: str) -> str:
    for pair, letter in _ALIKE:
        name = name.replace(pair, letter)
    return name.translate(_LETTERS)


def _one_apart(one: str, other: str) -> bool:
    """Whether one letter is changed, added, left out, or two neighbours are swapped."""
    if min(len(one), len(other)) < CLOSE_LENGTH or abs(len(one) - len(other)) > 1:
        return False
    start = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    a, b = one[start:], other[start:]
    swapped = a[:2] == b[1::-1] and a[2:] == b[2:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or swapped
