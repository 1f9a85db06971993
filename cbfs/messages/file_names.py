"""Names of folders and files that the mount shows.

Pure. Whatever comes in, what goes out is one valid file name: UTF-8, 1 to 255 bytes, no ``/``,
no control, bidi or otherwise invisible character, no leading dot or dash, nothing that FAT, NTFS
or another file system would refuse in a copy.
"""

import unicodedata
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from cbfs_common.limits import FILE_NAME_MAX

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""

ERROR_SUFFIX = ".error"

_EXTENSION_MAX = 32
_COUNT_ROOM = 16
"""Bytes left for `` (N)`` behind a name that is taken."""

_REFUSED = frozenset('/\\:*?"<>|')
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode's control, format (bidi among them), surrogate, line and paragraph separators."""

_REPLACEMENT = "_"


def moment(milliseconds: int) -> datetime:
    """The date so many milliseconds after the beginning of 1970, for people and TOML, in UTC. What
    is before that or after the year 9999 becomes the first or the last moment of that time."""
    return _EPOCH + timedelta(milliseconds=min(max(milliseconds, 0), _LAST_MS))


def folder_name(
    started_ms: int,
    sender: str,
    others: Sequence[str],
    subject: str,
    taken: Callable[[str], bool],
) -> str:
    """``2026-11-23-alice-bob-carol lunch``: day (UTC), who began it, the others, the subject.

    Names that do not fit are counted: ``...-bob-and-31-more``. `` (2)`` and on when taken.
    """
    day = moment(started_ms).strftime("%Y-%m-%d")
    stem = f"{day}-{sender}{_listed(others)}"
    if subject:
        stem += f" {_visible(subject)}"
    return _free(_cut(stem, FILE_NAME_MAX - _COUNT_ROOM), "", taken)


def message_name(date_ms: int, sender: str, file_name: str, taken: Callable[[str], bool]) -> str:
    """``2026-11-23T14.46.02.123Z-alice``, and ``-NAME.EXT`` behind it when ``file_name`` (as it
    came from the network) has an extension. `` (2)`` before the extension when taken."""
    stem = f"{_stamp(date_ms)}-{sender}"
    body, extension = split_name(shown_file_name(file_name) if file_name else "")
    if extension:
        room = FILE_NAME_MAX - _COUNT_ROOM - len(extension.encode())
        stem = _cut(f"{stem}-{body}", room)
    return _free(stem, extension, taken)


def folder_message_name(date_ms: int, sender: str, name: str, taken: Callable[[str], bool]) -> str:
    """``2026-11-23T14.46.02.123Z-alice-NAME`` for a message that is a folder: ``name`` (as it came
    from the network) always stands behind it. `` (2)`` at the end when taken."""
    stem = f"{_stamp(date_ms)}-{sender}-{shown_file_name(name)}"
    return _free(_cut(stem, FILE_NAME_MAX - _COUNT_ROOM), "", taken)


def free_name(name: str, taken: Callable[[str], bool]) -> str:
    """``name``, with a number before its extension when it is taken; cut then, where the number
    would make it longer than a name may be."""
    body, extension = split_name(name)
    if taken(name):
        body = _cut(body, FILE_NAME_MAX - _COUNT_ROOM - len(extension.encode()))
    return _free(body, extension, taken)


def error_file_name(name: str, taken: Callable[[str], bool]) -> str:
    """``NAME.error``, what tells of a problem with ``name``: cut where it would be longer than a
    name may be, and numbered when taken."""
    if len(name.encode()) + len(ERROR_SUFFIX) > FILE_NAME_MAX or taken(name + ERROR_SUFFIX):
        name = _cut(name, FILE_NAME_MAX - _COUNT_ROOM - len(ERROR_SUFFIX))
    return _free(name, ERROR_SUFFIX, taken)


def shown_file_name(untrusted: str) -> str:
    """Any text as a file name of at most 255 bytes; the extension survives the cut. Refused
    characters become ``_``, and so does a leading dot or dash. What is a file name
    already stays as it is.
    """
    shown = _visible(untrusted)
    if not shown:
        return _REPLACEMENT
    if shown[0] in ".-":
        shown = _REPLACEMENT + shown[1:]
    body, extension = split_name(shown)
    cut = _cut(body, FILE_NAME_MAX - len(extension.encode())) + extension
    return cut if cut == cut.rstrip(" .") else shown_file_name(cut)


def split_name(name: str) -> tuple[str, str]:
    """Body and extension with its dot: an extension is of 1 to 32 bytes, without a space, behind a
    body; else it is empty."""
    body, dot, extension = name.rpartition(".")
    short = 0 < len(extension.encode()) <= _EXTENSION_MAX
    if not dot or not body or not short or not extension.isprintable() or " " in extension:
        return name, ""
    return body, dot + extension


def _stamp(milliseconds: int) -> str:
    when = moment(milliseconds)
    return f"{when:%Y-%m-%dT%H.%M.%S}.{when.microsecond // 1000:03}Z"


def _visible(text: str) -> str:
    """Composed (NFC), without a character that a directory must not hold; no space at the ends
    and no dot at the last, which Windows drops."""
    composed = unicodedata.normalize("NFC", text)
    shown = "".join(
        _REPLACEMENT if c in _REFUSED or unicodedata.category(c) in _INVISIBLE else c
        for c in composed
    )
    return shown.strip(" ").rstrip(" .")


def _cut(text: str, size: int) -> str:
    """At most ``size`` bytes of UTF-8, cut between characters."""
    return text.encode()[:size].decode(errors="ignore").rstrip(" ")


def _listed(others: Sequence[str]) -> str:
    """``-bob-carol``, in at most the half of a name, so that the subject is seen too."""
    listed = ""
    for index, name in enumerate(others):
        if len(listed) + len(name) > FILE_NAME_MAX // 2:
            return f"{listed}-and-{len(others) - index}-more"
        listed += f"-{name}"
    return listed


def _free(stem: str, extension: str, taken: Callable[[str], bool]) -> str:
    """The name, or the name with a number that is free. Whoever sends many messages of one date
    costs a logarithm of lookups each, not one lookup for each that is there."""
    if not taken(stem + extension):
        return stem + extension

    def name(number: int) -> str:
        return f"{stem} ({number}){extension}"

    below, free = 1, 2
    while taken(name(free)):
        below, free = free, free * 2
    while free - below > 1:
        middle = (below + free) // 2
        if taken(name(middle)):
            below = middle
        else:
            free = middle
    return name(free)
