"""Where a daemon's log goes: never a place that can make the daemon wait.

A file is written at once. A pipe or a terminal that nobody reads holds up who writes to it, so a
thread does that, and what it cannot get rid of is dropped and counted.
"""

import logging
import os
import queue
import stat
import threading
from collections import deque

LINES_MAX = 1_000
"""Lines that wait to be written, at most."""

CLOSE_TIMEOUT = 1.0
"""Seconds that a reader has at the end to take what waits."""


class LogFile(logging.Handler):
    """Keeps what is logged until ``into`` says where it goes."""

    def __init__(self, form: logging.Formatter) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(form)
        self._kept: deque[bytes] = deque(maxlen=LINES_MAX)
        self._descriptor: int | None = None
        self._thread: threading.Thread | None = None
        self._queue: queue.Queue[bytes | None] = queue.Queue(LINES_MAX)
        self._lost = 0

    def into(self, descriptor: int) -> None:
        """From now on there, with all that was logged before."""
        self.acquire()
        try:
            before, self._descriptor = self._descriptor, descriptor
            waits = not stat.S_ISREG(os.fstat(descriptor).st_mode)
            if waits and self._thread is None:
                self._thread = threading.Thread(target=self._pass_on, name="log", daemon=True)
                self._thread.start()
            kept, self._kept = self._kept, deque(maxlen=LINES_MAX)
            for line in kept:
                self._put(line)
        finally:
            self.release()
        if before is not None and before != descriptor:
            os.close(before)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as a line, or keep it until there is a place for it."""
        self._put(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """What waits is written if somebody reads it."""
        if self._thread is not None and self._thread.is_alive():
            try:
                self._queue.put(None, timeout=CLOSE_TIMEOUT)
            except queue.Full:
                pass
            else:
                self._thread.join(CLOSE_TIMEOUT)
        super().close()

    def _put(self, line: bytes) -> None:
        if self._descriptor is None:
            self._kept.append(line)
        elif self._thread is None:
            _write(self._descriptor, line)
        else:
            try:
                self._queue.put_nowait(line)
            except queue.Full:
                self._lost += 1

    def _pass_on(self) -> None:
        while (line := self._queue.get()) is not None:
            if self._descriptor is not None:
                _write(self._descriptor, line)
            lost, self._lost = self._lost, 0
            if lost and self._descriptor is not None:
                _write(self._descriptor, b"%d lines were left out: nobody read them\n" % lost)


def _write(descriptor: int, data: bytes) -> None:
    """A log that cannot be written stops nothing."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except OSError:
            return


def log_into(log: LogFile) -> None:
    """Let all that is logged, from warnings on, go to ``log`` and nowhere else."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(log)
    root.setLevel(logging.WARNING)
