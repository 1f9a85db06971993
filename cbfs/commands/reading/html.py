"""History as pages that any browser shows, from a folder: a list of conversations, and for each a
folder with its pages and its files. Pictures are in the pages.

Nothing in them is a program, and nothing is loaded from elsewhere: a policy in each page forbids
both. What people wrote is escaped, and what could turn a line around or hide in it is not there.
"""

import base64
import hashlib
import os
from html import escape
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

from cbfs.commands.reading.past import Past, PastFile, PastMessage
from cbfs.commands.reading.places import save, saved_name
from cbfs.commands.reading.record import timestamp
from cbfs.messages.content import read_content
from cbfs.messages.model import Conversation
from cbfs.messages.transcript import UNCONFIRMED, shown_line, shown_lines
from cbfs_common.errors import CbfsError
from cbfs_host.files import sync_directory

PAGE = 500
"""Messages on a page."""

FILES = "files"
"""The folder of a conversation with what was not a text."""

PICTURE_MAX = 64 << 20
"""Bytes of a file that is shown as a picture."""

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")
_WEBP = (b"RIFF", b"WEBP")
_HEAD = 16

_STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem;
  color: #1d1f21; background: #fbfbf9; }
h1 { font-size: 1.3rem; } nav { margin: 1rem 0; } a { color: #1a5fb4; }
article { margin: .7rem 0; padding: .5rem .8rem; border-radius: .6rem; background: #ececea;
  margin-right: 4rem; overflow-wrap: anywhere; }
article.own { background: #d9e7f5; margin-right: 0; margin-left: 4rem; }
article p { margin: .15rem 0; white-space: pre-wrap; } article ul { margin: .2rem 0; }
header { font-size: .85rem; color: #5b6066; } header b { color: inherit; }
img { max-width: 100%; max-height: 30rem; border-radius: .4rem; display: block; }
table { border-collapse: collapse; width: 100%; } td { padding: .3rem .6rem .3rem 0; }
@media (prefers-color-scheme: dark) { body { color: #dcdcda; background: #191a1c; }
  article { background: #2a2c2f; } article.own { background: #223449; } a { color: #8ab8f0; }
  header { color: #9aa0a6; } }
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src 'self' file:;"
    " base-uri 'none'; form-action 'none'"
)
"""What a page may load: its own style, and pictures that are beside it."""


class HtmlPages:
    """Writes messages into pages below ``folder``. ``end`` must be called at last."""

    def __init__(self, past: Past, me: str, folder: Path) -> None:
        self._past = past
        self._me = me
        self._folder = folder
        self._place: Conversation | None = None
        self._page: TextIO | None = None
        self._pages = 0
        self._messages = 0
        self._rows: list[str] = []

    def begin(self, place: Conversation) -> None:
        """What comes now is of this conversation."""
        self._end_place()
        self._place, self._pages, self._messages = place, 0, 0
        (self._folder / place.folder).mkdir(mode=0o700)
        (self._folder / place.folder / FILES).mkdir(mode=0o700)
        self._next_page()

    def add(self, told: PastMessage) -> None:
        """Write one. Raises DamagedRecord, and then nothing of it is left; OSError."""
        inner = self._inner(told)
        if self._messages and self._messages % PAGE == 0:
            self._next_page()
        self._messages += 1
        message = told.message
        when = timestamp(message.date)
        doubt = f", {UNCONFIRMED}" if message.doubts else ""
        self._write(
            f'<article id="m{message.serial}"{" class=own" if message.sender == self._me else ""}>'
            f"<header><b>{_text(self._past.label(message.sender))}</b> "
            f'<time datetime="{when}">{when[:16].replace("T", " ")}</time>{doubt}</header>\n'
            f"{inner}</article>\n"
        )

    def end(self) -> None:
        """Write the list of all conversations."""
        self._end_place()
        rows = "".join(self._rows) or "<tr><td>There are no messages.</td></tr>\n"
        body = f"<h1>{_text(self._me)}</h1>\n<table>\n{rows}</table>\n"
        page = _top(f"{self._me}: conversations") + body + _BOTTOM
        save(self._folder / "index.html", [page.encode(errors="replace")])

    def close(self) -> None:
        """Nothing more is written, whatever has happened."""
        if self._page is not None:
            self._page.close()
            self._page = None

    # pages

    def _next_page(self) -> None:
        if self._place is None:
            return
        self._pages += 1
        if self._pages > 1:
            self._write(f'<nav><a href="{_page_name(self._pages)}">later messages</a></nav>\n')
            self._end_page()
        path = self._folder / self._place.folder / _page_name(self._pages)
        path.touch(mode=0o600, exist_ok=False)
        self._page = path.open("w", encoding="utf-8", errors="replace")
        people = ", ".join(self._past.label(name) for name in self._place.participants)
        title = self._place.subject or people
        self._write(_top(title) + '<nav><a href="../index.html">all conversations</a>')
        if self._pages > 1:
            self._write(f' · <a href="{_page_name(self._pages - 1)}">earlier messages</a>')
        self._write(f"</nav>\n<h1>{_text(title)}</h1>\n<p>{_text(people)}</p>\n")

    def _end_page(self) -> None:
        if self._page is not None:
            self._write(_BOTTOM)
            self._page.flush()
            os.fsync(self._page.fileno())
            self.close()

    def _end_place(self) -> None:
        place = self._place
        if place is None:
            return
        self._end_page()
        self._place = None
        inside = self._folder / place.folder / FILES
        if not any(inside.iterdir()):
            inside.rmdir()
        else:
            sync_directory(inside)
        sync_directory(self._folder / place.folder)
        people = ", ".join(map(self._past.label, place.participants))
        subject = f"<br>{_text(place.subject)}" if place.subject else ""
        self._rows.append(
            f'<tr><td>{timestamp(place.started)[:10]}</td><td><a href="{quote(place.folder)}/'
            f'index.html">{_text(people)}</a>{subject}</td><td>{self._messages:,}</td></tr>\n'
        )

    def _write(self, text: str) -> None:
        if self._page is not None:
            self._page.write(text)

    # what is in a message

    def _inner(self, told: PastMessage) -> str:
        message, before = told.message, ""
        if message.added:
            added = ", ".join(map(self._past.label, message.added))
            before = f"<p><em>has added {_text(added)}</em></p>\n"
        if message.leaving:
            before += "<p><em>has left the conversation</em></p>\n"
        if told.text is not None:
            lines = "\n".join(shown_lines(told.text))
            return f'{before}<p dir="auto">{escape(lines)}</p>\n'
        name = _text(message.file_name or message.name)
        if not told.whole:
            return (
                f"{before}<p>{name}: {message.content.size:,} bytes, which have not all come</p>\n"
            )
        title = f"<p>{name}</p>\n" if message.folder else ""
        return before + title + "".join(self._saved(told))

    def _saved(self, told: PastMessage) -> list[str]:
        """The links to the files of a message, which are in their place then."""
        folder = self._folder / told.place.folder / FILES
        message, links = told.message, []
        saved: list[Path] = []
        try:
            for index, file in enumerate(told.files):
                path = folder / saved_name(message, index, file.name)
                save(path, self._past.stretches(message, file))
                saved.append(path)
                links.append(self._link(told, file, f"{FILES}/{quote(path.name)}"))
        except CbfsError:
            for path in saved:
                path.unlink()
            raise
        return links

    def _link(self, told: PastMessage, file: PastFile, target: str) -> str:
        name = _text(file.name or told.message.name)
        shown = f"{name} ({file.size:,} bytes)"
        if file.size <= PICTURE_MAX and self._is_picture(told, file):
            picture = f'<img src="{target}" alt="{name}" loading="lazy">'
            return f'<p><a href="{target}">{picture}</a>{shown}</p>\n'
        return f'<p><a href="{target}">{shown}</a></p>\n'

    def _is_picture(self, told: PastMessage, file: PastFile) -> bool:
        """By how it begins, whatever it is called."""
        size = min(_HEAD, file.size)
        head = read_content(self._past.reader, told.message.content, file.start, size)
        return head.startswith(_MAGIC) or (head[:4], head[8:12]) == _WEBP


def _top(title: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    )


_BOTTOM = "</body>\n</html>\n"


def _page_name(number: int) -> str:
    return "index.html" if number == 1 else f"{number}.html"


def _text(text: str) -> str:
    """On one line, and nothing in it is markup."""
    return escape(shown_line(" ".join(text.split())))
