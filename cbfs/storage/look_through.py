"""``python -m cbfs.storage.look_through STORE``: looks at all pages of a store that another process
has open. Says on stdout what is wrong with them, and ends with DAMAGED then; with BUSY when that
process wrote too fast to look at any one state; else with 0.
"""

import os
import sys
from pathlib import Path

from cbfs.storage.lmdb_pages import Pages, PagesDamaged
from cbfs_host.lmdb_environment import DATA, open_environment

DAMAGED = 3
BUSY = 4

TRIES = 1_000
"""How often a state is looked for that is still one of LMDB's two newest."""


def main() -> int:
    """The entry point."""
    path = Path(sys.argv[1])
    os.nice(19)
    env = open_environment(path, 0, read_only=True)
    descriptor = os.open(path / DATA, os.O_RDONLY | os.O_CLOEXEC)
    pages = Pages(descriptor)
    try:
        for _ in range(TRIES):
            with env.begin() as txn:  # what it reaches is not overwritten meanwhile
                if pages.check(txn.id()):
                    return 0
    except PagesDamaged as error:
        sys.stdout.write(f"{error}\n")
        return DAMAGED
    return BUSY


if __name__ == "__main__":
    sys.exit(main())
