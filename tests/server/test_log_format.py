"""How a line of a log looks, in all programs."""

import json
import logging
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs_host.log_format import (
    JSON,
    MESSAGE_MAX,
    TEXT,
    JournalFormat,
    JsonFormat,
    TextFormat,
    line_format,
)
from cbfs_host.logs import ServerLog, log_to

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ program (warning|error): .*", re.DOTALL)


def record(text: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("part", level, "", 0, "%s", (text,), None)


@given(st.text(max_size=50), st.sampled_from([logging.WARNING, logging.ERROR]))
def test_only_a_record_begins_a_line(text: str, level: int) -> None:
    """However many lines a message has: nobody makes up a line of the log by what it says."""
    made = record(text, level)
    first, *others = TextFormat("program").format(made).split("\n")
    assert LINE.fullmatch(first)
    assert all(line.startswith("  ") for line in others)
    journal = JournalFormat().format(made).split("\n")
    assert journal[0].startswith(f"<{4 if level == logging.WARNING else 3}>")
    assert all(line.startswith(journal[0][:3] + "  ") for line in journal[1:])
    said = JsonFormat("program").format(made)
    assert "\n" not in said
    assert json.loads(said)["message"] == text


def test_a_long_message_is_cut_and_its_line_is_whole() -> None:
    made = record("x" * 10 * MESSAGE_MAX)
    assert json.loads(JsonFormat("program").format(made))["message"] == "x" * MESSAGE_MAX
    assert TextFormat("program").format(made).count("x") == MESSAGE_MAX


def test_the_journal_puts_its_own_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "file").open("w") as file:
        found = os.fstat(file.fileno())
        for stream, kind in (
            (f"{found.st_dev}:{found.st_ino}", JournalFormat),
            (f"{found.st_dev}:{found.st_ino + 1}", TextFormat),
            ("", TextFormat),
        ):
            monkeypatch.setenv("JOURNAL_STREAM", stream)
            assert type(line_format("program", TEXT, file.fileno())) is kind
            assert type(line_format("program", JSON, file.fileno())) is JsonFormat


def test_how_many_were_left_out_stands_in_the_message(tmp_path: Path) -> None:
    now = 0.0
    handler = ServerLog(tmp_path / "log", lambda: now)
    before = list(logging.getLogger().handlers), logging.getLogger().level
    try:
        log_to(handler, "program", kind=JSON)
        for number in range(1_000):
            logging.getLogger("part").warning("stranger %d", number)
        now += 3_600
        logging.getLogger("part").warning("stranger %d", 1_000)
        handler.close()
    finally:
        logging.getLogger().handlers[:], level = before
        logging.getLogger().setLevel(level)
        logging.raiseExceptions = True
    last = json.loads((tmp_path / "log").read_text().splitlines()[-1])
    assert last["message"] == "stranger 1000 (900 like it before were left out)"
