"""How Sphinx makes one site of the documents, the specification and the manual pages: ./run docs.

The documents link to each other as files do, so that they can be read where the source is. Here
these links lead to the pages that are made of those files. Manual pages are shown as man(1) shows
them, by groff, a section each.
"""

import re
import subprocess
from pathlib import Path, PurePosixPath
from posixpath import normpath

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.parsers import Parser

ROOT = Path(__file__).resolve().parents[1]

project = "cbfs"
html_title = "cbfs"
html_theme = "alabaster"
html_theme_options = {
    "description": "Private messaging as a file system",
    "fixed_sidebar": True,
    "page_width": "70rem",
}
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
root_doc = "docs/index"
include_patterns = [
    *("README.rst", "CHANGES.rst", "CONTRIBUTING.rst"),
    *("docs/*.rst", "common/*.rst", "common/protocol/*.rst", "man/*"),
]
smartquotes = False
highlight_language = "none"

_COLUMNS = 90
_HEADING = re.compile(r"^(?=\S)", re.MULTILINE)


class ManualPage(Parser):
    """Reads a manual page: the text that groff makes of it, in sections."""

    supported = ("man",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Put the page into ``document``. Raises CalledProcessError for one that is none."""
        self.setup_parse(inputstring, document)
        shown = subprocess.run(
            ["groff", "-man", "-t", "-Tutf8", "-P-cbou", f"-rLL={_COLUMNS}n", "-rHY=0", "-dAD=l"],
            input=inputstring,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        head, *sections = _HEADING.split(shown.strip("\n"))[1:-1]
        page = nodes.section(ids=["page"])
        page += nodes.title(text=head.split()[0].lower().replace("(", " (").strip())
        for number, each in enumerate(sections):
            title, _, body = each.partition("\n")
            section = nodes.section(ids=[f"section-{number}"])
            section += nodes.title(text=title.strip().capitalize())
            section += nodes.literal_block(text=body.strip("\n"), language="none")
            page += section
        document += page
        self.finish_parse()


def _lead_to_pages(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Let links to files of the source lead to their pages; those that have none become text."""
    for link in list(doctree.findall(nodes.reference)):
        target = link.get("refuri", "")
        path, mark, part = target.partition("#")
        if not path or ":" in path or link.get("internal"):
            continue
        file = normpath(str(PurePosixPath(docname).parent / path))
        page = file.removesuffix(".rst").removesuffix(".1").removesuffix(".8")
        if page != file and page in app.env.found_docs:
            link["refuri"] = app.builder.get_relative_uri(docname, page) + mark + part
        elif (ROOT / file).exists():
            link.replace_self(nodes.literal(text=link.astext()))


def setup(app: Sphinx) -> None:
    """Add what reads manual pages, and what follows links."""
    app.add_source_suffix(".1", "man")
    app.add_source_suffix(".8", "man")
    app.add_source_parser(ManualPage)
    app.connect("doctree-resolved", _lead_to_pages)
