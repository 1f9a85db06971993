"""Reading vector files, strictly: tests/vectors/README.rst says which fields there are, and what is
not in it fails.

A reader is what an implementation makes of one kind of case: it takes what is given, by name, and
gives the rest, or raises. There are two of each: the programs' and a naive one.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "vectors"
README = FOLDER / "README.rst"

Reader = Callable[..., dict[str, Any]]
Readers = Mapping[tuple[str, str], Reader]
"""By file, without its ending, and kind."""

_KIND = re.compile(r"    ([a-z][a-z0-9-]*(?: [a-z0-9-]+)*): \S.*")
_FIELD = re.compile(r"    (given|gives)  +([a-z_0-9]+)  +(\S+)(?:  +\S.*)?")
_ERRORS = re.compile(r"    error  +(\S.*)")


@dataclass
class Kind:
    """One kind of case: what is ``given``, and what it ``gives``, by name and type; and the errors
    that may stand in the place of that."""

    given: dict[str, str] = field(default_factory=dict)
    gives: dict[str, str] = field(default_factory=dict)
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One case of a file, with bytes as such. ``gives`` is None where there is an ``error``."""

    file: str
    kind: str
    name: str
    given: dict[str, Any]
    gives: dict[str, Any] | None
    error: str = ""

    @property
    def id(self) -> str:
        """What a test is called by it."""
        return f"{self.file} {self.kind}: {self.name}"


@cache
def schema() -> dict[str, dict[str, Kind]]:
    """What README.rst says: of each file, its kinds."""
    return read_schema(README.read_text())


def read_schema(text: str) -> dict[str, dict[str, Kind]]:
    """Kinds stand in literal blocks below the title of their file."""
    files: dict[str, dict[str, Kind]] = {}
    kind: Kind | None = None
    lines = text.split("\n")
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if below.startswith("===") and line.endswith(".json"):
            kinds = files.setdefault(line.removesuffix(".json"), {})
            kind = None
        elif found := _FIELD.fullmatch(line):
            assert kind is not None, line
            (kind.given if found[1] == "given" else kind.gives)[found[2]] = found[3]
        elif found := _ERRORS.fullmatch(line):
            assert kind is not None, line
            kind.errors += tuple(found[1].split(", "))
        elif found := _KIND.fullmatch(line):
            assert found[1] not in kinds, line
            kind = kinds[found[1]] = Kind()
        else:
            assert not re.match("    (?:given|gives|error) ", line), line
    return files


@cache
def vectors(file: str) -> dict[str, list[Case]]:
    """The cases of a file by their kinds. Whatever is not as the README says fails."""
    return read_vectors(file, json.loads((FOLDER / f"{file}.json").read_text()))


def read_vectors(file: str, found: Any) -> dict[str, list[Case]]:
    """The same of what the file holds."""
    kinds = schema()[file]
    assert list(found) == list(kinds), f"{file}: kinds of cases other than in the README"
    return {kind: _cases(file, kind, kinds[kind], found[kind]) for kind in kinds}


def every_case() -> Iterator[Case]:
    """Of all files."""
    for file in schema():
        for cases in vectors(file).values():
            yield from cases


def _cases(file: str, name: str, kind: Kind, found: Any) -> list[Case]:
    cases: dict[str, Case] = {}
    assert found, f"{file}: no case of {name}"
    for raw in found:
        assert type(raw["name"]) is str and raw["name"] not in cases, raw["name"]
        wanted = {"name", *kind.given}
        wanted |= {"error"} if "error" in raw else set(kind.gives)
        assert set(raw) == wanted, f"{file}, {name}, {raw['name']}: {set(raw) ^ wanted}"
        given = {
            key: _value(type_, _whole(cases, key, raw[key])) for key, type_ in kind.given.items()
        }
        case = Case(file, name, raw["name"], given, None)
        if "error" in raw:
            assert raw["error"] in kind.errors, f"{file}, {name}: {raw['error']}"
            case = replace(case, error=raw["error"])
        else:
            case = replace(case, gives={key: _value(t, raw[key]) for key, t in kind.gives.items()})
        cases[case.name] = case
    return list(cases.values())


def _whole(cases: Mapping[str, Case], key: str, value: Any) -> Any:
    """Bytes that are those of an earlier case with some of them changed."""
    if type(value) is not dict:
        return value
    assert set(value) == {"base", "offset", "xor"}, value
    data = bytearray(cases[value["base"]].given[key])
    change = bytes.fromhex(value["xor"])
    assert change.strip(b"\0"), "nothing is changed"
    assert 0 <= value["offset"] <= len(data) - len(change)
    for at, xor in enumerate(change, value["offset"]):
        data[at] ^= xor
    return data.hex()


_PLAIN: dict[str, type] = {"text": str, "number": int, "flag": bool}


def _value(type_: str, value: Any) -> Any:
    """A value of one of the README's types: bytes, text, number, flag; ``[T]`` is any number of
    them, ``(T,U)`` one of each, ``T?`` one or null."""
    if type_.endswith("?"):
        return None if value is None else _value(type_[:-1], value)
    if type_ in _PLAIN:
        assert type(value) is _PLAIN[type_], f"{value!r} is no {type_}"
        return value
    if type_ == "value":
        if type(value) is list:
            return [_value(type_, item) for item in value]
        if type(value) is dict:
            assert list(value) == ["text"], value
            return _value("text", value["text"])
        return value if type(value) in {int, bool} else _value("bytes", value)
    if type_ == "bytes":
        assert type(value) is str and re.fullmatch("(?:[0-9a-f]{2})*", value), f"{value!r}"
        return bytes.fromhex(value)
    assert type(value) is list, f"{value!r} is no {type_}"
    if type_[0] == "[":
        return [_value(type_[1:-1], item) for item in value]
    return [_value(t, v) for t, v in zip(_apart(type_[1:-1]), value, strict=True)]


def _apart(types: str) -> list[str]:
    """What stands between the commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in types:
        depth += letter in "[("
        depth -= letter in ")]"
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def plain(value: Any) -> Any:
    """A value that a reader has given, with lists for tuples."""
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def outcome(readers: Readers, named: Callable[[Exception], str], case: Case) -> Any:
    """What a reader makes of a case: what it gives, or the name of the error."""
    try:
        return {
            key: plain(value) for key, value in readers[case.file, case.kind](**case.given).items()
        }
    except Exception as error:
        return named(error)


def expected(case: Case) -> Any:
    """What any reader must make of it."""
    return case.error or case.gives
