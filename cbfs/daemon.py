"""A process of its own that serves, while the one that was called returns when it answers."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from cbfs_common.errors import CbfsError

FAILED = 1

_log = logging.getLogger(__name__)


def daemonised(serve: Callable[[Callable[[], None]], None], log: Path | None) -> int:
    """Call ``serve`` in a process of its own, with what it is to call when it answers; 0 from then
    on. Raises CbfsError, which ``serve`` may raise before; after that it is in the log."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        os._exit(_child(serve, log, writing))
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor
        answer = pipe.read().decode()
    if answer == "ok":
        return 0
    error, _, hint = answer.partition("\n")
    raise CbfsError(error or "the daemon ended at once", hint or "try with --foreground")


def _child(serve: Callable[[Callable[[], None]], None], log: Path | None, writing: int) -> int:
    os.setsid()
    os.chdir("/")
    answered = False

    def ready() -> None:
        nonlocal answered
        answered = True
        os.write(writing, b"ok")
        os.close(writing)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)

    try:
        if log is not None and log.parent.is_dir():
            _log_into(log)
        serve(ready)
    except CbfsError as error:
        if answered:
            _log.error("%s", error)
        else:
            os.write(writing, f"{error}\n{error.hint}".encode())
        return FAILED
    return 0


def _log_into(path: Path) -> None:
    """Raises CbfsError."""
    try:
        path.touch(mode=0o600)
        logging.basicConfig(
            filename=path, level=logging.WARNING, format="%(asctime)s %(message)s", filemode="w"
        )
    except OSError as error:
        raise CbfsError(
            f"cannot write {path}: {(error.strerror or '').lower()}",
            "is it yours, and is there room on the disk?",
        ) from error
