"""The vectors in tests/vectors, each case read twice: by the programs' code, and by a naive
implementation from the text. README.rst there says what stands in them."""

import ast
import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cbfs_common.names.faults import Fault
from cbfs_common.names.operations import Refusal
from tests.support import (
    naive_blobs,
    naive_checks,
    naive_layouts,
    naive_marks,
    naive_messages,
    naive_names,
    naive_policies,
    naive_rounds,
    naive_servers,
    naive_sessions,
    vector_code,
)
from tests.support.vectors import (
    FOLDER,
    README,
    Case,
    Kind,
    Readers,
    every_case,
    expected,
    outcome,
    read_schema,
    read_vectors,
    schema,
)
from tests.vectors.cases import changed
from tests.vectors.make import FILES, text_of

ROOT = Path(__file__).parents[2]
SPECIFICATION = [
    ROOT / "common/PROTOCOL.rst",
    *sorted((ROOT / "common/protocol").glob("*.rst")),
]
NAIVE: Readers = {
    **naive_messages.READERS,
    **naive_sessions.READERS,
    **naive_servers.READERS,
    **naive_marks.READERS,
    **naive_blobs.READERS,
    **naive_names.READERS,
    **naive_rounds.READERS,
    **naive_policies.READERS,
    **naive_checks.READERS,
}
BY: dict[str, tuple[Readers, Callable[[Exception], str]]] = {
    "code": (vector_code.READERS, vector_code.named),
    "naive": (NAIVE, naive_layouts.named),
}
CASES = list(every_case())


def read(*files: str) -> pytest.MarkDecorator:
    """All cases of these files, read by each of the two."""
    chosen = [(case, by) for case in CASES if case.file in files for by in BY]
    ids = [f"{case.id} by {by}" for case, by in chosen]
    return pytest.mark.parametrize(("case", "by"), chosen, ids=ids)


@read("primitives", "ed25519")
def test_primitives(case: Case, by: str) -> None:
    assert outcome(*BY[by], case) == expected(case)


@read("profile", "prekey")
def test_profiles_and_prekeys(case: Case, by: str) -> None:
    assert outcome(*BY[by], case) == expected(case)


@read("message", "folder", "conversation")
def test_messages(case: Case, by: str) -> None:
    assert outcome(*BY[by], case) == expected(case)


@read("session")
def test_sessions(case: Case, by: str) -> None:
    assert outcome(*BY[by], case) == expected(case)


@read("transport")
def test_transport(case: Case, by: str) -> None:
    assert outcome(*BY[by], case) == expected(case)


@read("server", "marks", "blobs")
def test_message_server(case: Case, by: str) -> None:
    assert outcome(*BY[by], case) == expected(case)


@read(*(file for file in schema() if file.startswith("names-")))
def test_name_directory(case: Case, by: str) -> None:
    assert outcome(*BY[by], case) == expected(case)


def test_every_file_is_read() -> None:
    read_by_one = [mark.args[1] for mark in _marks()]
    files = [case.file for chosen in read_by_one for case, _ in chosen]
    assert len(files) == len(CASES) * len(BY)
    assert set(files) == set(schema())


def _marks() -> list[pytest.Mark]:
    tests = [
        test_primitives,
        test_profiles_and_prekeys,
        test_messages,
        test_sessions,
        test_transport,
        test_message_server,
        test_name_directory,
    ]
    return [mark for test in tests for mark in test.pytestmark]  # type: ignore[attr-defined]


def test_every_kind_has_two_readers() -> None:
    kinds = {(file, kind) for file, kinds in schema().items() for kind in kinds}
    for by, (readers, _) in BY.items():
        assert set(readers) == kinds, by


@pytest.mark.parametrize("file", FILES)
def test_the_files_are_what_their_makers_make(file: str) -> None:
    assert (FOLDER / f"{file}.json").read_text() == text_of(file)


def test_there_are_no_other_files() -> None:
    there = {path.stem for path in FOLDER.glob("*.json")}
    assert there == set(schema())


def test_the_naive_readers_share_nothing_with_the_code() -> None:
    for path in (ROOT / "tests/support").glob("naive_*.py"):
        assert not {name for name in _imports(path) if name.split(".")[0].startswith("cbfs")}


def _imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, and those of the tests that they import."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            yield node.module
            below = ROOT / (node.module.replace(".", "/") + ".py")
            if node.module.startswith("tests."):
                yield from _imports(below)


def test_every_error_is_one_of_the_text() -> None:
    table = "\n".join(path.read_text() for path in SPECIFICATION)
    for file, kinds in schema().items():
        for kind in kinds.values():
            for error in kind.errors:
                assert re.search(rf"^(?:[0-9]+ +)?{re.escape(error)}(?:  .*)?$", table, re.M), (
                    f"{file}: {error}"
                )


