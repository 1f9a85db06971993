"""How a server program starts and ends: one way for errors, signals and exit codes."""

import signal
from collections.abc import Callable
from typing import Final

import trio

from cbfs_common.errors import CbfsError
from cbfs_host.complaints import CHECK_DATA, complain, hint_of, say
from cbfs_host.entry import INTERRUPTED, fill_descriptors

_QUIET: Final = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO")
"""Signals that end a program that knows nothing of them."""


def start(program: str, work: Callable[[], None]) -> int:
    """Run ``work``: 0, 1 when it ends with an error, 130 after Ctrl-C; then why is on standard
    error. Signals that mean nothing to the program do not end it."""
    status = 0
    try:
        fill_descriptors()
        for name in _QUIET:
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        work()
    except* KeyboardInterrupt:
        status = INTERRUPTED
    except* CbfsError as group:
        _complain(program, group)
        status = status or 1
    except* OSError as group:
        _complain(program, group)
        status = status or 1
    if status == INTERRUPTED:
        say(f"{program}: interrupted\n")
    return status


def _complain(program: str, group: BaseExceptionGroup[CbfsError | OSError]) -> None:
    """Say what went wrong, and what can be done about it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _complain(program, error)
        elif isinstance(error, CbfsError):
            complain(program, str(error), error.hint)
        else:
            where = f"{error.filename}: " if error.filename else ""
            text = f"{where}{error.strerror or type(error).__name__}"
            complain(program, text, hint_of(error, CHECK_DATA))


async def until_asked(
    scope: trio.CancelScope,
    reread: Callable[[], None],
    stopping: Callable[[], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Cancel ``scope`` at SIGTERM and SIGINT; at SIGHUP ``reread`` what was configured.
    ``stopping`` is called before the end."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                reread()
            else:
                stopping()
                scope.cancel()
