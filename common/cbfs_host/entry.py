"""Where a program begins, before its modules are read in: closed descriptors are filled, and Ctrl-C
meanwhile ends it at once, in one line.

Imports little, since Ctrl-C makes a traceback until it has begun.
"""

import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Final

from cbfs_common.version import VERSION
from cbfs_host.complaints import say

if TYPE_CHECKING:
    import argparse

INTERRUPTED: Final = 128 + signal.SIGINT
"""Exit status after Ctrl-C, before there is anything to end cleanly."""


def begin(program: str, module: str) -> int:
    """Run ``main`` of a module, which gives the exit status of the program of this name."""

    def interrupted() -> int:
        say(f"{program}: interrupted\n")
        return INTERRUPTED

    try:
        found = read_in(module, interrupted)
    except KeyboardInterrupt:
        return interrupted()
    return int(found.main())


def read_in(module: str, interrupted: Callable[[], int]) -> ModuleType:
    """Import a module by its name, as ``reading_in`` does."""
    with reading_in(interrupted):
        return importlib.import_module(module)


@contextmanager
def reading_in(interrupted: Callable[[], int]) -> Iterator[None]:
    """Modules are imported in the block. Ctrl-C meanwhile calls ``interrupted`` and ends the
    process with the status that it gives: there is nothing to put away yet, and a compiled module
    makes a failure of its own of an exception that comes in the midst of it. What is imported
    stays, and is not looked at for cycles, neither now, which would take a fifth of the time, nor
    later."""

    def end(_number: int, _frame: FrameType | None) -> None:
        os._exit(interrupted())

    ends_it = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ends_it:
        signal.signal(signal.SIGINT, end)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        if ends_it:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def fill_descriptors() -> None:
    """Open /dev/null in the place of standard input, output or error where one is closed: what is
    opened next would get its number, and be written to. Raises OSError."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
        if getattr(sys, name) is None:  # it was closed when Python started
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def add_version(parser: "argparse.ArgumentParser") -> None:
    """Add the option ``--version``, which prints the version and ends."""
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
