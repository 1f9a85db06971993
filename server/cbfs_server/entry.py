"""Where a server begins: Ctrl-C while its modules are read in is one line, too.

Imports nothing of its package, so that ``cbfs_names`` has the same file.
"""

import importlib
import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130


def main() -> int:
    """Entry point of the program of this package."""
    ends_it = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        if ends_it:
            signal.signal(signal.SIGINT, _end)
        program = importlib.import_module(f"{__package__}.cli")
        if ends_it:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    except KeyboardInterrupt:
        return _interrupted()
    return int(program.main())


def _end(_number: int, _frame: FrameType | None) -> None:
    """A compiled module makes a failure of its own of an exception in the midst of it, and there is
    nothing to put away yet."""
    os._exit(_interrupted())


def _interrupted() -> int:
    sys.stderr.write(f"{__package__.replace('_', '-')}: interrupted\n")
    sys.stderr.flush()
    return INTERRUPTED
