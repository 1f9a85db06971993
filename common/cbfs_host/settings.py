"""The settings of a server: what a file in TOML says, what the command line says over it, and how
the file is read again while the server runs.

A key of the file is called as the option is, without ``--``. Whatever is in the file, it gives
values that are all right, or an error that says in which line what is wrong.
"""

import argparse
import difflib
import os
import re
import stat
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from cbfs_common.errors import DecodeError
from cbfs_host.complaints import HostError
from cbfs_host.listening import parse_place

FILE_MAX: Final = 65_536
"""Bytes of a file of settings."""

UNITS: Final = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value may be: its ``type`` in TOML, what to call it in ``words``, and ``read``, which
    makes the value of a text, as options have it, or raises DecodeError."""

    type: type
    words: str
    read: Callable[[str], Any]

    def of_toml(self, value: object) -> Any:
        """The value of one of TOML. Raises DecodeError."""
        if type(value) is not self.type:
            raise DecodeError("this is no value for it", f"it is {self.words}")
        return value if isinstance(value, bool) else self.read(str(value))

    def of_option(self, text: str) -> Any:
        """The value of a text; of a switch as TOML has it. Raises DecodeError."""
        if self.type is not bool:
            return self.read(text)
        if text not in ("true", "false"):
            raise DecodeError(f"{text!r} is no value for it", f"it is {self.words}")
        return text == "true"


@dataclass(frozen=True, slots=True)
class Several(Kind):
    """A list of values of one kind; an option that is given several times."""

    def of_toml(self, value: object) -> tuple[Any, ...]:
        """The values of a list of TOML. Raises DecodeError."""
        if type(value) is not list or any(type(each) is not self.type for each in value):
            raise DecodeError("this is no value for it", f"it is {self.words}")
        return tuple(self.read(each) for each in value)


def number(least: int, most: int) -> Kind:
    """A whole number."""
    words = f"a number from {least} to {most}"

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) or not least <= int(text) <= most:
            raise DecodeError(f"{text} is no value for it", f"it is {words}")
        return int(text)

    return Kind(int, words, read)


def size(least: int, most: int) -> Kind:
    """Bytes, as ``500M``, ``20G`` or ``1T``."""
    words = f'a size like "20G", from {least >> 20}M to {most >> 40}T'

    def read(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,9})([MGT])", text, re.ASCII)
        found = int(match[1]) * UNITS[match[2]] if match else -1
        if not least <= found <= most:
            raise DecodeError(f"{text!r} is no size for it", f"it is {words}")
        return found

    return Kind(str, words, read)


def place(port: int) -> Kind:
    """An address to listen on; ``port``: of an IPv6 address alone."""
    words = 'HOST:PORT, like "127.0.0.1:1984" or "[::1]:1984"'
    return Kind(str, words, lambda text: parse_place(text, port))


def several(kind: Kind) -> Several:
    """A list of them."""
    return Several(kind.type, f"a list of {kind.words}", kind.read)


def one_of(*words: str) -> Kind:
    """One of some words."""
    told = f"one of {', '.join(words)}"

    def read(text: str) -> str:
        if text not in words:
            raise DecodeError(f"{text!r} is no value for it", f"it is {told}")
        return text

    return Kind(str, told, read)


def _text(text: str) -> str:
    if not text or "\0" in text:
        raise DecodeError("it is empty", "leave it out, or give it a value")
    return text


SWITCH: Final = Kind(bool, "true or false", lambda text: text)
TEXT: Final = Kind(str, "a text in quotes", _text)
PATH: Final = Kind(str, "a path in quotes", lambda text: Path(_text(text)))


@dataclass(frozen=True, slots=True)
class ServerSetting:
    """One setting: ``--name`` on the command line, ``name`` in the file, ``field`` in the program.
    ``live``: it may change while the server runs. ``default``: when nobody says anything."""

    name: str
    kind: Kind
    help: str
    metavar: str = ""
    default: Any = None
    live: bool = False

    @property
    def field(self) -> str:
        """Its name in Python."""
        return self.name.replace("-", "_")


class Current(Generic[T]):
    """What is in force ``now``. Read it at each use: SIGHUP puts another in its place."""

    __slots__ = ("now",)

    def __init__(self, now: T) -> None:
        self.now = now


@dataclass(frozen=True, slots=True)
class Given:
    """What was said at the start: ``flags`` by field, which hold for good, and the ``path`` of the
    file, None when there is none."""

    settings: tuple[ServerSetting, ...]
    flags: dict[str, Any]
    path: Path | None

    def values(self) -> dict[str, Any]:
        """The value of every setting, by field, as the file is now. Raises HostError."""
        found = {each.field: each.default for each in self.settings}
        if self.path is not None:
            found |= load(self.path, self.settings)
        return found | self.flags


def add_settings(parser: argparse.ArgumentParser, settings: Sequence[ServerSetting]) -> None:
    """Give ``parser`` an option for each setting, and ``--settings``."""
    parser.add_argument(
        "--settings",
        metavar="FILE",
        type=Path,
        help="take from FILE, in TOML, what no option says; read again at SIGHUP",
    )
    for each in settings:
        words = f"{each.help} (default: {each.default})" if each.default else each.help
        if each.kind is SWITCH:
            action: type[argparse.Action] | str = argparse.BooleanOptionalAction
            parser.add_argument(f"--{each.name}", action=action, default=None, help=each.help)
            continue
        parser.add_argument(
            f"--{each.name}",
            metavar=each.metavar,
            type=_for_argparse(each.kind),
            action="append" if isinstance(each.kind, Several) else "store",
            help=words,
        )


def given(options: argparse.Namespace, settings: Sequence[ServerSetting]) -> Given:
    """What the command line has said."""
    flags = {each.field: getattr(options, each.field) for each in settings}
    said = {name: value for name, value in flags.items() if value is not None}
    lists = {
        name: tuple(value) if isinstance(value, list) else value for name, value in said.items()
    }
    return Given(tuple(settings), lists, options.settings)


def _for_argparse(kind: Kind) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind.read(text)
        except DecodeError as error:
            raise argparse.ArgumentTypeError(f"{error}: {error.hint}") from error

    return read


def load(path: Path, settings: Sequence[ServerSetting]) -> dict[str, Any]:
    """The values that a file gives, by field. Raises HostError, which says in which line what is
    wrong."""
    text = _read(path)
    try:
        found = tomllib.loads(text + "\n")  # so that an error at the end has a line
    except ValueError as error:  # of tomllib, or of a number without end
        raise HostError(f"{path} is not TOML: {error}", "texts stand in quotes") from error
    except RecursionError as error:
        raise HostError(
            f"{path} is not TOML: it goes too deep", "lists stand in no lists"
        ) from error
    known = {each.name: each for each in settings}
    values = {}
    for key, value in found.items():
        try:
            if key not in known:
                raise DecodeError("there is no such setting", _nearest(key, known))
            values[known[key].field] = known[key].kind.of_toml(value)
        except DecodeError as error:
            where = f"{path}, line {line_of(text, key)}, {key}"
            raise HostError(f"{where}: {error}", error.hint) from error
    return values


def _nearest(key: str, known: dict[str, ServerSetting]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else "the manual page lists them under OPTIONS"


def line_of(text: str, key: str) -> int:
    """The line, from 1, in which a key at the top of a file stands; 0 when it is written so that
    it is not found. Of lines that look so, it is the first before which all is TOML by itself."""
    lines = text.split("\n")
    word = re.escape(key)
    start = re.compile(rf"""\s*\[*\s*("{word}"|'{word}'|{word})\s*[=.\]]""")
    for number, line in enumerate(lines):
        if start.match(line) and _whole("\n".join(lines[:number])):
            return number + 1
    return 0


def _whole(text: str) -> bool:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _read(path: Path) -> str:
    """The text of a file of at most FILE_MAX bytes. Never waits: nobody is there to write into what
    is no file. Raises HostError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            data = file.read(FILE_MAX + 1) if regular else b""
    except OSError as error:
        raise HostError(
            f"{path} cannot be read: {error.strerror}", "give another file with --settings"
        ) from error
    if not regular or len(data) > FILE_MAX:
        raise HostError(
            f"{path} is no file of settings", f"it is a file of {FILE_MAX} bytes at most"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise HostError(f"{path}, line {line}: this is not UTF-8", "save it as UTF-8") from error
