"""Who somebody is, among all directories: a name, and the directory that has it. PROTOCOL.rst,
Names and profiles."""

import base64
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from cbfs_common.errors import DecodeError
from cbfs_common.limits import NAME_MAX, NAME_MIN, NAMESPACE_MAX
from cbfs_common.primitives import kdf

DIRECTORY_SIZE = 16

_NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*\Z")
_NAMESPACE = re.compile(r"[a-z0-9]+(?:[-.][a-z0-9]+)*\Z")
_DIRECTORY_TEXT = re.compile(r"_[a-z2-7]{26}\Z")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])\Z")


def check_name(name: str) -> str:
    """Give ``name`` back, or raise DecodeError: 3 to 32 of [a-z0-9] with single inner - or _,
    and no device name of Windows (names become file names). Design: names.md."""
    if not _is_name(name):
        raise DecodeError(
            "not a user name",
            f"names have {NAME_MIN} to {NAME_MAX} of a-z and 0-9, with single - or _ inside",
        )
    return name


@lru_cache(maxsize=1_024)
def _is_name(name: str) -> bool:
    """Remembered, as each message has the names of its people looked at many times."""
    right = NAME_MIN <= len(name) <= NAME_MAX and _NAME.match(name)
    return bool(right) and not _DEVICE.match(name)


def directory_id(log: bytes) -> bytes:
    """What stands for a name directory (16), from the Ed25519 key of its log (32)."""
    return kdf(b"", b"cbfs1 directory", log, DIRECTORY_SIZE)


class Person(NamedTuple):
    """One person: the ``directory`` (16) that has their ``name``. Sorts by directory, then name."""

    directory: bytes
    name: str

    def encode(self) -> bytes:
        """directory 16 | length of the name u8 | name."""
        name = self.name.encode("ascii")
        return self.directory + bytes([len(name)]) + name

    def checked(self) -> "Person":
        """This person, of whom nothing has been looked at before. Raises DecodeError."""
        if not isinstance(self.directory, bytes) or len(self.directory) != DIRECTORY_SIZE:
            raise DecodeError("not a person")
        if not isinstance(self.name, str):
            raise DecodeError("not a person")
        check_name(self.name)
        return self


def check_namespace(namespace: str) -> str:
    """Give ``namespace`` back, or raise DecodeError: 1 to 64 of [a-z0-9] with single inner - or .,
    as the names of hosts are."""
    if len(namespace) > NAMESPACE_MAX or not _NAMESPACE.match(namespace):
        raise DecodeError(
            "not a namespace", "a namespace is of a-z and 0-9, with single . or - inside"
        )
    return namespace


class Directories:
    """People as texts, as who is of the directory ``own`` (16) calls them: ``bob`` of their own
    directory, ``bob@_DIRECTORY`` of another, which is in lower-case base32 without padding. No
    namespace has an underscore. A text has one person, and a person one text, whatever directories
    are followed."""

    def __init__(self, own: bytes) -> None:
        self.own = own

    def text(self, person: Person) -> str:
        """What somebody is called."""
        if person.directory == self.own:
            return person.name
        return f"{person.name}@{directory_text(person.directory)}"

    def person(self, text: str) -> Person:
        """Who is called so. Raises DecodeError for what is no such text."""
        name, at, place = text.partition("@")
        directory = read_directory_text(place) if at else self.own
        if at and directory == self.own:
            raise DecodeError("not a person")
        return Person(directory, check_name(name))

    def texts(self, people: Iterable[Person]) -> tuple[str, ...]:
        """What these are called, sorted."""
        return tuple(sorted(map(self.text, people)))

    def people(self, texts: Iterable[str]) -> tuple[Person, ...]:
        """Who these are, sorted as on the wire. Raises DecodeError."""
        return tuple(sorted(map(self.person, texts)))


def directory_text(directory: bytes) -> str:
    """A directory (16) as a text: ``_`` and 26 letters and digits."""
    return "_" + base64.b32encode(directory).decode("ascii").rstrip("=").lower()


def read_directory_text(text: str) -> bytes:
    """Undo ``directory_text``. Raises DecodeError."""
    if not _DIRECTORY_TEXT.match(text):
        raise DecodeError("not a directory")
    directory = base64.b32decode(text[1:].upper() + "=" * 6)
    if directory_text(directory) != text:  # bits behind the last byte
        raise DecodeError("not a directory")
    return directory
