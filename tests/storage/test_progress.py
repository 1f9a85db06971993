"""How far something is, on a terminal and on what is none."""

import io
from typing import cast

import pytest

from cbfs.commands.online import NetworkProgress
from cbfs.commands.reading import progress
from cbfs.commands.reading.progress import ProgressBar
from cbfs.network.access import Network
from cbfs.network.tor.tor import TorReport


class Screen(io.StringIO):
    """A terminal that remembers what was written."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)


def test_a_terminal_is_shown_a_line_that_is_gone_at_the_end() -> None:
    screen = Screen()
    bar = ProgressBar("writing", 1_000, screen)
    bar.add(250)
    bar.add(250)
    bar.end()
    shown = screen.getvalue()
    assert "writing [" in shown
    assert "]  25%" in shown
    assert "]  50%" in shown
    assert shown.endswith("\r\x1b[K")
    assert "\n" not in shown


def test_what_is_no_terminal_is_shown_nothing() -> None:
    stream = io.StringIO()
    bar = ProgressBar("writing", 1_000, stream)
    bar.add(500)
    bar.end()
    assert stream.getvalue() == ""
    closed = io.StringIO()
    closed.close()
    ProgressBar("writing", 1_000, closed).add(1)


@pytest.mark.parametrize("columns", [0, 1, 5, 20, 40, 80, 500])
@pytest.mark.parametrize("done", [0, 1, 500, 1_000, 2_000])
def test_a_line_fits_on_its_terminal(columns: int, done: int) -> None:
    bar = ProgressBar("restoring", 1_000, io.StringIO())
    bar.at(done)
    line = bar.line(columns)
    assert len(line) <= max(columns - 1, 0)
    assert "100%" in line or done < 1_000 or columns < 40


def test_of_what_has_no_known_end_only_words_are_shown() -> None:
    screen = Screen()
    bar = ProgressBar("writing", 0, screen)
    bar.at(5, "5 MB")
    assert screen.getvalue() == "\rwriting 5 MB\x1b[K"


class Gone(Screen):
    """A terminal that was closed."""

    def write(self, _text: str) -> int:
        raise OSError


def test_a_terminal_that_is_gone_stops_nothing() -> None:
    bar = ProgressBar("writing", 10, Gone())
    bar.add(1)
    bar.add(1)
    bar.end()


class Starting:
    """A network whose Tor has come so far; None: it is connected."""

    is_used, own_server = True, None

    def __init__(self) -> None:
        self.tor = self
        self.percent: int | None = 10

    def report(self) -> TorReport:
        state = "connected" if self.percent is None else f"{self.percent}%"
        return TorReport(self.percent is None, state, "", {}, self.percent)

    def lines(self) -> tuple[str, ...]:
        return (f"Tor: {self.report().state}",)


@pytest.mark.parametrize("terminal", [True, False])
def test_how_far_tor_is_shows_as_a_bar_or_in_lines(
    monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> None:
    screen = Screen() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    said: list[str] = []
    telling, network = NetworkProgress(said.append), Starting()
    telling.tell()
    telling.network = cast("Network", network)
    for percent in (10, 60, None):
        network.percent = percent
        telling.tell()
    if terminal:
        assert said == ["Tor: connected"]
        assert "connecting to the Tor network [" in screen.getvalue()
        assert " 60%" in screen.getvalue()
        assert screen.getvalue().endswith("\r\x1b[K")
    else:
        assert said == ["Tor: 10%", "Tor: 60%", "Tor: connected"]
        assert screen.getvalue() == ""
