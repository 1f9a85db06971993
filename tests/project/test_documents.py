"""All documents are reStructuredText that can be shown: a table whose columns run into each other,
say, is none, and what is in it is lost."""

from pathlib import Path

import docutils.core
import pytest
from docutils import nodes

ROOT = Path(__file__).parents[2]
WARNING = 2


FOR_SPHINX = ROOT / "docs" / "index.rst"
"""A list of the others for the site (tests/project/test_site.py)."""


def documents() -> list[Path]:
    """Of this repository."""
    places = (ROOT, *(ROOT / name for name in ("common", "docs", "examples", "server", "tests")))
    return sorted(
        {
            path
            for place in places
            for path in (place.glob("*.rst") if place == ROOT else place.rglob("*.rst"))
            if path != FOR_SPHINX
        }
    )


def faults(text: str) -> list[str]:
    """What is wrong with a document, in words."""
    settings = {"report_level": 5, "halt_level": 5, "syntax_highlight": "none"}
    tree = docutils.core.publish_doctree(text, settings_overrides=settings)
    found = *tree.findall(nodes.system_message), *tree.parse_messages, *tree.transform_messages
    return [each.astext() for each in found if each["level"] >= WARNING]


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_a_document_is_what_it_looks_like(document: Path) -> None:
    assert faults(document.read_text()) == []


def test_a_table_that_is_none_is_found() -> None:
    table = "===  ===\none  two\n===  ===\na    b\n===  ===\n"
    assert faults(table) == []
    assert faults(table.replace("a    b", "abcd b")) != []
    assert faults("A line\nanother\n  and more\n") != []