def test_what_must_be_done_stands_apart_from_reasons() -> None:
    reasons = []
    for path in SPECIFICATION:
        title = ""
        lines = path.read_text().splitlines()
        for line, below in zip(lines, [*lines[1:], ""], strict=True):
            if re.fullmatch(r"([=~-])\1{3,}", below) and line and line[0] != below[0]:
                title = line
            if re.match(r"(?:Why|What it) ", title):
                reasons.append(title)
                assert not re.search(r"\b(?:MUST|SHOULD|MAY)\b", line), f"{title}: {line}"
    assert len(set(reasons)) >= 3


def test_reasons_and_faults_of_the_directory_are_those_of_the_code() -> None:
    text = (ROOT / "common/protocol/names.rst").read_text()
    reasons, _, faults = text.partition("\nChecks\n------\n")
    rows = re.findall(r"^([0-9]+) +([A-Z_]+)  ", reasons.partition("Reasons to refuse")[2], re.M)
    assert rows == [(str(int(each)), each.name) for each in Refusal]
    names = re.findall(r"^([A-Z_]+)  ", faults.partition("The errors of answers")[2], re.M)
    assert set(names) == {each.name for each in Fault}


# A runner that cannot fail is a defect


def _mutated(value: Any) -> Any:
    """A value of its type, changed as little as may be."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, bytes):
        return bytes([value[0] ^ 0x10]) + value[1:] if value else b"\0"
    if isinstance(value, str):
        return value + "x"
    if value is None:
        return 0
    assert isinstance(value, list)
    return [_mutated(value[0]), *value[1:]] if value else [0]


def _samples() -> list[Case]:
    """The first case of each kind that gives something, and the first that is refused."""
    found: dict[tuple[str, str, bool], Case] = {}
    for case in CASES:
        found.setdefault((case.file, case.kind, case.gives is None), case)
    return list(found.values())


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("case", _samples(), ids=lambda case: case.id)
def test_a_changed_byte_of_what_is_expected_fails(case: Case, by: str) -> None:
    got = outcome(*BY[by], case)
    if case.gives is None:
        for other in ("", "malformed", "refused", "later"):
            assert (got == other) is (case.error == other)
    for name, value in (case.gives or {}).items():
        changed = {**(case.gives or {}), name: _mutated(value)}
        assert got != changed, f"{name} is not looked at"


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize(
    "case", [each for each in _samples() if each.gives], ids=lambda case: case.id
)
def test_all_that_is_given_counts(case: Case, by: str) -> None:
    """What a runner does not look at would be no part of the case."""
    same = [other for other in CASES if (other.file, other.kind) == (case.file, case.kind)]
    for name in case.given:
        heard = any(_counts(each, name, by) for each in same if each.gives is not None)
        assert heard, f"{name} makes no difference"


def _counts(case: Case, name: str, by: str) -> bool:
    given = {**case.given, name: _mutated(case.given[name])}
    other = Case(case.file, case.kind, case.name, given, case.gives)
    try:
        return bool(outcome(*BY[by], other) != case.gives)
    except Exception:  # of a value that no case has, such as a size that is none
        return True


def _file() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "profile.json").read_text())
    return found


def test_unknown_names_fail() -> None:
    right = _file()
    read_vectors("profile", right)
    changes: list[Callable[[dict[str, Any]], object]] = [
        lambda file: file.update({"more": []}),
        lambda file: file.pop("kem"),
        lambda file: file.update({"kem": []}),
        lambda file: file["kem"][0].update({"more": 1}),
        lambda file: file["kem"][0].pop("ek"),
        lambda file: file["kem"][0].pop("kem"),
        lambda file: file["kem"][0].update({"error": "malformed"}),
        lambda file: file["name"][-1].update({"error": "wrong"}),
        lambda file: file["name"].append(file["name"][0]),
        lambda file: file["kem"][0].update({"kem": 1}),
        lambda file: file["kem"][0].update({"kem": "zz"}),
        lambda file: file["kem"][0].update({"kem": "AA"}),
        lambda file: file["profile"][0].update({"port": "7000"}),
        lambda file: file["profile"][0].update({"port": True}),
        lambda file: file["profile"][1].update({"encoded": changed("nothing", 0)}),
        lambda file: file["profile"][1].update({"encoded": changed("example.org", 0, "00")}),
        lambda file: file["profile"][1].update({"encoded": changed("example.org", 10_000)}),
    ]
    for number, change in enumerate(changes):
        wrong = copy.deepcopy(right)
        change(wrong)
        with pytest.raises((AssertionError, KeyError)):
            read_vectors("profile", wrong)
            raise ValueError(f"change {number} is not noticed")


def test_the_readme_says_what_it_means() -> None:
    text = (
        "a.json\n======\n\n::\n\n    k: x\n    given  a  bytes\n    gives  b  [(text,number?)]\n"
        "    error  malformed, refused\n"
    )
    kind = Kind({"a": "bytes"}, {"b": "[(text,number?)]"}, ("malformed", "refused"))
    assert read_schema(text) == {"a": {"k": kind}}
    with pytest.raises(AssertionError):
        read_schema(text.replace("given  a", "given a a"))
    assert README.exists()
