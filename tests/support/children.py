"""Work in a process of its own, whose end, whatever it is, ends nothing else."""

import multiprocessing
import os
import traceback
from collections.abc import Callable

from tests.support.world import WAIT

RAISED = 99

_CONTEXT = multiprocessing.get_context("forkserver")
"""Not fork: the tests' own process has threads."""

_CONTEXT.set_forkserver_preload(
    [
        "pytest",
        "tests.support.names_local",
        "tests.server.test_server_store",
        "tests.storage.test_first_start",
    ]
)


def exit_code(work: Callable[..., int], *arguments: object) -> int:
    """What ``work``, a function of a module, gives there: 0 to 98; RAISED when it raises; the
    negative number of the signal that ended it."""
    process = _CONTEXT.Process(target=_run, args=(work, arguments))
    process.start()
    process.join(WAIT)
    if process.exitcode is None:
        process.kill()
        process.join(WAIT)
    code = process.exitcode
    process.close()
    if code is None:
        raise AssertionError("a process does not end")
    return code


def _run(work: Callable[..., int], arguments: tuple[object, ...]) -> None:
    code = RAISED
    try:
        code = work(*arguments)
    finally:
        if code == RAISED:
            traceback.print_exc()
        os._exit(code)
