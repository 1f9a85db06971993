"""What a line of a log looks like, in all programs: when, which program, how grave, what."""

import json
import logging
import os
import time
from typing import Final

from cbfs_host.complaints import STDERR

TEXT: Final = "text"
JSON: Final = "json"

MESSAGE_MAX: Final = 8_192
"""Characters of one message; the rest is cut off."""

MORE: Final = "cbfs_more"
"""Attribute of a record: words for the end of its line."""

_PRIORITIES: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
"""What syslog calls the levels."""


class TextFormat(logging.Formatter):
    """``2026-11-29T12:30:00Z cbfs-server warning: what has happened``. More lines of the same
    record begin with two spaces."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        level = record.levelname.lower()
        return f"{_utc(record)} {self._program} {level}: {_message(record)}".replace("\n", "\n  ")


class JournalFormat(logging.Formatter):
    """``<4>what has happened``: the journal knows time and program itself, and takes the level from
    each line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        level = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return level + _message(record).replace("\n", f"\n{level}  ")


class JsonFormat(logging.Formatter):
    """One object of JSON: ``time``, ``program``, ``level``, ``part`` (which of the program's) and
    ``message``."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        said = {
            "time": _utc(record),
            "program": self._program,
            "level": record.levelname.lower(),
            "part": record.name,
            "message": _message(record),
        }
        return json.dumps(said)


def line_format(program: str, kind: str, descriptor: int) -> logging.Formatter:
    """The format of a log of this ``kind`` (TEXT, JSON) that goes to a descriptor."""
    if kind == JSON:
        return JsonFormat(program)
    return JournalFormat() if _is_journal(descriptor) else TextFormat(program)


def _message(record: logging.LogRecord) -> str:
    return record.getMessage()[:MESSAGE_MAX] + getattr(record, MORE, "")


def _utc(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))


def _is_journal(descriptor: int = STDERR) -> bool:
    """Whether what is written there goes to systemd's journal (JOURNAL_STREAM, systemd.exec(5))."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
