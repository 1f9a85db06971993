"""How far something is, on a terminal: one line that is written over. Where there is no terminal
nothing is written.
"""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

PAUSE = 0.1
"""Seconds between two lines, at least."""

LINE_MAX = 120
"""Characters of a line, at most."""

BAR = 30
"""Characters of the bar."""

_ROOM = 4
"""Characters around the bar and between the numbers."""


class ProgressBar:
    """A bar on a terminal. ``whole`` is how much there is to do, in any unit; 0 when that is not
    known. Shows nothing on what is no terminal."""

    def __init__(self, what: str, whole: int, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._what = what
        self._whole = whole
        self._done = 0
        self._began = time.monotonic()
        self._shown_at = float("-inf")
        self._shown = False
        self._alive = _is_terminal(self._stream)

    @property
    def is_seen(self) -> bool:
        """Whether there is a terminal."""
        return self._alive

    def add(self, more: int) -> None:
        """So much more is done."""
        self.at(self._done + more)

    def of(self, done: int, whole: int) -> None:
        """So much is done of so much, where that was not known before."""
        self._whole = whole
        self.at(done)

    def at(self, done: int, words: str = "") -> None:
        """So much is done; ``words`` stand behind the bar."""
        self._done = done
        now = time.monotonic()
        if self._alive and now - self._shown_at >= PAUSE:
            self._shown_at = now
            self._write("\r" + self.line(shutil.get_terminal_size().columns, words) + "\x1b[K")
            self._shown = True

    def line(self, columns: int, words: str = "") -> str:
        """What is shown on a terminal of so many columns."""
        width = min(columns, LINE_MAX) - 1
        share = min(self._done / self._whole, 1.0) if self._whole else 0.0
        tail = f" {int(share * 100):3}%{self._left(share)}" if self._whole else ""
        tail += f" {words}" if words else ""
        room = min(BAR, width - len(self._what) - len(tail) - _ROOM)
        bar = ""
        if self._whole and room > 0:
            filled = int(share * room)
            bar = f" [{'#' * filled}{'.' * (room - filled)}]"
        return f"{self._what}{bar}{tail}"[: max(width, 0)]

    def end(self) -> None:
        """Take the line away."""
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def _left(self, share: float) -> str:
        """How long it is still going to take, when that can be told."""
        spent = time.monotonic() - self._began
        if not 0.0 < share < 1.0 or spent < 2.0:
            return ""
        left = int(spent / share - spent) + 1
        if left < 60:
            return f", {left} s left"
        return f", {-(-left // 60)} min left" if left < 3_600 else f", {-(-left // 3_600)} h left"

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the terminal is gone: the work goes on
            self._alive = self._shown = False


@contextmanager
def shown_progress(what: str, whole: int) -> Iterator[ProgressBar]:
    """A bar for the block, on standard error, of which nothing is left after it."""
    progress = ProgressBar(what, whole)
    try:
        yield progress
    finally:
        progress.end()


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False
