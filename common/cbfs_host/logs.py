"""The log of a server: to standard error or a file, and never waited for.

Lines are put into a queue with an end, which a thread writes: when nobody reads what it writes, or
the disk is full, the thread waits or fails, and the lines that find no room are counted. Of
warnings and errors of one kind only some are logged: strangers can bring them about for as long as
they like.
"""

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from cbfs_common.faults import trace_of
from cbfs_host.complaints import STDERR, HostError
from cbfs_host.log_format import JSON, MORE, TEXT, line_format
from cbfs_host.settings import PATH, SWITCH, ServerSetting, one_of

LINES_MAX: Final = 1_024
"""Lines that wait to be written."""

ALIKE_MAX: Final = 100
ALIKE_PERIOD: Final = 60.0
"""Warnings or errors of one kind that are logged at once, and seconds until one more is."""

KINDS_MAX: Final = 256
"""Kinds that are told apart; all others are one."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds for what still waits when the program ends."""

FAULT_PAUSE: Final = 1.0
"""Seconds before a loop with a fault goes on."""

SETTINGS: Final = (
    ServerSetting(
        "log", PATH, "log into FILE, opened anew at SIGHUP, and not to standard error", "FILE"
    ),
    ServerSetting("log-format", one_of(TEXT, JSON), "text, or json", "FORMAT", TEXT, live=True),
    ServerSetting("verbose", SWITCH, "log what is usual as well", default=False, live=True),
)
"""What an operator sets of the log."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kind:
    """Lines alike: how many may still be logged since ``counted``, and how many were not."""

    counted: float
    room: float = ALIKE_MAX
    left_out: int = 0


class _Kinds:
    """Bounds lines that are alike. ``clock``: seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kinds: dict[object, _Kind] = {}

    def words(self, record: logging.LogRecord) -> str | None:
        """What to add to its line; None when that is to be left out."""
        if record.levelno < logging.WARNING:
            return ""  # the operator has asked for all of these
        key: object = (record.name, record.levelno, str(record.msg))
        if key not in self._kinds and len(self._kinds) >= KINDS_MAX:
            key = None
        now = self._clock()
        kind = self._kinds.setdefault(key, _Kind(now))
        kind.room = min(ALIKE_MAX, kind.room + (now - kind.counted) / ALIKE_PERIOD)
        kind.counted = now
        if kind.room < 1:
            kind.left_out += 1
            return None
        kind.room -= 1
        before, kind.left_out = kind.left_out, 0
        told = f" ({before} like it before were left out)" if before else ""
        return told + (" (more like it are left out for a while)" if kind.room < 1 else "")


class ServerLog(logging.Handler):
    """Writes records to ``path``, or to standard error when that is None. Raises HostError."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._kinds = _Kinds(clock)
        self._path = path
        self.descriptor = STDERR if path is None else _opened(path)
        self._waiting: deque[bytes] = deque()
        self._dropped = 0
        self._closing = False
        self._news = threading.Condition()
        threading.Thread(target=self._work, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line; when there is no room for it, count it."""
        try:
            more = self._kinds.words(record)
            if more is None:
                return
            setattr(record, MORE, more)
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
        except Exception:  # a record whose words and values do not fit
            line = b"a line of the log could not be made\n"
        with self._news:
            if len(self._waiting) >= LINES_MAX:
                self._dropped += 1
            else:
                self._waiting.append(line)
                self._news.notify_all()

    def reopen(self) -> None:
        """Go on in a new file of the same name, when the old one was moved away."""
        if self._path is None:
            return
        try:
            fresh = _opened(self._path)
        except HostError as error:
            _log.error("%s: the log goes on in the old file", error.in_full)
            return
        os.dup2(fresh, self.descriptor, inheritable=False)
        os.close(fresh)

    def __enter__(self) -> "ServerLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait a little for what is not written yet."""
        with self._news:
            self._closing = True
            self._news.notify_all()
            self._news.wait_for(lambda: not self._waiting and not self._dropped, CLOSE_TIMEOUT)
        logging.getLogger().removeHandler(self)
        super().close()

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._dropped or self._closing)
                if not self._waiting and not self._dropped:
                    return
                if not self._waiting:  # those that were dropped are younger than all that waited
                    self._waiting.append(b"%d lines of the log were dropped\n" % self._dropped)
                    self._dropped = 0
            self._write(self._waiting[0])
            with self._news:
                self._waiting.popleft()
                self._news.notify_all()

    def _write(self, line: bytes) -> None:
        """A line, or nothing when it cannot be written at all."""
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self.descriptor, rest) :]
            except BlockingIOError:
                select.select([], [self.descriptor], [])
            except OSError:  # nobody is there to be told
                return


def _opened(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise HostError(
            f"cannot write the log {path}: {error.strerror}", "give another file with --log"
        ) from error


def log_to(handler: ServerLog, program: str, *, verbose: bool = False, kind: str = TEXT) -> None:
    """Let what the program logs go to ``handler``, in the format of this ``kind``: warnings, and
    with ``verbose`` what is usual as well. A second time changes both."""
    handler.setFormatter(line_format(program, kind, handler.descriptor))
    logging.raiseExceptions = False
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO if verbose else logging.WARNING)


def tell_fault(what: str, error: BaseException) -> None:
    """Log an error that nobody expected, without its text."""
    _log.error("a fault in %s, which goes on:\n%s", what, trace_of(error))


async def keep_going(
    what: str, loop: Callable[[], Awaitable[None]], *fatal: type[Exception]
) -> None:
    """Run a loop that others feed, and begin it again after any error but a ``fatal`` one."""
    while True:
        try:
            await loop()
            return
        except fatal:
            raise
        except Exception as error:
            tell_fault(what, error)
        await trio.sleep(FAULT_PAUSE)
