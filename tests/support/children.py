"""Work in a process of its own, whose end, whatever it is, ends nothing else."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from cbfs.commands.process.entry import cbfs

WAIT = 120.0

RAISED = 99

_CONTEXT = multiprocessing.get_context("forkserver")
"""Not fork: the tests' own process has threads."""

_CONTEXT.set_forkserver_preload(
    [
        "pytest",
        "tests.support.names_local",
        "tests.server.test_server_store",
        "tests.storage.test_first_start",
        "cbfs.commands.main",
        *("cbfs.commands.init", "cbfs.commands.owner.name"),  # which main reads in late
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


def run_cbfs(words: list[str], environment: dict[str, str], said: Path) -> int:
    """The exit code of ``cbfs`` with these arguments, for what a test only needs to be there: all
    that the program does, in a process of its own, but without the second in which a new
    interpreter reads it in. What it has to say goes into the file ``said``."""
    return exit_code(_cbfs, words, environment, said)


def _cbfs(words: list[str], environment: dict[str, str], said: Path) -> int:
    with said.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["cbfs", *words]
    code = cbfs()
    sys.stderr.flush()
    return code


def _run(work: Callable[..., int], arguments: tuple[object, ...]) -> None:
    code = RAISED
    try:
        code = work(*arguments)
    finally:
        if code == RAISED:
            traceback.print_exc()
        os._exit(code)
