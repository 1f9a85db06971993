"""Models of ProVerif (``*.pv``), their cases, and what ProVerif says of each (``*.results``).

The comment at the top of a model names its queries, in the order in which they stand below, and its
cases: ``case:`` and then cases; ``each NAMES``, one for each name; ``pairs NAMES``, one for each
two. ``-`` is the text as it stands. The cases NAME and NAME+NAME change it line by line, in the
model and in ``primitives.pvl``: lines ``(*+ NAME ... *)`` count, and lines with ``(*- NAME *)`` at
their end do not. ``without:`` has cases whose first name takes a rule of the protocol out: what is
true in the case of the other names must not all be so there.
"""

import hashlib
import re
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

HERE = Path(__file__).parent
PRIMITIVES = HERE / "primitives.pvl"
SAID = {"true": "true", "false": "false", "cannot be proved": "unknown"}
"""What ProVerif says of a query, and how a results file has it."""
NO_END, NOT_ASKED = "no end", "-"

_ADDED = re.compile(r"^(?P<indent>\s*)\(\*\+ (?P<name>\w+) (?P<line>.*) \*\)$")
_DROPPED = re.compile(r"^(?P<line>.*\S)\s+\(\*- (?P<name>\w+) \*\)$")
_QUERY = re.compile(r"^(?:\(\*\+ \w+ )?query .*$", re.MULTILINE)
_SAID = re.compile(r"^RESULT (?!\(even).* (true|false|cannot be proved)\.$", re.MULTILINE)


@dataclass(frozen=True)
class Model:
    """A file of ProVerif: its text, the names of its queries and its cases."""

    path: Path
    text: str
    queries: tuple[str, ...]
    cases: tuple[str, ...]
    without: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the primitives and the model, in hexadecimal digits."""
        return hashlib.sha256((PRIMITIVES.read_text() + self.text).encode()).hexdigest()

    @property
    def results(self) -> Path:
        return self.path.with_suffix(".results")


@dataclass(frozen=True)
class Results:
    """A results file: ProVerif's version, the digest of the model, and what was said by case."""

    version: str
    digest: str
    queries: tuple[str, ...]
    said: dict[str, tuple[str, ...]]


def _expand(words: list[str]) -> list[str]:
    if words[0] == "each":
        return words[1:]
    if words[0] == "pairs":
        return ["+".join(pair) for pair in combinations(words[1:], 2)]
    return words


def models() -> list[Model]:
    return [read(path) for path in sorted(HERE.glob("*.pv"))]


def read(path: Path) -> Model:
    """A model. ValueError if its top does not fit the rest."""
    text = path.read_text()
    top, _, rest = text.partition("*)\n")
    queries = re.findall(r"^ +query (\w+):", top, re.MULTILINE)
    lines = re.findall(r"^ +(case|without): (.*)$", top, re.MULTILINE)
    cases = [case for _, line in lines for case in _expand(line.split())]
    without = [case for kind, line in lines if kind == "without" for case in line.split()]
    if len(cases) != len(set(cases)) or not cases or cases[0] != "-":
        raise ValueError(f"{path.name}: cases stand once, and the first is -")
    if len(queries) != len(_queries(rest)):
        raise ValueError(f"{path.name}: the queries at the top are not those below")
    unused = _marks(rest) - {name for case in cases for name in case.split("+")}
    if unused:
        raise ValueError(f"{path.name}: marks that no case has: {unused}")
    return Model(path, text, tuple(queries), tuple(cases), tuple(without))


def _queries(text: str) -> list[str]:
    """Lines with a query. A process with choices and no query is one: are both the same?"""
    return _QUERY.findall(text) or ["query"] * ("choice[" in text)


def _marks(text: str) -> set[str]:
    found = (_ADDED.match(line) or _DROPPED.match(line) for line in text.splitlines())
    return {match["name"] for match in found if match}


def in_case(text: str, case: str) -> str:
    """The text of a model, or of the primitives, in a case."""
    names = set(case.split("+"))
    lines = []
    for line in text.splitlines():
        added, dropped = _ADDED.match(line), _DROPPED.match(line)
        if added:
            lines.append(added["indent"] + added["line"] if added["name"] in names else "")
        elif dropped:
            lines.append("" if dropped["name"] in names else dropped["line"])
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def check_case(model: Model, case: str) -> None:
    """ValueError if a name of the case marks nothing."""
    marks = _marks(model.text) | _marks(PRIMITIVES.read_text())
    unknown = set(case.split("+")) - marks - {"-"}
    if unknown:
        raise ValueError(f"{model.path.name}: no line is marked by {unknown}")


def parse_output(model: Model, case: str, output: str) -> tuple[str, ...]:
    """What ProVerif said of each query of a model. ValueError if that is not one word for each that
    it was asked."""
    said = [SAID[word] for word in _SAID.findall(output)]
    asked = [in_case(line, case).startswith("query") for line in _queries(model.text)]
    if len(said) != sum(asked):
        raise ValueError(f"{model.path.name}, {case}: {output[-2000:]}")
    return tuple(said.pop(0) if is_asked else NOT_ASKED for is_asked in asked)


def write_results(results: Results) -> str:
    """The text of a results file."""
    rows = [("", *results.queries), *((case, *said) for case, said in results.said.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([f"ProVerif {results.version}", f"sha256 {results.digest}", "", *table, ""])


def read_results(path: Path) -> Results:
    """A results file. ValueError if it is none."""
    lines = path.read_text().splitlines()
    head = [re.fullmatch(r"ProVerif (\S+)|sha256 ([0-9a-f]{64})", line) for line in lines[:2]]
    if len(lines) < 5 or not all(head) or lines[2]:
        raise ValueError(f"{path.name}: no results file")
    version, digest = lines[0].split()[1], lines[1].split()[1]
    said = {}
    for line in lines[4:]:
        case, *words = re.split(r"  +", line)
        if case in said or not set(words) <= {*SAID.values(), NO_END, NOT_ASKED}:
            raise ValueError(f"{path.name}: {line}")
        said[case] = tuple(words)
    return Results(version, digest, tuple(lines[3].split()), said)


def proven(model: str, query: str, case: str) -> str:
    """What the results file of a model says of a query in a case: true, false, unknown (neither is
    proven), no end or -. KeyError if there is no such query or case."""
    results = read_results(HERE / f"{model}.results")
    return dict(zip(results.queries, results.said[case], strict=True))[query]
