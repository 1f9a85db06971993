"""Each MUST and MUST NOT of the specification has a test or vectors that hold it: ``musts.txt``."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.proofs import proven
from tests.protocol.test_vectors import SPECIFICATION
from tests.support.vectors import schema

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).parent / "musts.txt"
_ITEM = re.compile(r"\s*(?:[0-9]+\.|-|\*) ")
_END = re.compile(r"(?<=[.:;])(?:\*\*)? (?=[A-Z`*(])")


def paragraphs(text: str) -> Iterator[str]:
    """Each with its lines in one; an item of a list is one by itself."""
    lines: list[str] = []
    for line in [*text.split("\n"), ""]:
        if lines and (not line.strip() or _ITEM.match(line)):
            yield " ".join(" ".join(lines).split())
            lines = []
        if line.strip():
            lines.append(line)


def rules(text: str) -> list[str]:
    """The sentences of a document that have a MUST in them."""
    sentences = (each for one in paragraphs(text) for each in _END.split(one))
    return [each for each in sentences if re.search(r"\bMUST\b", each) and "RFC 2119" not in each]


def table(text: str) -> dict[str, list[tuple[str, list[str]]]]:
    """By document: words of a sentence, and what holds it."""
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for part in text.split("\n## ")[1:]:
        name, *blocks = part.split("\n")
        rows = found.setdefault(name, [])
        for line in blocks:
            if line.startswith("    "):
                words, evidence = rows[-1]
                rows[-1] = (words, evidence + [e for e in line.strip().split(", ") if e])
            elif line.strip():
                rows.append((line, []))
    return {
        name: [(words, [each.removesuffix(",") for each in held]) for words, held in rows]
        for name, rows in found.items()
    }


HELD = table(TABLE.read_text())


@pytest.mark.parametrize("document", SPECIFICATION, ids=lambda path: path.name)
def test_each_rule_is_in_the_table_and_the_other_way_round(document: Path) -> None:
    sentences = rules(document.read_text())
    words = [words for words, _held in HELD.get(document.name, [])]
    assert not [each for each in sentences if not any(some in each for some in words)]
    assert not [some for some in words if sum(some in each for each in sentences) != 1]


def test_what_holds_a_rule_is_there() -> None:
    tests = {
        f"{path.stem}.{name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    kinds = {f"{file}.json {kind}" for file, kinds in schema().items() for kind in kinds}
    assert proven("transport", "hidden", "-") == "true"
    there = tests | kinds | {"transport.pv:hidden"}
    for document, rows in HELD.items():
        for words, held in rows:
            assert held, f"{document}: {words}"
            if not held[0].startswith("not tested: "):
                assert not [each for each in held if each not in there], f"{document}: {words}"


@pytest.mark.parametrize("document", SPECIFICATION, ids=lambda path: path.name)
def test_what_is_forbidden_is_said_so(document: Path) -> None:
    """That nothing MUST be kept would be that all may be."""
    text = " ".join(document.read_text().split())
    assert not re.findall(r"\b(?:[Nn]othing|[Nn]obody|[Nn]one|[Nn]or|[Nn]either) MUST\b", text)


def test_a_rule_without_a_row_and_a_row_without_a_rule_are_found() -> None:
    text = "A thing MUST be so. Another may.\n\n1. One\n   MUST NOT\n   do it.\n2. Two.\n"
    assert rules(text) == ["A thing MUST be so.", "One MUST NOT do it."]
    made = table(
        "words\n\n## a.rst\n\nMUST be so\n    test_a.test_b,\n    c.json d, test_e.test_f\n"
    )
    assert made == {"a.rst": [("MUST be so", ["test_a.test_b", "c.json d", "test_e.test_f"])]}
