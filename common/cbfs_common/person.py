"""Who somebody is, among all directories: a name, and the directory that has it. PROTOCOL.rst,
Names and profiles."""

import re
from typing import NamedTuple

from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import NAME_MAX, NAME_MIN, NAMESPACE_MAX
from cbfs_common.primitives import kdf

DIRECTORY_SIZE = 16

_NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*\Z")
_NAMESPACE = re.compile(r"[a-z0-9]+(?:[-.][a-z0-9]+)*\Z")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])\Z")


def check_name(name: str) -> str:
    """Give ``name`` back, or raise DecodeError: 3 to 32 of [a-z0-9] with single inner - or _,
    and no device name of Windows (names become file names). Design: names.md."""
    if not NAME_MIN <= len(name) <= NAME_MAX or not _NAME.match(name) or _DEVICE.match(name):
        raise DecodeError(
            "not a user name",
            f"names have {NAME_MIN} to {NAME_MAX} of a-z and 0-9, with single - or _ inside",
        )
    return name


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


class UnknownDirectory(CbfsError):
    """Somebody of a directory whose policy one does not have: ``directory`` (16)."""

    def __init__(self, directory: bytes) -> None:
        super().__init__(
            "somebody is of a name directory that you do not follow",
            "only people of your own name directory can write to you",
        )
        self.directory = directory


class Directories:
    """The directories that an account follows, and its people as texts: ``bob`` of its own
    directory, ``bob@example.org`` of the one with the namespace ``example.org``."""

    def __init__(self, own: bytes, namespace: str) -> None:
        """``own``: the directory (16) that has one's own name, and the ``namespace`` of that."""
        self.own = own
        self._ids = {namespace: own}
        self._namespaces = {own: ""}

    def follow(self, directory: bytes, namespace: str) -> None:
        """Know another directory. Its namespace must not be another's."""
        if self._ids.setdefault(namespace, directory) != directory:
            raise ValueError("two directories of one namespace")
        self._namespaces.setdefault(directory, namespace)

    def namespace(self, directory: bytes) -> str:
        """The namespace of a directory (16) in texts, empty for one's own. Raises
        UnknownDirectory."""
        if directory not in self._namespaces:
            raise UnknownDirectory(directory)
        return self._namespaces[directory]

    def text(self, person: Person) -> str:
        """What a person is called here. Raises UnknownDirectory."""
        return qualified(person.name, self.namespace(person.directory))

    def person(self, text: str) -> Person:
        """Who is called so here. Raises DecodeError for what is no such text."""
        name, at, namespace = text.partition("@")
        directory = self._ids.get(namespace) if at else self.own
        if directory is None:
            raise DecodeError(f"no directory of the namespace {namespace} is followed")
        return Person(directory, check_name(name))


def qualified(name: str, namespace: str) -> str:
    """A name of the directory with this namespace, which is empty for one's own, as a text."""
    return f"{name}@{namespace}" if namespace else name
