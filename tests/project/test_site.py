"""The site of all documents: it can be made, and its links lead somewhere. What the pages for new
users have people type is there to be typed."""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from cbfs.commands.main import COMMANDS
from cbfs.commands.reading.status_record import SECTIONS
from tests.support.world import WAIT

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / name for name in ("first-hour.rst", "faq.rst")]


class Links(HTMLParser):
    """Where a page leads, and what it has that can be led to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"href", "src"} and value:
                self.targets.append(value)
            if name == "id" and value:
                self.ids.add(value)


def dead(site: Path) -> Iterator[str]:
    """Links within the site that lead nowhere."""
    pages = {page.resolve(): Links(page) for page in site.rglob("*.html")}
    assert len(pages) > 20
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            found = pages.get(file)
            lost = parts.fragment and found and unquote(parts.fragment) not in found.ids
            if not file.exists() or lost:
                yield f"{page.relative_to(site.resolve())}: {target}"


@pytest.mark.slow
def test_the_site_is_made_without_a_warning_and_no_link_is_dead(tmp_path: Path) -> None:
    made = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"),
            *("-d", tmp_path / "read", "-c", "docs", ".", tmp_path / "site"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=4 * WAIT,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert not list(dead(tmp_path / "site"))
    manual = next((tmp_path / "site" / "man").glob("cbfs.h*")).read_text()
    assert "cbfs messages" in manual
    for page in ("first-hour", "faq", "operating"):
        assert (tmp_path / "site" / "docs" / f"{page}.html").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_and_options_that_new_users_are_told_of_are_there(page: Path) -> None:
    text = page.read_text().replace("\n", " ")
    commands = re.findall(r"(?:``|    )cbfs\s+([a-z][\w-]*)", text)
    assert len(commands) > 3
    assert not set(commands) - set(COMMANDS)
    manual = "".join(path.read_text() for path in (ROOT / "man").iterdir()).replace("\\-", "-")
    options = re.findall(r"(?<=[ `])(--[a-z][a-z-]*)", text)
    assert not {option for option in options if option not in manual}


def test_the_answer_about_a_message_that_has_not_arrived_quotes_status() -> None:
    text = " ".join(PAGES[1].read_text().split())
    quoted = {words.lower() for words in re.findall(r"- \*([A-Z][^*]*:)\*", text)}
    assert len(quoted) == 3
    assert quoted <= set(SECTIONS)
