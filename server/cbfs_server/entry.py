"""Where a server begins: Ctrl-C while its modules are read in is one line, too.

Imports nothing of its package, so that ``cbfs_names`` has the same file.
"""

import importlib
import sys

INTERRUPTED = 130


def main() -> int:
    """Entry point of the program of this package."""
    try:
        program = importlib.import_module(f"{__package__}.cli")
    except KeyboardInterrupt:
        sys.stderr.write(f"{__package__.replace('_', '-')}: interrupted\n")
        return INTERRUPTED
    return int(program.main())
