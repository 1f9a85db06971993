"""A process of its own that serves, while the one that was called returns when it answers."""

import json
import logging
import os
import signal
import time
import traceback
from collections.abc import Callable

from cbfs.commands.process.logs import LogFile, log_into
from cbfs.mount.mounting import SIGNALS
from cbfs_common.errors import CbfsError, in_words
from cbfs_host.complaints import hint_of
from cbfs_host.log_format import TextFormat

FAILED = 1

END_TIMEOUT = 10.0
"""Seconds that the new process has to end when who started it is interrupted."""

_log = logging.getLogger(__name__)


def daemonised(serve: Callable[[Callable[[], None], LogFile], None]) -> int:
    """Call ``serve`` in a process of its own, with what it is to call when it answers and the log
    that it is to lead somewhere; 0 from then on. Raises CbfsError, which ``serve`` may raise
    before; after that it is in the log. The new process keeps nothing of who has called: no
    descriptor, no terminal, no directory."""
    reading, writing = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the daemon listens for them
    try:
        child = os.fork()
        if child == 0:
            _child(serve, writing)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor
            answer = pipe.read()
    except KeyboardInterrupt:
        _end(child)
        raise
    if answer == b"ok":
        return 0
    error, hint = json.loads(answer) if answer else ("the daemon ended at once", "")
    raise CbfsError(error, hint or "try with --foreground")


def _end(child: int) -> None:
    """End the new process, as it was not wanted after all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.kill(child, signal.SIGTERM)
    limit = time.monotonic() + END_TIMEOUT
    while time.monotonic() < limit and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.02)


def _child(serve: Callable[[Callable[[], None], LogFile], None], writing: int) -> None:
    """What the new process does. It never returns."""
    code = FAILED
    try:
        code = _served(serve, writing)
    finally:
        logging.shutdown()
        os._exit(code)


def _served(serve: Callable[[Callable[[], None], LogFile], None], writing: int) -> int:
    os.setsid()
    os.chdir("/")
    writing = _keep_only(writing)
    answered = False

    def ready() -> None:
        nonlocal answered
        answered = True
        os.write(writing, b"ok")
        os.close(writing)
        _to_nowhere(1, 2)

    log = LogFile(TextFormat("cbfs"))
    log_into(log)
    try:
        serve(ready, log)
        if answered:
            return 0
        failure = CbfsError("it was told to end before it answered")
    except CbfsError as error:
        failure = error
    except OSError as error:
        _log_place(error)
        failure = CbfsError(in_words(error), hint_of(error, ""))
    except BaseException as error:
        _log_place(error)
        failure = CbfsError(f"a mistake of cbfs itself: {type(error).__name__}", "please report it")
    if answered:
        _log.error("%s", failure.in_full)
    else:
        os.write(writing, json.dumps([str(failure), failure.hint]).encode())
    return FAILED


def _log_place(error: BaseException) -> None:
    """Where it happened, without its own text, which may name a file."""
    where = "".join(traceback.format_tb(error.__traceback__))
    _log.error("the daemon ends: %s\n%s", type(error).__name__, where)


def _keep_only(writing: int) -> int:
    """Close all that was open when this process was made, but for 1 and 2, until it answers, and
    the pipe to who waits for that; its number now."""
    _to_nowhere(0)
    kept = 3
    if writing != kept:
        os.dup2(writing, kept, inheritable=False)
    try:
        last = max(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208 - names, and quick
    except OSError:
        last = os.sysconf("SC_OPEN_MAX")
    os.closerange(kept + 1, last + 1)
    return kept


def _to_nowhere(*descriptors: int) -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    os.close(null)
