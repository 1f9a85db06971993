"""Faults of the program, on demand: a function of it fails a few times, by an error that nobody
expects, and works again.

As a program it is ``tests.support.fake_backend`` with such a function:
``python -m tests.hostile.breaking PLACE FILE TIMES DIR MOUNTPOINT ...``. It begins to fail when
FILE is there.
"""

import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

FAULTS = 3

SECRET = "a-secret-name"
"""What the error says, and no log may."""


@contextmanager
def breaking(
    place: str, armed: Callable[[], bool] = lambda: True, faults: int = FAULTS
) -> Iterator[Callable[[], int]]:
    """The first calls of ``place`` fail, from when it is ``armed``. Gives how many will."""
    owner, _, name = place.rpartition(".")
    left = faults
    real = getattr(pkgutil.resolve_name(owner), name)

    def broken(*arguments: object, **named: object) -> object:
        nonlocal left
        if left and armed():
            left -= 1
            raise KeyError(SECRET)
        return real(*arguments, **named)

    with patch(f"{owner}.{name}", broken):
        yield lambda: left


def main() -> int:
    """The program."""
    import cbfs.commands.mount.program
    import cbfs.commands.mount.serving
    from tests.support import fake_backend

    place, file, faults = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    sys.argv[1:4] = []
    sys.argv += ["--foreground"]
    vars(cbfs.commands.mount.serving)["running"] = fake_backend.running
    with breaking(place, file.exists, faults):
        return cbfs.commands.mount.program.main()


if __name__ == "__main__":
    sys.exit(main())
